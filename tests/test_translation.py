"""Iterative distillation, hidden states and decoding: on Hugging Face encoder-decoders and on a plain transformer of torch."""

from __future__ import annotations

import copy
import sys

import pytest
import torch

from counting_term import Calling
from fractionate import Objective, collect, distill
from fractionate.data.subwords import END, PAD, Sentences, Subwords, check_subwords
from fractionate.errors import ConfigError, MismatchError, MissingExtraError
from fractionate.losses.terms import CallableTerm, Passes
from fractionate.models.decoding import CallAgain, EncoderDecoder
from fractionate.models.outputs import logits_of, rows
from fractionate.records import Training
from fractionate.teachers import Cached
from fractionate.teachers.decoding import greedy, quality, sequence_level, translate
from fractionate.training.recipe import Recipe
from translators import TEXTS, Plain, marian, sentences, subwords

KD = Objective("kd", 1.0, 1.0, divergence="forward-kl")
SMOOTHED = Objective("smoothed-others(0.1) * uniform", 1.0, 1.0)
TRAINING = Training(steps=4, batch_size=3, learning_rate=1e-2)


def weights_of(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def recipe(*terms, training=TRAINING):
    return Recipe(objective=SMOOTHED, terms=terms, training=training)


@pytest.mark.parametrize("kind", ["marian", "plain"])
def test_one_pass_is_word_level_distillation_and_two_are_not(kind):
    make, decoding = (marian, "encoder-decoder") if kind == "marian" else (Plain, "call-again")
    teacher, data = make(7), sentences()

    def train(term):
        model = make(1)
        distill(model, data.loader(), teacher, recipe=recipe(term), show="nothing")
        return weights_of(model)

    plain = train(CallableTerm(lambda output, given, signal: KD(rows(logits_of(output), given.labels)[0], signal)))
    one = train(Passes(1, (KD,), decoding=decoding))
    two = train(Passes(2, (KD,), decoding=decoding))
    assert torch.equal(plain, one)
    assert not torch.equal(plain, two)


def test_the_teacher_is_not_trained_and_keeps_its_mode():
    student, teacher = marian(1), marian(7, dropout=0.3).train()
    before = weights_of(teacher).clone()
    distill(student, sentences().loader(), teacher, recipe=recipe(Passes(2, (KD,))), show="nothing")
    assert torch.equal(before, weights_of(teacher))
    assert all(p.grad is None for p in teacher.parameters())
    assert teacher.training


def test_losses_on_labels_count_once():
    """With a teacher's loss of weight 0 the passes change nothing: the labels are the objective's, on pass 1."""

    def train(*terms):
        model = marian(1)
        distill(model, sentences().loader(), marian(7), recipe=recipe(*terms), show="nothing")
        return weights_of(model)

    assert torch.equal(train(), train(Passes(3, (KD,), weight=0.0)))


def test_half_precision_goes_through_all_passes():
    student, teacher = marian(1), marian(7)
    seen = {"student": [], "teacher": []}
    for name, model in (("student", student), ("teacher", teacher)):
        model.lm_head.register_forward_hook(lambda module, inputs, output, name=name: seen[name].append(output.dtype))
    training = Training(steps=1, batch_size=3, precision="bfloat16")
    distill(student, sentences().loader(), teacher, recipe=recipe(Passes(2, (KD,)), training=training), show="nothing")
    # the loop runs the student in half and the teacher in full precision, then the second pass runs both in half
    assert seen["student"][-2:] == [torch.bfloat16] * 2
    assert seen["teacher"][-2:] == [torch.float32, torch.bfloat16]


def test_passes_without_a_model_as_teacher_are_refused_before_the_first_step(tmp_path):
    data, teacher = sentences(), marian(7)
    heard = collect(teacher, data.loader(), tmp_path / "store", tokens="aligned", form="hidden")
    with pytest.raises(ConfigError, match="passes=1 works with stored signals"):
        distill(marian(1), data.loader(), heard, recipe=recipe("passes(2)"), show="nothing")
    with_model = Cached(heard, model=teacher)
    assert distill(marian(1), data.loader(), with_model, recipe=recipe("passes(2)"), show="nothing")[1].steps == 4


def test_label_smoothing_needs_no_teacher(tmp_path):
    calm = Training(steps=4, batch_size=3, learning_rate=1e-2, optimizer="sgd")  # Adam makes much of roundings
    smooth = Recipe(terms=("label-smoothing(0.1)",), training=calm)
    model, cell = marian(1), marian(1)
    _, run = distill(model, sentences().loader(), recipe=smooth, out=tmp_path, show="nothing")
    distill(cell, sentences().loader(), marian(7), recipe=recipe(training=calm), show="nothing")
    assert torch.allclose(weights_of(model), weights_of(cell), atol=1e-5), "fairseq's convention, as the cell's"
    assert "log q[y] - log q[i]" in str(run.contract)


@pytest.mark.parametrize("make", [marian, Plain])
def test_hidden_states_teach_as_the_living_teacher_does(make, tmp_path):
    teacher, data = make(7), sentences()
    heard = collect(teacher, data.loader(), tmp_path, tokens="aligned", form="hidden", batch_size=3)
    assert len(heard.labels()) == sum(map(len, data.targets))

    def train(signal):
        model = make(1)
        calm = Training(steps=4, batch_size=3, learning_rate=1e-2, optimizer="sgd")  # Adam makes much of roundings
        distill(model, data.loader(), signal, objective=KD, training=calm, show="nothing")
        return weights_of(model)

    assert torch.allclose(train(teacher), train(heard), atol=1e-4)


def test_a_sentence_without_a_signal_is_named(tmp_path):
    teacher, data = marian(7), sentences()
    few = Sentences.of(TEXTS[:5], subwords())
    heard = collect(teacher, few.loader(), tmp_path, tokens="aligned", form="hidden")

    def train(on):
        distill(marian(1), on.loader(), heard, objective=KD, training=TRAINING, show="nothing")

    with pytest.raises(MismatchError, match="not run on sentence"):
        train(data)
    other = Sentences.of([(source, f"{target} {target}") for source, target in TEXTS[:5]], subwords())
    with pytest.raises(MismatchError, match="does not have the tokens"):
        train(other)
    with pytest.raises(MismatchError, match="different labels"):
        train(Sentences(few.sources, tuple(tuple(reversed(t)) for t in few.targets)))


def test_layers_that_do_not_make_the_logits_are_refused(tmp_path):
    doubled = marian()
    doubled.register_forward_hook(lambda module, inputs, output: setattr(output, "logits", output.logits**2))
    with pytest.raises(MismatchError, match="not made by its output layer alone"):
        collect(doubled, sentences().loader(), tmp_path, tokens="aligned", form="hidden")


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
        assert subwords().decode(written) == [target for _, target in TEXTS]
    distilled = sequence_level(data, written, subwords())
    assert distilled.targets == data.targets
    assert distilled.texts == data.texts


def test_sequence_level_data_count_what_is_left_out():
    data = sentences()
    written = [[5, 6]] * 8
    written[0], written[1] = [], [5] * 64
    found = sequence_level(data, written, subwords(), longest=64)
    assert (len(found), found.empty, found.long) == (6, 1, 1)
    assert found[0]["labels"] == (5, 6, END)
    assert found[0]["decoder_input_ids"] == (PAD, 5, 6)
    assert found[0]["input_ids"] == data[2]["input_ids"]
    with pytest.raises(MismatchError, match="nothing that can be learned from"):
        sequence_level(data, [[]] * 8, subwords())
    with pytest.raises(MismatchError, match="not one translation a sentence"):
        sequence_level(data, [[5]], subwords())


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
        Subwords.learned(["a"], 10)


def test_different_pieces_are_refused():
    other = Subwords.learned([text for pair in TEXTS for text in pair], 50)
    check_subwords(subwords(), Subwords(subwords().model))
    with pytest.raises(MismatchError, match="different subwords"):
        check_subwords(other, subwords())
    student, data = marian(vocabulary=50), Sentences.of(TEXTS, other)
    with pytest.raises(MismatchError, match="different classes"):
        distill(student, data.loader(), marian(7), objective=KD, training=TRAINING, show="nothing")


def test_a_distillation_goes_on_where_it_was_cut_off(tmp_path):
    """Two passes with dropout: what is drawn in a step follows from the step alone."""
    teacher = marian(7)

    def run(out, **more):
        model = marian(1, dropout=0.2)
        training = Training(steps=4, batch_size=3, learning_rate=1e-2, schedule="constant")
        calling = Calling(more.pop("calls", lambda student, signal: student.logits.sum(1)), weight=0.0)
        distill(
            model, sentences().loader(), copy.deepcopy(teacher), out=tmp_path / out, save_every_steps=1, show="nothing",
            recipe=recipe(Passes(2, (KD,)), calling, training=training),
        )  # fmt: skip
        return weights_of(model)

    def interrupt(student, signal, calls=[]):  # noqa: B006  # counts its calls
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return student.logits.sum(1)

    whole = run("whole")
    with pytest.raises(KeyboardInterrupt):
        run("cut", calls=interrupt)
    assert torch.equal(whole, run("cut"))
    assert torch.equal(whole, run("whole")), "finished: read back"
