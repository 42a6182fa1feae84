"""Subject-verb agreement: how much of a model's preference for the right verb SAEs keep, and by how many features.

After Braun et al. 2024 (Table 7, Fig. 24), who published no code for it, with the items of Marks et al. 2024 and of BLiMP.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...lm.bridge import BridgeModel
from ...lm.decoder import Decoder
from ...lm.sites import Site
from ...sae.base import SAE
from ...store.errors import UserError
from ...store.seeds import derive_seed
from ..place import Place
from .settings import AgreementConfig

_FIELDS = ("clean_prefix", "clean_answer", "patch_answer")
_BLIMP_FIELDS = ("one_prefix_prefix", "one_prefix_word_good", "one_prefix_word_bad")  # words without the space before them
_ROUNDING = 1e-5  # share of the logit differences that the rounding of float32 models explains
_POINTS = 20  # of a curve, between one feature and all
_ITEMS = 64  # whose activations of all features are held at once


def measure(place: Place, config: AgreementConfig) -> dict[str, pd.DataFrame]:
    """The tables of one hook point; the runs are those selected for similar CE increase or L0.

    Rows start with the model's beginning-of-text token, where it has one.
    """
    first, n_ctx = place.model_record["special_tokens"]["bos"], place.model_record["arch"]["n_ctx"]
    templates = {
        name: read_items(Path(path), name, place.tokenizer, first, n_ctx, config) for name, path in (config.files or {}).items()
    }
    saes = {run: place.sae(run) for run in place.selected("similar_ce", "similar_l0")}
    return study(place.model, place.site, saes, templates)


@dataclass(frozen=True)
class Items:
    """Items of one template: rows of tokens, padded at the end, and the two tokens that may follow."""

    tokens: Int[Tensor, "items width"]
    last: Int[Tensor, " items"]  # position of each row's last token
    correct: Int[Tensor, " items"]
    wrong: Int[Tensor, " items"]
    n_split: int  # whose verbs begin with the same tokens, which then count as context
    n_excluded: (
        int  # that no token tells apart, one verb beginning with the whole of the other, or longer than the model's context
    )

    @property
    def slots(self) -> Int[Tensor, "items width"]:
        """The place of each token: 0 at position 0, for the others by their distance to the last token; −1 for padding.

        Rows of equal length have their positions. Those of different lengths share the places that matter: where the verb is
        predicted, and position 0, which is often an outlier.
        """
        position = torch.arange(self.tokens.shape[1], device=self.tokens.device).expand_as(self.tokens)
        slots = position + (self.tokens.shape[1] - 1 - self.last)[:, None]
        return torch.where(position > self.last[:, None], -1, torch.where(position == 0, 0, slots))


def read_items(path: Path, template: str, tokenizer: Any, first: int | None, n_ctx: int, config: AgreementConfig) -> Items:
    """Up to `config.n_items` items of a file of Marks et al. or of BLiMP, in random order; rows start with the token `first`, if any.

    The two continuations are encoded as a whole; their first tokens that differ are compared, after what they have in common.

    Raises:
        UserError: the file is missing or damaged, or no item of it can be scored with this tokenizer.
    """
    lines = _read_lines(path)
    order = np.random.default_rng(derive_seed("agreement items", config.seed, template)).permutation(len(lines))
    start = [] if first is None else [first]
    rows, answers, n_split, n_excluded = [], [], 0, 0
    for index in order:
        if len(rows) == config.n_items:
            break
        prefix, correct, wrong = lines[index]
        one, two = (tokenizer.encode(prefix + answer, add_special_tokens=False) for answer in (correct, wrong))
        common = next((i for i, pair in enumerate(zip(one, two, strict=False)) if pair[0] != pair[1]), None)
        if common is None or not start + one[:common] or len(start) + common > n_ctx:
            n_excluded += 1
            continue
        n_split += common > len(tokenizer.encode(prefix, add_special_tokens=False))
        rows.append(start + one[:common])
        answers.append((one[common], two[common]))
    if not rows:
        raise UserError(
            f"no item of {path} can be scored with this model's tokenizer; remove `studies.agreement.files.{template}`."
        )
    tokens = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.int64)
    for row, ids in zip(tokens, rows, strict=True):
        row[: len(ids)] = torch.tensor(ids)
    correct, wrong = torch.tensor(answers).T
    return Items(tokens, torch.tensor([len(ids) - 1 for ids in rows]), correct, wrong, n_split, n_excluded)


def _read_lines(path: Path) -> list[tuple[str, str, str]]:
    if not path.exists():
        raise UserError(f"agreement file {path} does not exist; correct its path in `studies.agreement.files`.")
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            item = json.loads(line)
            if _FIELDS[0] in item:
                found.append(tuple(str(item[name]) for name in _FIELDS))
            else:
                prefix, *words = (str(item[name]) for name in _BLIMP_FIELDS)
                found.append((prefix, *(f" {word}" for word in words)))
        except (json.JSONDecodeError, KeyError, TypeError):
            raise UserError(
                f"line {number} of {path} is not a JSON object with the fields {', '.join(_FIELDS)} (or {', '.join(_BLIMP_FIELDS)})."
            ) from None
    return found


class Template:
    """The model on the items of one template, with anything in the place of the value at a hook point."""

    @torch.no_grad()
    def __init__(self, model: Decoder | BridgeModel, site: Site, items: Items) -> None:
        self.model, self.site = model, site
        self.tokens, self.last, self.correct, self.wrong, self.slots = (
            t.to(model.device) for t in (items.tokens, items.last, items.correct, items.wrong, items.slots)
        )
        values = model.hook_values(self.tokens, dict.fromkeys([site.name, site.stream]))
        self.x, self.stream = values[site.name], values[site.stream]
        self.clean = self.differences(self.x)
        self.ablated = self.differences(self.mean(self.x))

    def differences(self, replacement: Float[Tensor, "items width d_in"]) -> Float[Tensor, " items"]:
        """Logit of the correct verb minus that of the wrong one, after the last token of each item."""
        resid, _ = self.model.continue_from(self.site, replacement, self.x, self.stream)
        h = self.model.final_norm(resid[torch.arange(len(resid), device=resid.device), self.last])
        return self._logit(h, self.correct) - self._logit(h, self.wrong)

    def _logit(self, h: Float[Tensor, "items d_model"], token: Int[Tensor, " items"]) -> Float[Tensor, " items"]:
        logit = (h * self.model.W_U[token]).sum(dim=-1)
        if self.model.b_U is not None:
            logit = logit + self.model.b_U[token]
        cap = self.model.soft_cap
        return logit if cap is None else cap * torch.tanh(logit / cap)

    def mean(self, values: Float[Tensor, "items width n"]) -> Float[Tensor, "items width n"]:
        """At each token the mean of `values` over the items with a token in its place; zero for padding."""
        used = self.slots >= 0
        width, n = self.tokens.shape[1], values.shape[-1]
        sums = torch.zeros(width, n, dtype=torch.float64, device=values.device)
        sums.index_add_(0, self.slots[used], values[used].double())
        counts = torch.bincount(self.slots[used], minlength=width).clamp(min=1)
        means = (sums / counts[:, None]).to(values)
        return means[self.slots.clamp(min=0)] * used[..., None]

    def faithfulness(self, differences: Float[Tensor, " items"]) -> float:
        """(m − m(∅)) / (m(model) − m(∅)), m the mean difference and ∅ the model with the whole value at its mean; NaN if undefined."""
        span = _mean(self.clean) - _mean(self.ablated)
        defined = abs(span) > _ROUNDING * _mean(self.clean.abs() + self.ablated.abs())
        return (_mean(differences) - _mean(self.ablated)) / span if defined else float("nan")


@torch.no_grad()
def study_sae(template: Template, sae: SAE) -> tuple[dict[str, float], list[tuple[int, float]], int]:
    """`(summary, curve, n_features)` of an SAE on a template.

    The curve is the faithfulness when so many features keep their activations and all others have their means, for the features
    of largest indirect effect: the drop in faithfulness when that feature alone has its mean. Features that no item activates
    count as kept by none: they are zero in either case.
    """
    stats = sae.normalise(template.x)[1]
    output, features, codes = _reconstruct(template, sae)
    directions = sae.dictionary()[features]
    with_sae = template.differences(output)
    changes = template.mean(codes) - codes

    def without(chosen: Tensor) -> Tensor:
        """Differences with the `chosen` of the features at their means."""
        change = changes[..., chosen] @ directions[chosen]
        return template.differences(output + (change if stats is None else change * stats[1]))

    whole = template.faithfulness(with_sae)
    effects = torch.zeros(len(features), dtype=torch.float64)
    for i in range(len(features)):
        if (changes[..., i] != 0).any():  # one that never leaves its mean has no effect
            effects[i] = whole - template.faithfulness(without(torch.tensor([i], device=features.device)))
    order = effects.nan_to_num().argsort(descending=True, stable=True).to(features.device)
    curve = [(k, template.faithfulness(without(order[k:].sort().values))) for k in _counts(len(features))]
    summary = {
        "faithfulness": whole,
        "m_sae": _mean(with_sae),
        "m_model": _mean(template.clean),
        "m_ablated": _mean(template.ablated),
        "accuracy_model": _mean(template.clean > 0),
        "accuracy_sae": _mean(with_sae > 0),
    }
    return summary, curve, len(features)


def _reconstruct(
    template: Template, sae: SAE
) -> tuple[Float[Tensor, "items width d_in"], Int[Tensor, " n"], Float[Tensor, "items width n"]]:
    """`(output, features, codes)`: what the SAE puts in the place of the values, the features that some item activates, their codes.

    Those of all features are held for `_ITEMS` items at a time. Codes of padding are zero.
    """
    outputs, parts = [], []
    for x, slots in zip(template.x.split(_ITEMS), template.slots.split(_ITEMS), strict=True):
        output, codes = sae(x)
        codes = codes * (slots >= 0)[..., None]
        active = (codes != 0).flatten(0, 1).any(dim=0).nonzero().squeeze(1)
        outputs.append(output)
        parts.append((active, codes[..., active]))
    features = torch.cat([active for active, _ in parts]).unique()
    kept = parts[0][1].new_zeros(*template.slots.shape, len(features))
    for rows, (active, codes) in zip(kept.split(_ITEMS), parts, strict=True):
        rows[..., torch.searchsorted(features, active)] = codes
    return torch.cat(outputs), features, kept


def _counts(n: int) -> list[int]:
    """Numbers of features to keep: none, and evenly on a logarithmic axis from one to all."""
    return [0, *np.unique(np.geomspace(1, n, _POINTS).round().astype(int)).tolist()] if n else [0]


def _mean(values: Tensor) -> float:
    return values.double().mean().item()


def study(model: Decoder | BridgeModel, site: Site, saes: dict[str, SAE], templates: dict[str, Items]) -> dict[str, pd.DataFrame]:
    """The two tables of a hook point.

    `agreement`: run, template, faithfulness, m_sae, m_model, m_ablated (logits), accuracy_model, accuracy_sae (share of items on
    which the correct verb is preferred), n_features (that some item activates), n_items, n_split, n_excluded.
    `agreement_features`: run, template, n_kept, faithfulness, n_features.
    """
    summaries, curves = [], []
    for name, items in templates.items():
        template = Template(model, site, items)
        for run, sae in saes.items():
            summary, curve, n_features = study_sae(template, sae)
            of = {"run": run, "template": name}
            counts = {"n_items": len(items.tokens), "n_split": items.n_split, "n_excluded": items.n_excluded}
            summaries.append({**of, **summary, "n_features": n_features, **counts})
            curves += [{**of, "n_kept": n, "faithfulness": value, "n_features": n_features} for n, value in curve]
            print(f"{run} on {name}: {len(items.tokens)} items, {n_features} features", flush=True)
    return {"agreement": pd.DataFrame(summaries), "agreement_features": pd.DataFrame(curves)}
