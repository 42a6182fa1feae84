"""The training step as one writes it first: dense products, autograd, Adam, unit-norm decoder, firing counts."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from worker import BATCH, D_IN, D_SAE, DEAD, DEAD_SCALE, L1, LR, K, Step, bias_for_l0, mean_l0

CASES = ["relu", "relu_dense", "topk", "gated", "topk_auxk", "encoder_product"]


def encoder_product(sample: Tensor) -> tuple[Step, Callable[[], float]]:
    """Not a training step: the product x W + b of the encoder alone, into memory that is there already."""
    weight, bias, out = torch.randn(D_IN, D_SAE), torch.randn(D_SAE), torch.empty(BATCH, D_SAE)

    def step(x: Tensor) -> None:
        torch.addmm(bias, x, weight, out=out)

    return step, lambda: float(K)


def make_step(case: str, sample: Tensor) -> tuple[Step, Callable[[], float]]:
    """One full training step on a batch, and the L0 on the sample."""
    if case == "encoder_product":
        return encoder_product(sample)
    rows = torch.nn.functional.normalize(torch.randn(D_SAE, D_IN), dim=1)
    w_enc, w_dec = rows.T.clone().requires_grad_(), rows.clone().requires_grad_()
    b_enc, b_dec = torch.zeros(D_SAE, requires_grad=True), torch.zeros(D_IN, requires_grad=True)
    parameters = [w_enc, w_dec, b_enc, b_dec]
    if case in ("relu", "gated"):
        b_enc.data.fill_(bias_for_l0(sample @ w_enc.detach()))
    if case == "topk_auxk":
        w_enc.data[:, :DEAD] *= DEAD_SCALE
    if case == "gated":
        b_mag, r_mag = b_enc.detach().clone().requires_grad_(), torch.zeros(D_SAE, requires_grad=True)
        parameters += [b_mag, r_mag]
    optimizer = torch.optim.Adam(parameters, lr=LR)
    since_fired = torch.zeros(D_SAE, dtype=torch.long)

    def encode(x: Tensor) -> tuple[Tensor, Tensor]:
        product = (x - b_dec) @ w_enc
        pre = product + b_enc
        if case.startswith("relu"):
            return pre.relu(), pre
        if case == "gated":
            return (pre > 0) * (product * r_mag.exp() + b_mag).relu(), pre
        top = pre.topk(K, dim=-1, sorted=False)
        return torch.zeros_like(pre).scatter_(-1, top.indices, top.values.relu()), pre

    def step(x: Tensor) -> None:
        codes, pre = encode(x)
        out = codes @ w_dec + b_dec
        loss = (out - x).pow(2).sum(-1).mean()
        if case.startswith("relu"):
            loss = loss + L1 * codes.sum(-1).mean()
        elif case == "gated":
            gate = pre.relu()
            aux = gate @ w_dec.detach() + b_dec.detach()
            loss = loss + L1 * gate.sum(-1).mean() + (aux - x).pow(2).sum(-1).mean()
        elif case == "topk_auxk":
            since_fired[:DEAD] = 10_000_001
            top = pre.masked_fill(since_fired <= 10_000_000, -torch.inf).topk(D_IN // 2, dim=-1, sorted=False)
            aux = torch.zeros_like(pre).scatter_(-1, top.indices, top.values.relu()) @ w_dec
            loss = loss + (aux - (x - out).detach()).pow(2).sum(-1).mean() / 32
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            w_dec.div_(w_dec.norm(dim=1, keepdim=True))
            since_fired.add_(len(x))
            since_fired[(codes > 0).any(0)] = 0

    def l0() -> float:
        with torch.no_grad():
            return mean_l0(encode(sample)[0])

    return step, l0
