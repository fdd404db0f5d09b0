"""Debian's descriptions and SentencePiece: lists as apt writes them, pairs split by package, pairs as batches."""

from __future__ import annotations

import json

import pytest
import torch

from fractionate.data import translation
from fractionate.data.subwords import END, PAD, Sentences, Subwords, padded
from fractionate.data.translation import Pair, Pairs, descriptions, read_lists
from fractionate.errors import ConfigError, DamagedError, MismatchError, ResourceError
from translators import TEXTS, sentences, subwords

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
    assert [(p.source, p.target, p.package) for p in found.pairs] == [
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
    assert descriptions("en", "it").fingerprint == first.fingerprint
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


def some_pairs(number=300):
    made = [Pair(f"text {n}", f"testo {n}", f"package {n // 3}") for n in range(number)]
    return Pairs((*made, Pair("TEXT 1", "altro", "again")), ("en", "it"))


def test_parts_share_no_package_and_no_sentence():
    rest, validation, test = some_pairs().held_out(30, 60)
    parts = [{p.package for p in part.pairs} for part in (rest, validation, test)]
    assert sum(map(len, parts)) == len(set.union(*parts))
    learned = {text.lower() for p in rest.pairs for text in (p.source, p.target)}
    for part, size in ((validation, 30), (test, 60)):
        assert size <= len(part) + part.dropped <= size + 2
        assert not learned & {text.lower() for p in part.pairs for text in (p.source, p.target)}
    assert some_pairs().held_out(30, 60)[2].fingerprint == test.fingerprint
    dropped = [some_pairs().held_out(150, seed=seed)[1].dropped for seed in range(8)]
    assert 1 in dropped  # where "TEXT 1" is held out and "text 1" is not
    with pytest.raises(ConfigError, match="cannot be split"):
        some_pairs().held_out(301)
    with pytest.raises(ConfigError, match="nothing is left"):
        Pairs((Pair("a", "b", "p"), Pair("c", "d", "p")), ("en", "it")).held_out(1)


def test_some_pairs_are_drawn_by_their_text():
    pairs = some_pairs()
    assert len(pairs.some(20)) == 20
    assert pairs.some(20).fingerprint == Pairs(pairs.pairs[::-1], ("en", "it")).some(20).fingerprint
    assert pairs.some(20).fingerprint != pairs.some(20, seed=1).fingerprint
    assert len(pairs.up_to(1)) == 0
    with pytest.raises(ConfigError, match=r"1\.\.301"):
        pairs.some(302)


def test_pieces_give_texts_back(tmp_path):
    model = subwords()
    model.save(tmp_path / "pieces.model")
    again = Subwords.read(tmp_path / "pieces.model")
    assert (len(again), again.fingerprint) == (60, model.fingerprint)
    assert Subwords.learned([text for pair in TEXTS for text in pair], 60).fingerprint == model.fingerprint
    texts = [target for _, target in TEXTS]
    rows = [[*row, END, 7, PAD] for row in model.encode(texts)]
    assert model.decode(rows) == texts
    with pytest.raises(ConfigError, match="smaller vocabulary"):
        Subwords.learned(["a b"], 500)
    with pytest.raises(MismatchError, match=r"the bytes of a \.model file"):
        len(Subwords(b"nothing"))


def test_batches_are_padded_and_shifted():
    data = sentences()
    batch = padded([data[4], data[2]])
    lengths = [len(data.sources[4]), len(data.sources[2])]
    assert batch["attention_mask"].sum(1).tolist() == lengths
    assert batch["input_ids"].shape == (2, max(lengths))
    short = len(data.targets[4])
    assert batch["labels"][0, short:].eq(-100).all()
    assert batch["labels"][0, short - 1] == END
    assert batch["decoder_input_ids"][0, 0] == PAD
    assert torch.equal(batch["decoder_input_ids"][0, 1:short], batch["labels"][0, : short - 1])


def test_empty_and_long_pairs_are_counted():
    found = Sentences.of([*TEXTS, ("", "vuoto"), ("empty", " "), ("a game " * 40, "un gioco")], subwords(), longest=32)
    assert (len(found), found.empty, found.long) == (8, 2, 1)
    assert "2 empty, 1 too long" in repr(found)
    with pytest.raises(MismatchError, match="1 with an empty side, 0 too long"):
        Sentences.of([("", "x")], subwords())
