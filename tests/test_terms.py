"""Terms as specs: by name, in text, bound to predictions alone; the numbers of the callables they replaced."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from fractionate.errors import ConfigError, MismatchError, UnknownNameError
from fractionate.losses.terms import TermSpec, bind_terms, term_specs
from fractionate.losses.terms.base import formula_of, needs_of
from fractionate.system.canonical import canonical_text
from fractionate.tasks.predictions import AttentionStates, Needs
from predicted import bound, losses_of, predicted

TEXTS = {  # every registered spec, as a run file writes it
    "fitnets": "fitnets('a', 'b', weight=0.5)",
    "attention": "attention('a', 'b', power=1.5)",
    "rkd": "rkd('a', 'b', distance_weight=1.0)",
    "similarity": "similarity('a', 'b', weight=3000.0)",
    "cka": "cka('a', 'b')",
    "crd": "crd('a', 'b', negatives=7, dim=4)",
    "score": "score(layers=(0,))",
    "map": "map(temperature=2.0, layers=((0, 1), (1, 3)))",
    "output": "output(weight=0.4)",
    "hidden": "hidden",
    "ranking": "ranking(3, topk_weight=2.0)",
    "balance": "balance((\"cka('a', 'b')\", \"fitnets('a', 'b')\"), shares=(0.5, None))",
    "label-smoothing": "label-smoothing(0.2)",
    "states": "states(weight=2.0)",
    "passes": "passes(1, losses=({'divergence': 'reverse-kl'}, {'divergence': 'ranking(3)'}))",
    "candidates": "candidates('kd-pt', scale=10.0)",
    "squared-error": "squared-error(shuffled=True)",
    "gaussian-kl": "gaussian-kl",
    "cosine": "cosine(project=True)",
    "projected-mse": "projected-mse",
    "explanations": "explanations({'temperature': 4.0}, weights=(1, 0, 2))",
}


def wave(*shape: int, step: float = 0.7, start: float = 0.0) -> torch.Tensor:
    """Numbers without a generator."""
    return torch.sin(start + step * torch.arange(math.prod(shape), dtype=torch.float64)).reshape(shape)


def features(side: str):
    shape, start = ((6, 3, 4, 4), 0.0) if side == "student" else ((6, 5, 4, 4), 2.0)
    return predicted(size=6, features={"a" if side == "student" else "b": wave(*shape, start=start)})


def states(layers: int, start: float) -> AttentionStates:
    return AttentionStates(
        layers,
        {i: wave(2, 2, 5, 5, start=start + i) for i in range(layers)},
        {i: wave(2, 5, 6, start=start + i) for i in range(layers)},
        {i: wave(2, 5, 6, start=start + i) for i in range(layers + 1)},
        torch.arange(5) < torch.tensor([[5], [3]]),
    )


def test_every_spec_is_here():
    assert set(TEXTS) == set(term_specs)


@pytest.mark.parametrize("text", TEXTS.values())
def test_a_spec_is_frozen_data(text):
    spec = term_specs[text]
    assert isinstance(spec, TermSpec) and spec == term_specs[text] and hash(spec) == hash(term_specs[text])
    assert spec.version == 1 and spec.unit in ("row", "example")
    assert spec.reads_teacher == (text != TEXTS["label-smoothing"])
    assert f"{spec.weight:g} · " in formula_of(spec) and len(formula_of(spec)) > 10
    assert (
        canonical_text(spec) != canonical_text(replace(spec, weight=0.25)) != canonical_text(replace(spec, weight=0.5))
    )
    assert f'"is": "term:{text.partition("(")[0]}"' in canonical_text(spec)
    for weight in (-1.0, math.inf, math.nan, True, "1"):
        with pytest.raises(ConfigError, match="invalid weight"):
            replace(spec, weight=weight)


def test_texts_that_say_nothing_sensible():
    with pytest.raises(UnknownNameError, match="did you mean 'fitnets'"):
        term_specs["fitnet('a', 'b')"]
    with pytest.raises(ConfigError, match="does not take these arguments"):
        term_specs["map(0.5)"]  # a weight, or a temperature?
    with pytest.raises(ConfigError, match="does not take these arguments"):
        term_specs["explanations({'heat': 4.0})"]


def test_what_is_needed_is_joined():
    specs = [term_specs[text] for text in ("map(layers=((0, 3),))", "hidden(layers=((2, 4),))", "fitnets('a', 'b')")]
    student, teacher = needs_of(specs)
    assert student == Needs(
        attention=frozenset({"scores", "hidden"}), layers=frozenset({0, 2}), features=frozenset({"a"})
    )
    assert teacher.layers == frozenset({3, 4}) and teacher.features == frozenset({"b"})
    assert needs_of([*specs, term_specs["output"]])[0].layers is None
    assert [s.couples_batch for s in map(term_specs.__getitem__, TEXTS.values())] == [
        name in ("rkd", "similarity", "cka", "crd", "balance", "candidates") for name in TEXTS
    ]


# made by the callables that took hooks and models (`taught`, `attended`, `Explained`, `Ranking`), before they went
FEATURE_MEANS = {
    "attention('a', 'b')": 0.002241434841650385,
    "rkd('a', 'b')": 15.67013235656718,
    "similarity('a', 'b')": 0.30850222261841964,
    "cka('a', 'b')": 0.889003112224262,
}
ATTENTION_LOSSES = {
    "score": (1.4602212416420195, 1.4203162630353394),
    "map": (0.44246927646185596, 0.2144408939162187),
    "map(temperature=2.0)": (0.11778636163859424, 0.055573786698531746),
    "output": (1.4368934599483092, 1.4671593706595243),
    "hidden": (2.1977058433572134, 2.1977867889824334),
}


@pytest.mark.parametrize(("text", "mean"), FEATURE_MEANS.items())
def test_feature_terms_give_the_numbers_of_before(text, mean):
    assert float(losses_of(term_specs[text], features("student"), features("teacher")).mean()) == pytest.approx(
        mean, rel=1e-12
    )


@pytest.mark.parametrize(("text", "losses"), ATTENTION_LOSSES.items())
def test_attention_terms_give_the_numbers_of_before(text, losses):
    student, teacher = predicted(size=2, attention=states(2, 0.0)), predicted(size=2, attention=states(2, 1.3))
    assert losses_of(term_specs[text], student, teacher).tolist() == pytest.approx(losses, rel=1e-12)


@pytest.mark.parametrize("width", [5, 3])
def test_states_are_the_squared_error_of_mapped_states(width):
    ours, theirs = wave(6, width).requires_grad_(), wave(6, 5, start=2.0)
    teacher, parts = predicted(size=6, states=theirs), nn.ModuleDict()
    with bound(term_specs["states"], predicted(size=6, states=ours), teacher, parts=parts) as term:
        found = term(predicted(size=6, states=ours), teacher, None)
        mapped = ours.detach().numpy()
        for part in parts.values():
            mapped = mapped @ part.weight.detach().numpy().T + part.bias.detach().numpy()
        np.testing.assert_allclose(found.detach(), ((mapped - theirs.numpy()) ** 2).mean(axis=1), rtol=1e-12)
        assert len(parts) == (width != 5)
        assert torch.autograd.gradcheck(lambda states: term(predicted(size=6, states=states), teacher, None), ours)
    with pytest.raises(MismatchError, match="not of the same rows"):
        losses_of(term_specs["states"], predicted(size=6, states=ours), predicted(size=4, states=theirs[:4]))


def test_trained_parts_follow_from_seed_and_place_alone():
    student, teacher = features("student"), features("teacher")
    specs = [term_specs["fitnets('a', 'b')"], term_specs["crd('a', 'b', dim=4)"], term_specs["fitnets('a', 'b')"]]

    def parts(seed):
        found = torch.nn.ModuleDict()
        with bind_terms(
            specs, student=student, teacher=teacher, examples=20, seed=seed, parts=found, models=(found, None)
        ):
            return found.state_dict()

    before = torch.get_rng_state()
    first = parts(0)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(99)
    again, other = parts(0), parts(1)
    assert {name.partition(".")[0] for name in first} == {"fitnets_0", "contrastive_1", "fitnets_2"}
    assert all(torch.equal(first[name], again[name]) for name in first)
    weights = [name for name in first if name.endswith("weight")]
    assert not any(torch.equal(first[name], other[name]) for name in weights)
    assert not torch.equal(first["fitnets_0.map.weight"], first["fitnets_2.map.weight"])


def test_teacher_gets_no_gradient():
    leaf = wave(6, 5, 4, 4).requires_grad_()
    teacher = predicted(size=6, features={"b": leaf})
    ours = wave(6, 3, 4, 4, start=1.0).requires_grad_()
    losses_of(term_specs["similarity('a', 'b')"], predicted(size=6, features={"a": ours}), teacher).sum().backward()
    assert ours.grad is not None and leaf.grad is None


def test_half_precision_features_are_compared_in_float32():
    student = predicted(size=6, features={"a": wave(6, 8).bfloat16()})
    teacher = predicted(size=6, features={"b": wave(6, 4, start=1.0).half()})
    for text in ("similarity('a', 'b')", "fitnets('a', 'b')"):
        assert losses_of(term_specs[text], student, teacher).dtype == torch.float32
