"""The documentation of findings says what the probes do: one section a probe, its thresholds and needs as they are."""

from __future__ import annotations

import re
from dataclasses import MISSING, fields
from pathlib import Path

import pytest

from fractionate.diagnosis import probes
from fractionate.diagnosis.case import NEEDS
from fractionate.diagnosis.causes import BRINGS_ABOUT

TEXT = (Path(__file__).parents[1] / "docs" / "reference" / "findings.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## ([\w-]+)\n(.*?)(?=^## |\Z)", TEXT, flags=re.DOTALL | re.MULTILINE))


def test_one_section_a_probe():
    assert set(SECTIONS) == set(probes)


@pytest.mark.parametrize("name", list(probes))
def test_thresholds_and_needs_are_those_of_the_code(name):
    written = {}
    for field, value in re.findall(r"`(\w+)` = (-?[\d./]+)[,.]", SECTIONS[name]):
        top, _, bottom = value.rstrip(".").partition("/")
        written[field] = float(top) / float(bottom or 1)
    probe = probes[name]
    assert written == {f.name: pytest.approx(float(getattr(probe, f.name))) for f in fields(probe)}
    assert all(f.default is not MISSING for f in fields(probe))
    must = SECTIONS[name].split("Needs:")[1].split(";")[0]
    assert set(re.findall(r"`(\w+)`", must)) == set(probe.needs) <= set(NEEDS) or "nothing more" in must


def test_causes_are_probes():
    assert set(BRINGS_ABOUT) <= set(probes)
    assert {effect for effects in BRINGS_ABOUT.values() for effect in effects} <= set(probes)
