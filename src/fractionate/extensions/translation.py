"""Word-level distillation of translators: label smoothing as papers write it, and several decoding passes over one sentence."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fractionate.data.batch import Batch
from fractionate.errors import ConfigError, MismatchError
from fractionate.models.modes import eval_mode
from fractionate.objective import Objective, needs_whole
from fractionate.outputs import Head, call, logits_of, rows
from fractionate.teacher import TeacherSignal
from fractionate.teachers.source import check_finite

WordLoss = Callable[[Float[Tensor, "rows classes"], TeacherSignal], Float[Tensor, "rows"]]  # an Objective is one


@dataclass(frozen=True)
class LabelSmoothing:
    """The term that makes of the engine's cross-entropy the smoothed one, where there is no teacher to hold an `ls` cell.

    With V classes and label y it adds Σ_{i ≠ y} epsilon / (V - 1) · (log q[y] - log q[i]), so that the sum of both is
    - (1 - epsilon) log q[y] - epsilon / (V - 1) Σ_{i ≠ y} log q[i]: fairseq's convention, and that of the confidence rule
    `smoothed-others(epsilon)`.
    """

    epsilon: float = 0.1
    head: Head = None

    def __post_init__(self) -> None:
        if not 0 <= self.epsilon < 1:
            raise ConfigError("epsilon cannot be used", expected="at least 0 and below 1", got=repr(self.epsilon))

    def __call__(self, output: Any, batch: Batch, signal: TeacherSignal | None) -> Float[Tensor, "rows"]:
        logits, labels, _ = rows(logits_of(output, self.head), batch.labels, complete=batch.complete)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        own = logits.gather(1, labels[:, None]).squeeze(1)
        classes = logits.shape[1]
        # log q[y] - log q[i] is a difference of logits: nothing to normalise
        return self.epsilon / (classes - 1) * (classes * own - logits.sum(dim=1))


class Decoding(Protocol):
    """How a translator is asked again about the same sources with another beginning of the targets."""

    def encode(self, model: nn.Module, inputs: Any, output: Any) -> Any:
        """What the decoder needs to know of the sources; `output` is what the model gave for these inputs, None if not asked."""
        ...

    def decode(
        self, model: nn.Module, inputs: Any, memory: Any, prefix: Int[Tensor, "batch tokens"]
    ) -> Float[Tensor, "batch tokens classes"]:
        """The logits after these beginnings."""
        ...

    def prefix(self, inputs: Any) -> Int[Tensor, "batch tokens"]:
        """The beginnings that the model was called with."""
        ...


@dataclass(frozen=True)
class EncoderDecoder:
    """Encoder-decoders of Hugging Face (Marian, BART, T5, …): the encoder runs once, its states are handed to the decoder again."""

    def encode(self, model: nn.Module, inputs: Any, output: Any) -> Any:
        known = getattr(output, "encoder_last_hidden_state", None)
        if known is not None:
            return known
        if not hasattr(model, "get_encoder"):
            raise MismatchError(
                f"{type(model).__name__} is no encoder-decoder of Hugging Face", expected="a model with get_encoder()",
                fix="decoding=CallAgain(...) asks any module as a whole",
            )  # fmt: skip
        encoder: Any = model.get_encoder()  # type: ignore[operator]
        return encoder(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])[0]

    def decode(self, model: nn.Module, inputs: Any, memory: Any, prefix: Tensor) -> Tensor:
        return logits_of(
            model(encoder_outputs=(memory,), attention_mask=inputs["attention_mask"], decoder_input_ids=prefix)
        )

    def prefix(self, inputs: Any) -> Tensor:
        return _part(inputs, "decoder_input_ids")


@dataclass(frozen=True)
class CallAgain:
    """Any module: the whole of it is called again, encoder included. `where` finds the beginnings among its inputs."""

    where: str | int = "decoder_input_ids"
    head: Head = None

    def encode(self, model: nn.Module, inputs: Any, output: Any) -> Any:
        return None

    def decode(self, model: nn.Module, inputs: Any, memory: Any, prefix: Tensor) -> Tensor:
        if isinstance(inputs, Mapping):
            changed: Any = {**inputs, self.where: prefix}
        else:
            changed = tuple(prefix if place == self.where else part for place, part in enumerate(inputs))
        return logits_of(call(model, changed), self.head)

    def prefix(self, inputs: Any) -> Tensor:
        return _part(inputs, self.where)


def _part(inputs: Any, where: str | int) -> Tensor:
    try:
        found = inputs[where]
    except (KeyError, IndexError, TypeError):
        found = None
    if not (isinstance(found, Tensor) and found.ndim == 2 and isinstance(inputs, (Mapping, tuple, list))):
        known = ", ".join(map(str, inputs)) if isinstance(inputs, Mapping) else type(inputs).__name__
        raise MismatchError(
            f"the inputs hold no beginnings of targets at {where!r}", expected="numbers of pieces [batch, tokens] there",
            got=known, fix="CallAgain(where=...) names the place",
        )  # fmt: skip
    return found


def shifted(prefix: Int[Tensor, "batch tokens"], said: Int[Tensor, "batch tokens"]) -> Int[Tensor, "batch tokens"]:
    """The next pass's beginnings: the first token of this one's, then what was said, one place later."""
    return torch.cat([prefix[:, :1], said[:, :-1]], dim=1)


class Passes:
    """Word-level distillation over one or more decoding passes: iterative KD, a term for `distill`.

    Pass 1 is what the engine has run: gold beginnings, the signal of its teacher. In pass n + 1 student and `teacher` read
    [first token, the student's most likely tokens of pass n], all at once and as long as the gold target; no gradient goes
    through that choice and none reaches the teacher. `precision` is the training's: further passes run in it. The loss of a row is
    weight / passes · Σ_n Σ losses(student_n, teacher_n); rows without a label count in no pass. The loss on the labels is the
    engine's, on pass 1 alone.

    To weigh both as (1 - a) and a, let the objective be the label loss and `weight` a / (1 - a). `losses` are `Objective`s or
    functions of student logits and signal. `values` holds each pass's mean loss of the last batch.

    Raises `ConfigError` for fewer than one pass, no loss, a second pass without teacher, and losses that need statistics of all
    the data.
    Source: Zhang et al. (arXiv 2305.08096), with 3 passes.
    """

    def __init__(
        self,
        student: nn.Module,
        losses: Sequence[WordLoss],
        *,
        passes: int = 1,
        teacher: nn.Module | None = None,
        weight: float = 1.0,
        decoding: Decoding | None = None,
        teacher_decoding: Decoding | None = None,
        head: Head = None,
        precision: Literal["float32", "bfloat16", "float16"] = "float32",
    ) -> None:
        if isinstance(passes, bool) or not isinstance(passes, int) or passes < 1:
            raise ConfigError("the number of passes cannot be used", expected="at least 1", got=repr(passes))
        if not losses:
            raise ConfigError("there is no loss to teach by", expected="at least one", fix="leave the term out")
        if passes > 1 and teacher is None:
            raise ConfigError(
                f"{passes} passes need a teacher that can be asked",
                expected="teacher=, a model: from the second pass on it reads what the student said",
                got="none", fix="passes=1 works with stored signals",
            )  # fmt: skip
        if passes > 1 and any(isinstance(loss, Objective) and needs_whole(loss) for loss in losses):
            raise ConfigError(
                "what the student says has no statistics of all the data", expected="losses of instance or universe level",
                got=", ".join(str(loss.cell) for loss in losses if isinstance(loss, Objective) and needs_whole(loss)),
                fix="passes=1, or cells such as kd",
            )  # fmt: skip
        self.student, self.losses, self.passes, self.teacher, self.weight = student, losses, passes, teacher, weight
        self.decoding = decoding or EncoderDecoder()
        self.teacher_decoding = teacher_decoding or self.decoding
        self.head, self.precision = head, precision
        self.values: tuple[float, ...] = ()

    def __call__(self, output: Any, batch: Batch, signal: TeacherSignal | None) -> Float[Tensor, "rows"]:
        if signal is None:
            raise ConfigError(
                "word-level distillation needs a teacher", fix="pass the teacher to distill() as its signal as well"
            )
        logits = logits_of(output, self.head)
        found = self._loss(logits, batch, signal)
        values = [found.detach()]
        if self.passes > 1:
            for again in self._further(logits, output, batch):
                found = found + again
                values.append(again.detach())
        self.values = tuple(float(value.mean()) for value in values)
        return found * (self.weight / self.passes)

    def _loss(self, logits: Tensor, batch: Batch, signal: TeacherSignal) -> Tensor:
        said, _, _ = rows(logits, batch.labels, complete=batch.complete)
        found = self.losses[0](said, signal)
        for loss in self.losses[1:]:
            found = found + loss(said, signal)
        return found

    def _half(self, logits: Tensor) -> torch.autocast:
        half = torch.float16 if self.precision == "float16" else torch.bfloat16
        return torch.autocast(logits.device.type, dtype=half, enabled=self.precision != "float32")

    def _further(self, logits: Tensor, output: Any, batch: Batch) -> Any:
        assert self.teacher is not None
        prefix = self.decoding.prefix(batch.inputs)
        memory = self.decoding.encode(self.student, batch.inputs, output)
        with self._half(logits), eval_mode(self.teacher):
            known = self.teacher_decoding.encode(self.teacher, batch.inputs, None)
        for _ in range(self.passes - 1):
            prefix = shifted(prefix, logits.detach().argmax(dim=-1))
            with self._half(logits):
                logits = self.decoding.decode(self.student, batch.inputs, memory, prefix)
                with eval_mode(self.teacher):
                    heard = self.teacher_decoding.decode(self.teacher, batch.inputs, known, prefix)
            said, labels, place = rows(heard, batch.labels, complete=batch.complete)
            check_finite(said, batch.index if place is None else batch.index[place.cpu()])
            yield self._loss(logits, batch, TeacherSignal(said, labels))
