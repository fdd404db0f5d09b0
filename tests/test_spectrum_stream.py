"""The spectrum in pieces, in single and half precision, with masks and very large logits; views."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import oracles
from fractionate.errors import MismatchError
from fractionate.theory.spectrum import spectrum
from fractionate.theory.spectrum.stream import SpectrumStream
from fractionate.theory.spectrum.views import reproducible
from fractionate.theory.teacher_signal import TeacherSignal


def random_signal(seed: int, classes: int, examples: int, scale: float, dtype=torch.float64) -> TeacherSignal:
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(examples, classes, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, classes, (examples,), generator=generator)
    return TeacherSignal(logits.to(dtype), labels)


def streamed(signal: TeacherSignal, temperature: float = 1.0, **more) -> SpectrumStream:
    stream = SpectrumStream(signal.classes, temperature=temperature, **more)
    for start in range(0, len(signal), 7):
        stream.add(signal.logits[start : start + 7], signal.labels[start : start + 7])
    return stream


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    classes=st.integers(2, 40),
    examples=st.integers(1, 60),
    scale=st.sampled_from([0.0, 0.1, 3.0, 50.0]),
    temperature=st.sampled_from([0.5, 1.0, 4.0]),
)
def test_the_stream_is_the_spectrum(seed, classes, examples, scale, temperature):
    signal = random_signal(seed, classes, examples, scale)
    plain, stream = spectrum(signal, temperature), streamed(signal, temperature)
    for name, value in plain.nats.items():
        assert stream.finish().nats[name] == pytest.approx(value, abs=1e-9)


@pytest.mark.parametrize("scale", [0.01, 3.0, 1e4])  # beyond some size of logits single precision would lose digits
@pytest.mark.parametrize("classes", [50, 40_000])  # rows of many classes are taken one by one
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_half_and_single_precision_rows(dtype, classes, scale):
    signal = random_signal(0, classes, 400 if classes == 50 else 20, scale, dtype)
    exact = spectrum(TeacherSignal(signal.logits.double(), signal.labels))
    for name, value in spectrum(signal).nats.items():
        assert value == pytest.approx(exact.nats[name], abs=1e-6)


def test_masked_classes_and_certain_teachers():
    signal = random_signal(1, 6, 50, 3.0)
    logits = signal.logits.clone()
    mask = torch.zeros_like(logits, dtype=torch.bool)
    mask[:, 5] = signal.labels != 5
    logits[mask] = -torch.inf
    logits[0] = torch.tensor([1e4, 0, 0, 0, 0, 0])
    masked = TeacherSignal(logits, signal.labels)
    lists = logits.tolist(), signal.labels.tolist()
    for name, value in oracles.spectrum(*lists, 1.0).items():
        assert getattr(spectrum(masked), name) == pytest.approx(value, abs=1e-9)
        assert getattr(streamed(masked).finish(), name) == pytest.approx(value, abs=1e-9)


def test_a_stream_refuses_what_does_not_fit():
    stream = SpectrumStream(4, labels_present=torch.tensor([0, 1]))
    with pytest.raises(MismatchError, match="announced"):
        stream.add(torch.zeros(1, 4), torch.tensor([2]))
    with pytest.raises(MismatchError, match="do not fit"):
        stream.add(torch.zeros(1, 5), torch.tensor([0]))
    with pytest.raises(MismatchError, match="no rows"):
        stream.finish()


def test_two_views():
    signal = random_signal(0, 8, 300, 2.0)
    same = reproducible(signal, signal)
    assert same.reproducible_nats == pytest.approx(same.instance_shape_nats, abs=1e-12)
    assert same.instance_shape_nats == pytest.approx(spectrum(signal).instance_shape_nats, abs=1e-9)
    other = random_signal(1, 8, 300, 2.0)
    unrelated = reproducible(signal, TeacherSignal(other.logits, signal.labels))
    assert unrelated.share < 0
    noisy = TeacherSignal(signal.logits + 0.3 * other.logits / 2, signal.labels)
    assert 0.5 < reproducible(signal, noisy).share < 1
    with pytest.raises(MismatchError, match="same order"):
        reproducible(signal, other)
    first, second = (TeacherSignal(s.logits.repeat(4, 1), s.labels.repeat(4)) for s in (signal, noisy))
    once, four = reproducible(signal, noisy), reproducible(first, second, group=torch.arange(300).repeat(4))
    assert four.reproducible_nats == pytest.approx(once.reproducible_nats)
    assert four.interval.low == pytest.approx(once.interval.low)  # four copies of a row know no more than one
    assert reproducible(first, second).interval.low > once.interval.low


def test_a_signal_is_read_at_its_own_temperature_where_none_is_given() -> None:
    generator = torch.Generator().manual_seed(0)
    signal = TeacherSignal(3 * torch.randn(60, 5, generator=generator), torch.arange(60) % 5)
    assert spectrum(signal.at(4.0)) == spectrum(signal, 4.0) != spectrum(signal)
    assert spectrum(signal.at(4.0), 1.0) == spectrum(signal)
