"""Compact rows have the spectrum of their dense form, whatever the number of entries, and are diagnosed in bounded memory."""

from __future__ import annotations

import importlib
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fractionate.diagnosis import diagnose
from fractionate.errors import ConfigError
from fractionate.losses.objective import Objective
from fractionate.records import Diagnosis
from fractionate.theory.spectrum import spectrum
from fractionate.theory.spectrum.certainty import contributions
from fractionate.theory.spectrum.compact import compact_contributions, compact_spectrum
from fractionate.theory.teacher_signal import TeacherSignal
from fractionate.theory.topk_signal import CompactSignal

MODULE = importlib.import_module("fractionate.theory.spectrum.compact")


def largest(logits: Tensor, labels: Tensor, k: int, temperatures: tuple[float, ...] = (1.0,)) -> CompactSignal:
    """The label, the k largest others and the exact rest at each temperature."""
    others = logits.scatter(1, labels[:, None], -torch.inf)
    top = others.topk(k, dim=1)
    left = others.scatter(1, top.indices, -torch.inf)
    rest = torch.stack([torch.logsumexp(left / t, 1) for t in temperatures], 1)
    own = logits.gather(1, labels[:, None]).squeeze(1)
    return CompactSignal(labels, own, top.values, top.indices, rest, logits.shape[1], temperatures=temperatures)


def drawn(rows: int, classes: int, seed: int) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, max(1, classes - 2), (rows,), generator=draw)  # two classes that nobody has
    logits = 2 * torch.randn(rows, classes, generator=draw, dtype=torch.float64)
    return logits.scatter_add(1, labels[:, None], torch.full((rows, 1), 2.0, dtype=torch.float64)), labels


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(3, 9), st.data(), st.sampled_from([1.0, 2.5]), st.sampled_from([4, 1 << 20]))
def test_it_is_the_spectrum_of_the_dense_form(rows, classes, data, temperature, room):
    logits, labels = drawn(rows, classes, data.draw(st.integers(0, 99)))
    signal = largest(logits, labels, data.draw(st.integers(1, classes - 1)), (1.0, temperature))
    kept, MODULE.MOST_ENTRIES = MODULE.MOST_ENTRIES, room
    try:
        found = compact_contributions(signal, temperature)
    finally:
        MODULE.MOST_ENTRIES = kept
    torch.testing.assert_close(found, contributions(signal.at(temperature).dense(), temperature))


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_all_classes_among_the_entries_give_the_dense_spectrum(temperature):
    logits, labels = drawn(300, 12, 0)
    found = compact_spectrum(largest(logits, labels, 11, (1.0, 3.0)), temperature)
    dense = spectrum(TeacherSignal(logits, labels), temperature)
    assert list(found.nats.values()) == pytest.approx(list(dense.nats.values()), abs=1e-12)
    assert (found.examples, found.classes, found.temperature) == (300, 12, temperature)


def test_padded_rows_and_masked_classes_are_finite():
    logits, labels = drawn(40, 6, 1)
    logits[:20, 4:] = -torch.inf  # rows with fewer entries: padding, and nothing left out
    labels = labels.clamp_max(3)
    signal = largest(logits, labels, 4)
    found = compact_contributions(signal)
    assert bool(torch.isfinite(found).all())
    torch.testing.assert_close(found, contributions(signal.dense()))


def test_a_temperature_that_is_not_known_is_refused():
    with pytest.raises(ConfigError, match="not known at temperature 2"):
        compact_spectrum(largest(*drawn(10, 6, 0), 3), 2.0)


def test_a_diagnosis_of_compact_rows_is_that_of_dense_ones():
    logits, labels = drawn(400, 8, 2)
    signal = largest(logits, labels, 7)
    found, dense = (
        diagnose(signal, objective=Objective("kd", 1.0, 0.5)),
        diagnose(signal.dense(), objective=Objective("kd", 1.0, 0.5)),
    )
    assert list(found.spectrum.nats.values()) == pytest.approx(list(dense.spectrum.nats.values()))
    by_name = {f.name: f for f in dense.findings}
    for one in found.findings:
        if one.name != "stored-form":
            assert (one.severity, one.summary) == (by_name[one.name].severity, by_name[one.name].summary), one.name
    assert replace(found.recipe, stored_entries=None) == dense.recipe and found.recipe.stored_entries == 7
    assert [s.temperature for s in found.spectrum_over_temperature] == [1.0] and found.rescaling is None
    for one, other in zip(found.class_parts, dense.class_parts, strict=True):
        assert (one.name, one.examples) == (other.name, other.examples) and one.nats == pytest.approx(other.nats)
    assert Diagnosis.from_json(found.to_json()) == found
    cooler = diagnose(signal, objective=Objective("kd", 4.0, 0.5), only=["temperature", "stored-form(left_out=0.5)"])
    assert "not measured" in cooler.findings[0].summary and cooler.findings[1].severity == "ok"
    few = diagnose(largest(logits, labels, 1), only=["stored-form"])
    assert few.findings[0].severity == "info" and "counts as even" in few.findings[0].summary


def test_what_needs_all_classes_is_refused():
    signal = largest(*drawn(60, 8, 0), 3)
    with pytest.raises(ConfigError, match="without second_view and second_pass"):
        diagnose(signal, second_view=signal, second_pass=signal)
    with pytest.raises(ConfigError, match="without student"):
        diagnose(signal, torch.nn.Linear(2, 8))


def test_sampled_stores_warn(tmp_path):
    from fractionate.data.examples import Examples
    from fractionate.store import Store, collect

    torch.manual_seed(0)
    x = torch.randn(80, 6)
    teacher = torch.nn.Linear(6, 20)
    data = Examples(x, teacher(x).argmax(1), tuple(map(str, range(20))))
    for form, severity in (("sampled", "warning"), ("top-k", "info")):
        collect(teacher, data, tmp_path / form, form=form, k=8)
        for store in (tmp_path / form, Store.open(tmp_path / form)):
            found = diagnose(store, only=["stored-form"]).findings[0]
            assert found.severity == severity, form
    assert "random draws" in diagnose(tmp_path / "sampled", only=["stored-form"]).findings[0].summary


def test_large_vocabularies_stay_small(monkeypatch):
    """No tensor of sums is as long as the vocabulary."""
    rows, classes, k = 600, 151_936, 32
    draw = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 1000, (rows,), generator=draw)
    indices = 1000 + torch.stack([torch.randperm(5000, generator=draw)[:k] for _ in range(rows)])
    logits = 3 * torch.randn(rows, k, generator=draw)
    signal = CompactSignal(labels, torch.full((rows,), 5.0), logits, indices, torch.zeros(rows, 1), classes)
    made: list[int] = []
    zeros = torch.zeros
    monkeypatch.setattr(torch, "zeros", lambda *a, **b: made.append(zeros(*a, **b).numel()) or zeros(*a, **b))
    found = compact_spectrum(signal)
    assert max(made) <= rows * (k + 1) and found.total_nats > 0
