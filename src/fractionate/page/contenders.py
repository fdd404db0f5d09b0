"""The table of a decision: student, no teacher, exported student, teacher."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from fractionate.page.advice import is_recipe, trained_as
from fractionate.page.cases import Case
from fractionate.page.compared import Compared
from fractionate.page.decisions import Contender, Who
from fractionate.page.summaries import calibration_of, mean_interval, metrics_of, score_values, uses_teacher
from fractionate.records import Effect, MetricInfo, Run, Scores


def contenders_of(case: Case, found: Compared, e: Effect) -> tuple[Contender, ...]:
    """The rows of a study's decision about one comparison."""
    calibration = calibration_of(found.study.metrics)
    every = [*case.runs, *found.study.runs]
    rows = [
        _contender("student", e.arm, found.arms.get(e.arm, []), found.metric, calibration, every),
        _contender("no teacher", e.against, found.arms.get(e.against, []), found.metric, calibration, every),
    ]
    for run in case.runs:
        if not is_recipe(found, e.arm, run):
            rows.append(
                _contender(
                    "exported student", trained_as(found, run) or run.arm, [run], found.metric, calibration, every
                )
            )
    if uses_teacher(found.contract(e.against)):
        rows[1] = replace(rows[1], who="student")
    return (*rows, *_teacher_row(found.study.teacher, case.runs, found.metric, calibration, every))


def contenders_alone(runs: Sequence[Run], metric: MetricInfo) -> tuple[Contender, ...]:
    """The rows of runs that are compared with nothing."""
    calibration = calibration_of(metrics_of(runs))
    rows = [
        _contender("student" if uses_teacher(run.contract) else "no teacher", run.arm, [run], metric, calibration, runs)
        for run in runs
    ]
    return (*rows, *_teacher_row(None, runs, metric, calibration, runs))


def _contender(
    who: Who,
    arm: str,
    runs: Sequence[Run],
    metric: MetricInfo,
    calibration: MetricInfo | None,
    every: Sequence[Run],
) -> Contender:
    values = score_values(runs, metric.name)
    mean, interval = mean_interval(values) if values else (None, None)
    calibrated = score_values(runs, calibration.name) if calibration else []
    parameters = runs[0].parameters if runs else None
    # a latency measured once holds for all students of this size
    cost = next((r.cost for r in [*runs, *every] if r.parameters == parameters and "student_latency_ms" in r.cost), {})
    return Contender(
        who,
        arm,
        len(values),
        mean,
        interval,
        sum(calibrated) / len(calibrated) if calibrated else None,
        parameters,
        cost.get("student_megabytes"),
        cost.get("student_latency_ms"),
    )


def _teacher_row(
    scores: Scores | None,
    runs: Sequence[Run],
    metric: MetricInfo,
    calibration: MetricInfo | None,
    every: Sequence[Run],
) -> tuple[Contender, ...]:
    scores = scores or next((r.teacher for r in runs if r.teacher), None)
    cost = next((r.cost for r in every if "teacher_parameters" in r.cost), {})
    if scores is None and not cost:
        return ()
    values = scores.values if scores else {}
    return (
        Contender(
            "teacher",
            "",
            0,
            values.get(metric.name),
            None,
            values.get(calibration.name) if calibration else None,
            cost.get("teacher_parameters") or None,  # what is no network has none
            cost.get("teacher_megabytes") or None,
            cost.get("teacher_latency_ms"),
        ),
    )
