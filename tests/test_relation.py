"""Vocabularies in bounded memory: spectrum and class means of compact rows against the same rows made dense; groups of tokens."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from fractionate import Objective, TeacherSignal
from fractionate.diagnosis.token_groups import by_frequency, by_position, findings, grouped
from fractionate.errors import MismatchError
from fractionate.store.forms import Form
from fractionate.teachers.tokens import TokenSignal
from fractionate.theory.spectrum import spectrum
from fractionate.theory.spectrum.vocabulary import ClassMeans, VocabularyPopulation

CLASSES = 13


def whole(rows=60, seed=0, scale=2.0):
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(rows, CLASSES, generator=generator, dtype=torch.float64)
    labels = torch.randint(CLASSES - 2, (rows,), generator=generator)  # two tokens never occur
    logits[torch.arange(rows), labels] += 2.0
    return TeacherSignal(logits, labels)


def compact(signal, k=4, temperatures=(1.0, 2.0)):
    form = Form("top-k", signal.classes, "float64", k, temperatures)
    return form.compact(form.encode(signal.logits, signal.labels, np.zeros(len(signal), np.uint64)))


@pytest.mark.parametrize("k", [1, 4, CLASSES - 2])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_the_spectrum_is_that_of_the_rows_made_dense(k: int, temperature: float) -> None:
    part = compact(whole(), k)
    expected = spectrum(part.at(temperature).dense(), temperature)
    found = spectrum(part, temperature)
    for name, value in expected.nats.items():
        assert found.nats[name] == pytest.approx(value, abs=2e-7), name  # the rest is kept in float32
    assert found.examples == 60 and found.classes == CLASSES


def test_class_means() -> None:
    part = compact(whole())
    dense = part.dense()
    labels = torch.arange(CLASSES)
    expected = dense.stats.class_mean_of(labels)
    torch.testing.assert_close(ClassMeans(part, 1.0).of(labels).double(), expected.double(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "cell", ["class-mean", "ls", "kd-sim", "kd-pt-shuffled", "kd-pt-shuffled-within-class", "kd-shuffled", "kd"]
)
def test_every_level_of_cell_reads_the_statistics_of_all_tokens(cell: str) -> None:
    from dataclasses import replace

    part = compact(whole())
    dense, few = part.dense(), torch.tensor([5, 41, 7])
    batch = replace(part.take(few).dense(), population=VocabularyPopulation(part), rows=few)
    objective = Objective(cell, 1.0, 1.0)
    student = torch.randn(3, CLASSES, dtype=torch.float64)
    torch.testing.assert_close(objective(student, batch), objective(student, dense.take(few)), rtol=1e-5, atol=1e-6)


# -- groups --------------------------------------------------------------------------------------------------------------------


def tokens_of(signal) -> TokenSignal:
    rows = len(signal)
    return TokenSignal(signal, torch.arange(rows) // 6, torch.arange(rows) % 6)


def test_frequency_classes_hold_their_share_of_the_text() -> None:
    counts = torch.tensor([50, 25, 15, 6, 3, 1])
    group, names = by_frequency(torch.tensor([0, 1, 2, 3, 4, 5]), counts)
    assert group.tolist() == [0, 1, 1, 2, 2, 2] and names[0] == "frequent (50% of the text)"
    with pytest.raises(MismatchError, match="no frequency classes"):
        by_frequency(torch.tensor([0]), counts, (0.5, 0.4))


@pytest.mark.parametrize("form", ["dense", "compact"])
def test_groups_are_measured_as_if_they_were_all(form: str) -> None:
    signal = whole()
    tokens = tokens_of(signal if form == "dense" else compact(signal, CLASSES - 2))
    group, names = by_position(tokens.position)
    assert names == ("place 0", "places 1 to 3", "places 4 to 9", "places from 10")
    found = grouped(tokens, group, names)
    assert [g.tokens for g in found] == [10, 30, 20]
    part = tokens.position == 0
    alone = TeacherSignal(signal.logits[part], signal.labels[part])
    assert found[0].spectrum.total_nats == pytest.approx(spectrum(alone).total_nats, abs=1e-6)
    assert found[0].gold_share == float((alone.logits.argmax(1) == alone.labels).double().mean())
    assert found[0].mean_confidence == pytest.approx(float(alone.confidence.mean()), abs=1e-6)
    with pytest.raises(MismatchError, match="groups do not fit"):
        grouped(tokens, group[:3], names)


def test_findings_name_a_teacher_that_repeats_the_gold_token() -> None:
    signal = whole()
    sure = signal.logits.clone()
    sure[torch.arange(60), signal.labels] += 20
    first, second = findings(tokens_of(TeacherSignal(sure, signal.labels)))
    assert first.severity == "warning" and first.evidence[0].value == 1.0 and "repeats the label" in first.cause
    assert second.severity == "skipped" and "needs the counts" in second.summary
    wrong = signal.logits.clone()
    wrong[torch.arange(60), signal.labels] -= 20
    assert findings(tokens_of(TeacherSignal(wrong, signal.labels)))[0].severity == "ok"
    counts = torch.bincount(signal.labels, minlength=CLASSES)
    rare = by_frequency(signal.labels, counts)[0] == 2
    unsure = signal.logits.clone()
    unsure[rare, signal.labels[rare]] -= 6
    found = findings(tokens_of(TeacherSignal(unsure, signal.labels)), counts)[1]
    assert found.severity == "info" and found.score < 0.5 and "smaller teacher weight" in found.fix
    assert math.isfinite(found.score)
