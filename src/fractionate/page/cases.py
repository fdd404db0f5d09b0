"""Records sorted by what they are about: the diagnosis, the study and the exported student of one teacher are a case."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from fractionate.records import AttentionStudy, Diagnosis, Explanations, NotableExamples, Run, Study
from fractionate.records.base import Record


@dataclass(frozen=True)
class Case:
    """What belongs together: the diagnosis of a teacher, the study of it and the student that was exported."""

    name: str
    diagnosis: Diagnosis | None = None
    study: Study | None = None
    runs: tuple[Run, ...] = ()
    explained: tuple[Explanations, ...] = ()
    attention: tuple[AttentionStudy, ...] = ()
    examples: tuple[NotableExamples, ...] = ()

    @property
    def arms(self) -> tuple[str, ...]:
        """The variants of the study in their order."""
        return self.study.arms if self.study else ()

    @property
    def placebos(self) -> frozenset[str]:
        """The variants that are placebos."""
        return frozenset(e.arm for e in self.study.effects if e.placebo) if self.study else frozenset()

    @property
    def every_run(self) -> tuple[Run, ...]:
        """The runs of the study, and the single ones."""
        return (*self.study.runs, *self.runs) if self.study else self.runs


def cases(records: Sequence[Record]) -> tuple[Case, ...]:
    """Records by what they are about: by name, and runs by the data and the teacher that they were trained with."""
    found = [Case(d.name, d) for d in records if isinstance(d, Diagnosis)]
    studies = [s for s in records if isinstance(s, Study)]
    for study in studies:
        places = [i for i, c in enumerate(found) if c.study is None and c.name == study.name]
        if not places and len(found) == len(studies) == 1:
            places = [0]
        if places:
            found[places[0]] = replace(found[places[0]], study=study)
        else:
            found.append(Case(study.name, study=study))
    loose: list[Run] = []
    before = ""  # the name of the record before: what a run belongs to that has no teacher to be found by
    for record in records:
        if isinstance(record, (Diagnosis, Study)):
            before = record.name
        if not isinstance(record, Run):
            continue
        place = _place(record, found, before)
        if place is None:
            loose.append(record)
        else:
            found[place] = replace(found[place], runs=(*found[place].runs, record))
    found += [Case("", runs=tuple(loose))] if loose else []
    for record in records:
        if isinstance(record, (Explanations, AttentionStudy, NotableExamples)):
            place = next((i for i, c in enumerate(found) if c.name == record.name), None)
            if place is None and len(found) == 1 and isinstance(record, NotableExamples):
                place = 0
            if place is None:
                found.append(Case(record.name))
                place = len(found) - 1
            case = found[place]
            if isinstance(record, Explanations):
                found[place] = replace(case, explained=(*case.explained, record))
            elif isinstance(record, NotableExamples):
                found[place] = replace(case, examples=(*case.examples, record))
            else:
                found[place] = replace(case, attention=(*case.attention, record))
    return tuple(found)


def _place(run: Run, found: Sequence[Case], before: str) -> int | None:
    """The case of a run: that of the same data and teacher, and of more than one that of the record before it."""
    if len(found) == 1:
        return 0
    own = [
        place
        for place, case in enumerate(found)
        if case.study
        and all(run.settings.get(k) and run.settings[k] == case.study.settings.get(k) for k in ("data", "teacher"))
    ]
    others = range(len(found)) if not run.settings.get("teacher") else ()
    near = [place for place in own or others if found[place].name == before]
    return next(iter(near or own), None)
