"""Debian's descriptions: lists as apt writes them, and what is kept of them."""

from __future__ import annotations

import json

import pytest

from fractionate.data import translation
from fractionate.data.translation import descriptions, read_lists
from fractionate.errors import ConfigError, DamagedError, ResourceError

PACKAGES = """Package: sound-tools
Source: sound (1.0)

Package: games

"""
ENGLISH = """Package: sound-tools
Description-md5: aa
Description-en: tools for sound
 A first paragraph
 over two lines.
 .
 A second one.

Package: games
Description-md5: bb
Description-en: Games
 One paragraph.
 .
 Another.

Package: elsewhere
Description-md5: cc
Description-en: not translated
"""
ITALIAN = """Package: sound-tools
Description-md5: aa
Description-it: strumenti per suoni
 Un primo paragrafo.
 .
 Un secondo.

Package: games
Description-md5: bb
Description-it: Games
 Un paragrafo solo.
"""


@pytest.fixture
def lists(tmp_path):
    (tmp_path / "x_main_binary-amd64_Packages").write_text(PACKAGES)
    (tmp_path / "x_main_i18n_Translation-en").write_text(ENGLISH)
    (tmp_path / "x_main_i18n_Translation-it").write_text(ITALIAN)
    return tmp_path


def test_lists_become_pairs(lists):
    found = read_lists(lists, "en", "it")
    assert [(p.source, p.target, p.package) for p in found] == [
        ("tools for sound", "strumenti per suoni", "sound"),
        ("A first paragraph over two lines.", "Un primo paragrafo.", "sound"),
        ("A second one.", "Un secondo.", "sound"),
    ]  # the games' title is the same in both, and its paragraphs are not as many


def test_lists_that_are_not_there_or_hold_nothing(lists):
    (lists / "x_main_i18n_Translation-it").write_text("nothing of the kind")
    with pytest.raises(DamagedError, match="share no description"):
        read_lists(lists, "en", "it")
    with pytest.raises(DamagedError, match="Translation-de"):
        read_lists(lists, "en", "de")


def test_descriptions_are_kept_and_verified(lists, tmp_path, monkeypatch):
    monkeypatch.setenv("FRACTIONATE_DATA", str(tmp_path / "cache"))
    monkeypatch.setattr(translation, "fetch_lists", lambda *arguments: lists)
    with pytest.raises(ResourceError, match="at least 1,000 pairs"):
        descriptions("en", "it")
    monkeypatch.setattr(translation, "LEAST_PAIRS", 3)
    first = descriptions("en", "it")
    monkeypatch.setattr(translation, "fetch_lists", None)
    assert descriptions("en", "it") == first
    path = tmp_path / "cache" / "descriptions" / "en-it.json"
    content = json.loads(path.read_text())
    content["pairs"][0][1] = "altro"
    path.write_text(json.dumps(content))
    with pytest.raises(DamagedError, match="not what was written"):
        descriptions("en", "it")
    path.write_text("{")
    with pytest.raises(DamagedError, match="remove it"):
        descriptions("en", "it")


def test_what_apt_says_is_passed_on(tmp_path, monkeypatch):
    apt = tmp_path / "bin" / "apt-get"
    apt.parent.mkdir()
    apt.write_text('#!/bin/sh\necho "E: no network" >&2\nexit 100\n')
    apt.chmod(0o755)
    monkeypatch.setenv("PATH", str(apt.parent))
    monkeypatch.setenv("FRACTIONATE_DATA", str(tmp_path / "cache"))
    with pytest.raises(ResourceError, match="E: no network"):
        descriptions("en", "it")
    apt.unlink()
    with pytest.raises(ResourceError, match="apt-get, which is not here"):
        descriptions("en", "it")
    with pytest.raises(ConfigError, match="not a language"):
        descriptions("en", 'it"; x')
