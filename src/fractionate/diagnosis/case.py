"""What a probe may read, what it returns, and the registry of probes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Literal, Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fractionate.diagnosis.interval import share_interval
from fractionate.diagnosis.label_mixture import LabelMixture, label_mixture
from fractionate.diagnosis.linear_probe import linear_probe
from fractionate.diagnosis.reading import Reading, read
from fractionate.diagnosis.student_fit import StudentFit
from fractionate.diagnosis.transfer import Transfer
from fractionate.losses.objective import Objective
from fractionate.records import Evidence, Finding, Interval, Severity, Spectrum
from fractionate.system.registry import Registry
from fractionate.theory.number_signal import NoClassesError
from fractionate.theory.spectrum.certainty import confidences
from fractionate.theory.spectrum.stream import spectrum
from fractionate.theory.teacher_signal import TeacherSignal
from fractionate.theory.topk_signal import CompactSignal

Need = Literal["student", "data", "held_out", "second_view", "second_pass", "objective", "expected_accuracy"]

LABELS, ANSWERS = "labels predicted from the inputs", "answers predicted from the inputs"

NEEDS: dict[Need, str] = {  # how a person gives what a probe needs
    "student": "the student (student=model) and the data it reads (data=…)",
    "data": "the transfer set (data=…, whatever distill takes)",
    "held_out": "the teacher's signal on data it was not trained on (held_out=signal)",
    "second_view": "the teacher's signal on another view of the same examples (second_view=signal)",
    "second_pass": "a second pass of the teacher over the very same inputs (second_pass=signal)",
    "objective": "the objective you plan to train with (objective=Objective(...))",
    "expected_accuracy": "the accuracy the teacher should have (expected_accuracy=0.93) or held_out=signal",
}

FEWEST_A_CLASS = 8  # examples for a line to predict classes


@dataclass(frozen=True, eq=False)
class Case:
    """Everything a probe may read: the signal and what else the user gave. Never a teacher model.

    Args:
        signal: A `TeacherSignal`, `CompactSignal` or `NumberSignal`.
        stored: How its rows were kept.
        class_names: The names of the classes.
        tokens: A row is a labelled token.
        objective: The loss that is planned.
        data: The transfer set as the student reads it.
        held_out: The teacher's signal on held-out examples.
        second_view: On another view of the same examples.
        second_pass: On the same examples once more.
        expected_accuracy: What the teacher is known to reach, as a share.
        student: Whether there is one.
        fit: What a copy of the student learns from half of the labels.
        label_maps: Class names of teacher, student and data; () where unnamed.
        gradients: The label's and the teacher's gradient in the student's parameters at step 0.
    """

    signal: Any
    stored: Literal["dense", "top-k", "sampled"] = "dense"
    class_names: tuple[str, ...] = ()
    tokens: bool = False
    objective: Objective | None = None
    data: Transfer | None = None
    held_out: TeacherSignal | None = None
    second_view: TeacherSignal | None = None
    second_pass: TeacherSignal | None = None
    expected_accuracy: float | None = None
    student: bool = False
    fit: StudentFit | None = None
    label_maps: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    gradients: tuple[Tensor, Tensor] | None = None

    @cached_property
    def reading(self) -> Reading:
        """One pass over the signal."""
        return read(self.signal)

    @cached_property
    def held_out_reading(self) -> Reading | None:
        """One pass over the held-out signal."""
        return None if self.held_out is None else read(self.held_out)

    @cached_property
    def mixture(self) -> LabelMixture:
        """The teacher's temperature and the share of random labels, likeliest on the transfer set."""
        return label_mixture(self.signal)

    @cached_property
    def held_out_mixture(self) -> LabelMixture | None:
        """The same on held-out data."""
        return None if self.held_out is None else label_mixture(self.held_out)

    @property
    def student_logits(self) -> Float[Tensor, "rows student_classes"] | None:
        """What the student predicts on each row."""
        return None if self.data is None else self.data.logits

    @cached_property
    def spectrum(self) -> Spectrum:
        """The spectrum at temperature 1."""
        return spectrum(self.signal, 1.0)

    @cached_property
    def line(self) -> tuple[Bool[Tensor, "judged"], Int[Tensor, "judged"]] | None:
        """Which labels a linear classifier of the inputs gets right on examples it was not fitted on, and their places."""
        return self._line(self.signal.labels)

    @cached_property
    def predicted(self) -> tuple[Evidence, ...]:
        """How far the inputs predict the labels and the teacher's answers: (accuracy - commonest) / (1 - commonest), 1 is all."""
        if self.data is None or self.line is None:
            return ()
        present = int((self.reading.counts > 0).sum())
        if len(self.line[1]) < FEWEST_A_CLASS * present:
            return ()
        found = []
        for name, classes, line in (
            (LABELS, self.signal.labels.cpu(), self.line),
            (ANSWERS, self.reading.predicted, self._line(self.reading.predicted)),
        ):
            assert line is not None
            right, judged = line
            commonest = float(torch.bincount(classes[judged]).max()) / len(judged)
            if commonest > 0.95:
                return ()
            around = share_interval(int(right.sum()), len(right))
            mean, low, high = (
                (share - commonest) / (1 - commonest)
                for share in (float(right.double().mean()), around.low, around.high)
            )
            found.append(Evidence(name, mean, "skill", Interval(low, high)))
        return tuple(found)

    def _line(self, classes: Int[Tensor, "rows"]) -> tuple[Bool[Tensor, "judged"], Int[Tensor, "judged"]] | None:
        if self.data is None or self.data.inputs is None:
            return None
        return linear_probe(self.data.inputs, classes, self.signal.classes, self.data.group)

    def confidence_at(self, temperature: float) -> Float[Tensor, "examples"] | None:
        """p[y] of every example at a temperature; None where compact rows do not know it."""
        if isinstance(self.signal, CompactSignal):
            return self.signal.at(temperature).confidence if self.signal.knows(temperature) else None
        return confidences(self.signal, temperature)[0]

    def missing(self, needs: tuple[Need, ...]) -> tuple[Need, ...]:
        """Which of the needs were not given."""
        return tuple(need for need in needs if getattr(self, need) in (None, False))

    def name_of(self, label: int) -> str:
        """The name of a class."""
        return self.class_names[label] if label < len(self.class_names) else str(label)

    def id_of(self, example: int) -> str:
        """The id of a row's example; its row number without data."""
        return str(example) if self.data is None else self.data.id_of(example)


@dataclass(frozen=True)
class Measurement:
    """What a probe measured: named numbers with units and intervals, and the examples that stand out, worst first.

    `facts` are further numbers the judge reads; `about` are words for the summary (names of classes, say). `enough = False`
    says that the data cannot answer; the judge then says so. `skipped` is why the probe does not apply to these data.

    Args:
        evidence: The numbers.
    """

    evidence: tuple[Evidence, ...]
    examples: tuple[str, ...] = ()
    about: str = ""
    enough: bool = True
    skipped: str = ""

    def __getitem__(self, name: str) -> float:
        return next(item.value for item in self.evidence if item.name == name)

    def has(self, name: str) -> bool:
        """Whether a number was measured."""
        return any(item.name == name for item in self.evidence)

    def low(self, name: str) -> float:
        """The lower end of a number's interval; the number itself where it has none."""
        found = next(item for item in self.evidence if item.name == name)
        return found.value if found.interval is None else found.interval.low

    def high(self, name: str) -> float:
        """The upper end of a number's interval; the number itself where it has none."""
        found = next(item for item in self.evidence if item.name == name)
        return found.value if found.interval is None else found.interval.high


@dataclass(frozen=True)
class Judgement:
    """What a judge decided on a measurement.

    Args:
        severity: error, warning, info or ok.
        score: From 0 (bad) to 1 (good).
        summary: What was found, in a sentence.
        cause: What usually causes it.
        fix: What to do.
        command: A command line.
        patch: Settings of a run file that mend it, as pairs.
    """

    severity: Severity
    score: float
    summary: str
    cause: str = ""
    fix: str = ""
    command: str = ""
    patch: tuple[tuple[str, str | float | int | bool], ...] = ()


class Probe(Protocol):
    """Called with a case, measures; `judge` turns the measurement into a judgement. Thresholds are its fields.

    `needs` names the inputs without which it cannot run; it is then reported as skipped.
    """

    needs: ClassVar[tuple[Need, ...]]

    def __call__(self, case: Case) -> Measurement: ...

    def judge(self, measured: Measurement) -> Judgement: ...


probes: Registry[Probe] = Registry(
    "probe",
    "fractionate.probes",
    files=(
        "diagnosis.alignment_probes",
        "diagnosis.calibration_probes",
        "diagnosis.class_probes",
        "diagnosis.data_probes",
        "diagnosis.input_probes",
        "diagnosis.number_probes",
        "diagnosis.output_probes",
        "diagnosis.split_probes",
        "diagnosis.student_probes",
        "diagnosis.teacher_probes",
    ),
)


def fine(summary: str, score: float = 1.0) -> Judgement:
    """Nothing wrong."""
    return Judgement("ok", clip(score), summary)


def clip(score: float) -> float:
    """A score in [0, 1]; NaN is 0."""
    return 0.0 if math.isnan(score) else max(0.0, min(1.0, score))


def examine(case: Case, name: str) -> Finding:
    """Run one probe, and word what its judge decided.

    Args:
        case: What the probe reads.
        name: Of the probe, in the registry.

    Returns:
        A `Finding`; its severity is "skipped" where the case lacks what the probe needs.

    Example:
        import torch
        from fractionate import TeacherSignal
        from fractionate.diagnosis import Case, examine

        print(examine(Case(TeacherSignal(torch.randn(40, 4), torch.arange(40) % 4)), "temperature"))
    """
    probe = probes[name]
    bare = name.partition("(")[0]
    anchor = f"findings.html#{bare}"
    missing = case.missing(probe.needs)
    if missing:
        needs = " and ".join(NEEDS[need] for need in missing)
        return Finding(bare, "skipped", 1.0, f"not examined, needs {needs}", "", "", anchor=anchor)
    try:
        with torch.no_grad():
            measured = probe(case)
    except NoClassesError:
        return Finding(bare, "skipped", 1.0, "not examined, needs classes: the task has none", "", "", anchor=anchor)
    if measured.skipped:
        return Finding(bare, "skipped", 1.0, f"not examined: {measured.skipped}", "", "", anchor=anchor)
    verdict = probe.judge(measured)
    return Finding(
        name=bare,
        severity=verdict.severity,
        score=clip(verdict.score),
        summary=verdict.summary,
        cause=verdict.cause,
        fix=verdict.fix,
        evidence=measured.evidence,
        command=verdict.command,
        patch=dict(verdict.patch),
        anchor=anchor,
        examples=measured.examples[:100] if verdict.severity in ("error", "warning", "info") else (),
    )


Measure = Callable[[Case], Measurement]
