"""An experiment of tiny runs that every study has something to say about, measured through the entry points of the stages."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.tiny_pipeline import CONTEXT, HOOK, run_spec

from saeworks.config.activations import ActivationsConfig
from saeworks.config.training import RunSpec
from saeworks.studies import Study, studies
from saeworks.studies.gather import gather
from saeworks.studies.measure import measure
from saeworks.training.run import train

NAME = "tiny"
LATER = "blocks.2.hook_resid_pre"
# settings without which a study would take long, or would not be asked for
SETTINGS = {
    "geometry": {"n_resamples": 100},
    "firing": {"n_resamples": 100},
    "umap": {"n_shuffles": 5, "min_features": 1, "region_neighbors": 4, "density_ratio": 1.2},
    "principal_directions": {"n_directions": 4, "ablation_rows": 3},
    "errors": {"n_tokens": 96, "n_draws": 20, "sweep_rows": 3, "n_directions": 4, "lengths": [0.1, 1.0], "cosines": [0.5, 0.9]},
    "agreement": {"files": {"simple": "items.json"}, "n_items": 12},
    "texts": {"files": {"words": "words.txt"}, "text_tokens": 5 * CONTEXT},
    "rates": {"choose": True},
    "spliced": {"sets": [[HOOK, LATER]]},
}


def _specs() -> list[RunSpec]:
    """Runs in several seeds, and one at least beside them for each sweep."""
    runs = [run_spec("local", name=f"local-s{seed}", seed=seed) for seed in range(3)]
    runs += [
        run_spec("local", name="sparser", sparsity_coeff=0.5),
        run_spec("e2e_ds", name="e2e_ds"),
        run_spec("e2e", name="e2e"),
    ]
    runs += [run_spec("e2e", name="e2e-s1", seed=1), run_spec("e2e", name="mixture", reconstruction_coeff=0.5)]
    runs += [run_spec("e2e_ds", name="next", downstream_next=1), run_spec("local", name="lr", lr=3e-2)]
    runs += [run_spec("e2e", name="e2e", hook_point=LATER)]
    runs += [run_spec("local", name="wider", d_sae=32), run_spec("local", name="longer", n_tokens=60 * 48)]
    return [*runs, run_spec("finetune", name="tuned", start_from="local-s0", n_tokens=10 * 48, lr=1e-3)]


@dataclass(frozen=True)
class TinyExperiment:
    """Where it lies and what it was made from."""

    root: Path
    model: Path
    corpus: Path
    runs: tuple[str, ...]

    @property
    def tables(self) -> Path:
        return self.root / "results" / NAME / "tables"

    def tables_of(self, study: Study) -> Path:
        """Where the tables of a study are."""
        return self.root / "results" / NAME / ("timing" if study.wall_clock else "tables")

    def places(self, study: Study) -> list[str]:
        """Where the study is measured."""
        return {"run": list(self.runs), "hook_point": [HOOK], "experiment": [""]}[study.scope]

    def measure(self, study: Study, at: str, out: Path, **settings: object) -> None:
        """Measure a study at a place."""
        spec = json.dumps(SETTINGS.get(study.name, {}) | settings)
        with contextlib.chdir(self.root):
            measure(study.name, spec, NAME, str(out), at, str(self.model), str(self.corpus), "cpu", list(self.runs))


def in_order() -> Iterator[Study]:
    """The studies that have tables, each after those whose tables it reads."""
    left, made = [study for study in studies().values() if study.tables], set()
    while left:
        ready = next(study for study in left if made.issuperset(study.reads))
        left.remove(ready)
        made |= ready.tables.keys()
        yield ready


def at(root: Path, model: Path, corpus: Path) -> TinyExperiment:
    """The experiment in the folder `root`, made or not."""
    return TinyExperiment(root, model, corpus, tuple(f"{spec.hook_point}/{spec.name}" for spec in _specs()))


def make(experiment: TinyExperiment) -> None:
    """Train all runs and measure every study."""
    root, model, corpus = experiment.root, experiment.model, experiment.corpus
    for spec in _specs():
        saes = root / "results" / NAME / "saes" / spec.hook_point
        start = saes / spec.start_from if spec.start_from else None
        stream = ActivationsConfig(source="stream", block_rows=10)
        train(spec, stream, None, model, corpus, saes / spec.name, root / "scratch" / spec.name, progress=False, start_from=start)
    items = [{"clean_prefix": f"w{i} w3", "clean_answer": f" w{i + 4}", "patch_answer": f" w{i + 5}"} for i in range(1, 30)]
    (root / "words.txt").write_text("\n<|endoftext|>\n".join(" ".join(f"w{i % 30}" for i in range(n)) for n in (70, 90)))
    (root / "items.json").write_text("".join(f"{json.dumps(item)}\n" for item in items))
    for study in in_order():
        parts = {at: root / "parts" / study.name / at for at in experiment.places(study)}
        for at, part in parts.items():
            experiment.measure(study, at, part)
        with contextlib.chdir(root):
            gather(study.name, [str(part) for part in parts.values()], str(experiment.tables_of(study)))
