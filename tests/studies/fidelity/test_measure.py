"""Every measure equals a literal float64 recomputation, token by token, for each choice of positions."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.memory import largest_tensor
from tests.tiny_pipeline import CONTEXT, D_MODEL, D_VOCAB, N_LAYERS, run_spec, tiny_decoder, write_model

from saeworks.config.activations import ActivationsConfig
from saeworks.config.training import TrainingConfig
from saeworks.lm.sites import Site
from saeworks.sae.architectures.relu import ReluSAE
from saeworks.sae.init import initialise
from saeworks.store.errors import UserError
from saeworks.studies.evaluation import UNITS, evaluate, sampled_tokens
from saeworks.studies.fidelity.measure import measure
from saeworks.studies.fidelity.settings import FidelityConfig
from saeworks.studies.place import Place
from saeworks.training.run import train

_ROWS, _POS, _F = 5, 6, 40
_RUN = "blocks.1.hook_resid_pre/tiny-run"
_PLACES = {"all": slice(None), "first": slice(0, 1), "rest": slice(1, None)}


def _tokens(same_start: bool = False) -> np.ndarray:
    tokens = np.random.default_rng(1).integers(D_VOCAB, size=(_ROWS, _POS)).astype(np.uint16)
    if same_start:
        tokens[:, 0] = 0
    return tokens


def _sae(bias: float = 0.0) -> ReluSAE:
    sae = ReluSAE(D_MODEL, _F, decoder="normalised").double()
    initialise(sae, TrainingConfig(), torch.Generator().manual_seed(0))
    with torch.no_grad():
        sae.b_enc -= bias
        sae.W_dec *= 3
        sae.b_enc[:4] = -1e3  # never fire
    return sae


def _site(hook_point: str = "blocks.1.hook_resid_pre") -> Site:
    return Site.parse(hook_point, tiny_decoder().arch)


def _values(table, metric: str, layer: int = -1) -> dict[str, float]:
    here = table[(table["metric"] == metric) & (table["layer"] == layer)]
    return dict(zip(here["positions"], here["value"], strict=True))


def _residuals(model, row: np.ndarray, put: dict[str, torch.Tensor], seen: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    """Residuals before every block and after the last, of a forward pass in which each value at a hook point is noted in
    `seen`, or replaced by the one in `put`."""

    def hook(name: str, value: torch.Tensor) -> torch.Tensor:
        seen[name] = value
        return put.get(name, value)

    residuals = [model.embed(torch.from_numpy(row.astype(np.int64))[None])]
    for layer in range(N_LAYERS):
        at = f"blocks.{layer}"
        residuals[-1] = hook(f"{at}.hook_resid_pre", residuals[-1])
        z = hook(f"{at}.attn.hook_z", model._attention(layer, model._norm(f"{at}.ln1", residuals[-1]), None))
        mid = residuals[-1] + hook(f"{at}.hook_attn_out", model._linear(f"{at}.attn.o", z))
        residuals.append(hook(f"{at}.hook_resid_post", mid + hook(f"{at}.hook_mlp_out", model._mlp(layer, mid))))
    return residuals


class _Literal:
    """Per-token float64 values of everything, from the tokens, one row at a time."""

    @torch.no_grad()
    def __init__(self, sae: ReluSAE, model, site: Site, tokens: np.ndarray) -> None:
        self.x, self.out, self.codes = (np.zeros((*tokens.shape, n)) for n in (D_MODEL, D_MODEL, _F))
        self.ce = {name: np.zeros((len(tokens), tokens.shape[1] - 1)) for name in ("clean", "sae", "zero")}
        self.kl = {name: np.zeros(tokens.shape) for name in ("sae", "zero")}
        self.mse = {at: np.zeros(tokens.shape) for at in range(site.layer, N_LAYERS + 1)}
        self.pairs = {at: np.zeros((2, *tokens.shape, D_MODEL)) for at in self.mse}  # changed and clean residual
        weights = {name: p.numpy() for name, p in sae.named_parameters()}
        directions = weights["W_dec"] / np.sqrt((weights["W_dec"] ** 2).sum(axis=1, keepdims=True))
        for r, row in enumerate(tokens):
            seen: dict[str, torch.Tensor] = {}
            clean = _residuals(model, row, {}, seen)
            x = seen[site.name][0].numpy()
            self.x[r] = x
            self.codes[r] = np.maximum(x @ weights["W_enc"] + weights["b_enc"], 0)
            self.out[r] = self.codes[r] @ directions + weights["b_dec"]
            put = {"sae": torch.tensor(self.out[r])[None], "zero": torch.zeros(1, *x.shape, dtype=torch.float64)}
            streams = {name: _residuals(model, row, {site.name: value}, {}) for name, value in put.items()} | {"clean": clean}
            for at in range(site.layer, N_LAYERS + 1):
                pair = (self.out[r], x) if at == site.layer else (streams["sae"][at][0].numpy(), clean[at][0].numpy())
                self.pairs[at][:, r] = pair
                self.mse[at][r] = ((pair[0] - pair[1]) ** 2).sum(axis=1) / D_MODEL
            probabilities = {}
            for name, residuals in streams.items():
                weights_v = np.exp(model.logits(residuals[-1])[0].numpy())
                probabilities[name] = weights_v / weights_v.sum(axis=1, keepdims=True)
                for t in range(len(row) - 1):
                    self.ce[name][r, t] = -math.log(probabilities[name][t, row[t + 1]])
            for name in self.kl:
                for t in range(len(row)):
                    p, q = probabilities["clean"][t], probabilities[name][t]
                    self.kl[name][r, t] = sum(p[v] * math.log(p[v] / q[v]) for v in range(D_VOCAB))


@pytest.fixture(scope="module")
def model():
    return tiny_decoder(dtype=torch.float64)


_HOOK_POINTS = [
    "blocks.0.hook_resid_pre",
    "blocks.2.hook_resid_pre",
    f"blocks.{N_LAYERS - 1}.hook_resid_post",
    "blocks.1.hook_mlp_out",
    f"blocks.{N_LAYERS - 1}.hook_mlp_out",
    "blocks.2.hook_attn_out",
    "blocks.1.attn.hook_z",
]


@pytest.fixture(scope="module")
def measured(model):
    """`(layer, fidelity, features, literal)` at the bottom, in the middle and at the top of the model, and inside blocks."""
    found = []
    for hook_point in _HOOK_POINTS:
        site = _site(hook_point)
        fidelity, features, _ = evaluate(_sae(), model, site, _tokens(), 2)
        found.append((site.layer, fidelity, features, _Literal(_sae(), model, site, _tokens())))
    return found


def _assert_means(values: dict[str, float], tokens: np.ndarray) -> None:
    assert values.keys() == _PLACES.keys()
    for name, place in _PLACES.items():
        assert values[name] == pytest.approx(tokens[:, place].mean(), rel=1e-9), name


def test_cross_entropies_and_what_follows_from_them(measured):
    for _, table, _, literal in measured:
        for metric, name in (("ce_clean", "clean"), ("ce", "sae"), ("ce_zero", "zero")):
            _assert_means(_values(table, metric), literal.ce[name])
        _assert_means(_values(table, "ce_increase"), literal.ce["sae"] - literal.ce["clean"])
        for name, place in _PLACES.items():
            clean, new, zero = (literal.ce[k][:, place].mean() for k in ("clean", "sae", "zero"))
            assert _values(table, "ce_recovered")[name] == pytest.approx(1 - (new - clean) / (zero - clean), rel=1e-9)


def test_divergences_are_from_the_clean_to_the_changed_model(measured):
    for _, table, _, literal in measured:
        _assert_means(_values(table, "kl"), literal.kl["sae"])
        _assert_means(_values(table, "kl_zero"), literal.kl["zero"])
        for name, place in _PLACES.items():
            ratio = 1 - literal.kl["sae"][:, place].mean() / literal.kl["zero"][:, place].mean()
            assert _values(table, "kl_recovered")[name] == pytest.approx(ratio, rel=1e-9)


def test_reconstruction_error_at_every_layer_from_the_sae_to_the_end(measured):
    for layer, table, _, literal in measured:
        assert sorted(set(table[table["metric"] == "mse"]["layer"])) == list(range(layer, N_LAYERS + 1))
        for at in range(layer, N_LAYERS + 1):
            _assert_means(_values(table, "mse", at), literal.mse[at])


def test_sparsity_norms_and_angles(measured):
    for _, table, _, literal in measured:
        _assert_means(_values(table, "l0"), (literal.codes != 0).sum(axis=-1))
        _assert_means(_values(table, "l1"), np.abs(literal.codes).sum(axis=-1))
        size, out = (np.sqrt((v**2).sum(axis=-1)) for v in (literal.x, literal.out))
        _assert_means(_values(table, "l2_ratio"), out / size)
        _assert_means(_values(table, "cosine_similarity"), (literal.x * literal.out).sum(axis=-1) / size / out)


def test_the_cosine_of_random_pairs_is_the_mean_over_all_pairs(measured):
    for _, table, _, literal in measured:
        for name, place in _PLACES.items():
            x, out = (v[:, place].reshape(-1, D_MODEL) for v in (literal.x, literal.out))
            cosines = [a @ b / np.sqrt((a @ a) * (b @ b)) for a in x for b in out]
            assert _values(table, "cosine_similarity_random_pairs")[name] == pytest.approx(np.mean(cosines), rel=1e-9)


def test_explained_variance_is_the_ratio_of_sums_about_the_mean_of_those_positions(measured):
    for _, table, _, literal in measured:
        for name, place in _PLACES.items():
            x, out = (v[:, place].reshape(-1, D_MODEL) for v in (literal.x, literal.out))
            expected = 1 - ((x - out) ** 2).sum() / ((x - x.mean(axis=0)) ** 2).sum()
            assert _values(table, "explained_variance")[name] == pytest.approx(expected, rel=1e-7)


def test_the_paper_s_explained_variance_is_the_mean_of_ratios_about_each_batch_s_mean(measured):
    for _, table, _, literal in measured:
        ratios = np.zeros((_ROWS, _POS))
        for start in range(0, _ROWS, 2):
            x, out = literal.x[start : start + 2], literal.out[start : start + 2]
            spread = ((x - x.mean(axis=(0, 1))) ** 2).sum(axis=-1)
            ratios[start : start + 2] = 1 - ((x - out) ** 2).sum(axis=-1) / spread
        values = _values(table, "explained_variance_mean_of_ratios")
        _assert_means(values, ratios)
        assert abs(values["all"] - _values(table, "explained_variance")["all"]) > 1e-3  # the two differ


def _as_is(vector: np.ndarray) -> np.ndarray:
    return vector


def _standardised(vector: np.ndarray) -> np.ndarray:
    centred = vector - vector.mean()
    return centred / np.sqrt((centred**2).mean() + 1e-5)


def test_explained_variance_at_every_layer_by_both_definitions(measured):
    for both, (kind, change) in itertools.product(measured, [("", _as_is), ("_ln", _standardised)]):
        layer, table, _, literal = both
        metric = f"explained_variance{kind}"
        assert sorted(set(table[table["metric"] == metric]["layer"]) - {-1}) == list(range(layer, N_LAYERS + 1))
        for at, (new, clean) in literal.pairs.items():
            new, clean = (np.apply_along_axis(change, -1, side) for side in (new, clean))
            _assert_means(_values(table, f"{metric}_mean_of_ratios", at), _ratios(new, clean))
            for name, place in _PLACES.items():
                a, b = (side[:, place].reshape(-1, D_MODEL) for side in (new, clean))
                expected = 1 - ((a - b) ** 2).sum() / ((b - b.mean(axis=0)) ** 2).sum()
                assert _values(table, metric, at)[name] == pytest.approx(expected, rel=1e-7), (at, name)
            if at == layer:
                _assert_means(_values(table, f"{metric}_swapped", at), _ratios(clean, new))
        assert set(table[table["metric"] == f"{metric}_swapped"]["layer"]) == {layer}


def _ratios(new: np.ndarray, clean: np.ndarray) -> np.ndarray:
    """Explained variance of each token about the mean of its batch of two rows."""
    ratios = np.zeros((_ROWS, _POS))
    for start in range(0, _ROWS, 2):
        mean = clean[start : start + 2].mean(axis=(0, 1))
        for r in range(start, min(start + 2, _ROWS)):
            for t in range(_POS):
                ratios[r, t] = 1 - ((new[r, t] - clean[r, t]) ** 2).sum() / ((clean[r, t] - mean) ** 2).sum()
    return ratios


def test_under_no_layer_are_those_at_the_site(measured):
    for layer, table, _, _ in measured:
        for metric in ("explained_variance", "explained_variance_mean_of_ratios"):
            assert _values(table, metric) == _values(table, metric, layer)


def test_sampled_tokens_have_their_own_norms_and_cosines(model):
    for site in (_site(), _site("blocks.1.attn.hook_z")):
        literal = _Literal(_sae(), model, site, _tokens())
        for batch_rows in (2, 5):
            _, _, tokens = evaluate(_sae(), model, site, _tokens(), batch_rows, 12)
            picked = sampled_tokens(_ROWS, _POS, 12)
            assert len(tokens) == 14 and tokens["position"].tolist() == (picked % _POS).tolist()
            for token, row in zip(picked, tokens.itertuples(), strict=True):
                x, out = (v.reshape(-1, D_MODEL)[token] for v in (literal.x, literal.out))
                cosine = x @ out / np.sqrt((x @ x) * (out @ out))
                expected = (np.sqrt(x @ x), np.sqrt(out @ out), cosine)
                assert (row.input_norm, row.output_norm, row.cosine) == pytest.approx(expected, rel=1e-6)
            assert set(tokens.dtypes.astype(str)) == {"int32", "float32"}


def test_a_tenth_as_many_tokens_are_sampled_at_position_0():
    for n_rows, n_positions, n, first, later in [
        (50, 20, 100, 10, 100),
        (50, 20, 1, 1, 1),
        (4, 20, 2000, 4, 76),
        (3, 1, 10, 1, 0),
        (7, 9, 0, 0, 0),
    ]:
        picked = sampled_tokens(n_rows, n_positions, n)
        assert (picked % n_positions == 0).sum() == first and (picked % n_positions != 0).sum() == later
        assert (np.diff(picked) > 0).all() and (picked >= 0).all() and (picked < n_rows * n_positions).all()
        assert (picked == sampled_tokens(n_rows, n_positions, n)).all()


def test_sampled_tokens_lie_anywhere():
    counts = np.zeros((8, 5))
    for n_rows in range(4, 9):  # the draw depends on the shape
        picked = sampled_tokens(n_rows, 5, 12)
        counts[picked // 5, picked % 5] += 1
    assert (counts[:4, 1:].sum(axis=1) > 0).all() and (counts[:, 1:].sum(axis=0) > 0).all()


def test_features_count_their_firing_tokens(measured):
    for _, table, features, literal in measured:
        codes = literal.codes.reshape(-1, _F)
        assert features["feature"].tolist() == list(range(_F))
        for f in range(_F):
            fired = codes[:, f] != 0
            assert features["firing_rate"][f] == pytest.approx(fired.mean())
            assert features["mean_activation"][f] == pytest.approx(codes[fired, f].mean() if fired.any() else 0.0, rel=1e-9)
            assert features["alive"][f] == fired.any()
        alive = (codes != 0).any(axis=0).sum()
        assert alive <= _F - 4
        assert _values(table, "alive_features") == {"all": alive}
        assert _values(table, "alive_fraction") == {"all": pytest.approx(alive / _F)}


def test_every_row_has_a_unit_and_its_number_of_tokens(measured):
    for _, table, _, _ in measured:
        assert list(table.columns) == ["metric", "layer", "positions", "value", "unit", "n_tokens"]
        assert set(table["metric"]) == set(UNITS)
        assert (table["unit"] == table["metric"].map(UNITS)).all()
        assert not table.duplicated(["metric", "layer", "positions"]).any()
        counts = {"all": _ROWS * _POS, "first": _ROWS, "rest": _ROWS * (_POS - 1)}
        without_last = {"all": -_ROWS, "rest": -_ROWS, "first": 0}  # the last position has no next token, so no cross entropy
        expected = table["positions"].map(counts) + table["positions"].map(without_last).where(
            table["metric"].str.startswith("ce"), 0
        )
        assert (table["n_tokens"] == expected).all()


def test_results_do_not_depend_on_the_batch_but_for_the_mean_of_ratios(model):
    first, features, _ = evaluate(_sae(), model, _site(), _tokens(), 1)
    second, same, _ = evaluate(_sae(), model, _site(), _tokens(), 100)
    close = np.isclose(first["value"], second["value"], rtol=1e-9)
    assert set(first["metric"][~close]) == {
        f"explained_variance{kind}{by}" for kind in ("", "_ln") for by in ("_mean_of_ratios", "_swapped")
    }
    np.testing.assert_allclose(features["mean_activation"], same["mean_activation"], rtol=1e-9)


def test_activations_are_not_copied_to_a_larger_type():
    model, sae = tiny_decoder(), ReluSAE(D_MODEL, 4096, decoder="normalised")
    initialise(sae, TrainingConfig(), torch.Generator().manual_seed(0))
    dense = 4 * _ROWS * _POS * sae.d_sae
    assert dense <= largest_tensor(lambda: evaluate(sae, model, _site(), _tokens(), _ROWS)) < 2 * dense


def test_logits_in_several_parts_give_the_same(model, monkeypatch):
    whole, _, _ = evaluate(_sae(), model, _site(), _tokens(), 4)
    monkeypatch.setattr("saeworks.studies.evaluation._LOGIT_ROWS", 5)
    parts, _, _ = evaluate(_sae(), model, _site(), _tokens(), 4)
    np.testing.assert_allclose(parts["value"], whole["value"], rtol=1e-9)


def test_variance_at_a_position_that_never_varies_is_undefined(model):
    for dtype in [torch.float32, torch.float64]:
        table, _, _ = evaluate(_sae().to(dtype), model.to(dtype=dtype), _site(), _tokens(same_start=True), 2)
        undefined = table["metric"].str.startswith("explained_variance") & (table["positions"] == "first")
        assert table[undefined]["value"].isna().all() and np.isfinite(table[~undefined]["value"]).all()
        assert (table["layer"] >= 1)[undefined].sum() == 2 * (2 * N_LAYERS + 1)


def test_float32_models_give_the_float64_values_to_single_precision(model):
    exact, _, _ = evaluate(_sae(), model, _site(), _tokens(), 2)
    single, _, _ = evaluate(_sae().float(), model.to(dtype=torch.float32), _site(), _tokens(), 2)
    np.testing.assert_allclose(single["value"], exact["value"], rtol=2e-3)


def test_a_perfect_sae_recovers_everything(model):
    class Identity:
        d_sae = 3

        def __call__(self, x):
            return x, torch.ones(*x.shape[:-1], 3, dtype=x.dtype)

    table, features, _ = evaluate(Identity(), model, _site(), _tokens(), 2)
    expected = {"ce_increase": 0, "ce_recovered": 1, "kl": 0, "kl_recovered": 1, "explained_variance": 1, "l2_ratio": 1, "l0": 3}
    for metric, value in expected.items():
        assert _values(table, metric) == pytest.approx(dict.fromkeys(_PLACES, value), abs=1e-12)
    assert features["firing_rate"].tolist() == [1.0] * 3


def test_a_silent_sae_is_measured(model):
    table, features, _ = evaluate(_sae(bias=1e6), model, _site(), _tokens(), 2)
    assert _values(table, "l0")["all"] == 0 and _values(table, "alive_features")["all"] == 0
    assert not features["alive"].any() and (features["mean_activation"] == 0).all()
    constant = table["metric"].str.endswith("_swapped")  # the output, whose variance is in the denominator
    assert table[constant]["value"].isna().all() and np.isfinite(table[~constant]["value"]).all()


def test_rows_of_two_tokens_have_no_cross_entropy_after_the_first(model):
    table, _, _ = evaluate(_sae(), model, _site(), _tokens()[:, :2], 2)
    values = _values(table, "ce")
    assert math.isnan(values["rest"]) and values["first"] == values["all"]
    assert math.isfinite(_values(table, "kl")["rest"])


@pytest.fixture(scope="module")
def results(tmp_path_factory, tiny_model, tiny_corpus) -> Path:
    """Folder of the results of an experiment of one run."""
    folder = tmp_path_factory.mktemp("results")
    stream = ActivationsConfig(source="stream")
    train(run_spec(), stream, None, tiny_model, tiny_corpus, folder / "saes" / _RUN, folder / "scratch", progress=False)
    return folder


def test_a_run_is_evaluated_on_held_out_rows(results, tiny_model, tiny_corpus):
    place = Place(results, _RUN, tiny_model, tiny_corpus)
    found = measure(place, FidelityConfig(batch_rows=3))
    assert len(found["tokens"]) == 10 * CONTEXT  # of the eval rows, not the training rows
    assert set(found["fidelity"].query("positions == 'all' and metric == 'kl'")["n_tokens"]) == {10 * CONTEXT}
    fewer = measure(place, FidelityConfig(n_tokens=3 * CONTEXT + 2, sample_tokens=10))
    assert set(fewer["fidelity"].query("positions == 'all' and metric == 'kl'")["n_tokens"]) == {3 * CONTEXT}
    assert len(fewer["tokens"]) == 11


@pytest.mark.parametrize("same_name", [False, True])
def test_a_run_of_another_model_is_refused(tmp_path, results, tiny_model, tiny_corpus, same_name):
    other = write_model(tmp_path / "model", seed=1)
    if same_name:
        record = json.loads((other / "manifest.json").read_text())
        record["model"] = json.loads((tiny_model / "manifest.json").read_text())["model"]
        (other / "manifest.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match="was trained on another model"):
        measure(Place(results, _RUN, other, tiny_corpus), FidelityConfig())
