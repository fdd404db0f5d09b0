"""A figure: a drawing, what it says, and its numbers as a table and as a file to download."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from fractionate.page.text import number
from fractionate.records import Histogram, ShareLevel
from fractionate.system.plain_text import csv_text

LEVEL_CLASSES: dict[ShareLevel, str] = {
    "universe": "lv-u",
    "domain.confidence": "lv-dc",
    "domain.shape": "lv-ds",
    "instance.confidence": "lv-ic",
    "instance.shape": "lv-is",
    "domain": "lv-ds",
    "instance": "lv-is",
}
TABLE_ROWS = 120  # a longer table is cut on the page and whole in the download


@dataclass(frozen=True)
class Figure:
    """What the template draws: title (says what is seen), drawing, caption (how to read it), numbers."""

    name: str  # of the file to download, and the anchor
    title: str
    drawing: Markup
    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[object, ...], ...]
    table_rows: tuple[tuple[object, ...], ...] | None = None  # where the page shows others than the file
    table_note: str = ""
    narrow: bool = False

    @property
    def shown(self) -> tuple[tuple[str, ...], ...]:
        """The rows on the page: numbers made readable."""
        rows = self.rows if self.table_rows is None else self.table_rows
        return tuple(tuple(_shown(cell) for cell in row) for row in rows[:TABLE_ROWS])

    @property
    def topic(self) -> str:
        """What it is about in a word or two: `class-relation-2` is about "class relation"."""
        return self.name.rstrip("-0123456789").replace("-", " ")

    @property
    def cut(self) -> int:
        """How many rows stand in the file only."""
        return max(0, len(self.rows if self.table_rows is None else self.table_rows) - TABLE_ROWS)

    @property
    def numeric(self) -> tuple[bool, ...]:
        """Which columns hold numbers."""
        rows = self.rows if self.table_rows is None else self.table_rows
        return tuple(
            all(isinstance(row[i], (int, float)) or row[i] is None for row in rows) for i in range(len(self.head))
        )

    @property
    def download(self) -> Markup:
        """The CSV as a data address: works offline and without script."""
        text = csv_text(self.head, self.rows)
        encoded = base64.b64encode(text.encode("utf-8", "replace")).decode()
        return Markup("data:text/csv;charset=utf-8;base64,{}").format(encoded)


def _shown(cell: object) -> str:
    if isinstance(cell, bool) or not isinstance(cell, (int, float)):
        return "–" if cell is None else str(cell)
    return f"{cell:,}" if isinstance(cell, int) else number(cell, 4)


def pooled(histograms: Iterable[Histogram], bins: int = 32) -> Histogram | None:
    """Histograms as one, over all their edges, each bin spread evenly over its width; None where there is nothing."""
    parts = [h for h in histograms if sum(h.counts) and len(h.edges) == len(h.counts) + 1]
    parts = [h for h in parts if np.isfinite([*h.edges, h.mean, h.deviation]).all() and h.edges[-1] > h.edges[0]]
    if not parts:
        return None
    sizes = np.array([sum(h.counts) for h in parts], dtype=np.float64)
    mean = float(np.average([h.mean for h in parts], weights=sizes))
    square = float(np.average([h.deviation**2 + h.mean**2 for h in parts], weights=sizes))
    edges = np.array(parts[0].edges)
    if any(h.edges != parts[0].edges for h in parts):
        edges = np.linspace(min(h.edges[0] for h in parts), max(h.edges[-1] for h in parts), bins + 1)
    below = sum(np.interp(edges, h.edges, np.cumsum([0, *h.counts])) for h in parts)
    counts = np.diff(np.rint(below)).astype(int)
    deviation = max(0.0, square - mean**2) ** 0.5
    return Histogram(parts[0].name, tuple(edges.tolist()), tuple(counts.tolist()), mean, deviation)
