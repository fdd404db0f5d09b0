"""The recipe: cell, temperature, teacher weight, divergence and what to cache, from the spectrum and the findings."""

from __future__ import annotations

from fractionate.diagnosis.case import Case
from fractionate.records import Finding, Recipe

STOPPERS = ("weak-teacher", "permuted-classes", "misaligned-cache", "input-mismatch", "unusable-numbers",
            "vocabulary-mismatch", "training-mode")  # fmt: skip


def recommend(case: Case, findings: tuple[Finding, ...]) -> Recipe:
    """The settings to distil with, and why. The rule is written down in docs/recipe.md."""
    errors = [f for f in findings if f.severity == "error" and f.name in STOPPERS]
    if errors:
        return Recipe(
            distil=False, cell="hard", temperature=1.0, teacher_weight=0.0, divergence="cross-entropy",
            scale_by_temperature_squared=True,
            reason=f"{errors[0].summary}. Repair this first; until then train on the labels alone.",
        )  # fmt: skip
    doubt = float(case.reading.rest.mean())
    if doubt >= 0.01:
        temperature, why = 1.0, f"the teacher doubts {doubt:.1%} on average: it is soft enough at temperature 1"
    elif doubt >= 0.002:
        temperature, why = 2.0, f"the teacher doubts only {doubt:.2%} on average: temperature 2 brings its opinions out"
    else:
        temperature, why = (
            4.0,
            f"the teacher doubts {doubt:.2%} on average: only a high temperature shows anything but the label",
        )
    return Recipe(
        distil=True, cell="kd", temperature=temperature, teacher_weight=0.9, divergence="cross-entropy",
        scale_by_temperature_squared=True, reason=why, stored_entries=None,
    )  # fmt: skip
