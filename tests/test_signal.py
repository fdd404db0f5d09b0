"""The signal: what a teacher said, checked once, read at a temperature, with statistics of the whole."""

from __future__ import annotations

import inspect

import pytest
import torch
from hypothesis import given, settings

import oracles
from drawn import Draw, draws
from fractionate import CELLS, Objective, TeacherSignal
from fractionate.theory.teacher_signal import Population, check_temperature, compute_dtype, relation_from_rows
from test_cells import NAMES, lists


def test_the_interface_as_written() -> None:
    """Outside checks rely on it: three arguments by place or by name."""
    assert list(inspect.signature(TeacherSignal).parameters)[:3] == ["logits", "labels", "class_relation"]
    logits, labels, relation = torch.randn(6, 3), torch.tensor([0, 1, 2, 0, 1, 2]), torch.eye(3)
    forms = [
        TeacherSignal(logits, labels),
        TeacherSignal(logits, labels, None),
        TeacherSignal(logits=logits, labels=labels, class_relation=None),
        TeacherSignal(labels=labels, logits=logits),
        TeacherSignal(logits, labels.int()),
        TeacherSignal(logits, labels.to(torch.uint8)),
    ]
    for form in forms:
        assert torch.equal(form.logits, logits)
        assert torch.equal(form.labels, labels)
        assert form.labels.dtype == torch.long
        assert form.class_relation is None
        assert form.temperature == 1.0
        assert len(form) == 6
        assert form.classes == 3
    assert torch.equal(TeacherSignal(logits, labels, relation).class_relation, relation)  # type: ignore[arg-type]
    assert TeacherSignal(logits, labels, relation, temperature=4.0).temperature == 4.0


def test_a_signal_shows_itself(signal: TeacherSignal) -> None:
    assert repr(signal) == "TeacherSignal(8 examples × 4 classes, torch.float64, temperature 1, class relation none)"
    assert "given" in repr(TeacherSignal(signal.logits, signal.labels, torch.eye(4).double()))
    for words in ("<table>", "62.5%", f"{float(signal.at(4.0).stats.mean_confidence):.3f}"):
        assert words in signal.at(4.0)._repr_html_()
    assert signal.take(torch.tensor([], dtype=torch.long))._repr_html_()


def test_gradient_stops_at_the_signal() -> None:
    logits = torch.randn(2, 3, requires_grad=True)
    signal = TeacherSignal(logits, torch.tensor([0, 1]))
    assert not signal.logits.requires_grad
    assert not signal.probabilities.requires_grad


def test_a_frozen_signal_stays_as_it_is(signal: TeacherSignal) -> None:
    with pytest.raises(AttributeError):
        signal.temperature = 2.0  # type: ignore[misc]
    signal.at(4.0)
    assert signal.temperature == 1.0


@given(draws(dtypes=(torch.float64,), max_classes=8))
@settings(max_examples=40)
def test_statistics_equal_the_loop_oracle(drawn: Draw) -> None:
    signal = drawn.signal().at(drawn.temperature)
    logits, labels, _ = lists(signal)
    stats = signal.stats
    means = oracles.class_means(logits, labels, drawn.temperature)
    assert stats.present.tolist() == sorted(means)
    for row, label in enumerate(stats.present.tolist()):
        assert stats.class_mean[row].tolist() == pytest.approx(means[label], abs=1e-12)
        assert float(stats.class_share[row]) == pytest.approx(labels.count(label) / len(labels), abs=1e-15)
        assert int(stats.row_of_class[label]) == row
    own = oracles.confidences("instance", logits, labels, drawn.temperature, None)
    assert stats.confidence.tolist() == pytest.approx(own, abs=1e-12)
    assert float(stats.mean_confidence) == pytest.approx(oracles.mean(own), abs=1e-12)
    assert int((stats.row_of_class >= 0).sum()) == len(means)


def test_statistics_are_walked_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    signal = Draw(4, 40, 6, torch.float64, 3.0, 1.0, one_class=False, masked=True, related=False).signal()
    monkeypatch.setattr("fractionate.theory.teacher_signal.ROWS_A_CHUNK_ELEMENTS", 7 * 6)
    parts = Population(signal.logits, signal.labels).stats(2.0)
    monkeypatch.undo()
    whole = signal.at(2.0).stats
    for name in ("confidence", "class_mean", "mean_confidence", "class_share"):
        torch.testing.assert_close(getattr(parts, name), getattr(whole, name))


def test_statistics_are_measured_once_a_temperature(signal: TeacherSignal) -> None:
    index = torch.tensor([3, 1])
    assert signal.at(2.0).stats is signal.at(2.0).stats
    assert signal.take(index).at(2.0).stats is signal.at(2.0).stats
    assert signal.at(2.0).stats is not signal.stats


def test_a_batch_is_a_part_of_the_whole(signal: TeacherSignal) -> None:
    batch = signal.take(torch.tensor([6, 0]))
    assert torch.equal(batch.logits, signal.logits[[6, 0]])
    assert torch.equal(batch.labels, torch.tensor([3, 0]))
    again = batch.take(torch.tensor([1]))
    assert torch.equal(again.logits, signal.logits[[0]])
    assert again.stats is signal.stats
    assert torch.equal(signal.take(torch.tensor([], dtype=torch.long)).probabilities, torch.zeros(0, 4).double())
    for name in NAMES:
        whole = CELLS[name].target(signal)
        torch.testing.assert_close(CELLS[name].target(batch), whole[[6, 0]])
        torch.testing.assert_close(CELLS[name].target(again), whole[[0]])


@pytest.mark.parametrize("index", [slice(2, 5), torch.arange(8) % 3 == 2])
def test_a_batch_is_taken_by_slice_or_mask_too(signal: TeacherSignal, index: slice | torch.Tensor) -> None:
    part = signal.take(index)
    assert torch.equal(part.logits, signal.logits[index])
    assert torch.equal(part.labels, signal.labels[index])
    assert torch.equal(CELLS["kd-shuffled"].target(part), CELLS["kd-shuffled"].target(signal)[index])


def test_a_batch_may_repeat_examples(signal: TeacherSignal) -> None:
    twice = signal.take(torch.tensor([2, 2, 5]))
    for name in NAMES:
        assert torch.equal(CELLS[name].target(twice)[0], CELLS[name].target(twice)[1])


def test_moved_to_where_it_is_it_is_the_same(signal: TeacherSignal) -> None:
    assert signal.to("cpu") is signal
    assert signal.to(torch.device("cpu")) is signal


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_batch_on_another_device_keeps_the_statistics_of_the_whole(signal: TeacherSignal) -> None:
    related = TeacherSignal(signal.logits, signal.labels, torch.eye(4).double())
    index = torch.tensor([1, 6])
    moved = related.take(index).to("cuda")
    for name in NAMES:
        expected = CELLS[name].target(related, 2.0)[index]
        torch.testing.assert_close(CELLS[name].target(moved, 2.0).cpu(), expected)
        loss = Objective(name)(torch.zeros(2, 4, device="cuda", dtype=torch.float64), moved)
        assert loss.device.type == "cuda"


def test_moved_statistics_hold_the_same_numbers(signal: TeacherSignal) -> None:
    """To a device without numbers, so that the path is walked on any machine."""
    assert signal.population is not None
    elsewhere = signal.population.stats(2.0, torch.device("meta"))
    assert elsewhere.class_mean.device.type == "meta"
    assert elsewhere.temperature == 2.0
    assert elsewhere.class_mean.shape == signal.at(2.0).stats.class_mean.shape
    moved = signal.take(torch.tensor([1, 2])).to("meta")
    assert moved.population is signal.population
    assert moved.logits.device.type == moved.stats.confidence.device.type == "meta"
    assert len(moved.stats.confidence) == 8


@pytest.mark.parametrize("temperature", [0.05, 1, 1.0, 4, 100.0, torch.tensor(2.0).item()])
def test_temperatures(temperature: float) -> None:
    assert check_temperature(temperature) == float(temperature)


def test_half_precision_is_computed_in_float32() -> None:
    assert (
        compute_dtype(torch.float16) == compute_dtype(torch.bfloat16) == compute_dtype(torch.float32) == torch.float32
    )
    assert compute_dtype(torch.float64) == torch.float64
    signal = TeacherSignal(torch.randn(3, 4).to(torch.bfloat16), torch.tensor([0, 1, 2]))
    assert signal.probabilities.dtype == signal.stats.class_mean.dtype == torch.float32


@given(draws(masked=True))
def test_others_are_the_classes_that_may_share_the_rest(drawn: Draw) -> None:
    signal = drawn.signal()
    logits, labels, _ = lists(signal)
    for row, label, others in zip(logits, labels, signal.others.tolist(), strict=True):
        assert [j for j, other in enumerate(others) if other] == oracles.allowed(row, label)


def test_relation_from_rows_is_the_cosine() -> None:
    weight = torch.randn(5, 7, dtype=torch.float64, requires_grad=True)
    relation = relation_from_rows(weight)
    assert not relation.requires_grad
    for i in range(5):
        for j in range(5):
            dot = sum(a * b for a, b in zip(weight[i].tolist(), weight[j].tolist(), strict=True))
            norms = [sum(a * a for a in weight[k].tolist()) ** 0.5 for k in (i, j)]
            assert float(relation[i, j]) == pytest.approx(dot / norms[0] / norms[1], abs=1e-12)
    assert relation_from_rows(torch.zeros(2, 3)).isfinite().all(), "a row of zeros is like nothing"
    assert relation_from_rows(torch.randn(2, 3).half()).dtype == torch.float32
