"""Does a teacher pay beyond classes? Several labels, numbers, embeddings and candidates on real data, 10 seeds, with placebos.

PYTHONPATH=src nice -n 15 python lab/study_targets.py [labels numbers embeddings pictures candidates]

Every run is kept in runs/targets: killed and started again, it goes on. Writes lab/results/study_targets.md.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import targets_data as data
import torch
from torch import Tensor, nn

from fractionate import Objective, Recipe, Task, collect, diagnose, dissect, distill
from fractionate.records import Diagnosis, Study, Training
from fractionate.store import ByPlace, Store
from fractionate.study import Arm

RESULT = Path(__file__).parent / "results" / "study_targets.md"
SEEDS = 10
EMBEDDING_TERMS = ("candidates", "candidates('kd-pt')", "cosine(project=True)", "projected-mse")
Found = tuple[str, Diagnosis, Study]


def taught(
    kind: str, model: Callable[[], nn.Module], parts: dict[str, data.Split], epochs: int, rate: float
) -> nn.Module:
    """A teacher trained by `distill` on labels alone."""
    task = Task(kind, transfer=parts["teaching"], student=model)
    training = Training(epochs=epochs, batch_size=64, learning_rate=rate)
    return distill(task, recipe=Recipe(training=training), out=data.OUT / f"{kind}-teacher", show="nothing")[0]


def cells(training: Training, *objectives: tuple[str, Objective]) -> dict[str, Recipe | Arm]:
    return {"no teacher": Recipe(training=training)} | {
        n: Recipe(objective=o, training=training) for n, o in objectives
    }


def labels() -> Found:
    parts = data.labelled(teaching=12_000, transfer=1000, test=3000)
    teacher = taught("multi-label", lambda: mlp(1024, 256, 20), parts, 8, 2e-3)
    task = Task("multi-label", transfer=parts["transfer"], test=parts["test"], student=lambda: mlp(1024, 16, 20))
    training = Training(epochs=20, batch_size=32, learning_rate=5e-3)
    arms = cells(
        training,
        ("kd", Objective("kd", 1.0, 0.9)), ("kd, T = 4", Objective("kd", 4.0, 0.9)),
        ("class-mean", Objective("class-mean", 1.0, 0.9)), ("ls", Objective("ls", 1.0, 0.9)),
        ("kd-pt-shuffled", Objective("kd-pt-shuffled", 1.0, 0.9)),
    )  # fmt: skip
    arms["kd-pt-shuffled"] = Arm(arms["kd-pt-shuffled"], placebo_of="kd")  # type: ignore[arg-type]
    return study("several labels", task, teacher, arms)


def numbers() -> Found:
    parts = data.measures(teaching=270, transfer=80)
    teacher = taught("regression", lambda: mlp(20, 64, 20), parts, 150, 3e-3)
    task = Task("regression", transfer=parts["transfer"], test=parts["test"], student=lambda: mlp(20, 16, 10))
    training = Training(epochs=200, batch_size=16, learning_rate=3e-3)
    return study("numbers", task, teacher, terms(training, ("squared-error", "gaussian-kl"), alone="squared-error"))


def pictures() -> Found:
    parts = data.halves(teaching=6000, transfer=1000, test=1000)
    teacher = taught("embeddings", lambda: data.Towers(256, 64), parts, 10, 1e-3)
    task = Task("embeddings", transfer=parts["transfer"], test=parts["test"], student=lambda: data.Towers(16, 32))
    training = Training(epochs=20, batch_size=64, learning_rate=5e-3)
    return study("embeddings of pictures", task, teacher, terms(training, EMBEDDING_TERMS, alone="candidates"))


def embeddings() -> Found:
    first, second, _ = data.sentences(1500)
    states = [data.pooled(*data.token_states(t, n)) for t, n in ((first, "definitions"), (second, "examples"))]
    places = torch.stack([data.hashed_places(first), data.hashed_places(second)], dim=1)
    task = Task(
        "embeddings",
        transfer=(places[:1000], torch.zeros(1000)),
        test=(places[1000:], torch.zeros(500)),
        student=data.Bag,
    )
    training = Training(epochs=15, batch_size=64, learning_rate=1e-2)
    return study("embeddings", task, torch.stack(states, dim=1), terms(training, EMBEDDING_TERMS, alone="candidates"))


def candidates(count: int = 8) -> Found:
    first, second, topics = data.sentences(1500)
    generator = torch.Generator().manual_seed(1)
    chosen = []
    for i, topic in enumerate(topics):  # negatives of the same topic
        others = torch.tensor([j for j, other in enumerate(topics) if other == topic and j != i] or [(i + 1) % 1500])
        picked = others[torch.randint(len(others), (count - 1,), generator=generator)]
        chosen.append(torch.cat([torch.tensor([i]), picked]))
    rows = torch.stack(chosen)
    scores = data.max_sim(data.token_states(first, "definitions"), data.token_states(second, "examples"), rows)
    inputs = torch.cat([data.hashed_places(first)[:, None], data.hashed_places(second)[rows]], dim=1)
    relevant = torch.zeros(1500, count, dtype=torch.long)
    relevant[:, 0] = 1
    task = Task(
        "reranking", transfer=(inputs[:1000], relevant[:1000]), test=(inputs[1000:], relevant[1000:]), student=data.Bag
    )
    arms = cells(
        Training(epochs=15, batch_size=64, learning_rate=1e-2),
        ("KL over candidates", Objective("kd", 1.0, 0.9)),
        ("margin-MSE", Objective("kd", 1.0, 0.9, divergence="margin-mse")),
        ("kd-pt", Objective("kd-pt", 1.0, 0.9)), ("ls", Objective("ls", 1.0, 0.9)),
        ("kd-shuffled", Objective("kd-shuffled", 1.0, 0.9)),
    )  # fmt: skip
    arms["kd-shuffled"] = Arm(arms["kd-shuffled"], placebo_of="KL over candidates")  # type: ignore[arg-type]
    return study("candidates", task, scores, arms)


def mlp(*sizes: int) -> nn.Module:
    return nn.Sequential(nn.Linear(sizes[0], sizes[1]), nn.ReLU(), nn.Linear(sizes[1], sizes[2]))


def terms(training: Training, names: tuple[str, ...], alone: str) -> dict[str, Recipe | Arm]:
    """Each term beside the labels, one of them alone, and its placebo."""
    arms: dict[str, Recipe | Arm] = {"no teacher": Recipe(training=training)}
    arms |= {name: Recipe(terms=(name,), training=training) for name in names}
    arms[f"{alone}, no labels"] = Recipe(terms=(alone,), objective_weight=0.0, training=training)
    arms["shuffled"] = Arm(Recipe(terms=(f"{alone}(shuffled=True)",), training=training), placebo_of=alone)
    return arms


def study(name: str, task: Task, teacher: nn.Module | Tensor, arms: dict[str, Recipe | Arm]) -> Found:
    """Collect, diagnose, dissect; all of it is read back where it is there."""
    folder = data.OUT / name.replace(" ", "-")
    given: Any = ByPlace(lambda places: teacher[places]) if isinstance(teacher, Tensor) else teacher
    named = f"MiniLM, {name}" if isinstance(teacher, Tensor) else ""
    store: Store = collect(given, task, folder / "store", named=named)
    return name, diagnose(store, data=task), dissect(task, arms, store, seeds=SEEDS, out=folder / "study", name=name)


def table(found: Found) -> list[str]:
    name, diagnosis, study = found
    metric = study.deciding.name
    problems = "; ".join(f.summary for f in diagnosis.problems) or "no problem found"
    lines = [f"## {name}", "", f"Deciding metric: {metric}, on the test data. Diagnosis: {problems}.", ""]
    lines += ["| variant | against | difference, 95 % interval | verdict | mean |", "|---|---|---|---|---|"]
    means = {a: sum(r.test.values[metric] for r in study.runs if r.arm == a and r.test) / SEEDS for a in study.arms}
    lines.append(f"| no teacher | – | – | – | {means['no teacher']:.3f} |")
    for e in study.effects:
        if e.metric == metric:
            row = f"{e.gain:+.3f} [{e.interval.low:+.3f}, {e.interval.high:+.3f}]"
            placebo = " (placebo)" if e.placebo else ""
            lines.append(f"| {e.arm}{placebo} | {e.against} | {row} | {e.verdict} | {means[e.arm]:.3f} |")
    return [*lines, ""]


STUDIES = {
    "labels": labels,
    "numbers": numbers,
    "embeddings": embeddings,
    "pictures": pictures,
    "candidates": candidates,
}


def main() -> None:
    torch.set_num_threads(1)
    wanted = sys.argv[1:] or list(STUDIES)
    command = "Made by `PYTHONPATH=src nice -n 15 python lab/study_targets.py`; 10 seeds, paired differences, Holm."
    lines = ["# study_targets", "", (__doc__ or "").splitlines()[0], "", command, ""]
    for name in wanted:
        lines += table(STUDIES[name]())
        print("\n".join(lines[-14:]), flush=True)
    if len(wanted) == len(STUDIES):
        RESULT.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
