"""The page of costs: every figure it names stands in a committed table, and what is missed has its cause."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "docs"))

import performance

FIGURES = [figure for group in performance.GROUPS.values() for figure in group]


@pytest.mark.parametrize("figure", FIGURES, ids=lambda figure: figure.what)
def test_a_figure_stands_in_its_table_and_a_miss_has_a_cause(figure: performance.Figure) -> None:
    if not (performance.RESULTS / f"{figure.table}.md").exists():
        pytest.skip(f"bench/results/{figure.table}.md is not made yet")
    assert figure.cell
    assert figure.met or figure.missed, "say why the goal is missed, and what comes next"
    assert (figure.least is None) != (figure.most is None)


def test_the_page_names_every_table_and_how_it_was_made() -> None:
    text = performance.page()
    for figure in FIGURES:
        if (performance.RESULTS / f"{figure.table}.md").exists():
            assert f"[{figure.what}](../bench/results/{figure.table}.md)" in text and performance.machine(figure.table)


def test_a_row_that_is_not_there_is_named() -> None:
    with pytest.raises(LookupError, match="no row 'nothing'"):
        performance.Figure("x", "study", "nothing", "MLP", least=1).cell  # noqa: B018
