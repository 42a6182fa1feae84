"""Runs a notebook with papermill and exports it, so that equal tables and figures give equal bytes."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape as html_escape
from pathlib import Path
from typing import Any

import nbformat
from ipykernel.kernelspec import get_kernel_dict
from jinja2 import DictLoader
from jupyter_client import AsyncKernelManager
from jupyter_core.paths import jupyter_runtime_dir
from nbclient.exceptions import DeadKernelError
from nbconvert import HTMLExporter
from nbformat import NotebookNode
from papermill import execute_notebook
from papermill.exceptions import PapermillExecutionError
from traitlets import default
from zmq import IPC_PATH_MAX_LEN, ZMQError

from ..store.errors import UserError
from ..store.files import atomic_path
from ..store.provenance import notebook_path

_KERNEL = "python3"
_ATTEMPTS = 3
# The usual look without the scripts that a browser would fetch from elsewhere: the page must read the same with no network.
_TEMPLATE = """
{%- extends 'lab/index.html.j2' -%}
{%- block html_head_js -%}{%- endblock -%}
{%- block html_head_js_mathjax -%}{%- endblock -%}
{%- block html_head_js_mermaidjs -%}{%- endblock -%}
{%- block html_head_css -%}
<style type="text/css">
main { max-width: 72rem; margin: 0 auto; }
.jp-RenderedHTMLCommon table { display: block; overflow-x: auto; }
.jp-RenderedHTMLCommon th:first-child, .jp-RenderedHTMLCommon td:first-child { text-align: left; }
.jp-RenderedHTMLCommon table.words td, .jp-RenderedHTMLCommon table.words th { text-align: left; vertical-align: top; }
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


def _socket() -> str:
    return str(Path(jupyter_runtime_dir()) / "socket")


class _FileSockets(AsyncKernelManager):
    """Talks to the kernel through socket files: no port that two notebooks could both pick, nothing that others can listen to."""

    @default("transport")
    def _sockets(self) -> str:
        return "ipc"

    @default("ip")
    def _folder(self) -> str:
        return _socket()


def run_notebook(
    source: str, tables: str, figures: str, experiment: str, out_ipynb: str, out_html: str, drawn: list[str] | None = None
) -> None:
    """Execute notebook `source` on the folders `tables` and `figures`; write it to `out_ipynb`, and as one file to `out_html`.

    The HTML holds the figures; the notebook links those in the folder `figures`.

    Args:
        drawn: names of the figures that the experiment has; by default those in the folder.

    Folders inside the working directory are passed relative to it, so no path of this computer enters the output.

    Raises:
        UserError: a file or folder is missing, or a cell fails.
    """
    for path in (source, tables, figures):
        if not Path(path).exists():
            raise UserError(f"{path} is missing; run the stage that makes it, or fetch it with `dvc pull`.")
    drawn = sorted(path.stem for path in Path(figures).glob("*.png")) if drawn is None else drawn
    parameters = {"experiment": experiment, "tables": _relative(tables), "figures": _relative(figures), "drawn": drawn}
    notebook = _execute(source, parameters)
    _strip(notebook, parameters)
    exporter = HTMLExporter(
        embed_images=True, extra_loaders=[DictLoader({"saeworks.html.j2": _TEMPLATE})], template_file="saeworks.html.j2"
    )
    html, _ = exporter.from_notebook_node(notebook)
    _link_figures(notebook, Path(os.path.relpath(figures, Path(out_ipynb).parent)).as_posix())
    with atomic_path(out_ipynb) as partial:
        nbformat.write(notebook, partial)
    with atomic_path(out_html) as partial:
        partial.write_text(html, encoding="utf-8")


def notebook(name: str, tables: str, figures: str, drawn: str, experiment: str, out_ipynb: str, out_html: str) -> None:
    """Run a notebook on the tables and figures of an experiment.

    Args:
        name: notebook of workflow/notebooks
        tables: folder of tables
        figures: folder of figures
        drawn: names of the figures that the experiment has, comma-separated
        experiment: experiment name
        out_ipynb: executed notebook
        out_html: the same as HTML
    """
    run_notebook(str(notebook_path(name)), tables, figures, experiment, out_ipynb, out_html, drawn.split(","))


def _relative(path: str) -> str:
    return Path(os.path.relpath(path)).as_posix()


def _execute(source: str, parameters: dict[str, Any]) -> NotebookNode:
    with _own_kernel():
        # The system limits the path of a socket file; it ends in "-" and a number.
        manager = _FileSockets if len(os.fsencode(_socket())) + 3 < (IPC_PATH_MAX_LEN or 0) else AsyncKernelManager
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return execute_notebook(
                    source,
                    None,
                    parameters,
                    kernel_name=_KERNEL,
                    language="python",
                    progress_bar=False,
                    cwd=os.getcwd(),
                    kernel_manager_class=manager,
                    shutdown_kernel="immediate",
                )
            except PapermillExecutionError as error:
                reason = " ".join(f"{error.ename}: {error.evalue}".split())
                raise UserError(f"notebook {source} failed in cell {error.exec_count}: {reason}") from None
            except (DeadKernelError, ZMQError, RuntimeError) as error:
                # Over TCP, two kernels that start together can pick the same port; the next attempt draws new ones.
                if attempt == _ATTEMPTS:
                    raise UserError(f"the kernel of notebook {source} did not start or died ({error}); run it again.") from None
    raise AssertionError("unreachable")


@contextmanager
def _own_kernel() -> Iterator[None]:
    """Make the kernel this interpreter with this package, whatever kernels and profiles the user has installed."""
    package_home = str(Path(__file__).resolve().parents[2])
    folder = tempfile.mkdtemp(prefix="saeworks-kernel-")
    environment = {
        "PYTHONPATH": os.pathsep.join(filter(None, [package_home, os.environ.get("PYTHONPATH")])),
        "IPYTHONDIR": str(Path(folder) / "ipython"),
        "PYTHONWARNINGS": "ignore",  # warnings name files of this computer
    }
    spec = get_kernel_dict() | {"env": environment}  # its command is this interpreter
    kernel = Path(folder) / "kernels" / _KERNEL
    kernel.mkdir(parents=True)
    for name in ("runtime", "ipython"):
        (Path(folder) / name).mkdir(mode=0o700)
    (kernel / "kernel.json").write_text(json.dumps(spec))
    changes = {
        "JUPYTER_PATH": os.pathsep.join(filter(None, [folder, os.environ.get("JUPYTER_PATH")])),
        "JUPYTER_RUNTIME_DIR": str(Path(folder) / "runtime"),
        "JUPYTER_PLATFORM_DIRS": "1",
    }
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
        shutil.rmtree(folder, ignore_errors=True)


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


def _link_figures(notebook: NotebookNode, figures: str) -> None:
    """Replace the images of figures by links to their files in the folder `figures`."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            image = output.get("metadata", {}).get("image/png", {})
            if "figure" in image:
                link = f'<img src="{figures}/{image["figure"]}" alt="{html_escape(image["alt"])}" width="{image["width"]}">'
                output.data, output.metadata = NotebookNode({"text/html": link}), NotebookNode()
