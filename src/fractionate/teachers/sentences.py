"""Language models: sentences as data.

The loop is `distill` with `predicts_next=True`; text that the student writes itself is `on_policy` of its recipe.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import xxhash
from jaxtyping import Int
from torch import Tensor
from torch.utils.data import DataLoader

from fractionate.data.batch import Batch, Ids, Places, Plan
from fractionate.data.labels import IGNORED
from fractionate.data.sampling import batches as shuffled
from fractionate.errors import ConfigError, MismatchError
from fractionate.teachers.prompts import SpecialTokens, Text, prompts_and_completions

OverLong = Literal["skip", "cut", "refuse"]


@dataclass(frozen=True, eq=False)
class Sentences:
    """Token ids of sentences; a label is the token itself, -100 in the prompt and in the padding.

    A data set for `distill` and `collect`; `loader()` pads each batch to its longest.

    Args:
        tokens: [tokens] ids of each sentence.
        prompts: How many tokens of each are its prompt.
        padding: The id that pads.
        name: Of the data, in messages and records.
        skipped: How many texts were left out, by reason.

    Raises:
        MismatchError: where there is no sentence.
    """

    tokens: tuple[Int[Tensor, "tokens"], ...]
    prompts: tuple[int, ...]
    padding: int
    name: str = "sentences"
    skipped: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.tokens:
            raise MismatchError(
                f"{self.name}: there is no data", expected="at least one sentence",
                got=", ".join(f"{count} {reason}" for reason, count in self.skipped.items()) or "none",
            )  # fmt: skip

    @property
    def ids(self) -> Ids:
        """Places: sentences have no ids."""
        return Places(len(self.tokens))

    @property
    def class_names(self) -> tuple[str, ...]:
        """Classes are tokens: they have no names here."""
        return ()

    @property
    def labels(self) -> None:
        """All labels, one an example: a sentence has many."""
        return None

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, place: int) -> tuple[Int[Tensor, "tokens"], int]:
        if not 0 <= place < len(self):
            raise IndexError(place)
        return self.tokens[place], self.prompts[place]

    def take(self, index: Int[Tensor, "some"]) -> Sentences:
        """Some of the sentences."""
        places = index.tolist()
        return Sentences(
            tuple(self.tokens[i] for i in places), tuple(self.prompts[i] for i in places), self.padding, self.name
        )

    def padded(self, items: Sequence[tuple[Tensor, int]]) -> dict[str, Tensor]:
        """Sentences as one batch: input_ids, attention_mask and labels, padded on the right."""
        longest = max(len(tokens) for tokens, _ in items)
        ids = torch.full((len(items), longest), self.padding)
        mask = torch.zeros_like(ids)
        labels = torch.full_like(ids, IGNORED)
        for row, (tokens, prompt) in enumerate(items):
            ids[row, : len(tokens)], mask[row, : len(tokens)] = tokens, 1
            labels[row, prompt : len(tokens)] = tokens[prompt:]
        return {"input_ids": ids, "attention_mask": mask, "labels": labels}

    def batch(self, index: Int[Tensor, "batch"]) -> Batch:
        """Some sentences as the engine takes them."""
        found = self.padded([self[place] for place in index.tolist()])
        return Batch(
            {"input_ids": found["input_ids"], "attention_mask": found["attention_mask"]}, found["labels"], index
        )

    def order(self, batch_size: int, seed: int, epoch: int) -> tuple[Int[Tensor, "batch"], ...]:
        """Shuffled anew in each epoch."""
        return shuffled(len(self), batch_size, seed, epoch)

    def batches(self, plan: Plan, seed: int) -> Iterator[Batch]:
        """The planned batches, in their order."""
        for _, index in plan:
            yield self.batch(index)

    def loader(self) -> DataLoader[Any]:
        """For `collect(teacher, sentences.loader(), …, tokens="next")`."""
        return DataLoader(_Items(self), collate_fn=lambda items: self.padded([item["sentence"] for item in items]))

    def fingerprint(self) -> str:
        """A hash of all tokens and prompts."""
        state = xxhash.xxh3_128(f"{self.padding}:{len(self)}".encode())
        for tokens, prompt in zip(self.tokens, self.prompts, strict=True):
            state.update(f"{prompt}:".encode() + tokens.numpy().tobytes())
        return state.hexdigest()


class _Items(torch.utils.data.Dataset[Any]):
    """Sentences for the signal store: a mapping with the label apart."""

    def __init__(self, sentences: Sentences) -> None:
        self.sentences, self.name = sentences, sentences.name

    def __len__(self) -> int:
        return len(self.sentences)

    def __getitem__(self, place: int) -> dict[str, Any]:
        tokens, prompt = self.sentences[place]
        return {"sentence": (tokens, prompt), "labels": tokens[prompt:]}


def read_sentences(
    tokenizer: Any,
    texts: Iterable[Text],
    *,
    longest: int,
    over_long: OverLong = "skip",
    end: bool = True,
    name: str = "sentences",
) -> Sentences:
    """Texts as tokens; the loss is on what follows the prompt, and on the end of the text.

    A text is a string, a pair (prompt, completion), or a mapping of `text` or of `prompt` and `completion`. Without a prompt the
    first token is given. What the tokenizer itself puts before and after a text stands there once, around prompt and completion
    together; its end of text follows unless it is there already, and `end=False` leaves out all that follows the text. Empty texts
    and those with nothing to foretell are left out and counted; texts of more than `longest` tokens too (`over_long="skip"`), or
    they are cut, or refused.

    Raises:
        ConfigError: for settings, and for what is no list of texts.
        MismatchError: for a text of another form, and where nothing is left.
    """
    if over_long not in ("skip", "cut", "refuse") or longest < 2:
        raise ConfigError(
            "sentences cannot be read so",
            expected='longest of 2 or more; over_long "skip", "cut" or "refuse"',
            got=f"{longest}, {over_long!r}",
        )
    skipped = {"empty": 0, "over-long": 0}
    tokens, prompts = [], []
    special: SpecialTokens | None = None
    for place, (prompt, completion) in enumerate(prompts_and_completions(texts, name)):
        rest = tokenizer(completion, add_special_tokens=False)["input_ids"] if completion.strip() else []
        if not rest:
            skipped["empty"] += 1
            continue
        special = special or SpecialTokens.of(tokenizer, completion)
        first = tokenizer(prompt, add_special_tokens=False)["input_ids"] if prompt else []
        given = [*special.opening([*first, *rest]), *first]
        whole = [*given, *rest, *(special.closing(rest, tokenizer.eos_token_id) if end else [])]
        if len(whole) < 2:
            skipped["empty"] += 1
            continue
        if len(whole) > longest:
            if over_long == "refuse":
                raise MismatchError(
                    f"{name}: text {place} is too long", expected=f"at most {longest} tokens", got=str(len(whole)),
                    fix='over_long="skip" leaves such texts out and counts them, "cut" cuts them',
                )  # fmt: skip
            if over_long == "skip" or len(given) >= longest:
                skipped["over-long"] += 1
                continue
            whole = whole[:longest]
        tokens.append(torch.tensor(whole))
        prompts.append(max(1, len(given)))
    padding = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    return Sentences(tuple(tokens), tuple(prompts), padding or 0, name, skipped)
