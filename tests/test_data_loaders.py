"""What a loader has is honoured or refused by name, in every verb; its workers, its collate function and its places are taken."""

from __future__ import annotations

import os

import pytest
import torch
from torch import nn
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
    get_worker_info,
    random_split,
)
from torch.utils.data.distributed import DistributedSampler

from fractionate import collect
from fractionate.data import as_examples, as_split
from fractionate.errors import ConfigError, MismatchError
from fractionate.records import Training
from fractionate.training import distill

X = torch.arange(48 * 6).reshape(48, 6).float() / 100
Y = torch.arange(48) % 3
TWO = Training(steps=2, batch_size=8)


class Rows(Dataset):
    def __init__(self):
        self.read = set()

    def __len__(self):
        return 48

    def __getitem__(self, place):
        self.read.add(place)
        return X[place], int(Y[place])


def student():
    torch.manual_seed(0)
    return nn.Linear(6, 3)


def all_of(split):
    return next(iter(split.batches([(0, torch.arange(len(split)))], 0)))


class Sorted(Sampler):
    def __init__(self, data):
        self.data = data

    def __iter__(self):
        return iter(range(len(self.data)))

    def __len__(self):
        return len(self.data)


class OwnLoader(DataLoader):
    def __iter__(self):
        return iter([(X[:8], Y[:8])])


REFUSED = {
    "WeightedRandomSampler": (lambda d: DataLoader(d, sampler=WeightedRandomSampler([1.0] * 48, 48)), "weights="),
    "RandomSampler of 12": (lambda d: DataLoader(d, sampler=RandomSampler(d, num_samples=12)), "num_samples"),
    "RandomSampler of 48": (lambda d: DataLoader(d, sampler=RandomSampler(d, replacement=True)), "replacement"),
    "DistributedSampler": (lambda d: DataLoader(d, sampler=DistributedSampler(d, 2, 0)), "torchrun"),
    "SequentialSampler of 9": (lambda d: DataLoader(d, sampler=SequentialSampler(range(9))), "Subset"),
    r"sampler \(Sorted": (lambda d: DataLoader(d, sampler=Sorted(d)), "Subset"),
    r"batch_sampler \(list": (lambda d: DataLoader(d, batch_sampler=[[0, 1], [2, 3]]), "Subset"),
    "drop_last": (lambda d: DataLoader(d, batch_size=7, drop_last=True), "leave it out"),
    "drop_last by batch_sampler": (lambda d: DataLoader(d, batch_sampler=BatchSampler(Sorted(d), 7, True)), "leave it out"),
    "generator": (lambda d: DataLoader(d, shuffle=True, generator=torch.Generator()), "seed="),
    "generator of a sampler": (lambda d: DataLoader(d, sampler=RandomSampler(d, generator=torch.Generator())), "seed="),
    r"OwnLoader\.__iter__": (lambda d: OwnLoader(d), "DataLoader"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_not_taken_over_is_refused_by_its_name_in_every_verb(what, tmp_path):
    make, fix = REFUSED[what]
    for doing in (
        lambda data: distill(student(), data, training=TWO, show="nothing"),
        lambda data: distill(student(), (X, Y), training=TWO, test=data, show="nothing"),
        lambda data: collect(student(), data, tmp_path / "s"),
        as_examples,
    ):
        data = Rows()
        with pytest.raises(
            ConfigError, match=rf"the loader's .*{what.partition(' of a ')[0].partition(' by ')[0]}"
        ) as caught:
            doing(make(data))
        assert fix in caught.value.fix
        assert not data.read
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("make", [
    lambda d: DataLoader(d, batch_size=5, shuffle=True), lambda d: DataLoader(d, batch_size=None), lambda d: DataLoader(d, 7),
    lambda d: DataLoader(d, sampler=SequentialSampler(d)),
    lambda d: DataLoader(d, batch_sampler=BatchSampler(RandomSampler(d), 9, False)),
    lambda d: DataLoader(d, num_workers=2, persistent_workers=True, prefetch_factor=3, timeout=50),
])  # fmt: skip
def test_a_loader_over_all_of_its_data_is_its_data(make):
    trained, _ = distill(student(), make(Rows()), training=TWO, show="nothing")
    same, _ = distill(student(), Rows(), training=TWO, show="nothing")
    assert torch.equal(trained.weight, same.weight)
    assert torch.equal(as_examples(make(Rows())).inputs, X)


@pytest.mark.parametrize("sampler", [SubsetRandomSampler(range(30)), range(30), list(range(30))])
def test_the_places_of_a_sampler_are_the_data(sampler, tmp_path):
    data = Rows()
    loader = DataLoader(data, batch_size=8, sampler=sampler)
    _, run = distill(student(), loader, training=Training(epochs=2, batch_size=8), show="nothing")
    assert data.read == set(range(30)) and run.steps == 8
    assert as_split(loader).ids[29] == "29" and len(as_split(loader)) == 30
    assert len(as_examples(loader)) == 30
    store = collect(student(), loader, tmp_path / "s")
    assert len(store) == 30 and torch.equal(store.signal().labels, Y[:30])
    assert data.read == set(range(30))


class Opened(Dataset):
    """Data that each worker has to open, as HDF5 and lmdb files have to be."""

    handle = None
    opened_by = None

    def __len__(self):
        return 48

    def __getitem__(self, place):
        assert self.handle is not None and self.opened_by == os.getpid()
        return self.handle[place], int(Y[place])


def start(number):
    data = get_worker_info().dataset
    data.handle, data.opened_by = X, os.getpid()


@pytest.mark.parametrize("part", ["whole", "sampler", "subset"])
def test_what_a_worker_sets_up_is_there_wherever_the_data_are_read(part, tmp_path):
    sampler = SubsetRandomSampler(range(40)) if part == "sampler" else None
    data = Subset(Opened(), range(40)) if part == "subset" else Opened()

    def open_part(number):
        owner = get_worker_info().dataset
        owner = owner.dataset if part == "subset" else owner
        owner.handle, owner.opened_by = X, os.getpid()

    loader = DataLoader(data, batch_size=8, sampler=sampler, num_workers=2, worker_init_fn=open_part)
    trained, run = distill(student(), loader, training=TWO, out=tmp_path / "run", test=loader, show="nothing")
    assert run.test is not None and run.status == "completed"
    assert len(as_examples(loader)) == (48 if part == "whole" else 40)
    assert collect(trained, loader, tmp_path / "s").complete


def test_views_of_data_that_only_workers_can_read_are_refused():
    from fractionate.store import Replay

    with pytest.raises(ConfigError, match="worker_init_fn"):
        Replay(DataLoader(Opened(), num_workers=1, worker_init_fn=start), torch.neg)


def test_errors_within_a_worker_are_the_same_as_without():
    ragged = [(torch.zeros(2 + n % 3), 0) for n in range(16)]
    found = []
    for workers in (0, 1):
        with pytest.raises(MismatchError, match="rows differ in length") as caught:
            as_split(DataLoader(ragged, num_workers=workers))
        found.append(str(caught.value))
    assert found[0] == found[1] and "shapes [2], [3], [4]" in found[0]


def test_a_collate_function_that_fails_is_named_with_its_error():
    def broken(items):
        raise KeyError("speech")

    with pytest.raises(MismatchError, match="the collate function failed on 8 examples") as caught:
        as_split(DataLoader(Rows(), collate_fn=broken))
    assert "KeyError: 'speech'" in caught.value.got


class Numbers(IterableDataset):
    def __iter__(self):
        info = get_worker_info()
        first, step = (0, 1) if info is None else (info.id, info.num_workers)
        return ((X[place], int(Y[place])) for place in range(first, 48, step))


def test_a_stream_is_read_by_the_workers_it_is_given():
    plain = as_split(Numbers(), training=TWO)
    spread = as_split(DataLoader(Numbers(), num_workers=2), training=TWO)
    ours, theirs = (torch.cat([batch.inputs for batch in split.batches([(0, i) for i in split.order(8, 0, 0)], 0)])
                    for split in (plain, spread))  # fmt: skip
    assert torch.equal(ours, X[:16]) and torch.equal(theirs, X[:16])  # the two take turns
    assert torch.equal(as_examples(DataLoader(Numbers(), num_workers=2)).inputs, X)


def test_parts_of_data_sets_are_data(tmp_path):
    first, second = random_split(TensorDataset(X, Y), [30, 18], generator=torch.Generator().manual_seed(0))
    for data in (first, ConcatDataset([first, second]), Subset(Subset(Rows(), range(40)), range(20))):
        split = as_split(data)
        assert len(split) == len(data)
        batch = all_of(split)
        assert all(torch.equal(batch.inputs[n], data[n][0]) for n in range(len(data)))
        assert torch.equal(as_examples(data).inputs, batch.inputs)
        assert torch.equal(collect(student(), data, tmp_path / f"{len(data)}").signal().labels, batch.labels)


def test_parts_of_hugging_face_data_are_read_as_the_whole_is():
    datasets = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_dict({"x": X.tolist(), "label": Y.tolist()})
    part, rest = random_split(rows, [30, 18], generator=torch.Generator().manual_seed(0))
    for data in (part, ConcatDataset([part, rest]), Subset(part, range(9))):
        batch = all_of(as_split(data))
        assert batch.inputs.shape == (len(data), 6) and batch.inputs.dtype == torch.float32
    assert as_split(part).class_names == ("0", "1", "2")
    _, run = distill(student(), part, training=TWO, test=rest, show="nothing")
    assert run.test is not None


def pad(items):
    """A collate function for rows as Python lists, which tensors would fail."""
    longest = max(len(item["input_ids"]) for item in items)
    ids = torch.tensor([item["input_ids"] + [0] * (longest - len(item["input_ids"])) for item in items])
    return {"input_ids": ids, "labels": (ids * 2).masked_fill(ids == 0, -100)}


@pytest.mark.parametrize("part", ["whole", "subset", "multiple columns"])
def test_a_collate_function_gets_the_rows_as_they_are_and_may_make_the_labels(part):
    datasets = pytest.importorskip("datasets")
    columns = {"input_ids": [[1 + n % 4] * (2 + n % 3) for n in range(24)]}
    if part == "multiple columns":
        columns |= {"text": ["a word"] * 24, "label": [n % 2 for n in range(24)]}
    rows = datasets.Dataset.from_dict(columns)
    rows = Subset(rows, range(12)) if part == "subset" else rows
    batch = all_of(as_split(DataLoader(rows, collate_fn=pad)))
    assert batch.inputs["input_ids"].shape == (len(rows), 4) and batch.labels.shape == (len(rows), 4)
    assert set(batch.inputs) == {"input_ids"} and bool((batch.labels[0, 2:] == -100).all())


def test_hugging_face_collators_work_in_every_verb(tmp_path):
    transformers = pytest.importorskip("transformers")
    datasets = pytest.importorskip("datasets")
    from tokenizers import Tokenizer, models

    words = Tokenizer(
        models.WordLevel({"[PAD]": 0, "[MASK]": 1, **{f"w{n}": n + 2 for n in range(10)}}, unk_token="[PAD]")
    )
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]", mask_token="[MASK]")
    config = transformers.BertConfig(vocab_size=12, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8,
                                     max_position_embeddings=16, num_labels=3)  # fmt: skip
    long = [2 + n % 4 for n in range(24)]
    ids = [[2 + (n + k) % 10 for k in range(length)] for n, length in enumerate(long)]
    mask = [[1] * length for length in long]
    torch.manual_seed(0)
    cases = (
        (transformers.BertForTokenClassification, {"labels": [[n % 3] * length for n, length in enumerate(long)]},
         transformers.DataCollatorForTokenClassification(tokenizer), "aligned"),
        (transformers.BertForSequenceClassification, {"label": [n % 3 for n in range(24)]},
         transformers.DataCollatorWithPadding(tokenizer), ""),
        (transformers.BertForMaskedLM, {}, transformers.DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.5), "aligned"),
    )  # fmt: skip
    for number, (model, more, collator, tokens) in enumerate(cases):
        rows = datasets.Dataset.from_dict({"input_ids": ids, "attention_mask": mask, **more})
        loader = DataLoader(rows, batch_size=4, collate_fn=collator)
        _, run = distill(model(config), loader, model(config), training=Training(steps=2, batch_size=8), show="nothing")
        assert run.steps == 2
        split = as_split(loader)
        again = [all_of(split).labels for _ in range(2)]
        assert torch.equal(*again)  # what a collator draws follows from seed, epoch and examples
        if number < 2:
            assert collect(model(config), loader, tmp_path / str(number), tokens=tokens).complete
