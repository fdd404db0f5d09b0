"""Iterative distillation, hidden states and decoding: on Hugging Face encoder-decoders and on a plain transformer of torch."""

from __future__ import annotations

import copy
import sys

import pytest
import torch
from torch.nn import functional

from fractionate import Objective, TeacherSignal, distill
from fractionate.data.splits import as_split
from fractionate.errors import ConfigError, MismatchError, MissingExtraError
from fractionate.extensions.decoding import greedy, quality, sequence_level, translate
from fractionate.extensions.ranking import tie_kd
from fractionate.extensions.translation import CallAgain, EncoderDecoder, LabelSmoothing, Passes, shifted
from fractionate.outputs import logits_of, rows
from fractionate.records import Training
from fractionate.sources.pieces import END, PAD, Pieces, Sentences, check_pieces
from fractionate.teachers.hidden import HiddenStates
from translators import TEXTS, Plain, marian, pieces, sentences

KD = Objective("kd", 1.0, 1.0, divergence="forward-kl")
SMOOTHED = Objective("smoothed-others(0.1) * uniform", 1.0, 1.0)
TRAINING = Training(steps=4, batch_size=3, learning_rate=1e-2)


def batch(data: Sentences):
    feed = as_split(data.loader())
    return next(feed.batches([(0, torch.arange(len(data)))], seed=0))


def asked(model, given):
    output = model(**given.inputs)
    said, labels, _ = rows(logits_of(output), given.labels)
    return output, said, labels


def weights_of(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_label_smoothing_makes_fairseqs_loss_of_cross_entropy():
    given, model = batch(sentences()), marian()
    output, said, labels = asked(model, given)
    found = functional.cross_entropy(said, labels, reduction="none") + LabelSmoothing(0.1)(output, given, None)
    log_q = torch.log_softmax(said.detach().double(), dim=1)
    own = log_q.gather(1, labels[:, None]).squeeze(1)
    assert torch.allclose(found.detach().double(), -0.9 * own - 0.1 / 59 * (log_q.sum(1) - own), atol=1e-5)
    assert torch.allclose(found, SMOOTHED(said, TeacherSignal(torch.zeros_like(said), labels)), atol=1e-5)
    with pytest.raises(ConfigError, match="below 1"):
        LabelSmoothing(1.0)


@pytest.mark.parametrize("kind", ["marian", "plain"])
def test_one_pass_is_word_level_distillation_bit_for_bit(kind):
    make, decoding = (marian, EncoderDecoder()) if kind == "marian" else (Plain, CallAgain())
    teacher, data = make(7), sentences()

    def by_hand(output, given, signal):
        return KD(rows(logits_of(output), given.labels)[0], signal)

    def train(term_of):
        model = make(1)
        distill(
            model, data.loader(), teacher, objective=SMOOTHED, training=TRAINING, terms=[term_of(model)], show="nothing"
        )
        return weights_of(model)

    plain = train(lambda model: by_hand)
    one = train(lambda model: Passes(model, [KD], decoding=decoding))
    two = train(lambda model: Passes(model, [KD], passes=2, teacher=teacher, decoding=decoding))
    assert torch.equal(plain, one)
    assert not torch.equal(plain, two)


@pytest.mark.parametrize("kind", ["marian", "plain"])
def test_further_passes_read_what_the_student_said(kind):
    make, decoding = (marian, EncoderDecoder()) if kind == "marian" else (Plain, CallAgain())
    student, teacher, given = make(1).eval(), make(7).eval(), batch(sentences())
    output, said, labels = asked(student, given)
    with torch.no_grad():
        taught = TeacherSignal(asked(teacher, given)[1], labels)
    term = Passes(student, tie_kd(3), passes=3, teacher=teacher, weight=0.5, decoding=decoding)
    found = term(output, given, taught)
    # the same by whole calls: nothing of the encoder is reused, every prefix is built by loops
    expected = sum(part(said, taught) for part in tie_kd(3))
    logits, prefix = logits_of(output), given.inputs["decoder_input_ids"]
    for _ in range(2):
        likely = logits.argmax(dim=-1)
        prefix = torch.tensor([[begun[0], *row[:-1]] for begun, row in zip(prefix.tolist(), likely.tolist())])  # noqa: B905
        inputs = {**given.inputs, "decoder_input_ids": prefix}
        logits = logits_of(student(**inputs))
        with torch.no_grad():
            heard = rows(logits_of(teacher(**inputs)), given.labels)[0]
        signal = TeacherSignal(heard, labels)
        expected = expected + sum(part(rows(logits, given.labels)[0], signal) for part in tie_kd(3))
    assert torch.allclose(found, expected * 0.5 / 3, atol=1e-5)
    assert len(term.values) == 3
    assert term.values[0] != term.values[1]
    learned = [p for p in student.parameters() if p.requires_grad]
    theirs = [
        torch.autograd.grad(loss.sum(), learned, allow_unused=True, retain_graph=True) for loss in (found, expected)
    ]
    for one, other in zip(*theirs, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            assert torch.allclose(one, other * 0.5 / 3, atol=1e-4)


def test_beginnings_are_what_was_said_one_place_later():
    gold, said = torch.tensor([[0, 5, 6, 7], [9, 5, 6, 0]]), torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8]])
    assert shifted(gold, said).tolist() == [[0, 1, 2, 3], [9, 5, 6, 7]]


def test_the_teacher_gets_no_gradient_and_keeps_its_mode():
    student, teacher = marian(1), marian(7, dropout=0.3).train()
    before = weights_of(teacher).clone()
    term = Passes(student, [KD], passes=2, teacher=teacher)
    distill(student, sentences().loader(), teacher, objective=SMOOTHED, training=TRAINING, terms=[term], show="nothing")
    assert torch.equal(before, weights_of(teacher))
    assert all(p.grad is None for p in teacher.parameters())
    assert teacher.training


def test_rows_without_a_label_count_in_no_pass():
    data, student, teacher = sentences(), marian(1).eval(), marian(7).eval()
    given, longer = batch(data), batch(data)
    longer.inputs["decoder_input_ids"] = functional.pad(longer.inputs["decoder_input_ids"], (0, 3))
    longer = type(longer)(longer.inputs, functional.pad(longer.labels, (0, 3), value=-100), longer.index)
    found = []
    for each in (given, longer):
        output, _, labels = asked(student, each)
        with torch.no_grad():
            signal = TeacherSignal(asked(teacher, each)[1], labels)
        found.append(Passes(student, tie_kd(3), passes=2, teacher=teacher)(output, each, signal))
    assert found[0].shape == found[1].shape
    assert torch.allclose(*found, atol=1e-5)


def test_losses_on_labels_count_once():
    """With a teacher's loss of 0 the passes change nothing: the labels are the engine's, on pass 1."""

    def nothing(logits, signal):
        return logits.sum(dim=1) * 0

    def train(terms_of):
        model, teacher = marian(1), marian(7)
        distill(
            model, sentences().loader(), teacher, objective=SMOOTHED, training=TRAINING,
            terms=terms_of(model, teacher), show="nothing",
        )  # fmt: skip
        return weights_of(model)

    alone = train(lambda model, teacher: [])
    assert torch.equal(alone, train(lambda model, teacher: [Passes(model, [nothing], passes=3, teacher=teacher)]))


def test_half_precision_goes_through_all_passes():
    student, teacher = marian(1), marian(7)
    seen = []
    for model in (student, teacher):
        model.lm_head.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    distill(
        student, sentences().loader(), teacher, objective=SMOOTHED, show="nothing",
        training=Training(steps=1, batch_size=3, precision="bfloat16"),
        terms=[Passes(student, [KD], passes=2, teacher=teacher, precision="bfloat16")],
    )  # fmt: skip
    # the engine asks the student in half and the teacher in full precision, then the second pass asks both in half
    assert seen[:4] == [torch.bfloat16, torch.float32, torch.bfloat16, torch.bfloat16]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"losses": [KD], "passes": 0}, "at least 1"),
        ({"losses": []}, "leave the term out"),
        ({"losses": [KD], "passes": 2}, "passes=1 works with stored signals"),
        (
            {"losses": [Objective("class-mean", 1.0, 1.0)], "passes": 2, "teacher": marian()},
            "no statistics of all the data",
        ),
    ],
)
def test_passes_that_cannot_be_meant(arguments, said):
    with pytest.raises(ConfigError, match=said):
        Passes(marian(), **arguments)


def test_passes_say_what_they_miss():
    student, given = marian(), batch(sentences())
    output, said, labels = asked(student, given)
    with pytest.raises(ConfigError, match="needs a teacher"):
        Passes(student, [KD])(output, given, None)
    signal = TeacherSignal(said.detach(), labels)
    elsewhere = Passes(student, [KD], passes=2, teacher=marian(7), decoding=CallAgain("prefix"))
    with pytest.raises(MismatchError, match="no beginnings of targets at 'prefix'"):
        elsewhere(output, given, signal)
    plain = Passes(student, [KD], passes=2, teacher=Plain())
    with pytest.raises(MismatchError, match="Plain is no encoder-decoder of Hugging Face"):
        plain(output, given, signal)


@pytest.mark.parametrize(("make", "layer"), [(marian, "lm_head"), (Plain, "head")])
def test_hidden_states_teach_as_the_living_teacher_does(make, layer):
    teacher, data = make(7), sentences()
    heard = HiddenStates.of(teacher, data.loader(), layer=layer, batch_size=3)
    assert len(heard.hidden) == sum(map(len, data.targets))

    def train(signal):
        model = make(1)
        calm = Training(steps=4, batch_size=3, learning_rate=1e-2, optimizer="sgd")  # Adam makes much of roundings
        distill(model, data.loader(), signal, objective=KD, training=calm, show="nothing")
        return weights_of(model)

    assert torch.allclose(train(teacher), train(heard), atol=1e-4)
    assert "8 sentences" in repr(heard)


def test_a_sentence_without_a_signal_is_named():
    teacher, data = marian(7), sentences()
    few = Sentences.of(TEXTS[:5], pieces())
    heard = HiddenStates.of(teacher, few.loader())

    def train(on):
        distill(marian(1), on.loader(), heard, objective=KD, training=TRAINING, show="nothing")

    with pytest.raises(MismatchError, match="not asked about sentence"):
        train(data)
    other = Sentences.of([(source, f"{target} {target}") for source, target in TEXTS[:5]], pieces())
    with pytest.raises(MismatchError, match="does not have the tokens"):
        train(other)
    with pytest.raises(MismatchError, match="different labels"):
        train(Sentences(few.sources, tuple(tuple(reversed(t)) for t in few.targets)))


def test_layers_that_do_not_make_the_logits_are_refused():
    with pytest.raises(MismatchError, match="no linear layer"):
        HiddenStates.of(marian(), sentences().loader(), layer="model.encoder")
    doubled = marian()
    doubled.register_forward_hook(lambda module, inputs, output: setattr(output, "logits", output.logits**2))
    with pytest.raises(MismatchError, match="not made by 'lm_head' alone"):
        HiddenStates.of(doubled, sentences().loader())


@pytest.fixture(scope="module")
def trained():
    model = marian(3, width=32, spread=0.1)
    distill(model, sentences().loader(), training=Training(steps=120, batch_size=8, learning_rate=1e-2), show="nothing")
    return model


def test_a_trained_translator_writes_the_targets(trained):
    data = sentences()
    for written in (
        translate(trained, data, beams=3, longest=32, batch_size=3),
        greedy(trained, data, EncoderDecoder(), longest=32, batch_size=3),
        greedy(trained, data, CallAgain(), longest=32),
    ):
        assert pieces().decode(written) == [target for _, target in TEXTS]
    distilled = sequence_level(data, written, pieces())
    assert distilled.targets == data.targets
    assert distilled.texts == data.texts


def test_sequence_level_data_count_what_is_left_out():
    data = sentences()
    written = [[5, 6]] * 8
    written[0], written[1] = [], [5] * 64
    found = sequence_level(data, written, pieces(), longest=64)
    assert (len(found), found.empty, found.long) == (6, 1, 1)
    assert found[0]["labels"] == (5, 6, END)
    assert found[0]["decoder_input_ids"] == (PAD, 5, 6)
    assert found[0]["input_ids"] == data[2]["input_ids"]
    with pytest.raises(MismatchError, match="nothing that can be learned from"):
        sequence_level(data, [[]] * 8, pieces())
    with pytest.raises(MismatchError, match="not one translation a sentence"):
        sequence_level(data, [[5]], pieces())


def test_models_without_generate_are_told_what_to_do():
    with pytest.raises(ConfigError, match="greedy"):
        translate(Plain(), sentences())


def test_quality_is_sacrebleus():
    references = [target for _, target in TEXTS]
    assert quality(references, references).bleu == pytest.approx(100)
    worse = quality([reference.replace("per", "x") for reference in references], references)
    assert 0 < worse.bleu < worse.chrf < 100
    assert "tok:13a" in worse.bleu_signature
    assert "version:" in worse.chrf_signature
    assert "8 sentences" in str(worse)
    for written in ([], ["one"]):
        with pytest.raises(MismatchError, match="as many translations as references"):
            quality(written, references if written else [])


def test_missing_libraries_are_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sacrebleu.metrics.bleu", None)
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(MissingExtraError, match="sequences"):
        quality(["a"], ["a"])
    with pytest.raises(MissingExtraError, match="sequences"):
        Pieces.learned(["a"], 10)


def test_different_pieces_are_refused():
    other = Pieces.learned([text for pair in TEXTS for text in pair], 50)
    check_pieces(pieces(), Pieces(pieces().model))
    with pytest.raises(MismatchError, match="different pieces"):
        check_pieces(other, pieces())
    student, data = marian(vocabulary=50), Sentences.of(TEXTS, other)
    with pytest.raises(MismatchError, match="different classes"):
        distill(student, data.loader(), marian(7), objective=KD, training=TRAINING, show="nothing")


def test_a_distillation_goes_on_where_it_was_cut_off(tmp_path):
    """Two passes with dropout: what is drawn in a step follows from the step alone."""
    teacher = marian(7)

    def run(steps, out):
        model = marian(1, dropout=0.2)
        term = Passes(model, [KD], passes=2, teacher=teacher)
        training = Training(steps=steps, batch_size=3, learning_rate=1e-2, schedule="constant")
        distill(
            model, sentences().loader(), copy.deepcopy(teacher), objective=SMOOTHED, training=training, terms=[term],
            out=tmp_path / out, save_every_steps=2, show="nothing",
        )  # fmt: skip
        return weights_of(model)

    whole = run(4, "whole")
    again = run(4, "whole")  # finished: read back
    assert torch.equal(whole, again)
