"""How sure a spectrum is: contributions add up to it, intervals cover, chance is what unrelated labels show."""

from __future__ import annotations

import importlib
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fractionate.data.labels import superclass_names
from fractionate.diagnosis import diagnose
from fractionate.errors import MismatchError
from fractionate.page.diagnosis_plots import parts_figure, pilot_figure, terms_figure
from fractionate.records import LEVEL_NAMES, Diagnosis, Interval, Pilot, Trial
from fractionate.theory.spectrum import spectrum
from fractionate.theory.spectrum.certainty import chance, contributions, intervals
from fractionate.theory.teacher_signal import TeacherSignal


def drawn(examples: int, classes: int, seed: int, relation: float = 0.0) -> TeacherSignal:
    """Logits around the label; `relation` pulls them to a mean of the class."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (examples,), generator=draw)
    means = torch.randn(classes, classes, generator=torch.Generator().manual_seed(99))
    logits = 2 * torch.randn(examples, classes, generator=draw) + relation * means[labels]
    logits[torch.arange(examples), labels] += 2
    return TeacherSignal(logits.double(), labels)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 40), st.integers(2, 6), st.sampled_from([0.5, 1.0, 4.0]), st.integers(0, 1000))
def test_contributions_add_up_to_the_spectrum(examples, classes, temperature, seed):
    signal = drawn(examples, classes, seed, 1.0)
    parts = contributions(signal, temperature)
    assert parts.shape == (examples, 5)
    assert parts.mean(0).tolist() == pytest.approx(list(spectrum(signal, temperature).nats.values()), abs=1e-12)
    p = torch.softmax(signal.logits / temperature, 1)
    information = math.log(classes) + torch.xlogy(p, p).sum(1)
    torch.testing.assert_close(parts.sum(1), information)


def test_contributions_are_those_of_a_loop():
    signal = drawn(30, 4, 5, 1.0)
    found = contributions(signal)
    p = torch.softmax(signal.logits, 1)
    stats = signal.stats
    mean = {int(c): stats.class_mean[i] for i, c in enumerate(stats.present)}
    middle = sum(float(p[i, signal.labels[i]]) for i in range(30)) / 30
    for i in range(30):
        y = int(signal.labels[i])
        m, sure, rest = mean[y], float(p[i, y]), 1 - float(p[i, y])
        crossed = sum(float(p[i, j]) * math.log(float(m[j]) / (1 - float(m[y]))) for j in range(4) if j != y)
        own = sum(float(p[i, j]) * math.log(float(p[i, j]) / rest) for j in range(4) if j != y)
        wanted = [
            sure * math.log(middle) + rest * math.log((1 - middle) / 3) + math.log(4),
            sure * math.log(float(m[y]) / middle) + rest * math.log((1 - float(m[y])) / (1 - middle)),
            crossed + rest * math.log(3),
            sure * math.log(sure / float(m[y])) + rest * math.log(rest / (1 - float(m[y]))),
            own - crossed,
        ]
        assert found[i].tolist() == pytest.approx(wanted)


def test_a_certain_and_a_masking_teacher_have_finite_contributions():
    logits = torch.tensor([[800.0, 0, -math.inf], [0.0, 900, 1], [-900, 0.0, 0], [3.0, 1, -math.inf]])
    signal = TeacherSignal(logits, torch.tensor([0, 1, 0, 0]))
    parts = contributions(signal)
    assert bool(torch.isfinite(parts).all())
    assert parts.mean(0).tolist() == pytest.approx(list(spectrum(signal).nats.values()), abs=1e-6)


def test_intervals_cover_the_terms_of_the_population():
    whole = drawn(20_000, 4, 0, 1.0)
    truth = spectrum(whole).nats
    held = dict.fromkeys(LEVEL_NAMES, 0)
    for repeat in range(100):
        index = torch.randint(0, len(whole), (600,), generator=torch.Generator().manual_seed(repeat))
        around = intervals(contributions(TeacherSignal(whole.logits[index], whole.labels[index])))
        for level in LEVEL_NAMES:
            held[level] += around[level].low <= truth[level] <= around[level].high
    assert min(held.values()) >= 85, held


def test_chance_is_what_unrelated_labels_show():
    apart, nulls, above = [], [], 0
    for seed in range(30):
        signal = drawn(300, 5, seed)
        null = chance(signal, draws=8)["domain.shape"]
        found = spectrum(signal).domain_shape_nats
        apart.append(found)
        nulls.append(null.mean_nats)
        above += found > null.high_nats
    assert sum(apart) / 30 == pytest.approx(sum(nulls) / 30, rel=0.15)
    assert above <= 6  # 5 % of 30, a rough 95th percentile from 8 draws
    related = drawn(300, 5, 0, 1.5)
    assert spectrum(related).domain_shape_nats > 2 * chance(related)["domain.shape"].high_nats
    assert chance(related, seed=1) == chance(related, seed=1) != chance(related, seed=2)


def test_a_signal_too_large_for_draws_says_nothing_of_chance(monkeypatch):
    monkeypatch.setattr(importlib.import_module("fractionate.theory.spectrum.certainty"), "MOST_ELEMENTS", 300 * 5 * 4)
    assert chance(drawn(300, 5, 0)) == {}


def test_a_diagnosis_shows_terms_classes_and_superclasses():
    signal = drawn(300, 4, 1, 1.0)
    noisy = TeacherSignal(
        signal.logits + 0.5 * torch.randn(300, 4, generator=torch.Generator().manual_seed(2)), signal.labels
    )
    names = ("noun.act", "noun.food", "verb.body", "verb.social")
    found = diagnose(signal, class_names=names, second_view=noisy)
    assert [t.level for t in found.terms] == list(LEVEL_NAMES)
    assert all(
        t.nats == found.spectrum.nats[t.level] and t.interval.low <= t.nats <= t.interval.high for t in found.terms
    )
    shape = found.terms[4]
    assert 0 < shape.reproducible_nats < shape.nats and shape.chance_nats is None
    assert found.terms[2].beyond_chance and found.terms[0].beyond_chance is None
    assert [p.name for p in found.superclass_parts] == ["noun", "verb"]
    assert sum(p.examples for p in found.class_parts) == 300
    for part in found.class_parts:  # (1 - m[c]) KL(off-label shape of m ‖ flat), m the class's mean prediction
        own = int(part.name.startswith("verb")) * 2 + int(part.name in ("noun.food", "verb.social"))
        mean = torch.softmax(signal.logits[signal.labels == own].double(), 1).mean(0)
        off = torch.cat([mean[:own], mean[own + 1 :]])
        known = (off * (off / off.sum()).log()).sum() + off.sum() * math.log(3)
        assert part.nats["domain.shape"] == pytest.approx(float(known), abs=1e-6)
    for parts in (found.class_parts, found.superclass_parts):
        for level in ("domain.shape", "instance.shape"):
            whole = sum(part.examples * part.nats[level] for part in parts) / 300
            assert whole == pytest.approx(found.spectrum.nats[level], abs=1e-6)
    message = str(found)
    assert "by chance" in message and "comes again" in message and "by superclass" in message and "noun" in message
    assert Diagnosis.from_json(found.to_json()) == found
    for figure in (terms_figure(found), parts_figure(found.class_parts, "class", "classes")):
        assert figure is not None and "nats" in figure.caption + str(figure.drawing)
    assert pilot_figure(found) is None and parts_figure(found.class_parts[:1], "class", "classes") is None


def test_superclasses_are_given_or_told_by_names():
    assert superclass_names(("a.x", "a.y", "b.z"), 3) == ["a", "a", "b"]
    assert (
        superclass_names(("x", "y"), 2)
        == []
        == superclass_names(("a.x", "b.y"), 2)
        == superclass_names(("a.x", "a.y"), 2)
    )
    signal = drawn(60, 3, 0)
    found = diagnose(signal, superclasses=("odd", "even", "odd"), only=["temperature"])
    assert [p.name for p in found.superclass_parts] == ["even", "odd"]
    with pytest.raises(MismatchError, match="superclasses do not fit"):
        diagnose(signal, superclasses=("odd",), only=["temperature"])


def test_what_is_not_more_than_chance_is_said():
    found = diagnose(drawn(60, 6, 0), only=["temperature"])
    figure = terms_figure(found)
    assert figure is not None and "domain.shape" in figure.title and "not shown to be more" in str(found)


def test_the_page_shows_a_pilot():
    trial = Trial("kd T=1 w=0.6", "kd", 1.0, 0.6, 80.0, 1.5, Interval(0.5, 2.5), 8)
    pilot = Pilot("kd T=1 w=0.6", 1.2, Interval(0.2, 2.2), 4, (trial,), 20, 100, 500, 1.0, 3.0, 60.0)
    found = diagnose(drawn(60, 3, 0), only=["temperature"])
    figure = pilot_figure(replace(found, pilot=pilot))
    assert figure is not None and "gains 1.2 points" in figure.title and "20 students" in figure.caption
    assert figure.rows == (("kd T=1 w=0.6", 8, 80.0, 1.5, 0.5, 2.5),)
