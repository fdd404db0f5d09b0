"""What a card, the findings, the predicted gain, the pilot and the exported student say of one teacher does not contradict."""

from __future__ import annotations

from dataclasses import replace

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.drawn import Draw, draws
from tests.test_page_card import case, only

from fractionate import TeacherSignal, diagnose
from fractionate.records import Finding, Interval, Pilot, PredictedGain

GAINS = st.sampled_from([-3.0, -0.6, -0.1, 0.0, 0.1, 0.6, 3.0])
HALVES = st.sampled_from([0.05, 0.3, 1.0, 4.0])
ADVICE = ("distil", "not", "repair")


def verdict(gain: float, half: float, margin: float = 0.5) -> str:
    if gain - half > 0:
        return "helps"
    if gain + half < 0:
        return "hurts"
    return "equivalent" if abs(gain) + half < margin else "cannot tell"


@settings(max_examples=30)
@given(
    effects=st.lists(st.tuples(GAINS, HALVES), min_size=2, max_size=2), advice=st.sampled_from(ADVICE),
    tried=st.one_of(st.none(), st.tuples(GAINS, HALVES)), studied=st.booleans(), exported=st.booleans(), weak=st.booleans(),
)  # fmt: skip
def test_the_card_agrees_with_the_records(
    effects: list[tuple[float, float]],
    advice: str,
    tried: tuple[float, float] | None,
    studied: bool,
    exported: bool,
    weak: bool,
) -> None:
    named = [(arm, gain, half, verdict(gain, half)) for arm, (gain, half) in zip(("kd", "kd-pt"), effects, strict=True)]
    d, study = case(named, settings={"data": "x", "teacher": "y"})
    distil, repair = advice == "distil", "the classes." if advice == "repair" else ""
    pilot = None
    if tried is not None and not repair:
        gain, half = tried
        pilot = Pilot("kd T=1 w=0.9", gain, Interval(gain - half, gain + half), 4, (), 60, 400, 500, 1.0, 5.0, 0.0)
    finding = Finding("weak-teacher", "error", 0.1, "the teacher is not as good as the majority class", (), "", "")
    d = replace(
        d, findings=(finding,) * weak, pilot=pilot, recipe=replace(d.recipe, distil=distil, repair=repair, reason="so it is"),
        predicted=PredictedGain(1.0, Interval(0.0, 3.0), "points", "signal") if distil else None,
    )  # fmt: skip
    run = replace(next(r for r in study.runs if r.arm == "kd"), settings={"data": "x", "teacher": "y"})
    text, card = only([d, *[study] * studied, *[run] * (exported and studied)])
    (found,) = card.decisions
    verdicts = {v for *_, v in named} if studied else set()
    assert found.headline.startswith((f"{found.answer}", "Try")) and text.startswith(found.headline)
    if found.answer == "Distil":
        if studied:
            assert "helps" in verdicts and found.gain_interval is not None and found.gain_interval.low > 0
        else:
            assert distil and pilot is not None and pilot.interval.low > 0
        assert found.recipe
    if found.answer == "Don't distil":
        assert "helps" not in verdicts and not found.recipe
        assert "fractionate distill" not in found.next or not distil or "objective.cell=hard" in found.next
        sure = verdicts and "cannot tell" not in verdicts
        assert sure or repair or not distil, "as much evidence as Distil needs, or the diagnosis advises it"
    if found.answer != "Distil" and not distil:
        assert not found.recipe, "no recipe next to advice against it"
    if studied and verdicts == {"hurts"}:
        assert found.answer == "Don't distil"
    if weak and not repair:  # a repair is named in the headline
        assert any(reason.startswith("Faulty teacher") and finding.name in reason for reason in found.reasons)
    if repair and found.answer != "Distil":
        assert found.headline.startswith("Don't distil before this is repaired")


@settings(max_examples=15)
@given(draws(max_classes=6, scales=(0.5, 3.0, 30.0)))
def test_a_gain_is_predicted_only_where_the_recipe_is_to_distil(draw: Draw) -> None:
    found = diagnose(draw.signal(), only=("weak-teacher", "unusable-numbers", "label-noise"))
    assert found.predicted is None or (found.recipe.distil and found.predicted.gain >= 0)
    assert (found.predicted is not None) == found.recipe.distil
    assert "predicted gain" not in str(found) or "do not distil" not in str(found)


def test_a_teacher_that_knows_the_commonest_class_alone_promises_nothing() -> None:
    """700 examples, answers that are the class shares: more than three points had been promised for it."""
    labels = torch.arange(700) % 10 * (torch.arange(700) % 3 > 0)
    shares = torch.bincount(labels, minlength=10).float().log()
    draw = torch.Generator().manual_seed(0)
    found = diagnose(TeacherSignal(shares + 0.3 * torch.randn(700, 10, generator=draw), labels))
    assert "weak-teacher" in {f.name for f in found.problems}
    assert found.predicted is None or (found.predicted.gain < 0.3 and found.predicted.interval.low == 0)
