"""Figures of explanations: superfeatures over all examples, what each paid, and single examples split."""

from __future__ import annotations

from dataclasses import replace

from markupsafe import Markup

from fractionate.page.figure import Figure
from fractionate.page.marks import Scale, canvas, finite, gridlines, line, rect, scale_for, tag
from fractionate.page.rows import REACH, ROW, axis_row, row
from fractionate.page.text import decimals, percent, short
from fractionate.records import Explanations, Superfeature
from fractionate.records.explanations import HEAD
from fractionate.records.studies import VERDICT_WORDS

TEACHER, STUDENT = "seg lv-u", "seg lv-is"
EXAMPLES_DRAWN = 6


def explanation_figures(record: Explanations, numbered: str = "") -> tuple[Figure, ...]:
    """The figures of a record, its file names ending in `numbered`."""
    if not record.superfeatures:
        return ()
    figures = (_bars(record), _examples(record))
    return tuple(replace(f, name=f"{f.name}{numbered}") for f in figures if f)


def _key() -> Markup:
    shown = [
        tag("span", canvas(12, rect(0, 0, 100, 12, class_), class_="swatch"), " ", words)
        for class_, words in ((TEACHER, "teacher"), (STUDENT, "student"))
    ]
    return tag("div", *shown, class_="key")


def _pair(scale: Scale, teacher: float, student: float, outputs: str) -> Markup:
    """Two bars from zero, the teacher's above the student's."""
    naught = scale(0)
    drawn = []
    for value, class_, y in ((teacher, TEACHER, 4.0), (student, STUDENT, 18.0)):
        if finite(value):
            left, right = sorted((naught, scale(value)))
            drawn.append(rect(left, y, right - left, 12, class_, outputs))
    axis_line = line(naught, -REACH, naught, ROW + REACH, "zero")
    return canvas(ROW, gridlines(scale, -REACH, ROW + REACH), *drawn, axis_line)


def _name(s: Superfeature) -> Markup:
    shown = (
        [] if s.name in s.members else [tag("small", short(s.members, 44))]
    )  # columns may be named by what they share
    return tag("div", short(s.name, 32), *shown, class_="row-name", title=short(s.members, 400))


def _bars(record: Explanations) -> Figure:
    parts = record.superfeatures
    scale = scale_for([v for s in parts for v in (s.teacher_evidence_nats, s.student_evidence_nats)], zero=True)
    drawn = [_key()]
    for s in parts:
        outputs = f"{s.name}: teacher {decimals(s.teacher_evidence_nats, 3)}, student {decimals(s.student_evidence_nats, 3)} nats"
        plot = _pair(scale, s.teacher_evidence_nats, s.student_evidence_nats, outputs)
        end = [
            tag("b", percent(s.agreement)),
            tag("span", f"agree, {percent(s.agreement_by_chance)} by chance", class_="quiet"),
        ]
        if s.paid is not None:
            known = next(
                (words for verdict, words in VERDICT_WORDS.items() if verdict == s.paid_verdict), s.paid_verdict
            )
            end.append(tag("small", f"learned alone {decimals(s.paid, 2, sign=True)} {record.paid_unit}: {known}"))
        drawn.append(row(_name(s), plot, tag("div", *end, class_="row-end")))
    drawn.append(axis_row(scale, "evidence for the label (nats)"))
    most = max(parts, key=lambda s: s.teacher_evidence_nats)
    alone = (
        " Learned alone: what the student gains over prediction-only KD when the share for explanations goes to this superfeature, "
        "paired over seeds; verdicts are the study’s, corrected for the number of its comparisons."
    )
    outside = " The last column correlates, over examples, the teacher’s evidence with " + record.outside_method + "."
    return Figure(
        "superfeatures",
        f"The teacher decides most by {short(most.name, 32)}: {decimals(most.teacher_evidence_nats, 2)} nats for the label",
        tag("div", *drawn, class_="rows"),
        f"Mean over {record.measured_on:,} examples of log(explanation of the label / prior): how much each superfeature speaks "
        "for the truth, in teacher and student. Agreement: the share of examples on which both put the same class first."
        f"{alone if any(s.paid is not None for s in parts) else ''}{outside if record.outside_method else ''}",
        (
            *("superfeature", "features", "members", "teacher evidence (nats)", "student evidence (nats)"),
            *("teacher information (nats)", "student information (nats)", "agreement", "agreement by chance"),
            *("KL (nats)", "outside correlation"),
            *(f"learned alone ({record.paid_unit})", "low", "high", "verdict"),
        ),
        tuple(
            (
                *(s.name, s.features, s.members, s.teacher_evidence_nats, s.student_evidence_nats),
                *(s.teacher_information_nats, s.student_information_nats, s.agreement, s.agreement_by_chance),
                *(s.divergence_nats, s.outside_correlation, s.paid),
                *((i.low, i.high) if (i := s.paid_interval) else (None, None)),
                s.paid_verdict,
            )
            for s in parts
        ),
    )


def _examples(record: Explanations) -> Figure | None:
    if not record.examples:
        return None
    drawn_examples = record.examples[:EXAMPLES_DRAWN]
    scale = scale_for([v for e in drawn_examples for v in (*e.student_nats, *e.teacher_nats)], zero=True)
    drawn = [_key()]
    for e in drawn_examples:
        right = "right" if e.predicted == e.label else f"wrong: {short(e.label, 24)}"
        words = (
            f"example {short(e.example, 24)}: {short(e.predicted, 24)} over {short(e.next_class, 24)} by "
            f"{decimals(e.log_odds_nats, 2)} nats ({right}); prior {decimals(e.prior_nats, 2, sign=True)}"
        )
        drawn.append(tag("div", words, class_="row-group"))
        for s, ours, theirs in zip(record.superfeatures, e.student_nats, e.teacher_nats, strict=False):
            outputs = f"{s.name}: teacher {decimals(theirs, 2, sign=True)}, student {decimals(ours, 2, sign=True)} nats"
            end = tag("div", tag("b", decimals(ours, 2, sign=True)), class_="row-end")
            drawn.append(row(short(s.name, 32), _pair(scale, theirs, ours, outputs), end))
    drawn.append(axis_row(scale, "for the predicted class (nats)"))
    return Figure(
        "explained-examples",
        "Why each of these examples is predicted as it is",
        tag("div", *drawn, class_="rows"),
        "Log-odds of the student’s first class over its second, split by superfeature: the prior and the student’s bars add up to "
        "the whole exactly. The teacher’s bars speak of the same two classes. The download has all examples of the record.",
        HEAD,
        record.rows(),
        table_rows=replace(record, examples=drawn_examples).rows(),
    )
