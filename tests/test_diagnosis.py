"""Healthy teachers raise nothing; planted faults are named; a diagnosis goes to JSON and back."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fractionate.data.examples import Examples
from fractionate.diagnosis import diagnose, probes
from fractionate.errors import MismatchError, UnknownNameError
from fractionate.losses.objective import Objective
from fractionate.records import Diagnosis, Finding
from fractionate.theory.teacher_signal import TeacherSignal

NAMES = tuple(f"digit {i}" for i in range(10))


def digits() -> tuple[Examples, ...]:
    sklearn = pytest.importorskip("sklearn.datasets")
    bunch = sklearn.load_digits()
    inputs = torch.tensor(bunch.data / 16 - 0.5, dtype=torch.float32)
    return Examples(inputs, torch.tensor(bunch.target), NAMES, "digits").split(1000, 790)


def teacher(train: Examples, epochs: int, smoothing: float = 0.0, hidden: int = 256) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 10))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(epochs):
        for batch in torch.randperm(len(train)).split(64):
            logits = model(train.inputs[batch])
            loss = nn.functional.cross_entropy(logits, train.labels[batch], label_smoothing=smoothing)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.eval()


def signal_of(model: nn.Module, examples: Examples) -> TeacherSignal:
    with torch.no_grad():
        return TeacherSignal(model(examples.inputs), examples.labels)


@pytest.fixture(scope="module")
def data() -> tuple[Examples, ...]:
    return digits()


@pytest.fixture(scope="module")
def healthy(data: tuple[Examples, ...]) -> nn.Module:
    return teacher(data[0], epochs=20)


def found(diagnosis: Diagnosis, name: str) -> Finding:
    return next(f for f in diagnosis.findings if f.name == name)


def small_student() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))


@pytest.mark.parametrize("where", [0, 1])
def test_a_healthy_teacher_raises_nothing(data, healthy, where):
    diagnosis = diagnose(
        signal_of(healthy, data[where]),
        small_student,
        data=data[where],
        objective=Objective(),
        held_out=signal_of(healthy, data[1]) if where == 0 else None,
    )
    assert diagnosis.problems == ()
    assert diagnosis.recipe.distil
    assert diagnosis.teacher is not None and diagnosis.teacher.accuracy > 0.93
    assert sum(diagnosis.confidence.counts) == len(data[where]) == sum(diagnosis.rescaling.counts)
    assert len(diagnosis.class_relation) == 10 and sum(diagnosis.class_relation[3]) == pytest.approx(1)
    assert diagnosis.class_relation[3][3] == 0
    shown = [s.temperature for s in diagnosis.spectrum_over_temperature]
    assert shown == sorted({1, 2, 4, 8, diagnosis.recipe.temperature})
    assert Diagnosis.from_json(diagnosis.to_json()) == diagnosis


def test_a_smoothed_teacher_is_named(data):
    diagnosis = diagnose(signal_of(teacher(data[0], 20, smoothing=0.3), data[0]), data=data[0])
    assert (
        diagnosis.problems == () and found(diagnosis, "smoothed-teacher").severity == "info"
    )  # students lost nothing by it
    assert diagnosis.recipe.distil


@pytest.mark.parametrize("examples", [150, 300])
def test_without_a_pilot_the_recipe_does_no_harm(data, healthy, examples):
    """No weight 0.9 and no raised temperature with 20 examples a class or more; what was not tried is said."""
    transfer = data[1].take(torch.arange(examples))
    recipe = diagnose(signal_of(healthy, transfer), data=transfer).recipe
    assert recipe.distil and "untried" in recipe.reason and not recipe.repair
    few = examples == 150
    assert (recipe.temperature, recipe.teacher_weight) == ((recipe.temperature, 0.9) if few else (1.0, 0.6))
    assert few == (recipe.temperature > 1)


def test_rare_classes_do_not_make_data_scarce(data, healthy):
    counts = torch.tensor([120, 120, 5, 5, 5, 5, 5, 5, 5, 5])
    signal = signal_of(healthy, data[0])
    places = torch.cat([(signal.labels == c).nonzero().flatten()[:n] for c, n in enumerate(counts.tolist())])
    recipe = diagnose(signal.take(places), only=["temperature"]).recipe
    assert (recipe.temperature, recipe.teacher_weight) == (1.0, 0.6)


def test_classes_that_never_occur_do_not_take_the_mass(data):
    transfer = data[0].take(torch.arange(150))
    torch.manual_seed(0)
    known = 12 * nn.functional.one_hot(transfer.labels, 10) + torch.randn(150, 10)
    logits = torch.cat([known, 5 * torch.randn(150, 90)], 1)
    recipe = diagnose(TeacherSignal(logits, transfer.labels), only=["temperature"]).recipe
    softened = torch.softmax(logits / recipe.temperature, 1)[:, 10:].sum(1).mean()
    assert recipe.distil and recipe.teacher_weight == 0.6 and "would take the mass" in recipe.reason
    assert float(softened) < 0.1 or recipe.temperature == 1
    assert diagnose(TeacherSignal(known, transfer.labels), only=["temperature"]).recipe.temperature > recipe.temperature


def test_an_over_trained_teacher_is_named(data):
    model = teacher(data[0], 200)
    diagnosis = diagnose(signal_of(model, data[0]), data=data[0], held_out=signal_of(model, data[1]))
    # on held-out digits a temperature would gain 0.05 nats: too little to cost a student a point
    assert {f.name for f in diagnosis.problems} == {"over-confident-teacher", "memorising-teacher"}
    assert found(diagnosis, "over-confident-teacher").severity == "error"


def test_permuted_classes_are_named_and_stop_the_recipe(data, healthy):
    signal = signal_of(healthy, data[1])
    order = torch.arange(10)
    order[[2, 7]] = order[[7, 2]]
    diagnosis = diagnose(TeacherSignal(signal.logits[:, order], signal.labels), class_names=NAMES)
    finding = found(diagnosis, "permuted-classes")
    assert finding.severity == "error" and "digit 2 → digit 7, digit 7 → digit 2" in finding.summary
    assert not diagnosis.recipe.distil and "permuted-classes" in diagnosis.recipe.repair
    assert str(diagnosis.recipe).startswith("repair first")
    with pytest.raises(MismatchError, match="there is no recipe yet"):
        Objective.from_recipe(diagnosis.recipe)


@pytest.mark.parametrize("shift", [-3, 1])
def test_shifted_rows_are_named(data, healthy, shift):
    signal = signal_of(healthy, data[1])
    finding = found(diagnose(TeacherSignal(signal.logits.roll(shift, 0), signal.labels)), "misaligned-cache")
    assert finding.severity == "error" and f"shifted by {shift}" in finding.summary


def test_shuffled_rows_are_named_whole_and_in_part(data, healthy):
    signal = signal_of(healthy, data[1])
    torch.manual_seed(0)
    logits = signal.logits[torch.randperm(len(signal))]
    assert found(diagnose(TeacherSignal(logits, signal.labels)), "misaligned-cache").severity == "error"
    logits = torch.cat([signal.logits[:500], logits[500:]])
    finding = found(diagnose(TeacherSignal(logits, signal.labels)), "misaligned-cache")
    first = next(e.value for e in finding.evidence if e.name.startswith("first row"))
    assert finding.severity == "error" and 490 <= first <= 510


def test_wrong_labels_are_listed(data, healthy):
    signal = signal_of(healthy, data[1])
    torch.manual_seed(0)
    wrong = torch.randperm(len(signal))[:80]
    labels = signal.labels.clone()
    labels[wrong] = (labels[wrong] + torch.randint(1, 10, (80,))) % 10
    finding = found(diagnose(TeacherSignal(signal.logits, labels), held_out=signal), "label-noise")
    assert finding.severity == "warning"
    listed = {int(i) for i in finding.examples}
    assert len(listed & set(wrong.tolist())) > 0.8 * len(listed) and len(listed) > 60


def test_a_teacher_in_training_mode_is_named(data, healthy):
    first = signal_of(healthy, data[1])
    dropped = TeacherSignal(first.logits * (torch.rand_like(first.logits) > 0.1), first.labels)
    assert found(diagnose(first, second_pass=dropped), "training-mode").severity == "error"
    assert found(diagnose(first, second_pass=first), "training-mode").severity == "ok"
    assert found(diagnose(first), "training-mode").severity == "skipped"
    assert "second_pass=signal" in found(diagnose(first), "training-mode").summary


@pytest.mark.parametrize("wrong", ["negated", "transposed"])
def test_a_teacher_of_other_inputs_is_named(data, healthy, wrong):
    whole = data[1].inputs
    other = -whole if wrong == "negated" else whole.reshape(-1, 8, 8).transpose(1, 2).reshape(-1, 64)
    with torch.no_grad():
        signal = TeacherSignal(healthy(other), data[1].labels)
    assert found(diagnose(signal, only=["input-mismatch"]), "input-mismatch").severity == "error"


def test_probabilities_are_not_taken_for_logits(data, healthy):
    signal = signal_of(healthy, data[1])
    finding = found(diagnose(TeacherSignal(signal.probabilities, signal.labels)), "unusable-numbers")
    assert finding.severity == "error" and "probabilities" in finding.summary


def test_a_student_with_other_classes_is_named(data, healthy):
    diagnosis = diagnose(signal_of(healthy, data[1]), nn.Linear(64, 12), data=data[1], objective=Objective())
    assert found(diagnosis, "vocabulary-mismatch").severity == "error"
    assert found(diagnosis, "loss-scale").severity == "ok"
    assert not diagnosis.recipe.distil


def test_the_student_is_left_as_it_was(data, healthy):
    student = small_student().train()
    before = [p.clone() for p in student.parameters()]
    diagnose(signal_of(healthy, data[1]), student, data=data[1], objective=Objective())
    assert student.training and all(p.grad is None for p in student.parameters())
    assert all(torch.equal(a, b) for a, b in zip(before, student.parameters(), strict=True))


def test_bad_input(data, healthy):
    signal = signal_of(healthy, data[1])
    with pytest.raises(MismatchError, match="different numbers of examples"):
        diagnose(signal, data=data[0])
    with pytest.raises(UnknownNameError, match="label-noise"):
        diagnose(signal, only=["label-nois"])
    assert [f.name for f in diagnose(signal, only=["label-noise(rate=0.2)"]).findings] == ["label-noise"]


def test_every_probe_states_its_needs_and_thresholds():
    for name in probes:
        assert isinstance(probes[name].needs, tuple) and probes.factory(name).__doc__


@pytest.mark.parametrize("absent", [9, 0, 5])
def test_names_that_nobody_gave_are_no_finding_and_names_that_were_given_are(absent: int) -> None:
    torch.manual_seed(0)
    labels = torch.arange(200) % 10
    labels = labels[labels != absent]
    signal = TeacherSignal(torch.randn(len(labels), 10) + 4 * nn.functional.one_hot(labels, 10), labels)
    data = Examples(torch.randn(len(labels), 6), labels)
    for made in (
        diagnose(signal, data=data),
        diagnose(signal, data=data, class_names=data.class_names),
        diagnose(signal, data=Examples(data.inputs, labels, NAMES)),
    ):
        assert found(made, "vocabulary-mismatch").severity == "ok"
        assert len(made.class_names) == 10
    few = diagnose(signal, class_names=NAMES[:9])
    assert found(few, "vocabulary-mismatch").summary == "9 class names for 10 classes"
