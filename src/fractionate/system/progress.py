"""How far a long computation is: a bar with the time left, on a terminal alone and on standard error."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any, Literal

from fractionate.errors import printable, visible

Show = Literal["auto", "bar", "nothing"]


class Progress:
    """A bar (rich), or nothing.

    Args:
        show: "auto" is a bar where stderr is a terminal.
        wait: Seconds before anything is shown.
        parts: What the total is made of, as ("student", 50): shown in place of the total's own count.
    """

    def __init__(
        self,
        title: str,
        total: int,
        *,
        show: Show = "auto",
        done: int = 0,
        wait: float = 0.0,
        parts: tuple[str, int] | None = None,
    ) -> None:
        self.silent = show == "nothing"
        self.show = ("bar" if sys.stderr.isatty() else "nothing") if show == "auto" else show
        self.title, self.total, self.done = printable(title), max(1, total), done
        self.parts = parts
        self.start = time.monotonic() + wait
        self._bar: Any = None
        if not wait:
            self.at(done)

    def _open(self) -> None:
        from rich.console import Console
        from rich.markup import escape
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        count = MofNCompleteColumn() if self.parts is None else TextColumn("{task.fields[place]}")
        left = (TimeRemainingColumn(compact=True), TextColumn("left"))
        columns = (BarColumn(), count, *left, TextColumn("{task.fields[note]}"))
        self._bar = Bar(TextColumn(escape(self.title)), *columns, console=Console(stderr=True), transient=True)
        self._bar.start()
        self._task = self._bar.add_task("", total=self.total, completed=self.done, note="", place=self.place)

    @property
    def place(self) -> str:
        """Where it is: 1,200 of 5,000, or student 12 of 50."""
        if self.parts is None:
            return f"{self.done} of {self.total}"
        name, count = self.parts
        return f"{name} {min(count, 1 + self.done * count // self.total)} of {count}"

    def say(self, text: str, *, warning: bool = False) -> None:
        """A remark next to the bar; a warning also where there is no terminal."""
        if self._bar is not None:
            self._bar.console.print(visible(text), markup=False, highlight=False)
        elif warning and not self.silent:
            print(visible(text), file=sys.stderr)

    def at(self, done: int, note: str = "") -> None:
        """So much is done; a note stands next to the bar until the next."""
        self.done = done
        if self.show == "nothing" or time.monotonic() < self.start:
            return
        if self._bar is None:
            self._open()
        notes = {"note": note} if note else {}
        self._bar.update(self._task, completed=min(done, self.total), place=self.place, **notes)

    def advance(self, count: int) -> None:
        """So much more is done."""
        self.at(self.done + count)

    def close(self) -> None:
        """Give the terminal back."""
        if self._bar is not None:
            self._bar.stop()

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
