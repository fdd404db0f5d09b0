"""Language models: sentences as data.

The loop is `distill` with `predicts_next=True`; text that the student writes itself is `on_policy` of its recipe.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Int
from torch import Tensor

from fractionate.data.dataset import DatasetSplit
from fractionate.data.labels import IGNORED
from fractionate.data.rows import is_hugging_face
from fractionate.errors import ConfigError, MismatchError, printable

OverLong = Literal["skip", "cut", "refuse"]


@dataclass(frozen=True, eq=False)
class Sentences:
    """Token ids of sentences; a label is the token itself, -100 in the prompt and in the padding.

    A data set for every verb; each batch is padded to its longest.

    Args:
        tokens: [tokens] ids of each sentence.
        prompts: How many tokens of each are its prompt.
        padding: The id that pads.
        name: Of the data, in messages and records.
        skipped: How many texts were left out, by reason.

    Raises:
        MismatchError: where there is no sentence.

    Example:
        import torch
        from fractionate.teachers import Sentences
        sentences = Sentences((torch.tensor([5, 6, 7]), torch.tensor([8, 9])), prompts=(1, 0), padding=0)
        print(len(sentences))
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

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, place: int) -> tuple[Int[Tensor, "tokens"], int]:
        if not 0 <= place < len(self):
            raise IndexError(place)
        return self.tokens[place], self.prompts[place]

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

    def as_split(self) -> DatasetSplit:
        """The sentences as data in batches, each padded to its longest."""
        return DatasetSplit(self, self.name, self.padded)


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
    and those with nothing to predict are left out and counted; texts of more than `longest` tokens too (`over_long="skip"`), or
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


Text = str | tuple[str, str] | Mapping[str, str]
FORMS = "a text, a pair (prompt, completion), or a mapping of text, or of prompt and completion, alone"


def prompts_and_completions(texts: Iterable[Text], name: str) -> Iterator[tuple[str, str]]:
    """Each text as (prompt, completion); a text alone is the completion of an empty prompt.

    Raises:
        ConfigError: for one text, for columns (a mapping of lists, a frame), for what has no order.
        MismatchError: for a text of another form, naming its place.
    """
    if not (isinstance(texts, (Sequence, Iterator)) or is_hugging_face(texts)) or isinstance(
        texts, (str, bytes, Mapping)
    ):
        raise ConfigError(
            f"{name}: this is no list of texts",
            expected=f"a list, each item {FORMS}",
            got=type(texts).__name__,
            fix="[text] for one text; list(zip(prompts, completions)) for columns; frame.to_dict('records') for a frame",
        )
    for place, text in enumerate(texts):
        yield _pair(text, f"{name}: text {place}")


def _pair(text: Any, where: str) -> tuple[str, str]:
    if isinstance(text, str):
        return "", text
    if isinstance(text, Mapping):
        keys = set(text)
        values = [text["prompt"], text["completion"]] if keys == {"prompt", "completion"} else None
        values = ["", text["text"]] if keys == {"text"} else values
        got = f"a mapping of {', '.join(printable(str(key)) for key in list(text)[:10])}"
    else:
        values = list(text) if isinstance(text, (tuple, list)) and len(text) == 2 else None
        got = f"{type(text).__name__} of {len(text)}" if isinstance(text, (tuple, list)) else type(text).__name__
    if values is not None and all(isinstance(value, str) for value in values):
        return values[0], values[1]
    if values is not None:
        got = " and ".join(type(value).__name__ for value in values)
    raise MismatchError(
        f"{where} is of a form that is not read",
        expected=FORMS,
        got=got,
        fix="[(row['prompt'], row['completion']) for row in rows]; messages by tokenizer.apply_chat_template(…, tokenize=False)",
    )


@dataclass(frozen=True)
class SpecialTokens:
    """What a tokenizer puts before and after a text by itself."""

    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()

    @classmethod
    def of(cls, tokenizer: Any, text: str) -> SpecialTokens:
        """Read off a text, encoded with and without. Raises `ConfigError` where the one does not hold the other."""
        whole = list(tokenizer(text, add_special_tokens=True)["input_ids"])
        plain = list(tokenizer(text, add_special_tokens=False)["input_ids"])
        for begin in range(len(whole) - len(plain) + 1):
            if whole[begin : begin + len(plain)] == plain:
                return cls(tuple(whole[:begin]), tuple(whole[begin + len(plain) :]))
        raise ConfigError(
            "the special tokens of this tokenizer cannot be distinguished from the text",
            expected="the same tokens with add_special_tokens=True as without, and others before and after",
            got=f"{whole[:8]} with, {plain[:8]} without",
        )

    def opening(self, tokens: Sequence[int]) -> list[int]:
        """What goes before tokens: nothing where the text itself begins with it."""
        return [] if tuple(tokens[: len(self.before)]) == self.before else list(self.before)

    def closing(self, tokens: Sequence[int], end: int | None) -> list[int]:
        """What goes after tokens, with the end of a text last unless it is among them already."""
        after = (*self.after, *(() if end is None or end in self.after else (end,)))
        return [] if tuple(tokens[len(tokens) - len(after) :]) == after else list(after)
