"""Contrasts, corrections, verdicts and shares, against statsmodels and by hand."""

from __future__ import annotations

import gc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fractionate.errors import ConfigError, MismatchError
from fractionate.records import MetricInfo, Run, Scores
from fractionate.study.effects.contrasts import Contrast, effects, holm, judge, paired, unpaired
from fractionate.study.effects.power import power_of_difference, power_of_equivalence, seeds_to_settle
from fractionate.study.effects.shapley import GRID, LADDER, Place, orders, shares

ACCURACY, NLL = MetricInfo("accuracy", "points", "more", 0.5, counts=True), MetricInfo("nll", "nats", "less", 0.02)
UNKNOWN = MetricInfo("bleu", "points", "more", 0.5)
NUMBERS = st.floats(-10, 10, allow_nan=False).map(lambda x: round(x, 3))


def run(
    arm: str, seed: int, accuracy: float, *, status: str = "completed", nll: float = 1.0, examples: int = 10**9
) -> Run:
    values = {"accuracy": 100 * accuracy, "nll": nll, "ece": 10.0, "agreement": 50.0}
    scores = Scores(examples, examples, values) if status == "completed" else None
    return Run(arm, seed, status, None, 1, 0.1, 1, test=scores)  # type: ignore[arg-type]


def runs_of(table: dict[str, list[float]], examples: int = 10**9) -> list[Run]:
    return [run(arm, seed, a, examples=examples) for arm, row in table.items() for seed, a in enumerate(row)]


@settings(max_examples=40, deadline=None)
@given(st.lists(NUMBERS, min_size=3, max_size=20).filter(lambda v: np.std(v) > 1e-2), st.floats(0.1, 5))
def test_paired_agrees_with_scipy_and_statsmodels(values: list[float], margin: float) -> None:
    from scipy.stats import ttest_1samp
    from statsmodels.stats.weightstats import DescrStatsW

    found = paired(values, margin=margin)
    test = ttest_1samp(values, 0.0)
    assert found.p_value == pytest.approx(test.pvalue, rel=1e-6, abs=1e-12)
    interval = test.confidence_interval(0.95)
    assert (found.interval.low, found.interval.high) == pytest.approx((interval.low, interval.high))
    tost, _, _ = DescrStatsW(np.array(values)).ttost_mean(-margin, margin)
    assert found.p_beyond_margin == pytest.approx(tost, rel=1e-6, abs=1e-12)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_agrees_with_statsmodels(p_values: list[float]) -> None:
    from statsmodels.stats.multitest import multipletests

    gc.freeze()  # each of its calls collects garbage, through all that torch has loaded
    try:
        assert holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1], abs=1e-12)
    finally:
        gc.unfreeze()


def test_power_agrees_with_statsmodels_and_simulation() -> None:
    from statsmodels.stats.power import TTestPower

    for gain, deviation, seeds in ((0.5, 1.0, 10), (1.0, 0.7, 5), (0.1, 1.0, 200)):
        expected = TTestPower().power(gain / deviation, seeds, 0.05)
        assert power_of_difference(gain, deviation, seeds) == pytest.approx(expected, abs=1e-6)
    draws = np.random.default_rng(0).normal(0.1, 1.0, size=(4000, 30))
    outputs = np.mean([paired(row, margin=0.6).p_beyond_margin < 0.05 for row in draws[:1500]])
    assert power_of_equivalence(0.1, 1.0, 30, margin=0.6) == pytest.approx(outputs, abs=0.04)


@pytest.mark.parametrize("gain", [0.3, 1.0, 2.0, 5.1666, 6.0, 7.0, 10.0, 40.0, 400.0])
def test_power_has_a_number_for_every_shift(gain: float) -> None:
    powers = [power_of_difference(gain, 6.22, seeds) for seeds in (2, 5, 10, 20, 100, 300, 1000)]
    assert powers == sorted(powers) and powers[0] > 0 and powers[-1] <= 1 + 1e-9
    found = seeds_to_settle(gain, 6.22, margin=0.1, seeds=5)
    assert found is None if gain == 0.3 else found == pytest.approx(max(6, 2 + 7.85 * (6.22 / gain) ** 2), abs=3)


def test_seeds_to_settle_is_the_first_that_has_the_power() -> None:
    found = seeds_to_settle(0.5, 1.0, margin=0.1, seeds=5)
    assert found is not None
    assert power_of_difference(0.5, 1.0, found) >= 0.8 > power_of_difference(0.5, 1.0, found - 1)
    alike = seeds_to_settle(0.0, 1.0, margin=0.5, seeds=5)
    assert alike is not None
    assert power_of_equivalence(0.0, 1.0, alike, margin=0.5) >= 0.8
    assert seeds_to_settle(0.001, 1.0, margin=0.002, seeds=5) is None
    assert seeds_to_settle(0.0, 0.0, margin=0.5, seeds=5) == 6


@pytest.mark.parametrize(
    ("gain", "p", "p_beyond", "sign", "verdict"),
    [
        (1.0, 0.01, 0.9, 1, "helps"),
        (-1.0, 0.01, 0.9, 1, "hurts"),
        (-1.0, 0.01, 0.9, -1, "helps"),
        (0.1, 0.5, 0.01, 1, "equivalent"),
        (0.1, 0.5, 0.5, 1, "cannot tell"),
        (0.1, 0.01, 0.01, 1, "helps"),
    ],
)
def test_verdicts(gain: float, p: float, p_beyond: float, sign: int, verdict: str) -> None:
    assert judge(gain, p, p_beyond, sign=sign) == verdict


def test_effects_pair_by_seed_and_correct_for_their_number() -> None:
    table = {"hard": [0.5, 0.6, 0.7, 0.8], "kd": [0.52, 0.621, 0.719, 0.82], "none": [0.501, 0.599, 0.701, 0.799]}
    contrasts = [Contrast("kd", "hard"), Contrast("none", "hard", placebo=True)]
    kd, none = effects(runs_of(table), contrasts, metric=ACCURACY)
    assert kd.gain == pytest.approx(2.0) and kd.verdict == "helps" and kd.seeds == 4 and not kd.placebo
    assert none.verdict == "equivalent" and none.placebo
    assert kd.p_holm == pytest.approx(2 * kd.p_value)
    less = effects(
        [run("a", s, 0.5, nll=1 + 0.1 * s) for s in range(4)]
        + [run("b", s, 0.5, nll=0.5 + 0.11 * s) for s in range(4)],
        [Contrast("b", "a")],
        metric=NLL,
    )
    assert less[0].gain < 0 and less[0].verdict == "helps"  # less is better


def test_a_diverged_run_drops_its_pair_only() -> None:
    runs = [*runs_of({"hard": [0.5, 0.6, 0.7], "kd": [0.52, 0.63]}), run("kd", 2, 0.0, status="diverged")]
    (effect,) = effects(runs, [Contrast("kd", "hard")], metric=ACCURACY)
    assert effect.seeds == 2 and effect.gain == pytest.approx(2.5)
    assert unpaired(runs, [Contrast("kd", "hard")], "accuracy") == ("kd − hard rests on 2 of 3 seeds",)
    lost = [run("kd", s, 0.0, status="diverged") for s in range(3)] + runs_of({"hard": [0.5, 0.6, 0.7]})
    assert effects(lost, [Contrast("kd", "hard")], metric=ACCURACY) == ()
    assert "cannot be judged" in unpaired(lost, [Contrast("kd", "hard")], "accuracy")[0]


def test_differences_that_agree_to_the_example_are_not_infinitely_sure() -> None:
    (effect,) = effects(
        runs_of({"hard": [0.50, 0.60], "kd": [0.51, 0.61]}, examples=100), [Contrast("kd", "hard")], metric=ACCURACY
    )
    assert effect.verdict == "cannot tell" and effect.interval.low < 0
    same = effects(runs_of({"a": [0.5] * 5, "b": [0.5] * 5}, examples=1000), [Contrast("b", "a")], metric=ACCURACY)
    assert same[0].gain == 0 and same[0].verdict == "equivalent"


def test_bad_questions_are_refused() -> None:
    with pytest.raises(ConfigError, match="one seed"):
        paired([1.0], margin=0.5)
    with pytest.raises(ConfigError, match="margin"):
        paired([1.0, 2.0], margin=0.0)
    assert effects(runs_of({"hard": [0.5, 0.6], "kd": [0.6, 0.7]}), [Contrast("kd", "hard")], metric=UNKNOWN) == ()
    with pytest.raises(MismatchError, match="no run of arm"):
        effects(runs_of({"hard": [0.5, 0.6]}), [Contrast("kd", "hard")], metric=ACCURACY)
    with pytest.raises(MismatchError, match="two runs"):
        effects([run("a", 0, 0.5), run("a", 0, 0.5)], [], metric=ACCURACY)


PLACES: dict[Place | None, str] = {None: "hard"} | {place: f"{place}" for place in GRID}


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6))
def test_parts_add_up_to_the_whole_and_additive_gains_are_found(number: int) -> None:
    generator = np.random.default_rng(number)
    seeds = 6
    noise = {name: generator.normal(0, 0.01, seeds) for name in PLACES.values()}
    found = shares(runs_of({n: (0.5 + noise[n]).tolist() for n in PLACES.values()}), PLACES, metric=ACCURACY)
    whole = 100 * (noise["(2, 2)"] - noise["hard"]).mean()
    for method in ("ladder", "Shapley"):
        assert sum(s.gain for s in found if s.method == method) == pytest.approx(whole, abs=1e-6)
        assert len([s for s in found if s.method == method]) == 5
    # steps that each add the same wherever they are taken: both methods must find them exactly
    c, s = generator.normal(0, 0.02, 3), generator.normal(0, 0.02, 3)
    table = {"hard": (0.4 + noise["hard"]).tolist()}
    table |= {f"{(i, j)}": (0.5 + c[i] + s[j] + noise["hard"]).tolist() for i, j in GRID}
    truth = {
        "universe": 10 + 100 * (c[0] + s[0]),
        "domain.confidence": 100 * (c[1] - c[0]),
        "domain.shape": 100 * (s[1] - s[0]),
        "instance.confidence": 100 * (c[2] - c[1]),
        "instance.shape": 100 * (s[2] - s[1]),
    }
    for share in shares(runs_of(table), PLACES, metric=ACCURACY):
        assert share.gain == pytest.approx(truth[share.level], abs=1e-6)


def test_shares_say_only_what_the_arms_allow() -> None:
    assert len(orders()) == 6
    short = {None: "hard", (0, 0): "(0, 0)", (1, 1): "(1, 1)", (2, 2): "(2, 2)"}
    rng = np.random.default_rng(0)
    runs = runs_of({name: (0.5 + rng.normal(0, 0.01, 4)).tolist() for name in PLACES.values()})
    assert [s.level for s in shares(runs, short, metric=ACCURACY)] == ["universe", "domain", "instance"]
    ladder = {None: "hard"} | {place: f"{place}" for _, place in LADDER}
    assert {s.method for s in shares(runs, ladder, metric=ACCURACY)} == {"ladder"}
    assert shares(runs, {None: "hard", (2, 2): "(2, 2)"}, metric=ACCURACY) == ()
