"""Run files that cannot work, over tasks, models, recipes and variants: refused with place and fix, nothing written."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from fractionate.cli.commands import main
from tiny_hub import bert, llama

TEXTS = "texts('rows.csv', text='text', label='kind')"
TASK = f'task: text-classification\ndata: {{source: "{TEXTS}", transfer: 12, validation: 6, test: 6, length: 16}}\n'
HUB = """teacher: {model: "hf('bert')", train: {steps: 2}}\nstudent: {model: "hf('bert', layers=1)"}\n"""
DIGITS = (
    "data: {source: digits, transfer: 20, validation: 20, test: 20}\nteacher: {model: mlp(8), train: {steps: 2}}\n"
    "student: {model: mlp(4)}\ntraining: {steps: 2}\n"
)
NUMBERS = (
    "task: regression\ndata: {source: \"table('numbers.csv', target='b')\", transfer: 10, validation: 10, test: 10}\n"
    "teacher: {model: mlp(8), train: {steps: 2}}\nstudent: {model: mlp(4)}\ntraining: {steps: 2}\n"
)
BERTS = TASK + HUB + "training: {steps: 2}\n"
FAULTS = {  # the run file, and what is reported
    "unknown task": ("task: text-clasification", "did you mean 'text-classification'"),
    "unknown metric": ("metrics: [acuracy]", "did you mean 'accuracy'"),
    "study metric of another task": ("study: {metric: perplexity}", "unknown metric 'perplexity'"),
    "unknown term": ("terms: [mapp]", "did you mean 'map'"),
    "unknown transform": ("transforms: [augmnt()]", "did you mean 'augment'"),
    "unknown preparation": ("student: {prepare: quantise(2)}", "did you mean 'quantize'"),
    "bad arguments of a preparation": ("student: {prepare: 'quantize(bits=-1)'}", "student.prepare"),
    "bad arguments of a term": ("terms: ['ranking(-3)']", "terms"),
    "unknown cell of a variant": (
        "study: {arms: {no teacher: {}, kd: {objective: {cell: kdd}}}}", "study.arms.kd.objective.cell",
    ),
    "unknown term of a variant": ("study: {arms: {no teacher: {}, kd: {terms: [mapp]}}}", "study.arms.kd.terms.0"),
    "unknown key of a variant": ("study: {arms: {no teacher: {}, kd: {term: [map]}}}", "did you mean 'terms'"),
    "one variant": ("study: {arms: {kd: {}}}", "at least 2"),
    "variants and cells": ("study: {arms: {a: {}, b: {}}, cells: [kd]}", "study.cells: cannot be combined with arms"),
    "a share of the data above 1": ("study: {arms: {a: {share: 2}, b: {}}}", "less than or equal to 1"),
    "a part of zero": ("data: {transfer: 0}", "a count of examples from 1"),
    "a part of a negative share": ("data: {test: -0.5}", "a share between 0 and 1"),
    "a part of one and a half": ("data: {test: 1.5}", "a share between 0 and 1"),
    "no length": ("data: {length: 0}", "greater than or equal to 1"),
    "training written twice": ("teacher: {steps: 3, train: {steps: 4}}", "cannot be combined with train"),
    "unknown setting of the training": ("teacher: {train: {stepps: 3}}", "did you mean 'steps'"),
    "unknown form of the store": ("collect: {form: topk}", "'top-k'"),
    "unknown type of the store": ("collect: {dtype: float64}", "'bfloat16'"),
    "no pilot below zero": ("diagnosis: {pilot: -1}", "greater than or equal to 0"),
    "no pilot of eight trainings": ("diagnosis: {pilot: 8}", "at least 28 trainings; 0 is none"),
    "three faults at once": ("terms: [mapp]\ntask: taging\ncollect: {k: -1}", "3 errors in the run file"),
    "unknown argument of a source": (
        'data: {source: "texts(\'rows.csv\', txt=\'text\')"}', "does not take these arguments",
    ),
    "unknown model of the hub": (TASK + 'teacher: {model: "hf(\'no-such-model\')"}', "there is no model no-such-model"),
    "a folder of models that is not there": (TASK + 'teacher: {model: "hf(\'models/teacher\')"}', "teacher.model"),
    "a hub name without a network": (TASK + 'teacher: {model: "hf(\'nobody/nothing\')"}', "cannot be fetched"),
    "wrong column": (TASK.replace("text='text'", "text='txt'") + HUB, "did you mean text='text'"),
    "a task that the texts cannot feed": (TASK.replace("text-classification", "translation") + HUB, "is no data for the task"),
    "numbers for a model of texts": ("data: {source: digits, length: 16}\n" + HUB, "a model of this run reads texts"),
    "a teacher without its head": (TASK + "teacher: {model: \"hf('bert')\"}\n" + HUB.splitlines()[1], "has no head for"),
    "longer than its positions": (TASK.replace("length: 16", "length: 500") + HUB, "at most 64 tokens"),
    "other classes": (TASK + "teacher: {model: \"hf('named')\"}\n" + HUB.splitlines()[1], "has other classes"),
    "other tokens for each": (
        'task: language-modelling\ndata: {source: "prompts(\'chat.jsonl\')", transfer: 6, validation: 3, test: 3, length: 16}\n'
        "teacher: {model: \"hf('llama')\"}\nstudent: {model: \"hf('bert', layers=1)\", }\n", "cut texts into different tokens",
    ),
    "remote code": (TASK + "teacher: {model: \"hf('remote')\"}", "never run"),
    "no network at all for tokens": (
        TASK.replace("text-classification", "token-classification") + HUB, "is no data for the task",
    ),
    "a file that is not there": (TASK.replace("rows.csv", "row.csv") + HUB, "row.csv"),
    "a teacher that needs training data": (
        TASK.replace("transfer: 12", "transfer: 28") + HUB, "nothing left to train a teacher on",
    ),
    "a term that reads inside what is no encoder": (
        "data: {source: digits, transfer: 20, validation: 20, test: 20}\nteacher: {model: mlp(8), train: {steps: 2}}\n"
        "student: {model: mlp(4)}\nobjective: {temperature: 2}\nterms: [map]\ntraining: {steps: 2}", "attention",
    ),
    "labels that are not covered": (
        TASK.replace("label='kind'", "label='text'") + HUB, "different values",
    ),
    "an empty class": (TASK.replace(TEXTS, "texts('mails')") + HUB, "storm"),
    "words of a prompt that are not the classes": (
        TASK + "teacher: {model: \"prompted('llama', prompt='{text} is', words=['a', 'b', 'c'])\"}", "not those of the classes",
    ),
    "an estimator that no list has": ("teacher: {model: \"fitted('os.system')\"}", "unknown estimator"),
    # found when data and models are opened
    "a term of another pair of models": (BERTS + "terms: [\"fitnets('nowhere', 'nowhere')\"]", "nowhere"),
    "two terms that cannot be met": (DIGITS + "terms: [map, \"fitnets('9', '9')\"]\nobjective: {temperature: 2}", "2 errors"),
    "a term of a variant that cannot be met": (
        DIGITS + "study: {arms: {no teacher: {}, maps: {objective: {}, terms: [map]}}}", "study.arms.maps",
    ),
    "a term of numbers for classes": (DIGITS + "terms: [gaussian-kl]", "numbers"),
    "explanations of a model without any": (DIGITS + "terms: [explanations]", "explan"),
    "a transform of tokens for pictures": (DIGITS + "transforms: [on_policy(0.5)]", "on_policy"),
    "a preparation that finds no layers": (
        DIGITS.replace("mlp(4)}", "mlp(4), prepare: \"from_teacher(layers='every 2')\"}"), "stack of layers",
    ),
    "quantization without a weight for it": (DIGITS.replace("mlp(4)}", "mlp(4), prepare: \"lora(4, modules='none')\"}"), "lora"),
    "more entries than classes": (DIGITS + "collect: {form: top-k, k: 40}", "k"),
    "a layer that the teacher does not have": (DIGITS + "collect: {features: ['layer.9']}", "layer.9"),
    "weights of another model": (DIGITS.replace("mlp(8)", "mlp(9), weights: w.safetensors"), "belongs to another model"),
    "a file of weights that is not there": (DIGITS.replace("mlp(8)", "mlp(9), weights: none.safetensors"), "none.safetensors"),
    "weights that are not there, for data that are not there": (
        TASK.replace("rows.csv", "row.csv") + "teacher: {model: 'bag()', weights: none.safetensors}\nstudent: {model: bag()}",
        "2 errors",
    ),
    "a metric of text": (DIGITS + "metrics: [accuracy, bleu]", "bleu"),
    "a metric of numbers for classes": (DIGITS + "metrics: [rmse]", "rmse"),
    "two metrics that do not fit": (DIGITS + "metrics: [bleu, rmse]", "2 errors"),
    "cells of numbers": (NUMBERS + "objective: {temperature: 2}", "are not distributions"),
    "a network of pictures for a table": (DIGITS.replace("digits", "spam").replace("mlp(4)", "cnn(4)"), "cnn"),
    "a module that is not there to recompute": (DIGITS + "distill: {recompute: ['encoder.*']}", "no module of the student matches"),
    "examples that cannot be shown": (DIGITS.replace("digits", "hierarchy()") + "report: {examples: show}", "cannot be shown"),
    "examples without classes": (NUMBERS + "report: {examples: ids}", "this task has none"),
    "an answer about no example": (
        TASK + "teacher: {model: \"answers('answers.jsonl')\"}\nstudent: {model: bag()}", "has no answer about",
    ),
    "a form without hidden states": (NUMBERS + "collect: {form: hidden}", "hidden"),
    "hidden losses without an output layer": (DIGITS + "distill: {loss_from: hidden}", "hidden"),
}  # fmt: skip


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
    (folder / "numbers.csv").write_text("a,b\n" + "".join(f"{n * 7 % 11}.5,{n * n % 17}.25\n" for n in range(40)))
    (folder / "answers.jsonl").write_text(
        json.dumps({"id": "none", "logprobs": {"animal": -1.0, "market": -2.0}}) + "\n"
    )
    save_file({"weight": torch.zeros(2, 2)}, folder / "w.safetensors")
    chat = [{"prompt": f"the cat {n}", "completion": " sat on the mat"} for n in range(20)]
    (folder / "chat.jsonl").write_text("\n".join(map(json.dumps, chat)) + "\n")
    return folder


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("fault", FAULTS)
def test_it_is_refused_with_its_place_and_its_fix(
    fault: str, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text, what = FAULTS[fault]
    monkeypatch.chdir(place)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    out = re.sub(r"\W", "-", fault)
    (place / "run.yaml").write_text(
        f"out: {out}\ndiagnosis: {{pilot: 0}}\n{text}\n" if "diagnosis" not in text else f"out: {out}\n{text}\n"
    )
    with pytest.raises(SystemExit) as left:
        main(["collect", "run.yaml"])
    output = capsys.readouterr().err
    assert left.value.code == 2, output
    assert what in output and "Traceback" not in output and "a bug of fractionate" not in output
    assert re.search(r"run\.yaml:\d+:\d+ ", output), output
    assert not (place / out).exists()
