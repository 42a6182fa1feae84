"""Every command that README, docs and tutorial show, run in a clone after `dvc pull`: as it stands, or dry where it takes long."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "config" / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
TUTORIAL = ROOT / "docs" / "tutorial.ipynb"
PROGRAMS = (".", "cat", "cp", "dvc", "git", "jupyter", "make", "pip", "pre-commit", "python", "saeworks", "snakemake")
_FENCED = re.compile(r"^```(\w*)\n(.*?)^```", flags=re.DOTALL | re.MULTILINE)
_INLINE = re.compile(r"`([^`\n]+)`")

# what stands for something else
PLACEHOLDERS = {
    "<file or rule>": "train",
    "<experiment>": "default",
    "<command>": "train",
    "<name>": "pareto",
    "config/x.yaml": "config/mine.yaml",
    "account=…": "account=one",
    "partition=…": "partition=two",
    "s3://…": "s3://somewhere/else",
    " …": "",
}

# what is run in the place of a command, by the beginning of the command, and why
INSTEAD = [
    (r"make (\w+)", r"make --dry-run \1", "takes minutes, and installs"),
    (r"snakemake(?!.* -n\b|.* --lint|.* --report).*", r"\g<0> --dry-run", "trains"),
    (r"python -m pytest.*", r"\g<0> --collect-only --quiet", "takes minutes"),
    (r"python tests/benchmarks/.*", r"\g<0> --help", "takes minutes, and a quiet machine"),
    (r"jupyter nbconvert (.*) --execute (.*)", r"jupyter nbconvert \1 \2", "trains"),
    (r"pip install .*", r"\g<0> --dry-run --no-deps --no-build-isolation --no-index", "needs the network"),
    (r"pre-commit install", "test -f .pre-commit-config.yaml", "is a program of its own, for those who have it"),
    (r"\. \.venv/bin/activate", "grep -q '^VENV := .venv$' Makefile", "comes after `make install`"),
    (r"git commit", "git commit --quiet --allow-empty --message changes", "opens an editor"),
    (
        r"dvc pull kept@mine",
        "grep -q '^  kept:' dvc.yaml",
        "comes after a line of one's own in dvc.yaml, which the tests of storage add",
    ),
    (r"(saeworks (?:why|export|pretrain)|dvc commit)$", r"\1 --help", "is named without its arguments"),
]
# results that a clone does not have: what is said of them
UNMADE = {
    "saeworks runs mine": "results/mine/tables/runs.parquet is missing",
    "saeworks runs tutorial": "results/tutorial/tables/runs.parquet is missing",
    "saeworks claims braun2024-together": "results/braun2024-together/tables/claims.parquet is missing",
}
_FIRST, _LAST = ("saeworks new",), ("dvc commit", "git add", "git commit", "dvc push", "dvc remote")


def _shown(page: Path) -> tuple[list[str], list[str]]:
    """What a page shows in blocks without a language, line by line, and inline."""
    if page.suffix == ".ipynb":
        cells = [(cell["cell_type"], "".join(cell["source"])) for cell in json.loads(page.read_text())["cells"]]
        lines = [line[1:] for kind, text in cells if kind == "code" for line in text.splitlines() if line.startswith("!")]
        return lines, [code for kind, text in cells if kind == "markdown" for code in _INLINE.findall(text)]
    text = page.read_text()
    lines = [line for language, block in _FENCED.findall(text) if not language for line in block.splitlines()]
    return lines, _INLINE.findall(_FENCED.sub("", text))


def _commands() -> dict[str, str]:
    """The page that shows it, of every command."""
    found = {}
    for page in [*PAGES, TUTORIAL]:
        lines, inline = _shown(page)
        for line in [re.sub(r"(^|\s)#.*", "", line).strip() for line in lines] + [code for code in inline if " " in code]:
            for command in filter(None, line.split(" && ")):
                if line not in inline or _program(command) in PROGRAMS:
                    found.setdefault(command, str(page.relative_to(ROOT)))
    return dict(sorted(found.items(), key=lambda item: item[0].startswith(_LAST) - item[0].startswith(_FIRST)))


def _program(command: str) -> str:
    return next(word for word in command.split() if not re.match(r"\w+=", word))


def _run_instead(command: str) -> str:
    """What is run to try a command."""
    for placeholder, value in PLACEHOLDERS.items():
        command = command.replace(placeholder, value)
    variables, words = re.fullmatch(r"((?:[A-Z_]+=\S+ )*)(.*)", command).groups()
    for pattern, replacement, _ in INSTEAD:
        if re.fullmatch(pattern, words):
            return variables + re.sub(f"^{pattern}$", replacement, words)
    return command


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone of the repository, with what is not committed, after `dvc pull`."""
    folder = tmp_path_factory.mktemp("clone") / "saeworks"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True)
    changed = subprocess.run(
        ["git", "ls-files", "--modified", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in changed.stdout.splitlines():
        if (ROOT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)
    for key in ("name", "email"):
        subprocess.run(["git", "config", f"user.{key}", "tests"], cwd=folder, check=True)
    done = _bash(folder, "dvc pull --quiet")
    assert done.returncode == 0, done.stdout
    return folder


def _bash(folder: Path, command: str) -> subprocess.CompletedProcess:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    variables = {key: value for key, value in os.environ.items() if not key.startswith(("GIT_", "PYTHONDONTWRITEBYTECODE"))}
    variables |= {"PATH": path, "PYTHONPATH": str(folder / "workflow")}
    return subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env=variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_every_command_works(clone):
    commands, tried, failed = _commands(), set(), []
    assert len(commands) > 50 and {_program(command) for command in commands} == set(PROGRAMS)
    for command, page in commands.items():
        if (instead := _run_instead(command)) in tried:
            continue
        tried.add(instead)
        done = _bash(clone, instead)
        wanted = UNMADE.get(command)
        if wanted not in done.stdout if wanted else done.returncode:
            failed.append(f"{page}: {command}\n{done.stdout[-2000:]}")
        elif "Traceback" in done.stdout:
            failed.append(f"{page}: {command} shows a traceback\n{done.stdout[-2000:]}")
    assert not failed, "\n\n".join(failed)


def test_every_python_block_works(clone):
    blocks = [block for page in PAGES for language, block in _FENCED.findall(page.read_text()) if language == "python"]
    assert blocks
    for block in blocks:
        given = "import torch\nactivations = torch.randn(3, 64)\n"  # what README has at hand
        done = subprocess.run(
            [sys.executable, "-c", given + block],
            cwd=clone,
            env=os.environ | {"PYTHONPATH": str(clone / "workflow")},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{block}\n{done.stderr}"
