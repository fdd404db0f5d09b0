"""The signal store against Parquet, Zarr, HDF5, datasets (Arrow) and webdataset: the same top-64 rows, with integrity on.

    pip install pyarrow zarr h5py datasets webdataset
    python bench/store.py [--rows 100000] [--repeats 5]

Random access: 256 random rows at a time, warm cache. Write: rows in memory to files (ours with row hashes and fsync). One thread.
Interleaved repeats, medians. webdataset has no random access: its figure is a sequential pass.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))

from fractionate.store import (
    SEGMENTS,
    SHARDS,
    Head,
    Identity,
    Store,
    row_hashes,
    rows_of,
    stored_of,
    verify,
    write_shard,
)

RESULT = Path(__file__).parent / "results" / "store.md"
K, BATCH = 64, 256
Array = np.ndarray[Any, Any]


def ours(place: Path, values: Array, indices: Array) -> None:
    rows = len(values)
    head = Head(Identity().__dict__, rows, 1, 32_000, "top-k", K, "float16", (1.0,), BATCH)
    for folder in (SHARDS, SEGMENTS):
        (place / folder).mkdir(parents=True)
    head.write(place)
    columns: dict[str, Array] = {
        "places": np.arange(rows), "keys": np.zeros((rows, 16), np.uint8), "labels": np.zeros(rows, "<u2"),
        "label_values": values[:, 0].copy(), "rest": np.zeros((rows, 1), "<f4"), "values": values, "indices": indices,
    }  # fmt: skip
    step = 1 << 16
    for start in range(0, rows, step):
        part = stored_of(columns, np.arange(start, min(start + step, rows)))
        part["hashes"] = row_hashes(rows_of(part, np.arange(len(part["places"]))))
        write_shard(place, part, head=head.sha256)


def open_ours(place: Path) -> Callable[[Array], object]:
    return Store.open(place).read


def parquet(place: Path, values: Array, indices: Array) -> None:
    import pyarrow
    from pyarrow import parquet as library

    table = pyarrow.table({
        name: pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(a.reshape(-1)), K)
        for name, a in (("values", values), ("indices", indices))
    })  # fmt: skip
    library.write_table(
        table, place, row_group_size=1024, write_page_checksum=True, use_dictionary=False, compression="zstd"
    )


def open_parquet(place: Path) -> Callable[[Array], object]:
    from pyarrow import parquet as library

    file = library.ParquetFile(place, page_checksum_verification=True)

    def read(rows: Array) -> object:
        found = []
        for group in np.unique(rows // 1024).tolist():
            table = file.read_row_group(group, use_threads=False)
            found.append(table.take(rows[rows // 1024 == group] - group * 1024))
        return found

    return read


def zarr(place: Path, values: Array, indices: Array) -> None:
    import zarr as library
    from zarr.codecs import Crc32cCodec

    group = library.open_group(place, mode="w", zarr_format=3)
    for name, array in (("values", values), ("indices", indices)):
        made = group.create_array(
            name, shape=array.shape, dtype=array.dtype, chunks=(64, K), compressors=[Crc32cCodec()], shards=(8192, K)
        )
        made[:] = array


def open_zarr(place: Path) -> Callable[[Array], object]:
    import zarr as library

    group = library.open_group(place, mode="r")
    arrays = [group["values"], group["indices"]]
    return lambda rows: [array.oindex[rows] for array in arrays]


def hdf5(place: Path, values: Array, indices: Array) -> None:
    import h5py

    with h5py.File(place, "w") as file:
        for name, array in (("values", values), ("indices", indices)):
            file.create_dataset(name, data=array, chunks=(64, K), fletcher32=True)


def open_hdf5(place: Path) -> Callable[[Array], object]:
    import h5py

    file = h5py.File(place, "r")

    def read(rows: Array) -> object:
        order = np.unique(rows)
        return [file[name][order] for name in ("values", "indices")]

    return read


def arrow(place: Path, values: Array, indices: Array) -> None:
    import datasets
    import pyarrow

    table = pyarrow.table({
        name: pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(a.reshape(-1)), K)
        for name, a in (("values", values), ("indices", indices))
    })  # fmt: skip
    datasets.disable_progress_bars()
    datasets.Dataset(datasets.table.InMemoryTable(table)).save_to_disk(place)


def open_arrow(place: Path) -> Callable[[Array], object]:
    import datasets

    data = datasets.load_from_disk(str(place)).with_format("numpy")
    return lambda rows: data[rows.tolist()]


def webdataset(place: Path, values: Array, indices: Array) -> None:
    import webdataset as library

    with library.TarWriter(str(place)) as sink:
        for row in range(len(values)):
            sink.write({"__key__": f"{row:08d}", "v.bin": values[row].tobytes(), "i.bin": indices[row].tobytes()})


def open_webdataset(place: Path) -> Callable[[Array], object]:
    import webdataset as library

    samples = iter(library.WebDataset(str(place), shardshuffle=False, empty_check=False).repeat())
    return lambda rows: [
        (np.frombuffer((s := next(samples))["v.bin"], "f2"), np.frombuffer(s["i.bin"], "u2")) for _ in rows
    ]


PEERS: dict[str, tuple[Callable[..., None], Callable[[Path], Callable[[Array], object]], str]] = {
    "ours": (ours, open_ours, "xxh3 of every row"),
    "Parquet": (parquet, open_parquet, "page CRC"),
    "Zarr v3": (zarr, open_zarr, "CRC-32C"),
    "HDF5": (hdf5, open_hdf5, "Fletcher-32"),
    "datasets (Arrow)": (arrow, open_arrow, "none"),
    "webdataset": (webdataset, open_webdataset, "none; sequential"),
}


def size(place: Path) -> int:
    return (
        sum(path.stat().st_size for path in place.rglob("*") if path.is_file())
        if place.is_dir()
        else place.stat().st_size
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    random = np.random.default_rng(0)
    values = random.normal(0, 4, (options.rows, K)).astype("<f2")
    indices = random.integers(0, 32_000, (options.rows, K)).astype("<u2")
    payload = values.nbytes + indices.nbytes
    written: dict[str, list[float]] = {name: [] for name in PEERS}
    read: dict[str, list[float]] = {name: [] for name in PEERS}
    with tempfile.TemporaryDirectory() as base:
        for repeat in range(2):
            for name, (write, _, _) in PEERS.items():
                place = Path(base) / name.split()[0]
                if repeat and name == "webdataset":
                    continue
                shutil.rmtree(place, ignore_errors=True)
                place.unlink(missing_ok=True)
                started = time.perf_counter()
                write(place, values, indices)
                written[name].append(payload / (time.perf_counter() - started) / 1e6)
        readers = {name: make(Path(base) / name.split()[0]) for name, (_, make, _) in PEERS.items()}
        some = random.integers(0, options.rows, BATCH)
        back = Store.open(Path(base) / "ours").read(some)
        assert np.array_equal(back["values"], values[some]) and np.array_equal(back["indices"], indices[some])
        for repeat in range(options.repeats + 1):  # the first warms up
            for name, reader in readers.items():
                done, started = 0, time.perf_counter()
                while time.perf_counter() - started < 0.7:
                    reader(random.integers(0, options.rows, BATCH))
                    done += BATCH
                if repeat:
                    read[name].append(done / (time.perf_counter() - started))
        sizes = {name: size(Path(base) / name.split()[0]) / options.rows for name in PEERS}
        checks = [verify(Path(base) / "ours") for _ in range(5)]
    speed = statistics.median(check.bytes / check.seconds for check in checks) / 1e9
    assert all(check.whole for check in checks)
    lines = [
        f"{options.rows:,} rows, top-{K} float16 + uint16 ({payload // options.rows} bytes of payload), one thread, medians, by",
        f"`python bench/store.py --rows {options.rows} --repeats {options.repeats}`. Targets:",
        "ours ≥ 30,000 verified rows/s and ≥ 2× the fastest peer with integrity on; verify ≥ 1 GB/s.",
        "",
        "| store | integrity | random rows/s | ours / it | write MB/s | bytes a row |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    best = statistics.median(read["ours"])
    for name, (_, _, integrity) in PEERS.items():
        rate, speed_in = statistics.median(read[name]), statistics.median(written[name])
        lines.append(
            f"| {name} | {integrity} | {rate:,.0f} | {best / rate:.1f} | {speed_in:,.0f} | {sizes[name]:.0f} |"
        )
    lines += [
        "",
        f"`fractionate store verify`: {speed:.1f} GB/s on one core ({checks[0].bytes:,} bytes, every byte hashed).",
    ]
    text = "\n".join(lines) + "\n"
    print(text)
    RESULT.write_text(text)


if __name__ == "__main__":
    main()
