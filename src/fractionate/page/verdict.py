"""The verdict in one plain sentence: which part pays, which recipe to use, what is wrong. Nothing that the records do not say."""

from __future__ import annotations

from collections.abc import Sequence

from fractionate.page.effect_plots import main_effects, pays
from fractionate.page.figure import LEVEL_WORDS
from fractionate.page.rows import gain_text, value_text
from fractionate.page.student_plots import best_run, deciding, of_test
from fractionate.page.text import listing, short
from fractionate.records import Diagnosis, Run, Share, Study


def verdict(diagnoses: Sequence[Diagnosis], studies: Sequence[Study], runs: Sequence[Run]) -> str:
    """One sentence of up to three clauses."""
    clauses = [_what_pays(study, len(studies) > 1) for study in studies[:3]]
    if diagnoses:
        clauses.append(_recipe(diagnoses[0]))
        clauses.append(_sick(diagnoses))
    if not studies and not diagnoses:
        clauses.append(_student(runs))
    sentence = "; ".join(clauses)
    return sentence[:1].upper() + sentence[1:] + "."


def certain_shares(study: Study) -> list[Share]:
    """The levels whose part of the gain is an improvement for certain, largest first; Shapley values where there are any."""
    for method in ("Shapley", "ladder"):
        found = [s for s in study.shares if s.method == method]
        if found:
            return sorted((s for s in found if pays(s, study.deciding)), key=lambda s: -abs(s.gain))
    return []


def _what_pays(study: Study, named: bool) -> str:
    where = _where(study.name) if named else ""
    effects, _, _ = main_effects(study)
    helping = sorted((e for e in effects if e.verdict == "helps"), key=lambda e: -abs(e.gain))
    hurting = [e for e in effects if e.verdict == "hurts"]
    whose = "it" if "teacher" in where else "the teacher"
    baseline = short(study.baseline, 40)
    seeds = f"{len(study.seeds)} {'seed' if len(study.seeds) == 1 else 'seeds'}"
    if not helping:
        if effects and all(e.verdict == "equivalent" for e in effects):
            band = f"±{study.deciding.margin:g} {study.deciding.unit}".rstrip()
            return f"{where}no part of {whose} pays: every arm equals {baseline} within {band}"
        if hurting:
            worst = max(hurting, key=lambda e: abs(e.gain))
            cost = gain_text(study.deciding, worst.gain, short(worst.arm, 40), baseline)
            return f"{where}no part of {whose} is shown to pay, and {cost}"
        return f"{where}{seeds} cannot tell whether any part of {whose} pays"
    best = helping[0]
    gain = gain_text(study.deciding, best.gain, short(best.arm, 40), baseline)
    paying = certain_shares(study)
    but = _doubt(best.arm, study)
    if paying:
        part = paying[0]
        return f"{where}the part of {whose} that pays most is {LEVEL_WORDS[part.level]} ({part.level}), and {gain}{but}"
    return f"{where}distillation pays, as {gain}{but}, but {seeds} cannot tell which part of it does"


def _where(name: str) -> str:
    shown = short(name, 60)
    return f"with the {shown}, " if "teacher" in shown.lower() else f"in the study {shown}, "


def _doubt(arm: str, study: Study) -> str:
    """What a placebo has to say against an arm that helps."""
    _, steps, placebos = main_effects(study)
    sham = {e.arm for e in placebos}
    beside = [e for e in steps if e.arm == arm and e.against in sham]
    if beside:
        unsure = [e for e in beside if e.verdict != "helps"]
        return f", though it is not shown to beat its placebo {short(unsure[0].against, 40)}" if unsure else ""
    helping = [e for e in placebos if e.verdict == "helps"]
    return f", though the placebo {short(helping[0].arm, 40)} helps too" if helping else ""


def _recipe(diagnosis: Diagnosis) -> str:
    recipe = diagnosis.recipe
    if not recipe.distil:
        return f"the advice is not to distil from {short(diagnosis.name, 60)}"
    settings = f"temperature {recipe.temperature:g} with teacher weight {recipe.teacher_weight:g}"
    return f"the recipe to use is {short(recipe.cell, 40)} at {settings}"


def _sick(diagnoses: Sequence[Diagnosis]) -> str:
    sick = [(d, d.problems) for d in diagnoses if d.problems]
    if not sick:
        return (
            "no probe found anything wrong" if len(diagnoses) == 1 else "no probe found anything wrong with any teacher"
        )
    said = []
    for d, problems in sick[:2]:
        state = "is sick" if problems[0].severity == "error" else "gives a warning"
        found = listing([short(f.name, 40) for f in problems[:2]])
        rest = f" and {len(problems) - 2} more" if len(problems) > 2 else ""
        said.append(f"the {_teacher(d.name)} {state} ({found}{rest})")
    more = f" and {len(sick) - 2} more" if len(sick) > 2 else ""
    return listing(said) + more


def _teacher(name: str) -> str:
    shown = short(name, 60)
    return shown if "teacher" in shown.lower() else f"teacher {shown}"


def _student(runs: Sequence[Run]) -> str:
    metric = deciding(runs)
    best = best_run(runs, metric)
    scores = of_test(best)
    value = None if scores is None or metric is None else scores.values.get(metric.name)
    if metric is None or value is None:
        return f"{short(best.arm or 'the student', 40)} {best.status} after {best.steps:,} steps, without scores"
    reached = f"the student {short(best.arm, 40)} reaches {value_text(metric, value)} {short(metric.title, 40)} on the "
    reached += f"{'test' if best.test else 'validation'} data with {best.parameters:,} parameters"
    return f"{reached}; one training cannot tell which part of the teacher pays" if best.contract else reached
