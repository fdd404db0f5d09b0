"""Results of the verbs: frozen records, JSON both ways, units in the field names. No torch here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fractionate.system.lazy import exports

if TYPE_CHECKING:
    from fractionate.records.attention import ArmAttention as ArmAttention
    from fractionate.records.attention import AttentionStudy as AttentionStudy
    from fractionate.records.base import Record as Record
    from fractionate.records.commands import Compaction as Compaction
    from fractionate.records.commands import Difference as Difference
    from fractionate.records.commands import Differences as Differences
    from fractionate.records.commands import Setting as Setting
    from fractionate.records.commands import Settings as Settings
    from fractionate.records.commands import Written as Written
    from fractionate.records.examples import ExampleList as ExampleList
    from fractionate.records.examples import ExampleRow as ExampleRow
    from fractionate.records.examples import NotableExamples as NotableExamples
    from fractionate.records.examples import Opinion as Opinion
    from fractionate.records.examples import Reliability as Reliability
    from fractionate.records.examples import Shown as Shown
    from fractionate.records.explanations import ExampleExplanation as ExampleExplanation
    from fractionate.records.explanations import Explanations as Explanations
    from fractionate.records.explanations import Superfeature as Superfeature
    from fractionate.records.explanations import Superfeatures as Superfeatures
    from fractionate.records.findings import Diagnosis as Diagnosis
    from fractionate.records.findings import Evidence as Evidence
    from fractionate.records.findings import Finding as Finding
    from fractionate.records.findings import Pilot as Pilot
    from fractionate.records.findings import PredictedGain as PredictedGain
    from fractionate.records.findings import Recommendation as Recommendation
    from fractionate.records.findings import Severity as Severity
    from fractionate.records.findings import Trial as Trial
    from fractionate.records.kinds import RECORDS as RECORDS
    from fractionate.records.knowledge import ClassCorrelation as ClassCorrelation
    from fractionate.records.knowledge import ClassPart as ClassPart
    from fractionate.records.knowledge import Spectrum as Spectrum
    from fractionate.records.knowledge import Term as Term
    from fractionate.records.measures import LEVEL_NAMES as LEVEL_NAMES
    from fractionate.records.measures import Direction as Direction
    from fractionate.records.measures import Histogram as Histogram
    from fractionate.records.measures import Interval as Interval
    from fractionate.records.measures import Level as Level
    from fractionate.records.measures import Matrix as Matrix
    from fractionate.records.measures import MetricInfo as MetricInfo
    from fractionate.records.measures import Scores as Scores
    from fractionate.records.measures import bar as bar
    from fractionate.records.studies import Comparison as Comparison
    from fractionate.records.studies import Effect as Effect
    from fractionate.records.studies import Share as Share
    from fractionate.records.studies import ShareLevel as ShareLevel
    from fractionate.records.studies import Study as Study
    from fractionate.records.studies import Try as Try
    from fractionate.records.studies import Tuning as Tuning
    from fractionate.records.studies import Verdict as Verdict
    from fractionate.records.training import Contract as Contract
    from fractionate.records.training import Point as Point
    from fractionate.records.training import Preflight as Preflight
    from fractionate.records.training import Run as Run
    from fractionate.records.training import Training as Training
else:
    __getattr__, __dir__, __all__ = exports(__name__)
