"""What the two real distillations share: a teacher that never saw the transfer set, arms over seeds, a page and a table."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))

from fractionate import Objective, TeacherSignal, distill
from fractionate.diagnosis import diagnose
from fractionate.engine.cost import measure_cost
from fractionate.page import report
from fractionate.records import Diagnosis, Run, Training
from fractionate.scores import scores
from fractionate.sources.examples import Examples
from fractionate.study.pilot import PilotPlan


def compare(
    title: str,
    command: str,
    task: str,
    teacher: str,
    student: Callable[[], nn.Module],
    data: list[Examples],
    signals: list[TeacherSignal],
    training: Training,
    out: Path,
    page: Path,
    *,
    seeds: int = 5,
    pilot_minutes: float | None = 3.0,
) -> str:
    """Diagnose with a pilot, train every arm over the seeds (finished runs are read back); a page, and the table as Markdown.

    `data` and `signals`: transfer, validation and test part, and what the teacher says of each. Settings are chosen on the
    validation part; the test part is read once, at the end of a run.
    """
    from scipy.stats import t

    train, validation, test = data
    signal, held_out, test_signal = signals
    torch.manual_seed(100)
    more = {"name": title, "class_names": train.class_names, "data": train, "held_out": held_out}
    rule = diagnose(signal, student(), **more).recipe  # type: ignore[arg-type]
    kept = out / "diagnosis.json"
    if kept.exists():
        diagnosis = Diagnosis.load(kept)
    else:
        plan = None
        if pilot_minutes is not None:
            plan = PilotPlan(
                pilot_minutes, validation, replace(training, keep="last"), first_seed=100, out=out / "pilot"
            )
        diagnosis = diagnose(signal, student if plan else student(), pilot=plan, **more)  # type: ignore[arg-type]
        diagnosis.save(kept)
    print(diagnosis, flush=True)
    arms: dict[str, Objective | None] = {"no teacher": None, "kd T = 4 / 0.9": Objective("kd", 4.0, 0.9)}
    for source, advice in (("rule", rule), ("pilot", diagnosis.recipe if diagnosis.pilot else None)):
        if advice is not None and advice.distil:
            arms[f"{source}: {advice.cell} T = {advice.temperature:g} / {advice.teacher_weight:g}"] = (
                Objective.from_recipe(advice)
            )
    rows: dict[str, list[dict[str, float]]] = {}
    runs: list[Run] = []
    for arm, objective in arms.items():
        for seed in range(seeds):
            torch.manual_seed(seed)
            _, run = distill(
                student(), train, None if objective is None else signal, objective=objective, training=training,
                validation=validation, test=test, test_signal=test_signal, seed=seed, arm=arm,
                out=out / f"{''.join(c if c.isalnum() else '-' for c in arm)}-{seed}", show="nothing",
            )  # fmt: skip
            assert run.test is not None and run.test.agreement is not None
            runs.append(run)
            rows.setdefault(arm, []).append(
                {"accuracy": run.test.accuracy * 100, "nll": run.test.nll_nats, "ece": run.test.ece * 100,
                 "agreement": run.test.agreement * 100}
            )  # fmt: skip
            print(arm, seed, run.test, flush=True)
    none = [row["accuracy"] for row in rows["no teacher"]]
    lines = [
        f"# {title}", "", f"`{command}`. {task}", "",
        f"{len(train):,} training, {len(validation):,} validation, {len(test):,} test examples; {seeds} seeds.",
        f"Teacher on test: {scores(test_signal.logits, test_signal.labels)}.", "",
        "| arm | accuracy % | NLL nats | ECE points | agreement % | gain over no teacher, points (95 %) |",
        "|---|---|---|---|---|---|",
    ]  # fmt: skip
    for arm, found in rows.items():
        middle = {key: statistics.mean(row[key] for row in found) for key in found[0]}
        gains = [row["accuracy"] - base for row, base in zip(found, none, strict=True)]
        width = t.ppf(0.975, len(gains) - 1) * statistics.stdev(gains) / len(gains) ** 0.5
        gain = "" if arm == "no teacher" else f"{statistics.mean(gains):+.2f} ± {width:.2f}"
        lines.append(
            f"| {arm} | {middle['accuracy']:.2f} | {middle['nll']:.3f} | {middle['ece']:.1f} | "
            f"{middle['agreement']:.1f} | {gain} |"
        )
    cost = measure_cost(student().eval(), train.inputs[:1], name="student")
    lines += [
        "",
        f"Student: {cost['student_parameters']:,.0f} parameters, {cost['student_megabytes']:.2f} MB, "
        f"{cost['student_latency_ms']:.2f} ms an example on one thread; teacher: {teacher}.",
        "",
        f"The rule advised: {rule}",
        "",
        f"The pilot: {diagnosis.pilot}" if diagnosis.pilot else "No pilot was run.",
        "",
    ]
    report([diagnosis, *runs], page, title=title, command=command)
    return "\n".join(lines)
