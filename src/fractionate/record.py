"""The base of all records: frozen, JSON both ways, shown in terminals and notebooks. No torch here."""

from __future__ import annotations

import html as html_text
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from fractionate.durable import write_file
from fractionate.errors import ConfigError, ResourceError

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


@dataclass(frozen=True)
class Record:
    """The one base class: a frozen record that goes to JSON and back and shows itself in terminals and notebooks."""

    def to_json(self, indent: int | None = 2) -> str:
        """The record as JSON text; NaN and infinities as strings."""
        text: bytes = _adapter(type(self)).dump_json(self, indent=indent)
        return text.decode()

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """The record that `to_json` wrote. Raises `ConfigError` naming every field that does not fit."""
        from pydantic import ValidationError

        try:
            record: Self = _adapter(cls).validate_json(text)
        except ValidationError as error:
            faults = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
            raise ConfigError(f"this is not the JSON of a {cls.__name__}", got=faults) from None
        return record

    @classmethod
    def json_schema(cls) -> dict[str, Any]:
        """The JSON Schema that `to_json` keeps to."""
        schema: dict[str, Any] = _finite_or_named(_adapter(cls).json_schema(mode="serialization"))
        return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | schema

    def save(self, path: Path | str) -> Path:
        """Write the JSON to a file, wholly or not at all, and give its path. Raises `ResourceError` where the disk refuses."""
        return write_file(path, f"{self.to_json()}\n".encode())

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """Read a record from a JSON file. Raises `ConfigError` where it is missing or not such a record."""
        try:
            text = Path(path).read_bytes()
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
            raise ConfigError(
                f"there is no {cls.__name__} at {path}",
                expected="a JSON file that save() wrote",
                fix="check the path",
            ) from error
        except OSError as error:
            raise ResourceError(f"cannot read {path}: {error.strerror}", fix="check its permissions") from error
        return cls.from_json(text)

    def _repr_html_(self) -> str:
        return f"<pre>{html_text.escape(str(self))}</pre>"
