"""KED as data: explanations as a term and a share moved to it, against the formula of the paper; nothing is subtracted."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from fractionate import Objective, TeacherSignal
from fractionate.data.batch import Batch
from fractionate.errors import ConfigError, MismatchError
from fractionate.losses.terms import ked, moved, term_specs
from fractionate.losses.terms.explanations import Explanations, paper_objective
from predicted import losses_of, predicted

LABELS = torch.tensor([0, 1, 2, 1, 0])


def explained(seed: int, *, rows: int = 5, superfeatures: int = 3, grad: bool = False, **more):
    """Log-probabilities of random explanations, and a prediction."""
    generator = torch.Generator().manual_seed(seed)
    raw = torch.randn(rows, superfeatures, 3, generator=generator, dtype=torch.float64, requires_grad=grad)
    explanations = torch.log_softmax(raw, 2)
    batch = Batch(torch.zeros(rows), LABELS[:rows], torch.arange(rows))
    return predicted(explanations.sum(1), batch=batch, explanations=explanations, **more)


def total(fields, student, teacher):
    """The loss of a recipe's fields, row by row, and its gradient path."""
    signal = TeacherSignal(teacher.logits.detach(), teacher.labels)
    losses = 0.0 if fields["objective"] is None else fields["objective"](student.logits, signal)
    losses = fields["objective_weight"] * losses
    for spec in fields["terms"]:
        losses = losses + spec.weight * losses_of(spec, student, teacher, signal)
    return losses


def kl(ours, theirs, temperature):
    """Σ p log(p / q) of tempered distributions given as logits, by plain Python."""
    p, q = ([math.exp(v / temperature) for v in side.tolist()] for side in (theirs, ours))
    p, q = [v / sum(p) for v in p], [v / sum(q) for v in q]
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def by_loops(student, teacher, weight, share, temperature, tau):
    found = []
    for n in range(len(student)):
        outputs = sum(kl(student.explanations[n, m].detach(), teacher.explanations[n, m], tau) for m in range(3)) / 3
        value = (1 - weight) * float(functional.cross_entropy(student.logits[n].detach(), student.labels[n]))
        value += weight * (1 - share) * temperature**2 * kl(student.logits[n].detach(), teacher.logits[n], temperature)
        found.append(value + weight * share * tau**2 * outputs)
    return found


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 1.0])
def test_ked_is_the_paper_formula(share):
    student, teacher = explained(1), explained(2)
    wanted = by_loops(student, teacher, 0.7, share, 10.0, 10.0)
    assert total(ked(share=share), student, teacher).tolist() == pytest.approx(wanted, abs=1e-10)


@given(weight=st.floats(0, 1), share=st.floats(0, 1))
def test_any_shares_add_up(weight, share):
    student, teacher = explained(1), explained(2)
    objective = Objective("kd", 2.0, weight, divergence="forward-kl")
    fields = ked(objective, share=share, explanations=Explanations({"temperature": 4.0}))
    wanted = by_loops(student, teacher, weight, share, 2.0, 4.0)
    assert total(fields, student, teacher).tolist() == pytest.approx(wanted, abs=1e-9)
    inner = fields["objective"]
    weights = [] if inner is None else [inner.teacher_weight]
    assert all(0 <= value <= 1 for value in (fields["objective_weight"], *weights))


def test_all_of_everything_leaves_no_objective():
    fields = ked(Objective("kd", 10.0, 1.0, divergence="forward-kl"), share=1.0)
    assert fields["objective"] is None and fields["objective_weight"] == 0
    assert fields["terms"] == (Explanations(),)


def test_at_share_0_the_recipe_is_kd():
    assert ked(share=0.0) == {"objective": paper_objective(), "objective_weight": 1.0, "terms": ()}


def test_the_numbers_of_before():
    """Made by the term that subtracted what the objective had added, in float64."""
    student = predicted(torch.sin(torch.arange(15.0).double()).view(5, 3), batch=explained(0).batch,
                        explanations=torch.log_softmax(torch.sin(torch.arange(45.0).double() / 2).view(5, 3, 3), 2))  # fmt: skip
    teacher = predicted(torch.cos(torch.arange(15.0).double()).view(5, 3) * 3, batch=explained(0).batch,
                        explanations=torch.log_softmax(torch.cos(torch.arange(45.0).double()).view(5, 3, 3) * 3, 2))  # fmt: skip
    assert losses_of(Explanations(), student, teacher).tolist() == pytest.approx(EXPLANATIONS, rel=1e-10)
    assert total(ked(share=0.4), student, teacher).tolist() == pytest.approx(KED, rel=1e-10)


EXPLANATIONS = [1.446057676722437, 0.6731723535296578, 0.20467368335956998, 0.6451510276567203, 1.412888725841992]
KED = [1.8304704716309121, 1.5119652200646478, 0.9892620492772346, 1.2823689868386212, 1.523387775045344]


def test_the_gradient_is_that_of_differences():
    teacher = explained(2)
    raw = torch.randn(5, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3), requires_grad=True)
    fields = ked(Objective("kd", 3.0, 0.6, divergence="forward-kl"), share=0.4,
                 explanations=Explanations(Objective("kd", 2.0, 1.0)))  # fmt: skip

    def loss(raw: torch.Tensor) -> torch.Tensor:
        outputs = torch.log_softmax(raw, 2)
        return total(fields, predicted(outputs.sum(1), batch=teacher.batch, explanations=outputs), teacher)

    assert torch.autograd.gradcheck(loss, raw)


def test_weights_pick_superfeatures_and_any_cell_can_be_an_explanation():
    student, teacher = explained(1), explained(2)
    objective = Objective("kd", 2.0, 1.0)
    signals = [TeacherSignal(part, teacher.labels) for part in teacher.explanations.unbind(1)]
    each = torch.stack([objective(student.explanations[:, m], signals[m]) for m in range(3)], 1)
    torch.testing.assert_close(losses_of(Explanations(objective), student, teacher), each.mean(1))
    weighted = losses_of(Explanations(objective, weights=(0, 3, 1)), student, teacher)
    torch.testing.assert_close(weighted, each @ torch.tensor([0, 0.75, 0.25]).double())
    for wrong in ((0.0, 0.0, 0.0), (1.0, -1.0, 1.0), ()):
        with pytest.raises(ConfigError, match="not all 0"):
            Explanations(objective, weights=wrong)


@pytest.mark.parametrize("cell", ["class-mean", "ls", "kd-shuffled", "kd-pt-shuffled"])
def test_cells_of_all_the_data_read_the_teacher_on_all_the_data(cell):
    objective = Objective(cell, 1.5, 1.0)
    whole = explained(2)
    signals = [TeacherSignal(part, whole.labels) for part in whole.explanations.unbind(1)]
    drawn = torch.tensor([3, 0, 4])
    batch = Batch(torch.zeros(3), LABELS[drawn], drawn)
    student, teacher = (
        predicted(outputs.logits[drawn], batch=batch, explanations=outputs.explanations[drawn])
        for outputs in (explained(1), whole)
    )
    wanted = torch.stack([objective(student.explanations[:, m], signals[m].take(drawn)) for m in range(3)], 1).mean(1)
    halves = [explained(2)] if cell == "ls" else parts_of(whole, [[0, 1], [2, 3, 4]])
    found = losses_of(Explanations(objective), student, teacher, teacher_on_all=lambda: halves)
    torch.testing.assert_close(found, wanted)
    with pytest.raises(ConfigError, match="explanations of all the data"):
        losses_of(Explanations(objective), student, teacher)


def parts_of(whole, groups):
    for group in groups:
        batch = Batch(torch.zeros(len(group)), whole.labels[group], torch.tensor(group))
        yield predicted(whole.logits[group], batch=batch, explanations=whole.explanations[group])


def test_rows_within_examples_find_their_place_in_all_the_data():
    """Two examples of two and three rows, read in another order: class means are of all five rows."""
    whole = explained(2)
    objective = Objective("kd-shuffled", 1.0, 1.0)

    def rows(prediction, places, order, index):
        batch = Batch(torch.zeros(2), prediction.labels[order], torch.tensor(index))
        more = {"place": torch.tensor(places), "labels": prediction.labels[order]}
        if "position" in type(prediction).__dataclass_fields__:
            more["position"] = torch.tensor([0, 1, 2, 0, 1] if places.count(0) == 3 else [0, 1, 0, 1, 2])
        return predicted(prediction.logits[order], batch=batch, explanations=prediction.explanations[order], **more)

    everything = rows(whole, [0, 0, 1, 1, 1], [0, 1, 2, 3, 4], [0, 1])
    order = [2, 3, 4, 0, 1]  # the second example first
    student, teacher = (rows(p, [0, 0, 0, 1, 1], order, [1, 0]) for p in (explained(1), whole))
    signals = [TeacherSignal(part, whole.labels) for part in whole.explanations.unbind(1)]
    at = torch.tensor(order)
    wanted = torch.stack([objective(student.explanations[:, m], signals[m].take(at)) for m in range(3)], 1).mean(1)
    found = losses_of(Explanations(objective), student, teacher, teacher_on_all=lambda: [everything])
    torch.testing.assert_close(found, wanted)


def test_hidden_features_take_their_share():
    """λ μ (1 - ρ) on explanations, λ μ ρ / M on the features of each branch."""
    hidden = tuple(term_specs[f"fitnets('branches.{m}.1', 'branches.{m}.1', weight={1 / 4})"] for m in range(4))
    fields = ked(share=0.5, hidden=hidden, hidden_share=0.6)
    assert fields["objective_weight"] == pytest.approx(1 - 0.7 * 0.5)
    assert fields["objective"].teacher_weight * fields["objective_weight"] == pytest.approx(0.7 * 0.5)
    first, *inside = fields["terms"]
    assert first == replace(Explanations(), weight=first.weight) and first.weight == pytest.approx(0.7 * 0.5 * 0.4)
    assert [t.weight for t in inside] == pytest.approx([0.7 * 0.5 * 0.6 / 4] * 4)
    assert [replace(t, weight=0.25) for t in inside] == list(hidden)
    alone = moved(paper_objective(), 0.6, hidden)  # the KD side: λ (1 - ρ) T² KL + λ ρ D
    assert [t.weight for t in alone["terms"]] == pytest.approx([0.7 * 0.6 / 4] * 4)
    assert ked(share=0.5, hidden=hidden, hidden_share=1.0)["terms"] == moved(paper_objective(), 0.5, hidden)["terms"]
    assert ked(share=0.5, hidden=hidden, hidden_share=0.0) == ked(share=0.5)


def test_what_cannot_be_explained_is_refused():
    student, teacher = explained(1), explained(2)
    with pytest.raises(MismatchError, match=r"(?s)explain differently.*2 superfeatures, 3 classes.*3 superfeatures"):
        losses_of(Explanations(), student, explained(2, superfeatures=2))
    with pytest.raises(MismatchError, match="as many weights"):
        losses_of(Explanations(weights=(1.0, 2.0)), student, teacher)
    with pytest.raises(MismatchError, match="no explanations"):
        losses_of(Explanations(), student, predicted(teacher.logits, batch=teacher.batch))
    for share in (-0.1, 1.1, True, "0.5"):
        for make in (
            lambda share=share: ked(share=share),
            lambda share=share: ked(hidden=(Explanations(),), hidden_share=share),
        ):
            with pytest.raises(ConfigError, match=r"number in \[0, 1\]"):
                make()
