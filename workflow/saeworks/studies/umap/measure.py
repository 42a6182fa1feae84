"""Two dictionaries in one plane by UMAP, and the regions of it that belong to one of them more than to the other.

After Braun et al. 2024 (Fig. 19 to 21), whose regions were boxes drawn by hand.
"""

from __future__ import annotations

import json
import string
from collections.abc import Callable

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import KDTree

from ...lm.bridge import BridgeModel
from ...lm.decoder import Decoder
from ...lm.sites import Site
from ...sae.base import SAE
from ...store.seeds import derive_seed
from ..directions import principal_directions
from ..place import Place
from .settings import UmapConfig

_FEWEST = 10  # points that are worth an embedding
_RARE = 5  # tokens seen less often are no top tokens


def measure(place: Place, config: UmapConfig) -> dict[str, pd.DataFrame]:
    """The tables of one hook point; the runs are those selected for similar CE increase."""
    features, runs = place.table("features"), place.runs
    pairs = pairs_with_local(runs[runs["run"].isin(place.selected("similar_ce"))])
    used = list(dict.fromkeys(run for pair in pairs for run in pair))
    saes = {run: place.sae(run) for run in used}
    alive = {run: np.sort(features.loc[(features["run"] == run) & features["alive"], "feature"].to_numpy()) for run in used}
    rows = place.held_out(config.n_tokens, "studies.umap.n_tokens")
    return study(place.model, place.site, pairs, saes, alive, rows, lambda token: place.tokenizer.decode([token]), config)


def embed(directions: Float[np.ndarray, "n d"], config: UmapConfig) -> Float[np.ndarray, "n 2"]:
    """UMAP of the rows in two dimensions, euclidean, on one thread so that a seed fixes it."""
    from umap import UMAP  # slow import

    neighbours = min(config.n_neighbors, len(directions) - 1)
    mapper = UMAP(n_neighbors=neighbours, min_dist=config.min_dist, random_state=config.seed, n_jobs=1)
    return mapper.fit_transform(directions.astype(np.float32)).astype(np.float64)


def nearest_points(points: Float[np.ndarray, "n 2"], k: int) -> Int[np.ndarray, "n k"]:
    """The `k` nearest other points of each, or all if there are fewer."""
    k = min(k, len(points) - 1)
    found = KDTree(points).query(points, k + 1)[1]
    itself = found == np.arange(len(points))[:, None]
    itself[~itself.any(axis=1), -1] = True  # among more than k equal points the point itself may be missing
    return found[~itself].reshape(len(points), k)


def density_ratio(of_first: Bool[np.ndarray, " n"], neighbours: Int[np.ndarray, "n k"]) -> Float[np.ndarray, " n"]:
    """Density of the first dictionary over that of the second around each point, each as a share of its dictionary.

    With a and b of the neighbours in the two, of n_a and n_b points: ((a + ½) / (b + ½)) / (n_a / n_b).
    """
    a = of_first[neighbours].sum(axis=1)
    return ((a + 0.5) / (neighbours.shape[1] - a + 0.5)) / (of_first.sum() / (~of_first).sum())


def regions(
    of_first: Bool[np.ndarray, " n"], neighbours: Int[np.ndarray, "n k"], config: UmapConfig
) -> tuple[Int[np.ndarray, " n"], list[float]]:
    """Number of the region that each point belongs to, by falling size, −1 for none; and each region's p-value.

    A region is a connected component of the points around which one of the dictionaries is at least `density_ratio` times as dense as
    the other; points of either dictionary, one of them a neighbour of the other, are connected. The p-value is the share of random
    assignments of the points to the two dictionaries whose largest region is at least as large, the actual one counted among them.
    """
    component, sizes = _components(of_first, neighbours, config)
    kept = [c for c in np.argsort(-sizes, kind="stable")[: config.n_regions] if sizes[c] >= config.min_features]
    numbers = np.full(len(sizes) + 1, -1)
    numbers[kept] = np.arange(len(kept))
    generator = np.random.default_rng(derive_seed("shuffled dictionaries", config.seed))
    shuffles = range(config.n_shuffles if kept else 0)
    largest = np.array([_components(generator.permutation(of_first), neighbours, config)[1].max(initial=0) for _ in shuffles])
    return numbers[component], [(1 + int((largest >= sizes[c]).sum())) / (1 + config.n_shuffles) for c in kept]


def _components(
    of_first: Bool[np.ndarray, " n"], neighbours: Int[np.ndarray, "n k"], config: UmapConfig
) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " m"]]:
    """The connected component of each point, −1 where no dictionary dominates, and the components' sizes."""
    ratio = density_ratio(of_first, neighbours)
    side = np.select([ratio >= config.density_ratio, ratio <= 1 / config.density_ratio], [1, -1], 0)
    (points,) = np.nonzero(side)
    number = np.full(len(side), -1)
    number[points] = np.arange(len(points))
    rows = np.repeat(np.arange(len(points)), neighbours.shape[1])
    columns = neighbours[points].ravel()
    linked = side[points][rows] == side[columns]
    links = (np.ones(linked.sum()), (rows[linked], number[columns[linked]]))
    component = np.full(len(side), -1)
    component[points] = (
        connected_components(coo_matrix(links, shape=(len(points),) * 2), directed=False)[1] if len(points) else []
    )
    return component, np.bincount(component[points])


def _letters(number: int) -> str:
    """0 -> A, 25 -> Z, 26 -> AA."""
    first, last = divmod(number, 26)
    return (_letters(first - 1) if first else "") + string.ascii_uppercase[last]


@torch.no_grad()
def top_tokens(
    model: Decoder | BridgeModel,
    site: Site,
    members: list[list[tuple[SAE, Int[np.ndarray, " m"]]]],
    rows: Int[np.ndarray, "rows pos"],
    config: UmapConfig,
) -> list[list[int]]:
    """Per region the tokens on which its features have the largest mean activation, of those that come `_RARE` times or more.

    `members`: per region the features of each SAE. A token on which they never fire is none.
    """
    saes = list({id(sae): sae for region in members for sae, _ in region}.values())
    chosen = [torch.zeros(sae.d_sae, len(members), device=model.device) for sae in saes]
    for number, region in enumerate(members):
        for sae, features in region:
            chosen[[id(s) for s in saes].index(id(sae))][features, number] = 1
    sums = torch.zeros(model.arch.d_vocab, len(members), dtype=torch.float64, device=model.device)
    for start in range(0, len(rows), config.batch_rows):
        tokens = torch.from_numpy(rows[start : start + config.batch_rows].astype(np.int64)).to(model.device)
        x = model.hook_values(tokens, [site.name])[site.name]
        for sae, columns in zip(saes, chosen, strict=True):
            sums.index_add_(0, tokens.flatten(), (sae.encode(x).flatten(0, 1) @ columns.to(x)).double())
    seen = np.bincount(rows.ravel(), minlength=model.arch.d_vocab)
    means = sums.cpu().numpy() / np.maximum(seen, 1)[:, None]
    means[seen < _RARE] = 0
    best = np.argsort(-means, axis=0, kind="stable")[: config.top_tokens]
    return [[int(token) for token in best[:, number] if means[token, number] > 0] for number in range(len(members))]


@torch.no_grad()
def study(
    model: Decoder | BridgeModel,
    site: Site,
    pairs: list[tuple[str, str]],
    saes: dict[str, SAE],
    alive: dict[str, Int[np.ndarray, " n"]],
    rows: Int[np.ndarray, "rows pos"],
    decode: Callable[[int], str],
    config: UmapConfig,
) -> dict[str, pd.DataFrame]:
    """The two tables of a hook point, for `pairs` of runs `(first, second)` that are embedded together, in that order.

    `umap`: first, second, run, feature, x, y, region (empty: none), cosine_pca0 (with the first principal direction of the
    activations on `rows`).
    `umap_regions`: first, second, region, dominated_by (run), n_first, n_second (features of each), p_value, x, y (their
    median), top_tokens (JSON list).
    """

    def batches():
        for start in range(0, len(rows), config.batch_rows):
            tokens = torch.from_numpy(rows[start : start + config.batch_rows].astype(np.int64)).to(model.device)
            yield model.hook_values(tokens, [site.name])[site.name]

    direction = principal_directions(batches()).directions[:, 0]
    points, described = [], []
    members: list[list[tuple[SAE, np.ndarray]]] = []
    for first, second in pairs:
        if not len(alive[first]) or not len(alive[second]) or len(alive[first]) + len(alive[second]) < _FEWEST:
            continue
        units = {
            run: torch.nn.functional.normalize(saes[run].dictionary()[alive[run]].double(), dim=1) for run in (first, second)
        }
        stacked = torch.cat([units[first], units[second]])
        place = embed(stacked.cpu().numpy(), config)
        of_first = np.arange(len(place)) < len(alive[first])
        neighbours = nearest_points(place, config.region_neighbors)
        numbers, p_values = regions(of_first, neighbours, config)
        features = np.concatenate([alive[first], alive[second]])
        frame = {
            "first": first,
            "second": second,
            "run": np.where(of_first, first, second),
            "feature": features,
            "x": place[:, 0],
            "y": place[:, 1],
            "region": [_letters(n) if n >= 0 else "" for n in numbers],
            "cosine_pca0": (stacked @ direction.to(stacked)).cpu().numpy(),
        }
        points.append(pd.DataFrame(frame))
        ratio = density_ratio(of_first, neighbours)
        for n, p_value in enumerate(p_values):
            inside = numbers == n
            x, y = np.median(place[inside], axis=0)
            described.append(
                {
                    "first": first,
                    "second": second,
                    "region": _letters(n),
                    "dominated_by": first if ratio[inside][0] > 1 else second,
                    "n_first": int((inside & of_first).sum()),
                    "n_second": int((inside & ~of_first).sum()),
                    "p_value": p_value,
                    "x": x,
                    "y": y,
                }
            )
            members.append([(saes[first], features[inside & of_first]), (saes[second], features[inside & ~of_first])])
    tokens = top_tokens(model, site, members, rows, config)
    texts = [json.dumps([decode(token) for token in ids], ensure_ascii=False) for ids in tokens]
    return {
        "umap": pd.concat(points, ignore_index=True) if points else pd.DataFrame(),
        "umap_regions": pd.DataFrame([row | {"top_tokens": text} for row, text in zip(described, texts, strict=True)]),
    }


def pairs_with_local(runs: pd.DataFrame) -> list[tuple[str, str]]:
    """`(run, local run)` of one architecture, e2e+ds before e2e, of the chosen `runs` of a hook point."""
    local = runs[runs["objective"] == "local"].set_index("architecture")["run"]
    found = []
    for objective in ("e2e_ds", "e2e"):
        for row in runs[runs["objective"] == objective].itertuples():
            if row.architecture in local.index:
                found.append((row.run, local[row.architecture]))
    return found
