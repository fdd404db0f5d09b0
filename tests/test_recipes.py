"""The quickstart in the README is the program in recipes/, and it runs."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def test_the_readme_shows_the_recipe():
    program = (ROOT / "recipes" / "own_model.py").read_text(encoding="utf-8").split('"""', 2)[2].strip()
    assert f"```python\n{program}\n```" in (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_quickstart_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(ROOT / "recipes" / "own_model.py"), run_name="__main__")
    output = capsys.readouterr().out
    assert "nats an example" in output
    assert "accuracy against no teacher" in output
    assert (tmp_path / "runs/own/report.html").read_text(encoding="utf-8").startswith("<!doctype html>")
