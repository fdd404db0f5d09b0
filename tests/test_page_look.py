"""How the page looks, as far as numbers can say: contrast, size, order of classes, verdicts in words."""

from __future__ import annotations

import html
import json
import math
import re
from dataclasses import replace
from importlib.resources import files
from itertools import pairwise

import numpy as np
import pytest
from scipy import stats
from tests.test_page import records

from fractionate.page import decide, report
from fractionate.page.figure import pooled
from fractionate.page.histogram_plots import rebinned, shared_scale
from fractionate.page.marks import Scale, scale_for, tick_words
from fractionate.page.order import LARGEST_DRAWN, MOST_CLUSTERS, _chain, between_clusters, cluster_order, clusters
from fractionate.page.summaries import t_quantile
from fractionate.page.text import decimals, number
from fractionate.records import Histogram, Interval, Scores, Share
from fractionate.tasks import CLASSIFICATION, info, infos, metrics

STYLE = files("fractionate.page").joinpath("style.css").read_text(encoding="utf-8")
COLOURS = {
    name: (light, dark)
    for name, light, dark in re.findall(r"--([\w-]+): light-dark\((#[0-9a-f]{6}), (#[0-9a-f]{6})\)", STYLE)
}
TEXT = ("ink", "quiet", "link", "helps", "hurts", "equivalent", "unsure")
SHAPES = ("universe", "domain", "instance", "column", "edge", "zero", "helps", "hurts", "equivalent", "unsure", "link")


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    r, g, b = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


def contrast(first: str, second: str) -> float:
    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_contrast_is_wcag_aa(theme):
    colour = {name: pair[theme] for name, pair in COLOURS.items()}
    for ground in ("paper", "raised"):
        for name in TEXT:
            assert contrast(colour[name], colour[ground]) >= 4.5, (name, ground)
    for name in SHAPES:
        assert contrast(colour[name], colour["paper"]) >= 3, name
    for name in ("universe", "domain", "instance"):
        assert contrast(colour["on-segment"], colour[name]) >= 4.5, name


def test_colours_are_written_once_and_nowhere_else():
    assert len(COLOURS) > 15
    rules = STYLE.split("}", 1)[1]
    assert set(re.findall(r"#[0-9a-fA-F]{3,8}\b", rules)) <= {"#fff"}
    used = set(re.findall(r"var\(--([\w-]+)\)", rules))
    defined = set(re.findall(r"^  --([\w-]+):", STYLE, re.M)) | {"left", "rise", "columns"}
    assert used <= defined and defined - {"left", "rise", "columns"} <= used


def test_twenty_plots_stay_below_a_megabyte(tmp_path):
    healthy, smoothed, study = records()
    rng = np.random.default_rng(0)
    relation = rng.dirichlet(np.full(100, 0.1), size=100)
    np.fill_diagonal(relation, 0)
    wide = replace(healthy, name="100 classes", class_names=(), class_relation=tuple(map(tuple, relation.tolist())))
    many = [
        healthy,
        smoothed,
        wide,
        study,
        replace(study, name="again"),
        replace(study, name="and again"),
        study.runs[-1],
    ]
    path = report(many, tmp_path / "a.html")
    page = path.read_text()
    assert page.count("<figure") >= 20
    assert path.stat().st_size < 1_000_000
    ids = re.findall(r' id="([^"]+)"', page)
    assert not {name for name in ids if ids.count(name) > 1}
    assert set(re.findall(r'href="#([^"]+)"', page)) <= set(ids)


def test_twenty_variants_of_ten_seeds_stay_below_a_megabyte(tmp_path):
    healthy, _, study = records()
    arms = tuple(f"variant {i} of a study" for i in range(20))
    runs = tuple(replace(study.runs[(2 * i + s) % 20], arm=a, seed=s) for i, a in enumerate(arms) for s in range(10))
    effects = tuple(
        replace(study.effects[0], arm=a, against=arms[0], metric=m, placebo=False)
        for m in ("accuracy", "nll", "ece")
        for a in arms[1:]
    )
    large = replace(study, arms=arms, seeds=tuple(range(10)), baseline=arms[0], runs=runs, effects=effects)
    assert report([healthy, large], tmp_path / "a.html").stat().st_size < 1_000_000


def test_a_thousand_classes_are_drawn_whole_and_small(tmp_path):
    relation = np.random.default_rng(0).dirichlet(np.full(1000, 0.05), size=1000)
    np.fill_diagonal(relation, 0)
    wide = replace(records()[0], class_names=(), class_relation=tuple(map(tuple, relation.tolist())))
    path = report(wide, tmp_path / "a.html")
    assert path.stat().st_size < 1_000_000
    drawn = re.findall(r' d="([^"]*)"', path.read_text())
    assert max(map(len, drawn)) > 1_000 and not any("…" in d for d in drawn), "a path that is cut short draws nothing"


def test_own_script_is_small():
    assert len(files("fractionate.page").joinpath("script.js").read_bytes()) < 20_000


def test_headings_descend_one_level_at_a_time(tmp_path):
    page = report(records(), tmp_path / "a.html").read_text()
    levels = [int(level) for level in re.findall(r"<h([1-6])\b", page)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(b <= a + 1 for a, b in pairwise(levels))


def test_related_classes_stand_together_and_a_renaming_changes_nothing():
    rng = np.random.default_rng(1)
    group = np.arange(12) % 3
    relation = np.where(group[:, None] == group[None], 1.0, 0.05) + 0.01 * rng.random((12, 12))
    np.fill_diagonal(relation, 0)
    for order in (cluster_order(relation), _chain(relation.max() - (relation + relation.T) / 2)):
        assert sorted(order) == list(range(12))
        assert (np.diff(group[order]) != 0).sum() == 2


def test_many_classes_are_drawn_as_clusters_of_related_ones(tmp_path):
    rng = np.random.default_rng(2)
    group = rng.permutation(np.arange(120) % 6)
    relation = np.where(group[:, None] == group[None], 1.0, 0.02) + 0.01 * rng.random((120, 120))
    np.fill_diagonal(relation, 0)
    relation /= relation.sum(1, keepdims=True)
    found = clusters(relation, 6)
    assert sorted(len(set(group[part].tolist())) for part in found) == [1] * 6
    assert sorted(i for part in found for i in part) == list(range(120))
    parts = clusters(relation)
    assert len(parts) <= MOST_CLUSTERS < LARGEST_DRAWN
    small = between_clusters(relation, parts)
    np.testing.assert_allclose(small.sum(1), 1.0)
    assert small[0, 1] == pytest.approx(relation[np.ix_(parts[0], parts[1])].sum(1).mean())
    names = tuple(f"class {i}" for i in range(120))
    wide = replace(records()[0], class_names=names, class_relation=tuple(map(tuple, relation.tolist())))
    page = report(wide, tmp_path / "a.html").read_text()
    assert f"120 classes in {len(parts)} clusters" in page
    cells, *_ = re.findall(r'data-names="([^"]*)" data-values="([^"]*)"', page)
    assert len(json.loads(html.unescape(cells[0]))) ** 2 == len(cells[1].split())


def test_t_quantiles_are_those_of_scipy():
    for freedom in (*range(1, 41), 100, 1000):
        assert t_quantile(freedom) == pytest.approx(float(stats.t.ppf(0.975, freedom)), abs=1.1e-3)


def test_histograms_pool_and_rebin_without_losing_an_example():
    rng = np.random.default_rng(3)
    samples = [rng.normal(m, s, 4000) for m, s in ((0, 1), (2, 0.3), (1, 2))]
    made = []
    for x in samples:
        counts, edges = np.histogram(x, 30)
        made.append(Histogram("x", tuple(edges.tolist()), tuple(counts.tolist()), float(x.mean()), float(x.std())))
    whole = pooled(made)
    assert whole and sum(whole.counts) == 12_000
    assert whole.mean == pytest.approx(np.concatenate(samples).mean())
    assert whole.deviation == pytest.approx(np.concatenate(samples).std())
    scale = shared_scale(made, 1.0)
    assert scale.low < 1 < scale.high
    for h in made:
        assert sum(rebinned(h, scale)[1]) == pytest.approx(4000)
    assert pooled([]) is None


def test_ticks_are_round_and_inside():
    for low, high in ((0, 1), (-0.3, 2.7), (0.992, 1.001), (1e-9, 2e-9), (-5e7, 3e8)):
        ticks = Scale(low, high).ticks()
        assert 2 <= len(ticks) <= 11 and all(low - 1e-12 <= t <= high * (1 + 1e-12) for t in ticks)
        assert len(set(tick_words(ticks))) == len(ticks)
    assert scale_for([float("nan"), float("inf")])(0.5) == pytest.approx(50)


def test_numbers_are_written_with_a_true_minus():
    assert number(-1.5) == "−1.50" and number(float("nan")) == "–" and number(None) == "–"
    assert number(2.03e-5) == "2.03 × 10⁻⁵" and number(float("-inf")) == "−∞"
    assert decimals(-0.001, 2, sign=True) == "0.00" and decimals(1.005, 1, sign=True) == "+1.0"
    assert not math.isnan(Scale(0, 1)(float("inf")))


def test_a_metric_where_less_is_better_reads_rightly_everywhere(tmp_path):
    *_, study = records()
    nats = infos(CLASSIFICATION, "nll")
    lower = next(e for e in study.effects if (e.metric, e.arm, e.against) == ("nll", "kd", "hard"))
    helps = replace(lower, gain=-0.125, interval=Interval(-0.2, -0.05), verdict="helps")
    level = Share("domain.shape", "Shapley", -0.3, Interval(-0.5, -0.1))
    other = Share("instance.shape", "Shapley", 0.1, Interval(0.05, 0.2))
    clear = replace(study, metrics=nats, effects=(helps,), shares=(other, level))
    assert (clear.metric, clear.deciding.unit) == ("nll", "nats")
    text = str(decide([replace(clear, runs=())]))
    assert (
        f"Distil: {helps.arm} lowers NLL by 0.125 nats against no teacher (−0.125 nats" in text
        and "(domain.shape)" in text
    )
    hurts = replace(helps, gain=0.125, interval=Interval(0.05, 0.2), verdict="hurts")
    text = str(decide([replace(clear, effects=(hurts,))]))
    assert f"Don't distil: {helps.arm} raises NLL by 0.125 nats against no teacher" in text
    alike = replace(clear, effects=(replace(helps, verdict="equivalent"),))
    assert "every variant with the teacher equals no teacher within ±0.02 nats" in str(decide([alike]))
    page = report(clear, tmp_path / "a.html").read_text()
    for words in (
        f"{helps.arm} lowers NLL most: by 0.125 nats against no teacher",
        "Paired differences in <dfn",
        "less is better",
        "The largest part of the gain comes from domain.shape",
        "has the lowest mean NLL",
        "NLL (nats) ↓",
        "accuracy (%) ↑",
        "Validation NLL (nats) over training",
    ):
        assert words in page, words
    means = {
        arm: sum(r.test.values["nll"] for r in study.runs if r.arm == arm) / len(study.seeds) for arm in study.arms
    }
    rows = re.findall(r'<th scope="row">([^<]*)</th><td class="num">\d+</td><td class="num">(<b>)?', page)
    least = min(means.values())
    assert {arm for arm, bold in rows if bold} == {
        arm.replace("hard", "no teacher") for arm in means if number(means[arm]) == number(least)
    }
    assert f"{min(means, key=means.__getitem__)} has the lowest mean NLL" in page
    run = study.runs[0]
    assert f"reaches {number(run.test.values['nll'])} nats (NLL) on the" in str(decide([replace(run, metrics=nats)]))


def test_metrics_of_other_tasks_are_columns_with_their_units(tmp_path):
    *_, study = records()
    shown = tuple(info(metrics[name]) for name in ("rmse", "f1('micro')", "bleu"))
    runs = tuple(
        replace(r, metrics=shown, test=Scores(9, 9, {"rmse": 1.0 + r.seed, "f1('micro')": 50.0}), history=())
        for r in study.runs
    )
    page = report(replace(study, metrics=shown, runs=runs, effects=(), shares=()), tmp_path / "a.html").read_text()
    assert "RMSE ↓" in page and "F1 (micro) (points) ↑" in page and "BLEU" not in page
    assert "has the lowest mean RMSE" in page
    assert "reaches 1.00 RMSE on the test data" in str(decide(runs[:1]))
    assert "without scores" in str(decide([replace(runs[0], metrics=())]))
