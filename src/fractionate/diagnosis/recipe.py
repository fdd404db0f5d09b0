"""The recipe: cell, temperature, teacher weight, divergence and what to cache, from the signal and the findings.

The rule, its reasons and how well it does are written down in docs/theory/recipe.md.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

import torch

from fractionate.diagnosis.case import Case
from fractionate.errors import ConfigError
from fractionate.records import Finding, Pilot, Recommendation
from fractionate.tasks.task import Task
from fractionate.teachers.source import TeacherSource
from fractionate.theory.teacher_signal import TeacherSignal
from fractionate.theory.topk_signal import CompactSignal, row_logits

# faults after which the teacher's word is about something else, or about nothing
STOPPERS = ("unusable-numbers", "permuted-classes", "misaligned-cache", "input-mismatch", "vocabulary-mismatch",
            "training-mode")  # fmt: skip
SCARCE = (
    20.0  # examples a class: below, the teacher's whole opinion pays; from there on every raised temperature can cost
)
SOFTNESS = 2.5  # the tempered extent of the logits (largest above the mean) that a scarce transfer set wants
HIGHEST_TEMPERATURE = 8.0
ABSENT_SHARE = 0.1  # the most of a target's mass that softening may bring to classes without an example
TRUSTED, DOUBTED = 0.9, 0.6  # teacher weights
OVER_CONFIDENT = 0.05  # mean top probability above accuracy on examples that are new to the teacher
CAPTURED = 0.98  # share of the mass at the recipe's temperature that a cache has to keep
UNTRIED = (  # bench/results/regret_pilot.md: both against no teacher at its best learning rate
    "untried: the recipe and learning rate of a pilot (PilotPlan, diagnosis.pilot in a run file) gained 3.3 points more in 49 "
    "settings"
)


class Piloting(Protocol):
    """A pilot as `diagnose` calls it, over a task that makes students: the refined recipe and its evidence."""

    def __call__(self, task: Task, teacher: TeacherSource, recipe: Recommendation) -> tuple[Recommendation, Pilot]: ...


def check_pilot(pilot: Piloting | None, student: object, task: Task | None) -> None:
    """Raises `ConfigError` for a pilot without data or without a function that makes fresh students."""
    if pilot is not None and (task is None or task.student is None):
        raise ConfigError(
            "a pilot trains many students", expected="data and a function that makes a fresh student",
            got="no data" if task is None else "no student" if student is None else "one student, made already",
            fix="diagnose(signal, lambda: Student(), data=examples, pilot=…)",
        )  # fmt: skip


def worth_a_pilot(findings: tuple[Finding, ...]) -> bool:
    """Whether nothing has to be repaired first. A weak teacher may still be worth a try: the pilot will tell."""
    return stopper_of(findings) is None


def stopper_of(findings: tuple[Finding, ...]) -> Finding | None:
    """The finding that has to be repaired before anything is trained; None where there is none."""
    return next((f for name in STOPPERS for f in findings if f.name == name and f.severity == "error"), None)


def recommend(case: Case, findings: tuple[Finding, ...]) -> Recommendation:
    """The settings to distil with, and why, from one pass over the teacher.

    A fault to repair is named in `repair`. "Do not distil" only where the teacher is surely no better than a linear classifier.
    Else what did no harm in 44 settings: temperature 1, weight 0.6; softer only with very few examples a class, and no softer
    than leaves classes without an example out.
    """
    found = {f.name: f for f in findings}
    stopper = stopper_of(findings)
    if stopper is not None:
        fix = f"{stopper.name}: {stopper.fix}"
        return replace(
            labels_alone(f"{stopper.summary} ({stopper.name})"), repair=fix if fix.endswith(".") else f"{fix}."
        )
    weak = found.get("weak-teacher")
    if weak is not None and weak.severity == "error":
        return labels_alone(f"{weak.summary}. Train on the labels alone; a better teacher may help.")
    reading = case.reading
    counts = reading.counts.long()
    each = float(
        torch.repeat_interleave(counts, counts).double().median()
    )  # of the class of a typical example: rare ones aside
    reasons, temperature, weight = [], 1.0, DOUBTED
    if each < SCARCE:
        soft = max(1.0, min(HIGHEST_TEMPERATURE, float(reading.extent.median()) / SOFTNESS))
        temperature, weight = softest(case, round(soft, 1)), TRUSTED
        reasons.append(f"{each:.0f} examples a class are few: the teacher's whole opinion helps")
        if temperature < round(soft, 1):
            weight = DOUBTED  # what it says of them is no help, and the student follows it
            reasons.append(f"no softer than T = {temperature:g}, or classes without an example would take the mass")
        fresh = case.held_out_reading or reading
        boast = float(fresh.top.mean()) - fresh.accuracy
        if boast > OVER_CONFIDENT:
            weight = DOUBTED
            reasons.append(f"it is {boast:.0%} too sure of itself on new examples, so the labels keep a say")
    else:
        reasons.append(
            f"with {each:.0f} examples a class a raised temperature or a larger weight can cost, and nothing was tried"
        )
    noisy = found.get("label-noise")
    if noisy is not None and noisy.severity in ("warning", "error"):
        weight = TRUSTED
        reasons.append("labels are noisy, so the teacher gets more weight than they")
    cell, again = "kd", found.get("instance-noise")
    if again is not None and again.severity == "warning":
        cell = "kd-pt+sim"
        reasons.append("what it says about single examples does not come again, so class relations take its place")
    return Recommendation(
        distil=True, cell=cell, temperature=temperature, teacher_weight=weight, divergence="cross-entropy",
        scale_by_temperature_squared=True, reason="; ".join([*reasons, UNTRIED]),
        stored_entries=entries_worth_storing(case.signal, temperature),
    )  # fmt: skip


def softest(case: Case, wanted: float) -> float:
    """The highest temperature up to `wanted` at which classes without an example take no more than a tenth of the target's mass.

    1 where they take more even there: softening is never the remedy. Of compact rows that are not read at other temperatures: 1
    where a class is absent.
    """
    absent = case.reading.counts == 0
    if not bool(absent.any()) or wanted <= 1:
        return wanted
    if isinstance(case.signal, CompactSignal) and not case.signal.estimated:
        return 1.0
    every = max(1, len(case.signal) // 2000)
    logits = row_logits(case.signal)[::every].float()
    steps = [round(1 + 0.1 * i, 1) for i in range(round((wanted - 1) * 10) + 1)]
    for temperature in reversed(steps):
        mass = torch.softmax(logits / temperature, 1)[:, absent.to(logits.device)].sum(1).mean()
        if float(mass) <= ABSENT_SHARE:
            return temperature
    return 1.0


def labels_alone(reason: str) -> Recommendation:
    """The answer "do not distil"."""
    return Recommendation(
        distil=False, cell="hard", temperature=1.0, teacher_weight=0.0, divergence="cross-entropy",
        scale_by_temperature_squared=True, reason=reason,
    )  # fmt: skip


def entries_worth_storing(signal: TeacherSignal | CompactSignal, temperature: float, rows: int = 2000) -> int | None:
    """The least power of two of largest entries that keeps 98 % of the mass on average; None where that is most of the classes.

    Of compact rows that are not read at other temperatures: as many as they have.
    """
    if isinstance(signal, CompactSignal) and not signal.estimated:
        return signal.logits.shape[1]
    if signal.classes <= 64:
        return None
    every = max(1, len(signal) // rows)
    k, mass = 8, torch.softmax(row_logits(signal)[::every].float() / temperature, dim=1)
    while 2 * k < signal.classes:
        if float(mass.topk(k, dim=1).values.sum(1).mean()) >= CAPTURED:
            return k
        k *= 2
    return None
