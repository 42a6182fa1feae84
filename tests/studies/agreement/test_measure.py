"""Faithfulness, indirect effects and curves equal a literal recomputation, item by item in float64."""

from __future__ import annotations

import gzip
import itertools
import json

import numpy as np
import pytest
import torch
from tests.memory import largest_tensor
from tests.saes import trained_sae
from tests.tiny_pipeline import D_MODEL, HOOK, N_CTX, tiny_decoder

from saeworks.lm.decoder import Decoder
from saeworks.lm.sites import Site
from saeworks.store.errors import UserError
from saeworks.studies.agreement import data as agreement_data
from saeworks.studies.agreement import measure as agreement
from saeworks.studies.agreement.measure import Items, Template, read_items, study, study_sae
from saeworks.studies.agreement.settings import AgreementConfig

_FIRST = 0
_PREFIXES = [[5, 9], [7, 8, 20], [5, 11], [30, 9, 4], [33, 12]]
_ANSWERS = [(1, 2), (2, 1), (3, 4), (1, 2), (4, 3)]


def _items(prefixes=_PREFIXES, answers=_ANSWERS) -> Items:
    rows = [[_FIRST, *prefix] for prefix in prefixes]
    width = max(map(len, rows))
    tokens = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    correct, wrong = torch.tensor(answers).T
    return Items(tokens, torch.tensor([len(row) - 1 for row in rows]), correct, wrong, 0, 0)


@pytest.fixture(scope="module")
def model() -> Decoder:
    return tiny_decoder(dtype=torch.float64)


def _site(model, hook: str = HOOK) -> Site:
    return Site.parse(hook, model.arch)


def _sae(architecture: str = "relu", **options):
    return trained_sae(architecture, d_in=D_MODEL, d_sae=24, **options).double()


class _Literal:
    """Every item alone and unpadded; means over items by the place of a token, kept in dictionaries."""

    def __init__(self, model, site, sae) -> None:
        self.model, self.site, self.sae = model, site, sae
        self.rows = [torch.tensor([[_FIRST, *prefix]]) for prefix in _PREFIXES]
        values = [model.hook_values(row, dict.fromkeys([site.name, site.stream])) for row in self.rows]
        self.x, self.stream = ([v[name] for v in values] for name in (site.name, site.stream))
        self.codes = [sae.encode(x)[0].detach().numpy() for x in self.x]

    @staticmethod
    def place(position: int, length: int) -> int:
        return 0 if position == 0 else position - length  # −1: the last token

    def mean(self, values: list[np.ndarray]) -> list[np.ndarray]:
        seen: dict[int, list[np.ndarray]] = {}
        for value in values:
            for position, v in enumerate(value):
                seen.setdefault(self.place(position, len(value)), []).append(v)
        return [np.stack([np.mean(seen[self.place(p, len(value))], axis=0) for p in range(len(value))]) for value in values]

    def m(self, replacements: list[np.ndarray | torch.Tensor]) -> float:
        differences = []
        for i, replacement in enumerate(replacements):
            value = torch.as_tensor(np.asarray(replacement)).view_as(self.x[i])
            last, _ = self.model.continue_from(self.site, value, self.x[i], self.stream[i])
            logits = self.model.logits(last)[0, -1]
            differences.append((logits[_ANSWERS[i][0]] - logits[_ANSWERS[i][1]]).item())
        return float(np.mean(differences))

    def output(self, codes: list[np.ndarray]) -> list[np.ndarray]:
        outputs = []
        for x, c in zip(self.x, codes, strict=True):
            value = self.sae.decode(torch.from_numpy(c)[None])
            outputs.append(self.sae.denormalise(value, self.sae.normalise(x)[1])[0].detach().numpy())
        return outputs

    def ablate(self, features: list[int]) -> list[np.ndarray]:
        changed = [c.copy() for c in self.codes]
        for c, mean in zip(changed, self.mean(self.codes), strict=True):
            c[:, features] = mean[:, features]
        return self.output(changed)

    def faithfulness(self, m: float) -> float:
        ablated = self.m(self.mean([x[0].numpy() for x in self.x]))
        return (m - ablated) / (self.m([x[0].numpy() for x in self.x]) - ablated)


def test_faithfulness_and_curve_equal_a_loop_over_items_and_features(model):
    for hook, layer_norm in itertools.product([HOOK, "blocks.1.hook_mlp_out", "blocks.2.attn.hook_z"], [False, True]):
        site, sae = _site(model, hook), _sae(layer_norm=layer_norm)
        literal = _Literal(model, site, sae)
        summary, curve, n_features = study_sae(Template(model, site, _items()), sae)
        clean, ablated = literal.m([x[0].numpy() for x in literal.x]), literal.m(literal.mean([x[0].numpy() for x in literal.x]))
        with_sae = literal.m(literal.ablate([]))
        assert (summary["m_model"], summary["m_ablated"]) == pytest.approx((clean, ablated), rel=1e-9)
        assert summary["m_sae"] == pytest.approx(with_sae, rel=1e-9)
        assert summary["faithfulness"] == pytest.approx((with_sae - ablated) / (clean - ablated), rel=1e-8)
        fires = [f for f in range(24) if any((c[:, f] != 0).any() for c in literal.codes)]
        assert n_features == len(fires) > 5
        effects = [literal.faithfulness(with_sae) - literal.faithfulness(literal.m(literal.ablate([f]))) for f in fires]
        order = [f for _, f in sorted(zip(effects, fires, strict=True), key=lambda pair: (-round(pair[0], 9), pair[1]))]
        assert [k for k, _ in curve] == sorted({k for k, _ in curve}) and {0, 1, len(fires)} <= {k for k, _ in curve}
        for k, value in curve:
            assert value == pytest.approx(literal.faithfulness(literal.m(literal.ablate(order[k:]))), rel=1e-7, abs=1e-9)
        assert curve[-1][1] == pytest.approx(summary["faithfulness"], rel=1e-9)


@pytest.mark.parametrize("architecture", ["relu", "batch_topk"])
def test_items_in_several_parts_give_the_same(model, monkeypatch, architecture):
    template, sae = Template(model, _site(model), _items()), _sae(architecture)
    summary, curve, n_features = study_sae(template, sae)
    monkeypatch.setattr(agreement, "_ITEMS", 2)
    assert study_sae(template, sae) == (pytest.approx(summary, rel=1e-9), pytest.approx(np.array(curve), rel=1e-9), n_features)


def test_activations_of_all_features_are_held_for_some_items_only(model, monkeypatch):
    template = Template(model, _site(model), _items(_PREFIXES * 8, _ANSWERS * 8))
    sae = trained_sae("relu", d_in=D_MODEL, d_sae=4096).double()
    with torch.no_grad():
        sae.b_enc[8:] = -1e4
    monkeypatch.setattr(agreement, "_ITEMS", 5)
    dense = 8 * template.tokens.numel() * sae.d_sae
    assert largest_tensor(lambda: study_sae(template, sae)) < dense / 4


def test_a_perfect_sae_is_wholly_faithful_and_a_mean_one_not_at_all(model):
    template = Template(model, _site(model), _items())
    assert template.faithfulness(template.differences(template.x)) == 1
    assert template.faithfulness(template.differences(template.mean(template.x))) == 0


def test_the_logits_are_the_model_s_also_where_it_caps_them(model):
    template = Template(model, _site(model), _items())
    for row, (last, correct, wrong) in enumerate(zip(template.last, template.correct, template.wrong, strict=True)):
        logits = model.forward(template.tokens[row : row + 1, : last + 1])[0, -1]
        assert template.clean[row].item() == pytest.approx((logits[correct] - logits[wrong]).item(), rel=1e-9)
    capped = Decoder(model.arch, model.weights)
    capped.soft_cap = 2.0
    found = Template(capped, _site(model), _items()).clean
    logits = model.forward(template.tokens[:1, :3])[0, -1]
    one, two = (2 * torch.tanh(logits[token] / 2).item() for token in (template.correct[0], template.wrong[0]))
    assert found[0].item() == pytest.approx(one - two, rel=1e-9)


def test_where_ablation_changes_nothing_faithfulness_is_undefined(model):
    same = _items(prefixes=((5, 9), (5, 9)), answers=((1, 2), (1, 2)))
    summary, curve, _ = study_sae(Template(model, _site(model), same), _sae())
    assert np.isnan(summary["faithfulness"]) and all(np.isnan(value) for _, value in curve)


def test_an_sae_without_active_features_has_a_curve_of_one_point(model):
    sae = _sae()
    with torch.no_grad():
        sae.b_enc.fill_(-1e4)
    summary, curve, n_features = study_sae(Template(model, _site(model), _items()), sae)
    assert n_features == 0 and curve == [(0, pytest.approx(summary["faithfulness"]))]


def test_accuracies_count_items_with_the_right_verb_ahead(model):
    template = Template(model, _site(model), _items())
    summary, _, _ = study_sae(template, _sae())
    assert summary["accuracy_model"] == (template.clean > 0).double().mean().item()


class _Pieces:
    """Words to letters but for whole words in the vocabulary, as subword tokenizers have them."""

    def __init__(self, *whole: str) -> None:
        self.ids: dict[str, int] = {}
        self.whole = whole

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        assert not add_special_tokens
        pieces = [p for word in text.split() for p in ([word] if word in self.whole else list(word))]
        return [self.ids.setdefault(piece, len(self.ids) + 1) for piece in pieces]


def _file(folder, lines, name="simple_train.json"):
    keys = ("clean_prefix", "clean_answer", "patch_answer", "patch_prefix")
    text = "\n".join(json.dumps(dict(zip(keys, (*line, "x"), strict=True))) for line in lines)
    (folder / name).write_text(text + "\n")
    return folder / name


def _read(path, tokenizer, first=77, **settings) -> Items:
    return read_items(path, "simple", tokenizer, first, 50, AgreementConfig(**settings))


def test_verbs_that_share_their_beginning_are_compared_at_the_first_token_that_differs(tmp_path):
    tokenizer = _Pieces("The", "man", "men", "is", "are")
    items = _read(_file(tmp_path, [("The man", " has", " have"), ("The men", " are", " is")]), tokenizer)
    assert (items.n_split, items.n_excluded) == (1, 0)
    ids = tokenizer.ids
    rows = {tuple(row[: last + 1].tolist()): (c.item(), w.item()) for row, last, c, w in zip(
        items.tokens, items.last, items.correct, items.wrong, strict=True
    )}  # fmt: skip
    assert rows == {
        (77, ids["The"], ids["man"], ids["h"], ids["a"]): (ids["s"], ids["v"]),
        (77, ids["The"], ids["men"]): (ids["are"], ids["is"]),
    }


def test_items_of_blimp_are_read_as_those_with_the_same_words(tmp_path):
    lines = [("The man", "is", "are"), ("The men", "are", "is")]
    keys = ("one_prefix_prefix", "one_prefix_word_good", "one_prefix_word_bad")
    blimp = tmp_path / "blimp.jsonl"
    blimp.write_text("\n".join(json.dumps(dict(zip(keys, line, strict=True))) for line in lines))
    one = _read(blimp, _Pieces("The", "man", "men", "is", "are"))
    other = _read(_file(tmp_path, [(p, f" {a}", f" {b}") for p, a, b in lines]), _Pieces("The", "man", "men", "is", "are"))
    assert all(torch.equal(getattr(one, name), getattr(other, name)) for name in ("tokens", "correct", "wrong"))
    blimp.write_text(json.dumps(dict(zip(keys[:2], lines[0][:2], strict=True))))
    with pytest.raises(UserError, match="line 1 of .*blimp.jsonl is not a JSON object with the fields .*one_prefix_word_bad"):
        _read(blimp, _Pieces())


def test_a_verb_that_begins_with_the_whole_of_the_other_is_left_out_and_counted(tmp_path):
    path = _file(tmp_path, [("The man", " does", " do"), ("The men", " are", " is")])
    items = _read(path, _Pieces("The", "man", "men", "is", "are"))
    assert (len(items.tokens), items.n_excluded) == (1, 1)
    with pytest.raises(UserError, match=r"no item of .* can be scored .*; remove `studies.agreement.files.simple`"):
        _read(_file(tmp_path, [("The man", " does", " do")]), _Pieces())


def test_a_context_too_long_for_the_model_is_left_out(tmp_path):
    items = _read(_file(tmp_path, [("a" * 60, " x", " y"), ("a", " x", " y")]), _Pieces())
    assert items.tokens.shape == (1, 2) and items.n_excluded == 1


def test_places_are_position_0_and_distances_to_the_last_token():
    assert _items().slots.tolist() == [[0, 2, 3, -1], [0, 1, 2, 3], [0, 2, 3, -1], [0, 1, 2, 3], [0, 2, 3, -1]]


def test_the_draw_follows_its_seed(tmp_path):
    path = _file(tmp_path, [(f"p{i}", " x", " y") for i in range(40)])
    words = [f"p{i}" for i in range(40)]

    def first(**settings):
        tokenizer = _Pieces(*words)
        tokenizer.encode(" ".join(words), add_special_tokens=False)
        return _read(path, tokenizer, None, n_items=10, **settings).tokens[:, 0].tolist()

    assert first() == first() and len(set(first())) == 10
    assert first(seed=1) != first()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (None, "agreement file .* does not exist; correct its path"),
        ('{"clean_prefix": "a"}', "line 1 of .* is not a JSON object with"),
    ],
)
def test_bad_files_are_one_sentence(tmp_path, text, sentence):
    path = tmp_path / "x.json"
    if text:
        path.write_text(text)
    with pytest.raises(UserError, match=sentence):
        _read(path, _Pieces())


def test_no_selected_run_gives_empty_tables(model):
    tables = study(model, _site(model), {}, {"simple": _items()})
    assert {name: len(table) for name, table in tables.items()} == {"agreement": 0, "agreement_features": 0}


def test_a_download_of_another_file_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(agreement_data, "download", lambda url, path: path.write_text("another"))
    with pytest.raises(UserError, match="instead of 38eb04f0f3392a6e"):
        agreement_data.download_items(str(tmp_path / "simple_train.json"))
    assert not list(tmp_path.iterdir())


def test_the_published_files_are_those_that_are_downloaded_and_can_be_read(shared, tmp_path, monkeypatch):
    transformers = pytest.importorskip("transformers")
    probing = shared / "data" / "probing"
    calls = []

    def copy(url, path):
        calls.append(url)
        name = url.rsplit("/", 1)[1]
        if name.endswith(".jsonl"):
            path.write_bytes(gzip.decompress((probing / "blimp" / f"{name}.gz").read_bytes()))
        else:
            path.write_bytes((probing / "feature-circuits" / name).read_bytes())

    monkeypatch.setattr(agreement_data, "download", copy)
    tokenizer = transformers.AutoTokenizer.from_pretrained(shared / "data" / "tokenizers" / "gpt2")
    for name in agreement_data.SHA256:
        agreement_data.download_items(str(tmp_path / name))
        if name.endswith(".jsonl"):
            items = read_items(tmp_path / name, name, tokenizer, 50256, 128, AgreementConfig())
            assert (len(items.tokens), items.n_split, items.n_excluded) == (984, 13, 16)
            continue
        items = read_items(tmp_path / name, name, tokenizer, 50256, N_CTX, AgreementConfig(n_items=40))
        assert len(items.tokens) == 40
        assert (items.n_split, items.n_excluded) == (0, 0)
        assert {tokenizer.decode(t) for t in items.correct} <= {" is", " are", " has", " have", " does", " do", " goes", " go"}
    assert calls[0].startswith("https://raw.githubusercontent.com/saprmarks/feature-circuits/1d87366c7")
    assert calls[-1].startswith("https://raw.githubusercontent.com/alexwarstadt/blimp/3e56b06fc")
