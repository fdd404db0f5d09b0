"""What a page is given besides its records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class PageSettings:
    """What a page is given besides its records.

    Args:
        title: Heads the page; left out, the names of the records.
        command: Makes all of it again; left out, taken from the records' settings.
        run_files: The run file of each diagnosis or study by its name, as words of a command line: the decision advises a command
            over it.
        compare: Two cases are put side by side first.
        links: Addresses by the names of diagnoses and studies: the page is an index of them, without chapters.
    """

    title: str = ""
    command: str = ""
    run_files: Mapping[str, Sequence[str]] = field(default_factory=dict)
    compare: bool = False
    links: Mapping[str, str] | None = None
