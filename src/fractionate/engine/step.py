"""One optimiser step: forward, one loss a row, the exact weighted mean over pieces and processes, check, update."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from fractionate.compact import CompactSignal
from fractionate.data.batch import Batch, Split
from fractionate.divergences import couples_batch, written
from fractionate.engine.council import Teacher
from fractionate.engine.standing import Parts
from fractionate.engine.world import World
from fractionate.errors import ConfigError, MismatchError, NumericsError, ResourceError
from fractionate.objective import Objective, Signal, rescaling
from fractionate.order import draw_seed, step_seed
from fractionate.outputs import IGNORED, Head, call, logits_of, rows
from fractionate.records import Training
from fractionate.teacher import TeacherSignal

DESCRIBED_NUMBERS = 1 << 20  # the rescaling is measured on as many rows as hold so many logits: memory is for the step


class Term(Protocol):
    """A further loss: called with the student's output, the batch and the teacher's signal of its rows; one number a row."""

    def __call__(self, output: Any, batch: Batch, signal: TeacherSignal | None) -> Float[Tensor, "rows"]: ...


def seed_run(seed: int) -> None:
    """Start the generators of Python and numpy, which user code may draw from, from the seed."""
    drawn = draw_seed("run", seed)
    random.seed(drawn)
    np.random.seed(drawn)


def seed_step(seed: int, step: int, device: torch.device, rank: int = 0) -> None:
    """Let everything the model draws in a step follow from (seed, step), and in further processes from the rank."""
    drawn = step_seed(seed, step) if rank == 0 else draw_seed("step", seed, step, rank)
    # the generators themselves: torch.manual_seed also queues a call for every accelerator there might be
    torch.default_generator.manual_seed(drawn)
    if device.type == "cuda":
        torch.cuda.default_generators[device.index or 0].manual_seed(drawn)


@dataclass(frozen=True)
class Taken:
    """What came of a step: its loss over all processes, mean and deviation of the rescaling, further numbers summed."""

    loss: float
    rescaled: tuple[float, float] | None
    also: tuple[float, ...]


class TypedErrors:
    """What torch says about too little memory and too small batches, said so that it can be acted on."""

    def __enter__(self) -> None:
        """Nothing to prepare: one object serves every step."""

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if not isinstance(error, (RuntimeError, ValueError, MemoryError)):
            return
        text = str(error)
        short = isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in text
        if short:
            raise ResourceError(
                f"out of memory: {text.splitlines()[0][:200] if text else 'the machine has no more'}",
                fix="set micro_batch_size: the step stays the same, in smaller pieces",
            ) from error
        if "Expected more than 1 value per channel" in text:
            raise ConfigError(
                "batch normalisation met a batch of one example",
                expected="at least two examples in every batch and piece",
                fix="choose a batch_size (or micro_batch_size) that leaves no remainder of one",
            ) from error


@dataclass(kw_only=True, eq=False)
class Stepper:
    """All that a step reads: the called student, who teaches it what, and how the gradient is used."""

    called: nn.Module
    parts: Parts
    teacher: Teacher | None
    objective: Objective | None
    terms: tuple[Term, ...]
    training: Training
    weights: Float[Tensor, "examples"] | None
    labelled: Bool[Tensor, "examples"] | None
    head: Head
    predicts_next: bool
    device: torch.device
    world: World
    trained: list[Tensor]
    labels_checked: bool = False  # all of them are known to be classes of the student
    errors: ClassVar[TypedErrors] = TypedErrors()

    def __post_init__(self) -> None:
        kinds = {(p.device, p.dtype) for p in self.trained}
        alike = len(kinds) == 1 and self.world.parallel == "copies"
        self._scale = torch.ones((), device=self.trained[0].device) if alike else None
        self._found = torch.zeros((), device=self.trained[0].device)
        if self.objective is not None:
            check_coupling(self.objective, self.training, self.world)

    def take(
        self, pieces: list[tuple[Batch, bool]], *, step: int, describe: bool, also: tuple[float, ...] = ()
    ) -> Taken:
        """Step the optimiser on some pieces of a batch (False: a piece that only keeps other processes company).

        `describe` asks how the objective rescales the gradient; `also` are numbers to sum over all processes on the way.
        Raises `NumericsError`, on every process and before the optimiser steps, for a loss or gradient that is not finite.
        """
        total, *summed_also = self.world.total(sum(self._count(batch) for batch, real in pieces if real), *also)
        losses: list[Tensor] = []
        seen: list[tuple[Batch, Tensor, Tensor | None]] = []
        rescaled = None
        for number, (batch, real) in enumerate(pieces, 1):
            with self.world.piece(self.called, last=number == len(pieces)), self.errors:
                row_losses, place, logits, signal = self._losses(batch)
                loss = self._reduced(row_losses, batch, place, total if real else 0.0)
                scaled = loss if self.parts.scaler is None else self.parts.scaler.scale(loss)
                scaled.backward()  # type: ignore[no-untyped-call]
            losses.append(loss.detach())
            if real:
                seen.append((batch, row_losses, place))
        if describe and isinstance(self.objective, Objective) and signal is not None and logits.shape[0]:
            few = torch.arange(min(len(logits), max(1, DESCRIBED_NUMBERS // logits.shape[-1])), device=logits.device)
            factors = rescaling(logits.detach()[: len(few)], signal.take(few), self.objective)
            deviation, mean = torch.std_mean(factors, correction=0)
            rescaled = (float(mean), float(deviation))
        value = losses[0] if len(losses) == 1 else torch.stack(losses).sum()
        return Taken(self._update(value, seen, step), rescaled, tuple(summed_also))

    def _reduced(self, losses: Tensor, batch: Batch, place: Tensor | None, total: float) -> Tensor:
        """These rows' part of the step's loss, Σ weight · loss / total; 0 with a gradient path where nothing counts."""
        if self.weights is not None:
            at = batch.index if place is None else batch.index[place.cpu()]
            losses = losses * self.weights[at.to(self.weights.device)]
        elif 0 < losses.shape[0] == total and self.world.size == 1:
            return losses.mean()
        # a process's gradient is averaged over all processes: their number undoes that
        return losses.sum() * (self.world.size / total if total else 0.0)

    def _count(self, batch: Batch) -> float:
        if batch.complete and self.weights is None:
            return float(batch.labels.shape[0])
        labels = batch.labels[:, 1:] if self.predicts_next else batch.labels
        valid = labels != IGNORED
        if self.weights is None:
            return float(valid.sum())
        return float(
            (valid.to(self.weights.dtype) * self.weights[batch.index].reshape(-1, *[1] * (valid.ndim - 1))).sum()
        )

    def _losses(
        self, batch: Batch
    ) -> tuple[Float[Tensor, "rows"], Int[Tensor, "rows"] | None, Float[Tensor, "rows classes"], Signal | None]:
        """The loss of each row, the rows' places in the batch, the student's logits and the teacher's signal."""
        if self.training.precision == "float32":
            output = call(self.called, batch.inputs)
        else:
            half = torch.bfloat16 if self.training.precision == "bfloat16" else torch.float16
            with torch.autocast(self.device.type, dtype=half):
                output = call(self.called, batch.inputs)
        logits, labels, place = rows(
            logits_of(output, self.head), batch.labels, predicts_next=self.predicts_next, complete=batch.complete
        )
        signal = None
        if not self.labels_checked:
            # an objective that is called with hidden states knows the classes itself
            check_classes(batch, labels, place, getattr(self.objective, "classes", logits.shape[-1]))
        if self.teacher is None or not labels.shape[0]:  # a batch in which nothing counts asks nobody
            losses = functional.cross_entropy(logits.float(), labels, reduction="none")
        else:
            assert self.objective is not None
            signal = self.teacher.about(batch, labels, place)
            losses = self._taught(logits, signal, batch, place)
        whole = signal.dense() if self.terms and isinstance(signal, CompactSignal) else signal  # terms read all classes
        for term in self.terms:
            losses = losses + term(output, batch, whole)  # type: ignore[arg-type]
        return losses, place, logits, signal

    def _taught(self, logits: Tensor, signal: Signal, batch: Batch, place: Tensor | None) -> Float[Tensor, "rows"]:
        """The objective's losses; of rows without a label of their own, those of the teacher alone."""
        assert self.objective is not None
        if self.labelled is None:
            return self.objective(logits, signal)
        known = self.labelled[batch.index if place is None else batch.index[place.cpu()]].to(logits.device)
        parts = ((known, self.objective), (~known, replace(self.objective, teacher_weight=1.0)))
        rows_of = [(mask.nonzero().flatten(), objective) for mask, objective in parts]
        losses = torch.cat([objective(logits[some], signal.take(some)) for some, objective in rows_of if len(some)])
        return losses[torch.cat([some for some, _ in rows_of]).argsort()]

    def _norm(self, gradients: list[Tensor]) -> Tensor:
        """The norm of all gradients as one vector: torch's get_total_norm in fewer calls."""
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
        return self.world.whole({"norm": norm})["norm"] if self.world.parallel == "shards" else norm

    def _update(self, loss: Tensor, seen: list[tuple[Batch, Tensor, Tensor | None]], step: int) -> float:
        """Step the optimiser; the loss over all processes."""
        optimizer, scaler = self.parts.optimizer, self.parts.scaler
        if scaler is not None:
            scaler.unscale_(optimizer)
        trained = self.trained
        gradients = [p.grad for p in trained if p.grad is not None]
        value = self.world.total(float(loss) / self.world.size)[0]
        norm, finite = None, math.isfinite(value)
        # in float16 an infinite gradient is no fault: the scale was too large, the step is left out and the scale halved
        if scaler is None and self.training.clip_norm is None and self._scale is not None:
            # half as dear as the norm: the one pass that loss scales are checked by, here by a scale of 1
            torch._amp_foreach_non_finite_check_and_unscale_(gradients, self._found.zero_(), self._scale)
            finite = finite and not bool(self._found)
        elif scaler is None or self.training.clip_norm is not None:
            norm = self._norm(gradients)
            finite = finite and (scaler is not None or math.isfinite(float(norm)))
        if not finite:
            norm = self._norm(gradients)
            forget(trained)
            raise _not_finite(seen, float(norm), step)
        if norm is not None and self.training.clip_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(trained, self.training.clip_norm, norm)
        if scaler is not None:
            scaler.step(optimizer)
            scaler.update()
        else:
            optimizer.step()
        forget(trained)
        if self.parts.average is not None:
            self.parts.average.update_parameters(self.parts.student)  # type: ignore[operator]
        return value


def check_coupling(objective: Objective, training: Training, world: World) -> None:
    """Raise `ConfigError` where a step is cut into pieces whose losses do not add up to the loss of the whole."""
    assert not isinstance(objective.divergence, str)
    if objective.teacher_weight == 0 or not couples_batch(objective.divergence):
        return
    size = training.micro_batch_size
    cut = size is not None and size < training.batch_size
    if cut or world.size > 1:
        raise ConfigError(
            f"divergence {written(objective.divergence)} couples the examples of a batch: it cannot be cut into pieces",
            expected="the whole batch in one piece, on one process",
            got=f"micro_batch_size={size} of {training.batch_size}" if cut else f"{world.size} processes",
            fix="leave micro_batch_size out and take one process, or take a divergence by example (dist(1, 0), forward-kl)",
        )


def check_labelled(labelled: Tensor, feed: Split, objective: Objective | None) -> None:
    """Raise `ConfigError` where it cannot be told which examples are labelled, or nobody teaches those that are not."""
    if labelled.dtype != torch.bool or labelled.shape != (len(feed),):
        raise ConfigError(
            "labelled= says of each example whether its label is its own",
            expected=f"{len(feed)} truth values",
            got=f"{labelled.dtype} {list(labelled.shape)}",
        )
    if not isinstance(objective, Objective):
        raise ConfigError("examples without labels need a teacher", expected="signal= and an Objective", got="neither")
    assert not isinstance(objective.divergence, str)
    if couples_batch(objective.divergence):
        raise ConfigError(
            f"divergence {written(objective.divergence)} couples the examples of a batch: labelled ones cannot be told apart",
            fix="take a divergence by example (dist(1, 0), forward-kl)",
        )


def check_classes(batch: Batch, labels: Int[Tensor, "rows"], place: Tensor | None, classes: int) -> None:
    """Raise `MismatchError` naming the examples whose label is no class of the student."""
    if labels.is_floating_point() or labels.dtype == torch.bool:
        raise MismatchError("labels are not class numbers", expected="whole numbers", got=str(labels.dtype))
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        wrong = ((labels < 0) | (labels >= classes)).nonzero().flatten().cpu()
        found = batch.index[wrong if place is None else place.cpu()[wrong]].tolist()
        raise MismatchError(
            f"{len(wrong)} of {len(labels)} labels are no class of the student",
            expected=f"whole numbers in 0..{classes - 1}, or {IGNORED} to ignore",
            got=f"{int(labels[wrong[0]])} at example {found[0]}; examples {', '.join(map(str, found[:8]))}",
            fix="check the label map and the student's number of outputs",
        )


def forget(trained: list[Tensor]) -> None:
    """Drop all gradients."""
    for parameter in trained:
        parameter.grad = None


def _not_finite(seen: list[tuple[Batch, Tensor, Tensor | None]], norm: float, step: int) -> NumericsError:
    found: list[int] = []
    for batch, losses, place in seen:
        bad = (~torch.isfinite(losses.detach())).nonzero().flatten().cpu()
        found += batch.index[bad if place is None else place.cpu()[bad]].tolist()
    what = f"the loss is not finite at step {step}, from {len(found)} of its rows"
    if not found:
        what = f"the gradient is not finite at step {step} (norm {norm}), though the loss is"
        found = [place for batch, _, _ in seen for place in batch.index.tolist()]
    return NumericsError(
        what,
        expected="finite numbers; the weights have not been touched",
        got=f"examples {', '.join(map(str, found[:8]))}{' …' if len(found) > 8 else ''}",
        fix="look at these inputs; lower the learning rate, set clip_norm, or train in float32",
    )
