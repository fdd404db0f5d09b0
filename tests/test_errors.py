"""Every class of error has a code of its own that does not change, and its line in the documentation."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fractionate import errors
from fractionate.cli import main

PAGE = Path(__file__).parents[1] / "docs" / "errors.md"
CLASSES = [
    kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.FractionateError)
]


def test_the_page_lists_each_class_with_its_codes():
    rows = re.findall(r"^\| (FR\d+) \| `(\w+)` \| (\S+)", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    told = {
        kind.__name__: (kind.code, "128" if kind is errors.StoppedError else str(kind.exit_code)) for kind in CLASSES
    }
    assert {name: (code, number) for code, name, number in rows} == told and len(rows) == len(told)
    assert len({kind.code for kind in CLASSES}) == len(CLASSES)
    assert all(kind.code[2] == str(kind.exit_code) for kind in CLASSES if kind is not errors.StoppedError)


def test_the_command_line_names_the_code(tmp_path, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["store", "info", str(tmp_path)])
    assert caught.value.code == 2 and "code:     FR200 (docs/errors.md)" in capsys.readouterr().err
