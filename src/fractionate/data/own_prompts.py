"""Texts for language models: prompts with their completions, of which only these are learned; or plain texts."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from fractionate.data.batch import Split
from fractionate.data.bundled import Divided, data_sets
from fractionate.data.labels import IGNORED
from fractionate.data.memory import MemorySplit
from fractionate.data.raw import RawData, RawSplit, Tokenizing
from fractionate.data.text_columns import Columns, Reading, raw_table, read_columns, read_parts, refuse_settings
from fractionate.data.text_file import read_text
from fractionate.data.token_ids import padded_inputs, padded_labels, require_fast, require_tokenizer, warn_cut
from fractionate.errors import ConfigError, DamagedError, MismatchError, printable
from fractionate.system.files import existing_file
from fractionate.system.paths import as_path


@dataclass(frozen=True, eq=False, repr=False)
class PromptData(RawData):
    """Texts of a language model, before any tokenizer.

    `encode` labels the tokens of the completion and the end of text; those of the prompt are ignored. Plain texts are labelled
    whole, and one that is longer than an input becomes more examples.

    Args:
        table: The rows.
        between: Put between prompt and completion where neither has a blank there.
        chat: Both are put into the tokenizer's chat template.
    """

    table: Divided
    between: str = " "
    chat: bool = False
    tasks: ClassVar[tuple[str, ...]] = ("language-modelling",)

    def encode(self, part: RawSplit, by: Tokenizing | None) -> Split:
        """A part as [examples, tokens] inputs and labels, -100 where a token is not learned."""
        by = require_tokenizer(by, "language-modelling")
        plain = part.columns.get("text")
        found = self._completions(by, part) if plain is None else _blocks(by, plain, part.ids)
        if not found:
            raise MismatchError(
                f"{part.name}: nothing is left to learn", expected="completions within data.length tokens",
                got=f"{len(part):,} prompts of {by.length:,} tokens or more", fix="set a larger data.length",
            )  # fmt: skip
        ids, rows, firsts = zip(*found, strict=True)
        labels = [[*[IGNORED] * first, *row[first:]] for row, first in zip(rows, firsts, strict=True)]
        inputs = padded_inputs({"input_ids": rows, "attention_mask": [[1] * len(row) for row in rows]}, by)
        return MemorySplit(inputs, padded_labels(labels), part.name, tuple(ids))

    def _completions(self, by: Tokenizing, part: RawSplit) -> list[tuple[str, list[int], int]]:
        """Id, tokens, and the place of the first token that is learned, of each example."""
        require_fast(by, "where a token begins")
        chats = part.columns.get("messages")
        if chats is not None:
            pairs = [_answered(by, chat) for chat in chats]
        else:
            both = zip(part.columns["prompt"], part.columns["completion"], strict=True)
            pairs = [self._whole(by, prompt, completion) for prompt, completion in both]
        made = by.tokenizer(
            [whole for _, whole in pairs], return_offsets_mapping=True, add_special_tokens=not self.chat, verbose=False
        )
        found: list[tuple[str, list[int], int]] = []
        cut = lost = 0
        rows = zip(part.ids, pairs, made["input_ids"], made["offset_mapping"], strict=True)
        for name, (prompt, _), tokens, places in rows:
            # a token that covers the seam is learned: it is the first that depends on the completion
            first = next((place for place, (_, end) in enumerate(places) if end > len(prompt)), len(tokens))
            row = tokens if self.chat else _ended(tokens, by)
            cut += len(row) > by.length
            if first < min(len(row), by.length):
                found.append((name, row[: by.length], first))
            else:
                lost += 1
        if cut:
            warn_cut(part.name, cut, len(part), by.length)
        if lost and found:
            warnings.warn(
                f"{part.name}: {lost:,} of {len(part):,} prompts leave no room for their completion, and are left out",
                stacklevel=3,
            )
        return found

    def _whole(self, by: Tokenizing, prompt: str, completion: str) -> tuple[str, str]:
        """The text up to the completion, and all of it."""
        if not self.chat:
            blank = prompt[-1:].isspace() or completion[:1].isspace() or not prompt
            return prompt, f"{prompt}{'' if blank else self.between}{completion}"
        return _answered(by, (("user", prompt), ("assistant", completion)))


def _answered(by: Tokenizing, chat: Sequence[tuple[str, str]]) -> tuple[str, str]:
    """The text of a chat up to its last message, and all of it, by the tokenizer's template."""
    if not by.tokenizer.chat_template:
        raise MismatchError(
            "the tokenizer has no chat template",
            expected="a chat_template in tokenizer_config.json",
            fix="give prompts and completions, without chat=",
        )
    messages = [{"role": role, "content": content} for role, content in chat]
    first = by.tokenizer.apply_chat_template(messages[:-1], tokenize=False, add_generation_prompt=True)
    whole = by.tokenizer.apply_chat_template(messages, tokenize=False)
    if not whole.startswith(first):
        raise MismatchError(
            "the chat template writes a prompt in another way once it is answered",
            expected="an answered chat that begins with its prompt",
            fix="write the template into prompts and completions, without chat=",
        )
    return first, whole


def _ended(tokens: Sequence[int], by: Tokenizing) -> list[int]:
    """Tokens with the end of text, where the tokenizer has one and has not put it there."""
    end = by.tokenizer.eos_token_id
    return [*tokens] if end is None or (tokens and tokens[-1] == end) else [*tokens, end]


def _blocks(by: Tokenizing, texts: Sequence[str], ids: Sequence[str]) -> list[tuple[str, list[int], int]]:
    """Plain texts in blocks of one length; a block of a single token predicts nothing and is left out."""
    found: list[tuple[str, list[int], int]] = []
    for name, tokens in zip(ids, by.tokenizer(list(texts), verbose=False)["input_ids"], strict=True):
        row = _ended(tokens, by)
        blocks = [row[start : start + by.length] for start in range(0, len(row), by.length)]
        kept = [block for block in blocks if len(block) > 1]
        found += [(name if len(blocks) == 1 else f"{name}:{place}", block, 0) for place, block in enumerate(kept)]
    return found


@data_sets.register("prompts")
def prompts(
    path: Path | str,
    *,
    prompt: str | None = None,
    completion: str | None = None,
    text: str | None = None,
    messages: str | None = None,
    between: str = " ",
    chat: bool = False,
    group: str | None = None,
    part: str | None = None,
    validation: Path | str | None = None,
    test: Path | str | None = None,
    repeats: bool = False,
    separator: str | None = None,
    encoding: str | None = None,
) -> PromptData:
    """Your texts for language-modelling: `prompts('chat.jsonl', prompt='question', completion='answer')`, or `text='story'`.

    Args:
        path: JSON lines, CSV, TSV, Parquet; or plain text: a .txt file, whose texts have empty lines between them.
        prompt: The column of prompts (`prompt`); they are read, not learned.
        completion: The column of what is learned (`completion`).
        text: The column of plain texts, learned whole, in place of these two.
        messages: The column of chats, lists of {"role": …, "content": …}, of which the last message is learned; in place of them.
        between: Put between prompt and completion where neither has a blank there.
        chat: Put both into the tokenizer's chat template, as user and assistant.
        group, part, validation, test, repeats, separator, encoding: As in `Reading`.

    Raises:
        ConfigError: for columns that are not there, and for settings that cannot be combined.
    """
    plain = text is not None or _is_plain(path)
    pairs = chat or prompt is not None or completion is not None
    if plain + pairs + (messages is not None) > 1:
        raise ConfigError(
            "plain texts have no prompts, and a chat has its own"
            if plain or messages
            else "prompts are named in two ways",
            expected="text=, or messages=, or prompt= and completion=",
            got="two of them",
            fix="leave out all but one",
        )
    reading = Reading(group, part, validation, test, repeats, separator, encoding)
    roles = {"text": text or "text"} if plain else {"messages": messages} if messages is not None else {
        "prompt": prompt or "prompt", "completion": completion or "completion"
    }  # fmt: skip
    columns, given = read_parts(path, roles, reading, _read)
    made: dict[str, tuple[Any, ...]] = (
        {"messages": _chats(columns)} if messages is not None else {role: columns.texts(role) for role in roles}
    )
    learned = (
        [row[-1][1] for row in made["messages"]] if messages is not None else made["text" if plain else "completion"]
    )
    empty = next((place for place, entry in enumerate(learned) if not entry.strip()), None)
    if empty is not None:
        raise DamagedError(
            f"{columns.where(empty)} there is nothing to learn", expected="text in every row", got="an empty entry"
        )
    chatting = bool(chat) or messages is not None
    return PromptData(raw_table(columns, made, reading, given, keys=tuple(roles)), between, chatting)


def _chats(columns: Columns) -> tuple[tuple[tuple[str, str], ...], ...]:
    """Role and text of every message of each chat. Raises `DamagedError` naming a row that holds something else."""
    found = []
    for place, chat in enumerate(columns.lists("messages")):
        notes = [message if isinstance(message, dict) else {} for message in chat]
        pairs = tuple((message.get("role"), message.get("content")) for message in notes)
        if len(pairs) < 2 or not all(isinstance(part, str) for pair in pairs for part in pair):
            raise DamagedError(
                f"{columns.where(place)} this is no chat",
                expected='two messages or more, each {"role": …, "content": …}',
                got=printable(str(chat), 100),
            )
        found.append(tuple((str(role), str(content)) for role, content in pairs))
    return tuple(found)


def _is_plain(path: Path | str) -> bool:
    return as_path(path, "the path of the texts").suffix.lower() == ".txt"


def _read(path: Path | str, roles: Mapping[str, str], *, separator: str | None, encoding: str | None) -> Columns:
    """The columns of one file; the paragraphs of plain text."""
    if not _is_plain(path):
        return read_columns(path, roles, separator=separator, encoding=encoding)
    file = existing_file(as_path(path))
    shown = printable(str(file), 200)
    refuse_settings(
        shown, "plain text", separator=separator, **{role: name for role, name in roles.items() if name != "text"}
    )
    texts: list[str] = []
    ids: list[str] = []
    lines: list[str] = []
    for number, line in enumerate([*read_text(file, encoding).splitlines(), ""], 1):
        if line.strip():
            ids += [str(number)] * (not lines)
            lines.append(line)
        elif lines:
            texts.append("\n".join(lines))
            lines = []
    if not texts:
        raise ConfigError(f"{shown} is empty", expected="texts with empty lines between them")
    return Columns(printable(file.name), {"text": texts}, roles, tuple(ids), (shown,) * len(ids))
