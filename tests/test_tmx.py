"""Translation memories: two of their languages as sentence pairs."""

from __future__ import annotations

from pathlib import Path

import pytest

from fractionate.data.own_pairs import pairs
from fractionate.errors import ConfigError, DamagedError

HEAD = '<?xml version="1.0" encoding="UTF-8"?>\n<tmx version="1.4"><header srclang="en"/><body>\n'
UNIT = (
    '<tu><tuv xml:lang="en-GB"><seg>The <bpt i="1">&lt;b&gt;</bpt>cat<ept i="1"/> sat &amp; slept {n}.</seg></tuv>'
    '<tuv xml:lang="it"><seg>Il gatto\n dormiva {n}.</seg></tuv><tuv xml:lang="de"><seg>Katze {n}</seg></tuv></tu>\n'
)


def memory(folder: Path, body: str, head: str = HEAD) -> Path:
    path = folder / "memory.tmx"
    path.write_text(f"{head}{body}</body></tmx>\n", encoding="utf-8")
    return path


def test_two_languages_of_a_memory(tmp_path: Path) -> None:
    body = "".join(UNIT.replace("{n}", str(n)) for n in range(3))
    rest = '<tu><tuv xml:lang="en"><seg>alone</seg></tuv></tu>\n'
    with pytest.warns(UserWarning, match="1 of 4 pairs have an empty side"):
        found = pairs(memory(tmp_path, body + rest), source="en", target="it").table.examples
    assert found.columns["source"] == tuple(f"The cat sat & slept {n}." for n in range(3))
    assert found.columns["target"] == tuple(f"Il gatto dormiva {n}." for n in range(3))
    assert found.ids == ("3", "5", "7")  # the lines of the units


@pytest.mark.parametrize(
    ("body", "head", "settings", "error", "message"),
    [
        (UNIT, HEAD, {"source": "en", "target": "fr"}, ConfigError, "one of de, en-gb, it"),
        (UNIT, HEAD, {}, ConfigError, "no language 'source'"),
        (UNIT, HEAD, {"source": "en", "target": "it", "encoding": "utf-8"}, ConfigError, "encoding cannot be set"),
        (UNIT, HEAD, {"source": "en", "target": "it", "group": "x"}, ConfigError, "group cannot be set"),
        ("<tu>", HEAD, {"source": "en", "target": "it"}, DamagedError, "memory.tmx:3 this is no XML"),
        ("&big;", '<!DOCTYPE tmx [<!ENTITY big "bigger">]><tmx><body>', {"source": "en", "target": "it"}, DamagedError, "entity"),
        ("", '<!DOCTYPE tmx [<!ENTITY f SYSTEM "/etc/hostname">]><tmx><body>', {}, DamagedError, "entity"),
    ],
)  # fmt: skip
def test_memories_that_are_refused(
    body: str, head: str, settings: dict[str, str], error: type[Exception], message: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        pairs(memory(tmp_path, body, head), **settings)
