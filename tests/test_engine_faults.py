"""Inputs that go wrong, by the numbers of the fault table: a typed error before the weights are touched, or a finite result."""

from __future__ import annotations

import copy
import gc
import os
import runpy
import signal
import threading
from pathlib import Path

import pytest
import torch
from bench.kill import forked
from torch import nn
from torch.utils.data import DataLoader

from fractionate import Objective, TeacherSignal
from fractionate.errors import ConfigError, MismatchError, NumericsError, ResourceError
from fractionate.records import Training
from fractionate.tasks import Needs, Task
from fractionate.teachers import Ensemble, Online, mix
from fractionate.training import distill
from fractionate.training.evaluation import signal_on
from test_engine import FAST, digits, mlp, same, teacher_signal
from test_engine_loop import Pictures


def refused(kind, match, *arguments, **settings):
    """The call is refused with this error, and the student is as it was."""
    student = arguments[0]
    before = copy.deepcopy(student.state_dict())
    with pytest.raises(kind, match=match) as caught:
        distill(*arguments, **({"training": FAST} | settings))
    assert all(torch.equal(before[name], value) for name, value in student.named_parameters())
    return caught.value


def test_4_a_killed_loader_worker_is_an_error_and_the_run_goes_on(tmp_path):
    train, _, _ = digits()

    class Deadly(Pictures):
        kill = True

        def __getitem__(self, place):
            if self.kill and torch.utils.data.get_worker_info() is not None and place == 400:
                os.kill(os.getpid(), signal.SIGKILL)
            return super().__getitem__(place)

    deadly = Deadly(train)
    settings = {"training": Training(epochs=1, batch_size=32), "out": tmp_path / "cut", "save_every_steps": 3}
    # in a process of its own: torch raises from a signal handler, wherever Python happens to be
    child = forked(lambda: distill(mlp(), DataLoader(deadly, num_workers=1), **settings))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
    assert not (tmp_path / "cut" / "run.json").exists()
    deadly.kill = False
    student, _ = distill(mlp(), DataLoader(deadly, num_workers=1), **settings)
    whole, _ = distill(mlp(), Pictures(train), training=settings["training"])
    assert same(student, whole)


def test_7_too_little_memory_names_the_way_out():
    train, _, _ = digits()

    class Greedy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = mlp()

        def forward(self, inputs):
            torch.empty(1 << 60, dtype=torch.uint8)
            return self.body(inputs)

    error = refused(ResourceError, "out of memory", Greedy(), train)
    assert error.exit_code == 6 and "micro_batch_size" in str(error)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_16_a_teacher_that_is_not_finite_is_never_trained_on(bad):
    train, _, _ = digits()
    logits = teacher_signal().logits.clone()
    logits[41] = bad
    with pytest.raises(NumericsError, match="example 41"):
        TeacherSignal(logits, train.labels)

    class Bad(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = mlp()

        def forward(self, inputs):
            outputs = self.body(inputs)
            return torch.where((inputs == train.inputs[41]).all(dim=1, keepdim=True), bad, outputs)

    error = refused(
        NumericsError,
        "not finite",
        mlp(),
        Pictures(train, noise=0.0),
        Bad(),
        training=Training(steps=1, batch_size=800),
    )
    assert "examples 41" in str(error) and error.exit_code == 5


class Masked(nn.Module):
    """A student that rules classes out."""

    def __init__(self, classes: list[int]) -> None:
        super().__init__()
        self.body, self.classes = mlp(), classes

    def forward(self, inputs):
        outputs = self.body(inputs)
        return outputs.index_fill(1, torch.tensor(self.classes), -float("inf"))


def test_17_masked_classes():
    train, _, _ = digits()
    few = train.take((train.labels < 8).nonzero().flatten())
    both = teacher_signal().logits[train.labels < 8].clone()
    both[:, 8:] = -float("inf")
    _, run = distill(Masked([8, 9]), few, TeacherSignal(both, few.labels), training=FAST)
    assert all(torch.isfinite(torch.tensor(point.loss)) for point in run.history)
    error = refused(NumericsError, "not finite at step 0", Masked([8, 9]), train)
    assert error.exit_code == 5


@pytest.mark.parametrize("temperature", [0.05, 20.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_18_extreme_logits_stay_finite(temperature, dtype):
    train, _, _ = digits()
    loud = TeacherSignal((teacher_signal().logits * 4000).clamp(-6e4, 6e4).to(dtype), train.labels)
    student = mlp()
    with torch.no_grad():
        student[-1].weight *= 1000
    _, run = distill(student, train, loud, objective=Objective("kd", temperature, 1.0), training=Training(steps=5))
    assert all(torch.isfinite(torch.tensor(point.loss)) for point in run.history)


@pytest.mark.parametrize(
    ("labels", "what"),
    [
        (lambda y: torch.where(y == 3, 10, y), "no class of the student"),
        (lambda y: torch.where(y == 3, -1, y), "class"),
        pytest.param(lambda y: y.float(), "class numbers", marks=pytest.mark.wrong_types),
    ],
)
def test_19_labels_that_are_no_classes(labels, what):
    train, _, _ = digits()
    changed = labels(train.labels)
    pairs = [(x, y) for x, y in zip(train.inputs, changed, strict=True)]
    error = refused(MismatchError, what, mlp(), pairs, training=Training(epochs=1))
    assert error.exit_code == 4
    refused(MismatchError, what, mlp(), (train.inputs, changed), training=Training(epochs=1))


def test_21_a_teacher_with_its_classes_in_another_order_is_remarked_on(capsys):
    train, _, _ = digits()
    good, turned = teacher_signal(), TeacherSignal(teacher_signal().logits.roll(1, dims=1), train.labels)
    _, run = distill(mlp(), train, good, training=FAST)
    assert run.note == ""
    _, run = distill(mlp(), train, turned, training=FAST, show="auto")
    assert "check its class order" in run.note and "warning" in capsys.readouterr().err


def test_25_batch_normalisation_on_one_example_says_what_to_do():
    train, _, _ = digits()
    student = nn.Sequential(nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Linear(8, 10))
    one = train.take(torch.tensor([0]))
    refused(ConfigError, "a batch of one example", student, one, training=Training(steps=1))


def test_20_leaks_nothing(tmp_path):
    train, _, _ = digits()

    def held() -> tuple[int, int]:
        gc.collect()  # what earlier tests left open is closed now, and not in between
        return len(list(Path("/proc/self/fd").iterdir())), threading.active_count()

    distill(mlp(), train, teacher_signal(), training=FAST, out=tmp_path / "warm")
    before = held()
    for number in range(5):
        distill(mlp(), train, teacher_signal(), training=FAST, out=tmp_path / str(number), save_every_steps=5)
    assert held() == before
    left = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {"metrics.jsonl", "run.json", "student.safetensors"}


def test_several_teachers_as_one():
    train, _, _ = digits()
    first, second = signal_on(mlp(1), train), signal_on(mlp(2), train)
    mean = (first.probabilities + 3 * second.probabilities) / 4
    torch.testing.assert_close(mix([first, second], [1, 3]).probabilities, mean)
    rows = torch.rand(800, 2, generator=torch.Generator().manual_seed(0))
    share = rows / rows.sum(1, keepdim=True)
    mean = share[:, :1] * first.probabilities + share[:, 1:] * second.probabilities
    torch.testing.assert_close(mix([first, second], rows).probabilities, mean, atol=1e-6, rtol=1e-5)
    route = torch.arange(800) % 2
    routed = mix([first, second], route=route)
    torch.testing.assert_close(routed.probabilities[1::2], second.probabilities[1::2])
    torch.testing.assert_close(routed.probabilities[::2], first.probabilities[::2])
    masked = TeacherSignal(first.logits.index_fill(1, torch.tensor([3]), -float("inf")), train.labels)
    assert torch.isfinite(mix([masked, second]).probabilities).all()
    _student, _ = distill(mlp(), train, mix([first, second]), training=FAST)
    for weights in ([1.0], [0.0, 0.0], [-1.0, 2.0], torch.full((800, 2), float("nan"))):
        with pytest.raises(ConfigError, match="weights"):
            mix([first, second], weights)
    with pytest.raises(ConfigError):
        mix([])
    with pytest.raises(ConfigError):
        mix([first, second], route=route + 1)
    with pytest.raises(MismatchError):
        mix([first, TeacherSignal(second.logits[:, :9], train.labels.clamp(max=8))])
    with pytest.raises(MismatchError, match="different labels"):
        mix([first, TeacherSignal(second.logits, train.labels.roll(1))])


def test_an_ensemble_of_models_is_the_mix_of_their_signals():
    train, _, _ = digits()
    models = [mlp(1), mlp(2)]
    members = tuple(map(Online, models))
    first, second = (signal_on(model, train) for model in models)
    task = Task("classification", transfer=train)
    weighted = Ensemble(members, (1.0, 3.0))
    brighter = Ensemble(members, route=lambda inputs: (inputs.mean(1) > 0.3).long())
    route = (train.inputs.mean(1) > 0.3).long()
    assert 0 < int(route.sum()) < len(route)
    for ensemble, expected in ((weighted, mix([first, second], [1, 3])), (brighter, mix([first, second], route=route))):
        whole = ensemble.signal(task, task.splits.transfer)
        torch.testing.assert_close(whole.probabilities, expected.probabilities, atol=1e-6, rtol=1e-5)
        for cell in ("kd", "class-mean"):  # class means are those of all the data, not of a batch
            with ensemble.open(task, task.splits.transfer, Objective(cell), Needs()) as opened:
                index = torch.tensor([5, 700, 31])
                batch = next(iter(task.splits.transfer.batches([(0, index)], 0)))
                rows = task.rows(torch.zeros(3, 10), {}, batch)
                found = Objective(cell)(torch.zeros(3, 10), opened.signal_for(rows))
                torch.testing.assert_close(found, Objective(cell)(torch.zeros(800, 10), expected)[index])
    # on noisy pictures both see what the student sees, and neither learns
    before = [copy.deepcopy(model.state_dict()) for model in models]
    _, run = distill(mlp(), Pictures(train), brighter, training=Training(steps=5))
    assert run.contract is not None and run.contract.cell == "kd"
    for model, kept in zip(models, before, strict=True):
        assert all(torch.equal(kept[name], value) for name, value in model.state_dict().items())
    for wrong in ({"weights": (1.0,)}, {"weights": (-1.0, 2.0)}, {"weights": (1, 1), "route": brighter.route}):
        with pytest.raises(ConfigError, match="cannot be combined"):
            Ensemble(members, **wrong)
    with pytest.raises(MismatchError, match="different classes"):
        distill(mlp(), train, [mlp(), nn.Linear(64, 11)], training=FAST)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["born_again", "mutual"])
def test_the_recipes_run(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(Path(__file__).parents[1] / "recipes" / f"{name}.py"))
    assert "accuracy 9" in capsys.readouterr().out
