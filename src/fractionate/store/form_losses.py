"""What a compact form loses and what it costs, measured on a signal, so that k is chosen and not guessed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from fractionate.records import Spectrum
from fractionate.records.base import Record
from fractionate.store.forms import HASH, KEY, PLACE, Form, StoredDtype
from fractionate.theory.spectrum.stream import spectrum
from fractionate.theory.teacher_signal import TeacherSignal

ELEMENTS = 1 << 24  # logits held at once
OVERHEAD = HASH + PLACE + KEY


@dataclass(frozen=True)
class FormLoss(Record):
    """What one form loses on a signal, and what a row costs.

    The cosines compare the gradient at the student's logits, q − kept against q − p.

    Args:
        form: dense, top-k or sampled.
        k: Entries of a row.
        dtype: Of the numbers on disk.
        temperature: At which both are read.
        bytes_a_row: For the teacher's outputs alone.
        overhead_bytes: For hash, place and fingerprint of a row.
        captured: Mean probability of the classes that are kept.
        nats_lost: E KL(teacher ‖ kept) for dense and top-k; of sampled rows, which leave classes out altogether and are right
            only in the mean, E KL(kept ‖ teacher).
        gradient_cosine: Row by row.
        batch_gradient_cosine: Of the mean over a batch of rows, which is what a step of training follows.
        spectrum: Of the rows that are kept.
    """

    form: str
    k: int
    dtype: str
    temperature: float
    bytes_a_row: float
    overhead_bytes: int
    captured: float
    nats_lost: float
    gradient_cosine: float
    batch_gradient_cosine: float
    spectrum: Spectrum

    def __str__(self) -> str:
        name = f"{self.form}{f' {self.k}' if self.k else ''} {self.dtype}"
        return (
            f"{name:<22} {self.bytes_a_row:>9.1f} B {self.captured:>9.4f} {self.nats_lost:>9.5f} "
            f"{self.gradient_cosine:>9.4f} {self.batch_gradient_cosine:>9.4f}"
        )


HEADING = f"{'form':<22} {'a row':>11} {'captured':>9} {'nats lost':>9} {'gradient':>9} {'of batch':>9}"


def losses(
    signal: TeacherSignal,
    forms: Sequence[tuple[str, int, StoredDtype]],
    *,
    temperature: float = 1.0,
    student_logits: Float[Tensor, "batch classes"] | None = None,
    batch: int = 256,
    seed: int = 0,
) -> tuple[FormLoss, ...]:
    """Measure what forms of a store lose on a dense signal: nats, gradient angle, spectrum by level, bytes per row.

    Args:
        signal: Logits and labels.
        forms: (kind, k, dtype) of each.
        temperature: At which rows are read.
        student_logits: [batch, classes] of the student whose gradients are compared; None: one that knows nothing (uniform).
        batch: Rows of a step, for the gradient of a batch.
        seed: Of the draws of sampled forms.

    Returns:
        One `FormLoss` a form.

    Raises:
        ConfigError: for invalid forms.
        NumericsError: where a type cannot hold a logit.

    Example:
        import torch
        from fractionate import TeacherSignal
        from fractionate.store import losses, table

        signal = TeacherSignal(torch.randn(40, 10), torch.arange(40) % 10)
        print(table(losses(signal, [("top-k", 3, "float16"), ("dense", 0, "float32")])))
    """
    found = []
    for kind, k, dtype in forms:
        form = Form(kind, signal.classes, dtype, k, (temperature,))  # type: ignore[arg-type]
        back = form.round_trip(signal, seed)
        found.append(_compare(signal.at(temperature), back.at(temperature), form, student_logits, batch))
    return tuple(found)


def _compare(
    full: TeacherSignal, kept: TeacherSignal, form: Form, student_logits: Tensor | None, batch: int
) -> FormLoss:
    nats = cosine = captured = batch_cosine = stored = 0.0
    batches = 0
    step = max(batch, ELEMENTS // full.classes // batch * batch)
    for start in range(0, len(full), step):
        index = torch.arange(start, min(start + step, len(full)), device=full.labels.device)
        p, r = (torch.softmax(s.take(index).logits.double() / full.temperature, dim=1) for s in (full, kept))
        q = torch.full_like(p, 1 / full.classes)
        if student_logits is not None:
            q = torch.softmax(student_logits[index].double() / full.temperature, dim=1)
        first, second = (r, p) if form.kind == "sampled" else (p, r)
        nats += float((torch.xlogy(first, first) - torch.xlogy(first, second)).sum())
        cosine += float(torch.cosine_similarity(q - r, q - p, dim=1).sum())
        for a, b in zip(torch.split(q - r, batch), torch.split(q - p, batch), strict=True):
            batch_cosine += float(torch.cosine_similarity(a.mean(0), b.mean(0), dim=0))
            batches += 1
        own, entries = _kept_classes(form, p, kept.take(index))
        captured += float(own)
        stored += entries
    rows = len(full)
    return FormLoss(
        form=form.kind,
        k=form.k,
        dtype=form.dtype,
        temperature=full.temperature,
        bytes_a_row=_bytes(form, stored / rows),
        overhead_bytes=OVERHEAD,
        captured=captured / rows,
        nats_lost=nats / rows,
        gradient_cosine=cosine / rows,
        batch_gradient_cosine=batch_cosine / batches,
        spectrum=spectrum(kept, full.temperature),
    )


def _kept_classes(form: Form, p: Tensor, kept: TeacherSignal) -> tuple[Tensor, float]:
    """The teacher's mass on label and entries, summed over rows; and the entries of all rows together."""
    if form.kind == "dense":
        return p.sum(), float(p.numel())
    own = p.gather(1, kept.labels[:, None]).sum()
    others = p.scatter(1, kept.labels[:, None], 0.0)
    if form.kind == "top-k":
        return own + others.topk(form.k, dim=1).values.sum(), float(form.k * len(p))
    drawn = torch.isfinite(kept.logits).scatter(1, kept.labels[:, None], False)
    return own + others[drawn].sum(), float(drawn.sum())


def _bytes(form: Form, entries_a_row: float) -> float:
    if form.kind != "sampled":
        return form.number_bytes
    return form.number_bytes - (form.k - entries_a_row) * form.entry_bytes


def table(found: Sequence[FormLoss]) -> str:
    """The losses of forms as a table of text.

    Args:
        found: What `losses` gave.

    Returns:
        A heading, and one line a form.

    Example:
        import torch
        from fractionate import TeacherSignal
        from fractionate.store import losses, table

        print(table(losses(TeacherSignal(torch.randn(40, 10), torch.arange(40) % 10), [("top-k", 3, "float32")])))
    """
    return "\n".join([HEADING, *map(str, found)])


def estimate(form: Form, rows: int, *, views: int = 1) -> int:
    """Bytes that a store will take on disk (of sampled forms at most), before the teacher is run.

    Args:
        form: How rows are kept.
        rows: Their number.
        views: Views of each example.

    Returns:
        Bytes.

    Example:
        from fractionate.store import Form
        from fractionate.store import estimate

        print(estimate(Form("top-k", 1000, "float16", 32), rows=50_000))
    """
    return int(form.row_bytes(views) * rows) + 1024
