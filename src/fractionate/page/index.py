"""An index of runs: one row each, with the decision in short."""

from __future__ import annotations

from dataclasses import dataclass

from fractionate.page.decisions import Decision, Who
from fractionate.page.summaries import interval_text, size_text, value_text
from fractionate.page.text import count, short


@dataclass(frozen=True)
class IndexRow:
    """A run of an index: its name, where its page is, and the decision in short."""

    name: str
    link: str
    answer: str
    metric: str
    gain: str
    interval: str
    values: tuple[str, str, str]  # of student, no teacher and teacher
    parameters: str

    @classmethod
    def of(cls, d: Decision, link: str) -> IndexRow:
        """The row of a decision."""
        by = {c.who: c for c in reversed(d.contenders)}

        def value(who: Who) -> str:
            found = by.get(who)
            return (
                "–" if found is None or found.value is None or d.metric is None else value_text(d.metric, found.value)
            )

        student = by.get("student") or by.get("no teacher")
        measured = d.metric is not None and d.gain is not None
        return cls(
            short(d.name or "student", 80),
            link,
            d.answer,
            short(d.metric.title, 40) if d.metric else "–",
            size_text(d.metric, d.gain, sign=True) if measured and d.metric and d.gain is not None else "–",
            interval_text(d.metric, d.gain_interval) if d.metric and d.gain_interval else "–",
            (value("student"), value("no teacher"), value("teacher")),
            "–" if student is None or student.parameters is None else count(student.parameters),
        )
