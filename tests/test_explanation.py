"""Explaining models and the KED objective: own columns, the formula, the size, the loss as loops, KD at share 0."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from fractionate import Objective, TeacherSignal
from fractionate.data.batch import Batch
from fractionate.data.examples import Examples
from fractionate.engine import distill
from fractionate.engine.evaluation import signal_on
from fractionate.errors import ConfigError, MismatchError
from fractionate.extensions import features  # noqa: F401  # registers its terms
from fractionate.extensions.explanation import (
    Channels,
    Explaining,
    combined,
    explaining_cnn_builder,
    explaining_mlp,
    matched_branch_channels,
    matched_width,
    prior_of,
)
from fractionate.extensions.explanation_terms import Blend, Explained, Moved, explanation_signals, ked, paper_objective
from fractionate.extensions.superfeatures import given
from fractionate.outputs import logits_of
from fractionate.records import Training
from fractionate.sources.models import models
from fractionate.tasks.reader import explanations_of
from fractionate.terms import Hint, taught

FOUND = given([[0, 3], [1, 4, 5], [2]], features=6)
PRIOR = torch.tensor([0.2, 0.5, 0.3])
TRAINING = Training(steps=12, batch_size=8, learning_rate=1e-2)


def data(examples: int = 24) -> Examples:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(examples, 6, generator=generator)
    return Examples(inputs, (inputs[:, 0].abs() + inputs[:, 1] > 0).long() + (inputs[:, 2] > 0.5).long())


def model(seed: int = 0, **size: object) -> Explaining:
    torch.manual_seed(seed)
    return explaining_mlp(FOUND, 3, prior=PRIOR, **(size or {"width": 5}))  # type: ignore[arg-type]


def test_an_explanation_depends_on_its_own_columns_only():
    explaining, inputs = model(), data().inputs
    before = explanations_of(explaining(inputs))
    for place, group in enumerate(FOUND.groups):
        changed = inputs.clone()
        changed[:, list(group)] += torch.randn(len(inputs), len(group))
        after = explanations_of(explaining(changed))
        for other in range(3):
            assert torch.equal(before[:, other], after[:, other]) == (other != place)


def test_the_prediction_is_the_product_over_the_prior():
    out = model().double()(data().inputs.double())
    said = explanations_of(out).exp()
    torch.testing.assert_close(said.sum(2), torch.ones_like(said[..., 0]))
    product = said.prod(dim=1) / PRIOR.double() ** 2
    torch.testing.assert_close(
        torch.softmax(out["logits"], 1), product / product.sum(1, keepdim=True), rtol=1e-6, atol=1e-9
    )
    torch.testing.assert_close(combined(said.log()), said.log().sum(1))


def test_it_is_bayes_rule_where_the_superfeatures_are_independent_given_the_class():
    prior = torch.tensor([0.3, 0.7], dtype=torch.float64)
    likelihood = torch.rand(3, 4, 2, dtype=torch.float64)  # superfeature, value, class
    values = [0, 3, 1]
    posteriors = torch.stack(
        [prior * likelihood[m, v] / (prior * likelihood[m, v]).sum() for m, v in enumerate(values)]
    )
    joint = prior * torch.stack([likelihood[m, v] for m, v in enumerate(values)]).prod(0)
    found = torch.softmax(combined(posteriors.log()[None], prior.log()), 1)[0]
    torch.testing.assert_close(found, joint / joint.sum())


@pytest.mark.parametrize(
    ("features_", "classes", "layers", "width", "groups"),
    [
        (81, 3, 4, 200, 4),
        (81, 3, 4, 50, 4),
        (784, 10, 2, 500, 4),
        (784, 10, 2, 60, 4),
        (30, 2, 2, 16, 4),
        (180, 3, 2, 20, 4),
    ],
)
def test_the_size_is_that_of_the_plain_model_within_two_per_cent(features_, classes, layers, width, groups):
    plain = models[f"mlp({', '.join([str(width)] * layers)})"]((features_,), classes)
    parameters = sum(p.numel() for p in plain.parameters())
    cut = [list(range(features_))[i::groups] for i in range(groups)]
    made = explaining_mlp(given(cut, features=features_), classes, hidden_layers=layers, parameters=parameters)
    size = sum(p.numel() for p in made.parameters())
    assert size <= parameters
    assert size >= 0.98 * parameters
    closed = matched_width(features_, groups, classes, hidden_layers=layers, parameters=parameters)
    equal = explaining_mlp(given(cut, features=features_), classes, hidden_layers=layers, width=closed)
    h, count = closed, sum(p.numel() for p in equal.parameters())
    assert count == groups * (layers - 1) * h * h + (groups * (layers + classes) + features_) * h + groups * classes
    wider = explaining_mlp(given(cut, features=features_), classes, hidden_layers=layers, width=closed + 1)
    assert count <= parameters < sum(p.numel() for p in wider.parameters())


def test_models_that_cannot_be_built():
    with pytest.raises(ConfigError, match=r"fewer superfeatures"):
        explaining_mlp(FOUND, 3, parameters=20)
    with pytest.raises(ConfigError, match=r"one of parameters=, width= and branch="):
        explaining_mlp(FOUND, 3)
    for prior in (torch.tensor([0.5, 0.5, 0.0]), torch.tensor([0.5, 0.6, 0.4])):
        with pytest.raises(ConfigError, match=r"not a class prior"):
            explaining_mlp(FOUND, 3, width=2, prior=prior)
    with pytest.raises(ConfigError, match="no superfeature"):
        Explaining([], Channels(2))
    with pytest.raises(MismatchError, match=r"\[batch, 6\] when flattened"):
        model()(torch.randn(2, 7))
    with pytest.raises(MismatchError, match=r"multiple of 4"):
        Channels(4)(torch.randn(1, 6, 2, 2))
    with pytest.raises(MismatchError, match=r"does not explain"):
        explanations_of(torch.randn(2, 3))
    other = explaining_mlp(FOUND, 3, branch=lambda size, classes: nn.Sequential(nn.Tanh(), nn.Linear(size, classes)))
    assert logits_of(other(data().inputs)).shape == (24, 3), "any sub-network"
    assert prior_of(TeacherSignal(torch.zeros(4, 3), torch.tensor([0, 1, 2, 0]))).tolist() == pytest.approx([1 / 3] * 3)


def test_a_cnn_explains_by_groups_of_channels():
    def build(width: int) -> nn.Module:
        return explaining_cnn_builder(8, 16, 16, superfeatures=4, branch_channels=width, trunk_stages=2)((1, 12, 12), 5)

    torch.manual_seed(0)
    made = build(3).eval()
    inputs = torch.randn(2, 1, 12, 12)
    out = made(inputs)
    said = explanations_of(out)
    assert said.shape == (2, 4, 5)
    torch.testing.assert_close(out["logits"], said.sum(1))  # no prior term
    with torch.no_grad():
        made.trunk[1].weight[3:6] = 0  # the channels of the second group
    after = explanations_of(made(inputs))
    assert [torch.equal(said[:, m], after[:, m]) for m in range(4)] == [True, False, True, True]
    plain = sum(p.numel() for p in models["cnn(16, 32, 32)"]((1, 12, 12), 5).parameters())
    width = matched_branch_channels(build, plain)
    sizes = [sum(p.numel() for p in build(w).parameters()) for w in (width, width + 1)]
    assert sizes[0] <= plain < sizes[1]
    with pytest.raises(ConfigError, match="at least"):
        matched_branch_channels(build, 10)
    with pytest.raises(MismatchError, match="stage for trunk and branch each"):
        explaining_cnn_builder(8)((1, 12, 12), 5)


def kl(ours, theirs, temperature):
    """Σ p log(p / q) of tempered distributions given as logits, by plain Python."""
    p, q = ([math.exp(v / temperature) for v in side.tolist()] for side in (theirs, ours))
    p, q = [v / sum(p) for v in p], [v / sum(q) for v in q]
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def double_parts() -> tuple[Explaining, Explaining, Batch, TeacherSignal]:
    student, teacher = model(1).double(), model(2).double()
    some = data(5)
    batch = Batch(some.inputs.double(), some.labels, torch.arange(5), complete=True)
    with torch.no_grad():
        return student, teacher, batch, TeacherSignal(teacher(batch.inputs)["logits"], some.labels)


@pytest.mark.parametrize("living", [True, False])
def test_the_loss_is_the_paper_formula(living):
    student, teacher, batch, signal = double_parts()
    with torch.no_grad():
        said = teacher(batch.inputs)
        signals = [TeacherSignal(part, batch.labels) for part in said["explanations"].unbind(1)]
    objective = paper_objective()
    term = ked(objective, Explained(teacher if living else signals))
    out = student(batch.inputs)
    losses = objective(out["logits"], signal) + term(out, batch, signal)
    weight, share, tau = 0.7, 0.7, 10.0
    for n in range(5):
        explained = sum(kl(out["explanations"][n, m].detach(), said["explanations"][n, m], tau) for m in range(3))
        wanted = (1 - weight) * float(functional.cross_entropy(out["logits"][n], batch.labels[n]).detach())
        wanted += weight * (1 - share) * tau**2 * kl(out["logits"][n].detach(), said["logits"][n], tau)
        wanted += weight * share / 3 * tau**2 * explained
        assert float(losses[n].detach()) == pytest.approx(wanted, abs=1e-10)


def test_the_gradient_is_that_of_differences():
    _, teacher, batch, signal = double_parts()
    objective = Objective("kd", 3.0, 0.6, divergence="forward-kl")
    term = ked(objective, Explained(teacher, Objective("kd", 2.0, 1.0)), share=0.4)
    raw = torch.randn(5, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3), requires_grad=True)

    def loss(raw: torch.Tensor) -> torch.Tensor:
        said = torch.log_softmax(raw, 2)
        return term({"logits": combined(said, PRIOR.double().log()), "explanations": said}, batch, signal)

    assert torch.autograd.gradcheck(loss, raw)


def test_weights_pick_superfeatures_and_any_cell_can_be_an_explanation():
    student, teacher, batch, signal = double_parts()
    out = student(batch.inputs)
    signals = [TeacherSignal(part, batch.labels) for part in teacher(batch.inputs)["explanations"].detach().unbind(1)]
    objective = Objective("kd", 2.0, 1.0)
    each = torch.stack([objective(out["explanations"][:, m], signals[m]) for m in range(3)], 1)
    torch.testing.assert_close(Explained(signals, objective)(out, batch, signal), each.mean(1))
    torch.testing.assert_close(
        Explained(signals, objective, (0, 3, 1))(out, batch, signal), each @ torch.tensor([0, 0.75, 0.25]).double()
    )
    domain = Objective("class-mean", 1.0, 1.0)
    wanted = torch.stack([domain(out["explanations"][:, m], signals[m]) for m in range(3)], 1).mean(1)
    torch.testing.assert_close(Explained(signals, domain)(out, batch, signal), wanted)
    with pytest.raises(ConfigError, match=r"explanation_signals"):
        Explained(teacher, domain)
    with pytest.raises(ConfigError, match="not all 0"):
        Explained(signals, weights=(0.0, 0.0, 0.0))
    with pytest.raises(MismatchError, match=r"2 superfeatures, 3 classes[\s\S]*3 superfeatures"):
        Explained(signals[:2], objective)(out, batch, signal)
    for share in (-0.1, 1.1):
        with pytest.raises(ConfigError, match=r"number in \[0, 1\]"):
            Moved(objective, Explained(signals), share)
    with pytest.raises(ConfigError, match="without a teacher"):
        Moved(objective, Explained(signals), 0.5)(out, batch, None)


def test_stored_explanations_are_those_of_the_examples_in_the_batch():
    student, teacher, batch, signal = double_parts()
    signals = [TeacherSignal(part, batch.labels) for part in teacher(batch.inputs)["explanations"].detach().unbind(1)]
    drawn = torch.tensor([3, 0, 4])
    part = Batch(batch.inputs[drawn], batch.labels[drawn], drawn, complete=True)
    for objective in (Objective("kd", 2.0, 1.0), Objective("class-mean", 1.0, 1.0)):
        whole = Explained(signals, objective)(student(batch.inputs), batch, signal)
        some = Explained(signals, objective)(student(part.inputs), part, signal.take(drawn))
        torch.testing.assert_close(some, whole[drawn])


def test_ignored_labels_have_no_row():
    student, teacher, batch, signal = double_parts()
    signals = [TeacherSignal(part, batch.labels) for part in teacher(batch.inputs)["explanations"].detach().unbind(1)]
    out = student(batch.inputs)
    whole = ked(paper_objective(), Explained(signals))(out, batch, signal)
    labels = batch.labels.clone()
    labels[2] = -100
    kept = torch.tensor([0, 1, 3, 4])
    some = ked(paper_objective(), Explained(signals))(out, Batch(batch.inputs, labels, batch.index), signal.take(kept))
    torch.testing.assert_close(some, whole[kept])


def train(share: float, **more: object) -> nn.Module:
    teacher, some = model(2), data()
    objective = paper_objective()
    student = model(1)
    signal = signal_on(teacher, some)
    terms = [] if share < 0 else [ked(objective, Explained(explanation_signals(teacher, some)), share=share)]
    distill(student, some, signal, objective=objective, training=TRAINING, terms=terms, show="nothing")
    return student


def test_at_share_0_it_is_kd_bit_for_bit_and_above_it_is_not():
    kd, zero, some = (train(share).state_dict() for share in (-1, 0.0, 0.7))
    assert all(torch.equal(kd[name], zero[name]) for name in kd)
    assert not all(torch.equal(kd[name], some[name]) for name in kd)


def test_hidden_features_take_their_share():
    """λ μ (1 - ρ) on explanations, λ μ ρ / M on the features of each branch, from the terms there are."""
    student, teacher, batch, signal = double_parts()
    objective, rho, share = paper_objective(), 0.6, 0.5
    explained = Explained(teacher)
    hints = [Hint("similarity", f"branches.{m}.1", f"branches.{m}.1", weight=1 / 3) for m in range(3)]
    with taught(student, teacher, hints, example=batch.inputs[:2], examples=5) as hidden:
        out = student(batch.inputs)
        found = ked(objective, explained, share=share, hidden=hidden, hidden_share=rho)(out, batch, signal)
        each = sum(hidden.each(batch).values()) / 3
        soft = objective.soft_scale * objective.divergence(out["logits"], objective.target(signal, torch.float64))
        wanted = share * (0.7 * ((1 - rho) * explained(out, batch, signal) + rho * each) - soft)
        torch.testing.assert_close(found, wanted)
        torch.testing.assert_close(  # the KD side: λ (1 - ρ) T² KL + λ ρ D
            Moved(objective, hidden, rho)(out, batch, signal), rho * (0.7 * each - soft)
        )
        torch.testing.assert_close(Blend(((2.0, explained),))(out, batch, signal), 2 * explained(out, batch, signal))


@pytest.mark.parametrize("term_name", ["fitnets", "attention", "similarity"])
def test_a_cnn_learns_hidden_maps_of_each_branch_through_the_engine(term_name):
    def build(width: int) -> nn.Module:
        return explaining_cnn_builder(4, width, superfeatures=2, branch_channels=3)((1, 8, 8), 3)

    torch.manual_seed(0)
    some = Examples(torch.randn(24, 1, 8, 8), torch.arange(24) % 3)
    student, teacher = build(4), build(6).eval()
    objective = paper_objective()
    hints = [Hint(term_name, f"branches.{m}.0", f"branches.{m}.0", weight=1 / 2) for m in range(2)]
    names = set(student.state_dict())
    with taught(student, teacher, hints, example=some.inputs[:2], examples=24) as hidden:
        term = ked(objective, Explained(explanation_signals(teacher, some)), hidden=hidden)
        _, run = distill(
            student,
            some,
            signal_on(teacher, some),
            objective=objective,
            terms=[term],
            training=TRAINING,
            show="nothing",
        )
        assert set(hidden.values) == {hint.name for hint in hints}
        assert all(bool(torch.isfinite(value).all()) and float(value.mean()) > 0 for value in hidden.values.values())
    assert run.steps == 12
    assert set(student.state_dict()) == names, "regressors leave with the block"


def test_students_in_the_bundle_of_the_study_train_as_alone():
    """The study trains the students of all seeds at once: a step of the bundle is a step of each, to rounding."""
    from lab.bundle import Bundle, Flat, Ordered, Said

    some, objective = data(), paper_objective()
    teachers = [model(10), model(11)]
    ordered = Ordered(some, [0, 1])
    said = [explanation_signals(teacher, some) for teacher in teachers]
    whole = [TeacherSignal(torch.cat([s[m].logits for s in said]), some.labels.repeat(2)) for m in range(3)]
    bundle = Bundle([model(1), model(2)], FOUND.groups, 6)
    distill(
        bundle, ordered, Said(ordered, [signal_on(teacher, some) for teacher in teachers]), objective=objective,
        training=TRAINING, terms=[Flat(ked(objective, Explained(whole)), ordered)], show="nothing",
    )  # fmt: skip
    for seed, together in enumerate(bundle.unbundle()):
        own = some.take(ordered.own_order[:, seed])
        alone, teacher = model(1 + seed), teachers[seed]
        distill(
            alone, own, signal_on(teacher, own), objective=objective, training=TRAINING, show="nothing",
            terms=[ked(objective, Explained(explanation_signals(teacher, own)))],
        )  # fmt: skip
        for a, b in zip(alone.parameters(), together.parameters(), strict=True):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)
        assert not torch.allclose(next(alone.parameters()), next(model(1 + seed).parameters()), atol=1e-3)
