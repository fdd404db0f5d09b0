"""What small commands print: what was written, settings and their meaning, differences of two run files. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fractionate.records.base import Record


@dataclass(frozen=True)
class Written(Record):
    """A file or folder that a command wrote.

    Args:
        path: Where it lies.
        bytes: Its size; of a folder that of all files below it.
    """

    path: str
    bytes: int

    @classmethod
    def at(cls, path: Path | str) -> Written:
        """What lies at a path, a folder with all that is in it."""
        path = Path(path)
        files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
        return cls(str(path), sum(file.stat().st_size for file in files))

    def __str__(self) -> str:
        return self.path


@dataclass(frozen=True)
class Compaction(Record):
    """A store whose shards were merged.

    Args:
        path: Of the store.
        shards_before: The number of shards before.
        shards_after: The number of shards now.
    """

    path: str
    shards_before: int
    shards_after: int

    def __str__(self) -> str:
        return f"{self.path}: {self.shards_before} shards are {self.shards_after} now"


@dataclass(frozen=True)
class Setting(Record):
    """One setting of a run file.

    Args:
        key: Of the setting, dotted.
        default: As YAML has it.
        meaning: What it does.
    """

    key: str
    default: str
    meaning: str

    def __str__(self) -> str:
        return f"{self.key}  default {self.default}  {self.meaning}"


@dataclass(frozen=True)
class Settings(Record):
    """Settings of a run file.

    Args:
        settings: In the order of the run file.
    """

    settings: tuple[Setting, ...]

    def __str__(self) -> str:
        width = max((len(one.key) for one in self.settings), default=0)
        default = max((len(one.default) for one in self.settings if len(one.default) < 20), default=0)
        lines = [f"{s.key:<{width}}  default {s.default:<{default}}  {s.meaning}" for s in self.settings]
        return "\n".join(lines) or "no settings"


@dataclass(frozen=True)
class Difference(Record):
    """A setting in which two run files differ.

    Args:
        key: Of the setting, dotted.
        first: Its value in the first file, as YAML.
        second: Its value in the second.
    """

    key: str
    first: str
    second: str

    def __str__(self) -> str:
        return f"{self.key}: {self.first} → {self.second}"


@dataclass(frozen=True)
class Differences(Record):
    """The settings in which two run files differ.

    Args:
        differences: One per setting; none where the files agree.
    """

    differences: tuple[Difference, ...]

    def __str__(self) -> str:
        return "\n".join(map(str, self.differences)) or "no setting differs"
