"""A page carries its records: a later renderer makes it anew, and other formats of it."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from tests.test_page_browser import HOSTILE, hostile_records
from tests.test_page_card import case

from fractionate.cli.commands import main
from fractionate.errors import ConfigError, DamagedError
from fractionate.page import decide, read_page, report
from fractionate.page.template import renderer


def test_a_page_made_of_the_records_it_carries_is_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = case([("kd", 2.4, 0.3, "helps")])
    page = report(made, tmp_path / "a.html", title="T", command="again", run_files={"one": ("run.yaml",)})
    before = page.read_text()
    assert f"renderer {renderer()}" in before
    records, settings = read_page(page)
    assert str(decide(records, settings.run_files)) == str(decide(made, {"one": ("run.yaml",)}))
    with pytest.raises(SystemExit) as left:
        main(["report", str(page)])
    assert not left.value.code and "Distil: " in capsys.readouterr().err
    again = page.read_bytes()  # of numbers with six digits
    assert abs(len(again) - len(before.encode())) < 20_000 and f"renderer {renderer()}" in page.read_text()
    with pytest.raises(SystemExit):
        main(["report", str(page)])
    assert page.read_bytes() == again
    with pytest.raises(SystemExit):
        main(["report", str(page), "--format", "md"])
    assert "**Distil**" in (tmp_path / "a.md").read_text()


def test_hostile_records_are_carried_as_data(tmp_path: Path) -> None:
    d, study = case([("kd", 2.4, 0.3, "helps")])
    names = tuple(text for text in HOSTILE if text.isprintable())
    hostile = replace(d, class_names=names)
    page = report([hostile, study], tmp_path / "h.html")
    assert read_page(page)[0][0].class_names == names
    assert report(hostile_records(), tmp_path / "none.html").is_file(), "with what is no Unicode a page carries nothing"
    with pytest.raises(ConfigError, match="carries no records"):
        read_page(tmp_path / "none.html")


def test_pages_without_records_and_damaged_ones_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text("<p>mine</p>")
    with pytest.raises(ConfigError, match="carries no records"):
        read_page(tmp_path / "a.html")
    page = report(case([("kd", 2.4, 0.3, "helps")]), tmp_path / "b.html")
    for wrong in ("AAAA", "H4sIAAAAAAAC/w"):
        page.write_text(re.sub(r"(application/gzip;base64,)[^\"]+", rf"\g<1>{wrong}", page.read_text()))
        with pytest.raises(DamagedError, match="are damaged"):
            read_page(page)
