"""From the runs of the quantization study to records, table and page; and the packed students. Called by study_quantized.py."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from quantized_tasks import FINE_TUNING, OUT, TRAIN, fine_tuned, parts
from safetensors.torch import load_file

from fractionate.attribution import Contrast, Paired, effects, paired
from fractionate.attribution import statistics as stats
from fractionate.errors import MismatchError
from fractionate.extensions.attention_measures import MapChange, attention_arm
from fractionate.extensions.packed import save_packed
from fractionate.extensions.preference import Preference, preference
from fractionate.page import report
from fractionate.records import ArmAttention, AttentionStudy, Interval, Run, Scores, Study
from fractionate.tasks import CLASSIFICATION, infos

HERE = Path(__file__).parent / "results"
COMMAND = "PYTHONPATH=src python lab/study_quantized.py"
NAMES = {"glosses": "WordNet glosses → 45 topics", "pairs": "pairs of definitions → hypernym or not"}


def runs_of(task: str, bits: str, arms: Sequence[str]) -> list[Run]:
    """The finished runs, and the two arms without training once for each seed (they are the same for every one)."""
    folder = OUT / task / bits
    found = [Run.load(p) for arm in arms for p in sorted(folder.glob(f"{arm.replace(' ', '-')}-?/run.json"))]
    fixed = json.loads((folder / "untrained.json").read_text())
    for arm in ("full precision", "quantized without training"):
        for seed in sorted({run.seed for run in found}):
            found.append(replace(found[0], arm=arm, seed=seed, steps=0, wall_seconds=0.0, contract=None, history=(),
                                 test=Scores(**fixed[arm]), note="not trained: the same for every seed"))  # fmt: skip
    return found


def interval(values: Sequence[float]) -> Interval | None:
    """Student's t at 95 % over seeds."""
    if len(values) < 2:
        return None
    half = stats().t(len(values) - 1).ppf(0.975) * statistics.stdev(values) / len(values) ** 0.5
    middle = statistics.mean(values)
    return Interval(middle - half, middle + half)


def attention_of(task: str, bits: str, arm: str) -> tuple[ArmAttention, dict[int, dict[str, float]]] | None:
    """What became of an arm's attention; and by seed the means over heads."""
    folder = OUT / task / bits
    if arm == "quantized without training":
        looks = {0: json.loads((folder / "untrained.json").read_text())["look"]}
    else:
        paths = sorted(folder.glob(f"{arm.replace(' ', '-')}-?/look.json"))
        looks = {int(p.parent.name[-1]): json.loads(p.read_text()) for p in paths}
    if not looks:
        return None
    by_seed = {s: {k: float(torch.tensor(v).mean()) for k, v in look.items()} for s, look in looks.items()}
    sharp = folder / "sharpness.json"
    known = json.loads(sharp.read_text()) if sharp.exists() else {}
    record = attention_arm(arm, [MapChange(**look) for look in looks.values()], sharpness=known.get(arm))
    return record, by_seed


def study_of(
    task: str, bits: str, arms: Sequence[str]
) -> tuple[Study, AttentionStudy, dict[str, Any], Preference | None]:
    runs = runs_of(task, bits, arms)
    every = ("full precision", "quantized without training", *[a for a in arms if any(r.arm == a for r in runs)])
    contrasts = [Contrast(a, "no KD") for a in every[2:] if a != "no KD"]
    contrasts += [Contrast(a, "hidden") for a in ("score", "map", "output", "unified") if a in every]
    contrasts += [Contrast("map", "score")] * ("map" in every and "score" in every)
    metrics = infos(CLASSIFICATION)
    found = [e for metric in metrics[:2] for e in effects(runs, contrasts, metric=metric)]
    seeds = tuple(sorted({run.seed for run in runs}))
    try:
        wanted: Preference | None = preference(runs, task=NAMES[task])
    except MismatchError as error:
        print(error)
        wanted = None
    study = Study(
        name=f"{NAMES[task]}, {bits}", metrics=metrics, baseline="no KD", arms=every, seeds=seeds,
        runs=tuple(runs), effects=tuple(found), settings={"command": COMMAND, "quantization": bits},
        wall_seconds=sum(run.wall_seconds for run in runs),
    )  # fmt: skip
    looks = {arm: attention_of(task, bits, arm) for arm in ("quantized without training", *arms)}
    fixed = json.loads((OUT / task / bits / "untrained.json").read_text())
    attention = AttentionStudy(
        name=NAMES[task], quantization=bits, attention_arms=tuple(x[0] for x in looks.values() if x),
        sensitivity=tuple(fixed["sensitivity"]), attention_sensitivity=tuple(fixed["sensitivity of attention"]),
        finding=wanted.finding if wanted else None, recipe=wanted.recipe if wanted else "",
    )  # fmt: skip
    return study, attention, {arm: x[1] for arm, x in looks.items() if x}, wanted


def difference(looks: Mapping[str, Any], arm: str, against: str, measure: str) -> Paired | None:
    """Paired over seeds."""
    a, b = looks.get(arm, {}), looks.get(against, {})
    seeds = sorted(a.keys() & b.keys())
    return paired([a[s][measure] - b[s][measure] for s in seeds], margin=0.01) if len(seeds) > 1 else None


def section(task: str, bits: str, arms: Sequence[str]) -> tuple[list[str], list[Any]]:
    study, attention, looks, wanted = study_of(task, bits, arms)
    first = study.runs[0].settings
    lines = [
        f"## {study.name}", "",
        f"{first['steps']} steps of 16 texts, learning rate {first['training.learning_rate']:g}; {study.runs[0].test.examples} "  # type: ignore[union-attr]
        f"test texts; {len(study.seeds)} seeds.", "",
        "| arm | seeds | accuracy % (95 %) | NLL nats | − no KD, points (95 %) | − hidden, points (95 %) | ranking loss "
        "| cover length |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]  # fmt: skip
    by_name = {a.arm: a for a in attention.attention_arms}
    for arm in study.arms:
        scores = [r.test for r in study.runs if r.arm == arm and r.test]
        middle, spread = statistics.mean(100 * s.accuracy for s in scores), interval([100 * s.accuracy for s in scores])
        untrained = arm in ("full precision", "quantized without training")
        width = "" if untrained or spread is None else f" ± {(spread.high - spread.low) / 2:.2f}"
        gains = []
        for base in ("no KD", "hidden"):
            e = next((e for e in study.effects if (e.arm, e.against, e.metric) == (arm, base, "accuracy")), None)
            gains.append(f"{e.gain:+.2f} ± {(e.interval.high - e.interval.low) / 2:.2f} {e.verdict}" if e else "")
        look = by_name.get(arm)
        measured = [""] * 2
        if look:
            pairs = ((look.ranking_mean, look.ranking_interval), (look.cover_mean, look.cover_interval))
            measured = [f"{m:.3f}" + (f" ± {(i.high - i.low) / 2:.3f}" if i else "") for m, i in pairs]
        seeds = "–" if untrained else str(len(scores))
        nll = statistics.mean(s.nll_nats for s in scores)
        lines.append(
            f"| {arm} | {seeds} | {middle:.2f}{width} | {nll:.3f} | {gains[0]} | {gains[1]} | {measured[0]} | {measured[1]} |"
        )
    lines += ["", "Attention, paired over seeds (95 %):"]
    for a, b in (("map", "hidden"), ("map", "score"), ("output", "hidden"), ("unified", "map")):
        for measure in ("ranking_loss", "cover_length_ratio"):
            p = difference(looks, a, b, measure)
            if p:
                lines.append(
                    f"- {measure.replace('_', ' ')}, {a} − {b}: {p.gain:+.3f} {p.interval} (p {p.p_value:.2g})"
                )
    nats = ", ".join(
        f"{x:.3f} ({y:.3f})" for x, y in zip(attention.sensitivity, attention.attention_sensitivity, strict=True)
    )
    lines += ["", f"What quantizing one layer alone costs before training, nats (its attention alone): {nats}."]
    known = {a.arm: a.sharpness for a in attention.attention_arms if a.sharpness is not None}
    if known:
        lines.append(
            "Sharpness (largest eigenvalue, seed 0): " + ", ".join(f"{k} {v:.1f}" for k, v in known.items()) + "."
        )
    if wanted:
        shares = ", ".join(f"{s.term} {s.gain:+.2f} {s.interval}" for s in wanted.shares)
        lines += ["", f"**Finding: {wanted.finding.summary}.** Shares of what both bring over `hidden`, points: {shares}. "
                  f"Recommendation: `{wanted.recipe}`."]  # fmt: skip
    return [*lines, ""], [study, attention]


def pack(task: str, bits: str, arm: str) -> dict[str, int] | None:
    """The student of seed 0, packed."""
    from study_quantized import prepared

    kept = OUT / task / bits / f"{arm}-0" / "student.safetensors"
    if not kept.exists():
        return None
    _, student = prepared(task, bits)
    student.load_state_dict(load_file(kept), strict=False)
    return save_packed(student.eval(), OUT / task / bits / "packed")


def write(order: Sequence[tuple[str, str]], arms: Mapping[str, Any], classes: Mapping[str, Any]) -> None:
    """Results as Markdown and as a page."""
    lines, records = ["# Quantized MiniLM: maps, outputs, or both?", "", f"`{COMMAND}`", ""], []
    lines.append((Path(__file__).parent / "quantized_setting.md").read_text())
    for task in dict.fromkeys(task for task, _ in order):
        if not (OUT / task / "teacher" / "run.json").exists():
            continue
        _, run = fine_tuned(task)
        lines.append(
            f"- Teacher on {NAMES[task]} ({len(classes[task])} classes): {FINE_TUNING[task].steps} steps of "
            f"{FINE_TUNING[task].batch_size} of {TRAIN:,} texts; test of {len(parts(task)[2]):,}: {run.test}"
        )
    lines.append("")
    for task, bits in order:
        if not list((OUT / task / bits).glob("*-1/run.json")):
            continue
        text, found = section(task, bits, tuple(arms))
        lines += text
        records += found
        packed = pack(task, bits, "unified")
        if packed:
            size = {name: f"{value / 1e6:.2f} MB" for name, value in packed.items()}
            lines.append(
                f"Packed student (`unified`, seed 0): {size['file']}; of it {size['packed']} codes, {size['scales']} scales, "
                f"{size['full precision']} in full precision.\n"
            )
    latency = OUT / "latency.md"
    lines.append(latency.read_text() if latency.exists() else "")
    HERE.mkdir(exist_ok=True)
    (HERE / "study_quantized.md").write_text("\n".join(lines))
    report(records, HERE / "study_quantized.html", title="Quantized MiniLM: maps, outputs, or both?", command=COMMAND)
    print("\n".join(lines))
