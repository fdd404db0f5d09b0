"""Where a case comes from: the loss of each variant, data, seeds, settings, notes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fractionate.page.cases import Case
from fractionate.page.settings_text import setting
from fractionate.page.summaries import variant
from fractionate.records import Contract, Run, Study


def contracts_of(runs: Sequence[Run]) -> tuple[tuple[str, Contract | None], ...]:
    """What each variant computes."""
    found: dict[str, Contract | None] = {}
    for run in runs:
        found.setdefault(variant(run.arm, 80), run.contract)
    return tuple(found.items())


def facts_of(case: Case) -> dict[str, object]:
    """Data, seeds and settings of a case's study; of its first exported student where there is no study."""
    if case.study is None:
        run = next(iter(case.runs), None)
        return {} if run is None else _facts_of_run(run)
    s = case.study
    facts: dict[str, object] = {**{f"data {k}" if k != "name" else "data": v for k, v in s.data.items()}}
    facts |= {"seeds": ", ".join(map(str, s.seeds)), "baseline": variant(s.baseline), "metric": s.metric}
    facts |= {"margin": s.deciding.margin} if s.metrics else {}
    facts |= {k: v for k, v in s.settings.items() if k != "command"}
    shared = _shared([r.settings for r in s.runs])
    return facts | {k: v for k, v in shared.items() if k not in facts and k != "command"}


def _facts_of_run(run: Run) -> dict[str, object]:
    return {"seed": run.seed, "steps": run.steps, **{k: v for k, v in run.settings.items() if k != "command"}}


def provenance_of(case: Case) -> tuple[tuple[str, dict[str, str]], ...]:
    """Settings of the study and of the exported students, as a run file has them; those that are not set are left out."""
    parts = [(case.study.name, facts_of(case))] if case.study else []
    parts += [(variant(run.arm), _facts_of_run(run)) for run in case.runs[:8]]
    unset: tuple[object, ...] = (None, "", "None", [], {}, "[]")
    return tuple(
        (
            name,
            {key: setting(v) for key, v in facts.items() if v not in unset and key != "objective"},
        )  # stands under "the loss"
        for name, facts in parts
    )


def notes_of(case: Case) -> tuple[str, ...]:
    """Notes of the study and its runs, and the settings that were chosen where they were tuned."""
    study = case.study
    words = (*study.notes, *_chosen(study)) if study else ()
    return words + tuple(dict.fromkeys(run.note for run in case.every_run if run.note))[:20]


def _chosen(study: Study) -> tuple[str, ...]:
    return tuple(
        f"{variant(one.arm)}: temperature {one.temperature:g}, teacher weight {one.teacher_weight:g}, learning rate "
        f"{one.learning_rate:g} chosen on validation data of {sum(t.arm == one.arm for t in study.tries)} settings tried"
        for one in study.tries
        if one.chosen
    )


def _shared(settings: Sequence[Mapping[str, object]]) -> dict[str, object]:
    """What is the same in all runs."""
    if not settings:
        return {}
    return {k: v for k, v in settings[0].items() if all(other.get(k, "") == v for other in settings[1:])}
