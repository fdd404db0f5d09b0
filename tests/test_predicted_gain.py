"""What distillation is predicted to bring: constants that follow from the bench, nothing where none was fitted."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fractionate.diagnosis.predicted_gain import OF_PILOT, OF_SIGNAL, Fit, predict_gain, signal_features
from fractionate.records import Interval, Pilot, Spectrum, Trial

SPECTRUM = Spectrum(1.0, 300, 10, 1.0, 0.1, 0.2, 0.1, 0.1)


def pilot(gain: float) -> Pilot:
    trial = Trial("kd T=1 w=0.6", "kd", 1.0, 0.6, 80.0, gain, Interval(gain - 1, gain + 1), 9)
    return Pilot("kd T=1 w=0.6", gain, trial.interval, 4, (trial,), 20, 300, 500, 1.0, 3.0, 0.0)


def test_a_fit_is_a_root_and_does_not_go_below_nothing():
    gain, interval = Fit(1.0, (0.5,), 1.5).gain((2.0,))
    assert (gain, interval.low, interval.high) == (4.0, 0.25, 12.25)
    assert Fit(-1.0, (0.0,), 0.5).gain((1.0,)) == (0.0, Interval(0.0, 0.0))


def test_more_between_the_classes_fewer_examples_and_a_pilot_that_gained_foretell_more():
    alone = predict_gain(SPECTRUM, None)
    assert alone is not None and alone.basis == "signal" and not alone.note
    assert predict_gain(replace(SPECTRUM, domain_shape_nats=0.4), None).gain > alone.gain
    assert predict_gain(replace(SPECTRUM, examples=1500), None).gain < alone.gain
    assert predict_gain(SPECTRUM, pilot(6.0)).gain > predict_gain(SPECTRUM, pilot(0.0)).gain
    assert OF_PILOT.half > 0 and OF_SIGNAL.half > 0


def test_what_was_not_calibrated_is_said_or_left_to_the_pilot():
    many = predict_gain(replace(SPECTRUM, examples=50_000), None)
    assert many is not None and "calibrated on" in str(many)
    assert signal_features(50_000, 9.0) == signal_features(2000, 0.5)
    assert predict_gain(SPECTRUM, None, tokens=True) is None
    nats = replace(pilot(1.0), decided_by="likelihood", nll_gain_nats=0.1, nll_interval=Interval(0.0, 0.2))
    found = predict_gain(SPECTRUM, nats, tokens=True)
    assert found is not None and (found.unit, found.basis, found.gain) == ("nats", "pilot", 0.1)


def test_the_constants_are_those_of_the_committed_lines():
    bench = pytest.importorskip("bench.predicted_gain")
    features, gains, data = bench.read()
    for made, own in zip(features, (OF_SIGNAL, OF_PILOT), strict=True):
        intercept, slopes = bench.fitted(made, gains**0.5)
        assert own.intercept == pytest.approx(intercept, rel=2e-3)
        assert list(own.slopes) == pytest.approx(slopes.tolist(), rel=2e-3)
        assert own.half == pytest.approx(bench.half_width(made, gains**0.5, data), rel=2e-3)
