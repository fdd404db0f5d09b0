"""What tells a run from others, field by field: task, recipe, initial weights, teacher, seed and data."""

from __future__ import annotations

from torch import nn

from fractionate.canonical import canonical_text
from fractionate.checkpoint import content_hash
from fractionate.data.batch import Split
from fractionate.engine.standing import asked_for
from fractionate.engine.world import World
from fractionate.errors import MismatchError
from fractionate.folder import Asked
from fractionate.tasks.task import Task
from fractionate.teachers import TeacherSource
from fractionate.training.recipe import Recipe


def settings_of(
    task: Task, recipe: Recipe, student: nn.Module, *, seed: int, steps: int, arm: str, examples: int
) -> Asked:
    """The settings of a run as its record holds them, without fingerprints of data and models."""
    return asked_for(
        student,
        recipe.training,
        objective=repr(recipe.objective),
        objective_weight=float(recipe.objective_weight),
        terms=", ".join(repr(spec) for spec in recipe.specs),
        seed=seed,
        steps=steps,
        arm=arm,
        examples=examples,
        predicts_next=task.reader.predicts_next,
    )


def identity_of(
    settings: Asked,
    task: Task,
    recipe: Recipe,
    student: nn.Module,
    source: TeacherSource | None,
    split: Split,
    world: World,
) -> Asked:
    """All of it: two calls that agree in it are the same run."""
    found = dict(settings)
    found |= {f"recipe.{name}": canonical_text(getattr(recipe, name)) for name in ("preparations", "data")}
    found["terms"] = canonical_text(recipe.terms)
    found |= {
        "data": split.fingerprint(),
        "teacher": None if source is None or not recipe.needs_teacher else source.fingerprint(),
        "initial_weights": content_hash(*world.whole(student.state_dict()).values()),
    }
    return found | task.fingerprint()


def check_apart(student: nn.Module, teacher: nn.Module) -> None:
    """Raise `MismatchError` where training the student would train the teacher: they share parameters or their memory."""
    held = {p.untyped_storage().data_ptr() for p in teacher.parameters() if p.device.type != "meta"} - {0}
    shared = [
        name for name, p in student.named_parameters() if p.requires_grad and p.untyped_storage().data_ptr() in held
    ]
    if shared:
        raise MismatchError(
            f"student and teacher share {len(shared)} of the student's parameters: the teacher would be trained too",
            expected="models of their own",
            got=", ".join(shared[:4]),
            fix="give the teacher a copy.deepcopy, or freeze what is shared in the student",
        )
