"""dissect(): cells × temperatures × weights × seeds → runs → effects: which part of the teacher pays."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from fractionate.attribution import effects, unpaired
from fractionate.attribution.shapley import shares
from fractionate.cells import Cell
from fractionate.data.examples import Examples
from fractionate.data.splits import as_examples
from fractionate.divergences import Divergence
from fractionate.errors import ConfigError, MismatchError
from fractionate.records import MetricInfo, Run, Study, Training, Try, Tuning
from fractionate.study.arms import BASELINE, FACTORIAL, PLACES, Arm, make_arms, make_contrasts, transfer_set
from fractionate.study.course import StudentFactory, Way, make_student, model_logits
from fractionate.study.keeping import Folder, Progress, fingerprint
from fractionate.study.trials import Trials
from fractionate.study.tuning import check_tuning, choose, tried_arms, tuning_seeds
from fractionate.study.workers import check_workers
from fractionate.tasks import CLASSIFICATION, infos
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
    learning_rates: Sequence[float] | None = None,
    divergence: Divergence | str | Sequence[Divergence | str] = "cross-entropy",
    tune: Tuning | None = None,
    scale_by_temperature_squared: bool = True,
    out: Path | str | None = None,
    name: str = "study",
    way: Way = "auto",
    device: str = "cpu",
    points: int | None = None,
    superclasses: Sequence[int] = (),
    workers: int | str = 1,
    progress: Literal["auto", "off"] = "auto",
) -> Study:
    """Train a student on each part of what a teacher says and tell, with intervals, which part pays.

    `signal` holds the teacher's logits on `data`, in its order. Every arm of a seed shares initial weights, order and dropout,
    and (for shares below 1) the transfer set; arms differ in cell, temperature, teacher weight, learning rate and divergence only,
    each a factor where several are given. Effects are read from `test` data, or from `validation` data without it.

    - `tune`: every arm tries as many settings, the best on validation data is taken; its cells then differ in temperature, weight
      and learning rate too, which `study.tries` names.
    - `out`: every run is saved as it ends; a killed study goes on there.
    - `workers`: processes of one thread each, or "ray" for the machines of a cluster. The results are those of one process of
      one thread.
    - `margin`: the difference in the metric's unit that does not matter (accuracy: points). Nothing is stopped early: a look at a
      fixed-sample interval before its end would break its coverage.
    - `points`: how often a student is measured on the way; left out, up to 8 times, and so seldom that measuring costs about a
      tenth of the training at most. `superclasses`: the group of each class, for the geometry of the logit layer.

    Raises `ConfigError` for fewer than 2 seeds or factors that cannot be meant, `MismatchError` where data, signals, student or
    the folder do not fit together.
    """
    begin = time.perf_counter()
    metrics = infos(CLASSIFICATION, metric, margin)
    training = training or Training(epochs=60)
    data = as_examples(data)
    validation = None if validation is None else as_examples(validation, "validation")
    test = None if test is None else as_examples(test, "test")
    seeds = tuple(range(seeds)) if isinstance(seeds, int) else tuple(seeds)
    _check_study(seeds, metrics[0].margin, validation, test)
    check_workers(workers)
    for part, examples, what in (
        (signal, data, "training"),
        (validation_signal, validation, "validation"),
        (test_signal, test, "test"),
    ):
        _check_signal(part, examples, what)
    kinds = [divergence] if isinstance(divergence, str) or is_dataclass(divergence) else list(divergence)  # type: ignore[arg-type]
    rates = (training.learning_rate,) if learning_rates is None else tuple(learning_rates)
    if tune is not None:
        _check_tuned(tune, validation, [temperatures, teacher_weights, rates])
    arms = make_arms(cells, temperatures, teacher_weights, share, rates, kinds)
    contrasts = make_contrasts(arms, baseline)
    initial = make_student(student_factory, seeds[0])
    _check_student(initial, data, signal)
    settings: dict[str, str | float | int | bool | None] = {
        "data": fingerprint(data.inputs, data.labels),
        "teacher": fingerprint(signal.logits, *([] if signal.class_relation is None else [signal.class_relation])),
        "student": fingerprint(str(initial), *make_student(student_factory, 0).state_dict().values()),
        "evaluation": fingerprint(*(t for e in (validation, test) if e is not None for t in (e.inputs, e.labels))),
        "scale_by_temperature_squared": scale_by_temperature_squared,
        **{f.name: getattr(training, f.name) for f in fields(training) if f.name != "learning_rate"},
    }
    if tune is not None:
        settings |= {f"tune.{name}": repr(value) for name, value in asdict(tune).items()}
    trials = Trials(
        student_factory,
        data,
        signal,
        training,
        settings,
        scale_by_temperature_squared,
        validation,
        validation_signal,
        tuple(superclasses),
        points,
        way,
        device,
        workers,
    )
    notes = _notes(data, signal, arms, seeds)
    tried = {} if tune is None else tried_arms(arms, tune, training)
    every = [one for own in tried.values() for one in own]
    total = trials.steps(every) * (0 if tune is None else tune.seeds) + trials.steps(arms) * len(seeds)
    bar = Progress(name, total, show=progress)
    tries: tuple[Try, ...] = ()
    try:
        if tune is not None:
            folder = Folder(None if out is None else Path(out) / "tries", settings)
            found = trials.runs(every, tuning_seeds(tune), folder, advance=bar.advance)
            choice = choose(arms, tried, found, metrics[0])
            arms, tries = choice.arms, choice.tries
        folder = Folder(out, settings)
        runs = trials.runs(arms, seeds, folder, advance=bar.advance, test=test, test_signal=test_signal)
    finally:
        bar.close()
    ordered = tuple(runs[arm.name, seed] for arm in arms for seed in seeds)
    study = Study(
        name=name,
        metrics=metrics,
        baseline=baseline,
        arms=tuple(arm.name for arm in arms),
        seeds=seeds,
        runs=ordered,
        effects=tuple(effect for one in metrics for effect in effects(ordered, contrasts, metric=one)),
        shares=_all_shares(ordered, arms, metrics[0]),
        notes=(*notes, *_unfinished(ordered), *unpaired(ordered, contrasts, metrics[0].name)),
        data={"name": data.name, "examples": len(data), "classes": data.classes, "fingerprint": str(settings["data"])}
        | ({} if validation is None else {"validation": len(validation)})
        | ({} if test is None else {"test": len(test)}),
        settings=settings | _shared(arms),
        wall_seconds=time.perf_counter() - begin,
        tries=tries,
    )
    if folder.path is not None:
        study.save(folder.path / "study.json")
    return study


def _shared(arms: Sequence[Arm]) -> dict[str, str | float | int | bool | None]:
    """Divergence and learning rate, where all arms have the same."""
    own = [arm.settings for arm in arms]
    return {key: own[0][key] for key in ("divergence", "learning_rate") if len({str(s[key]) for s in own}) == 1}


def _check_tuned(tune: Tuning, validation: Examples | None, factors: Sequence[Sequence[float]]) -> None:
    check_tuning(tune)
    if validation is None:
        raise ConfigError("settings are tuned on validation data", got="none", fix="pass validation examples")
    if any(len(values) > 1 for values in factors):
        raise ConfigError(
            "what is tuned is no factor of the study",
            expected="one temperature, teacher weight and learning rate beside tune",
            got=f"{[list(values) for values in factors]}",
            fix="move them to tune, or leave tune out",
        )


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


def _unfinished(runs: Sequence[Run]) -> tuple[str, ...]:
    words = {"diverged": "diverged", "stopped": "is missing, and is tried again by the same call"}
    return tuple(f"{r.arm} seed {r.seed} {words[r.status]}: {r.note}" for r in runs if r.status in words)


def _all_shares(runs: Sequence[Run], arms: Sequence[Arm], metric: MetricInfo) -> Any:
    """Shares of the levels at the first factors that have them (one temperature, weight and share of the data)."""
    for first in [arm for arm in arms if not arm.hard]:
        own = [arm for arm in arms if arm.meets(first)]
        places = {place: arm.name for place, cell in PLACES.items() for arm in own if arm.cell == cell}
        found = shares(runs, places, metric=metric)
        if found:
            return found
    return ()
