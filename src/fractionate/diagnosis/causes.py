"""Root causes: one fault shows in many numbers; what follows from a found cause is reported as such, not as a fault of its own."""

from __future__ import annotations

from dataclasses import replace

from fractionate.diagnosis.case import ANSWERS, LABELS
from fractionate.records import Finding

# cause → what it brings about. A cause takes effect where it is an error (its own numbers are clear), in this order.
BRINGS_ABOUT: dict[str, tuple[str, ...]] = {
    "unusable-numbers": (
        "permuted-classes", "misaligned-cache", "input-mismatch", "label-noise", "weak-teacher", "duplicate-classes",
        "class-balance", "lost-class", "smoothed-teacher", "over-confident-teacher", "memorising-teacher", "temperature",
        "loss-scale", "held-out-calibration", "answers-as-labels",
    ),
    "permuted-classes": (
        "misaligned-cache", "input-mismatch", "label-noise", "weak-teacher", "duplicate-classes", "class-balance", "lost-class",
        "memorising-teacher", "temperature", "loss-scale", "over-confident-teacher", "held-out-calibration",
    ),
    "misaligned-cache": (
        "input-mismatch", "label-noise", "weak-teacher", "duplicate-classes", "class-balance", "lost-class", "memorising-teacher",
        "temperature", "loss-scale", "over-confident-teacher", "capacity-gap",
    ),
    "input-mismatch": (
        "label-noise", "weak-teacher", "duplicate-classes", "class-balance", "lost-class", "temperature", "loss-scale",
    ),
    "vocabulary-mismatch": ("class-balance",),
    "weak-teacher": ("input-mismatch", "temperature", "smoothed-teacher"),
    "label-noise": ("input-mismatch", "loss-scale", "capacity-gap"),
}  # fmt: skip
ALSO_AS_WARNING = ("label-noise", "vocabulary-mismatch")


def trace_back(findings: tuple[Finding, ...]) -> tuple[Finding, ...]:
    """The same findings, those that follow from a found cause turned into information that says so."""
    found = {f.name: f for f in findings}
    for cause, effects in BRINGS_ABOUT.items():
        if cause not in found:
            continue
        severity = found[cause].severity
        if severity != "error" and not (severity == "warning" and cause in ALSO_AS_WARNING):
            continue
        for effect in effects:
            symptom = found.get(effect)
            if (
                (cause, effect) == ("label-noise", "input-mismatch")
                and symptom is not None
                and labels_are_read(symptom)
            ):
                continue
            if symptom is not None and symptom.severity in ("error", "warning"):
                found[effect] = replace(symptom, severity="info", summary=f"{symptom.summary} (follows from {cause})")
    return tuple(found.values())


def labels_are_read(finding: Finding) -> bool:
    """Whether the inputs surely predict the labels better than the teacher's answers: the labels are not at fault then."""
    found = {item.name: item.interval for item in finding.evidence}
    labels, answers = found.get(LABELS), found.get(ANSWERS)
    return labels is not None and answers is not None and labels.low > answers.high
