"""Teachers and students of a study, checked against its data and against each other before anything is trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import torch
from torch import nn

from fractionate.data.batch import Split
from fractionate.errors import ConfigError, MismatchError
from fractionate.study.arms import Arm, Settings
from fractionate.study.seed_teachers import SeedTeachers, Teacher, every, teacher_by_seed
from fractionate.study.setup import Setup, same_module
from fractionate.system.hashing import content_hash
from fractionate.tasks.fit import check_fit
from fractionate.tasks.task import Task
from fractionate.teachers.cached import Cached
from fractionate.teachers.online import Online
from fractionate.teachers.shared import classes_of, kept_in_memory
from fractionate.teachers.source import TeacherSource
from fractionate.theory.teacher_signal import TeacherSignal


def make_setup(
    task: Task, teacher: Any, validation_signal: Any, test_signal: Any, arms: Sequence[Arm], seeds: Sequence[int]
) -> tuple[Setup, int]:
    """Teachers and students checked against the data and each other, a model's answers kept for all students; and the classes."""
    source = teacher_by_seed(teacher, seeds)
    own = {arm.name: teacher_by_seed(arm.teacher, seeds) for arm in arms if arm.teacher is not None}
    if any(own.get(arm.name, source) is None and arm.recipe.needs_teacher for arm in arms):
        raise ConfigError("a variant needs a teacher", fix="pass teacher=, or leave objectives and such terms out")
    given_sources = every([source, *own.values()])
    answers = list(map(classes_of, given_sources))
    initial = _initial(task, arms, seeds[0])
    outputs = max((check_fit(task, model, *answers) for model in initial.values()), default=0)
    splits = task.splits
    held_out: dict[str, Teacher] = {}
    judged = {"validation": validation_signal, "test": test_signal}
    for name, given in judged.items():
        split = getattr(splits, name)
        if split is None:
            continue
        found = teacher_by_seed(given, seeds, f"{name}_signal")
        for one in every([found]):
            _check_signal(one, split, name)
        held_out[name] = found or _on_held_out(source, task, split)
    given_signals = tuple(name for name, signal in judged.items() if signal is not None)
    known = {name: found for name, found in held_out.items() if found is not None}
    setup = Setup(task, source, known, {}, own, given=given_signals)
    signals = [setup.kept(one) for one in given_sources]
    for one in signals:
        _check_signal(one, splits.transfer, "training")
    kept = (classes_of(one) for one in signals)
    classes = outputs or max((one for one in kept if isinstance(one, int)), default=0)
    settings: Settings = {
        "data": splits.transfer.fingerprint(),
        "teacher": "" if source is None else source.fingerprint(),
        "student": content_hash(
            *(part for name, model in initial.items() for part in (name, str(model), *model.state_dict().values())),
            *(value for name in initial for value in task.model(name, 0).state_dict().values()),
        ),
        **task.fingerprint(),
    }
    training = arms[0].recipe.training
    shared = [f.name for f in fields(training) if f.name != "learning_rate"]
    settings |= {
        key: getattr(training, key) for key in shared if len({getattr(arm.recipe.training, key) for arm in arms}) == 1
    }
    return replace(setup, settings=settings), (task.classes or classes) if task.reader.distributions else 0


def _initial(task: Task, arms: Sequence[Arm], seed: int) -> dict[str, nn.Module]:
    """A student of each name. Raises `ConfigError` where a function gives one module twice."""
    names = dict.fromkeys(arm.recipe.student for arm in arms)
    initial = {name: task.model(name, seed) for name in names} if task.student is not None else {}
    for name, model in initial.items():
        if same_module(model, task.model(name, seed + 1)):
            raise ConfigError(
                "the function that makes students gives the same module each time",
                expected="a fresh model in each call",
                fix="build the model inside the function",
            )
    return initial


def _on_held_out(teacher: Teacher, task: Task, split: Split) -> Teacher:
    """A teacher on evaluation data, which only a model answers; run along where a metric reads inside it."""

    def answering(source: TeacherSource) -> TeacherSource | None:
        found = kept_in_memory(source, task, split)
        if found is not source:
            return found
        return Online(source.model, source.view) if source.model is not None and task.inside else None

    if teacher is None or not isinstance(teacher, SeedTeachers):
        return None if teacher is None else answering(teacher)
    found = {seed: answering(source) for seed, source in teacher.teachers.items()}
    known = {seed: source for seed, source in found.items() if source is not None}
    return SeedTeachers(known) if len(known) == len(found) else None


def _check_signal(source: TeacherSource, split: Split, what: str) -> None:
    signal = source.cached if isinstance(source, Cached) else None
    if not isinstance(signal, TeacherSignal):
        return
    labels = split.labels
    other = labels is not None and (
        labels.shape != signal.labels.shape or not torch.equal(signal.labels.cpu(), labels.cpu())
    )
    if len(signal) != len(split) or other:
        raise MismatchError(
            f"the signal and the {what} data are not of the same examples",
            expected=f"{len(split)} rows with the labels of the data, in its order",
            got=f"{len(signal)} rows",
            fix="collect the teacher's signal on these examples",
        )
