"""What explanations say: the split is exact, captum agrees where it must, the record goes to the page and to a table."""

from __future__ import annotations

import csv
import re
from dataclasses import replace

import pytest
import torch
from torch import nn

from fractionate.diagnosis.explanations import evidence, explain, group_attributions, outputs_of, save_table
from fractionate.errors import ConfigError, MismatchError
from fractionate.models.additive import Explaining, explaining_mlp, explanations_of
from fractionate.models.columns import given
from fractionate.page import read_record, report
from fractionate.records import Effect, Explanations, Interval
from fractionate.theory.spectrum import spectrum
from fractionate.theory.teacher_signal import TeacherSignal
from test_explanation import FOUND, PRIOR, data, model

EFFECT = Effect("ked S2 alone", "kd grouped", "accuracy", 0.8, Interval(0.2, 1.4), 0.01, 0.03, 5, "helps")


def record(**more: object) -> Explanations:
    return explain(model(1), model(2), data(), FOUND, name="toy", **more)  # type: ignore[arg-type]


def test_each_example_is_split_exactly():
    student, some = model(1), data()
    logits = student(some.inputs)["logits"].detach().double()
    for e in record(shown=24).examples:
        place = some.ids.index(e.example)
        first, second = logits[place].topk(2).values.tolist()
        assert e.log_odds_nats == pytest.approx(first - second, abs=1e-6)
        assert e.prior_nats + sum(e.student_nats) == pytest.approx(e.log_odds_nats, abs=1e-5)
        assert e.predicted == str(int(logits[place].argmax()))
        assert e.label == str(int(some.labels[place]))


def test_the_numbers_over_all_examples_are_those_of_loops():
    student, teacher, some = model(1), model(2), data()
    ours, theirs = (explanations_of(m(some.inputs)).detach() for m in (student, teacher))
    for m, s in enumerate(record().superfeatures):
        rows = range(len(some))
        info = [sum(float(p.exp() * (p - q)) for p, q in zip(theirs[n, m], PRIOR.log(), strict=True)) for n in rows]
        truth = [float(ours[n, m, some.labels[n]] - PRIOR[some.labels[n]].log()) for n in rows]
        same = [int(ours[n, m].argmax()) == int(theirs[n, m].argmax()) for n in rows]
        chance = [int(ours[i, m].argmax()) == int(theirs[j, m].argmax()) for i in rows for j in rows]
        assert s.teacher_information_nats == pytest.approx(sum(info) / 24, abs=1e-5)
        assert s.student_evidence_nats == pytest.approx(sum(truth) / 24, abs=1e-5)
        assert s.agreement == pytest.approx(sum(same) / 24)
        assert s.agreement_by_chance == pytest.approx(sum(chance) / 24**2)
        wanted = spectrum(TeacherSignal(theirs[:, m].double(), some.labels))
        assert s.teacher_spectrum is not None
        assert s.teacher_spectrum.total_nats == pytest.approx(wanted.total_nats, abs=1e-6)


def test_captums_shapley_values_of_an_explaining_model_are_its_evidence():
    """An outside oracle: the log-odds are a sum over superfeatures, so the Shapley value of one is its own change."""
    explaining, some = model(2).double(), data(6)
    inputs = some.inputs.double()
    outputs, named = outputs_of(explaining, inputs)[1], torch.tensor([0, 1, 2, 0, 1, 2])
    baseline = inputs.mean(0)
    at_baseline = outputs_of(explaining, baseline[None])[1]
    apart = [s - s.mean(2, keepdim=True) for s in (outputs, at_baseline.expand_as(outputs))]
    wanted = (apart[0] - apart[1]).gather(2, named[:, None, None].expand(-1, 3, 1)).squeeze(2)
    found = group_attributions(explaining, inputs, FOUND, named, samples=2)
    torch.testing.assert_close(found.double(), wanted, atol=1e-6, rtol=1e-5)
    own = explain(explaining, explaining, (inputs, some.labels), FOUND, black_box=explaining)
    assert [s.outside_correlation for s in own.superfeatures] == pytest.approx([1.0] * 3, abs=1e-6)
    assert [s.agreement for s in own.superfeatures] == [1.0] * 3
    assert "Shapley" in own.outside_method


def test_a_model_without_a_prior_is_measured_against_the_flat_one():
    torch.manual_seed(0)
    flat = explaining_mlp(FOUND, 3, width=4)
    found = explain(flat, model(2), data(), FOUND, shown=[3, 5, 3])
    assert found.prior == pytest.approx((1 / 3,) * 3)
    assert [e.example for e in found.examples] == ["3", "5"]
    outputs = outputs_of(flat, data().inputs)
    torch.testing.assert_close(evidence(outputs[1], torch.zeros(3).double()).sum(1), outputs[0])


def test_the_record_and_its_table(tmp_path):
    found = record(shown=5, paid={"S2": EFFECT})
    assert Explanations.from_json(found.to_json()) == found
    assert [s.paid for s in found.superfeatures] == [None, 0.8, None]
    assert "paid +0.8 [0.2, 1.4] points" in str(found)
    rows = list(csv.DictReader(save_table(found, tmp_path / "why.csv").read_text().splitlines()))
    assert len(rows) == 5 * 3
    assert float(rows[4]["student (nats)"]) == found.examples[1].student_nats[1]
    assert rows[4]["superfeature"] == "S2"


def test_the_chapter_of_the_page(tmp_path):
    found = record(paid={"S2": EFFECT}, black_box=nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)))
    page = report(found, tmp_path / "why.html").read_text()
    assert re.findall(r'<section id="([\w-]+)"', page) == ["decision", "explanations"]
    figures = re.findall(r'<figure id="([\w-]+)"', page)
    assert figures == ["superfeatures", "explained-examples"]
    for words in (
        "The student decides most by",
        "learned alone +0.80 points: helps",
        "Shapley values of the black box",
        "by chance",
    ):
        assert words in page, words
    unsure = replace(EFFECT, verdict="cannot tell")  # an interval above 0 that does not survive the correction
    shown = report(record(paid={"S2": unsure}), tmp_path / "unsure.html").read_text()
    assert "learned alone +0.80 points: no clear difference" in shown
    assert "learned alone +" not in report(record(), tmp_path / "b.html").read_text()
    saved = found.save(tmp_path / "explanations.json")
    assert report([saved, saved], tmp_path / "c.html").read_text().count('id="superfeatures-2"') == 1
    assert read_record(saved) == found


def test_models_that_do_not_belong_together():
    other = given([[0, 1, 2], [3, 4, 5]], features=6)
    torch.manual_seed(0)
    two = explaining_mlp(other, 3, width=3)
    with pytest.raises(MismatchError, match=r"of both[\s\S]*student \[24, 2, 3\], teacher \[24, 3, 3\]"):
        explain(two, model(2), data(), FOUND)
    with pytest.raises(MismatchError, match="of other inputs"):
        explain(two, two, data(), given([[0], [1]], features=2))
    with pytest.raises(MismatchError, match="does not explain"):
        explain(nn.Linear(6, 3), two, data(), other)
    with pytest.raises(ConfigError):
        Explaining([], nn.Identity())
