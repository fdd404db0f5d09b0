"""Chimeric sets: new inputs from the superfeatures of different examples, labelled by a teacher, made batch by batch.

    Recipe(**ked(share=0.7), data=("chimeras(((0, 1, 2), (3, 4)))",))      # of the task's data, with an online teacher
    chimeras = Chimeras(data, found, teacher, size=1_000_000)              # the same by hand

An explanation depends on its own superfeature only, so it is as valid on a chimera as on real data; the prediction of a black box
is not. Source: Chowdhury, Liang, Tizghadam and Albanese (arXiv 2310.02572) and their code.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor, nn

from fractionate.data.batch import Batch, Ids, Places, Plan, Split
from fractionate.data.examples import Examples
from fractionate.data.sampling import batches as shuffled
from fractionate.data.sampling import draw_seed
from fractionate.data.splits import as_examples
from fractionate.data.transforms import Transform, transforms
from fractionate.errors import ConfigError, MismatchError
from fractionate.models.columns import check_superfeatures, given
from fractionate.models.modes import eval_mode
from fractionate.models.outputs import Head, call, device_of, logits_of
from fractionate.records import Superfeatures
from fractionate.system.fingerprints import model_hash
from fractionate.system.hashing import content_hash

SIZE = 1_000_000  # the paper's


class Once(nn.Module):
    """A teacher that is run once on the same tensor: the next caller gets the same output without a computation."""

    def __init__(self, teacher: nn.Module) -> None:
        super().__init__()
        self.teacher = teacher
        self._last: tuple[Tensor, int, bool, Any] | None = None

    def forward(self, inputs: Any) -> Any:
        if not isinstance(inputs, Tensor) or torch.is_grad_enabled():
            return call(self.teacher, inputs)
        last = self._last
        if last is None or last[0] is not inputs or last[1:3] != (inputs._version, self.teacher.training):
            last = (inputs, inputs._version, self.teacher.training, call(self.teacher, inputs))
            self._last = last
        return last[3]


class Chimeras:
    """`size` recombinations of the superfeatures of some examples, as data for `distill`; nothing is kept but the examples.

    Chimera i takes the columns of superfeature m from example hash(seed, i, m): a function of its place, so any batch can be made
    again and all arms see the same. Labels are the teacher's first class, never the examples' own. Raises `ConfigError` for a size
    below 1 and `MismatchError` for superfeatures of other inputs.
    """

    def __init__(
        self, data: Any, found: Superfeatures, teacher: nn.Module, *, size: int = SIZE, seed: int = 0, head: Head = None
    ) -> None:
        self.examples: Examples = as_examples(data)
        self.found = check_superfeatures(found, self.examples.inputs.flatten(1).shape[1])
        if size < 1:
            raise ConfigError("there are no chimeras", expected="a size of at least 1", got=str(size))
        classes = self.examples.classes
        self.size, self.seed, self.head = size, seed, head
        self.teacher = teacher if isinstance(teacher, Once) else Once(teacher)
        with eval_mode(self.teacher):
            outputs = logits_of(call(self.teacher, self.examples.inputs[:2].to(device_of(self.teacher))), head)
        if outputs.ndim != 2 or outputs.shape[1] != classes:
            raise MismatchError(
                "teacher and data speak of different classes",
                expected=f"logits [batch, {classes}]",
                got=str(list(outputs.shape)),
            )
        group = torch.empty(found.features, dtype=torch.long)
        for number, columns in enumerate(found.groups):
            group[list(columns)] = number
        self.group = group

    @property
    def name(self) -> str:
        """The data's name."""
        return f"chimeras of {self.examples.name}"

    @property
    def ids(self) -> Ids:
        """Their places: a chimera is made of multiple examples."""
        return Places(self.size)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The examples'."""
        return self.examples.class_names

    @property
    def labels(self) -> None:
        """Not known before the teacher is run."""
        return None

    def __len__(self) -> int:
        return self.size

    def order(self, batch_size: int, seed: int, epoch: int) -> tuple[Int[Tensor, "batch"], ...]:
        """The places of the batches of an epoch."""
        return shuffled(self.size, batch_size, seed, epoch)

    def sources(self, index: Int[Tensor, "batch"]) -> Int[Tensor, "batch superfeatures"]:
        """Which example each superfeature of these chimeras comes from."""
        groups = len(self.found.groups)
        with np.errstate(over="ignore"):  # arithmetic modulo 2⁶⁴ is meant
            counter = index.numpy().astype(np.uint64)[:, None] * np.uint64(groups) + np.arange(groups, dtype=np.uint64)
            mixed: Any = counter + np.uint64(draw_seed("chimera", self.seed)) * np.uint64(0x9E3779B97F4A7C15)
            mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            mixed ^= mixed >> np.uint64(31)
        return torch.from_numpy((mixed % np.uint64(len(self.examples))).astype(np.int64))

    def inputs(self, index: Int[Tensor, "batch"]) -> Tensor:
        """The chimeras at these places, shaped as the examples."""
        flat = self.examples.inputs.flatten(1)
        rows = self.sources(index).to(flat.device)[:, self.group.to(flat.device)]
        made = flat.gather(0, rows)
        return made.reshape(len(index), *self.examples.inputs.shape[1:])

    def batches(self, plan: Plan, seed: int) -> Iterator[Batch]:
        """The planned batches, in their order, each made and labelled on demand."""
        for _, index in plan:
            made = self.inputs(index).to(device_of(self.teacher))
            with eval_mode(self.teacher):
                labels = logits_of(call(self.teacher, made), self.head).argmax(dim=1)
            yield Batch(made, labels, index, complete=True)

    def fingerprint(self) -> str:
        """A hash of the examples, the groups, the size, the seed and the teacher."""
        made_of = content_hash(self.examples.inputs, self.group, torch.tensor([self.size, self.seed]))
        return f"{made_of}:{model_hash(self.teacher)}"


@transforms.register("chimeras")
@dataclass(frozen=True)
class ChimericSet(Transform):
    """Recombinations of the examples' groups of columns, labelled by the teacher: `chimeras(((0, 1, 2), (3, 4)), size=100000)`.

    Args:
        groups: Columns of each superfeature in the flattened input; together all of them.
        size: How many chimeras make an epoch.
    """

    groups: tuple[tuple[int, ...], ...]
    size: int = SIZE
    changes: ClassVar[frozenset[str]] = frozenset({"inputs", "labels", "examples"})
    reads_teacher: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "groups", tuple(tuple(group) for group in self.groups))
        given(self.groups)

    def bind(self, split: Split, student: nn.Module | None, teacher: nn.Module | None, seed: int) -> Split:
        """The chimeras of a seed. Raises `ConfigError` without a teacher's model, and what `Chimeras` raises."""
        if teacher is None:
            raise ConfigError("chimeras are labelled by the teacher's model", expected="a model", got="a cached signal")
        return Chimeras(split, given(self.groups), teacher, size=self.size, seed=seed)
