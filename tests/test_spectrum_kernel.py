"""The spectrum: five divergences that add up to log K - E[H(p)], each the information one step of the ladder adds."""

from __future__ import annotations

import math
import sys

import pytest
import torch
from hypothesis import given, settings

import oracles
from drawn import DTYPES, Draw, draws
from fractionate import CELLS, TeacherSignal, spectrum
from fractionate.records import LEVEL_NAMES, Spectrum
from test_cells import lists

TERMS = [f"{name.replace('.', '_')}_nats" for name in LEVEL_NAMES]


def rounding(signal: TeacherSignal) -> float:
    """How far a term may be off: rows of single and half precision are worked on in float32."""
    return 1e-9 if signal.logits.dtype == torch.float64 else 1e-6


def information(signal: TeacherSignal, cell: str, temperature: float) -> float:
    """log K - E[H(target)]: what a target says beyond a uniform guess."""
    target = CELLS[cell].target(signal, temperature)
    return math.log(signal.classes) + float(torch.xlogy(target, target).sum(1).mean())


@given(draws())
def test_the_terms_are_not_negative_and_add_up(drawn: Draw) -> None:
    signal = drawn.signal()
    found = spectrum(signal, drawn.temperature)
    p = torch.softmax(signal.logits.double() / drawn.temperature, 1)
    total = math.log(signal.classes) + float(torch.xlogy(p, p).sum(1).mean())
    values = [getattr(found, term) for term in TERMS]
    assert all(math.isfinite(value) and value >= 0 for value in values)
    assert math.fsum(values) == pytest.approx(total, abs=rounding(signal))
    assert found.total_nats == pytest.approx(total, abs=rounding(signal))
    assert list(found.nats) == list(LEVEL_NAMES)
    assert list(found.nats.values()) == values


@given(draws(max_classes=12))
@settings(max_examples=80)
def test_the_terms_equal_the_loop_oracle(drawn: Draw) -> None:
    signal = drawn.signal()
    logits, labels, _ = lists(signal)
    found, expected = spectrum(signal, drawn.temperature), oracles.spectrum(logits, labels, drawn.temperature)
    for term, value in expected.items():
        assert getattr(found, term) == pytest.approx(value, abs=rounding(signal)), term


@given(draws(dtypes=(torch.float64,), masked=False, scales=(0.0, 0.5, 3.0, 10.0)))
def test_each_step_of_the_ladder_adds_its_terms(drawn: Draw) -> None:
    """uniform → ls → class-mean → kd; and within the last step, confidence before shape."""
    signal, t = drawn.signal(), drawn.temperature
    found = spectrum(signal, t)
    flat, ls, class_mean, kd = 0.0, *(information(signal, name, t) for name in ("ls", "class-mean", "kd"))
    assert ls - flat == pytest.approx(found.universe_nats, abs=1e-9)
    assert class_mean - ls == pytest.approx(found.domain_confidence_nats + found.domain_shape_nats, abs=1e-9)
    assert kd - class_mean == pytest.approx(found.instance_confidence_nats + found.instance_shape_nats, abs=1e-9)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("classes", [2, 1000, 5000])
@pytest.mark.parametrize("scale", [3.0, 1e4])
def test_many_classes(dtype: torch.dtype, classes: int, scale: float) -> None:
    signal = Draw(1, 9, classes, dtype, scale, 1.0, one_class=False, masked=True, related=False).signal()
    for temperature in (0.05, 1.0, 100.0):
        found = spectrum(signal, temperature)
        p = torch.softmax(signal.logits.double() / temperature, 1)
        total = math.log(classes) + float(torch.xlogy(p, p).sum(1).mean())
        assert all(getattr(found, term) >= 0 for term in TERMS)
        assert found.total_nats == pytest.approx(total, abs=rounding(signal))


@given(draws(), draws())
@settings(max_examples=30)
def test_renaming_classes_and_reordering_examples_change_nothing(drawn: Draw, other: Draw) -> None:
    signal = drawn.signal()
    generator = torch.Generator().manual_seed(other.seed)
    order = torch.randperm(len(signal), generator=generator)
    rename = torch.randperm(signal.classes, generator=generator)
    renamed = TeacherSignal(signal.logits[order][:, torch.argsort(rename)], rename[signal.labels[order]])
    first, second = spectrum(signal, drawn.temperature), spectrum(renamed, drawn.temperature)
    for term in TERMS:
        assert getattr(first, term) == pytest.approx(getattr(second, term), abs=rounding(signal))


def test_walked_in_chunks_it_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    signal = Draw(4, 40, 6, torch.float64, 3.0, 1.0, one_class=False, masked=True, related=False).signal()
    whole = spectrum(signal, 2.0)
    monkeypatch.setattr(sys.modules["fractionate.theory.spectrum.stream"], "CHUNK_BYTES", 7 * 6 * 8)
    parts = spectrum(signal, 2.0)
    for term in TERMS:
        assert getattr(parts, term) == pytest.approx(getattr(whole, term), abs=1e-12)


def test_what_teachers_without_some_knowledge_show() -> None:
    labels = torch.arange(12) % 3
    generator = torch.Generator().manual_seed(0)
    for dtype, off in ((torch.float64, 1e-12), (torch.float32, 1e-7)):
        nothing = spectrum(TeacherSignal(torch.zeros(12, 3, dtype=dtype), labels))
        assert nothing.total_nats == pytest.approx(0, abs=off)

    smoothing = torch.nn.functional.one_hot(labels, 3) * 2.0  # the same for every class and example
    only_universe = spectrum(TeacherSignal(smoothing, labels))
    assert only_universe.universe_nats > 0.1
    assert only_universe.total_nats == pytest.approx(only_universe.universe_nats, abs=1e-7)

    rows = torch.randn(3, 3, generator=generator, dtype=torch.float64)
    class_level = spectrum(TeacherSignal(rows[labels], labels))
    assert class_level.domain_shape_nats > 1e-3
    assert class_level.instance_confidence_nats + class_level.instance_shape_nats == pytest.approx(0, abs=1e-12)

    certain = spectrum(TeacherSignal(torch.nn.functional.one_hot(labels, 3) * 1e4, labels))
    assert certain.universe_nats == pytest.approx(math.log(3), abs=1e-12)
    assert certain.total_nats == pytest.approx(math.log(3), abs=1e-12)


def test_the_interface_as_written(signal: TeacherSignal) -> None:
    found = spectrum(signal)
    assert isinstance(found, Spectrum)
    assert found == spectrum(signal, 1.0) == spectrum(signal=signal, temperature=1)
    assert found.temperature == 1.0
    assert (found.examples, found.classes) == (8, 4)
    assert spectrum(signal, temperature=4.0).total_nats < found.total_nats, "heat blurs"
    assert Spectrum.from_json(found.to_json()) == found
    for name in LEVEL_NAMES:
        assert name in str(found)
