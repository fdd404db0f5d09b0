"""Contrastive representation distillation: tell the teacher's embedding of an example from those of many others."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from fractionate.errors import ConfigError
from fractionate.losses.terms.base import term_specs
from fractionate.losses.terms.features import Features, FeatureTerm


class Memory(nn.Module):
    """Embeddings of both sides and a memory of all examples for each; buffers, so that a resumed run continues exactly.

    Negatives are drawn from torch's default generator, which the training loop seeds by (seed, step).
    """

    student_memory: Tensor
    teacher_memory: Tensor
    scale: Tensor

    def __init__(
        self,
        student: Features,
        teacher: Features,
        examples: int,
        *,
        dim: int,
        negatives: int,
        temperature: float,
        momentum: float,
    ) -> None:
        super().__init__()
        self.embed_student = nn.Linear(student.flatten(1).shape[1], dim)
        self.embed_teacher = nn.Linear(teacher.flatten(1).shape[1], dim)
        self.examples, self.negatives, self.temperature, self.momentum = examples, negatives, temperature, momentum
        width = 1 / (dim / 3) ** 0.5
        self.register_buffer("student_memory", torch.rand(examples, dim) * 2 * width - width)
        self.register_buffer("teacher_memory", torch.rand(examples, dim) * 2 * width - width)
        self.register_buffer("scale", torch.full((2,), -1.0))  # the constants Z, set by the first batch

    def forward(self, student: Features, teacher: Features, index: Int[Tensor, "batch"]) -> Float[Tensor, "batch"]:
        ours = functional.normalize(self.embed_student(student.flatten(1)), dim=1)
        theirs = functional.normalize(self.embed_teacher(teacher.flatten(1)), dim=1)
        others = torch.randint(self.examples - 1, (len(index), self.negatives), device=index.device)
        others += others >= index[:, None]  # uniform over the other examples
        drawn = torch.cat([index[:, None], others], dim=1)
        loss = self._one_side(ours, self.teacher_memory[drawn], 0) + self._one_side(
            theirs, self.student_memory[drawn], 1
        )
        with torch.no_grad():
            for memory, new in ((self.student_memory, ours), (self.teacher_memory, theirs)):
                mixed = self.momentum * memory[index] + (1 - self.momentum) * new
                memory[index] = functional.normalize(mixed, dim=1).to(memory.dtype)
        return loss

    def _one_side(self, anchor: Tensor, contrasts: Tensor, side: int) -> Float[Tensor, "batch"]:
        """-log h(positive) - Σ log(1 - h(negative)), h = e / (e + N / M), e = exp(similarity / temperature) / Z."""
        score = torch.einsum("bd,bnd->bn", anchor, contrasts) / self.temperature
        if float(self.scale[side]) < 0:
            self.scale[side] = score.detach().exp().mean() * self.examples
        critic = score - self.scale[side].log()  # log e
        noise = torch.log(torch.tensor(self.negatives / self.examples, dtype=critic.dtype, device=critic.device))
        total = torch.logaddexp(critic, noise)
        positive = total[:, 0] - critic[:, 0]
        return positive + (total[:, 1:] - noise).sum(dim=1)


@term_specs.register("crd")
@dataclass(frozen=True)
class Contrastive(FeatureTerm):
    """-log h(positive) - Σ log(1 - h(negatives)), from both sides, against memories of all examples.

    The paper draws 16,384 negatives from ImageNet-sized data; of smaller data all other examples are drawn at most. The memories
    are read before and written after each batch, so it couples the batch. Source: Tian et al. (arXiv 1910.10699).

    Args:
        student: Path of the student's module.
        teacher: Path of the teacher's.
        weight: Of the term in the loss.
        negatives: Examples that each one is distinguished from.
        dim: Width of the embeddings.
        temperature: Divides the cosines.
        momentum: Share of the old entry that stays in a memory.

    Example:
        from fractionate.losses.terms import Contrastive
        print(Contrastive("pool", "pool", negatives=64, dim=32).formula)
    """

    student: str
    teacher: str
    _: KW_ONLY
    weight: float = 1.0
    negatives: int = 256
    dim: int = 128
    temperature: float = 0.07
    momentum: float = 0.5
    couples_batch: ClassVar[bool] = True

    @property
    def formula(self) -> str:
        others = f"Σ over {self.negatives} others log(1 - h)"
        return f"[-log h({self.student}, {self.teacher}) - {others}], h = e / (e + N / M), e ~ exp(cos / {self.temperature:g})"

    def trained_part(self, student: Features, teacher: Features, examples: int) -> nn.Module:
        """Embeddings and memories for data of a size."""
        if examples < 2:
            raise ConfigError(
                "crd keeps a memory of all examples",
                expected="a transfer set of at least 2",
                got=f"examples={examples}",
            )
        return Memory(
            student, teacher, examples, dim=self.dim, negatives=min(self.negatives, examples - 1),
            temperature=self.temperature, momentum=self.momentum,
        )  # fmt: skip
