"""What an SAE's errors do to the model's output, token by token, against perturbations of the same size (Gurnee 2024).

All interventions of a hook point share the pass without one. KL is KL(clean ‖ perturbed) in nats over the whole vocabulary.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
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
from .settings import INTERVENTIONS, OF_EVERY_RUN, ErrorsConfig

_LOGIT_ROWS = 128  # tokens whose perturbed logits are held at once
_FORWARD_TOKENS = 4096  # that run through the model at once, at most
_VECTORS = 256  # tried at one position at once
_POOL = 4096  # activations of other tokens that are kept at hand
_SHARED = ("zero", "mean")  # the same whatever the SAE
_BITS = 8  # kept of each value after its leading one: the frame is long, and a token's value varies by far more


def measure(place: Place, config: ErrorsConfig) -> Iterator[dict[str, pd.DataFrame]]:
    """Rows of the tables of one hook point, batch by batch.

    The runs chosen for similar CE increase get every intervention, the others those of `OF_EVERY_RUN`.

    Raises:
        UserError: there are too few tokens or too little memory.
    """
    runs = place.runs.set_index("run")
    chosen = place.selected("similar_ce")
    saes = {run: place.sae(run) for run in runs.index}
    rows = place.held_out(config.n_tokens, "studies.errors.n_tokens")
    names = {run: _interventions(config, run in chosen) for run in saes}
    further = place.held_out(None, "")[len(rows) : config.draw_tokens]
    study = HookPoint(place.model, place.site, rows, config, further)
    yield from study.tables(saes, names, _other_seeds(runs), chosen, place.tokenizer)


def _interventions(config: ErrorsConfig, chosen: bool) -> list[str]:
    wanted = config.interventions or list(INTERVENTIONS)
    return [name for name in INTERVENTIONS if name in wanted and (chosen or name in OF_EVERY_RUN)]


def _other_seeds(runs: pd.DataFrame) -> dict[str, str]:
    """Of each run the next one, in a ring, that differs in nothing but its seed."""
    found = {}
    for _, group in runs.groupby("settings", sort=False):
        names = list(group.sort_values("seed").index)
        if len(names) > 1:
            found |= dict(zip(names, names[1:] + names[:1], strict=True))
    return found


@dataclass
class Clean:
    """The model's own predictions of a batch, in float32 or wider: what perturbed ones are compared with."""

    logits: Float[Tensor, "tokens vocabulary"]
    targets: Int[Tensor, " tokens"]
    p: Float[Tensor, "tokens vocabulary"] = field(init=False)
    ce: Float[Tensor, " tokens"] = field(init=False)

    def __post_init__(self) -> None:
        log_p = self.logits.log_softmax(dim=-1)
        self.ce = -log_p.gather(-1, self.targets[:, None])[:, 0]
        self.p = log_p.exp_()


@torch.no_grad()
def divergences(
    model: Decoder | BridgeModel, clean: Clean, perturbed: Float[Tensor, "tokens d_model"]
) -> tuple[Float[Tensor, " tokens"], Float[Tensor, " tokens"]]:
    """KL(clean ‖ perturbed) and CE(perturbed) − CE(clean) of the residuals after the last block, over the whole vocabulary.

    With d the difference of the logits less its mean under the clean p, KL = ln Σ p eᵈ: exact for small differences, and zero where
    there is none.
    """
    kl, increase = [], []
    for start in range(0, len(perturbed), _LOGIT_ROWS):
        part = slice(start, start + _LOGIT_ROWS)
        p, targets = clean.p[part], clean.targets[part, None]
        d = model.logits(perturbed[part]).to(p.dtype).sub_(clean.logits[part])
        d.sub_(torch.linalg.vecdot(p, d)[:, None])
        at_target = d.gather(-1, targets)[:, 0]
        found = torch.linalg.vecdot(p, d.expm1_()).log1p_()
        if not found.isfinite().all():  # differences beyond the range of the exponential
            found = _far(model, clean, perturbed, part)
        kl.append(found.clamp_(min=0))
        increase.append(found - at_target)
    return torch.cat(kl), torch.cat(increase)


def _far(model: Decoder | BridgeModel, clean: Clean, perturbed: Float[Tensor, "tokens d_model"], part: slice) -> Tensor:
    """The same from the log-probabilities, for predictions that have little in common."""
    log_p, log_q = (logits.double().log_softmax(dim=-1) for logits in (clean.logits[part], model.logits(perturbed[part])))
    return (log_p.exp() * (log_p - log_q)).sum(dim=-1).to(clean.p)


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
        of_row = 8 * self.n_positions * model.arch.d_vocab
        if (fitting := config.logits_mb * 2**20 // of_row) == 0:
            raise UserError(
                f"the logits and probabilities of one row of {self.n_positions} tokens over a vocabulary of {model.arch.d_vocab:,} take "
                f"{human_bytes(of_row)}, more than `studies.errors.logits_mb` ({config.logits_mb}); raise it or shorten `corpus.context`."
            )
        self.at_once = min(config.batch_rows, fitting)
        self.single = min(config.single_position, self.n_positions // 2)
        self.window = slice(self.single, min(self.single + config.following + 1, self.n_positions))
        self.draw_at = min(config.draw_position, self.n_positions // 2)

    def batches(self, n_rows: int | None = None) -> Iterator[Batch]:
        """The first rows, with the pass without an intervention; those of the frame unless `n_rows` says how many."""
        n_rows = min(n_rows or self.n_rows, len(self.rows))
        for start in range(0, n_rows, self.at_once):
            index = range(start, min(start + self.at_once, n_rows))
            tokens = torch.from_numpy(self.rows[index.start : index.stop].astype(np.int64)).to(self.model.device)
            values = self.model.hook_values(tokens, dict.fromkeys([self.site.name, self.site.stream]))
            x, stream = values[self.site.name], values[self.site.stream]
            yield Batch(index, tokens, x, stream, self.model.continue_from(self.site, x, x, stream)[0])

    def clean(self, batch: Batch, positions: slice = slice(None)) -> Clean:
        """The predictions at these positions of a batch."""
        logits = self.model.logits(batch.last[:, positions].flatten(0, 1))
        return Clean(logits if logits.dtype == torch.float64 else logits.float(), batch.targets[:, positions].flatten())

    def run(self, batch: Batch, replacements: Float[Tensor, "n rows pos d"], positions: slice = slice(None)) -> Iterator[Tensor]:
        """The residual after the last block with each of the replacements, at `positions` of rows that end with the last of them."""
        stop = positions.stop or self.n_positions
        at_once = max(1, _FORWARD_TOKENS // (len(batch.x) * stop))
        for some in replacements.split(at_once):
            n = len(some)
            x, stream = (v[:, :stop].repeat(n, 1, 1) for v in (batch.x, batch.stream))
            last, _ = self.model.continue_from(self.site, some[:, :, :stop].flatten(0, 1), x, stream)
            yield from last.view(n, len(batch.x), stop, -1)[:, :, positions].flatten(1, 2)

    def run_one(self, one: Batch, vectors: Float[Tensor, "n d"], at: int) -> Float[Tensor, "n d_model"]:
        """The residual after the last block at position `at` of a row with each of the vectors there; in place of what comes before
        the position, its keys and values, where the model can."""
        if not (self.site.is_residual and isinstance(self.model, Decoder)):
            parts = vectors.split(max(1, _FORWARD_TOKENS // (at + 1)))
            rows = (_put(one.x[None, :, : at + 1].repeat(len(some), 1, 1, 1), some, at) for some in parts)
            return torch.cat([last for some in rows for last in self.run(one, some, slice(at, at + 1))])
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

    def compare(
        self, batch: Batch, clean: Clean, replacements: Float[Tensor, "n rows pos d"], positions: slice = slice(None)
    ) -> tuple[Float[Tensor, "n rows pos"], Float[Tensor, "n rows pos"]]:
        """KL and increase of the cross-entropy for each of the replacements."""
        found = [divergences(self.model, clean, last) for last in self.run(batch, replacements, positions)]
        kl, increase = (torch.stack(part).view(len(found), len(batch.x), -1) for part in zip(*found, strict=True))
        if (positions.stop or self.n_positions) == self.n_positions:
            increase[..., -1] = torch.nan  # no token follows
        return kl, increase

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
            for first in range(0, self.n_rows, self.at_once):
                tokens = torch.from_numpy(self.rows[first : first + self.at_once].astype(np.int64)).to(self.model.device)
                x = self.model.hook_values(tokens, [self.site.name])[self.site.name]
                here = origin[(origin >= start) & (origin < start + tokens.numel())] - start
                pool.append(x.flatten(0, 1)[here.to(x.device)])
                start += tokens.numel()
                yield x[:, 1:]

        basis = principal_directions(later())
        together = torch.cat(pool)
        return Surroundings.of(basis, self.config.n_directions, together, origin.to(together.device))

    # tables

    @torch.no_grad()
    def tables(
        self, saes: dict[str, SAE], names: dict[str, list[str]], other_seeds: dict[str, str], chosen: list[str], tokenizer: Any
    ) -> Iterator[dict[str, pd.DataFrame]]:
        """Rows of all tables, some at a time. `names`: the interventions on each run; `other_seeds`: a run for `other_seed`."""
        self._check_draws(len(chosen))
        pool_errors = {run: _pool_error(saes[run], self.around.pool) for run in chosen if "other_token" in names[run]}
        for batch in self.batches():
            yield from self._batch(batch, saes, names, other_seeds, chosen, pool_errors)
        for run in chosen:
            yield from self._draws(run, saes[run], tokenizer)
        yield self._sweeps({run: saes[run] for run in chosen})
        yield {"errors_vocabulary": self._vocabulary(tokenizer)}

    def _batch(
        self,
        batch: Batch,
        saes: dict[str, SAE],
        names: dict[str, list[str]],
        other_seeds: dict[str, str],
        chosen: list[str],
        pool_errors: dict[str, Tensor],
    ) -> Iterator[dict[str, pd.DataFrame]]:
        clean, near = self.clean(batch), self.clean(batch, self.window)
        outputs, l0 = {}, {}
        for run, sae in saes.items():
            outputs[run], codes = sae(batch.x)
            l0[run] = (codes != 0).sum(dim=-1)
        shared: dict[str, tuple[Tensor, Tensor]] = {}
        single_shared: dict[str, tuple[Tensor, Tensor]] = {}
        for run in saes:
            tokens = Tokens(
                batch.x,
                outputs[run],
                self.around,
                Draws(run, batch.index, self.n_positions, batch.x),
                pool_errors.get(run),
                outputs[other_seeds[run]] if run in other_seeds else None,
            )
            wanted = [name for name in names[run] if name != "other_seed" or run in other_seeds]
            made = {name: MAKE[name](tokens) for name in wanted if name not in shared}
            found = shared | self._compared(batch, clean, made)
            shared |= {name: found[name] for name in _SHARED if name in found}
            yield {"errors": self._frame(run, batch, clean, tokens, l0[run], {name: found[name] for name in wanted})}
            if run in chosen:
                patched = {
                    name: self._only_at(batch.x, value, self.single) for name, value in made.items() if name != "after_first"
                }
                near_found = single_shared | self._compared(batch, near, patched, self.window)
                single_shared |= {name: near_found[name] for name in _SHARED if name in near_found}
                yield {"errors_single": self._single(run, batch, {n: near_found[n] for n in wanted if n in near_found})}

    def _compared(
        self, batch: Batch, clean: Clean, replacements: dict[str, Tensor], positions: slice = slice(None)
    ) -> dict[str, tuple[Tensor, Tensor]]:
        kl, increase = self.compare(batch, clean, torch.stack(list(replacements.values())), positions)
        return {name: (kl[i], increase[i]) for i, name in enumerate(replacements)}

    @staticmethod
    def _only_at(x: Tensor, replacement: Tensor, position: int) -> Tensor:
        patched = x.clone()
        patched[:, position] = replacement[:, position]
        return patched

    def _frame(
        self, run: str, batch: Batch, clean: Clean, t: Tokens, l0: Tensor, found: dict[str, tuple[Tensor, Tensor]]
    ) -> pd.DataFrame:
        """The rows of table `errors` of one run and batch."""
        n = self.n_positions
        ce = clean.ce.view(len(batch.x), n).clone()
        ce[:, -1] = torch.nan
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
                clean = self.clean(one, here)
                draws = Draws(run, one.index, self.config.n_draws, one.x)
                x, distance = one.x[:, at], norm(output[i : i + 1, at] - one.x[:, at])
                vectors = at_distance(x, draws.normal("draws")[0], distance)
                lasts = self.run_one(one, torch.cat([output[i, at][None], vectors]), at)
                kl, _ = divergences(self.model, _repeated(clean, len(lasts)), lasts)
                records.append((row, rounded(kl)))
                ends.append((one, clean, lasts[:2], kl[:2]))
        draws = [
            {
                "run": run,
                "row": np.int32(row),
                "position": np.int16(at),
                "draw": np.arange(-1, len(kl) - 1, dtype=np.int32),
                "kl": kl,
            }
            for row, kl in records
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
        self, run: str, tokenizer: Any, one: Batch, clean: Clean, lasts: Float[Tensor, "2 d_model"], kl: Float[Tensor, "2"]
    ) -> pd.DataFrame:
        """The most probable next tokens of the model, with the log-probabilities that the SAE and the first draw leave them."""
        most = clean.p[0].topk(min(self.config.n_next, clean.p.shape[1])).indices
        log_q = self.model.logits(lasts).to(clean.p).log_softmax(dim=-1)[:, most].cpu().numpy()
        return pd.DataFrame(
            {
                "run": run,
                "row": np.int32(one.index.start),
                "position": np.int16(self.draw_at),
                "context": tokenizer.decode(one.tokens[0, max(0, self.draw_at - 11) : self.draw_at + 1].tolist()),
                "rank": np.arange(len(most), dtype=np.int16),
                "token": most.to(torch.int32).cpu().numpy(),
                "text": [tokenizer.decode([token]) for token in most.tolist()],
                "log_p": clean.p[0, most].log().float().cpu().numpy(),
                "log_sae": log_q[0].astype(np.float32),
                "log_random": log_q[1].astype(np.float32),
                "kl_sae": float(kl[0]),
                "kl_random": float(kl[1]),
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
            clean, draws = self.clean(batch), Draws("", batch.index, self.n_positions, batch.x)
            around = Tokens(batch.x, batch.x, self.around, draws)
            one, two = around.real("length real_mixture", 2)
            directions = {("", "random"): draws.normal("length"), ("", "real_mixture"): one - two}
            directions |= {(run, "error"): sae(batch.x)[0] - batch.x for run, sae in saes.items()}
            for (run, direction), vectors in directions.items():
                tried = [at_distance(batch.x, vectors, share * mean_norm) for share in config.lengths]
                parts[run, "length", direction].append((config.lengths, batch.index, self._row_means(batch, clean, tried)))
            noise = draws.normal("cosine")
            tried = [at_cosine(batch.x, cosine, config.noise_norm, noise) for cosine in config.cosines]
            parts["", "cosine", "random"].append((config.cosines, batch.index, self._row_means(batch, clean, tried)))
        frames = [
            pd.DataFrame(
                {
                    "run": run,
                    "sweep": sweep,
                    "direction": direction,
                    "level": level,
                    "length": level * mean_norm if sweep == "length" else np.nan,
                    "row": np.arange(index.start, index.stop, dtype=np.int32),
                    "kl": kl[i],
                    "ce": ce[i],
                }
            )
            for (run, sweep, direction), found in parts.items()
            for levels, index, (kl, ce) in found
            for i, level in enumerate(levels)
        ]
        return {"errors_sweep": pd.concat(frames, ignore_index=True)}

    def _row_means(self, batch: Batch, clean: Clean, replacements: list[Tensor]) -> tuple[np.ndarray, np.ndarray]:
        """Mean KL and CE increase after position 0 for each of the replacements and each row."""
        kl, increase = self.compare(batch, clean, torch.stack(replacements))
        return kl[..., 1:].double().mean(dim=-1).cpu().numpy(), increase[..., 1:-1].double().mean(dim=-1).cpu().numpy()


def _put(rows: Float[Tensor, "n 1 pos d"], vectors: Float[Tensor, "n d"], at: int) -> Float[Tensor, "n 1 pos d"]:
    """The rows with a vector each at one position."""
    rows[:, 0, at] = vectors
    return rows


def _pool_error(sae: SAE, pool: Float[Tensor, "pool d"]) -> Float[Tensor, "pool d"]:
    return torch.cat([sae(some)[0] - some for some in pool.split(512)])


def _repeated(clean: Clean, n: int) -> Clean:
    """The predictions of one token, as often as there are perturbations of it."""
    repeated = object.__new__(Clean)
    repeated.logits, repeated.targets = clean.logits.expand(n, -1), clean.targets.expand(n)
    repeated.p, repeated.ce = clean.p.expand(n, -1), clean.ce.expand(n)
    return repeated


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
