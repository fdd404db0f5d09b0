"""Texts, tagged sentences, prompts and sentence pairs of a person's own: read, divided, and made into what a model takes."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import pytest
import torch

import tiny_hub
from encoders import transformers
from fractionate.data import data_sets
from fractionate.data.raw import RawData, Tokenizing
from fractionate.errors import ConfigError, DamagedError, MismatchError
from fractionate.models.hub import hf
from fractionate.models.names import ModelNeed
from fractionate.models.tokenizer import encode_for
from fractionate.tasks import Task, check_fit

SIZES = {"transfer": None, "validation": None, "test": None, "seed": 0}
TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}<end>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
TOPICS = {"animals": "the cat number {} ran", "money": "stock {} fell today", "weather": "rain on day {} of may"}


@pytest.fixture(autouse=True)
def library():
    transformers()


def write(path, rows):
    """Rows as JSON lines, CSV, TSV or Parquet, by the ending."""
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    elif path.suffix == ".parquet":
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        import csv

        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, rows[0], delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    return path


def topics(count=10):
    return [
        {"body": text.format(n), "topic": topic, "who": n % 5} for n in range(count) for topic, text in TOPICS.items()
    ]


def cut(by, split):
    """The texts of a split's tokens, without special ones."""
    return by.tokenizer.batch_decode(split.inputs["input_ids"], skip_special_tokens=True)


def reader(length=16, **made):
    found = tiny_hub.tokenizer(**made)
    found.pad_token = found.pad_token or found.eos_token
    return Tokenizing(found, length, found.pad_token_id, found.pad_token_id)


@pytest.mark.parametrize("ending", ["jsonl", "csv", "tsv", "parquet"])
def test_texts_of_every_file_are_the_same(tmp_path, ending):
    found = data_sets[f"texts('{write(tmp_path / f't.{ending}', topics())}', text='body', label='topic')"]
    assert isinstance(found, RawData)
    parts = found.raw_parts(**{**SIZES, "transfer": 12, "validation": 0.2, "test": 6})
    assert [len(parts.transfer), len(parts.validation), len(parts.test), len(parts.teaching)] == [12, 6, 6, 6]
    assert sorted(parts.transfer.columns["label"]) == [0] * 4 + [1] * 4 + [2] * 4
    by = reader()
    split = found.encode(parts.test, by)
    assert split.class_names == ("animals", "money", "weather") and split.ids == parts.test.ids
    assert set(split.inputs) == {"input_ids", "token_type_ids", "attention_mask"}
    assert torch.equal(split.inputs["attention_mask"] == 0, split.inputs["input_ids"] == by.tokenizer.pad_token_id)
    assert split.inputs["input_ids"].shape[1] == int(split.inputs["attention_mask"].sum(1).max())
    for text, label, tokens in zip(parts.test.columns["text"], split.labels, cut(by, split), strict=True):
        assert text.startswith(list(TOPICS.values())[int(label)][:4]) and tokens.split()[0] in text
    hashed = found.encode(parts.test, None)
    assert torch.equal(hashed.labels, split.labels) and hashed.inputs.shape == (6, 48)
    assert torch.equal(found.parts(**{**SIZES, "transfer": 12, "validation": 6, "test": 6}).test.inputs, hashed.inputs)


def test_a_wrong_column_is_named_with_its_neighbour(tmp_path):
    path = write(tmp_path / "t.csv", topics())
    with pytest.raises(ConfigError, match="no column 'bodi'") as error:
        data_sets[f"texts('{path}', text='bodi', label='topic')"]
    assert "did you mean text='body'?" in str(error.value)
    with pytest.raises(ConfigError, match="no column 'customer'"):
        data_sets[f"texts('{path}', text='body', label='topic', group='customer')"]


def test_groups_stay_together_and_repeats_leave_later_parts(tmp_path):
    path = write(tmp_path / "t.jsonl", topics())
    found = data_sets[f"texts('{path}', text='body', label='topic', group='who')"].raw_parts(**SIZES)
    who = [{int(text.split()[{"t": 3, "s": 1, "r": 3}[text[0]]]) % 5 for text in part.columns["text"]}
           for part in (found.transfer, found.validation, found.test)]  # fmt: skip
    assert not (who[0] & who[1] or who[0] & who[2] or who[1] & who[2])
    write(path, topics() + topics())
    with pytest.warns(UserWarning, match=r"of validation and \d+ of test are left out"):
        parts = data_sets[f"texts('{path}', text='body', label='topic')"].raw_parts(**SIZES)
    texts = [set(part.columns["text"]) for part in (parts.transfer, parts.validation, parts.test)]
    assert not (texts[0] & texts[1] or texts[0] & texts[2] or texts[1] & texts[2])
    kept = data_sets[f"texts('{path}', text='body', label='topic', repeats=True)"].raw_parts(**SIZES)
    assert len(kept.test) == 12


def test_parts_come_from_a_column_or_from_files(tmp_path):
    rows = topics()
    for place, row in enumerate(rows):
        row["fold"] = "test" if place >= 24 else "dev" if place >= 18 else "train"
    path = write(tmp_path / "t.jsonl", rows)
    parts = data_sets[f"texts('{path}', text='body', label='topic', part='fold')"].raw_parts(**SIZES)
    assert [len(parts.transfer), len(parts.validation), len(parts.test)] == [18, 6, 6] and parts.teaching is None
    dev = write(tmp_path / "dev.jsonl", rows[18:24])
    test = write(tmp_path / "test.jsonl", rows[24:])
    train = write(tmp_path / "train.jsonl", rows[:18])
    files = f"texts('{train}', text='body', label='topic', validation='{dev}', test='{test}'"
    again = data_sets[f"{files})"].raw_parts(**SIZES)
    for name in ("transfer", "validation", "test"):
        assert getattr(again, name).columns["text"] == getattr(parts, name).columns["text"]
    assert again.test.ids[0] == "test:1"
    with pytest.raises(ConfigError, match="named in two ways"):
        data_sets[f"{files}, part='fold')"]
    write(test, [{"body": "a", "topic": None}])
    with pytest.raises(ConfigError, match=r"1 rows have no label: .*test.jsonl:1"):
        data_sets[f"{files})"]


def test_two_texts_are_read_as_a_pair(tmp_path):
    rows = [{"a": f"the cat {n}", "b": f"a dog {n}", "y": n % 2} for n in range(20)]
    found = data_sets[f"texts('{write(tmp_path / 't.jsonl', rows)}', text='a', second='b', label='y')"]
    parts = found.raw_parts(**SIZES)
    by = reader()
    split = found.encode(parts.test, by)
    expected = by.tokenizer(parts.test.columns["text"][0], parts.test.columns["second"][0])
    width = len(expected["input_ids"])
    for name, row in expected.items():
        assert split.inputs[name][0][:width].tolist() == row
    assert int(split.inputs["token_type_ids"].sum()) > 0
    with pytest.raises(ConfigError, match="pairs of texts need a model with a tokenizer"):
        found.encode(parts.test, None)


def test_what_is_cut_is_counted_and_an_empty_text_has_a_token(tmp_path):
    rows = [{"text": "the cat " * n if n % 7 else "", "label": n % 2} for n in range(28)]
    found = data_sets[f"texts('{write(tmp_path / 't.jsonl', rows)}', repeats=True)"]
    for by in (reader(8), reader(8, end=True)):
        with pytest.warns(
            UserWarning, match=r"t.jsonl: \d+ of 28 texts have more than 8 tokens and are cut \(data.length"
        ):
            split = found.encode(found.table.examples, by)
        assert split.inputs["input_ids"].shape == (28, 8)
        assert int(split.inputs["attention_mask"].sum(1).min()) >= 1
        row = split.inputs["input_ids"][27].tolist()
        assert row == by.tokenizer("the cat " * 27, truncation=True, max_length=8)["input_ids"]


def test_teacher_and_student_with_two_tokenizers(tmp_path):
    found = data_sets[f"texts('{write(tmp_path / 't.jsonl', topics())}', text='body', label='topic')"]
    part = found.raw_parts(**SIZES).transfer
    student, teacher = reader(), reader(size=40)
    split = encode_for(found, part, student, teacher)
    batch = next(iter(split.batches([(0, torch.arange(3))], 0)))
    assert torch.equal(batch.view("teacher")["input_ids"], found.encode(part, teacher).inputs["input_ids"][:3])
    assert torch.equal(batch.inputs["input_ids"], found.encode(part, student).inputs["input_ids"][:3])
    assert not encode_for(found, part, student, replace(student, tokenizer=copy.deepcopy(student.tokenizer))).views
    hashed = encode_for(found, part, None, teacher)
    assert hashed.inputs.shape[1] == 48 and "input_ids" in hashed.views["teacher"]
    lines = write(tmp_path / "p.jsonl", [{"text": f"{n} cats"} for n in range(10)])
    plain = data_sets[f"prompts('{lines}', text='text')"]
    with pytest.raises(MismatchError, match="different tokens"):
        encode_for(plain, plain.raw_parts(**SIZES).transfer, student, teacher)


SENTENCES = [
    (["the", "storming", "cat"], ["O", "B-ACT", "B-ANI"]),
    (["rain"], ["O"]),
    (["a", "dog", "ran"], ["O", "B-ANI", "O"]),
] * 4


@pytest.mark.parametrize("form", ["jsonl", "parquet", "conll", "tab"])
def test_the_first_token_of_a_word_is_labelled(tmp_path, form):
    path = tmp_path / ("t.conll" if form in ("conll", "tab") else f"t.{form}")
    if form in ("conll", "tab"):
        between = " " if form == "conll" else "\tNN\t"
        lines = ["\n".join(f"{w}{between}{t}" for w, t in zip(*both, strict=True)) for both in SENTENCES]
        path.write_text("-DOCSTART- O\n\n" + "\n\n".join(lines) + "\n")
        found = data_sets[f"tagged('{path}', repeats=True)"]
    else:
        write(path, [{"words": words, "ner": tags} for words, tags in SENTENCES])
        found = data_sets[f"tagged('{path}', tokens='words', tags='ner', repeats=True)"]
    assert len(found.raw_parts(**SIZES).test) == 2
    by = reader()
    split = found.encode(found.table.examples, by)
    assert split.class_names == ("B-ACT", "B-ANI", "O")
    assert split.labels.shape == split.inputs["input_ids"].shape
    pieces = len(by.tokenizer("storming", add_special_tokens=False)["input_ids"])
    assert pieces > 1
    ours = [-100, 2, 0, *[-100] * (pieces - 1), 1]
    assert split.labels[0].tolist() == ours + [-100] * (split.labels.shape[1] - len(ours))
    assert split.labels[1, :3].tolist() == [-100, 2, -100]
    with pytest.warns(UserWarning, match="are cut"):
        short = found.encode(found.table.examples, reader(4))
    assert short.labels[0].tolist() == [-100, 2, 0, -100]


@pytest.mark.parametrize("end", [False, True])
def test_words_are_cut_as_they_are_in_a_text(tmp_path, end):
    write(tmp_path / "t.jsonl", [{"tokens": words, "tags": tags} for words, tags in SENTENCES])
    found = data_sets[f"tagged('{tmp_path / 't.jsonl'}', repeats=True)"]
    by = reader(end=end)
    split = found.encode(found.table.examples, by)
    for place, (words, _) in enumerate(SENTENCES[:3]):
        there = split.inputs["attention_mask"][place].bool()
        assert split.inputs["input_ids"][place][there].tolist() == by.tokenizer(" ".join(words))["input_ids"]


@pytest.mark.parametrize(
    ("name", "content", "error", "message"),
    [
        ("t.jsonl", '{"tokens": ["a"], "tags": ["x", "y"]}', DamagedError, "t.jsonl:1 words and tags do not fit"),
        ("t.jsonl", '{"tokens": "a b", "tags": ["x", "y"]}', DamagedError, "t.jsonl:1 'tokens' is no list"),
        ("t.jsonl", '{"tokens": ["a", 3], "tags": ["x", "y"]}', DamagedError, "an entry is no word"),
        ("t.jsonl", '{"tokens": ["a"], "tags": [0.5]}', DamagedError, "an entry is no tag"),
        ("t.jsonl", '{"tokens": ["a"], "tags": ["x"]}', ConfigError, "a single tag"),
        ("t.jsonl", '{"tokens": ["a"], "tag": ["x"]}', ConfigError, "did you mean tags='tag'"),
        ("t.conll", "a O\nb\n", DamagedError, "t.conll:2 this line has no word and tag"),
        ("t.conll", "\n\n", ConfigError, "is empty"),
        ("t.csv", "tokens,tags\na,b\n", ConfigError, "no lists of words"),
    ],
)
def test_sentences_that_cannot_be_read(tmp_path, name, content, error, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(error, match=message):
        data_sets[f"tagged('{tmp_path / name}')"]


def test_completions_are_learned_and_prompts_are_not(tmp_path):
    rows = [{"q": f"count {n}", "a": f"{n} dogs"} for n in range(10)]
    found = data_sets[f"prompts('{write(tmp_path / 'p.jsonl', rows)}', prompt='q', completion='a')"]
    by = reader(32, end=True)
    split = found.encode(found.table.examples, by)
    ids, labels = split.inputs["input_ids"], split.labels
    for place, row in enumerate(rows):
        learned = labels[place] != -100
        assert torch.equal(ids[place][learned], labels[place][learned])
        assert by.tokenizer.decode(ids[place][learned]) == f" {row['a']}<end>"
        there = split.inputs["attention_mask"][place].bool()
        assert by.tokenizer.decode(ids[place][there]) == f"{row['q']} {row['a']}<end>"
        assert by.tokenizer.decode(ids[place][there & ~learned]) == row["q"]
    own = data_sets[f"prompts('{tmp_path / 'p.jsonl'}', prompt='q', completion='a', between='=')"]
    split = own.encode(own.table.examples, by)
    assert by.tokenizer.decode(split.inputs["input_ids"][0]).startswith("count 0=0 dogs<end>")


def test_prompts_in_a_chat_template(tmp_path):
    rows = [{"prompt": f"count {n}", "completion": f"{n} dogs"} for n in range(10)]
    found = data_sets[f"prompts('{write(tmp_path / 'p.csv', rows)}', chat=True)"]
    by = reader(64, end=True, template=TEMPLATE)
    split = found.encode(found.table.examples, by)
    learned = split.labels[3] != -100
    assert by.tokenizer.decode(split.inputs["input_ids"][3][split.inputs["attention_mask"][3].bool()]) == (
        "<user>count 3<end><assistant>3 dogs<end>"
    )
    assert by.tokenizer.decode(split.inputs["input_ids"][3][learned]) == "3 dogs<end>"
    with pytest.raises(MismatchError, match="no chat template"):
        found.encode(found.table.examples, reader(64, end=True))


def test_the_last_message_of_a_chat_is_learned(tmp_path):
    def chat(n):
        return [{"role": "user", "content": f"count {n}"}, {"role": "assistant", "content": str(n)},
                {"role": "user", "content": "dogs"}, {"role": "assistant", "content": f"{n} dogs"}]  # fmt: skip

    path = write(tmp_path / "c.jsonl", [{"messages": chat(n)} for n in range(10)])
    found = data_sets[f"prompts('{path}', messages='messages')"]
    by = reader(96, end=True, template=TEMPLATE)
    split = found.encode(found.table.examples, by)
    row = split.inputs["input_ids"][3][split.inputs["attention_mask"][3].bool()]
    assert by.tokenizer.decode(row) == "<user>count 3<end><assistant>3<end><user>dogs<end><assistant>3 dogs<end>"
    assert by.tokenizer.decode(split.inputs["input_ids"][3][split.labels[3] != -100]) == "3 dogs<end>"
    with pytest.raises(ConfigError, match="a chat has its own"):
        data_sets[f"prompts('{path}', messages='messages', prompt='q')"]
    write(path, [{"messages": chat(1)}, {"messages": ["hello", "you"]}])
    with pytest.raises(DamagedError, match=r"c.jsonl:2 this is no chat"):
        data_sets[f"prompts('{path}', messages='messages')"]


def test_prompts_without_room_are_counted(tmp_path):
    rows = [{"prompt": "the cat " * n, "completion": "a dog"} for n in range(1, 11)]
    found = data_sets[f"prompts('{write(tmp_path / 'p.jsonl', rows)}')"]
    with pytest.warns(UserWarning, match=r"are cut|leave no room") as reported:
        split = found.encode(found.table.examples, reader(16, end=True))
    messages = [str(one.message) for one in reported]
    assert any("are cut" in message for message in messages) and any("leave no room" in message for message in messages)
    assert 0 < len(split) < 10 and (split.labels != -100).any(1).all()
    with pytest.warns(UserWarning, match="are cut"), pytest.raises(MismatchError, match="nothing is left to learn"):
        found.encode(found.table.examples, reader(2, end=True))


def test_plain_texts_are_cut_into_pieces(tmp_path):
    (tmp_path / "t.txt").write_text("the cat sat\non the mat\n\n\n" + "stocks fell " * 20 + "\n\nrain\n")
    found = data_sets[f"prompts('{tmp_path / 't.txt'}')"]
    assert found.table.examples.columns["text"][0] == "the cat sat\non the mat" and found.table.examples.ids == (
        "1",
        "5",
        "7",
    )
    by = reader(16, end=True)
    split = found.encode(found.table.examples, by)
    assert split.ids[:3] == ("1", "5:0", "5:1") and split.inputs["input_ids"].shape[1] == 16
    counted = split.labels != -100
    assert torch.equal(counted, split.inputs["attention_mask"].bool())
    whole = [token for name, row, kept in zip(split.ids, split.inputs["input_ids"], counted, strict=True)
             if name.startswith("5") for token in row[kept].tolist()]  # fmt: skip
    expected = by.tokenizer("stocks fell " * 20)["input_ids"]
    assert whole[: len(expected)] == expected[: len(whole)] and len(whole) >= len(expected)
    with pytest.raises(ConfigError, match="plain texts have no prompts"):
        data_sets[f"prompts('{tmp_path / 't.txt'}', prompt='a')"]


def test_targets_are_shifted_behind_the_start_token(tmp_path):
    rows = [{"translation": {"en": f"the cat {n}", "fr": f"le chat dort {n}"}} for n in range(10)]
    path = write(tmp_path / "t.jsonl", rows)
    found = data_sets[f"pairs('{path}', source='translation.en', target='translation.fr')"]
    by = reader()
    split = found.encode(found.table.examples, by)
    assert set(split.inputs) == {"input_ids", "attention_mask", "decoder_input_ids"}
    row = by.tokenizer("le chat dort 3")["input_ids"]
    assert split.labels[3].tolist()[: len(row)] == row
    assert split.inputs["decoder_input_ids"][3].tolist()[: len(row)] == [by.start, *row[:-1]]
    with pytest.raises(MismatchError, match="no token that a decoder begins with"):
        found.encode(found.table.examples, Tokenizing(by.tokenizer, 16))
    with pytest.raises(ConfigError, match="needs a model that reads tokens"):
        found.encode(found.table.examples, None)


def test_parallel_files_are_pairs_of_lines(tmp_path):
    for name, lines in (("en", ["the cat", "", "a dog", "rain"]), ("fr", ["le chat", "x", "un chien", "pluie"])):
        for part in ("train", "dev", "test"):
            (tmp_path / f"{part}.{name}").write_text(
                "\n".join(f"{line} {part}" if line else "" for line in lines) + "\n"
            )
    files = {part: [str(tmp_path / f"{part}.{name}") for name in ("en", "fr")] for part in ("train", "dev", "test")}
    with pytest.warns(UserWarning, match="3 of 12 pairs have an empty side"):
        found = data_sets[f"pairs(*{files['train']})".replace("*[", "").replace("])", f", validation={files['dev']}, "
                          f"test={files['test']})")]  # fmt: skip
    parts = found.raw_parts(**SIZES)
    assert parts.transfer.columns["source"] == ("the cat train", "a dog train", "rain train")
    assert parts.test.columns["target"] == ("le chat test", "un chien test", "pluie test")
    (tmp_path / "train.fr").write_text("le chat\n")
    with pytest.raises(MismatchError, match="4 and 1"):
        data_sets[f"pairs('{tmp_path / 'train.en'}', '{tmp_path / 'train.fr'}')"]


@pytest.mark.parametrize("kind", ["classification", "token-classification", "language-modelling", "translation"])
def test_every_source_feeds_a_model_of_its_task(tmp_path, kind):
    """Data and `hf` go together: the labels' loss of a small model falls when it is trained on them."""
    rows = [{"text": row["body"], "label": row["topic"], "tokens": row["body"].split(), "source": row["body"],
             "tags": [word.isdigit() * 1 for word in row["body"].split()], "target": row["body"],
             "prompt": row["body"], "completion": row["topic"]} for row in topics()]  # fmt: skip
    path = write(tmp_path / "t.jsonl", rows)
    source = {"classification": "texts", "token-classification": "tagged", "language-modelling": "prompts",
              "translation": "pairs"}[kind]  # fmt: skip
    found = data_sets[f"{source}('{path}')"]
    assert found.tasks[0] == kind
    if kind == "language-modelling":
        model = hf(str(tiny_hub.llama(tmp_path / "m")), layers=1)
    else:
        name = "marian" if kind == "translation" else "bert"
        model = hf(name, layers=1, width=16, heads=2, tokenizer=str(tiny_hub.bert(tmp_path / "m")))
    split = found.encode(found.table.examples, model.tokenizing(24))
    need = ModelNeed(kind, (), len(split.class_names), split.class_names)
    task = Task(kind, transfer=split, student=lambda: model.build(need))
    check_fit(task, task.model())
    student = task.model()
    batch = task.example(size=30)
    own = student.eval()(**batch.inputs, labels=batch.labels).loss  # transformers' own loss on these inputs and labels
    with task.open(student) as opened:
        ours = task.reader.label_loss(task.read(opened, batch)).mean()
    assert torch.allclose(own, ours, atol=1e-5)
    optimizer = torch.optim.Adam(student.train().parameters(), 1e-2)
    losses = []
    for _ in range(40):
        with task.open(student) as opened:
            output, captured = opened(opened.inputs_of(batch))
        loss = task.reader.label_loss(task.rows(output, captured, batch)).mean()
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.95 * losses[0]


def test_several_labels_of_a_text(tmp_path):
    rows = [
        {"text": f"the cat ran {n}", "rude": n % 2, "long": n % 3 == 0, "spam": None if n == 4 else 0}
        for n in range(20)
    ]
    found = data_sets[f"texts('{write(tmp_path / 't.jsonl', rows)}', label=['rude', 'long', 'spam'])"]
    assert found.tasks == ("multi-label",)
    split = found.encode(found.raw_parts(**SIZES).test, reader())
    assert split.class_names == ("rude", "long", "spam") and split.labels.shape == (4, 3)
    whole = found.encode(found.table.examples, None)
    assert whole.labels[3].tolist() == [1, 1, 0] and whole.labels[4].tolist() == [0, 0, -100]
    assert isinstance(found.parts(**SIZES).test, type(whole))
    with pytest.raises(ConfigError, match="'text' is no label of 0 and 1"):
        data_sets[f"texts('{tmp_path / 't.jsonl'}', label=['rude', 'text'])"]


def test_a_folder_that_datasets_saved(tmp_path):
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    names = datasets.ClassLabel(names=["money", "animals"])
    tags = datasets.Sequence(datasets.ClassLabel(names=["O", "ANI"]))
    features = datasets.Features({"text": datasets.Value("string"), "label": names,
                                  "tokens": datasets.Sequence(datasets.Value("string")), "ner": tags})  # fmt: skip

    def part(first, last):
        rows = [
            {"text": f"the cat {n}", "label": n % 2, "tokens": ["cat", str(n)], "ner": [1, 0]}
            for n in range(first, last)
        ]
        return datasets.Dataset.from_list(rows, features=features)

    datasets.DatasetDict({"train": part(0, 20), "test": part(20, 26)}).save_to_disk(tmp_path / "d")
    found = data_sets[f"texts('{tmp_path / 'd'}')"]
    parts = found.raw_parts(**SIZES)
    assert [len(parts.transfer), len(parts.validation), len(parts.test)] == [16, 4, 6]
    assert parts.test.class_names == ("animals", "money") and parts.test.columns["label"] == (1, 0) * 3
    assert parts.test.ids[0] == "test:0"
    sentences = data_sets[f"tagged('{tmp_path / 'd'}', tags='ner')"]
    assert sentences.table.examples.class_names == ("ANI", "O") and sentences.table.examples.columns["tags"][0] == (
        0,
        1,
    )
    with pytest.raises(ConfigError, match="named in two ways"):
        data_sets[f"texts('{tmp_path / 'd'}', test='{tmp_path / 'd'}')"]
    with pytest.raises(ConfigError, match="did you mean text='text'"):
        data_sets[f"texts('{tmp_path / 'd'}', text='texts')"]
    part(0, 20).save_to_disk(tmp_path / "one")
    assert found.table.examples.ids[0] == "train:0" and data_sets[f"texts('{tmp_path / 'one'}')"].table.given is None
