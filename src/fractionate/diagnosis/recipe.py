"""The recipe: cell, temperature, teacher weight, divergence and what to cache, from the signal and the findings.

The rule, its reasons and how well it does are written down in docs/recipe.md; its constants were set on half of the settings of
bench/regret.py.
"""

from __future__ import annotations

from typing import Protocol

import torch

from fractionate.diagnosis.case import Case
from fractionate.diagnosis.linear_probe import MOST_EXAMPLES
from fractionate.errors import ConfigError
from fractionate.records import Finding, Pilot, Recommendation
from fractionate.tasks.task import Task
from fractionate.theory.teacher_signal import TeacherSignal
from fractionate.theory.topk_signal import CompactSignal

# faults after which the teacher's word is worth nothing, or is about something else
STOPPERS = ("unusable-numbers", "permuted-classes", "misaligned-cache", "input-mismatch", "vocabulary-mismatch",
            "training-mode", "weak-teacher")  # fmt: skip
SCARCE, PLENTY = 40.0, 80.0  # examples a class: below, the teacher's whole opinion pays; above, its doubt alone
SOFTNESS = 2.5  # the tempered extent of the logits (largest above the mean) that a scarce transfer set wants
HIGHEST_TEMPERATURE = 8.0
TRUSTED, DOUBTED = 0.9, 0.6  # teacher weights
CLEARLY = 0.025  # accuracy by which a flawed teacher must surely be ahead of a linear classifier on new data ...
EASY = 0.7  # ... where that one is at least so accurate; on harder tasks even a flawed teacher's softness helped
OVER_CONFIDENT = 0.05  # mean top probability above accuracy on examples that are new to the teacher
CAPTURED = 0.98  # share of the mass at the recipe's temperature that a cache has to keep


class Piloting(Protocol):
    """A pilot as `diagnose` calls it, over a task that makes students: the refined recipe and its evidence."""

    def __call__(self, task: Task, signal: TeacherSignal, recipe: Recommendation) -> tuple[Recommendation, Pilot]: ...


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
    return not any(f.severity == "error" and f.name in STOPPERS and f.name != "weak-teacher" for f in findings)


def recommend(case: Case, findings: tuple[Finding, ...]) -> Recommendation:
    """The settings to distil with, and why; `distil=False` where a fault has to be repaired first or the teacher is no help."""
    found = {f.name: f.severity for f in findings}
    stopper = next((f for name in STOPPERS for f in findings if f.name == name and f.severity == "error"), None)
    if stopper is not None:
        advice = "a better teacher may help" if stopper.name == "weak-teacher" else "repair this first"
        return labels_alone(f"{stopper.summary}. Train on the labels alone; {advice}.")
    reading = case.reading
    each = float(reading.counts[reading.counts > 0].double().median())
    scarce = max(0.0, min(1.0, (PLENTY - each) / (PLENTY - SCARCE)))
    certain = {found.get("over-confident-teacher"), found.get("memorising-teacher")} & {"warning", "error"}
    smoothed = found.get("smoothed-teacher") == "warning" and scarce == 0
    lead, line = against_line(case, findings)
    if certain and scarce == 0:
        return labels_alone(
            f"it is certain of these examples, so at temperature 1 it says what the labels say; with {each:.0f} examples a class "
            "a higher temperature loses more than it gains. Train on the labels alone, or distil on examples it has not seen."
        )
    if (certain or smoothed) and line >= EASY and lead < CLEARLY:
        flaw = "certain of these very examples" if certain else "smoothed"
        return labels_alone(
            f"it is {flaw}, and on new examples not clearly ahead of a linear classifier of the transfer set (surely by "
            f"{100 * lead:.1f} points): it has little to teach and its doubt misleads. Train on the labels alone."
        )
    soft = max(1.0, min(HIGHEST_TEMPERATURE, float(reading.extent.median()) / SOFTNESS))
    temperature = round(1 + (soft - 1) * scarce, 1)
    reasons = [
        f"{each:.0f} examples a class are {'few' if scarce == 1 else 'many' if scarce == 0 else 'neither few nor many'}"
        + (": the teacher's whole opinion helps, so its logits are softened" if scarce * (soft - 1) > 0.05 else
           ": the teacher's doubt alone helps, at temperature 1" if scarce == 0 else
           ", and its logits are soft as they are")
    ]  # fmt: skip
    weight = TRUSTED if scarce > 0.25 else DOUBTED
    fresh = case.held_out_reading or reading
    boast = float(fresh.top.mean()) - fresh.accuracy
    if boast > OVER_CONFIDENT and weight > DOUBTED:
        weight = DOUBTED
        reasons.append(f"it is {boast:.0%} too sure of itself on new examples, so the labels keep a say")
    if found.get("label-noise") in ("warning", "error"):
        weight = max(weight, TRUSTED)
        reasons.append("labels are noisy, so the teacher gets more weight than they")
    cell = "kd"
    if found.get("instance-noise") == "warning":
        cell = "kd-pt+sim"
        reasons.append("what it says about single examples does not come again, so class relations take its place")
    return Recommendation(
        distil=True, cell=cell, temperature=temperature, teacher_weight=weight, divergence="cross-entropy",
        scale_by_temperature_squared=True, reason="; ".join(reasons),
        stored_entries=entries_worth_storing(case.signal, temperature),
    )  # fmt: skip


def labels_alone(reason: str) -> Recommendation:
    """The answer "do not distil"."""
    return Recommendation(
        distil=False, cell="hard", temperature=1.0, teacher_weight=0.0, divergence="cross-entropy",
        scale_by_temperature_squared=True, reason=reason,
    )  # fmt: skip


def against_line(case: Case, findings: tuple[Finding, ...]) -> tuple[float, float]:
    """How far the teacher is surely (97.5 %) ahead on held-out data of a linear classifier of the transfer set, and its accuracy.

    (0, 0) without held-out data or where the linear classifier could not be fitted.
    """
    ahead = [e.value for f in findings for e in f.evidence if f.name == "weak-teacher" and "linear" in e.name]
    if case.held_out_reading is None or not ahead:
        return 0.0, 0.0
    teacher, line = case.held_out_reading.accuracy, case.reading.accuracy - ahead[0]
    judged = min(len(case.reading), MOST_EXAMPLES)
    variance = teacher * (1 - teacher) / len(case.held_out_reading) + max(0.0, line * (1 - line)) / judged
    return float(teacher - line - 1.96 * variance**0.5), line


def entries_worth_storing(signal: TeacherSignal | CompactSignal, temperature: float, rows: int = 2000) -> int | None:
    """The least power of two of largest entries that keeps 98 % of the mass on average; None where that is most of the classes.

    Of compact rows: as many as they have.
    """
    if isinstance(signal, CompactSignal):
        return signal.logits.shape[1]
    if signal.classes <= 64:
        return None
    every = max(1, len(signal) // rows)
    k, mass = 8, torch.softmax(signal.logits[::every].float() / temperature, dim=1)
    while 2 * k < signal.classes:
        if float(mass.topk(k, dim=1).values.sum(1).mean()) >= CAPTURED:
            return k
        k *= 2
    return None
