"""dissect(): recipes × seeds over one task → runs → effects: which part of the teacher pays."""

from __future__ import annotations

import operator
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal

from torch import nn

from fractionate.data.labels import superclass_names
from fractionate.data.splits import as_split
from fractionate.errors import ConfigError
from fractionate.losses.divergences.base import Divergence
from fractionate.losses.terms.base import TermSpec
from fractionate.models.outputs import Head
from fractionate.records import MetricInfo, Run, Study, Training, Try, Tuning
from fractionate.study.arms import (
    BASELINE,
    FACTORIAL,
    PLACES,
    Arm,
    Settings,
    Students,
    baseline_of,
    make_arms,
    make_contrasts,
    named_arms,
    share_places,
)
from fractionate.study.backend import Backend
from fractionate.study.costs import with_costs
from fractionate.study.effects.contrasts import Contrast, effects, unpaired
from fractionate.study.effects.shapley import shares
from fractionate.study.fitting import make_setup
from fractionate.study.remarks import remarks
from fractionate.study.results import Folder
from fractionate.study.trials import Trials
from fractionate.study.tuning import check_tuning, choose, tried_arms, tuning_seeds
from fractionate.study.workers import check_workers
from fractionate.system.paths import as_path
from fractionate.system.progress import Progress, Show
from fractionate.tasks.metric import infos
from fractionate.tasks.task import Task
from fractionate.theory.cells import Cell
from fractionate.training.recipe import Recipe
from fractionate.training.student import check_gradients

Terms = Sequence[TermSpec | str]


def dissect(
    student: Callable[[], nn.Module] | Task,
    data: Any = None,
    teacher: Any = None,
    *,
    arms: Mapping[str, Recipe | Arm] | None = None,
    cells: Sequence[Cell | str] = FACTORIAL,
    temperatures: Sequence[float] = (1.0,),
    teacher_weights: Sequence[float] = (0.9,),
    learning_rates: Sequence[float] | None = None,
    divergence: Divergence | str | Sequence[Divergence | str] = "cross-entropy",
    share: Sequence[float] = (1.0,),
    students: Students = (),
    terms: Terms = (),
    scale_by_temperature_squared: bool = True,
    training: Training | None = None,
    seeds: int | Sequence[int] = 5,
    validation: Any = None,
    test: Any = None,
    validation_signal: Any = None,
    test_signal: Any = None,
    head: Head = None,
    teacher_head: Head = None,
    predicts_next: bool = False,
    baseline: str = "",
    contrasts: Sequence[tuple[str, str] | Contrast] = (),
    metric: str = "",
    margin: float | None = None,
    tune: Tuning | None = None,
    out: Path | str | None = None,
    keep: Literal["records", "weights"] = "records",
    name: str = "study",
    backend: Backend = "auto",
    device: str = "cpu",
    points: int | None = None,
    superclasses: Sequence[int] = (),
    workers: int | str = 1,
    progress: Literal["auto", "off"] = "auto",
) -> Study:
    """Train students with multiple recipes over multiple seeds and measure, with intervals, which part of the teacher helps.

        dissect(lambda: MyModel(), data, teacher, test=test)                      # cells of a classifier
        dissect(task, teacher=teacher, arms={"no teacher": Recipe(), "kd": Recipe(objective=Objective("kd", 1.0, 0.9))})

    Every variant of a seed shares initial weights, order and dropout, and (for shares below 1) the transfer set. Effects are read
    from `test` data, or from `validation` data without it. Students are trained by the loop of `distill`; small plain
    ones are stacked (`backend="auto"`), with results equal to 1e-5. Each record names its backend.

    Args:
        student: A function that returns a new student, or a `Task`, which has data and metrics.
        data: What the students learn from, as `distill` takes it. With a task: nothing, or the variants by name.
        teacher: As in `distill`; or a teacher for each seed, as a mapping or `BySeed(function)`. A model runs once if the data
            are the same in every epoch.
        arms: Recipes by name, or `Arm` objects (placebo of another, a share of the data, its own teacher, the trained student of
            another variant to start from). Without `arms` the factors below make the variants.
        cells, temperatures, teacher_weights, learning_rates, divergence, share: Factors; every combination is a variant, next to
            the labels alone. `terms` are part of every one of them.
        scale_by_temperature_squared: The factor T² of every objective that the factors make.
        students: A further factor, the size: names of the task's models, or your names for preparations of its student,
            {"6 layers": ("from_teacher('every 2')",), "4 layers": ("from_teacher('every 3')",)}. Each size is compared with its own
            labels alone; where sizes differ, parameters and latency of each are measured (`Run.cost`).
        validation_signal, test_signal: The teacher's signal on these splits, for metrics that compare with it; by seed likewise.
        head, teacher_head, predicts_next: As in `distill`.
        baseline: The variant that others are compared with; left out, the one without a teacher.
        contrasts: Further pairs of variants to compare, (arm, against); p values are corrected over all contrasts of a metric.
        metric: One of the task's metrics, which decides; `margin` the difference that does not matter, in its unit.
        tune: An equal tuning budget for every variant; the best settings on validation data are used (`study.tries`).
        out: A folder in which every finished run is kept; a study that was killed resumes with the same results.
        keep: "weights" also keeps the trained students in `out`; `trained_student` loads them.
        device, progress: Where students are trained; "off" shows no progress.
        workers: Processes of one thread each, or "ray". The results are those of one process of one thread.
        points: How often a student is measured during training; by default so often that it costs about a tenth of it.
        superclasses: The group of each class, for the geometry of the logit layer; left out, by class names such as noun.animal.

    Returns:
        A `Study`: its runs, effects with intervals and verdicts, shares of the levels, tries of the tuning.

    Raises:
        ConfigError: for fewer than 2 seeds, factors out of range, or no data to measure on.
        MismatchError: where data, signals, students or the folder do not fit together.

    Example:
        import torch
        from torch import nn
        from fractionate import dissect
        from fractionate.records import Training

        data, teacher = (torch.randn(60, 8), torch.arange(60) % 4), nn.Linear(8, 4)
        study = dissect(
            lambda: nn.Linear(8, 4), data, teacher, test=data, cells=("hard", "kd"), seeds=2, training=Training(steps=5)
        )
        print(study)
    """
    begin = time.perf_counter()
    out = None if out is None else as_path(out, "out")
    if isinstance(student, Task):
        task, arms = _given_task(student, data, arms, (validation, test, head, teacher_head))
    else:
        task = Task(
            "language-modelling" if predicts_next else "classification",
            transfer=as_split(data),
            validation=None if validation is None else as_split(validation, "validation"),
            test=None if test is None else as_split(test, "test"),
            student=student,
            head=head,
            teacher_head=teacher_head,
            device=device,
        )
    check_gradients()
    seeds = _seeds(seeds)
    metrics = infos(task.judged, metric or task.deciding.name, margin)
    _check_study(seeds, metrics[0].margin, task)
    check_workers(workers)
    _check_kept(keep, out)
    if arms is None:
        base = Recipe(training=training or Training(), terms=tuple(terms))
        kinds = [divergence] if isinstance(divergence, str) or is_dataclass(divergence) else list(divergence)  # type: ignore[arg-type]
        rates = (base.training.learning_rate,) if learning_rates is None else tuple(learning_rates)
        if tune is not None:
            _check_tuned(tune, task, [temperatures, teacher_weights, rates])
        variants = make_arms(
            cells, temperatures, teacher_weights, share, rates, kinds, base=base, squared=scale_by_temperature_squared,
            students=students,
        )  # fmt: skip
    else:
        factors: dict[str, tuple[Any, Any]] = {
            "cells": (cells, FACTORIAL), "temperatures": (temperatures, (1.0,)), "teacher_weights": (teacher_weights, (0.9,)),
            "learning_rates": (learning_rates, None), "divergence": (divergence, "cross-entropy"), "share": (share, (1.0,)),
            "students": (students, ()), "terms": (terms, ()), "training": (training, None),
        }  # fmt: skip
        if given := [name for name, (value, default) in factors.items() if value is not default and value != default]:
            raise ConfigError(
                f"arms= and {', '.join(f'{name}=' for name in given)} cannot be combined",
                expected="the factors, or arms that bring what they need",
                fix="put it into each recipe: arms={'kd': Recipe(objective=..., training=...)}",
            )
        if tune is not None:
            _check_tuned(tune, task, [])
        variants = named_arms(arms)
        if tune is not None and any(arm.start for arm in variants):
            raise ConfigError(
                "tune and a start cannot be combined", fix="tune the variants before, in a study of their own"
            )
    baseline = baseline or (BASELINE if arms is None else baseline_of(variants))
    pairs = make_contrasts(variants, baseline, contrasts)
    every_seed = seeds if tune is None else (*seeds, *tuning_seeds(tune))
    setup, classes = make_setup(task, teacher, validation_signal, test_signal, variants, every_seed)
    variants = tuple(arm.detached() for arm in variants)
    settings = setup.settings | {"scale_by_temperature_squared": scale_by_temperature_squared}
    if tune is not None:
        settings |= {f"tune.{key}": repr(value) for key, value in asdict(tune).items()}
    setup = replace(setup, settings=settings, superclasses=tuple(superclasses) or _superclasses(task), points=points)
    trials = Trials(setup, backend, workers)
    notes = _absent_classes(task, variants, seeds)
    tried = {} if tune is None else tried_arms(variants, tune, variants[0].recipe.training)
    all_tries = [one for own in tried.values() for one in own]
    total = trials.steps(all_tries) * (0 if tune is None else tune.seeds) + trials.steps(variants) * len(seeds)
    runs_in_all = len(variants) * len(seeds) + len(all_tries) * (0 if tune is None else tune.seeds)
    show: Show = "auto" if progress == "auto" else "nothing"
    bar = Progress(f"dissect {name}", total, show=show, wait=2.0, parts=("student", runs_in_all))
    tries: tuple[Try, ...] = ()
    try:
        if tune is not None:
            folder = Folder(None if out is None else out / "tries")
            before = replace(trials, setup=setup.without_test())
            found = before.runs(all_tries, tuning_seeds(tune), folder, advance=bar.advance)
            choice = choose(variants, tried, found, metrics[0])
            variants, tries = choice.arms, choice.tries
        folder = Folder(out, keep=keep == "weights")
        runs = trials.runs(variants, seeds, folder, advance=bar.advance)
    finally:
        bar.close()
    ordered = with_costs(tuple(runs[arm.name, seed] for arm in variants for seed in seeds), variants, setup)
    study = Study(
        name=name,
        metrics=metrics,
        baseline=baseline,
        arms=tuple(arm.name for arm in variants),
        seeds=seeds,
        runs=ordered,
        effects=tuple(effect for one in metrics for effect in effects(ordered, pairs, metric=one)),
        shares=_all_shares(ordered, variants, metrics[0]),
        notes=(
            *notes,
            *_unfinished(ordered),
            *unpaired(ordered, pairs, metrics[0].name),
            *remarks(task, variants, ordered),
        ),
        data=_described(task, str(settings["data"]), classes),
        settings=settings | _shared(variants),
        wall_seconds=time.perf_counter() - begin,
        tries=tries,
    )
    if folder.path is not None:
        study.save(folder.path / "study.json")
    return study


def _given_task(
    task: Task, data: Any, arms: Mapping[str, Recipe | Arm] | None, others: tuple[Any, ...]
) -> tuple[Task, Mapping[str, Recipe | Arm] | None]:
    if isinstance(data, Mapping) and arms is None and all(isinstance(one, (Recipe, Arm)) for one in data.values()):
        data, arms = None, data
    if data is not None or any(other is not None for other in others):
        raise ConfigError(
            "a task brings its own data",
            expected="dissect(task, teacher=..., arms=...)",
            got="data, validation, test or head with a task",
            fix="put them into the task",
        )
    return task, arms


def _check_kept(keep: str, out: Path | str | None) -> None:
    if keep not in ("records", "weights") or (keep == "weights" and out is None):
        raise ConfigError(
            "invalid value for keep",
            expected='"records", or "weights" with a folder, out=',
            got=f"keep={keep!r}, out={out!r}",
        )


def _described(task: Task, digest: str, classes: int) -> dict[str, str | int | float]:
    """The data as the record of a study holds them."""
    splits = task.splits
    found: dict[str, str | int | float] = {
        "name": task.title,
        "examples": len(splits.transfer),
        "classes": classes,
        "fingerprint": digest,
    }
    parts = {"validation": splits.validation, "test": splits.test}
    return found | {name: len(part) for name, part in parts.items() if part is not None}


def _shared(arms: Sequence[Arm]) -> Settings:
    """Divergence and learning rate, where all variants have the same."""
    own = [arm.settings for arm in arms]
    return {key: own[0][key] for key in ("divergence", "learning_rate") if len({str(s[key]) for s in own}) == 1}


def _check_tuned(tune: Tuning, task: Task, factors: Sequence[Sequence[float]]) -> None:
    check_tuning(tune)
    if task.splits.validation is None:
        raise ConfigError("settings are tuned on validation data", got="none", fix="pass validation examples")
    if any(len(values) > 1 for values in factors):
        raise ConfigError(
            "what is tuned is no factor of the study",
            expected="one temperature, teacher weight and learning rate with tune",
            got=f"{[list(values) for values in factors]}",
            fix="move them to tune, or leave tune out",
        )


def _seeds(given: Any) -> tuple[int, ...]:
    """Seeds, or so many from 0."""
    try:
        return tuple(range(given)) if isinstance(given, int) else tuple(map(operator.index, given))
    except TypeError as error:
        raise ConfigError(
            "invalid value for seeds", expected="a number of seeds, or a list of whole numbers", got=repr(given)
        ) from error


def _check_study(seeds: Sequence[int], margin: float, task: Task) -> None:
    if len(seeds) < 2 or len(set(seeds)) != len(seeds):
        raise ConfigError(
            "a study needs two or more different seeds",
            expected="at least 2, better 5 or more",
            got=f"{list(seeds)}",
            fix="set seeds to 5",
        )
    if not margin > 0:
        raise ConfigError("the margin must be above 0", got=repr(margin), fix="0.5 points of accuracy is usual")
    if task.splits.validation is None and task.splits.test is None:
        raise ConfigError("there is nothing to judge students by", fix="pass validation or test examples")


def _superclasses(task: Task) -> tuple[int, ...]:
    names = task.splits.transfer.class_names or tuple(task.class_names)
    heads = superclass_names(names, len(names))
    return tuple(list(dict.fromkeys(heads)).index(head) for head in heads)


def _absent_classes(task: Task, arms: Sequence[Arm], seeds: Sequence[int]) -> tuple[str, ...]:
    labels, names = task.splits.transfer.labels, task.splits.transfer.class_names
    if labels is None or labels.ndim != 1 or labels.is_floating_point() or not names:
        return ()
    notes = []
    for share in dict.fromkeys(arm.share for arm in arms):
        absent: set[int] = set()
        for seed in seeds if share < 1 else seeds[:1]:
            places = share_places(task.splits.transfer, share, seed)
            absent |= set(range(len(names))) - set(labels[places].tolist())
        if absent:
            shown = ", ".join(names[c] for c in sorted(absent)[:10])
            where = "the data" if share == 1 else f"some transfer sets of share {share:g}"
            notes.append(f"{len(absent)} of {len(names)} classes are absent from {where}: {shown}")
    return tuple(notes)


def _unfinished(runs: Sequence[Run]) -> tuple[str, ...]:
    words = {"diverged": "diverged", "stopped": "is missing, and is tried again by the same call"}
    return tuple(f"{r.arm} seed {r.seed} {words[r.status]}: {r.note}" for r in runs if r.status in words)


def _all_shares(runs: Sequence[Run], arms: Sequence[Arm], metric: MetricInfo) -> Any:
    """Shares of the levels at the first factors that have them (one temperature, weight and share of the data)."""
    plain = [arm for arm in arms if arm.by_cell]
    for first in [arm for arm in plain if not arm.hard]:
        own = [arm for arm in plain if arm.meets(first)]
        places = {place: arm.name for place, cell in PLACES.items() for arm in own if arm.cell == cell}
        found = shares(runs, places, metric=metric)
        if found:
            return found
    return ()
