"""A teacher's numbers on examples, for tasks without classes: what regression and embeddings learn from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fractionate.errors import MismatchError, NumericsError


class NoClassesError(MismatchError):
    """Numbers were read as distributions over classes. Probes of a diagnosis that raise it are skipped."""


@dataclass(frozen=True, eq=False, repr=False)
class NumberSignal:
    """A teacher's numbers: no distributions, so that cells, spectrum and objectives do not apply.

    Args:
        values: [rows, *outputs].
        labels: [rows, ...] true numbers, where there are any.
        population: [all rows, *outputs] the values of all the data, of which these rows are a part; None: these are all.
        places: [rows] places of these rows in the population.

    Raises:
        NumericsError: Numbers that are not finite, naming the first row.
    """

    values: Float[Tensor, "rows *outputs"]
    labels: Tensor | None = None
    population: Float[Tensor, "all *outputs"] | None = None
    places: Int[Tensor, "rows"] | None = None

    def __post_init__(self) -> None:
        if self.population is not None:  # a part of what was checked
            return
        wrong = ~torch.isfinite(self.values).flatten(1).all(dim=1)
        if bool(wrong.any()):
            first = int(wrong.nonzero()[0])
            raise NumericsError(
                f"the teacher's numbers are not finite on {int(wrong.sum())} of {len(self)} rows (first: row {first})",
                got=str(self.values[first].flatten()[:6].tolist()),
                fix="check these inputs; a half-precision teacher may overflow: run it in float32 or bfloat16",
            )
        object.__setattr__(self, "population", self.values.detach())
        object.__setattr__(self, "places", torch.arange(len(self), device=self.values.device))

    def __len__(self) -> int:
        return len(self.values)

    def __repr__(self) -> str:
        return f"NumberSignal({len(self)} examples × {list(self.values.shape[1:])} numbers, {self.values.dtype})"

    def take(self, index: Int[Tensor, "some"]) -> NumberSignal:
        """Some of the rows; the population stays that of the whole."""
        assert self.places is not None
        labels = None if self.labels is None else self.labels[index]
        return NumberSignal(self.values[index], labels, self.population, self.places[index])

    def to(self, device: torch.device | str) -> NumberSignal:
        """The same rows on a device; the population stays where it is."""
        labels = None if self.labels is None else self.labels.to(device)
        return NumberSignal(self.values.to(device), labels, self.population, self.places)

    def shuffled(self, seed: int) -> Float[Tensor, "rows *outputs"]:
        """The numbers of other rows, drawn one to one from the population by a seed: as good in form, wrong about rows."""
        assert self.population is not None and self.places is not None
        order = torch.randperm(len(self.population), generator=torch.Generator().manual_seed(seed))
        return self.population[order[self.places.cpu()].to(self.population.device)].to(self.values.device)

    @property
    def logits(self) -> NoReturn:
        """There are none. Raises `NoClassesError`."""
        raise self._no("logits")

    @property
    def classes(self) -> NoReturn:
        """There are none. Raises `NoClassesError`."""
        raise self._no("classes")

    def at(self, temperature: float) -> Any:
        """Numbers have no temperature. Raises `NoClassesError`."""
        raise self._no("a temperature")

    def _no(self, what: str) -> NoClassesError:
        return NoClassesError(
            f"a teacher's numbers have no {what.removeprefix('a ')}",
            expected="logits of a task with classes",
            got=repr(self),
            fix="learn from numbers by a term: squared-error, gaussian-kl, cosine, projected-mse, candidates",
        )
