"""The answer of a study, and the comparison that the card names: the page draws the students of that variant."""

from __future__ import annotations

from collections.abc import Sequence

from fractionate.page.cases import Case
from fractionate.page.compared import Compared, compared
from fractionate.page.decisions import Answer
from fractionate.page.summaries import main_effects, uses_teacher
from fractionate.records import Effect, MetricInfo, Run


def chosen_of(case: Case, found: Compared) -> tuple[Answer, Effect] | None:
    """The answer of a study against no teacher and the comparison it rests on; None where no variant uses the teacher.

    The recommended recipe goes before another variant that helps, unless that one is surely better.
    """
    advised = found.at(case.diagnosis.recipe if case.diagnosis else None)
    better = sorted((e for e in found.with_teacher if e.verdict == "helps"), key=lambda e: -abs(e.gain))
    if better:
        best = better[0]
        ends = (best.interval.low, best.interval.high)
        surely = advised is None or min(abs(v) for v in ends) > abs(advised.gain)
        return "Distil", advised if advised in better and advised is not None and not surely else best
    if not found.with_teacher:
        return None
    unsure = [e for e in found.with_teacher if e.verdict == "cannot tell"]
    answer: Answer = (
        "No clear difference yet" if unsure and not _evidence_against(case, found.metric, unsure) else "Don't distil"
    )
    open_ones = unsure if answer == "No clear difference yet" else found.with_teacher
    largest = max(open_ones, key=lambda e: found.metric.sign * e.gain)
    return answer, advised if advised in open_ones and advised is not None and found.same_rate(advised) else largest


def chosen_between(found: Compared) -> tuple[bool, Effect] | None:
    """Of a study whose baseline has a teacher: whether a variant is shown to gain over it, and the one that gains most."""
    against = main_effects(found.study)[0]
    best = max((e for e in against if e.verdict == "helps"), key=lambda e: abs(e.gain), default=None)
    if best is not None:
        return True, best
    largest = max(against, key=lambda e: found.metric.sign * e.gain, default=None)
    return None if largest is None else (False, largest)


def shown_run(case: Case) -> Run | None:
    """The student drawn next to the teacher: the first seed of the variant on the card, else the first run that can be drawn."""
    study = case.study
    if study is not None and study.metrics and study.effects:
        found = compared(study)
        with_teacher = uses_teacher(found.contract(study.baseline))
        chosen = chosen_between(found) if with_teacher else chosen_of(case, found)
        if chosen is not None:
            drawn = (run for run in found.arms.get(chosen[1].arm, ()) if run.student_relation or run.student_spectrum)
            return next(drawn, None)
    return next((run for run in case.every_run if run.student_relation), None)


def _evidence_against(case: Case, metric: MetricInfo, unsure: Sequence[Effect]) -> bool:
    """Whether there is more against distilling than that a study could not tell: a fault to repair, or a pilot that is sure.

    A pilot counts where a gain that matters lies above its 95 % interval, and the study's estimates are below it too. What it
    found in points of accuracy is no evidence about F1 or balanced accuracy.
    """
    d = case.diagnosis
    if d is None or d.recipe.repair:
        return d is not None
    small = all(metric.sign * e.gain < metric.margin for e in unsure)
    if d.pilot is None or d.recipe.distil or (d.pilot.decided_by == "accuracy" and elsewhere(metric)):
        return False
    return d.pilot.rules_out_a_gain and small


def elsewhere(metric: MetricInfo) -> bool:
    """Whether a metric in points is another than the accuracy that a pilot measures."""
    return metric.unit == "points" and metric.name != "accuracy"
