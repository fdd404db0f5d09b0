"""Teachers by name alone: estimators fitted on the teaching part, and language models that are asked by a prompt."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from fractionate.cli.commands import main
from fractionate.data import Tokenizing, as_split, data_sets
from fractionate.errors import ConfigError, FractionateError, MismatchError
from fractionate.models import ModelNeed, find_model
from fractionate.records import Run
from fractionate.store import Store
from tiny_hub import bert, llama

TEXTS = """task: text-classification
data: {source: "texts('rows.csv', label='kind')", transfer: 20, validation: 10, test: 20, length: 16}
"""
SHORT = "diagnosis: {pilot: 0}\nobjective: {cell: kd, temperature: 1.0, teacher_weight: 0.5}\ntraining: {steps: 5, batch_size: 8}\n"


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as left:
        main(list(arguments))
    return int(left.value.code or 0)


def blobs(examples: int = 90) -> tuple[torch.Tensor, torch.Tensor]:
    labels = torch.arange(examples) % 3
    draw = torch.Generator().manual_seed(0)
    return torch.randn(examples, 4, generator=draw) + labels[:, None], labels


def need(**changes: object) -> ModelNeed:
    inputs, labels = blobs()
    given = {"shape": (4,), "classes": 3, "class_names": ("a", "b", "c"), "teaching": as_split((inputs, labels))}
    return ModelNeed(**(given | changes))


# --- fitted -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["RandomForestClassifier", "LogisticRegression", "SVC"])
def test_it_is_the_estimator_fitted_on_the_teaching_part(name: str) -> None:
    sklearn = pytest.importorskip("sklearn")
    assert sklearn
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression

    inputs, labels = blobs()
    settings = ", n_estimators=5" if "Forest" in name else ""
    teacher = find_model(f"fitted('{name}'{settings})").build(need())
    found = torch.softmax(teacher(inputs), dim=-1)
    assert found.shape == (90, 3) and float((found.argmax(1) == labels).float().mean()) > 0.5
    plain = {
        "RandomForestClassifier": RandomForestClassifier(5, random_state=0),
        "LogisticRegression": LogisticRegression(),
    }
    if name in plain:
        expected = plain[name].fit(inputs.numpy(), labels.numpy()).predict_proba(inputs.numpy())
        np.testing.assert_allclose(found.numpy(), expected, atol=1e-6)


def test_numbers_and_several_labels() -> None:
    pytest.importorskip("sklearn")
    inputs, labels = blobs()
    numbers = need(
        kind="regression", classes=1, class_names=(), teaching=as_split((inputs, labels.float()), classes=False)
    )
    teacher = find_model("fitted('Ridge')").build(numbers)
    assert teacher(inputs).shape == (90, 1) and float((teacher(inputs)[:, 0] - labels).abs().mean()) < 1
    both = torch.stack([labels > 0, labels > 1], dim=1).long()
    multiple = need(
        kind="multi-label", classes=2, class_names=("p", "q"), teaching=as_split((inputs, both), classes=False)
    )
    teacher = find_model("fitted('RandomForestClassifier', n_estimators=3)").build(multiple)
    assert teacher(inputs).shape == (90, 2, 2)


def test_its_identity_is_what_it_was_fitted_with() -> None:
    pytest.importorskip("sklearn")
    inputs, labels = blobs()
    first, again, other, less = (
        find_model(f"fitted('RandomForestClassifier', n_estimators={trees})")
        .build(need(teaching=as_split(data)))
        .identity
        for trees, data in ((3, blobs()), (3, blobs()), (4, blobs()), (3, (inputs[:80], labels[:80])))
    )
    assert first == again and len({first, other, less}) == 3


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("fitted('RandomForestClasifier')", {}, "did you mean 'RandomForestClassifier'"),
        ("fitted('subprocess.Popen')", {}, "unknown estimator"),
        ("fitted('Ridge', alfa=1)", {}, "did you mean 'alpha'"),
        ("fitted('RandomForestClassifier', max_depth=-1)", {}, "cannot be fitted on these data"),
        ("fitted('Ridge')", {"kind": "token-classification"}, "cannot be fitted for this run"),
        ("fitted('Ridge')", {"teaching": None}, "make the parts of data smaller"),
        ("fitted('Ridge')", {}, "gives no probabilities"),
        ("fitted('LogisticRegression')", {"teaching": as_split((torch.ones(9, 4).long(), torch.arange(9) % 3))}, "rows of numbers"),
    ],
)  # fmt: skip
def test_what_cannot_be_fitted_is_refused(name: str, change: dict[str, object], message: str) -> None:
    pytest.importorskip("sklearn")
    with pytest.raises(FractionateError, match=message):
        find_model(name).build(need(**change))


def test_it_teaches_from_a_run_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("sklearn")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.yaml").write_text(
        "data: {source: digits, transfer: 60, validation: 40, test: 60}\n"
        "teacher: {model: \"fitted('RandomForestClassifier', n_estimators=5)\"}\nstudent: {model: mlp(8)}\n" + SHORT
    )
    assert run("distill", "run.yaml") == 0
    assert run("distill", "run.yaml") == 0, capsys.readouterr().err  # fitted again, and the same
    signal = Store.open("runs/run/store").signal()
    assert float((signal.logits.argmax(1) == signal.labels).float().mean()) > 0.6
    assert run("distill", "run.yaml", "teacher.train.steps=3", "out=other") == 2
    assert "parameters that require gradients" in capsys.readouterr().err


@pytest.mark.parametrize("teacher_name", ["fitted('Ridge')", "sklearn('ridge.skops')"])
def test_numbers_are_taught_from_a_run_file(teacher_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    io = pytest.importorskip("skops.io")
    from sklearn.linear_model import Ridge

    monkeypatch.chdir(tmp_path)
    inputs, labels = blobs()
    rows = [f"{a:.3f},{b:.3f},{10 * c + 0.5}" for (a, b, *_), c in zip(inputs.tolist(), labels.tolist(), strict=True)]
    (tmp_path / "t.csv").write_text("a,b,price\n" + "\n".join(rows) + "\n")
    teacher = Ridge().fit(inputs[:, :2].numpy(), (10 * labels + 0.5).numpy())
    io.dump(teacher, "ridge.skops")
    raw = teacher_name.startswith("sklearn")  # of a file: fitted on the cells as they stand
    source = f"table('t.csv', target='price', raw={raw})"
    (tmp_path / "run.yaml").write_text(
        f'task: regression\ndata: {{source: "{source}", transfer: 30, validation: 20, test: 20}}\n'
        f'teacher: {{model: "{teacher_name}"}}\nstudent: {{model: mlp(8)}}\nterms: [squared-error]\ntraining: {{steps: 5}}\n'
    )
    assert run("distill", "run.yaml") == 0
    if raw:  # it predicts prices, and the student learns standardised ones
        numbers = Store.open("runs/run/store").signal().values
        assert abs(float(numbers.mean())) < 0.5 and 0.3 < float(numbers.std()) < 1.5
    found = Run.load("runs/run/student/run.json")
    assert (
        found.test is not None and found.test.values["rmse"] > 3
    )  # in the unit of the column, not in its standard deviations


# --- prompted ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prompted")
    llama(folder / "llama")
    bert(folder / "bert")
    rows = [f"the cat number {n} sat,animal" if n % 2 else f"stocks fell {n} times,market" for n in range(60)]
    (folder / "rows.csv").write_text("text,kind\n" + "\n".join(rows) + "\n")
    return folder


def name(place: Path, words: str = "['cat', 'stocks']", **more: object) -> str:
    rest = "".join(f", {key}={value!r}" for key, value in more.items())
    return f"prompted({str(place / 'llama')!r}, prompt='a dog ran: {{text}} is', words={words}{rest})"


@pytest.mark.filterwarnings("ignore:.*are cut")
def test_it_is_the_model_s_own_next_word(place: Path) -> None:
    from encoders import transformers

    model = find_model(name(place))
    found = model.build(ModelNeed(classes=2, class_names=("animal", "market"))).eval()
    by = model.tokenizing(6)
    source = data_sets[f"texts({str(place / 'rows.csv')!r}, label='kind')"]
    part = source.raw_parts(transfer=10, validation=10, test=10).transfer
    batch = source.encode(part, by).inputs
    with torch.no_grad():
        rows = found(**batch)
    library = transformers()
    whole = library.AutoModelForCausalLM.from_pretrained(place / "llama").eval()
    for text, row in zip(part.columns["text"], rows, strict=True):
        kept = by.tokenizer(text, return_offsets_mapping=True)["offset_mapping"][:6][-1][1]
        ids = by.tokenizer(f"a dog ran: {text[:kept]} is", return_tensors="pt")["input_ids"]
        words = [by.tokenizer(word)["input_ids"][0] for word in (" cat", " stocks")]
        with torch.no_grad():
            expected = torch.log_softmax(whole(ids).logits[0, -1, words], dim=-1)
        torch.testing.assert_close(row, expected, atol=1e-5, rtol=1e-5)


def test_of_a_short_list_what_is_missing_is_no_likelier_than_what_is_listed(place: Path) -> None:
    model = find_model(name(place, k=1))
    found = model.build(ModelNeed(classes=2, class_names=("animal", "market")))
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        row = found(ids, torch.ones_like(ids))[0]
    assert float(row.exp().sum()) == pytest.approx(1) and float(row[0]) == pytest.approx(
        float(row[1])
    )  # neither is listed


@pytest.mark.parametrize(
    ("model", "change", "message"),
    [
        ("prompted('llama', prompt='what?', words=['a', 'b'])", {}, "no place for the text"),
        ("prompted('llama', prompt='{text}', words=['a'])", {}, "two words or more"),
        ("prompted('llama', prompt='{text}', words=['a', 'b'], k=-1)", {}, "invalid value for k"),
        ("prompted('gpt2', prompt='{text}', words=['a', 'b'])", {}, "without weights"),
        ("prompted('llama', prompt='{text}', words=['a', 'b', 'c'])", {}, "not those of the classes"),
        ("prompted('llama', prompt='{text}', words=['cat', 'cat'])", {}, "the same token"),
        ("prompted('llama', prompt='{text}', words=['cat', 'dog'])", {"kind": "translation"}, "task: translation"),
    ],
)
def test_prompts_that_cannot_be_asked_are_refused(
    model: str, change: dict[str, object], message: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    need = ModelNeed(**({"classes": 2, "class_names": ("animal", "market")} | change))
    with pytest.raises((ConfigError, MismatchError), match=message):
        find_model(model).build(need)


@pytest.mark.filterwarnings("ignore:.*are cut")
def test_a_prompted_teacher_and_a_student_that_reads_the_text_alone(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    teacher = name(place).replace(str(place / "llama"), "llama")
    (place / "run.yaml").write_text(
        TEXTS
        + f"teacher: {{model: \"{teacher}\"}}\nstudent: {{model: \"hf('bert', layers=1, tokenizer='bert')\"}}\n{SHORT}"
    )
    assert run("distill", "run.yaml") == 0
    assert Store.open("runs/run/store").signal().logits.shape == (20, 2)
    teacher = "hf('bert', fresh=True, prompt='{text} is')"
    assert (
        run("distill", "run.yaml", "out=other", f'teacher={{model: "{teacher}", train: {{steps: 2, "on": transfer}}}}')
        == 0
    )


def test_a_prompt_around_tokens_that_are_rows_is_refused(place: Path) -> None:
    from fractionate.models.tokenizer import encode_for

    (place / "chat.jsonl").write_text('{"prompt": "the cat", "completion": "sat"}\n' * 3)
    source = data_sets[f"prompts({str(place / 'chat.jsonl')!r}, repeats=True)"]
    by = find_model(f"hf({str(place / 'llama')!r}, prompt='so: {{text}}')").tokenizing(8)
    assert isinstance(by, Tokenizing)
    with pytest.raises(ConfigError, match="every token is a row"):
        encode_for(source, source.table.examples, by)
    with pytest.raises(MismatchError, match="and a prompt of"):
        find_model(f"hf({str(place / 'bert')!r}, prompt='so: {{text}}')").tokenizing(63)


# --- collect by two processes -----------------------------------------------------------------------------------------------


def test_two_processes_collect_what_one_does_with_a_teacher_spread_by_a_map(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("accelerate")
    from test_engine_world import started_together

    monkeypatch.chdir(place)
    bert(place / "spread", classes=("animal", "market"))
    (place / "spread.yaml").write_text(
        TEXTS
        + "teacher: {model: \"hf('spread', device_map={'': 'cpu'})\"}\nstudent: {model: \"hf('bert', layers=1)\"}\n"
        "collect: {batch_size: 4}\n" + SHORT
    )
    assert run("collect", "spread.yaml", "out=one", "teacher.model=\"hf('spread')\"") == 0
    shards: list[int] = started_together(2, lambda: os._exit(run("collect", "spread.yaml", "out=two")))
    assert shards == [0, 0]
    one, two = (Store.open(place / name / "store").signal() for name in ("one", "two"))
    assert torch.equal(one.logits, two.logits) and torch.equal(one.labels, two.labels)
    assert len(list((place / "two/store/shards").iterdir())) > 1  # each wrote its share
    with pytest.raises(ConfigError, match="weights that are read"):
        find_model("hf('bert', layers=1, device_map='auto')")
