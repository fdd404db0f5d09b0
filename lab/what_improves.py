"""What improves distillation, and what does not: the changes that committed records tell apart, in points with intervals.

PYTHONPATH=src python lab/what_improves.py      # lab/results/what_improves.md
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from claims import Found, differences, effect, over_sets, rows, signs
from tuned_students import GIVEN, KD, Students, healthy_of, students

RESULTS = Path(__file__).parent / "results"
Pair = tuple[list[float], list[float]]
Change = Callable[[Students], Pair | None]
HARD, USUAL = "hard 1 0", "kd 4 0.9"


def tuned(arm: str, against: str, *, teacher: str = "") -> Change:
    """One arm over another, both at their best rate; under every teacher, or under one kind."""
    return lambda one: (one.best(arm), one.best(against)) if teacher in ("", one.at.teacher) else None


def rate(arm: str) -> Change:
    """An arm at the best of four rates over itself at the default."""
    return lambda one: (one.best(arm), one.best(arm, rates=(GIVEN,)))


def taught_by(kind: str) -> Change:
    """kd from another kind of teacher over kd from the healthy one, the same examples."""

    def pair(one: Students) -> Pair | None:
        healthy = healthy_of(one)
        return (one.best(USUAL), healthy.best(USUAL)) if one.at.teacher == kind and healthy is not None else None

    return pair


CHANGES: dict[str, Change] = {
    "A teacher: kd at T = 4 / 0.9 over no teacher, both at their best rate": tuned(USUAL, HARD),
    "The rate: kd at T = 4 / 0.9, the best of four rates over the default": rate(USUAL),
    "The rate without a teacher: the best of four over the default": rate(HARD),
    "Temperature and weight: the best of six on validation data over T = 4 / 0.9": lambda one: (
        one.best(*KD),
        one.best(USUAL),
    ),
    "T = 1 / 0.6 over T = 4 / 0.9": tuned("kd 1 0.6", USUAL),
    "T = 8 / 0.9 over T = 4 / 0.9": tuned("kd 8 0.9", USUAL),
    "Class relations for its shapes: kd-pt+sim over kd": tuned("kd-pt+sim 4 0.9", USUAL),
    "A smoothed teacher over a healthy one (kd)": taught_by("smoothed"),
    "An over-trained teacher over a healthy one (kd)": taught_by("over-trained"),
    "A teacher that learned the transfer set by rote: kd over no teacher": tuned(USUAL, HARD, teacher="rote"),
}
UNLABELLED = {"distil_minilm": "definitions (MiniLM)", "distil_efficientnet": "clothes (EfficientNet)"}
POOL = (
    ("hard pseudo-labels − no teacher", "Examples that only the teacher has labelled: its first choice as the label"),
    ("soft labels alone: kd T = 1 / 1 − no teacher", "The same with its whole opinion (kd, T = 1)"),
    ("soft labels alone: kd T = 1 / 1 − hard pseudo-labels", "Its whole opinion over its first choice"),
    ("soft labels alone: kd T = 1 / 1 − kd-shuffled T = 1 / 1", "… over the opinion on another example of the class"),
)


def line(name: str, found: list[Found]) -> str:
    at = over_sets(found)
    above, below, still = signs(found)
    counts = f"{len(above)} / {len(below)} / {len(still)}"
    return f"| {name} | {at.mean:+.2f} [{at.low:+.2f}, {at.high:+.2f}] | {at.p:.2g} | {at.sets} ({counts}) | {len(found)} |"


def unlabelled() -> Iterator[str]:
    for label, name in POOL:
        for study, data in UNLABELLED.items():
            row = next(row for row in rows(study) if row.section == "Few labels" and row.cells[0] == label)
            found = effect(row.cells[1], data, 5, study)
            assert found is not None
            yield f"| {name} | {data} | {row.cells[1]} | {row.cells[2]} |"


def table() -> str:
    text = [
        "# What improves distillation, and what does not", "",
        "Made by `PYTHONPATH=src python lab/what_improves.py` from committed records. Points of test accuracy.", "",
        "## Small students on twelve real data sets", "",
        "Records of bench/regret_pilot.py ([table](../../bench/results/regret_pilot.md)): multilayer perceptrons with one hidden "
        "layer, 120 to 2,000 examples, 5 paired seeds; rates are chosen on validation data. Settings of a data set are averaged "
        "and data sets joined with random effects (95 % intervals of Hartung, Knapp, Sidik and Jonkman; p not corrected). In "
        "brackets the data sets surely above 0 / surely below / open. The default rate is 5e-3.", "",
        "| change | points | p | data sets | settings |", "|---|---|---|---|---|",
    ]  # fmt: skip
    for name, pair in CHANGES.items():
        pairs = [(one.at.data, found) for one in students() if (found := pair(one)) is not None]
        text.append(line(name, [differences(*both, data, "regret_pilot") for data, both in pairs]))
    text += [
        "", "## Few labels, many examples without", "", "[MiniLM](distil_minilm.md): 1,500 labels, 28,500 definitions without; "
        "[EfficientNet](distil_efficientnet.md): 1,000 labels, 5,000 pictures without. 5 seeds, verdicts after Holm.", "",
        "| change | task | accuracy, points | NLL, nats |", "|---|---|---|---|", *unlabelled(), "",
    ]  # fmt: skip
    return "\n".join(text)


if __name__ == "__main__":
    (RESULTS / "what_improves.md").write_text(table(), encoding="utf-8")
    print(table())
