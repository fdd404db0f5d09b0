"""What to do next: the settings of a recipe, and one command line that can be pasted."""

from __future__ import annotations

from pathlib import PurePath

from fractionate.page.cases import Case
from fractionate.page.compared import Compared
from fractionate.page.decisions import Answer, plain
from fractionate.page.summaries import uses_teacher
from fractionate.page.text import short
from fractionate.records import Contract, Effect, Run, Study
from fractionate.study.effects.harm import UNDERTRAINED
from fractionate.system.paths import shell_line

MOST_SEEDS_ADVISED = 60  # more are not advised: fewer labels show a difference sooner


def settings_of(contract: Contract | None) -> dict[str, str | float | bool]:
    """What a run computed, as settings of a run file; empty where a run file has no words for it."""
    if contract is None or contract.terms or contract.preparations or contract.transforms:
        return {}
    return {
        "objective.cell": contract.cell,
        "objective.temperature": contract.temperature,
        "objective.teacher_weight": contract.teacher_weight,
        "objective.divergence": contract.divergence,
        "objective.scale_by_temperature_squared": contract.scale_by_temperature_squared,
    }


def recipe_settings(found: Compared, arm: str) -> dict[str, str | float | bool]:
    """A variant of a study as settings of a run file, with its learning rate where that is not the baseline's."""
    settings, rate = settings_of(found.contract(arm)), found.rate(arm)
    if settings and rate is not None and rate != found.rate(found.study.baseline):
        settings["training.learning_rate"] = rate
    return settings


def is_recipe(found: Compared, arm: str, run: Run) -> bool:
    """Whether a student was trained as a variant of a study was: objective, terms, preparations, transforms, learning rate."""
    own = found.contract(arm)
    rates = found.rate(arm), run.settings.get("training.learning_rate", run.settings.get("learning_rate"))
    return own is not None and run.contract == own and (None in rates or rates[0] == rates[1])


def trained_as(found: Compared, run: Run) -> str:
    """The variant of a study that a student was trained as; empty where it is none of them."""
    return next((arm for arm in found.arms if is_recipe(found, arm, run)), "")


def verb_line(verb: str, run_file: tuple[str, ...], *overrides: str) -> str:
    """A command line over a run file; empty where none is known."""
    return shell_line(["fractionate", verb, run_file[0], *overrides, *run_file[1:]]) if run_file else ""


def _elsewhere(run_file: tuple[str, ...], what: str) -> str:
    """A folder next to that of the run: a folder belongs to one run file."""
    return f"out={PurePath(run_file[0]).parent}-{what}" if run_file else ""


def without_command(case: Case, answer: Answer) -> str:
    """What to do next where there is no command to run."""
    with_teacher = [uses_teacher(run.contract) for run in case.runs]
    if answer == "Distil":
        if any(with_teacher):
            return "Nothing is left to run: the student is exported."
        return "Train the student with these settings, in a run file for fractionate distill or as a Recipe in Python."
    if case.diagnosis is not None and case.diagnosis.recipe.repair:
        return "Repair it, then run the same command again."
    if answer == "Don't distil":
        if with_teacher and not any(with_teacher):
            return "Nothing is left to run: the student without a teacher is exported."
        return "Train the student on the labels alone."
    if answer == "No clear difference yet":
        return "Repeat the study with more seeds, or with fewer labels, where a teacher has more to add."
    distilled = any(uses_teacher(run.contract) for run in case.every_run)
    return "Compare it with no teacher: a study (fractionate dissect) of both over some seeds." if distilled else ""


def undertrained(study: Study) -> tuple[str, ...]:
    """The notes of a study whose students learned next to nothing."""
    return tuple(note for note in study.notes if note.startswith(UNDERTRAINED))


def next_command(case: Case, found: Compared, chosen: Effect, answer: Answer, run_file: tuple[str, ...]) -> str:
    """The one command to run after a study; empty where nothing is left to run."""
    if not run_file:
        return ""
    settings = recipe_settings(found, chosen.arm)
    recipe = case.diagnosis.recipe if case.diagnosis else None
    if answer == "Distil":
        if not settings or any(is_recipe(found, chosen.arm, run) for run in case.runs):
            return ""
        if found.at(recipe) is chosen and not case.runs:
            return verb_line("distill", run_file)
        usual = {
            "objective.divergence": "cross-entropy",
            "objective.scale_by_temperature_squared": True,
        }  # of a run file
        words = [f"{key}={plain(value)}" for key, value in settings.items() if usual.get(key) != value]
        return verb_line("distill", run_file, *words, _elsewhere(run_file, short(settings["objective.cell"], 30)))
    if answer == "No clear difference yet":
        if undertrained(found.study):
            unit = "epochs" if found.study.settings.get("epochs") else "steps"
            longer = found.study.settings.get(unit)
            if isinstance(longer, int) and longer > 0:
                return verb_line(
                    "dissect", run_file, f"training.{unit}={4 * longer}", _elsewhere(run_file, f"{4 * longer}-{unit}")
                )
        seeds, examples = chosen.seeds_to_settle, found.study.data.get("examples")
        if seeds is not None and seeds <= MOST_SEEDS_ADVISED:
            return verb_line("dissect", run_file, f"study.seeds={seeds}", _elsewhere(run_file, f"{seeds}-seeds"))
        if isinstance(examples, int) and examples >= 8:
            few = examples // 4
            return verb_line("dissect", run_file, f"data.transfer={few}", _elsewhere(run_file, f"{few}-examples"))
        return ""
    problems = case.diagnosis.problems if case.diagnosis else ()
    command = next((f.command for f in problems if f.command), "")
    if command or any(not uses_teacher(run.contract) for run in case.runs):
        return command
    if recipe is not None and not recipe.distil and not case.runs:
        return verb_line("distill", run_file)
    if not settings:  # a student of terms alone: a run file has no words for it without them
        return ""
    return verb_line("distill", run_file, "objective.cell=hard", _elsewhere(run_file, "no-teacher"))
