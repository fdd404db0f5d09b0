"""A student in a fleet is the student trained alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torch.nn import functional

from fractionate.data.examples import Examples
from fractionate.data.sampling import batches, step_seed
from fractionate.errors import MismatchError
from fractionate.losses.divergences.base import Target
from fractionate.losses.objective import Objective
from fractionate.records import Run, Training
from fractionate.study.arms import Arm
from fractionate.study.jobs import JobRunner
from fractionate.study.setup import Setup
from fractionate.study.trials import Trials
from fractionate.tasks import Task
from fractionate.teachers import Cached
from fractionate.theory.teacher_signal import TeacherSignal
from fractionate.training import Recipe
from fractionate.training.fleet import bundle
from fractionate.training.fleet import captured_step as traced
from fractionate.training.fleet import loop as fleet
from fractionate.training.fleet.setup import StackSetup, model_logits

CLASSES, FEATURES, EXAMPLES = 5, 7, 43


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(FEATURES, 16), nn.ReLU(), nn.Linear(16, CLASSES))


def mlp_with_everything() -> nn.Module:
    return nn.Sequential(
        nn.Dropout(0.1),
        nn.Linear(FEATURES, 16, bias=False),  # as in Convolutional
        nn.BatchNorm1d(16),
        nn.ReLU(),
        nn.Dropout(0.3),
        nn.Linear(16, 16),
        nn.LayerNorm(16),
        nn.GELU(),
        nn.Dropout(0.5),
        nn.Linear(16, CLASSES),
    )


def pictures() -> nn.Module:
    """Convolves in two dimensions, so that the way one by one puts the channels last."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 1, FEATURES)),
        nn.Conv2d(1, 4, 3, padding=1, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 6, 3, padding=1, bias=False),
        nn.BatchNorm2d(6),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, CLASSES),
    )


class Convolutional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(
            1, 4, 3, bias=False
        )  # a bias before a norm has no gradient but rounding, which Adam blows up
        self.norm = nn.BatchNorm1d(4)
        self.head = nn.Linear(4, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(functional.relu(self.norm(self.conv(x[:, None]))).mean(dim=2))


class FunctionalDropout(nn.Module):
    """Cannot be stacked: its noise is drawn inside."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(FEATURES, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(functional.dropout(x, 0.2, self.training))


class Branching(nn.Module):
    """Cannot be stacked: its way depends on the data."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(FEATURES, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(x) if x.sum() > 0 else self.head(-x)


@dataclass(frozen=True)
class Member:
    """A student to train."""

    arm: str
    seed: int
    objective: Objective | None


OBJECTIVES = {
    "hard": None,
    "kd": Objective("kd", 1.0, 0.9),
    "kd T=4": Objective("kd", 4.0, 0.9),
    "kd T=2 unscaled": Objective("class-mean", 2.0, 0.5, scale_by_temperature_squared=False),
    "kl": Objective("kd-pt", 3.0, 1.0, divergence="forward-kl"),
}


@pytest.fixture(scope="module")
def stack_setup() -> StackSetup:
    return make_stack_setup(Training(epochs=4, batch_size=8, learning_rate=0.01, weight_decay=0.01, warmup_share=0.1))


def make_stack_setup(training: Training) -> StackSetup:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(EXAMPLES, FEATURES, generator=generator)
    labels = torch.randint(CLASSES, (EXAMPLES,), generator=generator)
    data = Examples(inputs, labels, class_names=tuple("abcde"))
    signal = TeacherSignal(2 * torch.randn(EXAMPLES, CLASSES, generator=generator), labels)
    return StackSetup(data, signal, training, validation=data, validation_signal=signal, points=3)


def members(seeds: tuple[int, ...] = (0, 1)) -> list[Member]:
    return [Member(arm, seed, objective) for seed in seeds for arm, objective in OBJECTIVES.items()]


@dataclass(frozen=True)
class Trained:
    """What a backend makes of an entrant."""

    member: Member
    model: nn.Module | None
    run: Run


def train(
    factory: Callable[[], nn.Module], members: list[Member], stack_setup: StackSetup, backend: str
) -> list[Trained]:
    """The entrants trained as a study trains them."""
    data, signal = stack_setup.transfer, stack_setup.signal
    task = Task("classification", transfer=data, validation=data, student=factory)
    setup = Setup(task, Cached(signal), {"validation": Cached(signal)}, {}, points=3)
    by_arm = {e.arm: Arm(Recipe(objective=e.objective, training=stack_setup.training), name=e.arm) for e in members}
    seeds = list(dict.fromkeys(e.seed for e in members))
    found, runner = {}, JobRunner(setup)
    for job in Trials(setup, backend).jobs(list(by_arm.values()), seeds):  # type: ignore[arg-type]
        assert job.stacked or backend != "stacked"
        for trial, run, model in runner.train(job, lambda _: None):
            found[trial.key] = Trained(next(e for e in members if (e.arm, e.seed) == trial.key), model, run)
    return [found[e.arm, e.seed] for e in members]


def alone(factory: Callable[[], nn.Module], member: Member, stack_setup: StackSetup) -> nn.Module:
    """The training written out once more, plainly: what every way must equal."""
    torch.manual_seed(member.seed)
    model = factory()
    t = stack_setup.training
    optimizer: torch.optim.Optimizer = (
        torch.optim.AdamW(model.parameters(), t.learning_rate, weight_decay=t.weight_decay)
        if t.optimizer == "adamw"
        else torch.optim.SGD(model.parameters(), t.learning_rate, 0.9, nesterov=True, weight_decay=t.weight_decay)
    )
    data, signal = stack_setup.transfer, stack_setup.signal
    warmup = round(t.warmup_share * stack_setup.steps)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda s: (
            (s + 1) / warmup
            if s < warmup
            else 0.5 * (1 + torch.cos(torch.tensor(torch.pi * (s - warmup) / (stack_setup.steps - warmup))).item())
        ),
    )
    step = 0
    for epoch in range(int(t.epochs or 0)):
        for index in batches(len(data), t.batch_size, member.seed, epoch):
            torch.manual_seed(step_seed(member.seed, step))
            logits = model(data.inputs[index])
            if member.objective is None:
                loss = functional.cross_entropy(logits, data.labels[index])
            else:
                assert signal is not None
                loss = member.objective(logits, signal.take(index)).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            step += 1
    return model.eval()


@pytest.mark.parametrize("factory", [mlp, mlp_with_everything, Convolutional, pictures])
@pytest.mark.parametrize("backend", ["stacked", "recorded", "loop"])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_fleet_equals_training_alone(
    factory: Callable[[], nn.Module], backend: str, optimizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded: list[object] = []
    if backend == "recorded":
        backend = "stacked"
        monkeypatch.setattr(fleet, "RECORDED_STEPS", 1)
        monkeypatch.setattr(fleet, "record", lambda *a: recorded.append(traced.record(*a)) or recorded[-1])
    training = Training(
        epochs=4,
        batch_size=8,
        learning_rate=0.01,
        weight_decay=0.01,
        warmup_share=0.1,
        optimizer=optimizer,  # type: ignore[arg-type]
    )
    stack_setup = make_stack_setup(training)
    found = train(factory, members(), stack_setup, backend)
    assert [o.member for o in found] == members()
    assert all(isinstance(one, traced.Recording) for one in recorded) and len(recorded) in (
        0,
        2,
    )  # once for whole batches, once for the last one of an epoch
    for outcome in found:
        expected = alone(factory, outcome.member, stack_setup)
        inputs = stack_setup.transfer.inputs
        torch.testing.assert_close(
            model_logits(outcome.model, inputs), model_logits(expected, inputs), atol=1e-5, rtol=1e-5
        )
        for (name, value), (_, other) in zip(
            outcome.model.state_dict().items(), expected.state_dict().items(), strict=True
        ):
            torch.testing.assert_close(value, other, atol=1e-5, rtol=1e-4, msg=name)
        assert outcome.run.settings["backend"].startswith(backend) and outcome.run.status == "completed"
        assert outcome.run.steps == stack_setup.steps


def test_a_step_that_cannot_be_captured_is_recorded_with_the_reason(
    stack_setup: StackSetup, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise RuntimeError("an operation without a name\nand more")

    monkeypatch.setattr(fleet, "RECORDED_STEPS", 1)
    plain = train(mlp, members((0,)), stack_setup, "stacked")
    monkeypatch.setattr(traced, "Recording", refused)
    found = train(mlp, members((0,)), stack_setup, "stacked")
    assert {one.run.settings["backend"] for one in plain} == {"stacked"}
    assert {one.run.settings["backend"] for one in found} == {"stacked, step not captured: an operation without a name"}
    for one, other in zip(found, plain, strict=True):
        assert one.run.history[-1].loss == pytest.approx(other.run.history[-1].loss, rel=1e-4)


@pytest.mark.parametrize("factory", [FunctionalDropout, Branching])
def test_what_cannot_be_stacked_is_trained_alone(factory: Callable[[], nn.Module], stack_setup: StackSetup) -> None:
    found = train(factory, members((0,))[:2], stack_setup, "auto")
    assert all(str(one.run.settings["backend"]).startswith("loop: ") for one in found)  # the record says why
    with pytest.raises(MismatchError, match="cannot be stacked"):
        train(factory, members((0,))[:2], stack_setup, "stacked")


@pytest.mark.parametrize("stored", [bundle.STORED_BYTES, 0])
@pytest.mark.parametrize("divergence", ["jsd", "dkd", "reverse-kl", "dist"])
def test_other_divergences_and_targets_too_large_to_keep(
    stack_setup: StackSetup, divergence: str, stored: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundle, "STORED_BYTES", stored)
    member = Member(divergence, 0, Objective("kd", 2.0, 0.7, divergence=divergence))
    both = [Member("hard", 0, None), member, Member("kd", 0, Objective("kd", 2.0, 0.7))]
    inputs = stack_setup.transfer.inputs
    for found in train(mlp, both, stack_setup, "stacked"):
        expected = model_logits(alone(mlp, found.member, stack_setup), inputs)
        torch.testing.assert_close(model_logits(found.model, inputs), expected, atol=1e-5, rtol=1e-5)


@dataclass(frozen=True)
class Exploding:
    """A divergence that is never finite."""

    formula: str = "nothing"

    def __call__(self, student_logits: torch.Tensor, target: Target) -> torch.Tensor:
        return student_logits.sum(-1) * float("nan")

    def gradient(
        self, student_logits: torch.Tensor, target: Target, scale: float = 1.0
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return self(student_logits, target), torch.full_like(student_logits, float("nan"))


def test_a_diverging_student_leaves_the_others_alone() -> None:
    stack_setup = make_stack_setup(Training(epochs=4, batch_size=8, learning_rate=0.01))
    bad = Member("bad", 0, Objective("kd", 1.0, 1.0, divergence=Exploding()))
    for backend in ("stacked", "loop"):
        found = train(mlp, [bad, *members((0,))], stack_setup, backend)
        assert found[0].run.status == "diverged" and found[0].model is None
        for outcome in found[1:]:
            assert outcome.run.status == "completed"
            inputs = stack_setup.transfer.inputs
            expected = model_logits(alone(mlp, outcome.member, stack_setup), inputs)
            torch.testing.assert_close(model_logits(outcome.model, inputs), expected, atol=1e-5, rtol=1e-5)


def test_students_of_one_seed_start_equal() -> None:
    before = torch.random.get_rng_state()
    task = Task("classification", transfer=(torch.zeros(4, FEATURES), torch.zeros(4).long()), student=mlp)
    first, again = task.model(seed=3), task.model(seed=3)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))


def test_measurements_along_training(stack_setup: StackSetup) -> None:
    for backend in ("stacked", "loop"):
        found = {o.member.arm: o.run.history for o in train(mlp, members((0,)), stack_setup, backend)}
        points = found["kd T=4"]
        assert points[-1].step == stack_setup.steps and 3 <= len(points) <= 4
        assert all(p.validation is not None and p.rescaling_mean is not None for p in points)
        assert all(p.rows_to_relation is not None and p.distance_order is not None for p in points)
        assert found["hard"][-1].rescaling_mean is None
        assert points[-1].loss < points[0].loss + 1
