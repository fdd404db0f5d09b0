"""Many students of one architecture, trained on the same examples from a cached signal.

Two ways, chosen by a short measurement, with equal results: *stacked*, all students in one pass by `torch.func` (wins where
kernels are small: MLPs, small batches, GPUs), and *one by one* from the same looked-up batches and targets (wins where one
student fills the core). A student in a fleet is the student trained alone: same initial weights, order, dropout, to rounding.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fractionate.errors import ConfigError, MismatchError
from fractionate.objective import Objective
from fractionate.order import batches, draw_seed, step_seed
from fractionate.records import Point, Training
from fractionate.schedule import learning_rate, make_optimizer, set_learning_rate
from fractionate.scores import scores
from fractionate.sources.examples import Examples
from fractionate.study.bundle import Bundle
from fractionate.study.mechanism import measure_rescaling
from fractionate.study.stacked import Stack
from fractionate.teacher import TeacherSignal

Way = Literal["auto", "stacked", "one by one"]
StudentFactory = Callable[[], nn.Module]

GROUP_SECONDS = 60.0  # a stack is cut by seeds so that a kill costs no more than about this
PROBE_STEPS = 3
MEASURED_EXAMPLES = 512  # of the transfer set, for measurements along training
VALIDATED_EXAMPLES = 1000  # of the validation set, likewise
EVALUATED_BATCH = 1024


@dataclass(frozen=True)
class Entrant:
    """A student to train: its arm, seed and objective (None: the labels alone).

    `draw` other than 0 gives it initial weights and an order of its own: the same arm, drawn again.
    """

    arm: str
    seed: int
    objective: Objective | None
    draw: int = 0

    @property
    def own_seed(self) -> int:
        """The seed of initial weights, order and dropout."""
        return self.seed if self.draw == 0 else draw_seed("draw", self.draw, self.seed)


@dataclass(frozen=True, eq=False)
class Outcome:
    """A trained student: the model, when its loss stopped being finite (None: never), measurements, cost."""

    entrant: Entrant
    model: nn.Module
    steps: int
    wall_seconds: float
    diverged_at: int | None
    points: tuple[Point, ...]
    way: Way


@dataclass(frozen=True, eq=False)
class Course:
    """What all students of a fleet run: data and signal by seed, training, what to measure on the way."""

    transfer: Mapping[int, Examples]
    signals: Mapping[int, TeacherSignal | None]
    training: Training
    validation: Examples | None = None
    validation_signal: TeacherSignal | None = None
    points: int = 8
    device: str = "cpu"

    @property
    def examples(self) -> int:
        """How many examples a student learns from; the same for every seed."""
        sizes = {len(part) for part in self.transfer.values()}
        if len(sizes) != 1:
            raise MismatchError("transfer sets of a fleet differ in size", got=f"{sorted(sizes)}")
        return sizes.pop()

    @property
    def steps(self) -> int:
        """Optimiser steps of a training."""
        return self.training.steps_for(self.examples)

    @property
    def measured_steps(self) -> frozenset[int]:
        """The steps after which a student is measured, the last among them."""
        last = self.steps - 1
        return frozenset(round((i + 1) * last / self.points) for i in range(self.points)) | {last}


def make_student(factory: StudentFactory, seed: int, device: str = "cpu") -> nn.Module:
    """A student with the initial weights of a seed; torch's global generator is left as it was."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return factory().to(device)


class _Feed:
    """Batches of several students: places in each one's transfer set, and the inputs there."""

    def __init__(self, course: Course, entrants: Sequence[Entrant]) -> None:
        unique: dict[int, int] = {}  # identity of a transfer set -> its place in the pool
        parts: list[Tensor] = []
        starts: list[int] = []
        for entrant in entrants:
            data = course.transfer[entrant.seed]
            if id(data) not in unique:
                unique[id(data)] = sum(len(part) for part in parts)
                parts.append(data.inputs.to(course.device))
            starts.append(unique[id(data)])
        self.pool = parts[0] if len(parts) == 1 else torch.cat(parts)
        self.start = torch.tensor(starts, device=course.device)[:, None]
        self.seeds = [entrant.own_seed for entrant in entrants]
        self.course = course
        self.per_epoch = -(-course.examples // course.training.batch_size)
        self._epoch = -1
        self._orders: dict[int, tuple[Tensor, ...]] = {}

    def index(self, step: int) -> Int[Tensor, "students batch"]:
        epoch, place = divmod(step, self.per_epoch)
        if epoch != self._epoch:
            size = self.course.training.batch_size
            self._orders = {s: batches(self.course.examples, size, s, epoch) for s in dict.fromkeys(self.seeds)}
            self._epoch = epoch
        return torch.stack([self._orders[s][place] for s in self.seeds]).to(self.start.device)

    def inputs(self, index: Int[Tensor, "students batch"]) -> Tensor:
        rows = self.pool.index_select(0, (index + self.start).flatten())
        return rows.view(*index.shape, *rows.shape[1:])


def make_bundle(course: Course, entrants: Sequence[Entrant], classes: int) -> Bundle:
    """The losses of these students on their transfer sets."""
    signals = [course.signals[e.seed] if e.objective is not None else None for e in entrants]
    return Bundle(
        [e.objective for e in entrants],
        [None if s is None else s.to(course.device) for s in signals],
        [course.transfer[e.seed].labels.to(course.device) for e in entrants],
        classes,
    )


def stack_logits(stack: Stack, inputs: Tensor) -> Float[Tensor, "students examples classes"]:
    """Logits of every student of a stack on the same examples, in evaluation mode."""
    with torch.no_grad():
        count = len(stack.seeds)
        return torch.cat(
            [stack.forward(x.expand(count, *x.shape)) for x in torch.split(inputs, EVALUATED_BATCH)], dim=1
        )


def model_logits(model: nn.Module, inputs: Tensor) -> Float[Tensor, "examples classes"]:
    """Logits of a model in evaluation mode."""
    model.eval()
    with torch.no_grad():
        return torch.cat([model(x) for x in torch.split(inputs, EVALUATED_BATCH)])


def _measure(
    course: Course, entrant: Entrant, step: int, loss: float, transfer_logits: Tensor, validation_logits: Tensor | None
) -> Point:
    signal, objective = course.signals[entrant.seed], entrant.objective
    finite = bool(torch.isfinite(transfer_logits).all())
    found = None
    if finite and objective is not None and signal is not None and objective.teacher_weight > 0:
        rows = torch.arange(len(transfer_logits))
        found = measure_rescaling(transfer_logits.cpu(), signal.take(rows), objective)
    validated = None
    if finite and validation_logits is not None and course.validation is not None:
        teacher = course.validation_signal
        count = len(validation_logits)
        with_teacher = None if teacher is None else teacher.logits[:count].float()
        if bool(torch.isfinite(validation_logits).all()):
            validated = scores(validation_logits.cpu(), course.validation.labels[:count], with_teacher)
    return Point(
        step=step + 1,
        loss=loss,
        validation=validated,
        rescaling_mean=None if found is None else found.mean,
        rescaling_deviation=None if found is None else found.deviation,
        rescaling_correlation=None if found is None else found.correlation,
    )


def _finite(model: nn.Module) -> bool:
    return all(bool(torch.isfinite(p).all()) for p in model.parameters())


def train_one(
    factory: StudentFactory, entrant: Entrant, course: Course, *, advance: Callable[[int], None] = lambda _: None
) -> Outcome:
    """Train one student alone from the cached signal."""
    begin = time.perf_counter()
    model = make_student(factory, entrant.own_seed, course.device)
    bundle: Bundle | None = None
    feed = _Feed(course, [entrant])
    optimizer = make_optimizer([p for p in model.parameters() if p.requires_grad], course.training)
    steps, measured = course.steps, course.measured_steps
    points: list[Point] = []
    diverged_at = None
    probe = course.transfer[entrant.seed].inputs[:MEASURED_EXAMPLES].to(course.device)
    model.train()
    with torch.random.fork_rng():
        for step in range(steps):
            index = feed.index(step)
            torch.manual_seed(step_seed(entrant.own_seed, step))
            logits = model(feed.inputs(index)[0])
            bundle = bundle or make_bundle(course, [entrant], logits.shape[-1])
            gradient = bundle.gradient(logits[None], index)[0]
            set_learning_rate(optimizer, learning_rate(course.training, step, steps))
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(logits, gradient)
            optimizer.step()
            if step in measured:
                loss = float(bundle.loss(logits[None], index)[0])
                seen = _validated(course, lambda x: model_logits(model, x))
                points.append(_measure(course, entrant, step, loss, model_logits(model, probe), seen))
                model.train()
                if not torch.isfinite(torch.tensor(loss)) or not _finite(model):
                    diverged_at = step + 1
                    break
            advance(1)
    model.eval()
    return Outcome(
        entrant, model, diverged_at or steps, time.perf_counter() - begin, diverged_at, tuple(points), "one by one"
    )


def _validated(course: Course, predict: Callable[[Tensor], Tensor]) -> Tensor | None:
    if course.validation is None:
        return None
    return predict(course.validation.inputs[:VALIDATED_EXAMPLES].to(course.device))


def train_stacked(
    factory: StudentFactory,
    entrants: Sequence[Entrant],
    course: Course,
    *,
    advance: Callable[[int], None] = lambda _: None,
) -> list[Outcome]:
    """Train students in one pass, as one stack."""
    begin = time.perf_counter()
    modules = [make_student(factory, entrant.own_seed, course.device) for entrant in entrants]
    stack = Stack(modules, [entrant.own_seed for entrant in entrants])
    feed = _Feed(course, entrants)
    optimizer = make_optimizer([p for p in stack.parameters.values() if p.requires_grad], course.training)
    bundle: Bundle | None = None
    steps, measured = course.steps, course.measured_steps
    points: list[list[Point]] = [[] for _ in entrants]
    diverged: list[int | None] = [None] * len(entrants)
    first = torch.arange(min(MEASURED_EXAMPLES, course.examples), device=course.device)
    probe = feed.inputs(first.expand(len(entrants), -1))
    for step in range(steps):
        index = feed.index(step)
        logits = stack.train_forward(feed.inputs(index), step)
        bundle = bundle or make_bundle(course, entrants, logits.shape[-1])
        gradient = bundle.gradient(logits, index)
        set_learning_rate(optimizer, learning_rate(course.training, step, steps))
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(logits, gradient)
        optimizer.step()
        if step in measured:
            losses = bundle.loss(logits, index).tolist()
            with torch.no_grad():
                on_transfer = stack.forward(probe)
            seen = _validated(course, lambda x: stack_logits(stack, x))
            for i, entrant in enumerate(entrants):
                if diverged[i] is None:
                    own = None if seen is None else seen[i]
                    points[i].append(_measure(course, entrant, step, losses[i], on_transfer[i], own))
                    if not bool(torch.isfinite(on_transfer[i]).all()):
                        diverged[i] = step + 1
        advance(len(entrants))
    seconds = (time.perf_counter() - begin) / len(entrants)
    outcomes = []
    for i, (entrant, module) in enumerate(zip(entrants, modules, strict=True)):
        module.load_state_dict(stack.state(i))
        module.eval()
        if diverged[i] is None and not _finite(module):
            diverged[i] = steps
        outcomes.append(Outcome(entrant, module, steps, seconds, diverged[i], tuple(points[i]), "stacked"))
    return outcomes


@dataclass(frozen=True)
class Plan:
    """How a fleet is trained: the way, and how many seeds go into one stack."""

    way: Literal["stacked", "one by one"]
    seeds_a_stack: int
    stacked_step_seconds: float | None = None  # measured, all arms of one seed
    single_step_seconds: float | None = None  # measured, the same students one by one


def plan_fleet(factory: StudentFactory, entrants: Sequence[Entrant], course: Course, way: Way = "auto") -> Plan:
    """Choose the way by a few trial steps of one seed's students, stacked and alone; a module that cannot be stacked goes alone.

    Stacks whose results differ from the student alone are not used, whatever their speed.
    """
    seeds = list(dict.fromkeys(e.seed for e in entrants))
    if way == "one by one" or (way == "auto" and len(entrants) == 1):
        return Plan("one by one", 1)
    own = [e for e in entrants if e.seed == seeds[0]]
    try:
        stacked, single = _trial(factory, own, course)
    except (RuntimeError, ValueError, TypeError, NotImplementedError) as error:
        if way == "stacked":
            raise MismatchError(
                "this student cannot be stacked", got=str(error).splitlines()[0], fix='use way="one by one"'
            ) from error
        return Plan("one by one", 1)
    if way == "auto" and single <= stacked:
        return Plan("one by one", 1, stacked, single)
    whole = stacked * course.steps
    return Plan("stacked", max(1, min(len(seeds), int(GROUP_SECONDS / max(whole, 1e-9)))), stacked, single)


def _trial(factory: StudentFactory, entrants: Sequence[Entrant], course: Course) -> tuple[float, float]:
    """Seconds of a step of these students, stacked and one by one. Raises `RuntimeError` where the two differ."""
    modules = [make_student(factory, e.own_seed, course.device) for e in entrants]
    stack = Stack(modules, [e.own_seed for e in entrants])
    feed = _Feed(course, entrants)
    inputs = feed.inputs(feed.index(0))
    alone = modules[0]
    alone.train()

    def stacked_step() -> Tensor:
        logits = stack.train_forward(inputs, 0)
        torch.autograd.backward(logits, torch.full_like(logits, 1e-3))
        return logits.detach()

    def single_step() -> Tensor:
        torch.manual_seed(step_seed(entrants[0].own_seed, 0))
        logits: Tensor = alone(inputs[0])
        torch.autograd.backward(logits, torch.full_like(logits, 1e-3))
        return logits.detach()

    with torch.random.fork_rng():
        together, apart = stacked_step(), single_step()
        if together.ndim != 3 or not torch.allclose(together[0], apart, rtol=1e-3, atol=1e-4):
            raise RuntimeError("stacked and alone do not give the same logits")
        times = []
        for step in (stacked_step, single_step):
            best = float("inf")
            for _ in range(PROBE_STEPS):
                begin = time.perf_counter()
                step()
                best = min(best, time.perf_counter() - begin)
            times.append(best)
    return times[0], times[1] * len(entrants)


def train_fleet(
    factory: StudentFactory,
    entrants: Sequence[Entrant],
    course: Course,
    *,
    way: Way = "auto",
    advance: Callable[[int], None] = lambda _: None,
) -> Iterator[Outcome]:
    """Train all students, giving each as it ends: stack by stack of whole seeds, or one by one.

    `advance` is called with the number of students' steps made since. Raises `MismatchError` for transfer sets that differ in size,
    and for `way="stacked"` with a module that cannot be stacked.
    """
    if not entrants:
        return
    if course.training.loop_settings:
        unknown = ", ".join(course.training.loop_settings)
        raise ConfigError(f"a study's training does not know {unknown}", fix="leave it out, or use distill")
    plan = plan_fleet(factory, entrants, course, way)
    if plan.way == "one by one":
        for entrant in entrants:
            yield train_one(factory, entrant, course, advance=advance)
        return
    seeds = list(dict.fromkeys(e.seed for e in entrants))
    for start in range(0, len(seeds), plan.seeds_a_stack):
        group = seeds[start : start + plan.seeds_a_stack]
        yield from train_stacked(factory, [e for e in entrants if e.seed in group], course, advance=advance)
