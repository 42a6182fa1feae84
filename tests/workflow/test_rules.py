"""What rule files say to the shell."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
from pathlib import Path
from string import Formatter

import pytest
from snakemake.utils import QuotedFormatter

from saeworks.studies import figures, studies

from .conftest import HOOK, REPOSITORY, tiny_plan

_RULE_FILES = sorted((REPOSITORY / "workflow").rglob("*.smk")) + [REPOSITORY / "Snakefile", REPOSITORY / "workflow" / "Snakefile"]
# plain words by construction: names of studies, figures and notebooks; a number; and `take`, which is commands
_PLAIN = {"params.study", "params.studies", "params.name", "threads", "params.take"}


def _shell_commands(path: Path) -> list[str]:
    """The text of every `shell:` of a rule file."""
    found: list[str] = []
    lines = iter(path.read_text().splitlines())
    for line in lines:
        if line.strip() == "shell:":
            literals = []
            for inner in lines:
                if not inner.strip().startswith(('"', "'")):
                    break
                literals.append(inner.strip())
            found.append(ast.literal_eval(f"({' '.join(literals)})"))
    return found


def _fields(command: str) -> list[tuple[str, str]]:
    """`(what is filled in, how)` of every field of a command."""
    return [(name, spec or "") for _, name, spec, _ in Formatter().parse(command) if name is not None]


@pytest.mark.parametrize("path", _RULE_FILES, ids=lambda path: path.name)
def test_every_rule_that_runs_something_is_one_call_of_the_command_line(path):
    commands = _shell_commands(path)
    assert len(commands) == len(re.findall(r"\bshell:", path.read_text()))
    for command in commands:
        assert command.removeprefix("{params.take}").startswith("saeworks "), command


def test_no_value_reaches_a_shell_unquoted():
    fields = [field for path in _RULE_FILES for command in _shell_commands(path) for field in _fields(command)]
    assert len(fields) > 50
    assert {name for name, spec in fields if spec != "q"} <= _PLAIN


_HOSTILE = "a b;touch pwned;$(touch pwned)`touch pwned`'\"&|>pwned #*\n{}\\"


def _filled(command: str) -> tuple[str, int]:
    """A command with hostile values for all that is quoted, and how many those are."""
    text, quoted = "", 0
    for literal, name, spec, _ in Formatter().parse(command):
        text += literal
        if name is not None and name not in _PLAIN:
            text += QuotedFormatter().format(f"{{:{spec}}}", _HOSTILE)  # as Snakemake does
            quoted += 1
        elif name not in (None, "params.take"):
            text += "plain"
    return text, quoted


def test_hostile_values_reach_every_command_whole(tmp_path):
    for command in (command for path in _RULE_FILES for command in _shell_commands(path)):
        text, quoted = _filled(command)
        stub = 'saeworks() { printf "%s\\0" "$@" > words; }'
        subprocess.run(["bash", "-euc", f"{stub}\n{text}"], cwd=tmp_path, check=True)
        assert (tmp_path / "words").read_text().split("\0").count(_HOSTILE) == quoted > 0, command
        assert [path.name for path in tmp_path.iterdir()] == ["words"], command


def test_what_is_not_quoted_are_plain_words():
    words = [*studies(), *figures(), *(study.notebook for study in studies().values() if study.notebook), "braun2024"]
    assert all(re.fullmatch(r"[a-z]\w+", word, flags=re.ASCII) for word in words) and len(words) > 20


def test_a_run_is_taken_over_by_commands_whose_words_are_quoted(tmp_path):
    plan = tiny_plan(tmp_path, train_together=True)
    run = f"{HOOK}/local-c1-s0"
    files, record, end = plan.taking(run).split(" && ")
    assert shlex.split(files) == ["cp", *plan.run_files(run, plan.together), f"{plan.saes}/{run}"]
    assert shlex.split(record) == ["cp", f"{plan.together}/{run}/identity.json", plan.jobs[f"train/{run}"].record]
    assert end == "exit 0; exit 1; "  # not on to training
    assert plan.taking(f"{HOOK}/finetune-c1-s0") == ""
