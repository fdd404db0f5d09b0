"""Raw arrays of any framework: read, converted, or refused with a reason."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from fractionate.diagnosis import diagnose
from fractionate.diagnosis.black_box import read_signal, signal_from_arrays
from fractionate.errors import ConfigError, DamagedError, MismatchError, NumericsError

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
