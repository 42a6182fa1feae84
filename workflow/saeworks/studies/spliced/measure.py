"""Several SAEs in the model at once: each reads what the model makes of the outputs of those before it."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...lm.bridge import BridgeModel
from ...lm.decoder import Decoder
from ...lm.several import continue_through, in_order
from ...lm.sites import Site
from ...sae.base import SAE
from ...store.errors import UserError
from ...store.files import read_json
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
    records, members = [], []
    for number, hook_points in enumerate(config.sets or []):
        sites = in_order(hook_points, place.model.arch, f"studies.spliced.sets.{number}")
        named = runs[runs["hook_point"].isin(hook_points)].groupby("name", sort=False)
        complete = {name: alike for name, alike in named if set(alike["hook_point"]) == set(hook_points)}
        if not complete:
            raise UserError(f"`studies.spliced.sets.{number}` names hook points at which no run of the same name is; correct it.")
        for name, alike in complete.items():
            saes = [place.sae(f"{hook_point}/{name}") for hook_point in hook_points]
            of_set, each = evaluate_set(place.model, sites, saes, rows, config.batch_rows)
            which = {"hook_points": " + ".join(hook_points), "name": name}
            of_run = alike.iloc[0][_OF_RUN].to_dict()
            trained = _trained(place, f"{hook_points[0]}/{name}", hook_points)
            records.append({**which, "n_saes": len(saes), "trained": trained, **of_run, **of_set})
            members += [{**which, "hook_point": at, **of_sae} for at, of_sae in zip(hook_points, each, strict=True)]
    return {
        "spliced": pd.DataFrame(records).astype({"sparsity_coeff": "float64", "k": "Int64"}),
        "spliced_saes": pd.DataFrame(members),
    }


def _trained(place: Place, run: str, hook_points: list[str]) -> str:
    """How a run of a set was trained: `alone`, `together` with the others, or in `another set`."""
    joint = read_json(place.folder(run) / "manifest.json")["spec"].get("spliced")
    return "alone" if joint is None else "together" if set(joint) == set(hook_points) else "another set"


@torch.no_grad()
def evaluate_set(
    model: Decoder | BridgeModel, sites: list[Site], saes: list[SAE], rows: Int[np.ndarray, "rows pos"], batch_rows: int
) -> tuple[dict[str, float], list[dict[str, float]]]:
    """Increase of the cross-entropy and KL divergence with all SAEs, and the sum of the increases with each alone; and of each SAE
    that increase, and L0 in the set and alone."""
    sums = Sums()
    for start in range(0, len(rows), batch_rows):
        tokens = torch.from_numpy(rows[start : start + batch_rows].astype(np.int64)).to(model.device)
        values = model.hook_values(tokens, dict.fromkeys(name for site in sites for name in (site.name, site.stream)))
        x, stream = values[sites[0].name], values[sites[0].stream]
        clean, _ = model.continue_from(sites[0], x, x, stream)
        with_all, fired = spliced(model, sites, saes, values)
        others = {"set": with_all}
        for i, (site, sae) in enumerate(zip(sites, saes, strict=True)):
            others[str(i)], (alone,) = spliced(model, [site], [sae], values)
            sums.add(("l0_set", i), fired[i])
            sums.add(("l0_alone", i), alone)
        for name, value in token_losses(model, clean, others, tokens).items():
            sums.add(name, value)
    clean_ce = sums.mean("ce_clean", "all")
    together = sums.mean("ce_set", "all") - clean_ce
    each = [
        {
            "ce_increase_alone": sums.mean(f"ce_{i}", "all") - clean_ce,
            **{name: sums.mean((name, i), "all") for name in ("l0_set", "l0_alone")},
        }
        for i in range(len(sites))
    ]
    alone = sum(sae["ce_increase_alone"] for sae in each)
    of_set = {
        "ce_increase": together,
        "kl": sums.mean("kl_set", "all"),
        "sum_of_single": alone,
        "ratio": together / alone if alone > 0 else float("nan"),
        "n_tokens": rows.size,
    }
    return of_set, each


def spliced(
    model: Decoder | BridgeModel, sites: list[Site], saes: list[SAE], values: dict[str, Tensor]
) -> tuple[Float[Tensor, "rows pos d_model"], list[Int[Tensor, "rows pos"]]]:
    """The residual after the last block with all SAEs, from the clean `values` at the first; and the active features of each."""
    fired = []

    def output(number: int, x: Tensor) -> Tensor:
        reconstruction, codes = saes[number](x)
        fired.append((codes != 0).sum(dim=-1))
        return reconstruction

    return continue_through(model, sites, output, values[sites[0].name], values[sites[0].stream])[0], fired
