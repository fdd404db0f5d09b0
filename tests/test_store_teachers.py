"""Any teacher: Hugging Face models, language models by token, ONNX files, half precision; and who may not be mixed up."""

from __future__ import annotations

import contextlib
import json

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader

from fractionate import TeacherSignal, spectrum
from fractionate.data.examples import Examples
from fractionate.errors import ConfigError, MismatchError, NumericsError
from fractionate.store import Replay, Store, check_teacher, collect, content_ids, losses, table
from fractionate.store.identity import tokenizer_fingerprint

CLASSES, WORDS = 5, 40


class TinyLanguageModel(nn.Module):
    """A causal language model in the manner of transformers: mappings in, an output with .logits out."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(WORDS, 8)
        self.recurrent = nn.GRU(8, 16, batch_first=True)
        self.lm_head = nn.Linear(16, WORDS)

    def get_output_embeddings(self):
        return self.lm_head

    def forward(self, input_ids, attention_mask=None):
        hidden, _ = self.recurrent(self.embedding(input_ids))
        return type("CausalLMOutput", (), {"logits": self.lm_head(hidden), "loss": None})()


def sentences(count=30, seed=0):
    random = np.random.default_rng(seed)
    return [random.integers(0, WORDS, int(random.integers(2, 9))).tolist() for _ in range(count)]


def pad(items):
    """A collate function: right-padded ids, labels of -100 on the padding."""
    longest = max(len(item["input_ids"]) for item in items)
    ids = torch.tensor([item["input_ids"] + [0] * (longest - len(item["input_ids"])) for item in items])
    labels = torch.tensor([item["labels"] + [-100] * (longest - len(item["labels"])) for item in items])
    return {"input_ids": ids, "attention_mask": (labels != -100).long(), "labels": labels}


def text(seed=0):
    items = [{"input_ids": words, "labels": words} for words in sentences(seed=seed)]
    return DataLoader(items, collate_fn=pad)


@pytest.mark.parametrize(("form", "k"), [("dense", 0), ("top-k", 6), ("sampled", 6)])
def test_a_language_model_is_stored_token_by_token(tmp_path, form, k):
    torch.manual_seed(0)
    model = TinyLanguageModel().eval()
    collect(model, text(), tmp_path / "s", tokens="next", form=form, k=k, batch_size=7, shard_bytes=2000)
    store = Store.open(tmp_path / "s")
    assert len(store) == 30 and len(store.shards) > 2
    with torch.no_grad():
        alone = [model(torch.tensor([words])).logits[0, :-1] for words in sentences()]
    full = TeacherSignal(torch.cat(alone), torch.tensor([word for words in sentences() for word in words[1:]]))
    signal = store.signal()
    assert torch.equal(signal.labels, full.labels)
    torch.testing.assert_close(signal.confidence, full.confidence)
    if form == "dense":
        torch.testing.assert_close(signal.logits, full.logits)
    some = store.read([22, 3])
    lengths = [len(sentences()[n]) - 1 for n in (22, 3)]
    assert some["places"].tolist() == [22] * lengths[0] + [3] * lengths[1]
    assert some["tokens"].tolist() == [*range(lengths[0]), *range(lengths[1])]
    assert some["labels"].tolist() == sentences()[22][1:] + sentences()[3][1:]
    assert store.class_relation is not None and store.class_relation.shape == (WORDS, WORDS)
    check_teacher(store, model, text())
    with pytest.raises(MismatchError, match="tokens differs"):
        collect(model, text(), tmp_path / "s", tokens="aligned", form=form, k=k)


def test_tokens_must_be_asked_for_and_must_fit(tmp_path):
    model = TinyLanguageModel()
    with pytest.raises(MismatchError, match="tokens='next'"):
        collect(model, text(), tmp_path / "s")
    with pytest.raises(MismatchError, match="do not fit token by token"):
        collect(lambda x: x, (torch.randn(4, 3), torch.arange(4) % 3), tmp_path / "s", tokens="next")
    unlabelled = [{"input_ids": torch.tensor([1, 2]), "labels": torch.tensor([-100, -100])}] * 3
    with pytest.raises(MismatchError, match="no token of a batch has a label"):
        collect(model, unlabelled, tmp_path / "s", tokens="next")
    assert not (tmp_path / "s").exists()


def test_a_hugging_face_classifier(tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=WORDS,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        num_labels=CLASSES,
    )
    torch.manual_seed(0)
    model = transformers.BertForSequenceClassification(config)
    items = [{"input_ids": torch.randint(WORDS, (6,)), "labels": torch.tensor(n % CLASSES)} for n in range(20)]
    store = collect(model, items, tmp_path / "s", batch_size=20)
    with torch.no_grad():
        expected = model.eval()(input_ids=torch.stack([item["input_ids"] for item in items])).logits
    assert torch.equal(store.signal().logits, expected)
    model.config.num_attention_heads = 4  # another model of the same weights
    with pytest.raises(MismatchError, match="teacher_config differs"):
        collect(model, items, tmp_path / "s")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_an_onnx_file(tmp_path):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, CLASSES)).eval()
    data = Examples(torch.randn(50, 6), torch.arange(50) % CLASSES)
    shapes = {"input": {0: "batch"}, "output": {0: "batch"}}
    torch.onnx.export(
        network,
        (data.inputs,),
        tmp_path / "t.onnx",
        input_names=["input"],
        output_names=["output"],
        dynamo=False,
        dynamic_axes=shapes,
    )
    store = collect(tmp_path / "t.onnx", data, tmp_path / "s", batch_size=16)
    torch.testing.assert_close(store.signal().logits, network(data.inputs).detach())
    (tmp_path / "bad.onnx").write_bytes(b"not onnx")
    with pytest.raises(ConfigError, match="cannot read"):
        collect(tmp_path / "bad.onnx", data, tmp_path / "t")
    with pytest.raises(ConfigError, match="not a teacher"):
        collect(3, data, tmp_path / "t")


def test_half_precision_is_part_of_who_the_teacher_is(tmp_path):
    torch.manual_seed(0)
    network, data = nn.Linear(6, CLASSES), Examples(torch.randn(50, 6), torch.arange(50) % CLASSES)
    store = collect(network, data, tmp_path / "s", precision="bfloat16")
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(store.signal().logits, network(data.inputs).float())
    with pytest.raises(MismatchError, match="precision differs"):
        collect(network, data, tmp_path / "s")


def test_the_teacher_is_asked_again_about_some_rows(tmp_path):
    torch.manual_seed(0)
    network, data = nn.Linear(6, CLASSES), Examples(torch.randn(400, 6), torch.arange(400) % CLASSES)
    store = collect(network, data, tmp_path / "s", dtype="float16")
    assert check_teacher(store, network, data) < 1e-3
    # a store whose rows were shifted by one before they were written: right shapes, right hashes, wrong rows
    wrong = collect(lambda x: network(x).roll(1, 0), data, tmp_path / "w", named="shifted")
    with pytest.raises(MismatchError, match="says something else"):
        check_teacher(wrong, network, data)
    # the same at open
    assert Store.open(tmp_path / "s", teacher=network, data=data).complete
    with pytest.raises(MismatchError, match="for 64 of 64 examples run again"):
        Store.open(tmp_path / "w", teacher=network, data=data)
    with pytest.raises(MismatchError, match=r"field data"):
        Store.open(tmp_path / "s", teacher=network, data=Examples(data.inputs.roll(1, 0), data.labels))
    with pytest.raises(ConfigError, match="expected: teacher and data, or neither\n  got:      teacher alone"):
        Store.open(tmp_path / "s", teacher=network)

    tenth = torch.rand(400, generator=torch.Generator().manual_seed(0)) < 0.1
    logits = network(data.inputs).detach()
    logits[tenth] += 3 * torch.eye(CLASSES)[2]
    lookup = {row.numpy().tobytes(): logits[n] for n, row in enumerate(data.inputs)}
    some = collect(
        lambda x: torch.stack([lookup[row.numpy().tobytes()] for row in x]), data, tmp_path / "t", named="some"
    )
    missed = 0
    for seed in range(40):
        with contextlib.suppress(MismatchError):
            check_teacher(some, network, data, seed=seed)
            missed += 1
    assert missed <= 1  # 0.9^64 = 0.12 % each


FIELDS = {
    "teacher": {"teacher": "other weights"},
    "teacher_config": {"teacher": "other config"},
    "outputs": {"outputs": "probabilities"},
    "precision": {"precision": "bfloat16"},
    "tokenizer": {"tokenizer": {"a": 0, "c": 1}},
    "template": {"template": "Answer: {}"},
    "tokens": {"tokens": "aligned"},
    "form": {"form": "top-k", "k": 2},
    "k": {"form": "top-k", "k": 2},
    "dtype": {"dtype": "float16"},
    "temperatures": {"temperatures": (1.0, 2.0)},
    "transform": {"data": "other transform"},
    "view_seed": {"data": "other seed"},
    "views": {"data": "other views"},
    "data": {"data": "other label"},
    "code": {},
}


@pytest.mark.parametrize("field", FIELDS)
def test_a_change_of_any_one_thing_is_refused_by_its_name(tmp_path, field, monkeypatch):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, CLASSES), nn.Dropout(0.1))
    examples = Examples(torch.randn(60, 6), torch.arange(60) % CLASSES)
    first = {"teacher": network, "tokenizer": {"a": 0, "b": 1}, "template": "{}"}
    first["data"] = Replay(examples, torch.neg, views=2, seed=1)
    store = collect(out=tmp_path / "s", **first)
    content = store.content()
    changed = dict(FIELDS[field])
    if changed.get("teacher") == "other weights":
        changed["teacher"] = nn.Sequential(nn.Linear(6, CLASSES), nn.Dropout(0.1))
    if changed.get("teacher") == "other config":
        changed["teacher"] = nn.Sequential(nn.Linear(6, CLASSES), nn.Dropout(0.2))
        changed["teacher"].load_state_dict(network.state_dict())
    other = examples.labels.clone()
    other[3] += 1
    views = {
        "other transform": Replay(examples, torch.abs, views=2, seed=1),
        "other seed": Replay(examples, torch.neg, views=2, seed=2),
        "other views": Replay(examples, torch.neg, views=3, seed=1),
        "other label": Replay(Examples(examples.inputs, other), torch.neg, views=2, seed=1),
    }
    if "data" in changed:
        changed["data"] = views[changed["data"]]
    if field == "code":
        monkeypatch.setattr("fractionate.store.identity.CODE", "collect/2")
    with pytest.raises(MismatchError, match=rf"\b{field}\b"):
        collect(out=tmp_path / "s", **(first | changed))
    assert Store.open(tmp_path / "s").content() == content


def test_tokenizers_of_the_same_size_and_other_strings_differ():
    words = {word: number for number, word in enumerate(["the", "quick", "brown", "fox"])}
    swapped = words | {"brown": words["fox"], "fox": words["brown"]}
    padded = words | {"<pad>": 4}
    assert len({tokenizer_fingerprint(vocabulary) for vocabulary in (words, swapped, padded)}) == 3
    assert tokenizer_fingerprint(dict(reversed(words.items()))) == tokenizer_fingerprint(words)


def test_ids(tmp_path):
    network, inputs, labels = nn.Linear(6, CLASSES), torch.randn(40, 6), torch.arange(40) % CLASSES
    twice = tuple(f"id-{n // 2}" for n in range(40))
    with pytest.raises(MismatchError, match="have the same id 'id-0'"):
        collect(network, Examples(inputs, labels, ids=twice), tmp_path / "s")
    ids = content_ids((inputs, labels))
    assert len(set(ids)) == 40 and content_ids((inputs.flip(0), labels.flip(0))) == ids[::-1]
    listed = torch.utils.data.TensorDataset(inputs, labels)
    listed.ids = twice[:-1]
    with pytest.raises(MismatchError, match="39 ids for 40 examples"):
        collect(network, listed, tmp_path / "s")


def test_hostile_names_are_stored_as_they_are_and_never_name_a_file(tmp_path):
    names = [
        "<script>alert(1)</script>",
        "[/]",
        "\x1b[31m",
        "$\\frac$",
        "\u202egnp",
        "\x00",
        "x" * 20_000,
        "CON",
        "../../x",
        "=cmd()",
    ]
    network = nn.Linear(6, len(names))
    data = Examples(
        torch.randn(20, 6),
        torch.arange(20) % 10,
        tuple(names),
        "../../" + names[0],
        tuple(f"{names[n % 10]}{n}" for n in range(20)),
    )
    store = collect(network, data, tmp_path / "s")
    assert store.head.class_names == tuple(names) and Store.open(tmp_path / "s").head.name == data.name
    assert json.loads((tmp_path / "s" / "head.json").read_text("ascii"))["body"]["class_names"] == names
    assert [p.name for p in tmp_path.iterdir()] == ["s"]
    broken = Examples(torch.full((20, 6), float("nan")), data.labels, data.class_names, data.name, data.ids)
    with pytest.raises(NumericsError) as caught:
        collect(network, broken, tmp_path / "t")
    assert "\x1b" not in str(caught.value) and "\x00" not in str(caught.value) and len(str(caught.value)) < 2000


def test_what_forms_lose_falls_with_k_and_is_measured_as_a_loop_would():
    generator = torch.Generator().manual_seed(0)
    signal = TeacherSignal(
        torch.randn(600, 50, generator=generator) * 3, torch.randint(50, (600,), generator=generator)
    )
    found = losses(
        signal,
        [
            ("dense", 0, "float32"),
            ("dense", 0, "float16"),
            ("top-k", 4, "float16"),
            ("top-k", 16, "float16"),
            ("sampled", 16, "float16"),
        ],
    )
    exact, half, four, sixteen, sampled = found
    assert exact.nats_lost == 0 and exact.gradient_cosine == pytest.approx(1) and half.nats_lost < 1e-5
    assert four.nats_lost > sixteen.nats_lost > half.nats_lost
    assert four.gradient_cosine < sixteen.gradient_cosine and four.captured < sixteen.captured < 1
    assert [round(f.bytes_a_row) for f in (exact, half, four)] == [201, 101, 1 + 2 + 4 + 4 * 3]
    assert sampled.batch_gradient_cosine > sampled.gradient_cosine
    p = torch.softmax(signal.logits.double(), 1)
    nats = 0.0
    for row in range(600):
        kept = set(signal.logits[row].index_fill(0, signal.labels[row], -99).topk(4).indices.tolist()) | {
            int(signal.labels[row])
        }
        rest = [c for c in range(50) if c not in kept]
        even = sum(float(p[row, c]) for c in rest) / len(rest)
        nats += sum(float(p[row, c]) * (float(p[row, c].log()) - np.log(even)) for c in rest) / 600
    assert four.nats_lost == pytest.approx(nats, rel=1e-3)
    assert four.spectrum.instance_shape_nats < spectrum(signal).instance_shape_nats
    assert "top-k 16 float16" in table(found)
    guess = losses(
        signal, [("top-k", 4, "float16")], student_logits=signal.logits + 0.1 * functional.one_hot(signal.labels, 50)
    )
    assert guess[0].gradient_cosine < four.gradient_cosine  # close to its teacher, the student sees what was left out
