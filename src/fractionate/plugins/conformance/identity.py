"""What a loss really computes: which divergence, which reduction, which power of the temperature. Measured, not read."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fractionate.losses.objective import Objective
from fractionate.theory.teacher_signal import TeacherSignal

Logits = Float[Tensor, "batch classes"]
LossFunction = Callable[[Logits, Logits, Int[Tensor, "batch"], float], Tensor]

REFERENCES = (
    "cross-entropy",
    "forward-kl",
    "reverse-kl",
    "jsd",
    "jsd(0.1)",
    "jsd(0.9)",
    "skew-forward",
    "skew-reverse",
    "total-variation",
    "mse-logits",
    "mse-centred-logits",
    "dkd",
    "nkd",
    "dist",
    "ttm",
    "wttm",
    "logit-standardised",
    "mse-probabilities",  # a common mistake, not a divergence of ours
)
READABLE = {
    "cross-entropy": "soft cross-entropy H(teacher, student)",
    "forward-kl": "forward KL(teacher ‖ student)",
    "reverse-kl": "reverse KL(student ‖ teacher)",
    "jsd": "Jensen–Shannon (0.5)",
    "jsd(0.1)": "Jensen–Shannon (0.1)",
    "jsd(0.9)": "Jensen–Shannon (0.9)",
    "mse-logits": "squared error of logits",
    "mse-probabilities": "squared error of probabilities",
}


@dataclass(frozen=True, eq=False)
class Batch:
    """A fixed random batch in float64 on which losses are compared."""

    student: Logits
    teacher: Logits
    labels: Int[Tensor, "batch"]

    @classmethod
    def draw(cls, batch: int, classes: int, seed: int = 0, scale: float = 2.0) -> Batch:
        """A teacher mostly right, a student on its own, from a seed."""
        generator = torch.Generator().manual_seed(seed)
        student, teacher = scale * torch.randn(2, batch, classes, generator=generator, dtype=torch.float64)
        labels = torch.randint(classes, (batch,), generator=generator)
        teacher[torch.arange(batch), labels] += 2.0
        return cls(student, teacher, labels)

    def measure(self, loss: LossFunction, temperature: float) -> tuple[float, Logits]:
        """The loss, summed where it comes one per example, and its gradient."""
        leaf = self.student.detach().clone().requires_grad_()
        value = loss(leaf, self.teacher.clone(), self.labels.clone(), temperature).sum()
        (gradient,) = torch.autograd.grad(value, leaf)
        return float(value.detach()), gradient.detach()

    def reference(self, name: str, temperature: float) -> tuple[float, Logits]:
        """The sum over examples of a textbook divergence without factor T², and its gradient."""
        return self.measure(textbook(name), temperature)


def textbook(name: str) -> LossFunction:
    """A registered divergence in its plain form, or the squared error of probabilities, one number per example."""

    def loss(student: Logits, teacher: Logits, labels: Int[Tensor, "batch"], temperature: float) -> Tensor:
        if name == "mse-probabilities":
            return (torch.softmax(student / temperature, 1) - torch.softmax(teacher / temperature, 1)).square().sum(1)
        objective = Objective("kd", temperature, 1.0, False, name)
        return objective.plain(student, TeacherSignal(teacher, labels))

    return loss


@dataclass(frozen=True)
class Identity:
    """The nearest textbook divergence, its cosine of gradients, the reduction, and the powers of T in value and gradient.

    `gradient_scale` is the size of the gradient relative to T² · divergence / batch at temperature 4 and 100 classes.
    """

    divergence: str
    cosine: float
    reduction: str
    temperature_power_of_gradient: float
    temperature_power_of_value: float
    gradient_scale: float

    @property
    def readable(self) -> str:
        """In words."""
        name = READABLE.get(self.divergence, self.divergence)
        return name if self.cosine > 0.9999 else f"nearest: {name} (cosine {self.cosine:.2f})"


def identify(loss: LossFunction, *, tried: tuple[str, ...] = REFERENCES) -> Identity:
    """Measure what a loss computes. `loss(student_logits, teacher_logits, labels, temperature)` gives a scalar or [batch]."""
    batch = Batch.draw(8, 10)
    cosines = {}
    for name in tried:
        cosines[name] = min(
            torch.cosine_similarity(
                batch.measure(loss, t)[1].flatten(), batch.reference(name, t)[1].flatten(), dim=0
            ).item()
            for t in (1.0, 4.0)
        )
    best = max(cosines, key=lambda name: cosines[name])
    if best in ("cross-entropy", "forward-kl"):  # one gradient: the value tells them apart
        best = _by_value(loss, batch)
    reduction, constant = _reduction(loss, best)
    size, scale = Batch.draw(32, 100), 16.0 / 32
    ratio = float(size.measure(loss, 4.0)[1].norm() / (size.reference(best, 4.0)[1].norm() * scale))
    value_power, gradient_power = _temperature_powers(loss, best, batch)
    text = reduction if abs(constant - 1) < 1e-3 else f"{reduction}, times {constant:.3g}"
    return Identity(best, cosines[best], text, gradient_power, value_power, ratio)


def _by_value(loss: LossFunction, batch: Batch) -> str:
    """Cross-entropy or KL: at equality one is the entropy and the other 0."""
    same = Batch(batch.teacher, batch.teacher, batch.labels)
    entropy = same.reference("cross-entropy", 1.0)[0]
    return "cross-entropy" if abs(same.measure(loss, 1.0)[0]) > 1e-6 * entropy else "forward-kl"


def _reduction(loss: LossFunction, reference: str) -> tuple[str, float]:
    """The powers of batch and classes by which the sum over examples is divided, in words, and what is left at temperature 1."""

    def ratio(batch: int, classes: int) -> float:
        drawn = Batch.draw(batch, classes, seed=3)
        return float(drawn.measure(loss, 1.0)[1].norm() / drawn.reference(reference, 1.0)[1].norm())

    base, wide, tall = ratio(6, 12), ratio(6, 24), ratio(12, 12)
    of_batch = round(math.log2(base / tall), 2) if base > 0 and tall > 0 else math.nan
    of_classes = round(math.log2(base / wide), 2) if base > 0 and wide > 0 else math.nan
    names = {
        (0.0, 0.0): "sum, or one number an example",
        (1.0, 0.0): "mean over examples",
        (1.0, 1.0): "mean over examples and classes",
    }
    known = names.get((abs(of_batch), abs(of_classes)))
    if known is None:
        return f"divides by batch^{of_batch:g} · classes^{of_classes:g}", 1.0
    return known, base * 6 ** abs(of_batch) * 12 ** abs(of_classes)


def _temperature_powers(loss: LossFunction, reference: str, batch: Batch) -> tuple[float, float]:
    """The powers of T by which value and gradient exceed the unscaled divergence between temperatures 1 and 4."""

    def powers(measured: list[float], expected: list[float]) -> float:
        ratios = [abs(m / e) if e else math.nan for m, e in zip(measured, expected, strict=True)]
        return math.log(ratios[1] / ratios[0], 4) if min(ratios) > 0 else math.nan

    mine = [batch.measure(loss, t) for t in (1.0, 4.0)]
    textbooks = [batch.reference(reference, t) for t in (1.0, 4.0)]
    return (
        powers([value for value, _ in mine], [value for value, _ in textbooks]),
        powers([float(g.norm()) for _, g in mine], [float(g.norm()) for _, g in textbooks]),
    )
