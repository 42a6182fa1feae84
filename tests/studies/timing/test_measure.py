"""Wall-clock of the training jobs, from the records that Snakemake leaves."""

from __future__ import annotations

import itertools
import math

import pandas as pd
import pytest

from saeworks.store.errors import UserError
from saeworks.studies.timing.measure import timing

HOOK = "blocks.1.hook_resid_pre"
HEADER = "s\th:m:s\tmax_rss\tmax_vms\tmax_uss\tmax_pss\tio_in\tio_out\tmean_load\tcpu_time"


def _runs(*names: str) -> pd.DataFrame:
    kept = {"hook_point": HOOK, "layer": 1, "objective": "local", "architecture": "relu", "d_sae": 9, "n_tokens": 5000}
    return pd.DataFrame({"run": [f"{HOOK}/{name}" for name in names], **kept})


def _record(folder, name: str, seconds: float, cpu: str) -> None:
    path = folder / f"{name}.tsv"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{HEADER}\n{seconds}\t0:00:01\t1\t1\t1\t1\t0\t0\t90\t{cpu}\n")


def test_tokens_per_second_are_those_of_the_run_s_own_job(tmp_path):
    _record(tmp_path / HOOK, "a", 20.0, "18.5")
    _record(tmp_path / HOOK, "b", 4.0, "3.5")
    table = timing(_runs("a", "b"), tmp_path)
    assert table["seconds"].tolist() == [20.0, 4.0] and table["tokens_per_second"].tolist() == [250.0, 1250.0]
    assert set(table["job"]) == {"alone"}


def test_a_run_trained_with_others_has_no_time_of_its_own(tmp_path):
    for case, (cpu, together) in enumerate(
        itertools.product(["0.02", "0", "NA", "-", ""], [f"{HOOK}/together", f"{HOOK}_64/together"])
    ):
        folder = tmp_path / str(case)
        folder.mkdir()
        _record(folder, together, 100.0, "99")
        _record(folder / HOOK, "copied", 0.1, cpu)
        _record(folder / HOOK, "later", 9.0, "8")  # trained alone after that
        table = timing(_runs("copied", "later"), folder)
        assert table["job"].tolist() == ["together", "alone"]
        assert math.isnan(table["seconds"][0]) and math.isnan(table["tokens_per_second"][0]) and table["seconds"][1] == 9.0


def test_a_run_without_a_record_is_there_without_a_time(tmp_path):
    table = timing(_runs("a"), tmp_path)
    assert table["job"].tolist() == ["unknown"] and table[["seconds", "tokens_per_second"]].isna().all(axis=None)


def test_a_damaged_record_is_one_sentence(tmp_path):
    for case, text in enumerate(["", "s\n", "time\n3\n", f"{HEADER}\nmany\t0\t0\t0\t0\t0\t0\t0\t0\tfew\n"]):
        folder = tmp_path / str(case)
        folder.mkdir()
        (folder / HOOK).mkdir(parents=True)
        (folder / HOOK / "a.tsv").write_text(text)
        with pytest.raises(UserError, match=r"a\.tsv is not a benchmark record") as caught:
            timing(_runs("a"), folder)
        assert "\n" not in str(caught.value)
