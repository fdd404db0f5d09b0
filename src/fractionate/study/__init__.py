"""dissect(): cells × temperatures × weights × seeds → runs → effects: which part of the teacher pays."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

import torch

from fractionate.attribution import METRICS, Contrast, effects, metric_named, unpaired
from fractionate.attribution.shapley import shares
from fractionate.cells import Cell
from fractionate.divergences import Divergence
from fractionate.errors import ConfigError, MismatchError
from fractionate.objective import Objective
from fractionate.records import Run, Study, Training
from fractionate.sources.examples import Examples, as_examples
from fractionate.study.arms import (
    BASELINE,
    FACTORIAL,
    PLACES,
    Arm,
    make_arms,
    make_contrasts,
    part_of,
    redrawn,
    transfer_set,
)
from fractionate.study.fleet import (
    MEASURED_EXAMPLES,
    VALIDATED_EXAMPLES,
    Course,
    Entrant,
    StudentFactory,
    Way,
    make_student,
    model_logits,
    train_fleet,
)
from fractionate.study.keeping import Folder, Progress, fingerprint
from fractionate.study.measured import make_run
from fractionate.teacher import TeacherSignal


def _check_signal(signal: TeacherSignal | None, data: Examples | None, what: str) -> None:
    if signal is None or data is None:
        return
    if len(signal) != len(data) or not torch.equal(signal.labels.cpu(), data.labels.cpu()):
        raise MismatchError(
            f"the signal and the {what} data are not of the same examples",
            expected=f"{len(data)} rows with the labels of the data, in its order",
            got=f"{len(signal)} rows",
            fix="collect the teacher's signal on these examples",
        )


def dissect(
    student_factory: StudentFactory,
    data: Any,
    signal: TeacherSignal,
    *,
    cells: Sequence[Cell | str] = FACTORIAL,
    temperatures: Sequence[float] = (1.0,),
    teacher_weights: Sequence[float] = (0.9,),
    seeds: int | Sequence[int] = 5,
    training: Training | None = None,
    validation: Any = None,
    test: Any = None,
    validation_signal: TeacherSignal | None = None,
    test_signal: TeacherSignal | None = None,
    baseline: str = BASELINE,
    metric: str = "accuracy",
    margin: float | None = None,
    share: Sequence[float] = (1.0,),
    divergence: Divergence | str = "cross-entropy",
    scale_by_temperature_squared: bool = True,
    out: Path | str | None = None,
    name: str = "study",
    way: Way = "auto",
    device: str = "cpu",
    points: int | None = None,
    progress: Literal["auto", "off"] = "auto",
) -> Study:
    """Train a student on each part of what a teacher says and tell, with intervals, which part pays.

    `signal` holds the teacher's logits on `data`, in its order. Every arm of a seed shares initial weights, order and dropout,
    and (for shares below 1) the transfer set; arms differ in cell, temperature and teacher weight only. Effects are read from
    `test` data, or from `validation` data without it. With `out` every run is saved as it ends; a killed study goes on there.
    `margin`: the difference in the metric's unit that does not matter (accuracy: points). Nothing is stopped early: a look at a
    fixed-sample interval before its end would break its coverage. `points` is how often a student is measured on the way; left
    out, up to 8 times, and so seldom that measuring costs about a tenth of the training at most.

    Raises `ConfigError` for fewer than 2 seeds or factors that cannot be meant, `MismatchError` where data, signals, student or
    the folder do not fit together.
    """
    begin = time.perf_counter()
    kind = metric_named(metric)
    margin = kind.margin if margin is None else margin
    training = training or Training(epochs=60)
    data = as_examples(data)
    validation = None if validation is None else as_examples(validation, "validation")
    test = None if test is None else as_examples(test, "test")
    seeds = tuple(range(seeds)) if isinstance(seeds, int) else tuple(seeds)
    _check_study(seeds, margin, validation, test)
    for part, examples, what in (
        (signal, data, "training"),
        (validation_signal, validation, "validation"),
        (test_signal, test, "test"),
    ):
        _check_signal(part, examples, what)
    arms = make_arms(cells, temperatures, teacher_weights, share)
    contrasts = make_contrasts(arms, baseline)
    initial = make_student(student_factory, seeds[0])
    _check_student(initial, data, signal)
    settings: dict[str, str | float | int | bool | None] = {
        "data": fingerprint(data.inputs, data.labels),
        "teacher": fingerprint(signal.logits, *([] if signal.class_relation is None else [signal.class_relation])),
        "student": fingerprint(str(initial), *make_student(student_factory, 0).state_dict().values()),
        "evaluation": fingerprint(*(t for e in (validation, test) if e is not None for t in (e.inputs, e.labels))),
        "divergence": divergence if isinstance(divergence, str) else repr(divergence),
        "scale_by_temperature_squared": scale_by_temperature_squared,
        **{f.name: getattr(training, f.name) for f in fields(training)},
    }
    folder = Folder(out, settings)
    notes = _notes(data, signal, arms, seeds)
    runs: dict[tuple[str, int], Run] = {}
    for one in arms:
        for seed in seeds:
            kept = folder.load(one.name, seed)
            if kept is not None:
                runs[one.name, seed] = kept
    fleets = [
        (s, _course(data, signal, s, seeds, training, validation, validation_signal, points, device)) for s in share
    ]
    bar = Progress(name, sum(c.steps * len(seeds) * sum(a.share == s for a in arms) for s, c in fleets), show=progress)
    try:
        for part_share, course in fleets:
            mine = {arm.name: arm for arm in arms if arm.share == part_share}
            entrants = [
                Entrant(arm.name, seed, _objective(arm, seed, divergence, scale_by_temperature_squared))
                for seed in seeds
                for arm in mine.values()
                if (arm.name, seed) not in runs
            ]
            for outcome in train_fleet(student_factory, entrants, course, way=way, advance=bar.advance):
                run = make_run(
                    outcome,
                    mine[outcome.entrant.arm],
                    course,
                    test=test,
                    test_signal=test_signal,
                    settings=settings,
                )
                folder.save(run)
                runs[run.arm, run.seed] = run
    finally:
        bar.close()
    ordered = tuple(runs[arm.name, seed] for arm in arms for seed in seeds)
    study = Study(
        name=name,
        metric=metric,
        baseline=baseline,
        margin=margin,
        arms=tuple(arm.name for arm in arms),
        seeds=seeds,
        runs=ordered,
        effects=tuple(_all_effects(ordered, contrasts, metric, margin)),
        shares=_all_shares(ordered, arms, metric, margin),
        notes=(*notes, *_diverged(ordered), *unpaired(ordered, contrasts, metric)),
        data={"name": data.name, "examples": len(data), "classes": data.classes, "fingerprint": str(settings["data"])}
        | ({} if validation is None else {"validation": len(validation)})
        | ({} if test is None else {"test": len(test)}),
        settings=settings,
        wall_seconds=time.perf_counter() - begin,
    )
    if folder.path is not None:
        study.save(folder.path / "study.json")
    return study


def _check_study(seeds: Sequence[int], margin: float, validation: Examples | None, test: Examples | None) -> None:
    if len(seeds) < 2 or len(set(seeds)) != len(seeds):
        raise ConfigError(
            "a study needs several different seeds",
            expected="at least 2, better 5 or more",
            got=f"{list(seeds)}",
            fix="set seeds to 5",
        )
    if not margin > 0:
        raise ConfigError("the margin must be above 0", got=repr(margin), fix="0.5 points of accuracy is usual")
    if validation is None and test is None:
        raise ConfigError("there is nothing to judge students by", fix="pass validation or test examples")


def _check_student(model: torch.nn.Module, data: Examples, signal: TeacherSignal) -> None:
    try:
        logits = model_logits(model, data.inputs[:2])
    except (RuntimeError, ValueError, TypeError) as error:
        raise MismatchError(
            "the student cannot take these inputs",
            expected=f"inputs {list(data.inputs.shape[1:])} of {data.inputs.dtype}",
            got=str(error).splitlines()[0],
        ) from error
    if logits.ndim != 2 or logits.shape[1] != signal.classes:
        raise MismatchError(
            "student and teacher speak of different classes",
            expected=f"logits [batch, {signal.classes}]",
            got=f"{list(logits.shape)}",
            fix="give the student the teacher's classes",
        )


def _objective(arm: Arm, seed: int, divergence: Divergence | str, squared: bool) -> Objective | None:
    if arm.hard:
        return None
    return Objective(redrawn(arm.cell, seed), arm.temperature, arm.teacher_weight, squared, divergence)


def affordable_points(training: Training, examples: int, validation: int) -> int:
    """How often a student may be measured so that it costs about a tenth of its training: 1 to 8 times.

    A measurement is a forward pass over some transfer and validation examples; a training step counts as three forward passes.
    """
    trained = 3 * training.steps_for(examples) * min(training.batch_size, examples)
    measured = min(MEASURED_EXAMPLES, examples) + min(VALIDATED_EXAMPLES, validation)
    return max(1, min(8, trained // (10 * measured)))


def _course(
    data: Examples,
    signal: TeacherSignal,
    share: float,
    seeds: Sequence[int],
    training: Training,
    validation: Examples | None,
    validation_signal: TeacherSignal | None,
    points: int | None,
    device: str,
) -> Course:
    transfer, signals = {}, {}
    whole = part_of(signal, torch.arange(len(signal))) if share == 1.0 else None
    for seed in seeds:
        transfer[seed], places = transfer_set(data, share, seed)
        signals[seed] = whole if whole is not None else part_of(signal, places)
    if points is None:
        points = affordable_points(training, len(transfer[seeds[0]]), 0 if validation is None else len(validation))
    return Course(transfer, signals, training, validation, validation_signal, points, device)


def _notes(
    data: Examples, signal: TeacherSignal, arms: Sequence[Arm], seeds: Sequence[int]
) -> Iterator[str] | tuple[str, ...]:
    notes = []
    for share in dict.fromkeys(arm.share for arm in arms):
        absent: set[int] = set()
        for seed in seeds if share < 1 else seeds[:1]:
            part, _ = transfer_set(data, share, seed)
            absent |= set(range(signal.classes)) - set(part.labels.tolist())
        if absent:
            names = [data.class_names[c] if c < data.classes else str(c) for c in sorted(absent)]
            where = "the data" if share == 1 else f"some transfer sets of share {share:g}"
            notes.append(f"{len(names)} of {signal.classes} classes are absent from {where}: {', '.join(names[:10])}")
    return tuple(notes)


def _diverged(runs: Sequence[Run]) -> tuple[str, ...]:
    return tuple(f"{r.arm} seed {r.seed} diverged: {r.note}" for r in runs if r.status == "diverged")


def _all_effects(runs: Sequence[Run], contrasts: Sequence[Contrast], metric: str, margin: float) -> Iterator[Any]:
    for other in dict.fromkeys([metric, *METRICS]):
        yield from effects(runs, contrasts, metric=other, margin=margin if other == metric else None)


def _all_shares(runs: Sequence[Run], arms: Sequence[Arm], metric: str, margin: float) -> Any:
    """Shares of the levels at the first factors that have them (one temperature, weight and share of the data)."""
    for factors in dict.fromkeys(arm.factors for arm in arms if not arm.hard):
        own = [arm for arm in arms if arm.factors == factors or (arm.hard and arm.share == factors[2])]
        places = {place: arm.name for place, cell in PLACES.items() for arm in own if arm.cell == cell}
        found = shares(runs, places, metric=metric, margin=margin)
        if found:
            return found
    return ()
