"""Storage for real: run, `dvc commit`, `dvc push`, clone, `dvc pull`, and nothing is to be done."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import yaml

from .conftest import HOOK, REPOSITORY, TINY, call, edited, plan_of, planned, rules, times

pytestmark = pytest.mark.slow

_FILES = ("Snakefile", "workflow", "profiles", "envs", "dvc.yaml", ".dvc/config", ".dvc/.gitignore", ".dvcignore", ".gitignore")
_WHO = {"user.name": "test", "user.email": "test@example.org", "init.defaultBranch": "main", "commit.gpgsign": "false"}
_CONFIG = Path("config", "config.yaml")


def _git(folder: Path, *arguments: str) -> str:
    settings = [part for key, value in _WHO.items() for part in ("-c", f"{key}={value}")]
    return call("git", *settings, *arguments, cwd=folder).stdout


def _dvc(folder: Path, *arguments: str) -> str:
    return call("dvc", *arguments, cwd=folder).stdout


def _run(folder: Path, *arguments: str) -> str:
    return call("snakemake", "--cores", "2", *arguments, cwd=folder).stdout


def _edit(folder: Path, **changes: object) -> None:
    values = yaml.safe_load((folder / _CONFIG).read_text())
    (folder / _CONFIG).write_text(yaml.safe_dump(edited(values, **changes), sort_keys=False))


@pytest.fixture(scope="module")
def author(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with this project's files and the tiny experiment in the place of the default one: run, committed and pushed."""
    folder = tmp_path_factory.mktemp("author")
    for name in _FILES:
        source, target = REPOSITORY / name, folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        else:
            shutil.copyfile(source, target)
    stages = yaml.safe_load((folder / "dvc.yaml").read_text())
    for name in ("results", "times-of-seeds"):  # of further experiments
        del stages["stages"][name]
    for stage in stages["stages"].values():
        if stage.get("foreach"):
            stage["foreach"] = {"tiny": {"config": str(_CONFIG)}}
    (folder / "dvc.yaml").write_text(yaml.safe_dump(stages, sort_keys=False))
    # DVC wants to see every block that dvc.yaml names
    values = yaml.safe_load(TINY.read_text()) | {"activations": {"source": "cache"}, "figures": {"pareto": {"dpi": 200}}}
    (folder / "config").mkdir()
    (folder / _CONFIG).write_text(yaml.safe_dump(values, sort_keys=False))
    shutil.copyfile(REPOSITORY / "config" / "novels-1m.yaml", folder / "config" / "novels-1m.yaml")
    shutil.copytree(finished / "model", folder / "data" / "models" / "novels-1m")
    for made in ("model", "data/corpora", "results", "scratch", "logs", ".snakemake"):
        shutil.copytree(finished / made, folder / made)
    _git(folder, "init", "-q")
    _dvc(folder, "commit", "-q", "-f")
    _dvc(folder, "push", "-q")
    _git(folder, "add", "-A")
    _git(folder, "commit", "-q", "-m", "results")
    return folder


def _cloned(author: Path, place: Path, *pulled: str) -> Path:
    """A fresh clone in which `dvc pull` fetched these, or all."""
    folder = place / "clone"
    _git(place, "clone", "-q", str(author), str(folder))
    _dvc(folder, "pull", "-q", *pulled)
    return folder


@pytest.fixture(scope="module")
def clone(author: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh clone after `dvc pull` (read only)."""
    return _cloned(author, tmp_path_factory.mktemp("cloned"))


def test_git_holds_no_results_and_nothing_that_a_run_leaves(author):
    tracked = [name for name in _git(author, "ls-files").splitlines() if not name.endswith(".gitignore")]  # those DVC writes
    assert "dvc.lock" in tracked and "Snakefile" in tracked
    made = ("results/", "data/", "scratch/", "logs/", ".snakemake/")
    assert not [name for name in tracked if name.startswith(made)]


def test_nothing_is_to_be_done_after_clone_and_pull(author, clone):
    assert not (clone / "data/activations").exists() and not (clone / ".snakemake").exists()
    assert planned(_run(clone, "-n")) == {}
    assert "Data and pipelines are up to date." in _dvc(clone, "status")
    assert times(clone).keys() == times(author).keys()
    for path in times(author):
        assert (clone / path).read_bytes() == (author / path).read_bytes(), path


def test_a_figure_s_setting_is_seen_by_dvc_and_redraws_it_alone(author, tmp_path):
    clone = _cloned(author, tmp_path)
    _edit(clone, draw=["pareto"])
    status = _dvc(clone, "status")
    assert "figures@tiny" in status and "tables@tiny" in status and "saes@tiny" not in status
    _git(clone, "checkout", "--", ".")
    _edit(clone, **{"figures.pareto.x_scale": "log"})
    status = _dvc(clone, "status")
    assert "figures@tiny" in status and "saes@tiny" not in status and "tables@tiny" not in status
    before = times(clone)
    assert planned(_run(clone)) == {"pareto": 1, "braun2024": 1}
    after = times(clone)
    changed = {path for path in after if before[path] != after[path]}
    assert changed and all("pareto" in path or "braun2024" in path for path in changed)
    _dvc(clone, "checkout", "-q", "--force", "results/tiny/figures")  # the old files without their records
    assert planned(_run(clone)) == {"pareto": 1, "braun2024": 1}
    _dvc(clone, "commit", "-q", "-f")
    assert "Data and pipelines are up to date." in _dvc(clone, "status")
    _git(clone, "checkout", "--", ".")  # the old configuration with the new results
    assert planned(_run(clone, "-n")) == {"pareto": 1, "braun2024": 1}
    _dvc(clone, "checkout", "-q", "--force")
    assert planned(_run(clone, "-n")) == {}


def test_a_sparsity_coefficient_trains_one_run_in_a_clone(author, tmp_path):
    clone = _cloned(author, tmp_path)
    _edit(clone, **{"runs.e2e.sparsity_coeffs": [0.03]})
    jobs = planned(_run(clone, "-n"))
    stale = rules(name for name in plan_of(clone / _CONFIG, clone).stale() if name != "corpus")
    assert jobs == stale | {"language_model": 1, "activation_cache": 1}  # needed again, and not stored
    assert (jobs["train"], jobs["measure_fidelity"]) == (1, 1)


def test_a_second_experiment_leaves_the_first_s_storage_alone(author, tmp_path):
    clone = _cloned(author, tmp_path)
    values = yaml.safe_load((clone / _CONFIG).read_text())
    (clone / "config" / "other.yaml").write_text(yaml.safe_dump(values | {"experiment": "other"}, sort_keys=False))
    _run(clone, "--until", "corpus", "--configfile", "config/other.yaml")
    assert (clone / "data" / "corpora" / "other").exists()
    assert "Data and pipelines are up to date." in _dvc(clone, "status")


def test_an_experiment_of_one_s_own_is_kept_by_its_line(author, tmp_path):
    """One whose file lacks blocks that the default one has, and which draws one figure."""
    (tmp_path / "place").mkdir()
    work = _cloned(author, tmp_path / "place")
    values = yaml.safe_load(TINY.read_text()) | {"experiment": "mine", "draw": ["pareto"]}
    (work / "config" / "mine.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    shutil.copytree(work / "data" / "corpora" / "tiny", work / "data" / "corpora" / "mine")
    shutil.copytree(work / "results" / "tiny" / "saes", work / "results" / "mine" / "saes")
    stages = (work / "dvc.yaml").read_text()
    line = re.search(r"```yaml\n  kept:\n(.*?)```", (REPOSITORY / "docs/guides/dvc.md").read_text(), flags=re.DOTALL)[1]
    assert "    foreach: {}\n" in stages
    (work / "dvc.yaml").write_text(stages.replace("    foreach: {}\n", line))
    _dvc(work, "commit", "-q", "-f")
    assert "Data and pipelines are up to date." in _dvc(work, "status")
    _dvc(work, "push", "-q")
    _git(work, "add", "-A")
    _git(work, "commit", "-q", "-m", "mine")
    clone = _cloned(work, tmp_path, "kept@mine")
    kept = f"results/mine/saes/{HOOK}/e2e-c0.01-s0/sae_weights.safetensors"
    assert (clone / kept).read_bytes() == (work / kept).read_bytes() and not (clone / "results" / "tiny").exists()


def test_stages_are_pulled_by_name(author, tmp_path):
    part = _cloned(author, tmp_path, "saes@tiny")
    results = part / "results" / "tiny"
    assert (results / "saes" / HOOK / "e2e-c0.01-s0" / "sae_weights.safetensors").exists()
    assert not (results / "figures").exists()
    plan = plan_of(part / _CONFIG, part)
    assert not [name for name in plan.stale() if name.startswith("train/")]
    _dvc(part, "pull", "-q", "tables@tiny")
    missing = {*plan.figures, "timing_tables", "measure_timing", "braun2024"}
    assert set(planned(_run(part, "-n"))) == missing


def test_results_whose_saes_are_not_stored_are_current_in_a_clone(author, tmp_path):
    part = _cloned(author, tmp_path, "tables@tiny", "figures@tiny", "timing@tiny")
    _dvc(part, "pull", "-q", "results/tiny/identities/saes")  # DVC would pull nothing but a path if it got both kinds of targets
    assert not (part / "results" / "tiny" / "saes").exists() and not (part / "data" / "corpora").exists()
    assert planned(_run(part, "-n")) == {}


def test_this_repository_s_own_results_are_current(tmp_path):
    """The results committed here are those of the code and the configuration committed here."""
    if not (REPOSITORY / ".git").exists():
        pytest.skip("not a git checkout")
    if _git(REPOSITORY, "status", "--porcelain").strip():
        pytest.skip("the working tree has uncommitted changes")
    folder = _cloned(REPOSITORY, tmp_path)
    stages = yaml.safe_load((folder / "dvc.yaml").read_text())["stages"]
    experiments = stages["saes"]["foreach"] | stages["results"]["foreach"]
    for name, item in experiments.items():
        output = _run(folder, "-n", "--configfile", item["config"])
        assert planned(output) == {}, name
        assert "delete before `dvc commit`" not in output, name
        for picture in (folder / "docs" / "figures" / name).iterdir():
            assert picture.read_bytes() == (folder / "results" / name / "figures" / picture.name).read_bytes(), picture
    assert "Data and pipelines are up to date." in _dvc(folder, "status")
    assert sum(path.stat().st_size for path in (folder / "registry").rglob("*") if path.is_file()) < 60e6
