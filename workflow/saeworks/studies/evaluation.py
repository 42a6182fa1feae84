"""How faithfully an SAE stands in for what it rebuilds: loss, divergence, reconstruction, sparsity; on rows of tokens."""

from __future__ import annotations

from collections import defaultdict

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
from ..store.seeds import derive_seed

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
    "explained_variance_swapped": "1",
    "explained_variance_ln": "1",
    "explained_variance_ln_mean_of_ratios": "1",
    "explained_variance_ln_swapped": "1",
    "mse": "activation²",
    "l2_ratio": "1",
    "cosine_similarity": "1",
    "cosine_similarity_random_pairs": "1",
    "alive_features": "features",
    "alive_fraction": "1",
}
_LOGIT_ROWS = 512  # tokens whose logits are held at once
_LN_EPS = 1e-5  # as in the authors' code


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
        self.first[name] = self.first[name] + values[:, 0].sum(dim=0, dtype=torch.float64)
        self.rest[name] = self.rest[name] + values[:, 1:].sum(dim=(0, 1), dtype=torch.float64)

    def mean(self, name: object, positions: str) -> float:
        """Mean per token over `positions`: first, rest or all; NaN where there is none."""
        stores = {"first": [self.first], "rest": [self.rest], "all": [self.first, self.rest]}[positions]
        return _ratio(sum(s[name] for s in stores), sum(s[name, "n"] for s in stores))

    def vector(self, name: object, positions: str) -> Tensor:
        """Sum of the vectors over `positions`."""
        return {"first": self.first[name], "rest": self.rest[name], "all": self.first[name] + self.rest[name]}[positions]


def sampled_tokens(n_rows: int, n_positions: int, n: int) -> Int[np.ndarray, " tokens"]:
    """Indices into the flattened rows, ascending: `n` tokens after the first position and a tenth as many at it, if there are."""
    rng = np.random.default_rng(derive_seed("evaluation", "tokens"))
    first = rng.choice(n_rows, min(-(-n // 10), n_rows), replace=False) * n_positions
    later = rng.choice(n_rows * (n_positions - 1), min(n, n_rows * (n_positions - 1)), replace=False)
    row, position = np.divmod(later, max(1, n_positions - 1))
    return np.sort(np.concatenate([first, row * n_positions + position + 1]))


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
    sae: SAE,
    model: Decoder | BridgeModel,
    site: Site,
    rows: Int[np.ndarray, "rows pos"],
    batch_rows: int,
    sample_tokens: int = 0,
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Tables `(fidelity, features, tokens)` of an SAE at `site`.

    `fidelity`: metric, layer (of `mse` and the explained variances: the site's own, where they compare its value with the SAE's
    output, and each later one, where they compare the residual stream before that block; −1 elsewhere), positions (all, first,
    rest), value, unit, n_tokens.
    `features`: feature, firing_rate (share of tokens with a non-zero activation), mean_activation (when firing), alive.
    `tokens`: position, input_norm, output_norm and cosine of the two, of `sampled_tokens`, the same whatever the SAE.

    Zero ablation replaces the value at the site by zeros. Explained variance is 1 − Σ‖x − x̂‖²/Σ‖x − mean‖² over all tokens; the mean
    of ratios is the paper's: 1 − ‖x − x̂‖²/‖x − batch mean‖² averaged over tokens, so it depends on `batch_rows`. `_ln` are those of
    values standardised token by token, without affine. `_swapped` exists at the site alone and is the mean of ratios with x and x̂
    exchanged, as in the authors' code there. Both unswapped raw ones at the site are also under layer −1.

    `cosine_similarity_random_pairs` is the mean over all pairs of an input and the output at any token.
    """
    n_layers = model.arch.n_layers
    later = {layer: residual_before(layer, n_layers) for layer in range(site.layer + 1, n_layers + 1)}
    sums = Sums()
    fired, activation = torch.zeros(2, sae.d_sae, dtype=torch.float64, device=model.device)
    picked, norms = sampled_tokens(*rows.shape, sample_tokens), []
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
            _add_errors(sums, layer, new_at[at], clean_at[at])
        lengths = _add_reconstruction(sums, x, output, site.layer)
        inside = picked[
            np.searchsorted(picked, start * rows.shape[1]) : np.searchsorted(picked, start * rows.shape[1] + tokens.numel())
        ]
        norms.append(lengths.flatten(0, 1)[torch.from_numpy(inside - start * rows.shape[1]).to(lengths.device)].float().cpu())
        _add_sparsity(sums, codes, fired, activation)
    n_tokens = rows.size
    features = pd.DataFrame(
        {
            "feature": np.arange(sae.d_sae),
            "firing_rate": (fired / n_tokens).cpu().numpy(),
            "mean_activation": (activation / fired.clamp(min=1)).cpu().numpy(),
            "alive": (fired > 0).cpu().numpy(),
        }
    )
    sample = pd.DataFrame(torch.cat(norms).numpy(), columns=["input_norm", "output_norm", "cosine"])
    sample.insert(0, "position", (picked % rows.shape[1]).astype(np.int32))
    return _fidelity_table(sums, [site.layer, *later], rows.shape, features), features, sample


def _standardised(values: Float[Tensor, "rows pos d"]) -> Float[Tensor, "rows pos d"]:
    return F.layer_norm(values, values.shape[-1:], eps=_LN_EPS)


def _add_errors(sums: Sums, layer: int, new: Float[Tensor, "rows pos d"], clean: Float[Tensor, "rows pos d"]) -> None:
    """Add error and explained variance of `new` against `clean`, as they are and standardised."""
    error = _add_variance(sums, (layer, ""), new, clean)
    sums.add(("mse", layer), error / new.shape[-1])
    _add_variance(sums, (layer, "_ln"), _standardised(new), _standardised(clean))


def _add_variance(
    sums: Sums, key: object, new: Float[Tensor, "rows pos d"], clean: Float[Tensor, "rows pos d"]
) -> Float[Tensor, "rows pos"]:
    """Add what `_explained_variance` reads under `key`, and return the squared errors."""
    error = (new - clean).square().sum(dim=-1)
    sums.add(("error", key), error)
    sums.add(("size2", key), clean.norm(dim=-1).double().square())
    sums.add_vector(("sum", key), clean)
    sums.add(("ratio", key), 1 - error / (clean - clean.mean(dim=(0, 1))).square().sum(dim=-1))
    return error


def _explained_variance(sums: Sums, key: object, positions: str, n_tokens: int) -> tuple[float, float]:
    """`(ratio of sums, mean of ratios)`; NaN where rounding alone explains the variance (all rows start with the same token)."""
    size2 = sums.mean(("size2", key), positions)
    mean = sums.vector(("sum", key), positions) / n_tokens
    variance = size2 - mean.square().sum().item()
    if not variance > 1e-6 * size2:
        return float("nan"), float("nan")
    return 1 - sums.mean(("error", key), positions) / variance, sums.mean(("ratio", key), positions)


def _add_reconstruction(sums: Sums, x: Tensor, output: Tensor, layer: int) -> Float[Tensor, "rows pos 3"]:
    """Add what compares the SAE's output with its input, and return the norm of each and their cosine."""
    _add_errors(sums, layer, output, x)
    for kind, new, clean in (("", output, x), ("_ln", _standardised(output), _standardised(x))):
        _add_variance(sums, ("swapped", kind), clean, new)
    size, out_size = x.norm(dim=-1), output.norm(dim=-1)
    cosine = F.cosine_similarity(x, output, dim=-1)
    sums.add("l2_ratio", out_size / size)
    sums.add("cosine_similarity", cosine)
    sums.add_vector("input direction", F.normalize(x, dim=-1))
    sums.add_vector("output direction", F.normalize(output, dim=-1))
    return torch.stack([size, out_size, cosine], dim=-1)


def _add_sparsity(
    sums: Sums, codes: Float[Tensor, "rows pos d_sae"], fired: Float[Tensor, " d_sae"], activation: Float[Tensor, " d_sae"]
) -> None:
    """Add L0 and L1 to `sums`, each feature's firing tokens to `fired` and the sum of its activations to `activation`.

    Row by row, since PyTorch copies what it sums in another type.
    """
    l0, l1 = [], []
    for row in codes:
        active = row != 0
        l0.append(active.sum(dim=-1))
        l1.append(row.abs().sum(dim=-1))
        fired += active.sum(dim=0)
        activation += row.sum(dim=0, dtype=torch.float64)
    sums.add("l0", torch.stack(l0))
    sums.add("l1", torch.stack(l1))


def _fidelity_table(sums: Sums, layers: list[int], shape: tuple[int, int], features: pd.DataFrame) -> pd.DataFrame:
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
            "l2_ratio": sums.mean("l2_ratio", positions),
            "cosine_similarity": sums.mean("cosine_similarity", positions),
        }
        values["ce_increase"] = values["ce"] - values["ce_clean"]
        values["ce_recovered"] = _ratio(values["ce_zero"] - values["ce"], values["ce_zero"] - values["ce_clean"])
        values["kl_recovered"] = _ratio(values["kl_zero"] - values["kl"], values["kl_zero"])
        directions = [sums.vector(f"{side} direction", positions) / n_tokens for side in ("input", "output")]
        values["cosine_similarity_random_pairs"] = torch.dot(*directions).item()
        by_layer = {("mse", layer): sums.mean(("mse", layer), positions) for layer in layers}
        for kind in ("", "_ln"):
            for layer in layers:
                whole, ratios = _explained_variance(sums, (layer, kind), positions, n_tokens)
                by_layer[f"explained_variance{kind}", layer] = whole
                by_layer[f"explained_variance{kind}_mean_of_ratios", layer] = ratios
            swapped = _explained_variance(sums, ("swapped", kind), positions, n_tokens)[1]
            by_layer[f"explained_variance{kind}_swapped", layers[0]] = swapped
        for name in ("explained_variance", "explained_variance_mean_of_ratios"):
            values[name] = by_layer[name, layers[0]]
        if positions == "all":
            values["alive_features"] = int(features["alive"].sum())
            values["alive_fraction"] = values["alive_features"] / len(features)
        with_next = n_tokens - (n_rows if positions != "first" or pos == 1 else 0)  # tokens that cross entropy is defined for
        records += [
            (name, -1, positions, value, with_next if name.startswith("ce") else n_tokens) for name, value in values.items()
        ]
        records += [(name, layer, positions, value, n_tokens) for (name, layer), value in by_layer.items()]
    table = pd.DataFrame(records, columns=["metric", "layer", "positions", "value", "n_tokens"])
    table.insert(4, "unit", table["metric"].map(UNITS))
    return table


def _ratio(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator else float("nan")
