"""What the verbs hand over: frozen records, JSON both ways, units in the field names. No torch here."""

from __future__ import annotations

from fractionate.record import Record
from fractionate.records.attention import ArmAttention, AttentionStudy
from fractionate.records.commands import Compaction, Difference, Differences, Setting, Settings, Written
from fractionate.records.explanations import ExampleExplanation, Explanations, Superfeature, Superfeatures
from fractionate.records.knowledge import (
    ClassPart,
    Diagnosis,
    Evidence,
    Finding,
    Pilot,
    Recommendation,
    Severity,
    Spectrum,
    Term,
    Trial,
)
from fractionate.records.measures import (
    LEVEL_NAMES,
    Direction,
    Histogram,
    Interval,
    Level,
    Matrix,
    MetricInfo,
    Scores,
    bar,
)
from fractionate.records.studies import Effect, Share, ShareLevel, Study, Try, Tuning, Verdict
from fractionate.records.training import Contract, Point, Preflight, Run, Training

__all__ = [
    "LEVEL_NAMES",
    "RECORDS",
    "ArmAttention",
    "AttentionStudy",
    "ClassPart",
    "Compaction",
    "Contract",
    "Diagnosis",
    "Difference",
    "Differences",
    "Direction",
    "Effect",
    "Evidence",
    "ExampleExplanation",
    "Explanations",
    "Finding",
    "Histogram",
    "Interval",
    "Level",
    "Matrix",
    "MetricInfo",
    "Pilot",
    "Point",
    "Preflight",
    "Recommendation",
    "Record",
    "Run",
    "Scores",
    "Setting",
    "Settings",
    "Severity",
    "Share",
    "ShareLevel",
    "Spectrum",
    "Study",
    "Superfeature",
    "Superfeatures",
    "Term",
    "Training",
    "Trial",
    "Try",
    "Tuning",
    "Verdict",
    "Written",
    "bar",
]

RECORDS: tuple[type[Record], ...] = tuple(Record.__subclasses__())
