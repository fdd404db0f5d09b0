"""Tables, page and records of the study of explanations, from its runs: called by study_explanations.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from explanations_setup import GROUPS, MORE_STEPS, REAL_STEPS, TINY, Material

from fractionate import Recipe, report
from fractionate.diagnosis import explain, save_table, second_derivatives
from fractionate.diagnosis.feature_groups import between_groups
from fractionate.records import Effect, Explanations, Study
from fractionate.study import Arm, trained_student

RESULTS = Path(__file__).parent / "results"
COMMAND = "PYTHONPATH=src python lab/study_explanations.py"
ARMS = (
    "hard",
    "hard grouped",
    "kd",
    "kd grouped",
    "ked",
    "ked + chimeras",
    "kd + chimeras",
    "ked shuffled",
    "ked random groups",
)
ALONE, BEGUN = " alone", ", begun"  # how arms of one superfeature, and the first parts of arms, are named
PLACEBOS = {"ked shuffled", "ked random groups"}
PROTOCOL = (
    f"Made by `{COMMAND}`. KED (Chowdhury et al., arXiv 2310.02572) on four data sets at two sizes, {{seeds}} seeds, M = {GROUPS}. "
    "Black-box teacher: two ReLU layers; explaining teacher of its size; plain and grouped students matched in size. λ = μ = 0.7, "
    "as in the paper, T = τ = {temperature:g} (the paper: 10), nothing tuned. "
    f"{REAL_STEPS} steps on real data, then {MORE_STEPS} more, on real data or on as many chimeras; batch 50. "
    "Teachers are trained anew for every seed, on the examples of the students; superfeatures "
    "and the prior of explaining models are those of the first seed's black box. "
    "Fashion-MNIST is a part of 4,000 training and 2,000 test pictures: a small study.\n\n"
    "Columns: data, size of training set. Paired differences over seeds, 95 % t intervals, verdicts after Holm over all contrasts "
    "of a column. *hard grouped*: the grouped student on the labels. *kd grouped*: the explaining teacher's prediction alone "
    "(μ = 0). *ked shuffled*: the explanations of another example of the class. *ked random groups*: everything from random "
    "groups of the same sizes."
)
STEPS = (  # what each is a step of
    ("hard grouped", "hard", "the grouped form alone"),
    ("kd grouped", "kd", "the grouped form, taught"),
    ("ked", "kd grouped", "the explanations"),
    ("ked", "ked shuffled", "the explanations of this example"),
    ("ked", "ked random groups", "the groups by interaction"),
    ("ked", "kd", "KED as the paper compares it"),
    ("ked + chimeras", "ked", "chimeras instead of more steps on real data"),
    ("kd + chimeras", "kd", "the same inputs, labelled by the black box"),
    ("ked + chimeras", "kd + chimeras", "KED against KD, both with chimeras"),
)


def shown(study: Study) -> Study:
    """The study without the first parts of its arms."""
    arms = tuple(arm for arm in study.arms if not arm.endswith(BEGUN))
    return replace(study, arms=arms, runs=tuple(run for run in study.runs if run.arm in arms))


def explanations_of(at: Material, study: Study, arms: Mapping[str, Recipe | Arm]) -> Explanations:
    setting, (train, test), found = at.setting, at.examples, at.found
    paid = {
        e.arm.split()[1]: e
        for e in study.effects
        if e.metric == "accuracy" and e.arm.endswith(ALONE) and e.against == "kd grouped"
    }
    black_box = at.black_box(0)
    return explain(
        trained_student(setting.kept, "ked", 0, at.task, arms=arms),
        at.explaining_model(0),
        test,
        found,
        name=setting.name,
        shown=40,
        paid=paid,
        black_box=black_box,
        interaction=between_groups(second_derivatives(black_box, train.inputs[:1000]), found),
    )


def cell(e: Effect) -> str:
    places = 3 if e.metric == "nll" else 2
    low, high = (f"{v:+.{places}f}" for v in (e.interval.low, e.interval.high))
    return f"{e.gain:+.{places}f} [{low}, {high}] {e.verdict}"


def tables(studies: Sequence[Study]) -> list[str]:
    lines = ["## Gain over hard labels, accuracy, points", ""]
    lines += ["| arm | " + " | ".join(s.name for s in studies) + " |", "|---|" + "---|" * len(studies)]
    hard = [100 * sum(r.test.accuracy for r in s.runs if r.arm == "hard" and r.test) / len(s.seeds) for s in studies]
    lines.append("| *hard* itself, % | " + " | ".join(f"{value:.2f}" for value in hard) + " |")
    sizes = [{r.arm: r.parameters for r in s.runs} for s in studies]
    shown = [f"{one['hard']:,} / {one['ked']:,}" for one in sizes]
    lines.append("| parameters, plain / grouped | " + " | ".join(shown) + " |")

    def row(arm: str, against: str, metric: str, words: str) -> str:
        cells = []
        for s in studies:
            mine = [e for e in s.effects if (e.arm, e.against, e.metric) == (arm, against, metric)]
            cells.append(cell(mine[0]) if mine else "")
        return f"| {words} | " + " | ".join(cells) + " |"

    lines += [row(arm, "hard", "accuracy", f"{arm}{' (placebo)' if arm in PLACEBOS else ''}") for arm in ARMS[1:]]
    for metric, unit in (
        ("accuracy", "accuracy, points"),
        ("nll", "NLL, nats; less is better"),
        ("agreement", "agreement, points"),
    ):
        lines += ["", f"## Step by step: {unit}", ""]
        lines += ["| step | " + " | ".join(s.name for s in studies) + " |", "|---|" + "---|" * len(studies)]
        lines += [row(arm, against, metric, f"{arm} − {against}: {words}") for arm, against, words in STEPS]
    lines += ["", "## One superfeature's explanation alone, against kd grouped: accuracy, points", ""]
    for s in studies:
        mine = [e for e in s.effects if e.arm.endswith(ALONE) and e.metric == "accuracy" and e.against == "kd grouped"]
        if mine:
            lines.append(f"- {s.name}: " + "; ".join(f"{e.arm.split()[1]} {cell(e)}" for e in mine))
    return lines


def described(records: Sequence[Explanations]) -> list[str]:
    lines = ["", "## The explanations of the first seed's teacher and student, on the test examples", ""]
    words = (
        "data",
        "superfeature",
        "features",
        "evidence for the label, teacher → student, nats",
        "agreement (by chance)",
    )
    lines += [
        "| " + " | ".join((*words, "correlation with the black box's Shapley values")) + " |",
        "|---|---|---|---|---|---|",
    ]
    for r in records:
        for s in r.superfeatures:
            outside = "" if s.outside_correlation is None else f"{s.outside_correlation:+.2f}"
            lines.append(
                f"| {r.name} | {s.name}: {s.members} | {s.features} | {s.teacher_evidence_nats:+.3f} → "
                f"{s.student_evidence_nats:+.3f} | {s.agreement:.1%} ({s.agreement_by_chance:.1%}) | {outside} |"
            )
    return lines


def write(found: Sequence[tuple[Material, Study, Mapping[str, Recipe | Arm]]]) -> None:
    """Tables, page and records."""
    settings = [at.setting for at, _, _ in found]
    temperature = settings[0].temperature
    name = "study_explanations" + ("" if temperature == 10 else f"_T{temperature:g}")
    one = f' --only "{settings[0].data}, {settings[0].size}"' if len(settings) == 1 else ""
    command = COMMAND + ("" if temperature == 10 else f"{one} --temperature {temperature:g}")
    records = [explanations_of(*each) for each in found]
    studies = [shown(study) for _, study, _ in found]
    for setting, record in zip(settings, records, strict=True):
        record.save(setting.kept / "explanations.json")
    save_table(records[0], settings[0].kept.parent / "explanations.csv")
    about = PROTOCOL.replace(COMMAND, command).format(seeds=len(studies[0].seeds), temperature=temperature)
    body = "\n".join([f"# {name}", "", about, "", *tables(studies), *described(records), ""])
    results = settings[0].kept.parent if tuple(settings) == TINY else RESULTS
    (results / f"{name}.md").write_text(body)
    report([*studies, *records], results / f"{name}.html", title="Do explanations pay?", command=command)
    print(body)
