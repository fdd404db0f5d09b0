"""Out of the store and into it: Parquet and NumPy; arrays of others."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fractionate.data.arrays import arrays_in, to_tensor
from fractionate.data.examples import Examples
from fractionate.errors import ConfigError, MismatchError, extra, printable
from fractionate.models.output_kinds import Outputs
from fractionate.store.collection import collect
from fractionate.store.features import PREFIX
from fractionate.store.forms import FormKind, StoredDtype, to_torch
from fractionate.store.keys import Keyed
from fractionate.store.reading import Store
from fractionate.store.teachers import ByPlace
from fractionate.system.atomic import make_directory, write_directory, write_file
from fractionate.system.paths import as_path

Array = NDArray[Any]
Target = Literal["parquet", "npy"]
ROWS = 8192  # rows that are read and written together


def export(path: Path | str, to: Target, out: Path | str) -> Path:
    """Write all rows of a store, in the order of the data, to a file or folder that other programs read.

    Args:
        path: Of the store.
        to: `parquet`: one file with page checksums, the store's head in its metadata, which pandas, polars and
            `datasets.load_dataset("parquet", data_files=…)` read. `npy` (dense only): a folder with logits.npy and labels.npy.
        out: The file or folder to write.

    Returns:
        The path of `out`.

    Raises:
        ConfigError: where `out` is there already.
        MissingExtraError: without the library.
        MismatchError: for a store that is not complete.

    Example:
        import torch
        from torch import nn
        from fractionate import collect
        from fractionate.store import export

        collect(nn.Linear(8, 4), (torch.randn(40, 8), torch.arange(40) % 4), "store")
        print(export("store", "npy", "arrays"))
    """
    store, out = Store.open(path), as_path(out)
    writers = {"parquet": _parquet, "npy": _npy}
    if to not in writers:
        raise ConfigError(f"cannot export to {to!r}", expected=", ".join(writers))
    if out.exists():
        raise ConfigError(f"{out} is there already", fix="give another out")
    if not store.complete:
        store.read(np.arange(len(store)))  # raises, saying how many are missing
    make_directory(out.parent)
    return writers[to](store, out)


def _row_groups(store: Store) -> Iterator[dict[str, Array]]:
    for start in range(0, len(store), ROWS):
        columns = store.read(np.arange(start, min(start + ROWS, len(store))))
        yield {
            name: column
            for name, column in columns.items()
            if name not in ("hashes", "keys") and not name.startswith(PREFIX)
        }


def _tables(store: Store) -> Iterator[Any]:
    pyarrow = _pyarrow()
    facts = {"fractionate": json.dumps(store.head.body())}
    for columns in _row_groups(store):
        table: dict[str, Any] = {}
        offsets = columns.pop("item_offsets", None)
        for name, column in columns.items():
            if offsets is not None and name in ("counts", "indices"):
                table[name] = pyarrow.ListArray.from_arrays(
                    pyarrow.array(offsets.astype(np.int32)), pyarrow.array(column)
                )
            elif column.ndim == 2:
                wide = _plain(store, name, column)
                table[name] = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(wide.reshape(-1)), wide.shape[1])
            else:
                table[name] = pyarrow.array(_plain(store, name, column))
        yield pyarrow.table(table).replace_schema_metadata(facts)


def _plain(store: Store, name: str, column: Array) -> Array:
    """bfloat16 as float32, which other formats know."""
    if name in store.form.bfloat16:
        return to_torch(column, "bfloat16").float().numpy()
    return column


def _pyarrow() -> Any:
    with extra("parquet", "Parquet needs pyarrow"):
        import pyarrow
    return pyarrow


def _parquet(store: Store, out: Path) -> Path:
    _pyarrow()
    from pyarrow import parquet

    def fill(file: BinaryIO) -> None:
        writer = None
        for table in _tables(store):
            if writer is None:
                writer = parquet.ParquetWriter(file, table.schema, write_page_checksum=True, compression="zstd")
            writer.write_table(table)
        assert writer is not None
        writer.close()

    return write_file(out, fill)


def _npy(store: Store, out: Path) -> Path:
    if store.form.kind != "dense" or store.head.tokens or len(store.skipped()):
        raise ConfigError("only dense signals of one row per example go to npy", fix="export to parquet")

    def fill(folder: Path) -> None:
        logits = None
        for columns in _row_groups(store):
            values = _plain(store, "values", columns["values"])
            if logits is None:
                shape = (len(store), values.shape[1])
                logits = np.lib.format.open_memmap(folder / "logits.npy", "w+", values.dtype, shape)
                labels = np.empty(len(store), columns["labels"].dtype)
                done = 0
            logits[done : done + len(values)] = values
            labels[done : done + len(values)] = columns["labels"]
            done += len(values)
        assert logits is not None
        logits.flush()
        np.save(folder / "labels.npy", labels)

    return write_directory(out, fill)


def import_arrays(
    logits: Any,
    data: Any,
    out: Path | str,
    *,
    named: str,
    outputs: Outputs = "logits",
    form: FormKind = "dense",
    k: int = 0,
    dtype: StoredDtype = "float32",
    temperatures: tuple[float, ...] = (1.0,),
) -> Store:
    """Make a store out of logits that were computed elsewhere.

    Args:
        logits: [examples, classes], or the path of a .npy, .safetensors (tensor `logits`) or .parquet file (column `logits`).
        data: The examples they belong to, in the same order, or their labels alone.
        out: The folder of the store.
        named: Which teacher computed them, since it cannot be seen.
        outputs: What they are: logits, log-probabilities or probabilities.
        form: How rows are kept: dense, top-k or sampled.
        k: Entries of a row where it is not dense.
        dtype: Of the numbers on disk.
        temperatures: At which the mass outside the k entries is kept.

    Returns:
        The `Store`.

    Raises:
        DamagedError: for files that claim more than they hold or more than the memory does.
        ConfigError: for other files (pickles above all).
        MismatchError: where rows, labels and classes do not fit.

    Example:
        import torch
        from fractionate.store import import_arrays

        store = import_arrays(torch.randn(40, 4), torch.arange(40) % 4, "store", named="resnet50 of 3 May")
    """
    rows = read_array(logits) if isinstance(logits, (str, Path)) else to_tensor(logits, "logits")
    if isinstance(data, (Tensor, np.ndarray, list)):
        labels = to_tensor(data, "labels")
        data = Examples(torch.arange(len(labels)), labels)
    examples = len(Keyed.of(data))
    if rows.ndim != 2 or len(rows) != examples:
        raise MismatchError(
            "these logits do not belong to these data", expected=f"[{examples}, classes]", got=str(list(rows.shape))
        )
    if not named:
        raise ConfigError("a teacher nobody saw needs a name", fix='named="resnet50 of 3 May"')

    return collect(
        ByPlace(rows.__getitem__), data, out, named=named, outputs=outputs, form=form, k=k, dtype=dtype, temperatures=temperatures,
        class_relation=None,
    )  # fmt: skip


def read_array(path: Path | str) -> Tensor:
    """Logits out of a file: the array `logits`, or the only one; mapped into memory where the format allows it.

    Args:
        path: A .npy, .npz, .safetensors or .parquet file.

    Returns:
        The array as a tensor.

    Raises:
        ConfigError: for a file with more than one array and none of that name.
        DamagedError: for a file that cannot be read.

    Example:
        import numpy as np
        from fractionate.store import read_array

        np.save("logits.npy", np.zeros((40, 4), np.float32))
        print(read_array("logits.npy").shape)
    """
    found = arrays_in(path)
    if "logits" not in found and len(found) != 1:
        raise ConfigError(f"{path} has no array 'logits'", got=printable(", ".join(sorted(found)), 200) or "nothing")
    return to_tensor(found.get("logits", next(iter(found.values()))).opened(), "logits")
