"""A trained cross-encoder teaches bi-encoders: which of eight definitions is of the same topic as the query? 10 seeds, a placebo.

    PYTHONPATH=src OMP_NUM_THREADS=1 nice -n 15 python lab/study_reranking.py

Definitions and their 45 topics are WordNet's. A query's relevant candidate is another definition of its topic, the seven others
are of other topics. The cross-encoder reads query and candidate together (their vectors, product and difference, through an MLP)
and is trained on 6,000 queries by `distill` on labels; students embed each text alone, are scored by dot product and see 600 other
queries. Test queries are new to both. Runs are kept in runs/reranking. Writes lab/results/study_reranking.md.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))

from fractionate import Objective, Recipe, Task, collect, diagnose, dissect, distill
from fractionate.data import read_glosses
from fractionate.data.own_texts import TextEncoding
from fractionate.records import Study, Training
from fractionate.study import Arm

OUT, RESULT = Path("runs/reranking"), Path(__file__).parent / "results" / "study_reranking.md"
TEACHING, TRANSFER, TEST, CANDIDATES, BUCKETS, PLACES, SEEDS = 6000, 600, 1500, 8, 4096, 20, 10


class Words(nn.Module):
    """The mean vector of hashed words, 0 where there are no more."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.vectors = nn.Embedding(BUCKETS + 1, width, padding_idx=0)

    def forward(self, places: Tensor) -> Tensor:
        there = (places > 0).unsqueeze(-1)
        return (self.vectors(places) * there).sum(-2) / there.sum(-2).clamp_min(1)


class CrossEncoder(nn.Module):
    """Query and candidate read together: scores [batch, candidates]."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.words = Words(width)
        self.layers = nn.Sequential(nn.Dropout(0.3), nn.Linear(4 * width, 64), nn.ReLU(), nn.Linear(64, 1))

    def forward(self, texts: Tensor) -> Tensor:
        found = self.words(texts)
        query, others = found[:, :1].expand_as(found[:, 1:]), found[:, 1:]
        scores: Tensor = self.layers(
            torch.cat([query, others, query * others, (query - others).abs()], dim=-1)
        ).squeeze(-1)
        return scores


def queries() -> dict[str, tuple[Tensor, Tensor]]:
    """Queries with their candidates as hashed words [examples, 1 + candidates, places], and labels; parts share no definition."""
    rows = sorted({(text, topic) for text, topic, _ in read_glosses()})
    draw = torch.Generator().manual_seed(0)
    order = torch.randperm(len(rows), generator=draw).tolist()
    encoding, parts, start = TextEncoding((), BUCKETS, PLACES), {}, 0
    for name, size in (("teaching", TEACHING), ("transfer", TRANSFER), ("test", TEST)):
        some = [rows[i] for i in order[start : start + 3 * size]]
        start += 3 * size
        encoded, topics = encoding.encode([text for text, _ in some]), torch.tensor([topic for _, topic in some])
        chosen = []
        for place in range(size):
            same = (topics == topics[place]).nonzero().flatten()
            same = same[same != place]
            other = (topics != topics[place]).nonzero().flatten()
            relevant = same[torch.randint(len(same), (1,), generator=draw)] if len(same) else torch.tensor([place])
            picked = other[torch.randint(len(other), (CANDIDATES - 1,), generator=draw)]
            chosen.append(torch.cat([torch.tensor([place]), relevant, picked]))
        labels = torch.zeros(size, CANDIDATES, dtype=torch.long)
        labels[:, 0] = 1
        parts[name] = encoded[torch.stack(chosen)], labels
    return parts


def main() -> None:
    torch.set_num_threads(1)
    parts = queries()
    training = Training(epochs=8, batch_size=64, learning_rate=5e-3)
    taught = Task("reranking", transfer=parts["teaching"], test=parts["test"], student=CrossEncoder)
    teacher, run = distill(taught, recipe=Recipe(training=training), out=OUT / "teacher", show="nothing")
    task = Task("reranking", transfer=parts["transfer"], test=parts["test"], student=lambda: Words(24))
    store = collect(teacher, task, OUT / "store")
    training = Training(epochs=12, batch_size=64, learning_rate=1e-2)

    def recipe(*settings: object, **more: str) -> Recipe:
        return Recipe(objective=Objective(*settings, **more), training=training)  # type: ignore[arg-type]

    arms = {
        "no teacher": Recipe(training=training),
        "KL over candidates": recipe("kd", 1.0, 0.9),
        "margin-MSE": recipe("kd", 1.0, 0.9, divergence="margin-mse"),
        "kd-pt": recipe("kd-pt", 1.0, 0.9),
        "kd-shuffled": Arm(recipe("kd-shuffled", 1.0, 0.9), placebo_of="KL over candidates"),
    }
    study = dissect(task, arms, store, seeds=SEEDS, out=OUT / "study", name="reranking", progress="off")
    found = diagnose(store, data=task)
    text = table(study, run.test.values["mrr"] if run.test else float("nan"), [f.name for f in found.problems])
    RESULT.write_text(text, encoding="utf-8")
    print(text)


def table(study: Study, teacher: float, findings: list[str]) -> str:
    """The result as Markdown."""
    lines = [
        "# study_reranking",
        "",
        (__doc__ or "").split("\n\n")[0],
        "",
        "Made by `PYTHONPATH=src OMP_NUM_THREADS=1 nice -n 15 python lab/study_reranking.py`.",
        "",
        (__doc__ or "").split("\n\n")[2].rstrip(),
        "",
        f"The trained cross-encoder: MRR {teacher:.2f} % on the test queries. Diagnosis: {', '.join(findings) or 'no finding'}.",
        "",
        "| variant | against | difference of MRR, points, 95 % interval | verdict | mean MRR % |",
        "|---|---|---|---|---|",
    ]
    values = {
        arm: [r.test.values["mrr"] for r in study.runs if r.arm == arm and r.test is not None] for arm in study.arms
    }
    mean = {arm: sum(found) / len(found) for arm, found in values.items()}
    lines.append(f"| no teacher | – | – | – | {mean['no teacher']:.2f} |")
    for e in study.effects:
        if e.metric == "mrr":
            name = f"{e.arm} (placebo)" if e.placebo else e.arm
            between = f"{e.gain:+.2f} [{e.interval.low:+.2f}, {e.interval.high:+.2f}]"
            lines.append(f"| {name} | {e.against} | {between} | {e.verdict} | {mean[e.arm]:.2f} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
