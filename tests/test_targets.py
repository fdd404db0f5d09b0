"""Targets of every kind: rows, losses and errors of each task against plain numpy in float64."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import norm
from torch import Tensor

from fractionate import Objective, Recipe, Task, TeacherSignal, collect, diagnose, dissect, distill
from fractionate.data import as_split
from fractionate.data.batch import Batch
from fractionate.errors import ConfigError, FractionateError, MismatchError, NumericsError
from fractionate.losses.terms import bind_terms, term_specs
from fractionate.records import Training
from fractionate.store import Store
from fractionate.tasks import Predictions, kinds
from fractionate.theory.number_signal import NoClassesError, NumberSignal

ONE = Training(steps=1, batch_size=4)


def batch_of(labels: Tensor, first: int = 0) -> Batch:
    return Batch(inputs=None, labels=labels, index=torch.arange(first, first + len(labels)))


def logsumexp(values: np.ndarray[Any, Any]) -> float:
    top = values.max()
    return float(top + np.log(np.exp(values - top).sum()))


# --- multiple labels ------------------------------------------------------------------------------------------------


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
    trained_teacher = TeacherSignal(kind.rows(torch.tensor(teacher), batch)[0], gold)
    found = Objective("kd", 2.0, 0.7)(rows, trained_teacher)
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


# --- numbers -------------------------------------------------------------------------------------------------------


def numbers_of(kind: Any, values: np.ndarray[Any, Any], labels: np.ndarray[Any, Any]) -> Predictions:
    batch = batch_of(torch.tensor(labels))
    rows, gold, place = kind.rows(torch.tensor(values), batch)
    return Predictions(logits=rows, labels=gold, place=place, batch=batch)


def term_loss(
    text: str, student: Predictions, signal: NumberSignal, seed: int = 0
) -> tuple[Tensor, torch.nn.ModuleDict]:
    parts = torch.nn.ModuleDict()
    with bind_terms(
        [term_specs[text]], student=student, teacher=None, signal=signal, examples=len(student), seed=seed,
        parts=parts, models=(parts, None),
    ) as (term,):  # fmt: skip
        return term(student, None, signal), parts


def drawn(*shape: int, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).normal(size=shape)


def test_regression_labels_alone() -> None:
    kind, y = kinds["regression"], drawn(5, 2, seed=1)
    mean, log_variance = drawn(5, 2, seed=2), drawn(5, 2, seed=3)
    plain = kind.label_loss(numbers_of(kind, mean, y))
    np.testing.assert_allclose(plain.numpy(), ((mean - y) ** 2).mean(1), rtol=1e-12)
    both = kind.label_loss(numbers_of(kind, np.concatenate([mean, log_variance], 1), y))
    density = -norm.logpdf(y, mean, np.exp(log_variance / 2))
    np.testing.assert_allclose(both.numpy(), density.mean(1), rtol=1e-12)
    one = kind.label_loss(numbers_of(kind, mean[:, 0], y[:, 0]))  # [batch] on both sides
    np.testing.assert_allclose(one.numpy(), (mean[:, 0] - y[:, 0]) ** 2, rtol=1e-12)


def test_terms_on_numbers_against_numpy() -> None:
    kind, y = kinds["regression"], drawn(6, 3, seed=1)
    m, s, t, v = (drawn(6, 3, seed=k) for k in range(2, 6))
    student = numbers_of(kind, np.concatenate([m, s], 1), y)
    trained_teacher = NumberSignal(torch.tensor(np.concatenate([t, v], 1)))
    np.testing.assert_allclose(
        term_loss("squared-error", student, trained_teacher)[0], ((m - t) ** 2).mean(1), rtol=1e-12
    )
    divergence = 0.5 * (s - v + (np.exp(v) + (t - m) ** 2) / np.exp(s) - 1)
    np.testing.assert_allclose(term_loss("gaussian-kl", student, trained_teacher)[0], divergence.mean(1), rtol=1e-12)
    sure = numbers_of(kind, m, y)
    np.testing.assert_allclose(
        term_loss("gaussian-kl", sure, trained_teacher)[0], ((t - m) ** 2 / np.exp(v) / 2).mean(1), rtol=1e-12
    )
    np.testing.assert_allclose(term_loss("squared-error", sure, trained_teacher)[0], ((m - t) ** 2).mean(1), rtol=1e-12)
    with pytest.raises(MismatchError, match="no variance"):
        term_loss("gaussian-kl", student, NumberSignal(torch.tensor(t)))
    with pytest.raises(MismatchError, match="different numbers"):
        term_loss("squared-error", sure, NumberSignal(torch.tensor(t[:, :2])))


def test_a_shuffled_teacher_is_a_permutation_of_the_whole_that_follows_from_the_seed() -> None:
    kind, y, teacher = kinds["regression"], drawn(30, 1, seed=1), drawn(30, 1, seed=2)
    student, whole = numbers_of(kind, np.zeros((30, 1)), y), NumberSignal(torch.tensor(teacher))
    loss, _ = term_loss("squared-error(shuffled=True)", student, whole)
    assert not np.allclose(loss, teacher[:, 0] ** 2)
    np.testing.assert_allclose(np.sort(loss.numpy()), np.sort(teacher[:, 0] ** 2), rtol=1e-12)
    again, _ = term_loss("squared-error(shuffled=True)", student, whole)
    other, _ = term_loss("squared-error(shuffled=True)", student, whole, seed=1)
    assert torch.equal(loss, again) and not torch.equal(loss, other)
    some = torch.tensor([3, 20, 7])
    few = numbers_of(kind, np.zeros((3, 1)), y[some])
    np.testing.assert_array_equal(
        term_loss("squared-error(shuffled=True)", few, whole.take(some))[0].numpy(), loss.numpy()[some]
    )


# --- embeddings ----------------------------------------------------------------------------------------------------


def unit(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return values / np.linalg.norm(values, axis=-1, keepdims=True)


def test_in_batch_candidates_are_classes() -> None:
    kind = kinds["embeddings(texts=3)"]
    ours, theirs = drawn(4, 3, 5, seed=1), drawn(4, 3, 7, seed=2)
    student = numbers_of(kind, ours, np.zeros(4))
    near = [20 * unit(e)[:, 0] @ unit(e)[:, 1:].reshape(8, -1).T for e in (ours, theirs)]
    own = [2 * i for i in range(4)]
    label = [logsumexp(near[0][i]) - near[0][i, own[i]] for i in range(4)]
    np.testing.assert_allclose(kind.label_loss(student), label, rtol=1e-12)
    log_q, p = (
        [row - logsumexp(row) for row in near[0]], [np.exp(row - logsumexp(row)) for row in near[1]]
    )  # fmt: skip
    trained_teacher = NumberSignal(torch.tensor(theirs).flatten(1))  # flat, as a store gives it
    found, _ = term_loss("candidates", student, trained_teacher)
    np.testing.assert_allclose(found, [-(a @ b) for a, b in zip(p, log_q, strict=True)], rtol=1e-9)
    flat = [  # the teacher's confidence in the own positive, the rest even
        -(a[y] * b[y] + (1 - a[y]) / 7 * (b.sum() - b[y])) for a, b, y in zip(p, log_q, own, strict=True)
    ]
    np.testing.assert_allclose(term_loss("candidates('kd-pt')", student, trained_teacher)[0], flat, rtol=1e-9)
    assert term_specs["candidates"].couples_batch and kind.couples_batch
    for cell in ("ls", "class-mean", "kd-topk(3)", "kd"):
        assert bool(torch.isfinite(term_loss(f"candidates({cell!r})", student, trained_teacher)[0]).all())


def test_embedding_terms_against_numpy() -> None:
    kind = kinds["embeddings"]
    ours, same, wide = drawn(4, 2, 5, seed=1), drawn(4, 2, 5, seed=2), drawn(4, 2, 9, seed=3)
    student = numbers_of(kind, ours, np.zeros(4))
    cosine = (1 - (unit(ours) * unit(same)).sum(2)).mean(1)
    np.testing.assert_allclose(term_loss("cosine", student, NumberSignal(torch.tensor(same)))[0], cosine, rtol=1e-12)
    with pytest.raises(MismatchError, match=r"cosine\(project=True\)"):
        term_loss("cosine", student, NumberSignal(torch.tensor(wide)))
    student = numbers_of(kind, ours.astype(np.float32), np.zeros(4))
    for text, loss in (
        ("projected-mse", lambda z: ((z - wide) ** 2).mean((1, 2))),
        ("cosine(project=True)", lambda z: (1 - (unit(z) * unit(wide)).sum(2)).mean(1)),
    ):
        found, parts = term_loss(text, student, NumberSignal(torch.tensor(wide, dtype=torch.float32)))
        (layer,) = parts.values()
        weight, bias = (p.detach().double().numpy() for p in (layer.weight, layer.bias))
        np.testing.assert_allclose(found.detach(), loss(ours @ weight.T + bias), rtol=1e-4)


def test_gold_similarities_and_single_texts() -> None:
    gold, values = np.array([0.5, -0.2, 1.0]), drawn(3, 2, 4, seed=1)
    kind = kinds["embeddings(gold=True)"]
    near = (unit(values)[:, 0] * unit(values)[:, 1]).sum(1)
    np.testing.assert_allclose(kind.label_loss(numbers_of(kind, values, gold)), (near - gold) ** 2, rtol=1e-12)
    single = kinds["embeddings(texts=1)"]
    assert single.label_loss(numbers_of(single, values[:, 0], gold)).tolist() == [0.0] * 3
    with pytest.raises(MismatchError, match="a query and its positive"):
        term_loss("candidates", numbers_of(single, values[:, 0], gold), NumberSignal(torch.tensor(values[:, 0])))


@pytest.mark.parametrize(
    "text", ["squared-error", "gaussian-kl", "cosine", "cosine(project=True)", "projected-mse", "candidates"]
)
def test_gradients_of_terms_on_numbers(text: str) -> None:
    kind = kinds["regression"] if text in ("squared-error", "gaussian-kl") else kinds["embeddings"]
    shape = (4, 4) if kind.metrics[0] == "rmse" else (4, 2, 3)
    trained_teacher, labels = NumberSignal(torch.tensor(drawn(*shape, seed=2))), torch.zeros(4, 2)
    parts, spec = torch.nn.ModuleDict().double(), term_specs[text]
    batch = batch_of(labels if shape == (4, 4) else labels[:, 0])

    def said(values: Tensor) -> Predictions:
        rows, gold, place = kind.rows(values, batch)
        return Predictions(logits=rows, labels=gold, place=place, batch=batch)

    values = torch.tensor(drawn(*shape, seed=1), requires_grad=True)
    torch.set_default_dtype(torch.float64)
    try:
        with bind_terms(
            [spec], student=said(values.detach()), teacher=None, signal=trained_teacher, examples=4, seed=0, parts=parts,
            models=(parts, None),
        ) as (term,):  # fmt: skip
            assert torch.autograd.gradcheck(lambda x: term(said(x), None, trained_teacher), values)
    finally:
        torch.set_default_dtype(torch.float32)


def test_numbers_are_no_distributions() -> None:
    signal = NumberSignal(torch.zeros(3, 2))
    for read in (lambda: signal.logits, lambda: signal.classes, lambda: signal.at(2.0)):
        with pytest.raises(NoClassesError, match="by a term"):
            read()
    with pytest.raises(NumericsError, match="first: row 1"):
        NumberSignal(torch.tensor([[0.0], [float("inf")]]))


def regression(rows: int = 24, **more: Any) -> Task:
    inputs = torch.tensor(drawn(rows, 3, seed=rows), dtype=torch.float32)
    return Task("regression", transfer=(inputs, inputs.sum(1)), student=lambda: torch.nn.Linear(3, 1), **more)


def test_a_store_of_numbers_keeps_them_and_belongs_to_its_data(tmp_path: Path) -> None:
    task, teacher = regression(), torch.nn.Linear(3, 2)
    store = collect(teacher, task, tmp_path / "store")
    assert "2 numbers" in repr(store) and store.numbers and store.class_relation is None
    torch.testing.assert_close(store.signal().values, teacher(task.splits.transfer.inputs).detach())
    Store.open(tmp_path / "store", teacher=teacher, data=task)
    other = regression(25)
    with pytest.raises(MismatchError, match="belongs to other data"):
        distill(other, teacher=store, recipe=Recipe(terms=("squared-error",), training=ONE))
    for wrong in ({"outputs": "probabilities"}, {"form": "top-k", "k": 1}):
        with pytest.raises(ConfigError, match="kept as they are"):
            collect(teacher, task, tmp_path / "other", **wrong)
    infinite = torch.nn.Linear(3, 1)
    infinite.bias.data.fill_(-float("inf"))
    with pytest.raises(NumericsError, match="the teacher's numbers are not finite"):
        collect(infinite, task, tmp_path / "other")


def test_cells_are_refused_where_there_are_no_classes() -> None:
    task = regression(test=(torch.zeros(4, 3), torch.arange(4.0)))
    recipe = Recipe(objective=Objective("kd", 1.0, 0.9), training=ONE)
    for call in (
        lambda: distill(task, teacher=torch.nn.Linear(3, 1), recipe=recipe),
        lambda: dissect(task, {"no teacher": Recipe(training=ONE), "kd": recipe}, torch.nn.Linear(3, 1), seeds=2),
    ):
        with pytest.raises(ConfigError, match="squared-error"):
            call()
    with pytest.raises(ConfigError, match="held_out, objective"):
        diagnose(NumberSignal(torch.zeros(3, 1)), objective=recipe.objective, held_out=NumberSignal(torch.zeros(3, 1)))
    signal = NumberSignal(task.splits.transfer.inputs.sum(1, keepdim=True))
    assert diagnose(signal, data=task).recipe.terms == ("squared-error",)
    wrong = diagnose(NumberSignal(signal.values.roll(1, 0)), data=task)
    assert wrong.recipe.repair and "unrelated-numbers" in wrong.recipe.reason


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (["low", "high", "low", "high"], "labels are words"),
        (torch.tensor([1.0, float("nan"), 2.0, 3.0]), "1 of 4 labels are not finite numbers .examples 1"),
        (torch.zeros(4, 3), "numbers do not fit the labels"),
    ],
)
def test_bad_targets_are_named(labels: Any, words: str) -> None:
    task = Task("regression", transfer=(torch.randn(4, 3), labels), student=lambda: torch.nn.Linear(3, 1))
    with pytest.raises(MismatchError, match=words):
        distill(task, recipe=Recipe(training=ONE))


def test_losses_that_couple_a_batch_are_not_cut() -> None:
    pairs = torch.randn(8, 2, 3)
    task = Task("embeddings", transfer=(pairs, torch.zeros(8)), student=lambda: torch.nn.Linear(3, 4))
    with pytest.raises(ConfigError, match="the loss on labels couples"):
        distill(task, recipe=Recipe(training=Training(steps=1, batch_size=8, micro_batch_size=4)))


def test_a_regressor_is_a_teacher(tmp_path: Path) -> None:
    ensemble = pytest.importorskip("sklearn.ensemble")
    task = regression()
    inputs, labels = task.splits.transfer.inputs, task.splits.transfer.labels
    forest = ensemble.RandomForestRegressor(5, random_state=0).fit(inputs.numpy(), labels.numpy())
    store = collect(forest, task, tmp_path / "store", dtype="float64")
    np.testing.assert_allclose(store.signal().values[:, 0], forest.predict(inputs.numpy()), rtol=1e-12)
    _, run = distill(task, teacher=store, recipe=Recipe(terms=("squared-error",), training=ONE), show="nothing")
    assert run.status == "completed"


def test_a_cross_encoder_reads_pairs_where_its_student_reads_texts_apart(tmp_path: Path) -> None:
    texts = torch.tensor(drawn(12, 4, 3), dtype=torch.float32)  # a query and three candidates
    joined = torch.cat([texts[:, :1].expand(-1, 3, -1), texts[:, 1:]], dim=2)
    labels = torch.tensor([0, 1, 0]).repeat(12, 1)
    split = as_split((texts, labels), views={"teacher": joined})
    task = Task("reranking", transfer=split, test=split, student=lambda: torch.nn.Linear(3, 4))

    class Cross(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(6, 1)

        def forward(self, pairs: Tensor) -> Tensor:
            return self.layer(pairs).squeeze(-1)

    teacher = Cross()
    store = collect(teacher, task, tmp_path / "store")
    with torch.no_grad():
        scores = teacher(joined)
    found = store.logits(torch.arange(12))
    for i in range(12):
        torch.testing.assert_close(found[i].roll(i), scores[i])  # rows are turned by the number of the example
    recipe = Recipe(objective=Objective("kd", 1.0, 0.9, divergence="margin-mse"), training=ONE)
    cached, online = (distill(task, teacher=given, recipe=recipe, show="nothing")[1] for given in (store, teacher))
    assert cached.test is not None and online.test is not None
    assert cached.test.values["nll"] == pytest.approx(online.test.values["nll"], rel=1e-6)
