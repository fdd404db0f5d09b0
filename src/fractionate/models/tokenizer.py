"""Tokenizers of transformers: opened, written next to a student, and two of them over the same texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fractionate.data.batch import Split
from fractionate.data.parts import with_views
from fractionate.data.raw import RawData, RawSplit, Tokenizing
from fractionate.errors import ConfigError, MismatchError, ResourceError, reason
from fractionate.system.atomic import make_directory

ONE_ROW = (
    "classification",
    "multi-label",
    "regression",
    "embeddings",
    "reranking",
)  # kinds of task with one row an example


def prepared(tokenizer: Any, name: str) -> Any:
    """A tokenizer that fills up batches on the right, with a padding token.

    Models for generation come without one: the end of text fills up then, which attention masks and labels leave out. Raises
    `ConfigError` where it has neither.
    """
    tokenizer.padding_side = "right"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    if tokenizer.pad_token is None:
        raise ConfigError(
            f"the tokenizer of {name} has no token to fill up with",
            expected="a pad_token or eos_token in tokenizer_config.json",
            fix="set tokenizer.pad_token and save it with save_pretrained",
        )
    return tokenizer


def save_tokenizer(tokenizer: Any, folder: Path | str) -> None:
    """Write a tokenizer's own files into a folder, so that `AutoTokenizer.from_pretrained(folder)` opens it.

    Args:
        tokenizer: Of transformers.
        folder: Where to write.

    Raises:
        ConfigError: for an object that cannot write itself.
        ResourceError: where the folder cannot be written.

    Example:
        from tokenizers import Tokenizer
        from tokenizers.models import WordLevel
        from transformers import PreTrainedTokenizerFast
        from fractionate.models import save_tokenizer

        words = Tokenizer(WordLevel({"good": 0, "[UNK]": 1}, unk_token="[UNK]"))
        save_tokenizer(PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]"), "student")
    """
    if not hasattr(tokenizer, "save_pretrained"):
        raise ConfigError(
            f"a {type(tokenizer).__name__} cannot be saved", expected="a tokenizer of transformers with save_pretrained"
        )
    try:
        tokenizer.save_pretrained(str(make_directory(folder)))
    except OSError as error:
        if isinstance(error, ResourceError):
            raise
        raise ResourceError(f"cannot write the tokenizer to {folder}: {reason(error)}") from error


def reads_alike(first: Tokenizing, second: Tokenizing) -> bool:
    """Whether two models take the same numbers for a text: the same cuts, numbers, special tokens, length and padding."""
    same = first.tokenizer is second.tokenizer or _rules(first.tokenizer) == _rules(second.tokenizer)
    return same and first == second


def _rules(tokenizer: Any) -> tuple[Any, ...]:
    """What decides the numbers of a text; a tokenizer of Rust states its rules, others their vocabulary alone."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    rules = None
    if backend is not None:
        import json

        rules = json.loads(backend.to_str())
        for state in ("truncation", "padding"):  # of its last call
            rules.pop(state, None)
    special = (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id)
    return rules or tokenizer.get_vocab(), special, tuple(getattr(tokenizer, "model_input_names", ()))


def encode_for(data: RawData, part: RawSplit, student: Tokenizing | None, teacher: Tokenizing | None = None) -> Split:
    """A part as the student reads it; a teacher that reads text in another way finds its inputs in the view "teacher".

    Args:
        data: Where the part is from.
        part: The texts.
        student: How texts become the student's inputs; None: it has no tokenizer.
        teacher: The same of the teacher; None: it reads the student's inputs.

    Raises:
        ConfigError: for a prompt in a task with rows for tokens.
        MismatchError: for two tokenizers in such a task: there a row of one is no row of the other.
    """
    tokens = not set(data.tasks) <= set(ONE_ROW)
    if tokens and any(by is not None and by.prompt for by in (student, teacher)):
        raise ConfigError(
            f"{part.name}: a prompt is put around a text that is one row, and here every token is a row",
            expected=f"task: {', '.join(ONE_ROW)}",
            fix="leave prompt= out, or write it into the data",
        )
    split = data.encode(part, student)
    if teacher is None or (student is not None and reads_alike(student, teacher)):
        return split
    if tokens:
        raise MismatchError(
            f"{part.name}: student and teacher cut texts into different tokens",
            expected="one tokenizer, where every token is a row",
            got="two tokenizers",
            fix="give the student the teacher's: hf(…, tokenizer='the teacher’s folder'); or learn from what the teacher writes: "
            "transforms: sequence_level()",
        )
    return with_views(split, {"teacher": data.encode(part, teacher)})
