"""What the students of a study need where they run, measured once for each size: the other axis of a size ladder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from fractionate.records import Run
from fractionate.study.arms import Arm
from fractionate.study.setup import Setup
from fractionate.training.cost import cost_of
from fractionate.training.student import finish_student, make_student


def with_costs(runs: Sequence[Run], arms: Sequence[Arm], setup: Setup) -> tuple[Run, ...]:
    """The runs with megabytes and latency of their student, and the teacher's, where students have different sizes.

    A fresh student of each size is measured on one example, on the machine that ends the study; adapters are merged before.
    """
    sizes = {run.parameters for run in runs if run.status == "completed"}
    if len(sizes) < 2:
        return tuple(runs)
    costs: dict[str, dict[str, float]] = {}
    for arm in arms:
        if arm.student not in costs:
            seed = next(run.seed for run in runs if run.arm == arm.name)
            source = setup.teacher(arm, seed)
            student = finish_student(arm.recipe, make_student(setup.task, arm.recipe, source, seed))[1]
            costs[arm.student] = cost_of(student, source, setup.task.splits.transfer, seed)
    named = {arm.name: costs[arm.student] for arm in arms}
    return tuple(replace(run, cost=named[run.arm]) if run.status == "completed" else run for run in runs)
