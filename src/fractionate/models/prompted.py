"""A language model as it is as a classifier: given a prompt, and read by what it would say next, `prompted('models/llm', …)`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fractionate.data.raw import PLACE, Tokenizing
from fractionate.errors import ConfigError, MismatchError, printable
from fractionate.models.hub_place import Place, find_place, library
from fractionate.models.names import ModelNeed
from fractionate.models.tokenizer import prepared
from fractionate.models.zoo import models


class NextWord(nn.Module):
    """Log-probabilities of classes [texts, classes]: those of the words that name them, at the token after each text.

    Of a class, the logarithm of p(first token of its word) is taken; the classes share the mass that they have together.
    With `k` a class counts that is among the k likeliest tokens, as in the answer of an API; those that are not share what is left
    evenly, and are no likelier than the least token listed.

    Source: Brown et al. (2020), arXiv 2005.14165, section 2.4 (classification by the likelihood of an answer).
    """

    words: Int[Tensor, "classes"]

    def __init__(self, language_model: nn.Module, words: Sequence[int], k: int = 0) -> None:
        super().__init__()
        self.language_model, self.k = language_model, k
        self.register_buffer("words", torch.tensor(words), persistent=False)

    def forward(
        self, input_ids: Int[Tensor, "texts tokens"], attention_mask: Int[Tensor, "texts tokens"]
    ) -> Float[Tensor, "texts classes"]:
        """Log-probabilities that sum to 1 over the classes."""
        tokens = input_ids.shape[1]
        shift = tokens - attention_mask.sum(
            dim=1, keepdim=True
        )  # filled up on the right; the last token has to be the last
        source = (torch.arange(tokens, device=input_ids.device) - shift) % tokens
        mask = attention_mask.gather(1, source)
        output = self.language_model(
            input_ids=input_ids.gather(1, source),
            attention_mask=mask,
            position_ids=(mask.cumsum(dim=1) - 1).clamp_min(0),
            logits_to_keep=1,
            use_cache=False,
        )
        everything = torch.log_softmax(output.logits[:, -1].float(), dim=-1)
        found = everything[:, self.words]
        if self.k:
            listed = everything.topk(self.k, dim=-1).values
            inside = found >= listed[:, -1:]
            left = (1 - listed.exp().sum(dim=-1, keepdim=True)).clamp_min(1e-7)
            others = everything.shape[-1] - self.k
            found = found.where(inside, torch.minimum((left / others).log(), listed[:, -1:]))
        return torch.log_softmax(found, dim=-1)


@dataclass(frozen=True)
class Prompted:
    """A language model, a prompt and the words of the classes; builds a teacher for texts with a class each."""

    name: str
    prompt: str
    words: tuple[str, ...]
    k: int = 0
    trained: bool = True

    @cached_property
    def place(self) -> Place:
        """Where it is. Raises `ConfigError` for an architecture without weights."""
        found = find_place(self.name)
        if found is None:
            raise ConfigError(
                f"{printable(self.name)} is an architecture without weights",
                expected="a language model that was trained: a folder, package:NAME, or a name of the hub",
            )
        return found

    @cached_property
    def _reader(self) -> Any:
        return prepared(self.place.tokenizer(), self.name)

    def tokenizing(self, length: int) -> Tokenizing:
        """Texts of at most so many tokens, each put into the prompt."""
        return Tokenizing(self._reader, length, prompt=self.prompt)

    def build(self, need: ModelNeed) -> nn.Module:
        """The language model with the classes' words.

        Raises:
            ConfigError: for other tasks than classification.
            MismatchError: for another number of words than classes, and for words that begin with the same token.
        """
        if need.kind != "classification" or need.shape or not need.classes:
            raise ConfigError(
                "a prompt asks for the class of a text",
                expected="task: text-classification, and data of texts", got=f"task: {need.kind}",
                fix="hf(…) for other tasks",
            )  # fmt: skip
        if len(self.words) != need.classes:
            raise MismatchError(
                "the words are not those of the classes",
                expected=f"{need.classes} words, for {printable(', '.join(need.class_names), 200)}",
                got=f"{len(self.words)}: {printable(', '.join(self.words), 200)}",
            )
        numbers = [self._first_token(word) for word in self.words]
        if len(set(numbers)) < len(numbers):
            starts = [self._reader.decode([number]) for number in numbers]
            raise MismatchError(
                "two classes begin with the same token, by which they are distinguished",
                expected="words with first tokens of their own", got=printable(", ".join(map(repr, starts)), 200),
                fix="other words, or letters: 'A', 'B', explained in the prompt",
            )  # fmt: skip
        with library() as found:
            return NextWord(self.place.read(found.AutoModelForCausalLM, dtype=torch.float32), numbers, self.k)

    def _first_token(self, word: str) -> int:
        """The first token of a word after the prompt, as the tokenizer cuts both together."""
        # a word that the prompt already leaves a blank for is written without one
        text = word if self.prompt[-1:].isspace() else f" {word}"
        numbers: list[int] = self._reader(text, add_special_tokens=False)["input_ids"]
        if not numbers:
            raise MismatchError(f"the tokenizer of {self.name} has no token for {printable(word)!r}")
        return numbers[0]


@models.register("prompted")
def prompted(name: str, *, prompt: str, words: Sequence[str], k: int = 0) -> Prompted:
    """A language model as the teacher of texts with a class each: `prompted('models/llm', prompt='{text} is', words=['a', 'b'])`.

    Args:
        name: As of `hf`.
        prompt: What it reads, with the text in the place of `{text}`; the student reads the text alone.
        words: What it would say for each class, in the order of the classes; read after a blank.
        k: How many tokens an answer lists, as an API would; 0: all.

    Raises:
        ConfigError: for a prompt without `{text}`, fewer than two words, and a `k` below 0.
    """
    if not isinstance(prompt, str) or prompt.count(PLACE) != 1:
        raise ConfigError("the prompt has no place for the text", expected=f"one {PLACE} in it", got=repr(prompt))
    plain = (
        not isinstance(words, str) and len(words) > 1 and all(isinstance(word, str) and word.strip() for word in words)
    )
    if not plain:
        raise ConfigError("invalid value for words", expected="a list of two words or more", got=repr(words))
    if isinstance(k, bool) or not isinstance(k, int) or not 0 <= k < math.inf:
        raise ConfigError("invalid value for k", expected="a count of tokens, or 0 for all", got=repr(k))
    return Prompted(name, prompt, tuple(word.strip() for word in words), k)
