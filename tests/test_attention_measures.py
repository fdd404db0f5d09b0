"""Ranking loss, cover length, sensitivity, norms and sharpness: against loops, exact Hessians, and where they must not move."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from encoders import HEADS, LAYERS, encoder, inputs_of, transformers
from fractionate import Objective, TeacherSignal
from fractionate.errors import ConfigError, MismatchError
from fractionate.losses.terms import unified
from fractionate.models.attention_hooks import find_layers, watching
from fractionate.models.quantize import Quantization, prepare
from fractionate.records import Training
from fractionate.study.attention_measures import (
    MapChange,
    attention_arm,
    compare_maps,
    layer_sensitivity,
    norm_analysis,
    output_ranges,
    top_eigenvalue,
)
from fractionate.tasks.attention_metrics import cover_length_ratio, ranking_loss
from fractionate.teachers import Cached
from fractionate.training import distill
from fractionate.training.recipe import Recipe

transformers()
LENGTHS = (8, 6, 3)
VALID = torch.arange(8) < torch.tensor(LENGTHS)[:, None]
LABELS = torch.tensor([0, 1, 2, 0])


def maps(seed, valid=VALID):
    scores = torch.randn(3, HEADS, 8, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.softmax(scores.masked_fill(~valid[:, None, None, :], -torch.inf), dim=-1)


def ranking_by_loops(student, teacher, length):
    total = 0.0
    for r in range(length):
        for i in range(length):
            for j in range(length):
                sign = (teacher[r, i] > teacher[r, j]).int() - (teacher[r, i] < teacher[r, j]).int()
                total += max(0.0, float(-(student[r, i] - student[r, j]) * sign))
    return total / length


def cover_by_loops(student, teacher, length, top):
    total = 0.0
    for r in range(length):
        best = sorted(range(length), key=lambda i: -float(teacher[r, i]))[:top]
        order = sorted(range(length), key=lambda i: -float(student[r, i]))
        total += max(order.index(i) + 1 for i in best) / length
    return total / length


@settings(max_examples=4)
@given(st.integers(0, 30))
def test_measures_are_their_formulas(seed):
    student, teacher = maps(seed), maps(seed + 100)
    ranking, cover = ranking_loss(student, teacher, VALID), cover_length_ratio(student, teacher, VALID, top=4)
    for i, length in enumerate(LENGTHS):
        for head in range(HEADS):
            pair = student[i, head], teacher[i, head]
            assert float(ranking[i, head]) == pytest.approx(ranking_by_loops(*pair, length), abs=1e-12)
            assert float(cover[i, head]) == pytest.approx(cover_by_loops(*pair, length, 4), abs=1e-12)


def test_the_same_order_costs_nothing_and_the_reverse_most():
    teacher = maps(0)
    assert not ranking_loss(teacher.square(), teacher, VALID).any()  # another map, the same order
    assert bool((ranking_loss(-teacher, teacher, VALID) > ranking_loss(maps(1), teacher, VALID)).all())
    expected = torch.tensor([min(5, n) / n for n in LENGTHS], dtype=torch.float64)[:, None].expand(3, HEADS)
    torch.testing.assert_close(cover_length_ratio(teacher, teacher, VALID), expected)
    assert bool((cover_length_ratio(-teacher, teacher, VALID) == 1).all())


def test_maps_are_compared_over_batches():
    teacher = encoder()
    student = prepare(teacher, Quantization(activation_clip=10.0), example=inputs_of())
    batches = [(inputs_of(seed=i), LABELS) for i in (1, 2)]
    found = compare_maps(student, teacher, batches)
    assert len(found.ranking_loss) == LAYERS and len(found.cover_length_ratio[0]) == HEADS
    assert all(value > 0 for row in found.ranking_loss for value in row)
    parts = [compare_maps(student, teacher, [batch]).ranking_loss[0][0] for batch in batches]
    assert found.ranking_loss[0][0] == pytest.approx(sum(parts) / 2)
    same = compare_maps(teacher, teacher, batches)
    assert not any(value for row in same.ranking_loss for value in row)
    with pytest.raises(MismatchError, match="differ in depth"):
        compare_maps(encoder(num_hidden_layers=3), teacher, batches)
    with pytest.raises(ConfigError, match="nothing to compare"):
        compare_maps(student, teacher, [])


def test_the_seeds_of_an_arm_as_a_record():
    changes = [
        MapChange(((1.0, 2.0), (3.0, 4.0)), ((0.5, 0.5), (0.5, 0.5))),
        MapChange(((3.0, 2.0), (3.0, 8.0)), ((1.0,) * 2,) * 2),
    ]
    found = attention_arm("map", changes, sharpness=3.0)
    assert found.ranking_loss == ((2.0, 2.0), (3.0, 6.0)) and found.seeds == 2 and found.sharpness == 3.0
    assert found.ranking_mean == pytest.approx(3.25) and found.cover_mean == pytest.approx(0.75)
    half = 12.7062 * 1.5 / 2  # t of one degree of freedom · |4 - 2.5| / 2
    assert found.ranking_interval.high - found.ranking_mean == pytest.approx(half, rel=1e-4)
    assert attention_arm("map", changes[:1]).ranking_interval is None
    with pytest.raises(ConfigError, match="no seeds"):
        attention_arm("map", [])


def test_a_layer_is_as_sensitive_as_it_is_coarse():
    """With one layer's weights grown, its quantization costs more than the other's."""
    teacher = encoder(initializer_range=0.2)
    batches = [(inputs_of(seed=i, batch=8), LABELS) for i in (1, 2)]
    student = prepare(teacher, Quantization("ternary", None, None), example=batches[0][0])
    found = layer_sensitivity(student, batches)
    assert len(found) == LAYERS and all(value > 0 for value in found)
    for module in student.bert.encoder.layer[0].modules():
        if hasattr(module, "weight_fake_quantizer"):
            with torch.no_grad():  # already ternary: nothing is lost there
                module.weight.copy_(module.weight_fake_quantizer(module.weight))
    again = layer_sensitivity(student, batches)
    assert again[0] == pytest.approx(0.0, abs=1e-9) and again[1] > 0
    attention = layer_sensitivity(student, batches, part="attention")
    assert attention[1] > 0 and attention[1] != again[1]


class Quadratic(nn.Module):
    """Two logits linear in the weights: the Hessian is known."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2, bias=False).double()

    def forward(self, x):
        return self.layer(x)


def test_sharpness_is_the_largest_eigenvalue_of_the_hessian():
    torch.manual_seed(0)
    model, x, labels = Quadratic(), torch.randn(6, 3, dtype=torch.float64), torch.tensor([0, 1, 1, 0, 1, 0])

    def loss(weight):
        return torch.nn.functional.cross_entropy(x @ weight.view(2, 3).T, labels)

    exact = torch.linalg.eigvalsh(torch.autograd.functional.hessian(loss, model.layer.weight.detach().flatten()))
    found = top_eigenvalue(model, x, labels, steps=200, tolerance=1e-9)
    assert found == pytest.approx(float(exact[exact.abs().argmax()]), rel=1e-4)
    with pytest.raises(ConfigError, match="nothing to differentiate"):
        top_eigenvalue(model.requires_grad_(False), x, labels)


@pytest.mark.parametrize("weights", ["ternary", 4])
def test_quantized_encoders_have_a_sharpness(weights):
    student = prepare(encoder(), Quantization(weights, weights, activation_clip=10.0), example=inputs_of())
    before = [p.grad for p in student.parameters()]
    found = top_eigenvalue(student, inputs_of(), LABELS, steps=5)
    assert found != 0 and found == top_eigenvalue(student, inputs_of(), LABELS, steps=5)
    assert student.training and before == [p.grad for p in student.parameters()]


def test_norms_are_kobayashis():
    model, inputs = encoder(), inputs_of(tokens=7)
    model.eval()
    first = torch.zeros(4, 7, dtype=torch.bool)
    first[:, 0] = True
    found = norm_analysis(model, inputs, {"first": first, "others": ~first})
    assert len(found) == LAYERS
    with torch.no_grad(), watching(model, find_layers(model, inputs)) as watch:
        model(**inputs)
        weight = model.bert.encoder.layer[0].attention.output.dense.weight
        sums = [0.0, 0.0, 0.0]
        for b in range(4):
            length = int(watch.valid[b].sum())
            for h in range(HEADS):
                size = weight.shape[1] // HEADS
                transformed = float((weight[:, h * size : (h + 1) * size] @ watch.values[0][b, h, 0]).norm())
                given = sum(float(watch.maps(0)[b, h, r, 0]) for r in range(length)) / length
                sums = [sums[0] + given, sums[1] + transformed, sums[2] + given * transformed]
    assert found[0]["first"].weight == pytest.approx(sums[0] / 4 / HEADS, rel=1e-4)
    assert found[0]["first"].transformed == pytest.approx(sums[1] / 4 / HEADS, rel=1e-4)
    assert found[0]["first"].weighted == pytest.approx(sums[2] / 4, rel=1e-4)


def test_ranges_do_not_hang_on_padding():
    model = encoder().eval()
    bare = output_ranges(model, [(inputs_of(), LABELS)])
    wide = output_ranges(model, [(inputs_of(padding=4), LABELS)])
    torch.testing.assert_close(torch.tensor(bare), torch.tensor(wide), rtol=1e-5, atol=1e-5)
    assert all(low < 0 < high for low, high in bare)


ARMS = {
    "none": (),
    "score": ("hidden", "score"),
    "map": ("hidden", "map"),
    "output": ("hidden", "output"),
    "unified": ("hidden", *unified(0.5)),
}


def test_arms_of_a_ternary_student_are_compared_by_their_terms_alone():
    """From a full-precision teacher to ternary weights and 8-bit activations, end to end: order of tokens, cover length, scores."""
    teacher, inputs = encoder().eval(), inputs_of(batch=24, seed=3)
    with torch.no_grad():
        logits = teacher(**inputs).logits
    labels = logits.argmax(1)
    rows = [{name: part[i] for name, part in inputs.items()} | {"labels": labels[i]} for i in range(24)]
    training = Training(steps=25, batch_size=12, learning_rate=5e-3, warmup_share=0.1, clip_norm=1.0)
    found = {}
    for arm, names in ARMS.items():
        student = prepare(teacher, Quantization(activation_clip=10.0), example=inputs)
        recipe = Recipe(objective=Objective("kd", 1.0, 1.0) if names else None, terms=names, training=training)
        source = Cached(TeacherSignal(logits, labels), model=teacher) if names else None
        student, run = distill(student, rows, source, recipe=recipe, test=rows, arm=arm)
        change = compare_maps(student, teacher, [(inputs, labels)])
        found[arm] = torch.tensor(change.ranking_loss).mean(), torch.tensor(change.cover_length_ratio).mean(), run
    assert all(run.status == "completed" and run.test.nll_nats < 2 for *_, run in found.values())
    assert all(found[arm][0] < found["none"][0] for arm in ("score", "map", "unified"))
    assert all(0 < cover <= 1 for _, cover, _ in found.values())
