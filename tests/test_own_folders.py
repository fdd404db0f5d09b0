"""Folders of a person's own: handwritten digits as PNG files, docstrings of the standard library as texts, and hostile ones."""

from __future__ import annotations

import importlib
import inspect
import json
import os
import re
import unicodedata

import pytest
import sklearn.datasets
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fractionate.data.own_pictures import PictureFolder, pictures
from fractionate.data.own_texts import TextEncoding, texts, words_of
from fractionate.data.picture_files import PictureEncoding
from fractionate.data.raw import Tokenizing
from fractionate.errors import ConfigError, DamagedError, MismatchError, ResourceError
from fractionate.models.names import find_parts
from fractionate.models.zoo import models
from fractionate.records import Training
from fractionate.training import distill


def digits_to(folder, first, last):
    loaded = sklearn.datasets.load_digits()
    for place in range(first, last):
        (folder / str(loaded.target[place])).mkdir(parents=True, exist_ok=True)
        pixels = Image.fromarray((loaded.images[place] * 15.9).astype("uint8"))
        pixels.save(folder / str(loaded.target[place]) / f"{place:04}.png")


def docstrings():
    """(docstring, package): which part of the standard library a description comes from."""
    found = {}
    for package in ("asyncio", "decimal", "logging", "statistics"):
        for name, part in vars(importlib.import_module(package)).items():
            inside = [part, *vars(part).values()] if inspect.isclass(part) else [part]
            for each in inside:
                text = inspect.getdoc(each) if callable(each) else None
                if text and len(text.split()) >= 6 and not name.startswith("_"):
                    found.setdefault(text, package)
    return list(found.items())


@pytest.fixture
def digits(tmp_path):
    digits_to(tmp_path / "digits", 0, 120)
    (tmp_path / "digits" / ".thumbnails").mkdir()
    (tmp_path / "digits" / "readme.txt").write_text("no class")
    return tmp_path / "digits"


def test_pictures_of_a_folder(digits):
    found = pictures(digits, side=8)
    data = found.examples
    assert (len(data), data.classes, data.name, list(data.inputs.shape[1:])) == (120, 10, "digits", [3, 8, 8])
    folder = PictureFolder(digits, 8)
    for place in (0, 7, 119):
        picture, label = folder[place]
        assert torch.equal(data.inputs[place], picture) and int(data.labels[place]) == label
        assert data.ids[place] == folder.files[place].relative_to(digits).as_posix()
    parts = find_parts(f"pictures({str(digits)!r}, 8, most=9)", transfer=40, validation=20, test=20, seed=0)
    assert [len(p) for p in (parts.transfer, parts.validation, parts.test, parts.teaching)] == [40, 20, 20, 10]
    again = PictureEncoding.from_json(parts.encoding.to_json())
    assert torch.equal(again.encode([digits / name for name in parts.test.ids]), parts.test.inputs)
    assert again.class_names == data.class_names


def test_folders_for_training_and_test_stay_what_they_are(tmp_path):
    digits_to(tmp_path / "d" / "train", 0, 200)
    digits_to(tmp_path / "d" / "TEST", 200, 260)
    made = pictures(tmp_path / "d", side=8)
    parts = made.parts()
    assert (len(parts.transfer), len(parts.validation), len(parts.test), parts.teaching) == (160, 40, 60, None)
    assert all(int(name[2:6]) >= 200 for name in parts.test.ids)
    assert not {*parts.transfer.ids} & {*parts.validation.ids}
    parts = made.parts(transfer=100, validation=30, test=25, seed=1)
    assert (len(parts.transfer), len(parts.validation), len(parts.test), len(parts.teaching)) == (100, 30, 25, 70)
    digits_to(tmp_path / "d" / "val", 260, 300)
    parts = pictures(tmp_path / "d", side=8).parts()
    assert (len(parts.transfer), len(parts.validation), len(parts.test)) == (200, 40, 60)
    for sizes, name in (({"transfer": 201}, "transfer"), ({"test": 61}, "test")):
        with pytest.raises(ConfigError, match=f"{name} cannot be of this size"):
            pictures(tmp_path / "d", side=8).parts(**sizes)
    digits_to(tmp_path / "d" / "validation", 0, 3)
    with pytest.raises(ConfigError, match="divided in no clear way"):
        pictures(tmp_path / "d", side=8)


def test_a_class_in_test_alone_is_told(tmp_path):
    digits_to(tmp_path / "train", 0, 40)
    digits_to(tmp_path / "test", 40, 60)
    (tmp_path / "test" / "\x1bunseen").mkdir()
    with pytest.raises(ConfigError, match=r"test has classes that are not in train: \\x1bunseen"):
        pictures(tmp_path)


def test_a_class_called_train_is_a_class(tmp_path):
    for name in ("train", "bus"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / name / "0.png")
    assert pictures(tmp_path, side=8).examples.class_names == ("bus", "train")


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (b"", "0.png"), (b"hello", "0.jpg"), (b"\x89PNG\r\n\x1a\n" + b"\0" * 40, "0.png"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(x) run\n", "0.png"),  # would start Ghostscript
        (b"\xff\xd8\xff\xe0" + b"\0" * 30, "0.jpeg"), (b"BM" + b"\xff" * 60, "0.bmp"),
        (b"RIFF\xff\xff\xff\xffWEBPVP8 " + b"\xff" * 30, "0.webp"),
    ],
)  # fmt: skip
def test_pictures_that_are_none_are_named(digits, content, name):
    (digits / "3" / name).write_bytes(content)
    with pytest.raises(DamagedError, match=rf"3/{name} cannot be read as a picture"):
        pictures(digits, side=8)


def test_a_picture_bomb_is_refused(digits):
    import struct
    import zlib

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    bomb = (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
    )
    (digits / "3" / "bomb.png").write_bytes(bomb)
    with pytest.raises(DamagedError, match=r"bomb.png cannot be read(.|\n)*decompression bomb"):
        pictures(digits, side=8)


def test_memory_is_told_before_the_first_picture_is_read(digits, monkeypatch):
    (digits / "3" / "broken.png").write_bytes(b"not read")
    monkeypatch.setattr("fractionate.system.memory.available_bytes", lambda device: 1_000_000)
    needed = 121 * 3 * 64 * 64 * 4
    with pytest.raises(ResourceError, match=rf"121 pictures of 3 × 64 × 64 does not fit(.|\n)*{needed:,} bytes"):
        pictures(digits)


def test_folders_that_hold_no_pictures(tmp_path):
    with pytest.raises(ConfigError, match="there is no folder"):
        pictures(tmp_path / "none")
    with pytest.raises(ConfigError, match="does not hold classes"):
        pictures(tmp_path)
    (tmp_path / "a").mkdir()
    with pytest.raises(ConfigError, match="two at least"):
        pictures(tmp_path)
    (tmp_path / "b").mkdir()
    with pytest.raises(ConfigError, match="there are no pictures"):
        pictures(tmp_path)
    with pytest.raises(ConfigError, match="number of pixels"):
        pictures(tmp_path, side=0)


def save_texts(folder, rows):
    for place, (text, name) in enumerate(rows):
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / f"{place:04}.txt").write_text(text, encoding="utf-8")


def test_texts_of_a_folder_and_of_tables_are_the_same(tmp_path):
    rows = docstrings()
    assert len(rows) > 200
    save_texts(tmp_path / "docs", rows)
    import csv

    with (tmp_path / "docs.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("words", "package"), *rows])
    with (tmp_path / "docs.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps({"package": name, "words": text, "more": None}) + "\n" for text, name in rows)
    options = {"buckets": 3000, "places": 60}
    folder = texts(tmp_path / "docs", **options).examples
    table, lines = (
        texts(tmp_path / f"docs.{kind}", text="words", label="package", **options).examples for kind in ("csv", "jsonl")
    )
    assert (
        folder.class_names == table.class_names == lines.class_names == ("asyncio", "decimal", "logging", "statistics")
    )
    assert folder.inputs.shape == (len(rows), 60)
    assert int(folder.inputs.max()) <= 3000
    assert torch.equal(table.inputs, lines.inputs) and torch.equal(table.labels, lines.labels)
    order = [int(name.split("/")[1][:4]) for name in folder.ids]
    assert torch.equal(folder.inputs, table.inputs[order]) and torch.equal(folder.labels, table.labels[order])
    parts = texts(tmp_path / "docs.jsonl", text="words", label="package", **options).parts(
        test=60, validation=60, transfer=120
    )
    torch.manual_seed(0)
    _, run = distill(
        models["bag(3000, 32)"]((60,), 4),
        parts.transfer,
        training=Training(epochs=40, learning_rate=1e-2),
        test=parts.test,
    )
    share = float(parts.test.labels.bincount().max()) / 60
    assert run.test.accuracy > share + 0.1, "more than the commonest package"
    again = TextEncoding.from_json(parts.encoding.to_json())
    text = dict(zip(lines.ids, (text for text, _ in rows), strict=True))[parts.test.ids[0]]
    assert torch.equal(again.encode([text])[0], parts.test.inputs[0])


def test_hashing_is_what_it_says():
    import zlib

    made = TextEncoding((), 100, 6).encode(["The fox, the FOX!", "", "日本 \ud800x", "a b c d e f g"])
    words = ["the", "fox", "the", "fox", "the fox", "fox the"]  # words first, then pairs
    assert made[0].tolist() == [zlib.crc32(word.encode()) % 100 + 1 for word in words]
    assert made[1].tolist() == [0] * 6
    assert made[2].count_nonzero() == 3
    assert made[3].tolist() == [zlib.crc32(word.encode()) % 100 + 1 for word in "abcdef"]


WORDS = {
    "Hindi": ("हिन्दी में लिखा", 3),
    "Tamil": ("தமிழ் மொழி", 2),
    "Bengali, with a joiner": ("ক\u200dষ র\u200c্য", 2),
    "Persian, with a non-joiner": ("می\u200cخواهم بروم", 2),
    "Arabic, with vowels": ("كِتَابٌ جَدِيدٌ", 2),
    "Hebrew, with points": ("שָׁלוֹם עוֹלָם", 2),
    "Thai, which writes no spaces": ("สวัสดีครับ", 1),
    "Burmese": ("မြန်မာ", 1),
    "Vietnamese": ("tiếng Việt", 2),
    "Turkish": ("İstanbul ışık", 2),
    "a soft hyphen, a mark of direction": ("Zusammen\u00adfassung \u200eab\u200f", 2),
    "a space of no width": ("one\u200btwo", 2),
    "pictures, joined and drawn in colour": ("ok \U0001f469\u200d\U0001f467 \u2764\ufe0f well", 2),
    "a mark without a letter": ("\u0301 \u200d a", 1),
    "punctuation of other scripts": ("「日本」、中国。¿qué? «да»", 4),
}


@pytest.mark.parametrize("name", WORDS)
@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_a_word_is_one_entry_in_every_script_and_spelling(name, form):
    text, count = WORDS[name]
    assert len(words_of(text)) == count
    assert words_of(unicodedata.normalize(form, text)) == words_of(text)
    assert words_of(unicodedata.normalize(form, text.upper())) == words_of(text.upper())


@given(st.text(max_size=30))
def test_words_are_composed_and_never_empty(text):
    words = words_of(text)
    assert words == words_of(unicodedata.normalize("NFD", text)) == words_of(" ".join(words))
    assert all(any(c.isalnum() or c == "_" for c in word) for word in words)
    if text.isascii():
        assert words == re.findall(r"\w+", text.lower())


def test_texts_without_a_word_are_counted_and_named(tmp_path):
    rows = ["text,label", "a word,x", ",y", "?!,x", "b,y"]
    (tmp_path / "t.csv").write_text("\n".join(rows))
    with pytest.warns(UserWarning, match=r"2 of 4 texts have no word, and are inputs of zeros: 3, 4"):
        assert len(texts(tmp_path / "t.csv").examples) == 4


def test_texts_in_parts_of_their_own(tmp_path):
    rows = docstrings()
    save_texts(tmp_path / "train", rows[::2])
    save_texts(tmp_path / "test", rows[1::2])
    parts = texts(tmp_path).parts(transfer=50)
    assert len(parts.test) == len(rows[1::2])
    assert len(parts.transfer) == 50
    assert len(parts.teaching) + len(parts.validation) + 50 == len(rows[::2])


@pytest.mark.parametrize(
    ("name", "content", "error", "message"),
    [
        ("t.jsonl", b"", ConfigError, "is empty"),
        ("t.jsonl", b'{"text": "a", "label": 1}\n{', DamagedError, "t.jsonl:2 this is not JSON"),
        ("t.jsonl", b"[" * 100_000, DamagedError, "t.jsonl:1 this is not JSON"),
        ("t.jsonl", b'{"text": "a", "label": 1, "label": 2}\n', DamagedError, "the key 'label' stands twice"),
        ("t.jsonl", b'{"text": "a", "label": 1}\n["a"]', DamagedError, "t.jsonl:2 this is no JSON object"),
        ("t.jsonl", b'{"text": 3, "label": 1}', DamagedError, "t.jsonl:1 there is no text 'text'"),
        ("t.jsonl", b'{"text": "a", "label": {"__class__": "os"}}', DamagedError, "t.jsonl:1 'label' is no class"),
        ("t.jsonl", b'{"text": "a", "label": 0.5}', DamagedError, "t.jsonl:1 'label' is no class"),
        ("t.jsonl", b'{"text": "a", "label": 1}\n{"text": "a"}', ConfigError, "1 rows have no label: .*t.jsonl:2"),
        ("t.jsonl", b'{"text": "\xff", "label": 1}', DamagedError, "t.jsonl:1 this is not UTF-8"),
        ("t.csv", b"words,label\na,b\n", ConfigError, r"has no column 'text'(.|\n)*one of words, label"),
        ("t.csv", b"text,label\na,b\nc,b\n", ConfigError, "a single class"),
        ("t.txt", b"hello", ConfigError, "one text without a class"),
    ],
)  # fmt: skip
def test_text_files_that_cannot_be_meant(tmp_path, name, content, error, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(error, match=message):
        texts(tmp_path / name)


def test_text_folders_that_cannot_be_read(tmp_path, monkeypatch):
    save_texts(tmp_path, [("a b", "x"), ("c d", "y")])
    (tmp_path / "y" / "0001.txt").write_bytes(b"one\ntwo \xe9\n")
    with pytest.raises(DamagedError, match=r"0001.txt:2 this is not UTF-8"):
        texts(tmp_path)
    os.mkfifo(tmp_path / "x" / "pipe.txt")  # is left out: reading it would never end
    (tmp_path / "y" / "0001.txt").write_text("c d")
    with pytest.warns(UserWarning, match=r"1 a pipe \(FIFO\) \(x/pipe.txt\)"):
        assert len(texts(tmp_path).examples) == 2
    (tmp_path / "x" / "pipe.txt").unlink()
    with pytest.raises(ConfigError, match="counts"):
        texts(tmp_path, buckets=0)
    monkeypatch.setattr("fractionate.system.memory.available_bytes", lambda device: 10)
    with pytest.raises(ResourceError, match="does not fit into memory"):
        texts(tmp_path)


def test_models_and_inputs_that_do_not_fit_are_told():
    words = torch.tensor([[1, 5, 0], [2, 0, 0]])
    bag = models["bag(5, 4)"]((3,), 2).eval()
    assert bag(words).shape == (2, 2)
    assert torch.isfinite(bag(torch.zeros_like(words))).all(), "a text without a word"
    assert torch.equal(bag(torch.tensor([[1, 5, 0]])), bag(torch.tensor([[0, 5, 1]])))
    for model, inputs, message in (
        (models["mlp(4)"]((3,), 2), words, r"use bag"),
        (bag, torch.rand(2, 3), "takes the numbers of words"),
        (bag, torch.tensor([[6, 0, 0]]), r"more buckets than this bag(.|\n)*1 to 5"),
    ):
        with pytest.raises(MismatchError, match=message):
            model(inputs)
    with pytest.raises(MismatchError, match="a bag needs texts"):
        models["bag"]((3, 8, 8), 2)


def test_a_tokenizer_of_hugging_face_feeds_a_bert(tmp_path):
    """Texts by a tokenizer trained on them, into a small BERT: `collect`, `diagnose` and `distill` take them as they are."""
    tokenizers = pytest.importorskip("tokenizers")
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    from fractionate import collect

    rows = docstrings()[::7]
    save_texts(tmp_path / "docs", rows)
    words = tokenizers.Tokenizer(tokenizers.models.WordPiece(unk_token="[UNK]"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    special = ["[UNK]", "[PAD]", "[CLS]"]
    words.train_from_iterator(
        (text for text, _ in rows), tokenizers.trainers.WordPieceTrainer(vocab_size=300, special_tokens=special)
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]")
    docs = texts(tmp_path / "docs")
    with pytest.warns(UserWarning, match="tokens and are cut"):
        data = docs.encode(docs.table.examples, Tokenizing(tokenizer, length=12))
    assert len(data) == len(rows) and data.class_names == tuple(sorted({name for _, name in rows}))
    assert data.inputs["input_ids"].shape == data.inputs["attention_mask"].shape == (len(rows), 12)
    config = BertConfig(vocab_size=300, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
                        max_position_embeddings=12, num_labels=len(data.class_names))  # fmt: skip
    torch.manual_seed(0)
    teacher, student = BertForSequenceClassification(config), BertForSequenceClassification(config)
    store = collect(teacher, data, tmp_path / "store")
    assert store.complete
    _, run = distill(student, data, store, training=Training(steps=3, batch_size=8))
    assert run.status == "completed"
    with pytest.raises(ConfigError, match="a tokenizer is an object"):
        Tokenizing("bert-base-uncased")
    assert texts(tmp_path / "docs").table.given is None
