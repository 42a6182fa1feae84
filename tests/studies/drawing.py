"""What tests of figures share."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

TWO_LAYERS = ("blocks.2.hook_resid_pre", "blocks.4.hook_resid_pre")


def edit(tables: Path, name: str, change) -> None:
    """Replace a table by what `change` makes of it."""
    path = tables / f"{name}.parquet"
    change(pd.read_parquet(path)).to_parquet(path)


def texts(figure: Figure) -> str:
    """All words of a figure, in one line."""
    return " ".join(" ".join(text.get_text() for text in figure.findobj(Text)).split())


def legend(figure: Figure) -> list[str]:
    """The labels of the figure's legend."""
    return [text.get_text() for text in figure.legends[0].get_texts()]


def pixels(figure: Figure) -> bytes:
    """The picture, coarsely."""
    figure.set_dpi(40)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return bytes(canvas.buffer_rgba())


def assert_nothing_clipped(figure: Figure) -> None:
    """Everything drawn lies on the page, panels with all their labels do not overlap each other, nor the legend."""
    canvas = FigureCanvasAgg(figure)
    figure.draw_without_rendering()  # places all and paints nothing
    boxes = [axes.get_tightbbox(canvas.get_renderer()) for axes in figure.axes]
    boxes += [legend.get_window_extent(canvas.get_renderer()) for legend in figure.legends]
    for i, box in enumerate(boxes):
        assert box.x0 >= -1 and box.x1 <= figure.bbox.x1 + 1 and box.y0 >= -1 and box.y1 <= figure.bbox.y1 + 1
        assert not any(box.padded(-1).overlaps(other) for other in boxes[:i])
