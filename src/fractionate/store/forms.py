"""Forms of a signal on disk: dense logits, the k largest with the exact rest, k sampled classes, hidden states.

A form turns logits into columns of rows and back. The label and its own logit are stored in every form, so the teacher's
confidence is exact in all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
import xxhash
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from fractionate.errors import ConfigError, NumericsError
from fractionate.store.hidden import HiddenLogits, OutputLayer
from fractionate.theory.teacher_signal import TeacherSignal, check_temperature
from fractionate.theory.topk_signal import CompactSignal

Array = NDArray[Any]
FormKind = Literal["dense", "top-k", "sampled", "hidden"]
FORMS: tuple[FormKind, ...] = ("dense", "top-k", "sampled", "hidden")
StoredDtype = Literal["float64", "float32", "float16", "bfloat16"]
TORCH = {"float64": torch.float64, "float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
MASS_ELEMENTS = (
    1 << 17
)  # logits widened at once: they stay in the caches, where whole batches are mapped anew each time
HASH, PLACE, KEY, VIEW = 8, 8, 16, 2  # bytes next to the numbers


def smallest_unsigned(largest: int) -> np.dtype[Any]:
    """The narrowest unsigned integer type that holds a number."""
    return np.dtype(next(code for code in ("u1", "<u2", "<u4", "<i8") if largest <= np.iinfo(code).max))


def to_numpy(values: Tensor, dtype: str) -> Array:
    """A tensor in its stored type; bfloat16 as its bits."""
    stored = values.detach().to("cpu", TORCH[dtype]).contiguous()
    return stored.view(torch.int16).numpy().view("<u2") if dtype == "bfloat16" else stored.numpy()


def to_torch(values: Array, dtype: str) -> Tensor:
    """The tensor of a stored array."""
    array = np.ascontiguousarray(values)
    if dtype == "bfloat16":
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


@dataclass(frozen=True)
class Form:
    """How rows of logits are kept.

    Args:
        kind: dense, top-k, sampled, or hidden (hidden states in place of logits).
        classes: Logits of a row.
        dtype: Of the numbers on disk.
        k: Entries of a row: classes, or the width of hidden states; 0 for dense rows.
        temperatures: At which the mass outside the k entries is kept; of sampled rows the one they are drawn at.
        output_layer: Makes logits of hidden states.

    Raises:
        ConfigError: for an invalid form.

    Example:
        from fractionate.store import Form
        print(Form("top-k", classes=50_000, dtype="float16", k=64))
    """

    kind: FormKind
    classes: int
    dtype: StoredDtype = "float32"
    k: int = 0
    temperatures: tuple[float, ...] = (1.0,)
    output_layer: OutputLayer | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.kind not in FORMS:
            raise ConfigError(f"unknown form {self.kind!r}", expected=", ".join(FORMS))
        if self.dtype not in TORCH:
            raise ConfigError(f"unknown dtype {self.dtype!r}", expected=", ".join(TORCH))
        for temperature in self.temperatures:
            check_temperature(temperature)
        limit = {"dense": 0, "top-k": self.classes - 2, "sampled": 65_535, "hidden": 1 << 20}[self.kind]
        if not (0 if self.kind == "dense" else 1) <= self.k <= limit:
            raise ConfigError(
                f"k = {self.k} cannot be used for a signal that is kept {self.kind}",
                expected="no k" if not limit else f"1 to {limit:,} (the label is kept next to them)",
                fix='for dense rows leave k out; for k entries say form="top-k" or form="sampled"',
            )
        if not self.temperatures or (self.kind == "sampled" and len(self.temperatures) > 1):
            raise ConfigError(
                "temperatures cannot be used", expected="at least one; exactly one where classes are sampled by it"
            )

    @property
    def compacted(self) -> bool:
        """Whether rows are a label, some entries and a rest, as `compact` gives them."""
        return self.kind in ("top-k", "sampled")

    def encode(
        self, logits: Float[Tensor, "rows classes"], labels: Int[Tensor, "rows"], seeds: NDArray[np.uint64]
    ) -> dict[str, Array]:
        """The columns of some rows; `hidden` takes hidden states in place of logits, `seeds` decide what is drawn.

        Raises `NumericsError` where the type cannot hold a number.
        """
        columns = {"labels": labels.cpu().numpy().astype(smallest_unsigned(self.classes - 1))}
        if not self.compacted:
            return columns | {"values": self._narrow(logits)}
        own = logits.gather(1, labels[:, None])
        others = logits.scatter(1, labels[:, None], -torch.inf)
        columns["label_values"] = self._narrow(own.squeeze(1))
        if self.kind == "sampled":
            return columns | self._sample(others, seeds)
        best = torch.topk(others, self.k, dim=1)
        values = self._narrow(best.values)
        others.scatter_(1, best.indices, -torch.inf)
        return columns | {
            "values": values,
            "indices": best.indices.numpy().astype(smallest_unsigned(self.classes - 1)),
            "rest": self._masses(others),
        }

    def _masses(self, logits: Tensor) -> Array:
        parts = torch.split(logits, max(2, MASS_ELEMENTS // max(1, logits.shape[1])))
        masses = [[torch.logsumexp(part.double() / t, dim=1) for t in self.temperatures] for part in parts]
        return torch.cat([torch.stack(part, dim=1) for part in masses]).float().numpy()

    def _sample(self, others: Tensor, seeds: NDArray[np.uint64]) -> dict[str, Array]:
        """Systematic draws: k evenly spaced points, moved together by one random number per row, on the cumulative probabilities
        of the classes other than the label. E[count / k] is the probability exactly."""
        p = torch.softmax(others.double() / self.temperatures[0], dim=1)
        p = torch.where(torch.isneginf(others).all(dim=1, keepdim=True), 0.0, p)  # all masked: nothing to draw
        total = p.cumsum(dim=1)
        shift = torch.from_numpy((seeds >> np.uint64(11)).astype(np.float64) / 2.0**53)
        points = (torch.arange(self.k, dtype=torch.float64) + shift[:, None]) / self.k * total[:, -1:]
        drawn = torch.searchsorted(total, points, right=True).clamp_max(self.classes - 1)
        # equal draws lie side by side: each run becomes one entry with its count
        alive = (total[:, -1] > 0).numpy()
        first = np.ones(drawn.shape, bool)
        first[:, 1:] = (drawn[:, 1:] != drawn[:, :-1]).numpy()
        first &= alive[:, None]
        row, at = np.nonzero(first)
        ends = np.append(at[1:], self.k)
        ends[np.append(row[1:] != row[:-1], True)] = self.k
        offsets = np.concatenate([[0], np.cumsum(first.sum(axis=1))]).astype("<u8")
        return {
            "counts": (ends - at).astype(smallest_unsigned(self.k)),
            "indices": drawn.numpy()[first].astype(smallest_unsigned(self.classes - 1)),
            "item_offsets": offsets,
            "rest": self._masses(others),
        }

    def compact(self, columns: Mapping[str, Array], relation: Tensor | None = None) -> CompactSignal:
        """The compact signal of some rows. Raises `ConfigError` for dense rows and hidden states."""
        if not self.compacted:
            raise ConfigError(f"this signal is kept {self.kind}", fix="read signal()")
        labels = torch.from_numpy(columns["labels"].astype(np.int64))
        own = to_torch(columns["label_values"], self.dtype)
        rest = torch.from_numpy(np.ascontiguousarray(columns["rest"]))
        if self.kind == "top-k":
            indices = torch.from_numpy(columns["indices"].astype(np.int32))  # half the memory of most of a signal
            values = to_torch(columns["values"], self.dtype)
        else:
            sizes = np.diff(columns["item_offsets"].astype(np.int64))
            width = max(1, int(sizes.max(initial=1)))
            place = np.arange(width) < sizes[:, None]
            counts, wide = np.zeros(place.shape), np.zeros(place.shape, np.int32)
            counts[place], wide[place] = columns["counts"], columns["indices"]
            indices = torch.from_numpy(wide)
            # the drawn classes share all the off-label mass by their counts; nothing is left over
            values = (torch.from_numpy(counts / self.k).log() + rest.double()) * self.temperatures[0]
            values, rest = values.float(), torch.full_like(rest, -torch.inf)
        return CompactSignal(
            labels, own, values, indices, rest, self.classes, relation,
            temperatures=self.temperatures, temperature=self.temperatures[0],
        )  # fmt: skip

    def decode(self, columns: Mapping[str, Array], temperature: float | None = None) -> Float[Tensor, "rows classes"]:
        """The logits of some rows; of compact ones with the tail mass spread evenly at a temperature."""
        if self.kind == "dense":
            return to_torch(columns["values"], self.dtype)
        if self.kind == "hidden":
            assert self.output_layer is not None, "the store gives its output layer"
            return self.output_layer.logits(to_torch(columns["values"], self.dtype))
        return self.compact(columns).at(self.temperatures[0] if temperature is None else temperature).dense().logits

    def decode_lazily(self, columns: Mapping[str, Array]) -> Tensor | HiddenLogits:
        """The logits of some rows; of hidden states, those that are requested, each time anew."""
        if self.kind != "hidden":
            return self.decode(columns)
        assert self.output_layer is not None, "the store gives its output layer"
        return HiddenLogits(to_torch(columns["values"], self.dtype), self.output_layer)

    def round_trip(self, signal: TeacherSignal, seed: int = 0) -> TeacherSignal:
        """What a signal would be after being kept in this form, at this form's first temperature."""
        state = np.random.default_rng(seed).integers(0, 2**64, len(signal), np.uint64)
        columns = self.encode(signal.logits, signal.labels, state)
        return TeacherSignal(
            self.decode(columns), signal.labels, signal.class_relation,
            temperature=1.0 if self.kind == "dense" else self.temperatures[0],
        )  # fmt: skip

    def _narrow(self, values: Tensor) -> Array:
        stored = values.to(TORCH[self.dtype])
        if self.dtype == "float16" and bool((torch.isinf(stored) & torch.isfinite(values)).any()):
            raise NumericsError(
                "a number of the teacher is too large for float16",
                expected="at most 65,504 in size",
                got=f"{values[torch.isfinite(values)].abs().max().item():g}",
                fix="store bfloat16 or float32",
            )
        return to_numpy(stored, self.dtype)

    @property
    def bfloat16(self) -> tuple[str, ...]:
        """The columns that hold bfloat16 as its bits."""
        return ("values", "label_values") if self.dtype == "bfloat16" else ()

    @property
    def entry_bytes(self) -> int:
        """Bytes of one stored class."""
        index = 0 if not self.compacted else smallest_unsigned(self.classes - 1).itemsize
        return index + (smallest_unsigned(self.k).itemsize if self.kind == "sampled" else TORCH[self.dtype].itemsize)

    @property
    def number_bytes(self) -> float:
        """Bytes per row of the teacher's outputs (sampled: at most, where every draw is another class)."""
        label = smallest_unsigned(self.classes - 1).itemsize
        if self.kind == "dense":
            return label + self.classes * self.entry_bytes
        if self.kind == "hidden":
            return label + self.k * self.entry_bytes
        fixed = label + TORCH[self.dtype].itemsize + 4 * len(self.temperatures)  # the label, its logit, the rest
        return fixed + self.k * self.entry_bytes + 8 * (self.kind == "sampled")

    def row_bytes(self, views: int = 1) -> float:
        """Bytes per row on the disk, with its hash, place and fingerprint."""
        return self.number_bytes + HASH + PLACE + KEY + VIEW * (views > 1)


def row_hashes(columns: Mapping[str, Array]) -> NDArray[np.uint64]:
    """xxh3-64 of each row: its place, view and fingerprint, and all that is stored of it.

    Args:
        columns: Arrays by name, one row an entry.

    Returns:
        [rows] hashes.

    Example:
        import numpy as np
        from fractionate.store import row_hashes

        print(row_hashes({"labels": np.arange(2), "places": np.arange(2)}))
    """
    ragged = ("counts", "indices") if "item_offsets" in columns else ()
    skipped = ("hashes", "item_offsets", "row_offsets", *ragged)
    rows = len(columns["labels"])
    if not rows:
        return np.empty(0, np.uint64)
    parts = [columns[name] for name in sorted(columns) if name not in skipped]
    matrix = np.concatenate([_row_bytes(part, rows) for part in parts], axis=1)
    width, raw, digest = matrix.shape[1], matrix.reshape(-1).data, xxhash.xxh3_64_intdigest
    found = np.fromiter((digest(raw[at : at + width]) for at in range(0, rows * width, width)), np.uint64, rows)
    if not ragged:
        return found
    offsets = columns["item_offsets"].astype(np.int64)
    items = [(_row_bytes(columns[name], int(offsets[-1])).reshape(-1).data, columns[name].itemsize) for name in ragged]
    for row, seed in enumerate(found.tolist()):
        for content, size in items:
            seed = digest(content[offsets[row] * size : offsets[row + 1] * size], seed)
        found[row] = seed
    return found


def _row_bytes(part: Array, rows: int) -> Array:
    return (
        np.ascontiguousarray(part).reshape(rows, -1).view(np.uint8).reshape(rows, -1)
        if rows
        else np.empty((0, 0), "u1")
    )
