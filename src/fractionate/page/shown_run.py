"""Which of many students is drawn next to the teacher."""

from __future__ import annotations

from collections.abc import Sequence

from fractionate.page.summaries import main_effects
from fractionate.records import Run, Study


def shown_run(study: Study | None, runs: Sequence[Run]) -> Run | None:
    """The run whose student is shown: of the variant that gains most, the first seed; else the first that has a class relation."""
    if study:
        for e in sorted(main_effects(study)[0], key=lambda e: (e.verdict != "helps", -study.deciding.sign * e.gain)):
            found = [run for run in study.runs if run.arm == e.arm and run.student_relation]
            if found:
                return found[0]
    return next((run for run in runs if run.student_relation), None)
