"""What the two real distillations share: two regimes, equal tuning of every arm, paired effects, a page and a table.

Many labels: every example has a label. Few labels: the student has the labels of some, and of the rest only what the teacher says;
there the teacher's first choice stands where a label is asked for (the `hard` share of an objective, the class of a class mean).
"""

from __future__ import annotations

import re
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))

from fractionate import Objective, TeacherSignal, diagnose, distill, report, tasks
from fractionate.data import Examples
from fractionate.records import Diagnosis, Effect, Run, Scores, Study, Training, Try
from fractionate.study import PilotPlan
from fractionate.study.arms import redrawn
from fractionate.study.effects.contrasts import Contrast, effects
from fractionate.study.pilot import USUAL, Setting
from fractionate.tasks import CLASSIFICATION, infos, scores
from fractionate.theory.cells import as_cell
from fractionate.training.cost import measure_cost

NONE, PSEUDO = "no teacher", "hard pseudo-labels"
TUNING_SEED, PILOT_SEED = 1000, 2000  # none of them is a seed of the comparison
MARGIN = 0.5  # points of accuracy that do not matter
# what the pilot tries beside the rule and T = 4 / 0.9: fewer arms than usual, so that each gets more of the steps
GRID: tuple[Setting, ...] = (
    *(("kd", t, w) for t in (1.0, 2.0, 4.0) for w in (0.5, 0.9)), ("kd", 1.0, 1.0), ("kd", 2.0, 1.0), ("kd-pt", 1.0, 0.9)
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Task:
    """Student, examples, what the teacher says of them, and how students may be trained; places are those of `every`."""

    title: str
    command: str
    about: str
    student: Callable[[], nn.Module]
    every: Examples
    signal: TeacherSignal
    validation: Sequence[int]
    test: Sequence[int]
    training: Training
    rates: tuple[float, ...]
    lengths: tuple[int, ...]  # steps
    teacher_cost: dict[str, float]
    out: Path
    controls: tuple[str, ...] = ("kd-shuffled",)  # beside the last of the recipes
    seeds: int = 5
    pilot_minutes: float = 5.0

    def part(self, places: Sequence[int]) -> tuple[Examples, TeacherSignal]:
        """Some of the examples with their labels, and what the teacher says of them."""
        index = torch.tensor(places)
        part = self.every.take(index)
        return part, TeacherSignal(self.signal.logits[index], part.labels)


@dataclass(frozen=True, eq=False)
class Regime:
    """What has labels (`labelled`), all that the student may read (`pool`), and in the second the teacher's word for a label."""

    name: str
    about: str
    labelled: tuple[Examples, TeacherSignal]
    pool: tuple[Examples, TeacherSignal]
    few: bool = False  # most of the pool has no label
    soft: tuple[Setting, ...] = ()  # further settings to compare
    pilot: bool = True


@dataclass(frozen=True, eq=False)
class Arm:
    """What a student learns from: examples and, with a teacher, its signal under a setting (cell, temperature, teacher weight)."""

    name: str
    data: Examples
    signal: TeacherSignal | None = None
    setting: Setting | None = None

    def objective(self, seed: int) -> Objective | None:
        """The objective of a seed: placebos are drawn anew for each."""
        if self.setting is None:
            return None
        cell, temperature, weight = self.setting
        return Objective(redrawn(as_cell(cell), seed), temperature, weight)


def many_labels(task: Task, places: Sequence[int]) -> Regime:
    """Every example has a label."""
    part = task.part(places)
    return Regime("many labels", f"{len(places):,} examples, all with labels.", part, part)


def few_labels(task: Task, labelled: Sequence[int], places: Sequence[int]) -> Regime:
    """The examples at `places`, which begin with the `labelled` ones; the rest has been read by the teacher alone."""
    true, signal = task.part(places)
    labels = signal.logits.argmax(dim=1)
    labels[: len(labelled)] = true.labels[: len(labelled)]
    about = f"{len(labelled):,} examples with labels and {len(places) - len(labelled):,} that only the teacher has labelled."
    pool = (replace(true, labels=labels), TeacherSignal(signal.logits, labels))
    return Regime("few labels", about, task.part(labelled), pool, few=True, soft=(("kd", 1.0, 1.0),), pilot=False)


def train(task: Task, regime: Regime, arm: Arm, training: Training, seed: int, *, test: bool) -> Run:
    """One student; read back where it was trained before."""
    torch.manual_seed(seed)
    held = task.part(task.validation)
    name = f"{arm.name} {training.learning_rate:g} {training.steps} {seed}"
    folder = task.out / slug(regime.name) / ("test" if test else "tuning") / slug(name)
    more = dict(zip(("test", "test_signal"), task.part(task.test), strict=True)) if test else {}
    _, run = distill(
        task.student(), arm.data, arm.signal, objective=arm.objective(seed), training=training, validation=held[0],
        validation_signal=held[1], seed=seed, arm=arm.name, out=folder, show="nothing", **more,
    )  # fmt: skip
    settings = {"learning_rate": training.learning_rate, "steps": training.steps}
    return replace(run, settings={**run.settings, **settings})


def tune(task: Task, regime: Regime, arm: Arm) -> tuple[Training, tuple[tuple[Try, int], ...]]:
    """The best learning rate and length on validation data, and each try with its steps.

    Of the tries within the margin of the best accuracy the one of the lowest NLL: fractions of a point of one seed are noise, and
    students trained too long lose their NLL first.
    """
    found: list[tuple[Scores, Training]] = []
    for rate, steps in product(task.rates, task.lengths):
        training = replace(task.training, learning_rate=rate, steps=steps)
        run = train(task, regime, arm, training, TUNING_SEED, test=False)
        assert run.validation is not None
        print("  tuning", arm.name, rate, steps, run.validation, flush=True)
        found.append((run.validation, training))
    enough = max(s.accuracy for s, _ in found) - MARGIN / 100
    best = min((i for i, (s, _) in enumerate(found) if s.accuracy >= enough), key=lambda i: found[i][0].nll_nats)
    _, temperature, weight = arm.setting or ("hard", 1.0, 0.0)
    tries = tuple(
        (Try(arm.name, temperature, weight, t.learning_rate, 100 * v.accuracy, chosen=i == best), t.steps or 0)
        for i, (v, t) in enumerate(found)
    )
    return found[best][1], tries


def advise(task: Task, regime: Regime, training: Training) -> tuple[Diagnosis, Diagnosis]:
    """What `diagnose` says of the labelled examples, and the same refined by a pilot on all that the student may read."""
    data, signal = regime.labelled
    validation, held_out = task.part(task.validation)
    torch.manual_seed(PILOT_SEED)
    ruled = diagnose(signal, task.student(), name=regime.name, data=data, held_out=held_out)
    kept = task.out / slug(regime.name) / "piloted.json"
    if not regime.pilot:
        return ruled, ruled
    if kept.exists():
        return ruled, replace(Diagnosis.load(kept), name=regime.name)
    # as long as any student is trained: what needs patience must show it
    training = replace(training, steps=max(task.lengths))
    plan = PilotPlan(
        task.pilot_minutes, validation, training, share=0.25, first_seed=PILOT_SEED, grid=GRID, out=kept.parent / "pilot",
        progress="off",
    )  # fmt: skip
    pool, taught = regime.pool
    shared = tasks.Task("classification", transfer=pool, student=task.student)
    recipe, pilot = plan(shared, taught, ruled.recipe)
    piloted = replace(ruled, recipe=recipe, pilot=pilot)
    piloted.save(kept)
    return ruled, piloted


def arms_of(task: Task, regime: Regime, ruled: Diagnosis, piloted: Diagnosis) -> tuple[list[Arm], list[Contrast]]:
    """The arms of a regime and what is compared: each with no teacher, shapes with their placebo, soft with hard.

    A recipe that says "do not distil" is the arm without a teacher.
    """
    pool, signal = regime.pool
    sources: dict[Setting, list[str]] = {USUAL: ["default"]}
    for source, recipe in (("rule", ruled.recipe), *((("pilot", piloted.recipe),) if regime.pilot else ())):
        if recipe.distil:
            setting = (recipe.cell, recipe.temperature, recipe.teacher_weight)
            sources.setdefault(setting, []).append(source)
    for setting in regime.soft:
        sources.setdefault(setting, []).append("soft labels alone")
    soft = {setting: f"{' and '.join(by)}: {called(setting)}" for setting, by in sources.items()}
    main = list(soft)[-1]
    at, beside = main[1:], soft[main]
    arms = [Arm(NONE, regime.labelled[0])]
    if regime.few:
        arms.append(Arm(PSEUDO, pool))
    arms += [Arm(name, pool, signal, setting) for setting, name in soft.items()]
    for cell in task.controls:
        if (cell, *at) not in soft:
            arms.append(Arm(called((cell, *at)), pool, signal, (cell, *at)))
    contrasts = [Contrast(arm.name, NONE, placebo="shuffled" in arm.name) for arm in arms[1:]]
    contrasts += [Contrast(name, soft[USUAL]) for setting, name in soft.items() if setting != USUAL]
    if regime.few:
        contrasts += [Contrast(name, PSEUDO) for name in soft.values()]
    contrasts += [Contrast(beside, arm.name) for arm in arms if arm.name.startswith(task.controls)]
    return arms, contrasts


def study_of(task: Task, regime: Regime) -> tuple[Study, Diagnosis, Diagnosis, list[tuple[Try, int]]]:
    """One regime: tune the arm without soft labels, diagnose and pilot with its training, tune and train every arm."""
    first = Arm(NONE, regime.labelled[0]) if not regime.few else Arm(PSEUDO, regime.pool[0])
    ruled, piloted = advise(task, regime, tune(task, regime, first)[0])
    print(piloted, flush=True)
    arms, contrasts = arms_of(task, regime, ruled, piloted)
    runs: list[Run] = []
    tries: list[tuple[Try, int]] = []
    trainings = {}
    for arm in list(arms):
        trainings[arm.name], tried = tune(task, regime, arm)
        tries += tried
        # a baseline as accuracy alone would have it: no gain may come of how its settings were chosen
        best = max(tried, key=lambda one: one[0].value or 0.0)
        if arm.name in (NONE, PSEUDO) and not best[0].chosen:
            other = f"{arm.name}, most accurate try"
            arms.append(replace(arm, name=other))
            trainings[other] = replace(task.training, learning_rate=best[0].learning_rate, steps=best[1])
            tries.append((replace(best[0], arm=other, chosen=True), best[1]))
            contrasts += [Contrast(c.arm, other) for c in contrasts if c.against == arm.name and not c.placebo]
    for arm in arms:
        training = trainings[arm.name]
        for seed in range(task.seeds):
            runs.append(train(task, regime, arm, training, seed, test=True))
            print(runs[-1], flush=True)
    metrics = infos(CLASSIFICATION, margin=MARGIN)
    found = [effects(runs, contrasts, metric=metric) for metric in metrics]
    lengths = {arm.name: steps for arm in arms for one, steps in tries if one.arm == arm.name and one.chosen}
    study = Study(
        regime.name, metrics, NONE, tuple(a.name for a in arms),
        tuple(range(task.seeds)), tuple(runs), tuple(e for part in found for e in part),
        notes=(regime.about, "Steps chosen on validation data: " + ", ".join(f"{n} {s:,}" for n, s in lengths.items())),
        data={"name": task.every.name, "examples": len(regime.pool[0]), "classes": task.every.classes},
        settings={"command": task.command, "batch_size": task.training.batch_size},
        wall_seconds=sum(run.wall_seconds for run in runs), tries=tuple(one for one, _ in tries),
    )  # fmt: skip
    return study, ruled, piloted, tries


def compare(task: Task, regimes: Sequence[Regime], name: str) -> None:
    """Both regimes; writes the page and the tables under `results`."""
    test, outputs = task.part(task.test)
    held = task.part(task.validation)[0]
    cost = measure_cost(task.student().eval(), test.inputs[:1], name="student") | task.teacher_cost
    lines = [
        f"# {task.title}", "", f"`{task.command}`. {' '.join(task.about.split())}", "",
        f"{len(held):,} validation and {len(test):,} test examples; {task.seeds} seeds; every arm of a regime chose among the same "
        f"{len(task.rates) * len(task.lengths)} pairs of learning rate and length on validation data with a seed of its own (the "
        f"lowest NLL within {MARGIN:g} points of the best accuracy). "
        f"Batch {task.training.batch_size}, AdamW, cosine. Each run read the test data once; which contrasts were added after "
        "first figures, lab/LOG.md says.", "",
        "| | parameters | MB | ms an example, one thread | accuracy % | NLL nats | ECE points |", "|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    taught = scores(outputs.logits, outputs.labels)
    parts = [cost_row("teacher", cost) + f" {taught.accuracy:.2%} | {taught.nll_nats:.3f} | {100 * taught.ece:.1f} |"]
    lines += [part.replace("% |", " |") for part in parts] + [cost_row("student", cost) + " below | | |"]
    records: list[Diagnosis | Study] = []
    results = Path(__file__).parent / "results"
    for regime in regimes:
        study, ruled, piloted, tries = study_of(task, regime)
        records += [piloted, study]
        lines += ["", f"## {regime.name.capitalize()}", "", regime.about, "", *arm_table(study, tries)]
        lines += ["", *effect_table(study), "", *advice(task, regime, ruled, piloted)]
        lines += ["", "Validation accuracy by (learning rate, steps), one seed; the chosen one in bold:", ""]
        lines += tuning_table(tries)
        (results / f"{name}.md").write_text("\n".join(lines) + "\n")  # each regime as it ends
        report(records, results / f"{name}.html", title=task.title, command=task.command)
    print("\n".join(lines))


def cost_row(who: str, cost: dict[str, float]) -> str:
    """Parameters, megabytes and latency of teacher or student."""
    size = [cost[f"{who}_{key}"] for key in ("parameters", "megabytes", "latency_ms")]
    return f"| {who} | {size[0]:,.0f} | {size[1]:.2f} | {size[2]:.2f} |"


def arm_table(study: Study, tries: Sequence[tuple[Try, int]]) -> list[str]:
    """Means of the arms on test data."""
    chosen = {one.arm: f"{one.learning_rate:g}, {steps:,}" for one, steps in tries if one.chosen}
    lines = ["| arm | rate, steps | accuracy % | NLL nats | ECE points | agreement % |", "|---|---|---|---|---|---|"]
    for arm in study.arms:
        found = [run.test for run in study.runs if run.arm == arm and run.test is not None]
        means = [
            statistics.mean(test.values.get(metric, 0.0) for test in found)
            for metric in ("accuracy", "nll", "ece", "agreement")
        ]
        lines.append(f"| {arm} | {chosen[arm]} | {means[0]:.2f} | {means[1]:.3f} | {means[2]:.1f} | {means[3]:.1f} |")
    return lines


def effect_table(study: Study) -> list[str]:
    """Paired differences with 95 % intervals; verdicts after Holm over the table's contrasts, metric by metric."""
    pairs = [(e.arm, e.against) for e in study.effects if e.metric == "accuracy"]
    found: dict[tuple[str, str, str], Effect] = {(e.arm, e.against, e.metric): e for e in study.effects}
    lines = [
        f"Paired differences with 95 % intervals, verdicts after Holm over {len(pairs)} contrasts; equivalent: within {MARGIN:g} "
        "points of accuracy, 0.02 nats, 0.5 points of ECE and agreement. ~ marks the placebo.", "",
        "| arm − against | accuracy, points | NLL, nats | ECE, points | agreement, points |", "|---|---|---|---|---|",
    ]  # fmt: skip
    for arm, against in pairs:
        cells = []
        for metric, digits in (("accuracy", 2), ("nll", 3), ("ece", 1), ("agreement", 1)):
            e = found[arm, against, metric]
            low, high = e.interval.low, e.interval.high
            cells.append(f"{e.gain:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}] {e.verdict}")
        mark = "~ " if found[arm, against, "accuracy"].placebo else ""
        lines.append(f"| {mark}{arm} − {against} | {' | '.join(cells)} |")
    return lines


def advice(task: Task, regime: Regime, ruled: Diagnosis, piloted: Diagnosis) -> list[str]:
    """What was said before any arm was trained; where a pilot was run, what it found."""
    entries = [f"{f.name} ({f.severity})" for f in ruled.problems]
    lines = [f"**Said beforehand.** Problems: {', '.join(entries) or 'none'}. The rule: {ruled.recipe}"]
    if regime.few:
        pool, signal = regime.pool
        held_out = task.part(task.validation)[1]
        mixed = diagnose(signal, task.student(), data=pool, held_out=held_out)
        lines += ["", f"Asked about the pool with the teacher's first choice for a label, it would say: {mixed.recipe}"]
    if piloted.pilot is None:
        return lines
    return [*lines, "", "```", str(piloted.pilot), f"recipe: {piloted.recipe}", "```"]


def tuning_table(tries: Sequence[tuple[Try, int]]) -> list[str]:
    """Validation accuracy of every try."""
    places = list(dict.fromkeys((one.learning_rate, steps) for one, steps in tries))
    lines = [
        f"| arm | {' | '.join(f'{rate:g}, {steps:,}' for rate, steps in places)} |",
        "|---" * (len(places) + 1) + "|",
    ]
    for arm in dict.fromkeys(one.arm for one, _ in tries):
        own = {(one.learning_rate, steps): one for one, steps in tries if one.arm == arm}
        cells = [("**{:.2f}**" if own[p].chosen else "{:.2f}").format(own[p].value) if p in own else "" for p in places]
        lines.append(f"| {arm} | {' | '.join(cells)} |")
    return lines


def called(setting: Setting) -> str:
    """How a setting is named in tables."""
    cell, temperature, weight = setting
    return f"{cell} T = {temperature:g} / {weight:g}"


def slug(name: str) -> str:
    """A folder's name."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-")
