"""The pipeline on a real model of somebody else's."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from .conftest import REPOSITORY, snakemake

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def tables(shared, tmp_path_factory):
    folder = tmp_path_factory.mktemp("stories260k")
    (folder / "shared").symlink_to(shared)
    snakemake(folder, config=REPOSITORY / "tests" / "stories260k" / "config.yaml")
    return folder / "results" / "stories260k" / "tables"


def _table(tables) -> pd.DataFrame:
    fidelity = pd.read_parquet(tables / "fidelity.parquet").query("positions == 'all' and layer == -1")
    wide = fidelity.pivot(index="run", columns="metric", values="value")
    return pd.read_parquet(tables / "runs.parquet").set_index("run").join(wide)


def test_every_sae_is_finite_and_better_than_zero_ablation(tables):
    table = _table(tables)
    assert len(table) == 12
    assert np.isfinite(table[["kl", "ce_increase", "l0", "explained_variance"]].to_numpy()).all()
    assert (table["kl"] < table["kl_zero"]).all()
    assert (table["ce"] < table["ce_zero"]).all()
    assert table["ce_clean"].between(1.2, 1.7).all()


def test_e2e_reaches_a_lower_kl_at_its_l0_than_local_at_comparable_l0(tables):
    table = _table(tables)
    local = table[table["objective"] == "local"].sort_values("l0")
    inside = 0
    for run in table[table["objective"] == "e2e"].itertuples():
        if local["l0"].min() <= run.l0 <= local["l0"].max():
            inside += 1
            # between two local runs on logarithmic axes: a straight line would lie above their convex frontier
            assert np.log(run.kl) < np.interp(np.log(run.l0), np.log(local["l0"]), np.log(local["kl"]))
    assert inside >= 2


def test_errors_of_saes_trained_on_the_output_do_less_than_random_ones_beside_those_of_local(tables):
    tokens = pd.read_parquet(tables / "errors.parquet").query("position > 0")
    kl = tokens.groupby("run")[[name for name in tokens if name.startswith("kl_")]].mean()
    objective = pd.read_parquet(tables / "runs.parquet").set_index("run")["objective"][kl.index]
    ratio = kl["kl_sae"] / kl["kl_random"]
    assert len(kl) == 12 and ratio[objective == "e2e"].max() < ratio[objective == "local"].min()
    chosen = kl.dropna(subset="kl_on_unread")
    assert set(objective[chosen.index]) == {"local", "e2e", "e2e_ds"}
    assert np.isfinite(chosen.drop(columns="kl_other_seed").to_numpy()).all()
    assert (chosen["kl_on_unread"] < chosen["kl_off_unread"]).all()
    assert (tables.parent / "notebooks" / "gurnee2024.html").is_file()
