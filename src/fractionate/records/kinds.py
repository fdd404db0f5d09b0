"""Every record that the verbs give, in one tuple: for published schemas and the tests of all of them."""

from __future__ import annotations

from fractionate.records import (
    attention,
    commands,
    examples,
    explanations,
    findings,
    knowledge,
    measures,
    studies,
    training,
)
from fractionate.records.base import Record

FILES = (attention, commands, examples, explanations, knowledge, findings, measures, studies, training)

RECORDS: tuple[type[Record], ...] = tuple(
    part
    for file in FILES
    for part in vars(file).values()
    if isinstance(part, type) and issubclass(part, Record) and part.__module__ == file.__name__
)
