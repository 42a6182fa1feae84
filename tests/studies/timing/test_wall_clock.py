"""The table of training times: medians, slowdown and the paper's values."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from tests.studies.shown import rows

from saeworks.studies.display import DisplayTable
from saeworks.studies.timing import wall_clock
from saeworks.studies.timing.settings import WallClockTable

HOOKS = ("blocks.2.hook_resid_pre", "blocks.4.hook_resid_pre")
SECONDS = {"local": (10, 20, 60), "e2e": (90, 50), "e2e_ds": (80,)}


def timing(hooks=HOOKS, **seconds) -> pd.DataFrame:
    rows = [
        (f"{hook}/{objective}{i}", hook, int(hook.split(".")[1]), objective, "relu", 512, 1000, "alone", s, 1000 / s)
        for hook in hooks
        for objective, values in (SECONDS | seconds).items()
        for i, s in enumerate(values)
    ]
    columns = [
        "run",
        "hook_point",
        "layer",
        "objective",
        "architecture",
        "d_sae",
        "n_tokens",
        "job",
        "seconds",
        "tokens_per_second",
    ]
    return pd.DataFrame(rows, columns=columns)


@pytest.fixture
def shown(tmp_path):
    def of(table: pd.DataFrame) -> DisplayTable:
        table.to_parquet(tmp_path / "timing.parquet")
        return wall_clock.table(tmp_path, WallClockTable())

    return of


def test_medians_and_slowdown_by_place_and_objective():
    table = wall_clock.summary(timing()).set_index(["hook_point", "objective"])
    assert table.loc[HOOKS[0], "jobs"].to_dict() == {"local": 3, "e2e": 2, "e2e_ds": 1}
    assert table.loc[HOOKS[1], "seconds"].to_dict() == {"local": 20, "e2e": 70, "e2e_ds": 80}
    assert table.loc[(HOOKS[0], "e2e"), "tokens_per_second"] == pytest.approx((1000 / 90 + 1000 / 50) / 2)
    assert table.loc[(HOOKS[0], "e2e"), "slowdown"] == pytest.approx(50 / ((1000 / 90 + 1000 / 50) / 2))
    assert (table.xs("local", level="objective")["slowdown"] == 1).all()


def test_slowdown_is_against_local_of_the_same_architecture_and_place():
    table = timing()
    table.loc[table["objective"] == "local", "architecture"] = "topk"
    assert wall_clock.summary(table).set_index("objective")["slowdown"].drop("local").isna().all()


def test_slowdown_is_against_local_of_the_same_number_of_features_and_tokens(shown):
    short = timing(hooks=HOOKS[1:], local=(10,), finetune=(40,)).query("objective in ('local', 'finetune')")
    short = short.assign(n_tokens=500, tokens_per_second=500 / short["seconds"])
    wide = timing(hooks=HOOKS[1:], e2e=(400,)).query("objective == 'e2e'").assign(d_sae=1024)
    table = wall_clock.summary(pd.concat([short[short["objective"] == "finetune"], timing(hooks=HOOKS[1:]), wide]))
    slowdown = table.set_index(["objective", "d_sae", "n_tokens"])["slowdown"]
    assert slowdown[[("finetune", 512, 500), ("e2e", 1024, 1000)]].isna().all()
    assert slowdown["e2e_ds", 512, 1000] == 4 and slowdown["local", 512, 1000] == 1
    found = rows(shown(pd.concat([timing(hooks=HOOKS[1:]), short, wide])))
    assert found[:6] == [
        [f"{HOOKS[1]}, 512 features, 500 tokens", "local", "1", "10.0 s", "50", "1.0"],
        [f"{HOOKS[1]}, 512 features, 500 tokens", "fine-tuned", "1", "40.0 s", "12", "4.0"],
        [f"{HOOKS[1]}, 512 features, 1,000 tokens", "local", "3", "20.0 s", "50", "1.0"],
        [f"{HOOKS[1]}, 512 features, 1,000 tokens", "e2e", "2", "1.2 min", "16", "3.2"],
        [f"{HOOKS[1]}, 512 features, 1,000 tokens", "e2e+ds", "1", "1.3 min", "12", "4.0"],
        [f"{HOOKS[1]}, 1,024 features, 1,000 tokens", "e2e", "1", "6.7 min", "2", "–"],
    ]


def test_the_table_has_ours_and_the_paper_s(shown):
    table = shown(timing(hooks=HOOKS[1:]))
    assert list(table.cells.columns) == ["jobs", "wall-clock", "tokens/s", "× local"] and not table.notes
    assert rows(table)[:6] == [
        [HOOKS[1], "local", "3", "20.0 s", "50", "1.0"],
        [HOOKS[1], "e2e", "2", "1.2 min", "16", "3.2"],
        [HOOKS[1], "e2e+ds", "1", "1.3 min", "12", "4.0"],
        # Table 6: 3h45, 12h24 and 12h30 for 409.6M tokens
        ["Braun et al. 2024, layer 2", "local", "", "3 h 45 min", "30,341", "1.0"],
        ["Braun et al. 2024, layer 2", "e2e", "", "12 h 24 min", "9,176", "3.3"],
        ["Braun et al. 2024, layer 2", "e2e+ds", "", "12 h 30 min", "9,102", "3.3"],
    ]
    assert len(rows(table)) == 3 + 9


def test_runs_without_a_time_of_their_own_are_left_out_and_counted(shown):
    table = timing(hooks=HOOKS[1:])
    without = table["objective"] != "local"
    table.loc[without, ["seconds", "tokens_per_second"]] = np.nan
    table.loc[without, "job"] = "together"
    table.loc[table["run"].str.endswith("e2e0"), "job"] = "unknown"
    found = shown(table)
    assert [row[1] for row in rows(found) if row[0] == HOOKS[1]] == ["local"]
    assert found.notes == (
        "2 runs were trained together with others: such a job has no time of one run.",
        "1 run was trained without a record of the time.",
    )


def test_without_any_run_the_paper_s_values_remain(shown):
    found = shown(timing().iloc[:0])
    assert found.notes == ("There are no runs.",) and len(rows(found)) == 9


def test_durations():
    for seconds, text in [
        (3.14, "3.1 s"),
        (60, "1.0 min"),
        (3599, "60.0 min"),
        (3600, "1 h 00 min"),
        (7199, "2 h 00 min"),
        (40_800, "11 h 20 min"),
    ]:
        assert wall_clock.duration(seconds) == text
