"""The store knows examples again by the same bytes, whatever reads the data: keys, ids and heads as they were written before."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

from fractionate.data import Examples, as_split
from fractionate.errors import MismatchError
from fractionate.records import Training
from fractionate.store import Replay, Store, check_teacher, collect, content_ids, import_arrays
from fractionate.training import distill

X = torch.arange(24 * 6).reshape(24, 6).float() / 8
Y = torch.arange(24) % 3
WORDS = [[1 + (n * k) % 7 for k in range(2 + n % 4)] for n in range(24)]


class Rows(Dataset):
    name = "rows"
    class_names = ("a", "b", "c")

    def __len__(self):
        return 24

    def __getitem__(self, place):
        return X[place], int(Y[place])


class Named(Rows):
    ids = tuple(f"row-{n}" for n in range(24))


class Arrays(Rows):
    def __getitem__(self, place):
        return X[place].numpy(), np.int64(Y[place])


def pad(items):
    longest = max(len(item["input_ids"]) for item in items)
    ids = torch.tensor([list(map(int, item["input_ids"])) + [0] * (longest - len(item["input_ids"])) for item in items])
    labels = torch.tensor([list(map(int, item["labels"])) + [-100] * (longest - len(item["labels"])) for item in items])
    return {"input_ids": ids, "labels": labels}


def pad_texts(items):
    longest = max(len(item["input_ids"]) for item in items)
    ids = torch.tensor([list(map(int, item["input_ids"])) + [0] * (longest - len(item["input_ids"])) for item in items])
    return {"input_ids": ids, "labels": torch.tensor([int(item["label"]) for item in items])}


def by_column(x):
    return x[:, :3] + x[:, 3:]


def by_name(batch):
    return by_column(batch["x"])


def two_columns(batch):
    return torch.stack([batch["x"], batch["z"], batch["x"] * 0], 1).float()


def words(batch):
    return nn.functional.one_hot(batch["input_ids"], 9).float() * 2


def first_word(batch):
    return words(batch)[:, 0]


def hugging_face(**columns):
    return pytest.importorskip("datasets").Dataset.from_dict(columns)


EXAMPLES = Examples(X, Y, name="mine")
WRITTEN = {  # kind: (teacher, data, tokens, digest of the head, of all keys, of the content ids), as the second reader wrote them
    "examples": (by_column, lambda: EXAMPLES, "", "315167072f3dc417", "ca0f9032e7e9c647", "8348dcba2db64985"),
    "examples with ids": (
        by_column,
        lambda: Examples(X, Y, ("a", "b", "c"), "mine", tuple(f"e{n}" for n in range(24))),
        "",
        "0b5c19caf07a5296",
        "e7e726440da38251",
        "8348dcba2db64985",
    ),
    "pair": (by_column, lambda: (X, Y), "", "a3d4868f646645e0", "ca0f9032e7e9c647", "8348dcba2db64985"),
    "arrays": (
        by_column,
        lambda: [X.numpy(), Y.numpy()],
        "",
        "a3d4868f646645e0",
        "ca0f9032e7e9c647",
        "8348dcba2db64985",
    ),
    "int32 pair": (by_column, lambda: (X, Y.int()), "", "a3d4868f646645e0", "ca0f9032e7e9c647", "8348dcba2db64985"),
    "tensors": (by_column, lambda: TensorDataset(X, Y), "", "7e2b0b5ea33f17c5", "ca0f9032e7e9c647", "8348dcba2db64985"),
    "data set": (by_column, Rows, "", "a8dfa31750b7f3e5", "338f17040d584cf2", "8bb6737137dac119"),
    "data set with ids": (by_column, Named, "", "30eac93c137ffdda", "0e0a4c7a70b067ec", "8bb6737137dac119"),
    "numpy data set": (by_column, Arrays, "", "a8dfa31750b7f3e5", "e1cf4f019b2a5bf7", "002f08a4b8756c0f"),
    "list": (
        by_column,
        lambda: [(X[n], Y[n]) for n in range(24)],
        "",
        "7e2b0b5ea33f17c5",
        "ca0f9032e7e9c647",
        "8348dcba2db64985",
    ),
    "part": (by_column, lambda: Subset(Rows(), range(3, 20)), "", None, "0e4888f42ac08052", "863de67749108993"),
    "loader": (
        by_column,
        lambda: DataLoader(Rows(), batch_size=5, shuffle=True),
        "",
        "a8dfa31750b7f3e5",
        "338f17040d584cf2",
        "8bb6737137dac119",
    ),
    "loader with workers": (
        by_column,
        lambda: DataLoader(Rows(), num_workers=2),
        "",
        "a8dfa31750b7f3e5",
        "338f17040d584cf2",
        "8bb6737137dac119",
    ),
    "mappings": (
        by_name,
        lambda: [{"x": X[n], "label": int(Y[n])} for n in range(24)],
        "",
        "7e2b0b5ea33f17c5",
        "089eb724f67a68e1",
        "f38aa5d06ea4fdb2",
    ),
    "tokens": (
        words,
        lambda: DataLoader([{"input_ids": w, "labels": w} for w in WORDS], collate_fn=pad),
        "next",
        "a8de326575547a38",
        "2972a2f38dbd7225",
        "8fedff2e54a27a41",
    ),
    "datasets": (
        by_column,
        lambda: hugging_face(x=X.tolist(), label=Y.tolist()),
        "",
        "49955d34f0e5cfa1",
        "ca0f9032e7e9c647",
        "8348dcba2db64985",
    ),
    "datasets of two columns": (
        two_columns,
        lambda: hugging_face(x=X[:, 0].tolist(), z=X[:, 1].tolist(), label=Y.tolist()),
        "",
        "49955d34f0e5cfa1",
        "6bfe052db69cc09e",
        "b97b6b83508234ee",
    ),
    "datasets with a collate function": (
        first_word,
        lambda: DataLoader(
            hugging_face(input_ids=WORDS, attention_mask=[[1] * len(w) for w in WORDS], label=Y.tolist()),
            collate_fn=pad_texts,
        ),
        "",
        "0bc86e9978b4a936",
        "6869bd0982e03f06",
        "637cebc3b1bf4559",
    ),
    "replay": (
        by_column,
        lambda: Replay(EXAMPLES, torch.neg, views=2, seed=3),
        "",
        "57b9becdea82c8b7",
        "d00c6ec8394af46b",
        None,
    ),
    "replay of a data set": (
        by_column,
        lambda: Replay(Named(), torch.neg, views=2, seed=3),
        "",
        "f45000b3e474fd35",
        "f19ffcd7c04f5522",
        None,
    ),
}


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


@pytest.mark.parametrize("kind", WRITTEN)
def test_fingerprints_and_heads_are_the_bytes_that_they_were(kind, tmp_path):
    teacher, make, tokens, head, keys, ids = WRITTEN[kind]
    store = collect(teacher, make(), tmp_path / "s", batch_size=7, named="t", tokens=tokens)
    body = store.head.body()
    for name in (
        "code",
        "transform",
        "features",
    ):  # the last one is newer than these digests; old heads mean its default
        body["identity"].pop(name, None)
    assert head is None or digest(json.dumps(body, sort_keys=True).encode()) == head
    assert digest(store.keys(np.arange(len(store))).tobytes()) == keys
    assert ids is None or digest(repr(content_ids(make())).encode()) == ids
    # what was collected is known again, as data of the same kind and row by row
    assert collect(teacher, make(), tmp_path / "s", batch_size=7, named="t", tokens=tokens).content() == store.content()
    check_teacher(Store.open(tmp_path / "s"), teacher, make())


def test_a_change_of_one_example_is_found_whatever_holds_them(tmp_path):
    changed = X.clone()
    changed[5, 0] += 1
    for number, (before, after) in enumerate((
        ((X, Y), (changed, Y)),
        (TensorDataset(X, Y), TensorDataset(changed, Y)),
        ([(X[n], Y[n]) for n in range(24)], [(changed[n], Y[n]) for n in range(24)]),
        (as_split((X, X, Y)), as_split((changed, X, Y))),
    )):  # fmt: skip
        collect(lambda x: by_column(x[0] if isinstance(x, tuple) else x), before, tmp_path / str(number), named="t")
        with pytest.raises(MismatchError, match="field data"):
            collect(lambda x: by_column(x[0] if isinstance(x, tuple) else x), after, tmp_path / str(number), named="t")


def test_a_function_of_an_array_is_a_teacher_and_arrays_are_its_outputs(tmp_path):
    store = collect(lambda x: (by_column(x).numpy() * 2).tolist(), Rows(), tmp_path / "s", named="lists")
    assert torch.equal(store.signal().logits, by_column(X) * 2)
    imported = import_arrays((by_column(X) * 2).numpy(), Rows(), tmp_path / "i", named="lists")
    assert torch.equal(imported.signal().logits, store.signal().logits)
    _, run = distill(nn.Linear(6, 3), Rows(), imported, training=Training(steps=1), show="nothing")
    assert run.status == "completed"


def test_a_teacher_is_collected_on_its_own_view(tmp_path):
    other = X.flip(0).clone()
    other[4] += 1
    for number, data in enumerate(((X, Y), Rows())):
        store = collect(by_column, as_split(data, views={"teacher": X.flip(0)}), tmp_path / str(number), named="t")
        assert torch.equal(store.signal().logits, by_column(X.flip(0)))
        with pytest.raises(MismatchError, match="field data"):  # another view is other data
            collect(by_column, as_split(data, views={"teacher": other}), tmp_path / str(number), named="t")


def test_probabilities_of_a_module_are_refused_and_said_how_to_be_given(tmp_path):
    torch.manual_seed(0)
    teacher = nn.Sequential(nn.Linear(6, 3), nn.Softmax(-1))
    with pytest.raises(MismatchError, match="probabilities, not logits") as caught:
        collect(teacher, Rows(), tmp_path / "s")
    assert "probabilities" in caught.value.fix and not (tmp_path / "s").exists()
    kept = collect(teacher, Rows(), tmp_path / "p", outputs="probabilities").signal()
    torch.testing.assert_close(kept.probabilities, teacher(X).detach(), rtol=1e-5, atol=1e-6)
    for data in ((X, Y), Rows()):
        with pytest.raises(MismatchError, match="probabilities, not logits"):
            distill(nn.Linear(6, 3), data, teacher, training=Training(steps=1), show="nothing")
