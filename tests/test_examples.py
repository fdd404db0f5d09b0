"""Every example run file, at a tiny setting: report from data to page, and again from the folder."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from fractionate.cli.commands import main
from fractionate.data.bundled import data_sets
from fractionate.errors import ResourceError
from fractionate.page import read_page
from fractionate.records import Explanations
from fractionate.run.read import read_run
from fractionate.run.runfile import dump_run, load_run
from fractionate.run.workflow import Workflow
from tiny_hub import bert, llama

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.yaml"))
TINY = (
    "data.transfer=24", "data.validation=12", "data.test=16", "training={steps: 3, batch_size: 8}", "diagnosis.pilot=0",
    "export.program=false",
)  # fmt: skip
FEW = {"cells": "study={cells: [hard, kd], seeds: 2}", "arms": "study.seeds=2"}


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hub")
    bert(folder / "bert")
    llama(folder / "llama")
    return folder


def tiny(path: Path, hub: Path, out: Path) -> tuple[str, ...]:
    """Overrides that make an example small: few examples and steps, and a tiny model of the same kind."""
    run = load_run(path)
    found = [*TINY, f"out={out}", FEW["cells" if run.study.arms is None else "arms"]]
    if run.teacher.train is not None:
        found.append("teacher.train.steps=3")
    if run.objective is None:  # whatever a teacher of three steps is like, there is a student to export
        found.append("objective={cell: kd, temperature: 2}")
    for who in ("teacher", "student"):
        named = getattr(run, who).model
        kind = "llama" if run.task == "language-modelling" or named.startswith("prompted") else "bert"
        named = re.sub(r"package:\w+", str(hub / kind), named)
        named = re.sub(r"words=\[.*\]", "words=['cat', 'dog', 'ball', 'mat']", named)  # of the tiny tokenizer
        named = re.sub(r"max_iter=\d+", "max_iter=3", named)
        found.append(f"{who}.model={json.dumps(named)}")
    return tuple(found)


@pytest.mark.filterwarnings("ignore:.*(are cut|are left out)")
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_example_ends_in_a_page(path: Path, hub: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = tiny(path, hub, tmp_path / "out")
    try:
        _ = data_sets[load_run(path).data.source]
    except ResourceError as error:
        pytest.skip(f"its data cannot be had here: {error.what}")
    with pytest.raises(SystemExit) as left:
        main(["report", str(path), *settings])
    output = capsys.readouterr()
    assert not left.value.code, output.err
    assert (tmp_path / "out" / "report.html").is_file()
    records, _ = read_page(tmp_path / "out" / "report.html")
    assert any(isinstance(record, Explanations) for record in records) == (path.stem == "ked-table")
    again = Workflow(read_run(path, settings))
    before = (tmp_path / "out" / "report.html").read_bytes()
    again.report()
    assert len((tmp_path / "out" / "report.html").read_bytes()) == len(before)


def test_every_example_says_what_it_is() -> None:
    for path in EXAMPLES:
        assert path.read_text(encoding="utf-8").startswith("# "), path.name
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 15, path.name


def test_the_run_file_of_its_folder_is_the_run_again(tmp_path: Path) -> None:
    """What a page and `next:` name is `out/run.yaml`, with every setting written out."""
    for path in EXAMPLES:
        run = load_run(path)
        (tmp_path / "run.yaml").write_text(dump_run(run), encoding="utf-8")
        assert load_run(tmp_path / "run.yaml") == run, path.name


def test_the_command_lists_and_prints_them(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["examples"])
    output = capsys.readouterr().out
    assert all(path.stem in output for path in EXAMPLES)
    with pytest.raises(SystemExit):
        main(["examples", "tagger"])
    assert capsys.readouterr().out == (EXAMPLES[0].parent / "tagger.yaml").read_text(encoding="utf-8")
    with pytest.raises(SystemExit) as left:
        main(["examples", "taggr"])
    assert left.value.code == 2 and "did you mean 'tagger'" in capsys.readouterr().err
