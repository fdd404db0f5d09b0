"""Text that the student writes itself, in place of the data's (GKD)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
import xxhash
from jaxtyping import Int
from torch import Tensor, nn

from fractionate.data.batch import Batch, Split
from fractionate.data.labels import IGNORED
from fractionate.data.parts import ChangedSplit
from fractionate.data.transforms import Transform, transforms
from fractionate.errors import ConfigError, MismatchError
from fractionate.models.modes import eval_mode
from fractionate.models.outputs import device_of


@transforms.register("on_policy")
@dataclass(frozen=True)
class OnPolicy(Transform):
    """A share of the batches holds completions that the student itself generates for the prompts: `on_policy(0.5)`.

    A prompt is what precedes the first label; the loss is on what was written alone, and nothing flows back through the
    sampling. Whether a batch is written and what is drawn are functions of (seed, epoch, examples) and the student's weights, so
    a resumed run is the same. Source: Agarwal et al. (arXiv 2306.13649).

    Args:
        share: Probability that a batch is written; 0: the data as they are.
        sampling_temperature: Of the tokens that are drawn.
        new_tokens: The most tokens written after a prompt.
        end: The token that ends a text; None: all of `new_tokens` are written.
        padding: The token behind shorter texts, which is masked; None: `end`.
    """

    share: float = 0.5
    sampling_temperature: float = 0.9
    new_tokens: int = 32
    end: int | None = None
    padding: int | None = None
    changes: ClassVar[frozenset[str]] = frozenset({"inputs", "labels"})

    def __post_init__(self) -> None:
        if not (0 <= self.share <= 1 and 0 < self.sampling_temperature < math.inf and self.new_tokens >= 1):
            raise ConfigError(
                "invalid value for on_policy",
                expected="share in [0, 1], sampling_temperature above 0, new_tokens of 1 or more",
                got=f"{self.share}, {self.sampling_temperature}, {self.new_tokens}",
            )

    def bind(self, split: Split, student: nn.Module | None, teacher: nn.Module | None, seed: int) -> Split:
        """The split with written batches. Raises `ConfigError` for a student that cannot write."""
        check_writes(student, "the student of on_policy")
        assert student is not None

        def change(batch: Batch, epoch: int, seed: int) -> Batch:
            drawn = xxhash.xxh3_64_intdigest(f"{seed}:{epoch}:".encode() + batch.index.numpy().tobytes())
            return self.write(student, batch, drawn) if drawn / 2.0**64 < self.share else batch

        return ChangedSplit(split, change, repr(self), f"{split.name}, {self.share:g} written by the student", True)

    def write(self, student: Any, batch: Batch, seed: int) -> Batch:
        """The batch with what a student writes after its prompts, drawn from a seed; the global random state stays as it is."""
        prompts, device = prompts_of(batch), device_of(student)
        padding = self.padding if self.padding is not None else self.end or 0
        ids, mask = left_padded(prompts, padding)
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), eval_mode(student):
            torch.manual_seed(seed & 0x7FFF_FFFF_FFFF_FFFF)
            found = student.generate(
                input_ids=ids.to(device), attention_mask=mask.to(device), max_new_tokens=self.new_tokens, do_sample=True,
                temperature=self.sampling_temperature, top_k=0, top_p=1.0, pad_token_id=padding, eos_token_id=self.end,
            )  # fmt: skip
        return completed(
            batch, prompts, [until_end(row, self.end) for row in found[:, ids.shape[1] :].tolist()], padding
        )


def check_writes(model: nn.Module | None, what: str) -> None:
    """Raise `ConfigError` for a model that is not there or has no `generate()`."""
    if not callable(getattr(model, "generate", None)):
        raise ConfigError(
            f"{what} cannot write",
            expected="a model with generate() (transformers' models)",
            got="none" if model is None else type(model).__name__,
        )


def prompts_of(batch: Batch) -> list[Int[Tensor, "tokens"]]:
    """What precedes the first label of each text, at least one token; padding left out.

    Raises `MismatchError` for inputs that are not token ids with a label each.
    """
    ids = batch.inputs.get("input_ids") if isinstance(batch.inputs, Mapping) else None
    if not isinstance(ids, Tensor) or ids.shape != batch.labels.shape or batch.views:
        raise MismatchError(
            "these data hold no texts to continue",
            expected="a mapping with input_ids [batch, tokens], labels of that shape, no views of others",
            got=", ".join(map(str, batch.inputs)) if isinstance(batch.inputs, Mapping) else type(batch.inputs).__name__,
        )
    mask = batch.inputs.get("attention_mask", torch.ones_like(ids)).bool()
    found = []
    for row, valid, labels in zip(ids.cpu(), mask.cpu(), batch.labels.cpu(), strict=True):
        tokens, counted = row[valid], (labels[valid] != IGNORED).nonzero().flatten()
        found.append(tokens[: max(1, int(counted[0]) if len(counted) else len(tokens))])
    return found


def left_padded(prompts: Sequence[Int[Tensor, "tokens"]], padding: int) -> tuple[Tensor, Tensor]:
    """Prompts as one batch that ends with their last tokens, so that all are continued at once; and their mask."""
    width = max(map(len, prompts))
    ids, mask = torch.full((len(prompts), width), padding), torch.zeros(len(prompts), width, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :], mask[row, width - len(prompt) :] = prompt, 1
    return ids, mask


def until_end(row: Sequence[int], end: int | None) -> list[int]:
    """A row of tokens up to its first end, the end included."""
    return list(row[: row.index(end) + 1]) if end in row else list(row)


def completed(
    batch: Batch, prompts: Sequence[Int[Tensor, "tokens"]], written: Sequence[Sequence[int]], padding: int
) -> Batch:
    """The batch with other texts: prompts without a label, and what was written after them."""
    width = max(len(prompt) + len(more) for prompt, more in zip(prompts, written, strict=True))
    ids = torch.full((len(prompts), width), padding)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, IGNORED)
    for row, (prompt, more) in enumerate(zip(prompts, written, strict=True)):
        whole = torch.cat([prompt, torch.tensor(more, dtype=torch.long)])
        ids[row, : len(whole)], mask[row, : len(whole)] = whole, 1
        labels[row, len(prompt) : len(whole)] = whole[len(prompt) :]
    return replace(batch, inputs={"input_ids": ids, "attention_mask": mask}, labels=labels, complete=False)
