"""The registry of architectures, and SAEs built from settings."""

from __future__ import annotations

from ..config.training import TrainingConfig
from .base import SAE
from .batch_topk import BatchTopKSAE, MatryoshkaBatchTopKSAE
from .gated import GatedSAE
from .jumprelu import JumpReluSAE
from .relu import ReluSAE
from .topk import TopKSAE

ARCHITECTURES: dict[str, type[SAE]] = {
    "relu": ReluSAE,
    "topk": TopKSAE,
    "batch_topk": BatchTopKSAE,
    "matryoshka_batch_topk": MatryoshkaBatchTopKSAE,
    "gated": GatedSAE,
    "jumprelu": JumpReluSAE,
}


def build_sae(d_in: int, settings: TrainingConfig, k: int | None = None) -> SAE:
    """An SAE of the settings' architecture, its parameters all zero. `k`: active features per token (TopK family)."""
    options = {
        "relu": {},
        "topk": {"k": k, "relu": settings.topk_relu, "multi_topk": settings.multi_topk},
        "batch_topk": {"k": k},
        "matryoshka_batch_topk": {"k": k, "fractions": settings.matryoshka_fractions},
        "gated": {},
        "jumprelu": {"bandwidth": settings.jumprelu_bandwidth},
    }[settings.architecture]
    return ARCHITECTURES[settings.architecture](
        d_in,
        settings.d_sae,
        decoder=settings.decoder,
        pre_bias=settings.pre_bias,
        layer_norm=settings.activation_scale == "layer_norm",
        **options,
    )
