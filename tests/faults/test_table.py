"""Every bad input of the table: one sentence that names the thing and the mend, nothing lost, and the mend works."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.faults.place import Place, copy_of, finish
from tests.faults.table import FAULTS, Fault


@pytest.fixture(scope="module")
def finished(folder: Path) -> Place:
    """The experiment that everything is tried on a copy of (read only)."""
    (folder / "finished").mkdir()
    return finish(folder / "finished")


def _wrong(fault: Fault, place: Place) -> Iterator[str]:
    """What is not as it should be."""
    fault.spoil(place)
    before = place.files()
    got = place.outcome(fault.use)
    place.said = got.words
    if got.status != fault.status:
        yield f"exit status {got.status}, not {fault.status}: {got.words!r}"
    of_typer = re.fullmatch(r"Usage: saeworks .*\n.*\n\n(Error: .+)", got.words, flags=re.DOTALL)  # about a wrong option
    sentence = of_typer[1] if of_typer else got.words
    if not of_typer and not re.fullmatch(r"saeworks: .+\.\)?", sentence) or len(sentence) > 1200:
        yield f"not one sentence: {got.words!r}"
    yield from (f"{part!r} is not in {sentence!r}" for part in fault.says if not re.search(part, sentence))
    after = place.files()
    yield from (f"{name} is changed or lost" for name, state in before.items() if after.get(name) != state)
    yield from (f"{name} is left behind" for name in after.keys() - before.keys() if name.startswith(("results/", "pwned")))
    mended = place.outcome(fault.mend)
    if mended.status:
        yield f"the mend ends with {mended.status}: {mended.words}"
        return
    again = place.outcome(fault.then or fault.use)
    if again.status:
        yield f"mended, it ends with {again.status}: {again.words}"


@pytest.mark.parametrize("kind", FAULTS)
def test_every_fault_is_one_sentence_and_its_mend_mends(kind, finished, folder):
    found = []
    for i, fault in enumerate(FAULTS[kind]):
        with copy_of(finished, folder / str(i)) as place:
            found += [f"{fault.name}: {problem}" for problem in _wrong(fault, place)]
    assert not found, f"{len(found)} problems:\n" + "\n".join(found)


def test_the_table_has_many_faults_each_once():
    names = [(kind, fault.name) for kind, faults in FAULTS.items() for fault in faults]
    assert len(names) >= 150
    assert [name for name, same in itertools.groupby(sorted(names)) if len(list(same)) > 1] == []
    assert all(fault.says for faults in FAULTS.values() for fault in faults)
