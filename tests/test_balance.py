"""Terms held at shares of the main loss' gradient: the norms that were measured, the state that goes on, what is refused."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from fractionate import Objective, TeacherSignal
from fractionate.errors import ConfigError
from fractionate.losses.terms import term_specs
from fractionate.losses.terms.balance import Balance, gradient_norm
from fractionate.losses.terms.base import bind_terms
from fractionate.losses.terms.features import FitNets, SimilarityPreserving
from fractionate.losses.terms.ranking import RankingTerm
from predicted import bound, predicted

INPUTS = torch.randn(8, 5, generator=torch.Generator().manual_seed(0))
THEIRS = torch.randn(8, 4, generator=torch.Generator().manual_seed(1))
SIGNAL = TeacherSignal(torch.randn(8, 2, generator=torch.Generator().manual_seed(2)), torch.arange(8) % 2)


def network():
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 2))


def read(model):
    inside = model[1](model[0](INPUTS))
    return predicted(model[2](inside), features={"1": inside})


TEACHER = predicted(SIGNAL.logits, features={"t": THEIRS})


def length(loss, model):
    gradients = torch.autograd.grad(loss, list(model.parameters()), retain_graph=True, allow_unused=True)
    return math.sqrt(sum(float(g.double().square().sum()) for g in gradients if g is not None))


def test_shares_hold_the_gradient_norms_and_the_log_keeps_the_raw_terms(tmp_path):
    model, objective, log = network(), Objective("kd", 2.0, 0.9), tmp_path / "terms.jsonl"
    similarity, hints = SimilarityPreserving("1", "t"), FitNets("1", "t", weight=0.25)
    spec = Balance((similarity, hints), shares=(0.5, None), main=objective, every=1, smoothing=0.0, log=str(log))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with (
        bound(spec, read(model), TEACHER, models=(model, None)) as term,
        bound(similarity, read(model), TEACHER) as alone,
    ):
        for _ in range(4):
            content = read(model)
            main, raw = objective(content.logits, SIGNAL).mean(), alone(content, TEACHER, None).mean()
            pulls = length(main, model), length(raw, model)
            loss = term(content, TEACHER, SIGNAL)
            rows = {row["name"]: row for row in map(json.loads, log.read_text().splitlines()[-3:])}
            first, second = rows["similaritypreserving_0"], rows["fitnets_1"]
            assert rows["main"]["gradient_norm"] == pytest.approx(pulls[0], rel=1e-5)
            assert first["gradient_norm"] == pytest.approx(pulls[1], rel=1e-5)
            assert first["weight"] * first["gradient_norm"] == pytest.approx(0.5 * pulls[0], rel=1e-5)
            assert second["weight"] == 0.25 and first["loss"] == pytest.approx(float(raw.detach()), rel=1e-5)
            assert float(loss.detach().mean()) == pytest.approx(
                first["weight"] * first["loss"] + 0.25 * second["loss"], rel=1e-5
            )
            optimizer.zero_grad()
            (main + loss.mean()).backward()
            optimizer.step()
    assert [json.loads(line)["step"] for line in log.read_text().splitlines()] == [
        n for n in range(4) for _ in range(3)
    ]


def test_weights_move_slowly_and_are_measured_now_and_then():
    model = network()
    similarity = SimilarityPreserving("1", "t")
    spec = Balance((similarity,), shares=(2.0,), every=2, smoothing=0.9)
    parts = nn.ModuleDict()
    with bind_terms(
        [spec], student=read(model), teacher=TEACHER, examples=8, seed=0, parts=parts, models=(model, None)
    ) as (term,):
        (state,) = parts.values()
        assert float(state.weights) == 1.0
        found = []
        for scale in (1.0, 1.0, 3.0, 3.0):
            content = read(model)
            content = predicted(content.logits * scale, features=content.features)
            term(content, TEACHER, None)
            found.append(float(state.weights))
        label = functional.cross_entropy
        content = read(model)
        raw = similarity.compare(content.features["1"], THEIRS).mean()
        wanted = [2 * length(label(content.logits * s, content.labels), model) / length(raw, model) for s in (1.0, 3.0)]
        assert found[0] == found[1] == pytest.approx(wanted[0], rel=1e-5)
        assert found[2] == found[3] == pytest.approx(wanted[0] ** 0.9 * wanted[1] ** 0.1, rel=1e-5)
        assert (int(state.calls), int(state.measured)) == (4, 2)
        with torch.no_grad():
            term(read(model), TEACHER, None)
        assert int(state.measured) == 2
    assert set(parts.state_dict()) == {f"balance_0.{name}" for name in ("calls", "measured", "weights")}


def test_parts_of_its_terms_are_trained_under_names_of_their_own():
    specs = [FitNets("1", "t"), Balance((FitNets("1", "t"),), shares=(0.5,))]
    parts, model = nn.ModuleDict(), network()
    with bind_terms(specs, student=read(model), teacher=TEACHER, examples=8, seed=0, parts=parts, models=(model, None)):
        assert set(parts) == {"fitnets_0", "balance_1_fitnets_0", "balance_1"}


def test_it_reads_what_its_terms_read():
    spec = term_specs["balance((\"fitnets('a', 'b')\",), shares=(None,))"]
    assert (spec.unit, spec.reads_signal, spec.reads_teacher, spec.couples_batch) == ("example", False, True, False)
    assert spec.needs == FitNets("a", "b").needs
    assert Balance((RankingTerm(),), shares=(1.0,)).reads_signal
    assert Balance((SimilarityPreserving("a", "b"),), shares=(1.0,)).couples_batch
    quiet = term_specs["balance(('label-smoothing',), shares=(1.0,))"]
    assert not quiet.reads_teacher and quiet.unit == "row"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"terms": (), "shares": ()}, "needs a share"),
        ({"terms": ("hidden",), "shares": ()}, "1 terms, 0 shares"),
        ({"terms": ("hidden", "ranking"), "shares": (None, None)}, "(?s)different means.*balance them apart"),
        ({"terms": ("hidden",), "shares": (-1.0,)}, "invalid settings"),
        ({"terms": ("hidden",), "shares": (1.0,), "every": 0}, "invalid settings"),
        ({"terms": ("hidden",), "shares": (1.0,), "smoothing": 1.0}, "invalid settings"),
    ],
)
def test_settings_that_are_refused(settings, said):
    with pytest.raises(ConfigError, match=said):
        Balance(**settings)
    assert gradient_norm(torch.zeros(()), []) == 0.0
