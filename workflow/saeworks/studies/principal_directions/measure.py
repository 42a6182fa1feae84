"""Principal directions of the activations at a hook point: what the first one is, how SAEs pass them on, what they matter.

In GPT-2 the first direction is that of the outlier at position 0 (Braun et al. 2024, Appendix "PCA direction 0").
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ...lm.bridge import BridgeModel
from ...lm.decoder import Decoder
from ...lm.sites import Site
from ...sae.base import SAE
from ...store.seeds import derive_seed
from ..directions import principal_directions
from ..place import Place
from .settings import PrincipalDirectionsConfig

_LOGIT_ROWS = 512  # tokens whose logits are held at once
# standard deviation, as a share of the activations' norm, that the rounding of float32 models explains
_ROUNDING = 1e-5
_PARTS = {"first": slice(0, 1), "rest": slice(1, None)}


def measure(place: Place, config: PrincipalDirectionsConfig) -> dict[str, pd.DataFrame]:
    """The tables of one hook point; the runs are those selected for similar CE increase."""
    special = place.model_record["special_tokens"]
    text_ends = {special[name] for name in ("bos", "eos") if special[name] is not None}
    saes = {run: place.sae(run) for run in place.selected("similar_ce")}
    rows = place.held_out(config.n_tokens, "studies.principal_directions.n_tokens")
    return study(place.model, place.site, saes, rows, text_ends, config)


class _Moments:
    """Float64 sums from which correlations of paired components follow, position 0 apart from the rest."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor | float] = defaultdict(float)

    def add(self, a: Float[Tensor, "rows pos n"], b: Float[Tensor, "rows pos n"]) -> None:
        for part, place in _PARTS.items():
            one, two = a[:, place].flatten(0, 1), b[:, place].flatten(0, 1)
            self.sums[part] = self.sums[part] + torch.stack([one, two, one * one, two * two, one * two]).sum(dim=1)
            self.sums[part, "n"] += len(one)

    def correlation(self, part: str, smallest: float) -> np.ndarray:
        """Pearson's r per direction; NaN where either side varies by no more than `smallest` (standard deviation)."""
        if not self.sums[part, "n"]:
            return np.full(self.sums[part].shape[1], np.nan)
        a, b, aa, bb, ab = self.sums[part] / self.sums[part, "n"]
        spread_a, spread_b = (aa - a * a).clamp(min=0).sqrt(), (bb - b * b).clamp(min=0).sqrt()
        defined = (spread_a > smallest) & (spread_b > smallest)
        return torch.where(defined, (ab - a * b) / (spread_a * spread_b), torch.nan).cpu().numpy()


@torch.no_grad()
def study(
    model: Decoder | BridgeModel,
    site: Site,
    saes: dict[str, SAE],
    rows: Int[np.ndarray, "rows pos"],
    text_ends: set[int],
    config: PrincipalDirectionsConfig,
) -> dict[str, pd.DataFrame]:
    """The four tables of the activations at `site` on `rows`.

    `pca_components`: direction, variance, variance_share, cosine_first (with the mean activation at position 0).
    `pca_histogram`: component of direction 0 of the tokens at position 0, of `text_ends` elsewhere, and of all others: tokens, low,
    high, count; the bins are the same for the three.
    `pca_correlation`: run, direction, positions (first, rest), r between the components of input and output of the SAE; NaN where the
    input or output does not vary, as at position 0 where every row starts with the same token.
    `pca_ablation`: direction, kl = KL(clean ‖ ablated) and kl_reverse = KL(ablated ‖ clean), which is the paper's, in nats, mean over
    all positions of n_rows rows.
    """
    n = min(config.n_directions, site.d_in)

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        for start in range(0, len(rows), config.batch_rows):
            tokens = torch.from_numpy(rows[start : start + config.batch_rows].astype(np.int64)).to(model.device)
            yield tokens, model.hook_values(tokens, [site.name])[site.name]

    basis = principal_directions(x for _, x in batches())
    moments = {run: _Moments() for run in saes}
    component, ends = [], []
    for tokens, x in batches():
        a = basis.components(x, n)
        component.append(a[..., 0].cpu().numpy())
        ends.append(np.isin(tokens.cpu().numpy(), list(text_ends)))
        for run, sae in saes.items():
            moments[run].add(a, basis.components(sae(x)[0], n))
    share = basis.variance / basis.variance.sum()
    components = {
        "direction": np.arange(n),
        "variance": basis.variance[:n].cpu().numpy(),
        "variance_share": share[:n].cpu().numpy(),
        "cosine_first": basis.cosine_first[:n].cpu().numpy(),
    }
    correlations = [
        (run, direction, part, r)
        for run, sums in moments.items()
        for part in _PARTS
        for direction, r in enumerate(sums.correlation(part, _ROUNDING * basis.size))
    ]
    few = rows[: config.ablation_rows]
    ablated = resample_ablation(model, site, few, basis.directions[:, :n], config)
    return {
        "pca_components": pd.DataFrame(components),
        "pca_histogram": _histogram(np.concatenate(component), np.concatenate(ends), config.bins),
        "pca_correlation": pd.DataFrame(correlations, columns=["run", "direction", "positions", "r"]),
        "pca_ablation": pd.DataFrame(
            {"direction": np.arange(n), "kl": ablated[0].numpy(), "kl_reverse": ablated[1].numpy(), "n_rows": len(few)}
        ),
    }


def _histogram(component: Float[np.ndarray, "rows pos"], ends: Bool[np.ndarray, "rows pos"], bins: int) -> pd.DataFrame:
    first = np.zeros_like(ends)
    first[:, 0] = True
    edges = np.histogram_bin_edges(component, bins)
    parts = []
    for name, chosen in (("position 0", first), ("end of text", ends & ~first), ("other", ~ends & ~first)):
        counts = np.histogram(component[chosen], edges)[0]
        parts.append(pd.DataFrame({"tokens": name, "low": edges[:-1], "high": edges[1:], "count": counts}))
    return pd.concat(parts, ignore_index=True)


@torch.no_grad()
def resample_ablation(
    model: Decoder | BridgeModel,
    site: Site,
    rows: Int[np.ndarray, "rows pos"],
    directions: Float[Tensor, "d n"],
    config: PrincipalDirectionsConfig,
) -> Float[Tensor, "2 n"]:
    """Mean KL(clean ‖ ablated) and KL(ablated ‖ clean) over all tokens, for each direction alone.

    At every position > 0 the component along the direction is exchanged for that of another row and position > 0, drawn by one
    permutation of all of them which is the same for every direction.
    """
    chunks = []
    for start in range(0, len(rows), config.batch_rows):
        tokens = torch.from_numpy(rows[start : start + config.batch_rows].astype(np.int64)).to(model.device)
        values = model.hook_values(tokens, dict.fromkeys([site.name, site.stream]))
        chunks.append((values[site.name], values[site.stream]))
    components = torch.cat([(x[:, 1:].double() @ directions).flatten(0, 1) for x, _ in chunks])
    generator = torch.Generator().manual_seed(derive_seed("resample ablation", config.seed))
    order = torch.randperm(len(components), generator=generator).to(components.device)
    changes = (components[order] - components).view(len(rows), rows.shape[1] - 1, -1)
    sums = torch.zeros(2, directions.shape[1], dtype=torch.float64)
    start = 0
    for x, stream in chunks:
        change = changes[start : start + len(x)]
        start += len(x)
        clean, _ = model.continue_from(site, x, x, stream)
        for j in range(directions.shape[1]):
            moved = x.clone()
            moved[:, 1:] += (change[..., j, None] * directions[:, j]).to(x)
            ablated, _ = model.continue_from(site, moved, x, stream)
            sums[:, j] += _divergences(model, clean, ablated)
    return sums / rows.size


def _divergences(
    model: Decoder | BridgeModel, clean: Float[Tensor, "rows pos d"], ablated: Float[Tensor, "rows pos d"]
) -> Float[Tensor, "2"]:
    """KL(clean ‖ ablated) and KL(ablated ‖ clean), summed over tokens in float64."""
    sums = torch.zeros(2, dtype=torch.float64)
    for one, two in zip(clean.flatten(0, 1).split(_LOGIT_ROWS), ablated.flatten(0, 1).split(_LOGIT_ROWS), strict=True):
        log_p, log_q = (model.logits(resid).log_softmax(dim=-1) for resid in (one, two))
        difference = log_p - log_q
        sums[0] += (log_p.exp() * difference).sum(dim=-1).double().sum().cpu()
        sums[1] -= (log_q.exp() * difference).sum(dim=-1).double().sum().cpu()
    return sums
