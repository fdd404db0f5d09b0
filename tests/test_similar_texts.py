"""Embeddings of texts in run files: pairs, gold similarities, and single texts with classes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fractionate.cli.commands import main
from fractionate.data import data_sets
from fractionate.errors import ConfigError
from fractionate.models import ModelNeed, find_model
from tiny_hub import bert

REST = (
    "teacher: {model: \"hf('bert')\"}\nstudent: {model: \"hf('bert', layers=1, width=16, heads=2)\"}\nterms: [candidates]\n"
    "training: {steps: 3, batch_size: 8}\nexport: {program: false}\n"
)
SOURCES = {
    "embeddings": "similar('pairs.csv', first='q', second='a')",
    "embeddings(gold=True)": "similar('pairs.csv', first='q', second='a', score='alike')",
    "embeddings(texts=1)": "texts('pairs.csv', text='q', label='kind')",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("similar")
    rows = [f"the cat {n} sat,a dog {n} ran,{n % 5 / 5},{'even' if n % 2 else 'odd'}" for n in range(60)]
    (folder / "pairs.csv").write_text("q,a,alike,kind\n" + "\n".join(rows) + "\n")
    bert(folder / "bert", head="BertModel")
    return folder


@pytest.mark.parametrize("task", SOURCES)
def test_a_run_file_distils_them(task: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    data = f'data: {{source: "{SOURCES[task]}", transfer: 24, validation: 12, test: 16, length: 16}}\n'
    out = f"out-{len(task)}"
    rest = REST.replace("candidates", "projected-mse") if "texts=1" in task else REST  # a text alone has no candidates
    (place / "run.yaml").write_text(f"task: {task}\nout: {out}\n{data}{rest}")
    with pytest.raises(SystemExit) as left:
        main(["distill", "run.yaml"])
    assert not left.value.code
    from encoders import transformers

    opened = transformers().AutoModel.from_pretrained(place / out / "student")
    assert opened.config.hidden_size == 16
    assert transformers().AutoTokenizer.from_pretrained(place / out / "student").pad_token


def test_a_text_is_the_mean_of_its_own_tokens(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    named = find_model("hf('bert')")
    model = named.build(ModelNeed("embeddings", frozen=True)).eval()
    source = data_sets[SOURCES["embeddings(gold=True)"]]
    part = source.raw_parts(transfer=10, validation=5, test=5).transfer
    split = source.encode(part, named.tokenizing(16))
    assert split.inputs["input_ids"].shape[:2] == (10, 2)
    assert {round(5 * score) for score in split.labels.tolist()} <= set(range(5))
    with torch.no_grad():
        found = model(**split.inputs)
        for side, role in enumerate(("first", "second")):
            text = named.tokenizing(16).tokenizer(part.columns[role][0], return_tensors="pt")
            expected = model.encoder(**text).last_hidden_state[0].mean(0)
            torch.testing.assert_close(found[0, side], expected, atol=1e-5, rtol=1e-5)


def test_scores_that_are_no_numbers_are_refused(place: Path) -> None:
    with pytest.raises(ConfigError, match="no target"):
        data_sets[f"similar({str(place / 'pairs.csv')!r}, first='q', second='a', score='kind')"]
    with pytest.raises(ConfigError, match="query"):
        data_sets[f"similar({str(place / 'pairs.csv')!r})"]
