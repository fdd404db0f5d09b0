"""Arrays out of files of others: .npy, .npz, .safetensors, .parquet. Shapes first; values only where they fit into memory.

Nothing is unpickled. What a header claims is compared with the size of the file, and what a compressed file unfolds to with
the memory that is free, before anything is allocated.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from numpy.typing import NDArray

from fractionate.errors import ConfigError, DamagedError, FractionateError, MismatchError, ResourceError, extra, reason
from fractionate.system.files import existing_file
from fractionate.system.memory import require_bytes, shown_bytes

Array = NDArray[Any]
SUFFIXES = (".npy", ".npz", ".safetensors", ".parquet")
COPIES = 4  # of an array as float32, that whoever reads it makes at once
UNFOLDS = 200  # a compressed file of real outputs unfolds to less, in multiples of its size
UNFOLDS_BYTES = 64 << 20  # a file that unfolds to less than this is no bomb
ROWS = 8192  # rows of a Parquet file read at once
SMALLER = "take fewer rows"


@dataclass(frozen=True)
class StoredArray:
    """An array of a file: its shape is known, its values are read by `load`.

    Args:
        opened: The values without a copy in memory, mapped from the file where its format allows; else the same as `load`.
    """

    shape: tuple[int, ...]
    load: Callable[[], Array]
    opened: Callable[[], Array]


def arrays_in(path: Path | str) -> dict[str, StoredArray]:
    """The arrays of a file by name; a .npy file's single array has the name "".

    Raises:
        ConfigError: for a missing file and one of another kind.
        DamagedError: for a file that does not hold what it claims; so does `load`.
        ResourceError: from `load`, where the values would not fit into memory.
    """
    path = existing_file(path)
    if path.suffix not in SUFFIXES:
        raise ConfigError(
            f"cannot read {path.name}",
            expected=", ".join(SUFFIXES),
            got=path.suffix or "no suffix",
            fix="pickles (.pt, .pkl) can run code when they are read: convert them where that does no harm",
        )
    with _reading(path):
        return {".npy": _npy, ".npz": _npz, ".safetensors": _safetensors, ".parquet": _parquet}[path.suffix](path)


def to_tensor(values: Array | torch.Tensor | Any, what: str) -> torch.Tensor:
    """Numbers of any array library as a tensor; wide floats become float64, unsigned numbers int64.

    Raises:
        MismatchError: for text, objects, rows of multiple lengths, complex numbers, sparse tensors and tensors without values.
    """
    if isinstance(values, torch.Tensor):
        if values.is_meta or values.layout != torch.strided or values.is_complex() or values.is_quantized:
            got = f"{values.dtype}, {values.layout}, on {values.device}"
            raise MismatchError(f"{what} are not plain numbers", expected="a dense tensor of numbers", got=got)
        return values.detach()
    try:
        array = np.asarray(values)
    except (ValueError, TypeError) as error:
        raise MismatchError(f"{what} are no array", expected="rows of one length", got=reason(error)) from error
    if array.dtype.kind not in "fiub":
        raise MismatchError(f"{what} are not numbers", expected="an array of numbers", got=str(array.dtype))
    if array.dtype.kind == "u":
        if array.size and int(array.max()) > np.iinfo(np.int64).max:
            raise MismatchError(
                f"{what} are too large", expected=f"at most {np.iinfo(np.int64).max}", got=str(array.max())
            )
        array = array.astype(np.int64)
    if array.dtype.kind == "f" and array.dtype.itemsize > 8:
        array = array.astype(np.float64)
    return torch.from_numpy(np.ascontiguousarray(array.astype(array.dtype.newbyteorder("="), copy=False)))


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Each library has errors of its own for a file that is not what its name says."""
    try:
        yield
    except FractionateError:
        raise
    except MemoryError as error:
        raise ResourceError(f"{path} does not fit into memory", got=reason(error), fix=SMALLER) from error
    except PermissionError as error:
        raise ResourceError(f"cannot read {path}: {error.strerror}", fix="check its permissions") from error
    except Exception as error:
        raise DamagedError(f"{path} cannot be read", got=reason(error), fix="write the file again") from error


def _stored(
    path: Path, shape: tuple[int, ...], item_bytes: int, load: Callable[[], Array], mapped: bool = False
) -> StoredArray:
    """An array whose values are read where there is memory for them and for what they become; `mapped`: `load` maps the file."""

    def opened() -> Array:
        with _reading(path):
            return load()

    def checked() -> Array:
        needed = math.prod(shape) * (item_bytes + 4 * COPIES)
        require_bytes(needed, f"{path}, an array {list(shape)}", fix=SMALLER)
        return opened()

    return StoredArray(shape, checked, opened if mapped else checked)


def _head(file: IO[bytes], path: Path, size: int) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, order and type of the array at the start of a file of that many bytes. Raises `ValueError` where it lies."""
    version = np.lib.format.read_magic(file)
    readers: dict[tuple[int, int], Callable[..., Any]] = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in readers:
        raise ValueError(f"version {version[0]}.{version[1]} of the format is for tables of records")
    shape, fortran, dtype = readers[version](file)
    if dtype.hasobject:
        raise ValueError("Python objects, which are pickled: they can run code when they are read")
    claimed = math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or file.tell() + claimed > size:
        raise ValueError(f"an array {list(shape)} of {shown_bytes(claimed)} in a file of {shown_bytes(size)}")
    return shape, fortran, dtype


def _values(file: IO[bytes], path: Path, size: int) -> Array:
    shape, fortran, dtype = _head(file, path, size)
    if 0 in shape or not dtype.itemsize:
        return np.empty(shape, dtype)
    raw = file.read(math.prod(shape) * dtype.itemsize)
    return np.frombuffer(bytearray(raw), dtype).reshape(shape, order="F" if fortran else "C")


def _npy(path: Path) -> dict[str, StoredArray]:
    size = path.stat().st_size
    with path.open("rb") as file:
        shape, _, dtype = _head(file, path, size)

    def load() -> Array:
        with path.open("rb") as file:
            shape, fortran, dtype = _head(file, path, size)
            if 0 in shape or not dtype.itemsize:
                return np.empty(shape, dtype)
            # copy on write: nobody's change reaches the file, and torch takes it without a warning
            return np.memmap(file, dtype, "c", file.tell(), shape, "F" if fortran else "C")

    return {"": _stored(path, shape, dtype.itemsize, load, mapped=True)}


def _npz(path: Path) -> dict[str, StoredArray]:
    found: dict[str, StoredArray] = {}
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        _refuse_bomb(path, sum(member.file_size for member in members))
        for member in members:
            name = member.filename.removesuffix(".npy")
            if name == member.filename or name in found:
                raise ValueError(f"a member {member.filename!r}, which is no array of its own name")
            with archive.open(member) as file:
                shape, _, dtype = _head(file, path, member.file_size)
            found[name] = _stored(path, shape, dtype.itemsize, _member(path, member))
    return found


def _member(path: Path, member: zipfile.ZipInfo) -> Callable[[], Array]:
    def load() -> Array:
        with zipfile.ZipFile(path) as archive, archive.open(member) as file:
            values = _values(file, path, member.file_size)
            if file.read(1):  # the checksum is compared at the end
                raise ValueError(f"{member.filename!r} holds bytes after its array")
            return values

    return load


def _refuse_bomb(path: Path, unfolded: int) -> None:
    size = path.stat().st_size
    if unfolded > UNFOLDS_BYTES and unfolded > UNFOLDS * size:
        raise DamagedError(
            f"{path} claims more than a file of outputs holds",
            expected=f"at most {UNFOLDS} times its {shown_bytes(size)}",
            got=shown_bytes(unfolded),
            fix="write it without compression",
        )


def _safetensors(path: Path) -> dict[str, StoredArray]:
    from safetensors import safe_open

    found: dict[str, StoredArray] = {}
    with safe_open(path, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118 (no mapping)
            shape = tuple(file.get_slice(name).get_shape())
            found[name] = _stored(path, shape, 4, _tensor(path, name), mapped=True)
    return found


def _tensor(path: Path, name: str) -> Callable[[], Array]:
    def load() -> Array:
        from safetensors import safe_open

        with safe_open(path, framework="pt") as file:
            tensor: torch.Tensor = file.get_tensor(name)
        narrow = tensor.is_floating_point() and tensor.dtype not in (torch.float16, torch.float32, torch.float64)
        array: Array = (tensor.float() if narrow else tensor).numpy()
        return array

    return load


def _parquet(path: Path) -> dict[str, StoredArray]:
    file = _parquet_file(path)
    groups = [file.metadata.row_group(place) for place in range(file.metadata.num_row_groups)]
    rows = file.metadata.num_rows
    # repeated values are stored once, so the bytes in the file say little: the values are counted
    counts: dict[str, int] = {}
    for group in groups:
        for place in range(group.num_columns):
            column = group.column(place)
            name = column.path_in_schema.partition(".")[0]
            counts[name] = counts.get(name, 0) + column.num_values
    _refuse_bomb(path, 4 * sum(counts.values()))
    found: dict[str, StoredArray] = {}
    for name in file.schema_arrow.names:
        values = counts.get(name, 0)
        listed = _is_list(file.schema_arrow.field(name).type)
        shape = (rows, values // rows if rows else 0) if listed else (rows,)
        found[name] = _stored(path, shape, 8, _column(path, name, shape))
    for prefix, name in (("logit_", "logits"), ("p_", "probabilities")):
        single = sorted((c for c in found if c.startswith(prefix) and c[len(prefix) :].isdecimal()),
                        key=lambda c: int(c[len(prefix) :]))  # fmt: skip
        if len(single) > 1:
            found[name] = _stored(path, (rows, len(single)), 8, _joined_columns([found[column] for column in single]))
    return found


def _joined_columns(columns: list[StoredArray]) -> Callable[[], Array]:
    return lambda: np.stack([column.load() for column in columns], axis=1)


def _parquet_file(path: Path) -> Any:
    with extra("parquet", "reading Parquet needs pyarrow"):
        from pyarrow import parquet
    return parquet.ParquetFile(path, page_checksum_verification=True)


def _is_list(kind: Any) -> bool:
    from pyarrow import types

    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))


def _column(path: Path, name: str, shape: tuple[int, ...]) -> Callable[[], Array]:
    """The values of a column, single ones or one list of the same length a row."""

    def load() -> Array:
        parts: list[Array] = []
        for batch in _parquet_file(path).iter_batches(batch_size=ROWS, columns=[name]):
            column = batch.column(0)
            flat = column.flatten() if len(shape) == 2 else column
            if column.null_count or flat.null_count:
                raise ValueError(f"column {name!r} has rows or values that are missing")
            parts.append(flat.to_numpy(zero_copy_only=False).reshape(len(column), *shape[1:]))
        return np.concatenate(parts) if parts else np.empty(shape)

    return load
