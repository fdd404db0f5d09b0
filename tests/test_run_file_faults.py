"""Run files that cannot work, over tasks, models, recipes and variants: refused with place and fix, nothing written."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from fractionate.cli.commands import main
from tiny_hub import bert, llama

TEXTS = "texts('rows.csv', text='text', label='kind')"
TASK = f'task: text-classification\ndata: {{source: "{TEXTS}", transfer: 12, validation: 6, test: 6, length: 16}}\n'
HUB = """teacher: {model: "hf('bert')", train: {steps: 2}}\nstudent: {model: "hf('bert', layers=1)"}\n"""
FAULTS = {  # the run file, the exit code, what is said
    "unknown task": ("task: text-clasification", 2, "did you mean 'text-classification'"),
    "unknown metric": ("metrics: [acuracy]", 2, "did you mean 'accuracy'"),
    "study metric of another task": ("study: {metric: perplexity}", 2, "unknown metric 'perplexity'"),
    "unknown term": ("terms: [mapp]", 2, "did you mean 'map'"),
    "unknown transform": ("transforms: [augmnt()]", 2, "did you mean 'augment'"),
    "unknown preparation": ("student: {prepare: quantise(2)}", 2, "did you mean 'quantize'"),
    "bad arguments of a preparation": ("student: {prepare: 'quantize(bits=-1)'}", 2, "student.prepare"),
    "bad arguments of a term": ("terms: ['ranking(-3)']", 2, "terms"),
    "unknown cell of a variant": (
        "study: {arms: {no teacher: {}, kd: {objective: {cell: kdd}}}}", 2, "study.arms.kd.objective.cell",
    ),
    "unknown term of a variant": ("study: {arms: {no teacher: {}, kd: {terms: [mapp]}}}", 2, "study.arms.kd.terms.0"),
    "unknown key of a variant": ("study: {arms: {no teacher: {}, kd: {term: [map]}}}", 2, "did you mean 'terms'"),
    "one variant": ("study: {arms: {kd: {}}}", 2, "at least 2"),
    "variants and cells": ("study: {arms: {a: {}, b: {}}, cells: [kd]}", 2, "study.cells: cannot be combined with arms"),
    "a share of the data above 1": ("study: {arms: {a: {share: 2}, b: {}}}", 2, "less than or equal to 1"),
    "a part of zero": ("data: {transfer: 0}", 2, "a count of examples from 1"),
    "a part of a negative share": ("data: {test: -0.5}", 2, "a share between 0 and 1"),
    "a part of one and a half": ("data: {test: 1.5}", 2, "a share between 0 and 1"),
    "no length": ("data: {length: 0}", 2, "greater than or equal to 1"),
    "training written twice": ("teacher: {steps: 3, train: {steps: 4}}", 2, "cannot be combined with train"),
    "unknown setting of the training": ("teacher: {train: {stepps: 3}}", 2, "did you mean 'steps'"),
    "unknown form of the store": ("collect: {form: topk}", 2, "'top-k'"),
    "unknown type of the store": ("collect: {dtype: float64}", 2, "'bfloat16'"),
    "no pilot below zero": ("diagnosis: {pilot: -1}", 2, "greater than or equal to 0"),
    "three faults at once": ("terms: [mapp]\ntask: taging\ncollect: {k: -1}", 2, "3 errors in the run file"),
    "unknown argument of a source": (
        'data: {source: "texts(\'rows.csv\', txt=\'text\')"}', 2, "does not take these arguments",
    ),
    "unknown model of the hub": (TASK + 'teacher: {model: "hf(\'no-such-model\')"}', 2, "there is no model no-such-model"),
    "a hub name without a network": (TASK + 'teacher: {model: "hf(\'nobody/nothing\')"}', 2, "cannot be fetched"),
    "wrong column": (TASK.replace("text='text'", "text='txt'") + HUB, 2, "did you mean text='text'"),
    "a task that the texts cannot feed": (TASK.replace("text-classification", "translation") + HUB, 2, "is no data for the task"),
    "numbers for a model of texts": ("data: {source: digits, length: 16}\n" + HUB, 2, "a model of this run reads texts"),
    "a teacher without its head": (TASK + "teacher: {model: \"hf('bert')\"}\n" + HUB.splitlines()[1], 4, "has no head for"),
    "longer than its positions": (TASK.replace("length: 16", "length: 500") + HUB, 4, "at most 64 tokens"),
    "other classes": (TASK + "teacher: {model: \"hf('named')\"}\n" + HUB.splitlines()[1], 4, "has other classes"),
    "other tokens for each": (
        'task: language-modelling\ndata: {source: "prompts(\'chat.jsonl\')", transfer: 6, validation: 3, test: 3}\n'
        "teacher: {model: \"hf('llama')\"}\nstudent: {model: \"hf('bert', layers=1)\", }\n", 2, "",
    ),
    "remote code": (TASK + "teacher: {model: \"hf('remote')\"}", 2, "never run"),
    "no network at all for tokens": (
        TASK.replace("text-classification", "token-classification") + HUB, 2, "is no data for the task",
    ),
    "a file that is not there": (TASK.replace("rows.csv", "row.csv") + HUB, 2, "row.csv"),
    "a teacher that needs training data": (
        TASK.replace("transfer: 12", "transfer: 28") + HUB, 2, "nothing left to train a teacher on",
    ),
    "a term that reads inside what is no encoder": (
        "data: {source: digits, transfer: 20, validation: 20, test: 20}\nteacher: {model: mlp(8), train: {steps: 2}}\n"
        "student: {model: mlp(4)}\nobjective: {temperature: 2}\nterms: [map]\ntraining: {steps: 2}", 4, "attention",
    ),
    "labels that are not covered": (
        TASK.replace("label='kind'", "label='text'") + HUB, 2, "different values",
    ),
    "an empty class": (TASK.replace(TEXTS, "texts('mails')") + HUB, 2, "storm"),
    "words of a prompt that are not the classes": (
        TASK + "teacher: {model: \"prompted('llama', prompt='{text} is', words=['a', 'b', 'c'])\"}", 4, "not those of the classes",
    ),
    "an estimator that no list has": ("teacher: {model: \"fitted('os.system')\"}", 2, "unknown estimator"),
}  # fmt: skip


PLACED = (
    "unknown",
    "column",
    "feed",
    "texts",
    "head",
    "positions",
    "classes",
    "remote",
    "class",
    "file that",
    "variant",
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("faults")
    bert(folder / "bert", head="BertModel")
    bert(folder / "named", classes=("left", "right"))
    llama(folder / "llama")
    bert(folder / "remote")
    config = json.loads((folder / "remote/config.json").read_text())
    config |= {
        "model_type": "own",
        "auto_map": {"AutoConfig": "own.Own", "AutoModelForSequenceClassification": "own.Own"},
    }
    (folder / "remote/config.json").write_text(json.dumps(config))
    (folder / "remote/own.py").write_text("raise SystemExit('code of a checkpoint ran')")
    for name in ("rain", "storm"):
        (folder / "mails" / name).mkdir(parents=True)
    (folder / "mails/rain/1.txt").write_text("rain and wind from the north")
    rows = [f"the cat number {n} sat,animal" if n % 2 else f"stocks fell {n} times,market" for n in range(40)]
    (folder / "rows.csv").write_text("text,kind\n" + "\n".join(rows) + "\n")
    chat = [{"prompt": f"the cat {n}", "completion": " sat on the mat"} for n in range(20)]
    (folder / "chat.jsonl").write_text("\n".join(map(json.dumps, chat)) + "\n")
    return folder


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("fault", FAULTS)
def test_it_is_refused_with_its_place_and_its_fix(
    fault: str, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text, code, what = FAULTS[fault]
    monkeypatch.chdir(place)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (place / "run.yaml").write_text(
        f"out: made\ndiagnosis: {{pilot: 0}}\n{text}\n" if "diagnosis" not in text else f"out: made\n{text}\n"
    )
    with pytest.raises(SystemExit) as left:
        main(["report", "run.yaml", "--dry-run"])
    output = capsys.readouterr().err
    assert left.value.code == code or (not what and left.value.code in (2, 4)), output
    assert what in output and "Traceback" not in output and "a bug of fractionate" not in output
    assert not (place / "made").exists()
    if any(word in fault for word in PLACED):
        assert re.search(r"run\.yaml:\d+:\d+ ", output), output
