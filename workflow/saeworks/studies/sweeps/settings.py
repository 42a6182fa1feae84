"""Settings of the figures of sweeps."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from ...config.figures import FigureStyle, Scale, vary
from ...config.objectives import OBJECTIVES
from ...config.training import RunSpec


class LrSweepFigure(FigureStyle):
    """Pareto curves for several learning rates (Fig. 13 to 15)."""

    label = "Fig. 13 to 15: learning rates"
    reads = ("runs", "fidelity")

    @classmethod
    def applies(cls, runs: Sequence[RunSpec]) -> bool:
        return vary(runs, "training.lr")


class DictionarySweepFigure(FigureStyle):
    """Pareto curves for several dictionary sizes (Fig. 16)."""

    label = "Fig. 16: dictionary sizes"
    reads = ("runs", "fidelity")

    @classmethod
    def applies(cls, runs: Sequence[RunSpec]) -> bool:
        return vary(runs, "training.d_sae")


class SamplesSweepFigure(FigureStyle):
    """Pareto curves for several numbers of training tokens (Fig. 17)."""

    label = "Fig. 17: training tokens"
    reads = ("runs", "fidelity")

    @classmethod
    def applies(cls, runs: Sequence[RunSpec]) -> bool:
        return vary([run for run in runs if not OBJECTIVES[run.objective].starts_from_run], "training.n_tokens")


class DownstreamAblationFigure(FigureStyle):
    """Loss and error by layer of SAEs that reconstruct the next layer, some, or all later ones."""

    label = "Downstream layers"
    reads = ("runs", "fidelity")

    y_scale: Scale = Field("log", description="Scale of the error axis.")

    @classmethod
    def applies(cls, runs: Sequence[RunSpec]) -> bool:
        return vary(runs, "training.downstream_next", "training.downstream_hook_points")


class FinetuneBudgetFigure(FigureStyle):
    """Loss, divergence, error and sparsity of fine-tuned SAEs against the tokens of their fine-tuning."""

    label = "Fine-tuning budget"
    reads = ("runs", "fidelity")

    @classmethod
    def applies(cls, runs: Sequence[RunSpec]) -> bool:
        return any(run.objective == "finetune" for run in runs)


class MixturesFigure(FigureStyle):
    """Loss and explained variance of mixtures of the end-to-end and the local objective."""

    label = "Mixtures of objectives"
    reads = ("runs", "fidelity")

    @classmethod
    def applies(cls, runs: Sequence[RunSpec]) -> bool:
        return vary(runs, "training.reconstruction_coeff")
