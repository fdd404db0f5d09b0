"""Raw arrays of any framework: read, converted, or refused with a reason."""

from __future__ import annotations

import contextlib
import resource
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from safetensors.torch import save_file as torch_file

from fractionate.diagnosis import diagnose
from fractionate.diagnosis.black_box import read_signal, signal_from_arrays
from fractionate.errors import ConfigError, DamagedError, FractionateError, MismatchError, NumericsError
from fractionate.store.exchange import read_array

DRAW = np.random.default_rng(0)
LABELS = DRAW.integers(0, 5, 200)
LOGITS = (DRAW.standard_normal((200, 5)) + 4 * np.eye(5)[LABELS]).astype(np.float32)
PROBABILITIES = np.exp(LOGITS) / np.exp(LOGITS).sum(1, keepdims=True)


def test_probabilities_become_their_logarithm():
    from_logits, from_probabilities = signal_from_arrays(LOGITS, LABELS), signal_from_arrays(PROBABILITIES, LABELS)
    torch.testing.assert_close(from_logits.probabilities, from_probabilities.probabilities, rtol=1e-4, atol=1e-6)
    half = signal_from_arrays(PROBABILITIES.astype(np.float16), LABELS)
    torch.testing.assert_close(from_logits.probabilities, half.probabilities, rtol=1e-2, atol=1e-3)


def test_logits_said_to_be_probabilities_are_refused():
    with pytest.raises(NumericsError, match="not probabilities"):
        signal_from_arrays(LOGITS, LABELS, kind="probabilities")


def test_one_hot_labels_and_columns_of_labels_are_understood():
    for labels in (np.eye(5)[LABELS], np.eye(5, dtype=bool)[LABELS], LABELS[:, None], LABELS.astype(np.float64)):
        assert signal_from_arrays(LOGITS, labels).labels.tolist() == LABELS.tolist()


@pytest.mark.wrong_types
@pytest.mark.parametrize(
    ("outputs", "labels", "match"),
    [
        (LOGITS.T, LABELS, "transposed"),
        (LOGITS, LABELS + 1, "1-based"),
        (LOGITS, LABELS[:-1], "length"),
        (LOGITS[:, :1], LABELS * 0, "at least 2 classes"),
        (LOGITS[None], LABELS, "table"),
        (LOGITS, PROBABILITIES, "soft"),
        (LOGITS, LABELS + 0.5, "whole numbers"),
        (LOGITS[:0], LABELS[:0], "no data"),
        (np.array([["a"] * 5]), LABELS[:1], "numbers"),
    ],
)
def test_what_does_not_fit_is_refused(outputs, labels, match):
    with pytest.raises(MismatchError, match=match):
        signal_from_arrays(outputs, labels)


def test_infinite_outputs_are_refused():
    broken = LOGITS.copy()
    broken[3, 2] = np.nan
    with pytest.raises(NumericsError, match="example 3"):
        signal_from_arrays(broken, LABELS)


@pytest.mark.parametrize("form", ["npy", "npz", "safetensors", "parquet", "parquet-columns", "wide dtype"])
def test_files(tmp_path: Path, form: str):
    labels = None
    path = tmp_path / f"teacher.{form}"
    if form == "npy":
        labels = tmp_path / "labels.npy"
        np.save(path, LOGITS)
        np.save(labels, LABELS)
    elif form == "npz":
        np.savez(path, logits=LOGITS, labels=LABELS)
    elif form == "safetensors":
        save_file({"probabilities": PROBABILITIES, "targets": LABELS}, path)
    elif form == "wide dtype":
        path = tmp_path / "teacher.npz"
        np.savez(path, logits=LOGITS.astype(">f8"), labels=LABELS.astype(">i4"))
    else:
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        path = tmp_path / "teacher.parquet"
        columns = {"label": LABELS}
        if form == "parquet":
            columns["logits"] = list(LOGITS)
        else:
            columns |= {f"p_{c}": PROBABILITIES[:, c] for c in range(5)}
        parquet.write_table(pyarrow.table(columns), path)
    signal = read_signal(path, labels)
    torch.testing.assert_close(
        signal.probabilities.float(), torch.tensor(PROBABILITIES, dtype=torch.float32), rtol=1e-4, atol=1e-6
    )
    found = diagnose(path, labels=labels)
    assert found.teacher is not None and found.teacher.accuracy == pytest.approx((LOGITS.argmax(1) == LABELS).mean())


def test_files_that_cannot_be_read(tmp_path: Path):
    with pytest.raises(ConfigError, match="no file"):
        read_signal(tmp_path / "none.npy")
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(ConfigError, match="cannot read"):
        read_signal(tmp_path / "a.txt")
    for suffix in ("npy", "npz", "safetensors", "parquet"):
        broken = tmp_path / f"broken.{suffix}"
        broken.write_bytes(b"not an array at all")
        with pytest.raises(DamagedError, match="cannot be read"):
            read_signal(broken)
    np.savez(tmp_path / "no_labels.npz", logits=LOGITS)
    with pytest.raises(ConfigError, match="labels"):
        read_signal(tmp_path / "no_labels.npz")
    np.savez(tmp_path / "twice.npz", logits=LOGITS, labels=LABELS, ids=np.r_[0, 0, np.arange(198)])
    with pytest.raises(MismatchError, match="more than once"):
        read_signal(tmp_path / "twice.npz")


def npy(shape: str, kind: str = "<f4", body: int = 720, version: bytes = b"\x01\x00") -> bytes:
    """A .npy file of zeros under any header."""
    head = (
        f"{{'descr': {kind if kind[:1] in '[(' else repr(kind)}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    )
    return (
        b"\x93NUMPY" + version + struct.pack("<H" if version[:1] == b"\x01" else "<I", len(head)) + head + bytes(body)
    )


def archive(path: Path, compression: int = zipfile.ZIP_DEFLATED, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w", compression) as made:
        for name, content in members.items():
            made.writestr(name.replace("__", "/") + ".npy", content)
    return path


def hostile_outputs(folder: Path) -> dict[str, Path]:
    """Files that are not what their names say, each under its own name."""
    whole = npy("(60, 3)")
    made = {
        "huge.npy": npy("(1000000000000, 3)"), "overflow.npy": npy("(4294967296, 4294967296, 3)"),
        "negative.npy": npy("(-1, 3)"), "many_axes.npy": npy("(" + "1, " * 70 + ")"), "no_axes.npy": npy("()"),
        "text_shape.npy": npy("('a', 3)"), "true_shape.npy": npy("(True, 180)"), "objects.npy": npy("(60, 3)", "|O"),
        "records.npy": npy("(60, 3)", "[('a', '<f4')]"), "no_size.npy": npy("(60, 3)", "|V0"), "text.npy": npy("(60, 3)", "<U1"),
        "dates.npy": npy("(60, 3)", "<M8[s]"), "complex.npy": npy("(30, 3)", "<c8"), "unknown.npy": npy("(60, 3)", "<q9"),
        "code.npy": npy("(__import__('os').system('touch ran'), 3)"), "deep.npy": npy("(" * 3000), "cut.npy": whole[:-9],
        "head.npy": whole[:20], "magic.npy": whole[:6], "version.npy": npy("(60, 3)", version=b"\x09\x00"),
        "third.npy": npy("(60, 3)", version=b"\x03\x00"), "long_head.npy": b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + bytes(99),
        "zip.npy": b"PK\3\4" + bytes(99), "empty.npy": b"", "pickle.npy": b"\x80\x04K\x01.", "three.npy": npy("(60, 3, 1)"),
        "no_rows.npy": npy("(0, 3)"), "no_classes.npy": npy("(60, 0)"), "one_class.npy": npy("(180, 1)"),
        "long.npy": npy("(61, 2)"), "empty.npz": b"", "text.npz": b"hello", "zip.npz": b"PK\3\4" + bytes(99), "npy.npz": whole,
        "empty.safetensors": b"", "text.safetensors": b"{" * 99, "empty.parquet": b"",
        "text.parquet": b"PAR1" + bytes(99) + b"PAR1",
    }  # fmt: skip
    for name, content in made.items():
        (folder / name).write_bytes(content)
    archive(folder / "strange.npz", logits=whole, **{"labels.txt": b"x"})
    archive(folder / "short.npz", logits=whole[:-9])
    archive(folder / "longer.npz", logits=whole + b"x")
    archive(folder / "lying.npz", logits=npy("(1000000000000, 3)"))
    archive(
        folder / "bomb.npz",
        logits=npy("(10000000, 3)", "|u1", 30_000_000),
        more=npy("(50000000, 1)", "|u1", 50_000_000),
    )
    damaged = bytearray(archive(folder / "crc.npz", zipfile.ZIP_STORED, logits=whole).read_bytes())
    damaged[300] ^= 1
    (folder / "crc.npz").write_bytes(damaged)
    save_file({"logits": np.zeros((60, 3, 2), np.float32)}, folder / "three.safetensors")
    save_file({"one": LOGITS, "other": LOGITS}, folder / "unnamed.safetensors")
    torch_file({"logits": torch.zeros(60, 3, dtype=torch.complex64)}, folder / "complex.safetensors")
    save_file({"logits\x1b[31m": LOGITS, "x": LOGITS}, folder / "escape.safetensors")
    (folder / "folder.npy").mkdir()
    return {path.name: path for path in folder.iterdir() if path.name != "labels.npy"}


def test_hostile_outputs_are_typed_errors_and_nothing_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    np.save(tmp_path / "labels.npy", np.arange(60) % 3)
    files = hostile_outputs(tmp_path)
    assert len(files) >= 45
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for name, path in files.items():
        with pytest.raises(FractionateError) as caught:
            read_signal(path, tmp_path / "labels.npy")
        assert caught.value.exit_code in (2, 3, 4, 6), name
        assert all(c.isprintable() or c == "\n" for c in str(caught.value)), name
        with contextlib.suppress(FractionateError):  # an array of three axes, or none, is one all the same
            read_array(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 128 * 1024  # KiB
    assert not (tmp_path / "ran").exists()


def test_hostile_tables_of_parquet_are_typed_errors(tmp_path: Path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    labels = list(range(3)) * 20
    tables: dict[str, dict[str, Any]] = {
        "ragged": {"logits": [[0.0] * (2 + n % 2) for n in range(60)]}, "nothing": {"logits": [None] * 60},
        "holes": {"logits": [[0.0, None, 1.0]] * 60}, "words": {"logits": [["a", "b", "c"]] * 60}, "none": {"logits": []},
        "nested": {"logits": [[[0.0], [1.0], [2.0]]] * 60}, "one": {"logits": [0.5] * 60}, "mapping": {"logits": [{"a": 1.0}] * 60},
        "unnamed": {"x": [[0.0, 1.0, 2.0]] * 60},
        "named labels": {"logits": [[0.0, 1.0, 2.0]] * 60, "labels": ["a", "b", "c"] * 20},
        "missing label": {"logits": [[0.0, 1.0, 2.0]] * 60, "labels": [0, 1, None] * 20},
        "repeated": {"logits": [[0.0, 1.0, 2.0]] * 60, "labels": labels, "ids": ["a", "b", "\x1b[31m"] * 20},
    }  # fmt: skip
    for name, columns in tables.items():
        parquet.write_table(pyarrow.table(columns), tmp_path / "x.parquet")
        apart = None
        if "labels" not in columns:
            apart = tmp_path / "labels.npy"
            np.save(apart, np.array(labels))
        with pytest.raises(FractionateError) as caught:
            read_signal(tmp_path / "x.parquet", apart)
        assert caught.value.exit_code in (2, 3, 4), name
        assert "\x1b" not in str(caught.value)


KINDS = ["f2", "f4", "f8", "g", "i1", "i4", "i8", "u1", "u2", "u4", "u8", "?", ">f8", ">i2"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("labels", ["i8", "u1", "u2", "u8", "f4", ">i4", "one-hot", "column"])
def test_numbers_of_every_width_are_read(tmp_path: Path, kind: str, labels: str):
    values = np.asfortranarray((LOGITS > 0.5).astype(kind))
    targets = {"one-hot": np.eye(5)[LABELS], "column": LABELS[:, None]}.get(labels)
    np.savez(tmp_path / "x.npz", logits=values, labels=LABELS.astype(labels) if targets is None else targets)
    signal = read_signal(tmp_path / "x.npz")
    assert signal.labels.tolist() == LABELS.tolist()
    assert signal.logits.tolist() == values.astype("f8").tolist()


NO_CLASSES = (LABELS + 2.0**40, np.full(200, np.nan), np.full(200, np.inf), LABELS.astype("u8") + 2**63, LABELS.astype("U1"),
              -LABELS - 1, np.zeros((2, 100), int), np.zeros(()), LABELS + 0j)  # fmt: skip


@pytest.mark.parametrize("labels", NO_CLASSES)
def test_labels_that_are_no_classes_are_refused(labels: Any):
    with pytest.raises(MismatchError):
        signal_from_arrays(LOGITS, labels)


@pytest.mark.parametrize("outputs", [torch.zeros(200, 5).to_sparse(), torch.zeros(200, 5, device="meta"), torch.zeros(200, 5) * 1j,
                                     [[1.0], [1.0, 2.0]], "text", None, object()])  # fmt: skip
def test_outputs_that_are_no_numbers_are_refused(outputs: Any):
    with pytest.raises(MismatchError):
        signal_from_arrays(outputs, LABELS)
