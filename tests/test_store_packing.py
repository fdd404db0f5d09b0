"""Packed shards, trimmed vocabularies, examples skipped: the same rows in fewer bytes, and nothing left out unseen."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file
from torch import nn

from fractionate.errors import ConfigError, DamagedError, FractionateError, MismatchError, NumericsError, ResourceError
from fractionate.sources.examples import Examples
from fractionate.store import Store, check_teacher, collect, compact, export, info, repair, upload, verify
from fractionate.store.packing import BLOCK, BLOCKS, PackedColumn, pack_columns

ROWS, CLASSES = 300, 12
FORMS = {
    "dense": {},
    "bfloat16": {"dtype": "bfloat16"},
    "top-k": {"form": "top-k", "k": 5, "dtype": "float16"},
    "sampled": {"form": "sampled", "k": 6},
}
PACKINGS = ["zlib", "zstd"]


@pytest.fixture(autouse=True)
def codec(request):
    if "zstd" in request.node.name:
        pytest.importorskip("pyarrow")


@pytest.fixture(scope="module")
def data():
    generator = torch.Generator().manual_seed(0)
    return Examples(torch.randn(ROWS, 6, generator=generator), torch.randint(CLASSES, (ROWS,), generator=generator))


@pytest.fixture(scope="module")
def teacher():
    torch.manual_seed(0)
    return nn.Linear(6, CLASSES)


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr("fractionate.store.packing.BLOCK", 200)


# --- columns ----------------------------------------------------------------------------------------------------------------

ARRAYS = st.tuples(st.integers(0, 60), st.integers(1, 9), st.sampled_from(["u1", "<u2", "<f2", "<f4", "<f8", "<i8"]))


@pytest.mark.parametrize("packing", PACKINGS)
@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(shape=ARRAYS, seed=st.integers(0, 2**32 - 1), indexed=st.booleans())
def test_any_bits_come_back_whole_and_row_by_row(packing, shape, seed, indexed):
    rows, width, dtype = shape
    random = np.random.default_rng(seed)
    bits = np.frombuffer(random.bytes(rows * width * np.dtype(dtype).itemsize), dtype).reshape(rows, width)  # NaNs too
    columns = {"values": bits} | ({"indices": np.zeros((rows, 1), "u1")} if indexed else {})
    found, told = pack_columns(columns, packing)
    column = PackedColumn(found["values"], found["values" + BLOCKS], told["values"])
    some = random.integers(0, rows, 20) if rows else np.empty(0, int)
    assert column.whole().tobytes() == bits.tobytes() and column.whole().dtype == bits.dtype
    assert column[some].tobytes() == bits[some].tobytes()


def test_sorted_numbers_pack_better_than_others():
    values = np.sort(np.random.default_rng(0).normal(0, 4, (2000, 64)).astype("<f2"))[:, ::-1]
    alone = len(pack_columns({"values": values}, "zlib")[0]["values"])
    topped = len(pack_columns({"values": values, "indices": np.zeros((2000, 64), "<u2")}, "zlib")[0]["values"])
    assert topped < 0.95 * alone < 0.95 * values.nbytes


# --- stores -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("form", FORMS)
def test_a_packed_store_says_the_same(data, teacher, tmp_path, form, packing, small_blocks):
    options = {"batch_size": 50, "shard_bytes": 1, **FORMS[form]}
    plain = collect(teacher, data, tmp_path / "plain", **options)
    packed = collect(teacher, data, tmp_path / "packed", packing=packing, **options)
    assert {shard.packing for shard in packed.shards} == {packing} == {info(packed.path).packing}
    assert packed.content() == plain.content() and verify(packed.path).whole
    assert torch.equal(packed.signal().logits, plain.signal().logits)
    assert torch.equal(packed.logits([299, 0, 137, 0]), plain.logits([299, 0, 137, 0]))
    assert (
        "values" not in load_file(packed.shards[0].path) or load_file(packed.shards[0].path)["values"].dtype == np.uint8
    )
    check_teacher(packed, teacher, data)
    # merging keeps the packing, or changes it
    assert compact(packed.path, shard_bytes=1 << 30)[1] == 1 and info(packed.path).packing == packing
    assert compact(packed.path, packing="none") == (1, 1) and info(packed.path).packing == "none"
    assert compact(packed.path, packing=packing) == (1, 1) and Store.open(packed.path).content() == plain.content()
    assert export(packed.path, "safetensors", tmp_path / "out").stat().st_size


@pytest.mark.parametrize("packing", PACKINGS)
def test_damage_to_packed_blocks_is_found_and_loses_only_their_rows(data, teacher, tmp_path, packing, small_blocks):
    store = collect(teacher, data, tmp_path / "s", packing=packing, form="top-k", k=5)
    good, random = store.content(), np.random.default_rng(0)
    at = store.shards[0].columns["values"]
    file = store.shards[0].path
    content = file.read_bytes()
    for _ in range(60):
        bad = bytearray(content)
        bad[random.integers(at.start, at.stop)] ^= 1 << random.integers(8)
        file.write_bytes(bad)
        said = ""
        try:  # a bit that changes nothing of what comes out (zlib's last bytes) is harmless, and seen by verify
            assert Store.open(store.path).content() == good
        except DamagedError as error:
            said = str(error)
        assert not said or ("rows are not what was written" in said and str(file) in said)
        assert not verify(store.path).whole
    bad = bytearray(content)
    bad[at.start + 20 : at.start + 24] = b"\xff\xff\xff\xff"
    file.write_bytes(bad)
    mended = repair(store.path)
    assert mended.kept + mended.lost == ROWS and 0 < mended.lost < 60 and info(store.path).packing == packing
    assert repair(store.path, teacher=teacher, data=data).missing == 0
    assert Store.open(store.path).content() == good


@pytest.mark.parametrize(
    "change",
    [
        {"packing": "pickle"}, {"dtype": "object"}, {"rows": 0}, {"rows": 10**9}, {"shape": [10**12, 12]}, {"shape": [300]},
        {"shape": "x"}, {"sorted": 7}, {"extra": 1}, {"shape": []}, {"rows": "4"},
    ],
    ids=str,
)  # fmt: skip
def test_hostile_descriptions_are_refused(data, teacher, tmp_path, change, monkeypatch):
    import fractionate.store.layout as layout

    honest = layout.describe

    def forged(told):
        import json

        return json.dumps({name: entry | change for name, entry in json.loads(honest(told)).items()})

    monkeypatch.setattr(layout, "describe", forged)
    with pytest.raises(FractionateError):
        collect(teacher, data, tmp_path / "s", packing="zlib").signal()


def test_what_does_not_fit_into_memory_is_refused_before_it_is_taken(data, teacher, tmp_path, monkeypatch):
    store = collect(teacher, data, tmp_path / "s", packing="zlib")
    monkeypatch.setattr("fractionate.store.packing.available_memory", lambda: 10)
    monkeypatch.setattr("fractionate.store.packing.LIMIT", 10)
    with pytest.raises(ResourceError, match="do not fit into memory when unpacked"):
        store.signal()


def test_a_packing_nobody_knows_and_a_library_that_is_missing(data, teacher, tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="packing is not known"):
        collect(teacher, data, tmp_path / "s", packing="lzma")
    with pytest.raises(ConfigError, match="expected: none, zlib or zstd"):
        compact(collect(teacher, data, tmp_path / "t").path, packing="lzma")
    from fractionate.store.packing import _zstandard

    _zstandard.cache_clear()
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(ConfigError, match=r"fractionate\[parquet\]"):
        collect(teacher, data, tmp_path / "s", packing="zstd")
    assert BLOCK >= 4096


def test_a_packed_store_far_away_is_read_by_blocks(tmp_path, monkeypatch):
    fsspec = pytest.importorskip("fsspec")
    random = torch.Generator().manual_seed(0)
    many = Examples(torch.randn(20_000, 8, generator=random), torch.arange(20_000) % 8)
    store = collect(lambda x: x * 1.5, many, tmp_path / "near", named="half more", packing="zlib")
    url = "memory://packed/store"
    upload(store.path, url)
    monkeypatch.setattr("fractionate.store.remote.BLOCK", 4096)
    system, moved = fsspec.filesystem("memory"), []
    cat = type(system).cat_file
    monkeypatch.setattr(
        type(system),
        "cat_file",
        lambda self, path, start=None, end=None, **o: (
            moved.append((end or 0) - (start or 0)) or cat(self, path, start, end)
        ),
    )
    opened = Store.open(url, cache=tmp_path / "cache")
    moved.clear()
    assert torch.equal(opened.logits([19_999, 5]), store.logits([19_999, 5]))
    assert 0 < sum(moved) < 100_000
    assert opened.content() == store.content()


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
    with pytest.raises(MismatchError, match="labels do not fit"):  # a label that is padding
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
