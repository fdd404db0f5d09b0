"""The page of costs: every figure it names stands in a committed table, and what is missed has its cause and the next step."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "docs"))

import performance
import performance_goals

FIGURES = [figure for group in performance_goals.GROUPS.values() for figure in group]


@pytest.mark.parametrize("figure", FIGURES, ids=lambda figure: figure.what)
def test_a_figure_is_read_from_its_table_and_a_miss_has_a_cause(figure: performance.Figure) -> None:
    text = (performance.ROOT / figure.place).read_text(encoding="utf-8")
    assert figure.cell and figure.cell in text
    assert figure.met or figure.why, "give the cause of the miss, and the next step"
    assert (figure.least is None) != (figure.most is None)
    assert performance.machine(figure), "the table names its command"
    if figure.other:
        assert figure.peer.split(": ")[-1] in text


def test_the_page_has_every_goal_with_its_figure_and_counts_the_misses() -> None:
    text = performance.page()
    for figure in FIGURES:
        assert f"[{figure.what}](../{figure.place}) | {figure.cell} | {figure.goal} |" in text
    assert f"{len(FIGURES)} goals, {text.count('| missed. ')} missed" in text


def test_a_row_that_is_not_there_is_named() -> None:
    with pytest.raises(LookupError, match="no row 'nothing'"):
        performance.Figure("x", "study", "nothing", "MLP", least=1).cell  # noqa: B018


def test_a_figure_in_brackets_and_one_before_them() -> None:
    figure = performance.Figure("x", "study", "one plain student", "MLP", most=1, bracket=True)
    assert figure.cell == "1.0" and figure.met and figure.read(figure.row) == "1.0 (1.0)"
