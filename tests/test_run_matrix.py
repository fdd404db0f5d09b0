"""Every verb on every system, from a run file without user code: a dry run, then the five verbs one by one in one folder."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from fractionate.cli.commands import main
from fractionate.page.folder import run_records
from fractionate.store import Store
from tiny_hub import bert, llama

KD = "objective: {cell: kd, temperature: 1, teacher_weight: 0.5}\n"
STUDY = "study: {cells: [hard, kd], seeds: 2}\n"
BERTS = "teacher: {model: \"hf('bert')\", train: {steps: 2}}\nstudent: {model: \"hf('bert', layers=1)\"}\n"
MARIAN = "hf('marian', layers=1, width=16, heads=2, tokenizer='bert')"
MLPS = "teacher: {model: mlp(8), train: {steps: 4}}\nstudent: {model: mlp(4)}\n"
PARTS = "transfer: 16, validation: 8, test: 8, length: 16"
EXPLAINING = 'prepare: "explaining(((0, 1), (2, 3)))"'
TABLE = "data: {source: \"table('t.csv', label='kind', drop=['high', 'old', 'new'])\", @}\n"
TEXTS = "task: text-classification\ndata: {source: \"texts('t.jsonl', text='prompt', label='kind')\", @}\n"
TOP = "collect: {form: top-k, k: 4}\n"
SYSTEMS = {  # task and data; models; recipe
    "several labels": (
        "task: multi-label\ndata: {source: \"table('t.csv', label=['high', 'old', 'new'], drop=['kind'])\", @}\n", MLPS, KD + STUDY,
    ),
    "numbers": (
        "task: regression\ndata: {source: \"table('t.csv', target='a', drop=['kind'])\", @}\n", MLPS,
        "terms: [squared-error]\nstudy: {seeds: 2}\n",
    ),
    "quantized": (
        TEXTS, BERTS.replace("layers=1)\"", "layers=1)\", prepare: [from_teacher(), \"quantize('ternary')\"]"),
        KD + "terms: [map, output]\n" + STUDY,
    ),
    "tagger": (
        "task: token-classification\ndata: {source: \"tagged('t.jsonl', tokens='words', tags='tags')\", @}\n", BERTS, KD + STUDY,
    ),
    "language model": (
        "task: language-modelling\ndata: {source: \"prompts('t.jsonl')\", @}\n" + TOP,
        "teacher: {model: \"hf('llama')\"}\nstudent: {model: \"hf('llama', layers=1)\"}\n", KD + STUDY,
    ),
    "translation": (
        "task: translation\ndata: {source: \"pairs('t.jsonl', source='prompt', target='completion')\", @}\n" + TOP,
        f'teacher: {{model: "{MARIAN}", train: {{steps: 2}}}}\nstudent: {{model: "{MARIAN}"}}\n',
        KD + "terms: [ranking(2)]\n" + STUDY,
    ),
    "embeddings": (
        "task: embeddings\ndata: {source: \"similar('t.jsonl', first='prompt', second='completion')\", @}\n",
        "teacher: {model: \"hf('bare')\"}\nstudent: {model: \"hf('bare', layers=1)\"}\n",
        "terms: [candidates]\nstudy: {seeds: 2}\n",
    ),
    "reranking": (
        "task: reranking\ndata: {source: \"queries('q.jsonl', buckets=400)\", @}\n",
        "teacher: {model: 'bag(400, 8, 8)', train: {steps: 2}}\nstudent: {model: 'bag(400, 4, 4)'}\n", KD + STUDY,
    ),
    "explaining": (
        TABLE, f"teacher: {{model: mlp(8), {EXPLAINING}, train: {{steps: 4}}}}\nstudent: {{model: mlp(4), {EXPLAINING}}}\n",
        KD + "terms: [explanations]\n" + STUDY,
    ),
    "features": (TABLE, MLPS, KD + "terms: [\"fitnets('2', '2')\"]\n" + STUDY),
}  # fmt: skip
MADE = {"collect": "store", "diagnose": "diagnosis.json", "dissect": "study.json", "distill": "student/run.json"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("matrix")
    bert(folder / "bert")
    bert(folder / "bare", head="BertModel")
    llama(folder / "llama")
    rows = [
        f"{n * 7 % 11}.5,{n * n % 13}.25,{n * 5 % 17}.75,{n * 3 % 7}.5,{'xy'[n % 2]},{n % 3 % 2},{n % 2},{n // 2 % 2}"
        for n in range(60)
    ]
    (folder / "t.csv").write_text("a,b,c,d,kind,high,old,new\n" + "\n".join(rows) + "\n")
    lines = [
        {
            "prompt": f"the cat {n} sat", "completion": f"a dog {n % 7} ran", "kind": "ab"[n % 2],
            "words": ["the", "cat", str(n)], "tags": ["O", "A", "B" if n % 2 else "O"],
        }
        for n in range(60)
    ]  # fmt: skip
    (folder / "t.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    asked = [
        {"query": f"cat {n}", "relevant": f"a cat {n} sat", "others": [f"dog {n}", f"ball {n}"]} for n in range(60)
    ]
    (folder / "q.jsonl").write_text("\n".join(map(json.dumps, asked)) + "\n")
    return folder


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("system", SYSTEMS)
def test_every_verb(
    system: str, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data, models, recipe = SYSTEMS[system]
    monkeypatch.chdir(place)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    out = Path(re.sub(r"\W", "-", system))
    rest = "training: {steps: 2, batch_size: 8}\ndiagnosis: {pilot: 0}\nexport: {program: false}\n"
    Path("run.yaml").write_text(f"out: {out}\n{data.replace('@', PARTS)}{models}{recipe}{rest}")
    for verb in ("dry run", *MADE, "report"):
        words = ["collect", "run.yaml", "--dry-run"] if verb == "dry run" else [verb, "run.yaml"]
        with pytest.raises(SystemExit) as left:
            main([*words, *(["--force"] if verb in ("distill", "report") else [])])
        assert not left.value.code, f"{verb}: {capsys.readouterr().err}"
        assert (out / MADE.get(verb, "report.html")).exists() != (verb == "dry run"), verb
    assert len(Store.open(out / "store")) == 16 and len(run_records(out)) == 3 + (
        system == "explaining"
    )  # and what it decides by
