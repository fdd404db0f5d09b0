"""How logit layers lie and which classes features are near to: against loops, and against the proposition of the paper."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cosine_similarity, normalize

from fractionate.errors import MismatchError
from fractionate.theory.teacher_signal import TeacherSignal
from fractionate.training.mechanism import distance_order, row_geometry


def test_row_geometry_equals_a_loop() -> None:
    torch.manual_seed(0)
    rows, relation, group = torch.randn(6, 4), torch.rand(6, 6), (0, 0, 1, 1, 1, 2)
    within, between, cosines, related = [], [], [], []
    for i in range(6):
        for j in range(i + 1, 6):
            cosine = float(cosine_similarity(rows[i].double(), rows[j].double(), dim=0))
            (within if group[i] == group[j] else between).append(cosine)
            cosines.append(cosine)
            related.append(float(relation[i, j] + relation[j, i]) / 2)
    found = row_geometry(rows, relation, group)
    assert found.within_superclass == pytest.approx(sum(within) / len(within))
    assert found.between_superclasses == pytest.approx(sum(between) / len(between))
    linked = torch.corrcoef(torch.tensor([cosines, related], dtype=torch.float64))[0, 1]
    assert found.relation_correlation == pytest.approx(float(linked))
    with pytest.raises(MismatchError, match="6 classes"):
        row_geometry(rows, None, (0, 1))


def test_distance_order_is_one_at_a_stationary_point_with_rows_of_equal_norm() -> None:
    """There the logits are h · w up to a constant; with equal norms the nearer row is the likelier class (2002.03532)."""
    torch.manual_seed(0)
    rows = normalize(torch.randn(5, 8, dtype=torch.float64), dim=1)
    features = torch.randn(20, 8, dtype=torch.float64)
    labels = torch.randint(5, (20,))
    assert distance_order(features, rows, TeacherSignal(features @ rows.T, labels)) == 1.0
    assert distance_order(features, rows, TeacherSignal(-features @ rows.T, labels)) == 0.0
    stretched = rows * torch.tensor([[0.2], [5.0], [1.0], [3.0], [0.5]])
    assert distance_order(features, stretched, TeacherSignal(features @ stretched.T, labels)) < 1.0


def test_distance_order_leaves_the_label_and_ties_out() -> None:
    features, rows = torch.zeros(1, 1), torch.tensor([[1.0], [2.0], [3.0]])
    labels = torch.tensor([0])
    # wrong classes 1 and 2: class 1 is nearer; the label is the nearest of all and does not count
    assert distance_order(features, rows, TeacherSignal(torch.tensor([[-9.0, 1.0, 0.0]]), labels)) == 1.0
    assert distance_order(features, rows, TeacherSignal(torch.tensor([[9.0, 0.0, 1.0]]), labels)) == 0.0
