"""Planted faults are named by the finding that is about them, and the sound signal they were planted in raises nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from encoders import transformers
from fractionate.data.examples import Examples
from fractionate.diagnosis import diagnose
from fractionate.diagnosis.class_probes import DuplicateClasses
from fractionate.diagnosis.label_mixture import evenly, label_mixture
from fractionate.diagnosis.linear_probe import parts
from fractionate.diagnosis.student_fit import student_fit
from fractionate.diagnosis.transfer import read_transfer
from fractionate.losses.objective import Objective
from fractionate.records import Diagnosis
from fractionate.store.forms import Form
from fractionate.tasks import Task
from fractionate.theory.teacher_signal import TeacherSignal

CLASSES, FEATURES = 6, 8
CENTRES = 1.2 * torch.randn(CLASSES, FEATURES, generator=torch.Generator().manual_seed(5))


def made(count: int, seed: int) -> Examples:
    """Gaussians around class centres."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.randint(CLASSES, (count,), generator=draw)
    return Examples(CENTRES[labels] + torch.randn(count, FEATURES, generator=draw), labels, tuple("abcdef"))


def knows(inputs: Tensor) -> Tensor:
    """The teacher that knows the densities: calibrated exactly."""
    return -torch.cdist(inputs, CENTRES).square() / 2


DATA, HELD, VALIDATION, TEST = made(600, 0), made(400, 1), made(300, 2), made(300, 3)
SOUND, SOUND_HELD = knows(DATA.inputs), knows(HELD.inputs)


def student() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(FEATURES, 16), nn.ReLU(), nn.Linear(16, CLASSES))


def diagnosed(
    logits: Tensor = SOUND, held: Tensor | None = SOUND_HELD, labels: Tensor = DATA.labels, only: tuple[str, ...] = (),
    **splits: Any,
) -> Diagnosis:  # fmt: skip
    given = {"transfer": DATA, "validation": VALIDATION, "test": TEST, "student": student} | splits
    transfer = Examples(given["transfer"].inputs, labels, DATA.class_names)
    task = Task("classification", **(given | {"transfer": transfer}))
    there = None if held is None else TeacherSignal(held, HELD.labels)
    return diagnose(
        TeacherSignal(logits, labels), data=task, held_out=there, objective=Objective("kd", 2.0, 0.9), only=only
    )


def raised(found: Diagnosis) -> dict[str, str]:
    return {f.name: f.severity for f in found.findings if f.severity in ("error", "warning")}


def test_the_sound_signal_raises_nothing() -> None:
    assert raised(diagnosed()) == {}
    order = DATA.labels.argsort(stable=True)
    ordered = Examples(DATA.inputs[order], DATA.labels[order])
    assert raised(diagnosed(SOUND[order], labels=DATA.labels[order], transfer=ordered)) == {}


def shuffled(values: Tensor) -> Tensor:
    return values[torch.randperm(len(values), generator=torch.Generator().manual_seed(7))]


def filled(logits: Tensor) -> Tensor:
    kept = logits.topk(2, dim=1)
    return torch.full_like(logits, -1e4).scatter(1, kept.indices, kept.values)


PERMUTED = torch.tensor([3, 0, 1, 2, 5, 4])
NUMBERS: dict[str, tuple[Callable[[Tensor], Tensor], str, str]] = {
    "percentages": (lambda z: 100 * z.softmax(1), "unusable-numbers", "one sum"),
    "rounded percentages": (lambda z: (1000 * z.softmax(1)).round() / 10, "unusable-numbers", "one sum"),
    "sigmoids": (lambda z: (z + 5).sigmoid(), "unusable-numbers", "0..1"),
    "reversed sign": (lambda z: -z, "unusable-numbers", "sign is reversed"),
    "costs": (lambda z: -z.log_softmax(1), "unusable-numbers", "sign is reversed"),
    "renamed": (lambda z: z[:, PERMUTED], "permuted-classes", "6 classes"),
    "two renamed": (lambda z: z[:, [1, 0, 2, 3, 4, 5]], "permuted-classes", "2 classes"),
    "the two largest": (filled, "stored-form", "only 2 entries"),
    "one-hot answers": (lambda z: 9.0 * nn.functional.one_hot(z.argmax(1), CLASSES), "stored-form", "only 1 entry"),
    "too sure": (lambda z: 6 * z, "held-out-calibration", "too sure"),
    "flat": (lambda z: z / 100, "held-out-calibration", "less sure"),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_what_became_of_the_numbers_is_named(name: str) -> None:
    change, finding, words = NUMBERS[name]
    found = diagnosed(change(SOUND), change(SOUND_HELD))
    assert raised(found).get(finding), raised(found)
    assert words in next(f.summary for f in found.findings if f.name == finding)


@pytest.mark.parametrize("held", [SOUND_HELD, None])
def test_rows_inputs_and_preprocessing_are_told_apart(held: Tensor | None) -> None:
    assert raised(diagnosed(shuffled(SOUND), held)) == {"misaligned-cache": "error"}
    labels = diagnosed(labels=shuffled(DATA.labels), held=held)
    assert raised(labels)["misaligned-cache"] == "error"
    mixed = Examples(shuffled(DATA.inputs), DATA.labels)
    assert "misaligned-cache" in raised(diagnosed(transfer=mixed, held=held))
    wrong = knows(DATA.inputs.flip(1))  # other columns: the answers follow from the inputs, and are wrong
    found = raised(diagnosed(wrong, held))
    assert "misaligned-cache" not in found and ("input-mismatch" in found or held is None)


def test_wrong_inputs_are_not_blamed_on_a_weak_teacher() -> None:
    noisy = DATA.inputs + 3 * torch.randn(DATA.inputs.shape, generator=torch.Generator().manual_seed(0))
    found = raised(diagnosed(knows(noisy)))
    assert "input-mismatch" in found and "weak-teacher" not in found


def test_a_weak_teacher_has_no_other_names_for_its_classes() -> None:
    crowded = SOUND.clone()
    crowded[:, :3] += 6.0  # answers with three of six classes
    found = raised(diagnosed(crowded, None))
    assert "permuted-classes" not in found and found


def test_labels_that_are_the_teachers_answers_are_named_and_those_it_learned_are_not() -> None:
    assert raised(diagnosed(labels=SOUND.argmax(1)))["answers-as-labels"] == "warning"
    margin = SOUND.clone()
    margin[torch.arange(len(margin)), DATA.labels] = (
        SOUND.max(1).values + 1.0
    )  # fitted: right everywhere, and clear of ties
    assert "answers-as-labels" not in raised(diagnosed(margin))


def test_splits_are_compared() -> None:
    half = TEST.take(torch.arange(0, 300, 2))
    leaked = Examples(torch.cat([DATA.inputs, half.inputs]), torch.cat([DATA.labels, half.labels]))
    logits = knows(leaked.inputs)
    found = diagnosed(logits, labels=leaked.labels, transfer=leaked)
    assert raised(found) == {"leaked-examples": "warning"}
    assert "50.0% of the test examples in the transfer set" in next(
        f.summary for f in found.findings if f.name == "leaked-examples"
    )
    few = VALIDATION.take((VALIDATION.labels < 3).nonzero().flatten())
    assert raised(diagnosed(validation=few)) == {"split-shift": "warning"}
    moved = Examples(VALIDATION.inputs.flip(1), VALIDATION.labels)
    assert raised(diagnosed(validation=moved)) == {"split-shift": "warning"}
    skipped = diagnosed(validation=None, test=None, only=("leaked-examples", "split-shift"))
    assert {f.severity for f in skipped.findings} == {"skipped"}


def test_token_ids_leak_whatever_their_padding() -> None:
    rows = [{"input_ids": torch.arange(1, 3 + i % 5) + i, "labels": i % 2} for i in range(40)]
    signal = TeacherSignal(torch.randn(40, 2, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 2)
    ids = torch.zeros(40, 8, dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, : len(row["input_ids"])] = row["input_ids"]
    data = {"input_ids": ids, "labels": torch.arange(40) % 2}
    short = {"input_ids": ids[:10, :7], "labels": torch.arange(10) % 2}
    task = Task("classification", transfer=data, test=short, classes=2)
    found = diagnose(signal, data=task, only=["leaked-examples"]).findings[0]
    assert found.severity == "warning" and found.summary.startswith("100.0%")


def test_a_student_that_is_too_small_is_named_and_two_classes_are_information() -> None:
    def tiny() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(FEATURES, 1), nn.ReLU(), nn.Linear(1, CLASSES))

    assert raised(diagnosed(student=tiny)) == {"capacity-gap": "warning"}
    two = made(400, 9)
    labels = two.labels % 2
    found = diagnose(
        TeacherSignal(3.0 * nn.functional.one_hot(labels, 2) + 0.1 * two.inputs[:, :2], labels),
        lambda: nn.Linear(FEATURES, 2), data=Examples(two.inputs, labels), only=["capacity-gap"],
    ).findings[0]  # fmt: skip
    assert found.severity in ("info", "warning")


def test_a_short_fit_that_diverges_is_no_rival_and_a_remainder_of_one_is_avoided() -> None:
    """65 examples in a half: `distill` refuses a last batch of one example to batch normalisation."""
    normalised = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
    inputs, group = torch.randn(130, 4), torch.arange(130)
    assert int((parts(group, 2) == 0).sum()) == 65
    for data in (inputs, inputs.masked_fill(group[:, None] % 2 == 0, torch.nan)):
        task = Task("classification", transfer=(data, group % 2), student=lambda: normalised)
        fit = student_fit(normalised, read_transfer(task, None))
        assert (fit is None) == bool(data.isnan().any())


def test_the_student_and_the_random_stream_are_left_alone() -> None:
    module = student()
    before, state = [p.clone() for p in module.parameters()], torch.get_rng_state()
    diagnose(TeacherSignal(SOUND, DATA.labels), module, data=DATA, only=["capacity-gap"])
    assert torch.equal(state, torch.get_rng_state()) and module.training
    assert all(torch.equal(a, b) and b.grad is None for a, b in zip(before, module.parameters(), strict=True))


def test_a_teacher_that_rules_classes_out_is_sound_and_a_mask_of_other_labels_is_not() -> None:
    ruled = SOUND.masked_fill(SOUND.max(1, keepdim=True).values - 6 > SOUND, -torch.inf)
    assert "unusable-numbers" not in raised(diagnosed(ruled, None))
    masked = SOUND.masked_fill(torch.rand(SOUND.shape, generator=torch.Generator().manual_seed(2)) < 0.3, -torch.inf)
    assert raised(diagnosed(masked, None))["unusable-numbers"] == "error"


def test_label_maps_of_two_models_are_compared_by_name() -> None:
    transformers()
    from test_dissect_tasks import bert, texts

    rows = texts(24)

    def named(*names: str) -> nn.Module:
        torch.manual_seed(3)
        model = bert(id2label=dict(enumerate(names)))
        return model.eval()

    data = Task("classification", transfer=rows, student=lambda: named("bad", "fair", "good"))
    found = diagnose(named("good", "Fair", "bad"), data=data, only=["vocabulary-mismatch"]).findings[0]
    assert found.severity == "error" and "class 0 is good for the teacher, bad for the student" in found.summary
    alike = diagnose(named("Bad", "fair", "good"), data=data, only=["vocabulary-mismatch"]).findings[0]
    assert alike.severity == "ok"
    unnamed = Task("classification", transfer=rows, student=bert)
    assert (
        diagnose(named("good", "fair", "bad"), data=unnamed, only=["vocabulary-mismatch"]).findings[0].severity == "ok"
    )


def test_the_best_temperature_is_that_of_the_scaled_logits() -> None:
    for factor in (0.5, 1.0, 4.0):
        found = label_mixture(TeacherSignal(factor * SOUND_HELD, HELD.labels))
        assert found.temperature == pytest.approx(factor, rel=0.2) and found.gained >= 0
        assert found.random <= 0.02 and found.interval.low == 0


@pytest.mark.parametrize("examples", [1, 7, 2**25 + 7])
def test_evenly_spaced_rows_end_with_the_last(examples: int) -> None:
    places = evenly(examples, 2000)
    assert places[0] == 0 and places[-1] == examples - 1 and len(places) == min(examples, 2000)


@pytest.mark.parametrize("factor", [1.0, 3.0])
def test_random_labels_are_told_from_doubt(factor: float) -> None:
    signal = TeacherSignal(factor * SOUND_HELD, wrong(HELD.labels, 0.3))
    found = label_mixture(signal)
    assert found.random == pytest.approx(0.3, abs=0.06) and found.interval.low > 0.2
    blurred = factor * SOUND_HELD + 2 * factor * torch.randn(
        len(HELD), CLASSES, generator=torch.Generator().manual_seed(1)
    )
    assert label_mixture(TeacherSignal(blurred, HELD.labels)).random < 0.05  # wrong inputs: another temperature
    ruled_out = SOUND_HELD.masked_fill(SOUND_HELD.topk(2, dim=1).values[:, 1:] > SOUND_HELD, -torch.inf)
    assert label_mixture(TeacherSignal(ruled_out, HELD.labels)).gained >= 0


def wrong(labels: Tensor, share: float) -> Tensor:
    """Labels of which a share is drawn anew."""
    draw = torch.Generator().manual_seed(8)
    drawn = torch.rand(len(labels), generator=draw) < share
    return torch.where(drawn, torch.randint(CLASSES, (len(labels),), generator=draw), labels)


def test_labels_that_are_wrong_in_held_out_data_too_are_named() -> None:
    labels, there = wrong(DATA.labels, 0.4), TeacherSignal(SOUND_HELD, wrong(HELD.labels, 0.4))
    noise = diagnose(TeacherSignal(SOUND, labels), held_out=there, only=("label-noise",)).findings[0]
    assert noise.severity == "warning" and "held-out" in noise.summary and noise.examples
    found = {item.name: item for item in noise.evidence}
    assert found["random labels in held-out data"].value == pytest.approx(0.4 * 5 / 6, abs=0.08)


def test_a_teacher_behind_what_can_be_learned_from_the_labels_does_not_accuse_them() -> None:
    """Two fifths of its answers are of other rows: as sure and as wrong as if labels were drawn, but those cannot be learned."""

    def scattered(logits: Tensor) -> Tensor:
        draw = torch.Generator().manual_seed(3)
        rows = (torch.rand(len(logits), generator=draw) < 0.4).nonzero().flatten()
        return logits.index_copy(0, rows, logits[rows[torch.randperm(len(rows), generator=draw)]])

    here, there = scattered(SOUND), scattered(SOUND_HELD)
    alone = diagnose(
        TeacherSignal(here, DATA.labels), held_out=TeacherSignal(there, HELD.labels), only=("label-noise",)
    )
    assert raised(alone).get("label-noise") == "warning"  # from answers and labels alone the two are the same
    noise = diagnosed(here, there, only=("label-noise",)).findings[0]
    assert noise.severity == "ok" and "held-out labels look random" not in noise.summary
    labels, wrong_there = wrong(DATA.labels, 0.4), TeacherSignal(SOUND_HELD, wrong(HELD.labels, 0.4))
    task = Task("classification", transfer=Examples(DATA.inputs, labels, DATA.class_names), student=student)
    blamed = diagnose(TeacherSignal(SOUND, labels), data=task, held_out=wrong_there, only=("label-noise",))
    assert raised(blamed).get("label-noise") == "warning"


def test_a_tenth_of_the_labels_wrong_everywhere_is_not_subtracted_as_the_teachers_own_errors() -> None:
    labels, there = wrong(DATA.labels, 0.12), TeacherSignal(SOUND_HELD, wrong(HELD.labels, 0.12))
    task = Task("classification", transfer=Examples(DATA.inputs, labels, DATA.class_names), student=student)
    noise = diagnose(TeacherSignal(SOUND, labels), data=task, held_out=there, only=("label-noise",)).findings[0]
    found = {item.name: item for item in noise.evidence}
    assert noise.severity == "warning" and "of the held-out labels" in noise.summary
    assert found["random in held-out data too, not subtracted"].value > 0.03
    unled = diagnose(TeacherSignal(SOUND, labels), held_out=there, only=("label-noise",)).findings[0]
    assert unled.severity == "ok"  # without data it is not known whether these errors are the teacher's


def test_zero_counts_are_not_taken_for_wrong_labels() -> None:
    """Votes of five neighbours: a class without a vote stands at a floor that is no probability."""
    draw = torch.Generator().manual_seed(0)
    votes = torch.multinomial((SOUND_HELD / 3).softmax(1), 5, replacement=True, generator=draw)
    counted = torch.zeros(len(HELD), CLASSES).scatter_add_(1, votes, torch.ones(len(HELD), 5))
    for floor in (-5.0, -torch.inf):
        logits = (counted / 5).log().clamp_min(floor)
        assert label_mixture(TeacherSignal(logits, HELD.labels)).interval.low == 0
        assert label_mixture(TeacherSignal(logits, wrong(HELD.labels, 0.6))).interval.low > 0.2


def test_views_of_one_example_are_one_in_the_noise_of_instances() -> None:
    noisy = SOUND + 0.5 * torch.randn(SOUND.shape, generator=torch.Generator().manual_seed(4))
    rows = torch.arange(200)
    ids = tuple(f"picture {i}" for i in rows.tolist())
    once = Examples(DATA.inputs[:200], DATA.labels[:200], DATA.class_names, ids=ids)
    again = Examples(once.inputs.repeat(4, 1), once.labels.repeat(4), DATA.class_names, ids=ids * 4)

    def share(data: Examples, times: int) -> Any:
        first, second = (TeacherSignal(z[:200].repeat(times, 1), data.labels) for z in (SOUND, noisy))
        found = diagnose(first, data=data, second_view=second, only=("instance-noise",)).findings[0]
        return found.evidence[0].interval

    assert share(again, 4).low == pytest.approx(share(once, 1).low)


def test_a_blurred_teacher_is_not_blamed_on_the_labels() -> None:
    blurred = SOUND + 4 * torch.randn(len(DATA), CLASSES, generator=torch.Generator().manual_seed(1))
    assert "label-noise" not in raised(diagnosed(blurred))
    assert "input-mismatch" in raised(diagnosed(blurred))


def test_renamed_classes_of_a_weak_teacher_are_found_by_what_it_confuses() -> None:
    draw = torch.Generator().manual_seed(2)
    mixing = torch.tensor([[0, 1], [1, 2], [2, 1], [3, 4], [4, 3], [5, 0]])  # answers with two classes alike

    def weak(inputs: Tensor) -> Tensor:
        z = knows(inputs)
        return 0.5 * (z[:, mixing[:, 0]] + z[:, mixing[:, 1]]) + torch.randn(len(z), CLASSES, generator=draw)

    here, there = weak(DATA.inputs), weak(HELD.inputs)
    order = torch.tensor([3, 0, 4, 5, 1, 2])
    assert raised(diagnosed(here[:, order], there)).get("permuted-classes") == "error"
    assert "permuted-classes" not in raised(diagnosed(here, there))


def test_inputs_of_reversed_sign_are_told_from_numbers_of_reversed_sign() -> None:
    inputs, numbers = raised(diagnosed(-SOUND)), raised(diagnosed(-SOUND, -SOUND_HELD))
    assert inputs.get("input-mismatch") == "error" and "unusable-numbers" not in inputs
    assert numbers.get("unusable-numbers") == "error"


def test_classes_that_were_never_taught_apart_are_named() -> None:
    merged = SOUND.clone()
    noise = 0.1 * torch.randn(len(DATA), 2, generator=torch.Generator().manual_seed(3))
    merged[:, :2] = merged[:, :2].logsumexp(1, keepdim=True) + noise
    found = diagnose(TeacherSignal(merged, DATA.labels), only=("duplicate-classes",)).findings[0]
    assert found.severity == "warning" and "0 and 1" in found.summary


@pytest.mark.parametrize(("temperature", "severity"), [(2.0, "ok"), (4.0, "ok"), (12.0, "warning")])
def test_a_soft_teacher_is_no_reason_against_a_temperature(temperature: float, severity: str) -> None:
    for scale in (0.3, 1.0, 6.0):
        planned = Objective("kd", temperature, 0.9)
        found = diagnose(TeacherSignal(scale * SOUND, DATA.labels), objective=planned, only=("temperature",)).findings[
            0
        ]
        assert found.severity == severity, scale


def test_a_prior_is_a_fault_where_correcting_it_pays() -> None:
    away = torch.where(torch.arange(CLASSES) < 2, 1.0, 0.0)
    right = 2 * away + 3 * nn.functional.one_hot(DATA.labels, CLASSES)  # on all examples: nothing can be won
    for logits, severity in ((SOUND + 8 * away, "warning"), (right, "info")):
        found = diagnose(TeacherSignal(logits, DATA.labels), only=("class-balance",)).findings[0]
        assert found.severity == severity
        assert any(item.name == "accuracy gained by correcting the prior" for item in found.evidence)


def test_one_class_answered_by_another_is_not_a_renaming() -> None:
    """A text model that goes on with a new line where the data end the text."""
    draw = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 12, (900,), generator=draw)
    logits = torch.randn(900, 13, generator=draw).scatter_add_(1, labels[:, None], torch.full((900, 1), 5.0))
    logits[labels == 3] = logits[labels == 3][:, [0, 1, 2, 12, 4, 5, 6, 7, 8, 9, 10, 11, 3]]
    found = diagnose(TeacherSignal(logits, labels))
    assert "permuted-classes" not in raised(found)


@pytest.mark.parametrize("compact", [False, True])
def test_the_area_between_two_classes_is_that_of_scikit_learn(compact: bool) -> None:
    from sklearn.metrics import roc_auc_score

    draw = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(300, 4, generator=draw).round(decimals=1), torch.arange(300) % 3
    logits[labels == 1] += torch.tensor([0.0, 0.4, 0.0, 0.0])
    logits[:, 3] -= 30  # what compact rows leave out
    signal = TeacherSignal(logits, labels)
    form = Form("top-k", 4, "float32", 2)
    given = form.compact(form.encode(logits, labels, np.zeros(300, np.uint64))) if compact else signal
    rows = [(labels == c).nonzero().flatten() for c in (0, 1)]
    area, error = DuplicateClasses._area(given, 0, 1, *rows)
    both = torch.cat(rows)
    gap = (logits[both, 0].double() - logits[both, 1].double()).nan_to_num(0.0)
    assert area == pytest.approx(roc_auc_score(labels[both] == 0, gap), abs=1e-9)
    assert error == pytest.approx((201 / (12 * 100 * 100)) ** 0.5)
