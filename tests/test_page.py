"""The page: made of real records, whole or not at all, a chapter for each record and no empty ones."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from tests.page_records import digits_records

from fractionate.errors import ConfigError, DamagedError, ResourceError
from fractionate.page import read_record, report
from fractionate.records import Diagnosis, Study

CHAPTERS = ("decision", "pays", "findings", "teacher", "students", "appendix")


@cache
def records() -> tuple[Diagnosis, Diagnosis, Study]:
    return digits_records()


def chapters_of(path: Path) -> list[str]:
    return re.findall(r'<section id="([\w-]+)"', path.read_text())


def test_all_chapters_in_order(tmp_path):
    healthy, smoothed, study = records()
    one = [replace(healthy, name="one"), replace(study, name="one")]
    assert chapters_of(report(one, tmp_path / "a.html")) == [*CHAPTERS, "again"]
    two = chapters_of(report([*one, smoothed], tmp_path / "b.html"))  # a teacher each, as tabs
    assert two == [*CHAPTERS, *(f"{name}-2" for name in ("decision", "findings", "teacher", "appendix")), "again"]


def test_a_chapter_without_its_record_is_left_out(tmp_path):
    healthy, _, study = records()
    assert chapters_of(report(healthy, tmp_path / "d.html")) == ["decision", "findings", "teacher", "appendix"]
    assert "findings" not in chapters_of(report(study, tmp_path / "s.html"))
    run = study.runs[-1]
    assert chapters_of(report(run, tmp_path / "r.html")) == ["decision", "teacher", "students", "appendix", "again"]


def test_every_plot_has_its_numbers_and_a_download(tmp_path):
    page = report(records(), tmp_path / "a.html").read_text()
    figures = re.findall(r"<figure.*?</figure>", page, re.S)
    assert len(figures) >= 9
    for figure in figures:
        assert "<svg" in figure and "<tbody>" in figure and 'href="data:text/csv' in figure
        assert figure.count("<tr>") > 2


def test_records_from_files_and_texts_give_the_same_page(tmp_path):
    folder = tmp_path / "records"
    folder.mkdir()
    for name, record in zip("abc", records(), strict=True):
        record.save(folder / f"{name}.json")
    want = report(records(), tmp_path / "a.html").read_bytes()
    assert report(folder, tmp_path / "b.html").read_bytes() == want
    assert report([r.to_json() for r in records()], tmp_path / "c.html").read_bytes() == want
    assert report(folder, tmp_path).name == "report.html"


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ([], ConfigError),
        ("missing.json", ConfigError),
        ("{broken", DamagedError),
        ('{"what": 1}', ConfigError),
        ("{}", ConfigError),
        (3, ConfigError),
        ([None], ConfigError),
    ],
)
def test_bad_records_are_refused_with_nothing_written(tmp_path, source, error):
    with pytest.raises(error):
        report(source, tmp_path / "a.html")
    assert not list(tmp_path.iterdir())


def test_unwritable_output_is_a_resource_error_and_keeps_what_was_there(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ResourceError):
        report(records()[0], tmp_path / "file" / "a.html")
    with pytest.raises(ResourceError):
        report(records()[0], "/proc/nowhere/a.html")
    assert (tmp_path / "file").read_text() == "mine"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_failure_leaves_the_old_page(tmp_path, monkeypatch):
    old = report(records()[0], tmp_path / "a.html").read_bytes()
    monkeypatch.setattr("fractionate.page.template.fill", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        report(records(), tmp_path / "a.html")
    assert (tmp_path / "a.html").read_bytes() == old
    assert [p.name for p in tmp_path.iterdir()] == ["a.html"]


def test_read_record_knows_each_kind():
    healthy, _, study = records()
    for record in (healthy, study, study.runs[0]):
        assert read_record(record.to_json()) == record
