"""A progress bar of a long pass, where somebody watches."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

from fractionate.errors import printable


@contextlib.contextmanager
def progress(total: int, title: str) -> Iterator[Callable[[int], None]]:
    """A bar with the time left, on standard error, for a pass of more than two seconds that somebody watches."""
    started, bar, task, seen = time.monotonic(), None, None, 0

    def advance(count: int) -> None:
        nonlocal bar, task, seen
        seen += count
        if bar is None and sys.stderr.isatty() and time.monotonic() - started > 2:
            from rich.console import Console
            from rich.markup import escape
            from rich.progress import Progress

            bar = Progress(console=Console(stderr=True), transient=True)
            bar.start()
            task = bar.add_task(escape(printable(title)), total=total)
        if bar is not None and task is not None:
            bar.update(task, completed=min(seen, total))

    try:
        yield advance
    finally:
        if bar is not None:
            bar.stop()
