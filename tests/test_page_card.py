"""The decision card answers from the records alone: should I distil, with what, what do I gain, how sure is it, what next."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace

import pytest
from tests.test_page import records

from fractionate.cli.terminal import fitted
from fractionate.page import decide, read_record, report
from fractionate.page.cases import Case
from fractionate.page.chapters import _marked
from fractionate.page.chosen import shown_run
from fractionate.page.decisions import Card, card_text
from fractionate.page.effect_plots import ladder_figure
from fractionate.records import Diagnosis, Effect, Interval, Pilot, Recommendation, Run, Share, Study
from fractionate.study.effects.harm import undertrained

RUN_FILES = {"one": ("runs/a b/run.yaml", "--trust", "mine")}


def effect(study: Study, arm: str, gain: float, half: float, verdict: str, **more: object) -> Effect:
    first = next(e for e in study.effects if e.metric == "accuracy")
    interval = Interval(gain - half, gain + half)
    settings = {"arm": arm, "against": "hard", "gain": gain, "interval": interval, "verdict": verdict, "placebo": False}
    return replace(first, **(settings | {"seeds_to_settle": None} | more))  # type: ignore[arg-type]


def case(effects: list[tuple[object, ...]], **more: object) -> tuple[Diagnosis, Study]:
    """A study of one teacher with the effects that are given: (variant, gain, half an interval, verdict)."""
    healthy, _, study = records()
    made = tuple(effect(study, *e[:4], **(e[4] if len(e) > 4 else {})) for e in effects)  # type: ignore[arg-type]
    recipe = Recommendation(True, "kd", 1.0, 0.9, "cross-entropy", True, "the teacher is calibrated")
    d = replace(healthy, name="one", recipe=recipe, findings=())
    return d, replace(study, name="one", effects=made, shares=(), **more)  # type: ignore[arg-type]


def mean(study: Study, arm: str, metric: str = "accuracy") -> float:
    values = [run.test.values[metric] for run in study.runs if run.arm == arm and run.test]
    return sum(values) / len(values)


def only(records: object) -> tuple[str, Card]:
    card = decide(records, RUN_FILES)  # type: ignore[arg-type]
    assert len(card.decisions) == 1
    return card_text(card), card


def test_distil_says_what_is_gained_how_surely_and_with_what() -> None:
    d, study = case([("kd", 2.4, 0.3, "helps"), ("kd-pt", 1.0, 0.2, "helps"), ("kd-sim", -1.0, 0.2, "hurts")])
    share = Share("instance.confidence", "Shapley", 1.0, Interval(0.4, 1.6))
    text, card = only([d, replace(study, shares=(share,))])
    (decision,) = card.decisions
    assert decision.answer == "Distil" and decision.gain == 2.4
    own, none = mean(study, "kd"), mean(study, "hard")
    assert text.startswith(
        f"Distil: {own:.1f} % accuracy instead of {none:.1f} % with no teacher "
        "(+2.40 points, 95 % interval +2.10 to +2.70, 2 seeds)."
    )
    for words in (
        "With kd at temperature 1, teacher weight 0.9, the recipe of the diagnosis.",
        " comes from how sure it is of each example (instance.confidence).",
        "Not with kd-sim: it hurts.",
        "next: fractionate distill 'runs/a b/run.yaml' --trust mine",
    ):
        assert words in text, words
    assert decision.recipe == d.recipe.patch
    student, none_row, *_ = decision.contenders
    assert (student.who, student.variant, none_row.who, none_row.variant) == ("student", "kd", "no teacher", "hard")
    assert student.value == pytest.approx(own) and student.calibration == pytest.approx(mean(study, "kd", "ece"))
    assert student.parameters == study.runs[0].parameters


def test_a_verdict_of_the_study_overrides_the_recipe() -> None:
    d, study = case([("kd", -2.4, 0.3, "hurts"), ("kd-pt", 1.0, 0.2, "helps")])
    text, card = only([d, study])
    assert card.decisions[0].recipe["objective.cell"] == "kd-pt"
    assert "is overridden: it costs 2.40 points of accuracy" in text
    assert "next: fractionate distill 'runs/a b/run.yaml' objective.cell=kd-pt objective.temperature=1" in text
    d, study = case([("kd", -2.4, 0.3, "hurts"), ("kd-pt", -1.0, 0.2, "hurts")])
    text, card = only([d, study])
    assert card.decisions[0].answer == "Don't distil" and not card.decisions[0].recipe and "recipe:" not in text
    assert "kd costs 2.40 points of accuracy against no teacher" in text and "kd-pt costs 1.00 points" in text


def test_no_clear_difference_says_which_effect_is_unlikely_and_how_many_seeds_would_tell() -> None:
    d, study = case([("kd", 0.2, 1.6, "cannot tell", {"seeds_to_settle": 24})])
    text, card = only([d, study])
    assert card.decisions[0].answer == "No clear difference yet"
    assert "an effect above ±1.80 points is unlikely" in text and "About 24 seeds would settle it." in text
    assert "next: fractionate dissect 'runs/a b/run.yaml' study.seeds=24 'out=runs/a b-24-seeds' --trust mine" in text
    many = replace(study, data={"examples": 400}, effects=(replace(study.effects[0], seeds_to_settle=900),))
    assert "data.transfer=100 'out=runs/a b-100-examples'" in only([d, many])[0]
    against = replace(d, recipe=replace(d.recipe, distil=False, reason="it is wrong"))
    text, card = only([against, study])
    assert card.decisions[0].answer == "No clear difference yet" and "advises against it: It is wrong." in text
    assert "an effect above ±1.80 points is unlikely" in text and "About 24 seeds" in text and "recipe:" not in text
    never = replace(study, effects=(replace(study.effects[0], seeds_to_settle=None),))
    assert "Not even 1,000 seeds are sure to settle it." in only([d, never])[0]


def test_undertrained_students_are_named_on_the_card() -> None:
    d, study = case([("kd", 0.1, 0.2, "equivalent")])
    note = undertrained([r for r in study.runs if r.arm == "kd"], [0] * 99 + [1])
    text, _ = only([d, replace(study, notes=(note, "another note"))])
    assert "The students are undertrained, or too small: the best variant has" in text and "another note" not in text


def test_do_not_distil_needs_evidence_as_distil_does() -> None:
    """A pilot whose whole interval is below what matters, or a fault to repair; not a rule, and not a pilot that cannot tell."""
    d, study = case([("kd", 0.2, 1.6, "cannot tell")])
    against = replace(d.recipe, distil=False, reason="it is wrong")
    sure = Pilot("kd T=1 w=0.6", -0.3, Interval(-0.9, 0.3), 4, (), 60, 400, 110, 1.0, 5.0, 0.0)
    unsure = replace(sure, interval=Interval(-2.0, 1.4))
    costs = "in a pilot kd T=1 w=0.6, the best, costs 0.3 points of accuracy against no teacher"
    for pilot, answer in ((sure, "Don't distil"), (unsure, "No clear difference yet")):
        known = replace(d, recipe=against, pilot=pilot)
        text, card = only([known])
        assert (
            card.decisions[0].answer == answer
            and text.startswith(f"{answer}: {costs}")
            and not card.decisions[0].recipe
        )
        text, card = only([known, study])
        assert card.decisions[0].answer == answer and not card.decisions[0].recipe
    assert only([replace(d, recipe=against, pilot=sure), study])[0].startswith("Don't distil: no gain found")
    large = replace(study, effects=(replace(study.effects[0], gain=1.5),))
    assert only([replace(d, recipe=against, pilot=sure), large])[1].decisions[0].answer == "No clear difference yet"
    gains = replace(sure, gain_points=2.0, interval=Interval(1.0, 3.0))
    assert only([replace(d, pilot=gains)])[0].startswith(
        "Distil: in a pilot kd T=1 w=0.6 gains +2.0 points of accuracy over"
    )
    broken = replace(d, recipe=replace(d.recipe, reason="classes are permuted", repair="the classes"))
    text, card = only([broken, study])
    assert (
        text.startswith("Don't distil before this is repaired: Classes are permuted.") and not card.decisions[0].recipe
    )


def test_no_difference_that_matters_is_no_reason_to_distil() -> None:
    d, study = case([("kd", 0.1, 0.2, "equivalent"), ("kd-pt", 0.0, 0.2, "equivalent")])
    text, card = only([d, study])
    assert card.decisions[0].answer == "Don't distil"
    assert "every variant with the teacher equals no teacher within ±0.5 points" in text


def test_label_smoothing_is_no_distillation_and_placebos_speak() -> None:
    d, study = case([("ls", 1.0, 0.2, "helps"), ("kd", 0.1, 0.2, "equivalent")])
    text, card = only([d, study])
    assert card.decisions[0].answer == "Don't distil"
    assert "Label smoothing alone (ls) gains 1.00 points of accuracy." in text
    sham = ("kd-shuffled", 1.0, 0.2, "helps", {"placebo": True})
    assert "The placebo kd-shuffled helps too." in only(case([("kd", 2.0, 0.2, "helps"), sham]))[0]
    beside = ("kd", 0.1, 2.0, "cannot tell", {"against": "kd-shuffled"})
    assert "not shown to beat its placebo kd-shuffled" in only(case([("kd", 2.0, 0.2, "helps"), sham, beside]))[0]


def test_a_gain_that_costs_calibration_says_so() -> None:
    d, study = case([("kd", 2.4, 0.3, "helps"), ("kd", 5.0, 1.0, "hurts", {"metric": "ece"})])
    assert "ECE gets worse by 5.00 points." in only([d, study])[0]


def test_the_exported_student_was_compared_or_is_said_not_to_be() -> None:
    d, study = case([("kd", 2.4, 0.3, "helps")], settings={"data": "x", "teacher": "y"})
    run = next(run for run in study.runs if run.arm == "kd")
    run = replace(run, settings={"data": "x", "teacher": "y"})
    text, card = only([d, study, run])
    assert "not compared" not in text and not card.decisions[0].next, "it is made: nothing is left to run"
    assert run.contract is not None
    forced = replace(run, settings=run.settings | {"compared_with_no_teacher": "kd − hard: −2, exported by --force"})
    assert "surely worse than no teacher, and was exported by --force" in only([d, study, forced])[0]
    other = replace(run, contract=replace(run.contract, temperature=8.0))
    text, card = only([d, study, other])
    assert "this recipe was not compared with no teacher" in text
    assert [c.who for c in card.decisions[0].contenders] == ["student", "no teacher", "exported student"]
    trained_teacher = replace(run.contract, terms=("1 · maps",))
    study = replace(study, runs=tuple(replace(r, contract=trained_teacher) if r.arm == "kd" else r for r in study.runs))
    assert "not compared" not in only([d, study, replace(run, contract=trained_teacher)])[0], (
        "with terms it was compared too"
    )
    assert "this recipe was not compared with no teacher" in only([d, study, run])[0]


def test_without_a_study_nothing_is_claimed() -> None:
    healthy, _, study = records()
    assert only([healthy])[1].decisions[0].answer == ("Not compared yet" if healthy.recipe.distil else "Don't distil")
    stop = replace(healthy, recipe=Recommendation(False, "hard", 1.0, 0.0, "cross-entropy", True, "it is wrong"))
    assert only([stop])[0].startswith("Don't distil: It is wrong.")
    text, card = only([replace(healthy, recipe=replace(stop.recipe, distil=True, repair="mend the labels"))])
    assert text.startswith("Don't distil before this is repaired: It is wrong.") and "mend the labels" in text.lower()
    assert not card.decisions[0].recipe
    kd = next(run for run in study.runs if run.arm == "kd")
    assert "it was not compared with no teacher" in only([kd])[0]
    hard = next(run for run in study.runs if run.arm == "hard")
    assert "The student no teacher reaches" in only([hard])[0] and "not compared with" not in only([hard])[0]


def test_a_baseline_with_a_teacher_answers_nothing_about_distilling() -> None:
    study = case([("kd-pt", 1.0, 0.2, "helps", {"against": "kd"})], baseline="kd")[1]
    text, card = only([study])
    assert card.decisions[0].answer == "Not compared yet"
    assert (
        "kd-pt gains 1.00 points of accuracy against kd" in text
        and "No variant without a teacher was compared." in text
    )


def test_several_studies_are_summed_up_and_none_dropped() -> None:
    made: list[Diagnosis | Study] = []
    for name, gain, verdict in (
        ("a", 2.0, "helps"),
        ("b", -2.0, "hurts"),
        ("c", 0.1, "cannot tell"),
        ("d", 1.0, "helps"),
    ):
        d, study = case([("kd", gain, 0.5, verdict)])
        made += [replace(d, name=name), replace(study, name=name)]
    card = decide(made)
    assert [d.name for d in card.decisions] == list("abcd")
    assert card.headline == (
        "Distil with a (+2.00 points) and d (+1.00 points). Don't distil with b. No clear difference yet with c."
    )
    assert all(f"\n{name}\n" in card_text(card) for name in "abcd")


def test_the_page_the_terminal_and_json_hold_one_card(tmp_path) -> None:  # type: ignore[no-untyped-def]
    made = case([("kd", 2.4, 0.3, "helps")])
    card = decide(made, RUN_FILES)
    page = report(made, tmp_path / "a.html", run_files=RUN_FILES).read_text()
    (decision,) = card.decisions
    assert decision.headline.removeprefix("Distil: ") in page.replace("\u00a0%", " %")
    assert "fractionate distill &#39;runs/a b/run.yaml&#39; --trust mine" in page
    text = made[1].to_json_with(card)
    assert Card.from_json(json.dumps(json.loads(text)["card"])) == card
    assert Study.from_json(text) == made[1] == read_record(text)


def test_every_pair_of_study_and_recipe_has_a_card_without_a_contradiction() -> None:
    """Whatever the verdicts: a variant that hurts is never the recipe."""
    verdicts = {"helps": (2.0, 0.5), "hurts": (-2.0, 0.5), "equivalent": (0.0, 0.1), "cannot tell": (0.3, 3.0)}
    for first in verdicts:
        for second in verdicts:
            d, study = case([("kd", *verdicts[first], first), ("kd-pt", *verdicts[second], second)])
            for recipe in (d.recipe, replace(d.recipe, distil=False), replace(d.recipe, temperature=3.0)):
                (decision,) = decide([replace(d, recipe=recipe), study]).decisions
                notes = {"kd": first, "kd-pt": second}
                if decision.recipe:
                    assert notes[str(decision.recipe["objective.cell"])] != "hurts"
                assert (decision.answer == "Distil") == ("helps" in (first, second))
                assert decision.headline.startswith(decision.answer)


def test_a_student_has_to_beat_no_teacher_at_its_own_learning_rate_too() -> None:
    """What is gained by a better learning rate is no gain of the teacher's."""
    d, study = case([("kd lr=9", 5.0, 0.3, "helps")])

    def at(arm: str, new: str, rate: float, shift: float) -> list[Run]:
        found = [r for r in study.runs if r.arm == arm]
        return [
            replace(
                r,
                arm=new,
                settings=r.settings | {"learning_rate": rate},
                test=replace(r.test, values=r.test.values | {"accuracy": 80.0 + shift + r.seed / 100}),
            )
            for r in found
            if r.test
        ]

    runs = [*at("hard", "hard", 1.0, 0.0), *at("hard", "hard lr=9", 9.0, 4.8), *at("kd", "kd lr=9", 9.0, 5.0)]
    arms = ("hard", "hard lr=9", "kd lr=9")
    d = replace(d, recipe=replace(d.recipe, learning_rate_factor=9.0))
    (decision,) = decide([d, replace(study, arms=arms, runs=tuple(runs))]).decisions
    assert decision.gain == pytest.approx(0.2) and "84.8 % with no teacher" in decision.headline
    assert decision.contenders[1].variant == "hard lr=9" and decision.recipe["training.learning_rate"] == 9.0
    runs[2:4] = at("hard", "hard lr=9", 9.0, 6.0)
    (decision,) = decide([d, replace(study, arms=arms, runs=tuple(runs))]).decisions
    assert decision.answer == "Don't distil" and not decision.recipe, "it is surely worse than no teacher at its rate"


def rated(study: Study, arms: dict[str, tuple[str, float, float]]) -> Study:
    """The study with variants `{name: (made of, learning rate, points above 80)}`; seeds differ by a hundredth."""
    runs = [
        replace(
            run,
            arm=name,
            settings=run.settings | {"learning_rate": rate},
            test=replace(run.test, values=run.test.values | {"accuracy": 80.0 + shift + run.seed / 100}),
        )
        for name, (source, rate, shift) in arms.items()
        for run in study.runs
        if run.arm == source and run.test
    ]
    return replace(study, arms=tuple(arms), runs=tuple(runs))


def test_a_variant_at_a_lower_learning_rate_is_not_called_harmful() -> None:
    """It loses to no teacher at the better rate, and equals it at its own: the rate hurts, not the teacher."""
    d, study = case([("kd", 0.1, 0.3, "cannot tell"), ("kd lr=9", 6.0, 0.3, "helps")])
    arms = {
        "hard": ("hard", 1.0, 0.0),
        "hard lr=9": ("hard", 9.0, 4.8),
        "kd": ("kd", 1.0, 0.1),
        "kd lr=9": ("kd", 9.0, 6.0),
    }
    text, card = only([replace(d, recipe=replace(d.recipe, learning_rate_factor=9.0)), rated(study, arms)])
    assert card.decisions[0].answer == "Distil" and "hurts" not in text and "costs" not in text
    arms["kd lr=9"] = ("kd", 9.0, 4.8)
    text, card = only([d, rated(study, arms)])
    assert card.decisions[0].answer != "Distil" and text.count("costs") == 1
    assert "is overridden: it costs 4.70 points of accuracy against no teacher lr=9." in text
    arms["kd"] = ("kd", 9.0, 2.0)  # at the same rate it does harm
    assert "kd costs 2.80 points of accuracy against no teacher" in only([d, rated(study, arms)])[0]


def test_a_gain_that_many_comparisons_leave_open_is_settled_by_more_seeds() -> None:
    d, study = case([("kd lr=9", 6.3, 3.0, "cannot tell", {"seeds_to_settle": 7})])
    arms = {"hard": ("hard", 1.0, 0.0), "hard lr=9": ("hard", 9.0, 4.8), "kd lr=9": ("kd", 9.0, 6.0)}
    text, _ = only([replace(d, recipe=replace(d.recipe, learning_rate_factor=9.0)), rated(study, arms)])
    assert "bout 7 seeds would settle it" in text and "study.seeds=7" in text and "1,000" not in text


def test_a_teacher_that_its_students_surpass_is_named() -> None:
    d, study = case([("kd", 0.1, 0.2, "equivalent")])
    teacher = next(run.test for run in study.runs if run.test)
    for accuracy, named in ((10.0, True), (99.9, False)):
        scores = replace(teacher, values=teacher.values | {"accuracy": accuracy})
        text, _ = only([d, replace(study, teacher=scores)])
        assert ("The teacher (10.0 % accuracy) is worse than the students without it (" in text) == named


def test_a_student_of_the_teacher_is_replaced_by_one_without_where_the_answer_is_no() -> None:
    d, study = case([("kd", -2.4, 0.3, "hurts")])
    exported = next(run for run in study.runs if run.arm == "kd")
    text, card = only([d, study, exported])
    assert card.decisions[0].answer == "Don't distil" and "objective.cell=hard 'out=runs/a b-no-teacher'" in text
    alone = next(run for run in study.runs if run.arm == "hard")
    assert "next:" not in only([d, study, alone])[0]
    assert "Compare it with no teacher" not in only([alone])[0] and "Compare it with no teacher" in only([exported])[0]


def test_the_page_draws_the_students_of_the_variant_on_the_card() -> None:
    d, study = case([("kd-pt", 2.5, 0.4, "helps"), ("kd", 2.4, 0.3, "helps")])
    card, shown = decide([d, study]).decisions[0], shown_run(Case("one", d, study))
    assert (
        card.contenders[0].variant == "kd" and shown is not None and (shown.arm, shown.seed) == ("kd", study.seeds[0])
    )
    d, study = case([("kd-pt", -0.2, 0.4, "cannot tell"), ("kd-sim", -2.4, 0.3, "hurts")])
    card, shown = decide([d, study]).decisions[0], shown_run(Case("one", d, study))
    assert shown is not None and shown.arm == card.contenders[0].variant == "kd-pt"


def test_a_pilot_in_accuracy_is_no_evidence_about_another_metric() -> None:
    d, study = case([("kd", -0.1, 2.0, "cannot tell")])
    pilot = Pilot("kd T=1 w=0.6", -0.3, Interval(-0.9, 0.3), 4, (), 60, 400, 110, 1.0, 5.0, 0.0)
    recipe = replace(d.recipe, distil=False, reason="a gain above 0.3 points is unlikely; best of 40")
    against = replace(d, pilot=pilot, recipe=recipe)
    assert only([against, study])[1].decisions[0].answer == "Don't distil"
    first = study.metrics[0]
    runs = tuple(
        replace(r, test=replace(r.test, values=r.test.values | {"balanced-accuracy": r.test.values["accuracy"]}))
        for r in study.runs
        if r.test
    )
    other = replace(
        study, metrics=(replace(first, name="balanced-accuracy"), *study.metrics), runs=runs,
        effects=tuple(replace(e, metric="balanced-accuracy") for e in study.effects),
    )  # fmt: skip
    text, card = only([against, other])
    assert card.decisions[0].answer == "No clear difference yet"
    assert "A gain above 0.3 points is unlikely (of accuracy, in its pilot)." in text


def test_the_plot_names_the_students_that_the_card_compares_with() -> None:
    """At another learning rate than the baseline's the plot's gain is not the card's: both are in its heading."""
    d, study = case([("kd lr=9", 6.0, 0.3, "helps")])
    arms = {"hard": ("hard", 1.0, 0.0), "hard lr=3": ("hard", 3.0, 4.8), "kd lr=9": ("kd", 9.0, 6.0)}
    found = rated(study, arms)
    figure = ladder_figure(found, marked=_marked(Case("one", d, found), decide([d, found]).decisions[0]))
    assert figure is not None
    assert figure.title == "kd lr=9 gains most: 6.00 points over no teacher, +1.20 over no teacher lr=3"


def test_the_lines_of_a_study_fit_80_columns() -> None:
    _, study = case(
        [
            ("class-mean", 1.0, 12.25, "cannot tell", {"against": "class-mean-permuted"}),
            ("no teacher T=4 w=0.5 lr=0.045", -1e-15, 10.0, "cannot tell"),
        ]
    )
    lines = str(study).splitlines()
    assert max(map(len, lines)) <= 80 and "  +0.00 [-10.00, +10.00]  no clear difference" in lines[2]


def test_a_student_without_a_teacher_belongs_to_the_study_before_it() -> None:
    made: list[Diagnosis | Study | Run] = []
    for name in ("a", "b"):
        d, study = case([("kd", 0.0, 0.2, "equivalent")], settings={"data": "x", "teacher": name})
        run = next(run for run in study.runs if run.arm == "hard")
        made += [replace(d, name=name), replace(study, name=name), replace(run, settings={"data": "x"})]
    card = decide(made)
    assert [d.name for d in card.decisions] == ["a", "b"]
    assert all(any("The exported student (no teacher" in reason for reason in d.reasons) for d in card.decisions)


def test_what_all_students_have_is_no_other_recipe() -> None:
    d, study = case([("kd", 2.4, 0.3, "helps")])
    advised = replace(
        d, recipe=replace(d.recipe, cell="kd", temperature=2.0, teacher_weight=0.9, learning_rate_factor=1.0)
    )
    runs = tuple(
        r
        if r.contract is None
        else replace(r, contract=replace(r.contract, temperature=2.0, teacher_weight=0.9, transforms=("flips",)))
        for r in study.runs
    )
    assert "was not one of the variants" not in only([advised, replace(study, runs=runs)])[0]


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_lines_broken_between_words_and_commands_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    command = "next: fractionate dissect runs/a/run.yaml data.transfer=25 out=runs/a-25"
    text = f"  {'word ' * 12}95 % sure\n{command}\n  {'█' * 50}"
    shown = fitted(text, _Terminal()).split("\n")
    assert fitted(text, io.StringIO()) == text and command in shown
    assert all(len(line) <= 40 for line in shown[:2]) and shown[1].startswith("      ")
    assert not any(line.startswith("%") or line.endswith(" 95") for line in map(str.strip, shown))
    assert " ".join(fitted(text, _Terminal()).split()) == " ".join(text.split())


def test_a_comparison_wider_than_the_terminal_is_a_list() -> None:
    decided = decide(case([("kd", 2.0, 0.5, "helps")]))
    wide, narrow = str(decided), card_text(decided, 50)
    assert card_text(decided, 500) == wide and narrow != wide
    assert re.search(r"^  no teacher: accuracy \d", narrow, re.MULTILINE)
