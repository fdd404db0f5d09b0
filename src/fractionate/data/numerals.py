"""Numbers as people write them: the decimal mark, what stands between thousands, and what is no number but looks like one."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from functools import cache

from fractionate.errors import ConfigError

SPACES, APOSTROPHES = (
    " \u00a0\u2007\u2009\u202f",
    "'\u2019",
)  # what is typed for a space, or an apostrophe, among digits
CODE = re.compile(r"0\d+", re.ASCII)
DATE = re.compile(
    r"(\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}[-/.]\d{1,2}[-/.](\d{4}|\d\d))([T ]\d{1,2}:\d\d\S*)?|\d{1,2}:\d\d(:\d\d)?",
    re.ASCII,
)


@dataclass(frozen=True)
class Numerals:
    """How numbers are written: the mark before the decimals, and what stands between thousands ("": nothing).

    Raises `ConfigError` for marks that are none.
    """

    decimal: str = "."
    thousands: str = ""

    def __post_init__(self) -> None:
        marks = {"decimal": self.decimal, "thousands": self.thousands}
        for name, mark in marks.items():
            fits = isinstance(mark, str) and (len(mark) == 1 or (name == "thousands" and not mark))
            if not fits or mark.isalnum() or (mark and mark in '+-"\r\n\t'):
                raise ConfigError(f"invalid value for {name}", expected="one character, such as . or ,", got=repr(mark))
        if self.decimal == self.thousands:
            raise ConfigError(
                "decimal and thousands are the same mark", got=repr(self.decimal), fix="name the other one"
            )

    def plain(self, cell: str) -> str | None:
        """A cell as Python writes the number; None where it is none. No `inf`, no `1_000`, no other alphabet's digits."""
        if not _pattern(self.decimal, self.thousands).fullmatch(cell):
            return None
        for mark in _alike(self.thousands):
            cell = cell.replace(mark, "")
        return cell.replace(self.decimal, ".")

    def number(self, cell: str) -> float | None:
        """A cell as a finite number; None where it is none."""
        plain = self.plain(cell)
        value = math.inf if plain is None else float(plain)
        return value if math.isfinite(value) else None

    def exact(self, cell: str) -> Decimal | None:
        """A cell as the number that it says, to the last digit; None where it is no finite number of Python's."""
        return None if self.number(cell) is None else Decimal(str(self.plain(cell)))

    def merges(self, cell: str) -> bool:
        """Whether a whole number has digits that a floating-point number does not keep: other numbers become the same."""
        plain = self.plain(cell)
        return (
            plain is not None and plain.lstrip("+-").isdigit() and len(plain) > 15 and int(float(plain)) != int(plain)
        )

    def __str__(self) -> str:
        return f"decimal={self.decimal!r}" + (f", thousands={self.thousands!r}" if self.thousands else "")


PLAIN = Numerals()
OTHERS = (PLAIN, Numerals(","), Numerals(".", ","), Numerals(",", "."), Numerals(".", " "), Numerals(",", " "),
          Numerals(".", "'"), Numerals(",", "'"))  # fmt: skip


def _alike(mark: str) -> str:
    return next((marks for marks in (SPACES, APOSTROPHES) if mark and mark in marks), mark)


@cache
def _pattern(decimal: str, thousands: str) -> re.Pattern[str]:
    point, between = re.escape(decimal), f"[{re.escape(_alike(thousands))}]" if thousands else ""
    whole = rf"\d+|\d{{1,3}}({between}\d{{2,3}})*{between}\d{{3}}" if between else r"\d+"
    return re.compile(rf"[+-]?(({whole})({point}\d*)?|{point}\d+)([eE][+-]?\d+)?", re.ASCII)


def other_numerals(cells: Iterable[str], numerals: Numerals) -> tuple[Numerals, ...]:
    """Other ways to write numbers by which all of the cells are numbers: two where 1,234 may be either."""
    there = set(cells)
    found = [o for o in OTHERS if o != numerals and all(o.number(cell) is not None for cell in there)]
    grouped = [o for o in found if any(mark in cell for cell in there for mark in _alike(o.thousands))]
    return (*[o for o in found if o not in grouped][:1], *grouped[:1])
