"""The page on explanations: its program runs as it stands, and what follows from it runs too."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "how-to" / "explanations.md"


def test_the_code_of_the_page_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    program, forest, hidden, chimeric = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    names: dict[str, object] = {}
    exec(program.replace("steps=200", "steps=60"), names)
    assert "4 superfeatures of 30 features" in capsys.readouterr().out
    assert (tmp_path / "runs/why/report.html").exists()
    assert (tmp_path / "runs/why/reasons.csv").read_text().count("\n") == 12 * 4 + 1

    exec(hidden, names)
    exec(chimeric.replace("1_000_000", "500"), names)

    from sklearn.tree import DecisionTreeClassifier

    train = names["train"]
    names["trees"] = DecisionTreeClassifier(max_depth=4, random_state=0).fit(train.inputs.numpy(), train.labels.numpy())
    exec(forest.replace("train, 4", "train, 2").replace("examples=100", "examples=50"), names)
    assert len(names["found"]) == 2
