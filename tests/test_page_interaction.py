"""What the page's script does, in a real browser; and that everything is there to read without it."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.browser import drive, needs_browser
from tests.test_page import records
from tests.test_page_card import case

from fractionate.page import report

# Each acts on the page as the one before left it; one start of the browser for all.
SCRIPTS = {
    "tabs": """
        const state = () => [...page.querySelectorAll(".case")].map((c) => getComputedStyle(c).display === "none");
        const tabs = [...page.querySelectorAll("[role=tab]")], found = [state()];
        tabs[1].click(); found.push(state());
        press(tabs[1], "ArrowLeft"); found.push(state());
        return { found, selected: tabs.map((t) => t.getAttribute("aria-selected")), focused: page.activeElement === tabs[0] };
    """,
    "width": "return [page.documentElement.scrollHeight, page.documentElement.scrollWidth, view.innerWidth];",
    "tables": """
        const table = page.querySelector("#students .scores"), body = table.tBodies[0];
        const names = () => [...body.rows].filter((r) => !r.hidden).map((r) => r.cells[0].textContent);
        const heads = [...table.querySelectorAll("thead button")], found = {};
        const values = () => [...body.rows].map((r) => parseFloat(r.cells[2].textContent));
        heads[2].click(); found.up = values(); found.sort = table.querySelectorAll("th")[2].getAttribute("aria-sort");
        heads[2].click(); found.down = values();
        const field = page.querySelector("#students .filter");
        field.value = "placebo"; field.dispatchEvent(new view.Event("input")); found.filtered = names();
        field.value = ""; field.dispatchEvent(new view.Event("input")); found.all = names().length;
        return found;
    """,
    "variants": """
        const lit = () => [...page.querySelectorAll(".lit")].map((e) => e.dataset.variant);
        const row = page.querySelector('#students tr[data-variant="kd"]'), found = {};
        row.cells[1].click(); found.kept = lit();
        found.places = [...page.querySelectorAll(".lit")].map((e) => e.closest("section").id);
        press(page.body, "Escape"); found.released = lit().length;
        return found;
    """,
    "phone": """
        frame.width = 390; await pause(300);
        return [page.documentElement.scrollWidth, view.innerWidth];
    """,
    "tips": """
        const tip = page.getElementById("tip"), said = () => (tip.hidden ? "" : tip.textContent), found = {};
        const word = page.querySelector(".decision dfn");
        word.focus(); await pause(); found.word = said(); word.blur(); await pause(); found.gone = said();
        const plot = page.querySelector("#ladder .drawing");
        plot.focus(); press(plot, "ArrowRight"); found.first = said(); press(plot, "ArrowRight"); found.second = said();
        press(plot, "ArrowLeft"); found.again = said(); press(plot, "Escape"); found.escaped = said();
        plot.querySelector(".dot").dispatchEvent(new view.MouseEvent("click", { bubbles: true })); found.tapped = said();
        found.inside = tip.getBoundingClientRect().right <= view.innerWidth;
        return found;
    """,
    "permalink": """
        view.location.hash = "#confidence-2"; await pause(200);
        const target = page.getElementById("confidence-2");
        const away = target.closest(".case").classList.contains("away");
        return [target.closest("details").open, away, target.getClientRects().length];
    """,
    "controls": """
        page.querySelectorAll("details").forEach((d) => { d.open = true; });
        const controls = [...page.querySelectorAll("a[href], button, summary, input, [tabindex], [role=tab]")];
        const name = (e) => (e.getAttribute("aria-label") || e.textContent || e.placeholder || "").trim();
        const group = (e) => e.getAttribute("role") === "tab";  // arrows move within
        return {
          count: controls.length,
          nameless: controls.filter((e) => !name(e)).map((e) => e.outerHTML.slice(0, 120)),
          skipped: controls.filter((e) => e.tabIndex < 0 && !group(e)).map((e) => e.outerHTML.slice(0, 120)),
          dead: controls.filter((e) => { e.focus(); return page.activeElement !== e && e.getClientRects().length; }).length,
        };
    """,
}


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    d, study = case([("kd", 2.4, 0.3, "helps"), ("kd-pt", 1.0, 0.2, "helps")])
    other = replace(records()[1], name="two")
    path = tmp_path_factory.mktemp("page") / "a.html"
    return report([d, study, other], path, run_files={"one": ("run.yaml",)})


@pytest.fixture(scope="module")
def message(page: Path) -> dict[str, Any]:
    parts = "".join(f"told.{name} = await (async () => {{{script}}})();" for name, script in SCRIPTS.items())
    found = drive(page, page.parent, f"const told = {{}}; {parts} return told;")
    assert isinstance(found, dict)
    return found


@needs_browser
def test_teachers_are_tabs_by_click_and_by_arrow_keys(message: dict[str, Any]) -> None:
    assert message["tabs"]["found"] == [[False, True], [True, False], [False, True]]
    assert message["tabs"]["selected"] == ["true", "false"] and message["tabs"]["focused"]


@needs_browser
def test_a_permalink_opens_the_tab_and_the_fold_it_points_into(message: dict[str, Any]) -> None:
    assert message["permalink"] == [True, False, 1]


@needs_browser
def test_tables_sort_both_ways_and_filter(message: dict[str, Any]) -> None:
    found = message["tables"]
    assert found["up"] == sorted(found["up"]) and found["down"] == sorted(found["up"], reverse=True)
    assert found["sort"] == "ascending"
    assert found["all"] == 10 and all("placebo" in name for name in found["filtered"])


@needs_browser
def test_a_variant_is_lit_everywhere_and_escape_releases_it(message: dict[str, Any]) -> None:
    found = message["variants"]
    assert set(found["kept"]) == {"kd"} and {"decision", "pays", "students"} <= set(found["places"])
    assert found["released"] == 0


@needs_browser
def test_marks_and_words_explain_themselves_by_tap_focus_and_arrows(message: dict[str, Any]) -> None:
    found = message["tips"]
    assert found["word"] and not found["gone"] and not found["escaped"]
    assert "no teacher" in found["first"] and found["first"] == found["again"] == found["tapped"] != found["second"]
    assert found["inside"]


@needs_browser
def test_every_control_is_reached_by_keyboard_and_has_a_name(message: dict[str, Any]) -> None:
    found = message["controls"]
    assert found["count"] > 40 and not found["nameless"] and not found["skipped"] and not found["dead"]


@needs_browser
def test_a_page_is_short_before_anything_is_unfolded_and_no_wider_than_a_phone(message: dict[str, Any]) -> None:
    height, width, window = message["width"]
    assert height <= 8_000 and width <= window
    assert message["phone"][0] <= message["phone"][1]


def test_all_of_it_is_there_without_script(page: Path) -> None:
    text = re.sub(r"<(script|style)>.*?</\1>", "", page.read_text(), flags=re.S)
    assert not re.search(r'class="[^"]*\baway\b', text) and text.count('class="case"') == 2
    assert "hidden>Dark" in text, "a button that would do nothing"
    assert "<dfn title=" in text and "<title>" in text.split("<body>")[1], "words and marks explain themselves on hover"
