"""Token signals: masks, the five analysis targets by hand, stored tokens found again, and what goes wrong."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import Dataset

from fractionate import Objective, TeacherSignal, collect, distill
from fractionate.data.batch import Batch
from fractionate.data.labels import IGNORED
from fractionate.errors import ConfigError, MismatchError
from fractionate.losses.divergences import divergences
from fractionate.plugins.contracts import check
from fractionate.records import Training
from fractionate.tasks import Task
from fractionate.teachers.tokens import ANALYSIS, StoredTokens, analysis, cached, gold_share, ta_rate, token_signal
from fractionate.theory.cells import as_cell
from fractionate.theory.confidence import confidences
from fractionate.theory.shape import shapes

CLASSES = 11


class Text(Dataset):
    """Sentences of unequal length, padded; -100 where there is no token."""

    def __init__(self, sentences=7, tokens=6, seed=0):
        generator = torch.Generator().manual_seed(seed)
        self.tokens = torch.randint(CLASSES, (sentences, tokens), generator=generator)
        lengths = torch.randint(2, tokens + 1, (sentences,), generator=generator)
        self.labels = ((self.tokens + 1) % CLASSES).masked_fill(torch.arange(tokens) >= lengths[:, None], IGNORED)

    def __len__(self):
        return len(self.tokens)

    def __getitem__(self, place):
        return self.tokens[place], self.labels[place]


def network(seed=0, width=16):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Embedding(CLASSES, width), nn.Linear(width, CLASSES))


def test_rows_are_the_tokens_that_have_a_label() -> None:
    logits = torch.randn(3, 4, CLASSES)
    labels = torch.tensor([[1, 2, IGNORED, IGNORED], [IGNORED] * 4, [3, IGNORED, 4, 5]])
    tokens = token_signal(logits, labels)
    assert tokens.sentence.tolist() == [0, 0, 2, 2, 2] and tokens.position.tolist() == [0, 1, 0, 1, 2]
    assert tokens.labels.tolist() == [1, 2, 3, 4, 5] and tokens.sentences == 2
    torch.testing.assert_close(tokens.signal.logits, torch.stack([logits[0, 0], logits[0, 1], *logits[2, [0, 2, 3]]]))
    assert token_signal(logits, labels, predicts_next=True).labels.tolist() == [2, 4, 5]
    assert tokens.take(tokens.position == 0).labels.tolist() == [1, 3]


@pytest.mark.wrong_types
def test_no_token_with_a_label_is_an_error_that_says_so() -> None:
    with pytest.raises(MismatchError, match="no token has a label") as error:
        token_signal(torch.randn(2, 3, 5), torch.full((2, 3), IGNORED))
    assert "-100 in all of 6 places" in str(error.value) and "leave this batch out" in str(error.value)
    with pytest.raises(MismatchError, match="not logits of tokens"):
        token_signal(torch.randn(6, 5), torch.zeros(2, 3, dtype=torch.long))  # type: ignore[arg-type]


# -- the analysis targets of arXiv 2305.08096, one number at a time ---------------------------------------------------------


def softmax(row):
    top = max(row)
    powers = [math.exp(x - top) for x in row]
    return [x / sum(powers) for x in powers]


def by_hand(name, student, teacher, label):
    p, q = softmax(teacher), softmax(student)
    order = sorted(range(len(p)), key=lambda i: -p[i])
    top = order[0]
    if name == "word-kd":
        return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    if name == "without-correlation":
        return -p[top] * math.log(q[top])
    if name == "top-k":
        return -sum(p[i] * math.log(q[i]) for i in order[:5])
    if name == "without-top1":
        moved = list(p)
        if top != label:
            moved[label], moved[top] = p[label] + p[top], 0.0
        return sum(a * math.log(a / b) for a, b in zip(moved, q, strict=True) if a > 0)
    if name == "no-kd":
        return -math.log(q[label])
    if name == "label-smoothing":
        others = sum(math.log(b) for i, b in enumerate(q) if i != label)
        return -0.9 * math.log(q[label]) - 0.1 / (len(q) - 1) * others
    assert name == "top1-shape"
    best = next(i for i in order if i != label)
    target = {label: p[label], best: 1 - p[label]}
    return sum(a * math.log(a / q[i]) for i, a in target.items())


def pair(tokens=9, seed=0):
    generator = torch.Generator().manual_seed(seed)
    teacher = 2 * torch.randn(tokens, CLASSES, generator=generator, dtype=torch.float64)
    labels = torch.randint(CLASSES, (tokens,), generator=generator)
    labels[:3] = teacher[:3].argmax(1)  # the teacher's top-1 is the gold token in some rows
    return 2 * torch.randn(tokens, CLASSES, generator=generator, dtype=torch.float64), TeacherSignal(teacher, labels)


@pytest.mark.parametrize("name", ANALYSIS)
def test_analysis_targets_equal_the_paper_by_hand(name: str) -> None:
    student, signal = pair()
    objective = analysis(name, teacher_weight=1.0)
    expected = [
        by_hand(name, *row)
        for row in zip(student.tolist(), signal.logits.tolist(), signal.labels.tolist(), strict=True)
    ]
    torch.testing.assert_close(
        objective(student, signal), torch.tensor(expected, dtype=torch.float64), rtol=1e-10, atol=1e-12
    )
    leaf = student.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda z: objective(z, signal), leaf)


def test_without_top1_is_plain_kd_where_the_top1_is_gold_and_the_gold_token_gets_its_mass_elsewhere() -> None:
    _, signal = pair()
    p, moved = signal.probabilities, as_cell("with-top1 * without-top1").target(signal)
    top = p.argmax(1)
    gold = top == signal.labels
    torch.testing.assert_close(moved[gold], p[gold])
    rest = ~gold
    assert bool((moved[rest].gather(1, top[rest, None]) == 0).all())
    torch.testing.assert_close(
        moved[rest].gather(1, signal.labels[rest, None]),
        (p.gather(1, signal.labels[:, None]) + p.amax(1, keepdim=True))[rest],
    )


def test_two_conventions_of_label_smoothing() -> None:
    """torch spreads epsilon over all classes, fairseq over all but the label."""
    student, signal = pair()
    torchs = functional.cross_entropy(student, signal.labels, label_smoothing=0.1, reduction="none")
    torch.testing.assert_close(Objective("ls(0.1)", 1.0, 1.0)(student, signal), torchs)
    log_q, epsilon = torch.log_softmax(student, 1), 0.1 / (CLASSES - 1)
    nll, smooth = -log_q.gather(1, signal.labels[:, None]).squeeze(1), -log_q.sum(1)
    fairseqs = (1 - 0.1 - epsilon) * nll + epsilon * smooth  # as label_smoothed_nll_loss writes it
    torch.testing.assert_close(analysis("label-smoothing", teacher_weight=1.0)(student, signal), fairseqs)


def test_rules_and_divergence_keep_their_contracts() -> None:
    for shape in ("top1", "without-top1"):
        assert check(shapes[shape])
    for confidence in ("with-top1", "smoothed-others(0.2)"):
        assert check(confidences[confidence])
    for k in (1, 3):
        assert check(divergences[f"topk-cross-entropy({k})"])
    with pytest.raises(ConfigError, match="k cannot be used"):
        Objective(divergence="topk-cross-entropy(0)")
    with pytest.raises(ConfigError, match="epsilon cannot be used"):
        as_cell("smoothed-others(1.5) * uniform")
    with pytest.raises(ConfigError, match="no analysis target 'word'"):
        analysis("word")


def test_ta_rate_and_gold_share_count_tokens() -> None:
    teacher = torch.tensor([[0.0, 2.0, 1.0], [3.0, 0.0, 1.0], [0.0, 1.0, 2.0], [0.0, 5.0, 1.0]])
    signal = TeacherSignal(teacher, torch.tensor([1, 1, 2, 0]))
    assert gold_share(signal) == 0.5
    student = torch.tensor([[0.0, 9.0, 1.0], [3.0, 0.0, 1.0], [9.0, 1.0, 2.0], [9.0, 5.0, 1.0]])
    assert ta_rate(student, signal) == 0.5
    with pytest.raises(MismatchError, match="different tokens"):
        ta_rate(student[:2], signal)


# -- tokens in a store -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("form", "k"), [("dense", 0), ("top-k", 4), ("top-k", 9)])
def test_stored_tokens_are_what_the_living_teacher_says(tmp_path, form: str, k: int) -> None:
    text, teacher = Text(), network(1)
    store = collect(teacher, text, tmp_path / "s", tokens="aligned", form=form, k=k, batch_size=3)
    stored = StoredTokens(store)
    inputs, labels = text.tokens[[4, 1, 6]], text.labels[[4, 1, 6]]

    task = Task("token-classification", transfer=text)
    with torch.no_grad():
        found = task.rows(teacher(inputs), {}, Batch(inputs, labels, torch.tensor([4, 1, 6])))
    logits, gold = found.logits, found.labels
    signal = stored.signal_for(found)
    assert torch.equal(signal.labels, gold)
    whole = torch.softmax(logits, 1)
    if form == "dense" or k == 9:  # one class is left out: its mass is exact
        torch.testing.assert_close(signal.probabilities, whole, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(signal.confidence, whole.gather(1, gold[:, None]).squeeze(1), rtol=1e-5, atol=1e-6)
    tokens = stored.tokens
    assert len(tokens) == int((text.labels != IGNORED).sum()) and tokens.sentences == len(text)
    assert gold_share(tokens.signal) == pytest.approx(
        float((teacher(text.tokens).argmax(2) == text.labels)[text.labels != IGNORED].float().mean())
    )


def train(data, signal, objective, **more):
    student, run = distill(
        network(3, 4),
        data,
        signal,
        objective=objective,
        training=Training(steps=6, batch_size=3),
        show="nothing",
        **more,
    )
    return torch.cat([p.detach().flatten() for p in student.parameters()]), run


def test_distill_learns_the_same_from_a_store_as_from_the_living_teacher(tmp_path) -> None:
    text, teacher = Text(), network(1)
    objective = analysis("word-kd")
    store = collect(teacher, text, tmp_path / "s", tokens="aligned")
    living, _ = train(text, teacher, objective)
    kept, run = train(text, StoredTokens(store), objective)
    torch.testing.assert_close(kept, living, rtol=1e-5, atol=1e-6)
    plain, _ = train(text, None, None)
    assert not torch.allclose(kept, plain) and run.steps == 6


def test_a_batch_without_any_token_counts_for_nothing(tmp_path) -> None:
    text = Text()
    text.labels[2:5] = IGNORED
    teacher = network(1)
    _, run = train(text, teacher, analysis("word-kd"), seed=1)  # batches of three: one may hold nothing to predict
    text.labels[:] = IGNORED
    before = torch.cat([p.detach().flatten() for p in network(3, 4).parameters()])
    after, run = train(text, teacher, analysis("word-kd"))
    assert torch.equal(after, before) or float((after - before).abs().max()) < 1e-4  # weight decay alone
    assert run.history[-1].loss == 0.0


def test_sentences_without_a_signal_are_named_or_left_out_and_counted(tmp_path) -> None:
    text, teacher = Text(), network(1)
    collect(teacher, text, tmp_path / "s", tokens="aligned", batch_size=2, part=(0, 2))  # half of the work
    from fractionate.store import Store

    store = Store.open(tmp_path / "s")
    with pytest.raises(MismatchError, match="3 of 7 sentences have no cached signal") as error:
        StoredTokens(store)
    assert "nothing for sentences 4, 5, 6" in str(error.value) and "cached(store)" in str(error.value)
    kept = cached(store)
    assert kept.tolist() == [0, 1, 2, 3] and store.examples - len(kept) == 3
    part = torch.utils.data.Subset(text, kept.tolist())
    weights, _ = train(part, StoredTokens(store, places=kept), analysis("word-kd"))
    assert bool(torch.isfinite(weights).all())


def test_changed_tokens_and_wrong_stores_are_refused(tmp_path) -> None:
    text, teacher = Text(), network(1)
    store = collect(teacher, text, tmp_path / "s", tokens="aligned")
    stored = StoredTokens(store)
    changed = Text()
    changed.labels[0, 0] = (changed.labels[0, 0] + 1) % CLASSES
    with pytest.raises(MismatchError, match="different labels"):
        train(changed, stored, analysis("word-kd"))
    shorter = Text()
    shorter.labels[3, 1:] = IGNORED
    with pytest.raises(MismatchError, match="does not have the tokens") as error:
        train(shorter, stored, analysis("word-kd"))
    assert "sentence 3" in str(error.value) and "truncation and template" in str(error.value)
    plain = collect(network(1), (torch.arange(6) % CLASSES, torch.arange(6) % 3), tmp_path / "p")
    with pytest.raises(MismatchError, match="is not one of tokens"):
        StoredTokens(plain)
    with pytest.raises(ConfigError, match="cannot be given"):
        StoredTokens(store, form="compact")
