"""Lossless packing of a shard's wide columns, block by block, so that rows are still read at random.

A packed column is a run of blocks of whole rows, each packed alone: bytes of equal rank are laid side by side (and, where
rows are sorted, differences taken first), then zlib or Zstandard. Row hashes are of what comes out, so a store says the same
however it is packed, and a block that does not unpack gives rows that do not prove themselves.
"""

from __future__ import annotations

import functools
import json
import math
import os
import zlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fractionate.errors import ConfigError, MissingExtraError, ResourceError

Array = NDArray[Any]
Packing = Literal["none", "zlib", "zstd"]
PACKED = ("values", "indices", "counts")  # the wide columns
BLOCKS = "_blocks"  # the column NAME_blocks says where the blocks of NAME begin
BLOCK = 16 << 10  # bytes of a block before packing, at least one row
LIMIT = 64 << 20  # bytes: a block larger than this was not written by us
LEVELS = {"zlib": 1, "zstd": 3}  # higher ones gain 1 to 2 % of the bytes and write up to 30 times slower


@dataclass(frozen=True)
class Packed:
    """How one column is packed."""

    packing: str
    dtype: str  # NumPy's name
    shape: tuple[int, ...]
    rows: int  # of a block
    sorted: int  # 1 where differences along the row were taken

    @property
    def width(self) -> int:
        """Bytes of a row."""
        return math.prod(self.shape[1:]) * np.dtype(self.dtype).itemsize


class PackedColumn:
    """A packed column that is read like an array: the blocks asked for are unpacked."""

    def __init__(self, raw: Array, blocks: Array, told: Packed) -> None:
        self.raw, self.told, self.blocks = raw, told, blocks.astype(np.int64)
        self.shape, self.dtype = told.shape, np.dtype(told.dtype)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: NDArray[np.int64]) -> Array:
        """Some rows. Raises `ResourceError` where their blocks are more than the memory holds."""
        if not len(rows):
            return np.empty((0, *self.shape[1:]), self.dtype)
        which, back = np.unique(np.asarray(rows) // self.told.rows, return_inverse=True)
        needed = len(which) * self.told.rows * self.told.width
        if needed > LIMIT and needed > available_memory():
            raise ResourceError(
                "the rows asked for do not fit into memory when unpacked",
                expected=f"{needed:,} bytes",
                got=f"{available_memory():,} bytes free",
                fix="read fewer rows at once: batches()",
            )
        whole = np.concatenate([self.block(number) for number in which.tolist()])
        return np.asarray(whole[back * self.told.rows + np.asarray(rows) % self.told.rows])

    def whole(self) -> Array:
        """All rows."""
        return self[np.arange(len(self))]

    def block(self, number: int) -> Array:
        """One block; zeros, which then do not prove themselves, where it cannot be unpacked."""
        told = self.told
        rows = min(told.rows, len(self) - number * told.rows)
        size = rows * told.width
        packed = self.raw[self.blocks[number] : self.blocks[number + 1]].tobytes()
        content = _unpack(told.packing, packed, size)
        if content is None:
            return np.zeros((rows, *self.shape[1:]), self.dtype)
        wide = np.frombuffer(content, np.uint8).reshape(self.dtype.itemsize, -1).T
        found = np.ascontiguousarray(wide).reshape(-1).view(f"<u{self.dtype.itemsize}").reshape(rows, *self.shape[1:])
        if told.sorted:
            found = np.cumsum(found, axis=1, dtype=found.dtype)
        return found.view(self.dtype)


def pack_columns(columns: Mapping[str, Array], packing: Packing) -> tuple[dict[str, Array], dict[str, Packed]]:
    """The columns of a shard with the wide ones packed, and how. Raises `ConfigError` for a packing that is not known."""
    found = dict(columns)
    told: dict[str, Packed] = {}
    if packing == "none":
        return found, told
    if packing not in LEVELS:
        raise ConfigError(f"unknown packing {packing!r}", expected="none, zlib or zstd")
    press = _press(packing)
    for name in PACKED:
        if name not in columns:
            continue
        column = np.ascontiguousarray(columns[name])
        ordered = name == "values" and "indices" in columns and column.ndim == 2
        width = max(1, column.itemsize * math.prod(column.shape[1:]))
        if width > LIMIT:
            raise ConfigError("a row is too wide to be packed", expected=f"at most {LIMIT:,} bytes", got=f"{width:,}")
        how = Packed(packing, column.dtype.str, column.shape, max(1, BLOCK // width), int(ordered))
        bits = column.view(f"<u{column.itemsize}")
        if ordered:
            bits = np.diff(bits, axis=1, prepend=bits.dtype.type(0))
        pieces = [press(_side_by_side(bits[at : at + how.rows])) for at in range(0, len(bits), how.rows)]
        found[name] = np.frombuffer(b"".join(pieces), np.uint8)
        found[name + BLOCKS] = np.concatenate([[0], np.cumsum([len(piece) for piece in pieces])]).astype("<u8")
        told[name] = how
    return found, told


def describe(told: Mapping[str, Packed]) -> str:
    """The text by which a shard says how its columns are packed."""
    return json.dumps({name: asdict(how) for name, how in told.items()}, sort_keys=True)


def read_description(text: str, columns: Mapping[str, tuple[int, ...]]) -> dict[str, Packed]:
    """How columns (name → shape in the file) are packed. Raises `ValueError`, `TypeError` or `KeyError` for what cannot be."""
    found = {}
    for name, entry in json.loads(text).items():
        how = Packed(**{**entry, "shape": tuple(entry["shape"])})
        dtype = np.dtype(how.dtype)
        counts = (*how.shape, how.rows, how.sorted)
        blocks = -(-how.shape[0] // max(1, how.rows))
        if (
            name not in PACKED
            or how.packing not in LEVELS
            or dtype.kind not in "uif"
            or not all(type(n) is int and 0 <= n < 1 << 48 for n in counts)
            or how.rows < 1
            or how.sorted > len(how.shape) - 1
            or min(how.rows, max(1, how.shape[0])) * how.width > LIMIT
            or columns[name + BLOCKS] != (blocks + 1,)
        ):
            raise ValueError(name)
        found[name] = how
    return found


def fits(raw: Array, blocks: Array) -> bool:
    """Whether the blocks lie one after the other and fill a packed column."""
    places = blocks.astype(np.int64)
    return bool(places[0] == 0 and places[-1] == len(raw) and (np.diff(places) >= 0).all())


def available_memory() -> int:
    """Bytes that can be had without swapping, where the system says so."""
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return 1 << 62


def _side_by_side(bits: Array) -> bytes:
    """The first bytes of all numbers, then the second, and so on."""
    return bits.reshape(-1).view(np.uint8).reshape(-1, bits.itemsize).T.tobytes()


def _press(packing: str) -> Callable[[bytes], bytes]:
    if packing == "zlib":
        return lambda content: zlib.compress(content, LEVELS["zlib"])
    codec = _zstandard()
    return lambda content: bytes(codec.compress(content, asbytes=True))


def _unpack(packing: str, content: bytes, size: int) -> bytes | None:
    """What was packed, never more than `size` bytes; None where it is not that."""
    try:
        if packing == "zlib":
            found = zlib.decompressobj().decompress(content, size)
        else:
            found = _zstandard().decompress(content, decompressed_size=size, asbytes=True)
    except (zlib.error, OSError, ValueError):  # pyarrow's errors are of the last two
        return None
    return found if len(found) == size else None


@functools.cache
def _zstandard() -> Any:
    """Zstandard as pyarrow brings it, which the store needs for Parquet already."""
    try:
        import pyarrow
    except ImportError as error:
        raise MissingExtraError("packing by zstd needs pyarrow", fix="pip install 'fractionate[parquet]'") from error
    return pyarrow.Codec("zstd", LEVELS["zstd"])
