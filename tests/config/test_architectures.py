"""What the configuration reads of an architecture's file is what the file says, without importing it."""

from __future__ import annotations

import importlib
import math
import subprocess
import sys

import pytest

from saeworks.config.architectures import ARCHITECTURES, read_architecture
from saeworks.config.experiment import parse_experiment
from saeworks.config.objectives import PENALTIES
from saeworks.config.recipes import settings_without_effect
from saeworks.config.training import TrainingConfig
from saeworks.store.errors import UserError

_FILE = '''
from __future__ import annotations

import no_such_library
from pydantic import Field, PositiveInt

from ...config.base import Frozen
from ..base import SAE

LABEL = "New"
PENALTIES = ("tanh", "l1")
INITIAL = ("new_start",)
SCALE = no_such_library.SCALE


class Options(Frozen):
    """Options of the new one."""

    new_start: PositiveInt = Field(3, description="`new`: where it starts.")


class NewSAE(SAE):
    factor = no_such_library.factor
'''


def test_every_declaration_is_the_one_of_the_imported_file():
    assert set(ARCHITECTURES) >= {"relu", "topk", "batch_topk", "matryoshka_batch_topk", "gated", "jumprelu"}
    for name, declared in ARCHITECTURES.items():
        module = importlib.import_module(f"saeworks.sae.architectures.{name}")
        assert (declared.label, declared.penalties) == (module.LABEL, module.PENALTIES)
        for constant in ("KEPT", "INITIAL", "ADDS_ERROR"):
            assert getattr(declared, constant.lower()) == getattr(module, constant, ())
        fields, wanted = declared.options.model_fields, module.Options.model_fields
        assert {key: (f.annotation, f.default, f.description) for key, f in fields.items()} == {
            key: (f.annotation, f.default, f.description) for key, f in wanted.items()
        }
        options = {*declared.kept, *declared.initial, *declared.adds_error}
        assert options <= fields.keys() <= TrainingConfig.model_fields.keys()
        assert set(declared.penalties) <= PENALTIES.keys()
    keys = [key for declared in ARCHITECTURES.values() for key in declared.options.model_fields]
    assert len(keys) == len(set(keys)) > 4  # no two architectures have an option of one name


def test_sparsity_is_set_by_k_where_there_is_no_penalty():
    assert {name for name, declared in ARCHITECTURES.items() if declared.by_k} == {"topk", "batch_topk", "matryoshka_batch_topk"}


def test_figures_list_architectures_by_place_and_those_without_one_last(tmp_path):
    assert list(ARCHITECTURES) == sorted(ARCHITECTURES, key=lambda name: (ARCHITECTURES[name].place, name))
    assert list(ARCHITECTURES)[:2] == ["relu", "topk"]
    for name, line, place in (("late.py", "", math.inf), ("early.py", "PLACE = 3\n", 3)):
        (tmp_path / name).write_text(_FILE.replace("PENALTIES", f"{line}PENALTIES", 1))
        assert read_architecture(tmp_path / name).place == place


def test_only_the_declarations_of_a_file_are_run(tmp_path):
    (tmp_path / "new.py").write_text(_FILE)
    declared = read_architecture(tmp_path / "new.py")
    assert (declared.label, declared.penalties, declared.by_k) == ("New", ("tanh", "l1"), False)
    assert (declared.initial, declared.kept, declared.adds_error) == (("new_start",), (), ())
    assert declared.options().new_start == 3
    with pytest.raises(ValueError, match="greater than 0"):
        declared.options(new_start=0)


def test_a_file_without_a_declaration_says_which(tmp_path):
    for line, missing in (
        ('LABEL = "New"\n', "LABEL"),
        ('PENALTIES = ("tanh", "l1")\n', "PENALTIES"),
        ("class Options", "Options"),
    ):
        (tmp_path / "new.py").write_text(_FILE.replace(line, "class Other" if missing == "Options" else ""))
        with pytest.raises(TypeError, match=f"new.py declares no {missing};"):
            read_architecture(tmp_path / "new.py")


def test_the_configuration_is_read_without_torch():
    heavy = "torch, transformers, matplotlib, pandas, seaborn, scipy"
    code = f"import sys, saeworks.config.experiment; print([n for n in '{heavy}'.split(', ') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_an_option_has_an_effect_with_its_own_architecture_only():
    for name in ARCHITECTURES:
        for objective in ("local", "finetune"):
            idle = settings_without_effect(objective, TrainingConfig(architecture=name).model_dump())
            for other, declared in ARCHITECTURES.items():
                for key in declared.options.model_fields:
                    used = other == name and not (objective == "finetune" and key in declared.initial)
                    assert (key not in idle) == used, (name, objective, key)


def _parse(architecture: str, **training: object) -> None:
    group = {"objective": "local", "hook_points": ["blocks.1.hook_resid_pre"], "sparsity_coeffs": [1.0]}
    group["training"] = {"architecture": architecture, **training}
    parse_experiment({"experiment": "x", "model": {"source": "own", "name": "novels-1m"}, "runs": {"a": group}})


def test_penalties_are_those_that_the_architecture_admits():
    """What a free decoder would make smaller for nothing is refused for each of them, their defaults included."""
    for name, declared in ARCHITECTURES.items():
        if declared.by_k:
            continue
        for penalty, facts in PENALTIES.items():
            if penalty not in declared.penalties:
                with pytest.raises(
                    UserError, match=f"`penalty` of group `a` is `{penalty}`, which architecture `{name}` does not"
                ):
                    _parse(name, penalty=penalty)
            elif facts.weighs_decoder:
                _parse(name, penalty=penalty, decoder="free")
            else:
                _parse(name, penalty=penalty)
                with pytest.raises(UserError, match=f"penalises `{penalty}` with `decoder: free`"):
                    _parse(name, penalty=penalty, decoder="free")
        _parse(name)
