"""The reproducible part of the instance shape, from two views of the same examples."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fractionate.errors import MismatchError
from fractionate.records import Interval
from fractionate.theory.teacher_signal import ROWS_A_CHUNK_ELEMENTS, TeacherSignal, check_temperature


@dataclass(frozen=True)
class Reproducible:
    """How much of the instance shape comes again in another view, in nats per example (mean over the two directions)."""

    instance_shape_nats: float
    reproducible_nats: float
    interval: Interval  # of reproducible_nats, over examples

    @property
    def share(self) -> float:
        """The reproducible part over the whole; 1 for identical views, about 0 or below for noise."""
        return self.reproducible_nats / self.instance_shape_nats if self.instance_shape_nats > 0 else 0.0


def reproducible(
    first: TeacherSignal,
    second: TeacherSignal,
    temperature: float = 1.0,
    *,
    group: Int[Tensor, "examples"] | None = None,
) -> Reproducible:
    """Reproducible instance shape: E (1 - p[y]) Σ_j shape_a[j] log(shape_b[j] / class shape_a[j]), both ways averaged.

    It equals the instance shape information less E (1 - p[y]) KL(shape_a ‖ shape_b), so it never exceeds it, equals it for
    identical views, and is negative where another view misleads more than the class mean does. Nats an example. Rows of one
    `group` (views with one id) are not independent: the interval is then over groups.

    Raises `MismatchError` where the two signals are not of the same examples. Source: ours (design, section 2).
    """
    check_temperature(temperature)
    if first.logits.shape != second.logits.shape or not torch.equal(first.labels.cpu(), second.labels.cpu()):
        raise MismatchError(
            "two views need the same examples in the same order",
            expected=f"{list(first.logits.shape)} and equal labels",
            got=f"{list(second.logits.shape)}",
        )
    forward = _one_way(first, second.logits, temperature)
    backward = _one_way(second, first.logits, temperature)
    whole = (forward[0].mean() + backward[0].mean()) / 2
    again = (forward[1] + backward[1]) / 2
    mean = float(again.mean())
    apart = again - mean
    if group is not None:
        own = torch.unique(group.cpu(), return_inverse=True)[1]
        apart = torch.zeros(int(own.max()) + 1, dtype=apart.dtype).index_add_(0, own, apart)
    groups = len(apart)
    error = (float(apart.square().sum()) * groups / (groups - 1)) ** 0.5 / len(again) if groups > 1 else float("inf")
    half = 1.96 * error
    return Reproducible(max(0.0, float(whole)), mean, Interval(mean - half, mean + half))


def _one_way(
    signal: TeacherSignal, other: Float[Tensor, "examples classes"], temperature: float
) -> tuple[Float[Tensor, "examples"], Float[Tensor, "examples"]]:
    stats = signal.at(temperature).stats
    step = max(1, ROWS_A_CHUNK_ELEMENTS // signal.classes)
    whole, again = [], []
    for start in range(0, len(signal), step):
        part = slice(start, start + step)
        labels = signal.labels[part, None]
        class_shape = stats.class_mean_of(signal.labels[part]).double().scatter(1, labels, 0.0)
        log_class = (class_shape / class_shape.sum(1, keepdim=True)).log()
        rest, log_a = _shape(signal.logits[part], labels, temperature)
        _, log_b = _shape(other[part].to(signal.logits.device), labels, temperature)
        shape = log_a.exp()
        whole.append(rest * torch.where(shape > 0, shape * (log_a - log_class), 0.0).sum(1))
        # a class that the other view rules out entirely costs its least representable probability, not infinity
        again.append(rest * torch.where(shape > 0, shape * (log_b.clamp_min(-700.0) - log_class), 0.0).sum(1))
    return torch.cat(whole).cpu(), torch.cat(again).cpu()


def _shape(
    logits: Float[Tensor, "chunk classes"], labels: Int[Tensor, "chunk 1"], temperature: float
) -> tuple[Float[Tensor, "chunk"], Float[Tensor, "chunk classes"]]:
    scaled = logits.double() / temperature
    rest = torch.softmax(scaled, dim=-1).scatter(1, labels, 0.0).sum(1)
    return rest, torch.log_softmax(scaled.scatter(1, labels, -torch.inf), dim=-1)
