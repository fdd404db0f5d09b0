"""Divergences: how far a student is from a target. The protocol, what a divergence may read, and the registry.

A divergence is a frozen dataclass called with raw student logits and a `Target`; it returns one number per example and tempers
the student itself (`student_logits / target.temperature`). Everything but `formula` and `__call__` is optional and
declared on the class:

- `own_temperature = True`: the formula holds all its use of the temperature, so the objective adds no factor T².
- `couples_batch = True`: an example's number depends on the other examples of its batch (it cannot be cut into micro-batches).
- `least_at_equality = False`: the least value lies elsewhere than where student and target agree.
- `falls_as_squared = False`: at high temperatures its gradient does not fall as 1 / T², so the factor T² does not keep its size.
- `refuses(cell) -> str`: why it cannot meet a cell, or an empty text.
- `gradient(student_logits, target, scale) -> (loss, gradient)`: the loss and scale times its analytic gradient for some rows,
  without autograd; with a keyword `out`, the array the gradient is written to. Where the loss it gives is not finite the plain
  form is tried again, so it need not be careful with infinities. `__call__`, the plain differentiable form, stays the oracle.

Each family is one file: likelihood, mixture, split, logit, margin, transform, correlation.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fractionate.errors import ConfigError, MismatchError
from fractionate.system.registry import Registry
from fractionate.theory import confidence as confidence_rules
from fractionate.theory import shape as shape_rules
from fractionate.theory.cells import Cell
from fractionate.theory.softmax import Rows, exponents, place, raised
from fractionate.theory.teacher_signal import TeacherSignal, once


def is_whole_teacher(cell: Cell) -> bool:
    """True for the cell whose target is the teacher's own distribution (kd)."""
    return isinstance(cell.confidence, confidence_rules.Instance) and isinstance(cell.shape, shape_rules.Instance)


@dataclass(frozen=True, eq=False)
class Target:
    """What a divergence may read of the other side: a cell's target for some examples, at the signal's temperature.

    Everything is computed on demand, in `dtype`, and carries no gradient.
    """

    cell: Cell
    signal: TeacherSignal
    dtype: torch.dtype = torch.float32

    def __len__(self) -> int:
        return len(self.signal)

    @property
    def temperature(self) -> float:
        """The temperature of teacher and student."""
        return self.signal.temperature

    @property
    def labels(self) -> Int[Tensor, "batch"]:
        """The true classes."""
        return self.signal.labels

    @property
    def is_whole_teacher(self) -> bool:
        """True where the target is the teacher's own distribution, so that its logits may stand for it."""
        return is_whole_teacher(self.cell)

    @once
    def probabilities(self) -> Float[Tensor, "batch classes"]:
        """The target distribution: rows sum to 1."""
        with torch.no_grad():
            if self.is_whole_teacher:
                centred = centred_rows(self.logits, self.temperature)
                return torch.softmax(centred, dim=-1, out=centred)
            return self.cell.target(self.signal, self.temperature).to(self.dtype)

    @once
    def log_probabilities(self) -> Float[Tensor, "batch classes"]:
        """log of the target; -inf where it has no mass. From the logits where possible, so that small masses keep digits."""
        with torch.no_grad():
            if self.is_whole_teacher:
                return torch.log_softmax(centred_rows(self.logits, self.temperature), dim=-1)
            return self.probabilities.log()

    def exponents(self, name: str) -> Float[Tensor, "batch classes"]:
        """log2 of the target but for one number per row, in the kept array of this name (see `powers`)."""
        if self.is_whole_teacher:
            return exponents(self.in_dtype(name), self.temperature, name)
        return torch.log2(self.probabilities, out=place(name, self.probabilities))

    def masses(self, name: str) -> Rows:
        """The target, not yet normalised, in the kept array of this name."""
        if self.is_whole_teacher:
            return raised(self.exponents(name))
        p = self.probabilities
        return Rows(place(name, p).copy_(p), torch.ones_like(p[:, :1]))

    def in_dtype(self, name: str) -> Float[Tensor, "batch classes"]:
        """The teacher's logits in the dtype that is computed in: as they are, or in the kept array of this name."""
        logits = self.signal.logits
        return logits if logits.dtype == self.dtype else place(name, logits, self.dtype).copy_(logits)

    @once
    def label_mass(self) -> Float[Tensor, "batch"]:
        """The target's probability of the label."""
        return self.probabilities.gather(1, self.labels[:, None]).squeeze(1)

    @once
    def rest_mass(self) -> Float[Tensor, "batch"]:
        """1 - label mass, summed over the other classes so that nothing cancels."""
        return self.probabilities.scatter(1, self.labels[:, None], 0.0).sum(dim=1)

    @once
    def shape(self) -> Float[Tensor, "batch classes"]:
        """The cell's shape: a distribution over the other classes, 0 at the label."""
        assert not isinstance(self.cell.shape, str)
        with torch.no_grad():
            return self.cell.shape(self.signal).to(self.dtype)

    @property
    def logits(self) -> Float[Tensor, "batch classes"]:
        """The teacher's logits, untempered. Raises `MismatchError` where the target is not the teacher's own distribution."""
        if not self.is_whole_teacher:
            raise MismatchError(f"the target of cell {self.cell} has no logits of its own", expected="cell kd")
        return self.signal.logits.to(self.dtype)

    def at(self, temperature: float) -> Target:
        """The target of the same cell and examples at another temperature."""
        return Target(self.cell, self.signal.at(temperature), self.dtype)

    def rows(self, part: slice) -> Target:
        """The target of some of the examples; statistics stay those of all the data."""
        return Target(self.cell, self.signal.take(part), self.dtype)  # slices index as tensors do


@runtime_checkable
class Divergence(Protocol):
    """How far the student is from the target: raw student logits and a target in, one number per example out."""

    @property
    def formula(self) -> str:
        """The formula in words of the objective: target, q = softmax(student / T)."""
        ...

    def __call__(self, student_logits: Float[Tensor, "batch classes"], target: Target) -> Float[Tensor, "batch"]: ...


@runtime_checkable
class Analytic(Protocol):
    """A divergence that knows its gradient."""

    def gradient(
        self, student_logits: Float[Tensor, "batch classes"], target: Target, scale: float = 1.0
    ) -> tuple[Float[Tensor, "batch"], Float[Tensor, "batch classes"]]: ...


@runtime_checkable
class Choosy(Protocol):
    """A divergence that some cells cannot meet."""

    def refuses(self, cell: Cell) -> str: ...


divergences: Registry[Divergence] = Registry(
    "divergence",
    "fractionate.divergences",
    files=(
        "losses.divergences.correlation",
        "losses.divergences.likelihood",
        "losses.divergences.logit",
        "losses.divergences.margin",
        "losses.divergences.mixture",
        "losses.divergences.ranked",
        "losses.divergences.ranking",
        "losses.divergences.split",
        "losses.divergences.transform",
    ),
)


def tempered(logits: Float[Tensor, "*batch classes"], temperature: float) -> Float[Tensor, "*batch classes"]:
    """(logits - largest) / temperature: the same distribution, and no overflow at small temperatures."""
    largest = logits.detach().amax(dim=-1, keepdim=True)
    return (
        ((logits - largest) / temperature)
        .clamp_min(torch.finfo(logits.dtype).min)
        .where(logits > -torch.inf, -torch.inf)
    )


def centred_rows(logits: Float[Tensor, "*batch classes"], temperature: float) -> Float[Tensor, "*batch classes"]:
    """`tempered` without autograd, in one array that is the caller's own."""
    centred = logits - logits.amax(dim=-1, keepdim=True)
    if temperature == 1:
        return centred
    if temperature > 1:
        return centred.mul_(1 / temperature)
    masked = centred == -torch.inf
    return centred.mul_(1 / temperature).clamp_min_(torch.finfo(logits.dtype).min).masked_fill_(masked, -torch.inf)


def product(mass: Float[Tensor, "..."], value: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """mass · value with 0 · ±inf = 0, and with a gradient that stays finite there."""
    return mass * torch.where(mass > 0, value, 0.0)


def own_temperature(divergence: Divergence) -> bool:
    """Whether the formula holds all its use of the temperature."""
    return bool(getattr(divergence, "own_temperature", False))


def couples_batch(divergence: Divergence) -> bool:
    """Whether an example's number depends on the other examples of its batch."""
    return bool(getattr(divergence, "couples_batch", False))


def least_at_equality(divergence: Divergence) -> bool:
    """Whether the least value is where student and target agree."""
    return bool(getattr(divergence, "least_at_equality", True))


def falls_as_squared(divergence: Divergence) -> bool:
    """Whether its gradient falls as 1 / T² at high temperatures, which the factor T² makes up for."""
    return bool(getattr(divergence, "falls_as_squared", True))


def reason_against(divergence: Divergence, cell: Cell) -> str:
    """Why a divergence cannot meet a cell; empty where it can."""
    return divergence.refuses(cell) if isinstance(divergence, Choosy) else ""


def written(divergence: Divergence) -> str:
    """The name in the registry with the arguments that are not the default: `jsd(beta=0.1)`."""
    name = next((n for n in divergences if divergences.factory(n) is type(divergence)), "")
    if not name:
        return repr(divergence)
    changed = [
        f"{f.name}={getattr(divergence, f.name)!r}"
        for f in fields(divergence)  # type: ignore[arg-type]  # every registered divergence is a dataclass
        if getattr(divergence, f.name) != f.default
    ]
    return f"{name}({', '.join(changed)})" if changed else name


def needs_mass_everywhere(cell: Cell) -> str:
    """The reason of divergences that are infinite where the target has no mass."""
    if isinstance(cell.confidence, confidence_rules.Certain):
        return f"cell {cell} gives classes other than the label no mass, and the divergence is infinite there"
    return ""


def check_share(name: str, value: float) -> None:
    """Raises `ConfigError` unless a mixing share lies strictly between 0 and 1."""
    if not (isinstance(value, (int, float)) and 0 < value < 1):
        raise ConfigError(
            f"{name} cannot be used",
            expected="a number between 0 and 1, both excluded",
            got=repr(value),
            fix="forward-kl and reverse-kl are the ends",
        )
