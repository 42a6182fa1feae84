"""The objectives equal, gradients included, a literal recomputation of the whole model with full logits in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.each import each
from tests.tiny_pipeline import D_VOCAB, N_LAYERS, run_spec, tiny_decoder
from torch import Tensor

from saeworks.config.objectives import OBJECTIVES
from saeworks.config.training import RunSpec
from saeworks.lm.decoder import Decoder
from saeworks.lm.sites import Site
from saeworks.sae.architectures.relu import ReluSAE
from saeworks.sae.base import SAE
from saeworks.sae.build import build_sae
from saeworks.sae.execution import active, dense
from saeworks.sae.execution.choice import ByDensity
from saeworks.sae.init import initialise
from saeworks.store.errors import UserError
from saeworks.training.clean import CleanPass, downstream_hook_points
from saeworks.training.objective import Objective, auxk_k

_ROWS, _CONTEXT = 3, 6
_VARIANCE = torch.tensor(0.83, dtype=torch.float64)
_DEAD = torch.arange(24) % 5 == 0  # 5 features
_LATER = ["blocks.2.hook_resid_pre", "blocks.3.hook_resid_pre"]


# the literal account: the model with a value replaced, an SAE by its formula, a loss by its definition


class _Replaced(Decoder):
    """The model with `replace` applied to the value at one hook point; keeps the residual before each block and all values."""

    def __init__(self, model: Decoder, hook_point: str, replace: Any = lambda value: value) -> None:
        super().__init__(model.arch, model.weights)
        _, block, *name = hook_point.split(".")
        self.at, self.kind, self.replace = int(block), ".".join(name), replace
        self.values: dict[str, Tensor] = {}
        if self.kind == "hook_resid_post":
            self.at, self.kind = self.at + 1, "hook_resid_pre"

    def _here(self, kind: str, layer: int, value: Tensor) -> Tensor:
        if (kind, layer) == (self.kind, self.at):
            value = self.value = self.replace(value)
        at = f"blocks.{layer}.{kind}" if layer < N_LAYERS else f"blocks.{layer - 1}.hook_resid_post"
        self.values[at] = value
        return value

    def _whole_block(self, layer, resid):
        block = f"blocks.{layer}"
        z = self._here("attn.hook_z", layer, self._attention(layer, self._norm(f"{block}.ln1", resid), None))
        mid = resid + self._here("hook_attn_out", layer, self._linear(f"{block}.attn.o", z))
        mid = self._here("hook_resid_mid", layer, mid)
        return mid + self._here("hook_mlp_out", layer, self._mlp(layer, resid if self.arch.parallel else mid))

    def run(self, tokens: Tensor) -> dict[int, Tensor]:
        """The residual before every block and, at `N_LAYERS`, after the last."""
        resid, residuals = self.embed(tokens), {}
        for layer in range(N_LAYERS + 1):
            residuals[layer] = resid = self._here("hook_resid_pre", layer, resid)
            resid = self._whole_block(layer, resid) if layer < N_LAYERS else resid
        return residuals


_WITHOUT_MODEL = ("local", "continued")


def _largest(values: Tensor, count: int) -> Tensor:
    """`values` of one dimension with all but the `count` largest set to 0."""
    kept = values.sort(descending=True).indices[:count]
    return torch.stack([value if i in kept else value * 0 for i, value in enumerate(values)])


def _literal_sae(sae: SAE, spec: RunSpec, x: Tensor) -> dict[str, Any]:
    """Pre-activations, codes, directions and outputs (one per prefix) of (tokens, d_in)."""
    settings = spec.training
    pre = (x - sae.b_dec if settings.pre_bias else x) @ sae.W_enc + sae.b_enc
    directions = sae.W_dec
    if settings.decoder == "normalised":
        directions = directions / directions.pow(2).sum(dim=1, keepdim=True).sqrt()
    more, penalised = None, None
    if settings.architecture == "topk":
        codes = torch.stack([_largest(row, spec.k) for row in pre])
        codes = codes.clamp(min=0) if settings.topk_relu else codes
        if settings.multi_topk:
            more = torch.stack([_largest(row, 4 * spec.k).clamp(min=0) for row in pre]) @ directions + sae.b_dec
    elif settings.architecture in ("batch_topk", "matryoshka_batch_topk"):
        codes = _largest(pre.flatten(), spec.k * len(x)).view_as(pre).clamp(min=0)
    elif settings.architecture == "gated":
        penalised = pre.clamp(min=0)
        codes = (pre > 0) * ((pre - sae.b_enc) * sae.r_mag.exp() + sae.b_mag).clamp(min=0)
    elif settings.architecture == "jumprelu":
        codes = pre * (pre > sae.threshold)
    else:
        codes = pre.clamp(min=0)
    stops = [len(directions)]
    if settings.architecture == "matryoshka_batch_topk":
        stops = [round(sum(settings.matryoshka_fractions[: i + 1]) * len(directions)) for i in range(3)]
    outputs = [codes[:, :stop] @ directions[:stop] + sae.b_dec for stop in stops]
    penalised = codes if penalised is None else penalised
    return {"pre": pre, "codes": codes, "D": directions, "outputs": outputs, "more": more, "penalised": penalised}


def _elements(output: Tensor, target: Tensor, mse_norm: str) -> Tensor:
    """The numbers whose mean is the reconstruction error."""
    square = (output - target) ** 2
    if mse_norm == "input_norm":
        return square / target.pow(2).sum(dim=1, keepdim=True).sqrt()
    return square / _VARIANCE if mse_norm == "variance" else square


def _penalty(parts: dict[str, Any], spec: RunSpec) -> Tensor:
    settings, codes, norms = spec.training, parts["penalised"], parts["D"].pow(2).sum(dim=1).sqrt()
    kind = settings.penalty or "l1"
    value = torch.zeros((), dtype=torch.float64)
    for token in codes:
        for code, norm in zip(token, norms, strict=True):
            if code.item() != 0:
                value = value + {
                    "l1": lambda c, n: c.abs(),
                    "lp": lambda c, n: c.abs() ** settings.lp_p,
                    "l1_decoder_norm": lambda c, n: c.abs() * n,
                    "tanh": lambda c, n: (settings.tanh_scale * c.abs() * n).tanh(),
                    "l0": lambda c, n: torch.ones((), dtype=torch.float64),
                }[kind](code, norm)
    value = value / len(codes)
    return value / codes.new_tensor(parts["D"].shape[1]) if settings.mse_norm == "d_in" else value


def _ghost(parts: dict[str, Any], x: Tensor, mse_norm: str, exp_relu: bool) -> Tensor:
    r = (x - parts["outputs"][-1]).detach()
    pre = parts["pre"][:, _DEAD]
    g = (pre.clamp(min=0) if exp_relu else pre).exp() @ parts["D"][_DEAD]
    g = g * (r.norm(dim=1, keepdim=True) / (2 * g.norm(dim=1, keepdim=True) + 1e-6)).detach()
    loss = (g - r) ** 2 / (r - r.mean(dim=0)).norm(dim=1, keepdim=True)
    error = _elements(parts["outputs"][-1], x, mse_norm)
    return ((error / (loss + 1e-6)).detach() * loss).mean()


def _auxk(parts: dict[str, Any], x: Tensor, k: int) -> Tensor:
    e = (x - parts["outputs"][-1]).detach()
    codes = torch.stack([_largest(row, k).clamp(min=0) for row in parts["pre"][:, _DEAD]])
    return (codes @ parts["D"][_DEAD] - e).pow(2).mean() / (e - e.mean(dim=0)).pow(2).mean()


def _literal(sae: SAE, model: Decoder, spec: RunSpec, names: list[str], scale: float, dead: bool) -> dict[str, Tensor]:
    """All loss terms, the model run from the tokens."""
    settings, norm = spec.training, spec.training.mse_norm
    clean = _Replaced(model, spec.hook_point)
    original = clean.run(_tokens())
    value = clean.value
    x = value.flatten(0, 1) * scale
    mean, std = 0.0, 1.0
    if settings.activation_scale == "layer_norm":
        mean = x.mean(dim=1, keepdim=True)
        std = ((x - mean).pow(2).sum(dim=1, keepdim=True) / (x.shape[1] - 1)).sqrt()
        x = (x - mean) / (std + 1e-5)  # on the way in only, as in SAELens
    parts = _literal_sae(sae, spec, x)
    minimised = spec.objective in ("local", "finetune", "continued") or settings.reconstruction_coeff
    outputs = parts["outputs"] if minimised else parts["outputs"][-1:]  # what is only tracked is the whole dictionary's
    found = {"out_to_in": [_elements(output, x, norm).mean() for output in outputs]}
    if spec.objective not in _WITHOUT_MODEL:
        found |= {"logits_kl": []} | ({"in_to_orig": []} if names else {})
        for output in parts["outputs"]:
            spliced = ((output * std + mean) / scale).view_as(value)
            new = _Replaced(model, spec.hook_point, lambda _, spliced=spliced: spliced)
            p, q = (model.logits(r[N_LAYERS]).softmax(dim=-1).flatten(0, 1) for r in (original, new.run(_tokens())))
            found["logits_kl"].append(sum((a * (a / b).log()).sum() for a, b in zip(p, q, strict=True)) / len(p))
            if names:
                found["in_to_orig"].append(sum(((new.values[n] - clean.values[n]) ** 2).mean() for n in names) / len(names))
    terms = {name: values[-1] for name, values in found.items()}
    terms |= {f"{name}_prefixes": sum(values[:-1]) for name, values in found.items() if len(values) > 1}
    if spec.sparsity_coeff is not None:
        terms["sparsity"] = _penalty(parts, spec)
    if settings.architecture == "gated":
        output = parts["penalised"] @ parts["D"].detach() + sae.b_dec.detach()
        terms["gate"] = _elements(output, x, norm).mean()
    if settings.multi_topk:
        terms["multi_topk"] = _elements(parts["more"], x, norm).mean() / 8
    if dead and settings.dead_features == "auxk":
        terms["auxk"] = _auxk(parts, x, settings.auxk_k)
    elif dead:
        terms["ghost"] = _ghost(parts, x, norm, settings.dead_features == "ghost_grads_exp_relu")
    return terms


# ours


def _tokens() -> Tensor:
    return torch.randint(D_VOCAB, (_ROWS, _CONTEXT), generator=torch.Generator().manual_seed(1))


def _sae(spec: RunSpec, d_in: int = 16) -> SAE:
    """An SAE with random parameters; thresholds of JumpReLU are positive."""
    sae = build_sae(d_in, spec.training, spec.k).double().train()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter.normal_(std=0.4, generator=generator)
        if spec.training.architecture == "jumprelu":
            sae.threshold.abs_()
    return sae


def _ours(
    sae: SAE,
    model: Decoder,
    spec: RunSpec,
    names: list[str],
    scale: float = 1.0,
    dead: bool = False,
    execution: Any = dense,
) -> dict[str, Tensor]:
    site = Site.parse(spec.hook_point, model.arch)
    values = model.hook_values(_tokens(), [site.name, site.stream])
    x = values[site.name]
    clean = CleanPass(model, site, x, values[site.stream], names) if spec.objective not in _WITHOUT_MODEL else None
    goal = Objective(spec, names, scale, _VARIANCE)
    return goal.terms(sae, execution, x.flatten(0, 1), clean, _DEAD if dead else None)[0]


def _gradients(value: Tensor, sae: SAE) -> dict[str, Tensor]:
    found = torch.autograd.grad(value, list(sae.parameters()), allow_unused=True, retain_graph=True)
    return {name: torch.zeros_like(p) if g is None else g for (name, p), g in zip(sae.named_parameters(), found, strict=True)}


@pytest.fixture(scope="module")
def model() -> Decoder:
    return tiny_decoder(dtype=torch.float64)


_NORMS = ("d_in", "input_norm", "variance")
_LOCAL = {"out_to_in": 1.0, "sparsity": 0.7}
_E2E = {"logits_kl": 1.0, "sparsity": 0.7}
_DS = {"logits_kl": 0.5, "in_to_orig": 2.5, "sparsity": 0.7}
_FINETUNE = {"out_to_in": 0.5, "balance": 0.5, "sparsity": 0.7}
_MATRYOSHKA = {"architecture": "matryoshka_batch_topk", "matryoshka_fractions": [0.25, 0.25, 0.5]}
_PLAIN_DECODER = {"decoder": "free", "pre_bias": True}

# name: objective, changes of the run, weight of each term in the total (`balance`: of KL, in finetuning)
_CASES: dict[str, tuple[str, dict[str, Any], dict[str, float]]] = {
    **{
        f"local {penalty} {norm}": ("local", {"penalty": penalty, "mse_norm": norm, "decoder": "free", "tanh_scale": 0.6}, _LOCAL)
        for penalty in ("l1", "lp", "l1_decoder_norm", "tanh")
        for norm in _NORMS
    },
    "local lp 0.8": ("local", {"penalty": "lp", "lp_p": 0.8}, _LOCAL),
    "local pre_bias": ("local", {"pre_bias": True}, _LOCAL),
    "local pre_bias free": ("local", _PLAIN_DECODER, _LOCAL),
    "local sparsity warm-up": ("local", {"factor": 0.3}, _LOCAL | {"sparsity": 0.21}),
    "local scale": ("local", {"scale": 0.37}, _LOCAL),
    "local layer_norm": ("local", {"activation_scale": "layer_norm"}, _LOCAL),
    **{f"e2e at {layer}": ("e2e", {"hook_point": f"blocks.{layer}.hook_resid_pre"}, _E2E) for layer in (0, 1, 3)},
    "e2e at the end": ("e2e", {"hook_point": "blocks.3.hook_resid_post"}, _E2E),
    "e2e kl_coeff": ("e2e", {"kl_coeff": 0.3}, _E2E | {"logits_kl": 0.3}),
    "e2e sparsity warm-up": ("e2e", {"factor": 0.3}, _E2E | {"sparsity": 0.21}),
    "e2e_ds mixture": ("e2e_ds", {"reconstruction_coeff": 0.4}, _DS | {"out_to_in": 0.4}),
    **{f"e2e mixture {norm}": ("e2e", {"reconstruction_coeff": 0.4, "mse_norm": norm}, _E2E | {"out_to_in": 0.4}) for norm in _NORMS},
    **{f"e2e {norm}": ("e2e", {"mse_norm": norm}, _E2E) for norm in _NORMS[1:]},
    "e2e scale": ("e2e", {"scale": 0.37}, _E2E),
    "e2e layer_norm": ("e2e", {"activation_scale": "layer_norm"}, _E2E),
    "e2e_ds scale and layer_norm": ("e2e_ds", {"scale": 0.37, "activation_scale": "layer_norm"}, _DS),
    "e2e_ds": ("e2e_ds", {}, _DS),
    "e2e_ds coefficients": ("e2e_ds", {"kl_coeff": 0.0, "downstream_coeff": 0.05}, {"in_to_orig": 0.05, "sparsity": 0.7}),
    "e2e_ds next 1": ("e2e_ds", {"downstream_next": 1}, _DS),
    "e2e_ds layer 3": ("e2e_ds", {"downstream_hook_points": ["blocks.3.hook_resid_pre"]}, _DS),
    "e2e_ds parts of blocks": (
        "e2e_ds",
        {"downstream_hook_points": ["blocks.3.hook_resid_post", "blocks.2.attn.hook_z", "blocks.3.hook_mlp_out"]},
        _DS,
    ),
    **{
        f"e2e_ds {hook}": ("e2e_ds", {"hook_point": f"blocks.1.{hook}"}, _DS)
        for hook in ("hook_resid_post", "hook_mlp_out", "hook_attn_out", "attn.hook_z", "hook_resid_mid")
    },
    "e2e_ds attn.hook_z scale": ("e2e_ds", {"hook_point": "blocks.1.attn.hook_z", "scale": 0.37}, _DS),
    **{f"e2e at the last {hook}": ("e2e", {"hook_point": f"blocks.3.{hook}"}, _E2E) for hook in ("hook_mlp_out", "attn.hook_z")},
    "finetune": ("finetune", {}, _FINETUNE),
    "continued": ("continued", {}, _LOCAL),
    "finetune coefficients": ("finetune", {"kl_coeff": 0.3, "reconstruction_coeff": 0.8}, _FINETUNE | {"out_to_in": 0.8, "balance": 0.3}),
    "finetune KL only": ("finetune", {"reconstruction_coeff": 0.0}, {"balance": 0.5, "sparsity": 0.7}),
    "finetune downstream": ("finetune", {"downstream_coeff": 0.2, "downstream_next": 2}, _FINETUNE | {"in_to_orig": 0.2}),
    "finetune downstream 0": ("finetune", {"downstream_coeff": 0.0}, _FINETUNE),
    "finetune variance": ("finetune", {"mse_norm": "variance"}, _FINETUNE),
    **{
        f"gated {objective} {norm}": (objective, {"architecture": "gated", "mse_norm": norm}, weights | {"gate": 1.0})
        for objective, weights in (("local", _LOCAL), ("e2e", _E2E))
        for norm in _NORMS
    },
    "jumprelu l1": ("local", {"architecture": "jumprelu", "penalty": "l1", "jumprelu_bandwidth": 1e-9}, _LOCAL),
    **{
        f"{architecture} {objective}": (objective, {"architecture": architecture}, {k: v for k, v in weights.items() if k != "sparsity"})
        for architecture in ("topk", "batch_topk")
        for objective, weights in (("local", _LOCAL), ("e2e_ds", _DS))
    },
    "topk without relu": ("local", {"architecture": "topk", "topk_relu": False, "k": 16}, {"out_to_in": 1.0}),
    **{
        f"multi_topk {norm}": ("local", {"architecture": "topk", "multi_topk": True, "mse_norm": norm}, {"out_to_in": 1.0, "multi_topk": 1.0})
        for norm in _NORMS
    },
    "multi_topk e2e": ("e2e", {"architecture": "topk", "multi_topk": True}, {"logits_kl": 1.0, "multi_topk": 1.0}),
    "matryoshka local": ("local", _MATRYOSHKA, {"out_to_in": 1.0}),
    "matryoshka e2e": ("e2e", _MATRYOSHKA, {"logits_kl": 1.0}),
    "matryoshka e2e_ds mixture": ("e2e_ds", _MATRYOSHKA | {"reconstruction_coeff": 0.4}, {"logits_kl": 0.5, "in_to_orig": 2.5, "out_to_in": 0.4}),
    "matryoshka finetune": ("finetune", _MATRYOSHKA, {"out_to_in": 0.5, "balance": 0.5}),
    **{
        f"auxk {objective}": (objective, {"dead_features": "auxk", "auxk_k": 2, "auxk_coeff": 0.2, "dead": True}, weights | {"auxk": 0.2})
        for objective, weights in (("local", _LOCAL), ("e2e", _E2E))
    },
    "auxk topk variance": (
        "local",
        {"architecture": "topk", "dead_features": "auxk", "auxk_k": 2, "mse_norm": "variance", "dead": True},
        {"out_to_in": 1.0, "auxk": 1 / 32},
    ),
    "auxk free pre_bias": ("local", {"dead_features": "auxk", "auxk_k": 9, "dead": True} | _PLAIN_DECODER, _LOCAL | {"auxk": 1 / 32}),
    **{
        f"ghost_grads {norm}": ("local", {"dead_features": "ghost_grads", "mse_norm": norm, "dead": True} | _PLAIN_DECODER, _LOCAL | {"ghost": 1.0})
        for norm in _NORMS
    },
    "ghost_grads e2e topk": (
        "e2e",
        {"dead_features": "ghost_grads", "architecture": "topk", "mse_norm": "variance", "dead": True},
        {"logits_kl": 1.0, "ghost": 1.0},
    ),
    "ghost_grads_exp_relu": ("local", {"dead_features": "ghost_grads_exp_relu", "dead": True}, _LOCAL | {"ghost": 1.0}),
}  # fmt: skip


@each("objective", OBJECTIVES)
def test_terms_total_and_gradients_equal_the_literal_formula(model, objective):
    cases = {name: case[1:] for name, case in _CASES.items() if case[0] == objective}
    assert cases
    for name, (changes, weights) in cases.items():
        for execution in (active, dense):
            try:
                _assert_literal(model, objective, changes, weights, execution)
            except BaseException as error:
                error.add_note(f"for {name} with {execution.__name__}")
                raise


def _assert_literal(model: Decoder, objective: str, changes: dict[str, Any], weights: dict[str, float], execution: Any) -> None:
    changes = dict(changes)
    factor, scale, dead = changes.pop("factor", 1.0), changes.pop("scale", 1.0), changes.pop("dead", False)
    spec = run_spec(
        objective, **({} if "architecture" in changes and "sparsity" not in weights else {"sparsity_coeff": 0.7}) | changes
    )
    sae = _sae(spec)
    names = downstream_hook_points(spec, Site.parse(spec.hook_point, model.arch), model.arch)
    ours, literal = _ours(sae, model, spec, names, scale, dead, execution), _literal(sae, model, spec, names, scale, dead)
    assert ours.keys() == literal.keys()
    for name, value in ours.items():
        torch.testing.assert_close(value, literal[name], rtol=1e-8, atol=0, msg=lambda text, name=name: f"{name}: {text}")
    loss = Objective(spec).total(ours, factor)
    weights, sums = dict(weights), {name: literal[name] + literal.get(f"{name}_prefixes", 0.0) for name in literal}
    if "balance" in weights:
        weights["logits_kl"] = weights.pop("balance") * (sums["out_to_in"] / sums["logits_kl"]).item()
    expected = sum(weight * sums[name] for name, weight in weights.items())
    torch.testing.assert_close(loss, expected, rtol=1e-8, atol=0)
    found, wanted = _gradients(loss, sae), _gradients(expected, sae)
    for name in found:
        assert wanted[name].abs().max() > 1e-8 or name == "threshold"
        torch.testing.assert_close(
            found[name], wanted[name], rtol=1e-6, atol=1e-11, msg=lambda text, name=name: f"{name}: {text}"
        )


@each("hook", ["hook_resid_pre", "hook_mlp_out", "hook_attn_out", "attn.hook_z"])
def test_a_model_with_parallel_blocks_has_the_literal_end_to_end_terms(hook):
    parallel = tiny_decoder(dtype=torch.float64, parallel=True)
    spec = run_spec("e2e_ds", hook_point=f"blocks.1.{hook}")
    sae = _sae(spec)
    names = ["blocks.2.hook_resid_pre", "blocks.3.hook_attn_out"]
    ours, literal = _ours(sae, parallel, spec, names), _literal(sae, parallel, spec, names, 1.0, False)
    for name in ("logits_kl", "in_to_orig"):
        torch.testing.assert_close(ours[name], literal[name], rtol=1e-8, atol=0)
        for a, b in zip(_gradients(ours[name], sae).values(), _gradients(literal[name], sae).values(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-11)


@each("norm", _NORMS)
def test_the_l0_penalty_counts_open_gates_and_teaches_the_thresholds_alone(model, norm):
    spec = run_spec(architecture="jumprelu", mse_norm=norm, jumprelu_bandwidth=0.5)
    sae = _sae(spec)
    x = model.hook_values(_tokens(), [spec.hook_point])[spec.hook_point].flatten(0, 1)
    terms, _ = Objective(spec, variance=_VARIANCE).terms(sae, dense, x)
    z = x @ sae.W_enc + sae.b_enc
    divisor = 16 if norm == "d_in" else 1
    torch.testing.assert_close(terms["sparsity"], (z > sae.threshold).double().sum() / len(x) / divisor)
    gradients = _gradients(terms["sparsity"], sae)
    kernel = ((z - sae.threshold).abs() < 0.25).double() / 0.5
    torch.testing.assert_close(gradients.pop("threshold"), -kernel.sum(dim=0) / len(x) / divisor)
    assert all(not gradient.any() for gradient in gradients.values())


def test_the_balance_of_a_finetuned_run_is_a_constant(model):
    spec = run_spec("finetune", sparsity_coeff=0.7)
    sae = _sae(spec)
    terms = _ours(sae, model, spec, [])
    loss = Objective(spec).total(terms)
    torch.testing.assert_close(loss, terms["out_to_in"] + 0.7 * terms["sparsity"])
    ratio = (terms["out_to_in"] / terms["logits_kl"]).item()
    by_hand = 0.5 * (terms["out_to_in"] + ratio * terms["logits_kl"]) + 0.7 * terms["sparsity"]
    free = terms["out_to_in"] + 0.7 * terms["sparsity"]  # the same value with another gradient
    ours, constant, other = (torch.autograd.grad(value, sae.W_dec, retain_graph=True)[0] for value in (loss, by_hand, free))
    torch.testing.assert_close(ours, constant, rtol=1e-10, atol=0)
    assert not torch.allclose(ours, other, rtol=1e-2)


def test_a_divergence_of_zero_does_not_spoil_the_balance():
    kl = torch.zeros((), requires_grad=True)
    terms = {"out_to_in": torch.tensor(2.0), "logits_kl": kl}
    assert Objective(run_spec("finetune", kl_coeff=1.0, reconstruction_coeff=1.0)).total(terms).item() == 2


def test_reconstruction_is_only_tracked_in_the_end_to_end_objectives(model):
    spec = run_spec("e2e_ds")
    terms = _ours(_sae(spec), model, spec, _LATER[:1])
    assert not terms["out_to_in"].requires_grad
    assert all(value.requires_grad for name, value in terms.items() if name != "out_to_in")


@each("hook", ["hook_resid_pre", "hook_mlp_out", "attn.hook_z"])
def test_only_the_sae_gets_a_gradient(hook):
    frozen = tiny_decoder(dtype=torch.float64)
    before = {name: weight.clone() for name, weight in frozen.weights.items()}
    spec = run_spec("e2e_ds", hook_point=f"blocks.1.{hook}")
    sae = _sae(spec)
    Objective(spec).total(_ours(sae, frozen, spec, _LATER)).backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in sae.parameters())
    for name, weight in frozen.weights.items():
        assert not weight.requires_grad and weight.grad is None
        assert torch.equal(weight, before[name])


def test_the_clean_pass_keeps_no_graph_and_runs_once(monkeypatch):
    model = tiny_decoder(dtype=torch.float64)
    site = Site.parse("blocks.1.hook_resid_pre", model.arch)
    x = model.hook_values(_tokens(), [site.name])[site.name]
    modes, real = [], model.blocks

    def blocks(*args, **kwargs):
        modes.append(torch.is_grad_enabled())
        return real(*args, **kwargs)

    monkeypatch.setattr(model, "blocks", blocks)
    clean = CleanPass(model, site, x, x, _LATER[:1])
    assert modes == [False]
    for objective in ("e2e", "e2e_ds"):  # two runs share it
        spec = run_spec(objective)
        Objective(spec, _LATER[:1] if objective == "e2e_ds" else []).terms(_sae(spec), dense, x.flatten(0, 1), clean)
    assert modes == [False, True, True]
    assert not clean.hidden.requires_grad and not clean.values[_LATER[0]].requires_grad


@each("changes", [{}, {"scale": 0.37}, {"activation_scale": "layer_norm"}, {"hook": "hook_mlp_out"}])
def test_a_perfect_reconstruction_has_no_end_to_end_loss(model, changes):
    changes = dict(changes)
    scale, hook = changes.pop("scale", 1.0), changes.pop("hook", "hook_resid_pre")
    spec = run_spec("e2e_ds", hook_point=f"blocks.1.{hook}", d_sae=32, **changes)
    sae = ReluSAE(16, 32, layer_norm="activation_scale" in changes).double()
    with torch.no_grad():
        both = torch.cat([torch.eye(16), -torch.eye(16)]).double()
        sae.W_dec.copy_(both)
        sae.W_enc.copy_(both.T)
    terms = _ours(sae, model, spec, _LATER, scale)
    terms.pop("sparsity")
    tolerance = 1e-8 if "activation_scale" in changes else 1e-12  # the layer norm's ε is not undone
    assert {name: value.item() for name, value in terms.items()} == pytest.approx(dict.fromkeys(terms, 0.0), abs=tolerance)


def test_the_total_is_the_weighted_sum_of_the_terms_there_are():
    terms = {"out_to_in": 2.0, "sparsity": 3.0, "logits_kl": 5.0, "auxk": 11.0, "gate": 13.0}
    goal = Objective(run_spec("e2e", kl_coeff=0.5, reconstruction_coeff=1.0, sparsity_coeff=10.0, auxk_coeff=0.1))
    value = goal.total({name: torch.tensor(term) for name, term in terms.items()}, sparsity_factor=0.5)
    assert value.item() == pytest.approx(2 + 2.5 + 15 + 1.1 + 13)


@each("factor", [0.0, 1.0])
def test_a_term_without_weight_cannot_spoil_the_total(factor):
    bad = torch.tensor(float("nan"))
    terms = {"out_to_in": bad, "logits_kl": torch.tensor(3.0), "sparsity": torch.tensor(4.0) if factor else bad}
    goal = Objective(run_spec("e2e", kl_coeff=2.0, sparsity_coeff=1.0))
    assert goal.total(terms, factor).item() == 6 + 4 * factor


@each("d_in, k", [(768, 512), (16, 8), (1, 1), (64, 32), (100, 64)])
def test_auxk_takes_the_power_of_two_nearest_to_half_the_inputs_unless_set(d_in, k):
    assert auxk_k(run_spec().training, d_in) == k
    assert auxk_k(run_spec(auxk_k=3).training, d_in) == 3


@each(
    "objective, changes, layer, expected",
    [
        ("e2e_ds", {}, 1, [2, 3]),
        ("e2e_ds", {}, 2, [3]),
        ("e2e_ds", {"downstream_hook_points": ["blocks.3.hook_resid_pre", "blocks.1.hook_resid_post"] * 2}, 1, [2, 3]),
        ("e2e_ds", {"downstream_hook_points": ["blocks.3.hook_resid_pre"]}, 1, [3]),
        ("e2e_ds", {"downstream_next": 1}, 0, [1]),
        ("e2e_ds", {"downstream_next": 2}, 0, [1, 2]),
        ("e2e_ds", {"downstream_next": 9}, 1, [2, 3]),  # as many as there are
        ("e2e_ds", {"downstream_coeff": 0.0}, 3, []),
        ("e2e", {}, 1, []),
        ("e2e", {"downstream_coeff": 1.0}, 1, []),
        ("local", {}, 1, []),
        ("finetune", {}, 1, []),
        ("finetune", {"downstream_coeff": 0.1}, 1, [2, 3]),
    ],
)
def test_downstream_are_the_residuals_after_the_sae_and_before_the_end(model, objective, changes, layer, expected):
    site = Site.parse(f"blocks.{layer}.hook_resid_pre", model.arch)
    names = [f"blocks.{at}.hook_resid_pre" for at in expected]
    assert downstream_hook_points(run_spec(objective, **changes), site, model.arch) == names


@each(
    "hook_point, chosen, named",
    [
        ("blocks.1.hook_resid_pre", ["blocks.1.hook_resid_pre", "blocks.2.hook_resid_pre"], "names blocks.1.hook_resid_pre,"),
        ("blocks.1.hook_resid_pre", ["blocks.0.hook_resid_post"], "names blocks.0.hook_resid_post,"),  # the same residual
        ("blocks.2.attn.hook_z", ["blocks.2.hook_attn_out"], "names blocks.2.hook_attn_out,"),
        ("blocks.3.hook_resid_pre", None, "has objective `e2e_ds`,"),
        ("blocks.3.hook_resid_post", None, "in this model is nothing;"),
    ],
)
def test_what_is_not_downstream_is_one_sentence(model, hook_point, chosen, named):
    spec, site = run_spec("e2e_ds", downstream_hook_points=chosen, hook_point=hook_point), Site.parse(hook_point, model.arch)
    with pytest.raises(UserError) as caught:
        downstream_hook_points(spec, site, model.arch)
    message = str(caught.value)
    assert named in message and "tiny-run" in message and "\n" not in message and "choose `downstream_hook_points`" in message
    assert ", ".join(site.downstream(model.arch)) in message


def test_a_downstream_hook_point_that_does_not_exist_is_one_sentence(model):
    spec = run_spec("e2e_ds", downstream_hook_points=["blocks.9.hook_resid_pre"])
    with pytest.raises(UserError, match="'blocks.9.hook_resid_pre' does not exist"):
        downstream_hook_points(spec, Site.parse(spec.hook_point, model.arch), model.arch)


@each(
    "settings, tolerance",
    [
        ({"architecture": "relu"}, 0.03),
        ({"architecture": "topk", "multi_topk": True, "dead_features": "auxk"}, 0.12),
        ({"architecture": "batch_topk", "dead_features": "auxk"}, 0.12),
        ({"architecture": "matryoshka_batch_topk"}, 0.12),
        ({"architecture": "gated"}, 0.03),
    ],
)
def test_bf16_products_change_loss_and_gradients_by_rounding_only(settings, tolerance):
    """Selections may differ at the threshold, hence the tolerance on the gradient as a whole."""
    losses, gradients = [], []
    for precision in ("float32", "bf16"):
        generator = torch.Generator().manual_seed(0)
        spec = run_spec("local", d_sae=256, precision=precision, **settings)
        sae = build_sae(32, spec.training, spec.k)
        initialise(sae, spec.training, generator)
        x, dead = torch.randn(128, 32, generator=generator), torch.arange(256) % 2 == 0
        terms, _ = Objective(spec).terms(sae.train(), ByDensity(), x, dead=dead)
        assert all(value.dtype == torch.float32 for value in terms.values())
        loss = torch.stack(list(terms.values())).sum()
        loss.backward()
        losses.append(loss.item())
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in sae.parameters()]))
    assert losses[0] == pytest.approx(losses[1], rel=3e-3) and losses[0] != losses[1]
    assert (gradients[0] - gradients[1]).norm() < tolerance * gradients[0].norm()
