"""The store on disk: immutable safetensors shards, one small manifest segment a shard, one head.

    PATH/head.json                     what the store holds and whose: written once, with a copy next to it
    PATH/shards/NAME.safetensors       columns of rows; any safetensors reader opens it
    PATH/segments/NAME.json            one per shard: its size and hashes; a shard without a segment does not count

No file is ever rewritten, so many writers need no lock. Every byte is covered: JSON must be the exact text that its own
sha256 belongs to, a shard's header and index columns are hashed in its segment, every row has a hash of its own.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import xxhash
from numpy.typing import NDArray

from fractionate.errors import DamagedError
from fractionate.system.atomic import publish, write_file

FORMAT = "fractionate-store/1"
HEAD, HEAD_COPY = "head.json", "head-copy.json"
SHARDS, SEGMENTS, RELATION = "shards", "segments", "relation.safetensors"
JSON_LIMIT = 64 << 20  # bytes: a head or segment larger than this was not written by us
HEADER_LIMIT = 1 << 20
INDEX_COLUMNS = ("hashes", "places", "keys", "views", "row_offsets", "item_offsets")
DTYPES = {  # safetensors name -> numpy type; bfloat16 travels as its bits
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2",
    "I64": "<i8", "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "|u1",
}  # fmt: skip
NAMES = {np.dtype(code): name for name, code in DTYPES.items() if name != "BF16"}
SAFE_NAME = re.compile(r"[0-9a-zA-Z][0-9a-zA-Z_.-]{0,200}")
Array = NDArray[Any]


def damaged(what: str, path: Path | str, *, where: str = "", got: str | None = None) -> DamagedError:
    """The error for a file that does not hold what was written: names the file, the place in it and the repair."""
    place = f"{path}{f', {where}' if where else ''}"
    root = next((p.parent for p in Path(path).parents if p.name in (SHARDS, SEGMENTS)), Path(path).parent)
    return DamagedError(
        f"{what}: {place}", got=got, fix=f"run: fractionate store repair {root} (recomputes only what is lost)"
    )


def canonical(value: object) -> bytes:
    """The one JSON text of a value: sorted keys, no spaces, ASCII.

    Args:
        value: What JSON can hold, without infinite numbers.

    Returns:
        Bytes that end in a line feed.

    Example:
        from fractionate.store import canonical

        print(canonical({"b": 1, "a": [2]}))
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode() + b"\n"


def sealed(body: Mapping[str, Any]) -> bytes:
    """A JSON file that carries the sha256 of its own body."""
    return canonical({"body": body, "sha256": sha256(canonical(body)).hexdigest()})


def unseal(text: bytes, path: Path | str) -> dict[str, Any]:
    """The body of a sealed JSON file. Raises `DamagedError` unless the text is exactly what was written."""
    try:
        outer = json.loads(text.decode("ascii"))
        body = outer["body"]
        whole = isinstance(body, dict) and sealed(body) == text
    except (ValueError, TypeError, KeyError, RecursionError):
        whole = False
    if not whole:
        raise damaged("this file was changed after it was written", path)
    return body  # type: ignore[no-any-return]


def read_sealed(path: Path) -> dict[str, Any]:
    """Read and check a sealed JSON file; refuses links, and files too large to be ours."""
    if path.is_symlink() or not path.is_file():
        raise damaged("not a plain file", path)
    size = path.stat().st_size
    if size > JSON_LIMIT:
        raise damaged("too large to be a manifest", path, got=f"{size:,} bytes")
    return unseal(path.read_bytes(), path)


@dataclass(frozen=True)
class Segment:
    """The manifest's line for one shard: what is in it and the hashes that prove it."""

    shard: str
    head: str  # sha256 of the head it belongs to
    bytes: int
    entries: int  # (example, view) pairs
    rows: int  # rows of logits: one an entry, or one a token
    xxh3: str  # of the whole file
    header_xxh3: str
    index_xxh3: str  # of the index columns
    writer: str  # host, process, nonce: for people; nothing is decided by it
    replaces: tuple[str, ...] = ()  # segments whose rows were merged into this shard

    @property
    def name(self) -> str:
        """The file name: the hash of what is in it."""
        return f"{sha256(canonical(asdict(self))).hexdigest()[:32]}.json"

    @classmethod
    def read(cls, path: Path) -> Segment:
        """Read and check one segment. Raises `DamagedError`."""
        body = read_sealed(path)
        try:
            segment = cls(**{**body, "replaces": tuple(body["replaces"])})
            counts = (segment.bytes, segment.entries, segment.rows)
            strings = (segment.shard, segment.head, segment.xxh3, segment.header_xxh3, segment.index_xxh3)
            fits = (
                all(type(n) is int and 0 <= n < 1 << 48 for n in counts)
                and all(type(s) is str for s in (*strings, segment.writer, *segment.replaces))
                and SAFE_NAME.fullmatch(segment.shard)
                and segment.name == path.name
            )
        except (TypeError, KeyError):
            fits = False
        if not fits:
            raise damaged("not a segment of this store's making", path)
        return segment

    def write(self, root: Path) -> Path:
        """Commit: from now on the shard counts."""
        return write_file(root / SEGMENTS / self.name, sealed(asdict(self)))


@dataclass(frozen=True)
class Head:
    """What a store holds and whose it is. Everything in `identity` must agree, or the store refuses.

    Args:
        identity: The fields of `Identity`.
        examples: The number of examples.
        views: Views of each.
        classes: Logits of a row.
        form: dense, top-k, sampled, hidden.
        k: Entries of a row.
        dtype: float32, float16, bfloat16.
        temperatures: At which the mass outside the k entries is kept.
        batch_size: With which the teacher was run.
        name: Of the data.
        class_names: The names of the classes.
        relation_xxh3: Hash of the class relation; "" for none.
        tokens: "", aligned, next: rows are tokens.
        settings: Further settings, by name.
    """

    identity: dict[str, Any]
    examples: int
    views: int
    classes: int
    form: str
    k: int
    dtype: str
    temperatures: tuple[float, ...]
    batch_size: int
    name: str = "data"
    class_names: tuple[str, ...] = ()
    relation_xxh3: str = ""
    tokens: str = ""
    settings: dict[str, Any] = field(default_factory=dict)

    def body(self) -> dict[str, Any]:
        """The JSON body."""
        return {**asdict(self), "format": FORMAT}

    @property
    def sha256(self) -> str:
        """The name by which segments know their head."""
        return sha256(canonical(self.body())).hexdigest()

    @classmethod
    def read(cls, path: Path) -> Head:
        """Read and check the head. Raises `DamagedError`."""
        body = read_sealed(path)
        kind = body.pop("format", None)
        if kind != FORMAT:
            raise damaged("not a signal store this version can read", path, got=f"format {kind!r}, expected {FORMAT!r}")
        try:
            head = cls(
                **{
                    **body,
                    "temperatures": tuple(float(t) for t in body["temperatures"]),
                    "class_names": tuple(body["class_names"]),
                }
            )
            counts = (
                (head.examples, 1 << 40),
                (head.views, 1 << 16),
                (head.classes, 1 << 31),
                (head.batch_size, 1 << 32),
            )
            fits = (
                all(type(n) is int and 1 <= n < limit for n, limit in counts)
                and type(head.k) is int
                and 0 <= head.k < 1 << 31
                and head.form in ("dense", "top-k", "sampled", "hidden")
                and head.dtype in ("float64", "float32", "float16", "bfloat16")
                and head.temperatures
                and all(math.isfinite(t) and t > 0 for t in head.temperatures)
                and all(type(name) is str for name in (*head.class_names, head.name, head.relation_xxh3, head.tokens))
                and isinstance(head.identity, dict)
            )
        except (TypeError, KeyError, ValueError):
            fits = False
        if not fits:
            raise damaged("not a head of this store's making", path)
        return head

    def write(self, root: Path) -> bool:
        """Write the head unless there is one already; True where this call wrote it."""
        won = publish(root / HEAD, sealed(self.body()))
        if won:
            self.write_copy(root)
        return won

    def write_copy(self, root: Path) -> None:
        """Write the copy unless it is there; only of a head that counts."""
        if not (root / HEAD_COPY).exists():
            publish(root / HEAD_COPY, sealed(self.body()))


@dataclass(frozen=True)
class Column:
    """Where a column lies in a shard."""

    dtype: str  # safetensors name
    shape: tuple[int, ...]
    start: int  # byte in the file
    stop: int


def read_header(raw: bytes, size: int, path: Path | str) -> dict[str, Column]:
    """The columns of a safetensors header (8 bytes of length, then JSON).

    Args:
        raw: The first bytes of the file, the whole header among them.
        size: Of the file in bytes.
        path: For messages.

    Returns:
        Type, shape and place of each column.

    Raises:
        DamagedError: for a header that does not fit the file.

    Example:
        import torch
        from safetensors.torch import save
        from fractionate.store import read_header

        content = save({"labels": torch.arange(4)})
        print(read_header(content, len(content), "labels.safetensors"))
    """
    try:
        length = int.from_bytes(raw[:8], "little")
        table = json.loads(raw[8 : 8 + length].decode("utf-8"))
        columns, position = {}, 8 + length
        table.pop("__metadata__", None)
        for name, entry in sorted(table.items(), key=lambda item: int(item[1]["data_offsets"][0])):
            dtype, shape = str(entry["dtype"]), tuple(int(n) for n in entry["shape"])
            start, stop = (8 + length + int(offset) for offset in entry["data_offsets"])
            width = np.dtype(DTYPES[dtype]).itemsize
            if (
                start != position
                or min(shape, default=0) < 0
                or stop - start != math.prod(shape) * width
                or stop > size
            ):
                raise ValueError(name)
            columns[name], position = Column(dtype, shape, start, stop), stop
        if position != size:
            raise ValueError("holes")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError) as error:
        raise damaged("the header of this shard does not fit the file", path) from error
    return columns


def laid_out(columns: Mapping[str, Array], head: str, bfloat16: Sequence[str] = ()) -> tuple[bytes, list[Array]]:
    """A safetensors header and the arrays in the order in which they follow it: the index first, then wide before narrow."""
    order = sorted(columns, key=lambda name: (name not in ("hashes", "places", "keys"), -columns[name].itemsize, name))
    if "keys" in order:  # 16 bytes wide, so it keeps the alignment of what follows
        order.insert(min(2, len(order) - 1), order.pop(order.index("keys")))
    arrays = [np.ascontiguousarray(columns[name]) for name in order]
    table: dict[str, Any] = {"__metadata__": {"format": FORMAT, "head": head}}
    position = 0
    for name, array in zip(order, arrays, strict=True):
        dtype = "BF16" if name in bfloat16 else NAMES[array.dtype]
        table[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [position, position + array.nbytes]}
        position += array.nbytes
    text = json.dumps(table, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, arrays


def write_shard(
    root: Path,
    columns: Mapping[str, Array],
    *,
    head: str,
    bfloat16: Sequence[str] = (),
    replaces: Sequence[str] = (),
) -> Segment:
    """Write a shard, then commit its segment; both are on disk when this returns.

    Args:
        root: The folder of the store.
        columns: Arrays by name, `places` and `hashes` among them.
        head: The sha256 of the store's head.
        bfloat16: Columns whose 16 bits are bfloat16.
        replaces: Names of segments that stop counting with this one.

    Returns:
        The committed `Segment`.

    Example:
        from pathlib import Path
        import numpy as np
        from fractionate.store import write_shard

        rows = {"places": np.arange(4), "hashes": np.arange(4, dtype=np.uint64)}
        for folder in ("shards", "segments"):
            Path("store", folder).mkdir(parents=True, exist_ok=True)
        print(write_shard(Path("store"), rows, head="0" * 64).rows)
    """
    header, arrays = laid_out(columns, head, bfloat16)
    whole = xxhash.xxh3_128(header)
    for array in arrays:
        whole.update(_bytes(array))
    content = whole.hexdigest()
    shard = f"{content}.safetensors"  # a writer that was killed before the segment is followed by one of the same name

    def fill(file: BinaryIO) -> None:
        file.write(header)
        for array in arrays:
            file.write(_bytes(array))

    size = len(header) + sum(array.nbytes for array in arrays)
    write_file(root / SHARDS / shard, fill, needed=size)
    segment = Segment(
        shard=shard,
        head=head,
        bytes=size,
        entries=len(columns["places"]),
        rows=len(columns["hashes"]),
        xxh3=content,
        header_xxh3=xxhash.xxh3_128_hexdigest(header),
        index_xxh3=index_hash(columns),
        writer=f"{os.uname().nodename}-{os.getpid()}-{os.urandom(8).hex()}",
        replaces=tuple(replaces),
    )
    segment.write(root)
    return segment


def index_hash(columns: Mapping[str, Array]) -> str:
    """The hash of the index columns: where rows belong and the hash of each.

    Args:
        columns: Arrays of a shard by name.

    Returns:
        32 hexadecimal digits.

    Example:
        import numpy as np
        from fractionate.store import index_hash

        print(index_hash({"places": np.arange(4), "hashes": np.arange(4)}))
    """
    state = xxhash.xxh3_128()
    for name in INDEX_COLUMNS:
        if name in columns:
            state.update(name.encode())
            state.update(_bytes(columns[name]))
    return state.hexdigest()


def _bytes(array: Array) -> memoryview:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
