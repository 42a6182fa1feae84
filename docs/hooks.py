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
from saeworks.studies.errors.settings import INTERVENTIONS
from saeworks.studies.reading import kind_name, kinds, of_kind, read_metrics
from saeworks.studies.seeds import of_first_run, read_matching, with_interval
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


def interventions() -> str:
    """What study `errors` puts in the place of an activation."""
    return _table(["Name", "In the place of x"], [(f"`{name}`", about.meaning) for name, about in INTERVENTIONS.items()])


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
    figures, timing = (ROOT / "results" / experiment / folder / f"{name}.html" for folder in ("figures", "timing"))
    path = timing if timing.exists() else figures
    return fragment(path) if path.exists() else _missing(str(path.relative_to(ROOT)))


def across_seeds(experiment: str) -> str:
    """How far the seeds of each objective differ: what they cost, and whether their features are the same, beside what is so by chance."""
    folder = ROOT / "results" / experiment / "tables"
    needed = [folder / f"{name}.parquet" for name in ("runs", "fidelity", "matching", "firing")]
    if missing := [path for path in needed if not path.exists()]:
        return _missing(str(missing[0].relative_to(ROOT)))
    runs, matching = read_metrics(folder, ["l0", "ce_increase"]), read_matching(folder)
    firing = of_first_run(folder, "firing", ["partner", "metric", "value", "ci_low", "ci_high", "resampled"])
    matching = matching[matching["comparison"] == "cross_seed"]
    rows = []
    for kind in kinds(runs):
        here, matched, fired = (of_kind(frame, runs["hook_point"].iloc[0], *kind) for frame in (runs, matching, firing))
        cosines = matched[matched["metric"] == "matched_cosine"]
        chosen = (
            cosines[cosines["directions"] == "decoder"],
            cosines[cosines["directions"] == "encoder"],
            matched[matched["metric"] == "shared_fraction"],
            fired[fired["partner"] == "codes"],
            fired[fired["partner"] == "codes_activations"],
            fired[fired["partner"] == "codes_untrained"],
        )
        by_chance = f"{cosines['random_baseline'].mean():.3f}"  # whatever the directions
        measured = [
            f"{m.mean():.{n}f} ({m.min():.{n}f} to {m.max():.{n}f})" for m, n in ((here["l0"], 1), (here["ce_increase"], 3))
        ]
        similar = [with_interval(found, " ") for found in chosen]
        rows.append([kind_name(*kind, runs), str(len(here)), *measured, *similar[:2], by_chance, *similar[2:]])
    of_codes = ["CKA of codes", "of codes and activations", "of codes and an untrained code"]
    of_directions = ["decoder cosine", "encoder cosine", "of random directions", "features shared"]
    heads = ["SAE", "seeds", "L0", "CE increase (nats)", *of_directions, *of_codes]
    return _table(heads, rows)


def _missing(path: str) -> str:
    return (
        f"!!! note\n    This build lacks a table: `{path}` is missing. `dvc pull` fetches it if it is stored, the command of this section"
        " makes it; then `make docs` shows it here.\n"
    )


def _benchmark(name: str) -> dict[str, Any]:
    return json.loads((ROOT / "results" / "benchmarks" / f"{name}.json").read_text(encoding="utf-8"))


def training_speed(threads: str) -> str:
    """Tokens per second of a training step, by library and case, from the stored benchmark."""
    stored = _benchmark("training")
    size = stored["setting"]
    about = (
        f"d_in {size['d_in']}, {size['d_sae']:,} features, batch {size['batch']:,}, L0 {size['k']} (TopK) and {size['relu_gated_l0']} (ReLU, Gated),"
        f" {stored['rounds']} rounds."
    )
    return f"{about}\n\n{_speeds(stored['results'], int(threads), ('case',), _CASES)}"


def end_to_end(threads: str) -> str:
    """Tokens per second of a training step with the language model, by library and objective, from the stored benchmark."""
    stored = _benchmark("end_to_end")
    size = stored["setting"]
    steps = {target["start"]: target for target in stored["targets"] if target["threads"] == int(threads)}
    shares = [(1 / steps[start]["e2e_times_as_fast_as_authors"], steps[start]["e2e_cost_over_authors_local"]) for start in steps]
    (own, local), (own_dense, local_dense) = shares
    model = size["model"]
    about = (
        f"A model of {model['n_layers']} layers and width {model['d_model']}, {size['d_sae']:,} features, {size['rows']} rows of {model['n_ctx']}"
        f" tokens, {stored['rounds']} rounds. A step of `e2e` takes {own:.2f} of the time of the paper's own code ({own_dense:.2f} at the very"
        f" start, while codes are dense), and {local:.2f} of the time of its `local` ({local_dense:.2f})."
    )
    return f"{about}\n\n{_speeds(stored['results'], int(threads), ('objective', 'start'), _OBJECTIVES)}"


def _speeds(results: list[dict[str, Any]], threads: int, by: tuple[str, ...], cases: dict[str, str]) -> str:
    """A row a library, a column a case (the values of the keys `by`): tokens per second and how many times as fast saeworks is."""
    cells: dict[str, dict[str, str]] = {}
    for result in results:
        if result["threads"] == threads:
            ratio = "" if result["library"] == "saeworks" else f"\u00a0({result['saeworks_times_as_fast']:.1f})"
            cells.setdefault(result["library"], {})[" ".join(result[key] for key in by)] = f"{result['tokens_per_s']:,.0f}{ratio}"
    versions = {r["library"]: _version(r["versions"]) for r in results}
    rows = [[_versioned(library, versions[library]), *(of.get(name, "–") for name in cases)] for library, of in cells.items()]
    return _table(["", *cases.values()], rows)


def dictionaries() -> str:
    """Seconds and memory of the comparisons of dictionaries, from the stored benchmark."""
    stored = _benchmark("geometry")
    size, threads = stored["setting"], stored["machine"]["threads"]
    names = {
        "nearest random": "nearest neighbours of random directions",
        "matching random": "one-to-one partners of random directions",
        "matching permuted": "one-to-one partners where every feature has a clear one",
        "bootstrap features": "bootstrap interval of a mean over features",
    }
    rows = [
        (names[f"{result['measure']} {result['dictionaries']}"], f"{result['seconds']:.0f}", f"{result['peak_gib']:.1f}")
        for result in stored["results"]
    ]
    about = f"{size['features']:,} directions of {size['d']} dimensions in each, {threads} threads."
    return f"{about}\n\n{_table(['Comparison', 'Seconds', 'Peak memory (GiB)'], rows)}"


def sampling() -> str:
    """How fast a corpus is sampled from the default model, from the stored benchmark."""
    rows = [(f"{r['machine']['threads']}", f"{r['tokens_per_s']:,.0f}") for r in _benchmark("sampling")["results"]]
    return _table(["Cores", "Tokens per second"], rows)


def errors_cost() -> str:
    """Processor time of the study of errors over what its forward passes take, all layers together, from the stored benchmark."""
    path = "results/benchmarks/errors.json"
    if not (ROOT / path).exists():
        return _missing(path)
    stored = _benchmark("errors")
    rows = [
        (what, f"{ratios['over_forwards']:.2f}", f"{ratios['over_ideal']:.2f}")
        for what, ratios in stored["all_layers_together"].items()
    ]
    size, threads = stored["setting"], stored["machine"]["threads"]
    about = f"{size['saes']} SAEs of {size['d_sae']:,} features at a hook point of `{size['model']}`, {threads} threads; processor time."
    heads = ["Interventions", "Over the forward passes alone", "Over these with log-softmax, and the pass without one"]
    return f"{about}\n\n{_table(heads, rows)}"


def from_clone() -> str:
    """How long a newcomer waits: from a clone to the figures of the default experiment, from the stored benchmark."""
    path = "results/benchmarks/from_clone.json"
    if not (ROOT / path).exists():
        return _missing(path)
    stored = _benchmark("from_clone")
    rows = [
        ("`make install`", f"{stored['install_s'] / 60:.1f}"),
        ("`make figures`, once that is done", f"{stored['figures_s'] / 60:.1f}"),
    ]
    about = f"{stored['machine']['cpu']}; the environment takes {stored['environment_gb']:.1f} GB."
    return f"{about}\n\n{_table(['', 'Minutes'], rows)}"


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
_OBJECTIVES = {
    **{f"{name} sparse": OBJECTIVES[name].label for name in ("local", "e2e", "e2e_ds")},
    **{f"{name} dense": f"{OBJECTIVES[name].label}, dense" for name in ("local", "e2e", "e2e_ds")},
}
_CONTENTS: dict[str, Callable[..., str]] = {
    f.__name__: f
    for f in (
        include,
        commands,
        tables,
        conventions,
        figures,
        architectures,
        interventions,
        objectives,
        claims,
        display,
        across_seeds,
        training_speed,
        end_to_end,
        dictionaries,
        sampling,
        errors_cost,
        from_clone,
    )
}
