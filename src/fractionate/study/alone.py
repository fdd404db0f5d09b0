"""One trial through the one training loop, measured along the way: what every task and every recipe can be trained by."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from fractionate.data.parts import subset
from fractionate.errors import NumericsError
from fractionate.losses.objective import Objective
from fractionate.records import Point, Run
from fractionate.study.run_record import bare_run, with_mechanism
from fractionate.study.setup import Setup, Trial
from fractionate.tasks.predictions import evenly
from fractionate.tasks.task import Task
from fractionate.training.distillation import distill
from fractionate.training.fleet.measurements import measure
from fractionate.training.fleet.setup import VALIDATED_EXAMPLES, StackSetup, convolves, model_logits

Advance = Callable[[int], None]


@dataclass(eq=False)
class Along:
    """Measures a student along its training: loss and validation scores of any task, and of a plain classifier its logit layer."""

    steps: frozenset[int]
    task: Task
    stack_setup: StackSetup | None
    objective: Objective | None
    advance: Advance
    fitted: bool = False
    probed: Tensor | None = None
    _probe: Tensor | None = field(default=None, repr=False)

    def stepped(self) -> None:
        """A step is done."""
        self.advance(1)

    def measure(self, step: int, loss: float, student: nn.Module) -> Point:
        """The student as it is after this step."""
        stack_setup = self.stack_setup
        if stack_setup is None:
            split = self.task.splits.validation
            if split is None:
                return Point(step=step, loss=loss)
            some = subset(split, evenly(len(split), VALIDATED_EXAMPLES)) if len(split) > VALIDATED_EXAMPLES else split
            return Point(step=step, loss=loss, validation=self.task.evaluate(student, some, final=False))
        if self._probe is None:
            self._probe = stack_setup.transfer.inputs[stack_setup.probe].to(stack_setup.device)
        self.probed = model_logits(student, self._probe)
        validated = stack_setup.validated
        seen = None if validated is None else model_logits(student, validated.inputs.to(stack_setup.device))
        return measure(stack_setup, self.objective, step - 1, loss, student, self.probed, seen)


def train_alone(
    setup: Setup, trial: Trial, advance: Advance, *, backend: str, start: nn.Module | None = None
) -> tuple[Run, nn.Module | None]:
    """Train the student of one trial: its record, and the model (None where it diverged).

    Convolutions run with their channels last, which is up to twice as fast on a CPU. `backend` goes into the record; `start` is the
    trained student of the variant that this one starts from.
    """
    arm, seed = trial.arm, trial.seed
    recipe = arm.recipe_for(seed)
    task, source = setup.part(arm, seed)
    student = _channels_last(task)
    if start is not None:
        begun = copy.deepcopy(start).train()
        student = {recipe.student: lambda: begun}
    task = replace(task, student=student)
    steps = recipe.training.steps_for(len(task.splits.transfer))
    count = setup.measured_points(recipe.training, arm.share)
    measured = frozenset(round((i + 1) * (steps - 1) / count) + 1 for i in range(count)) | {steps}
    stack_setup = setup.stack_setup(arm, seed) if arm.plain else None
    # of preparations, terms and other data the study knows the parts alone
    along = Along(measured, task, stack_setup, recipe.objective, advance, fitted=arm.plain)
    bare = bare_run(setup, trial, "diverged", backend=backend)
    model: nn.Module | None
    try:
        model, run = distill(
            task,
            teacher=source if recipe.needs_teacher or recipe.preparations or recipe.data else None,
            recipe=recipe,
            seed=seed,
            arm=arm.name,
            validation_signal=setup.held("validation", seed),
            test_signal=setup.held("test", seed),
            observer=along,
            log_every=steps,
            show="nothing",
        )
    except NumericsError as error:
        return replace(bare, note=f"of {steps} steps: {error.what}"), None
    if stack_setup is not None:
        run = with_mechanism(run, model, stack_setup, recipe.objective, along.probed)
    return replace(run, settings=bare.settings), model


def _channels_last(task: Task) -> Callable[[], nn.Module] | dict[str, Callable[[], nn.Module]] | None:
    def laid(factory: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
        def make() -> nn.Module:
            model = factory()
            return model.to(memory_format=torch.channels_last) if convolves(model) else model  # type: ignore[call-overload]

        return make

    if task.student is None:
        return None
    if callable(task.student):
        return laid(task.student)
    return {name: laid(factory) for name, factory in task.student.items()}
