"""Every class of error has a code of its own that does not change, and its line in the documentation."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fractionate import errors
from fractionate.cli.commands import main

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "errors.md"
CLASSES = [
    kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.FractionateError)
]


def test_the_page_lists_each_class_with_its_codes():
    rows = re.findall(r"^\| (FR\d+) \| `(\w+)` \| (\S+)", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    message = {
        kind.__name__: (kind.code, "128" if kind is errors.StoppedError else str(kind.exit_code)) for kind in CLASSES
    }
    assert {name: (code, number) for code, name, number in rows} == message and len(rows) == len(message)
    assert len({kind.code for kind in CLASSES}) == len(CLASSES)
    assert all(kind.code[2] == str(kind.exit_code) for kind in CLASSES if kind is not errors.StoppedError)


def test_the_command_line_names_the_code(tmp_path, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["store", "info", str(tmp_path)])
    assert caught.value.code == 2 and "code:     FR200 (fractionate explain FR200)" in capsys.readouterr().err


def test_the_command_line_explains_each_code(capsys):
    for kind in CLASSES:
        with pytest.raises(SystemExit) as caught:
            main(["explain", kind.code.lower()])
        output = capsys.readouterr().out
        assert (
            not caught.value.code and output.startswith(f"{kind.code}  {kind.__name__}, exit code") and "try:" in output
        )
    with pytest.raises(SystemExit) as caught:
        main(["explain", "FR999"])
    assert caught.value.code == 2 and "FR300" in capsys.readouterr().err


def test_messages_hold_nothing_that_a_terminal_acts_on():
    text = "a\x1b]0;x\x07\x9b31m\u202eb\ud800\r\x00"
    error = errors.ConfigError(text, expected=text, got=text, fix=text)
    for part in (str(error), error.what, error.expected, error.got, error.fix):
        assert all(c.isprintable() or c == "\n" for c in part) and "\\x1b" in part
    assert errors.visible("a\n\tü→😀") == "a\n\tü→😀"
    assert errors.printable("a\nb" * 100, 10) == "a\\nba\\nba\\…"[:9] + "…"


def test_the_reason_of_an_error_is_one_line():
    assert errors.reason(ValueError("first\nsecond")) == "first"
    assert errors.reason(EOFError()) == "EOFError"
    assert errors.reason(ValueError(" \n ")) == "ValueError"
    assert (
        errors.reason(ValueError("\x1b[2J" + "x" * 999)).startswith("\\x1b[2Jx")
        and len(errors.reason(ValueError("x" * 999))) == 200
    )


@pytest.mark.parametrize(
    ("raised", "code", "words"),
    [
        (PermissionError(13, "Permission denied", "/x/y"), 6, "/x/y: Permission denied"),
        (OSError(36, "File name too long", "n" * 5), 6, "File name too long"),
        (MemoryError(), 6, "not enough memory"),
        (TypeError("\x1b[31m"), 1, "a bug of fractionate"),
    ],
)
def test_what_no_part_foresaw_ends_in_a_message(raised, code, words, monkeypatch, capsys):
    import fractionate.store.upkeep

    def fail(_):
        raise raised

    monkeypatch.setattr(fractionate.store.upkeep, "info", fail)
    with pytest.raises(SystemExit) as caught:
        main(["store", "info", "x"])
    output = capsys.readouterr()
    assert (
        caught.value.code == code and words in output.err and "Traceback" not in output.err and "\x1b" not in output.err
    )
    monkeypatch.setenv("FRACTIONATE_DEBUG", "1")
    with pytest.raises(type(raised)):
        main(["store", "info", "x"])
