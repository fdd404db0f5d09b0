"""The decision card: should I distil, with what, what do I gain and lose, how sure is it, what do I run next.

`decide` makes it from records; the page, the last lines of a command and `--json` all show this one. A verdict of a study overrides
the recipe of a diagnosis, and the recipe is on the card only where nothing speaks against it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from fractionate.page.advice import next_command, recipe_settings, verb_line, without_command
from fractionate.page.cases import Case, cases
from fractionate.page.chosen import chosen_between, chosen_of
from fractionate.page.compared import Compared, change_text, compared, recipe_text, sureness, values_text
from fractionate.page.contenders import contenders_alone, contenders_of
from fractionate.page.decisions import Answer, Card, Decision
from fractionate.page.reasons import explanation_words, faults, reasons_of
from fractionate.page.summaries import (
    calibration_of,
    judged_on,
    metrics_of,
    named_value,
    score_values,
    size_text,
    unsure_text,
    uses_teacher,
    variant,
)
from fractionate.page.text import decimals, listing, sentence, short
from fractionate.records import Diagnosis, Effect, Pilot, Run, Study
from fractionate.records.base import Record
from fractionate.records.studies import NO_TEACHER


def decide(records: Sequence[Record], run_files: Mapping[str, Sequence[str]] | None = None) -> Card:
    """The card of some records: what to do about each teacher or study, and why.

    Args:
        records: Diagnoses, studies, runs.
        run_files: The run file of each diagnosis or study by its name, as words of a command line: `(path, "--trust", module)`.
            Without one no command is advised.

    Returns:
        A `Card`.

    Example:
        import torch
        from fractionate import TeacherSignal, diagnose
        from fractionate.page import decide

        print(decide([diagnose(TeacherSignal(torch.randn(40, 4), torch.arange(40) % 4))]).headline)
    """
    decisions = tuple(decide_case(case, run_files) for case in cases(records))
    return Card(decisions[0].headline if len(decisions) == 1 else summed_up(decisions), decisions)


def summed_up(decisions: Sequence[Decision]) -> str:
    """Every decision by name, those of one answer together."""
    order: tuple[Answer, ...] = ("Distil", "Don't distil", "No clear difference yet", "Not compared yet")
    words = {
        "Distil": "Distil with",
        "Don't distil": "Don't distil with",
        "No clear difference yet": "No clear difference yet with",
        "Not compared yet": "Not compared with no teacher yet:",
    }
    parts = []
    for answer in order:
        shown = []
        for d in decisions:
            if d.answer == answer:
                size = f" ({size_text(d.metric, d.gain, sign=True)})" if d.metric and d.gain is not None else ""
                shown.append(f"{short(d.name, 60)}{size if answer == 'Distil' else ''}")
        if shown:
            parts.append(f"{words[answer]} {listing(shown)}.")
    return " ".join(parts) or "Nothing to decide: these records compare no student with no teacher."


def decide_case(case: Case, run_files: Mapping[str, Sequence[str]] | None = None) -> Decision:
    """The decision about one case."""
    run_file = tuple((run_files or {}).get(case.name, ()))
    decision = _decision(case, run_file)
    if not decision.next and (case.study or case.diagnosis or case.runs):
        decision = replace(decision, then=without_command(case, decision.answer))
    found = [sentence(f"{a.quantization}: {a.finding.summary}") for a in case.attention if a.finding]
    found += [explanation_words(e) for e in case.explained]
    if found and not (case.study or case.diagnosis or case.runs):
        return replace(decision, headline=found[0], reasons=(*found[1:], *decision.reasons))
    return replace(decision, reasons=(*decision.reasons, *found))


def _decision(case: Case, run_file: tuple[str, ...]) -> Decision:
    if case.study is not None and case.study.metrics and case.study.effects:
        return _of_study(case, case.study, run_file)
    if case.diagnosis is not None:
        return _of_diagnosis(case, case.diagnosis, run_file)
    return _of_runs(case, case.study.runs if case.study else case.runs)


# -- a study ------------------------------------------------------------------------------------------------------------------


def _of_study(case: Case, study: Study, run_file: tuple[str, ...]) -> Decision:
    found, metric = compared(study), study.deciding
    recipe = case.diagnosis.recipe if case.diagnosis else None
    if uses_teacher(found.contract(study.baseline)):
        return _between_variants(case, found)
    named = chosen_of(case, found)
    if named is None:
        return _of_runs(case, study.runs)
    answer, chosen = named
    headline = _headline(answer, chosen, found, case.diagnosis)
    speaks_against = answer == "Don't distil" or (answer != "Distil" and recipe is not None and not recipe.distil)
    reasons = reasons_of(case, found, chosen, answer, found.at(recipe))
    return Decision(
        name=case.name,
        answer=answer,
        headline=headline,
        reasons=tuple(reasons),
        contenders=contenders_of(case, found, chosen),
        metric=metric,
        calibration=calibration_of(study.metrics),
        judged_on=judged_on(study.runs),
        recipe={} if speaks_against else recipe_settings(found, chosen.arm),
        next=next_command(case, found, chosen, answer, run_file),
        gain=chosen.gain,
        gain_interval=chosen.interval,
    )


def _headline(answer: Answer, e: Effect, found: Compared, d: Diagnosis | None) -> str:
    metric, name = found.metric, variant(e.arm)
    values, sure = values_text(found, e), sureness(metric, e)
    none = NO_TEACHER if variant(e.against).startswith(NO_TEACHER) else variant(e.against)
    if answer == "Distil":
        if values:
            return f"Distil: {values[0]} instead of {values[1]} with {none} ({sure})."
        return f"Distil: {name} {change_text(metric, e)} against {none} ({sure})."
    if answer == "No clear difference yet":
        shown = f"{values[0]} with {name}, {values[1]} with {none}" if values else f"{name} against {none}"
        return f"No clear difference yet: {shown} ({size_text(metric, e.gain, sign=True)}; {unsure_text(metric, [e])})."
    if d is not None and d.recipe.repair:
        return _repair_first(d)
    if e.verdict == "hurts":
        shown = f": {values[0]} instead of {values[1]}" if values else ""
        return f"Don't distil: {name} {change_text(metric, e)} against {none}{shown} ({sure})."
    if all(other.verdict == "equivalent" for other in found.with_teacher):
        band = f"±{metric.margin:,.4g} {metric.unit}".rstrip()
        shown = f": {values[0]} with {name}, {values[1]} with {none}" if values else ""
        return f"Don't distil: every variant with the teacher equals {none} within {band}{shown}."
    unharmful = [other for other in found.with_teacher if other.verdict != "hurts"]
    return f"Don't distil: no gain found ({unsure_text(metric, unharmful)})."


def _between_variants(case: Case, found: Compared) -> Decision:
    """A study whose baseline has a teacher: what gains over what, and no answer to whether to distil."""
    study, metric = found.study, found.metric
    base = variant(study.baseline)
    gains, shown = chosen_between(found) or (False, None)
    message = f"no variant is shown to beat {base}"
    if gains and shown is not None:
        message = (
            f"the variant {variant(shown.arm)} {change_text(metric, shown)} against {base} ({sureness(metric, shown)})"
        )
    return Decision(
        name=case.name,
        answer="Not compared yet",
        headline=f"{sentence(message)} No variant without a teacher was compared.",
        reasons=tuple(faults(case.diagnosis)),
        contenders=() if shown is None else contenders_of(case, found, shown),
        metric=metric,
        calibration=calibration_of(study.metrics),
        judged_on=judged_on(study.runs),
    )


# -- without a study ----------------------------------------------------------------------------------------------------------


def _of_diagnosis(case: Case, d: Diagnosis, run_file: tuple[str, ...]) -> Decision:
    recipe, pilot = d.recipe, d.pilot
    reasons: list[str] = []
    metric = next((m for run in case.runs for m in run.metrics), None)
    follow = verb_line("dissect", run_file)
    if recipe.repair:
        answer: Answer = "Don't distil"
        headline = _repair_first(d)
        reasons.append(f"To repair it: {sentence(recipe.repair)}")
        follow = next((f.command for f in d.problems if f.command), "")
    elif not recipe.distil and pilot is None:
        answer = "Don't distil"
        headline = f"Don't distil: {sentence(recipe.reason)}"
        follow = next((f.command for f in d.problems if f.command), follow)
    elif pilot is not None:
        answer, headline = _of_pilot(pilot, distil=recipe.distil)
        follow = follow if recipe.distil else next((f.command for f in d.problems if f.command), follow)
    else:
        answer = "Not compared yet"
        headline = f"Try {recipe_text(recipe)}: no student has been compared with no teacher yet."
    advised = recipe.distil and not recipe.repair
    if advised and recipe.reason:
        reasons.append(f"Why this recipe: {sentence(recipe.reason)}")
    if advised and recipe.learning_rate_factor != 1:
        reasons.append(f"Train it at {recipe.learning_rate_factor:g} times the learning rate.")
    reasons += faults(d)
    return Decision(
        name=case.name,
        answer=answer,
        headline=headline,
        reasons=tuple(reasons),
        contenders=contenders_alone(case.runs, metric) if metric else (),
        metric=metric,
        calibration=calibration_of(metrics_of(case.runs)),
        judged_on=judged_on(case.runs),
        recipe=dict(recipe.patch) if advised else {},
        next=follow,
    )


def _repair_first(d: Diagnosis) -> str:
    return f"Don't distil before this is repaired: {sentence(d.recipe.reason)}"


def _of_pilot(pilot: Pilot, *, distil: bool) -> tuple[Answer, str]:
    """The answer of a small study on validation data: either way it needs the whole 95 % interval, and the recipe to agree."""
    gain, interval, unit = pilot.decisive
    places = 1 if unit.startswith("points") else 3
    size, low, high = (decimals(v, places, sign=True) for v in (gain, interval.low, interval.high))
    message = f"in a pilot {variant(pilot.chosen)} gains {size} {unit} over {pilot.no_teacher}"
    if gain < 0:
        size = decimals(-gain, places)
        message = f"in a pilot {variant(pilot.chosen)}, the best, costs {size} {unit} against {pilot.no_teacher}"
    sure = f"95 % interval {low} to {high}, {pilot.confirming_seeds} fresh seeds, on the validation data that chose it"
    answer: Answer = "No clear difference yet"
    if distil and interval.low > 0:
        answer = "Distil"
    elif not distil and pilot.rules_out_a_gain:
        answer = "Don't distil"
    return answer, f"{answer}: {message} ({sure})."


def _of_runs(case: Case, runs: Sequence[Run]) -> Decision:
    """Runs that are compared with nothing: what they reach."""
    metrics = metrics_of(runs)
    metric = metrics[0] if metrics else None
    valued = [run for run in runs if metric and score_values([run], metric.name)]
    if metric is None or not valued:
        best = runs[0] if runs else None
        message = (
            f"{variant(best.arm)} {best.status} after {best.steps:,} steps, without scores"
            if best
            else "there is no run"
        )
        return Decision(case.name, "Not compared yet", sentence(message))
    best = max(valued, key=lambda run: metric.sign * score_values([run], metric.name)[0])
    reached = f"{named_value(metric, score_values([best], metric.name)[0])} on the {'test' if best.test else 'validation'} data"
    message = f"The student {variant(best.arm)} reaches {reached} with {best.parameters:,} parameters"
    more = "; it was not compared with no teacher" if uses_teacher(best.contract) else ""
    return Decision(
        name=case.name,
        answer="Not compared yet",
        headline=f"{message}{more}.",
        contenders=contenders_alone([best], metric),
        metric=metric,
        calibration=calibration_of(metrics),
        judged_on=judged_on([best]),
    )
