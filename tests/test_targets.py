"""Targets of every kind: rows, losses and errors of each task against plain numpy in float64."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fractionate import Objective, Recipe, Task, TeacherSignal, collect, distill
from fractionate.data.batch import Batch
from fractionate.errors import FractionateError, MismatchError
from fractionate.records import Training
from fractionate.store import Store
from fractionate.tasks import kinds

ONE = Training(steps=1, batch_size=4)


def batch_of(labels: Tensor, first: int = 0) -> Batch:
    return Batch(inputs=None, labels=labels, index=torch.arange(first, first + len(labels)))


def logsumexp(values: np.ndarray[Any, Any]) -> float:
    top = values.max()
    return float(top + np.log(np.exp(values - top).sum()))


# --- several labels ------------------------------------------------------------------------------------------------


def test_label_rows_are_the_binary_cross_entropy() -> None:
    rng = np.random.default_rng(0)
    logits, labels = 3 * rng.normal(size=(6, 4)), rng.integers(0, 2, (6, 4))
    labels[2, 1] = labels[5, 3] = -100
    kind, batch = kinds["multi-label"], batch_of(torch.tensor(labels))
    rows, gold, place = kind.rows(torch.tensor(logits), batch)
    expected = [
        (logsumexp(np.array([0.0, z])) - y * z, i, y)
        for i in range(6)
        for z, y in zip(logits[i], labels[i], strict=True)
        if y != -100
    ]
    found = torch.nn.functional.cross_entropy(rows, gold, reduction="none")
    np.testing.assert_allclose(found.numpy(), [loss for loss, _, _ in expected], rtol=1e-12)
    assert place is not None and place.tolist() == [i for _, i, _ in expected]
    assert gold.tolist() == [y for _, _, y in expected] and kind.count(batch) == 22
    both = torch.stack([torch.zeros(6, 4), torch.tensor(logits)], dim=2)
    assert torch.equal(kind.rows(both, batch)[0], rows)
    assert [part.tolist() for part in kind.label_rows(batch)] == [gold.tolist(), place.tolist()]


def test_a_cell_of_a_label_is_the_teachers_probability() -> None:
    rng = np.random.default_rng(1)
    student, teacher, labels = rng.normal(size=(5, 3)), 2 * rng.normal(size=(5, 3)), rng.integers(0, 2, (5, 3))
    kind, batch = kinds["multi-label"], batch_of(torch.tensor(labels))
    rows, gold, _ = kind.rows(torch.tensor(student), batch)
    taught = TeacherSignal(kind.rows(torch.tensor(teacher), batch)[0], gold)
    found = Objective("kd", 2.0, 0.7)(rows, taught)
    p, q = 1 / (1 + np.exp(-teacher / 2)), 1 / (1 + np.exp(-student / 2))
    hard = np.log1p(np.exp(student)) - labels * student
    soft = -(p * np.log(q) + (1 - p) * np.log1p(-q))
    np.testing.assert_allclose(found.numpy().reshape(5, 3), 0.3 * hard + 0.7 * 4 * soft, rtol=1e-9)


def test_a_label_that_is_unknown_everywhere_in_an_example_gives_no_row() -> None:
    labels = torch.tensor([[1, 0], [-100, -100], [0, 1]])
    _, gold, place = kinds["multi-label"].rows(torch.zeros(3, 2), batch_of(labels))
    assert place is not None and place.tolist() == [0, 0, 2, 2] and gold.tolist() == [1, 0, 0, 1]


# --- candidates ----------------------------------------------------------------------------------------------------


def test_candidates_are_the_classes_of_their_row() -> None:
    rng = np.random.default_rng(2)
    scores = rng.normal(size=(4, 5))
    labels = np.array([[1, 0, 0, 0, 0], [0, 0, 1, 1, 0], [0, 1, 0, -100, -100], [1, 0, 0, 0, -100]])
    kind, batch = kinds["reranking"], batch_of(torch.tensor(labels), first=7)
    rows, gold, place = kind.rows(torch.tensor(scores), batch)
    assert place is not None and place.tolist() == [0, 1, 2, 3]
    for i in range(4):
        first = int(np.flatnonzero(labels[i] == 1)[0])
        alive = [c for c in range(5) if labels[i, c] == 0 or c == first]
        loss = logsumexp(scores[i, alive]) - scores[i, first]
        assert float(torch.nn.functional.cross_entropy(rows[i], gold[i])) == pytest.approx(loss, rel=1e-12)
        assert int(gold[i]) == (first - (7 + i)) % 5  # turned by the number of the example
    embeddings = rng.normal(size=(4, 6, 3))
    dots = torch.tensor(np.einsum("bw,bcw->bc", embeddings[:, 0], embeddings[:, 1:]))
    torch.testing.assert_close(kind.rows(torch.tensor(embeddings), batch)[0], kind.rows(dots, batch)[0])


def test_margins_do_not_see_the_scale_of_a_row() -> None:
    rng = np.random.default_rng(3)
    labels = torch.nn.functional.one_hot(torch.tensor([0, 3]), 4)
    student, teacher = torch.tensor(rng.normal(size=(2, 4))), torch.tensor(rng.normal(size=(2, 4)))
    kind, batch = kinds["reranking"], batch_of(labels)
    rows, gold, _ = kind.rows(student, batch)
    objective = Objective("kd", 1.0, 1.0, divergence="margin-mse")
    found = [objective(rows, TeacherSignal(kind.rows(t, batch)[0], gold)) for t in (teacher, teacher + 100)]
    torch.testing.assert_close(found[0], found[1])
    for i, y in enumerate((0, 3)):
        margins = [(student[i, y] - student[i, c]) - (teacher[i, y] - teacher[i, c]) for c in range(4) if c != y]
        assert float(found[0][i]) == pytest.approx(float(np.mean(np.square(margins))) / 2, rel=1e-12)


# --- bad input -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "labels", "words"),
    [
        ("multi-label", torch.tensor([[1, 0], [2, 0]]), r"(?s)not rows of labels.*examples 1"),
        ("multi-label", torch.tensor([1, 0]), "not rows of labels"),
        ("multi-label", torch.tensor([[1.0, 0.5], [0.0, 0.0]]), r"examples 0"),
        ("multi-label", torch.tensor([[1, 0, 0], [0, 0, 1]]), "one logit for each label"),
        ("reranking", torch.tensor([[1, 0], [0, 0]]), "1 of 2 examples have no relevant candidate .examples 1"),
        ("reranking", torch.tensor([[1, 0], [1, -100]]), "no candidate that is not relevant"),
        ("reranking", torch.tensor([[1, 0, 3], [1, 0, 0]]), "labels other than 0, 1"),
        ("reranking", torch.tensor([0, 1]), "not labels of candidates"),
        ("reranking", torch.tensor([[1, 0, 0], [0, 0, 1]]), "one score for each candidate"),
    ],
)
def test_bad_labels_are_named_before_training(kind: str, labels: Tensor, words: str, tmp_path: Path) -> None:
    task = Task(kind, transfer=(torch.randn(len(labels), 3), labels), student=lambda: torch.nn.Linear(3, 2))
    with pytest.raises(MismatchError, match=words):
        distill(task, recipe=Recipe(training=ONE))
    with pytest.raises(FractionateError):
        collect(task.model(), task, tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_losses_from_hidden_states_are_refused_where_outputs_are_no_logits() -> None:
    labels = torch.tensor([[1, 0, 1], [0, 0, 1]])
    task = Task("multi-label", transfer=(torch.randn(2, 3), labels), student=lambda: torch.nn.Linear(3, 3))
    with pytest.raises(FractionateError, match="loss_from"):
        distill(task, recipe=Recipe(training=Training(steps=1, batch_size=2, loss_from="hidden")))


def test_a_store_of_labels_is_checked_against_its_teacher(tmp_path: Path) -> None:
    inputs = torch.randn(20, 3)
    task = Task("multi-label", transfer=(inputs, (inputs > 0).long()), student=lambda: torch.nn.Linear(3, 3))
    teacher = task.model(seed=1)
    store = collect(teacher, task, tmp_path / "store")
    assert store.head.classes == 2 and store.class_relation is None
    Store.open(tmp_path / "store", teacher=teacher, data=task)
    with pytest.raises(MismatchError, match="says something else"):
        Store.open(tmp_path / "store", teacher=task.model(seed=2), data=task)
