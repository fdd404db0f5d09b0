"""Iterative decoding (TIE-KD): word-level distillation over multiple decoding passes of one sentence."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass, replace
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from fractionate.errors import ConfigError
from fractionate.losses.divergences.ranking import Ranking
from fractionate.losses.objective import Objective, needs_whole
from fractionate.losses.terms.base import Binding, BoundTerm, TermSpec, term_specs
from fractionate.models.decoding import Decoding, decodings, shifted
from fractionate.models.modes import eval_mode
from fractionate.models.outputs import logits_of, rows
from fractionate.tasks.predictions import Predictions
from fractionate.theory.teacher_signal import TeacherSignal


def tie_kd(k: int = 5) -> tuple[Objective, Objective]:
    """The word-level losses of TIE-KD, to be summed: KL(teacher ‖ student) and the ranking loss, at temperature 1.

    The paper's KL adds 1e-6 to probabilities within the logarithm; this one is exact. `Passes` takes them for the iterative part.

    Args:
        k: How many of the teacher's classes the ranking loss orders.

    Returns:
        Two objectives: KL, and the ranking loss.

    Example:
        from fractionate.losses.terms import tie_kd

        kl, ranking = tie_kd(k=5)
    """
    return Objective("kd", 1.0, 1.0, divergence="forward-kl"), Objective("kd", 1.0, 1.0, divergence=Ranking(k))


@term_specs.register("passes")
@dataclass(frozen=True)
class Passes(TermSpec):
    """Word-level distillation over one or more decoding passes: iterative KD.

    Pass 1 is the training's own: gold decoder inputs, the signal of its teacher. In pass n + 1 student and teacher read [first
    token, the student's most likely tokens of pass n], all at once and as long as the gold target; no gradient goes through that
    choice and none reaches the teacher. Further passes run in the training's precision. The loss of a row is
    1 / passes · Σ_n Σ losses(student_n, teacher_n); rows without a label count in no pass. The loss on the labels is the recipe's,
    on pass 1 alone: to weigh both as (1 - a) and a, let the objective be the label loss and `weight` a / (1 - a).

    Args:
        passes: 3 in the paper. From 2 on the teacher has to be a model.
        losses: Objectives to be summed; the default is `tie_kd(5)`. A mapping changes fields of its first, KL at temperature 1:
            `passes(2, losses=({"divergence": "reverse-kl"},))`.
        decoding: How the student is run again: "encoder-decoder" (Hugging Face), "call-again" (any module), or a `Decoding`.
        teacher_decoding: The same for the teacher; None: as the student.
        head: Where the logits are in what the student returns; None: where they usually are.

    Raises:
        ConfigError: For fewer than one pass, no loss, and losses that need statistics of all the data from a second pass on.

    Source: Zhang et al. (arXiv 2305.08096).

    Example:
        from fractionate.losses.terms import Passes
        print(Passes(2).formula)
    """

    passes: int = 3
    losses: tuple[Objective, ...] = tie_kd()
    _: KW_ONLY
    weight: float = 1.0
    decoding: Decoding | str = "encoder-decoder"
    teacher_decoding: Decoding | str | None = None
    head: int | str | None = None
    reads_signal: ClassVar[bool] = True

    def __post_init__(self) -> None:
        TermSpec.__post_init__(self)
        if isinstance(self.passes, bool) or not isinstance(self.passes, int) or self.passes < 1:
            raise ConfigError("invalid number of passes", expected="at least 1", got=repr(self.passes))
        losses = tuple(replace(tie_kd()[0], **loss) if isinstance(loss, Mapping) else loss for loss in self.losses)
        if not losses or not all(isinstance(loss, Objective) for loss in losses):
            raise ConfigError(
                "invalid losses for passes",
                expected="at least one Objective",
                got=repr(self.losses),
                fix="leave the term out where there is nothing to learn",
            )
        whole = [str(loss.cell) for loss in losses if needs_whole(loss)]
        if self.passes > 1 and whole:
            raise ConfigError(
                "what the student writes has no statistics of all the data",
                expected="losses of instance or universe level",
                got=", ".join(whole),
                fix="passes=1, or cells such as kd",
            )
        object.__setattr__(self, "losses", losses)
        for name in ("decoding", "teacher_decoding"):
            if isinstance(found := getattr(self, name), str):
                object.__setattr__(self, name, decodings[found])

    @property
    def formula(self) -> str:
        losses = " + ".join(loss.describe().formula for loss in self.losses)
        return f"1 / {self.passes} Σ over {self.passes} decoding passes of [{losses}]"

    @contextmanager
    def bind(self, at: Binding) -> Iterator[BoundTerm]:
        """Raises `ConfigError` where a second pass has no teacher that can be run."""
        if self.passes > 1 and at.models[1] is None:
            raise ConfigError(
                f"{self.passes} passes need a teacher that can be run",
                expected="a model as teacher: from the second pass on it reads what the student wrote",
                got="none",
                fix="passes=1 works with stored signals",
            )

        def term(student: Predictions, teacher: Predictions | None, signal: Any | None) -> Float[Tensor, "rows"]:
            if signal is None:
                raise ConfigError("word-level distillation needs a teacher", fix="give the training a teacher")
            found = self._loss(student.required_logits, signal)
            for logits, outputs in self._further(at, student) if self.passes > 1 else ():
                found = found + self._loss(logits, outputs)
            return found * (1 / self.passes)

        yield term

    def _loss(self, logits: Tensor, signal: Any) -> Tensor:
        found = self.losses[0](logits, signal)
        for loss in self.losses[1:]:
            found = found + loss(logits, signal)
        return found

    def _further(self, at: Binding, student: Predictions) -> Iterator[tuple[Tensor, TeacherSignal]]:
        """The student's rows and the teacher's signal of each pass after the first."""
        model, teacher = at.models
        own, others = self.decoding, self.teacher_decoding or self.decoding
        assert teacher is not None and not isinstance(own, str) and not isinstance(others, str)
        batch = student.batch
        inputs, their_inputs = batch.inputs, batch.view("teacher")
        logits = logits_of(student.output, self.head)
        half = torch.float16 if at.precision == "float16" else torch.bfloat16

        def precision() -> torch.autocast:
            return torch.autocast(logits.device.type, dtype=half, enabled=at.precision != "float32")

        prefix = own.prefix(inputs)
        memory = own.encode(model, inputs, student.output)
        with precision(), eval_mode(teacher):
            known = others.encode(teacher, their_inputs, None)
        for _ in range(self.passes - 1):
            prefix = shifted(prefix, logits.detach().argmax(dim=-1))
            with precision():
                logits = own.decode(model, inputs, memory, prefix)
                with eval_mode(teacher):
                    theirs = others.decode(teacher, their_inputs, known, prefix)
            kept, labels, _ = rows(logits, batch.labels, complete=batch.complete)
            outputs, _, _ = rows(theirs, batch.labels, complete=batch.complete)
            yield kept, TeacherSignal(outputs, labels)
