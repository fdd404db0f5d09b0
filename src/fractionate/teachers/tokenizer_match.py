"""Do two tokenizers fit? The same strings, numbers, template and padding; else only by an explicit, hashed map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import xxhash
from jaxtyping import Float, Int
from torch import Tensor, nn

from fractionate.errors import MismatchError
from fractionate.models.outputs import call, logits_of
from fractionate.store.identity import tokenizer_fingerprint


def _vocabulary(tokenizer: Any) -> dict[str, int]:
    return dict(tokenizer.get_vocab() if hasattr(tokenizer, "get_vocab") else tokenizer)


def differences(student: Any, teacher: Any) -> list[str]:
    """In words, all that keeps two tokenizers from being one: strings, their numbers, special tokens, template, padding."""
    ours, theirs = _vocabulary(student), _vocabulary(teacher)
    found = []
    moved = [text for text, number in ours.items() if text in theirs and theirs[text] != number]
    only = [[text for text in a if text not in b] for a, b in ((ours, theirs), (theirs, ours))]
    if moved:
        places = f"{moved[0]!r}, {ours[moved[0]]} and {theirs[moved[0]]}"
        found.append(f"{len(moved):,} strings have other numbers (first: {places})")
    for side, strings in zip(("student", "teacher"), only, strict=True):
        if strings:
            found.append(f"{len(strings):,} strings only the {side} has (first: {strings[0]!r})")
    for name in (
        "bos_token",
        "eos_token",
        "pad_token",
        "unk_token",
        "chat_template",
        "padding_side",
        "truncation_side",
    ):
        a, b = getattr(student, name, None), getattr(teacher, name, None)
        if a != b:
            short = [f"{str(value)[:60]!r}" if value is not None else "none" for value in (a, b)]
            found.append(f"{name.replace('_', ' ')}: {short[0]} and {short[1]}")
    return found


def check_pair(student: Any, teacher: Any) -> str:
    """The fingerprint that two tokenizers share. Raises `MismatchError` naming everything in which they differ.

    Sizes prove nothing: the same size can hold other strings, and another template puts other tokens before the answer.
    """
    found = differences(student, teacher)
    if found:
        raise MismatchError(
            "student and teacher read text differently",
            expected="one tokenizer: the same strings, numbers, special tokens, chat template and padding side",
            got="; ".join(found),
            fix="load the student with the teacher's tokenizer, or map the tokens explicitly: token_map(student, teacher, texts)",
        )
    return tokenizer_fingerprint(student)


@dataclass(frozen=True, eq=False)
class TokenMap:
    """The teacher's number of each of the student's tokens, -1 where it has none, with a fingerprint that has to be named."""

    teacher_of: Int[Tensor, "classes"]
    fingerprint: str

    @property
    def covered(self) -> float:
        """The share of the student's tokens that the teacher knows."""
        return float((self.teacher_of >= 0).double().mean())

    def __call__(self, logits: Float[Tensor, "*rows theirs"]) -> Float[Tensor, "*rows classes"]:
        """The teacher's logits in the order of the student's tokens, -inf where there is no such token."""
        known = self.teacher_of.to(logits.device)
        return logits[..., known.clamp_min(0)].masked_fill(known < 0, -torch.inf)

    def require(self, fingerprint: str) -> None:
        """Raise `MismatchError` unless this is the map that was meant."""
        if fingerprint != self.fingerprint:
            raise MismatchError("this is another token map", expected=fingerprint, got=self.fingerprint)


def token_map(student: Any, teacher: Any, texts: Sequence[str], *, covers: float = 0.99) -> TokenMap:
    """An explicit map from the student's tokens to the teacher's by their strings, proved on texts.

    A map of single tokens is right only where both cut text in the same places: every text must give the same tokens through the
    map. Raises `MismatchError` naming the first that does not, where too few of the student's tokens are covered, and where no text
    was given to prove it.
    """
    ours, theirs = _vocabulary(student), _vocabulary(teacher)
    numbers = torch.full((max(ours.values()) + 1,), -1, dtype=torch.long)
    for text, number in ours.items():
        numbers[number] = theirs.get(text, -1)
    found = TokenMap(numbers, xxhash.xxh3_128_hexdigest(numbers.numpy().tobytes()))
    if found.covered < covers:
        raise MismatchError(
            "these vocabularies have too little in common for a map of single tokens",
            expected=f"at least {covers:.0%} of the student's tokens", got=f"{found.covered:.1%}",
            fix="distil on text that the teacher writes (sequence level), or give the student the teacher's tokenizer",
        )  # fmt: skip
    if not texts:
        raise MismatchError(
            "a token map needs texts to be proved on", expected="some of the training texts", got="none"
        )
    for place, text in enumerate(texts):
        mine = numbers[torch.tensor(student(text)["input_ids"], dtype=torch.long)].tolist()
        if mine != list(teacher(text)["input_ids"]):
            raise MismatchError(
                f"the tokenizers cut text {place} in other places", expected=str(list(teacher(text)["input_ids"])[:12]),
                got=str(mine[:12]), fix="a map of single tokens cannot be right here: distil on text that the teacher writes",
            )  # fmt: skip
    return found


class MappedTeacher(nn.Module):
    """A teacher behind a token map: reads the student's token numbers, gives logits in the order of the student's tokens."""

    def __init__(self, teacher: nn.Module, mapped: TokenMap, *, fingerprint: str) -> None:
        super().__init__()
        mapped.require(fingerprint)
        self.teacher, self.mapped = teacher, mapped

    def forward(self, input_ids: Int[Tensor, "batch tokens"], **inputs: Any) -> Float[Tensor, "batch tokens classes"]:
        theirs = self.mapped.teacher_of.to(input_ids.device)[input_ids]
        if bool((theirs < 0).any()):
            raise MismatchError(
                "the text has tokens that the teacher does not know", expected="tokens of the map",
                got=f"student token {int(input_ids[theirs < 0][0])}",
            )  # fmt: skip
        return self.mapped(logits_of(call(self.teacher, {"input_ids": theirs, **inputs})))
