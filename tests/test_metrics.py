"""Metrics of tasks: a contract over all that are registered, and each against scikit-learn, torchmetrics, sacrebleu or numpy."""

from __future__ import annotations

import math
import pickle
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import sacrebleu
import sklearn.metrics as oracle
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax, softmax
from scipy.stats import norm, spearmanr
from torch import Tensor

from fractionate.data.batch import Batch
from fractionate.errors import ConfigError, MismatchError, NumericsError, ResourceError
from fractionate.records import MetricInfo
from fractionate.tasks import (
    CLASSIFICATION,
    AttentionStates,
    Predictions,
    area_metrics,
    embeddings,
    evaluate_metrics,
    info,
    kinds,
    metrics,
    scores,
)
from fractionate.tasks.metric import Metric
from fractionate.theory.number_signal import NumberSignal
from fractionate.theory.teacher_signal import TeacherSignal
from fractionate.theory.topk_signal import CompactSignal

NUMBERS = ("rmse", "mae", "r2", "gaussian-nll", "teacher-rmse")
EMBEDDINGS = ("recall-at", "retrieval-mrr", "spearman")
TEXTS = ("bleu", "chrf")
LABELS = ("label-f1", "exact-match")
ATTENTION = ("ranking-loss", "cover-length")
CLASSES = tuple(name for name in metrics if name not in (*NUMBERS, *TEXTS, *EMBEDDINGS, *ATTENTION))


def predictions(
    logits: Tensor, labels: Tensor, index: Tensor | None = None, place: Tensor | None = None, **batch: Any
) -> Predictions:
    index = torch.arange(len(labels)) if index is None else index
    made = Batch(inputs=None, labels=labels, index=index, **batch)
    return Predictions(logits=logits, labels=labels, place=place, batch=made)


def texts(written: Sequence[Sequence[int]], labels: Tensor, **batch: Any) -> Predictions:
    made = Batch(inputs=None, labels=labels, index=torch.arange(len(labels)), **batch)
    place, token = (labels != -100).nonzero(as_tuple=True)
    flat = labels[place, token]
    logits = torch.zeros(len(flat), 9)
    return Predictions(logits=logits, labels=flat, place=place, batch=made, generated=written)


def compared(logits: Tensor, labels: Tensor, scores: Tensor, index: Tensor | None = None, **batch: Any) -> Predictions:
    """Student and teacher with attention scores [2, layers, examples, heads, tokens, tokens]."""
    valid = torch.arange(6) < (torch.arange(len(labels)) if index is None else index)[:, None] % 4 + 3
    ours, theirs = (AttentionStates(2, dict(enumerate(one)), {}, {}, valid) for one in scores)
    made = predictions(logits, labels, index, **batch)
    return replace(made, attention=ours, teacher=replace(made, attention=theirs))


def drawn(name: str, rows: int, seed: int = 0) -> tuple[Predictions, Any]:
    """Predictions that fit the metric, and a teacher's signal."""
    generator = torch.Generator().manual_seed(seed)
    if name in NUMBERS:
        labels = torch.randn(rows, generator=generator)
        outputs = labels[:, None] + 0.3 * torch.randn(rows, 1, generator=generator)
        if name == "gaussian-nll":
            outputs = torch.cat([outputs, torch.randn(rows, 1, generator=generator)], dim=1)
        trained_teacher = NumberSignal(torch.randn(rows, 1, generator=generator)) if name == "teacher-rmse" else None
        return predictions(outputs, labels), trained_teacher
    if name in EMBEDDINGS:
        pairs = torch.randn(rows, 1, 4, generator=generator) + torch.randn(rows, 2, 4, generator=generator)
        return predictions(pairs, torch.rand(rows, generator=generator)), None
    if name in TEXTS:
        labels = torch.randint(2, 9, (rows, 12), generator=generator)
        changed = torch.where(torch.rand(labels.shape, generator=generator) < 0.3, 3, labels)
        return texts(changed.tolist(), labels), None
    classes = 2 if name in LABELS else 4
    logits = 2 * torch.randn(rows, classes, generator=generator)
    labels = torch.randint(classes, (rows,), generator=generator)
    if name in ATTENTION:
        return compared(logits, labels, torch.randn(2, 2, rows, 3, 6, 6, generator=generator)), None
    return predictions(logits, labels), TeacherSignal(torch.randn(rows, classes, generator=generator), labels)


def some(said: Predictions, signal: Any, index: Tensor) -> tuple[Predictions, Any]:
    """A few of the examples as a batch of their own (one row an example)."""
    batch = said.batch
    kept = {n: getattr(batch, n)[index] for n in ("weight", "labelled") if getattr(batch, n) is not None}
    if said.generated is not None:
        part = texts([said.generated[i] for i in index.tolist()], batch.labels[index], **kept)
    else:
        assert said.logits is not None
        part = predictions(said.logits[index], said.labels[index], index, **kept)
        if said.attention is not None and said.teacher is not None and said.teacher.attention is not None:
            pair = [
                torch.stack([one.scores[i][index] for i in range(2)])
                for one in (said.attention, said.teacher.attention)
            ]
            part = compared(said.logits[index], said.labels[index], torch.stack(pair), index, **kept)
    return part, None if signal is None else signal.take(index)


def measured(metric: Metric, *parts: tuple[Predictions, Any]) -> float | None:
    state = metric.start()
    for outputs, signal in parts:
        metric.add(state, outputs, signal)
    return metric.value(state)


def reading(name: str, logits: Tensor, labels: Tensor, **batch: Any) -> float:
    value = measured(metrics[name], (predictions(logits, labels, **batch), None))
    assert value is not None
    return value


# --- the contract --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(metrics))
def test_a_metric_says_how_it_is_read(name: str) -> None:
    metric = metrics[name]
    assert isinstance(metric, Metric)
    assert metric.name == name and metrics[metric.name].name == name
    assert metric.better in ("more", "less") and metric.margin > 0 and metric.unit in ("points", "nats", "")
    assert not metric.counts or (metric.unit == "points" and metric.better == "more")
    assert metric == metrics[name] and metric == pickle.loads(pickle.dumps(metric))  # workers get it
    assert info(metric) == MetricInfo(name, metric.unit, metric.better, metric.margin, metric.counts)
    assert info(metric) == MetricInfo.from_json(info(metric).to_json())
    assert bool(metric.needs.generated) == (name in TEXTS) and metric.final_only == (name in (*TEXTS, *ATTENTION))


@pytest.mark.parametrize("name", ["f1('micro')", "label-f1('micro')", "recall-at(5)", "ece(10)", "auc(bins=64)"])
def test_the_name_of_a_metric_with_arguments_makes_it_again(name: str) -> None:
    assert metrics[name].name == name and metrics[name].name != metrics[name.partition("(")[0]].name


@pytest.mark.parametrize("name", list(metrics))
def test_without_rows_there_is_no_value(name: str) -> None:
    metric = metrics[name]
    assert metric.value(metric.start()) is None
    outputs, signal = drawn(name, 6)
    if name not in TEXTS:  # a corpus has no weights
        outputs = replace(some(outputs, None, torch.arange(6))[0], teacher=None)
        weightless = predictions(outputs.required_logits, outputs.labels, weight=torch.zeros(6))
        assert measured(metric, (weightless, signal)) is None
    if metric.reads_teacher:
        assert measured(metric, (outputs, None)) is None
    else:
        none = drawn(name, 6)[0]
        object.__setattr__(none.batch, "labelled", torch.zeros(6, dtype=torch.bool))
        assert measured(metric, (none, signal)) is None


@pytest.mark.parametrize("name", [*metrics, "f1('micro')", "ece(5)", "auc(bins=32)"])
@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_batches_add_up_to_the_whole(name: str, data: st.DataObject) -> None:
    metric = metrics[name]
    rows = data.draw(st.integers(8, 60))
    outputs, signal = drawn(name.partition("(")[0], rows, seed=rows)
    whole = measured(metric, (outputs, signal))
    cuts = sorted(data.draw(st.sets(st.integers(1, rows - 1), max_size=5)))
    parts = [some(outputs, signal, part) for part in torch.tensor_split(torch.arange(rows), cuts)]
    assert measured(metric, *parts) == pytest.approx(whole, rel=1e-9)


@pytest.mark.parametrize("name", [*CLASSES, *NUMBERS])
def test_a_weight_counts_an_example_so_often(name: str) -> None:
    outputs, signal = drawn(name, 40)
    times = torch.randint(0, 4, (40,), generator=torch.Generator().manual_seed(1))
    weighted = predictions(outputs.required_logits, outputs.labels, weight=times.float())
    repeated = some(outputs, signal, torch.arange(40).repeat_interleave(times))
    assert measured(metrics[name], (weighted, signal)) == pytest.approx(measured(metrics[name], repeated), rel=1e-9)


@pytest.mark.parametrize("name", list(metrics))
def test_guessed_labels_are_no_truth(name: str) -> None:
    outputs, signal = drawn(name, 30)
    known = torch.arange(30) % 3 != 0
    guessed = some(outputs, signal, torch.arange(30))[0]
    object.__setattr__(guessed.batch, "labelled", known)
    expected = (outputs, signal) if metrics[name].reads_teacher else some(outputs, signal, known.nonzero().flatten())
    assert measured(metrics[name], (guessed, signal)) == pytest.approx(measured(metrics[name], expected), rel=1e-9)


@pytest.mark.parametrize("name", [*CLASSES, *NUMBERS])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_predictions_that_are_not_finite_are_named(name: str, bad: float) -> None:
    outputs, signal = drawn(name, 5)
    logits = outputs.required_logits.clone()
    logits[3] = bad
    broken = predictions(logits, outputs.labels, torch.tensor([10, 11, 12, 77, 14]))
    with pytest.raises(NumericsError, match=r"1 of 5 predictions are not finite \(examples 77\)"):
        measured(metrics[name], (broken, signal))


# --- oracles -------------------------------------------------------------------------------------------------------


@pytest.fixture(params=[(1, 2, 1.0), (60, 3, 0.1), (400, 10, 5.0), (300, 7, 100.0)], ids=str)
def case(request: pytest.FixtureRequest) -> tuple[Tensor, Tensor, Tensor]:
    rows, classes, scale = request.param
    generator = torch.Generator().manual_seed(rows)
    logits = scale * torch.randn(rows, classes, generator=generator)
    labels = torch.randint(classes, (rows,), generator=generator)
    return logits, labels, torch.rand(rows, generator=generator, dtype=torch.float64) + 0.1


def test_classes_against_scikit_learn(case: tuple[Tensor, Tensor, Tensor]) -> None:
    logits, labels, weight = case
    outputs, y = logits.argmax(1).numpy(), labels.numpy()
    q = softmax(logits.double().numpy(), axis=1)
    classes = list(range(logits.shape[1]))
    for w, batch in ((None, {}), (weight.numpy(), {"weight": weight})):
        there = sorted(set(outputs) | set(y))

        def found(name: str, batch: dict[str, Tensor] = batch) -> float:
            return reading(name, logits, labels, **batch)

        assert found("accuracy") == pytest.approx(100 * oracle.accuracy_score(y, outputs, sample_weight=w))
        recall = oracle.recall_score(
            y, outputs, labels=sorted(set(y)), average="macro", sample_weight=w, zero_division=0
        )
        assert found("balanced-accuracy") == pytest.approx(100 * recall)
        for average, name in (("macro", "f1"), ("micro", "f1('micro')")):
            value = oracle.f1_score(y, outputs, labels=there, average=average, sample_weight=w, zero_division=0)
            assert found(name) == pytest.approx(100 * value)
        nll = -np.average(log_softmax(logits.double().numpy(), axis=1)[np.arange(len(y)), y], weights=w)
        for name, value in (("nll", nll), ("token-nll", nll), ("perplexity", math.exp(min(nll, 700)))):
            assert found(name) == pytest.approx(value, rel=1e-9, abs=1e-12)
        squares = ((q - np.eye(len(classes))[y]) ** 2).sum(axis=1)
        assert found("brier") == pytest.approx(np.average(squares, weights=w), rel=1e-9, abs=1e-12)


def test_balanced_accuracy_is_scikit_learns_where_all_classes_occur() -> None:
    generator = torch.Generator().manual_seed(3)
    logits, labels = torch.randn(200, 4, generator=generator), torch.arange(200) % 4
    value = oracle.balanced_accuracy_score(labels.numpy(), logits.argmax(1).numpy())
    assert reading("balanced-accuracy", logits, labels) == pytest.approx(100 * value)


def test_calibration_against_torchmetrics(case: tuple[Tensor, Tensor, Tensor]) -> None:
    functional = pytest.importorskip("torchmetrics.functional.classification")
    logits, labels, _ = case
    for name, bins in (("ece", 15), ("ece(7)", 7)):
        value = functional.multiclass_calibration_error(
            logits.double().softmax(1), labels, logits.shape[1], n_bins=bins
        )
        assert reading(name, logits, labels) == pytest.approx(100 * float(value), abs=1e-4)


@pytest.mark.parametrize("classes", [2, 3, 8])
@pytest.mark.parametrize("ties", [False, True])
def test_area_against_scikit_learn(classes: int, ties: bool) -> None:
    generator = torch.Generator().manual_seed(classes)
    logits, labels = torch.randn(300, classes, generator=generator), torch.arange(300) % classes
    logits[range(300), labels] += 0.7
    if ties:
        logits = logits.round()
    weight = torch.rand(300, generator=generator, dtype=torch.float64) + 0.1
    q, y = softmax(logits.double().numpy(), axis=1).round(12), labels.numpy()
    for w, batch in ((None, {}), (weight.numpy(), {"weight": weight})):
        each = [oracle.roc_auc_score(y == c, q[:, c], sample_weight=w) for c in range(classes)]
        assert reading("auc", logits, labels, **batch) == pytest.approx(100 * np.mean(each), abs=1e-3)
        assert reading("auc(bins=4096)", logits, labels, **batch) == pytest.approx(100 * np.mean(each), abs=0.1)
    if classes > 2:
        assert reading("auc", logits, labels) == pytest.approx(
            100 * oracle.roc_auc_score(y, q, multi_class="ovr", average="macro"), abs=1e-3
        )


def test_area_of_sure_teachers_and_of_classes_that_do_not_occur() -> None:
    logits = torch.tensor([[50.0, 0.0, 0.0], [60.0, 0.0, 0.0], [0.0, 50.0, 0.0]])
    assert reading("auc", logits, torch.tensor([0, 0, 1])) == pytest.approx(100.0)  # class 2 has no rows
    assert measured(metrics["auc"], (predictions(logits, torch.tensor([0, 0, 0])), None)) is None


def test_area_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(area_metrics, "MOST_SCORES", 100)
    outputs, _ = drawn("auc", 26)
    with pytest.raises(ResourceError, match=r"auc\(bins=4096\)"):
        measured(metrics["auc"], (outputs, None))
    assert measured(metrics["auc(bins=4096)"], (outputs, None)) is not None
    state = metrics["auc"].start()
    metrics["auc"].add(state, drawn("auc", 20)[0], None)
    with pytest.raises(ResourceError):
        metrics["auc"].add(state, drawn("auc", 20)[0], None)


@pytest.mark.parametrize("outputs", [1, 3])
def test_numbers_against_scikit_learn(outputs: int) -> None:
    rng = np.random.default_rng(outputs)
    y = 2000 + 3 * rng.normal(size=(80, outputs))
    result = y + rng.normal(size=y.shape)
    w = rng.random(80) + 0.1
    labels = torch.tensor(y if outputs > 1 else y[:, 0])
    for weights, batch in ((None, {}), (w, {"weight": torch.tensor(w)})):

        def found(name: str, batch: dict[str, Tensor] = batch) -> float:
            return reading(name, torch.tensor(result), labels, **batch)

        square = oracle.mean_squared_error(y, result, sample_weight=weights)
        assert found("rmse") == pytest.approx(math.sqrt(square), rel=1e-9)
        assert found("mae") == pytest.approx(oracle.mean_absolute_error(y, result, sample_weight=weights), rel=1e-9)
        assert found("r2") == pytest.approx(oracle.r2_score(y, result, sample_weight=weights), rel=1e-6)
    assert measured(metrics["r2"], (predictions(torch.randn(5, 1), torch.full((5,), 0.1)), None)) is None


def multiple(weight: Tensor | None = None, unknown: bool = False) -> Predictions:
    """40 examples with 5 labels each, one of which nobody has, as rows of the task."""
    generator = torch.Generator().manual_seed(9)
    labels = (torch.rand(40, 5, generator=generator) < torch.tensor([0.5, 0.3, 0.2, 0.1, 0.0])).long()
    if unknown:
        labels[torch.rand(40, 5, generator=generator) < 0.3] = -100
    batch = Batch(inputs=None, labels=labels, index=torch.arange(40), weight=weight)
    logits = 2 * torch.randn(40, 5, generator=generator) + 3 * labels - 1
    rows, gold, place = kinds["multi-label"].rows(logits, batch)
    return Predictions(logits=rows, labels=gold, place=place, batch=batch)


def test_labels_against_scikit_learn() -> None:
    weight = torch.rand(40, dtype=torch.float64) + 0.1
    for w in (None, weight):
        outputs = multiple(w)
        labels, hard = outputs.batch.labels.numpy(), outputs.required_logits.argmax(1).reshape(40, 5).numpy()
        there = [c for c in range(5) if labels[:, c].any() or hard[:, c].any()]
        for name, average in (("label-f1", "macro"), ("label-f1('micro')", "micro")):
            value = oracle.f1_score(labels[:, there], hard[:, there], average=average, sample_weight=w, zero_division=0)
            assert measured(metrics[name], (outputs, None)) == pytest.approx(100 * value)
        value = oracle.accuracy_score(labels, hard, sample_weight=w)
        assert measured(metrics["exact-match"], (outputs, None)) == pytest.approx(100 * value)
    outputs = multiple(unknown=True)
    known = outputs.batch.labels != -100
    hard = torch.zeros(40, 5).long().masked_scatter(known, outputs.required_logits.argmax(1))
    right = ((hard == outputs.batch.labels) | ~known).all(dim=1)[known.any(dim=1)]
    assert measured(metrics["exact-match"], (outputs, None)) == pytest.approx(100 * float(right.double().mean()))
    each = [oracle.f1_score(outputs.batch.labels[known[:, c], c], hard[known[:, c], c]) for c in range(5)]
    assert measured(metrics["label-f1"], (outputs, None)) == pytest.approx(100 * np.mean(each))
    with pytest.raises(MismatchError, match="two-class row for each label"):
        measured(metrics["label-f1"], drawn("accuracy", 6))


def test_reciprocal_ranks_against_scikit_learn() -> None:
    outputs, _ = drawn("mrr", 50)
    logits, labels = outputs.required_logits.numpy(), outputs.labels.numpy()
    value = oracle.label_ranking_average_precision_score(np.eye(4)[labels], logits)  # one relevant: 1 / rank
    assert measured(metrics["mrr"], (outputs, None)) == pytest.approx(100 * value)
    constant = predictions(torch.zeros(3, 4), torch.tensor([0, 1, 3]))
    assert measured(metrics["mrr"], (constant, None)) == pytest.approx(100 / 2.5)


def test_likelihood_and_distance_from_the_teacher_against_numpy() -> None:
    outputs, _ = drawn("gaussian-nll", 30)
    values, y = outputs.required_logits.double().numpy(), outputs.labels.double().numpy()
    density = norm.logpdf(y, values[:, 0], np.exp(values[:, 1] / 2))
    assert measured(metrics["gaussian-nll"], (outputs, None)) == pytest.approx(-density.mean(), rel=1e-9)
    square = oracle.mean_squared_error(y, values[:, 0])
    assert measured(metrics["rmse"], (outputs, None)) == pytest.approx(math.sqrt(square), rel=1e-9)
    plain, signal = drawn("teacher-rmse", 30)
    assert measured(metrics["gaussian-nll"], (plain, None)) is None  # no variance, no likelihood
    gap = (plain.required_logits.double() - signal.values.double()).numpy()
    assert measured(metrics["teacher-rmse"], (plain, signal)) == pytest.approx(math.sqrt((gap**2).mean()), rel=1e-9)
    with pytest.raises(MismatchError, match="same rows"):
        measured(metrics["teacher-rmse"], (plain, signal.take(torch.arange(5))))


def test_retrieval_and_similarity_against_numpy() -> None:
    outputs, _ = drawn("recall-at", 40)
    pairs = outputs.required_logits.double().numpy()
    pairs /= np.linalg.norm(pairs, axis=2, keepdims=True)
    near = pairs[:, 0] @ pairs[:, 1].T
    ranks = (near > np.diag(near)[:, None]).sum(1) + 1
    for name, value in (
        ("recall-at", (ranks == 1).mean()),
        ("recall-at(5)", (ranks <= 5).mean()),
        ("retrieval-mrr", (1 / ranks).mean()),
        ("spearman", spearmanr((pairs[:, 0] * pairs[:, 1]).sum(1), outputs.labels.numpy()).statistic),
    ):
        assert measured(metrics[name], (outputs, None)) == pytest.approx(100 * value, rel=1e-6)
    labels = torch.arange(40) % 7
    labels[0] = 99  # nothing is relevant to it
    single = predictions(outputs.required_logits[:, :1], labels)
    near = pairs[:, 0] @ pairs[:, 0].T
    np.fill_diagonal(near, -np.inf)
    order, y = np.argsort(-near, axis=1), labels.numpy()
    first = [next(r for r, j in enumerate(order[i], 1) if y[j] == y[i]) for i in range(1, 40)]
    assert measured(metrics["retrieval-mrr"], (single, None)) == pytest.approx(100 * np.mean(1 / np.array(first)))
    assert measured(metrics["recall-at(3)"], (single, None)) == pytest.approx(100 * np.mean(np.array(first) <= 3))
    assert measured(metrics["spearman"], (single, None)) is None
    tied = predictions(outputs.required_logits, (outputs.labels * 4).round())
    value = spearmanr((pairs[:, 0] * pairs[:, 1]).sum(1), tied.labels.numpy()).statistic
    assert measured(metrics["spearman"], (tied, None)) == pytest.approx(100 * value, rel=1e-6)
    assert measured(metrics["spearman"], (predictions(outputs.required_logits, torch.zeros(40)), None)) is None


def test_embeddings_that_are_held_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embeddings, "MOST_NUMBERS", 100)
    with pytest.raises(ResourceError, match="fewer examples"):
        measured(metrics["recall-at"], drawn("recall-at", 26))
    with pytest.raises(MismatchError, match="metric of embeddings"):
        measured(metrics["recall-at"], drawn("accuracy", 6))


def test_agreement_is_exact_for_compact_signals() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, teacher = torch.randn(200, 12, generator=generator), 3 * torch.randn(200, 12, generator=generator)
    labels = torch.randint(12, (200,), generator=generator)
    signal = TeacherSignal(teacher, labels)
    own, indices = teacher.scatter(1, labels[:, None], -math.inf).topk(3, dim=1)
    gone = teacher.scatter(1, labels[:, None], -math.inf).scatter(1, indices, -math.inf).logsumexp(1, keepdim=True)
    compact = CompactSignal(labels, teacher.gather(1, labels[:, None])[:, 0], own, indices, gone, 12)
    expected = 100 * float((logits.argmax(1) == teacher.argmax(1)).double().mean())
    for name in ("agreement", "ta-rate"):
        for outputs in (signal, compact):
            assert measured(metrics[name], (predictions(logits, labels), outputs)) == pytest.approx(expected)


def decode(ids: Sequence[int]) -> str:
    words = ("", "", "the", "cat", "sat", "on", "a", "mat.", "Dogs,")
    return " ".join(words[i] for i in ids)


def test_texts_against_sacrebleu() -> None:
    outputs, _ = drawn("bleu", 40)
    assert outputs.generated is not None
    labels = outputs.batch.labels.clone()
    labels[::2, 10:] = -100
    labels[::2, 9] = 1  # an end token
    batch = texts(outputs.generated, labels)
    kept = [[t for t in row if t not in (-100, 1)] for row in labels.tolist()]
    written, right = [" ".join(map(str, r)) for r in outputs.generated], [" ".join(map(str, r)) for r in kept]
    bleu = sacrebleu.corpus_bleu(written, [right], tokenize="none", force=True).score
    assert measured(metrics["bleu(special=(1,))"], (batch, None)) == pytest.approx(bleu)
    assert measured(metrics["chrf(special=(1,))"], (batch, None)) == pytest.approx(
        sacrebleu.corpus_chrf(written, [right]).score
    )
    written, right = [decode(r) for r in outputs.generated], [decode(r) for r in kept]
    for name, value in (
        ("bleu", sacrebleu.corpus_bleu(written, [right]).score),
        ("chrf", sacrebleu.corpus_chrf(written, [right]).score),
    ):
        metric = metrics.factory(name)(decode, special=(1,))
        assert measured(metric, (batch, None)) == pytest.approx(value) and 20 < value < 100
    assert metrics["bleu(tokens=7)"].needs.generated == 7


# --- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.wrong_types
def test_what_does_not_fit_is_refused() -> None:
    outputs, signal = drawn("accuracy", 6)
    for other in (signal.take(torch.arange(5)), TeacherSignal(torch.zeros(6, 3), outputs.labels.clamp(max=2))):
        with pytest.raises(MismatchError, match="different classes or rows"):
            measured(metrics["agreement"], (outputs, other))
    with pytest.raises(MismatchError, match="not a teacher's signal"):
        measured(metrics["agreement"], (outputs, torch.zeros(6, 4)))
    with pytest.raises(MismatchError, match="no class of the model"):
        reading("nll", torch.zeros(2, 2), torch.tensor([0, 2]))
    with pytest.raises(MismatchError, match="do not fit"):
        reading("accuracy", torch.zeros(2, 1), torch.tensor([0.5, 2.0]))
    with pytest.raises(MismatchError, match="do not fit"):
        reading("rmse", torch.zeros(2, 3), torch.tensor([0.5, 2.0]))
    with pytest.raises(MismatchError, match="generated text"):
        measured(metrics["bleu"], (outputs, None))
    batch, _ = drawn("chrf", 3)
    assert batch.generated is not None
    with pytest.raises(ConfigError, match="no weights"):
        measured(
            metrics["chrf"], (texts(batch.generated, batch.batch.labels, weight=torch.tensor([1.0, 2.0, 1.0])), None)
        )
    for name in (
        "f1('weighted')",
        "label-f1('weighted')",
        "recall-at(0)",
        "ece(0)",
        "auc(bins=1)",
        "rmse(0)",
        "mae(-1)",
        "bleu(tokens=0)",
    ):
        with pytest.raises(ConfigError, match="invalid"):
            metrics[name]


# --- evaluation ----------------------------------------------------------------------------------------------------


def test_an_evaluation_streams() -> None:
    outputs, signal = drawn("accuracy", 50)
    whole = evaluate_metrics([(outputs, signal)], CLASSIFICATION)
    assert list(whole.values) == ["accuracy", "nll", "ece", "agreement"] and (whole.examples, whole.rows) == (50, 50)
    parts = [some(outputs, signal, part) for part in torch.arange(50).split(7)]
    assert evaluate_metrics(iter(parts), CLASSIFICATION).values == pytest.approx(whole.values)
    assert scores(outputs.required_logits, outputs.labels, signal) == whole
    assert whole.accuracy == pytest.approx(whole.values["accuracy"] / 100)
    assert evaluate_metrics([(outputs, None)], CLASSIFICATION).agreement is None
    with pytest.raises(MismatchError, match="nothing to evaluate"):
        evaluate_metrics([], CLASSIFICATION)


def test_rows_are_not_examples() -> None:
    labels = torch.tensor([[1, 0, -100], [2, -100, -100]])
    flat, place = labels[labels != -100], torch.tensor([0, 0, 1])
    batch = Batch(inputs=None, labels=labels, index=torch.tensor([4, 9]), weight=torch.tensor([1.0, 3.0]))
    logits = 9 * torch.eye(3)[torch.tensor([1, 2, 2])]
    outputs = Predictions(logits=logits, labels=flat, place=place, batch=batch)
    found = evaluate_metrics([(outputs, None)], [metrics["accuracy"]])
    assert (found.examples, found.rows) == (2, 3) and found.values["accuracy"] == pytest.approx(
        80.0
    )  # (1 + 0 + 3) of 5
    broken = torch.full_like(logits, math.nan)
    with pytest.raises(NumericsError, match=r"3 of 3 predictions are not finite \(examples 4, 9\)"):
        evaluate_metrics([(Predictions(logits=broken, labels=flat, place=place, batch=batch), None)], CLASSIFICATION)


@pytest.mark.parametrize("name", [*CLASSES, *NUMBERS])
def test_a_batch_without_labelled_rows_adds_nothing(name: str) -> None:
    outputs, signal = drawn(name, 9)
    empty = predictions(outputs.required_logits[:0], outputs.labels[:0])
    none = None if signal is None else signal.take(torch.arange(0))
    assert measured(metrics[name], (outputs, signal), (empty, none)) == measured(metrics[name], (outputs, signal))
    assert measured(metrics[name], (empty, none)) is None


def test_expensive_metrics_wait_for_the_end() -> None:
    outputs, _ = drawn("bleu", 5)
    requested = [metrics["bleu"], metrics["token-nll"]]
    assert list(evaluate_metrics([(outputs, None)], requested, final=True).values) == ["bleu", "token-nll"]
    assert list(evaluate_metrics([(outputs, None)], requested).values) == ["token-nll"]
