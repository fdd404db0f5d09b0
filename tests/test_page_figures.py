"""Figures for papers: matplotlib figures of what the records hold, from Python and the command line, the same bytes each time."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
from tests.test_page import records
from tests.test_page_card import case

from fractionate.cli.commands import main
from fractionate.errors import ConfigError, MissingExtraError
from fractionate.page import figures, report
from fractionate.records import NotableExamples, Reliability

RELIABILITY = Reliability("student", (0, 4, 6), (0.0, 0.5, 0.9), (0.0, 0.25, 1.0))


def test_figures_are_of_what_the_records_hold() -> None:
    healthy, _, study = records()
    assert list(healthy.figures()) == ["spectrum", "temperature", "relation"]
    made = study.figures()
    assert list(made) == ["effects", "shares", "curves"]
    (axes,) = made["effects"].axes
    assert len(axes.get_yticklabels()) == sum(e.metric == "accuracy" for e in study.effects)
    found = figures([healthy, study, NotableExamples(study.name, "test", 10, (), (RELIABILITY,))])
    assert {"spectrum", "calibration", "effects"} <= set(found)
    lines = found["calibration"].axes[0].get_lines()
    assert list(lines[1].get_xdata()) == [0.5, 0.9] and list(lines[1].get_ydata()) == [0.25, 1.0]
    with pytest.raises(ConfigError, match="nothing to draw"):
        figures([NotableExamples("x", "test", 1, ())])


def test_files_are_the_same_each_time_and_names_are_no_mathematics(tmp_path: Path) -> None:
    _, study = case([("kd", 2.4, 0.3, "helps")])
    named = replace(study, effects=tuple(replace(e, arm="$\\frac{1}{0}$") for e in study.effects), runs=())
    for name in ("a", "b"):
        assert report(named, tmp_path / f"{name}.svg") == tmp_path / name
    one, other = ((tmp_path / name / "effects.svg").read_bytes() for name in ("a", "b"))
    assert one == other and b"frac{1}{0}" in one
    report(study, tmp_path / "c.png")
    assert (tmp_path / "c" / "effects.png").read_bytes().startswith(b"\x89PNG")


def test_the_command_line_makes_figures_of_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    d, study = case([("kd", 2.4, 0.3, "helps")])
    (tmp_path / "run.yaml").write_text("name: one\n")
    d.save(tmp_path / "diagnosis.json")
    study.save(tmp_path / "study.json")
    with pytest.raises(SystemExit) as left:
        main(["report", str(tmp_path), "--format", "svg"])
    assert not left.value.code and capsys.readouterr().out.strip() == str(tmp_path / "report")
    assert {"effects.svg", "spectrum.svg", "relation.svg"} <= {file.name for file in (tmp_path / "report").iterdir()}


def test_without_matplotlib_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match="figures need matplotlib"):
        records()[0].figures()
