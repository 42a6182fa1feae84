"""The plan of a configuration file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..config.base import parse
from ..config.experiment import PretrainExperiment, check_model, parse_experiment
from .code import Code
from .experiment import ExperimentPlan
from .pretrain import PretrainPlan


def open_plan(values: dict[str, Any], root: Path | str = ".", code: Code | None = None) -> ExperimentPlan | PretrainPlan:
    """The plan of a configuration file's `values`, for results in the working directory `root`.

    Raises:
        saeworks.store.errors.UserError: one sentence about the first fault in the configuration.
    """
    if "pretrain" in values:
        return PretrainPlan(parse(PretrainExperiment, values), root, code)
    plan = ExperimentPlan(parse_experiment(values), root, code)
    check_model(plan.experiment, [Path(root, plan.model_files()[0]).parent] if plan.model_files() else [Path(root, plan.model)])
    return plan
