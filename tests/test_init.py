"""`fractionate init`: the task, the columns and what is odd, out of files; what it writes is a run file that runs."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

import tiny_hub
from encoders import transformers
from fractionate.cli.commands import main
from fractionate.errors import ConfigError
from fractionate.run.fitted import fit_run_file
from fractionate.run.read import read_run
from fractionate.run.task_of import find_source
from test_text_sources import write

WORDS = ["cat", "dog", "rain", "storm", "bank", "stock", "ran", "fell", "slept", "rose", "today", "again"]


KD = ["objective.cell=kd"]  # without it, the diagnosis refuses teachers as bad as these


def sentences(count, seed=0):
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=6)) for _ in range(count)]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path


def reviews(count=60):
    stars = {word: 1 + place % 3 for place, word in enumerate(WORDS)}
    texts = sentences(count)
    return [{"id": n, "review": text, "stars": stars[text.split()[0]], "user": n % 9} for n, text in enumerate(texts)]


FILES = {
    "reviews.csv": (reviews(), "classification", "texts('reviews.csv', text='review', label='stars')"),
    "wine.csv": (
        [{"bottle": n, "size": n % 7 + 0.5, "grape": "ab"[n % 2]} for n in range(40)],
        "classification",
        "table('wine.csv', label='grape')",
    ),
    "house.csv": ([{"rooms": n % 9 + 0.5, "price": 3.7 * n % 11} for n in range(60)], "regression",
                  "table('house.csv', target='price')"),
    "chat.jsonl": (
        [{"question": text, "answer": str(n)} for n, text in enumerate(sentences(30))],
        "language-modelling",
        "prompts('chat.jsonl', prompt='question', completion='answer')",
    ),
    "turns.jsonl": (
        [{"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": "yes"}]} for text in sentences(30)],
        "language-modelling",
        "prompts('turns.jsonl', messages='messages')",
    ),
    "story.jsonl": ([{"text": text} for text in sentences(30)], "language-modelling", "prompts('story.jsonl', text='text')"),
    "news.tsv": ([{"en": text, "it": text} for text in sentences(30)], "translation",
                 "pairs('news.tsv', source='en', target='it')"),
    "web.jsonl": (
        [{"translation": {"en": text, "fr": text}} for text in sentences(30)],
        "translation",
        "pairs('web.jsonl', source='translation.en', target='translation.fr')",
    ),
    "ner.jsonl": (
        [{"tokens": text.split(), "ner_tags": ["O", "X", "O", "O", "O", "O"]} for text in sentences(30)],
        "token-classification",
        "tagged('ner.jsonl', tokens='tokens', tags='ner_tags')",
    ),
    "nli.jsonl": (
        [{"premise": a, "hypothesis": b, "label": n % 3, "fold": ("train", "dev", "test")[max(0, n % 10 - 7)]}
         for n, (a, b) in enumerate(zip(sentences(60), sentences(60, 1), strict=True))],
        "classification",
        "texts('nli.jsonl', text='premise', label='label', second='hypothesis', part='fold')",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_columns_tell_the_task(name):
    rows, task, source = FILES[name]
    write(Path(name), rows)
    found = find_source(None, [name])
    assert (found.task, str(found)) == (task, source)
    assert str(find_source(task, [name])) == source
    fitted = fit_run_file(None, [name])
    Path("run.yaml").write_text(fitted.text)
    run = read_run("run.yaml")
    assert run.data.source.startswith(source[:-1]) and run.out == f"runs/{Path(name).stem}"
    assert any(str(len(rows)) in fact for fact in fitted.inspection.facts)


def test_folders_parallel_files_and_files_by_part():
    for n, text in enumerate(sentences(20)):
        path = Path("mails") / "ab"[n % 2] / f"{n}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert str(find_source(None, ["mails"])) == "texts('mails')"
    assert "2 classes: a 10, b 10" in fit_run_file(None, ["mails"]).text
    for part in ("train", "dev", "test"):
        for language in ("en", "it"):
            Path(f"{part}.{language}").write_text("\n".join(sentences(5)) + "\n")
    assert str(find_source(None, ["train.en", "train.it"])) == "pairs('train.en', 'train.it')"
    files = [f"{part}.{language}" for part in ("train", "dev", "test") for language in ("en", "it")]
    found = find_source(None, files)
    assert found.settings == {"validation": ("dev.en", "dev.it"), "test": ("test.en", "test.it")}
    for part in ("train", "valid", "test"):
        write(Path(f"reviews-{part}.csv"), reviews())
    found = find_source(None, [f"reviews-{part}.csv" for part in ("test", "train", "valid")])
    assert found.path == ("reviews-train.csv",) and found.settings["validation"] == "reviews-valid.csv"
    Path("n.conll").write_text("\n\n".join("cat X\nran O" for _ in range(10)))
    assert str(find_source(None, ["n.conll"])) == "tagged('n.conll')"
    Path("story.txt").write_text("\n\n".join(sentences(10)))
    assert str(find_source(None, ["story.txt"])) == "prompts('story.txt')"


def test_several_labels():
    rows = [{"text": text, "a": int("cat" in text), "b": int("dog" in text)} for text in sentences(60)]
    write(Path("t.csv"), rows)
    fitted = fit_run_file("multi-label", ["t.csv"])
    Path("run.yaml").write_text(fitted.text)
    assert "texts('t.csv', text='text', label=['a', 'b'])" in fitted.text and read_run("run.yaml").task == "multi-label"
    assert any(fact.startswith("2 labels: ") for fact in fitted.inspection.facts)
    write(Path("n.csv"), [{"size": n / 7, **{name: row[name] for name in "ab"}} for n, row in enumerate(rows)])
    assert "table('n.csv', label=['a', 'b'])" in fit_run_file("multi-label", ["n.csv"]).text


def test_a_folder_that_datasets_saved():
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    rows = datasets.Dataset.from_list([{"text": text, "label": n % 2} for n, text in enumerate(sentences(40))])
    datasets.DatasetDict({"train": rows.select(range(30)), "test": rows.select(range(30, 40))}).save_to_disk("d")
    text = fit_run_file(None, ["d"]).text
    assert "texts('d', text='text', label='label')" in text and "validation: 0.2" in text and "test: 0.2" not in text


def test_what_is_odd_is_said():
    rows = [{"customer_id": n % 9, "review": text, "stars": "good"} for n, text in enumerate(sentences(80))]
    rows += [{"customer_id": 3, "review": rows[0]["review"], "stars": "bad"} for _ in range(4)]
    write(Path("reviews.csv"), rows)
    text = fit_run_file(None, ["reviews.csv"]).text
    assert "# check: 95% are 'good'" in text
    assert "# check: 1 have fewer than 10 examples, and a part may lack them: bad 4" in text
    assert "# check: 1 texts come with two or more labels" in text
    assert "# check: 4 examples are exact repeats" in text
    assert "group='customer_id' in source keeps them in one part" in text
    write(Path("wine.csv"), FILES["wine.csv"][0])
    text = fit_run_file(None, ["wine.csv"]).text
    assert "drop=['bottle']" in text and "# check: left out: 'bottle' counts the rows" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["speech", "wine.csv"], "no run file is written for the task 'speech'"),
        (["clasification", "wine.csv"], "did you mean 'classification'"),
        (["translation", "wine.csv"], "does not show what translation learns from"),
        (["token-classification", "wine.csv"], "does not show"),
        (["wine.xls"], "there is no|not a file that init reads"),
        (["nothing.csv"], "there is no file nothing.csv"),
        (["a.csv", "b.csv", "c.csv"], "which part is which"),
        ([], "no data"),
        (["wine.csv", "--json", "--out", "-"], "leave one of them out"),
    ],
)
def test_what_cannot_be_fitted(arguments, message, capsys):
    write(Path("wine.csv"), FILES["wine.csv"][0])
    with pytest.raises(SystemExit) as left:
        main(["init", *arguments])
    assert left.value.code == 2
    import re

    assert re.search(message, capsys.readouterr().err)
    assert not Path("run.yaml").exists()


def test_a_run_file_is_never_written_over(capsys):
    write(Path("wine.csv"), FILES["wine.csv"][0])
    for code in (0, 2):
        with pytest.raises(SystemExit) as left:
            main(["init", "wine.csv"])
        assert (left.value.code or 0) == code
    assert "is there already" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["init", "classification", "wine.csv", "--out", "-"])
    assert capsys.readouterr().out == Path("run.yaml").read_text()


@pytest.mark.parametrize("name", ["reviews.csv", "wine.csv"])
def test_what_it_writes_runs(name, capsys):
    write(Path(name), reviews(120) if name == "reviews.csv" else FILES[name][0] * 2)
    for command in (["init", name], ["distill", "run.yaml", "training.epochs=1", "export.program=false", *KD]):
        with pytest.raises(SystemExit) as left:
            main(command)
        assert not left.value.code, capsys.readouterr().err
    assert (Path("runs") / Path(name).stem / "student" / "model.safetensors").is_file()


@pytest.mark.parametrize("kind", ["classification", "language-modelling"])
def test_what_it_writes_runs_with_checkpoints(kind, capsys):
    """The student opens by the Auto classes of transformers, with its tokenizer."""
    library = transformers()
    if kind == "classification":
        write(Path("t.jsonl"), [{"text": text, "label": "ab"[n % 2]} for n, text in enumerate(sentences(60))])
        tiny_hub.bert(Path("teacher"), head="BertModel")
    else:
        write(Path("t.jsonl"), [{"prompt": text, "completion": text[:8]} for text in sentences(60)])
        tiny_hub.llama(Path("teacher"))
    model = ["--teacher", "hf('teacher')"]
    small = [
        "training.epochs=1",
        "export.program=false",
        *KD,
        *(["teacher.train.steps=4"] if kind == "classification" else []),
    ]
    for command in (["init", "t.jsonl", *model], ["distill", "run.yaml", *small]):
        with pytest.raises(SystemExit) as left:
            main(command)
        assert not left.value.code, capsys.readouterr().err
    out = Path("runs/t/student")
    auto = "AutoModelForSequenceClassification" if kind == "classification" else "AutoModelForCausalLM"
    student = getattr(library, auto).from_pretrained(out)
    tokenizer = library.AutoTokenizer.from_pretrained(out)
    assert student.config.num_hidden_layers == 2 and student.config.vocab_size >= len(tokenizer)
    if kind == "classification":
        assert student.config.id2label == {0: "a", 1: "b"}
    assert json.loads((out / "config.json").read_text())["model_type"] in ("bert", "llama")


def test_the_column_to_predict_is_named_or_guessed_aloud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [f"{n * 7 % 50},{'ab'[n % 2]},{n * n % 97}.5" for n in range(60)]
    Path("houses.csv").write_text("area,garden,price\n" + "\n".join(rows) + "\n")
    guessed = find_source(None, ["houses.csv"])
    assert str(guessed) == "table('houses.csv', target='price')"
    assert guessed.notes == ("'price' is taken as the column to predict; --label names another",)
    named = find_source(None, ["houses.csv"], "garden")
    assert str(named) == "table('houses.csv', label='garden')" and not named.notes
    with pytest.raises(ConfigError, match=r"no column 'rooms' of classes or numbers(?s:.*)area, garden, price"):
        find_source(None, ["houses.csv"], "rooms")
    with pytest.raises(ConfigError, match="translation does not learn from"):
        find_source("translation", ["houses.csv"], "price")
    with pytest.raises(SystemExit, match="0"):
        main(["init", "houses.csv", "--label", "garden"])
    assert "label='garden'" in Path("run.yaml").read_text()


def test_an_estimator_tells_the_column_that_it_predicts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    io, pandas = pytest.importorskip("skops.io"), pytest.importorskip("pandas")
    from sklearn.linear_model import Ridge

    monkeypatch.chdir(tmp_path)
    rows = [f"{n * n % 97}.5,{n * 7 % 50},{n % 3}.25" for n in range(60)]
    Path("houses.csv").write_text("price,area,distance\n" + "\n".join(rows) + "\n")
    frame = pandas.read_csv("houses.csv")
    io.dump(Ridge().fit(frame[["area", "distance"]], frame["price"]), "ridge.skops")
    fitted = fit_run_file(None, ["houses.csv"], teacher="sklearn('ridge.skops')")
    assert "table('houses.csv', target='price', raw=True)" in fitted.text and "task: regression" in fitted.text
