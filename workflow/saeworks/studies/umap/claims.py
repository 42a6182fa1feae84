"""Claims on regions of a joint UMAP."""

from __future__ import annotations

import math
from pathlib import Path

from ..claim import NOT_SIMILAR, Claim, similar_runs
from ..paper import BRAUN
from ..tables import read_table

_SIGNIFICANT = 0.05


def claims(hook_point: str, tables: Path) -> list[Claim]:
    """Regions of the joint UMAP that belong to one dictionary (Fig. 19). One pair of SAEs is embedded, so there is no interval."""
    points = read_table(tables, "umap", ["first", "second"])[["first", "second"]].drop_duplicates()
    regions = read_table(tables, "umap_regions", ["first", "second", "n_first", "n_second", "p_value"])
    text = f"regions of the joint UMAP of e2e+ds and local that one of them dominates with p < {_SIGNIFICANT}"
    claim = Claim(hook_point, text, "7 (A to G, chosen by eye)", f"{BRAUN}, Fig. 19", 0.0, math.inf)
    runs = similar_runs(tables, hook_point)["run"]
    if not {"e2e_ds", "local"} <= set(runs.index):
        return [claim.untested(NOT_SIMILAR)]
    if not ((points["first"] == runs["e2e_ds"]) & (points["second"] == runs["local"])).any():
        return [claim.untested("too few alive features to embed")]
    here = regions[(regions["first"] == runs["e2e_ds"]) & (regions["second"] == runs["local"])]
    count = int((here["p_value"] < _SIGNIFICANT).sum())
    listed = ", ".join(f"{r.n_first}/{r.n_second} (p = {r.p_value:.2g})" for r in here.itertuples())
    note = f"features of e2e+ds/local: {listed}" if listed else "no region is twice as dense in one as in the other"
    return [claim.untested(f"one pair of SAEs was embedded, so there is no interval over seeds; {note}", count)]
