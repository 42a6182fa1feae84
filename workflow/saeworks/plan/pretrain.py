"""The jobs of a file that trains a language model."""

from __future__ import annotations

from pathlib import Path

from ..config.experiment import PretrainExperiment
from .code import Code
from .job import Job, Settings
from .state import State

TEXTS = "data/texts/novels"
_FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "README.md", "manifest.json")


class PretrainPlan(State):
    """The text, where it is downloaded, and the model."""

    def __init__(self, experiment: PretrainExperiment, root: Path | str = ".", code: Code | None = None) -> None:
        self.name, self.settings = experiment.name, experiment.pretrain
        texts = (self.settings.train_text, self.settings.val_text)
        folder = f"data/models/{self.name}"
        own = tuple(f"{TEXTS}/{name}.txt" for name in ("train", "val"))
        novels = Job("novels", own, f"{TEXTS}/identity.json", entries=("lm.novels:main",))
        model = Job(
            "pretrain",
            tuple(f"{folder}/{name}" for name in _FILES),
            f"{folder}/identity.json",
            Settings.of(pretrain=self.settings),
            ("lm.pretrain:pretrain",),
            inputs=("novels",) if set(texts) & set(own) else (),
            files=tuple(path for path in texts if path not in own),
        )
        super().__init__([novels, model], root, code)

    def needs(self, job: str) -> list[str]:
        """Files that a job reads."""
        return [self.settings.train_text, self.settings.val_text] if job == "pretrain" else []

    def targets(self) -> list[str]:
        """What `snakemake` makes if nothing is named."""
        return [self.jobs["pretrain"].outputs[-1]]

    def results_at_a_glance(self) -> list[str]:
        """Lines that end a successful run: where to look."""
        return [f"Model     data/models/{self.name}", f"Logs      logs/pretrain-{self.name}.log"]

    def notes(self) -> list[str]:
        """Nothing to say before it runs."""
        return []
