"""The table of training times: medians, slowdown and the paper's values."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from saeworks.studies.draw import drawn
from saeworks.studies.timing import wall_clock
from saeworks.studies.timing.settings import WallClockFigure

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
def draw(tmp_path):
    def of(table: pd.DataFrame, **settings):
        table.to_parquet(tmp_path / "timing.parquet")
        return drawn("wall_clock", tmp_path, WallClockFigure(**settings))

    return of


def lines(figure) -> list[list[str]]:
    """The cells of each line, from the top."""
    found: dict[float, list[str]] = {}
    for text in figure.axes[0].texts:
        found.setdefault(text.get_position()[1], []).append(text.get_text())
    return [found[y] for y in sorted(found)]


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


def test_slowdown_is_against_local_of_the_same_number_of_features_and_tokens(draw):
    short = timing(hooks=HOOKS[1:], local=(10,), finetune=(40,)).query("objective in ('local', 'finetune')")
    short = short.assign(n_tokens=500, tokens_per_second=500 / short["seconds"])
    wide = timing(hooks=HOOKS[1:], e2e=(400,)).query("objective == 'e2e'").assign(d_sae=1024)
    table = wall_clock.summary(pd.concat([short[short["objective"] == "finetune"], timing(hooks=HOOKS[1:]), wide]))
    slowdown = table.set_index(["objective", "d_sae", "n_tokens"])["slowdown"]
    assert slowdown[[("finetune", 512, 500), ("e2e", 1024, 1000)]].isna().all()
    assert slowdown["e2e_ds", 512, 1000] == 4 and slowdown["local", 512, 1000] == 1
    found = lines(draw(pd.concat([timing(hooks=HOOKS[1:]), short, wide])))
    assert found[2:10] == [
        ["512 features, 500 tokens"],
        ["local", "1", "10.0 s", "50", "1.0"],
        ["fine-tuned", "1", "40.0 s", "12", "4.0"],
        ["512 features, 1,000 tokens"],
        ["local", "3", "20.0 s", "50", "1.0"],
        ["e2e", "2", "1.2 min", "16", "3.2"],
        ["e2e+ds", "1", "1.3 min", "12", "4.0"],
        ["1,024 features, 1,000 tokens"],
    ]
    assert found[10] == ["e2e", "1", "6.7 min", "2", "–"]


def test_the_table_has_ours_and_the_paper_s(draw):
    found = lines(draw(timing(hooks=HOOKS[1:])))
    assert found[:5] == [
        [HOOKS[1]],
        ["", "jobs", "wall-clock", "tokens/s", "× local"],
        ["local", "3", "20.0 s", "50", "1.0"],
        ["e2e", "2", "1.2 min", "16", "3.2"],
        ["e2e+ds", "1", "1.3 min", "12", "4.0"],
    ]
    assert found[6] == ["Braun et al. 2024, one A100"]
    assert found[8:11] == [  # Table 6: 3h45, 12h24 and 12h30 for 409.6M tokens
        ["local, layer 2", "", "3 h 45 min", "30,341", "1.0"],
        ["e2e, layer 2", "", "12 h 24 min", "9,176", "3.3"],
        ["e2e+ds, layer 2", "", "12 h 30 min", "9,102", "3.3"],
    ]
    assert len(found) == 17


def test_runs_without_a_time_of_their_own_are_left_out_and_counted(draw):
    table = timing(hooks=HOOKS[1:])
    without = table["objective"] != "local"
    table.loc[without, ["seconds", "tokens_per_second"]] = np.nan
    table.loc[without, "job"] = "together"
    table.loc[table["run"].str.endswith("e2e0"), "job"] = "unknown"
    found = lines(draw(table))
    assert [line[0] for line in found[2:5]] == [
        "local",
        "2 runs were trained together and have no time of their own.",
        "1 runs have no record of their training.",
    ]


def test_without_any_run_the_paper_s_values_remain(draw):
    found = lines(draw(timing().iloc[:0]))
    assert found[:2] == [["This experiment"], ["0 runs have no record of their training."]] and len(found) == 14


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


@pytest.mark.parametrize("width", [5.5, 3.25])
def test_cells_do_not_run_into_each_other_or_off_the_page(draw, width):
    figure = draw(timing(local=(36_000.0, 40_000.0), e2e=(360_000.0,)), width=width)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    boxes = [text.get_window_extent(canvas.get_renderer()) for text in figure.findobj(Text) if text.get_text()]
    for i, box in enumerate(boxes):
        assert box.x0 >= -1 and box.x1 <= figure.bbox.x1 + 1 and box.y0 >= -1 and box.y1 <= figure.bbox.y1 + 1
        assert not any(box.overlaps(other) for other in boxes[:i])
