"""Trained students of a study, back from its folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import xxhash
from torch import nn

from fractionate.errors import ConfigError, DamagedError
from fractionate.models.weights import from_bytes, load_weights
from fractionate.study.arms import Arm, named_arms
from fractionate.study.results import ALIAS, STUDENT, Folder
from fractionate.study.seed_teachers import of_seed, teacher_by_seed
from fractionate.system.atomic import read_file
from fractionate.tasks.task import Task
from fractionate.training.recipe import Recipe
from fractionate.training.student import finish_student, make_student


def trained_student(
    folder: Path | str,
    arm: str,
    seed: int,
    task: Task,
    *,
    arms: Mapping[str, Recipe | Arm] | None = None,
    teacher: Any = None,
) -> nn.Module:
    """A student that `dissect(task, ..., out=folder, keep="weights")` trained, in evaluation mode.

    Args:
        arms: The variants of the study, where this one is prepared, starts from another or names its model: the module is made
            again as there, and its weights are put in.
        teacher: The study's, where a preparation reads it.
        folder: Of the study.
        arm: The variant.
        seed: Of the run.
        task: The task of the study.

    Returns:
        The module, in evaluation mode.

    Raises:
        ConfigError: for a student that the folder does not hold.
        DamagedError: for weights that are not those of the record.
        MismatchError: where the task or the variant makes another module.

    Example:
        import torch
        from torch import nn
        from fractionate import Objective, Recipe, Task, dissect
        from fractionate.records import Training
        from fractionate.study import trained_student

        data, few = (torch.randn(40, 8), torch.arange(40) % 4), Training(steps=2)
        task = Task("classification", transfer=data, test=data, student=lambda: nn.Linear(8, 4))
        arms = {"no teacher": Recipe(training=few), "kd": Recipe(objective=Objective("kd"), training=few)}
        dissect(task, arms, nn.Linear(8, 4), seeds=2, out="study", keep="weights")
        student = trained_student("study", "kd", 0, task, arms=arms)
    """
    kept = Folder(folder, keep=True)
    run = kept.read(arm, seed)
    if run is None or STUDENT not in run.settings:
        raise ConfigError(
            f"{kept.path} holds no student of {arm!r}, seed {seed}",
            expected='a folder of dissect(..., keep="weights")',
            got="no such run" if run is None else f"a run without weights ({run.status})",
        )
    if arms is None and {"preparations", "start", "student_name"} & run.settings.keys():
        raise ConfigError(
            f"{arm!r} is prepared, starts from another variant or names its model", fix="pass arms=, as to dissect"
        )
    whole = Arm(Recipe(), name=arm) if arms is None else next(a for a in named_arms(arms) if a.name == arm)
    model: nn.Module | None = None
    for one in whole.ancestry:
        source = of_seed(teacher_by_seed(teacher if one.teacher is None else one.teacher, [seed]), seed)
        made = make_student(task, one.recipe, source, seed, given=model)
        _, model = finish_student(one.recipe, made)
    assert model is not None
    path = kept.weights(arm, seed)
    again = "delete the run's record and call dissect again"
    content = read_file(path, fix=again)
    digest = xxhash.xxh3_128_hexdigest(content)
    if digest != run.settings[STUDENT]:
        raise DamagedError(f"{path} is damaged", expected=str(run.settings[STUDENT]), got=digest, fix=again)
    aliases = {name.removeprefix(ALIAS): str(of) for name, of in run.settings.items() if name.startswith(ALIAS)}
    load_weights(model, from_bytes(content, aliases), str(path))
    return model.eval()
