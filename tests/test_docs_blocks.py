"""Every code block of the README and of docs/ runs: Python in order, page by page; commands are parsed, run files are read."""

from __future__ import annotations

import copy
import json
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import layout
from fractionate import Objective, Task, TeacherSignal, collect, diagnose, dissect, distill
from fractionate.data import Examples
from fractionate.records import Training
from fractionate.run.runfile import load_run
from test_docs import DOCUMENTS, PAGES

ELSEWHERE = {  # page and the test that runs its Python, with what that page needs and says
    "how-to/data": "test_own_data_docs", "how-to/explanations": "test_explanations_docs", "how-to/models": "test_hub",
    "how-to/quantized": "test_quantized_docs", "how-to/store": "test_store_docs", "reference/errors": "test_store_docs",
    "reference/tasks": "test_matrix",
}  # fmt: skip
NOT_RUN = {  # page and the number of its block: why
    ("README", 0): "recipes/own_model.py, which test_recipes runs",
    ("how-to/trainer", 2): "a callback of a whole Lightning module: test_adapters",
    ("how-to/api-teacher", 0): "answers of a service: test_logprobs makes them",
}
PEERS = {
    "torchdistill",
    "modelopt",
    "trl",
    "sentence_transformers",
    "lightning",
}  # skipped where they are not installed


def name(page: Path) -> str:
    return "README" if page == layout.README else page.relative_to(layout.ROOT / "docs").with_suffix("").as_posix()


def blocks(page: Path, language: str) -> list[str]:
    fence = re.compile(rf"^( *)```{language}\n(.*?)^ *```", re.DOTALL | re.MULTILINE)
    found = fence.findall(page.read_text(encoding="utf-8"))
    return [re.sub(rf"^{indent}", "", text, flags=re.MULTILINE) for indent, text in found]


TINY = 'objective={"cell": "kd", "temperature": 1}, diagnosis={"pilot": 0}, export={"program": False}, study=STUDY'


def small(code: str) -> str:
    """A program at a tiny setting: few steps and seeds, no pilot, a student whatever the study finds."""
    code = re.sub(r"steps=\d+|epochs=\d+", "steps=3", code)
    code = re.sub(r'"steps": \d+', '"steps": 3', code)
    code = re.sub(r"\bseeds=\d+", "seeds=2", code)
    code = re.sub(r"budget=\d+", "budget=28", code)
    code = re.sub(r"RandomForestClassifier\(\d+", "RandomForestClassifier(5", code)
    code = re.sub(r"Workflow\(\s*RunFile\(", "Workflow(force=True, run=RunFile(", code)
    return code.replace("RunFile(", f"RunFile({TINY}, ")


def network(width: int = 8, classes: int = 4) -> nn.Sequential:
    return nn.Sequential(nn.Linear(8, width), nn.ReLU(), nn.Linear(width, classes))


def names() -> dict[str, Any]:
    """What the fragments of the pages speak of, small: models, data, signals, a task, results."""
    torch.manual_seed(0)
    labels = torch.arange(96) % 4
    inputs = torch.randn(96, 8) + 2 * nn.functional.one_hot(labels, 8)
    data, held = Examples(inputs[:64], labels[:64]), Examples(inputs[64:], labels[64:])
    teacher, training = network(32), Training(steps=20, batch_size=16, learning_rate=1e-2)
    distill(teacher, data, training=training)
    signal = TeacherSignal(teacher(data.inputs).detach(), data.labels)
    return {
        "torch": torch, "nn": nn, "Objective": Objective, "TeacherSignal": TeacherSignal, "distill": distill,
        "diagnose": diagnose, "collect": collect, "network": network,
        "teacher": teacher, "student": network(), "model": network(), "data": data, "inputs": data.inputs, "labels": data.labels,
        "validation": held, "test": held, "signal": signal, "training": training,
        "held_out_signal": TeacherSignal(teacher(held.inputs).detach(), held.labels),
        "student_logits": torch.randn(64, 4), "teacher_logits": signal.logits, "teacher_output": signal.logits,
        "objective": Objective("kd", 2.0, 0.9),
        "task": Task("classification", transfer=data, validation=held, test=held, student=network),
        "STUDY": {"seeds": 2, "arms": {"no teacher": {}, "kd": {"objective": {"temperature": 1}}}},
    }  # fmt: skip


def results() -> dict[str, Any]:
    found = names()
    found["study"] = dissect(network, found["data"], found["signal"], test=found["test"], seeds=2, cells=("hard", "kd"),
                             training=Training(steps=3))  # fmt: skip
    found["diagnosis"] = found["found"] = diagnose(found["signal"], data=found["data"])
    found["run"] = distill(network(), found["data"], found["signal"], test=found["test"], training=Training(steps=3))[1]
    Path("runs/own").mkdir(parents=True)
    found["study"].save(Path("study.json"))
    found["study"].save(Path("runs/own/study.json"))
    return found


def few_labels() -> dict[str, Any]:
    found = results()
    known = torch.arange(64) % 2 == 0
    stream = [(x, y) for x, y in zip(found["inputs"], found["labels"], strict=True)]
    return found | {"known": known, "truth": found["labels"][known], "stream": stream}


def shown() -> dict[str, Any]:
    found = results()
    return found | {"split": found["task"].splits.test, "alone": network(), "texts": [f"text {i}" for i in range(96)]}


def stored() -> dict[str, Any]:
    found = names()
    collect(found["teacher"], found["data"], "runs/store", form="top-k", k=2, temperatures=(1.0, 4.0))
    store = collect(found["teacher"], found["data"], "runs/dense")
    return found | {"store": store, "texts": found["data"], "documents": found["data"]}


def teachers() -> dict[str, Any]:
    found = names()
    found["predict"] = found["classify"] = lambda inputs: torch.zeros(len(inputs), 4)
    found["texts"] = ["a text"] * 64
    Path("model.bin").write_bytes(b"weights")
    return found


def rows() -> dict[str, Any]:
    tokens = torch.randint(3, 30, (24, 7), generator=torch.Generator().manual_seed(0))
    from transformers import BertConfig, BertForSequenceClassification

    sizes = {
        "vocab_size": 30,
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
    }
    teacher = BertForSequenceClassification(BertConfig(**sizes, num_labels=3)).eval()
    return {"rows": [{"input_ids": row, "labels": row.sum() % 3} for row in tokens], "teacher": teacher}


def ladder() -> dict[str, Any]:
    from transformers import BertConfig, BertForSequenceClassification

    found, sizes = rows(), {"vocab_size": 30, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}
    model = BertForSequenceClassification(BertConfig(**sizes, num_hidden_layers=4, num_labels=3)).eval()
    return {
        "model": model,
        "task": Task(
            "classification", transfer=found["rows"], test=found["rows"], student=lambda: copy.deepcopy(model)
        ),
    }


def trainers() -> dict[str, Any]:
    from transformers import Trainer, TrainingArguments

    found = rows()
    more = {"use_cpu": True, "max_steps": 2, "report_to": [], "disable_tqdm": True, "save_strategy": "no"}
    return found | {
        "Trainer": Trainer, "student": rows()["teacher"].train(), "data": found["rows"],
        "arguments": TrainingArguments("runs/trainer", **more),
    }  # fmt: skip


def sft() -> dict[str, Any]:
    trl = pytest.importorskip("test_trl")
    return {"student": trl.llama(1), "teacher": trl.llama(), "config": trl.arguments(Path("runs/sft"), max_steps=1),
            "data": trl.counting(6), "tokenizer": trl.words()}  # fmt: skip


def quick() -> dict[str, Any]:
    """Files and models that the quick starts name: real wines and digits, short texts, tiny models of each kind."""
    import sklearn.datasets

    import tiny_hub
    from test_own_folders import digits_to

    frame = sklearn.datasets.load_wine(as_frame=True).frame[["alcohol", "hue", "target"]]
    frame["grape"] = [["barolo", "grignolino", "barbera"][n] for n in frame.pop("target")]
    frame.to_csv("wine.csv", index=False)
    digits_to(Path("photos"), 0, 60)
    texts = [
        f"the {thing} {verb} {i}" for i in range(8) for thing in ("cat", "dog", "market") for verb in ("sat", "fell")
    ]
    reviews = "".join(f"{text},{'good' if 'cat' in text else 'bad'}\n" for text in texts)
    tagged = [
        "\n".join(f"{word} {'N' if word in ('cat', 'dog', 'market') else 'O'}" for word in text.split())
        for text in texts
    ]
    Path("reviews.csv").write_text(f"review,stars\n{reviews}")
    Path("news.conll").write_text("\n\n".join(tagged) + "\n")
    rows = [json.dumps({"question": text, "answer": text.split()[1]}) for text in texts]
    Path("chat.jsonl").write_text("\n".join(rows) + "\n")
    Path("news.en").write_text("".join(f"{text}\n" for text in texts))
    Path("news.it").write_text("".join(f"le chat {text.split()[1]} {i}\n" for i, text in enumerate(texts)))
    tiny_hub.bert(Path("models/teacher"), classes=("bad", "good"))
    tiny_hub.bert(Path("models/tagger"), classes=("N", "O"), head="BertForTokenClassification")
    tiny_hub.llama(Path("models/llama"))
    tiny_hub.marian(Path("models/marian"))
    return {"STUDY": names()["STUDY"]}


SETUP: dict[str, Callable[[], dict[str, Any]]] = {
    "index": quick, "reference/distill": few_labels, "reference/report": shown, "reference/findings": stored,
    "theory/objectives": stored, "how-to/teachers": teachers, "how-to/lora": rows, "how-to/ci": results,
    ("reference/dissect", 1): ladder, ("how-to/trainer", 0): trainers, ("how-to/trainer", 1): sft,
}  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "page",
    [p for p in DOCUMENTS if name(p) not in ELSEWHERE and blocks(p, "python") and p.parent.name != "learn"],
    ids=name,
)
def test_the_python_of_the_page_runs(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.chdir(tmp_path)
    for key, value in {
        "TRL_EXPERIMENTAL_SILENCE": "1",
        "HF_HUB_OFFLINE": "1",
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }.items():
        monkeypatch.setenv(key, value)
    kept = {registry: dict(registry._factories) for registry in layout.registries().values() if list(registry)}
    request.addfinalizer(
        lambda: [setattr(r, "_factories", own) for r, own in kept.items()]
    )  # parts that a page registers
    known = {"__name__": "__main__"} | SETUP.get(name(page), names)()
    missing: set[str] = set()
    for number, code in enumerate(blocks(page, "python")):
        if (name(page), number) in NOT_RUN:
            continue
        if (name(page), number) in SETUP:
            known |= SETUP[name(page), number]()
        try:
            exec(compile(small(code), f"{name(page)}, block {number}", "exec"), known)
        except ModuleNotFoundError as error:
            if (error.name or "").split(".")[0] not in PEERS:
                raise
            missing.add(error.name or "")
        except NameError as error:
            if not missing:  # a comparison with what could not be imported
                raise AssertionError(f"{name(page)}, block {number}: {error}") from error
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}; the rest of the page ran")


def commands(text: str) -> Iterator[list[str]]:
    for line in text.replace("\\\n", " ").splitlines():
        line = line.removeprefix("$ ")
        if line.startswith("fractionate "):
            yield shlex.split(line, comments=True)[1:]


def parse(arguments: list[str]) -> None:
    """As the program does, up to the call: command, options and overrides."""
    import click
    import typer

    from fractionate.cli.commands import app

    command, left = typer.main.get_command(app), list(arguments)
    while isinstance(command, click.Group):
        assert left[0] in command.commands, f"there is no command {left[0]!r}"
        command = command.commands[left.pop(0)]
    context = command.make_context("fractionate", left)
    given = [text for text in context.params.get("arguments") or () if re.match(r"\w+(\.\w+)*=", text)]
    load_run(None, tuple(given), trust=("mypackage",))


@pytest.mark.parametrize("page", [p for p in DOCUMENTS if "fractionate " in p.read_text(encoding="utf-8")], ids=name)
def test_the_commands_of_the_page_are_commands(page: Path) -> None:
    for text in [*blocks(page, "bash"), *blocks(page, "")]:
        for arguments in commands(text):
            parse(arguments)


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "yaml")], ids=name)
def test_the_run_files_of_the_page_are_read(page: Path, tmp_path: Path) -> None:
    for text in blocks(page, "yaml"):
        (tmp_path / "run.yaml").write_text(text, encoding="utf-8")
        load_run(tmp_path / "run.yaml")


def test_what_is_not_run_is_there() -> None:
    pages = {name(page): page for page in DOCUMENTS}
    for page, number in NOT_RUN:
        assert number < len(blocks(pages[page], "python")), page
    for page, test in ELSEWHERE.items():
        assert blocks(pages[page], "python") and (layout.ROOT / "tests" / f"{test}.py").exists()
        assert Path(page).name in (layout.ROOT / "tests" / f"{test}.py").read_text(encoding="utf-8")
