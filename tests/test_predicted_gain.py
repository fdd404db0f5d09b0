"""What distillation is predicted to bring: constants that follow from the bench, nothing where none was fitted."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fractionate.diagnosis.predicted_gain import OF_PILOT, OF_SIGNAL, OF_STUDENT, Fit, Known, predict_gain
from fractionate.records import Interval, Pilot, Trial

KNOWN = Known(300, 0.1, 0.8)


def pilot(gain: float) -> Pilot:
    trial = Trial("kd T=1 w=0.6", "kd", 1.0, 0.6, 80.0, gain, Interval(gain - 1, gain + 1), 9)
    return Pilot("kd T=1 w=0.6", gain, trial.interval, 4, (trial,), 20, 300, 500, 1.0, 3.0, 0.0)


def test_a_fit_is_a_root_and_does_not_go_below_nothing():
    gain, interval = Fit(1.0, (0.5,), 1.5).gain((2.0,))
    assert (gain, interval.low, interval.high) == (4.0, 0.25, 12.25)
    assert Fit(-1.0, (0.0,), 0.5).gain((1.0,)) == (0.0, Interval(0.0, 0.0))


def predicted(known: Known, tried: Pilot | None = None) -> float:
    found = predict_gain(known, tried)
    assert found is not None
    return found.gain


def test_more_between_the_classes_fewer_examples_and_a_pilot_that_gained_predict_more():
    alone = predict_gain(KNOWN, None)
    assert alone is not None and alone.basis == "signal" and not alone.note
    assert predicted(replace(KNOWN, domain_shape_nats=0.4)) > alone.gain
    assert predicted(replace(KNOWN, examples=1500)) < alone.gain
    assert predicted(KNOWN, pilot(6.0)) > predicted(KNOWN, pilot(0.0))
    assert min(OF_PILOT.half, OF_SIGNAL.half, OF_STUDENT.half) > 0


def test_a_teacher_without_skill_or_lead_is_predicted_to_bring_next_to_nothing():
    for known in (replace(KNOWN, skill=0.0), replace(KNOWN, lead=-0.1, skill=0.3)):
        found = predict_gain(known, None)
        assert found is not None and found.gain < 1 and found.interval.low == 0
    ahead = predict_gain(replace(KNOWN, lead=0.2), None)
    assert (
        ahead is not None and ahead.basis == "signal and student" and ahead.gain > predicted(replace(KNOWN, lead=0.0))
    )


def test_what_was_not_calibrated_is_noted_or_left_to_the_pilot():
    many = predict_gain(replace(KNOWN, examples=50_000), None)
    assert many is not None and "calibrated on" in str(many)
    assert (
        replace(KNOWN, examples=50_000, domain_shape_nats=9.0).features
        == replace(KNOWN, examples=2000, domain_shape_nats=0.5).features
    )
    assert predict_gain(KNOWN, None, tokens=True) is None
    nats = replace(pilot(1.0), decided_by="likelihood", nll_gain_nats=0.1, nll_interval=Interval(0.0, 0.2))
    found = predict_gain(KNOWN, nats, tokens=True)
    assert found is not None and (found.unit, found.basis, found.gain) == ("nats", "pilot", 0.1)


def test_the_constants_are_those_of_the_committed_lines():
    bench = pytest.importorskip("bench.predicted_gain")
    features, gains, data, _ = bench.read()
    for name, own in (("signal", OF_SIGNAL), ("signal and student", OF_STUDENT), ("signal and pilot", OF_PILOT)):
        made = features[name]
        roots, of = gains[: len(made)] ** 0.5, data[: len(made)]
        intercept, slopes = bench.fitted(made, roots)
        assert own.intercept == pytest.approx(intercept, rel=2e-3)
        assert list(own.slopes) == pytest.approx(slopes.tolist(), rel=2e-3)
        assert own.half == pytest.approx(bench.half_width(made, roots, of), rel=2e-3)
