"""What a run minimises: the paper's three objectives, assembled from `losses`."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ..config.training import RunSpec
from ..lm.bridge import BridgeModel
from ..lm.decoder import Decoder
from ..losses import downstream_mse, l1_sparsity, logits_kl, reconstruction_mse
from ..sae.relu import ReluSAE
from ..store.errors import UserError


@dataclass(frozen=True)
class Coefficients:
    """Weights of the loss terms (e2e_sae names): the total is Σ coefficient · term."""

    out_to_in: float
    logits_kl: float
    in_to_orig: float
    sparsity: float


def coefficients(spec: RunSpec) -> Coefficients:
    """The paper's weights for an objective, where the settings do not say otherwise."""
    settings = spec.training
    kl = {"local": 0.0, "e2e": 1.0, "e2e_ds": 0.5}[spec.objective] if settings.kl_coeff is None else settings.kl_coeff
    downstream = settings.downstream_coeff if spec.objective == "e2e_ds" else 0.0
    return Coefficients(1.0 if spec.objective == "local" else 0.0, kl, downstream, spec.sparsity_coeff)


def downstream_layers(spec: RunSpec, layer: int, n_layers: int) -> list[int]:
    """Layers whose input residual `e2e_ds` reconstructs: the configured ones, or all after the SAE.

    Raises:
        UserError: a configured layer is not downstream of the SAE, or there is none.
    """
    if spec.objective != "e2e_ds":
        return []
    possible = list(range(layer + 1, n_layers))
    chosen = possible if spec.training.downstream_layers is None else sorted(set(spec.training.downstream_layers))
    if not chosen or not set(chosen) <= set(possible):
        raise UserError(
            f"`downstream_layers` of run {spec.name} is {chosen}, but the layers after {spec.hook_point} in this model are {possible}; "
            "choose among them."
        )
    return chosen


def local_terms(sae: ReluSAE, x: Float[Tensor, "tokens d_in"]) -> tuple[dict[str, Tensor], Tensor]:
    """`(terms, codes)` of the local objective: reconstruction and sparsity."""
    output, codes = sae(x)
    return {"out_to_in": reconstruction_mse(output, x), "sparsity": l1_sparsity(codes, sae.d_in)}, codes


def e2e_terms(
    sae: ReluSAE, model: Decoder | BridgeModel, layer: int, x: Float[Tensor, "rows context d_in"], downstream: list[int]
) -> tuple[dict[str, Tensor], Tensor]:
    """`(terms, codes)` of the end-to-end objectives for residuals `x` before block `layer`.

    The model runs twice from the hook: once on `x` without gradient, once on the SAE's output. Nothing below the hook is
    recomputed. Reconstruction at the SAE itself is tracked with weight 0.
    """
    n_layers = model.arch.n_layers
    with torch.no_grad():
        clean, clean_downstream = model.blocks(x, layer, n_layers, capture=downstream)
        clean_hidden = model.final_norm(clean)
    output, codes = sae(x)
    new, new_downstream = model.blocks(output, layer, n_layers, capture=downstream)
    terms = {
        "logits_kl": logits_kl(model.final_norm(new), clean_hidden, model.W_U, model.b_U),
        "out_to_in": reconstruction_mse(output.detach(), x),
        "sparsity": l1_sparsity(codes, sae.d_in),
    }
    if downstream:
        terms["in_to_orig"] = downstream_mse(new_downstream, clean_downstream)
    return terms, codes


def total(terms: dict[str, Tensor], weights: Coefficients) -> Tensor:
    """Weighted sum of the terms that carry weight."""
    return sum(getattr(weights, name) * value for name, value in terms.items() if getattr(weights, name))
