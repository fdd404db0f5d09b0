"""The stream against the plain spectrum, its breakdown and its correction; views."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fractionate.errors import MismatchError
from fractionate.spectrum import spectrum
from fractionate.spectrum.stream import SpectrumStream
from fractionate.spectrum.views import reproducible
from fractionate.teacher import TeacherSignal


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
    parts = stream.breakdown()
    share = parts.examples.double() / len(signal)
    assert float((share * parts.domain_confidence_nats).sum()) == pytest.approx(plain.domain_confidence_nats, abs=1e-9)
    assert float((share * parts.instance_shape_nats).sum()) == pytest.approx(plain.instance_shape_nats, abs=1e-9)
    assert float(parts.domain_confidence_nats.min()) > -1e-9


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_half_and_single_precision_rows(dtype):
    signal = random_signal(0, 50, 400, 3.0, dtype)
    plain = spectrum(signal)
    for name, value in streamed(signal, labels_present=signal.labels).finish().nats.items():
        assert value == pytest.approx(plain.nats[name], abs=1e-5)


def test_masked_classes_and_certain_teachers():
    signal = random_signal(1, 6, 50, 3.0)
    logits = signal.logits.clone()
    mask = torch.zeros_like(logits, dtype=torch.bool)
    mask[:, 5] = signal.labels != 5
    logits[mask] = -torch.inf
    logits[0] = torch.tensor([1e4, 0, 0, 0, 0, 0])
    masked = TeacherSignal(logits, signal.labels)
    for name, value in spectrum(masked).nats.items():
        assert streamed(masked).finish().nats[name] == pytest.approx(value, abs=1e-9)


def test_the_correction_comes_nearer_to_the_truth():
    # one distribution a class plus noise of the instance; the truth from many examples
    generator = torch.Generator().manual_seed(0)
    classes = 12
    base = 2 * torch.randn(classes, classes, generator=generator, dtype=torch.float64)

    def draw(examples: int) -> TeacherSignal:
        labels = torch.arange(examples) % classes
        noise = 1.5 * torch.randn(examples, classes, generator=generator, dtype=torch.float64)
        return TeacherSignal(base[labels] + noise, labels)

    truth = spectrum(draw(60_000))
    plain, corrected = [], []
    for _ in range(20):
        stream = streamed(draw(classes * 6), with_squares=True)
        plain.append(stream.finish())
        corrected.append(stream.corrected())
        assert corrected[-1].total_nats == pytest.approx(plain[-1].total_nats, abs=1e-12)
    for name in ("domain_shape_nats", "instance_shape_nats", "instance_confidence_nats"):
        off = abs(sum(getattr(s, name) for s in plain) / 20 - getattr(truth, name))
        left = abs(sum(getattr(s, name) for s in corrected) / 20 - getattr(truth, name))
        assert left < off / 2


def test_superclasses_add_up():
    signal = random_signal(3, 9, 200, 2.0)
    parts = streamed(signal).breakdown()
    groups = parts.grouped(torch.arange(9) // 3)
    assert groups.examples.tolist() == [int((signal.labels // 3 == g).sum()) for g in range(3)]
    whole = (groups.examples * groups.domain_shape_nats).sum() / 200
    assert float(whole) == pytest.approx(spectrum(signal).domain_shape_nats, abs=1e-9)


def test_a_stream_refuses_what_does_not_fit():
    stream = SpectrumStream(4, labels_present=torch.tensor([0, 1]))
    with pytest.raises(MismatchError, match="announced"):
        stream.add(torch.zeros(1, 4), torch.tensor([2]))
    with pytest.raises(MismatchError, match="do not fit"):
        stream.add(torch.zeros(1, 5), torch.tensor([0]))
    with pytest.raises(MismatchError, match="no rows"):
        stream.finish()
    with pytest.raises(MismatchError, match="squares"):
        stream.corrected()


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
