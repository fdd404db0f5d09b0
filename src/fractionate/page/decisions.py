"""The decision card as plain data, and its text: what the terminal prints, what `--json` holds and what the page shows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from fractionate.page.summaries import value_text, variant
from fractionate.page.text import count, half_width, short, with_smaller_unit
from fractionate.records import Interval, MetricInfo
from fractionate.records.base import Record
from fractionate.records.studies import NO_TEACHER

Answer = Literal["Distil", "Don't distil", "No clear difference yet", "Not compared yet"]
Who = Literal["student", "no teacher", "exported student", "teacher"]


@dataclass(frozen=True)
class Contender(Record):
    """One row of the comparison: mean over seeds of the deciding metric and of calibration, and what the model needs."""

    who: Who
    variant: str = ""  # its name in the study
    seeds: int = 0
    value: float | None = None
    interval: Interval | None = None
    calibration: float | None = None
    parameters: float | None = None
    megabytes: float | None = None
    latency_ms: float | None = None


@dataclass(frozen=True)
class Decision(Record):
    """What to do about one teacher (or one study): the answer, why, the comparison, the recipe and one command.

    Args:
        name: Of the teacher or study.
        answer: The answer by its name.
        headline: The answer in a sentence that can be repeated.
        reasons: One sentence each.
        contenders: What was compared, with values.
        metric: In which.
        calibration: The metric of calibration that is shown as well.
        judged_on: Which data the values are of.
        recipe: Settings of a run file; empty: none to use.
        next: A command line; empty: nothing is left to run, or no run file is known.
        then: What to do, in a sentence, where there is no command.
        gain: Of the variant on the card against no teacher, in the metric's unit.
        gain_interval: Its 95 % interval.
    """

    name: str
    answer: Answer
    headline: str
    reasons: tuple[str, ...] = ()
    contenders: tuple[Contender, ...] = ()
    metric: MetricInfo | None = None
    calibration: MetricInfo | None = None
    judged_on: str = "test"
    recipe: dict[str, str | float | bool] = field(default_factory=dict)
    next: str = ""
    then: str = ""
    gain: float | None = None
    gain_interval: Interval | None = None


@dataclass(frozen=True)
class Card(Record):
    """The decisions of all records, and one headline over them.

    Args:
        headline: The answer in a sentence.
        decisions: One for each teacher or study, none left out.
    """

    headline: str
    decisions: tuple[Decision, ...] = ()

    def __str__(self) -> str:
        return card_text(self)


def table(decision: Decision) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """The comparison as text: head and rows; columns without any value are left out."""
    metric, calibration = decision.metric, decision.calibration
    if metric is None or not decision.contenders:
        return (), ()
    head = [
        "",
        short(metric.title, 40),
        short(calibration.title, 40) if calibration else "",
        "parameters",
        "latency",
        "seeds",
    ]
    rows = []
    for c in decision.contenders:
        name = variant(c.variant) if c.variant else ""
        who = c.who if c.who in ("no teacher", "teacher") or not name else f"{c.who} {name}"
        if c.who == "no teacher" and name:
            who = name if name.startswith(NO_TEACHER) else f"{NO_TEACHER} ({name})"
        value = "" if c.value is None else value_text(metric, c.value)
        half = (
            f" ±{half_width(c.value, (c.interval.high - c.interval.low) / 2)}"
            if c.interval and c.value is not None
            else ""
        )
        calibrated = "" if c.calibration is None or calibration is None else value_text(calibration, c.calibration)
        size = "" if c.parameters is None else count(c.parameters)
        size += "" if c.megabytes is None else f" ({with_smaller_unit(c.megabytes, 'MB')})"
        latency = "" if c.latency_ms is None else with_smaller_unit(c.latency_ms, "ms")
        rows.append((who, value + half, calibrated, size.strip(), latency, str(c.seeds or "")))
    kept = [i for i in range(len(head)) if i == 0 or any(row[i] for row in rows)]
    return tuple(head[i] for i in kept), tuple(tuple(row[i] or "–" for i in kept) for row in rows)


def card_text(card: Card, width: int | None = None) -> str:
    """The card as plain text; a comparison wider than `width` is written as a list."""
    lines = [card.headline] * (len(card.decisions) != 1)
    for decision in card.decisions:
        lines += [""] * bool(lines)
        lines += [f"{short(decision.name, 60)}"] * (len(card.decisions) > 1)
        lines.append(decision.headline)
        lines += [f"  {reason}" for reason in decision.reasons]
        head, rows = table(decision)
        widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
        if rows and width is not None and sum(widths) + 2 * len(widths) > width:
            for name, *cells in rows:
                lines.append(
                    f"  {name}: {', '.join(f'{h} {c}' for h, c in zip(head[1:], cells, strict=True) if c != '–')}"
                )
        elif rows:
            for row in (head, *rows):
                cells = [row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]
                lines.append(f"  {'  '.join(cells)}".rstrip())
        if decision.recipe:
            lines.append("recipe: " + " ".join(f"{key}={plain(value)}" for key, value in decision.recipe.items()))
        lines += [f"next: {decision.next}"] * bool(decision.next) or [decision.then] * bool(decision.then)
    return "\n".join(lines)


def plain(value: str | float | bool) -> str:
    """A setting as it is written on a command line."""
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)
