"""The real libraries load what we export and compute the same, and we load what they save.

They need other versions of our dependencies, so they live in an environment of their own: `make interop` makes it.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.each import each
from tests.saes import ARCHITECTURES, inputs, trained_sae

from saeworks.export import export_saelens
from saeworks.sae.base import SAE
from saeworks.sae.formats import save_sae
from saeworks.sae.interop import load, save_sparsify

pytestmark = pytest.mark.interop
_ROOT = Path(__file__).resolve().parents[2]
_PYTHON = Path(os.environ.get("SAEWORKS_PEERS", _ROOT / ".venv-peers" / "bin" / "python"))
_D_IN, _D_SAE = 16, 64
_TOLERANCE = 1e-5  # of the largest value, or of 1 where all are smaller


def _run(command: str, folder: Path) -> None:
    if not _PYTHON.exists():
        pytest.skip(f"{_PYTHON} is missing: `make interop` makes the environment of SAELens and sparsify")
    worker = Path(__file__).with_name("peer_worker.py")
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([_PYTHON, worker, command, folder], capture_output=True, text=True, env=environment, timeout=600)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]


def _ours() -> dict[str, tuple[SAE, dict]]:
    """Everything that we save for others: case to SAE and metadata."""
    sizes = {"d_in": _D_IN, "d_sae": _D_SAE}
    cases = {}
    for architecture in ARCHITECTURES:
        for decoder in ("normalised", "free"):
            for pre_bias in (False, True):
                name = f"saelens-{architecture}-{decoder}{'-pre_bias' * pre_bias}"
                cases[name] = trained_sae(architecture, decoder=decoder, pre_bias=pre_bias, **sizes), {}
        cases[f"saelens-{architecture}-layer_norm"] = trained_sae(architecture, pre_bias=True, layer_norm=True, **sizes), {}
        cases[f"saelens-{architecture}-hook_z"] = trained_sae(architecture, **sizes), {"hook_name": "blocks.0.attn.hook_z"}
    for pre_bias in (False, True):
        cases[f"sparsify-topk{'-pre_bias' * pre_bias}"] = (
            trained_sae("topk", decoder="normalised", pre_bias=pre_bias, **sizes),
            {},
        )
    return cases


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Our SAEs as exported, with what they compute and what the peers compute from them."""
    root, x = tmp_path_factory.mktemp("ours"), inputs(d_in=_D_IN)
    for name, (sae, metadata) in _ours().items():
        case = root / name
        if name.startswith("sparsify"):
            save_sparsify(sae, case / "sae" / "layers.3", {"hook_name": "blocks.3.hook_resid_post"})
        else:
            (case / "run").mkdir(parents=True)
            save_sae(sae, case / "run", {"model_from_pretrained_kwargs": {"fold_ln": True}, **metadata})
            export_saelens(case / "run", case / "sae")
        output, codes = sae(x)
        save_file({"x": x, "codes": codes.detach(), "output": output.detach()}, case / "ours.safetensors")
    _run("check", root)
    return root


@each("name", _ours())
def test_the_real_library_computes_what_we_do(exported, name):
    ours, theirs = (load_file(exported / name / f"{who}.safetensors") for who in ("ours", "theirs"))
    assert (ours["codes"] != 0).any()
    assert max(differences(ours, theirs).values()) <= _TOLERANCE


def test_saelens_gets_our_metadata_and_the_firing_rates(tmp_path):
    import pandas as pd

    run = tmp_path / "results" / "e" / "saes" / "blocks.1.hook_resid_pre" / "r"
    run.mkdir(parents=True)
    save_sae(trained_sae("relu", d_in=_D_IN, d_sae=2), run, {"hook_name": "blocks.1.hook_resid_pre", "prepend_bos": True})
    tables = tmp_path / "results" / "e" / "tables"
    tables.mkdir(parents=True)
    runs = ["blocks.1.hook_resid_pre/other", *["blocks.1.hook_resid_pre/r"] * 2]
    features = pd.DataFrame({"run": runs, "feature": [0, 1, 0], "firing_rate": [0.5, 0.0, 0.01]})
    features.to_parquet(tables / "features.parquet")
    export_saelens(run, tmp_path / "out")
    script = (
        "import sys, torch; from sae_lens import SAE; from safetensors.torch import load_file\n"
        "m = SAE.load_from_disk(sys.argv[1]).cfg.metadata\n"
        "assert (m.hook_name, m.prepend_bos) == ('blocks.1.hook_resid_pre', True), m\n"
        "assert load_file(sys.argv[1] + '/sparsity.safetensors')['sparsity'].round().tolist() == [-2, -10]"
    )
    if not _PYTHON.exists():
        pytest.skip(f"{_PYTHON} is missing: `make interop` makes it")
    done = subprocess.run([_PYTHON, "-c", script, tmp_path / "out"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


_THEIRS = [
    *(f"saelens-{name}" for name in ("standard", "standard-no-pre-bias", "standard-layer-norm", "standard-hook-z")),
    *(f"saelens-{name}" for name in ("topk", "topk-rescaled", "topk-layer-norm", "gated", "jumprelu", "batchtopk-inference")),
    *(f"sparsify-{name}" for name in ("topk", "expansion", "multi")),
]
_BESIDE_THEM = [
    *(f"dictionary_learning-{name}" for name in ("AutoEncoder", "AutoEncoderNew", "GatedAutoEncoder", "JumpReluAutoEncoder")),
    *(f"dictionary_learning-{name}" for name in ("AutoEncoderTopK", "BatchTopKSAE", "MatryoshkaBatchTopKSAE")),
]


@pytest.fixture(scope="module")
def saved_by_peers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("theirs")
    _run("make", root)
    return root


@each("name", _THEIRS)
def test_we_compute_what_the_real_library_does(saved_by_peers, name):
    _assert_same(saved_by_peers, name)


def test_we_compute_what_dictionary_learning_does(saved_by_peers):
    if not (saved_by_peers / _BESIDE_THEM[0]).exists():
        pytest.skip("dictionary_learning is not installed beside the peers")
    for name in _BESIDE_THEM:
        _assert_same(saved_by_peers, name)


def _assert_same(saved_by_peers: Path, name: str) -> None:
    theirs = load_file(saved_by_peers / name / "theirs.safetensors")
    output, codes = load(saved_by_peers / name / "sae")(theirs["x"])
    assert (theirs["codes"] != 0).any()
    assert max(differences({"codes": codes, "output": output}, theirs).values()) <= _TOLERANCE, name


def differences(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> dict[str, float]:
    """Largest absolute differences of codes and reconstructions, each over the larger of 1 and the largest value."""
    return {
        name: ((ours[name] - theirs[name]).abs().max() / theirs[name].abs().max().clamp(min=1)).item()
        for name in ("codes", "output")
    }
