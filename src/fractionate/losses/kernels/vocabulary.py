"""Hidden states × head → loss, without ever holding [tokens, vocabulary] logits: analytic gradient, chunked over tokens.

Memory is the gradient of the head's weight, which any training needs, and a few rows of logits, whatever the number of tokens.
The teacher is its own hidden states and head (computed chunk by chunk with the student's), or a compact signal.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from fractionate.data.labels import IGNORED
from fractionate.errors import ConfigError, MismatchError, NumericsError
from fractionate.losses.divergences.base import couples_batch, written
from fractionate.losses.kernels.tail_mass import closed_form, has_closed_form
from fractionate.losses.objective import Objective, needs_whole
from fractionate.theory.teacher_signal import Population, TeacherSignal, compute_dtype
from fractionate.theory.topk_signal import CompactSignal

ROW_ELEMENTS = 1 << 17  # logits at the loss together: a few such arrays fit a core's second-level cache
BLOCK_CLASSES = 1 << 13  # rows of a half-precision head that are widened at once
SPARE = 0.27  # what the chunks of logits may take, of the size of the gradient of the head's weight
FEWEST_ROWS, MOST_ROWS = 32, 1024
FEWEST_ON_CUDA = 256

Loss = Float[Tensor, "rows"]
Rows = Float[Tensor, "rows classes"]


@dataclass(frozen=True, eq=False)
class HeadSignal:
    """A teacher's signal before its head: logits = hidden · weightᵀ + bias, computed a few rows at a time and never kept.

    Args:
        hidden: [rows, width] last hidden states.
        weight, bias: [classes, width] and [classes] of the head; no bias: None.
        labels: [rows] class numbers; -100 for rows that do not count.
        population, rows: The statistics that universe and domain rules read (None: there are none), and the places of the rows.

    Raises `MismatchError` for shapes that do not fit.
    """

    hidden: Float[Tensor, "rows width"]
    weight: Float[Tensor, "classes width"]
    labels: Int[Tensor, "rows"]
    bias: Float[Tensor, "classes"] | None = None
    _: KW_ONLY
    population: Population | None = None
    rows: Int[Tensor, "rows"] | None = None

    def __post_init__(self) -> None:
        fits = self.hidden.ndim == 2 and self.weight.ndim == 2 and self.hidden.shape[1] == self.weight.shape[1]
        if not fits or self.labels.shape != self.hidden.shape[:1]:
            raise MismatchError(
                "the teacher's hidden states do not fit its head or the labels",
                expected="hidden [rows, width], weight [classes, width], labels [rows]",
                got=f"{list(self.hidden.shape)}, {list(self.weight.shape)}, {list(self.labels.shape)}",
            )

    def take(self, index: Int[Tensor, "some"] | slice) -> HeadSignal:
        """Some of the rows."""
        rows = None if self.rows is None else self.rows[index]
        return HeadSignal(
            self.hidden[index], self.weight, self.labels[index], self.bias, population=self.population, rows=rows
        )

    def to(self, device: torch.device | str) -> HeadSignal:
        """The same rows on a device."""
        hidden, weight, labels = (part.to(device) for part in (self.hidden, self.weight, self.labels))
        bias = None if self.bias is None else self.bias.to(device)
        return HeadSignal(hidden, weight, labels, bias, population=self.population, rows=self.rows)

    def __len__(self) -> int:
        return len(self.labels)


Signal = HeadSignal | CompactSignal | TeacherSignal


@dataclass(frozen=True)
class Chunks:
    """How many tokens are worked on together: at the two heads, and at the loss."""

    tokens: int
    rows: int


def choose_chunks(
    tokens: int, width: int, classes: int, *, device: str = "cpu", online: bool = True, chunk_tokens: int | None = None
) -> Chunks:
    """Chunks from the sizes: all logits that exist at once take about a quarter of the gradient of the head's weight.

    A chunk reads the whole head, so it must not be small. On the CPU the loss works on rows that fit a core's cache.

    Args:
        tokens, width, classes: Rows in all, and the sizes of the head.
        device, online: "cpu" or "cuda"; whether the teacher's logits are computed as well.
        chunk_tokens: Rows of a chunk, in place of the rule's.

    Returns:
        `Chunks`: rows of a chunk, and rows the loss works on at once.

    Example:
        from fractionate.losses.kernels import choose_chunks
        print(choose_chunks(4096, 2048, 128_256))
    """
    sides = 2 if online else 1
    least = FEWEST_ROWS if device == "cpu" else FEWEST_ON_CUDA
    own = chunk_tokens or max(least, min(int(SPARE * width) // sides, MOST_ROWS) // 16 * 16)  # whole tiles of a product
    own = max(1, -(-tokens // max(1, -(-tokens // own))))  # chunks of one size, none larger
    step = max(1, min(own, ROW_ELEMENTS // classes)) if device == "cpu" else own
    return Chunks(own, step)


def vocabulary_loss(
    hidden: Float[Tensor, "rows width"],
    weight: Float[Tensor, "classes width"],
    signal: Signal,
    objective: Objective,
    *,
    bias: Float[Tensor, "classes"] | None = None,
    classes: int | None = None,
    chunk_tokens: int | None = None,
) -> Loss:
    """The objective of `softmax(hidden · weightᵀ + bias)` against a signal of the same tokens, one number per token, in nats.

    Equal to `objective(hidden @ weight.T + bias, dense signal)`, in float32 also for half precision (float64 stays). The gradient
    is made along with the loss, and made again where the factor of the backward pass differs between tokens.

    Args:
        hidden, weight, bias: [rows, width] the student's last hidden states, and its head [classes, width] and [classes].
        signal: The teacher's on the same tokens: dense, compact, or a `HeadSignal`. Rows whose label is -100 have loss 0.
        objective: The loss of a row.
        classes: The number of real tokens where heads are padded: what lies beyond is -inf on both sides.
        chunk_tokens: Rows at once; None: by `choose_chunks`.

    Returns:
        [rows] losses; gradient reaches hidden, weight and bias.

    Raises:
        MismatchError: for shapes and vocabularies that differ.
        ConfigError: for an objective that needs statistics of all tokens, or relates tokens to each other.
        NumericsError: where a loss is not finite (CPU).

    Example:
        import torch
        from fractionate import Objective
        from fractionate.losses.kernels import HeadSignal, vocabulary_loss

        hidden, head = torch.randn(6, 8, requires_grad=True), torch.randn(20, 8)
        teacher = HeadSignal(torch.randn(6, 9), torch.randn(20, 9), torch.arange(6))
        vocabulary_loss(hidden, head, teacher, Objective("kd", 2.0, 0.9)).mean().backward()
    """
    _check(hidden, weight, bias, signal, objective, classes)
    real = classes if classes is not None else min(len(weight), _classes(signal))
    kept = (signal.labels != IGNORED).nonzero().flatten()
    some = hidden if len(kept) == len(hidden) else hidden[kept]
    if not len(kept):
        return hidden.to(compute_dtype(hidden.dtype)).sum(dim=1) * 0.0 + weight.sum() * 0.0
    walk = _Walk(
        signal if len(kept) == len(hidden) else signal.take(kept), objective, real,
        choose_chunks(
            len(kept), hidden.shape[1], real, device=hidden.device.type, online=not isinstance(signal, CompactSignal),
            chunk_tokens=chunk_tokens,
        ),
    )  # fmt: skip
    loss: Tensor = _FusedLoss.apply(some, weight, bias, walk)  # type: ignore[no-untyped-call]
    if not loss.is_cuda and not bool(torch.isfinite(loss).all()):
        row = int(kept[(~torch.isfinite(loss)).nonzero()[0]])
        raise NumericsError(
            f"{int((~torch.isfinite(loss)).sum())} of {len(loss)} losses are not finite (first: token {row})",
            fix="check this token's hidden states; mask padded vocabulary entries with classes=, not with -inf on one side",
        )
    if len(kept) == len(hidden):
        return loss
    return torch.zeros(len(hidden), dtype=loss.dtype, device=loss.device).index_copy(0, kept, loss)


def _classes(signal: Signal) -> int:
    return len(signal.weight) if isinstance(signal, HeadSignal) else signal.classes


def _check(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, signal: Signal, objective: Objective, classes: int | None
) -> None:
    if hidden.ndim != 2 or weight.ndim != 2 or hidden.shape[1] != weight.shape[1] or len(hidden) != len(signal):
        raise MismatchError(
            "hidden states, head and signal do not fit",
            expected=f"hidden [{len(signal)}, width], weight [classes, width]",
            got=f"{list(hidden.shape)}, {list(weight.shape)}",
            fix="flatten tokens into rows first: extensions.sequence",
        )
    if bias is not None and bias.shape != weight.shape[:1]:
        raise MismatchError("the bias does not fit the head", expected=str([len(weight)]), got=str(list(bias.shape)))
    if classes is None and len(weight) != _classes(signal):
        raise MismatchError(
            "student and teacher have different vocabularies",
            expected=f"{_classes(signal):,} classes, as the teacher", got=f"{len(weight):,}",
            fix="where only the padding differs, say how many tokens are real: classes=; else map them: token_map",
        )  # fmt: skip
    if classes is not None and not 2 <= classes <= min(len(weight), _classes(signal)):
        raise ConfigError(
            "classes cannot be used", expected=f"2 to {min(len(weight), _classes(signal)):,}", got=str(classes)
        )
    real = classes if classes is not None else len(weight)
    labels = signal.labels
    wrong = ((labels != IGNORED) & ((labels < 0) | (labels >= real))).nonzero().flatten()
    if len(wrong):
        raise MismatchError(
            f"{len(wrong)} of {len(labels)} labels are no token (first: row {int(wrong[0])})",
            expected=f"0 to {real - 1:,}, or {IGNORED} to ignore", got=str(int(labels[wrong[0]])),
        )  # fmt: skip
    assert not isinstance(objective.divergence, str)
    if objective.teacher_weight > 0 and couples_batch(objective.divergence):
        raise ConfigError(
            f"{written(objective.divergence)} relates the tokens of a batch to each other and cannot be cut into chunks",
            fix="take a divergence of single tokens: forward-kl, reverse-kl, jsd, skew-forward, …",
        )
    without = isinstance(signal, CompactSignal) or getattr(signal, "population", None) is None
    if without and objective.teacher_weight > 0 and needs_whole(objective):
        raise ConfigError(
            f"cell {objective.cell} needs statistics of all the data", expected="a cell of the instance: kd, kd-pt, kd-topk, …",
            fix="pass the population of the signal: HeadSignal(..., population=…)",
        )  # fmt: skip


class _Walk:
    """All of a loss but its tensors of gradient: called with hidden states and head, gives losses and, where wanted, gradients."""

    def __init__(self, signal: Signal, objective: Objective, classes: int, chunks: Chunks) -> None:
        self.signal, self.objective, self.classes, self.chunks = signal, objective, classes, chunks
        self.held: Tensor | None = None  # the teacher's logits of a chunk
        self.sparse = isinstance(signal, CompactSignal) and has_closed_form(objective)
        # checked once for all rows: a population stops the check of each part
        self.population = getattr(signal, "population", None) or Population(
            torch.zeros(1, 2, device=signal.labels.device),
            torch.zeros(1, dtype=torch.long, device=signal.labels.device),
        )

    def __call__(
        self,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        wanted: tuple[bool, bool, bool],
        factor: Tensor | None,
    ) -> tuple[Loss, Tensor | None, Tensor | None, Tensor | None]:
        dtype = compute_dtype(hidden.dtype)
        rows, _width = hidden.shape
        made: list[Tensor | None] = [
            torch.empty_like(hidden) if wanted[0] else None,
            torch.zeros(weight.shape, dtype=compute_dtype(weight.dtype), device=weight.device) if wanted[1] else None,
            torch.zeros(len(weight), dtype=dtype, device=weight.device) if wanted[2] else None,
        ]
        loss = torch.empty(rows, dtype=dtype, device=hidden.device)
        kept = torch.empty(min(self.chunks.tokens, rows), self.classes, dtype=dtype, device=hidden.device)
        head, offset = weight[: self.classes], None if bias is None else bias[: self.classes].to(dtype)
        own = Head(head, offset)
        for start in range(0, rows, self.chunks.tokens):
            stop = min(start + self.chunks.tokens, rows)
            z, part = kept[: stop - start], hidden[start:stop].to(dtype)
            own.logits(part, z)
            for at, logits, rows_signal in self._chunks(z, start):
                loss[start + at.start : start + at.stop] = self._rows(logits, rows_signal)
            if factor is not None:
                z.mul_(factor[start:stop, None])
            if made[0] is not None:
                made[0][start:stop] = own.back(z).to(hidden.dtype)
            if made[1] is not None:
                made[1][: self.classes].addmm_(z.T, part)
            if made[2] is not None:
                made[2][: self.classes] += z.sum(dim=0)
        self.held = None
        if made[1] is not None:
            made[1] = made[1].to(weight.dtype)
        if made[2] is not None and bias is not None:
            made[2] = made[2].to(bias.dtype)
        return loss, made[0], made[1], made[2]

    def _chunks(self, z: Rows, start: int) -> Iterator[tuple[slice, Rows, TeacherSignal | CompactSignal]]:
        """Places in the chunk, the student's logits there and the teacher's signal of them, a few rows at a time."""
        if not isinstance(self.signal, HeadSignal):
            for at in range(0, len(z), self.chunks.rows):
                place = slice(at, min(at + self.chunks.rows, len(z)))
                yield place, z[place], self._part(slice(start + place.start, start + place.stop))
            return
        theirs = Head(self.signal.weight[: self.classes], _cut(self.signal.bias, self.classes))
        there = slice(start, start + len(z))
        if self.held is None:
            self.held = torch.empty(
                min(self.chunks.tokens, len(self.signal)), self.classes, dtype=z.dtype, device=z.device
            )
        held = self.held[: len(z)]
        theirs.logits(self.signal.hidden[there].to(z.dtype), held)
        labels = self.signal.labels[there]
        places = labels if self.signal.rows is None else self.signal.rows[there]
        for at in range(0, len(z), self.chunks.rows):
            place = slice(at, min(at + self.chunks.rows, len(z)))
            yield (
                place,
                z[place],
                TeacherSignal(held[place], labels[place], population=self.population, rows=places[place]),
            )

    def _part(self, place: slice) -> TeacherSignal | CompactSignal:
        """The signal of some rows, where it is no head: dense, cut to the real classes, or compact as it is."""
        signal = self.signal
        if isinstance(signal, TeacherSignal):
            rows_signal = signal.take(place)
            if signal.classes == self.classes:
                return rows_signal
            return TeacherSignal(
                rows_signal.logits[:, : self.classes],
                rows_signal.labels,
                population=self.population,
                rows=rows_signal.rows,
            )
        assert isinstance(signal, CompactSignal)
        part = replace(signal.take(torch.arange(place.start, place.stop)), classes=self.classes, class_relation=None)
        return part if self.sparse else part.at(self.objective.temperature).dense()

    def _rows(self, logits: Rows, rows_signal: TeacherSignal | CompactSignal) -> Loss:
        """The losses of some rows; their logits become d loss / d logits."""
        if isinstance(rows_signal, CompactSignal):
            return closed_form(logits, rows_signal, self.objective)
        loss, gradient = self.objective.loss_and_gradient(logits, rows_signal)
        logits.copy_(gradient)
        return loss


def _cut(bias: Tensor | None, classes: int) -> Tensor | None:
    return None if bias is None else bias[:classes]


@dataclass(frozen=True, eq=False)
class Head:
    """A linear head in the precision that is computed in; a half-precision one is widened a block of classes at a time."""

    weight: Float[Tensor, "classes width"]
    bias: Float[Tensor, "classes"] | None

    def logits(self, hidden: Float[Tensor, "rows width"], out: Rows) -> None:
        """hidden · weightᵀ + bias, into `out`."""
        for at, block in self._blocks(hidden.dtype):
            if block is self.weight:
                torch.mm(hidden, block.T, out=out)
            else:
                out[:, at] = hidden @ block.T
        if self.bias is not None:
            out.add_(self.bias.to(out.dtype))

    def back(self, gradient: Rows) -> Float[Tensor, "rows width"]:
        """gradient · weight."""
        total: Tensor | None = None
        for at, block in self._blocks(gradient.dtype):
            part = (gradient if block is self.weight else gradient[:, at]) @ block
            total = part if total is None else total.add_(part)
        assert total is not None
        return total

    def _blocks(self, dtype: torch.dtype) -> Iterator[tuple[slice, Tensor]]:
        if self.weight.dtype == dtype:
            yield slice(0, len(self.weight)), self.weight
            return
        for start in range(0, len(self.weight), BLOCK_CLASSES):
            at = slice(start, start + BLOCK_CLASSES)
            yield at, self.weight[at].to(dtype)


class _FusedLoss(torch.autograd.Function):
    """Losses [rows]; the gradients of hidden states, weight and bias are made along with them, for a factor of 1 each."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, walk: _Walk) -> Loss:
        wanted = (ctx.needs_input_grad[0], ctx.needs_input_grad[1], ctx.needs_input_grad[2])
        with torch.no_grad():
            loss, *gradients = walk(hidden, weight, bias, wanted, None)
        ctx.save_for_backward(hidden, weight, bias)
        ctx.walk, ctx.wanted, ctx.kept = walk, wanted, gradients
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, factor: Loss) -> tuple[Tensor | None, ...]:
        kept, ctx.kept = ctx.kept, None
        first = factor[:1]
        if kept is None or not bool((factor == first).all()):
            hidden, weight, bias = ctx.saved_tensors
            with torch.no_grad():
                _, *kept = ctx.walk(hidden, weight, bias, ctx.wanted, factor)
        else:
            kept = [None if g is None else g.mul_(first.to(g.dtype)) for g in kept]
        return (*kept, None)
