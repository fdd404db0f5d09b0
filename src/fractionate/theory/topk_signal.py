"""A teacher's signal without all of its classes: the label, some entries, and the exact mass of what is left out.

For large vocabularies. Objectives take it as it is where cell and divergence allow (`losses.kernels.sparse`); `dense()` spreads the
tail mass evenly, so that every rule sees a `TeacherSignal`. The loss is that of all outputs, exactly
where the tail mass is even, and without bias where the entries were sampled.
"""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fractionate.errors import ConfigError, MismatchError
from fractionate.theory.teacher_signal import ROWS_A_CHUNK_ELEMENTS, TeacherSignal, compute_dtype


@dataclass(frozen=True, eq=False, repr=False)
class CompactSignal:
    """Label, k entries and tail mass of each row, read at a temperature.

    Args:
        labels: [batch] class numbers.
        label_logits: [batch] the label's logits.
        logits: [batch, k] of the entries, never the label; −inf pads a row with fewer.
        indices: [batch, k] their classes.
        rest: [batch, temperatures] log Σ exp(z / T) over all classes that are neither; −inf for none.
        classes: How many there are.
        class_relation: [classes, classes] similarities, for `kd-sim`.
        temperatures: Those of `rest`.
        temperature: At which it is read; one of them.
        population: All rows, where this is a part of them.
        estimated: Other temperatures may be read too: there the mass left out counts as even, as `dense()` spreads it at the first.

    Raises:
        MismatchError: where the shapes do not fit.
        ConfigError: for a temperature at which the tail mass is not known.

    Example:
        import torch
        from fractionate import TeacherSignal, collect
        data = torch.randn(20, 4), torch.arange(20) % 3
        store = collect(torch.nn.Linear(4, 3), data, "runs/compact", form="top-k", k=1)
        print(store.compact_signal().rest.shape)
    """

    labels: Int[Tensor, "batch"]
    label_logits: Float[Tensor, "batch"]
    logits: Float[Tensor, "batch k"]
    indices: Int[Tensor, "batch k"]
    rest: Float[Tensor, "batch temperatures"]
    classes: int
    class_relation: Float[Tensor, "classes classes"] | None = None
    _: KW_ONLY
    temperatures: tuple[float, ...] = (1.0,)
    temperature: float = 1.0
    population: CompactSignal | None = field(default=None, repr=False)
    estimated: bool = False
    _means: dict[float, Tensor] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        rows = len(self.labels)
        shapes = (self.label_logits.shape, self.logits.shape[:1], self.indices.shape, self.rest.shape)
        if shapes != ((rows,), (rows,), self.logits.shape, (rows, len(self.temperatures))):
            raise MismatchError("the parts of a compact signal differ in length", got=str([list(s) for s in shapes]))
        if not self.knows(self.temperature):
            raise ConfigError(
                f"the mass left out is not known at temperature {self.temperature:g}",
                expected=f"one of {', '.join(f'{t:g}' for t in self.temperatures)}",
                fix=f"collect with temperatures=(1.0, {self.temperature:g}), or keep the signal dense",
            )

    def knows(self, temperature: float) -> bool:
        """Whether the signal can be read at a temperature."""
        return self.estimated or temperature in self.temperatures

    def at(self, temperature: float) -> CompactSignal:
        """The same signal read at another of its temperatures."""
        return self if temperature == self.temperature else replace(self, temperature=float(temperature))

    def take(self, index: Int[Tensor, "some"] | slice) -> CompactSignal:
        """Some of the rows; statistics stay those of the whole signal."""
        names = ("labels", "label_logits", "logits", "indices", "rest")
        parts: dict[str, Any] = {name: getattr(self, name)[index] for name in names}
        return replace(self, **parts, population=self.population or self)

    def to(self, device: torch.device | str) -> CompactSignal:
        """The same signal on a device."""
        names = ("labels", "label_logits", "logits", "indices", "rest", "class_relation")
        parts: dict[str, Any] = {name: getattr(self, name) for name in names}
        moved: dict[str, Any] = {name: None if part is None else part.to(device) for name, part in parts.items()}
        return replace(self, **moved)

    @property
    def rest_at(self) -> Float[Tensor, "batch"]:
        """log Σ exp(z / T) of the classes left out."""
        if self.temperature in self.temperatures:
            return self.rest[:, self.temperatures.index(self.temperature)]
        left = (self.classes - 1 - torch.isfinite(self.logits).sum(dim=1)).double().log()  # log 0 is that of no mass
        first = self.temperatures[0]
        return torch.where(left >= 0, left + (self.rest[:, 0].double() - left) * first / self.temperature, -math.inf)

    @property
    def mean_confidence(self) -> Float[Tensor, ""]:
        """The mean of p[y] over the whole signal, at this temperature."""
        whole = self.population or self
        if self.temperature not in whole._means:
            whole._means[self.temperature] = whole.at(self.temperature).confidence.double().mean()
        return whole._means[self.temperature]

    @property
    def normaliser(self) -> Float[Tensor, "batch"]:
        """log Σ exp(z / T) over all classes: exact at the stored temperatures, whatever was left out."""
        step = max(1, ROWS_A_CHUNK_ELEMENTS // (self.logits.shape[1] + 2))
        if len(self) > step:
            return torch.cat([self.take(slice(start, start + step)).normaliser for start in range(0, len(self), step)])
        dtype = compute_dtype(self.logits.dtype)
        rest = self.rest_at.to(dtype)
        parts = [self.label_logits.to(dtype)[:, None] / self.temperature, self.logits.to(dtype) / self.temperature]
        return torch.logsumexp(torch.cat([*parts, rest[:, None]], dim=1), dim=1)

    @property
    def confidence(self) -> Float[Tensor, "batch"]:
        """p[y], the teacher's probability of the label: exact."""
        dtype = compute_dtype(self.logits.dtype)
        return torch.exp(self.label_logits.to(dtype) / self.temperature - self.normaliser)

    @property
    def captured(self) -> Float[Tensor, "batch"]:
        """The probability of the label and the stored entries together: 1 less what was left out."""
        return 1 - torch.exp(self.rest_at.to(self.normaliser.dtype) - self.normaliser)

    def dense(self) -> TeacherSignal:
        """All classes again, the tail mass spread evenly over the classes left out; a `TeacherSignal` of this temperature."""
        return TeacherSignal(self.all_logits, self.labels, self.class_relation, temperature=self.temperature)

    @property
    def all_logits(self) -> Float[Tensor, "batch classes"]:
        """Logits of all classes: an even one for those left out."""
        dtype = compute_dtype(self.logits.dtype)
        entry = torch.isfinite(self.logits)
        left = self.classes - 1 - entry.sum(dim=1)
        rest = self.rest_at.to(dtype)
        even = torch.where(left > 0, (rest - left.clamp_min(1).to(dtype).log()) * self.temperature, -math.inf)
        full = even[:, None].expand(-1, self.classes).contiguous()
        # padded entries point at the label, which is written last
        full.scatter_(1, torch.where(entry, self.indices, self.labels[:, None]), self.logits.to(dtype))
        return full.scatter_(1, self.labels[:, None], self.label_logits.to(dtype)[:, None])

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        return (
            f"CompactSignal({len(self)} rows × {self.logits.shape[1]} of {self.classes} classes, {self.logits.dtype}, "
            f"temperature {self.temperature:g})"
        )


class RowsOnDemand:
    """Logits [rows, classes] of compact rows, made for the rows that are requested."""

    def __init__(self, whole: CompactSignal) -> None:
        self.whole, self.device, self.dtype = whole, whole.labels.device, compute_dtype(whole.logits.dtype)
        self.shape = torch.Size((len(whole), whole.classes))

    def __getitem__(self, index: Int[Tensor, "some"] | slice) -> Float[Tensor, "some classes"]:
        return self.whole.take(index).all_logits


def row_logits(signal: TeacherSignal | CompactSignal) -> Tensor | RowsOnDemand:
    """Something that gives the logits of the rows it is indexed with."""
    return signal.logits if isinstance(signal, TeacherSignal) else RowsOnDemand(signal)


def top_one(signal: TeacherSignal | CompactSignal) -> Int[Tensor, "rows"]:
    """The teacher's top-1 of each row; exact for compact rows too: nothing left out is above what was kept."""
    if isinstance(signal, TeacherSignal):
        return signal.logits.argmax(dim=1)
    values = torch.cat([signal.label_logits[:, None], signal.logits], dim=1)
    return (
        torch.cat([signal.labels[:, None], signal.indices], dim=1).gather(1, values.argmax(1, keepdim=True)).squeeze(1)
    )
