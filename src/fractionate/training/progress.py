"""How far a training is: a bar with the time left on a terminal, nothing elsewhere; on stderr, never on stdout."""

from __future__ import annotations

import sys
from typing import Any, Literal

from fractionate.errors import printable, visible

Show = Literal["auto", "bar", "lines", "nothing"]


class Progress:
    """A bar (rich), a line for each tenth, or nothing. `auto` is a bar where stderr is a terminal."""

    def __init__(self, show: Show, name: str, *, steps: int, done: int) -> None:
        self.show = ("bar" if sys.stderr.isatty() else "nothing") if show == "auto" else show
        self.name, self.steps, self.shown = name, steps, done * 10 // max(1, steps)
        self._bar: Any = None
        if self.show == "bar":
            from rich.console import Console
            from rich.markup import escape
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._bar = Bar(
                TextColumn(escape(printable(name))),
                *columns,
                TextColumn("{task.fields[said]}"),
                console=Console(stderr=True),
            )
            self._bar.start()
            self._task = self._bar.add_task("", total=steps, completed=done, said="")

    def say(self, text: str) -> None:
        """A remark, where anything is shown."""
        if self._bar is not None:
            self._bar.console.print(visible(text), markup=False, highlight=False)
        elif self.show == "lines":
            print(visible(text), file=sys.stderr)

    def step(self, step: int, loss: float | None = None) -> None:
        """The training has come to a step."""
        if self._bar is not None:
            said = {} if loss is None else {"said": f"loss {loss:.4f}"}
            self._bar.update(self._task, completed=step, **said)
        elif self.show == "lines" and step * 10 // self.steps > self.shown:
            self.shown = step * 10 // self.steps
            print(f"{printable(self.name)}: step {step} of {self.steps}", file=sys.stderr)

    def close(self) -> None:
        """Give the terminal back."""
        if self._bar is not None:
            self._bar.stop()
