"""Numbers as what is learned from texts: standardised by the transfer part, by a tokenizer or as hashed words."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from fractionate.cli.commands import main
from fractionate.data import texts
from fractionate.data.own_texts import TextEncoding
from fractionate.data.targets import TargetEncoding
from fractionate.errors import ConfigError, NumericsError
from tiny_hub import bert

WORDS = ("cat", "dog", "storm", "rain")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("numbers")
    rows = [f"the {WORDS[n % 4]} number {n},{10 * (n % 4) + 0.5},{n % 3}" for n in range(80)]
    (folder / "wines.csv").write_text("text,price,age\n" + "\n".join(rows) + "\n")
    bert(folder / "bert")
    return folder


def test_they_are_standardised_by_the_transfer_part_alone(place: Path) -> None:
    parts = texts(place / "wines.csv", target="price").parts(transfer=40, validation=10, test=20)
    learned = parts.transfer.labels
    assert abs(float(learned.mean())) < 1e-5 and float(learned.std(unbiased=False)) == pytest.approx(1, abs=1e-5)
    units = parts.encoding.target.in_units(parts.test.labels)
    assert {round(value, 3) for value in units.tolist()} <= {0.5, 10.5, 20.5, 30.5}
    both = texts(place / "wines.csv", target=["price", "age"]).parts(transfer=40, validation=10, test=20)
    assert both.test.labels.shape == (20, 2) and both.encoding.target.columns == ("price", "age")


def test_a_run_file_learns_them(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    (place / "run.yaml").write_text(
        "task: regression\ndata: {source: \"texts('wines.csv', target='price')\", transfer: 40, validation: 10, test: 20,\n"
        "  length: 16}\n"
        "teacher: {model: \"hf('bert', layers=1)\", train: {steps: 3, on: transfer}}\nstudent: {model: \"hf('bert', layers=1)\"}\n"
        "training: {steps: 3, batch_size: 8}\nstudy: {arms: {no teacher: {}, taught: {terms: ['squared-error']}}, seeds: 2}\n"
        "terms: ['squared-error']\n"
    )
    with pytest.raises(SystemExit) as left:
        main(["report", "run.yaml", "export.program=false"])
    assert not left.value.code
    kept = TargetEncoding.load(place / "runs/run/student/data.json")
    prices = [10 * (n % 4) + 0.5 for n in range(80)]
    assert kept.columns == ("price",) and abs(kept.mean[0] - np.mean(prices)) < 5
    with pytest.raises(SystemExit) as left:
        main(
            ["distill", "run.yaml", "export.program=false", "student.model=bag()", "teacher.model=bag()", "out=hashed"]
        )
    assert not left.value.code
    encoding = TextEncoding.load(place / "hashed/student/data.json")
    assert encoding.target is not None and torch.equal(
        encoding.encode(["the cat"]), TextEncoding(()).encode(["the cat"])
    )


def test_what_is_no_number_is_refused(place: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no target"):
        texts(place / "wines.csv", target="text", text="price")
    with pytest.raises(ConfigError, match="a label or a target"):
        texts(place / "wines.csv", target="price", label="age")
    with pytest.raises(ConfigError, match="target"):
        texts(tmp_path, target="price")
    (tmp_path / "same.csv").write_text("text,price\n" + "a b,1\n" * 9)
    with pytest.raises(NumericsError, match="cannot be standardised"):
        texts(tmp_path / "same.csv", target="price", repeats=True).parts(transfer=3, validation=3, test=3)
