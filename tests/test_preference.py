"""Which attention term a task needs: planted answers are found, the shares add up, few seeds are told."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fractionate.errors import MismatchError
from fractionate.records import Run, Scores
from fractionate.study.preference import ACCURACY, Preference, preference

NOISE = (-0.12, 0.05, 0.11, -0.08, 0.04)


def runs(seeds=5, **accuracies):
    """Runs whose accuracies in points are given by arm, with noise of each arm's own and one of the seed's."""
    found = []
    for place, (arm, points) in enumerate(accuracies.items()):
        for seed in range(seeds):
            accuracy = points + 2 * NOISE[seed] + NOISE[(2 * seed + place) % 5]
            scores = Scores(10_000, 10_000, {"accuracy": accuracy, "nll": 1.0, "ece": 10.0})
            found.append(
                Run(arm=arm, seed=seed, status="completed", contract=None, steps=1, wall_seconds=1.0, parameters=1, test=scores)
            )  # fmt: skip
    return found


@pytest.mark.parametrize(
    ("expected", "points"),
    [
        ("map", (60, 65, 60, 65)),
        ("map", (60, 65, 60, 62)),
        ("output", (60, 60, 65, 65)),
        ("both", (60, 63, 63, 66)),
        ("neither", (60, 60, 60, 60)),
        ("cannot tell", (60, 61, 61, 61)),
    ],
)
def test_planted_preferences_are_found(expected, points):
    found = preference(
        runs(**dict(zip(("hidden", "map", "output", "unified"), points, strict=True))), task="entailment"
    )
    assert found.prefers == expected, str(found)
    assert "entailment" in found.finding.summary and found.recipe in found.finding.fix
    assert len(found.finding.evidence) == 6 and found.finding.evidence[0].interval is not None
    whole = points[3] - points[0]
    assert sum(share.gain for share in found.shares) == pytest.approx(whole, abs=0.2)
    assert Preference.from_json(found.to_json()) == found


def test_noise_is_no_preference():
    noisy = runs(seeds=3, hidden=60, map=60.3, output=60.2, unified=60.5)
    found = preference(noisy, metric=replace(ACCURACY, margin=0.05))
    assert found.prefers == "cannot tell" and "seeds would settle it" in found.finding.fix


def test_other_names_and_too_few_runs():
    named = runs(none=60, m=65, o=60, mo=65)
    roles = {"base": "none", "map": "m", "output": "o", "both": "mo"}
    assert preference(named, roles=roles).prefers == "map"
    with pytest.raises(MismatchError, match="no run of arm 'hidden'"):
        preference(named)
    with pytest.raises(MismatchError, match="at least two seeds"):
        preference(runs(seeds=1, hidden=60, map=65, output=60, unified=65))
