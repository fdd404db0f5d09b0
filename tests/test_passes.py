"""Iterative decoding and label smoothing as terms: on Hugging Face encoder-decoders and on a plain transformer of torch."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from fractionate import Objective, TeacherSignal
from fractionate.data.batch import Batch
from fractionate.errors import ConfigError, MismatchError
from fractionate.losses.terms import term_specs, tie_kd
from fractionate.losses.terms.passes import Passes
from fractionate.losses.terms.smoothing import LabelSmoothing
from fractionate.models.decoding import CallAgain, EncoderDecoder, shifted
from fractionate.models.outputs import logits_of, rows
from predicted import bound, losses_of, predicted
from translators import Plain, marian, sentences

KD = Objective("kd", 1.0, 1.0, divergence="forward-kl")
KINDS = {"marian": (marian, "encoder-decoder"), "plain": (Plain, "call-again")}


def read(model, given: Batch):
    """The rows of a translator on a batch."""
    output = model(**given.inputs)
    logits, labels, place = rows(logits_of(output), given.labels)
    return predicted(logits, batch=given, labels=labels, place=place, output=output)


def batch() -> Batch:
    data = sentences()
    return next(data.batches([(0, torch.arange(len(data)))], seed=0))


def pair(make, given):
    """A student, its teacher, what the student predicts and the teacher's signal of the same rows."""
    student, teacher = make(1).eval(), make(7).eval()
    with torch.no_grad():
        outputs = read(teacher, given)
    return student, teacher, read(student, given), TeacherSignal(outputs.logits, outputs.labels)


@pytest.mark.parametrize("kind", KINDS)
def test_one_pass_is_the_losses_on_the_signal(kind):
    given = batch()
    student, _, outputs, signal = pair(KINDS[kind][0], given)
    found = losses_of(Passes(1, (KD,), decoding=KINDS[kind][1]), outputs, None, signal, models=(student, None))
    assert torch.equal(found, KD(outputs.logits, signal))


@pytest.mark.parametrize("kind", KINDS)
def test_further_passes_read_what_the_student_wrote(kind):
    make, decoding = KINDS[kind]
    given = batch()
    student, teacher, outputs, signal = pair(make, given)
    spec = Passes(3, tie_kd(3), decoding=decoding)
    found = losses_of(spec, outputs, None, signal, models=(student, teacher))
    # the same by whole calls: nothing of the encoder is reused, every prefix is built by loops
    expected = sum(part(outputs.logits, signal) for part in tie_kd(3))
    logits, prefix = logits_of(outputs.output), given.inputs["decoder_input_ids"]
    for _ in range(2):
        likely = logits.argmax(dim=-1)
        prefix = torch.tensor(
            [[first[0], *row[:-1]] for first, row in zip(prefix.tolist(), likely.tolist(), strict=True)]
        )
        inputs = {**given.inputs, "decoder_input_ids": prefix}
        logits = logits_of(student(**inputs))
        with torch.no_grad():
            theirs = rows(logits_of(teacher(**inputs)), given.labels)[0]
        again = TeacherSignal(theirs, outputs.labels)
        expected = expected + sum(part(rows(logits, given.labels)[0], again) for part in tie_kd(3))
    assert torch.allclose(found, expected / 3, atol=1e-5)
    learned = [p for p in student.parameters() if p.requires_grad]
    gradients = [
        torch.autograd.grad(loss.sum(), learned, allow_unused=True, retain_graph=True) for loss in (found, expected / 3)
    ]
    for one, other in zip(*gradients, strict=True):
        assert (one is None) == (other is None)
        assert one is None or torch.allclose(one, other, atol=1e-4)


def test_decoder_inputs_are_what_was_chosen_one_place_later():
    gold, chosen = torch.tensor([[0, 5, 6, 7], [9, 5, 6, 0]]), torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8]])
    assert shifted(gold, chosen).tolist() == [[0, 1, 2, 3], [9, 5, 6, 7]]


def test_the_teacher_gets_no_gradient_and_keeps_its_mode():
    given = batch()
    student, teacher, outputs, signal = pair(lambda seed: marian(seed, dropout=0.3), given)
    teacher.train()
    losses_of(Passes(2, (KD,)), outputs, None, signal, models=(student, teacher)).sum().backward()
    assert all(p.grad is None for p in teacher.parameters()) and teacher.training
    assert any(p.grad is not None and p.grad.any() for p in student.parameters())


def test_the_teacher_may_read_inputs_of_its_own():
    given = batch()
    student, teacher, outputs, signal = pair(marian, given)
    swapped = {name: part.flip(0) if name != "decoder_input_ids" else part for name, part in given.inputs.items()}
    apart = Batch(given.inputs, given.labels, given.index, views={"teacher": swapped})
    spec, models = Passes(2, (KD,)), {"models": (student, teacher)}
    assert not torch.allclose(
        losses_of(spec, read(student, apart), None, signal, **models), losses_of(spec, outputs, None, signal, **models)
    )


def test_rows_without_a_label_count_in_no_pass():
    given, longer = batch(), batch()
    longer.inputs["decoder_input_ids"] = functional.pad(longer.inputs["decoder_input_ids"], (0, 3))
    longer = Batch(longer.inputs, functional.pad(longer.labels, (0, 3), value=-100), longer.index)
    found = []
    for each in (given, longer):
        student, teacher, outputs, signal = pair(marian, each)
        found.append(losses_of(Passes(2, tie_kd(3)), outputs, None, signal, models=(student, teacher)))
    assert found[0].shape == found[1].shape
    assert torch.allclose(*found, atol=1e-5)


def test_further_passes_run_in_the_training_precision():
    given = batch()
    student, teacher, outputs, signal = pair(marian, given)
    seen = []
    for model in (student, teacher):
        model.lm_head.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    losses_of(Passes(2, (KD,)), outputs, None, signal, models=(student, teacher), precision="bfloat16")
    assert seen == [torch.bfloat16, torch.bfloat16]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"passes": 0}, "at least 1"),
        ({"passes": True}, "at least 1"),
        ({"losses": ()}, "leave the term out"),
        ({"losses": (len,)}, "at least one Objective"),
        ({"losses": (Objective("class-mean", 1.0, 1.0),)}, "no statistics of all the data"),
        ({"decoding": "guess"}, "unknown decoding"),
        ({"weight": -1.0}, "at least 0"),
    ],
)
def test_settings_that_are_refused(settings, said):
    with pytest.raises(ConfigError, match=said):
        Passes(**settings)


def test_what_does_not_fit_is_refused():
    given = batch()
    student, teacher, outputs, signal = pair(marian, given)
    with (
        pytest.raises(ConfigError, match="passes=1 works with stored signals"),
        bound(Passes(2), outputs, models=(student, None)),
    ):
        pass
    with pytest.raises(ConfigError, match="needs a teacher"):
        losses_of(Passes(1), outputs, models=(student, None))
    with pytest.raises(MismatchError, match="no decoder inputs at 'prefix'"):
        losses_of(Passes(2, decoding="call-again('prefix')"), outputs, None, signal, models=(student, teacher))
    with pytest.raises(MismatchError, match="Plain is no encoder-decoder of Hugging Face"):
        losses_of(Passes(2), outputs, None, signal, models=(student, Plain()))


def test_class_level_losses_serve_a_single_pass():
    given = batch()
    student, _, outputs, signal = pair(marian, given)
    losses = (Objective("class-mean", 1.0, 1.0),)
    assert losses_of(Passes(1, losses), outputs, None, signal, models=(student, None)).shape == outputs.labels.shape


def test_text_names_losses_and_decoding():
    spec = term_specs["passes(2, losses=({'divergence': 'reverse-kl'},), decoding=\"call-again('prefix')\")"]
    assert spec == Passes(2, (Objective("kd", 1.0, 1.0, divergence="reverse-kl"),), decoding=CallAgain("prefix"))
    assert Passes() == term_specs["passes"] and Passes().losses == tie_kd(5) and Passes().decoding == EncoderDecoder()


def test_label_smoothing_makes_fairseqs_loss_of_cross_entropy():
    content = read(marian(), batch())
    smooth = losses_of(LabelSmoothing(0.1), content)
    found = functional.cross_entropy(content.logits, content.labels, reduction="none") + smooth
    log_q = torch.log_softmax(content.logits.detach().double(), dim=1)
    own = log_q.gather(1, content.labels[:, None]).squeeze(1)
    assert torch.allclose(found.detach().double(), -0.9 * own - 0.1 / 59 * (log_q.sum(1) - own), atol=1e-5)
    cell = Objective("smoothed-others(0.1) * uniform", 1.0, 1.0)
    assert torch.allclose(
        found, cell(content.logits, TeacherSignal(torch.zeros_like(content.logits), content.labels)), atol=1e-5
    )
    logits = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda z: losses_of(LabelSmoothing(0.3), predicted(z)), logits)
    for wrong in (1.0, -0.1, True, "0.1"):
        with pytest.raises(ConfigError, match="below 1"):
            LabelSmoothing(wrong)
