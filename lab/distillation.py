"""What the two real distillations share: an encoder's vectors, a cross-fitted head as the teacher, arms over seeds, a table."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))

from fractionate import Objective, TeacherSignal, distill
from fractionate.diagnosis import diagnose
from fractionate.engine.cost import measure_cost
from fractionate.engine.council import ask
from fractionate.records import Training
from fractionate.sources.examples import Examples

FITTING = Training(epochs=40, batch_size=64, learning_rate=3e-3, weight_decay=1e-2)


def teach(vectors: list[Examples]) -> tuple[Tensor, TeacherSignal, str]:
    """What a linear head on the vectors says: of the training examples, of the test examples, and how good it is.

    The head is fitted on one half and speaks about the other, so that the student hears no memorised answers.
    """
    train, validation, test = vectors
    classes, size = train.classes, len(train)
    said = torch.empty(size, classes)
    half = size // 2
    for fit, speak in ((slice(0, half), slice(half, size)), (slice(half, size), slice(0, half))):
        torch.manual_seed(0)
        head, _ = distill(
            nn.Linear(train.inputs.shape[1], classes), train.take(torch.arange(size)[fit]), training=FITTING
        )
        with torch.no_grad():
            said[speak] = head(train.inputs[speak])
    torch.manual_seed(0)
    whole, run = distill(
        nn.Linear(train.inputs.shape[1], classes), train, training=FITTING, validation=validation, test=test
    )
    return said, ask(whole, test), str(run.test)


def compare(
    title: str,
    command: str,
    task: str,
    teacher: str,
    student: Callable[[], nn.Module],
    data: list[Examples],
    vectors: list[Examples],
    training: Training,
    out: Path,
    *,
    seeds: int = 5,
) -> str:
    """Train every arm over the seeds (finished runs are read back) and give the table as Markdown."""
    from scipy.stats import t

    train, validation, test = data
    said, test_signal, teacher_scores = teach(vectors)
    signal = TeacherSignal(said, train.labels)
    diagnosis = diagnose(signal, name=title, class_names=train.class_names)
    diagnosis.save(out / "diagnosis.json")
    recipe = diagnosis.recipe
    arms: dict[str, Objective | None] = {"no teacher": None, "kd T = 4 / 0.9": Objective("kd", 4.0, 0.9)}
    if recipe.distil:
        name = f"recipe: {recipe.cell} T = {recipe.temperature:g} / {recipe.teacher_weight:g}"
        arms[name] = Objective.from_recipe(recipe)
    rows: dict[str, list[dict[str, float]]] = {}
    for arm, objective in arms.items():
        for seed in range(seeds):
            torch.manual_seed(seed)
            _, run = distill(
                student(), train, None if objective is None else signal, objective=objective, training=training,
                validation=validation, test=test, test_signal=test_signal, seed=seed, arm=arm,
                out=out / f"{''.join(c if c.isalnum() else '-' for c in arm)}-{seed}", show="nothing",
            )  # fmt: skip
            assert run.test is not None and run.test.agreement is not None
            rows.setdefault(arm, []).append(
                {"accuracy": run.test.accuracy * 100, "nll": run.test.nll_nats, "ece": run.test.ece * 100,
                 "agreement": run.test.agreement * 100}
            )  # fmt: skip
            print(arm, seed, run.test, flush=True)
    none = [row["accuracy"] for row in rows["no teacher"]]
    lines = [
        f"# {title}", "", f"`{command}`. {task}", "",
        f"{len(train):,} training, {len(validation):,} validation, {len(test):,} test examples; {seeds} seeds.",
        f"Teacher on test: {teacher_scores}.", "",
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
        f"The diagnosis advised: {recipe}",
        "",
    ]
    return "\n".join(lines)
