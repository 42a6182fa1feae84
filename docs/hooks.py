"""What the site takes from the code and the results when it is built.

A line `<!-- saeworks: name argument -->` in a page is replaced by what the function `name` below returns, in Markdown. The
tutorial's page is made from its notebook as it is stored: nothing is executed, and nothing needs a network.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath
from typing import Any

import nbformat
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from nbconvert import MarkdownExporter

from saeworks.cli.application import application
from saeworks.cli.commands import COMMANDS
from saeworks.config.objectives import OBJECTIVES
from saeworks.studies import caption, studies
from saeworks.studies.claims import markdown, summary
from saeworks.studies.display import fragment
from saeworks.studies.tables import read_table

ROOT = Path(__file__).resolve().parents[1]
_MARKER = re.compile(r"^<!-- saeworks: (\w+)(?: (\S+))? -->$", re.MULTILINE)
_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\((?!https?:|#)([^)\s]+)\)|(!\[[^\]]*\])\((?!https?:)([^)\s]+)\)")
# pages that stand elsewhere in the repository
_PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "guides/contributing.md",
    "config/README.md": "reference/configuration.md",
    "docs/tutorial.ipynb": "tutorial.md",
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the page of the tutorial, and its pictures, from the stored outputs of the notebook."""
    notebook = nbformat.read(ROOT / "docs" / "tutorial.ipynb", as_version=4)
    text, resources = MarkdownExporter().from_notebook_node(notebook, {"output_files_dir": "tutorial_files"})
    files.append(File.generated(config, "tutorial.md", content=text))
    for name, content in resources["outputs"].items():
        files.append(File.generated(config, name, content=content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Replace every marker of a page."""

    def replaced(marker: re.Match[str]) -> str:
        name, argument = marker.groups()
        if name not in _CONTENTS:
            raise PluginError(
                f"{page.file.src_uri} asks for `{name}`, which docs/hooks.py does not make; it makes {', '.join(_CONTENTS)}."
            )
        if name == "include":
            return include(argument, page.file.src_uri)
        return _CONTENTS[name](argument) if argument else _CONTENTS[name]()

    # written pages link to the notebook, so that the links work in the repository too
    return _MARKER.sub(replaced, markdown.replace("tutorial.ipynb)", "tutorial.md)"))


def include(path: str, onto: str) -> str:
    """The Markdown file `path` of the repository for the page `onto`: links lead to pages, or are text where there is no page."""
    source = PurePosixPath(path)

    def mended(link: re.Match[str]) -> str:
        text, target, picture, file = link.groups()
        address, hash_, place = (target or file).partition("#")
        resolved = _normal(source.parent / address)
        page = _PAGES.get(resolved) or (resolved.removeprefix("docs/") if resolved.startswith("docs/") else None)
        if page is None:
            return text if text.startswith("`") else f"`{resolved}`" if text == resolved else f"{text} (`{resolved}`)"
        return f"{picture or f'[{text}]'}({'../' * onto.count('/')}{page}{hash_}{place})"

    return re.sub(r"\A<!--.*?-->\s*", "", _LINK.sub(mended, (ROOT / path).read_text(encoding="utf-8")))


def commands() -> str:
    """Every command of the program with its options, those for people first."""
    found = application().commands
    parts = []
    for heading, stage in (("For people", False), ("Stages", True)):
        parts.append(f"## {heading}\n")
        for name in (name for name, command in COMMANDS.items() if command.stage is stage):
            rows = [_option(parameter) for parameter in found[name].params]
            options = _table(["Option", "Meaning", "Default"], rows) if rows else ""
            parts += [f"### `saeworks {name}`\n", f"{found[name].help}\n", options]
    return "\n".join(parts)


def _option(parameter: Any) -> tuple[str, str, str]:
    """How an option is written, its meaning and its default."""
    written = parameter.name.upper() if parameter.param_type_name == "argument" else ", ".join(parameter.opts)
    default = (
        "required" if parameter.required else f"`{parameter.default}`" if parameter.default not in (None, False, (), []) else ""
    )
    return f"`{written}`", parameter.help or "", default


def tables() -> str:
    """Every table of every study: what a row is, and each column's meaning and unit."""
    parts = []
    for study in studies().values():
        if not study.tables:
            continue
        parts.append(f"## {study.title}\n\n{study.description}\n")
        for table, about in study.tables.items():
            files = ", ".join(f"`{file}`" for file in about.files(table))
            rows = [(f"`{column}`", c.meaning, c.unit) for column, c in about.columns.items()]
            parts.append(f"### `{table}`\n\n{about.description}\n\nFiles: {files}\n")
            parts.append(_table(["Column", "Meaning", "Unit"], rows))
    return "\n".join(parts)


def conventions() -> str:
    """What holds for all figures: the list of the report's front page."""
    text = (ROOT / "workflow" / "report" / "workflow.rst").read_text(encoding="utf-8")
    return _markdown(text[text.index("\n* ") :])


def _markdown(rst: str) -> str:
    return rst.replace("``", "`")


def figures() -> str:
    """Every figure and display table by study: its label, its files and its caption."""
    parts = []
    for study in studies().values():
        if not study.figures:
            continue
        parts.append(f"## {study.title}\n")
        for name, settings in study.figures.items():
            files = ", ".join(f"`{name}.{kind}`" for kind in settings.kinds)
            parts.append(f"### `{name}`\n\n**{settings.label}.** {_markdown(caption(name))}\n\nFiles: {files}\n")
    return "\n".join(parts)


def architectures() -> str:
    """The classes of each architecture, without their methods: one file each, whose docstring has its formula."""
    folder = ROOT / "workflow" / "saeworks" / "sae" / "architectures"
    names = sorted(path.stem for path in folder.glob("*.py") if path.stem != "__init__")
    only_classes = "{filters: ['!^[a-z_]', '!^[A-Z_]+$', '!^Options$'], heading_level: 3}"
    return "\n\n".join(f"::: saeworks.sae.architectures.{name}\n    options: {only_classes}" for name in names)


def objectives() -> str:
    """Every objective: what it means, and its loss terms with their weights and the keys that set them."""
    rows = []
    for name, objective in OBJECTIVES.items():
        terms = [f"{t.weight:g} × `{t.name}`" + (f" (`{t.setting}`)" if t.setting else "") for t in objective.terms]
        rows.append((f"`{name}`", objective.meaning, ", ".join(terms)))
    return _table(["Objective", "Meaning", "Loss terms: default weight × term (key)"], rows)


def claims(experiment: str) -> str:
    """The papers' claims beside what an experiment shows, as `saeworks claims` prints them."""
    path = f"results/{experiment}/tables/claims.parquet"
    if not (ROOT / path).exists():
        return _missing(path)
    table = read_table(ROOT / "results" / experiment / "tables", "claims")
    return f"{summary(table)}\n\n{markdown(table)}\n"


def display(table: str) -> str:
    """A display table, `<experiment>/<name>`."""
    experiment, name = table.split("/")
    path = f"results/{experiment}/figures/{name}.html"
    return fragment(ROOT / path) if (ROOT / path).exists() else _missing(path)


def _missing(path: str) -> str:
    return (
        f"!!! note\n    This build lacks a table: `{path}` is missing. `dvc pull` fetches it if it is stored, the command of this section"
        " makes it; then `make docs` shows it here.\n"
    )


def training_speed(threads: str) -> str:
    """Tokens per second of a training step, by library and case, from the stored benchmark."""
    stored = json.loads((ROOT / "results" / "benchmarks" / "training.json").read_text(encoding="utf-8"))
    cells: dict[str, dict[str, str]] = {}
    for result in stored["results"]:
        if result["threads"] == int(threads):
            ratio = "" if result["library"] == "saeworks" else f"\u00a0({result['saeworks_times_as_fast']:.1f})"
            cells.setdefault(result["library"], {})[result["case"]] = f"{result['tokens_per_s']:,.0f}{ratio}"
    versions = {r["library"]: _version(r["versions"]) for r in stored["results"]}
    rows = [[_versioned(library, versions[library]), *(of.get(case, "–") for case in _CASES)] for library, of in cells.items()]
    size = stored["setting"]
    about = (
        f"d_in {size['d_in']}, {size['d_sae']:,} features, batch {size['batch']:,}, L0 {size['k']} (TopK) and {size['relu_gated_l0']} (ReLU, Gated),"
        f" {stored['rounds']} rounds."
    )
    return f"{about}\n\n{_table(['', *_CASES.values()], rows)}"


def _version(versions: dict[str, str]) -> str:
    """The version of a library, given those that its process reported; nothing for torch alone or saeworks itself."""
    return next((version for name, version in versions.items() if name not in ("torch", "saeworks")), "")


def _versioned(library: str, version: str) -> str:
    name, *variant = library.split(", ")
    return ", ".join([f"{name} {version}".strip(), *variant])


def _table(heads: list[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


def _normal(path: PurePosixPath) -> str:
    parts: list[str] = []
    for part in path.parts:
        if part == "..":
            parts.pop()
        elif part != ".":
            parts.append(part)
    return "/".join(parts)


_CASES = {"relu": "ReLU", "topk": "TopK", "topk_auxk": "TopK, half dead, AuxK", "gated": "Gated"}
_CONTENTS: dict[str, Callable[..., str]] = {
    f.__name__: f
    for f in (include, commands, tables, conventions, figures, architectures, objectives, claims, display, training_speed)
}
