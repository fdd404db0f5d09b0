"""Paths as a person writes them: home folders, what was pasted from elsewhere, and lines that a shell takes back."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import torch
from torch import nn

from fractionate import collect, diagnose, dissect, distill, report
from fractionate.data.examples import Examples
from fractionate.errors import ConfigError
from fractionate.models.export import export_student
from fractionate.models.weights import read_weights
from fractionate.records import Run, Training
from fractionate.run.runfile import load_run
from fractionate.store import Store, export, verify
from fractionate.system.atomic import make_directory, write_file
from fractionate.system.paths import as_path, shell_line


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home folder of its own, and another folder to work in."""
    (tmp_path / "home").mkdir()
    (tmp_path / "work").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "home"


def test_a_tilde_is_the_home_folder(home):
    assert as_path("~/a b/c") == home / "a b" / "c"
    assert as_path(Path("~")) == home
    assert as_path("a~b") == Path("a~b")
    assert as_path("./~a") == as_path(as_path("./~a")) == Path.cwd() / "~a"  # the name itself, however often
    Path("~old.csv").touch()
    assert as_path("~old.csv") == Path.cwd() / "~old.csv"  # it is there, and there is no such user
    with pytest.raises(ConfigError, match=r"no home folder '~nobody-of-that-name'(.|\n)*write \./~nobody"):
        as_path("~nobody-of-that-name/x")
    assert as_path("~root/x") != Path("~root/x")


def test_no_way_to_write_makes_a_folder_called_tilde(home):
    inputs, labels = torch.randn(16, 4), torch.arange(16) % 2
    _, run = distill(nn.Linear(4, 2), (inputs, labels), training=Training(steps=1), out="~/run")
    assert (home / "run" / "run.json").is_file() and Run.load("~/run/run.json") == run
    run.save("~/copy.json")
    make_directory("~/made")
    write_file("~/made/x", b"1")
    assert (home / "made" / "x").read_bytes() == b"1" and (home / "copy.json").is_file()
    assert [*Path().iterdir()] == []


def test_the_verbs_take_home_folders(home):
    inputs, labels = torch.randn(24, 4), torch.arange(24) % 3
    data = Examples(inputs, labels)
    store = collect(nn.Linear(4, 3), data, "~/store")
    assert Store.open("~/store").path == store.path == home / "store"
    assert verify("~/store").whole and export("~/store", "npy", "~/npy") == home / "npy"
    found = diagnose("~/npy/logits.npy", labels="~/npy/labels.npy")
    found.save("~/found.json")
    assert (
        diagnose("~/store").spectrum == found.spectrum and report("~/found.json", "~/page.html") == home / "page.html"
    )
    dissect(
        lambda: nn.Linear(4, 3),
        data,
        store.signal(),
        cells=("hard", "kd"),
        seeds=2,
        training=Training(steps=1),
        test=data,
        out="~/study",
    )
    export_student(nn.Linear(4, 3), "~/student", program=False)
    assert (home / "study" / "study.json").is_file() and (home / "student" / "README.md").is_file()
    assert [*Path().iterdir()] == []


def test_run_files_write_home_folders_out(home):
    run = load_run(None, ("out=~/runs/a", "teacher.weights=~/w.safetensors"))
    assert (run.out, run.teacher.weights) == (str(home / "runs/a"), str(home / "w.safetensors"))
    with pytest.raises(ConfigError, match="there is no weights file"):
        read_weights("~/w.safetensors")


PASTED = {
    "$HOME/run": "variable of a shell", "${DATA}/x": "variable of a shell", "runs/$USER": "variable of a shell",
    "%APPDATA%/x": "variable of a shell", "'runs/a'": "quotes", '"a"': "quotes", "“a”": "quotes", " a": "blank", "a\n": "blank",
    "file:///tmp/x": "URL", "https://example.org/x": "URL", "a\x1b[31mb": "cannot be printed", "a\u202eb": "cannot be printed",
    "a\nb": "cannot be printed", "": "empty", "a\0b": "NUL", "a" * 256: "256 bytes", "x/" + "é" * 200: "402 bytes",
    "\ud800": "invalid value", "x/" * 3000: "6,000 bytes",
}  # fmt: skip


@pytest.mark.parametrize("text", PASTED)
def test_what_was_pasted_from_elsewhere_is_refused(home, text):
    with pytest.raises(ConfigError) as caught:
        as_path(text, "out")
    assert PASTED[text] in str(caught.value) and "out" in str(caught.value)
    with pytest.raises(ConfigError):
        write_file(text, b"")
    assert [*Path().iterdir(), *home.iterdir()] == []


@pytest.mark.parametrize("wrong", [None, 3, b"x", ["x"]])
def test_what_is_no_path_is_refused(wrong):
    with pytest.raises(ConfigError, match="invalid value for out"):
        as_path(wrong, "out")


def test_odd_names_that_are_there_are_taken(home):
    for name in ("$HOME", "'a'", " a ", "a$b", "a\nb", "a\x1bb", "50%", "a'b"):
        Path(name).touch()
        assert as_path(name) == Path(name) and as_path(name).exists()


def test_a_line_for_a_shell_is_taken_back_by_it():
    words = [
        "echo",
        "a b",
        "it's",
        "data.source=table('p q', label=\"c\")",
        "$HOME",
        "a\nb\tc\x1b[0m",
        "\\x41'",
        "\udcff",
        "ü→",
        "",
    ]
    line = shell_line(words)
    assert line.isprintable()
    done = subprocess.run(["bash", "-c", f"printf '%s\\0' {line}"], capture_output=True, check=True)
    assert [os.fsdecode(word) for word in done.stdout.split(b"\0")[:-1]] == words
