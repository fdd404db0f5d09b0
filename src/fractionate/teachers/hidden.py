"""A teacher of tokens that was asked once: its last hidden states are kept, its logits made of them batch by batch.

A row of logits is as long as the vocabulary, the hidden state it is made of a few hundred numbers: with 32,000 pieces and a
width of 512 that is 62 times less memory, and the teacher's layers do not run again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fractionate.data.labels import check_same_labels
from fractionate.data.splits import as_split
from fractionate.errors import MismatchError
from fractionate.models.hooks import module_at
from fractionate.models.modes import eval_mode
from fractionate.models.outputs import Head, call, device_of, logits_of, rows
from fractionate.system.hashing import content_hash
from fractionate.tasks.model_inputs import ModelInputs
from fractionate.tasks.predictions import Predictions
from fractionate.theory.teacher_signal import TeacherSignal, check_finite


@dataclass(frozen=True, eq=False, repr=False)
class HiddenStates:
    """What stands before a teacher's output layer for each labelled token of some sentences: pass it to `distill` as its signal.

    logits = hidden · weightᵀ + constant. `offsets` are where each sentence's tokens start, and the end of the last.
    """

    hidden: Float[Tensor, "tokens width"]
    labels: Int[Tensor, "tokens"]
    offsets: Int[Tensor, "starts"]
    weight: Float[Tensor, "classes width"]
    constant: Float[Tensor, "classes"]

    @classmethod
    def of(
        cls,
        teacher: nn.Module,
        data: Any,
        *,
        layer: str = "lm_head",
        head: Head = None,
        batch_size: int = 256,
        dtype: torch.dtype = torch.float32,
    ) -> HiddenStates:
        """Ask a teacher about all the data once; `layer` is its output layer by dotted path, `dtype` what is kept.

        Raises `MismatchError` where the logits are not a linear function of what enters that layer, and `NumericsError` where
        they are not finite.
        """
        feed, output_layer = as_split(data), module_at(teacher, layer)
        if not isinstance(output_layer, nn.Linear):
            raise MismatchError(
                f"{layer!r} is no linear layer", expected="the layer that makes logits", got=type(output_layer).__name__
            )
        trained_members: list[Tensor] = []
        hook = output_layer.register_forward_pre_hook(lambda module, inputs: trained_members.append(inputs[0]))
        kept: list[Tensor] = []
        labels: list[Tensor] = []
        sizes: list[Tensor] = []
        constant: Tensor | None = None
        weight = output_layer.weight.detach().clone()
        plan = ((0, index) for index in torch.split(torch.arange(len(feed)), batch_size))
        takes = ModelInputs.of(teacher)
        try:
            with eval_mode(teacher):
                for batch in feed.batches(plan, seed=0):
                    batch = batch.to(device_of(teacher))
                    trained_members.clear()
                    logits = logits_of(call(teacher, takes(batch, "teacher")), head)
                    outputs, gold, place = rows(logits, batch.labels)
                    place = torch.arange(len(gold)) if place is None else place
                    states = rows(trained_members[-1], batch.labels)[0]
                    check_finite(outputs, batch.index[place.cpu()])
                    made = states @ weight.T
                    constant = (outputs[0] - made[0]) if constant is None else constant
                    error = float((outputs - made - constant).abs().max())
                    if error > 1e-3 * float(outputs.abs().max()):
                        raise MismatchError(
                            f"the logits are not made by {layer!r} alone", expected="hidden · weightᵀ + a constant",
                            got=f"a difference of {error:.3g}", fix="layer= names the last linear layer; or ask it live",
                        )  # fmt: skip
                    kept.append(states.to(dtype))
                    labels.append(gold)
                    sizes.append(torch.bincount(place, minlength=len(batch.labels)))
        finally:
            hook.remove()
        assert constant is not None
        ends = torch.cat(sizes).cumsum(0)
        offsets = torch.cat([ends.new_zeros(1), ends])
        return cls(torch.cat(kept), torch.cat(labels), offsets, weight, constant)

    def __repr__(self) -> str:
        megabytes = self.hidden.numel() * self.hidden.element_size() / 1e6
        classes, width = self.weight.shape
        return (
            f"HiddenStates({len(self.offsets) - 1:,} sentences, {len(self.hidden):,} tokens × {width}, {megabytes:.0f} MB "
            f"for {len(self.hidden) * classes * 4 / 1e6:.0f} MB of logits)"
        )

    def logits(self, tokens: Int[Tensor, "some"]) -> Float[Tensor, "some classes"]:
        """The teacher's logits at some tokens."""
        return torch.addmm(self.constant, self.hidden[tokens].to(self.weight.dtype), self.weight.T)

    def signal(self, sentences: Int[Tensor, "some"] | None = None) -> TeacherSignal:
        """The dense signal of some sentences, or of all."""
        if sentences is None:
            tokens = torch.arange(len(self.hidden))
        else:
            tokens = torch.cat([torch.arange(*self.offsets[i : i + 2].tolist()) for i in sentences.tolist()])
        return TeacherSignal(self.logits(tokens), self.labels[tokens])

    def whole(self) -> TeacherSignal:
        """All rows."""
        return self.signal()

    def signal_for(self, predictions: Predictions) -> TeacherSignal:
        """The signal of a batch. Raises `MismatchError` naming a sentence the teacher did not see, or not with these tokens."""
        index, labels, place = predictions.batch.index.cpu(), predictions.labels, predictions.place
        absent = index[(index < 0) | (index >= len(self.offsets) - 1)]
        if len(absent):
            raise MismatchError(
                f"the teacher was not asked about sentence {int(absent[0])}",
                expected=f"one of the {len(self.offsets) - 1:,} sentences it was asked about, in their order",
                got=f"{len(absent)} others in this batch", fix="HiddenStates.of(teacher, these very data)",
            )  # fmt: skip
        found = self.signal(index)
        which = index if place is None else index[place.cpu()]
        if len(found) != len(labels):
            now, before = torch.bincount(which, minlength=len(self.offsets) - 1), self.offsets.diff()
            wrong = int(index[(now[index] != before[index])][0])
            raise MismatchError(
                f"sentence {wrong} does not have the tokens that the teacher was asked about",
                expected=f"{int(before[wrong])} labelled tokens", got=str(int(now[wrong])),
                fix="the same pieces and the same length limit on both sides",
            )  # fmt: skip
        check_same_labels(found.labels, labels.cpu(), which)
        return found.to(labels.device)

    def fingerprint(self) -> str:
        """A hash of all of it."""
        return content_hash(self.hidden, self.labels, self.offsets, self.weight, self.constant)
