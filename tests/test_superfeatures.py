"""Superfeatures: second derivatives against loops of autograd, exactly M groups, planted blocks found, and every refusal."""

from __future__ import annotations

import sys

import networkx
import numpy as np
import pytest
import torch
from torch import nn

from fractionate.data.examples import Examples
from fractionate.diagnosis.feature_groups import between_groups, communities, superfeatures
from fractionate.diagnosis.interactions import (
    attribution_interactions,
    quantity_of,
    second_derivatives,
    smoothed,
    varying,
)
from fractionate.errors import ConfigError, MismatchError, MissingExtraError, NumericsError
from fractionate.models.columns import given
from fractionate.records import Superfeatures


def network(activation: type[nn.Module], features: int = 6, classes: int = 3) -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Linear(features, 8), activation(), nn.Linear(8, 7), activation(), nn.Linear(7, classes)]
    return nn.Sequential(*layers).double()


INPUTS = torch.randn(9, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def by_loops(model: nn.Module, inputs: torch.Tensor, quantity: str) -> torch.Tensor:
    """One second derivative after another, from the definition."""
    named = model(inputs).argmax(1)
    groups = [[n for n in range(len(inputs)) if int(named[n]) == c] for c in range(3)]
    groups = [range(len(inputs))] if quantity == "log-probabilities" else [g for g in groups if g]
    total = torch.zeros(inputs.shape[1], inputs.shape[1], dtype=torch.float64)
    for group in groups:
        hessian = torch.zeros_like(total)
        for n in group:
            x = inputs[n].clone().requires_grad_()
            value = quantity_of(model(x[None]), named[n : n + 1], quantity).sum()
            slope = torch.autograd.grad(value, x, create_graph=True)[0]
            for i in range(len(x)):
                row = torch.autograd.grad(slope[i], x, retain_graph=True, allow_unused=True)[0]
                for j in range(len(x)):
                    hessian[i, j] += 0.0 if row is None else row[j]
        total += (hessian / len(group)).abs() * len(group) / len(inputs)
    strength = total + total.T
    return strength - torch.diag(strength.diagonal())


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh])
@pytest.mark.parametrize("memory_mebibytes", [0.01, 512.0])
def test_second_derivatives_are_those_of_loops(activation, memory_mebibytes):
    model = network(activation)
    found = second_derivatives(model, INPUTS, memory_mebibytes=memory_mebibytes)
    torch.testing.assert_close(found, by_loops(model, INPUTS, "log-probabilities"))
    assert torch.equal(found, found.T) and bool((found >= 0).all()) and not found.diagonal().any()


def test_log_odds_are_those_of_loops_and_need_a_smooth_teacher():
    model = network(nn.Tanh)
    torch.testing.assert_close(
        second_derivatives(model, INPUTS, quantity="log-odds"), by_loops(model, INPUTS, "log-odds")
    )
    with pytest.raises(MismatchError, match=r"piecewise linear[\s\S]*smoothed\(teacher\)"):
        second_derivatives(network(nn.ReLU), INPUTS, quantity="log-odds")
    smooth = smoothed(network(nn.ReLU), sharpness=5.0)
    assert second_derivatives(smooth, INPUTS, quantity="log-odds").sum() > 0
    with pytest.raises(ConfigError, match=r"no nn.ReLU"):
        smoothed(nn.Linear(2, 2))
    with pytest.raises(ConfigError, match="unknown quantity"):
        second_derivatives(model, INPUTS, quantity="odds")


class Additive(nn.Module):
    """Logits that are a sum of a part of the columns 0-2 and a part of the columns 3-5."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleList([nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 3)) for _ in range(2)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.parts[0](x[:, :3]) + self.parts[1](x[:, 3:])


def test_an_additive_teacher_has_cross_terms_in_log_probabilities_and_none_in_log_odds():
    torch.manual_seed(0)
    model = Additive().double()
    paper, odds = (second_derivatives(model, INPUTS, quantity=q) for q in ("log-probabilities", "log-odds"))
    assert paper[:3, 3:].mean() > 0.05 * paper[:3, :3].mean()
    assert odds[:3, 3:].abs().max() < 1e-14
    assert odds[:3, :3].mean() > 1e-3
    assert communities(odds, 2).groups == ((0, 1, 2), (3, 4, 5))


def test_ablation_is_the_second_difference_and_shapley_the_interaction_index():
    model = network(nn.Tanh, features=4)
    inputs = INPUTS[:3, :4]
    mean = inputs.mean(0)
    named = model(inputs).argmax(1)

    def value(n: int, present: set[int]) -> float:
        x = torch.stack([inputs[n, i] if i in present else mean[i] for i in range(4)])
        return float(quantity_of(model(x[None]), named[n : n + 1], "log-probabilities").detach())

    def difference(n: int, i: int, j: int, context: set[int]) -> float:
        return value(n, context | {i, j}) - value(n, context | {i}) - value(n, context | {j}) + value(n, context)

    ablation = attribution_interactions(model, inputs)
    everyone = set(range(4))
    wanted = sum(difference(n, 0, 2, everyone - {0, 2}) for n in range(3)) / 3
    assert float(ablation[0, 2]) == pytest.approx(2 * abs(wanted), abs=1e-10)
    contexts = [(set(), 1 / 3), ({1}, 1 / 6), ({3}, 1 / 6), ({1, 3}, 1 / 3)]  # s! (n - s - 2)! / (n - 1)!
    index = sum(w * difference(n, 0, 2, c) for n in range(3) for c, w in contexts) / 3
    shapley = attribution_interactions(model, inputs, method="shapley", samples=150)
    assert float(shapley[0, 2]) == pytest.approx(2 * abs(index), rel=0.1)


def product_sums(x):
    """f1(columns 0-3) + f2(columns 4-7)."""
    return sum(
        x[:, i] * x[:, j]
        for start in (0, 4)
        for i, j in ((start, start + 1), (start + 1, start + 2), (start + 2, start + 3))
    )


def planted(seed: int = 0, examples: int = 500) -> Examples:
    """Eight columns in two blocks: the label is whether products within block A plus products within block B are above 0."""
    x = torch.randn(examples, 8, generator=torch.Generator().manual_seed(seed))
    value = product_sums(x)
    return Examples(x, (value > 0).long())


def test_planted_blocks_are_recovered():
    """A trained teacher on label = f1(block A) + f2(block B), which it was not told of."""
    from fractionate.records import Training
    from fractionate.training import distill

    data = planted(examples=3000)
    torch.manual_seed(0)
    teacher = nn.Sequential(nn.Linear(8, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 2))
    distill(teacher, data, training=Training(steps=500, batch_size=100, learning_rate=1e-2), show="nothing")
    found = superfeatures(teacher, data, 2, quantity="log-odds")
    assert found.groups == ((0, 1, 2, 3), (4, 5, 6, 7))


def test_planted_blocks_are_recovered_from_a_teacher_that_can_only_be_asked():
    def asked(x: torch.Tensor) -> object:
        x = x.numpy()  # no torch from here on
        value = product_sums(x)
        return np.stack([-value, value], axis=1)

    data = planted(examples=60)
    found = superfeatures(asked, data, 2, method="ablation", quantity="log-odds")
    assert found.groups == ((0, 1, 2, 3), (4, 5, 6, 7))
    with pytest.raises(MismatchError, match=r"no gradient[\s\S]*ablation"):
        superfeatures(asked, data, 2)


@pytest.mark.parametrize("count", [1, 2, 3, 5, 12])
def test_exactly_so_many_groups_that_together_are_everything(count):
    noise = torch.rand(12, 12, generator=torch.Generator().manual_seed(2))
    block = torch.arange(12) // 4
    strength = noise * torch.where(block[:, None] == block[None], 1.0, 0.05)
    strength = (strength + strength.T).fill_diagonal_(0)
    found = communities(strength, count)
    assert len(found.groups) == count
    assert sorted(c for g in found.groups for c in g) == list(range(12))
    assert found.groups == communities(strength * 1e-6, count).groups, "the scale does not matter"
    if count == 3:
        assert found.groups == ((0, 1, 2, 3), (4, 5, 6, 7), (8, 9, 10, 11))
        assert found.modularity == pytest.approx(
            networkx.community.modularity(networkx.from_numpy_array(strength.numpy()), found.groups), abs=1e-6
        )
        means = torch.tensor(between_groups(strength, found))
        assert means.diagonal().min() > 5 * means[0, 1]
        assert float(means[0, 1]) == pytest.approx(float(strength[:4, 4:8].mean()))


def test_weak_edges_of_many_features_are_left_out():
    block = torch.arange(80) // 40
    strength = torch.where(block[:, None] == block[None], 1.0, 0.3) + 0.01 * torch.rand(80, 80)
    strength = (strength + strength.T).fill_diagonal_(0)
    assert communities(strength, 2, neighbours=20).groups == (tuple(range(40)), tuple(range(40, 80)))


def test_counts_that_cannot_be_reached():
    apart = torch.block_diag(*[torch.ones(3, 3)] * 4).fill_diagonal_(0)
    with pytest.raises(ConfigError, match=r"4 parts that do not interact[\s\S]*exactly 2"):
        communities(apart, 2)
    pair = torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    with pytest.raises(ConfigError, match=r"only 0 of 3 features interact"):
        communities(torch.zeros(3, 3), 2)
    with pytest.raises(ConfigError, match=r"5 communities[\s\S]*reachable: .*1"):
        communities(torch.ones(6, 6).fill_diagonal_(0), 5, tries=3)
    for count in (0, 4):
        with pytest.raises(ConfigError, match=r"count in 1..3"):
            communities(pair, count)
    with pytest.raises(ConfigError, match=r"6 features cannot be put into 7 superfeatures"):
        superfeatures(network(nn.ReLU), INPUTS, 7)


def test_constant_columns_join_the_smallest_group_and_missing_values_are_named():
    inputs = INPUTS.clone()
    inputs[:, 2] = 1.5
    found = superfeatures(network(nn.ReLU), inputs, 2, feature_names=list("abcdef"))
    assert sorted(c for g in found.groups for c in g) == list(range(6))
    assert found.notes == ("1 of 6 features interact with nothing (1 are constant) and joined the smallest group: c",)
    assert "joined the smallest" in str(found)
    inputs[3, 4] = float("nan")
    with pytest.raises(
        NumericsError, match=r"1 of 6 columns have missing values, in 1 of 9[\s\S]*columns e[\s\S]*fill them"
    ):
        superfeatures(network(nn.ReLU), inputs, 2, feature_names=list("abcdef"))
    with pytest.raises(MismatchError, match="no column of these inputs varies"):
        varying(torch.ones(4, 3))


@pytest.mark.parametrize(
    "teacher", [lambda x: x.detach() @ torch.ones(6, 2).double(), lambda x: torch.zeros(len(x), 2)]
)
def test_a_teacher_without_gradients_is_told_what_to_do(teacher):
    with pytest.raises(MismatchError, match=r"no gradient[\s\S]*method='ablation'"):
        second_derivatives(teacher, INPUTS)


def test_given_groups_by_place_and_by_name():
    found = given([["a", "c"], ["b"]], feature_names=("a", "b", "c"), names=("first", "second"))
    assert (found.groups, found.features, found.members(0)) == (((0, 2), (1,)), 3, "a, c")
    assert Superfeatures.from_json(found.to_json()) == found
    for groups, words in (
        ([[0, 1], [1, 2]], "in two groups: 1"),
        ([[0], [2]], "in no group: 1"),
        ([[0, 1, 2], []], "an empty group"),
    ):
        with pytest.raises(ConfigError, match=words):
            given(groups, features=3)
    with pytest.raises(ConfigError, match="no such feature: 7"):
        given([[0, 1, 2], [7]], features=3)
    with pytest.raises(ConfigError, match=r"no column 'radus'[\s\S]*did you mean 'radius'"):
        given([["radus"]], feature_names=("radius",))


def test_missing_libraries_name_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "networkx", None)
    with pytest.raises(MissingExtraError, match=r"fractionate\[explain\]"):
        communities(torch.ones(4, 4).fill_diagonal_(0), 2)
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    with pytest.raises(MissingExtraError, match=r"fractionate\[explain\]"):
        attribution_interactions(network(nn.ReLU), INPUTS)
