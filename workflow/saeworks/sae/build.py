"""SAEs by the name of their architecture, and from settings."""

from __future__ import annotations

import importlib
from functools import cache

from ..config.architectures import ARCHITECTURES
from ..config.training import TrainingConfig
from .base import SAE


@cache
def sae_class(architecture: str) -> type[SAE]:
    """The subclass of `SAE` that the file `architectures/<architecture>.py` defines."""
    # by name, so that a run depends on the code of its own architecture only
    module = importlib.import_module(f".architectures.{architecture}", __package__)
    (found,) = (
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, SAE) and value.__module__ == module.__name__
    )
    return found


def build_sae(d_in: int, settings: TrainingConfig, k: int | None = None) -> SAE:
    """An SAE of the settings' architecture, its parameters all zero. `k`: active features per token, where k sets the sparsity."""
    own = ARCHITECTURES[settings.architecture].options.model_fields
    return sae_class(settings.architecture)(
        d_in,
        settings.d_sae,
        k,
        decoder=settings.decoder,
        pre_bias=settings.pre_bias,
        layer_norm=settings.activation_scale == "layer_norm",
        **{key: getattr(settings, key) for key in own},
    )
