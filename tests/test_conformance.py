"""The conformance suite: green for every loss of ours, and red, at the right place, for each classical mistake."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from fractionate.errors import ConfigError, UnknownNameError
from fractionate.losses.divergences import divergences
from fractionate.plugins.conformance import Conformance, conformance, table
from fractionate.plugins.conformance.checks import Subject
from fractionate.plugins.conformance.suite import examine

pytest_plugins = ["fractionate.plugins.conformance.plugin"]


def textbook(student, teacher, labels, temperature):
    """T² KL(teacher ‖ student), mean over examples, as in most libraries, with masked classes left out."""
    wide = torch.promote_types(student.dtype, torch.float32)
    log_q = torch.log_softmax(student.to(wide) / temperature, 1)
    log_p = torch.log_softmax(teacher.to(wide) / temperature, 1)
    terms = torch.where(log_p > -torch.inf, log_p.exp() * (log_p - log_q.masked_fill(log_p == -torch.inf, 0.0)), 0.0)
    return temperature**2 * terms.sum(1).mean()


@pytest.mark.parametrize("name", [*divergences, "jsd(0.1)", "logit-standardised('jsd')", "dist(1, 0)"])
def test_every_registered_loss_conforms(name):
    record = conformance(name)
    assert record.conforms, str(record)
    assert record.cosine > 0.9999


@pytest.mark.parametrize(
    ("name", "words"),
    [("forward-kl", "forward KL"), ("reverse-kl", "reverse KL"), ("cross-entropy", "soft cross-entropy")],
)
def test_names_the_direction_and_the_reduction(name, words):
    record = conformance(name)
    assert words in record.identified and record.reduction == "mean over examples"
    assert record.temperature_power_of_gradient == pytest.approx(2, abs=1e-6)
    assert record.gradient_scale == pytest.approx(1, abs=1e-9)


def test_a_plain_function_is_taken():
    record = conformance(textbook, name="textbook")
    assert record.conforms and record.name == "textbook" and "forward KL" in record.identified
    assert Conformance.from_json(record.to_json()) == record


def faults(loss, **declared):
    return {fault.name: fault for fault in conformance(Subject("broken", loss, **declared)).faults}


def test_a_factor_in_the_printed_loss_only_is_found_by_finite_differences():
    class Printed(torch.autograd.Function):
        @staticmethod
        def forward(ctx, student, teacher, temperature):
            leaf = student.detach().requires_grad_()
            with torch.enable_grad():
                loss = functional.kl_div(
                    torch.log_softmax(leaf / temperature, 1),
                    torch.softmax(teacher / temperature, 1),
                    reduction="batchmean",
                )
                (gradient,) = torch.autograd.grad(loss, leaf)
            ctx.save_for_backward(gradient)
            return temperature**2 * loss.detach()  # too late: the gradient is taken

        @staticmethod
        def backward(ctx, outer):
            return outer * ctx.saved_tensors[0], None, None

    found = faults(lambda s, t, y, temperature: Printed.apply(s, t, temperature))
    assert "16 at T = 4" in found["finite difference"].note
    assert "T² invariance" in found


def test_a_missing_factor_is_named():
    found = faults(lambda s, t, y, T: textbook(s, t, y, T) / T**2)
    assert set(found) == {"T² invariance"} and "T^-2" in found["T² invariance"].note


def test_a_mean_over_classes_is_named():
    record = conformance(lambda s, t, y, T: textbook(s, t, y, T) / s.shape[1], name="mean")
    assert record.reduction == "mean over examples and classes"
    assert record.gradient_scale == pytest.approx(0.01, rel=1e-6)
    assert [fault.name for fault in record.faults] == ["padded vocabulary"]


def test_a_sum_is_named():
    assert conformance(lambda s, t, y, T: textbook(s, t, y, T) * len(s), name="sum").reduction.startswith("sum")


def test_softmax_over_the_batch_is_found():
    def over_time(s, t, y, T):
        return T**2 * functional.kl_div((s / T).log_softmax(0), (t / T).softmax(0), reduction="batchmean")

    assert "micro-batches" in faults(over_time)


def test_padding_a_smaller_student_with_zeros_is_found():
    def padded(s, t, y, T):
        return textbook(functional.pad(s, (0, t.shape[1] - s.shape[1])), t, y, T)

    assert "vocabulary sizes" in faults(padded)


def test_masked_classes_that_make_nan_are_found():
    def naive(s, t, y, T):
        log_p = torch.log_softmax(t / T, 1)
        return T**2 * (log_p.exp() * (log_p - torch.log_softmax(s / T, 1))).sum(1).mean()

    assert {"padded vocabulary", "finiteness"} <= set(faults(naive))


def test_padding_rows_that_count_are_found():
    assert "padding" in faults(textbook, padding=True)


def test_truncation_without_the_rest_is_found():
    def top(s, t, y, T, k):
        p, place = torch.softmax(t / T, 1).topk(k, 1)
        return (p * (p.log() - torch.log_softmax(s / T, 1).gather(1, place))).sum(1).mean()

    def bucket(s, t, y, T, k):
        p, place = torch.softmax(t / T, 1).topk(k, 1)
        q = torch.softmax(s / T, 1).gather(1, place)
        rest_p, rest_q = 1 - p.sum(1), 1 - q.sum(1)
        return ((p * (p / q).log()).sum(1) + rest_p * (rest_p / rest_q).log()).mean()

    assert "top-k" in faults(textbook, topk=top)
    assert "top-k" not in faults(textbook, topk=bucket)


def test_chunks_that_matter_are_found():
    def chunked(rows):
        def loss(s, t, y, T):
            return torch.stack([textbook(a, b, y, T) for a, b in zip(s.split(rows), t.split(rows), strict=True)]).mean()

        return loss

    assert "chunks" in faults(textbook, chunked=chunked)


def test_low_precision_inside_is_found():
    def half(s, t, y, T):  # accumulates in the dtype that comes
        return T**2 * functional.kl_div((s / T).log_softmax(1), (t / T).softmax(1), reduction="batchmean")

    assert {"precision", "finiteness"} <= set(faults(half))
    assert "finite difference" in faults(lambda s, t, y, T: textbook(s.bfloat16(), t.bfloat16(), y, T).to(s.dtype))


def test_the_wrong_distance_is_not_taken_for_kl():
    record = conformance(
        lambda s, t, y, T: T**2 * functional.mse_loss((s / T).softmax(1), (t / T).softmax(1)),
        name="squared probabilities",
    )
    assert "squared error of probabilities" in record.identified


def test_a_loss_that_fails_is_an_answer_and_not_a_crash():
    def fails_in_half(s, t, y, T):
        if s.dtype == torch.float16:
            raise RuntimeError("half is not implemented")
        return textbook(s, t, y, T)

    assert "RuntimeError" in faults(fails_in_half)["finiteness"].note


def test_the_table_has_a_row_a_loss_and_the_suite_fails_for_none_of_ours():
    rows = table([conformance("forward-kl"), conformance("ttm")]).splitlines()
    assert len(rows) == 4 and len({row.count("|") for row in rows}) == 1
    found = examine(["total-variation"])
    assert found.conform and "total-variation" in str(found)


def test_unknown_names_suggest_the_nearest():
    with pytest.raises(UnknownNameError, match="reverse-kl"):
        conformance("revers-kl")
    with pytest.raises(ConfigError):
        conformance("jsd(3)")


def test_the_fixture_passes_good_losses_and_fails_bad_ones(conforms):
    assert conforms("jsd").conforms
    conforms(lambda s, t, y, T: textbook(s, t, y, T) / T**2, allow={"T² invariance"})
    with pytest.raises(pytest.fail.Exception, match="T² invariance"):
        conforms(lambda s, t, y, T: textbook(s, t, y, T) / T**2)
    with pytest.raises(AssertionError, match="no checks"):
        conforms("jsd", allow={"nonsense"})
