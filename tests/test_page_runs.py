"""Pages of run folders: one run, two side by side, a folder of runs as an index; as Markdown; and what notebooks show."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from tests.test_page import records
from tests.test_page_browser import HOSTILE, hostile_records
from tests.test_page_card import case

from fractionate.cli.commands import main
from fractionate.errors import ConfigError
from fractionate.page import decide, report
from fractionate.page.folder import folders_card, report_folders, run_card, run_folders
from fractionate.records import Diagnosis, Scores, Study


def folder(path: Path, name: str, gain: float, verdict: str, *, page: bool = False) -> tuple[Diagnosis, Study]:
    """A run's folder with a diagnosis and a study."""
    d, study = case([("kd", gain, 0.5, verdict)], settings={"evaluation": "x", "steps": 60})
    d, study = replace(d, name=name), replace(study, name=name)
    path.mkdir(parents=True)
    (path / "run.yaml").write_text(f"name: {name}\n")
    d.save(path / "diagnosis.json")
    study.save(path / "study.json")
    if page:
        (path / "report.html").write_text("mine")
    return d, study


def test_a_folder_of_runs_is_an_index_with_links(tmp_path: Path) -> None:
    folder(tmp_path / "a b", "one", 2.0, "helps", page=True)
    folder(tmp_path / "deep" / "c", "two", -2.0, "hurts")
    folder(tmp_path / "deep" / "d", "two", 0.1, "cannot tell", page=True)
    assert len(run_folders(tmp_path)) == 3
    page = report_folders([tmp_path])
    assert page == tmp_path / "index.html"
    text = page.read_text()
    assert '<a href="a%20b/report.html">one</a>' in text and 'href="deep/d/report.html">two (deep/d)</a>' in text
    assert "two (deep/c)" in text and "<figure" not in text
    for answer in ("Distil", "Don&#39;t distil", "No clear difference yet"):
        assert f"<td>{answer}</td>" in text
    message = report_folders([tmp_path], form="md").read_text()
    assert "| one | Distil | accuracy | +2.00 points | +1.50 to +2.50 |" in message


def test_one_folder_is_its_page_and_its_card_advises_over_its_run_file(tmp_path: Path) -> None:
    made = folder(tmp_path / "run", "one", 2.0, "helps")
    page = report_folders([tmp_path / "run"])
    assert (
        page == tmp_path / "run" / "report.html" and f"fractionate distill {tmp_path}/run/run.yaml" in page.read_text()
    )
    assert run_card(tmp_path / "run").headline == decide(made).headline


def test_an_exported_student_belongs_to_the_run_of_its_folder_where_two_share_data_and_teacher(tmp_path: Path) -> None:
    for place, name, accuracy in (("a", "one", 71.0), ("b", "two", 64.0)):
        _, study = folder(tmp_path / place, name, 2.0, "helps")
        both = {"data": "d", "teacher": "t"}
        replace(study, settings=study.settings | both).save(tmp_path / place / "study.json")
        run = replace(study.runs[-1], settings=both, test=Scores(9, 9, {"accuracy": accuracy}))
        (tmp_path / place / "student").mkdir()
        run.save(tmp_path / place / "student" / "run.json")
    shown = {d.name: " ".join(d.reasons) for d in folders_card([tmp_path / "a", tmp_path / "b"]).decisions}
    assert "71.0 %" in shown["one"] and "64.0 %" not in shown["one"]
    assert "64.0 %" in shown["two"] and "71.0 %" not in shown["two"]


def test_two_runs_side_by_side_are_paired_where_seeds_and_test_data_match(tmp_path: Path) -> None:
    _, study = folder(tmp_path / "a", "one", 2.0, "helps")
    folder(tmp_path / "b", "two", -2.0, "hurts")

    def better(by: float, **settings: str | int) -> Study:
        runs = tuple(
            replace(r, test=Scores(9, 9, r.test.values | {"accuracy": r.test.values["accuracy"] + by + r.seed / 10}))
            for r in study.runs
            if r.test
        )
        return replace(study, name="two", runs=runs, settings=study.settings | settings)

    better(1.0, steps=90).save(tmp_path / "b" / "study.json")
    page = report_folders([tmp_path / "a", tmp_path / "b"])
    assert page == tmp_path / "compare.html"
    text = page.read_text()
    assert 'id="both"' in text and "Paired over the seeds that both have" in text
    # seeds 0 and 1 differ by 1 and 1.1: mean 1.05, half an interval of t(1) × 0.0707 / √2 = 0.635
    assert '<td class="num">+1.05 points</td><td class="num">+0.41 to +1.69</td>' in text
    assert "1 setting differs" in text and "<td>60</td><td>90</td>" in text
    better(1.0, evaluation="y").save(tmp_path / "b" / "study.json")
    message = report_folders([tmp_path / "a", tmp_path / "b"], form="md").read_text()
    assert "Not paired" in message and re.search(r"\| kd \|.*\| \+1.05 points \| – \|", message)


def test_folders_without_a_run_are_refused(tmp_path: Path) -> None:
    folder(tmp_path / "a", "one", 2.0, "helps")
    (tmp_path / "empty").mkdir()
    for given in ([tmp_path / "empty"], [tmp_path / "a", tmp_path / "empty"], [tmp_path / "a"] * 3):
        with pytest.raises(ConfigError, match="cannot be reported"):
            report_folders(given)


def test_markdown_holds_the_card_and_no_markup_of_names(tmp_path: Path) -> None:
    d, study = case([("kd", 2.4, 0.3, "helps")])
    text = report([d, study], tmp_path / "a.md").read_text()
    card = decide([d, study]).decisions[0]
    assert "**Distil**: " in text and card.headline.removeprefix("Distil: ") in text
    assert "```yaml\nobjective:\n  cell: kd" in text and "| kd | no teacher | +2.40 points |" in text
    hostile = report(hostile_records(), tmp_path / "h.md", title=HOSTILE[0]).read_text()
    assert not re.search(r"(?<!\\)<\w", re.sub(r"```.*?```", "", hostile, flags=re.S))
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", hostile)


def test_notebooks_show_the_card_and_the_plots() -> None:
    study = case([("kd", 2.4, 0.3, "helps")])[1]
    shown = study._repr_html_()
    assert shown.startswith("<p><b>Distil: ") and "<table>" in shown and "<details><summary>Study</summary>" in shown
    assert "next:" not in shown and "recipe" not in decide([study])._repr_html_()
    assert shown.count("<iframe sandbox ") == 1 and "kd gains most: 2.40 points over no teacher" in shown
    unsure = case([("kd", 2.4, 0.3, "helps"), ("kd-pt", 2.9, 3.1, "cannot tell")])[1]._repr_html_()
    assert "kd is shown to gain: 2.40 points over no teacher" in unsure and "gains most" not in unsure
    assert records()[0]._repr_html_().count("<iframe sandbox ") == 1
    for record in hostile_records():
        html = record._repr_html_()
        assert "<script" not in html and "\x1b" not in html and "<img" not in html
    assert study.deciding._repr_html_().startswith("<pre>")


def test_the_command_line_reports_folders_and_refuses_what_it_would_drop(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*words: str) -> int:
        with pytest.raises(SystemExit) as left:
            main(list(words))
        return int(left.value.code or 0)

    folder(tmp_path / "a", "one", 2.0, "helps")
    folder(tmp_path / "b", "two", -2.0, "hurts")
    assert run("report", str(tmp_path / "a"), str(tmp_path / "b"), "--format", "md", "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["path"] == str(tmp_path / "compare.md")
    assert [d["answer"] for d in printed["card"]["decisions"]] == ["Distil", "Don't distil"]
    assert run("report", str(tmp_path)) == 0
    output = capsys.readouterr()
    assert output.out.strip() == str(tmp_path / "index.html")
    assert (
        "Distil with one (+2.00 points). Don't distil with two." in output.err
        and f"next: fractionate distill {tmp_path}/a" in output.err
    )
    assert run("report", str(tmp_path), "--dry-run") == 2
    assert run("report", str(tmp_path), "--format", "pdf") == 2
    assert "html, md, png or svg" in capsys.readouterr().err
