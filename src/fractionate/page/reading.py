"""Records as given: objects, JSON texts, or files of them. The kind of a JSON follows from the fields it must have."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from fractionate.errors import ConfigError, DamagedError
from fractionate.records import AttentionStudy, Diagnosis, Explanations, NotableExamples, Run, Study
from fractionate.records.base import MOST_BYTES, Record
from fractionate.system.files import existing_file
from fractionate.system.paths import as_path

Source = Record | str | Path
_KINDS: tuple[tuple[frozenset[str], type[Record]], ...] = (
    (frozenset({"spectrum", "findings", "recipe"}), Diagnosis),
    (frozenset({"arms", "seeds", "runs", "effects"}), Study),
    (frozenset({"quantization", "attention_arms"}), AttentionStudy),
    (frozenset({"arm", "seed", "status", "steps"}), Run),
    (frozenset({"superfeatures", "examples", "measured_on"}), Explanations),
    (frozenset({"split", "rows_seen", "lists"}), NotableExamples),
)


def read_records(records: Source | Sequence[Source]) -> tuple[Record, ...]:
    """Every record that was given, in order.

    Args:
        records: A record, its JSON text, the path of a JSON file or of a folder of them, or a sequence of these.

    Returns:
        The records; those of a folder by the names of its files.

    Raises:
        ConfigError: for nothing at all, a missing file or another kind of record.
        DamagedError: for broken JSON.

    Example:
        import torch
        from fractionate import TeacherSignal, diagnose
        from fractionate.page import read_records

        found = diagnose(TeacherSignal(torch.randn(40, 4), torch.arange(40) % 4))
        print(len(read_records([found, found.to_json()])))
    """
    single = isinstance(records, (Record, str, Path)) or not hasattr(records, "__iter__")
    given: list[Source] = [records] if single else list(records)  # type: ignore[list-item, arg-type]
    found: list[Record] = []
    for item in given:
        if isinstance(item, (str, Path)) and not _is_json(item) and (folder := as_path(item)).is_dir():
            found += [read_record(path) for path in sorted(folder.glob("*.json"))]
        else:
            found.append(read_record(item))
    if not found:
        raise ConfigError(
            "there is nothing to report", expected="at least one diagnosis, study or run", got="an empty list"
        )
    return tuple(found)


def read_record(source: Source) -> Record:
    """One record for a report.

    Args:
        source: A record, its JSON text, or the path of a JSON file.

    Returns:
        The record.

    Raises:
        ConfigError: for a missing file and for records that a report cannot be made of.
        DamagedError: for what is no JSON.

    Example:
        import torch
        from fractionate import TeacherSignal, diagnose
        from fractionate.page import read_record

        found = diagnose(TeacherSignal(torch.randn(40, 4), torch.arange(40) % 4))
        print(read_record(found.to_json()) == found)
    """
    if isinstance(source, Record):
        if not isinstance(source, (Diagnosis, Study, Run, Explanations, AttentionStudy, NotableExamples)):
            raise ConfigError(
                "a report cannot be made of this record",
                expected="Diagnosis, Study, Run, NotableExamples or Explanations",
                got=type(source).__name__,
            )
        return source
    if not isinstance(source, (str, Path)):
        raise ConfigError(
            "this is not a record",
            expected="Diagnosis, Study, Run or a path of their JSON",
            got=f"{type(source).__name__}",
        )
    if _is_json(source):
        text, place = str(source), "the JSON text"
    else:
        place = str(source)
        try:
            file = existing_file(source)
            if file.stat().st_size > MOST_BYTES:
                raise DamagedError(f"{place} is no record", got=f"{file.stat().st_size:,} bytes")
            text = file.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            raise DamagedError(f"{place} is not a text file", expected="the JSON of a record") from None
        except DamagedError:
            raise
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"cannot read {place}", got=str(error), fix="give the path that `--json` or `save` wrote"
            ) from None
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"{place} is not JSON", got=str(error), fix="make the record again") from None
    names = set(fields) if isinstance(fields, dict) else set()
    for needed, kind in _KINDS:
        if needed <= names:
            try:
                return kind.from_json(text)
            except (ConfigError, DamagedError) as error:
                raise type(error)(
                    f"{place}: {error.what}", expected=error.expected, got=error.got, fix=error.fix
                ) from error
    raise ConfigError(
        f"{place} is not a record that a report can be made of",
        expected="the JSON of a diagnosis, a study or a run",
        got=f"the fields {', '.join(sorted(names)[:8])}" if names else "no fields",
    )


def _is_json(source: str | Path) -> bool:
    return isinstance(source, str) and source.lstrip().startswith("{")
