"""The page about a quantized encoder: every arm's heads, means with intervals, the finding and its recipe; no empty figures."""

from __future__ import annotations

import re

from fractionate.page import read_record, report
from fractionate.records import ArmAttention, AttentionStudy, Evidence, Finding, Interval


def study(**changes):
    arms = []
    for place, name in enumerate(("quantized without training", "no KD", "map <b>")):
        matrix = tuple(tuple((3 - place) * (1 + layer + head) / 10 for head in range(4)) for layer in range(2))
        arms.append(
            ArmAttention(name, 3, matrix, matrix, 1.5 - place / 2, 0.5, Interval(0.4, 0.8) if place else None, None)
        )
    finding = Finding(
        "attention preference", "info", 1.0, "glosses prefers the attention map", "", 'train it with terms=("hidden", "map")',
        (Evidence("map − output", 1.25, "points", Interval(0.5, 2.0), 0.5),),
    )  # fmt: skip
    settings = {"name": "glosses", "quantization": "W2A8", "attention_arms": tuple(arms), "finding": finding}
    settings |= {"sensitivity": (0.1, 0.4), "attention_sensitivity": (0.05, 0.1)}
    return AttentionStudy(**(settings | changes))


def test_the_chapter_shows_all_arms_on_one_scale_and_the_finding(tmp_path):
    page = report(study(), tmp_path / "a.html").read_text()
    assert re.findall(r'<section id="([\w-]+)"', page) == ["decision", "attention"]
    figures = re.findall(r"<figure.*?</figure>", page, re.S)
    assert len(figures) == 3 and all('href="data:text/csv' in figure for figure in figures)
    for figure in figures[:2]:
        assert figure.count('class="heat-grid"') == 3 and "map &lt;b&gt;" in figure and "<b>map" not in figure
    assert "least with “map &lt;b&gt;”, 0.500 against 1.50 with “quantized" in figures[0]
    assert "0.500 ± 0.200" in figures[0]
    assert "Layer 2 suffers most" in figures[2]
    assert "prefers the attention map" in page and "map − output" in page and "Train it with" in page


def test_darker_is_worse(tmp_path):
    page = report(study(), tmp_path / "a.html").read_text()
    figure = re.findall(r"<figure.*?</figure>", page, re.S)[0]
    panels = figure.split('class="heat-grid"')[1:]
    darkest = [max(map(float, re.findall(r'fill-opacity="([\d.]+)"', p.split('class="panel"')[0]))) for p in panels]
    assert darkest[0] == 1.0 and darkest[0] > darkest[1]


def test_what_was_not_measured_is_left_out(tmp_path):
    page = report(study(sensitivity=(), attention_sensitivity=(), finding=None), tmp_path / "a.html").read_text()
    assert len(re.findall("<figure", page)) == 2 and "Recommendation" not in page
    two = report([study(), study(name="pairs")], tmp_path / "b.html").read_text()
    assert len(set(re.findall(r'<figure id="([\w-]+)"', two))) == 6


def test_the_record_goes_to_json_and_back(tmp_path):
    record = study()
    assert AttentionStudy.from_json(record.to_json()) == record == read_record(record.to_json())
    assert "ranking loss 1.000 [0.4, 0.8]" in str(record) and "prefers" in str(record)
