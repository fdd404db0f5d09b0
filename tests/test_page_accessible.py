"""axe-core finds nothing on the page in light and in dark, with everything unfolded: WCAG 2.1 at level AA, contrast included."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

from tests.browser import drive, needs_browser
from tests.test_page_browser import HOSTILE
from tests.test_page_card import case

from fractionate.page import report
from fractionate.records import ExampleList, ExampleRow, NotableExamples, Opinion, Reliability, Shown

AXE = """
const found = {};
page.querySelectorAll("details").forEach((fold) => { fold.open = true; });
for (const theme of ["light", "dark"]) {
  page.documentElement.dataset.theme = theme;
  await pause();
  const run = await view.axe.run(page, { runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"], resultTypes: ["violations"] });
  found[theme] = run.violations.map((v) => [v.id, v.nodes.length, v.nodes[0].html.slice(0, 160), v.nodes[0].failureSummary]);
  found[`${theme} passes`] = run.passes.map((p) => p.id);
}
return found;
"""


def examples() -> NotableExamples:
    opinions = (Opinion("teacher", "4", 0.6, 0.3), Opinion("student", "1", 0.5, 0.4))
    rows = (
        ExampleRow("7", "1", opinions, shown=Shown(text="a text")),
        ExampleRow("8", "1", opinions, shown=Shown(tokens=("two", "words"), weights=(0.1, 0.9))),
        ExampleRow("9", "1", opinions, shown=Shown(columns={"age": "31"})),
    )
    pair = replace(rows[0], other="4", of_other=0.6)
    sure = Reliability("student", (0, 4, 6), (0.0, 0.5, 0.9), (0.0, 0.25, 1.0))
    lists = (ExampleList("least sure", 3, rows), ExampleList("takes for another class", 3, (pair,)))
    return NotableExamples("one", "test", 10, lists, (sure,))


@needs_browser
def test_axe_finds_nothing_in_either_theme(tmp_path: Path) -> None:
    d, study = case([("kd", 2.4, 0.3, "helps"), ("kd-pt", 0.1, 1.0, "cannot tell"), ("kd-sim", -1.0, 0.2, "hurts")])
    few = replace(study, runs=tuple(run for run in study.runs if run.arm in ("hard", "kd", "kd-pt")))
    path = report([d, few, examples()], tmp_path / "a.html", run_files={"one": ("run.yaml",)}, title=HOSTILE[1])
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", path.read_text(encoding="utf-8"))
    axe = files("axe_core_python").joinpath("axe.min.js").read_text(encoding="utf-8")
    path.write_text(text.replace("<style>", f"<script>{axe}</script><style>", 1), encoding="utf-8")
    found = drive(path, tmp_path, AXE)
    assert isinstance(found, dict)
    for theme in ("light", "dark"):
        assert "color-contrast" in found[f"{theme} passes"]
        assert not found[theme], json.dumps(found[theme], indent=2)


@needs_browser
def test_a_cell_of_the_map_of_classes_leads_to_its_example(tmp_path: Path) -> None:
    d, study = case([("kd", 2.4, 0.3, "helps")])
    path = report([d, study, examples()], tmp_path / "a.html")
    found = drive(
        path,
        tmp_path,
        """
        const map = page.querySelector(".heat-cells"), names = JSON.parse(map.dataset.names), n = names.length, told = {};
        const tip = () => page.getElementById("tip").textContent, box = map.getBoundingClientRect();
        const at = (label, other) => ({ bubbles: true,
          clientX: box.left + box.width * (names.indexOf(other) + 0.5) / n,
          clientY: box.top + box.height * (names.indexOf(label) + 0.5) / n });
        map.dispatchEvent(new view.MouseEvent("pointermove", at("1", "4"))); told.hover = tip();
        map.dispatchEvent(new view.MouseEvent("click", at("1", "3"))); told.none = tip();
        map.dispatchEvent(new view.MouseEvent("click", at("1", "4")));
        const on = page.activeElement;
        told.focus = [on.dataset.label, on.dataset.other, on.closest("details").open];
        map.focus(); press(map, "ArrowRight"); told.keys = tip() !== told.hover;
        press(map, "Enter"); told.label = map.getAttribute("aria-label");
        return told;
        """,
    )
    assert isinstance(found, dict)
    assert found["hover"].startswith("1 → 4: ") and found["none"].endswith("no example of this pair is on the page")
    assert found["focus"] == ["1", "4", True] and found["keys"] and "of the rest" in found["label"]
