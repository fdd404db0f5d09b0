"""Canonical text: the same in every process and order, another for every change, and no text for what has none."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fractionate import Cell, Objective
from fractionate.errors import ConfigError
from fractionate.losses.divergences import divergences
from fractionate.records import Training
from fractionate.system.canonical import canonical, canonical_text
from fractionate.system.registry import Registry, registered_name
from fractionate.theory.confidence import confidences
from fractionate.theory.shape import shapes

layers: Registry[Any] = Registry("layer", "fractionate.test-layers")


@layers.register("pool")
@dataclass(frozen=True)
class Pool:
    size: int
    weight: float = 1.0
    places: frozenset[str] = frozenset()
    options: dict[str, Any] = field(default_factory=dict)
    label: str = field(default="", compare=False)
    version: ClassVar[int] = 1


@dataclass(frozen=True)
class Second:
    size: int = 3
    version: ClassVar[int] = 2


SPEC = Pool(options={"b": (1, None), "a": Second()}, size=2, places=frozenset({"x", "y", "z", "layers.10"}))
PROGRAM = """
import torch
from test_canonical import SPEC
from fractionate import Objective
from fractionate.system.canonical import canonical_text
print(canonical_text((SPEC, Objective("kd-topk(3)", 2.0, divergence="jsd(0.3)"), torch.arange(3.0))))
"""


def test_what_is_written():
    assert canonical(SPEC) == {
        "is": "layer:pool",
        "size": 2,
        "places": ["layers.10", "x", "y", "z"],
        "options": {"a": {"is": "test_canonical.Second", "version": 2}, "b": [1, None]},
    }
    assert canonical(Objective("kd", 2.0, 0.9, divergence="skew-forward(0.2)")) == {
        "is": "fractionate.Objective",
        "cell": {
            "is": "fractionate.Cell",
            "confidence": {"is": "confidence rule:instance"},
            "shape": {"is": "shape rule:instance"},
        },
        "temperature": 2,
        "divergence": {"is": "divergence:skew-forward", "skew": 0.2},
    }
    assert canonical(Training(steps=3))["steps"] == 3


def test_the_text_is_the_same_in_another_process():
    here = canonical_text((SPEC, Objective("kd-topk(3)", 2.0, divergence="jsd(0.3)"), torch.arange(3.0)))
    for seed in ("1", "2"):  # of the order in which sets are read
        there = subprocess.run(
            [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True,
            env=os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)},
        )  # fmt: skip
        assert there.stdout.strip() == here
    assert json.loads(here)[0]["is"] == "layer:pool"


def test_equal_specs_have_equal_texts():
    assert canonical_text(Pool(size=2)) == canonical_text(Pool(weight=1, size=np.int64(2), label="seen"))  # type: ignore[arg-type]
    assert canonical_text({"b": 2.0, "a": 0.0}) == canonical_text({"a": -0.0, "b": 2})
    assert canonical_text(Cell("instance", "instance")) == canonical_text(Objective("kd").cell)
    assert canonical_text(np.float64(0.1)) == canonical_text(0.1)


@given(st.floats(0, 10), st.floats(0, 10))
def test_texts_are_equal_where_weights_are(one, other):
    texts = [canonical_text(Pool(size=1, weight=w)) for w in (one, other)]
    assert (texts[0] == texts[1]) == (one == other)


def test_every_change_changes_the_text():
    objective = Objective("kd", 2.0)
    changed = [
        objective, replace(objective, temperature=2.5), replace(objective, teacher_weight=0.8),
        replace(objective, scale_by_temperature_squared=False), replace(objective, divergence="forward-kl"),
        replace(objective, cell="kd-topk(2)"), replace(objective, cell="kd-topk(3)"),
        SPEC, replace(SPEC, size=3), replace(SPEC, weight=0.5), replace(SPEC, places=frozenset({"x"})),
        replace(SPEC, options={"a": Second(4)}), (SPEC, SPEC), Second(), torch.ones(2), torch.ones(2).double(),
        torch.zeros(2), float("inf"), float("nan"), "1", 1, True, None, "inf",
    ]  # fmt: skip
    assert len({canonical_text(value) for value in changed}) == len(changed)


def test_a_version_is_part_of_the_text(monkeypatch):
    before = canonical_text(SPEC)
    monkeypatch.setattr(Pool, "version", 2)
    assert canonical_text(SPEC) != before


def test_registered_rules_and_divergences_are_told_apart_by_their_names():
    for registry in (confidences, shapes, divergences):
        for name in registry:
            assert registered_name(type(registry[name])).startswith(f"{registry.kind}:")
            assert canonical_text(registry[name])
    assert registered_name(Second) == ""


def local() -> Any:
    @dataclass(frozen=True)
    class Inner:
        size: int = 1

    return Inner()


@dataclass
class Thawed:
    size: int = 1


@pytest.mark.parametrize(
    "value",
    [lambda x: x, torch.nn.Linear(1, 1), Thawed(), Pool, local(), {1: 2}, object(), Pool(size=2, options={"f": print})],
    ids=lambda value: type(value).__name__,
)
def test_what_has_no_stable_text_is_refused(value):
    with pytest.raises(ConfigError, match="the same in every process"):
        canonical(value)


def test_the_refusal_names_the_place():
    with pytest.raises(ConfigError, match=r"options\['f'\]\[1\] has no text"):
        canonical(Pool(size=2, options={"f": (1, print)}))
