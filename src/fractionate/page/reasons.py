"""Why: the sentences under the headline of a decision, each of them a fact of the records."""

from __future__ import annotations

from collections.abc import Sequence

from fractionate.page.advice import is_recipe, trained_as, undertrained
from fractionate.page.cases import Case
from fractionate.page.chosen import elsewhere
from fractionate.page.compared import Compared, change_text, recipe_text
from fractionate.page.decisions import Answer
from fractionate.page.summaries import (
    LEVEL_WORDS,
    calibration_of,
    certain_shares,
    interval_text,
    named_value,
    score_values,
    size_text,
    unsure_text,
    uses_teacher,
    value_text,
    variant,
)
from fractionate.page.text import decimals, listing, percent, sentence, short
from fractionate.records import Diagnosis, Effect, Explanations, MetricInfo, Run
from fractionate.records.studies import NO_TEACHER
from fractionate.study.effects.power import MOST_SEEDS

MOST_FAULTS = 2  # in words on a card; more are counted


def reasons_of(case: Case, found: Compared, chosen: Effect, answer: Answer, advised: Effect | None) -> list[str]:
    """Where the gain comes from, what speaks against it, and how the recipe of the diagnosis fares."""
    metric = found.metric
    reasons: list[str] = []
    if answer == "Distil":
        contract = found.contract(chosen.arm)
        name, message = variant(chosen.arm), "" if contract is None else recipe_text(contract)
        if message and "T=" not in name:  # a name with its settings says it all
            name = message if message.startswith(name) else f"{name} ({message})"
        reasons.append(f"With {name}{', the recipe of the diagnosis' if advised is chosen else ''}.")
        paying = certain_shares(found.study)
        if paying:
            level, total = paying[0].level, sum(s.gain for s in found.study.shares if s.method == paying[0].method)
            plain = abs(total - chosen.gain) < 10**-metric.places
            whose = "the gain" if plain else f"what the levels gain together ({size_text(metric, total, sign=True)})"
            if metric.sign * total > 0:
                reasons.append(f"The largest part of {whose} comes from {LEVEL_WORDS[level]} ({level}).")
        reasons += _distance(found, chosen, case.runs)
        reasons += _doubts(found, chosen)
        others = sum(e.verdict == "helps" for e in found.with_teacher) - 1
        worse = found.harmful
        if worse:
            named = listing([variant(e.arm) for e in worse[:3]])
            reasons.append(f"Not with {named}: {'it' if len(worse) == 1 else 'they'} hurt{'s' * (len(worse) == 1)}.")
        elif others:
            reasons.append(f"{others} other {'variant helps' if others == 1 else 'variants help'} too.")
    else:
        hurting = [e for e in found.harmful if e is not chosen]
        reasons += [f"{variant(e.arm)} {change_text(metric, e)}." for e in hurting[:3]]
    for e in found.smoothing:
        if e.verdict == "helps":
            reasons.append(f"Label smoothing alone ({variant(e.arm)}) {change_text(metric, e)}.")
    reasons += _behind(found, chosen, case.runs)
    reasons += _side_effects(found, chosen) if answer != "Don't distil" else []
    reasons += _on_advice(case, found, chosen, answer, advised)
    if answer == "No clear difference yet":
        settle = chosen.seeds_to_settle
        more = (
            f"about {settle:,} seeds would settle it"
            if settle
            else f"not even {MOST_SEEDS:,} seeds are sure to settle it"
        )
        if chosen.smallest_effect is not None:
            size = size_text(metric, chosen.smallest_effect)
            more = f"{chosen.seeds} seeds find an effect of {size} in 8 of 10 studies; {more}"
        if chosen.interval.low * chosen.interval.high > 0:
            ends = interval_text(metric, chosen.interval)
            reasons.append(
                f"Its interval alone ({ends}) excludes zero; among all comparisons of this study that can be chance."
            )
        reasons.append(sentence(more))
    reasons += map(sentence, undertrained(found.study))
    reasons += faults(case.diagnosis)
    for run in case.runs:
        reasons += _exported(run, found, chosen, metric)
    return reasons


def _doubts(found: Compared, chosen: Effect) -> list[str]:
    """What a placebo has to say against a variant that helps."""
    sham = {e.arm for e in found.placebos}
    controlled = [e for e in found.steps if e.arm == chosen.arm and e.against in sham]
    if controlled:
        unsure = [e for e in controlled if e.verdict != "helps"]
        return [f"It is not shown to beat its placebo {variant(unsure[0].against)}."] if unsure else []
    helping = [e for e in found.placebos if e.verdict == "helps"]
    return [f"The placebo {variant(helping[0].arm)} helps too."] if helping else []


def _side_effects(found: Compared, chosen: Effect) -> list[str]:
    """Other metrics that get worse, and calibration either way."""
    known = {m.name: m for m in found.study.metrics}
    calibration = calibration_of(found.study.metrics)
    reasons = []
    for e in found.study.effects:
        metric = known.get(e.metric)
        if (e.arm, e.against) != (chosen.arm, chosen.against) or metric is None or e.metric == found.metric.name:
            continue
        if e.verdict == "hurts" or (e.verdict == "helps" and metric == calibration):
            word = "improves" if e.verdict == "helps" else "gets worse"
            reasons.append(f"{sentence(metric.title)[:-1]} {word} by {size_text(metric, abs(e.gain))}.")
    return reasons


def _on_advice(case: Case, found: Compared, chosen: Effect, answer: Answer, advised: Effect | None) -> list[str]:
    """How the recipe of the diagnosis fares."""
    if case.diagnosis is None:
        return []
    recipe, metric = case.diagnosis.recipe, found.metric
    own = " (of accuracy, in its pilot)" if case.diagnosis.pilot and elsewhere(metric) else ""
    if recipe.repair:
        return [f"The diagnosis asks to repair first: {sentence(recipe.repair)}"]
    if not recipe.distil:
        if answer == "Distil":
            return [f"The diagnosis advised against it: {sentence(recipe.reason.partition('; ')[0] + own)}"]
        too = " too" if answer == "Don't distil" else ""
        return [f"The diagnosis advises against it{too}: {sentence(recipe.reason.partition('; ')[0] + own)}"]
    if advised is None:
        return [f"The recipe of the diagnosis ({recipe_text(recipe)}) was not one of the variants."]
    if advised is chosen:
        return []
    if advised.verdict == "hurts":
        return [
            f"The recipe of the diagnosis ({recipe_text(recipe)}) is overridden: it {change_text(metric, advised)}"
            f"{'' if found.same_rate(advised) else f' against {variant(advised.against)}'}."
        ]
    if advised.verdict == "helps":
        return [
            f"The recipe of the diagnosis ({recipe_text(recipe)}) gains less: {size_text(metric, abs(advised.gain))}."
        ]
    return [
        f"The recipe of the diagnosis ({recipe_text(recipe)}): no clear difference ({unsure_text(metric, [advised])})."
    ]


def faults(diagnosis: Diagnosis | None) -> list[str]:
    """What is wrong with the teacher: the worst findings in their own words."""
    if diagnosis is None or not diagnosis.problems:
        return []
    if diagnosis.recipe.repair:  # the headline is about the worst
        left = len(diagnosis.problems) - 1
        return [f"{left} more {'finding' if left == 1 else 'findings'} below."] if left else []
    errors = [f for f in diagnosis.problems if f.severity == "error"]
    shown = errors or diagnosis.problems
    start = "Faulty teacher" if errors else "The diagnosis warns"
    found = [f"{start} ({short(f.name, 40)}): {sentence(short(f.summary, 160))}" for f in shown[:MOST_FAULTS]]
    left = len(diagnosis.problems) - len(found)
    return [*found, f"{left} more {'finding' if left == 1 else 'findings'} below."] if left else found


def _distance(found: Compared, chosen: Effect, runs: Sequence[Run]) -> list[str]:
    """How much of the distance from no teacher to the teacher the student covers."""
    metric = found.metric
    scores = found.study.teacher or next((run.teacher for run in runs if run.teacher), None)
    teacher = scores.values.get(metric.name) if scores else None
    means = found.mean(chosen.arm), found.mean(chosen.against)
    if teacher is None or means[0] is None or means[1] is None:
        return []
    whole, part = (metric.sign * (value - means[1][0]) for value in (teacher, means[0][0]))
    if whole <= metric.margin:
        return []
    if part >= whole:
        return ["It is as good as its teacher."]
    return [
        f"That is {percent(part / whole)} of the way from no teacher to the teacher ({value_text(metric, teacher)})."
    ]


def _behind(found: Compared, chosen: Effect, runs: Sequence[Run]) -> list[str]:
    """A teacher that the students without it surpass, by more than the margin."""
    metric, scores = found.metric, found.study.teacher or next((run.teacher for run in runs if run.teacher), None)
    teacher, alone = scores.values.get(metric.name) if scores else None, found.mean(chosen.against)
    if teacher is None or alone is None or metric.sign * (alone[0] - teacher) <= metric.margin:
        return []
    return [
        f"The teacher ({named_value(metric, teacher)}) is worse than the students without it ({value_text(metric, alone[0])})."
    ]


def _exported(run: Run, found: Compared, chosen: Effect, metric: MetricInfo) -> list[str]:
    values = score_values([run], metric.name)
    if not values:
        return []
    contract, arm = run.contract, trained_as(found, run)
    who = (
        f"{variant(arm)}, "
        if arm
        else f"{recipe_text(contract)}, "
        if contract and uses_teacher(contract)
        else f"{NO_TEACHER}, "
    )
    who = "" if is_recipe(found, chosen.arm, run) else who
    message = f"The exported student ({who}one seed) reaches {named_value(metric, values[0])}"
    if uses_teacher(contract) and not arm:
        message += "; this recipe was not compared with no teacher"
    if "--force" in str(run.settings.get("compared_with_no_teacher")):
        message += "; it is surely worse than no teacher, and was exported by --force"
    return [f"{message}."]


def explanation_words(record: Explanations) -> str:
    """What a student decides by, in one sentence."""
    parts = record.superfeatures
    if not parts:
        return "There is nothing to explain."
    most = max(parts, key=lambda s: s.student_evidence_nats)
    least = min(parts, key=lambda s: s.agreement)
    return (
        f"The student decides most by {short(most.name, 32)} ({decimals(most.student_evidence_nats, 2)} nats for the label); with "
        f"its teacher it agrees least about {short(least.name, 32)} ({percent(least.agreement)} of the examples)."
    )
