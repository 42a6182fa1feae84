"""Divergences equal literal float64 ones of whole passes; where a model ignores a part of the activation, errors in it have none."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
from pydantic import ValidationError
from tests.each import each
from tests.saes import trained_sae
from tests.tiny_pipeline import D_MODEL, D_VOCAB, HOOK, tiny_decoder, write_tokenizer
from transformers import AutoTokenizer

from saeworks.lm.decoder import Decoder
from saeworks.lm.sites import Site
from saeworks.store.errors import UserError
from saeworks.studies import studies
from saeworks.studies.errors import measure as module
from saeworks.studies.errors.interventions import MAKE, Draws, Tokens, at_distance
from saeworks.studies.errors.measure import HookPoint, divergences, rounded
from saeworks.studies.errors.readers import unread_directions
from saeworks.studies.errors.settings import INTERVENTIONS, ErrorsConfig
from saeworks.studies.gather import gather
from saeworks.studies.tables import TableWriter, read_columns

_ROWS, _POS = 6, 10
_RUNS = {"a": 0, "b": 1}
_CONFIG = ErrorsConfig(
    batch_rows=4,
    single_position=3,
    following=4,
    draw_position=5,
    draw_tokens=2,
    n_draws=7,
    sweep_rows=3,
    n_directions=4,
    n_next=5,
)
_SITES = (HOOK, "blocks.2.hook_mlp_out", "blocks.2.hook_attn_out", "blocks.1.attn.hook_z", "blocks.3.hook_resid_post")


def _tokens() -> np.ndarray:
    return np.random.default_rng(3).integers(1, D_VOCAB, size=(_ROWS, _POS)).astype(np.uint16)


@pytest.fixture(scope="module")
def model() -> Decoder:
    return tiny_decoder(dtype=torch.float64)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder)
    return AutoTokenizer.from_pretrained(folder)


def _sae(seed: int = 0):
    return trained_sae("relu", seed=seed, d_in=D_MODEL, d_sae=40, decoder="normalised").double().requires_grad_(False)


def _tables(model, tokenizer, hook: str = HOOK, **changes) -> dict[str, pd.DataFrame]:
    """All tables of two runs that are each other's second seed; run `b` was not chosen."""
    point = HookPoint(model, Site.parse(hook, model.arch), _tokens(), _CONFIG.model_copy(update=changes))
    names = {"a": list(INTERVENTIONS), "b": ["sae", "random"]}
    parts: dict[str, list[pd.DataFrame]] = {}
    saes = {run: _sae(seed) for run, seed in _RUNS.items()}
    for part in point.tables(saes, names, {"a": "b", "b": "a"}, ["a"], tokenizer):
        for name, frame in part.items():
            parts.setdefault(name, []).append(frame)
    return {name: pd.concat(frames, ignore_index=True) for name, frames in parts.items()}


@pytest.fixture(scope="module")
def tables(model, tokenizer) -> dict[str, pd.DataFrame]:
    return _tables(model, tokenizer)


def _replaced(model, hook: str, row: np.ndarray, value: torch.Tensor | None) -> np.ndarray:
    """Log-probabilities of a row, one pass for it alone, with a value (pos, d) in the place of that at the hook point."""
    tokens = torch.from_numpy(row.astype(np.int64))[None]
    if value is None:
        return model.forward(tokens).log_softmax(dim=-1)[0].numpy()
    site = Site.parse(hook, model.arch)
    values = model.hook_values(tokens, dict.fromkeys([site.name, site.stream]))
    last, _ = model.continue_from(site, value[None], values[site.name], values[site.stream])
    return model.logits(last).log_softmax(dim=-1)[0].numpy()


def _kl(log_p: np.ndarray, log_q: np.ndarray) -> np.ndarray:
    return (np.exp(log_p) * (log_p - log_q)).sum(axis=-1)


def _interventions(model, hook: str) -> Tokens:
    """Run `a` on all rows at once."""
    point = HookPoint(model, Site.parse(hook, model.arch), _tokens(), _CONFIG)
    assert point.around.unread.shape[1] > 0
    x = model.hook_values(torch.from_numpy(_tokens().astype(np.int64)), [hook])[hook]
    draws = Draws("a", range(_ROWS), _POS, x)
    pool = point.around.pool
    return Tokens(x, _sae()(x)[0], point.around, draws, _sae()(pool)[0] - pool, _sae(1)(x)[0])


_CLOSE = {"rtol": 2.0**-8, "atol": 1e-9}  # of the stored values


def test_every_column_of_the_frame_equals_a_literal_pass_one_row_and_one_intervention_at_a_time(model, tables):
    t, rows = _interventions(model, HOOK), _tokens()
    frame = tables["errors"].query("run == 'a'").sort_values(["row", "position"])
    assert list(frame["row"]) == list(np.repeat(range(_ROWS), _POS)) and list(frame["token"]) == list(rows.flatten())
    x, output, codes = t.x.numpy(), t.output.numpy(), _sae()(t.x)[1].numpy()
    literal = {
        "input_norm": np.linalg.norm(x, axis=-1),
        "output_norm": np.linalg.norm(output, axis=-1),
        "error": np.linalg.norm(output - x, axis=-1),
        "cosine": (x * output).sum(-1) / np.linalg.norm(x, axis=-1) / np.linalg.norm(output, axis=-1),
        "l0": (codes != 0).sum(-1),
    }
    for name, value in literal.items():
        np.testing.assert_allclose(frame[name], value.flatten(), rtol=2.0**-8, err_msg=name)
    for name, make in MAKE.items():
        made = make(t)
        for r in range(_ROWS):
            log_p, log_q = _replaced(model, HOOK, rows[r], None), _replaced(model, HOOK, rows[r], made[r])
            here, following = frame[frame["row"] == r], rows[r, 1:].astype(int)
            np.testing.assert_allclose(here[f"kl_{name}"], _kl(log_p, log_q), **_CLOSE, err_msg=name)
            ce, clean = (-log[np.arange(_POS - 1), following] for log in (log_q, log_p))
            np.testing.assert_allclose(here[f"ce_{name}"][:-1], ce - clean, **_CLOSE, err_msg=name)
            np.testing.assert_allclose(here["ce_clean"][:-1], clean, **_CLOSE)
            assert here[["ce_clean", f"ce_{name}"]].iloc[-1].isna().all()


def test_runs_that_were_not_chosen_have_what_they_are_asked_for_and_nothing_else(tables):
    other = tables["errors"].query("run == 'b'")
    measured = {name for name in INTERVENTIONS if other[f"kl_{name}"].notna().all()}
    assert measured == {"sae", "random"} and other[[f"kl_{n}" for n in INTERVENTIONS if n not in measured]].isna().all(axis=None)
    assert set(tables["errors_single"]["run"]) == set(tables["errors_draws"]["run"]) == {"a"}


@each("hook", _SITES)
def test_one_position_alone_at_every_kind_of_hook_point(model, hook):
    """Positions before it are exactly untouched, and none of them is in the table."""
    rows, site = _tokens(), Site.parse(hook, model.arch)
    if site.kind == "z":
        assert site.d_in == D_MODEL
    point = HookPoint(model, site, rows, _CONFIG)
    batch = next(iter(point.batches()))
    t = _interventions(model, hook)
    patched = torch.stack([HookPoint._only_at(batch.x, MAKE[name](t)[:4], 3) for name in ("sae", "random", "zero")])
    everywhere, _ = point.compare(batch, patched)
    reached = slice(3, 4 if site.layer == model.arch.n_layers else None)  # the last residual is read at its own position alone
    assert (everywhere[..., :3] == 0).all() and (everywhere[..., reached] > 0).all()
    near, increase = point.compare(batch, patched, point.window)
    assert point.window == slice(3, 8) and near.shape == (3, 4, 5)
    np.testing.assert_allclose(near, everywhere[..., 3:8], rtol=1e-9)
    for i in range(3):
        for r in range(4):
            log_p, log_q = _replaced(model, hook, rows[r], None), _replaced(model, hook, rows[r], patched[i, r])
            np.testing.assert_allclose(near[i, r], _kl(log_p, log_q)[3:8], rtol=1e-7, atol=1e-12)
            at, token = np.arange(3, 8), rows[r, 4:9].astype(int)
            np.testing.assert_allclose(increase[i, r], log_p[at, token] - log_q[at, token], rtol=1e-7, atol=1e-12)


def test_the_table_of_one_position_has_that_position_and_those_after_it(model, tables):
    frame = tables["errors_single"]
    assert sorted(set(zip(frame["position"], frame["offset"], strict=True))) == [(3 + i, i) for i in range(5)]
    t, rows = _interventions(model, HOOK), _tokens()
    for name in ("random", "zero", "other_seed"):
        patched = HookPoint._only_at(t.x, MAKE[name](t), 3)
        for r in range(_ROWS):
            kl = _kl(_replaced(model, HOOK, rows[r], None), _replaced(model, HOOK, rows[r], patched[r]))
            np.testing.assert_allclose(frame[frame["row"] == r][f"kl_{name}"], kl[3:8], **_CLOSE)


def test_batches_of_any_size_give_the_same_tables(model, tokenizer, tables, monkeypatch):
    monkeypatch.setattr(module, "_FORWARD_TOKENS", {"cpu": 1, "cuda": 1})  # one intervention at a time
    monkeypatch.setattr(module, "_LOGIT_ROWS", {"cpu": 3, "cuda": 3})
    monkeypatch.setattr(module, "_VECTORS", 2)
    other = _tables(model, tokenizer, batch_rows=1)
    for name, table in tables.items():
        keys = [k for k in ("run", "sweep", "direction", "level", "row", "position", "offset", "draw", "rank") if k in table]
        one, two = (frame.sort_values(keys, ignore_index=True) for frame in (table, other[name]))
        pd.testing.assert_frame_equal(one, two, rtol=2.0**-7, atol=1e-7)  # a rounding may fall to the other side


@each("hook", _SITES)
def test_a_random_vector_in_the_direction_of_the_error_has_the_divergence_of_the_sae(model, hook):
    t = _interventions(model, hook)
    point = HookPoint(model, Site.parse(hook, model.arch), _tokens(), _CONFIG.model_copy(update={"batch_rows": _ROWS}))
    batch = next(iter(point.batches()))
    both, _ = point.compare(batch, torch.stack([t.output, t.toward(17.0 * t.error)]))
    np.testing.assert_allclose(both[0], both[1], rtol=1e-9)


@each("hook", _SITES)
def test_many_vectors_at_one_position_equal_whole_rows_with_each(model, hook):
    site = Site.parse(hook, model.arch)
    point = HookPoint(model, site, _tokens(), _CONFIG.model_copy(update={"batch_rows": 1}))
    batch = next(iter(point.batches()))
    for at in (0, 5):
        vectors = torch.randn(5, site.d_in, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        found = model.logits(point.run_one(batch, vectors, at)).log_softmax(dim=-1)
        for i in range(5):
            value = batch.x[0].clone()
            value[at] = vectors[i]
            np.testing.assert_allclose(found[i], _replaced(model, hook, _tokens()[0], value)[at], rtol=1e-8, atol=1e-8)


def test_draws_and_examples_are_those_of_single_passes(model, tokenizer, tables):
    draws, t, rows = tables["errors_draws"], _interventions(model, HOOK), _tokens()
    assert draws.groupby("row")["draw"].apply(list).tolist() == [list(range(-1, 7))] * 2 and set(draws["position"]) == {5}
    for r in (0, 1):
        noise = Draws("a", range(r, r + 1), 7, t.x).normal("draws")[0]
        vectors = at_distance(t.x[r, 5][None], noise, (t.output[r, 5] - t.x[r, 5]).norm())
        for draw, vector in enumerate([t.output[r, 5], *vectors], start=-1):
            value = t.x[r].clone()
            value[5] = vector
            kl = _kl(_replaced(model, HOOK, rows[r], None), _replaced(model, HOOK, rows[r], value))[5]
            found = draws[(draws["row"] == r) & (draws["draw"] == draw)]["kl"].item()
            assert found == pytest.approx(kl, rel=2.0**-8)
    for (r,), example in tables["errors_examples"].groupby(["row"]):
        log_p = _replaced(model, HOOK, rows[r], None)[5]
        assert list(example["token"]) == list(np.argsort(-log_p)[:5]) and list(example["rank"]) == list(range(5))
        np.testing.assert_allclose(example["log_p"], np.sort(log_p)[::-1][:5], rtol=1e-5)
        value = t.x[r].clone()
        value[5] = t.output[r, 5]
        log_q = _replaced(model, HOOK, rows[r], value)[5]
        np.testing.assert_allclose(example["log_sae"], log_q[example["token"]], rtol=1e-5)
        assert example["kl_sae"].iloc[0] == pytest.approx(_kl(log_p, log_q), rel=1e-5)
        assert list(example["text"]) == [tokenizer.decode([token]) for token in example["token"]]


def test_sweeps_rescale_errors_and_noise_to_the_same_lengths_and_cosines(model, tables):
    sweep, t, rows = tables["errors_sweep"], _interventions(model, HOOK), _tokens()
    mean_norm = t.around.pool.norm(dim=-1).mean().item()
    lengths = sweep.query("sweep == 'length'")
    np.testing.assert_allclose(lengths["length"], lengths["level"] * mean_norm)
    assert set(sweep["row"]) == {0, 1, 2} and set(lengths["direction"]) == {"error", "random", "real_mixture"}
    noise = Draws("", range(3), _POS, t.x).normal("cosine")

    def literal(made: torch.Tensor, r: int) -> float:
        return _kl(_replaced(model, HOOK, rows[r], None), _replaced(model, HOOK, rows[r], made))[1:].mean()

    for r in range(3):
        for level in (0.1, 1.0):
            error = t.error[r] / t.error[r].norm(dim=-1, keepdim=True)
            found = lengths.query("direction == 'error' and level == @level and row == @r and run == 'a'")["kl"].item()
            assert found == pytest.approx(literal(t.x[r] + level * mean_norm * error, r), rel=1e-7)
        for level in (0.4, 0.99):
            x, u = t.x[r].numpy(), noise[r].numpy()
            size = np.linalg.norm(x, axis=-1, keepdims=True)
            u = u - (u * x).sum(-1, keepdims=True) * x / size**2
            u /= np.linalg.norm(u, axis=-1, keepdims=True)
            made = torch.from_numpy(0.9 * (level * x + np.sqrt(1 - level**2) * size * u))
            found = sweep.query("sweep == 'cosine' and level == @level and row == @r")["kl"].item()
            assert found == pytest.approx(literal(made, r), rel=1e-7)


def _ignoring(model: Decoder, site: Site, n: int) -> tuple[Decoder, torch.Tensor]:
    """The model with later layers that do not see the first `n` of orthonormal directions, which are the rows of the second.

    They are projected out of every matrix that reads the residual, behind norms that centre nothing and divide by what is constant
    up to 1e-12: next to 1e12, the activations' mean square is nothing.
    """
    generator = torch.Generator().manual_seed(5)
    directions = torch.linalg.qr(torch.randn(D_MODEL, n, generator=generator, dtype=torch.float64))[0]
    keep = torch.eye(D_MODEL, dtype=torch.float64) - directions @ directions.T
    weights = {name: value for name, value in model.weights.items() if not (name.startswith("ln_") or ".ln" in name)}
    norms = [f"blocks.{layer}.{norm}" for layer in range(model.arch.n_layers) for norm in ("ln1", "ln2")]
    weights |= {f"{norm}.w": torch.full((D_MODEL,), 1e6 / 4, dtype=torch.float64) for norm in [*norms, "ln_final"]}
    for layer in range(site.resume, model.arch.n_layers):
        for name in ("attn.qkv.W", "mlp.in.W"):
            weights[f"blocks.{layer}.{name}"] = weights[f"blocks.{layer}.{name}"] @ keep
    weights["unembed.W"] = weights["unembed.W"] @ keep
    return Decoder(dataclasses.replace(model.arch, norm="rms", eps=1e12), weights), directions.T


def test_an_error_in_a_subspace_that_later_layers_ignore_has_no_divergence_and_one_outside_all_of_it(model):
    site = Site.parse(HOOK, model.arch)
    planted, ignored = _ignoring(model, site, 5)
    point = HookPoint(planted, site, _tokens(), _CONFIG.model_copy(update={"batch_rows": _ROWS}))
    batch = next(iter(point.batches()))
    noise = torch.randn(_ROWS, _POS, D_MODEL, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    inside = noise @ ignored.T @ ignored
    kl, increase = point.compare(batch, torch.stack([batch.x + 3 * inside, batch.x + noise - inside, batch.x + noise]))
    assert kl[0].max() < 1e-13 and increase[0, :, :-1].abs().max() < 1e-10
    assert kl[1].min() > 1e-3
    np.testing.assert_allclose(kl[1], kl[2], rtol=1e-9)
    found = unread_directions(planted, site, 1e-12)
    np.testing.assert_allclose(found @ found.T, ignored.T @ ignored, atol=1e-7)
    around = dataclasses.replace(point.around, top=ignored.T, unread=found)
    t = Tokens(batch.x, batch.x + noise, around, Draws("a", batch.index, _POS, batch.x))
    for part in ("directions", "unread"):
        split, _ = point.compare(batch, torch.stack([MAKE[n](t) for n in (f"on_{part}", f"off_{part}", "sae")]))
        assert split[0].max() < 1e-12
        np.testing.assert_allclose(split[1], split[2], rtol=1e-8)


@each("hook", [*_SITES, "blocks.2.hook_resid_mid"])
@each("share", [0.02, 0.3])
def test_unread_directions_are_the_smallest_singular_ones_of_what_reads_later(model, hook, share):
    """Literally: the Jacobian of each reader from the hook point, as a matrix of NumPy, LayerNorm's division left out."""
    site, arch, weights = Site.parse(hook, model.arch), model.arch, {k: v.numpy() for k, v in model.weights.items()}
    centre = np.eye(D_MODEL) - 1 / D_MODEL
    block, kind = int(hook.split(".")[1]), hook.rsplit("_", 1)[-1]
    names, first = [], block + (kind != "pre")
    if hook.endswith(("hook_z", "attn_out", "resid_mid")):
        names.append((f"blocks.{block}.mlp.in.W", f"blocks.{block}.ln2.w"))
    for layer in range(first, arch.n_layers):
        names += [(f"blocks.{layer}.{w}.W", f"blocks.{layer}.{n}.w") for w, n in (("attn.qkv", "ln1"), ("mlp.in", "ln2"))]
    matrices = []
    for name, norm in [*names, ("unembed.W", "ln_final.w")]:
        read = weights[name] @ np.diag(weights.get(norm, np.ones(D_MODEL))) @ centre
        matrices += np.split(read, 3) if "qkv" in name else [read - read.mean(axis=0)] if "unembed" in name else [read]
    stacked = np.concatenate([m / np.linalg.norm(m) for m in matrices])
    if site.kind == "z":
        stacked = stacked @ weights[f"blocks.{block}.attn.o.W"]
    squares = np.linalg.svd(stacked)[1] ** 2
    found = unread_directions(model, site, share).numpy()
    n = found.shape[1]
    assert squares[len(squares) - n :].sum() <= share * squares.sum() < squares[len(squares) - n - 1 :].sum()
    np.testing.assert_allclose(found.T @ found, np.eye(n), atol=1e-12)
    assert np.square(stacked @ found).sum() == pytest.approx(squares[len(squares) - n :].sum())


def test_a_model_that_only_the_bridge_runs_has_no_unread_directions_and_nothing_measured_there(model, monkeypatch):
    monkeypatch.setattr(module, "Decoder", ())  # what `isinstance` takes for no class at all
    point = HookPoint(model, Site.parse("blocks.2.hook_mlp_out", model.arch), _tokens(), _CONFIG)
    sae = _sae()
    frame = next(iter(point._batch(next(iter(point.batches())), {"a": sae}, {"a": ["sae", "random", "on_unread"]}, {}, [], {})))
    assert frame["errors"]["kl_sae"].notna().all() and frame["errors"]["kl_on_unread"].isna().all()


def test_divergences_of_float32_are_right_from_the_tiny_to_the_huge(model):
    """Against float64: from no difference at all up to predictions that have nothing in common."""
    single = model.to(dtype=torch.float32)
    last = torch.randn(6, D_MODEL, generator=torch.Generator().manual_seed(0))
    step = torch.randn(6, D_MODEL, generator=torch.Generator().manual_seed(1))
    targets, at = torch.arange(6), (range(6), range(6))
    assert (divergences(single, last, [last], targets, 4)[1] == 0).all()
    for size in (1e-2, 1e-1, 1.0):
        moved = last + size * step
        log_p, log_q = (model.logits(v.double()).log_softmax(-1).numpy() for v in (last, moved))
        ce, divergence, increase = divergences(single, last, [moved, last], targets, 4)
        np.testing.assert_allclose(ce, -log_p[at], rtol=1e-5)
        np.testing.assert_allclose(divergence[0], _kl(log_p, log_q), rtol=1e-3, atol=1e-6)
        np.testing.assert_allclose(increase[0], log_p[at] - log_q[at], rtol=1e-3, atol=5e-6)
        assert (divergence[1] == 0).all() and (increase[1] == 0).all()
    single.weights["unembed.W"] = single.weights["unembed.W"] * 100
    _, divergence, increase = divergences(single, last, [-last], targets, 4)
    log_p, log_q = (single.logits(v).double().log_softmax(-1).numpy() for v in (last, -last))
    assert divergence.min() > 88 and divergence.isfinite().all()
    np.testing.assert_allclose(divergence[0], _kl(log_p, log_q), rtol=1e-5)
    np.testing.assert_allclose(increase[0], log_p[at] - log_q[at], rtol=1e-4)


def test_values_are_rounded_to_nearest():
    values = torch.tensor([0.0, 1.0, -1.0, 1 + 2**-8, 1 + 2**-9, 1 + 3 * 2**-9, 3.14159, 1e-30, torch.nan, torch.inf])
    got = rounded(values)
    np.testing.assert_array_equal(got, np.float32([0, 1, -1, 1 + 2**-8, 1, 1 + 2**-7, 3.140625, got[7], np.nan, np.inf]))
    many = torch.rand(1000) * 100 - 50
    assert np.abs(rounded(many) / many.numpy() - 1).max() <= 2.0**-9


@each(
    "changes, message",
    [
        ({"rows": 1, "positions": 4}, "study `errors` needs 4 held-out tokens after position 0, but has 1 rows of 4; raise "),
        ({"rows": 9, "positions": 1}, "needs 4 held-out tokens after position 0, but has 9 rows of 1;"),
        ({"rows": 0, "positions": 9}, "needs 4 held-out tokens after position 0, but has 0 rows of 9;"),
        (
            {"d_vocab": 1 << 27},
            "one token over a vocabulary of 134,217,728 take 2.5 GiB, more than `studies.errors.logits_mb` (1024); raise it.",
        ),
        (
            {"n_draws": 1 << 60},
            "1,152,921,504,606,846,976 draws for each of 2 tokens and 1 runs take ",
        ),
    ],
)
def test_what_cannot_be_measured_is_one_sentence(model, tokenizer, changes, message):
    arch = dataclasses.replace(model.arch, d_vocab=changes.pop("d_vocab", D_VOCAB))
    rows = np.resize(_tokens(), (changes.pop("rows", 6), changes.pop("positions", 10)))
    with pytest.raises(UserError) as caught:
        point = HookPoint(Decoder(arch, model.weights), Site.parse(HOOK, arch), rows, _CONFIG.model_copy(update=changes))
        next(iter(point.tables({"a": _sae()}, {"a": ["sae", "random"]}, {}, ["a"], tokenizer)))
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_the_ratio_s_two_interventions_cannot_be_left_out():
    for given in (["sae"], ["random", "zero"]):
        with pytest.raises(ValidationError, match="`interventions` lacks"):
            ErrorsConfig(interventions=given)
    assert ErrorsConfig(interventions=["random", "sae"]).interventions == ["random", "sae"]


# the stage


def test_one_killed_while_it_writes_leaves_no_table_and_the_next_has_the_same_bytes(experiment, tmp_path, monkeypatch):
    study = studies()["errors"]
    tables = HookPoint.tables

    def dying(self, *arguments):
        for i, part in enumerate(tables(self, *arguments)):
            if i == 5:
                raise KeyboardInterrupt
            yield part

    monkeypatch.setattr(HookPoint, "tables", dying)
    with pytest.raises(KeyboardInterrupt):
        experiment.measure(study, HOOK, tmp_path)
    assert not list(tmp_path.iterdir())
    monkeypatch.undo()
    experiment.measure(study, HOOK, tmp_path)
    for name in study.tables:
        assert (tmp_path / f"{name}.parquet").read_bytes() == (
            experiment.root / "parts" / "errors" / HOOK / f"{name}.parquet"
        ).read_bytes()


def test_a_table_written_in_parts_is_that_written_at_once_and_joined_with_others(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    columns = list(studies()["errors"].tables["errors"].columns)
    rows = pd.DataFrame({name: np.arange(20, dtype=np.float32) / 7 for name in columns}).assign(hook_point="h", run="r")
    for part, several in (("one", [rows[:5], rows[5:5], rows[5:]]), ("two", []), ("three", [rows.assign(run="s")])):
        for name, table in studies()["errors"].tables.items():
            with TableWriter(tmp_path / part / f"{name}.parquet", list(table.columns)) as writer:
                for some in several if name == "errors" else []:
                    writer.write(some)
    gather("errors", ["one", "two", "three"], "joined")
    joined = pd.read_parquet("joined/errors.parquet")
    pd.testing.assert_frame_equal(joined, pd.concat([rows, rows.assign(run="s")], ignore_index=True))
    assert list(pd.read_parquet("joined/errors_single.parquet").columns) == list(
        studies()["errors"].tables["errors_single"].columns
    )
    gather("errors", ["one"], "alone")
    assert (tmp_path / "alone" / "errors.parquet").read_bytes() == (tmp_path / "one" / "errors.parquet").read_bytes()
    assert list(read_columns(tmp_path / "joined", "errors", ["run", "kl_sae"]).columns) == ["run", "kl_sae"]
    for name, column, message in (
        ("nothing", "x", "nothing.parquet is missing"),
        ("errors", "kl_magic", "has no column `kl_magic`"),
    ):
        with pytest.raises(UserError, match=message):
            read_columns(tmp_path / "joined", name, [column])
    assert not list((tmp_path / "joined").glob(".*"))
