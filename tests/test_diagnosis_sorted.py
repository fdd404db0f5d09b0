"""The order of rows raises no finding of its own: healthy signals sorted by class, and really shifted ones."""

from __future__ import annotations

import pytest
import torch

from fractionate.diagnosis import diagnose
from fractionate.records import Diagnosis, Finding
from fractionate.theory.teacher_signal import TeacherSignal


def signal(
    seed: int, *, classes: int = 10, each: int = 100, recall: tuple[float, float] = (0.4, 1.0), ordered: bool = True
) -> TeacherSignal:
    """A teacher whose recall differs from class to class."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.arange(classes).repeat_interleave(each)
    if not ordered:
        labels = labels[torch.randperm(len(labels), generator=draw)]
    right = torch.linspace(*recall, classes)[torch.randperm(classes, generator=draw)]
    answer = labels.clone()
    wrong = torch.rand(len(labels), generator=draw) > right[labels]
    answer[wrong] = torch.randint(classes, (int(wrong.sum()),), generator=draw)
    logits = torch.randn(len(labels), classes, generator=draw)
    logits[torch.arange(len(labels)), answer] += 4
    return TeacherSignal(logits, labels)


def named(given: TeacherSignal, name: str = "misaligned-cache") -> Finding:
    found: Diagnosis = diagnose(given, only=[name])
    return found.findings[0]


@pytest.mark.parametrize("recall", [(0.9, 0.9), (0.4, 1.0), (0.05, 1.0)])
@pytest.mark.parametrize("seed", range(4))
def test_healthy_rows_sorted_by_class_are_not_called_misaligned(seed: int, recall: tuple[float, float]) -> None:
    assert named(signal(seed, recall=recall)).severity == "ok"


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("shift", [-2, 3, 8])
def test_shifted_rows_are_found_in_any_order(shift: int, ordered: bool) -> None:
    whole = signal(0, ordered=ordered, recall=(0.8, 1.0))
    finding = named(TeacherSignal(whole.logits.roll(shift, 0), whole.labels))
    assert finding.severity == "error" and f"shifted by {shift}:" in finding.summary


def test_a_shuffled_stretch_is_found_among_classes_of_any_recall() -> None:
    whole = signal(1, ordered=False)
    logits = whole.logits.clone()
    logits[300:500] = logits[300:500].flip(0)
    finding = named(TeacherSignal(logits, whole.labels))
    first = next(e.value for e in finding.evidence if e.name.startswith("first row"))
    assert finding.severity == "error" and 280 <= first <= 330


def test_a_language_model_that_knows_its_frequencies_is_sound() -> None:
    draw = torch.Generator().manual_seed(0)
    words = 2000
    logits = torch.log(1 / torch.arange(1, words + 1).float()) + 1.5 * torch.randn(1500, words, generator=draw)
    labels = torch.multinomial(logits.softmax(1), 1, generator=draw).flatten()
    found = diagnose(TeacherSignal(logits, labels))
    assert not [f.name for f in found.findings if f.severity == "error"] and found.recipe.distil
    crowded = TeacherSignal(logits.roll(700, 1), labels)  # the same model, sure of other words
    assert named(crowded, "input-mismatch").severity == "error"


def test_a_lost_class_is_named_and_a_rare_one_is_not() -> None:
    whole = signal(0, recall=(0.9, 0.9))
    logits = whole.logits.clone()
    logits[:100, 0] -= 6  # of class 0, whose rows come first
    finding = named(TeacherSignal(logits, whole.labels), "lost-class")
    assert finding.severity == "warning" and finding.summary.startswith("the teacher misses single classes: 0 (")
    assert named(whole, "lost-class").severity == "ok"
    draw = torch.Generator().manual_seed(1)
    common = torch.tensor([0.9, 0.06, 0.04]).log().expand(1000, 3) + 0.3 * torch.randn(1000, 3, generator=draw)
    labels = torch.multinomial(common.softmax(1), 1, generator=draw).flatten()
    assert named(TeacherSignal(common, labels), "lost-class").severity == "ok"
