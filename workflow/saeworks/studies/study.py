"""What a study declares of itself; everything else about it follows from this and from its folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ..config.base import Frozen
from ..config.figures import Exhibit


@dataclass(frozen=True)
class Column:
    """What a column of a table holds; `unit` is empty where it has none."""

    meaning: str
    unit: str = ""


@dataclass(frozen=True)
class Table:
    """A table of a study: its columns in their order.

    `long`: a row for each feature or token, for programs, so without a CSV beside the Parquet file.
    `streamed`: a long one that may not fit into memory: it is written and joined some rows at a time.
    """

    description: str
    columns: Mapping[str, Column]
    long: bool = False
    streamed: bool = False

    def files(self, name: str) -> list[str]:
        """Files of this table of the whole experiment, which is called `name`."""
        return [f"{name}.parquet"] if self.long else [f"{name}.parquet", f"{name}.csv"]


@dataclass(frozen=True)
class Study:
    """A question asked of an experiment: what it measures, where, from what, and the figures that show it.

    Args:
        title: a few words for headings.
        description: one or two sentences.
        scope: what it is measured on, one at a time: a `run`, the runs of a `hook_point`, or the `experiment`.
        tables: what it writes, by name; a table of several runs or hook points begins with the column `run` or `hook_point`.
        figures: the settings of its figures and display tables, by name; each is made by the module of that name in its folder:
            `draw(tables, config)` gives the matplotlib figure, `table(tables, config)` the `DisplayTable`.
        settings: its block under `studies` in the experiment file, if it has one.
        needs: of `model`, `corpus`, `saes`, what it reads besides tables; `seeds`: it compares runs that differ in their seed alone.
        reads: tables of other studies that it is measured from.
        files: further files that it reads, from its settings.
        given: whether the experiment asks for it, from its settings.
        always: an experiment has it even if none of its figures is drawn.
        wall_clock: its tables differ each time they are made: they and its figures are kept in results/<experiment>/timing.
        notebook: name of a notebook of its own, which has its figures in the place of that of all studies.
        order: place among the studies in lists, figures and claims; of equal ones the names decide.
        name: that of its folder, filled in when it is found.
    """

    title: str
    description: str
    scope: Literal["run", "hook_point", "experiment"]
    tables: Mapping[str, Table] = field(default_factory=dict)
    figures: Mapping[str, type[Exhibit]] = field(default_factory=dict)
    settings: type[Frozen] | None = None
    needs: frozenset[str] = frozenset()
    reads: tuple[str, ...] = ()
    files: Callable[[Any], list[str]] = lambda settings: []
    given: Callable[[Any], bool] = lambda settings: True
    always: bool = False
    wall_clock: bool = False
    notebook: str = ""
    order: int = 1000
    name: str = ""
