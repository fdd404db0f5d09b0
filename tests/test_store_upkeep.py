"""Looking after a store: damage of every kind is found and named, mending keeps all that still proves itself."""

from __future__ import annotations

import contextlib
import json
import pickle
import shutil
import struct
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch import nn

from fractionate.data.examples import Examples
from fractionate.errors import ConfigError, DamagedError, FractionateError, MismatchError, ResourceError
from fractionate.store import (
    Replay,
    Store,
    StoreInfo,
    Verification,
    collect,
    compact,
    export,
    import_arrays,
    info,
    repair,
    verify,
)
from fractionate.store.layout import canonical
from fractionate.system.atomic import TEMPORARY
from fractionate.theory.topk_signal import CompactSignal

ROWS = 400
importorskip = pytest.importorskip


@pytest.fixture(scope="module")
def data():
    generator = torch.Generator().manual_seed(0)
    return Examples(torch.randn(ROWS, 6, generator=generator), torch.randint(5, (ROWS,), generator=generator))


@pytest.fixture(scope="module")
def teacher():
    torch.manual_seed(0)
    return nn.Linear(6, 5)


FORMS = {"dense": {}, "top-k": {"form": "top-k", "k": 2, "dtype": "float16"}, "sampled": {"form": "sampled", "k": 6}}


@pytest.fixture(params=FORMS, scope="module")
def made(request, data, teacher, tmp_path_factory):
    place = tmp_path_factory.mktemp("made") / "s"
    return collect(teacher, data, place, batch_size=50, shard_bytes=1, **FORMS[request.param])


@pytest.fixture(scope="module")
def made_dense(data, teacher, tmp_path_factory):
    return collect(teacher, data, tmp_path_factory.mktemp("made") / "s", batch_size=50, shard_bytes=1)


@pytest.fixture
def dense(made_dense, tmp_path):
    shutil.copytree(made_dense.path, tmp_path / "s")
    return Store.open(tmp_path / "s")


@pytest.fixture
def store(made, tmp_path):
    shutil.copytree(made.path, tmp_path / "s")
    return Store.open(tmp_path / "s")


def shards(store):
    return sorted((store.path / "shards").iterdir())


def segments(store):
    return sorted((store.path / "segments").iterdir())


# --- the kinds of damage ----------------------------------------------------------------------------------------------------


def flip(file, random):
    content = bytearray(file.read_bytes())
    content[random.integers(len(content))] ^= 1 << random.integers(8)
    file.write_bytes(content)


def cut(file, random):
    with file.open("r+b") as opened:
        opened.truncate(int(random.integers(file.stat().st_size)))


def zeros(file, random):
    content = bytearray(file.read_bytes())
    start = int(random.integers(max(1, len(content) - 64)))
    if not any(content[start : start + 4096]):
        return flip(file, random)
    content[start : start + 4096] = bytes(len(content[start : start + 4096]))
    file.write_bytes(content)
    return None


def swap_blocks(file, random):
    content = bytearray(file.read_bytes())
    half = len(content) // 2
    if content[:64] == content[half : half + 64]:
        return flip(file, random)
    content[:64], content[half : half + 64] = content[half : half + 64], content[:64]
    file.write_bytes(content)
    return None


def append(file, random):
    with file.open("ab") as opened:
        opened.write(random.bytes(8))


def sibling(file, random):
    others = [other for other in file.parent.iterdir() if other != file]
    shutil.copy(others[random.integers(len(others))], file)


def exchange(file, random):
    others = [other for other in file.parent.iterdir() if other != file]
    other = others[random.integers(len(others))]
    a, b = file.read_bytes(), other.read_bytes()
    file.write_bytes(b), other.write_bytes(a)


def vanish(file, random):
    file.unlink()


def empty(file, random):
    file.write_bytes(b"")


def link(file, random):
    target = file.rename(file.parents[2] / "elsewhere")
    file.symlink_to(target)


KINDS = (flip, cut, zeros, swap_blocks, append, sibling, exchange, empty, link)


@pytest.mark.parametrize("kind", [*KINDS, vanish], ids=lambda kind: kind.__name__)
def test_damage_is_found_before_a_value_is_used_and_mended(store, teacher, data, kind):
    random = np.random.default_rng(1)
    good = store.signal()
    for _ in range(2):
        file = shards(store)[random.integers(len(shards(store)))]
        kind(file, random)
        with pytest.raises(DamagedError) as caught:
            Store.open(store.path).signal()
        assert "shards/" in str(caught.value) and f"fractionate store repair {store.path}" in str(caught.value)
        found = verify(store.path)
        assert not found.whole and found.damages
        mended = repair(store.path, teacher=teacher, data=data)
        assert mended.missing == 0 and mended.damages
        assert verify(store.path).whole and not verify(store.path).leftovers
        again = Store.open(store.path).signal()
        assert torch.equal(again.logits, good.logits) and torch.equal(again.labels, good.labels)


@pytest.mark.parametrize("kind", [flip, cut, zeros, swap_blocks, append, sibling, exchange, empty, link])
def test_damaged_manifests_are_found_and_their_rows_kept(dense, kind):
    random = np.random.default_rng(1)
    good = dense.content()
    kind(segments(dense)[2], random)
    with pytest.raises(DamagedError, match="segments/"):
        Store.open(dense.path)
    mended = repair(dense.path)  # no teacher: the shards are whole, so nothing is lost
    assert mended.missing == 0
    assert Store.open(dense.path).content() == good


def test_a_damaged_head_is_read_from_its_copy(dense):
    good = dense.content()
    flip(dense.path / "head.json", np.random.default_rng(0))
    with pytest.raises(DamagedError, match=r"head\.json"):
        Store.open(dense.path)
    repair(dense.path)
    assert Store.open(dense.path).content() == good
    flip(dense.path / "head-copy.json", np.random.default_rng(0))
    assert "copy of the head was changed" in verify(dense.path).damages[0]
    repair(dense.path)
    assert verify(dense.path).whole
    flip(dense.path / "head.json", np.random.default_rng(0))
    flip(dense.path / "head-copy.json", np.random.default_rng(0))
    with pytest.raises(DamagedError):
        repair(dense.path)


def test_a_damaged_class_relation_is_mended_by_its_teacher_only(dense, teacher):
    flip(dense.path / "relation.safetensors", np.random.default_rng(0))
    with pytest.raises(DamagedError, match="class relation was changed"):
        dense.signal()
    assert not verify(dense.path).whole
    with pytest.raises(MismatchError, match="does not have the class relation"):
        repair(dense.path, teacher=nn.Linear(6, 5))
    repair(dense.path, teacher=teacher)
    assert verify(dense.path).whole


def test_only_lost_rows_are_asked_for_again(store, teacher, data):
    requested = []
    rows = Store.open(store.path).shards[0]
    with rows.path.open("r+b") as file:  # the last bytes of the last column: one row
        file.seek(-1, 2)
        last = file.read(1)[0]
        file.seek(-1, 2)
        file.write(bytes([last ^ 1]))
    mended = repair(store.path)
    assert (mended.kept, mended.lost, mended.missing) == (49, 1, 1)
    assert "1 rows are missing" in str(mended)

    def listening(inputs):
        requested.append(len(inputs))
        return teacher(inputs)

    with pytest.raises(MismatchError, match="teacher"):  # another callable is another teacher
        collect(listening, data, store.path, batch_size=50)
    mended = repair(store.path, teacher=teacher, data=data)
    assert mended.missing == 0
    assert Store.open(store.path).complete


# --- manifests that were written to harm ------------------------------------------------------------------------------------------


def forge(path, **changes):
    """A segment with a right name and a right seal, but with what no writer of ours would say."""
    body = json.loads(path.read_text())["body"] | changes
    name = f"{sha256(canonical(body)).hexdigest()[:32]}.json"
    path.unlink()
    path.with_name(name).write_bytes(canonical({"body": body, "sha256": sha256(canonical(body)).hexdigest()}))


@pytest.mark.parametrize(
    "changes",
    [
        {"shard": "../../outside.safetensors"},
        {"shard": "/etc/passwd"},
        {"shard": "a/b"},
        {"shard": "x\x00y"},
        {"shard": ""},
        {"shard": "S" * 300},
        {"shard": 7},
        {"bytes": -1},
        {"bytes": 10**30},
        {"bytes": "1"},
        {"entries": 10**12},
        {"rows": True},
        {"head": "0" * 64},
        {"replaces": 3},
        {"extra": 1},
        {"xxh3": None},
        {"index_xxh3": "00"},
        {"header_xxh3": "00"},
    ],
    ids=str,
)
def test_hostile_manifests_are_refused_and_nothing_outside_is_opened(dense, tmp_path, changes):
    (tmp_path / "outside.safetensors").write_bytes(shards(dense)[0].read_bytes())
    forge(segments(dense)[0], **changes)
    try:
        opened = Store.open(dense.path)
    except DamagedError:
        return
    # counts nothing is decided by may be wrong without harm; verify says so or the rows are right
    assert changes in ({"entries": 10**12}, {"rows": True}) and len(opened.signal()) == ROWS


@pytest.mark.parametrize(
    "changes",
    [{"examples": 10**18}, {"examples": 0}, {"views": 10**9}, {"classes": -1}, {"form": "pickle"}, {"dtype": "object"},
     {"temperatures": [0]}, {"temperatures": "hot"}, {"identity": []}, {"class_names": 5}, {"format": "fractionate-store/9"}],
    ids=str,
)  # fmt: skip
def test_hostile_heads_are_refused(dense, changes):
    path = dense.path / "head.json"
    body = json.loads(path.read_text())["body"] | changes
    path.write_bytes(canonical({"body": body, "sha256": sha256(canonical(body)).hexdigest()}))
    with pytest.raises(DamagedError):
        Store.open(dense.path)


@pytest.mark.parametrize(
    "content", [b"", b"\xff\xfe", b"[" * 100_000, b'{"body": 1}', b'{"a": 1, "a": 2}', b"null", b'"x"']
)
def test_segments_that_are_not_ours_are_refused_in_bounded_time(dense, content):
    (dense.path / "segments" / "0.json").write_bytes(content)
    with pytest.raises(DamagedError, match="changed after it was written"):
        Store.open(dense.path)


@pytest.mark.parametrize("length", [0, 7, 1 << 20, 1 << 40, 2**63])
def test_hostile_shard_headers_cost_no_memory(dense, length):
    file = shards(dense)[0]
    content = bytearray(file.read_bytes())
    content[:8] = length.to_bytes(8, "little")
    file.write_bytes(content)
    with pytest.raises(DamagedError):
        Store.open(dense.path)
    assert repair(dense.path).missing == 50  # nothing of this shard can be believed


# --- killed writers, many shards --------------------------------------------------------------------------------------------


def test_what_killed_writers_leave_does_not_count_and_is_swept(dense):
    good = dense.content()
    (dense.path / "shards" / f"{TEMPORARY}abc").write_bytes(b"half")
    shutil.copy(shards(dense)[1], dense.path / "shards" / "0123-orphan.safetensors")  # written, never committed
    assert Store.open(dense.path).content() == good
    assert len(verify(dense.path).leftovers) == 2 and verify(dense.path).whole
    assert repair(dense.path).damages == ()
    assert not verify(dense.path).leftovers and Store.open(dense.path).content() == good


def test_merging_keeps_every_row_and_plain_readers_can_read_it(store):
    good, before = store.content(), len(store.shards)
    assert compact(store.path, shard_bytes=1 << 30) == (before, 1)
    merged = Store.open(store.path)
    assert merged.content() == good and verify(store.path).whole and not verify(store.path).leftovers
    (shard,) = shards(merged)
    columns = load_file(shard)
    assert columns["places"].tolist() == list(range(ROWS))
    assert compact(store.path) == (1, 1)


def test_merging_killed_between_its_steps_loses_nothing(dense, monkeypatch):
    good = dense.content()
    unlink = Path.unlink
    for steps in (0, 1, 5, 9):
        left = [steps]

        def stops(self, *arguments, left=left, **options):
            if "segments" in str(self) or "shards" in str(self):
                if left[0] == 0 and TEMPORARY not in self.name:
                    raise KeyboardInterrupt
                left[0] -= TEMPORARY not in self.name
            return unlink(self, *arguments, **options)

        monkeypatch.setattr(Path, "unlink", stops)
        with contextlib.suppress(KeyboardInterrupt):
            compact(dense.path, shard_bytes=1 << 30)
        monkeypatch.setattr(Path, "unlink", unlink)
        assert Store.open(dense.path).content() == good
        repair(dense.path)
        assert Store.open(dense.path).content() == good and verify(dense.path).whole


# --- records, views, exchange ---------------------------------------------------------------------------------------------------


def test_info_and_verification_are_records(store):
    message, found = info(store.path), verify(store.path)
    assert StoreInfo.from_json(message.to_json()) == message and Verification.from_json(found.to_json()) == found
    assert message.entries_present == message.rows == ROWS and message.classes == 5
    assert "400 of 400 there" in str(message) and "5 classes" in str(message) and "whole" in str(found)
    with pytest.raises(ConfigError, match="no signal store"):
        info(store.path / "shards")


def test_the_size_is_known_before_the_pass(data, teacher, tmp_path):
    from fractionate.store import Form, estimate

    big = Examples(data.inputs.repeat(30, 1), data.labels.repeat(30))
    for number, form in enumerate([Form("dense", 5), Form("top-k", 5, "float16", 2, (1.0, 2.0))]):
        store = collect(
            teacher,
            big,
            tmp_path / str(number),
            form=form.kind,
            k=form.k,
            dtype=form.dtype,
            temperatures=form.temperatures,
        )
        size = sum(file.stat().st_size for file in (store.path / "shards").iterdir())
        assert estimate(form, len(big)) == pytest.approx(size, rel=0.05)


@pytest.mark.parametrize("to", ["parquet", "npy"])
def test_others_read_what_is_exported(store, tmp_path, to):
    importorskip("pyarrow" if to == "parquet" else "numpy")
    good = store.signal()
    if to == "npy" and store.form.kind != "dense":
        with pytest.raises(ConfigError, match="only dense"):
            export(store.path, to, tmp_path / "out")
        return
    out = export(store.path, to, tmp_path / "out")
    with pytest.raises(ConfigError, match="there already"):
        export(store.path, to, tmp_path / "out")
    if to == "parquet":
        columns = importorskip("pyarrow.parquet").read_table(out).to_pydict()
    else:
        columns = {"labels": np.load(out / "labels.npy"), "values": np.load(out / "logits.npy")}
    assert np.asarray(columns["labels"]).tolist() == good.labels.tolist()
    if store.form.kind == "dense":
        assert np.array_equal(np.asarray(columns["values"], np.float32), good.logits.numpy())
    else:
        kept = store.compact_signal()
        assert isinstance(kept, CompactSignal)
        assert np.array_equal(
            np.asarray(columns["label_values"], kept.label_logits.numpy().dtype), kept.label_logits.numpy()
        )
    if store.form.kind == "top-k":
        assert np.asarray(columns["indices"]).tolist() == kept.indices.tolist()


@pytest.mark.parametrize("kind", ["array", "npy", "safetensors", "parquet"])
def test_logits_computed_elsewhere_come_in(data, teacher, tmp_path, kind):
    logits = teacher(data.inputs).detach()
    if kind == "npy":
        np.save(tmp_path / "x.npy", logits.numpy())
    elif kind == "safetensors":
        from safetensors.torch import save_file

        save_file({"logits": logits}, tmp_path / "x.safetensors")
    elif kind == "parquet":
        pyarrow = importorskip("pyarrow")
        importorskip("pyarrow.parquet").write_table(pyarrow.table({"logits": logits.tolist()}), tmp_path / "x.parquet")
    given = logits if kind == "array" else tmp_path / f"x.{kind}"
    store = import_arrays(given, data, tmp_path / "s", named="a linear teacher")
    assert torch.allclose(store.signal().logits, logits)
    assert torch.equal(import_arrays(given, data.labels, tmp_path / "t", named="x").signal().labels, data.labels)
    with pytest.raises(MismatchError, match="do not belong"):
        import_arrays(logits[:-1], data, tmp_path / "u", named="x")


def test_files_that_could_run_code_or_claim_too_much_are_not_imported(data, tmp_path, monkeypatch):
    class Harm:
        def __reduce__(self):
            return (open, (str(tmp_path / "harmed"), "w"))

    poison = pickle.dumps(Harm())
    for name in ("x.pt", "x.pkl", "x.npz", "x.npy", "x.safetensors", "x.parquet"):
        (tmp_path / name).write_bytes(poison)
        with pytest.raises(FractionateError):
            import_arrays(tmp_path / name, data, tmp_path / "s", named="x")
    np.save(tmp_path / "objects.npy", np.array([Harm()], object), allow_pickle=True)
    head = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000, 1000000), }\n"
    (tmp_path / "bomb.npy").write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head)
    for name in ("objects.npy", "bomb.npy"):
        with pytest.raises(DamagedError):
            import_arrays(tmp_path / name, data, tmp_path / "s", named="x")
    pyarrow = importorskip("pyarrow")
    zeros = pyarrow.table(
        {"logits": pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(np.zeros(20_000_000, "f4")), 5)}
    )
    importorskip("pyarrow.parquet").write_table(zeros, tmp_path / "bomb.parquet", compression="zstd")
    noise = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(np.random.default_rng(0).normal(size=5 * ROWS)), 5)
    importorskip("pyarrow.parquet").write_table(pyarrow.table({"logits": noise}), tmp_path / "large.parquet")
    monkeypatch.setattr("fractionate.system.memory.available_bytes", lambda device: 100)
    with pytest.raises(ResourceError, match="does not fit into memory"):
        import_arrays(tmp_path / "large.parquet", data, tmp_path / "s", named="x")
    with pytest.raises(DamagedError, match="claims more than a file of outputs holds"):
        import_arrays(tmp_path / "bomb.parquet", data, tmp_path / "s", named="x")
    assert not (tmp_path / "harmed").exists() and not (tmp_path / "s").exists()


def test_unchanged_examples_are_taken_over_from_an_older_store(data, teacher, tmp_path):
    ids = tuple(f"file-{n}" for n in range(ROWS))
    old = Examples(data.inputs, data.labels, ids=ids)
    first = collect(teacher, Replay(old, torch.neg, views=2), tmp_path / "old")
    order = torch.randperm(ROWS, generator=torch.Generator().manual_seed(0))
    new = old.take(order)
    new.inputs[7] += 1
    with pytest.raises(MismatchError, match=r"other content at place|same examples in another order"):
        collect(teacher, Replay(new, torch.neg, views=2), tmp_path / "old")
    store = collect(teacher, Replay(new, torch.neg, views=2), tmp_path / "new", reuse=first)
    fresh = collect(teacher, Replay(new, torch.neg, views=2), tmp_path / "fresh")
    assert torch.allclose(store.signal().logits, fresh.signal().logits, atol=1e-6)
    taken = Store.open(tmp_path / "new").shards
    assert sorted(shard.segment.entries for shard in taken) == [2, 2 * ROWS - 2]
    with pytest.raises(MismatchError, match=r"taken over from .*: teacher differ"):
        collect(nn.Linear(6, 5), Replay(new, torch.neg, views=2), tmp_path / "other", reuse=first)
    assert not (tmp_path / "other").exists()
