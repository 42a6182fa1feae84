"""Made-up configurations: whatever they hold, they end in one sentence or in runs that can be told apart."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from tests.faults.made_up import QUICK, SLOW, damaged, examples, is_a_sentence, mutated
from tests.plan.experiment import experiment

from saeworks.config.base import parse, read_config
from saeworks.config.experiment import Experiment, RunGroup, parse_experiment
from saeworks.config.training import RunSpec, TrainingConfig
from saeworks.plan.code import Code
from saeworks.plan.opening import open_plan
from saeworks.store.errors import UserError

_CODE = Code()
_EXPERIMENT = experiment()
_KEYS = sorted({*Experiment.model_fields, *RunGroup.model_fields, *TrainingConfig.model_fields})


def _check_configuration(values: Any, root: Path) -> None:
    """One sentence; or runs with different names, whose files lie in the experiment's folders, that survive a trip through JSON."""
    try:
        parsed = parse_experiment(values)
        plan = open_plan(values, root, _CODE)
    except UserError as error:
        is_a_sentence(error)
        return
    specs = parsed.run_specs()
    assert len({(spec.hook_point, spec.name) for spec in specs}) == len(specs) > 0
    assert all(parse(RunSpec, json.loads(spec.model_dump_json())) == spec for spec in specs)
    assert parse_experiment(json.loads(json.dumps(parsed.model_dump(exclude_unset=True)))) == parsed
    outputs = [path for job in plan.jobs.values() for path in job.outputs]
    assert len(set(outputs)) == len(outputs)
    for path in map(Path, outputs):
        assert path.parts[0] in ("results", "data") and ".." not in path.parts and max(map(len, path.parts)) < 256, path
        assert str(path).isascii() and str(path).isprintable() and not set(str(path)) & set(" ;$`'\"\\&|<>()*?!"), path


def _fuzz_configurations(number: int) -> Callable:
    @examples(number)
    @given(data=st.data())
    def test(data: st.DataObject, folder: Path) -> None:
        _check_configuration(mutated(data, _EXPERIMENT, _KEYS), folder)

    return test


def _fuzz_configuration_files(number: int) -> Callable:
    text = yaml.safe_dump(_EXPERIMENT, sort_keys=False).encode()

    @examples(number)
    @given(data=st.data())
    def test(data: st.DataObject, folder: Path) -> None:
        path = folder / "a.yaml"
        path.write_bytes(damaged(data, text))
        try:
            values = read_config(path)
        except UserError as error:
            is_a_sentence(error)
            assert str(path) in str(error)
        else:
            _check_configuration(values, folder)

    return test


test_any_configuration = _fuzz_configurations(QUICK)
test_any_configuration_file = _fuzz_configuration_files(QUICK)
test_ten_thousand_configurations = pytest.mark.slow(_fuzz_configurations(SLOW))
test_ten_thousand_configuration_files = pytest.mark.slow(_fuzz_configuration_files(SLOW))
