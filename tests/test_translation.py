"""Iterative distillation and hidden states: on Hugging Face encoder-decoders and on a plain transformer of torch."""

from __future__ import annotations

import copy

import pytest
import torch

from counting_term import Calling
from fractionate import Objective, collect, distill
from fractionate.data.labels import IGNORED
from fractionate.errors import ConfigError, MismatchError
from fractionate.losses.terms import CallableTerm, Passes
from fractionate.models.outputs import logits_of, rows
from fractionate.records import Training
from fractionate.teachers import Cached
from fractionate.training.recipe import Recipe
from translators import TEXTS, Plain, marian, sentences

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
        distill(model, data, teacher, recipe=recipe(term), show="nothing")
        return weights_of(model)

    plain = train(CallableTerm(lambda output, given, signal: KD(rows(logits_of(output), given.labels)[0], signal)))
    one = train(Passes(1, (KD,), decoding=decoding))
    two = train(Passes(2, (KD,), decoding=decoding))
    assert torch.equal(plain, one)
    assert not torch.equal(plain, two)


def test_the_teacher_is_not_trained_and_keeps_its_mode():
    student, teacher = marian(1), marian(7, dropout=0.3).train()
    before = weights_of(teacher).clone()
    distill(student, sentences(), teacher, recipe=recipe(Passes(2, (KD,))), show="nothing")
    assert torch.equal(before, weights_of(teacher))
    assert all(p.grad is None for p in teacher.parameters())
    assert teacher.training


def test_losses_on_labels_count_once():
    """With a teacher's loss of weight 0 the passes change nothing: the labels are the objective's, on pass 1."""

    def train(*terms):
        model = marian(1)
        distill(model, sentences(), marian(7), recipe=recipe(*terms), show="nothing")
        return weights_of(model)

    assert torch.equal(train(), train(Passes(3, (KD,), weight=0.0)))


def test_half_precision_goes_through_all_passes():
    student, teacher = marian(1), marian(7)
    seen = {"student": [], "teacher": []}
    for name, model in (("student", student), ("teacher", teacher)):
        model.lm_head.register_forward_hook(lambda module, inputs, output, name=name: seen[name].append(output.dtype))
    training = Training(steps=1, batch_size=3, precision="bfloat16")
    distill(student, sentences(), teacher, recipe=recipe(Passes(2, (KD,)), training=training), show="nothing")
    # the loop runs the student in half and the teacher in full precision, then the second pass runs both in half
    assert seen["student"][-2:] == [torch.bfloat16] * 2
    assert seen["teacher"][-2:] == [torch.float32, torch.bfloat16]


def test_passes_without_a_model_as_teacher_are_refused_before_the_first_step(tmp_path):
    data, teacher = sentences(), marian(7)
    heard = collect(teacher, data, tmp_path / "store", tokens="aligned", form="hidden")
    with pytest.raises(ConfigError, match="passes=1 works with stored signals"):
        distill(marian(1), data, heard, recipe=recipe("passes(2)"), show="nothing")
    with_model = Cached(heard, model=teacher)
    assert distill(marian(1), data, with_model, recipe=recipe("passes(2)"), show="nothing")[1].steps == 4


def test_label_smoothing_needs_no_teacher(tmp_path):
    calm = Training(steps=4, batch_size=3, learning_rate=1e-2, optimizer="sgd")  # Adam makes much of roundings
    smooth = Recipe(terms=("label-smoothing(0.1)",), training=calm)
    model, cell = marian(1), marian(1)
    _, run = distill(model, sentences(), recipe=smooth, out=tmp_path, show="nothing")
    distill(cell, sentences(), marian(7), recipe=recipe(training=calm), show="nothing")
    assert torch.allclose(weights_of(model), weights_of(cell), atol=1e-5), "fairseq's convention, as the cell's"
    assert "log q[y] - log q[i]" in str(run.contract)


@pytest.mark.parametrize("make", [marian, Plain])
def test_hidden_states_teach_as_the_living_teacher_does(make, tmp_path):
    teacher, data = make(7), sentences()
    heard = collect(teacher, data, tmp_path, tokens="aligned", form="hidden", batch_size=3)
    assert len(heard.labels()) == int((data.labels != IGNORED).sum())

    def train(signal):
        model = make(1)
        calm = Training(steps=4, batch_size=3, learning_rate=1e-2, optimizer="sgd")  # Adam makes much of roundings
        distill(model, data, signal, objective=KD, training=calm, show="nothing")
        return weights_of(model)

    assert torch.allclose(train(teacher), train(heard), atol=1e-4)


def test_a_sentence_without_a_signal_is_named(tmp_path):
    teacher, data = marian(7), sentences()
    few = sentences(TEXTS[:5])
    heard = collect(teacher, few, tmp_path, tokens="aligned", form="hidden")

    def train(on):
        distill(marian(1), on, heard, objective=KD, training=TRAINING, show="nothing")

    with pytest.raises(MismatchError, match="not run on sentence"):
        train(data)
    other = sentences([(source, f"{target} {target}") for source, target in TEXTS[:5]])
    with pytest.raises(MismatchError, match="does not have the tokens"):
        train(other)
    with pytest.raises(MismatchError, match="different labels"):
        train(sentences([(source, " ".join(reversed(target.split()))) for source, target in TEXTS[:5]]))


def test_layers_that_do_not_make_the_logits_are_refused(tmp_path):
    doubled = marian()
    doubled.register_forward_hook(lambda module, inputs, output: setattr(output, "logits", output.logits**2))
    with pytest.raises(MismatchError, match="not made by its output layer alone"):
        collect(doubled, sentences(), tmp_path, tokens="aligned", form="hidden")


def test_other_vocabularies_are_refused():
    with pytest.raises(MismatchError, match="different classes"):
        distill(marian(vocabulary=50), sentences(), marian(7), objective=KD, training=TRAINING, show="nothing")


def test_a_distillation_goes_on_where_it_was_cut_off(tmp_path):
    """Two passes with dropout: what is drawn in a step follows from the step alone."""
    teacher = marian(7)

    def run(out, **more):
        model = marian(1, dropout=0.2)
        training = Training(steps=4, batch_size=3, learning_rate=1e-2, schedule="constant")
        calling = Calling(more.pop("calls", lambda student, signal: student.logits.sum(1)), weight=0.0)
        distill(
            model, sentences(), copy.deepcopy(teacher), out=tmp_path / out, save_every_steps=1, show="nothing",
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
