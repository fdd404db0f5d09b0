"""One contract test over every registered part, and broken parts that it must find."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

from fractionate import CELLS
from fractionate.diagnosis import probes
from fractionate.errors import ConfigError, MismatchError
from fractionate.losses.divergences import divergences
from fractionate.losses.terms import TermSpec, term_specs
from fractionate.losses.terms.base import Unit
from fractionate.losses.terms.features import FeatureTerm
from fractionate.plugins.contracts import check
from fractionate.theory.confidence import confidences
from fractionate.theory.shape import shapes
from test_terms import TEXTS


@pytest.mark.parametrize(
    ("registry", "name"),
    [
        *((r, n) for r in (confidences, shapes, CELLS, divergences, probes) for n in r),
        # candidates read pairs of texts, which the contract's rows are not: test_targets has its oracle
        *((term_specs, text) for text in TEXTS.values() if not text.startswith("candidates")),
    ],
    ids=lambda value: value if isinstance(value, str) else value.kind,
)
def test_every_registered_part_keeps_its_contract(registry, name):
    assert len(check(registry[name])) >= 2


@dataclass(frozen=True)
class Sevens:
    level: ClassVar[str] = "universe"

    def __call__(self, signal):
        return torch.full((len(signal),), 7.0, dtype=signal.logits.dtype)


class Loose:
    level = "domain"

    def __call__(self, signal):
        return signal.confidence


@dataclass(frozen=True)
class Everywhere:
    level: ClassVar[str] = "instance"

    def __call__(self, signal):
        return signal.probabilities


@dataclass(frozen=True)
class Unsquared:
    formula: ClassVar[str] = "Σ (target - q)"

    def __call__(self, student_logits, target):
        return (target.probabilities - torch.softmax(student_logits, 1)).sum(1) + student_logits[:, 0]


@dataclass(frozen=True)
class WrongGradient:
    formula: ClassVar[str] = "½ Σ (target - q)²"

    def __call__(self, student_logits, target):
        q = torch.softmax(student_logits / target.temperature, 1)
        return 0.5 * (target.probabilities - q).square().sum(1)

    def gradient(self, student_logits, target, scale=1.0):
        q = torch.softmax(student_logits / target.temperature, 1)
        return self(student_logits, target), scale * (q - target.probabilities)


@dataclass(frozen=True)
class OneNumber(FeatureTerm):
    student: str = "a"
    teacher: str = "b"
    weight: float = 1.0
    formula: ClassVar[str] = "mean square"

    def compare(self, student, teacher):
        return (student - teacher).square().mean()


@dataclass(frozen=True)
class Coupled(OneNumber):
    """The share of each example in a mean over its batch, without saying so."""

    def compare(self, student, teacher):
        return (student - teacher - (student - teacher).mean(0)).square().flatten(1).mean(1)


@dataclass
class Careless(TermSpec):
    """Not frozen, of the wrong unit, without a formula, and the teacher learns too."""

    weight: float = 1.0
    unit: ClassVar[Unit] = "row"
    needs = OneNumber().needs

    @property
    def formula(self):
        return ""

    def __post_init__(self):
        pass

    @contextmanager
    def bind(self, at):
        yield (
            lambda student, teacher, signal: (student.features["a"] - teacher.features["b"]).square().flatten(1).mean(1)
        )


@dataclass(frozen=True)
class Unsaved(OneNumber):
    """What it trains is hidden from the checkpoint."""

    def trained_part(self, student, teacher, examples):
        part = torch.nn.Identity()
        part.scale = torch.ones(())
        part.forward = lambda ours, theirs, index: (ours - theirs).square().flatten(1).mean(1) * part.scale
        return part


@pytest.mark.parametrize(
    ("part", "words"),
    [
        (Sevens(), ["lies in"]),
        (Loose(), ["frozen dataclass", "domain: the same"]),
        (Everywhere(), ["gives the label nothing"]),
        (Unsquared(), ["equality"]),
        (WrongGradient(), ["finite difference", "analytic gradient"]),
        (OneNumber(), ["one number per row or per example"]),
        (Coupled(), ["couples_batch"]),
        (Careless(), ["frozen", "formula", "in every process", "at least 0", "unit", "the teacher none"]),
        (Unsaved(), ["parameter or a buffer"]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_broken_parts_are_found_and_every_broken_promise_is_named(part, words):
    with pytest.raises(ConfigError) as raised:
        check(part)
    for word in words:
        assert word in str(raised.value)


def test_something_else_is_no_part():
    with pytest.raises(MismatchError, match="no part"):
        check(3)
