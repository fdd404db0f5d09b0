"""Examples worth seeing: one pass of student, teacher and (where there is one) the student without a teacher over a split."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from fractionate.data.batch import Split
from fractionate.errors import MismatchError
from fractionate.records.examples import (
    ExampleKind,
    ExampleList,
    ExampleRow,
    NotableExamples,
    Opinion,
    Reliability,
    Shown,
    Who,
)
from fractionate.tasks.predictions import Predictions
from fractionate.tasks.task import Task, TeacherOnBatch
from fractionate.theory.topk_signal import CompactSignal

BINS = 10  # of confidence, of equal width
MOST_PAIRS = 24  # of classes, with an example each
MOST_TEXT = 600  # characters of a shown text
PICTURE = 48  # pixels of a side
MOST_PICTURE_BYTES = 300_000  # of all thumbnails of a record together


@dataclass(frozen=True, eq=False)
class Predicted:
    """What one model predicts for all rows: first choice and its probability, the label's, and the likeliest other class."""

    choice: Int[Tensor, "rows"]
    top: Float[Tensor, "rows"]
    label: Float[Tensor, "rows"]
    other: Int[Tensor, "rows"]
    of_other: Float[Tensor, "rows"]


def notable_examples(
    task: Task,
    split: Split,
    student: nn.Module,
    teacher: TeacherOnBatch,
    *,
    no_teacher: nn.Module | None = None,
    name: str = "",
    show: Callable[[int], Any] | None = None,
    class_name: Callable[[int], str] | None = None,
    most: int = 6,
) -> NotableExamples:
    """The rows of a split that tell most about a teacher and its student.

    Args:
        teacher: A teacher in use: `source.open(task, split, None, Needs())`.
        no_teacher: The student trained on the labels alone; without it nothing is reported on winning and losing.
        name: Of the run, as its diagnosis and study have it.
        show: What example i of the split looks like: text, a list of tokens (one for each of its rows), a picture as a tensor
            [channels, height, width] or [height, width], or a mapping from columns to values. None: ids alone, the default, since
            data may be private.
        class_name: The name of a class where the split names none: the text of a token. None: its number.
        most: Rows of each kind.

    Raises:
        MismatchError: The task's rows are no distributions over classes.
    """
    if not task.reader.distributions:
        raise MismatchError(
            "examples are chosen by probabilities of classes, and this task has none",
            expected="a task with classes",
            got=type(task.reader).__name__,
            fix="set report.examples: none",
        )
    example, position, labels, many_rows, outputs, apart = _read(task, split, student, teacher, no_teacher)
    theirs, ours = outputs["teacher"], outputs["student"]
    chosen: list[tuple[ExampleKind, Bool[Tensor, "rows"], Tensor]] = [
        ("least sure", torch.ones_like(labels, dtype=torch.bool), -theirs.top),
        ("contradicts the label", theirs.choice != labels, theirs.top - theirs.label),
    ]
    if "no teacher" in outputs:
        alone = outputs["no teacher"]
        gain = ours.label - alone.label
        chosen.append(("student wins", (ours.choice == labels) & (alone.choice != labels), gain))
        chosen.append(("student loses", (ours.choice != labels) & (alone.choice == labels), -gain))
    chosen.append(("disagreement", theirs.choice != ours.choice, apart))
    names = split.class_names or tuple(task.class_names)
    columns: tuple[str, ...] | None = None
    if task.reader.independent:  # a row is about one label of an example
        columns, names = names, ("no", "yes")
    budget = [MOST_PICTURE_BYTES]

    def named(place: Tensor | int) -> str:
        if int(place) < len(names):
            return names[int(place)]
        return class_name(int(place)) if class_name is not None else str(int(place))

    def row(i: int, *, paired: bool = False) -> ExampleRow:
        return ExampleRow(
            id=str(split.ids[int(example[i])]) + ("" if columns is None else f", {columns[int(position[i])]}"),
            label=named(labels[i]),
            opinions=tuple(_opinion(who, named(one.choice[i]), one, i) for who, one in outputs.items()),
            position=int(position[i]) if many_rows and columns is None else None,
            shown=None if show is None else _shown(show(int(example[i])), apart[example == example[i]], budget),
            other=named(theirs.other[i]) if paired else "",
            of_other=float(theirs.of_other[i]) if paired else None,
        )

    lists = []
    for kind, fits, score in chosen:
        places = fits.nonzero().flatten()
        order = places[score[places].argsort(descending=True, stable=True)][:most]
        lists.append(ExampleList(kind, int(fits.sum()), tuple(map(row, order.tolist()))))
    pairs = _by_pair(labels, theirs, MOST_PAIRS) if names and columns is None else labels[:0]
    if len(pairs):
        found = tuple(row(i, paired=True) for i in pairs.tolist())
        lists.append(ExampleList("takes for another class", len(labels), found))
    reliability = tuple(reliability_of(who, one.choice == labels, one.top) for who, one in outputs.items())
    return NotableExamples(name or task.title, split.name, len(labels), tuple(lists), reliability)


def _read(
    task: Task, split: Split, student: nn.Module, teacher: TeacherOnBatch, no_teacher: nn.Module | None
) -> tuple[Tensor, Tensor, Tensor, bool, dict[Who, Predicted], Tensor]:
    """For every row: example, position, label, whether examples have many rows, each model's outputs, their distance."""
    parts: dict[Who, list[Predicted]] = {"teacher": [], "student": []}
    rows: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    many_rows = False
    alone: Iterator[Predictions] | None = None
    if no_teacher is not None:
        parts["no teacher"] = []
        alone = iter(task.predictions(no_teacher, split, head=task.head))
    for found in task.predictions(student, split, head=task.head):
        other = next(alone) if alone is not None else None
        if not len(found):
            continue
        signal = teacher.signal_for(found)
        signal = signal.dense() if isinstance(signal, CompactSignal) else signal
        labels = found.labels.cpu()
        p, q = signal.probabilities.float().cpu(), found.required_logits.float().softmax(-1).cpu()
        shared = min(p.shape[-1], q.shape[-1])
        apart = (p[:, :shared] - q[:, :shared]).abs().sum(-1) / 2
        parts["teacher"].append(_predicted(p, labels))
        parts["student"].append(_predicted(q, labels))
        if other is not None:
            parts["no teacher"].append(_predicted(other.required_logits.float().softmax(-1).cpu(), labels))
        many_rows = many_rows or found.place is not None
        rows.append((found.example, found.position, labels, apart))
    if not rows:
        raise MismatchError(f"{split.name}: no row has a label", expected="at least one")
    example, position, all_labels, distances = (torch.cat(part) for part in zip(*rows, strict=True))
    joined = {
        who: Predicted(*(torch.cat([getattr(p, field.name) for p in found]) for field in fields(Predicted)))
        for who, found in parts.items()
    }
    return example, position, all_labels, many_rows, joined, distances


def _predicted(probabilities: Float[Tensor, "rows classes"], labels: Int[Tensor, "rows"]) -> Predicted:
    top, choice = probabilities.max(-1)
    of_other, other = probabilities.scatter(1, labels[:, None], -1.0).max(-1)
    return Predicted(choice, top, probabilities.gather(1, labels[:, None]).flatten(), other, of_other)


def _by_pair(labels: Int[Tensor, "rows"], theirs: Predicted, most: int) -> Int[Tensor, "chosen"]:
    """Of each pair (label, likeliest other class) the row that the teacher takes most for the other; strongest pairs first."""
    order = theirs.of_other.argsort(descending=True, stable=True)
    seen: set[tuple[int, int]] = set()
    chosen = []
    for place, pair in zip(
        order.tolist(), zip(labels[order].tolist(), theirs.other[order].tolist(), strict=True), strict=True
    ):
        if pair not in seen:
            seen.add(pair)
            chosen.append(place)
        if len(chosen) == most:
            break
    return torch.tensor(chosen, dtype=torch.long)


def reliability_of(who: Who, right: Bool[Tensor, "rows"], confidence: Float[Tensor, "rows"]) -> Reliability:
    """How often first choices are right, by how sure a model is of them."""
    place = (confidence.double() * BINS).ceil().long().sub(1).clamp(0, BINS - 1)
    counts = torch.bincount(place, minlength=BINS)

    def mean(values: Tensor) -> tuple[float, ...]:
        sums = torch.bincount(place, values.double(), minlength=BINS)
        return tuple((sums / counts.clamp_min(1)).tolist())

    return Reliability(who, tuple(counts.tolist()), mean(confidence), mean(right))


def _opinion(who: Who, choice: str, outputs: Predicted, i: int) -> Opinion:
    return Opinion(who, choice, float(outputs.top[i]), float(outputs.label[i]))


def _shown(value: Any, apart: Float[Tensor, "tokens"], budget: list[int]) -> Shown | None:
    """What `show` gave, as plain data."""
    if value is None:
        return None
    if isinstance(value, str):
        return Shown(text=value[:MOST_TEXT])
    if isinstance(value, Mapping):
        return Shown(columns={str(key): str(cell)[:80] for key, cell in list(value.items())[:12]})
    if isinstance(value, Tensor):
        picture = thumbnail(value)
        if len(picture) > budget[0]:
            return None
        budget[0] -= len(picture)
        return Shown(picture=picture)
    tokens = tuple(str(token)[:60] for token in value)[:400]
    weights = tuple(round(float(w), 3) for w in apart[: len(tokens)])
    return Shown(tokens=tokens, weights=weights if len(weights) == len(tokens) else ())


def thumbnail(picture: Float[Tensor, "*channels height width"], side: int = PICTURE) -> str:
    """A picture as a small PNG in a data address; values are stretched to what a screen shows.

    Raises:
        MismatchError: The tensor is no picture of one or three channels.
    """
    found = picture.detach().float().cpu()
    found = found[None] if found.ndim == 2 else found
    if found.ndim != 3 or found.shape[0] not in (1, 3):
        raise MismatchError(
            "this is not a picture",
            expected="a tensor [height, width], [1, height, width] or [3, height, width]",
            got=f"{list(picture.shape)}",
            fix="show text or a mapping from columns to values",
        )
    if max(found.shape[1:]) > side:
        scale = side / max(found.shape[1:])
        size = [max(1, round(length * scale)) for length in found.shape[1:]]
        found = nn.functional.interpolate(found[None], size=size, mode="area")[0]
    low, high = found.min(), found.max()
    found = ((found - low) / (high - low).clamp_min(1e-12) * 255).round().to(torch.uint8)
    channels, height, width = found.shape
    rows = found.permute(1, 2, 0).reshape(height, width * channels).contiguous().numpy()
    raw = b"".join(b"\0" + row.tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", width, height, 8, 0 if channels == 1 else 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(raw, 9)), (b"IEND", b""))
    png = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
