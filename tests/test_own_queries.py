"""Queries with relevant and other texts: read, encoded, and taught from run files by a bag of words and by an encoder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import tiny_hub
from fractionate.cli.commands import main
from fractionate.data.own_queries import queries
from fractionate.errors import ConfigError, DamagedError, MismatchError
from fractionate.models import ModelNeed, export_student, find_model, models
from fractionate.records import Run, Study

WORDS = ["sun", "moon", "rain", "snow", "wind", "tree", "leaf", "root", "bird", "fish"]


@pytest.fixture
def faq(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Sixty queries; the relevant text says the query's word, the others say other words."""
    monkeypatch.chdir(tmp_path)
    rows = []
    for i in range(60):
        word, more = WORDS[i % 10], [WORDS[(i + k) % 10] for k in (1, 3, 4)]
        others = [f"about {other} {i % 7}" for other in more[: 2 + i % 2]]
        rows.append({"query": f"what is {word} {i}", "relevant": f"about {word} {i % 7}", "others": others})
    file = tmp_path / "faq.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_queries_are_read_with_their_candidates(faq: Path) -> None:
    data = queries(faq, places=6)
    parts = data.raw_parts(transfer=30, validation=10, test=20)
    split = data.encode(parts.transfer, None)
    assert data.tasks == ("reranking",) and split.inputs.shape == (30, 5, 6) and split.labels.shape == (30, 4)
    row = parts.transfer.columns["others"]
    for place, labels in enumerate(split.labels.tolist()):
        assert labels == [1, *[0] * len(row[place]), *[-100] * (3 - len(row[place]))]
    texts = [parts.transfer.columns["query"][0], parts.transfer.columns["relevant"][0], *row[0]]
    assert torch.equal(split.inputs[0, : len(texts)], data.encoding.encode(texts)), (
        "the query first, then the relevant text"
    )


@pytest.mark.parametrize(
    ("row", "settings", "error", "match"),
    [
        ({"query": " ", "relevant": "x", "others": ["z"]}, {}, DamagedError, "faq.jsonl:61 has no text in 'query'"),
        ({"query": "x", "relevant": "", "others": ["z"]}, {}, DamagedError, "61 has no text in 'relevant'"),
        ({"query": "x", "relevant": "y", "others": []}, {}, DamagedError, "61 'others' is no list"),
        ({"query": "x", "relevant": "y", "others": ["z", 3]}, {}, DamagedError, "no list of texts"),
        ({"query": "x", "relevant": "y"}, {"others": "negatives"}, ConfigError, "negatives"),
    ],
)
def test_rows_without_a_text_are_named(faq: Path, row, settings, error, match) -> None:
    with faq.open("a") as file:
        file.write(json.dumps(row) + "\n")
    with pytest.raises(error, match=match):
        queries(faq, **settings)


@pytest.mark.parametrize("teacher", ["bag(400, 16, 16)", "cross(400, 16, 16)"])
def test_a_run_file_reports_on_reranking(faq: Path, capsys, teacher: str) -> None:
    Path("run.yaml").write_text(
        "task: reranking\nout: out\ndata: {source: \"queries('faq.jsonl', buckets=400)\", transfer: 30, validation: 15, test: 15}\n"
        f"teacher: {{model: '{teacher}', train: {{steps: 10, on: transfer}}}}\n"
        "student: {model: 'bag(400, 4, 4)'}\n"
        "training: {steps: 4}\ndiagnosis: {pilot: 0}\nstudy: {cells: [hard, kd], seeds: 2}\n"
    )
    with pytest.raises(SystemExit) as left:
        main(["report", "run.yaml"])
    assert not left.value.code, capsys.readouterr().err
    assert Run.load("out/student/run.json").test is not None
    assert len(Study.load("out/study.json").effects) > 0 and Path("out/report.html").exists()


def test_a_cross_encoder_reads_query_and_candidate_together() -> None:
    torch.manual_seed(0)
    model = models["cross(50, 4, 3)"]((4, 6), 3).eval()
    words = torch.randint(1, 51, (2, 4, 6))
    words[1, 2, 3:] = 0
    with torch.no_grad():
        scores = model(words)
        for example, candidate in ((0, 1), (1, 2)):
            means = []
            for text in (words[example, 0], words[example, candidate]):
                vectors = model.vectors.weight[text[text > 0]].double()
                means.append(vectors.mean(0))
            query, other = means
            read = torch.cat([query, other, query * other, (query - other).abs()])
            hidden = torch.relu(model.layers[1].double()(read))
            assert float(model.layers[3].double()(hidden)) == pytest.approx(
                float(scores[example, candidate - 1]), rel=1e-5
            )
            model.float()
    with pytest.raises(MismatchError, match="a query and its candidates"):
        models["cross()"]((6,), 3)


def test_an_encoder_embeds_every_text_and_opens_without_this_package(faq: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    folder = tiny_hub.bert(tmp_path / "teacher")
    maker = find_model(f"hf('{folder}')")
    by = maker.tokenizing(12)
    split = queries(faq).encode(queries(faq).table.examples, by)
    model = maker.build(ModelNeed("reranking")).eval()
    some = {name: column[:3] for name, column in split.inputs.items()}
    with torch.no_grad():
        found = model(**some)
        plain = model.encoder(**{name: column[:, 2] for name, column in some.items()}).last_hidden_state
    there = some["attention_mask"][:, 2].unsqueeze(-1)
    torch.testing.assert_close(found[:, 2], (plain * there).sum(1) / there.sum(1))
    out = export_student(model, tmp_path / "out", tokenizer=by.tokenizer, program=False)
    back = transformers.AutoModel.from_pretrained(out).eval()
    with torch.no_grad():
        again = back(**{name: column[:, 2] for name, column in some.items()}).last_hidden_state
    torch.testing.assert_close(again, plain)
