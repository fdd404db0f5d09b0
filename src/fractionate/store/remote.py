"""A store far away: any fsspec address, read by ranges into a local copy that fills as rows are requested.

The copy is trusted no more than the network: every row is proved by its hash as it is read, from the copy too; a row that fails is
fetched once more before it is called damaged. Copy and original have the same layout, so a full copy is a store.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from fractionate.errors import ConfigError, DamagedError, ResourceError, extra
from fractionate.store.layout import HEAD, HEADER_LIMIT, RELATION, SEGMENTS, SHARDS, Head, Segment
from fractionate.store.ranges import spans
from fractionate.store.shards import Scan, Shard, scan
from fractionate.system.atomic import make_directory, write_file
from fractionate.system.paths import as_path

BLOCK = 256 << 10  # bytes fetched at least
TRIES = 3
BUCKETS = {"s3", "gs", "abfs", "az"}  # they have no folders: to make one would be to make a bucket
Array = NDArray[Any]
T = TypeVar("T")


def file_system(url: str) -> tuple[Any, str]:
    """The fsspec file system of an address, and the path in it."""
    with extra("remote", "stores far away need fsspec"):
        from fsspec.core import url_to_fs
    try:
        found: tuple[Any, str] = url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise ConfigError(f"cannot open {without_secrets(url)}", got=str(error)) from error
    found[0].invalidate_cache()  # a listing from before another writer came would hide what it wrote
    return found[0], found[1].rstrip("/")


def without_secrets(url: str) -> str:
    """An address without user, password and query."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.split('?')[0].split('@')[-1]}"


def cache_folder(url: str, cache: Path | str | None) -> Path:
    """Where the local copy of an address lies."""
    base = (
        as_path(cache, "cache")
        if cache
        else as_path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "XDG_CACHE_HOME") / "fractionate" / "stores"
    )
    return base / sha256(without_secrets(url).encode()).hexdigest()[:24]


def insist(what: str, call: Callable[[], T]) -> T:
    """A call over the network, tried three times. Raises `ConfigError` for what is not there, else `ResourceError`."""
    for attempt in range(TRIES):
        try:
            return call()
        except FileExistsError:
            raise
        except FileNotFoundError as error:
            raise ConfigError(f"{what} is not there", got=str(error)[:200]) from error
        except Exception as error:  # each file system has errors of its own
            if attempt == TRIES - 1:
                raise ResourceError(
                    f"cannot reach {what}: {error!s:.200}", fix="check the network and your rights"
                ) from error
    raise AssertionError("unreachable")


class RemoteShard(Shard):
    """A shard whose bytes are fetched in blocks on demand."""

    def __init__(self, root: Path, segment: Segment, fetch: Callable[[int, int], bytes], size: int) -> None:
        self.fetch, self.have_path = fetch, root / SHARDS / f"{segment.shard}.blocks"
        path = root / SHARDS / segment.shard
        blocks = -(-segment.bytes // BLOCK)
        if size != segment.bytes:
            raise DamagedError(
                f"a shard has another size than was written: {path.name}", got=f"{size:,} of {segment.bytes:,}"
            )
        if not path.exists() or path.stat().st_size != segment.bytes or not self.have_path.exists():
            with path.open("wb") as file:
                file.truncate(segment.bytes)
            self.have_path.write_bytes(bytes(blocks))
        self.have = np.frombuffer(self.have_path.read_bytes(), np.uint8).copy()
        if len(self.have) != blocks:
            self.have = np.zeros(blocks, np.uint8)
        self.local = path
        try:
            self._open(root, segment)
        except DamagedError:  # the copy may be the damaged one
            self.have[:] = 0
            self._open(root, segment)

    def _open(self, root: Path, segment: Segment) -> None:
        self.need(np.array([0]), np.array([8]))
        with self.local.open("rb") as file:
            length = min(int.from_bytes(file.read(8), "little"), HEADER_LIMIT, segment.bytes - 8)
        self.need(np.array([8]), np.array([8 + length]))
        super().__init__(root, segment)

    def _read_index(self, names: list[str]) -> dict[str, Array]:
        at = [self.columns[name] for name in names]
        self.need(np.array([c.start for c in at]), np.array([c.stop for c in at]))
        return super()._read_index(names)

    def need(self, starts: NDArray[np.int64], stops: NDArray[np.int64], *, again: bool = False) -> None:
        """Fetch the blocks of some byte ranges unless they are here; neighbours in one request."""
        first, last = starts // BLOCK, (np.maximum(stops, starts + 1) - 1) // BLOCK
        blocks = np.unique(spans(first, last - first + 1))
        blocks = blocks[(blocks >= 0) & (blocks < len(self.have))]
        if not again:
            blocks = blocks[self.have[blocks] == 0]
        if not len(blocks):
            return
        with self.local.open("r+b") as file:
            for run in np.split(blocks, np.flatnonzero(np.diff(blocks) > 1) + 1):
                start, stop = int(run[0]) * BLOCK, min((int(run[-1]) + 1) * BLOCK, self.segment_bytes)
                content = insist(self.local.name, lambda a=start, b=stop: self._whole(a, b))
                file.seek(start)
                file.write(content)
        self.have[blocks] = 1
        self.have_path.write_bytes(self.have.tobytes())

    @property
    def segment_bytes(self) -> int:
        """The size of the shard."""
        return self.local.stat().st_size

    def _whole(self, start: int, stop: int) -> bytes:
        content = self.fetch(start, stop)
        if len(content) != stop - start:
            raise OSError(f"{len(content)} of {stop - start} bytes came")
        return content

    def _ranges(self, entries: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The bytes that some entries take, in all columns."""
        rows = entries
        if "row_offsets" in self.index:
            offsets: NDArray[np.int64] = self.index["row_offsets"].astype(np.int64)
            rows = spans(offsets[entries], offsets[entries + 1] - offsets[entries])
        starts, stops = [], []
        for name, at in self.columns.items():
            if name in self.index or at.shape[0] == 0:
                continue
            width = (at.stop - at.start) // at.shape[0]
            low, high = rows, rows + 1
            if name in ("counts", "indices") and "item_offsets" in self.index:
                items: NDArray[np.int64] = self.index["item_offsets"].astype(np.int64)
                low, high = items[rows], items[rows + 1]
            starts.append(at.start + low * width)
            stops.append(at.start + high * width)
        return np.concatenate(starts), np.concatenate(stops)

    def proved(self, entries: NDArray[np.int64]) -> tuple[dict[str, Array], NDArray[np.int64]]:
        """Rows out of the copy, fetched first; fetched once more where they do not prove themselves."""
        ranges = self._ranges(entries)
        self.need(*ranges)
        found, wrong = super().proved(entries)
        if len(wrong):
            self.need(*ranges, again=True)
            found, wrong = super().proved(entries)
        return found, wrong


def scan_remote(url: str, cache: Path | str | None = None) -> tuple[Path, Scan]:
    """The local cache of a store at an fsspec address, and what the store holds.

    Raises `ConfigError` where there is none, `ResourceError` where the network refuses.
    """
    system, base = file_system(url)
    root = cache_folder(url, cache)
    for folder in (root, root / SHARDS, root / SEGMENTS):
        make_directory(folder)

    def get(name: str, start: int | None = None, stop: int | None = None) -> bytes:
        content: bytes = system.cat_file(f"{base}/{name}", start=start, end=stop)
        return content

    shown = without_secrets(url)
    write_file(root / HEAD, insist(f"a signal store at {shown}", lambda: get(HEAD)))
    head = Head.read(root / HEAD)
    if head.relation_xxh3:
        write_file(root / RELATION, insist(f"{shown}/{RELATION}", lambda: get(RELATION)))
    listed = insist(f"{shown}/{SEGMENTS}", lambda: system.ls(f"{base}/{SEGMENTS}", detail=False))
    names = sorted(name for path in listed if (name := str(path).rstrip("/").rsplit("/", 1)[-1]).endswith(".json"))
    segments = []
    for name in names:
        local = root / SEGMENTS / Path(name).name
        try:
            segments.append(Segment.read(local))
        except DamagedError:
            write_file(local, insist(f"{shown}/{SEGMENTS}/{name}", lambda n=name: get(f"{SEGMENTS}/{n}")))
            segments.append(Segment.read(local))
    merged = {name for segment in segments for name in segment.replaces}
    live = [segment for segment in segments if segment.name not in merged and segment.head == head.sha256]
    shards = []
    for segment in live:
        place = f"{SHARDS}/{segment.shard}"
        size = insist(f"{shown}/{place}", lambda p=place: int(system.info(f"{base}/{p}")["size"]))
        shards.append(RemoteShard(root, segment, lambda a, b, p=place: get(p, a, b), size))
    return root, Scan(head, tuple(shards), (), tuple(live))


def upload(path: Path | str, url: str) -> str:
    """Copy a store to an fsspec address: shards first, then what makes them count.

    What is there already under the same name is left (names follow from content). The head is written only where there is none (on
    S3 by `If-None-Match: *`), so that of two stores uploaded to one address at once the second is refused.

    Args:
        path: Of the store.
        url: The address of its new folder, such as `s3://bucket/store`.

    Returns:
        The address without secrets.

    Raises:
        DamagedError: for a damaged store.
        ConfigError: where another store lies at the address.

    Example:
        from pathlib import Path
        import torch
        from torch import nn
        from fractionate import collect
        from fractionate.store import upload

        collect(nn.Linear(8, 4), (torch.randn(40, 8), torch.arange(40) % 4), "store")
        print(upload("store", Path("copy").absolute().as_uri()))
    """
    store = scan(as_path(path))
    if store.damages:
        raise store.damages[0]
    system, base = file_system(url)
    root = as_path(path)
    names = [f"{SHARDS}/{shard.segment.shard}" for shard in store.shards]
    names += [RELATION] if store.head.relation_xxh3 else []
    names += [f"{SEGMENTS}/{shard.segment.name}" for shard in store.shards]
    shown, head = without_secrets(url), (root / HEAD).read_bytes()
    kinds = {system.protocol} if isinstance(system.protocol, str) else {*system.protocol}

    def refuse_another() -> bool:
        there: bool = insist(f"{shown}/{HEAD}", lambda: system.exists(f"{base}/{HEAD}"))
        if there and insist(f"{shown}/{HEAD}", lambda: system.cat_file(f"{base}/{HEAD}")) != head:
            raise ConfigError(f"another store lies at {shown}", fix="give another address")
        return there

    refuse_another()
    for name in names:

        def put(name: str = name) -> None:
            if not kinds & BUCKETS:
                system.makedirs(f"{base}/{name}".rsplit("/", 1)[0], exist_ok=True)
            size = (root / name).stat().st_size
            if not (system.exists(f"{base}/{name}") and int(system.info(f"{base}/{name}")["size"]) == size):
                system.put_file(str(root / name), f"{base}/{name}")

        insist(f"{shown}/{name}", put)
    if not refuse_another():
        try:
            insist(f"{shown}/{HEAD}", lambda: system.pipe_file(f"{base}/{HEAD}", head, mode="create"))
        except FileExistsError:  # another was first, between the question and this
            refuse_another()
    return shown


def require_folder(path: Path | str, what: str) -> None:
    """Raise `ConfigError` for an address where only a folder will do: what is far away is read and uploaded, not changed."""
    if "://" in str(path):
        raise ConfigError(
            f"cannot {what} a store far away: {without_secrets(str(path))}",
            expected="a folder of this machine",
            fix="work on a folder, then fractionate.store.upload(folder, address)",
        )
