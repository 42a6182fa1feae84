"""Runs a notebook with papermill and exports it with nbconvert, so that equal tables and figures give equal bytes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import nbformat
from jinja2 import DictLoader
from nbclient.exceptions import DeadKernelError
from nbconvert import HTMLExporter
from nbformat import NotebookNode
from papermill import execute_notebook
from papermill.exceptions import PapermillExecutionError

from ..store.errors import UserError, did_you_mean
from ..store.files import atomic_path
from ..store.notebooks import notebook_path

_KERNEL = "python3"
# The usual look without the scripts that a browser would fetch from elsewhere: the page must read the same with no network.
_TEMPLATE = """
{%- extends 'lab/index.html.j2' -%}
{%- block html_head_js -%}{%- endblock -%}
{%- block html_head_js_mathjax -%}{%- endblock -%}
{%- block html_head_js_mermaidjs -%}{%- endblock -%}
{%- block html_head_css -%}
<style type="text/css">
main { max-width: 72rem; margin: 0 auto; }
.jp-RenderedHTMLCommon table.dataframe { display: block; overflow-x: auto; }
.jp-RenderedHTMLCommon table.dataframe td { white-space: nowrap; }
.jp-RenderedHTMLCommon table.dataframe :is(th, td):first-child { text-align: left; }
</style>
{%- endblock -%}
{%- block data_png -%}
<div class="jp-RenderedImage jp-OutputArea-output">
<img src="data:image/png;base64,{{ output.data['image/png'] | escape_html }}"
  alt="{{ output | get_metadata('alt', 'image/png') | escape_html }}"
  width="{{ output | get_metadata('width', 'image/png') | escape_html }}">
</div>
{%- endblock -%}
"""


def notebook(
    name: str, tables: str, figures: str, experiment: str, out_ipynb: str, out_html: str, drawn: list[str] | None = None
) -> None:
    """Execute a notebook on the tables and figures of an experiment, and export it as one HTML file.

    Args:
        name: notebook of workflow/notebooks
        tables: folder of tables
        figures: folder of figures
        experiment: experiment name
        out_ipynb: the executed notebook
        out_html: the same as a page that needs no other file
        drawn: names of the figures and display tables that the experiment has, if any

    Raises:
        UserError: there is no such notebook, a file or folder is missing, or a cell fails.
    """
    known = sorted(path.stem for path in notebook_path(name).parent.glob("*.ipynb"))
    if name not in known:
        raise UserError(f"there is no notebook {name!r}{did_you_mean(name, known)}; there are {', '.join(known)}.")
    run_notebook(notebook_path(name), tables, figures, drawn or [], experiment, out_ipynb, out_html)


def run_notebook(
    source: str | Path, tables: str, figures: str, drawn: list[str], experiment: str, out_ipynb: str, out_html: str
) -> None:
    """`notebook` for the notebook file `source`. Paths in the working directory are passed relative to it, and so enter the output."""
    for path in (source, tables, figures):
        if not Path(path).exists():
            raise UserError(f"{path} is missing; run the stage that makes it, or fetch it with `dvc pull`.")
    parameters = {"experiment": experiment, "tables": _relative(tables), "figures": _relative(figures), "drawn": drawn}
    executed = _execute(source, parameters)
    _strip(executed, parameters)
    html, _ = HTMLExporter(
        extra_loaders=[DictLoader({"saeworks.html.j2": _TEMPLATE})], template_file="saeworks.html.j2"
    ).from_notebook_node(executed)
    with atomic_path(out_ipynb) as partial:
        nbformat.write(executed, partial)
    with atomic_path(out_html) as partial:
        partial.write_text(html, encoding="utf-8")


def _relative(path: str) -> str:
    return Path(os.path.relpath(path)).as_posix()


def _execute(source: str | Path, parameters: dict[str, Any]) -> NotebookNode:
    try:
        return execute_notebook(
            source,
            None,
            parameters,
            kernel_name=_KERNEL,
            language="python",
            progress_bar=False,
            shutdown_kernel="immediate",  # else it logs that it was interrupted
        )
    except PapermillExecutionError as error:
        reason = " ".join(f"{error.ename}: {error.evalue}".split())
        raise UserError(f"notebook {source} failed in cell {error.exec_count}: {reason}") from None
    except (DeadKernelError, RuntimeError) as error:
        raise UserError(f"the kernel of notebook {source} did not start or died ({error}); run it again.") from None


def _strip(notebook: NotebookNode, parameters: dict[str, Any]) -> None:
    """Remove what differs between two equal runs: times, random ids, paths and the interpreter's version."""
    notebook.metadata = NotebookNode(
        kernelspec={"display_name": "Python 3", "language": "python", "name": _KERNEL},
        language_info={"name": "python", "file_extension": ".py", "mimetype": "text/x-python", "pygments_lexer": "ipython3"},
        papermill={"parameters": parameters},
        title=f"{parameters['experiment']} — saeworks",
    )
    for cell in notebook.cells:
        if "injected-parameters" in cell.metadata.get("tags", []):
            cell.id = "injected-parameters"
        for key in ("papermill", "execution"):
            cell.metadata.pop(key, None)
