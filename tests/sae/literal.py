"""The architectures once more, slowly: dense float64 formulas written from the papers, one step of selection at a time.

Nothing here calls the code under test; parameters are read off the module by name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from saeworks.sae.architectures.batch_topk import BatchTopKSAE
from saeworks.sae.architectures.gated import GatedSAE
from saeworks.sae.architectures.jumprelu import JumpReluSAE
from saeworks.sae.architectures.matryoshka_batch_topk import MatryoshkaBatchTopKSAE
from saeworks.sae.architectures.relu import ReluSAE
from saeworks.sae.architectures.topk import TopKSAE
from saeworks.sae.base import SAE

FRACTIONS = [0.1, 0.3, 0.6]

# every variant of every architecture: from sizes to a module
VARIANTS: dict[str, Callable[..., SAE]] = {
    "relu": lambda d_in, d_sae, k, **o: ReluSAE(d_in, d_sae, **o),
    "topk": lambda d_in, d_sae, k, **o: TopKSAE(d_in, d_sae, k, **o),
    "topk_signed": lambda d_in, d_sae, k, **o: TopKSAE(d_in, d_sae, k, topk_relu=False, **o),
    "multi_topk": lambda d_in, d_sae, k, **o: TopKSAE(d_in, d_sae, k, multi_topk=True, **o),
    "batch_topk": lambda d_in, d_sae, k, **o: BatchTopKSAE(d_in, d_sae, k, **o),
    "matryoshka": lambda d_in, d_sae, k, **o: MatryoshkaBatchTopKSAE(d_in, d_sae, k, matryoshka_fractions=FRACTIONS, **o),
    "gated": lambda d_in, d_sae, k, **o: GatedSAE(d_in, d_sae, **o),
    "jumprelu": lambda d_in, d_sae, k, **o: JumpReluSAE(d_in, d_sae, jumprelu_bandwidth=0.7, **o),
}


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def make(variant: str, d_in: int = 5, d_sae: int = 11, k: int = 3, seed: int = 0, **options) -> SAE:
    """A float64 SAE with random parameters, its decoder rows of all kinds of norms, its thresholds positive."""
    sae = VARIANTS[variant](d_in, d_sae, k, **options).double()
    with torch.no_grad():
        for i, parameter in enumerate(sae.parameters()):
            parameter.copy_(random(*parameter.shape, seed=100 * seed + i))
        sae.W_dec.mul_(torch.logspace(-1, 1, d_sae, dtype=torch.float64)[:, None])
        sae.after_step()
        if isinstance(sae, JumpReluSAE):
            sae.threshold.abs_()
    return sae


def largest(values: list[float], count: int) -> list[int]:
    """Places of the `count` largest; of equal ones the first."""
    return sorted(sorted(range(len(values)), key=lambda i: (-values[i], i))[:count])


def chosen(pre: Tensor, rows: list[list[int]]) -> Tensor:
    mask = torch.zeros_like(pre)
    for row, places in enumerate(rows):
        mask[row, places] = 1.0
    return mask


def top_mask(pre: Tensor, k: int, among: list[int] | None = None) -> Tensor:
    """1 at the k largest of each row among some features."""
    among = list(range(pre.shape[1])) if among is None else among
    return chosen(pre, [[among[i] for i in largest(row[among].tolist(), k)] for row in pre.detach()])


def batch_mask(pre: Tensor, count: int) -> Tensor:
    """1 at the `count` largest of the matrix."""
    n = pre.shape[1]
    places = largest(pre.detach().flatten().tolist(), count)
    return chosen(pre, [[i % n for i in places if i // n == row] for row in range(len(pre))])


def positive(values: Tensor) -> Tensor:
    return values * (values > 0)


def normalised_rows(matrix: Tensor) -> Tensor:
    return torch.stack([row / sum(entry**2 for entry in row) ** 0.5 for row in matrix])


@dataclass
class Step:
    """A training forward pass: pre-activations, codes and outputs of the whole batch, all of them dense."""

    pre: Tensor
    codes: Tensor
    outputs: list[Tensor]
    penalised: Tensor
    aux: Tensor | None = None  # ReLU of the AuxK pre-activations
    gates: Tensor | None = None  # the L0 term of JumpReLU
    terms: dict[str, Tensor] = field(default_factory=dict)


def mse(output: Tensor, x: Tensor) -> Tensor:
    return sum((output[t, i] - x[t, i]) ** 2 for t in range(len(x)) for i in range(x.shape[1])) / x.numel()


def step(sae: SAE, variant: str, x: Tensor, k: int = 3, dead: Tensor | None = None, k_aux: int = 0) -> Step:
    """What a training forward pass computes, differentiable by autograd."""
    D = normalised_rows(sae.W_dec) if sae.decoder == "normalised" else sae.W_dec
    pre = (x - sae.b_dec if sae.pre_bias else x) @ sae.W_enc + sae.b_enc
    gates, terms, penalised = None, {}, None
    if variant == "relu":
        codes = positive(pre)
    elif variant == "topk_signed":
        codes = pre * top_mask(pre, k)
    elif variant in ("topk", "multi_topk"):
        codes = positive(pre * top_mask(pre, k))
        if variant == "multi_topk":
            output = positive(pre * top_mask(pre, 4 * k)) @ D + sae.b_dec
            terms["multi_topk"] = mse(output, x) / 8
    elif variant in ("batch_topk", "matryoshka"):
        codes = positive(pre * batch_mask(pre, k * len(x)))
    elif variant == "gated":
        magnitude = (x - sae.b_dec if sae.pre_bias else x) @ (sae.W_enc * torch.exp(sae.r_mag)) + sae.b_mag
        penalised = positive(pre)
        codes = (pre > 0) * positive(magnitude)
        terms["gate"] = mse(penalised @ D.detach() + sae.b_dec.detach(), x)
    else:
        # straight-through: the value of the first summand, and for the threshold the gradient of the second
        open_, theta = (pre > sae.threshold).double(), sae.threshold
        kernel = (((pre - theta) / sae.options.jumprelu_bandwidth).abs() < 0.5).double().detach()
        moved = theta - theta.detach()
        codes = pre * open_ - theta.detach() / sae.options.jumprelu_bandwidth * kernel * moved
        gates = open_ - 1 / sae.options.jumprelu_bandwidth * kernel * moved
    outputs = [codes @ D + sae.b_dec]
    if variant == "matryoshka":
        stops = [round(sum(FRACTIONS[: i + 1]) * sae.d_sae) for i in range(len(FRACTIONS))]
        outputs = [codes[:, :stop] @ D[:stop] + sae.b_dec for stop in stops]
    aux = None
    if dead is not None:
        aux = positive(pre * top_mask(pre, k_aux, dead.nonzero().flatten().tolist())) @ D
    return Step(pre, codes, outputs, codes if penalised is None else penalised, aux, gates, terms)
