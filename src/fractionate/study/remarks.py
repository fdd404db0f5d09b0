"""What a reader of a study has to know besides its effects."""

from __future__ import annotations

from collections.abc import Sequence

from fractionate.records import Run
from fractionate.study.arms import Arm
from fractionate.study.effects.harm import undertrained
from fractionate.tasks.task import Task


def remarks(task: Task, arms: Sequence[Arm], runs: Sequence[Run]) -> tuple[str, ...]:
    """Learning rates that were tuned for no arm, and students that learned nothing."""
    rates = {arm.learning_rate for arm in arms}
    notes = []
    if len(rates) == 1 and any(arm.recipe.uses_teacher for arm in arms):
        notes.append(
            f"every arm has the learning rate {rates.pop():g}, tuned for none of them; a softer target often wants a larger one: "
            "tune=Tuning(learning_rates=(…)) compares each at its best"
        )
    judged = task.splits.test or task.splits.validation
    labels = None if judged is None else judged.labels
    if labels is not None and labels.ndim == 1 and not labels.is_floating_point():
        notes.append(undertrained(runs, labels.tolist()))
    return tuple(note for note in notes if note)
