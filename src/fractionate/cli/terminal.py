"""What the commands print: records on stdout, talk on stderr; nothing from a file that a terminal would act on. No torch here."""

from __future__ import annotations

import io
import logging
import os
import shutil
import sys
import textwrap
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, TextIO

from fractionate.errors import visible

if TYPE_CHECKING:
    from fractionate.page.decisions import Card
    from fractionate.records.base import Record
    from fractionate.run.workflow import Workflow


def processes() -> tuple[int, int]:
    """Which of the processes of torchrun this is, and how many there are: (0, 1) where there is one."""
    number, count = (os.environ.get(name, "") for name in ("RANK", "WORLD_SIZE"))
    return (int(number), int(count)) if number.isdecimal() and count.isdecimal() and int(count) > 1 else (0, 1)


def tell(text: str, *, rank_zero: bool = True) -> None:
    """Talk to the person: stderr, once where processes run the same command."""
    if processes()[0] == 0 or not rank_zero:
        with suppress(OSError):  # a full disk or a reader that left: the work continues
            print(fitted(visible(text), sys.stderr), file=sys.stderr, flush=True)


def columns(stream: TextIO) -> int | None:
    """The width of a terminal; None for what is no terminal, which gets lines as they are."""
    return shutil.get_terminal_size().columns if stream.isatty() else None


def fitted(text: str, stream: TextIO) -> str:
    """A text whose lines a terminal shows whole, broken between words; a line with a command stays one line, to be pasted."""
    width = columns(stream)
    if width is None:
        return text
    lines = []
    for line in text.split("\n"):
        if len(line) <= width or "fractionate " in line or line.startswith("recipe: objective."):
            lines.append(line)
        else:
            below = " " * (len(line) - len(line.lstrip()) + 4)
            kept = line.replace(" %", "\u00a0%")  # a number stays with its per cent
            parts = textwrap.wrap(kept, width, subsequent_indent=below, break_long_words=False, break_on_hyphens=False)
            lines += [part.replace("\u00a0%", " %") for part in parts]
    return "\n".join(lines)


def give(record: Record, as_json: bool, card: Card | None = None) -> None:
    """Print a record: for people, or as JSON. The card of the decision stands last, in JSON as its field `card`."""
    if processes()[0] != 0:
        return
    with heard():
        if as_json:
            print(record.to_json() if card is None else record.to_json_with(card=card), flush=True)
        else:
            print(fitted(visible(str(record)), sys.stdout), flush=True)
    if card is not None and not as_json:
        from fractionate.page.decisions import card_text

        tell(f"\n{card_text(card, columns(sys.stderr))}")


@contextmanager
def heard() -> Iterator[None]:
    """Print within: where the reader of standard output has left (`| head`), further output is dropped and the work continues."""
    try:
        yield
    except BrokenPipeError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def teacher_words(workflow: Workflow) -> str:
    """How good the teacher of a run is, with units."""
    from fractionate.tasks import infos

    return f"teacher on test data: {workflow.teacher_scores.describe(infos(workflow.task.judged))}"


def debugging() -> bool:
    """Whether errors show their traceback and warnings their place (`--debug`)."""
    return bool(os.environ.get("FRACTIONATE_DEBUG"))


@contextmanager
def terminal() -> Iterator[None]:
    """Around a command: every text can be shown in any encoding, and a warning of any library is one line of talk."""
    sys.stdout = sys.stdout or io.StringIO()  # None: closed by who started us, and print() would take the other
    sys.stderr = sys.stderr or io.StringIO()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    for name in () if debugging() else ("torch.utils._pytree", "torchao"):  # what they say while they are imported
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.showwarning = _show
        try:
            yield
        finally:
            with heard():
                sys.stdout.flush()


def _show(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    tell(f"warning: {message}" + (f" ({category.__name__}, {filename}:{lineno})" if debugging() else ""))
