"""Trimmed vocabularies, skipped examples, shards cut while they are open: nothing is left out unseen."""

from __future__ import annotations

import shutil

import pytest
import torch
from torch import nn

from fractionate.data.examples import Examples
from fractionate.errors import ConfigError, DamagedError, MismatchError, NumericsError
from fractionate.store import Store, check_teacher, collect, compact, export, info, repair

ROWS, CLASSES = 300, 12
FORMS = {
    "dense": {},
    "bfloat16": {"dtype": "bfloat16"},
    "top-k": {"form": "top-k", "k": 5, "dtype": "float16"},
    "sampled": {"form": "sampled", "k": 6},
}


@pytest.fixture(scope="module")
def data():
    generator = torch.Generator().manual_seed(0)
    return Examples(torch.randn(ROWS, 6, generator=generator), torch.randint(CLASSES, (ROWS,), generator=generator))


@pytest.fixture(scope="module")
def teacher():
    torch.manual_seed(0)
    return nn.Linear(6, CLASSES)


# --- shards that are cut while they are open ------------------------------------------------------------------------------------


def test_a_shard_cut_while_it_is_open_is_an_error_and_not_the_end_of_the_process(data, teacher, tmp_path):
    store = collect(teacher, data, tmp_path / "s")
    path = store.shards[0].path
    content = path.read_bytes()
    with path.open("r+b") as file:
        file.truncate(4096)
    with pytest.raises(DamagedError, match="cut while it was open"):
        store.signal()
    path.write_bytes(content)
    path.unlink()  # merged away by another process: what is mapped can still be read
    assert len(store.signal()) == ROWS


# --- vocabularies that are padded -----------------------------------------------------------------------------------------------

WORDS = {f"word{number}": number for number in range(10)}


def test_padding_of_a_vocabulary_is_trimmed_where_it_is_asked_for(data, teacher, tmp_path):
    few = Examples(data.inputs, data.labels % 10)
    whole = collect(teacher, few, tmp_path / "whole", tokenizer=WORDS)
    trimmed = collect(teacher, few, tmp_path / "trimmed", tokenizer=WORDS, vocabulary="trim")
    assert whole.head.classes == CLASSES and trimmed.head.classes == 10
    assert torch.equal(trimmed.signal().logits, whole.signal().logits[:, :10])
    Store.open(trimmed.path, teacher=teacher, data=few, tokenizer=WORDS)
    with pytest.raises(MismatchError, match="vocabulary differs"):
        collect(teacher, few, trimmed.path, tokenizer=WORDS)
    swapped = WORDS | {"word1": 2, "word2": 1}  # the same size, other strings
    with pytest.raises(MismatchError, match="another tokenizer"):
        Store.open(trimmed.path, tokenizer=swapped)
    with pytest.raises(MismatchError, match="tokenizer differs"):
        collect(teacher, few, trimmed.path, tokenizer=swapped, vocabulary="trim")
    with pytest.raises(MismatchError, match="more strings than the teacher has logits"):
        collect(teacher, few, tmp_path / "n", tokenizer={str(n): n for n in range(13)}, vocabulary="trim")
    with pytest.raises(ConfigError, match="which classes are padding"):
        collect(teacher, few, tmp_path / "n", vocabulary="trim")
    with pytest.raises(MismatchError, match="no class of the teacher"):  # a label that is padding
        collect(teacher, data, tmp_path / "n", tokenizer=WORDS, vocabulary="trim")
    shutil.rmtree(trimmed.path / "shards")
    assert repair(trimmed.path, teacher=teacher, data=few, tokenizer=WORDS).missing == 0


# --- words that are not finite --------------------------------------------------------------------------------------------------


def stammers(inputs):
    """A teacher that says NaN, +inf or nothing but -inf of some inputs."""
    logits = inputs.repeat(1, 2)
    bad = (inputs[:, 0] > 1.2).nonzero().flatten()
    for number, row in enumerate(bad.tolist()):
        logits[row, : [1, 1, 12][number % 3]] = [torch.nan, torch.inf, -torch.inf][number % 3]
    return logits


@pytest.mark.parametrize("form", FORMS)
def test_examples_that_are_skipped_have_no_row_and_are_counted(data, tmp_path, form):
    with pytest.raises(NumericsError, match='non_finite="skip"'):
        collect(stammers, data, tmp_path / "s", **FORMS[form])
    store = collect(stammers, data, tmp_path / "s", non_finite="skip", batch_size=50, shard_bytes=1, **FORMS[form])
    gone = (data.inputs[:, 0] > 1.2).nonzero().flatten()
    assert store.complete and store.skipped().tolist() == gone.tolist() and len(gone) > 5
    assert info(store.path).skipped == len(gone) and f"{len(gone)} examples skipped" in str(info(store.path))
    kept = data.take(torch.from_numpy(store.kept()))
    signal = store.signal()
    assert torch.equal(signal.labels, kept.labels) and bool(torch.isfinite(signal.confidence).all())
    if form == "dense":
        assert torch.equal(signal.logits, kept.inputs.repeat(1, 2))
    check_teacher(store, stammers, data)
    with pytest.raises(MismatchError, match="non_finite differs"):
        collect(stammers, data, tmp_path / "s", **FORMS[form])
    content = store.content()
    compact(store.path, shard_bytes=1 << 30)
    merged = Store.open(store.path)
    assert merged.content() == content and merged.skipped().tolist() == gone.tolist()
    shard = merged.shards[0].path
    raw = bytearray(shard.read_bytes())
    raw[-1] ^= 1
    shard.write_bytes(raw)
    mended = repair(store.path, teacher=stammers, data=data)
    assert mended.missing == 0 and Store.open(store.path).content() == content
    with pytest.raises(ConfigError, match="only dense"):
        export(store.path, "npy", tmp_path / "npy")


def test_a_teacher_that_says_nothing_of_anything(data, tmp_path):
    store = collect(lambda x: x * torch.nan, data, tmp_path / "s", non_finite="skip", named="mute")
    assert len(store.kept()) == 0 and len(store.skipped()) == ROWS
