"""Every verb on every system, in a few lines each, on small real models: what one verb takes, all take."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from encoders import transformers
from fractionate import Objective, Recipe, Task, collect, diagnose, dissect, distill, report
from fractionate.losses.terms import ked
from fractionate.records import Training
from fractionate.teachers import Cached
from test_dissect_tasks import bert, continued, llama, marian, seeded, tagged, texts, translated

transformers()
FEW = Training(steps=4, batch_size=8, learning_rate=3e-3)
KD = Objective("kd", 1.0, 0.9)


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3))


def table(count: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    inputs = torch.randn(count, 6, generator=torch.Generator().manual_seed(seed))
    return inputs, inputs[:, :3].argmax(1)


def labelled(count: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Three labels an example, one of them unknown."""
    inputs, _ = table(count, seed)
    labels = (inputs[:, :3] > 0).float()
    labels[1, 2] = -100
    return inputs, labels


def numbers(count: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    inputs, _ = table(count, seed)
    return inputs, inputs @ torch.tensor([1.0, -1.0, 0.5, 0.0, 0.0, 0.2])


def pairs(count: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Two noisy looks at one row, and how alike they are."""
    inputs, _ = table(count, seed)
    noise = torch.randn(count, 2, 6, generator=torch.Generator().manual_seed(seed + 1))
    both = inputs[:, None] + 0.5 * noise
    return both, torch.cosine_similarity(both[:, 0], both[:, 1])


class BiEncoder(nn.Module):
    """Embeds a query and its candidates apart from each other: [batch, texts, 6] to [batch, texts, 4]."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 4)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.layer(inputs)


def queries(count: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """A query, its relevant candidate and two more, the last of which may be absent."""
    inputs = torch.randn(count, 4, 6, generator=torch.Generator().manual_seed(seed))
    labels = torch.tensor([1, 0, 0]).repeat(count, 1)
    labels[::3, 2] = -100
    return inputs, labels


class Explains(nn.Module):
    """Two superfeatures of three inputs each; the prediction is the mean of what they say."""

    def __init__(self) -> None:
        super().__init__()
        self.branches = nn.ModuleList([nn.Linear(3, 3), nn.Linear(3, 3)])

    def forward(self, inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        outputs = [torch.log_softmax(b(x), 1) for b, x in zip(self.branches, inputs.split(3, 1), strict=True)]
        return {"logits": torch.stack(outputs).mean(0), "explanations": torch.stack(outputs, 1)}


@dataclass(frozen=True)
class System:
    kind: str
    data: Callable[..., Any]
    student: Callable[[], nn.Module]
    recipe: Callable[[], Recipe]


SYSTEMS = {
    "plain": System("classification", table, mlp, lambda: Recipe(objective=KD, training=FEW)),
    "texts": System("classification", texts, bert, lambda: Recipe(objective=KD, training=FEW)),
    "tagger": System("token-classification", tagged, lambda: bert(tokens=True), lambda: Recipe(objective=KD, training=FEW)),
    "translation": System(
        "translation", translated, marian, lambda: Recipe(objective=KD, terms=("ranking(3)", "label-smoothing(0.1)"), training=FEW)
    ),
    "language model": System("language-modelling", continued, llama, lambda: Recipe(objective=KD, training=FEW)),
    "multiple labels": System("multi-label", labelled, mlp, lambda: Recipe(objective=KD, training=FEW)),
    "reranker": System(
        "reranking", queries, BiEncoder, lambda: Recipe(objective=Objective("kd", 1.0, 0.9, divergence="margin-mse"), training=FEW)
    ),
    "numbers": System(
        "regression", numbers, lambda: nn.Linear(6, 2), lambda: Recipe(terms=("squared-error", "gaussian-kl"), training=FEW)
    ),
    "embeddings": System(
        "embeddings", pairs, BiEncoder, lambda: Recipe(terms=("candidates", "projected-mse"), training=FEW)
    ),
    "quantized": System(
        "classification",
        texts,
        bert,
        lambda: Recipe(preparations=("quantize('ternary')",), objective=KD, terms=("map", "output"), training=FEW),
    ),
    "explaining": System("classification", table, Explains, lambda: Recipe(**ked(share=0.7), training=FEW)),
    "features": System(
        "classification", table, mlp, lambda: Recipe(objective=KD, terms=("fitnets('0', '0', weight=0.1)",), training=FEW)
    ),
}  # fmt: skip


def task_of(system: System) -> Task:
    return Task(system.kind, transfer=system.data(24), test=system.data(16, 1), student=system.student)


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    found = {}
    for name, system in SYSTEMS.items():
        out = tmp_path_factory.mktemp("stores") / re.sub(r"\W", "_", name)
        found[name] = collect(seeded(system.student), task_of(system), out, class_relation=None)
    return found


@pytest.mark.parametrize("name", SYSTEMS)
def test_collect(name: str, stores: dict[str, Any]) -> None:
    system, store = SYSTEMS[name], stores[name]
    task = task_of(system)
    assert len(store) == len(task.splits.transfer) and store.head.tokens == task.reader.tokens


@pytest.mark.parametrize("name", SYSTEMS)
def test_diagnose_with_student_and_data(name: str, stores: dict[str, Any]) -> None:
    found = diagnose(stores[name], data=task_of(SYSTEMS[name]))
    assert found.recipe.reason and (found.spectrum is None or found.spectrum.total_nats >= 0)
    ran = {finding.name for finding in found.findings if finding.severity != "skipped"}
    assert ran


@pytest.mark.parametrize("name", SYSTEMS)
def test_dissect(name: str, tmp_path: Path) -> None:
    system = SYSTEMS[name]
    arms = {"no teacher": Recipe(training=FEW), "taught": system.recipe()}
    study = dissect(task_of(system), arms, seeded(system.student), seeds=2, out=tmp_path, progress="off")
    assert [run.status for run in study.runs] == ["completed"] * 4
    assert report(study, tmp_path / "page.html").exists()


@pytest.mark.parametrize("name", SYSTEMS)
def test_distill_from_a_store_and_report(name: str, stores: dict[str, Any], tmp_path: Path) -> None:
    system = SYSTEMS[name]
    teacher = Cached(stores[name], model=seeded(system.student))
    student, run = distill(
        task_of(system), teacher=teacher, recipe=system.recipe(), out=tmp_path / "run", show="nothing"
    )
    assert run.status == "completed" and run.test is not None and run.contract is not None
    again, read = distill(
        task_of(system), teacher=teacher, recipe=system.recipe(), out=tmp_path / "run", show="nothing"
    )
    assert read == run
    for (key, ours), theirs in zip(student.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), key
    assert report(run, tmp_path / "page.html").exists()


def test_the_page_of_tasks_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).parents[1] / "docs" / "reference" / "tasks.md").read_text(encoding="utf-8")
    names: dict[str, object] = {}
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(block, names)
    assert Path("runs/bert/report.html").exists()
