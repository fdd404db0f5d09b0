"""Answers of language models elsewhere: top-k log-probabilities in JSONL or Parquet, as OpenAI-like APIs and vLLM write them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fractionate.data.text_file import open_text, unique_keys
from fractionate.errors import (
    ConfigError,
    DamagedError,
    MismatchError,
    NumericsError,
    extra,
    printable,
)
from fractionate.system.files import existing_file

IDS = ("custom_id", "example_id", "example", "id")
ABOVE = 1e-4  # a log-probability may exceed 0 by this much: servers compute in half precision
SUM_TOLERANCE = 1e-2  # and a sum of probabilities 1 by this much
NUMBERED = "token_id:"  # vLLM's --return-tokens-as-token-ids

Token = str | int


@dataclass(frozen=True)
class Position:
    """One distribution: the log-probabilities of some tokens, the token that stands there, and the mass of all others."""

    entries: Mapping[Token, float]
    token: Token | None = None
    remainder: float | None = None

    @property
    def left(self) -> float:
        """The probability of all tokens that are not among the entries."""
        return 1 - math.fsum(map(math.exp, self.entries.values())) if self.remainder is None else self.remainder


@dataclass(frozen=True)
class Answer:
    """The distributions of one example, in order; None where a server gives none (the first token of a prompt)."""

    example: str
    positions: tuple[Position | None, ...]


def read_answers(source: Path | str | Iterable[Mapping[str, Any]], *, id_field: str = "") -> Iterator[Answer]:
    """Answers out of a .jsonl or .parquet file, or of mappings of that form, checked one by one.

    A line is a response of a chat, completion or batch API with the example's id next to it (`custom_id`, `example_id`,
    `example` or `id`), or plain: `{"id": …, "logprobs": …, "remainder": …}` with `logprobs` a mapping of tokens to numbers, a list
    of `{"token": …, "logprob": …}`, or a list of these, one per position.

    Raises:
        DamagedError: for a line that is no JSON, such as the last of a program that was killed.
        MismatchError: for lines without an id or without log-probabilities, and those of a request that failed.
        NumericsError: for log-probabilities that are above 0, that sum to more than 1, or that a tail mass contradicts.
    """
    for where, line in _lines(source):
        yield _answer(line, where, id_field)


def _lines(source: Path | str | Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if not isinstance(source, (str, Path)):
        yield from ((f"answer {number}", line) for number, line in enumerate(source))
        return
    path = existing_file(source)
    if path.suffix == ".parquet":
        with extra("parquet", "reading Parquet needs pyarrow"):
            from pyarrow import parquet
        try:
            batches = parquet.ParquetFile(path).iter_batches(batch_size=1024)
            for first, batch in enumerate(batches):
                yield from ((f"{path.name}, row {1024 * first + n}", row) for n, row in enumerate(batch.to_pylist()))
        except (OSError, ValueError) as error:
            raise DamagedError(f"{path} cannot be read", got=printable(str(error), 200)) from error
        return
    if path.suffix not in (".jsonl", ".ndjson"):
        raise ConfigError(f"cannot read {path.name}", expected=".jsonl or .parquet", got=path.suffix or "no suffix")
    with open_text(path) as file:
        for number, text in enumerate(file, start=1):
            if not text.strip():
                continue
            try:
                line = json.loads(text, object_pairs_hook=unique_keys)
            except (ValueError, RecursionError) as error:
                raise DamagedError(
                    f"{path.name}, line {number} is no JSON",
                    got=printable(text.strip() if isinstance(error, json.JSONDecodeError) else str(error), 80),
                    fix="remove that line and ask for its example again",
                ) from error
            if not isinstance(line, dict):
                raise MismatchError(f"{path.name}, line {number} is no object", got=printable(text.strip(), 80))
            yield f"{path.name}, line {number}", line


def _answer(line: Mapping[str, Any], where: str, id_field: str) -> Answer:
    response = line.get("response")
    body = response.get("body", response) if isinstance(response, Mapping) else line
    names = (id_field,) if id_field else IDS
    own = "object" in line  # of a bare response `id` is the response's own
    found = [line[name] for name in names if line.get(name) is not None and not (own and name == "id")]
    if not found:
        raise MismatchError(
            f"{where} has no id of its example",
            expected=" or ".join(names),
            got=printable(", ".join(map(str, line)), 120),
            fix="write the example's id next to the response, or name its field: id_field=",
        )
    example = str(found[0])
    failed = line.get("error") or (body.get("error") if isinstance(body, Mapping) else None)
    if failed:
        raise MismatchError(
            f"{where}: the request of example {printable(example)!r} failed", got=printable(str(failed), 120),
            fix="ask for it again, or leave it out of the data and the file",
        )  # fmt: skip
    given = _given(body if isinstance(body, Mapping) else {})
    if given is None:
        raise MismatchError(
            f"{where}: example {printable(example)!r} has no log-probabilities",
            expected="logprobs with top_logprobs, prompt_logprobs, or a mapping of tokens to numbers",
            got=printable(", ".join(map(str, body)), 120),
            fix="ask with logprobs=True and top_logprobs=20 (chat), logprobs=20 (completions), prompt_logprobs=20 (vLLM); "
            'write probabilities as their logarithms, {"id": "7", "logprobs": {"yes": -0.22, "no": -1.61}}',
        )
    remainders = line.get("remainder")
    if not isinstance(remainders, list):
        remainders = [remainders] * len(given)
    if len(remainders) != len(given):
        raise MismatchError(
            f"{where}: remainders and positions differ in number", expected=str(len(given)), got=str(len(remainders))
        )
    shown = f"{where} (example {printable(example)!r})"
    positions = (_position(value, rest, shown) for value, rest in zip(given, remainders, strict=True))
    return Answer(example, tuple(positions))


def _given(body: Mapping[str, Any]) -> list[Any] | None:
    """The positions of a response, each still in its server's form."""
    choices = body.get("choices") or body.get("outputs") or [{}]
    first = choices[0] if isinstance(choices[0], Mapping) else {}
    for holder in (first, body):
        for name in ("prompt_logprobs", "logprobs", "top_logprobs"):
            value = holder.get(name)
            if isinstance(value, Mapping) and isinstance(value.get("content"), list):  # chat
                return list(value["content"])
            if isinstance(value, Mapping) and isinstance(value.get("top_logprobs"), list):  # completions
                tokens = value.get("tokens") or [None] * len(value["top_logprobs"])
                own = value.get("token_logprobs") or [None] * len(tokens)
                pairs = zip(tokens, own, value["top_logprobs"], strict=True)
                return [None if t is None else {"token": a, "logprob": b, "top_logprobs": t} for a, b, t in pairs]
            if isinstance(value, Mapping):
                return [value]
            if isinstance(value, list) and value:
                tokens = holder.get("tokens")
                if isinstance(tokens, list) and all(isinstance(one, (int, float)) for one in value):
                    return [dict(zip(tokens, value, strict=True))]
                nested = any(one is None or _is_position(one) for one in value)
                return list(value) if nested else [value]
    return None


def _is_position(value: Any) -> bool:
    """Whether a part of a list is a distribution of its own, and not one entry of one."""
    if isinstance(value, Mapping):
        return "top_logprobs" in value or "logprob" not in value
    return isinstance(value, list) and bool(value) and isinstance(value[0], (Mapping, list, tuple))


def _position(value: Any, remainder: Any, where: str) -> Position | None:
    if value is None:
        return None
    token: Token | None = None
    if isinstance(value, Mapping) and "top_logprobs" in value:
        top = value["top_logprobs"]
        entries = dict(_entries(top, where)) if top else {}
        if value.get("token") is not None:
            token = _token(value["token"])
            if value.get("logprob") is not None:
                entries.setdefault(token, float(value["logprob"]))
    else:
        entries = dict(_entries(value, where))
    if not entries:
        raise MismatchError(f"{where}: a position has no log-probabilities", expected="at least one token")
    found = Position(entries, token, None if remainder is None else float(remainder))
    _check(found, where)
    return found


def _entries(value: Any, where: str) -> Iterator[tuple[Token, float]]:
    try:
        if isinstance(value, Mapping):
            for key, one in value.items():
                inside = isinstance(one, Mapping)  # vLLM: the key is the token's number
                yield (
                    (int(key) if inside and str(key).isdecimal() else _token(key)),
                    float(one["logprob"] if inside else one),
                )
            return
        for one in value:
            if isinstance(one, Mapping):
                key = next(one[name] for name in ("token_id", "token", "id") if one.get(name) is not None)
                yield _token(key), float(one["logprob"])
            else:
                key, number = one
                yield _token(key), float(number)
    except (TypeError, ValueError, KeyError, StopIteration) as error:
        raise MismatchError(
            f"{where}: these are no log-probabilities",
            expected='{"token": number, …} or [{"token": …, "logprob": …}, …]',
            got=printable(str(value), 120),
        ) from error


def _token(key: Any) -> Token:
    if isinstance(key, int):
        return key
    text = str(key)
    return int(text.removeprefix(NUMBERED)) if text.startswith(NUMBERED) else text


def _check(found: Position, where: str) -> None:
    numbers: Sequence[float] = list(found.entries.values())
    wrong = [number for number in numbers if math.isnan(number) or number > ABOVE]
    total = math.fsum(math.exp(min(number, 0.0)) for number in numbers if not math.isnan(number))
    if wrong or total > 1 + SUM_TOLERANCE:
        raise NumericsError(
            f"{where}: these are no log-probabilities",
            expected="numbers up to 0 whose exponentials sum to at most 1",
            got=f"{wrong[0]:g}" if wrong else f"a sum of {total:g}",
            fix="natural logarithms of probabilities after the softmax, before any penalty or filter of sampling",
        )
    rest = found.remainder
    if rest is not None and (not 0 <= rest <= 1 + SUM_TOLERANCE or abs(total + rest - 1) > SUM_TOLERANCE):
        raise NumericsError(
            f"{where}: 'remainder' contradicts the entries", expected=f"about {max(0.0, 1 - total):.4g}", got=f"{rest:g}",
            fix="the probability of all tokens that are not listed, or leave it out",
        )  # fmt: skip
