"""The synthetic hierarchy, and attribution against what is known about it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from fractionate import diagnose
from fractionate.data import data_sets
from fractionate.data.hierarchy import Hierarchy
from fractionate.diagnosis.class_correlation import class_correlations
from fractionate.errors import ConfigError
from fractionate.records import Training
from fractionate.study import dissect
from fractionate.study.arms import FACTORIAL
from fractionate.theory.spectrum import spectrum


def test_draws_are_a_function_of_the_seed() -> None:
    world = Hierarchy()
    one, again, other = world.draw(50, seed=1), world.draw(50, seed=1), world.draw(50, seed=2)
    assert torch.equal(one.inputs, again.inputs) and torch.equal(one.labels, again.labels)
    assert not torch.equal(one.inputs, other.inputs)
    assert one.class_names[0] == "0.0" and one.class_names[-1] == "3.2" and one.classes == 12
    assert torch.equal(world.oracle(50, seed=1).labels, one.labels)


def test_the_oracle_is_the_bayes_posterior() -> None:
    """Calibrated: where it says p, it is right with p; no classifier has a better likelihood on average."""
    signal = Hierarchy().oracle(20_000, seed=3)
    top, predicted = signal.probabilities.max(dim=1)
    right = (predicted == signal.labels).float()
    for low in (0.3, 0.5, 0.7, 0.9):
        some = (top > low) & (top <= low + 0.1)
        assert float(right[some].mean()) == pytest.approx(float(top[some].mean()), abs=2 / int(some.sum()) ** 0.5)


def test_superclasses_confuse_within() -> None:
    world = Hierarchy()
    signal = world.oracle(5000, seed=4)
    group = torch.tensor(world.superclass)
    p = signal.probabilities.scatter(1, signal.labels[:, None], 0.0)
    same = (p * (group[None] == group[signal.labels][:, None])).sum(1) / p.sum(1)
    assert float(same.mean()) > 0.6  # 2 of 11 others, 0.18 by chance


def test_superclasses_are_blocks_of_correlated_classes_at_high_temperatures() -> None:
    world = Hierarchy()
    signal, groups = world.oracle(1000, seed=1), [str(each) for each in world.superclass]
    low, high = class_correlations(signal, groups)
    for found in (low, high):
        shares = torch.softmax(signal.logits.double() / found.temperature, dim=1).numpy()
        np.testing.assert_allclose(np.array(found.matrix), np.corrcoef(shares.T), atol=1e-9)
    assert low.within is not None and low.between is not None and high.within is not None and high.between is not None
    assert low.within < 0.1 and high.within > 0.5 > 0 > high.between
    names = [f"{group}.{number % 3}" for number, group in enumerate(groups)]
    assert diagnose(signal, class_names=names).class_correlations == (low, high)
    assert class_correlations(signal)[1].within is None and class_correlations(signal, groups, ()) == ()


@pytest.mark.parametrize(
    ("knows", "silent"),
    [
        ("ls", ("domain.confidence", "domain.shape", "instance.confidence", "instance.shape")),
        ("class-mean", ("instance.confidence", "instance.shape")),
        ("kd-pt", ("domain.shape", "instance.shape")),
    ],
)
def test_knowledge_that_is_cut_has_no_bits_and_no_share_of_the_gain(knows: str, silent: tuple[str, ...]) -> None:
    world = Hierarchy()
    signal = world.oracle(150, seed=1, knows=knows)
    found = spectrum(signal)
    for level, nats in found.nats.items():
        assert (nats < 1e-5) == (level in silent), (level, nats)
    study = dissect(
        lambda: nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 12)),
        world.draw(150, seed=1),
        signal,
        cells=FACTORIAL,
        seeds=3,
        training=Training(epochs=5, batch_size=30, learning_rate=1e-2),
        test=world.draw(1000, seed=2),
        metric="nll",
        progress="off",
        points=1,
    )
    shares = [s for s in study.shares if s.level in silent]
    assert len(shares) == 2 * len(silent)
    for share in shares:
        assert abs(share.gain) < 1e-4, share
    universe = next(s for s in study.shares if s.level == "universe")
    assert abs(universe.gain) > 1e-3


def test_no_hierarchy_without_classes() -> None:
    with pytest.raises(ConfigError, match="no such hierarchy"):
        Hierarchy(superclasses=1, classes_each=1)
    with pytest.raises(ConfigError, match="no such hierarchy"):
        Hierarchy(example_radius=0.0)


def test_a_run_file_names_it_and_a_study_sees_its_superclasses() -> None:
    data = data_sets["hierarchy(200, superclasses=3, classes_each=2, features=4, class_radius=0.3)"]
    assert torch.equal(data.inputs, Hierarchy(3, 2, 4, 0.3).draw(200, seed=0).inputs)
    assert data.class_names == ("0.0", "0.1", "1.0", "1.1", "2.0", "2.1")
    found = []
    for superclasses in ((), (0, 0, 1, 1, 2, 2)):
        study = dissect(
            lambda: nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 6)), data, Hierarchy(3, 2, 4, 0.3).oracle(200, seed=0),
            test=data, cells=("kd",), seeds=2, training=Training(steps=4), superclasses=superclasses, progress="off",
        )  # fmt: skip
        found.append([[p.rows_within_superclass for p in run.history] for run in study.runs])
    assert found[0] == found[1] and found[0][0][0] is not None
    for wrong in ("hierarchy(0)", "hierarchy(superclasses=1, classes_each=1)", "hierarchy(class_radius=0)"):
        with pytest.raises(ConfigError):
            data_sets[wrong]
