"""Explaining models: own columns, the formula, the size; and their trainings with KED. The loss itself: test_explanation_terms."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fractionate import Objective, TeacherSignal
from fractionate.data.examples import Examples
from fractionate.diagnosis.explanations import explanation_signals
from fractionate.errors import ConfigError, MismatchError
from fractionate.losses.terms import Explanations, ked, paper_objective, term_specs
from fractionate.models.additive import (
    Channels,
    Explaining,
    combined,
    explaining_cnn_builder,
    explaining_mlp,
    explanations_of,
    matched_width,
    prior_of,
)
from fractionate.models.columns import given
from fractionate.models.outputs import logits_of
from fractionate.models.zoo import models
from fractionate.records import Training
from fractionate.run.explained import group_names
from fractionate.teachers import Cached
from fractionate.training import distill
from fractionate.training.recipe import Recipe

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
    outputs = explanations_of(out).exp()
    torch.testing.assert_close(outputs.sum(2), torch.ones_like(outputs[..., 0]))
    product = outputs.prod(dim=1) / PRIOR.double() ** 2
    torch.testing.assert_close(
        torch.softmax(out["logits"], 1), product / product.sum(1, keepdim=True), rtol=1e-6, atol=1e-9
    )
    torch.testing.assert_close(combined(outputs.log()), outputs.log().sum(1))


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
    outputs = explanations_of(out)
    assert outputs.shape == (2, 4, 5)
    torch.testing.assert_close(out["logits"], outputs.sum(1))  # no prior term
    with torch.no_grad():
        made.trunk[1].weight[3:6] = 0  # the channels of the second group
    after = explanations_of(made(inputs))
    assert [torch.equal(outputs[:, m], after[:, m]) for m in range(4)] == [True, False, True, True]
    with pytest.raises(MismatchError, match="stage for trunk and branch each"):
        explaining_cnn_builder(8)((1, 12, 12), 5)


def train(share: float, source: object = None) -> nn.Module:
    teacher, some, student = model(2), data(), model(1)
    fields = {"objective": paper_objective()} if share < 0 else ked(share=share)
    recipe = Recipe(**fields, training=TRAINING)
    distill(student, some, source or teacher, recipe=recipe, show="nothing")
    return student


def test_at_share_0_it_is_kd_bit_for_bit_and_above_it_is_not():
    kd, zero, some = (train(share).state_dict() for share in (-1, 0.0, 0.7))
    assert all(torch.equal(kd[name], zero[name]) for name in kd)
    assert not all(torch.equal(kd[name], some[name]) for name in kd)


def test_stored_explanations_train_as_the_model_does():
    teacher, some = model(2).eval(), data()
    with torch.no_grad():
        outputs = teacher(some.inputs)
    stored = Cached(TeacherSignal(outputs["logits"], some.labels), explanations=outputs["explanations"])
    living, kept = train(0.7).state_dict(), train(0.7, stored).state_dict()
    for name in living:
        torch.testing.assert_close(living[name], kept[name], rtol=1e-5, atol=1e-6)
    signals = explanation_signals(teacher, some, batch_size=7)
    torch.testing.assert_close(torch.stack([s.logits for s in signals], 1), outputs["explanations"])


@pytest.mark.parametrize("cell", ["class-mean", "kd-shuffled"])
def test_explanations_of_all_the_data_are_read_once_for_class_level_cells(cell):
    teacher, some, student = model(2), data(), model(1)
    fields = ked(share=0.7, explanations=Explanations(Objective(cell, 2.0, 1.0)))
    _, run = distill(student, some, teacher, recipe=Recipe(**fields, training=TRAINING), show="nothing")
    assert run.status == "completed" and run.history[-1].loss < run.history[0].loss


def test_only_explaining_models_can_be_explained():
    plain = nn.Linear(6, 3)
    recipe = Recipe(**ked(share=0.7), training=TRAINING)
    for student, teacher in ((model(1), plain), (plain, model(2))):
        with pytest.raises(MismatchError, match="does not explain"):
            distill(student, data(), teacher, recipe=recipe, show="nothing")
    other = explaining_mlp(given([[0, 3], [1, 4, 5, 2]], features=6), 3, width=5)
    with pytest.raises(MismatchError, match="explain differently"):
        distill(other, data(), model(2), recipe=recipe, show="nothing")


@pytest.mark.parametrize("term_name", ["fitnets", "attention", "similarity"])
def test_a_cnn_learns_hidden_maps_of_each_branch(term_name):
    def build(width: int) -> nn.Module:
        return explaining_cnn_builder(4, width, superfeatures=2, branch_channels=3)((1, 8, 8), 3)

    torch.manual_seed(0)
    some = Examples(torch.randn(24, 1, 8, 8), torch.arange(24) % 3)
    student, teacher = build(4), build(6).eval()
    places = [f"branches.{m}.0" for m in range(2)]
    hidden = tuple(term_specs.factory(term_name)(place, place, weight=1 / 2) for place in places)
    names = set(student.state_dict())
    recipe = Recipe(**ked(share=0.5, hidden=hidden, hidden_share=0.6), training=TRAINING)
    _, run = distill(student, some, teacher, recipe=recipe, show="nothing")
    assert run.steps == 12 and run.contract is not None and len(run.contract.terms) == 3
    assert set(student.state_dict()) == names, "regressors leave with the training"


def test_a_group_is_named_by_the_words_that_its_columns_share() -> None:
    columns = ("mean radius", "radius error", "worst radius", "mean area", "area")
    assert group_names(((0, 1, 2), (3, 4)), columns) == ("radius", "area")
    assert group_names(((0, 3), (1, 2, 4)), columns) == ()  # "mean", and nothing: numbers then
    assert group_names(((0, 1), (2,)), ("a 1", "a 2", "a")) == ()  # two of one name
    assert group_names(((0, 1),), ()) == ()
