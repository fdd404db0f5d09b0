"""Tables, page and records of the study of explanations, from its runs: called by study_explanations.py."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from study_explanations import GROUPS, KEPT, MORE_STEPS, REAL_STEPS, SETTINGS, Setting, kept_at, load

from fractionate.attribution import Contrast, effects
from fractionate.extensions.interactions import second_derivatives
from fractionate.extensions.superfeatures import between_groups
from fractionate.extensions.understanding import explain, save_table
from fractionate.models.additive import explaining_mlp, matched_width
from fractionate.page import report
from fractionate.records import Effect, Explanations, Run, Study, Superfeatures
from fractionate.sources.models import mlp
from fractionate.tasks import CLASSIFICATION, infos

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
PLACEBOS = {"ked shuffled", "ked random groups"}
PROTOCOL = (
    f"Made by `{COMMAND}`. KED (Chowdhury et al., arXiv 2310.02572) on four data sets at two sizes, {{seeds}} seeds, M = {GROUPS}. "
    "Black-box teacher: two ReLU layers; explaining teacher of its size; plain and grouped students matched in size. λ = μ = 0.7, "
    "as in the paper, T = τ = {temperature:g} (the paper: 10), nothing tuned. "
    f"{REAL_STEPS} steps on real data, then {MORE_STEPS} more, on real data or on as many chimeras; batch 50. "
    "Teachers are trained anew for every seed, on the examples of the students; superfeatures are "
    "those of the first seed's black box. Fashion-MNIST is a part of 4,000 training and 2,000 test pictures: a small study.\n\n"
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


def read(setting: Setting) -> list[Run]:
    return [Run.load(path) for path in sorted(kept_at(setting).glob("*-[0-9]*.json"))]


def study_of(setting: Setting) -> Study:
    runs = read(setting)
    alone = sorted({run.arm for run in runs if run.arm.endswith(" alone")})
    arms = (*ARMS, *alone)
    contrasts = [Contrast(arm, "hard", arm in PLACEBOS) for arm in ARMS[1:]]
    contrasts += [Contrast(arm, against) for arm, against, _ in STEPS if against != "hard"]
    contrasts += [Contrast(arm, "kd grouped") for arm in alone]
    metrics = infos(CLASSIFICATION)
    found = [e for metric in metrics for e in effects(runs, contrasts, metric=metric)]
    order = {arm: place for place, arm in enumerate(arms)}
    seeds = tuple(sorted({run.seed for run in runs}))
    return Study(
        name=setting.name,
        metrics=metrics,
        baseline="hard",
        arms=arms,
        seeds=seeds,
        runs=tuple(sorted(runs, key=lambda run: (order[run.arm], run.seed))),
        effects=tuple(found),
        data={"name": setting.data, "examples": setting.train, "test": setting.test},
        settings={"command": COMMAND, "steps": REAL_STEPS + MORE_STEPS, "superfeatures": GROUPS, "batch_size": 50},
        wall_seconds=sum(run.wall_seconds for run in runs),
    )


def models_of(setting: Setting, found: Superfeatures, features: int, classes: int) -> dict[str, torch.nn.Module]:
    """The first seed's explaining teacher and student, and the black box, as they were kept."""
    states: dict[str, Any] = torch.load(kept_at(setting) / "models.pt", weights_only=True)
    made: dict[str, torch.nn.Module] = {}
    for name, state in states.items():
        width = setting.student if name == "student" else setting.teacher
        plain = mlp(width, width)((features,), classes)
        if name == "black_box":
            made[name] = plain
        else:
            size = sum(p.numel() for p in plain.parameters())
            own = matched_width(features, GROUPS, classes, hidden_layers=2, parameters=size)
            prior = torch.full((classes,), 1 / classes)
            made[name] = explaining_mlp(found, classes, hidden_layers=2, width=own, prior=prior)
        made[name].load_state_dict(state)
    return made


def explanations_of(setting: Setting, study: Study) -> Explanations:
    train, test = load(setting)
    found = Superfeatures.load(kept_at(setting) / "superfeatures.json")
    models = models_of(setting, found, found.features, train.classes)
    paid = {
        e.arm.split()[1]: e
        for e in study.effects
        if e.metric == "accuracy" and e.arm.endswith(" alone") and e.against == "kd grouped"
    }
    strength = second_derivatives(models["black_box"], train.inputs[:1000])
    return explain(
        models["student"],
        models["teacher"],
        test,
        found,
        name=setting.name,
        shown=40,
        paid=paid,
        black_box=models["black_box"],
        interaction=between_groups(strength, found),
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
        mine = [
            e for e in s.effects if e.arm.endswith(" alone") and e.metric == "accuracy" and e.against == "kd grouped"
        ]
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


def write(settings: Sequence[Setting] = SETTINGS, temperature: float = 10.0) -> None:
    name = "study_explanations" + ("" if temperature == 10 else f"_T{temperature:g}")
    one = f' --only "{settings[0].data}, {settings[0].size}"' if len(settings) == 1 else ""
    command = COMMAND + ("" if temperature == 10 else f"{one} --temperature {temperature:g}")
    done = [s for s in settings if (kept_at(s) / "done").exists()]
    studies = [study_of(s) for s in done]
    records = [explanations_of(s, study) for s, study in zip(done, studies, strict=True)]
    for setting, study, record in zip(done, studies, records, strict=True):
        study.save(kept_at(setting) / "study.json")
        record.save(kept_at(setting) / "explanations.json")
    save_table(records[0], KEPT / "explanations.csv")
    head = [
        f"# {name}",
        "",
        PROTOCOL.replace(COMMAND, command).format(seeds=len(studies[0].seeds), temperature=temperature),
        "",
    ]
    body = "\n".join([*head, *tables(studies), *described(records), ""])
    (RESULTS / f"{name}.md").write_text(body)
    report([*studies, *records], RESULTS / f"{name}.html", title="Do explanations pay?", command=command)
    print(body)
