"""What tells a run from others, field by field: task, recipe, initial weights, teacher, seed and data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict

import xxhash
from torch import Tensor, nn

from fractionate.data.batch import Split
from fractionate.errors import MismatchError
from fractionate.models.modes import frozen_modules, plain_state
from fractionate.system.canonical import canonical_text
from fractionate.system.fingerprints import model_hash, settings_text
from fractionate.system.hashing import parts_of
from fractionate.tasks.task import Task
from fractionate.teachers.source import TeacherSource
from fractionate.training.distributed import World
from fractionate.training.recipe import Recipe
from fractionate.training.run_folder import Settings

NORMALISATION = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm,
                 nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)  # fmt: skip


def settings_of(task: Task, recipe: Recipe, student: nn.Module, given: Settings) -> Settings:
    """The settings of a run as its record holds them, without fingerprints of data and models."""
    state = plain_state(student).items()
    shapes = [f"{name}{list(t.shape)}{t.dtype}" if isinstance(t, Tensor) else f"{name}{type(t)}" for name, t in state]
    settings: Settings = {f"training.{name}": value for name, value in asdict(recipe.training).items()}
    return settings | given | {
        "student": xxhash.xxh3_128_hexdigest("\n".join([*shapes, settings_text(student)]).encode()),
        "data": None,
        "teacher": None,
        "objective": repr(recipe.objective),
        "objective_weight": float(recipe.objective_weight),
        "terms": ", ".join(repr(spec) for spec in recipe.specs),
        "predicts_next": task.reader.predicts_next,
    }  # fmt: skip


def identity_of(
    settings: Settings,
    task: Task,
    recipe: Recipe,
    student: nn.Module,
    source: TeacherSource | None,
    split: Split,
    world: World,
    held_out: Mapping[str, TeacherSource],
) -> Settings:
    """All of it: two calls that agree in it are the same run."""
    found = dict(settings)
    found |= {f"recipe.{name}": canonical_text(getattr(recipe, name)) for name in ("preparations", "data")}
    found["terms"] = canonical_text(recipe.terms)
    found |= {
        "data": split.fingerprint(),
        "teacher": None if source is None or not recipe.needs_teacher else source.fingerprint(),
        "initial_weights": model_hash(student, world.whole(student.state_dict())),
    }
    found |= {f"{name}_signal": teacher.fingerprint() for name, teacher in held_out.items()}
    return found | task.fingerprint()


def check_apart(student: nn.Module, teacher: nn.Module) -> None:
    """Raise `MismatchError` where training the student would train the teacher: they share parameters or their memory."""
    tensors = (*parts_of(list(teacher.parameters())), *teacher.buffers())
    held = {p.untyped_storage().data_ptr() for p in tensors if p.device.type != "meta"} - {0}
    trained: dict[str, Tensor] = {name: p for name, p in student.named_parameters() if p.requires_grad}
    frozen = set(frozen_modules(student))
    for path, module in student.named_modules():  # what normalisation notes of its batches
        if isinstance(module, NORMALISATION) and module.running_mean is not None and module not in frozen:
            trained[f"{path}.running_mean"] = module.running_mean
    shared = [name for name, p in trained.items() if any(t.untyped_storage().data_ptr() in held for t in parts_of(p))]
    if shared:
        raise MismatchError(
            f"student and teacher share {len(shared)} of what is trained of the student: the teacher would be trained too",
            expected="models of their own",
            got=", ".join(shared[:4]),
            fix="give the teacher a copy.deepcopy, or freeze what is shared in the student (its normalisation by .eval())",
        )
