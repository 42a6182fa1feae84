"""The objectives equal, gradients included, a literal recomputation of the whole model with full logits in float64."""

from __future__ import annotations

import pytest
import torch
from tests.tiny_pipeline import D_MODEL, D_VOCAB, N_LAYERS, run_spec, tiny_decoder

from saeworks.sae.init import init_braun2024
from saeworks.sae.relu import ReluSAE
from saeworks.store.errors import UserError
from saeworks.training.objective import Coefficients, coefficients, downstream_layers, e2e_terms, local_terms, total

_LAYER, _ROWS, _CONTEXT = 1, 3, 6


@pytest.fixture(scope="module")
def model():
    return tiny_decoder(dtype=torch.float64)


@pytest.fixture
def sae() -> ReluSAE:
    sae = ReluSAE(D_MODEL, 40).double()
    init_braun2024(sae, torch.Generator().manual_seed(0))
    return sae


def _tokens() -> torch.Tensor:
    return torch.randint(D_VOCAB, (_ROWS, _CONTEXT), generator=torch.Generator().manual_seed(1))


def _literal(sae: ReluSAE, model, tokens: torch.Tensor, layer: int, downstream: list[int]) -> dict[str, torch.Tensor]:
    """All loss terms by loops over rows, positions and vocabulary, the model run from the tokens, block by block."""
    sums = dict.fromkeys(("logits_kl", "out_to_in", "sparsity", "in_to_orig"), torch.zeros((), dtype=torch.float64))
    n = tokens.numel()
    directions = sae.W_dec / sae.W_dec.pow(2).sum(dim=1, keepdim=True).sqrt()
    for row in tokens:
        resid = model.embed(row[None])
        original, new = {}, {}
        for at in range(N_LAYERS + 1):
            original[at] = resid[0]
            resid = model.blocks(resid, at, at + 1)[0] if at < N_LAYERS else resid
        codes = (original[layer] @ sae.W_enc + sae.b_enc).clamp(min=0)
        output = codes @ directions + sae.b_dec
        resid = output[None]
        for at in range(layer, N_LAYERS + 1):
            new[at] = resid[0]
            resid = model.blocks(resid, at, at + 1)[0] if at < N_LAYERS else resid
        for position in range(tokens.shape[1]):
            p, q = (model.logits(r[N_LAYERS][position]).softmax(dim=0) for r in (original, new))
            sums["logits_kl"] = sums["logits_kl"] + sum(p[v] * (p[v] / q[v]).log() for v in range(D_VOCAB)) / n
            error = (output[position] - original[layer][position]) ** 2
            sums["out_to_in"] = sums["out_to_in"] + error.sum() / D_MODEL / n
            sums["sparsity"] = sums["sparsity"] + codes[position].sum() / D_MODEL / n
            for at in downstream:
                error = (new[at][position] - original[at][position]) ** 2
                sums["in_to_orig"] = sums["in_to_orig"] + error.sum() / D_MODEL / n / len(downstream)
    return sums


def _residual(model, layer: int = _LAYER) -> torch.Tensor:
    return model.blocks(model.embed(_tokens()), 0, layer)[0].detach()


def _gradients(value: torch.Tensor, sae: ReluSAE) -> list[torch.Tensor]:
    return list(torch.autograd.grad(value, list(sae.parameters())))


def _assert_equal_gradients(ours: torch.Tensor, expected: torch.Tensor, sae: ReluSAE) -> None:
    for a, b in zip(_gradients(ours, sae), _gradients(expected, sae), strict=True):
        assert b.abs().max() > 1e-8
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-12)


def test_local_terms_total_and_gradients_equal_the_literal_formula(model, sae):
    spec = run_spec("local", sparsity_coeff=0.7)
    terms, codes = local_terms(sae, _residual(model).flatten(0, 1))
    literal = _literal(sae, model, _tokens(), _LAYER, [])
    assert set(terms) == {"out_to_in", "sparsity"}
    for name, value in terms.items():
        torch.testing.assert_close(value, literal[name], rtol=1e-9, atol=0)
    loss, expected = total(terms, coefficients(spec)), literal["out_to_in"] + 0.7 * literal["sparsity"]
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=0)
    _assert_equal_gradients(loss, expected, sae)
    assert codes.shape == (_ROWS * _CONTEXT, 40)


@pytest.mark.parametrize("layer", [0, _LAYER, N_LAYERS - 1, N_LAYERS])
def test_e2e_terms_total_and_gradients_equal_the_literal_formula(model, sae, layer):
    spec = run_spec("e2e", sparsity_coeff=0.7)
    terms, codes = e2e_terms(sae, model, layer, _residual(model, layer), [])
    literal = _literal(sae, model, _tokens(), layer, [])
    assert set(terms) == {"logits_kl", "out_to_in", "sparsity"}
    for name, value in terms.items():
        torch.testing.assert_close(value, literal[name], rtol=1e-8, atol=0)
    loss, expected = total(terms, coefficients(spec)), literal["logits_kl"] + 0.7 * literal["sparsity"]
    torch.testing.assert_close(loss, expected, rtol=1e-8, atol=0)
    _assert_equal_gradients(loss, expected, sae)
    assert codes.shape == (_ROWS, _CONTEXT, 40)


@pytest.mark.parametrize("downstream", [[2, 3], [3]])
def test_e2e_ds_terms_total_and_gradients_equal_the_literal_formula(model, sae, downstream):
    spec = run_spec("e2e_ds", sparsity_coeff=0.7)
    terms, _ = e2e_terms(sae, model, _LAYER, _residual(model), downstream)
    literal = _literal(sae, model, _tokens(), _LAYER, downstream)
    assert set(terms) == {"logits_kl", "out_to_in", "sparsity", "in_to_orig"}
    for name, value in terms.items():
        torch.testing.assert_close(value, literal[name], rtol=1e-8, atol=0)
    loss = total(terms, coefficients(spec))
    expected = 0.5 * literal["logits_kl"] + 2.5 * literal["in_to_orig"] + 0.7 * literal["sparsity"]
    torch.testing.assert_close(loss, expected, rtol=1e-8, atol=0)
    _assert_equal_gradients(loss, expected, sae)


def test_reconstruction_is_only_tracked_in_the_end_to_end_objectives(model, sae):
    terms, _ = e2e_terms(sae, model, _LAYER, _residual(model), [2])
    assert not terms["out_to_in"].requires_grad
    assert all(value.requires_grad for name, value in terms.items() if name != "out_to_in")


def test_only_the_sae_gets_a_gradient(sae):
    frozen = tiny_decoder(dtype=torch.float64)
    before = {name: weight.clone() for name, weight in frozen.weights.items()}
    x = _residual(frozen)
    terms, _ = e2e_terms(sae, frozen, _LAYER, x, [2, 3])
    total(terms, coefficients(run_spec("e2e_ds"))).backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in sae.parameters())
    assert x.grad is None
    for name, weight in frozen.weights.items():
        assert not weight.requires_grad and weight.grad is None
        assert torch.equal(weight, before[name])


def test_the_clean_pass_keeps_no_graph(sae, monkeypatch):
    model = tiny_decoder(dtype=torch.float64)
    modes, real = [], model.blocks

    def blocks(*args, **kwargs):
        modes.append(torch.is_grad_enabled())
        return real(*args, **kwargs)

    x = _residual(model)
    monkeypatch.setattr(model, "blocks", blocks)
    e2e_terms(sae, model, _LAYER, x, [])
    assert modes == [False, True]  # one pass without gradient and one with


def test_a_perfect_reconstruction_has_no_end_to_end_loss(model):
    class Identity:
        d_in = D_MODEL

        def __call__(self, x):
            return x, torch.zeros(*x.shape[:-1], 3)

    terms, _ = e2e_terms(Identity(), model, _LAYER, _residual(model), [2, 3])
    assert {name: round(value.item(), 12) for name, value in terms.items()} == dict.fromkeys(terms, 0.0)


@pytest.mark.parametrize(
    ("objective", "changes", "expected"),
    [
        ("local", {}, (1.0, 0.0, 0.0)),
        ("e2e", {}, (0.0, 1.0, 0.0)),
        ("e2e_ds", {}, (0.0, 0.5, 2.5)),
        ("e2e", {"kl_coeff": 0.3}, (0.0, 0.3, 0.0)),
        ("e2e_ds", {"kl_coeff": 0.0, "downstream_coeff": 0.05}, (0.0, 0.0, 0.05)),
    ],
)
def test_coefficients_are_the_paper_s_unless_set(objective, changes, expected):
    assert coefficients(run_spec(objective, sparsity_coeff=4.0, **changes)) == Coefficients(*expected, 4.0)


def test_the_total_is_the_weighted_sum_of_the_terms_there_are():
    terms = {"out_to_in": torch.tensor(2.0), "sparsity": torch.tensor(3.0), "logits_kl": torch.tensor(5.0)}
    assert total(terms, Coefficients(out_to_in=1, logits_kl=0.5, in_to_orig=7, sparsity=10)).item() == 2 + 2.5 + 30


def test_a_term_without_weight_cannot_spoil_the_total():
    terms = {"out_to_in": torch.tensor(float("nan")), "sparsity": torch.tensor(3.0)}
    assert total(terms, Coefficients(out_to_in=0, logits_kl=1, in_to_orig=1, sparsity=2)).item() == 6


@pytest.mark.parametrize(
    ("objective", "chosen", "layer", "expected"),
    [
        ("e2e_ds", None, 1, [2, 3]),
        ("e2e_ds", None, 2, [3]),
        ("e2e_ds", [3, 2, 3], 1, [2, 3]),
        ("e2e_ds", [3], 1, [3]),
        ("e2e", None, 1, []),
        ("local", None, 1, []),
    ],
)
def test_downstream_layers_are_those_after_the_sae_and_before_the_end(objective, chosen, layer, expected):
    assert downstream_layers(run_spec(objective, downstream_layers=chosen), layer, N_LAYERS) == expected


@pytest.mark.parametrize(("chosen", "layer"), [([1, 2], 1), ([4], 1), ([0], 1), (None, 3), (None, 4), ([3], 3)])
def test_layers_that_are_not_downstream_are_one_sentence(chosen, layer):
    spec = run_spec("e2e_ds", downstream_layers=chosen, hook_point=f"blocks.{layer}.hook_resid_pre")
    with pytest.raises(UserError) as caught:
        downstream_layers(spec, layer, N_LAYERS)
    message = str(caught.value)
    assert "`downstream_layers`" in message and "tiny-run" in message and "\n" not in message
    assert str(list(range(layer + 1, N_LAYERS))) in message
