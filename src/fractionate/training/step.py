"""One optimiser step: forward, one loss per row or example, the exact weighted mean over micro-batches and ranks, check, update."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, TypeAlias

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from fractionate.data.batch import Batch
from fractionate.data.sampling import draw_seed, step_seed
from fractionate.errors import ConfigError, NumericsError, ResourceError
from fractionate.losses.divergences.base import couples_batch, written
from fractionate.losses.kernels.vocabulary import HeadSignal, vocabulary_loss
from fractionate.losses.objective import Objective, Signal, rescaling
from fractionate.losses.targets import Targets
from fractionate.losses.terms.base import BoundTerm, TermSpec
from fractionate.records import Training
from fractionate.tasks.model_inputs import ModelInputs
from fractionate.tasks.predictions import Predictions
from fractionate.tasks.task import Task
from fractionate.teachers.source import OpenTeacher
from fractionate.training.distributed import World
from fractionate.training.state import Parts

DESCRIBED_NUMBERS = 1 << 20  # the rescaling is measured on as many rows as hold so many logits: memory is for the step
AnySignal: TypeAlias = Signal | HeadSignal


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
    """What torch says about too little memory and too small batches, worded so that it can be acted on."""

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
                fix="set micro_batch_size: the step stays the same, in smaller micro-batches",
            ) from error
        if "Expected more than 1 value per channel" in text:
            raise ConfigError(
                "batch normalisation met a batch of one example",
                expected="at least two examples in every batch and micro-batch",
                fix="choose a batch_size (or micro_batch_size) that leaves no batch of one",
            ) from error


@dataclass(frozen=True, eq=False)
class Losses:
    """The losses of one micro-batch: one for each row, and from some terms one for each example."""

    rows: Float[Tensor, "rows"]
    examples: Float[Tensor, "batch"] | None
    predictions: Predictions
    signal: AnySignal | None


@dataclass(kw_only=True, eq=False)
class Stepper:
    """All that a step reads: the model as it is called, the teacher, the losses, and how the gradient is used."""

    task: Task
    called: nn.Module  # the reader, or what wraps it
    parts: Parts
    teacher: OpenTeacher | None
    objective: Objective | None
    objective_weight: float
    terms: tuple[tuple[TermSpec, BoundTerm], ...]
    targets: Targets | None
    training: Training
    device: torch.device
    world: World
    trained: list[Tensor]
    output_layer: nn.Linear | None = None  # where losses come from hidden states
    labels_checked: bool = False  # all of them are known to be classes of the student
    errors: ClassVar[TypedErrors] = TypedErrors()

    def __post_init__(self) -> None:
        kinds = {(p.device, p.dtype) for p in self.trained}
        alike = len(kinds) == 1 and self.world.parallel == "copies"
        self._scale = torch.ones((), dtype=torch.float32, device=self.trained[0].device) if alike else None
        self._found = torch.zeros((), dtype=torch.float32, device=self.trained[0].device)
        if self.training.precision == "float16":
            check_scaled(self.trained)
        self._inputs_of = ModelInputs.of(self.parts.student)
        self._by_example = any(spec.unit == "example" for spec, _ in self.terms)
        self._reads_signal = any(spec.reads_signal for spec, _ in self.terms)
        self._reads_inside = any(spec.needs[1] for spec, _ in self.terms)
        specs = [spec for spec, _ in self.terms]
        coupled = self.task.reader.couples_batch and self.objective_weight > 0
        check_coupling(self.objective, specs, self.training, self.world, labels=coupled)

    def take(
        self, batches: list[tuple[Batch, bool]], *, step: int, describe: bool, also: tuple[float, ...] = ()
    ) -> Taken:
        """Step the optimiser on the micro-batches of a batch (False: one that only keeps other processes company).

        `describe` measures how the objective rescales the gradient; `also` are numbers to sum over all processes on the way.
        Raises `NumericsError`, on every process and before the optimiser steps, for a loss or gradient that is not finite.
        """
        real = [batch for batch, real in batches if real]
        rows, examples, *summed_also = self.world.total(
            sum(self.task.reader.count(batch) for batch in real),
            sum(_weight(batch) for batch in real) if self._by_example else 0.0,
            *also,
        )
        values: list[Tensor] = []
        seen: list[Losses] = []
        for number, (batch, counts) in enumerate(batches, 1):
            with self.world.micro_batch(self.called, last=number == len(batches)), self.errors:
                found = self._losses(batch)
                loss = self._mean(found, batch, rows if counts else 0.0, examples if counts else 0.0)
                scaled = loss if self.parts.scaler is None else self.parts.scaler.scale(loss)
                scaled.backward()  # type: ignore[no-untyped-call]
            values.append(loss.detach())
            if counts:
                seen.append(found)
        rescaled = self._rescaled(found) if describe else None
        value = values[0] if len(values) == 1 else torch.stack(values).sum()
        return Taken(self._update(value, seen, step), rescaled, tuple(summed_also))

    def _rescaled(self, found: Losses) -> tuple[float, float] | None:
        """Mean and deviation of the objective's gradient rescaling on some rows of a micro-batch."""
        logits = found.predictions.logits
        if self.objective is None or self.teacher is None or logits is None or not len(logits):
            return None
        signal = found.signal or self.teacher.signal_for(found.predictions)
        if isinstance(signal, HeadSignal):
            return None
        few = torch.arange(min(len(logits), max(1, DESCRIBED_NUMBERS // logits.shape[-1])), device=logits.device)
        factors = rescaling(logits.detach()[: len(few)], signal.take(few), self.objective)
        deviation, mean = torch.std_mean(factors, correction=0)
        return float(mean), float(deviation)

    def _mean(self, found: Losses, batch: Batch, rows: float, examples: float) -> Tensor:
        """This micro-batch's part of the step's loss: Σ weight · loss / total of rows, and likewise of examples.

        0 with a gradient path where nothing counts. A process's gradient is averaged over all processes: their number undoes that.
        """
        losses, size = found.rows, self.world.size
        if batch.weight is not None:
            losses = losses * found.predictions.by_row(batch.weight)
        if batch.weight is None and found.examples is None and size == 1 and 0 < losses.shape[0] == rows:
            return losses.mean()
        loss = losses.sum() * (size / rows if rows else 0.0)
        if found.examples is not None:
            own = found.examples if batch.weight is None else found.examples * batch.weight
            loss = loss + own.sum() * (size / examples if examples else 0.0)
        return loss

    def _read(self, batch: Batch) -> Predictions:
        if self.training.precision == "float32":
            output, captured = self.called(self._inputs_of(batch))
        else:
            half = torch.bfloat16 if self.training.precision == "bfloat16" else torch.float16
            with torch.autocast(self.device.type, dtype=half):
                output, captured = self.called(self._inputs_of(batch))
        return self.task.rows(output, captured, batch, head=self.task.head)

    def _losses(self, batch: Batch) -> Losses:
        found = self._read(batch)
        if not self.labels_checked:
            self.task.reader.check_predictions(found, self._classes(found))
        signal: AnySignal | None = None
        if self.teacher is not None and len(found) and (self._reads_signal or not self._quick(batch, found)):
            signal = self.teacher.signal_for(found)
        rows = self._objective(found, signal, batch)
        if self.objective_weight != 1:
            rows = rows * self.objective_weight
        examples = None
        if self.terms:
            inside = None
            if self.teacher is not None and self._reads_inside:
                inside = self.teacher.predictions_for(batch)
            for spec, term in self.terms:
                values = spec.weight * term(found, inside, signal)
                if spec.unit == "row":
                    rows = rows + values
                else:
                    examples = values if examples is None else examples + values
        return Losses(rows, examples, found, signal)

    def _classes(self, found: Predictions) -> int:
        if found.logits is not None:
            return int(found.logits.shape[-1])
        assert self.output_layer is not None
        return int(self.output_layer.weight.shape[0])

    def _quick(self, batch: Batch, found: Predictions) -> bool:
        """Whether the objective needs no signal of this batch: there is none, or its targets were made once."""
        return self.objective is None or (self.targets is not None and batch.labelled is None and found.place is None)

    def _objective(self, found: Predictions, signal: AnySignal | None, batch: Batch) -> Float[Tensor, "rows"]:
        """The losses on labels alone, or those of the objective."""
        if self.objective is None or self.teacher is None or not len(found):
            return self._labels_alone(found)
        if found.hidden is not None:
            layer = self.output_layer
            assert layer is not None and signal is not None
            return vocabulary_loss(
                found.hidden, layer.weight, signal, self.objective, bias=layer.bias, classes=self.task.classes
            )
        logits = found.required_logits
        if self.targets is not None and self._quick(batch, found):
            return self.targets(logits, found.labels, batch.index)
        assert signal is not None and not isinstance(signal, HeadSignal)
        if batch.labelled is None:
            return self.objective(logits, signal)
        return _partly_labelled(self.objective, logits, signal, found.by_row(batch.labelled))

    def _labels_alone(self, found: Predictions) -> Float[Tensor, "rows"]:
        if found.hidden is not None and len(found):
            layer = self.output_layer
            assert layer is not None
            return labels_from_hidden(found, layer, self.task.classes)
        if found.hidden is not None:
            return found.hidden.sum(dim=-1)  # no losses, and still a gradient path
        return self.task.reader.label_loss(found)

    def _norm(self, gradients: list[Tensor]) -> Tensor:
        """The norm of all gradients as one vector: torch's get_total_norm in fewer calls."""
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
        return self.world.whole({"norm": norm})["norm"] if self.world.parallel == "shards" else norm

    def _update(self, loss: Tensor, seen: list[Losses], step: int) -> float:
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


def _weight(batch: Batch) -> float:
    return float(len(batch.index)) if batch.weight is None else float(batch.weight.sum())


def _partly_labelled(objective: Objective, logits: Tensor, signal: Signal, known: Tensor) -> Float[Tensor, "rows"]:
    """The objective's losses; of rows whose label is the teacher's guess, those of the teacher alone."""
    parts = ((known, objective), (~known, replace(objective, teacher_weight=1.0)))
    rows_of = [(mask.nonzero().flatten(), own) for mask, own in parts]
    losses = torch.cat([own(logits[some], signal.take(some)) for some, own in rows_of if len(some)])
    return losses[torch.cat([some for some, _ in rows_of]).argsort()]


def labels_from_hidden(found: Predictions, layer: nn.Linear, classes: int | None) -> Float[Tensor, "rows"]:
    """Cross-entropy with the labels from hidden states, without [rows, classes] logits: the objective `hard` of no teacher."""
    assert found.hidden is not None
    none = HeadSignal(found.hidden.detach(), layer.weight.detach(), found.labels)
    plain = Objective("hard", temperature=1.0, teacher_weight=0.0)
    return vocabulary_loss(found.hidden, layer.weight, none, plain, bias=layer.bias, classes=classes)


def check_coupling(
    objective: Objective | None, terms: Sequence[TermSpec], training: Training, world: World, *, labels: bool = False
) -> None:
    """Raise `ConfigError` where a step is cut into micro-batches whose losses do not add up to the loss of the whole.

    `labels` says that the task's loss on labels couples a batch.
    """
    found = ["the loss on labels"] * labels + [
        f"term {spec!r}" for spec in terms if spec.couples_batch and spec.weight > 0
    ]
    if objective is not None and objective.teacher_weight > 0:
        assert not isinstance(objective.divergence, str)
        if couples_batch(objective.divergence):
            found.append(f"divergence {written(objective.divergence)}")
    size = training.micro_batch_size
    cut = size is not None and size < training.batch_size
    if found and (cut or world.size > 1):
        raise ConfigError(
            f"{found[0]} couples the examples of a batch: it cannot be cut into micro-batches",
            expected="the whole batch at once, on one process",
            got=f"micro_batch_size={size} of {training.batch_size}" if cut else f"{world.size} processes",
            fix="leave micro_batch_size out and take one process, or take a loss by example (dist(1, 0), forward-kl)",
        )


def check_scaled(trained: Sequence[Tensor]) -> None:
    """Raise `ConfigError` where the loss is scaled for float16 and the weights are in float16: small steps would be lost."""
    if any(weight.dtype == torch.float16 for weight in trained):
        raise ConfigError(
            'a student in float16 and precision="float16" cannot be combined',
            expected="a student in float32, which computes in float16 and keeps its weights exact",
            got="weights in torch.float16",
            fix="student.float()",
        )


def check_labelled(objective: Objective | None) -> None:
    """Raise `ConfigError` where nobody teaches the examples whose labels are only guesses."""
    if objective is None:
        raise ConfigError(
            "examples without labels need a teacher", expected="a teacher and an Objective", got="neither"
        )
    assert not isinstance(objective.divergence, str)
    if couples_batch(objective.divergence):
        raise ConfigError(
            f"divergence {written(objective.divergence)} couples the examples of a batch: labelled ones cannot be distinguished",
            fix="take a divergence by example (dist(1, 0), forward-kl)",
        )


def forget(trained: list[Tensor]) -> None:
    """Drop all gradients."""
    for parameter in trained:
        parameter.grad = None


def _not_finite(seen: list[Losses], norm: float, step: int) -> NumericsError:
    found: list[int] = []
    for each in seen:
        bad = (~torch.isfinite(each.rows.detach())).nonzero().flatten().cpu()
        found += each.predictions.example[bad].tolist()
        if each.examples is not None:
            bad = (~torch.isfinite(each.examples.detach())).nonzero().flatten().cpu()
            found += each.predictions.batch.index.cpu()[bad].tolist()
    what = f"the loss is not finite at step {step}, from {len(found)} of its rows"
    if not found:
        what = f"the gradient is not finite at step {step} (norm {norm}), though the loss is"
        found = [place for each in seen for place in each.predictions.batch.index.tolist()]
    return NumericsError(
        what,
        expected="finite numbers; the weights have not been touched",
        got=f"examples {', '.join(map(str, found[:8]))}{' …' if len(found) > 8 else ''}",
        fix="check these inputs; lower the learning rate, set clip_norm, or train in float32",
    )
