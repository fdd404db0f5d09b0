"""Which of many students is drawn next to the teacher."""

from __future__ import annotations

from collections.abc import Sequence

from fractionate.page.summaries import main_effects
from fractionate.records import Run, Study


def shown_run(study: Study | None, runs: Sequence[Run]) -> Run | None:
    """The first seed of the variant that gains most with a teacher; else the first run that has a class relation."""
    if study:
        first = {run.arm: run for run in reversed(study.runs) if run.student_relation}
        plain = {arm for arm, run in first.items() if run.contract and run.contract.level in ("", "universe")}
        order = sorted(
            (e for e in main_effects(study)[0] if e.arm in first),
            key=lambda e: (e.arm in plain, e.verdict != "helps", -study.deciding.sign * e.gain),
        )
        if order:
            return first[order[0].arm]
    return next((run for run in runs if run.student_relation), None)
