"""The checks of the conformance suite: each asks one question of a loss and answers with a number."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Int
from torch import Tensor

from fractionate.errors import FractionateError
from fractionate.plugins.conformance.identity import Batch, Logits, LossFunction, textbook
from fractionate.records.base import Record

Status = Literal["holds", "differs", "refused", "not applicable"]
TopK = Callable[[Logits, Logits, Int[Tensor, "batch"], float, int], Tensor]


@dataclass(frozen=True)
class Check(Record):
    """One question to a loss: the status, the number behind it and a note. `refused` is an error raised on purpose."""

    name: str
    question: str
    status: Status
    value: float | None = None
    note: str = ""

    def __str__(self) -> str:
        value = "" if self.value is None else f"{self.value:.3g}"
        return f"{self.status:<14} {self.name:<24} {value:>10}  {self.note}"


@dataclass(frozen=True)
class Subject:
    """A loss under test and what it claims.

    Args:
        name: Of the loss.
        loss: Called with student logits, teacher logits, labels and a temperature; gives a scalar or one number per example.
        version: Of its library.
        chunked: `chunked(rows)` gives the same loss with another chunk size.
        topk: Its truncated form: `topk(student, teacher, labels, temperature, k)`.
        padding: Rows labelled -100 are meant to be left out.
        equality: Its minimum is where student and teacher agree.
        splits: An example's loss does not depend on its batch.
        scaled: The temperature is a setting that carries T².
        masks: Single classes may be -inf; a loss over hidden states and a head has no way to say so.
        exact: float64 inputs are computed in float64, not in float32; sets how close is close enough.
        note: For the table.

    Example:
        from fractionate.plugins.conformance import Subject
        def loss(student_logits, teacher_logits, labels, temperature):
            return (student_logits - teacher_logits).square().mean()
        subject = Subject("squared difference", loss, scaled=False)  # of conformance(subject)
    """

    name: str
    loss: LossFunction
    version: str = ""
    chunked: Callable[[int], LossFunction] | None = None
    topk: TopK | None = None
    padding: bool = False
    equality: bool = True
    splits: bool = True
    scaled: bool = True
    masks: bool = True
    exact: bool = True
    note: str = ""

    @property
    def rounding(self) -> float:
        """What counts as equal."""
        return 1e-9 if self.exact else 2e-5


def _answer(name: str, question: str, worst: float, limit: float, note: str = "") -> Check:
    return Check(name, question, "holds" if worst <= limit else "differs", worst, note)


def finite_difference(subject: Subject) -> Check:
    """Is the gradient that autograd hands out the derivative of the loss that is printed, at T = 1, 2 and 4?"""
    question = "autograd equals finite differences at T = 1, 2, 4"
    worst, note = 0.0, ""
    for temperature in (1.0, 2.0, 4.0):
        batch = Batch.draw(4, 7, seed=11)
        _, gradient = batch.measure(subject.loss, temperature)
        way = gradient / gradient.norm().clamp_min(1e-300)
        step = 1e-5 if subject.exact else 1e-2
        ahead, behind = (Batch(batch.student + sign * step * way, batch.teacher, batch.labels) for sign in (1.0, -1.0))
        slope = (ahead.measure(subject.loss, temperature)[0] - behind.measure(subject.loss, temperature)[0]) / (
            2 * step
        )
        ratio = slope / float((gradient * way).sum())
        if abs(ratio - 1) > worst:
            worst, note = abs(ratio - 1), f"finite difference / autograd = {ratio:.4g} at T = {temperature:g}"
    limit = 1e-5 if subject.exact else 1e-2
    return _answer("finite difference", question, worst, limit, note if worst > limit else "")


def temperature_invariance(subject: Subject) -> Check:
    """Does the gradient keep its size as T grows, as with the factor T²?"""
    question = "the gradient keeps its size as T grows (factor T²)"
    if not subject.scaled:
        return Check(
            "T² invariance", question, "not applicable", note="by its definition the gradient does not fall as 1/T²"
        )
    batch = Batch.draw(6, 10, seed=5)
    low, high = (float(batch.measure(subject.loss, t)[1].norm()) for t in (200.0, 400.0))
    power = math.log2(high / low) if min(low, high) > 0 else -math.inf
    return _answer(
        "T² invariance", question, abs(power), 0.05, f"gradient ~ T^{power:.2f}" if abs(power) > 0.05 else ""
    )


def equality(subject: Subject) -> Check:
    """Is the loss 0, or least, where student and teacher are the same?"""
    question = "0, or least, where student and teacher agree"
    if not subject.equality:
        return Check("equality", question, "not applicable", note="the method has its minimum elsewhere")
    batch = Batch.draw(5, 9, seed=7)
    value, slope = Batch(batch.teacher, batch.teacher, batch.labels).measure(subject.loss, 1.0)
    gradient, scale = float(slope.norm()), max(1e-30, float(batch.measure(subject.loss, 1.0)[1].norm()))
    note = "zero" if abs(value) < subject.rounding else f"least, not zero: {value:.3g}"
    return _answer("equality", question, gradient / scale, subject.rounding, note)


def padded_vocabulary(subject: Subject) -> Check:
    """Do classes that both sides mask with -inf change nothing?"""
    question = "classes masked on both sides (-inf) change nothing"
    if not subject.masks:
        return Check("padded vocabulary", question, "not applicable", note="hidden states and a head: nothing is -inf")
    bare, padded = Batch.draw(5, 9, seed=7), 3
    hole = torch.full((5, padded), -torch.inf, dtype=torch.float64)
    wide = Batch(torch.cat([bare.student, hole], 1), torch.cat([bare.teacher, hole], 1), bare.labels)
    (value, gradient), (wide_value, wide_gradient) = bare.measure(subject.loss, 2.0), wide.measure(subject.loss, 2.0)
    worst = abs(wide_value - value) / max(abs(value), 1e-30)
    difference = float((wide_gradient[:, :9] - gradient).norm() / gradient.norm())
    if not math.isfinite(worst) or not math.isfinite(difference):
        return Check("padded vocabulary", question, "differs", None, f"loss {wide_value}, gradient {difference}")
    return _answer("padded vocabulary", question, max(worst, difference), subject.rounding)


def vocabulary_sizes(subject: Subject) -> Check:
    """A student with fewer classes than its teacher: refused, or 0 for identical predictions?"""
    question = "fewer student classes: refused, or 0 at identical predictions"
    batch = Batch.draw(5, 9, seed=7)
    wide = torch.cat([batch.teacher, torch.full((5, 3), -1e4, dtype=torch.float64)], dim=1)
    leaf = batch.teacher.clone().requires_grad_()
    try:
        value = float(subject.loss(leaf, wide, batch.labels, 1.0).sum().detach())
    except Exception as error:  # whatever it raises, it does not continue with the wrong numbers
        line = str(error).strip().splitlines()[0][:100] if str(error).strip() else ""
        return Check("vocabulary sizes", question, "refused", None, f"{type(error).__name__}: {line}")
    return _answer("vocabulary sizes", question, abs(value), subject.rounding)


def padding(subject: Subject) -> Check:
    """Do rows labelled -100 change nothing?"""
    question = "rows labelled -100 change nothing"
    if not subject.padding:
        return Check("padding", question, "not applicable", note="takes no rows to be left out")
    batch = Batch.draw(6, 9, seed=9)
    labels = torch.cat([batch.labels, torch.tensor([-100, -100])])
    more = Batch.draw(2, 9, seed=10)
    padded = Batch(torch.cat([batch.student, more.student]), torch.cat([batch.teacher, more.teacher]), labels)
    (value, gradient), (padded_value, padded_gradient) = (
        batch.measure(subject.loss, 1.0),
        padded.measure(subject.loss, 1.0),
    )
    worst = max(abs(padded_value / value - 1), float((padded_gradient[:6] - gradient).norm() / gradient.norm()))
    return _answer("padding", question, worst, subject.rounding)


def micro_batches(subject: Subject) -> Check:
    """Do unequal micro-batches, weighed by their sizes, add up to the whole batch?"""
    question = "micro-batches, weighed by size, add up to the whole"
    if not subject.splits:
        return Check("micro-batches", question, "not applicable", note="the method couples the examples of a batch")
    whole = Batch.draw(8, 9, seed=13)
    value, gradient = whole.measure(subject.loss, 2.0)
    parts = [Batch(whole.student[s], whole.teacher[s], whole.labels[s]) for s in (slice(0, 3), slice(3, 8))]
    measured = [part.measure(subject.loss, 2.0) for part in parts]

    def off(weights: tuple[float, float]) -> float:
        total = sum(w * v for w, (v, _) in zip(weights, measured, strict=True))
        gradients = torch.cat([w * g for w, (_, g) in zip(weights, measured, strict=True)])
        return max(abs(total / value - 1), float((gradients - gradient).norm() / gradient.norm()))

    return _answer("micro-batches", question, min(off((1.0, 1.0)), off((3 / 8, 5 / 8))), subject.rounding)


def chunks(subject: Subject) -> Check:
    """Does the chunk size change nothing?"""
    question = "the chunk size changes nothing"
    if subject.chunked is None:
        return Check("chunks", question, "not applicable", note="has no chunks")
    batch = Batch.draw(8, 9, seed=15)
    value, gradient = batch.measure(subject.chunked(8), 2.0)
    worst = 0.0
    for rows in (1, 3):
        other, other_gradient = batch.measure(subject.chunked(rows), 2.0)
        worst = max(worst, abs(other / value - 1), float((other_gradient - gradient).norm() / gradient.norm()))
    return _answer("chunks", question, worst, subject.rounding)


def top_k(subject: Subject) -> Check:
    """Is the truncated loss between 0 and the full one, row by row, for a student sharper than its teacher?"""
    question = "the top-k form lies between 0 and the full KL"
    if subject.topk is None:
        return Check("top-k", question, "not applicable", note="has no top-k form")
    batch = Batch.draw(16, 50, seed=17)
    worst = 0.0
    for row in range(16):
        student = 1.15 * batch.teacher[row : row + 1]
        teacher, labels = batch.teacher[row : row + 1], batch.labels[row : row + 1]
        full = float(textbook("forward-kl")(student, teacher, labels, 1.0))
        short = float(subject.topk(student.clone().requires_grad_(), teacher, labels, 1.0, 10).sum().detach())
        worst = max(worst, -short, short - full)
    return _answer(
        "top-k", question, worst, subject.rounding, f"out by {worst:.3g} nats" if worst > subject.rounding else ""
    )


def finiteness(subject: Subject) -> Check:
    """Loss and gradient finite, or a typed error, for extreme logits and temperatures and for -inf on both sides?"""
    question = "finite loss and gradient, or a typed error, at the extremes"
    bad: list[str] = []
    typed = tried = 0
    for dtype, scale in ((torch.float32, 2e4), (torch.float16, 1e4), (torch.float32, 1e-6)):
        for temperature in (0.05, 1.0, 20.0):
            for masked in (False, True)[: 1 + subject.masks]:
                tried += 1
                batch = Batch.draw(4, 8, seed=19, scale=scale)
                student, teacher = batch.student.to(dtype), batch.teacher.to(dtype)
                if masked:
                    columns = (batch.labels + 1) % 8
                    for side in (student, teacher):
                        side[torch.arange(4), columns] = -torch.inf
                student.requires_grad_()
                try:
                    loss = subject.loss(student, teacher, batch.labels, temperature)
                    (gradient,) = torch.autograd.grad(loss.sum(), student)
                except FractionateError:
                    typed += 1
                    continue
                if not (bool(torch.isfinite(loss).all()) and bool(torch.isfinite(gradient).all())):
                    bad.append(f"{str(dtype)[6:]} ±{scale:g} T = {temperature:g}{' masked' if masked else ''}")
    note = (
        f"not finite in {len(bad)} of {tried}: {bad[0]}"
        if bad
        else (f"{typed} of {tried} a typed error" if typed else "")
    )
    return _answer("finiteness", question, float(len(bad)), 0.0, note)


def precision(subject: Subject) -> Check:
    """How far is the loss on float32 and bfloat16 inputs from float64 on the same inputs?"""
    question = "float32 within 1e-5 and bfloat16 inputs within 1e-3 of float64"
    errors = {}
    for dtype, limit in ((torch.float32, 1e-5), (torch.bfloat16, 1e-3)):
        drawn = Batch.draw(16, 2000, seed=21)
        student, teacher = drawn.student.to(dtype), drawn.teacher.to(dtype)
        exact = float(subject.loss(student.double(), teacher.double(), drawn.labels, 2.0).sum())
        value = float(subject.loss(student, teacher, drawn.labels, 2.0).double().sum())
        errors[str(dtype)[6:]] = (abs(value / exact - 1), limit)
    note = ", ".join(f"{name} {error:.1e}" for name, (error, _) in errors.items())
    worst = max(error / limit for error, limit in errors.values())
    if not math.isfinite(worst):
        return Check("precision", question, "differs", None, note)
    return Check("precision", question, "holds" if worst <= 1 else "differs", errors["bfloat16"][0], note)


CHECKS: tuple[Callable[[Subject], Check], ...] = (
    finite_difference,
    temperature_invariance,
    equality,
    padded_vocabulary,
    vocabulary_sizes,
    padding,
    micro_batches,
    chunks,
    top_k,
    finiteness,
    precision,
)


def run_check(check: Callable[[Subject], Check], subject: Subject) -> Check:
    """A check's answer; an error is an answer too: `refused` where it is one of ours, raised on purpose, else `differs`."""
    name = check.__name__.replace("_", " ")
    question = (check.__doc__ or "").strip()
    try:
        return check(subject)
    except FractionateError as error:
        return Check(name, question, "refused", None, error.what)
    except Exception as error:  # a peer's loss may fail in any way: that is what is tested
        line = str(error).strip().splitlines()[0][:100] if str(error).strip() else ""
        return Check(name, question, "differs", None, f"{type(error).__name__}: {line}")
