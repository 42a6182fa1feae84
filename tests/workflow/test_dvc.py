"""Storage for real: run, `dvc commit`, `dvc push`, clone, `dvc pull`, and nothing is to be done."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from saeworks.config.experiment import parse_experiment

from .conftest import REPOSITORY, TINY, call, planned

TRACKED = ("Snakefile", "workflow", "profiles", "envs", "dvc.yaml", ".dvc/config", ".dvc/.gitignore", ".dvcignore", ".gitignore")


def _git(folder: Path, *arguments: str) -> str:
    who = (
        "-c",
        "user.name=test",
        "-c",
        "user.email=test@example.org",
        "-c",
        "init.defaultBranch=main",
        "-c",
        "commit.gpgsign=false",
    )
    return call("git", *who, *arguments, cwd=folder).stdout


def _run(folder: Path, *arguments: str) -> str:
    return call("snakemake", "--cores", "2", *arguments, cwd=folder).stdout


def _edit(folder: Path, block: str, **values: object) -> None:
    path = folder / "config" / "config.yaml"
    config = yaml.safe_load(path.read_text())
    target = config
    for key in block.split("."):
        target = target.setdefault(key, {})
    target.update(values)
    path.write_text(yaml.safe_dump(config, sort_keys=False))


@pytest.fixture(scope="module")
def author(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with this project's files and the tiny experiment as its default, run, committed and pushed."""
    folder = tmp_path_factory.mktemp("author")
    for name in TRACKED:
        source, target = REPOSITORY / name, folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        else:
            shutil.copyfile(source, target)
    (folder / "config").mkdir()
    config = yaml.safe_load(TINY.read_text()) | {"experiment": "default", "model": {"source": "own", "name": "novels-1m"}}
    # DVC wants to see every block that dvc.yaml names
    config |= {"activations": {"source": "cache"}, "evaluation": {"batch_rows": 32}, "figures": {"pareto": {"dpi": 200}}}
    config |= {"pca": {"bins": 50}, "firing": {"seed": 0}, "embedding": {"n_neighbors": 15}, "agreement": {"files": None}}
    stages = yaml.safe_load((folder / "dvc.yaml").read_text())
    del stages["stages"]["results"]  # of further experiments
    (folder / "dvc.yaml").write_text(yaml.safe_dump(stages, sort_keys=False))
    (folder / "config" / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    shutil.copyfile(REPOSITORY / "config" / "novels-1m.yaml", folder / "config" / "novels-1m.yaml")
    shutil.copytree(finished / "model", folder / "data" / "models" / "novels-1m")
    _git(folder, "init", "-q")
    _run(folder)
    call("dvc", "commit", "-q", "-f", cwd=folder)
    call("dvc", "push", "-q", cwd=folder)
    _git(folder, "add", "-A")
    _git(folder, "commit", "-q", "-m", "results")
    return folder


@pytest.fixture
def clone(author: Path, tmp_path: Path) -> Path:
    """A fresh clone after `dvc pull`."""
    folder = tmp_path / "clone"
    _git(tmp_path, "clone", "-q", str(author), str(folder))
    call("dvc", "pull", "-q", cwd=folder)
    return folder


def test_git_holds_no_results_and_a_clone_pulls_them(author, clone):
    tracked = [name for name in _git(author, "ls-files").splitlines() if not name.endswith(".gitignore")]  # those DVC writes
    assert not [
        name for name in tracked if name.startswith(("results/default/", "data/corpora/default/", "data/models/novels-1m/"))
    ]
    assert (clone / "results/default/figures/pareto.png").read_bytes() == (
        author / "results/default/figures/pareto.png"
    ).read_bytes()
    assert not (clone / "data/activations").exists()


def test_nothing_is_to_be_done_after_clone_and_pull(clone):
    assert planned(_run(clone, "-n")) == {}
    status = call("dvc", "status", cwd=clone).stdout
    assert "Data and pipelines are up to date." in status


def test_a_figure_s_setting_redraws_it_alone_in_a_clone(clone):
    _edit(clone, "figures.pareto", x_scale="log")
    assert "figures@default" in call("dvc", "status", cwd=clone).stdout
    assert planned(_run(clone, "-n")) == {"pareto": 1, "braun2024": 1}
    before = (clone / "results/default/figures/cross_seed.png").stat().st_mtime_ns
    _run(clone)
    assert (clone / "results/default/figures/cross_seed.png").stat().st_mtime_ns == before
    assert planned(_run(clone, "-n")) == {}


def test_a_sparsity_coefficient_trains_one_run_in_a_clone(clone):
    _edit(clone, "runs.e2e", sparsity_coeffs=[0.03])
    jobs = planned(_run(clone, "-n"))
    assert (jobs["train"], jobs["evaluate"], jobs["activation_cache"]) == (1, 1, 1)
    assert "corpus" not in jobs


def test_a_second_experiment_leaves_the_first_s_storage_alone(clone):
    values = yaml.safe_load((clone / "config" / "config.yaml").read_text())
    (clone / "config" / "other.yaml").write_text(yaml.safe_dump(values | {"experiment": "other"}, sort_keys=False))
    _run(clone, "--until", "corpus", "--configfile", "config/other.yaml")
    assert (clone / "data" / "corpora" / "other").exists()
    assert "Data and pipelines are up to date." in call("dvc", "status", cwd=clone).stdout


def test_saes_are_pulled_by_name(author, tmp_path):
    _git(tmp_path, "clone", "-q", str(author), str(tmp_path / "part"))
    call("dvc", "pull", "-q", "saes@default", cwd=tmp_path / "part")
    results = tmp_path / "part" / "results" / "default"
    assert (results / "saes/blocks.1.hook_resid_pre/e2e-c0.01-s0/sae_weights.safetensors").exists()
    assert not (results / "figures").exists()
    call("dvc", "pull", "-q", "tables@default", cwd=tmp_path / "part")
    experiment = parse_experiment(yaml.safe_load((tmp_path / "part" / "config" / "config.yaml").read_text()))
    assert set(planned(_run(tmp_path / "part", "-n"))) == {*experiment.figure_names(), "timing", "braun2024"}


def test_this_repository_s_own_results_are_current(tmp_path):
    """The results committed here are those of the code and the configuration committed here."""
    if not (REPOSITORY / ".git").exists():
        pytest.skip("not a git checkout")
    if _git(REPOSITORY, "status", "--porcelain").strip():
        pytest.skip("the working tree has uncommitted changes")
    folder = tmp_path / "clone"
    _git(tmp_path, "clone", "-q", str(REPOSITORY), str(folder))
    call("dvc", "pull", "-q", cwd=folder)
    output = _run(folder, "-n")
    assert planned(output) == {}
    assert "not in the configuration any more" not in output
    assert "Data and pipelines are up to date." in call("dvc", "status", cwd=folder).stdout
    for name in ("default", "seeds", "agreement"):
        for picture in (folder / "docs" / "figures" / name).iterdir():
            assert picture.read_bytes() == (folder / "results" / name / "figures" / picture.name).read_bytes()
    assert sum(p.stat().st_size for p in (folder / "registry").rglob("*") if p.is_file()) < 25e6
