"""Random signals, drawn from a seed: a teacher right and wrong × certain and unsure, with masked classes now and then."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from torch import Tensor

from fractionate import TeacherSignal

DTYPES = (torch.float32, torch.float64, torch.bfloat16)
ROLES = ("right and certain", "right and unsure", "wrong and certain", "wrong and unsure", "noise")


@dataclass(frozen=True)
class Draw:
    """What a random signal is made from; printed by hypothesis when a property fails."""

    seed: int
    examples: int
    classes: int
    dtype: torch.dtype
    scale: float
    temperature: float
    one_class: bool
    masked: bool
    related: bool

    @property
    def generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed)

    def signal(self) -> TeacherSignal:
        """A teacher right and wrong × certain and unsure, by turns, perhaps with masked classes."""
        generator = self.generator
        labels = torch.randint(self.classes, (self.examples,), generator=generator)
        if self.one_class:
            labels[:] = labels[0]
        logits = torch.randn(self.examples, self.classes, generator=generator, dtype=torch.float64) * min(self.scale, 3)
        first = int(torch.randint(len(ROLES), (), generator=generator))
        for i in range(self.examples):
            role = ROLES[(first + i) % len(ROLES)]
            favourite = int(labels[i])
            if role.startswith("wrong"):
                favourite = (
                    favourite + 1 + int(torch.randint(self.classes - 1, (), generator=generator))
                ) % self.classes
            if role != "noise":
                logits[i, favourite] = logits[i].max() + (self.scale if role.endswith("certain") else 0.5)
        if self.masked:
            mask_some(logits, labels, generator)
        relation = None
        if self.related:
            rows = torch.randn(self.classes, 8, generator=generator, dtype=torch.float64)
            rows = torch.nn.functional.normalize(rows, dim=1)
            relation = (rows @ rows.T).to(self.dtype)
        return TeacherSignal(logits.to(self.dtype), labels, relation)

    def student(self, scale: float | None = None) -> Tensor:
        """Student logits of the same size."""
        generator = torch.Generator().manual_seed(self.seed + 1)
        logits = torch.randn(self.examples, self.classes, generator=generator, dtype=torch.float64)
        return (logits * (min(self.scale, 3) if scale is None else scale)).to(self.dtype)


def mask_some(logits: Tensor, labels: Tensor, generator: torch.Generator) -> None:
    """-inf at random places; now and then the label itself, or every class but the label. Never a whole row."""
    examples, classes = logits.shape
    keep = torch.randint(classes, (examples,), generator=generator)
    masked = torch.rand(examples, classes, generator=generator) < 0.3
    special = torch.randint(4, (examples,), generator=generator)
    for i in range(examples):
        if special[i] == 0:  # the label masked
            keep[i] = (labels[i] + 1) % classes
            masked[i, labels[i]] = True
        elif special[i] == 1:  # all others masked
            keep[i] = labels[i]
            masked[i] = True
        masked[i, keep[i]] = False
    logits[masked] = -torch.inf


@st.composite
def draws(
    draw: st.DrawFn,
    *,
    dtypes: tuple[torch.dtype, ...] = DTYPES,
    max_classes: int = 40,
    max_examples: int = 12,
    masked: bool | None = None,
    scales: tuple[float, ...] = (0.0, 0.5, 3.0, 30.0, 1e4),
    temperatures: tuple[float, ...] = (0.05, 0.5, 1.0, 2.0, 4.0, 20.0, 100.0),
) -> Draw:
    """Random signals: small ones first, so that a failure shrinks to a small one."""
    return Draw(
        seed=draw(st.integers(0, 2**32 - 1)),
        examples=draw(st.integers(1, max_examples)),
        classes=draw(st.integers(2, max_classes)),
        dtype=draw(st.sampled_from(dtypes)),
        scale=draw(st.sampled_from(scales)),
        temperature=draw(st.sampled_from(temperatures)),
        one_class=draw(st.booleans()),
        masked=draw(st.booleans()) if masked is None else masked,
        related=draw(st.booleans()),
    )


double_draws = draws(dtypes=(torch.float64,), masked=False, scales=(0.0, 0.5, 3.0, 10.0))
