"""Several SAEs in the model at once: each reads what the model makes of the outputs of those before it."""

from __future__ import annotations

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
from ..evaluation import Sums, token_losses
from ..place import Place
from .settings import SplicedConfig

_OF_RUN = ["objective", "architecture", "sparsity_coeff", "k", "seed"]


def measure(place: Place, config: SplicedConfig) -> dict[str, pd.DataFrame]:
    """The table of all sets.

    Raises:
        UserError: a set is not in the order of the forward pass, or no run is at all of its hook points.
    """
    rows = place.held_out(config.n_tokens, "studies.spliced.n_tokens")
    runs = place.table("runs")
    runs = runs.assign(name=runs["run"].str.rsplit("/", n=1).str[-1])
    records = []
    for number, hook_points in enumerate(config.sets or []):
        sites = in_order(place.model, hook_points, f"studies.spliced.sets.{number}")
        named = runs[runs["hook_point"].isin(hook_points)].groupby("name", sort=False)
        complete = {name: alike for name, alike in named if set(alike["hook_point"]) == set(hook_points)}
        if not complete:
            raise UserError(f"`studies.spliced.sets.{number}` names hook points at which no run of the same name is; correct it.")
        for name, alike in complete.items():
            saes = [place.sae(f"{hook_point}/{name}") for hook_point in hook_points]
            losses = evaluate_set(place.model, sites, saes, rows, config.batch_rows)
            of_run = alike.iloc[0][_OF_RUN].to_dict()
            records.append({"hook_points": " + ".join(hook_points), "n_saes": len(saes), "name": name, **of_run, **losses})
    table = pd.DataFrame(records)
    return {"spliced": table.astype({"sparsity_coeff": "float64", "k": "Int64"}) if len(table) else table}


def in_order(model: Decoder | BridgeModel, hook_points: list[str], key: str) -> list[Site]:
    """The sites of a set.

    Raises:
        UserError: one is not downstream of the one before it; `key` is the setting that names them.
    """
    sites = [Site.parse(name, model.arch) for name in hook_points]
    for before, after in zip(sites, sites[1:], strict=False):
        if not {after.canonical(model.arch), _stream(after, model)} <= set(before.downstream(model.arch)):
            raise UserError(
                f"`{key}` has {after.name} after {before.name}, which does not depend on it; list them in the order of the model."
            )
    return sites


def _stream(site: Site, model: Decoder | BridgeModel) -> str:
    return Site.parse(site.stream, model.arch).canonical(model.arch)


@torch.no_grad()
def evaluate_set(
    model: Decoder | BridgeModel, sites: list[Site], saes: list[SAE], rows: Int[np.ndarray, "rows pos"], batch_rows: int
) -> dict[str, float]:
    """Increase of the cross-entropy and KL divergence with all SAEs, and the sum of the increases with each alone."""
    sums = Sums()
    for start in range(0, len(rows), batch_rows):
        tokens = torch.from_numpy(rows[start : start + batch_rows].astype(np.int64)).to(model.device)
        values = model.hook_values(tokens, dict.fromkeys(name for site in sites for name in (site.name, site.stream)))
        x, stream = values[sites[0].name], values[sites[0].stream]
        clean, _ = model.continue_from(sites[0], x, x, stream)
        others = {"set": spliced(model, sites, saes, x, stream)}
        for i, (site, sae) in enumerate(zip(sites, saes, strict=True)):
            others[str(i)] = spliced(model, [site], [sae], values[site.name], values[site.stream])
        for name, value in token_losses(model, clean, others, tokens).items():
            sums.add(name, value)
    clean_ce = sums.mean("ce_clean", "all")
    together = sums.mean("ce_set", "all") - clean_ce
    alone = sum(sums.mean(f"ce_{i}", "all") - clean_ce for i in range(len(sites)))
    return {
        "ce_increase": together,
        "kl": sums.mean("kl_set", "all"),
        "sum_of_single": alone,
        "ratio": together / alone if alone > 0 else float("nan"),
        "n_tokens": rows.size,
    }


def spliced(
    model: Decoder | BridgeModel,
    sites: list[Site],
    saes: list[SAE],
    x: Float[Tensor, "rows pos d_in"],
    stream: Float[Tensor, "rows pos d_model"],
) -> Float[Tensor, "rows pos d_model"]:
    """The residual after the last block with all SAEs; `x` and `stream` are the clean values at the first site."""
    for number, (site, sae) in enumerate(zip(sites, saes, strict=True)):
        after = sites[number + 1 : number + 2]
        names = [name for later in after for name in (later.canonical(model.arch), _stream(later, model))]
        last, values = model.continue_from(site, sae(x)[0], x, stream, capture=dict.fromkeys(names))
        if after:
            x, stream = (values[name] for name in names)
    return last
