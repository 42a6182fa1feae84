"""Every figure, found by its study's folder: it draws, clips nothing, redraws to equal bytes and says why where it is empty."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, get_args, get_origin

import pandas as pd
import pytest
from matplotlib.figure import Figure
from tests.studies.drawing import TWO_LAYERS, assert_nothing_clipped, edit, pixels, texts
from tests.studies.made_up import every_table

from saeworks.config.figures import FigureStyle
from saeworks.config.objectives import OBJECTIVES
from saeworks.store.errors import UserError
from saeworks.studies import figures, studies
from saeworks.studies.draw import drawn, figure

PICTURES = [name for name, (_, style) in figures().items() if issubclass(style, FigureStyle)]
ALL = ("local", "e2e", "e2e_ds", "finetune")
# a page's width and experiments that need room in different ways
MADE_UP = {
    "three seeds, two hook points": (3.25, {"hook_points": TWO_LAYERS, "seeds": (0, 1, 2)}),
    "one seed, all objectives": (3.25, {"objectives": ALL, "seeds": (3,)}),
    "two architectures": (5.5, {"objectives": ("local", "e2e"), "architectures": ("relu", "jumprelu")}),
}
# where a small change would leave the picture of the made-up tables as it is
OTHER = {"tokens": 3, "significance": 0.5, "lowest": 0.2, "decimals": 3, "scale": "log", "bins": 7, "confidence": 0.4}
AN_ABSENCE = re.compile(r"\b(No|no|not|0 runs)\b")


def draw(name: str, tables: Path, **settings: Any) -> Figure:
    return drawn(name, tables, figures()[name][1](**settings))


@pytest.fixture(scope="session")
def made_up(tmp_path_factory) -> dict[str, Path]:
    """Folders of made-up tables by the experiment's name (read only)."""
    folder = tmp_path_factory.mktemp("made_up")
    return {name: every_table(folder / str(i), **settings) for i, (name, (_, settings)) in enumerate(MADE_UP.items())}


@pytest.mark.parametrize("name", PICTURES)
def test_it_draws_and_clips_nothing(experiment, made_up, name):
    study, style = figures()[name]
    picture = draw(name, experiment.tables_of(study))
    assert len(picture.findobj()) > 50, "hardly anything is drawn"
    assert_nothing_clipped(picture)
    for folder, (width, _) in zip(made_up.values(), MADE_UP.values(), strict=True):
        if all((folder / f"{table}.parquet").exists() for table in style.reads):
            picture = draw(name, folder, width=width)
            assert picture.get_size_inches()[0] == width
            assert_nothing_clipped(picture)


def test_without_rows_each_says_why(tmp_path):
    for study in studies().values():
        for table, declared in study.tables.items():
            pd.DataFrame(columns=list(declared.columns)).to_parquet(tmp_path / f"{table}.parquet")
    for name in PICTURES:
        picture = draw(name, tmp_path)
        assert AN_ABSENCE.search(texts(picture)), (name, texts(picture))
        assert_nothing_clipped(picture)


@pytest.mark.slow
@pytest.mark.parametrize("name", PICTURES)
def test_a_redraw_gives_equal_bytes_and_every_setting_another_picture(made_up, experiment, tmp_path, name):
    study, style = figures()[name]
    folder = made_up["three seeds, two hook points"]
    if not all((folder / f"{table}.parquet").exists() for table in style.reads) or study.name == "sweeps":
        folder = experiment.tables_of(study)
    for copy in ("first", "second"):
        figure(name, json.dumps({"dpi": 60}), str(folder), str(tmp_path / copy / name))
    assert sorted(path.name for path in (tmp_path / "first").iterdir()) == [f"{name}.png", f"{name}.svg"]
    for path in (tmp_path / "first").iterdir():
        assert path.read_bytes() == (tmp_path / "second" / path.name).read_bytes()
        assert b"matplotlib.org" not in path.read_bytes()  # nor a date or version
    plain = pixels(draw(name, folder))
    for key in style.model_fields.keys() - {"dpi"}:  # which is that of the file
        assert pixels(draw(name, folder, **{key: _other(style, key)})) != plain, key


def _other(style: type[FigureStyle], key: str) -> Any:
    """Another value of a setting than its default."""
    field, default = style.model_fields[key], style.model_fields[key].default
    if key == "colors":
        return dict.fromkeys(default or OBJECTIVES, "red")
    if key in OTHER:
        return OTHER[key]
    if get_origin(field.annotation) is not None:
        return next(option for option in get_args(field.annotation) if option != default)
    return default + 3 if isinstance(default, int) else 1.4 * default


def test_the_resolution_is_that_of_the_file(experiment, tmp_path):
    for dpi in (50, 60):
        figure("pareto", json.dumps({"dpi": dpi}), str(experiment.tables), str(tmp_path / str(dpi)))
    assert (tmp_path / "50.png").read_bytes() != (tmp_path / "60.png").read_bytes()


def test_a_wrong_name_or_setting_is_one_sentence(experiment, tmp_path):
    for call, message in [
        ({"name": "paretto"}, "there is no figure 'paretto' (did you mean 'pareto'?); there are "),
        ({"spec": '{"colours": {}}'}, "unknown configuration key `figures.pareto.colours` (did you mean 'colors'?)."),
        ({"spec": '{"dpi": 0}'}, "configuration key `figures.pareto.dpi` is 0: "),
        (
            {"spec": '{"colors": {"local": "no colour"}}'},
            "configuration key `figures.pareto.colors.local` is 'no colour': matplotlib knows no such colour",
        ),
        (
            {"spec": '{"x_scale": "cubic"}'},
            "configuration key `figures.pareto.x_scale` is 'cubic'; it must be one of linear, log.",
        ),
    ]:
        usual = {"name": "pareto", "spec": "{}", "tables": str(experiment.tables), "out": str(tmp_path / "pareto")} | call
        with pytest.raises(UserError) as caught:
            figure(usual.pop("name"), **usual)
        assert str(caught.value).startswith(message) and "\n" not in str(caught.value)
        assert not list(tmp_path.iterdir())


def test_unfit_tables_are_one_sentence(make_tables):
    unfit = [
        (lambda folder: (folder / "runs.parquet").unlink(), "runs.parquet is missing; fetch it with"),
        (lambda folder: (folder / "runs.parquet").write_text("text"), "runs.parquet cannot be read"),
        (lambda folder: edit(folder, "fidelity", lambda t: t.drop(columns="layer")), "fidelity.parquet has no column `layer`"),
        (
            lambda folder: edit(folder, "runs", lambda t: t.assign(objective="magic")),
            f"has runs of objective `magic`, which is none of {', '.join(OBJECTIVES)}; delete it",
        ),
    ]
    for case, (change, message) in enumerate(unfit):
        tables = make_tables(str(case))
        change(tables)
        with pytest.raises(UserError) as caught:
            draw("pareto", tables)
        assert message in str(caught.value) and "\n" not in str(caught.value)


def test_an_architecture_without_a_name_for_people_is_drawn_under_its_own(make_tables):
    tables = make_tables(architectures=("relu", "topk"))
    edit(tables, "runs", lambda t: t.assign(architecture=t["architecture"].replace("topk", "spline")))
    assert "local, spline" in texts(draw("pareto", tables))
