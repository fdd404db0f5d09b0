"""What a pilot may cost where no budget is given: counted in operations, not measured, so that all machines agree."""

from __future__ import annotations

from torch.utils.flop_counter import FlopCounterMode

from fractionate.models.outputs import device_of
from fractionate.records import Training
from fractionate.tasks.reader import reading
from fractionate.tasks.task import Task
from fractionate.training.recipe import Recipe

QUICK_TRAININGS, TRAININGS = 110, 50  # the budget of quick students, which allows every arm, and of others
QUICK = 3e11  # floating-point operations of a quick pilot: about half a minute on one core
QUICK_PARAMETERS = 1_000_000  # students with more are not quick, and need not be counted


def default_budget(task: Task | None, training: Training | None, recipe: Recipe) -> float:
    """How many whole trainings a pilot may cost: more where they are quick.

    An operation is counted by torch's `FlopCounterMode` in a forward pass on one example; a backward pass takes two more.
    """
    if task is None or training is None:
        return TRAININGS
    model = task.model(recipe.student, 0)
    if sum(p.numel() for p in model.parameters()) > QUICK_PARAMETERS:
        return TRAININGS
    one = task.example(task.splits.transfer).to(device_of(model))
    with FlopCounterMode(display=False) as counter, reading(model) as reader:
        task.read(reader, one, head=task.head)
    seen = training.steps_for(len(task.splits.transfer)) * training.batch_size
    return QUICK_TRAININGS if QUICK_TRAININGS * seen * 3 * counter.get_total_flops() <= QUICK else TRAININGS
