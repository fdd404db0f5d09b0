"""bench/first_sentence.py: what its check of a first sentence lets pass, and one of its cases at a tiny setting."""

from __future__ import annotations

import pytest
from bench.first_sentence import CASES, judged, outcome


def study(kd: list[float]) -> dict[str, object]:
    def runs(arm: str, contract: object, values: list[float]) -> list[dict[str, object]]:
        return [
            {"arm": arm, "seed": i, "contract": contract, "test": {"values": {"accuracy": v}}}
            for i, v in enumerate(values)
        ]

    hard = [80.0, 81.0, 80.5, 80.2, 80.3]
    return {"runs": [*runs("hard", None, hard), *runs("kd", {"teacher_weight": 0.9, "cell": "kd"}, kd)]}


SURE, WORSE = [82.0, 83.1, 82.4, 82.3, 82.2], [78.0, 79.1, 78.4, 78.3, 78.2]
EQUAL, UNSURE = [80.05, 81.1, 80.5, 80.2, 80.3], [82.0, 79.0, 83.0, 79.0, 80.6]


@pytest.mark.parametrize(
    ("values", "fits", "contradicts"),
    [
        (SURE, ["Distil: 82.4 % accuracy"], ["Don't distil: no", "No clear difference yet:", "Distil: 90.0 % accuracy"]),
        (WORSE, ["Don't distil: x", "Don't distil before this is repaired: x"], ["Distil: x", "No clear difference yet: x"]),
        (EQUAL, ["Don't distil: equal", "No clear difference yet: x"], ["Distil: x"]),
        (UNSURE, ["No clear difference yet: x"], ["Distil: x", "Don't distil: x"]),
    ],
)  # fmt: skip
def test_a_first_sentence_is_held_against_the_scores(values, fits, contradicts):
    assert all(judged(first, study(values))[1] for first in fits)
    assert not any(judged(first, study(values))[1] for first in contradicts)


def test_a_case_runs_through_the_command(tmp_path):
    case = "hardly trained teacher, T = 4 / 0.9 given"
    found = outcome(case, CASES[case], tmp_path, tiny=True)
    assert found.agrees and not found.surely_worse and found.exported.startswith("kd T = 4 / 0.9") and found.fresh


def test_a_teacher_to_repair_is_reported_too(tmp_path):
    """There is no recipe then: the study has no arm for it, and nothing is exported."""
    case = "teacher that swaps classes, recommended recipe"
    found = outcome(case, CASES[case], tmp_path, tiny=True)
    assert found.agrees and found.first.startswith(
        "Don't distil before this is repaired: 2 classes are named differently"
    )
    assert found.exported.startswith("nothing: repair first: permuted-classes")
