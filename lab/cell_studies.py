"""What the studies of the lab share: teachers of three kinds, the arms, and the tables in which the paper's claims are judged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from fractionate import TeacherSignal, dissect, spectrum
from fractionate.data import Examples
from fractionate.models.zoo import logit_layer
from fractionate.records import Effect, Study, Training
from fractionate.study.arms import FACTORIAL
from fractionate.study.effects.contrasts import Contrast, effects
from fractionate.theory.teacher_signal import relation_from_rows
from fractionate.training.fleet import model_logits
from fractionate.training.mechanism import row_geometry

RESULTS = Path(__file__).parent / "results"
RUNS = Path(__file__).parent.parent / "runs"
CELLS = (*FACTORIAL, "kd-sim", "kd-pt+sim", "kd-topk")
PLACEBO_CELLS = ("kd-pt-shuffled-within-class", "kd-shuffled", "class-mean-permuted", "kd-sim-permuted")
DIRECT = (  # contrasts of two cells, beside those against hard labels
    Contrast("kd-pt", "kd-sim"),
    Contrast("kd-pt", "class-mean"),
    Contrast("kd-pt", "ls"),
    Contrast("class-mean", "ls"),
    Contrast("kd-sim", "ls"),
    Contrast("kd-topk", "kd"),
    Contrast("kd", "kd-pt"),
    Contrast("kd", "class-mean"),
)


@dataclass(frozen=True, eq=False)
class Teacher:
    """A trained teacher and what it says about some examples."""

    name: str
    model: nn.Module

    def says(self, data: Examples) -> TeacherSignal:
        rows = logit_layer(self.model)
        assert rows is not None
        return TeacherSignal(model_logits(self.model, data.inputs), data.labels, relation_from_rows(rows))


def teach(
    name: str,
    factory: Callable[[], nn.Module],
    data: Examples,
    *,
    epochs: int,
    smoothing: float = 0.0,
    batch_size: int = 128,
    learning_rate: float = 1e-3,
) -> Teacher:
    with torch.random.fork_rng():
        torch.manual_seed(1234)
        model = factory()
    optimizer = torch.optim.AdamW(model.parameters(), learning_rate)
    steps = epochs * -(-len(data) // batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    generator = torch.Generator().manual_seed(0)
    model.train()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for _ in range(epochs):
            for index in torch.randperm(len(data), generator=generator).split(batch_size):
                optimizer.zero_grad()
                logits = model(data.inputs[index])
                functional.cross_entropy(logits, data.labels[index], label_smoothing=smoothing).backward()
                optimizer.step()
                schedule.step()
    return Teacher(name, model.eval())


def teacher_row(teacher: Teacher, transfer: Examples, test: Examples, groups: Sequence[int] = ()) -> str:
    """One line of the table of teachers: what it knows and how its logit layer lies."""
    signal = teacher.says(transfer)
    confidence = signal.confidence
    at = {t: spectrum(signal, t) for t in (1.0, 4.0)}
    accuracy = (teacher.says(test).logits.argmax(1) == test.labels).float().mean()
    rows = logit_layer(teacher.model)
    assert rows is not None
    geometry = row_geometry(rows, superclasses=groups)
    near = (
        "–"
        if geometry.within_superclass is None
        else f"{geometry.within_superclass:+.3f} / {geometry.between_superclasses:+.3f}"
    )
    means = signal.at(4.0).stats.class_mean
    block = "–"
    if groups:
        columns = torch.corrcoef(signal.at(4.0).probabilities.T)
        group = torch.tensor(list(groups))
        same = group[:, None] == group[None, :]
        off = ~torch.eye(len(group), dtype=torch.bool)
        block = f"{columns[same & off].mean():+.3f} / {columns[~same].mean():+.3f}"
    assert len(means)
    return (
        f"| {teacher.name} | {accuracy:.1%} | {confidence.mean():.4f} / {confidence.std():.4f} | "
        f"{at[1.0].domain_shape_nats:.4f} | {at[4.0].domain_shape_nats:.4f} | {at[1.0].instance_confidence_nats:.4f} | "
        f"{at[1.0].instance_shape_nats:.4f} | {near} | {block} |"
    )


TEACHER_HEAD = [
    "| teacher | test accuracy | confidence mean / sd | domain.shape T=1, nats | T=4 | instance.confidence T=1 | "
    "instance.shape T=1 | cosine of logit rows: same / other superclass | correlation of columns at T=4: same / other |",
    "|---|---|---|---|---|---|---|---|---|",
]


def compare(study: Study) -> tuple[Effect, ...]:
    """Direct contrasts of cells of one study."""
    there = [c for c in DIRECT if {c.arm, c.against} <= set(study.arms)]
    return effects(study.runs, there, metric=study.deciding)


def run(
    name: str,
    factory: Callable[[], nn.Module],
    teacher: Teacher,
    transfer: Examples,
    validation: Examples,
    test: Examples,
    *,
    temperature: float,
    seeds: int,
    training: Training,
    cells: Sequence[str] = (*CELLS, *PLACEBO_CELLS),
    points: int = 4,
    teacher_weight: float = 0.9,
    superclasses: Sequence[int] = (),
) -> Study:
    """One study, kept under runs/ so that it goes on after a kill."""
    return dissect(
        factory,
        transfer,
        teacher.says(transfer),
        cells=cells,
        temperatures=(temperature,),
        teacher_weights=(teacher_weight,),
        seeds=seeds,
        training=training,
        validation=validation,
        test=test,
        validation_signal=teacher.says(validation),
        test_signal=teacher.says(test),
        out=RUNS / name,
        name=name,
        points=points,
        superclasses=superclasses,
    )


def study_section(study: Study) -> list[str]:
    """The tables of one study."""
    base = [r.test.accuracy for r in study.runs if r.arm == "hard" and r.test is not None]
    steps = {r.steps for r in study.runs}
    lines = [
        f"### {study.name}",
        "",
        f"{len(study.arms)} arms × {len(study.seeds)} seeds, {study.data['examples']:,} transfer and {study.data['test']:,} test "
        f"examples, {max(steps):,} steps; hard labels reach {100 * sum(base) / len(base):.2f} %. "
        f"Margin {study.deciding.margin:g} points.",
        "",
        "| arm − hard | accuracy, points | verdict | NLL, nats | ECE, points | agreement, points | rescaling mean / sd |",
        "|---|---|---|---|---|---|---|",
    ]
    by = {(e.arm, e.against, e.metric): e for e in study.effects}
    for arm in study.arms[1:]:
        e = by[arm, "hard", "accuracy"]
        found = [by[arm, "hard", m] for m in ("nll", "ece", "agreement")]
        shown = [r.rescaling for r in study.runs if r.arm == arm and r.rescaling is not None]
        factor = "–" if not shown else f"{mean([h.mean for h in shown]):.2f} / {mean([h.deviation for h in shown]):.2f}"
        name = f"*{arm}* (placebo)" if e.placebo else arm.replace("*", "×")
        lines.append(
            f"| {name} | {e.gain:+.2f} [{e.interval.low:+.2f}, {e.interval.high:+.2f}] | {e.verdict} | "
            + " | ".join(f"{x.gain:+.3f} {x.verdict}" for x in found)
            + f" | {factor} |"
        )
    real = [e for e in study.effects if e.metric == "accuracy" and e.against != "hard"]
    lines += ["", "| contrast | accuracy, points | p (Holm) | verdict |", "|---|---|---|---|"]
    for e in (*real, *compare(study)):
        interval = f"[{e.interval.low:+.2f}, {e.interval.high:+.2f}]"
        lines.append(f"| {e.arm} − {e.against} | {e.gain:+.2f} {interval} | {e.p_holm:.3g} | {e.verdict} |")
    lines += ["", "| share of kd's gain | ladder | Shapley |", "|---|---|---|"]
    for level in dict.fromkeys(s.level for s in study.shares):
        both = {s.method: s for s in study.shares if s.level == level}
        cells = [
            f"{both[m].gain:+.2f} [{both[m].interval.low:+.2f}, {both[m].interval.high:+.2f}]" if m in both else "–"
            for m in ("ladder", "Shapley")  # Shapley needs all ten arms
        ]
        lines.append(f"| {level} | {cells[0]} | {cells[1]} |")
    spectra = {
        arm: [r.student_spectrum for r in study.runs if r.arm == arm and r.student_spectrum is not None]
        for arm in ("hard", "class-mean", "kd")
    }
    lines += ["", "| student absorbed, nats on validation data | hard | class-mean | kd |", "|---|---|---|---|"]
    for level in ("universe", "domain.confidence", "domain.shape", "instance.confidence", "instance.shape"):
        lines.append(
            f"| {level} | " + " | ".join(f"{mean([s.nats[level] for s in spectra[a]]):.3f}" for a in spectra) + " |"
        )
    return [*lines, *([""] + [f"- {note}" for note in study.notes] if study.notes else []), ""]


def lean(study: Study) -> Study:
    """The study with the curves of its first seed only where it has many: a page is for reading."""
    if sum(len(run.history) for run in study.runs) <= 200:
        return study
    first = study.seeds[0]
    return replace(study, runs=tuple(r if r.seed == first else replace(r, history=()) for r in study.runs))


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def rescaling_correlation(study: Study, arm: str) -> float | None:
    """How the rescaling factor goes with the teacher's confidence at the end of training, mean over seeds."""
    found = [
        p.rescaling_correlation
        for r in study.runs
        if r.arm == arm
        for p in r.history[-1:]
        if p.rescaling_correlation is not None
    ]
    return mean(found) if found else None


def write(
    name: str, command: str, words: str, teachers: list[str], studies: Sequence[Study], *, shown: Sequence[Study] = ()
) -> None:
    """lab/results/NAME.md with every study, and a page with those that are `shown` (all where none is named)."""
    from fractionate import report

    RESULTS.mkdir(exist_ok=True)
    lines = [f"# {name}", "", words, "", f"Made by `{command}`.", "", "## Teachers, on the transfer set", ""]
    lines += [*TEACHER_HEAD, *teachers, "", "## Studies", ""]
    for study in studies:
        lines += study_section(study)
    (RESULTS / f"{name}.md").write_text("\n".join(lines) + "\n")
    report([lean(s) for s in shown or studies], RESULTS / f"{name}.html")
    print("\n".join(lines))
