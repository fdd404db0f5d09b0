"""The loop's parts against what they mean: pieces, weights, clipping, averages, looks, precision, data of any kind."""

from __future__ import annotations

import copy
import dataclasses
import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, TensorDataset

from fractionate import Objective, TeacherSignal, dissect
from fractionate.data.examples import Examples
from fractionate.data.sampling import batches, step_seed
from fractionate.errors import ConfigError, MismatchError
from fractionate.records import Training
from fractionate.training import distill
from fractionate.training.evaluation import evaluate
from fractionate.training.schedule import learning_rate, make_optimizer
from test_engine import FAST, digits, mlp, same, teacher_signal


def close(a: nn.Module, b: nn.Module, tolerance: float = 1e-5) -> bool:
    """Equal up to the rounding of products of other shapes, which differ from processor to processor."""
    pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return all(torch.allclose(x, y, rtol=1e-5, atol=tolerance) for x, y in pairs)


def by_hand(student: nn.Module, training: Training, *, clip: float | None = None) -> nn.Module:
    """The loop written out: what a person would write without us."""
    train, _, _ = digits()
    signal, objective = teacher_signal(), Objective()
    optimizer = make_optimizer(student.parameters(), training)
    steps, step = training.steps_for(len(train)), 0
    student.train()
    for epoch in range(99):
        for index in batches(len(train), training.batch_size, 0, epoch):
            if step == steps:
                return student
            torch.manual_seed(step_seed(0, step))
            optimizer.param_groups[0]["lr"] = learning_rate(training, step, steps)
            objective(student(train.inputs[index]), signal.take(index)).mean().backward()
            if clip is not None:
                nn.utils.clip_grad_norm_(student.parameters(), clip)
            optimizer.step()
            optimizer.zero_grad()
            step += 1
    raise AssertionError


@pytest.mark.parametrize("training", [FAST, Training(steps=30, optimizer="sgd", warmup_share=0.2, schedule="constant")])
def test_the_loop_is_the_one_a_person_would_write(training):
    train, _, _ = digits()
    ours, _ = distill(mlp(dropout=0.3), train, teacher_signal(), objective=Objective(), training=training)
    assert close(ours, by_hand(mlp(dropout=0.3), training))


def test_clipping_is_torch_s():
    train, _, _ = digits()
    clipped = Training(**{**FAST.__dict__, "clip_norm": 0.05})
    ours, _ = distill(mlp(), train, teacher_signal(), objective=Objective(), training=clipped)
    assert close(ours, by_hand(mlp(), FAST, clip=0.05))
    assert not close(ours, by_hand(mlp(), FAST))


@pytest.mark.parametrize("micro", [5, 32])
def test_a_step_in_pieces_is_the_same_step(micro):
    """Batches of 32, the last of an epoch of 800 - 11 smaller: the mean is over examples, not over pieces."""
    train, _, _ = digits()
    part = train.take(torch.arange(789))
    signal = teacher_signal().take(torch.arange(789))
    pieces = Training(**{**FAST.__dict__, "micro_batch_size": micro})
    whole, run = distill(mlp(), part, signal, training=FAST)
    cut, run_cut = distill(mlp(), part, signal, training=pieces)
    assert close(whole, cut)
    assert [p.loss for p in run.history] == pytest.approx([p.loss for p in run_cut.history], rel=1e-4)


def test_weights_count_examples():
    """Weight 2 is the example twice, weight 0 is the example left out."""
    train, _, _ = digits()
    few = train.take(torch.arange(12))
    once = Training(steps=3, batch_size=12, learning_rate=1e-2)
    weights = torch.ones(12)
    weights[3], weights[5] = 2, 0
    weighted, _ = distill(mlp(), few, weights=weights, training=once)
    places = torch.tensor([0, 1, 2, 3, 3, 4, 6, 7, 8, 9, 10, 11])
    repeated, _ = distill(mlp(), few.take(places), training=once)
    assert close(weighted, repeated)


def test_the_average_is_the_running_average():
    train, _, _ = digits()
    decay = 0.8
    averaged = Training(**{**FAST.__dict__, "steps": 4, "average_decay": decay})
    ours, _ = distill(mlp(), train, training=averaged)
    states = [mlp().state_dict()]
    for steps in range(1, 5):
        # the schedule depends on the number of steps, so constant here and there
        constant = Training(steps=steps, batch_size=32, learning_rate=3e-3, schedule="constant")
        states.append(distill(mlp(), train, training=constant)[0].state_dict())
    constant = Training(steps=4, batch_size=32, learning_rate=3e-3, schedule="constant", average_decay=decay)
    ours, _ = distill(mlp(), train, training=constant)
    # the average starts as a copy at the first step, as torch's does
    expected = {name: value.clone() for name, value in states[1].items()}
    for state in states[2:]:
        for name, value in state.items():
            expected[name] = decay * expected[name] + (1 - decay) * value
    assert all(torch.allclose(value, expected[name], atol=1e-6) for name, value in ours.state_dict().items())


def test_the_last_weights_lie_beside_the_best(tmp_path):
    train, validation, _ = digits()
    wild = Training(steps=60, batch_size=32, learning_rate=0.05, schedule="constant", evaluate_every=3)
    last, _ = distill(mlp(), train, training=wild, validation=validation)
    best, run = distill(
        mlp(), train, training=dataclasses.replace(wild, keep="best"), validation=validation, out=tmp_path
    )
    assert run.settings["best_step"] < run.steps, "a wild training whose last look is its best tests nothing"
    kept = {name: load_file(tmp_path / f"{name}.safetensors") for name in ("student", "last")}
    assert all(torch.equal(value, kept["student"][name]) for name, value in best.state_dict().items())
    assert all(torch.equal(value, kept["last"][name]) for name, value in last.state_dict().items())


def test_the_best_weights_are_kept_and_patience_ends():
    train, validation, _ = digits()
    wild = Training(steps=60, batch_size=32, learning_rate=0.05, schedule="constant", evaluate_every=3, keep="best")
    student, run = distill(mlp(), train, training=wild, validation=validation)
    looks = [point for point in run.history if point.validation is not None]
    assert len(looks) == 20
    best = max(looks, key=lambda p: (p.validation.accuracy, -p.validation.nll_nats))
    assert run.settings["best_step"] == best.step
    assert evaluate(student, validation) == best.validation == run.validation
    patient = Training(**{**wild.__dict__, "patience": 2})
    _, ended = distill(mlp(), train, training=patient, validation=validation)
    assert ended.steps < 60 and ended.settings["best_step"] == ended.steps - 2 * 3


def test_half_precision_trains_and_stays_near():
    train, _, test = digits()
    half = Training(epochs=12, learning_rate=5e-3, precision="bfloat16")
    _, run = distill(mlp(), train, teacher_signal(), objective=Objective(temperature=2.0), training=half, test=test)
    assert run.test is not None and run.test.accuracy > 0.85
    assert mlp()[0].weight.dtype == torch.float32


class Pictures(Dataset):
    """A dataset with augmentation: noise from each of the three generators people use."""

    def __init__(self, examples: Examples, noise: float = 0.1) -> None:
        self.examples, self.noise = examples, noise

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, place: int) -> tuple[torch.Tensor, int]:
        import random

        shift = self.noise * (torch.randn(64) + np.random.randn() + random.random())
        return self.examples.inputs[place] + shift.float(), int(self.examples.labels[place])


@pytest.mark.parametrize("workers", [0, 2])
def test_augmentation_is_a_function_of_the_example_whoever_reads_it(workers):
    train, _, _ = digits()
    short = Training(steps=6, batch_size=32)
    loader = DataLoader(Pictures(train), num_workers=workers, batch_size=3, shuffle=True)
    first, _ = distill(mlp(dropout=0.2), Pictures(train), training=short)
    second, _ = distill(mlp(dropout=0.2), loader, training=short)
    other, _ = distill(mlp(dropout=0.2), loader, training=short, seed=4)
    assert same(first, second) and not same(first, other)


def test_data_of_every_kind_teach_the_same():
    train, _, _ = digits()
    reference, _ = distill(mlp(), train, training=FAST)
    kinds = [
        (train.inputs, train.labels),
        (train.inputs.numpy(), train.labels.numpy()),
        TensorDataset(train.inputs, train.labels),
        DataLoader(TensorDataset(train.inputs, train.labels), batch_size=9),
        [(train.inputs[i], int(train.labels[i])) for i in range(len(train))],
        Pictures(train, noise=0.0),
    ]
    for data in kinds:
        assert same(reference, distill(mlp(), data, training=FAST)[0]), type(data)


def test_a_last_batch_of_one_and_a_single_example():
    train, _, _ = digits()
    student = nn.Sequential(nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10))
    _, run = distill(student, train.take(torch.arange(33)), training=Training(epochs=2, batch_size=32))
    assert run.steps == 4
    _, run = distill(student, train.take(torch.tensor([0])), training=Training(steps=3))
    assert run.steps == 3


def test_living_teachers_are_asked_inertly():
    train, _, _ = digits()
    teacher = mlp(5, dropout=0.5)
    teacher.train()
    before = copy.deepcopy(teacher.state_dict())
    student, _run = distill(mlp(), Pictures(train), teacher, objective=Objective(temperature=2.0), training=FAST)
    assert all(torch.equal(before[name], value) for name, value in teacher.state_dict().items())
    assert teacher.training and all(p.grad is None for p in teacher.parameters())
    again, _ = distill(mlp(), Pictures(train), teacher, objective=Objective(temperature=2.0), training=FAST)
    assert same(student, again)  # its dropout is off
    # data in memory: asked once, which is the same
    with torch.no_grad():
        outputs = teacher.eval()(train.inputs)
    from fractionate import TeacherSignal

    live, _ = distill(mlp(), train, teacher, training=FAST)
    stored, _ = distill(mlp(), train, TeacherSignal(outputs, train.labels), training=FAST)
    assert close(live, stored)


def test_a_living_teacher_serves_rules_that_need_the_whole_data():
    train, _, _ = digits()
    objective = Objective("class-mean", temperature=2.0, teacher_weight=1.0)
    still = Pictures(train, noise=0.0)
    live, _ = distill(mlp(), still, mlp(5), objective=objective, training=FAST)
    stored, _ = distill(mlp(), train, mlp(5), objective=objective, training=FAST)
    assert close(live, stored)


def test_a_teacher_that_the_student_is_part_of_is_noticed():
    train, _, _ = digits()
    student = mlp()
    with pytest.raises(MismatchError, match="share"):
        distill(student, Pictures(train), student, training=FAST)


def test_terms_add_to_the_loss():
    train, _, _ = digits()

    def smaller_logits(output, batch, signal):
        return 0.1 * output.square().sum(dim=1)

    with_term, _run = distill(mlp(), train, terms=[smaller_logits], training=FAST)
    without, _ = distill(mlp(), train, training=FAST)
    assert with_term(train.inputs).square().mean() < 0.7 * without(train.inputs).square().mean()


def test_the_rescaling_is_recorded_along_the_way():
    train, _, _ = digits()
    objective = Objective("kd", temperature=1.0, teacher_weight=0.5)
    _, run = distill(mlp(), train, teacher_signal(), objective=objective, training=FAST, log_every=10)
    assert [point.step for point in run.history] == [10, 20, 30, 40]
    assert all(point.rescaling_mean is not None and math.isfinite(point.rescaling_mean) for point in run.history)


def test_examples_without_labels_learn_from_the_teacher_alone(tmp_path):
    train, _, _ = digits()
    outputs = teacher_signal()
    known = torch.arange(800) < 200
    guessed = torch.where(known, train.labels, outputs.logits.argmax(1))
    data, trained_teacher = dataclasses.replace(train, labels=guessed), TeacherSignal(outputs.logits, guessed)
    objective = Objective("kd", temperature=2.0, teacher_weight=0.25)
    settings = {"objective": objective, "training": dataclasses.replace(FAST, micro_batch_size=13), "labelled": known}
    student, _ = distill(mlp(), data, trained_teacher, **settings, out=tmp_path)

    class Split(nn.Module):  # the same by hand, as a loss of its own
        def __call__(self, output, batch, signal):
            own, alone = objective(output, signal), dataclasses.replace(objective, teacher_weight=1.0)(output, signal)
            return torch.where(known[batch.index], own, alone) - own

    by_hand, _ = distill(mlp(), data, trained_teacher, **settings | {"labelled": None}, terms=[Split()])
    assert close(student, by_hand)
    mixed, _ = distill(mlp(), data, trained_teacher, **settings | {"labelled": None})
    assert not close(student, mixed, 1e-3)
    with pytest.raises(MismatchError, match="data differ"):  # marks belong to the data
        distill(mlp(), data, trained_teacher, **settings | {"labelled": ~known}, out=tmp_path)
    with pytest.raises(ConfigError, match="need a teacher"):
        distill(mlp(), data, training=FAST, labelled=known)
    with pytest.raises(MismatchError, match="truth values"):
        distill(mlp(), data, trained_teacher, **settings | {"labelled": known[:5]})
    with pytest.raises(ConfigError, match="couples"):
        distill(mlp(), data, trained_teacher, labelled=known, objective=Objective(divergence="dist"), training=FAST)


@pytest.mark.parametrize("setting", [{"keep": "best"}, {"patience": 2}])
def test_the_best_needs_validation_data(setting):
    train, _, _ = digits()
    with pytest.raises(ConfigError, match="found on validation data"):
        distill(mlp(), train, training=dataclasses.replace(FAST, **setting))


def test_what_cannot_be_trained_is_refused():
    train, _, _ = digits()
    frozen = mlp().requires_grad_(False)
    with pytest.raises(ConfigError, match="nothing to train"):
        distill(frozen, train, training=FAST)
    with pytest.raises(ConfigError, match="neither by place nor again"):
        distill(mlp(), iter([1]), training=FAST)
    with pytest.raises(MismatchError, match="there is no data"):
        distill(mlp(), [], training=FAST)


def test_the_student_s_loss_is_the_label_s_without_a_teacher():
    train, _, _ = digits()
    _, run = distill(mlp(), train, training=Training(steps=1, batch_size=800), log_every=1)
    expected = functional.cross_entropy(mlp()(train.inputs), train.labels).item()
    assert run.history[0].loss == pytest.approx(expected, rel=1e-5)


def test_a_study_honours_settings_that_only_the_loop_knows():
    train, _, test = digits()
    training = dataclasses.replace(FAST, clip_norm=1.0, average_decay=0.9)
    found = dissect(mlp, train, teacher_signal(), test=test, cells=("kd",), seeds=2, training=training, progress="off")
    assert {run.settings["backend"] for run in found.runs} == {"loop: a stack does not know clip_norm, average_decay"}
    assert {run.settings["clip_norm"] for run in found.runs} == {1.0}
