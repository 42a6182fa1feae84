"""What an SAE's errors do to the model's output, token by token, against perturbations of the same size (Gurnee 2024).

All interventions of a hook point share the pass without one. KL is KL(clean ‖ perturbed) in nats over the whole vocabulary.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...lm.bridge import BridgeModel
from ...lm.decoder import Decoder, KeyValueCache
from ...lm.sites import Site
from ...sae.base import SAE
from ...store.errors import UserError
from ...store.files import human_bytes
from ...store.seeds import derive_seed
from ..directions import principal_directions
from ..place import Place
from .interventions import MAKE, Draws, Surroundings, Tokens, at_cosine, at_distance, norm
from .readers import unread_directions
from .settings import INTERVENTIONS, OF_EVERY_RUN, ErrorsConfig

_LOGIT_ROWS = {"cpu": 64, "cuda": 2048}  # tokens whose logits are held at once, at most: what fits into a cache, what fills a GPU
_LOGIT_COPIES = 5  # of these, with what is computed from them
_FORWARD_TOKENS = {"cpu": 1024, "cuda": 4096}  # that run through the model at once, at most, for the same reasons
_VECTORS = 256  # tried at one position at once
_POOL = 4096  # activations of other tokens that are kept at hand
_SHARED = ("zero", "mean")  # the same whatever the SAE
_BITS = 8  # kept of each value after its leading one: the frame is long, and a token's value varies by far more


def measure(place: Place, config: ErrorsConfig) -> Iterator[dict[str, pd.DataFrame]]:
    """Rows of the tables of one hook point, batch by batch.

    The runs chosen for similar CE increase and their other seeds get every intervention, the others those of `OF_EVERY_RUN`.

    Raises:
        UserError: there are too few tokens or too little memory.
    """
    runs = place.runs.set_index("run")
    chosen = _with_other_seeds(place.selected("similar_ce"), runs)
    saes = {run: place.sae(run) for run in runs.index}
    rows = place.held_out(config.n_tokens, "studies.errors.n_tokens")
    names = {run: _interventions(config, run in chosen) for run in saes}
    further = place.held_out(None, "")[len(rows) : config.draw_tokens]
    study = HookPoint(place.model, place.site, rows, config, further)
    yield from study.tables(saes, names, _other_seeds(runs), chosen, place.tokenizer)


def _interventions(config: ErrorsConfig, chosen: bool) -> list[str]:
    wanted = config.interventions or list(INTERVENTIONS)
    return [name for name in INTERVENTIONS if name in wanted and (chosen or name in OF_EVERY_RUN)]


def _with_other_seeds(chosen: list[str], runs: pd.DataFrame) -> list[str]:
    """The chosen runs and those that differ from them in nothing but their seed, in the order of `runs`."""
    return [run for run in runs.index if runs["settings"][run] in set(runs.loc[chosen, "settings"])]


def _other_seeds(runs: pd.DataFrame) -> dict[str, str]:
    """Of each run the next one, in a ring, that differs in nothing but its seed."""
    found = {}
    for _, group in runs.groupby("settings", sort=False):
        names = list(group.sort_values("seed").index)
        if len(names) > 1:
            found |= dict(zip(names, names[1:] + names[:1], strict=True))
    return found


def log_probabilities(model: Decoder | BridgeModel, last: Float[Tensor, "tokens d_model"]) -> Float[Tensor, "tokens vocabulary"]:
    """Predictions from the residual after the last block, in float32 at least."""
    logits = model.logits(last)
    return logits.to(_precision(logits)).log_softmax(dim=-1)


def _precision(values: Tensor) -> torch.dtype:
    return torch.float64 if values.dtype == torch.float64 else torch.float32


def kl(
    p: Float[Tensor, "*tokens vocabulary"], p_log_p: Float[Tensor, "*tokens"], log_q: Float[Tensor, "tokens vocabulary"]
) -> Float[Tensor, " tokens"]:
    """KL(p ‖ q) in nats, over the whole vocabulary, from Σ p log p; zero where the two are the same. Overwrites `log_q`."""
    return (p_log_p - log_q.mul_(p).sum(dim=-1)).clamp_(min=0)


@torch.no_grad()
def divergences(
    model: Decoder | BridgeModel,
    clean: Float[Tensor, "tokens d_model"],
    perturbed: Sequence[Float[Tensor, "tokens d_model"]],
    targets: Int[Tensor, " tokens"],
    at_once: int,
) -> tuple[Float[Tensor, " tokens"], Float[Tensor, "n tokens"], Float[Tensor, "n tokens"]]:
    """`(CE(clean), KL(clean ‖ perturbed), CE(perturbed) − CE(clean))` of residuals after the last block; CE is that of `targets`.

    The logits of `at_once` tokens are held at once, and the clean ones computed once for all perturbed ones.
    """
    ce, shape = clean.new_empty(len(clean), dtype=_precision(clean)), (len(perturbed), len(clean))
    divergence, increase = ce.new_empty(shape), ce.new_empty(shape)
    for start in range(0, len(clean), at_once):
        part = slice(start, start + at_once)
        log_p, target = log_probabilities(model, clean[part]), targets[part, None]
        p, own = log_p.exp(), log_p.gather(-1, target)[:, 0]
        p_log_p, ce[part] = log_p.mul_(p).sum(dim=-1), -own
        for i, last in enumerate(perturbed):
            log_q = log_probabilities(model, last[part])
            increase[i, part] = own - log_q.gather(-1, target)[:, 0]
            divergence[i, part] = kl(p, p_log_p, log_q)
    return ce, divergence, increase


@dataclass
class Batch:
    """Rows of tokens with the model's own pass."""

    index: range
    tokens: Int[Tensor, "rows pos"]
    x: Float[Tensor, "rows pos d"]
    stream: Float[Tensor, "rows pos d_model"]
    last: Float[Tensor, "rows pos d_model"]

    @property
    def targets(self) -> Int[Tensor, "rows pos"]:
        """The token that follows each; the last of a row has none, and gets the row's first."""
        return torch.cat([self.tokens[:, 1:], self.tokens[:, :1]], dim=1)


class HookPoint:
    """The study of one hook point, on `rows`; many directions are tried on `further` ones too, if more tokens are wanted.

    Raises:
        UserError: there are too few held-out tokens, or the vocabulary is too large for the memory allowed.
    """

    @torch.no_grad()
    def __init__(
        self,
        model: Decoder | BridgeModel,
        site: Site,
        rows: Int[np.ndarray, "rows pos"],
        config: ErrorsConfig,
        further: Int[np.ndarray, "further pos"] | None = None,
    ) -> None:
        self.model, self.site, self.config = model, site, config
        self.rows = rows if further is None else np.concatenate([rows, further])
        self.n_rows, self.n_positions = rows.shape
        if self.n_rows * (self.n_positions - 1) < 4:
            raise UserError(
                f"study `errors` needs 4 held-out tokens after position 0, but has {self.n_rows} rows of {self.n_positions}; raise "
                "`corpus.eval_tokens` or `studies.errors.n_tokens`."
            )
        of_token = 4 * _LOGIT_COPIES * model.arch.d_vocab
        if (fitting := config.logits_mb * 2**20 // of_token) == 0:
            raise UserError(
                f"the predictions of one token over a vocabulary of {model.arch.d_vocab:,} take {human_bytes(of_token)}, more than "
                f"`studies.errors.logits_mb` ({config.logits_mb}); raise it."
            )
        device = "cpu" if model.device.type == "cpu" else "cuda"
        self.logits_at_once, self.tokens_at_once = min(_LOGIT_ROWS[device], fitting), _FORWARD_TOKENS[device]
        self.single = min(config.single_position, self.n_positions // 2)
        self.window = slice(self.single, min(self.single + config.following + 1, self.n_positions))
        self.draw_at = min(config.draw_position, self.n_positions // 2)

    def batches(self, n_rows: int | None = None) -> Iterator[Batch]:
        """The first rows, with the pass without an intervention; those of the frame unless `n_rows` says how many."""
        n_rows = min(n_rows or self.n_rows, len(self.rows))
        for start in range(0, n_rows, self.config.batch_rows):
            index = range(start, min(start + self.config.batch_rows, n_rows))
            tokens = torch.from_numpy(self.rows[index.start : index.stop].astype(np.int64)).to(self.model.device)
            values = self.model.hook_values(tokens, dict.fromkeys([self.site.name, self.site.stream]))
            x, stream = values[self.site.name], values[self.site.stream]
            yield Batch(index, tokens, x, stream, self.model.continue_from(self.site, x, x, stream)[0])

    def run(
        self, batch: Batch, replacements: Float[Tensor, "n rows pos d"], positions: slice = slice(None)
    ) -> Float[Tensor, "n tokens d_model"]:
        """The residual after the last block with each of the replacements, at `positions` of rows that end with the last of them."""
        stop = positions.stop or self.n_positions
        found = []
        for some in replacements.split(max(1, self.tokens_at_once // (len(batch.x) * stop))):
            n = len(some)
            around = () if self.site.is_residual else (v[:, :stop].repeat(n, 1, 1) for v in (batch.x, batch.stream))
            last, _ = self.model.continue_from(self.site, some[:, :, :stop].flatten(0, 1), *around)
            found.append(last.view(n, len(batch.x), stop, -1)[:, :, positions].flatten(1, 2))
        return torch.cat(found)

    def run_one(self, one: Batch, vectors: Float[Tensor, "n d"], at: int) -> Float[Tensor, "n d_model"]:
        """The residual after the last block at position `at` of a row with each of the vectors there; in place of what comes before
        the position, its keys and values, where the model can."""
        if not (self.site.is_residual and isinstance(self.model, Decoder)):
            parts = vectors.split(max(1, self.tokens_at_once // (at + 1)))
            rows = (_put(one.x[None, :, : at + 1].repeat(len(some), 1, 1, 1), some, at) for some in parts)
            return torch.cat([self.run(one, some, slice(at, at + 1))[:, 0] for some in rows])
        arch, found = self.model.arch, []
        before = KeyValueCache(arch, 1, at, one.x)
        if at:
            self.model.blocks(one.x[:, :at], self.site.resume, arch.n_layers, cache=before)
        for some in vectors.split(_VECTORS):
            cache = KeyValueCache(arch, len(some), at + 1, one.x)
            cache.keys[:, :, :, :at], cache.values[:, :, :, :at] = before.keys, before.values
            cache.length = at
            found.append(self.model.blocks(some[:, None], self.site.resume, arch.n_layers, cache=cache)[0][:, 0])
        return torch.cat(found)

    def measured(
        self, batch: Batch, lasts: Sequence[Float[Tensor, "tokens d_model"]], positions: slice = slice(None)
    ) -> tuple[Float[Tensor, "rows pos"], Float[Tensor, "n rows pos"], Float[Tensor, "n rows pos"]]:
        """`divergences` of what `run` gave; no loss at the last position of a row, which no token follows."""
        clean, targets = batch.last[:, positions].flatten(0, 1), batch.targets[:, positions].flatten()
        found = divergences(self.model, clean, lasts, targets, self.logits_at_once)
        ce, divergence, increase = (value.view(*value.shape[:-1], len(batch.x), -1) for value in found)
        if (positions.stop or self.n_positions) == self.n_positions:
            ce[..., -1] = increase[..., -1] = torch.nan
        return ce, divergence, increase

    def compare(
        self, batch: Batch, replacements: Float[Tensor, "n rows pos d"], positions: slice = slice(None)
    ) -> tuple[Float[Tensor, "n rows pos"], Float[Tensor, "n rows pos"]]:
        """KL and increase of the cross-entropy for each of the replacements."""
        return self.measured(batch, self.run(batch, replacements, positions), positions)[1:]

    @cached_property
    def around(self) -> Surroundings:
        """Activations after position 0: their mean, covariance and principal directions, and some of them."""
        n = self.n_rows * (self.n_positions - 1)
        drawn = np.random.default_rng(derive_seed("errors", "pool")).choice(n, min(_POOL, n), replace=False)
        row, position = np.divmod(np.sort(drawn), self.n_positions - 1)
        origin = torch.from_numpy(row * self.n_positions + position + 1)
        pool, start = [], 0

        def later() -> Iterator[Tensor]:
            nonlocal start
            for first in range(0, self.n_rows, self.config.batch_rows):
                tokens = torch.from_numpy(self.rows[first : first + self.config.batch_rows].astype(np.int64)).to(
                    self.model.device
                )
                x = self.model.hook_values(tokens, [self.site.name])[self.site.name]
                here = origin[(origin >= start) & (origin < start + tokens.numel())] - start
                pool.append(x.flatten(0, 1)[here.to(x.device)])
                start += tokens.numel()
                yield x[:, 1:]

        basis = principal_directions(later())
        together = torch.cat(pool)
        known = isinstance(self.model, Decoder)
        unread = unread_directions(self.model, self.site, self.config.unread_share) if known else None
        return Surroundings.of(basis, self.config.n_directions, together, origin.to(together.device), unread)

    # tables

    @torch.no_grad()
    def tables(
        self, saes: dict[str, SAE], names: dict[str, list[str]], other_seeds: dict[str, str], chosen: list[str], tokenizer: Any
    ) -> Iterator[dict[str, pd.DataFrame]]:
        """Rows of all tables, some at a time. `names`: the interventions on each run; `other_seeds`: a run for `other_seed`."""
        self._check_draws(len(chosen))
        pool_errors = self.errors_of_pool(saes, names)
        for batch in self.batches():
            yield from self._batch(batch, saes, names, other_seeds, chosen, pool_errors)
        for run in chosen:
            yield from self._draws(run, saes[run], tokenizer)
        yield self._sweeps({run: saes[run] for run in chosen})
        yield {"errors_vocabulary": self._vocabulary(tokenizer)}

    def errors_of_pool(self, saes: dict[str, SAE], names: dict[str, list[str]]) -> dict[str, Float[Tensor, "pool d"]]:
        """Errors on the activations of other tokens, of the runs that need them."""
        return {run: _pool_error(sae, self.around.pool) for run, sae in saes.items() if "other_token" in names[run]}

    def _batch(
        self,
        batch: Batch,
        saes: dict[str, SAE],
        names: dict[str, list[str]],
        other_seeds: dict[str, str],
        chosen: list[str],
        pool_errors: dict[str, Tensor],
    ) -> Iterator[dict[str, pd.DataFrame]]:
        outputs, l0 = {}, {}
        for run, sae in saes.items():
            outputs[run], codes = sae(batch.x)
            l0[run] = (codes != 0).sum(dim=-1)
        of_run: dict[str, Tokens] = {}
        everywhere: dict[tuple[str, str], Tensor] = {}  # by run, or nothing where all share it, and intervention
        alone: dict[tuple[str, str], Tensor] = {}
        wanted: dict[str, dict[str, tuple[str, str]]] = {}
        for run in saes:
            draws = Draws(run, batch.index, self.n_positions, batch.x)
            other = outputs[other_seeds[run]] if run in other_seeds else None
            t = of_run[run] = Tokens(batch.x, outputs[run], self.around, draws, pool_errors.get(run), other)
            impossible = {"other_seed"} if other is None else set()
            impossible |= {"on_unread", "off_unread"} if self.around.unread is None else set()
            keys = {name: ("" if name in _SHARED else run, name) for name in names[run] if name not in impossible}
            made = {key: MAKE[name](t) for name, key in keys.items() if key not in everywhere}
            everywhere |= self._run_all(batch, made)
            if run in chosen:
                one = {key: self._only_at(batch.x, made[key], self.single) for key in made if key[1] != "after_first"}
                alone |= self._run_all(batch, one, self.window)
            wanted[run] = keys
        ce, found = self._measured_all(batch, everywhere)
        near = self._measured_all(batch, alone, self.window)[1] if alone else {}
        for run, keys in wanted.items():
            of_here = {name: found[key] for name, key in keys.items()}
            yield {"errors": self._frame(run, batch, ce, of_run[run], l0[run], of_here)}
            if run in chosen:
                yield {"errors_single": self._single(run, batch, {name: near[key] for name, key in keys.items() if key in near})}

    def _run_all(
        self, batch: Batch, replacements: dict[tuple[str, str], Tensor], positions: slice = slice(None)
    ) -> dict[tuple[str, str], Tensor]:
        if not replacements:
            return {}
        return dict(zip(replacements, self.run(batch, torch.stack(list(replacements.values())), positions), strict=True))

    def _measured_all(
        self, batch: Batch, lasts: dict[tuple[str, str], Tensor], positions: slice = slice(None)
    ) -> tuple[Tensor, dict[tuple[str, str], tuple[Tensor, Tensor]]]:
        ce, divergence, increase = self.measured(batch, list(lasts.values()), positions)
        return ce, {key: (divergence[i], increase[i]) for i, key in enumerate(lasts)}

    @staticmethod
    def _only_at(x: Tensor, replacement: Tensor, position: int) -> Tensor:
        patched = x.clone()
        patched[:, position] = replacement[:, position]
        return patched

    def _frame(
        self, run: str, batch: Batch, ce: Tensor, t: Tokens, l0: Tensor, found: dict[str, tuple[Tensor, Tensor]]
    ) -> pd.DataFrame:
        """The rows of table `errors` of one run and batch."""
        n = self.n_positions
        sizes = {"input_norm": norm(t.x), "output_norm": norm(t.output), "error": norm(t.error)}
        values = {name: value[..., 0] for name, value in sizes.items()}
        values["cosine"] = torch.nn.functional.cosine_similarity(t.x, t.output, dim=-1)
        columns: dict[str, Any] = {
            "run": run,
            "layer": np.int16(self.site.layer),
            "row": np.repeat(np.arange(batch.index.start, batch.index.stop, dtype=np.int32), n),
            "position": np.tile(np.arange(n, dtype=np.int16), len(batch.x)),
            "token": batch.tokens.flatten().to(torch.int32).cpu().numpy(),
            "l0": l0.flatten().to(torch.int32).cpu().numpy(),
            "ce_clean": rounded(ce),
            **{name: rounded(value) for name, value in values.items()},
        }
        return pd.DataFrame(columns | _of_interventions(found))

    def _single(self, run: str, batch: Batch, found: dict[str, tuple[Tensor, Tensor]]) -> pd.DataFrame:
        """The rows of table `errors_single` of one run and batch."""
        n = self.window.stop - self.window.start
        columns = {
            "run": run,
            "row": np.repeat(np.arange(batch.index.start, batch.index.stop, dtype=np.int32), n),
            "position": np.tile(np.arange(self.window.start, self.window.stop, dtype=np.int16), len(batch.x)),
            "offset": np.tile(np.arange(n, dtype=np.int16), len(batch.x)),
        }
        return pd.DataFrame(columns | _of_interventions(found)).drop(columns=["kl_after_first", "ce_after_first"])

    def _check_draws(self, n_runs: int) -> None:
        needed = (
            64 * n_runs * self.config.n_draws * min(self.config.draw_tokens, len(self.rows))
        )  # bytes, strings of a frame included
        if needed > (there := os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")):
            raise UserError(
                f"{self.config.n_draws:,} draws for each of {min(self.config.draw_tokens, len(self.rows)):,} tokens and {n_runs} runs take "
                f"{human_bytes(needed)}, and this machine has {human_bytes(there)}; lower `studies.errors.n_draws` or `draw_tokens`."
            )

    def _draws(self, run: str, sae: SAE, tokenizer: Any) -> Iterator[dict[str, pd.DataFrame]]:
        """Rows of `errors_draws` and `errors_examples`: many ε-random vectors for one token of each of the first rows."""
        at, wanted = self.draw_at, min(self.config.draw_tokens, len(self.rows))
        here = slice(at, at + 1)
        records, ends = [], []
        for batch in self.batches(wanted) if wanted else ():
            output, _ = sae(batch.x)
            for i, row in enumerate(batch.index):
                one = Batch(range(row, row + 1), *(v[i : i + 1] for v in (batch.tokens, batch.x, batch.stream, batch.last)))
                log_p = log_probabilities(self.model, one.last[0, here])
                draws = Draws(run, one.index, self.config.n_draws, one.x)
                x, distance = one.x[:, at], norm(output[i : i + 1, at] - one.x[:, at])
                vectors = at_distance(x, draws.normal("draws")[0], distance)
                lasts = self.run_one(one, torch.cat([output[i, at][None], vectors]), at)
                predicted = (log_probabilities(self.model, some) for some in lasts.split(self.logits_at_once))
                p = log_p.exp()
                p_log_p = (p * log_p).sum(dim=-1)
                found = torch.cat([kl(p, p_log_p, log_q) for log_q in predicted])
                records.append((row, rounded(found)))
                ends.append((one, log_p[0], lasts[:2], found[:2]))
        draws = [
            {
                "run": run,
                "row": np.int32(row),
                "position": np.int16(at),
                "draw": np.arange(-1, len(found) - 1, dtype=np.int32),
                "kl": found,
            }
            for row, found in records
        ]
        if draws:
            yield {"errors_draws": pd.concat(map(pd.DataFrame, draws), ignore_index=True)}
        order = sorted(range(len(ends)), key=lambda i: float(ends[i][3][0]))
        picked = (
            [order[round(share * (len(order) - 1))] for share in np.linspace(0.5, 1, self.config.n_examples)] if order else []
        )
        for i in dict.fromkeys(picked):
            yield {"errors_examples": self._example(run, tokenizer, *ends[i])}

    def _example(
        self,
        run: str,
        tokenizer: Any,
        one: Batch,
        log_p: Tensor,
        lasts: Float[Tensor, "2 d_model"],
        divergence: Float[Tensor, "2"],
    ) -> pd.DataFrame:
        """The most probable next tokens of the model, with the log-probabilities that the SAE and the first draw leave them."""
        most = log_p.topk(min(self.config.n_next, len(log_p))).indices
        log_q = log_probabilities(self.model, lasts)[:, most].cpu().numpy()
        return pd.DataFrame(
            {
                "run": run,
                "row": np.int32(one.index.start),
                "position": np.int16(self.draw_at),
                "context": tokenizer.decode(one.tokens[0, max(0, self.draw_at - 11) : self.draw_at + 1].tolist()),
                "rank": np.arange(len(most), dtype=np.int16),
                "token": most.to(torch.int32).cpu().numpy(),
                "text": [tokenizer.decode([token]) for token in most.tolist()],
                "log_p": log_p[most].float().cpu().numpy(),
                "log_sae": log_q[0].astype(np.float32),
                "log_random": log_q[1].astype(np.float32),
                "kl_sae": float(divergence[0]),
                "kl_random": float(divergence[1]),
            }
        )

    def _vocabulary(self, tokenizer: Any) -> pd.DataFrame:
        """Rows of `errors_vocabulary`: what the tokens of the rows are, and how often they occur."""
        token, count = np.unique(self.rows[: self.n_rows], return_counts=True)
        texts = [tokenizer.decode([index]) for index in token.tolist()]
        return pd.DataFrame({"token": token.astype(np.int32), "text": texts, "count": count})

    def _sweeps(self, saes: dict[str, SAE]) -> dict[str, pd.DataFrame]:
        """Rows of `errors_sweep`: errors and random vectors of fixed lengths, and noise at fixed cosines; means over each row."""
        config, mean_norm = self.config, self.around.mean_norm
        parts = defaultdict(list)
        for batch in self.batches(min(config.sweep_rows, self.n_rows)):
            draws = Draws("", batch.index, self.n_positions, batch.x)
            around = Tokens(batch.x, batch.x, self.around, draws)
            one, two = around.real("length real_mixture", 2)
            directions = {("", "random"): draws.normal("length"), ("", "real_mixture"): one - two}
            directions |= {(run, "error"): sae(batch.x)[0] - batch.x for run, sae in saes.items()}
            for (run, direction), vectors in directions.items():
                tried = [at_distance(batch.x, vectors, share * mean_norm) for share in config.lengths]
                parts[run, "length", direction].append((config.lengths, batch.index, self._row_means(batch, tried)))
            noise = draws.normal("cosine")
            tried = [at_cosine(batch.x, cosine, config.noise_norm, noise) for cosine in config.cosines]
            parts["", "cosine", "random"].append((config.cosines, batch.index, self._row_means(batch, tried)))
        frames = [
            pd.DataFrame(
                {
                    "run": run,
                    "sweep": sweep,
                    "direction": direction,
                    "level": level,
                    "length": level * mean_norm if sweep == "length" else np.nan,
                    "row": np.arange(index.start, index.stop, dtype=np.int32),
                    "kl": divergence[i],
                    "ce": ce[i],
                }
            )
            for (run, sweep, direction), found in parts.items()
            for levels, index, (divergence, ce) in found
            for i, level in enumerate(levels)
        ]
        return {"errors_sweep": pd.concat(frames, ignore_index=True)}

    def _row_means(self, batch: Batch, replacements: list[Tensor]) -> tuple[np.ndarray, np.ndarray]:
        """Mean KL and CE increase after position 0 for each of the replacements and each row."""
        divergence, increase = self.compare(batch, torch.stack(replacements))
        return divergence[..., 1:].double().mean(dim=-1).cpu().numpy(), increase[..., 1:-1].double().mean(dim=-1).cpu().numpy()


def _put(rows: Float[Tensor, "n 1 pos d"], vectors: Float[Tensor, "n d"], at: int) -> Float[Tensor, "n 1 pos d"]:
    """The rows with a vector each at one position."""
    rows[:, 0, at] = vectors
    return rows


def _pool_error(sae: SAE, pool: Float[Tensor, "pool d"]) -> Float[Tensor, "pool d"]:
    return torch.cat([sae(some)[0] - some for some in pool.split(512)])


def _of_interventions(found: dict[str, tuple[Tensor, Tensor]]) -> dict[str, np.ndarray | float]:
    """Columns `kl_<name>` and `ce_<name>`; missing values where an intervention was not measured."""
    columns: dict[str, np.ndarray | float] = {}
    for i, quantity in enumerate(("kl", "ce")):
        columns |= {
            f"{quantity}_{name}": rounded(found[name][i]) if name in found else np.float32(np.nan) for name in INTERVENTIONS
        }
    return columns


def rounded(values: Tensor | Iterable[float], bits: int = _BITS) -> Float[np.ndarray, " n"]:
    """Flat float32 values with `bits` binary digits after the leading one, to nearest (half to even)."""
    flat = values.flatten().float().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values, np.float32)
    dropped = np.uint32(23 - bits)
    raw = flat.view(np.uint32)
    half = np.uint32((1 << (int(dropped) - 1)) - 1) + ((raw >> dropped) & np.uint32(1))
    kept = ((raw + half) >> dropped) << dropped
    return np.where(np.isfinite(flat), kept.view(np.float32), flat)
