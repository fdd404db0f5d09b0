"""From the studies of quantized students to table and page: called by study_quantized.py."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from quantized_setup import NAMES, Cell
from quantized_tasks import CLASSES, FINE_TUNING, TINY, TRAIN, fine_tuned, parts

from fractionate import report
from fractionate.models import save_packed
from fractionate.records import AttentionStudy, Effect, Study
from fractionate.study import attention_arm, compare_maps, layer_sensitivity
from fractionate.study.attention_measures import top_eigenvalue
from fractionate.study.effects.contrasts import Contrast, effects, paired, values_of
from fractionate.study.preference import preference
from fractionate.teachers import Online

COMMAND = "PYTHONPATH=src python lab/study_quantized.py"
UNTRAINED = ("full precision", "quantized without training")
LOOKED_AT = 32  # test texts on which the heads of the untrained student are compared
ATTENTION_PAIRS = (("map", "hidden"), ("map", "score"), ("output", "hidden"), ("unified", "map"))


def completed(cell: Cell, study: Study) -> Study:
    """The study with the two arms without training, once for each seed (the same for every one), and all its contrasts."""
    split = cell.task.splits.test
    assert split is not None
    models = dict(zip(UNTRAINED, (cell.teacher, cell.student()), strict=True))
    note = {
        "steps": 0,
        "wall_seconds": 0.0,
        "contract": None,
        "history": (),
        "note": "not trained: the same for every seed",
    }
    with Online(cell.teacher).open(cell.task, split, None, cell.task.inside) as teacher:
        scores = {arm: cell.task.evaluate(model, split, teacher) for arm, model in models.items()}
    runs = [
        replace(study.runs[0], arm=arm, seed=seed, test=scores[arm], **note) for arm in models for seed in study.seeds
    ]
    every = (*study.runs, *runs)
    contrasts = [Contrast(arm, "no KD", arm.endswith("untrained")) for arm in study.arms if arm != "no KD"]
    contrasts += [Contrast("unified", "unified, untrained")]
    contrasts += [Contrast(arm, "hidden") for arm in ("score", "map", "output", "unified")] + [Contrast("map", "score")]
    maps = [Contrast(*pair) for pair in ATTENTION_PAIRS]
    found: list[Effect] = []
    for metric in study.metrics:
        own = maps if metric.name in ("ranking-loss", "cover-length") else contrasts
        found += effects(every, own, metric=metric) if metric.name != "ece" else ()
    return replace(
        study, arms=(*UNTRAINED, *study.arms), runs=every, effects=tuple(found),
        settings=study.settings | {"command": COMMAND, "quantization": cell.bits},
    )  # fmt: skip


def half(values: Sequence[float]) -> float:
    """Half of a 95 % t interval over seeds."""
    found = paired(values, margin=1.0).interval
    return (found.high - found.low) / 2


def row(study: Study, arm: str) -> str:
    known = {
        name: list(values_of(study.runs, name)[arm].values())
        for name in ("accuracy", "nll", "ranking-loss", "cover-length")
    }
    untrained = arm in UNTRAINED
    accuracy = f"{statistics.mean(known['accuracy']):.2f}" + ("" if untrained else f" ± {half(known['accuracy']):.2f}")
    gains = []
    for base in ("no KD", "hidden"):
        e = next((e for e in study.effects if (e.arm, e.against, e.metric) == (arm, base, "accuracy")), None)
        gains.append(f"{e.gain:+.2f} ± {(e.interval.high - e.interval.low) / 2:.2f} {e.verdict}" if e else "")
    maps = [
        "" if arm == "full precision" else f"{statistics.mean(v):.3f}" + ("" if untrained else f" ± {half(v):.3f}")
        for v in (known["ranking-loss"], known["cover-length"])
    ]
    seeds = "–" if untrained else str(len(known["accuracy"]))
    nll = f"{statistics.mean(known['nll']):.3f}"
    return f"| {' | '.join([arm, seeds, accuracy, nll, *gains, *maps])} |"


def section(cell: Cell, given: Study) -> tuple[list[str], list[Study | AttentionStudy]]:
    study = completed(cell, given)
    steps, first = study.runs[0].steps, study.runs[0].test
    assert first is not None
    lines = [
        f"## {study.name}", "",
        f"{steps} steps of 16 texts, learning rate {study.settings['learning_rate']:g}; {first.examples} test texts; "
        f"{len(study.seeds)} seeds.", "",
        "| arm | seeds | accuracy % (95 %) | NLL nats | − no KD, points (95 %) | − hidden, points (95 %) | ranking loss "
        "| cover length |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        *(row(study, arm) for arm in study.arms), "", "Attention, paired over seeds (95 %):",
    ]  # fmt: skip
    for arm, against in ATTENTION_PAIRS:
        for name, words in (("ranking-loss", "ranking loss"), ("cover-length", "cover length ratio")):
            e = next(e for e in study.effects if (e.arm, e.against, e.metric) == (arm, against, name))
            lines.append(f"- {words}, {arm} − {against}: {e.gain:+.3f} {e.interval} (p {e.p_value:.2g})")
    train, validation, test = parts(cell.name, cell.out)
    student, batches = cell.student(), [validation.batch(0, min(32, len(validation)))]
    layers, heads = layer_sensitivity(student, batches), layer_sensitivity(student, batches, part="attention")
    nats = ", ".join(f"{x:.3f} ({y:.3f})" for x, y in zip(layers, heads, strict=True))
    sharp = top_eigenvalue(student, *cell.texts.batch(0, min(16, len(train))), steps=6)
    wanted = preference(study.runs, task=NAMES[cell.name])
    shares = ", ".join(f"{s.term} {s.gain:+.2f} {s.interval}" for s in wanted.shares)
    size = {
        k: f"{v / 1e6:.2f} MB"
        for k, v in save_packed(student.eval(), cell.out / cell.name / cell.bits / "packed").items()
    }
    lines += [
        "", f"What quantizing one layer alone costs before training, nats (its attention alone): {nats}.",
        f"Sharpness (largest eigenvalue): quantized without training {sharp:.1f}.", "",
        f"**Finding: {wanted.finding.summary}.** Shares of what both bring over `hidden`, points: {shares}. "
        f"Recommendation: `{wanted.recipe}`.", "",
        f"Packed student: {size['file']}; of it {size['packed']} codes, {size['scales']} scales, {size['full precision']} in "
        "full precision.", "",
    ]  # fmt: skip
    change = compare_maps(student, cell.teacher, [test.batch(0, min(LOOKED_AT, len(test)))])
    attention = AttentionStudy(
        name=NAMES[cell.name], quantization=cell.bits, sensitivity=layers, attention_sensitivity=heads,
        attention_arms=(attention_arm("quantized without training", [change], sharpness=sharp),),
        finding=wanted.finding, recipe=wanted.recipe,
    )  # fmt: skip
    return lines, [study, attention]


def write(studies: Sequence[tuple[Cell, Study]], out: Path) -> None:
    """Results as Markdown and as a page."""
    here = Path(__file__).parent
    records: list[Study | AttentionStudy] = []
    lines = [
        "# Quantized MiniLM: maps, outputs, or both?",
        "",
        f"`{COMMAND}`",
        "",
        (here / "quantized_setting.md").read_text(),
    ]
    for task in dict.fromkeys(cell.name for cell, _ in studies):
        size = len(parts(task, out)[2])
        lines.append(
            f"- Teacher on {NAMES[task]} ({len(CLASSES[task])} classes): {FINE_TUNING[task].steps} steps of "
            f"{FINE_TUNING[task].batch_size} of {TRAIN:,} texts; test of {size:,}: {fine_tuned(task, out)[1].test}"
        )
    lines.append("")
    for cell, study in studies:
        text, found = section(cell, study)
        lines += text
        records += found
    results = out if out == TINY else here / "results"
    (results / "study_quantized.md").write_text("\n".join(lines))
    report(
        records, results / "study_quantized.html", title="Quantized MiniLM: maps, outputs, or both?", command=COMMAND
    )
    print("\n".join(lines))
