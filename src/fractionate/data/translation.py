"""Debian's package descriptions and their translations by volunteers: real sentence pairs that apt alone can fetch.

The indexes change with every point release, so there is no hash to hold them to: apt proves each against Debian's signed list
before it hands them over, we check their form and size, and what is kept carries a fingerprint of its own for the records.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fractionate.data.packages import cache_folder
from fractionate.errors import ConfigError, DamagedError, ResourceError
from fractionate.system.atomic import make_directory, write_file

LEAST_PAIRS = 1_000  # fewer than this and the indexes are not what they were: en–it has 111,205 in Debian 12
CONFIGURATION = """Dir::Etc::parts "{empty}";
Dir::State::lists "{lists}";
Acquire::GzipIndexes "false";
Acquire::Languages {{"{source}";"{target}";}};
"""
DESCRIPTION = r"Package: (.*)\nDescription-md5: (\w+)\nDescription-{language}: (.*)((?:\n .*)*)"


@dataclass(frozen=True)
class Pair:
    """A sentence, its translation, and the source package it is about: siblings of one package share templates."""

    source: str
    target: str
    package: str


def fingerprint(pairs: Sequence[Pair]) -> str:
    """sha256 of all sentences and packages, in order."""
    digest = hashlib.sha256()
    for pair in pairs:
        digest.update(f"{pair.source}\t{pair.target}\t{pair.package}\n".encode())
    return digest.hexdigest()


def descriptions(source: str = "en", target: str = "it") -> tuple[Pair, ...]:
    """Titles and paragraphs of Debian's package descriptions with their translations, each distinct pair once.

    They come from the cache, or are fetched by apt into folders of this package (no rights needed, the system's lists stay as they
    are).

    Args:
        source: The code of the language to translate from.
        target: That of the other language.

    Returns:
        Source, target and package of each.

    Raises:
        ConfigError: for what is no language code.
        ResourceError: where they cannot be had.
        DamagedError: where the cache does not hold what was written to it.
    """
    for language in (source, target):
        if not re.fullmatch(r"[a-z]{2,3}(_[A-Z]{2})?", language):
            raise ConfigError("this is not a language", expected="a code as 'it' or 'pt_BR'", got=repr(language))
    kept = cache_folder() / "descriptions" / f"{source}-{target}.json"
    if kept.is_file():
        return _read(kept)
    with tempfile.TemporaryDirectory() as folder:
        lists = fetch_lists(Path(folder), source, target)
        found = read_lists(lists, source, target)
    if len(found) < LEAST_PAIRS:
        raise ResourceError(
            f"Debian's lists hold few descriptions in {target!r}", expected=f"at least {LEAST_PAIRS:,} pairs",
            got=f"{len(found):,}", fix="see https://ddtp.debian.org for languages with translations",
        )  # fmt: skip
    make_directory(kept.parent)
    rows = [[p.source, p.target, p.package] for p in found]
    content = {"fingerprint": fingerprint(found), "languages": [source, target], "pairs": rows}
    write_file(kept, json.dumps(content, ensure_ascii=False).encode())
    return found


def _read(path: Path) -> tuple[Pair, ...]:
    try:
        content = json.loads(path.read_bytes())
        found = tuple(Pair(*row) for row in content["pairs"])
        expected, got = content["fingerprint"], fingerprint(found)
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedError(f"{path} cannot be read", got=str(error), fix="remove it and run again") from error
    if expected != got:
        raise DamagedError(
            f"{path} is not what was written", expected=f"sha256 {expected}", got=got, fix="remove it and run again"
        )
    return found


def fetch_lists(folder: Path, source: str, target: str) -> Path:
    """Let apt fetch the indexes of two languages into a folder; gives the folder with them.

    Raises `ResourceError` with apt's message, or where there is no apt.
    """
    fix = "run it once on Debian or Ubuntu and set FRACTIONATE_DATA to a copy of that cache"
    if not shutil.which("apt-get"):
        raise ResourceError("the descriptions come through apt-get, which is not here", fix=fix)
    lists = folder / "lists"
    (lists / "partial").mkdir(parents=True)
    (folder / "empty").mkdir()  # some images switch translations off in apt.conf.d
    written = CONFIGURATION.format(empty=folder / "empty", lists=lists, source=source, target=target)
    (folder / "apt.conf").write_text(written)
    done = subprocess.run(
        ["apt-get", "update", "-qq"],  # noqa: S607  # the system's own apt
        env=os.environ | {"APT_CONFIG": str(folder / "apt.conf")},
        capture_output=True,
        text=True,
        check=False,
    )
    if not list(lists.glob(f"*_i18n_Translation-{_escaped(target)}")):
        output = (done.stderr or done.stdout).strip().splitlines()
        raise ResourceError(
            f"apt gave no descriptions in {target!r}",
            got=output[-1] if output else f"exit code {done.returncode}",
            fix=fix,
        )
    return lists


def read_lists(lists: Path, source: str, target: str) -> tuple[Pair, ...]:
    """The pairs in a folder of apt's lists: titles, and paragraphs where both languages have as many of them.

    Pairs of two equal texts are left out. Raises `DamagedError` where an index is missing or holds nothing of its form.
    """
    packages: dict[str, str] = {}
    for path in _indexes(lists, "*_Packages"):
        for entry in path.read_text("utf8").split("\n\n"):
            name = re.search(r"^Package: (.*)$", entry, re.MULTILINE)
            origin = re.search(r"^Source: (\S+)", entry, re.MULTILINE)
            if name:
                packages[name[1]] = origin[1] if origin else name[1]
    ours, theirs = (_translations(lists, language) for language in (source, target))
    found: dict[tuple[str, str], str] = {}
    for key, (package, title, paragraphs) in theirs.items():
        if key in ours:
            _, our_title, our_paragraphs = ours[key]
            both = [(our_title, title)]
            if len(our_paragraphs) == len(paragraphs):
                both += zip(our_paragraphs, paragraphs, strict=True)
            for pair in both:
                if pair[0] != pair[1]:
                    found.setdefault(pair, packages.get(package, package))
    if not found:
        raise DamagedError(
            f"the indexes in {lists} share no description",
            expected=f"entries in {source!r} and {target!r} with one md5",
        )
    return tuple(Pair(*texts, package) for texts, package in found.items())


def _escaped(language: str) -> str:
    return language.replace("_", "%5f")  # as apt writes file names


def _indexes(lists: Path, pattern: str) -> list[Path]:
    found = sorted(lists.glob(pattern))
    if not found:
        raise DamagedError(f"{lists} holds no index {pattern}", got=", ".join(sorted(p.name for p in lists.iterdir())))
    return found


def _translations(lists: Path, language: str) -> dict[str, tuple[str, str, list[str]]]:
    """md5 of the English text -> package, title, paragraphs."""
    form = re.compile(DESCRIPTION.format(language=re.escape(language)))
    found = {}
    for path in _indexes(lists, f"*_i18n_Translation-{_escaped(language)}"):
        for entry in path.read_text("utf8").split("\n\n"):
            match = form.search(entry)
            if match:
                package, key, title, body = match.groups()
                paragraphs = [" ".join(p.split()) for p in re.split(r"\n \.(?=\n|$)", body)]
                found[key] = (package, title.strip(), [p for p in paragraphs if p])
    return found
