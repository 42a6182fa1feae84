"""What one setting of training changes: learning rate, size of the dictionary, tokens, downstream layers, mixtures, fine-tuning."""

from __future__ import annotations

from ..study import Study
from .settings import (
    DictionarySweepFigure,
    DownstreamAblationFigure,
    FinetuneBudgetFigure,
    LrSweepFigure,
    MixturesFigure,
    SamplesSweepFigure,
)

STUDY = Study(
    title="Sweeps",
    description="Runs that differ in one setting of training besides sparsity and seed. It reads the tables of the runs and has none of its own.",
    scope="experiment",
    always=True,
    order=80,
    reads=("runs", "fidelity"),
    figures={
        "lr_sweep": LrSweepFigure,
        "dictionary_sweep": DictionarySweepFigure,
        "samples_sweep": SamplesSweepFigure,
        "downstream_ablation": DownstreamAblationFigure,
        "finetune_budget": FinetuneBudgetFigure,
        "mixtures": MixturesFigure,
    },
)
