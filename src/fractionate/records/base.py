"""The base of all records: frozen, JSON both ways, shown in terminals and notebooks. No torch here.

A saved record has one field more, `digest`, over the values of the others: a changed digit is damage, another layout is not.
"""

from __future__ import annotations

import html as html_text
import json
import os
import re
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Self

import xxhash

from fractionate.errors import (
    ConfigError,
    DamagedError,
    FractionateError,
    MismatchError,
    ResourceError,
    printable,
    visible,
)
from fractionate.system.atomic import write_file
from fractionate.system.files import existing_file

DIGEST = "digest"
MADE_FOR = "made_for"  # what a record in a folder of a run belongs to: a hash of the run file and its sources
CARD = "card"  # what `--json` adds: the decision, worked out from the record and its companions, and no part of it
MOST_FAULTS = 20  # shown at once
MOST_BYTES = 1 << 30
_ADAPTERS: dict[type, Any] = {}


def _adapter(record: type) -> Any:
    if record in _ADAPTERS:
        return _ADAPTERS[record]
    from pydantic import ConfigDict, TypeAdapter  # lazy: a quarter of the command line's start-up

    record.__pydantic_config__ = ConfigDict(ser_json_inf_nan="strings", extra="forbid")  # type: ignore[attr-defined]
    _ADAPTERS[record] = TypeAdapter(record)
    return _ADAPTERS[record]


def _finite_or_named(schema: Any) -> Any:
    """The schema with numbers as `to_json` writes them: NaN and infinities are strings."""
    if isinstance(schema, list):
        return [_finite_or_named(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: _finite_or_named(part) for key, part in schema.items()}
    if found.get("type") == "number":
        number = {"anyOf": [{"type": "number"}, {"enum": ["NaN", "Infinity", "-Infinity"]}]}
        return {key: part for key, part in found.items() if key != "type"} | number
    return found


def escaped(text: str) -> str:
    """JSON with everything that cannot be printed as escapes: the same values, and nothing that a terminal would act on."""
    return re.sub(r"[^\x20-\x7e\n]", lambda c: c[0] if c[0].isprintable() else json.dumps(c[0])[1:-1], text)


def _digest(fields: dict[str, Any]) -> str:
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"))
    return f"xxh3-128 {xxhash.xxh3_128_hexdigest(text.encode())}"


def _checked(text: str | bytes) -> tuple[str | bytes, bool, str]:
    """The JSON without its digest, whether it had one, and what it was made for.

    Raises `DamagedError` where the digest is of other values.
    """
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):
        return text, False, ""  # what is wrong with it is for the schema to say
    if not isinstance(fields, dict):
        return text, False, ""
    if DIGEST not in fields:
        return (json.dumps(fields) if fields.pop(CARD, None) is not None else text), False, ""
    found, expected = fields.pop(DIGEST), _digest(fields)
    if found != expected:
        raise DamagedError(
            "the values are not those that were saved", expected=f"digest {expected}", got=printable(f"digest {found}"),
            fix="make the record again",
        )  # fmt: skip
    made_for = str(fields.pop(MADE_FOR, ""))
    return json.dumps(fields), True, made_for


NOTEBOOK = "fractionate.page.notebook"  # by name: it stands above the records, and only notebooks need it
PAPER = "fractionate.page.paper"  # likewise


@dataclass(frozen=True)
class Record:
    """The one base class: a frozen record that goes to JSON and back and shows itself in terminals and notebooks."""

    def to_json(self, indent: int | None = 2) -> str:
        """The record as JSON text; NaN and infinities as strings. Raises `ConfigError` for text that is no Unicode."""
        try:
            text: bytes = _adapter(type(self)).dump_json(self, indent=indent)
        except ValueError as error:
            raise ConfigError(f"this {type(self).__name__} cannot be written as JSON", got=str(error)) from None
        return escaped(text.decode())

    def to_json_with(self, card: Record) -> str:
        """The record as JSON with the card of the decision; `from_json` reads it and leaves the card out."""
        return escaped(json.dumps({**json.loads(self.to_json()), CARD: json.loads(card.to_json())}, indent=2))

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """The record that `to_json` or `save` wrote.

        Raises `ConfigError` naming every field that does not fit, `DamagedError` where there is a digest and it does not.
        """
        return cls._read(text)[0]

    @classmethod
    def _read(cls, text: str | bytes) -> tuple[Self, bool, str]:
        """The record, whether it had a digest, and what it was made for."""
        from pydantic import ValidationError

        body, sealed, made_for = _checked(text)
        try:
            record: Self = _adapter(cls).validate_json(body)
        except ValidationError as error:
            faults = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()[:MOST_FAULTS]]
            raise ConfigError(f"this is not the JSON of a {cls.__name__}", got="; ".join(faults)) from None
        return record, sealed, made_for

    @classmethod
    def json_schema(cls) -> dict[str, Any]:
        """The JSON Schema that `to_json` keeps to."""
        schema: dict[str, Any] = _finite_or_named(_adapter(cls).json_schema(mode="serialization"))
        return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | schema

    def save(self, path: Path | str, *, made_for: str = "") -> Path:
        """Write the JSON with its digest to a file, wholly or not at all, and give its path.

        Args:
            made_for: The run that the record belongs to, part of the file and of its digest; `load_kept` asks for it.

        Raises:
            ResourceError: where the disk refuses.
        """
        fields = json.loads(self.to_json(indent=None)) | ({MADE_FOR: made_for} if made_for else {})
        text = json.dumps({**fields, DIGEST: _digest(fields)}, indent=2, ensure_ascii=False)
        return write_file(path, f"{escaped(text)}\n".encode())

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """Read a record that `save` wrote.

        Raises `ConfigError` where there is none and `DamagedError`, naming the file, where it does not hold what was saved.
        """
        return cls._loaded(path)[0]

    @classmethod
    def _loaded(cls, path: Path | str) -> tuple[Self, str]:
        path = existing_file(path, what=cls.__name__, fix="check the path")
        again = f"delete this file, {path}, and run the same command again"
        try:
            if path.stat().st_size > MOST_BYTES:
                raise DamagedError(f"{path} is damaged: {path.stat().st_size:,} bytes are no record", fix=again)
            text = path.read_bytes()
        except OSError as error:
            raise ResourceError(f"cannot read {path}: {error.strerror}", fix="check its permissions") from error
        try:
            record, sealed, made_for = cls._read(text)
        except FractionateError as error:
            raise DamagedError(
                f"{path} is damaged: {error.what}", expected=error.expected, got=error.got, fix=again
            ) from error
        if not sealed:
            raise DamagedError(
                f"{path} is damaged: it has no digest", expected="a JSON file that save() wrote", fix=again
            )
        return record, made_for

    @classmethod
    def load_kept(cls, path: Path | str, *, made_for: str = "") -> Self | None:
        """The record that a run keeps at a path; None where it has not been made.

        Raises `DamagedError`, naming the path, where something else stands there, and `MismatchError` for another run's record.
        """
        if not os.path.lexists(path):
            return None
        again = f"delete this file, {path}, and run the same command again"
        try:
            record, found = cls._loaded(path)
            if made_for and found != made_for:
                raise MismatchError(
                    f"{path} is the record of another run",
                    expected=f"made for {made_for}",
                    got=f"made for {found}" if found else "made for no run",
                    fix=again,
                )
            return record
        except ConfigError as error:
            raise DamagedError(f"{path} is damaged: {error.what}", got=error.got, fix=again) from error

    def figures(self) -> dict[str, Any]:
        """The record's figures for a paper by name, as matplotlib figures: `study.figures()["effects"].savefig("a.pdf")`.

        Raises `MissingExtraError` without matplotlib and `ConfigError` for a record that holds nothing to draw.
        """
        found: dict[str, Any] = import_module(PAPER).figures([self])
        return found

    def _repr_html_(self) -> str:
        card: str | None = import_module(NOTEBOOK).card_html(self)
        return card or f"<pre>{html_text.escape(visible(str(self)))}</pre>"
