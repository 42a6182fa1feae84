"""Run by the Python of the peers' environment, which has no saeworks: the real libraries load and save SAEs.

`peer_worker.py check FOLDER` loads each case of FOLDER with the library that its name begins with and writes its codes and
reconstructions of the case's inputs; `peer_worker.py make FOLDER` saves SAEs of the libraries' own, with inputs, codes and
reconstructions.
"""

from __future__ import annotations

import json
import sys
import types
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

warnings.filterwarnings("ignore")
D_IN, D_SAE, K, HEADS = 16, 64, 6, 4
Result = tuple[Tensor, Tensor]


def saelens(folder: Path, x: Tensor) -> Result:
    """Codes and reconstruction by SAELens; SAEs on z get the heads apart."""
    from sae_lens import SAE

    sae = SAE.load_from_disk(folder, device="cpu")
    return _saelens(sae, x)


def _saelens(sae, x: Tensor) -> Result:
    if sae.cfg.reshape_activations == "hook_z":
        x = x.unflatten(-1, (HEADS, -1))
    output = sae(x)
    return sae.encode(x), output.flatten(1)


def sparsify(folder: Path, x: Tensor) -> Result:
    """Codes and reconstruction by sparsify."""
    from sparsify import SparseCoder

    return _sparsify(SparseCoder.load_from_disk(folder, device="cpu"), x)


def _sparsify(sae, x: Tensor) -> Result:
    top = sae.encode(x)
    codes = torch.zeros(len(x), sae.num_latents).scatter_(1, top.top_indices, top.top_acts)
    return codes, sae.decode(top.top_acts, top.top_indices)  # under multi_topk `forward` returns the one from 4k features


def check(root: Path) -> None:
    """Write `theirs.safetensors` into each case."""
    for case in sorted(p for p in root.iterdir() if p.is_dir()):
        load = {"saelens": saelens, "sparsify": sparsify}[case.name.split("-")[0]]
        (folder,) = {p.parent for p in (case / "sae").glob("**/cfg.json")}
        codes, output = load(folder, load_file(case / "ours.safetensors")["x"])
        _write(case / "theirs.safetensors", codes=codes, output=output)


def make(root: Path) -> None:
    """Save an SAE of each of the libraries' classes under `root`, with `theirs.safetensors`."""
    torch.manual_seed(0)
    x = torch.randn(40, D_IN)
    for name, save, (codes, output) in [*_saelens_cases(x), *_sparsify_cases(x), *_dictionary_learning_cases(x)]:
        case = root / name
        (case / "sae").mkdir(parents=True)
        save(case / "sae")
        _write(case / "theirs.safetensors", x=x, codes=codes, output=output)


def _randomise(module: nn.Module) -> None:
    """No parameter at a neutral value, decoder norms from 0.2 to 3."""
    for name, parameter in module.named_parameters():
        parameter.data.normal_(std=0.5)
        if name == "W_dec":
            parameter.data.mul_(torch.linspace(0.2, 3, D_SAE)[:, None])
        elif name == "decoder.weight":
            parameter.data.mul_(torch.linspace(0.2, 3, D_SAE))


def _saelens_cases(x: Tensor) -> Iterator:
    import sae_lens
    from sae_lens.saes.sae import SAEMetadata

    def case(name: str, kind: str, metadata: dict | None = None, **options):
        config = getattr(sae_lens, f"{kind}Config")(d_in=D_IN, d_sae=D_SAE, metadata=SAEMetadata(**(metadata or {})), **options)
        sae = getattr(sae_lens, kind)(config)
        _randomise(sae)
        return f"saelens-{name}", sae.save_model, _saelens(sae, x)

    yield case("standard", "StandardSAE")
    yield case("standard-no-pre-bias", "StandardSAE", apply_b_dec_to_input=False)
    yield case("standard-layer-norm", "StandardSAE", normalize_activations="layer_norm")
    yield case("standard-hook-z", "StandardSAE", {"hook_name": "blocks.0.attn.hook_z"}, reshape_activations="hook_z")
    yield case("topk", "TopKSAE", k=K)
    yield case("topk-rescaled", "TopKSAE", k=K, rescale_acts_by_decoder_norm=True)
    yield case("topk-layer-norm", "TopKSAE", k=K, normalize_activations="layer_norm")
    yield case("gated", "GatedSAE")
    yield case("jumprelu", "JumpReLUSAE")  # half its thresholds are negative
    config = sae_lens.BatchTopKTrainingSAEConfig(d_in=D_IN, d_sae=D_SAE, k=K, rescale_acts_by_decoder_norm=False)
    batch_topk = sae_lens.BatchTopKTrainingSAE(config)
    _randomise(batch_topk)
    batch_topk.topk_threshold.fill_(0.7)
    temporary = Path(sys.argv[2]) / "batch_topk"
    batch_topk.save_inference_model(temporary)
    yield "saelens-batchtopk-inference", batch_topk.save_inference_model, saelens(temporary, x)


def _sparsify_cases(x: Tensor) -> Iterator:
    from sparsify import SparseCoder, SparseCoderConfig

    for name, options in {
        "topk": {"num_latents": D_SAE},
        "expansion": {"expansion_factor": D_SAE // D_IN},
        "multi": {"multi_topk": True},
    }.items():
        sizes = {"num_latents": D_SAE} if name == "multi" else {}
        sae = SparseCoder(D_IN, SparseCoderConfig(k=K, **options, **sizes), dtype=torch.float32)
        _randomise(sae)
        yield f"sparsify-{name}", (lambda folder, sae=sae: sae.save_to_disk(folder / "layers.3")), _sparsify(sae, x)


def _dictionary_learning_cases(x: Tensor) -> Iterator:
    """It imports nnsight for its buffer, which is not used here: an empty module stands in where it is not installed."""
    try:
        import nnsight  # noqa: F401
    except ImportError:
        sys.modules["nnsight"] = types.ModuleType("nnsight")
        sys.modules["nnsight"].LanguageModel = object
    try:
        from dictionary_learning import dictionary as dl
        from dictionary_learning.trainers.batch_top_k import BatchTopKSAE
        from dictionary_learning.trainers.matryoshka_batch_top_k import MatryoshkaBatchTopKSAE
        from dictionary_learning.trainers.top_k import AutoEncoderTopK
    except ImportError as error:
        print(f"dictionary_learning cannot be imported: {error}")
        return
    threshold = torch.tensor(0.7)
    saes = [
        dl.AutoEncoder(D_IN, D_SAE),
        dl.AutoEncoderNew(D_IN, D_SAE),
        dl.GatedAutoEncoder(D_IN, D_SAE),
        dl.JumpReluAutoEncoder(D_IN, D_SAE),
        AutoEncoderTopK(D_IN, D_SAE, k=K),
        BatchTopKSAE(D_IN, D_SAE, k=K),
        MatryoshkaBatchTopKSAE(D_IN, D_SAE, k=K, group_sizes=[D_SAE // 4, D_SAE // 4, D_SAE // 2]),
    ]
    for sae in saes:
        _randomise(sae)
        if "threshold" in dict(sae.named_buffers()):
            sae.threshold.copy_(threshold)
        trainer = {"dict_class": type(sae).__name__, "activation_dim": D_IN, "dict_size": D_SAE, "k": K}

        def save(folder: Path, sae=sae, trainer=trainer) -> None:
            torch.save(sae.state_dict(), folder / "ae.pt")
            (folder / "config.json").write_text(json.dumps({"trainer": trainer, "buffer": {}}))

        read = sae
        if isinstance(sae, dl.AutoEncoder):  # its reader folds the decoder's norms
            path = Path(sys.argv[2]) / "autoencoder.pt"
            torch.save(sae.state_dict(), path)
            read = dl.AutoEncoder.from_pretrained(path)
        codes = read.encode(x)
        yield f"dictionary_learning-{type(sae).__name__}", save, (codes, read.decode(codes))


def _write(path: Path, **tensors: Tensor) -> None:
    save_file({name: value.detach().contiguous() for name, value in tensors.items()}, path)


if __name__ == "__main__":
    torch.set_num_threads(1)
    with torch.no_grad():
        {"check": check, "make": make}[sys.argv[1]](Path(sys.argv[2]))
