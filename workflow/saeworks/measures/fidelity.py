"""How faithfully an SAE stands in for what it rebuilds: loss, divergence, reconstruction, sparsity; on held-out rows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from ..lm.bridge import BridgeModel
from ..lm.decoder import Decoder
from ..lm.sites import Site, residual_before
from ..sae.base import SAE

UNITS = {
    "ce_clean": "nats/token",
    "ce": "nats/token",
    "ce_zero": "nats/token",
    "ce_increase": "nats/token",
    "ce_recovered": "1",
    "kl": "nats/token",
    "kl_zero": "nats/token",
    "kl_recovered": "1",
    "l0": "features/token",
    "l1": "activation/token",
    "explained_variance": "1",
    "explained_variance_mean_of_ratios": "1",
    "mse": "activation²",
    "l2_ratio": "1",
    "cosine_similarity": "1",
    "alive_features": "features",
    "alive_fraction": "1",
}
_LOGIT_ROWS = 512  # tokens whose logits are held at once


class Sums:
    """Float64 sums of per-token values, position 0 apart from the rest."""

    def __init__(self) -> None:
        self.first: dict = defaultdict(float)
        self.rest: dict = defaultdict(float)

    def add(self, name: object, values: Float[Tensor, "rows pos"]) -> None:
        """Add per-token values and count the tokens."""
        values = values.double()
        for store, part in ((self.first, values[:, :1]), (self.rest, values[:, 1:])):
            store[name] += part.sum().item()
            store[name, "n"] += part.numel()

    def add_vector(self, name: object, values: Float[Tensor, "rows pos d"]) -> None:
        """Add up vectors over tokens."""
        values = values.double()
        self.first[name] = self.first[name] + values[:, 0].sum(dim=0)
        self.rest[name] = self.rest[name] + values[:, 1:].sum(dim=(0, 1))

    def mean(self, name: object, positions: str) -> float:
        """Mean per token over `positions`: first, rest or all; NaN where there is none."""
        stores = {"first": [self.first], "rest": [self.rest], "all": [self.first, self.rest]}[positions]
        return _ratio(sum(s[name] for s in stores), sum(s[name, "n"] for s in stores))

    def vector(self, name: object, positions: str) -> Tensor:
        """Sum of the vectors over `positions`."""
        return {"first": self.first[name], "rest": self.rest[name], "all": self.first[name] + self.rest[name]}[positions]


def token_losses(
    model: Decoder | BridgeModel,
    clean: Float[Tensor, "rows pos d"],
    others: dict[str, Float[Tensor, "rows pos d"]],
    tokens: Int[Tensor, "rows pos"],
) -> dict[str, Float[Tensor, "rows pos"]]:
    """Per-token losses of residuals after the last block.

    Returns `ce_clean` and, for each other residual, `ce_<name>` and `kl_<name>` = KL(clean ‖ other) in nats. Cross entropy is
    that of the next token, so the last position has none and is dropped there.
    """
    rows, pos = tokens.shape
    targets = torch.cat([tokens[:, 1:], tokens[:, :1]], dim=1).flatten()
    flat = {name: resid.flatten(0, 1) for name, resid in {"clean": clean, **others}.items()}
    out: dict[str, list[Tensor]] = defaultdict(list)
    for start in range(0, rows * pos, _LOGIT_ROWS):
        part = slice(start, start + _LOGIT_ROWS)
        reference = model.logits(flat["clean"][part]).log_softmax(dim=-1)
        out["ce_clean"].append(F.nll_loss(reference, targets[part], reduction="none"))
        p = reference.exp()
        for name in others:
            log_q = model.logits(flat[name][part]).log_softmax(dim=-1)
            out[f"ce_{name}"].append(F.nll_loss(log_q, targets[part], reduction="none"))
            out[f"kl_{name}"].append((p * (reference - log_q)).sum(dim=-1))
    losses = {name: torch.cat(parts).view(rows, pos) for name, parts in out.items()}
    return {name: value[:, :-1] if name.startswith("ce_") else value for name, value in losses.items()}


@torch.no_grad()
def evaluate(
    sae: SAE, model: Decoder | BridgeModel, site: Site, rows: Int[np.ndarray, "rows pos"], batch_rows: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Tables `(fidelity, features)` of an SAE at `site`.

    `fidelity`: metric, layer (of `mse`: the site's own, where it is the error at the site, and each later one, where it is that of
    the residual stream before that block; −1 elsewhere), positions (all, first, rest), value, unit, n_tokens.
    `features`: feature, firing_rate (share of tokens with a non-zero activation), mean_activation (when firing), alive.

    Zero ablation replaces the value at the site by zeros. Explained variance is 1 − Σ‖x − x̂‖²/Σ‖x − mean‖² over all tokens; the mean
    of ratios is the paper's: 1 − ‖x − x̂‖²/‖x − batch mean‖² averaged over tokens, so it depends on `batch_rows`.
    """
    n_layers = model.arch.n_layers
    later = {layer: residual_before(layer, n_layers) for layer in range(site.layer + 1, n_layers + 1)}
    sums = Sums()
    fired = torch.zeros(sae.d_sae, dtype=torch.float64)
    activation = torch.zeros(sae.d_sae, dtype=torch.float64)
    for start in range(0, len(rows), batch_rows):
        tokens = torch.from_numpy(rows[start : start + batch_rows].astype(np.int64)).to(model.device)
        values = model.hook_values(tokens, dict.fromkeys([site.name, site.stream]))
        x, stream = values[site.name], values[site.stream]
        output, codes = sae(x)
        clean, clean_at = model.continue_from(site, x, x, stream, capture=later.values())
        new, new_at = model.continue_from(site, output, x, stream, capture=later.values())
        zero, _ = model.continue_from(site, torch.zeros_like(x), x, stream)
        for name, value in token_losses(model, clean, {"sae": new, "zero": zero}, tokens).items():
            sums.add(name, value)
        for layer, at in later.items():
            sums.add(("mse", layer), (new_at[at] - clean_at[at]).square().mean(dim=-1))
        _add_reconstruction(sums, x, output, site.layer)
        sums.add("l0", (codes != 0).sum(dim=-1))
        sums.add("l1", codes.abs().sum(dim=-1))
        fired += (codes != 0).sum(dim=(0, 1)).double().cpu()
        activation += codes.double().sum(dim=(0, 1)).cpu()
    n_tokens = rows.size
    features = pd.DataFrame(
        {
            "feature": np.arange(sae.d_sae),
            "firing_rate": (fired / n_tokens).numpy(),
            "mean_activation": (activation / fired.clamp(min=1)).numpy(),
            "alive": (fired > 0).numpy(),
        }
    )
    return _fidelity_table(sums, [site.layer, *later], rows.shape, features), features


def _add_reconstruction(sums: Sums, x: Tensor, output: Tensor, layer: int) -> None:
    error = (x - output).square().sum(dim=-1)
    size, out_size = x.norm(dim=-1), output.norm(dim=-1)
    spread = (x - x.mean(dim=(0, 1))).square().sum(dim=-1)
    sums.add(("mse", layer), error / x.shape[-1])
    sums.add("error", error)
    sums.add("size2", size.double().square())
    sums.add_vector("x", x)
    sums.add("ratio_of_variances", 1 - error / spread)
    sums.add("l2_ratio", out_size / size)
    sums.add("cosine_similarity", F.cosine_similarity(x, output, dim=-1))


def _fidelity_table(sums: Sums, layers: Iterable[int], shape: tuple[int, int], features: pd.DataFrame) -> pd.DataFrame:
    n_rows, pos = shape
    records = []
    for positions, per_row in (("all", pos), ("first", 1), ("rest", pos - 1)):
        n_tokens = n_rows * per_row
        values = {
            "ce_clean": sums.mean("ce_clean", positions),
            "ce": sums.mean("ce_sae", positions),
            "ce_zero": sums.mean("ce_zero", positions),
            "kl": sums.mean("kl_sae", positions),
            "kl_zero": sums.mean("kl_zero", positions),
            "l0": sums.mean("l0", positions),
            "l1": sums.mean("l1", positions),
            "explained_variance_mean_of_ratios": sums.mean("ratio_of_variances", positions),
            "l2_ratio": sums.mean("l2_ratio", positions),
            "cosine_similarity": sums.mean("cosine_similarity", positions),
        }
        values["ce_increase"] = values["ce"] - values["ce_clean"]
        values["ce_recovered"] = _ratio(values["ce_zero"] - values["ce"], values["ce_zero"] - values["ce_clean"])
        values["kl_recovered"] = _ratio(values["kl_zero"] - values["kl"], values["kl_zero"])
        mean = sums.vector("x", positions) / n_tokens
        variance = sums.mean("size2", positions) - mean.square().sum().item()
        # a variance that rounding alone explains (every row starts with the same token) leaves the ratio undefined
        defined = variance > 1e-6 * sums.mean("size2", positions)
        values["explained_variance"] = 1 - sums.mean("error", positions) / variance if defined else float("nan")
        if positions == "all":
            values["alive_features"] = int(features["alive"].sum())
            values["alive_fraction"] = values["alive_features"] / len(features)
        if not defined:
            values["explained_variance_mean_of_ratios"] = float("nan")
        with_next = n_tokens - (n_rows if positions != "first" or pos == 1 else 0)  # tokens that cross entropy is defined for
        records += [
            (name, -1, positions, value, with_next if name.startswith("ce") else n_tokens) for name, value in values.items()
        ]
        records += [("mse", layer, positions, sums.mean(("mse", layer), positions), n_tokens) for layer in layers]
    table = pd.DataFrame(records, columns=["metric", "layer", "positions", "value", "n_tokens"])
    table.insert(4, "unit", table["metric"].map(UNITS))
    return table


def _ratio(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator else float("nan")
