"""Attention terms against loops over tokens, on BERT-, RoBERTa- and ViT-like encoders that nobody edited, and what they refuse."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from encoders import HEADS, LAYERS, WIDTH, encoder, inputs_of, transformers
from fractionate import Objective
from fractionate.data.batch import Batch
from fractionate.errors import ConfigError, MismatchError, UnknownNameError
from fractionate.losses.terms import AttentionMap, AttentionOutput, term_specs, unified
from fractionate.models.attention_hooks import attends_by, find_layers, masked_softmax, watching
from fractionate.records import Training
from fractionate.tasks.predictions import AttentionStates, Needs
from fractionate.tasks.reader import reading
from fractionate.training import distill
from fractionate.training.recipe import Recipe
from predicted import bound, losses_of, predicted

transformers()
KINDS = ["bert", "roberta", "vit"]


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


LENGTHS = (5, 3)
VALID = torch.arange(5) < torch.tensor(LENGTHS)[:, None]
OURS, THEIRS = draw(2, HEADS, 5, 5), draw(2, HEADS, 5, 5, seed=1)
STATES = draw(2, 5, WIDTH, seed=2), draw(2, 5, WIDTH, seed=3)


def softmax(values):
    powers = [math.exp(v) for v in values]
    return [p / sum(powers) for p in powers]


def map_by_loops(student, teacher, length):
    total = 0.0
    for head in range(HEADS):
        for r in range(length):
            ours, theirs = (softmax(a[head, r, :length].tolist()) for a in (student, teacher))
            total += sum(t * math.log(t / s) for s, t in zip(ours, theirs, strict=True)) / length
    return total / HEADS


def score_by_loops(student, teacher, length):
    parts = [
        float(student[h, r, c] - teacher[h, r, c]) ** 2
        for h in range(HEADS) for r in range(length) for c in range(length)
    ]  # fmt: skip
    return sum(parts) / len(parts)


def states_by_loops(student, teacher, length):
    parts = [float(student[t, i] - teacher[t, i]) ** 2 for t in range(length) for i in range(WIDTH)]
    return sum(parts) / len(parts)


FORMULAS = {"map": map_by_loops, "score": score_by_loops, "output": states_by_loops, "hidden": states_by_loops}


MAP = AttentionMap()
SPECS = {name: term_specs[name] for name in FORMULAS}


def pair(name):
    return (OURS, THEIRS) if SPECS[name].part == "scores" else STATES


@pytest.mark.parametrize("name", FORMULAS)
def test_terms_are_their_formulas(name):
    student, teacher = pair(name)
    found = SPECS[name].compare(student, teacher, VALID)
    for i, length in enumerate(LENGTHS):
        assert float(found[i]) == pytest.approx(FORMULAS[name](student[i], teacher[i], length), rel=1e-10)


@pytest.mark.parametrize("name", FORMULAS)
def test_gradients_are_right_and_equal_costs_nothing(name):
    student, teacher = pair(name)
    student = student.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda s: SPECS[name].compare(s, teacher, VALID), (student,))
    assert not SPECS[name].compare(teacher, teacher, VALID).any()


@pytest.mark.parametrize("name", FORMULAS)
@given(seed=st.integers(0, 50), padding=st.integers(1, 4))
def test_padding_changes_nothing(name, seed, padding):
    """More of it, or other numbers in it: the same losses, and no gradient there."""
    student, teacher = pair(name)
    scores = SPECS[name].part == "scores"
    wide = []
    for part, offset in ((student, 100), (teacher, 200)):
        grown = 9 * draw(
            *((2, HEADS, 5 + padding, 5 + padding) if scores else (2, 5 + padding, WIDTH)), seed=seed + offset
        )
        for i, length in enumerate(LENGTHS):
            if scores:
                grown[i, :, :length, :length] = part[i, :, :length, :length]
            else:
                grown[i, :length] = part[i, :length]
        wide.append(grown)
    valid = torch.nn.functional.pad(VALID, (0, padding))
    wide[0].requires_grad_()
    found = SPECS[name].compare(*wide, valid)
    torch.testing.assert_close(found, SPECS[name].compare(student, teacher, VALID))
    (gradient,) = torch.autograd.grad(found.sum(), wide[0])
    outside = ~(valid[:, None, :, None] & valid[:, None, None, :]) if scores else ~valid[..., None]
    assert not gradient[outside.expand_as(gradient)].any()


@given(st.lists(st.floats(-20, 20), min_size=5, max_size=5))
def test_the_map_term_does_not_see_a_constant_in_a_row_and_the_score_term_does(rows):
    shift = torch.tensor(rows, dtype=torch.float64)[:, None]
    moved = OURS + shift
    torch.testing.assert_close(MAP.compare(moved, THEIRS, VALID), MAP.compare(OURS, THEIRS, VALID))
    assert float(MAP.compare(THEIRS + shift, THEIRS, VALID).abs().max()) < 1e-9
    expected = shift[:3].square().mean()
    assert float(SPECS["score"].compare(THEIRS + shift, THEIRS, VALID)[1]) == pytest.approx(float(expected), abs=1e-9)


@given(st.integers(0, 200))
def test_the_map_term_is_zero_only_where_maps_are_equal(seed):
    other = THEIRS.clone()
    other[0, 0, 1, 2] += 0.5 + seed / 100
    found = MAP.compare(other, THEIRS, VALID)
    assert float(found[0]) > 1e-4 and float(found[1]) == 0.0


def test_the_gradient_of_the_map_term_is_the_difference_of_maps():
    student = OURS.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(MAP.compare(student, THEIRS, VALID).sum(), student)
    difference = torch.softmax(OURS[0], -1) - torch.softmax(THEIRS[0], -1)
    torch.testing.assert_close(gradient[0], difference / 5 / HEADS)


def test_the_temperature_of_a_map():
    hot = term_specs["map(temperature=2.0)"].compare(OURS, THEIRS, VALID)
    torch.testing.assert_close(hot, MAP.compare(OURS / 2, THEIRS / 2, VALID))
    with pytest.raises(ConfigError, match="above 0"):
        term_specs["map(temperature=0.0)"]


def test_both_forms_of_the_unified_loss():
    assert unified(0.3) == (AttentionMap(weight=0.3), AttentionOutput(weight=0.7))
    assert unified(map_weight=0.4) == (AttentionMap(weight=0.4), AttentionOutput())
    assert unified(output_weight=0.4) == (AttentionMap(), AttentionOutput(weight=0.4))
    for wrong in ({}, {"gamma": 0.5, "map_weight": 1.0}, {"gamma": 1.5}):
        with pytest.raises(ConfigError):
            unified(**wrong)


# -- as specs -------------------------------------------------------------------------------------------------------------


def states(layers: int, *, heads: int = HEADS, width: int = WIDTH, seed: int = 0, kept: range | None = None):
    """Two texts of 5 and 3 tokens; only the layers that are kept."""
    blocks = range(layers) if kept is None else kept
    return AttentionStates(
        layers,
        {i: draw(2, heads, 5, 5, seed=seed + i) for i in blocks},
        {i: draw(2, 5, width, seed=seed + i) for i in blocks},
        {i: draw(2, 5, width, seed=seed + 10 + i) for i in (range(layers + 1) if kept is None else kept)},
        VALID,
    )


def read(layers: int, **more):
    return predicted(size=2, attention=states(layers, **more))


@pytest.mark.parametrize("name", FORMULAS)
def test_layers_are_summed_all_some_or_in_pairs(name):
    spec, student, teacher = SPECS[name], read(2), read(4, seed=50)
    ours, theirs = (getattr(outputs.attention, spec.part) for outputs in (student, teacher))
    expected = sum(spec.compare(ours[a], theirs[b], VALID) for a, b in ((0, 1), (1, 3)))
    paired = replace(spec, layers=((0, 1), [1, 3]))
    torch.testing.assert_close(losses_of(paired, student, teacher), expected)
    alike = read(2, seed=50)
    whole = losses_of(spec, student, alike)
    places = range(3 if name == "hidden" else 2)
    torch.testing.assert_close(whole, sum(losses_of(replace(spec, layers=(i,)), student, alike) for i in places))


def test_only_the_layers_that_are_compared_are_needed():
    spec = term_specs["map(layers=((0, 1), (1, 3)))"]
    ours, theirs = spec.needs
    assert (ours.attention, ours.layers, theirs.layers) == ({"scores"}, {0, 1}, {1, 3})
    few = predicted(size=2, attention=states(4, seed=50, kept=(1, 3)))
    torch.testing.assert_close(losses_of(spec, read(2), few), losses_of(spec, read(2), read(4, seed=50)))
    assert SPECS["hidden"].needs[0].layers is None


def test_batches_of_token_rows():
    """A tagger's rows are tokens; attention is of examples, and so is the unit of the loss."""
    rows = {
        "logits": draw(7, 3),
        "place": torch.tensor([0, 0, 0, 0, 1, 1, 1]),
        "labels": torch.zeros(7, dtype=torch.long),
    }
    student, teacher = (predicted(size=2, attention=states(2, seed=s), **rows) for s in (0, 50))
    for name in FORMULAS:
        assert SPECS[name].unit == "example"
        torch.testing.assert_close(
            losses_of(SPECS[name], student, teacher), losses_of(SPECS[name], read(2), read(2, seed=50))
        )


@pytest.mark.parametrize(
    ("name", "ours", "theirs", "said"),
    [
        ("map", read(2), read(4), r"(?s)map: student and teacher differ in depth.*4 layers.*pair them"),
        ("hidden", read(2), read(4), r"(?s)hidden: student and teacher differ in depth"),
        ("map", read(2, heads=4), read(2), "(?s)layers 0 ~ 0 differ in shape.*same heads"),
        ("output", read(2, width=8), read(2), "(?s)differ in shape.*same width"),
        ("map(layers=(2,))", read(2), read(2), "(?s)no such layer.*0..1"),
        ("hidden(layers=((2, 5),))", read(2), read(4), "(?s)no such layer.*teacher 0..4"),
        ("map", read(2), predicted(size=2), "no attention states"),
    ],
)
def test_what_does_not_fit_is_refused_when_the_term_is_bound(name, ours, theirs, said):
    with pytest.raises((ConfigError, MismatchError), match=said), bound(term_specs[name], ours, theirs):
        pass


@pytest.mark.parametrize("layers", [(), [], "last", (1.0,), ((0, 1, 2),), 3, ((0, True),)])
def test_layers_that_are_none(layers):
    with pytest.raises(ConfigError, match="invalid layers for map"):
        AttentionMap(layers=layers)


# -- inside encoders ------------------------------------------------------------------------------------------------------


def batch_of(kind, count=4, **more):
    return Batch(inputs_of(kind, batch=count, **more), torch.arange(count) % 3, torch.arange(count))


@pytest.mark.parametrize("kind", KINDS)
def test_layers_are_found_in_order(kind):
    layers = find_layers(encoder(kind), inputs_of(kind))
    assert len(layers) == LAYERS
    last = layers[-1]
    if kind == "vit":
        assert last.block == "vit.layers.1" and last.output.endswith("layernorm_after")
    else:
        assert last.block == f"{kind}.encoder.layer.1" and last.output.endswith("attention.output.LayerNorm")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_what_is_seen_is_what_transformers_says(kind, attention):
    model, inputs = encoder(kind, attention=attention).eval(), inputs_of(kind)
    with torch.no_grad(), watching(model, find_layers(model, inputs)) as watch:
        usual = model(**inputs, output_hidden_states=True)
        maps = [watch.maps(i) for i in range(LAYERS)]
        hidden, valid, outputs = dict(watch.hidden), watch.required_valid, dict(watch.outputs)
    eager = encoder(kind).eval()
    eager.load_state_dict(model.state_dict())
    after = []
    if kind == "bert":
        eager.bert.encoder.layer[0].attention.register_forward_hook(lambda m, i, o: after.append(o[0]))
    with torch.no_grad():
        result = eager(**inputs, output_attentions=True, output_hidden_states=True)
    torch.testing.assert_close(usual.logits, result.logits)
    for ours, theirs in zip(maps, result.attentions, strict=True):
        real = valid[:, None, :, None].expand_as(ours)
        torch.testing.assert_close(ours[real], theirs[real], rtol=1e-5, atol=1e-6)
    for i in range(LAYERS + 1):
        torch.testing.assert_close(hidden[i], result.hidden_states[i])
    for found in after:
        torch.testing.assert_close(outputs[0][valid], found[valid])
    assert attends_by(model)[""] == attention


EVERYTHING = Needs(attention=frozenset({"scores", "outputs", "hidden"}))


def said_by(model, batch, needs=EVERYTHING):
    """One pass of an encoder with its attention, gradients included."""
    with reading(model, needs, batch.inputs) as reader:
        output, captured = reader(batch.inputs)
    return predicted(output.logits, batch=batch, attention=captured["attention"])


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_left_behind(kind):
    student, teacher = encoder(kind, attention="sdpa"), encoder(kind, attention="sdpa", seed=1)
    batch = batch_of(kind)
    recipe = Recipe(terms=unified(0.5), training=Training(steps=2, batch_size=4))
    distill(student, rows_of(batch), teacher, recipe=recipe, show="nothing")
    for model in (student, teacher):
        assert model.training and attends_by(model)[""] == "sdpa"
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def rows_of(batch):
    """The examples of a batch one by one, as a dataset."""
    return [
        {name: part[i] for name, part in batch.inputs.items()} | {"labels": batch.labels[i]}
        for i in range(len(batch.labels))
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_a_student_is_drawn_to_its_teacher(kind):
    teacher, student = encoder(kind, seed=0), encoder(kind, seed=1)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    batch, terms = batch_of(kind, 12), (term_specs["hidden"], *unified(0.5))

    def losses():
        with torch.no_grad():
            ours, theirs = said_by(student.eval(), batch), said_by(teacher.eval(), batch)
            return [float(losses_of(term, ours, theirs).mean()) for term in terms]

    first = losses()
    training = Training(steps=30, batch_size=12, learning_rate=5e-3)
    recipe = Recipe(objective=Objective("kd", 1.0, 1.0), terms=terms, training=training)
    distill(student.train(), rows_of(batch), teacher, recipe=recipe, show="nothing")
    last = losses()
    assert all(after < 0.8 * earlier for earlier, after in zip(first, last, strict=True)), (first, last)
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())


def test_a_tagger_learns_attention_beside_rows_of_tokens(tmp_path):
    """Rows are tokens, attention is of sentences: each loss has its own mean."""
    library = transformers()
    batch = batch_of("bert", 8)
    batch = replace(batch, labels=torch.where(batch.inputs["attention_mask"] > 0, batch.inputs["input_ids"] % 3, -100))

    config = encoder("bert").config

    def tagger(seed):
        torch.manual_seed(seed)
        return library.BertForTokenClassification(config)

    student, teacher, term = tagger(1), tagger(0), term_specs["map(weight=20.0)"]

    def loss():
        with torch.no_grad():
            return float(losses_of(term, said_by(student.eval(), batch), said_by(teacher.eval(), batch)).mean())

    first = loss()
    training = Training(steps=30, batch_size=8, learning_rate=5e-3)
    recipe = Recipe(objective=Objective("kd", 1.0, 0.5), terms=(term,), training=training)
    _, run = distill(student.train(), rows_of(batch), teacher, recipe=recipe, out=tmp_path, show="nothing")
    assert loss() < 0.7 * first and run.status == "completed"


def test_dropout_and_values_are_not_in_the_map():
    teacher, student, batch = encoder(seed=0), encoder(seed=1), batch_of("bert")
    ours, theirs = said_by(student.eval(), batch), said_by(teacher.eval(), batch)
    losses_of(MAP, ours, theirs).sum().backward()
    key, value = (getattr(student.bert.encoder.layer[1].attention.self, n).weight.grad for n in ("key", "value"))
    assert key.any() and (value is None or not value.any())  # the last layer's values are in no map
    student.train()
    found = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        with torch.no_grad():
            found.append(said_by(student, batch).attention)
    maps = [masked_softmax(each.scores[0], each.valid) for each in found]
    assert not torch.equal(*maps) and all(torch.allclose(m.sum(-1), torch.ones(())) for m in maps)


def test_layers_of_different_depths_are_paired():
    teacher, student, batch = encoder(num_hidden_layers=4), encoder(seed=1), batch_of("bert")

    def train(*terms):
        recipe = Recipe(terms=terms, training=Training(steps=1, batch_size=4))
        return distill(student, rows_of(batch), teacher, recipe=recipe, show="nothing")[1]

    with pytest.raises(ConfigError, match=r"(?s)differ in depth.*4 layers.*pair them"):
        train("map")
    assert train("map(layers=((0, 1), (1, 3)))", "hidden(layers=((0, 0), (2, 4)))").steps == 1


class OwnAttention(nn.Module):
    """A user's own module: nothing in it is of transformers."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(WIDTH, 2, batch_first=True)

    def forward(self, x):
        return self.layer(x)


class Fused(nn.Module):
    """A transformers model whose attention was exchanged for a kernel of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = encoder()
        for layer in self.inner.bert.encoder.layer:
            layer.attention.self = FusedSelfAttention()

    def forward(self, **inputs):
        return self.inner(**inputs)


class FusedSelfAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)

    def forward(self, hidden_states, attention_mask=None, **more):
        query, key, value = self.qkv(hidden_states)[:, None].chunk(3, dim=-1)
        return torch.nn.functional.scaled_dot_product_attention(query, key, value)[:, 0], None


def test_attention_that_cannot_be_seen_is_refused_by_name():
    batch = batch_of("bert")

    def train(student, teacher, text="map", data=None):
        recipe = Recipe(terms=(text,), training=Training(steps=1, batch_size=4))
        distill(student, rows_of(batch) if data is None else data, teacher, recipe=recipe, show="nothing")

    own = torch.randn(4, 5, WIDTH), torch.zeros(4, 5, dtype=torch.long)
    with pytest.raises(MismatchError, match=r"(?s)no attention outputs.*transformers.*layer.self_attn, which hides"):
        train(OwnAttention(), OwnAttention(), data=own)
    with pytest.raises(MismatchError, match=r"(?s)cannot be seen.*FusedSelfAttention"):
        train(Fused(), encoder())
    with pytest.raises(MismatchError, match=r"(?s)differ in shape.*same heads"):
        train(encoder(num_attention_heads=4), encoder())
    with pytest.raises(MismatchError, match=r"(?s)differ in shape.*same width"):
        train(encoder(hidden_size=8), encoder(), "output")
    with pytest.raises(ConfigError, match="no such layer"):
        train(encoder(), encoder(), "map(layers=(2,))")
    with pytest.raises(UnknownNameError, match="did you mean 'score'"):
        train(encoder(), encoder(), "scores")
