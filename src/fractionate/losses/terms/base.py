"""Terms: further losses of a recipe, as frozen data. A spec is bound to example predictions and gives a loss; it sees no model."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fractionate.data.sampling import draw_seed
from fractionate.errors import ConfigError
from fractionate.system.registry import Registry, registered_name
from fractionate.tasks.predictions import Needs, Predictions

Unit = Literal["row", "example"]


class BoundTerm(Protocol):
    """A term ready to run: one number for each row or each example of the batch, by the spec's unit, not yet weighted."""

    def __call__(
        self, student: Predictions, teacher: Predictions | None, signal: Any | None
    ) -> Float[Tensor, "rows_or_examples"]: ...


@dataclass(frozen=True, eq=False, kw_only=True)
class Binding:
    """What a spec may read when it is bound.

    Args:
        student: The student's predictions on a small batch in evaluation mode, for shapes; None where nothing reads them.
        teacher: The teacher's on the same batch; None where no term reads them.
        signal: The teacher's signal on the same batch; None where no term reads it.
        teacher_on_all: Reads the teacher on the whole transfer set, in its order and batch by batch, for terms that need
            statistics of all the data; None where the teacher cannot be run.
        examples: Size of the transfer set, for memories.
        generator: Seeded by (run seed, term), so that trained parts start alike whatever ran before.
        parts: Where the term puts the module that is trained with the student (checkpointed, not exported), under `name`.
        name: The key of this term in `parts`.
        models: Student and teacher, for terms that call them again (iterative decoding); (student, None) without a teacher.
        precision: Of the forward pass of the training: float32, bfloat16 or float16.
    """

    student: Predictions | None
    teacher: Predictions | None
    examples: int
    generator: torch.Generator
    parts: nn.ModuleDict
    name: str
    models: tuple[nn.Module, nn.Module | None]
    signal: Any | None = None
    teacher_on_all: Callable[[], Iterable[Predictions]] | None = None
    precision: str = "float32"


@runtime_checkable
class TermSpec(Protocol):
    """A further loss of a recipe: frozen, registered, hashed into a run's identity and printed in its contract.

    A loss of unit "row" is averaged over the rows of a step, of unit "example" over its examples; then it is multiplied by
    `weight`. A spec that names this class as its base states only what differs from the defaults below.
    """

    weight: float
    version: ClassVar[int] = 1  # raised when the arithmetic changes
    unit: ClassVar[Unit] = "row"
    reads_teacher: ClassVar[bool] = True  # its signal or its predictions: a variant with such a term uses a teacher
    reads_signal: ClassVar[bool] = False
    reads_numbers: ClassVar[bool] = False  # its signal is of numbers: for tasks without classes

    @property
    def couples_batch(self) -> bool:
        """Whether an example's loss depends on the others of its batch: no micro-batches, one process."""
        return False

    @property
    def needs(self) -> tuple[Needs, Needs]:
        """What is read of the student's forward pass and of the teacher's."""
        return Needs(), Needs()

    @property
    def formula(self) -> str: ...

    def bind(self, at: Binding) -> AbstractContextManager[BoundTerm]: ...

    def __post_init__(self) -> None:
        check_weight(self.weight, registered_name(type(self)).replace(":", " ") or type(self).__name__)


term_specs: Registry[TermSpec] = Registry(
    "term",
    "fractionate.terms",
    files=(
        "losses.terms.attention",
        "losses.terms.balance",
        "losses.terms.candidates",
        "losses.terms.contrastive",
        "losses.terms.explanations",
        "losses.terms.features",
        "losses.terms.number_terms",
        "losses.terms.passes",
        "losses.terms.ranking",
        "losses.terms.smoothing",
        "losses.terms.states",
    ),
)


def as_spec(term: TermSpec | str) -> TermSpec:
    """A term as it is, or by its name."""
    return term_specs[term] if isinstance(term, str) else term


def check_weight(weight: object, what: str) -> None:
    """Raise `ConfigError` unless a weight is a number of at least 0."""
    if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0 <= weight < math.inf:
        raise ConfigError(f"invalid weight for {what}", expected="a number of at least 0", got=repr(weight))


def formula_of(spec: TermSpec) -> str:
    """A term of the loss as the contract prints it: its weight and its formula."""
    return f"{spec.weight:g} · {spec.formula}"


def needs_of(specs: Sequence[TermSpec]) -> tuple[Needs, Needs]:
    """What all terms together need of the student's pass and of the teacher's."""
    student, teacher = Needs(), Needs()
    for spec in specs:
        ours, theirs = spec.needs
        student, teacher = student | ours, teacher | theirs
    return student, teacher


def names_of(specs: Sequence[TermSpec]) -> tuple[str, ...]:
    """A key for each term: its class and number, stable in its order."""
    return tuple(f"{type(spec).__name__.lower()}_{number}" for number, spec in enumerate(specs))


@contextmanager
def bind_terms(
    specs: Sequence[TermSpec],
    *,
    student: Predictions | None,
    teacher: Predictions | None,
    examples: int,
    seed: int,
    parts: nn.ModuleDict,
    models: tuple[nn.Module, nn.Module | None],
    signal: Any | None = None,
    teacher_on_all: Callable[[], Iterable[Predictions]] | None = None,
    precision: str = "float32",
) -> Iterator[tuple[BoundTerm, ...]]:
    """All terms of a recipe, bound, in a `with` block. The global random state is the same afterwards.

    Args:
        specs: The terms.
        student: The student's predictions on a small batch.
        teacher: The teacher's on the same batch; None where no term reads them.
        examples: Size of the transfer set.
        seed: Of the run; each term draws from (seed, its name).
        parts: Where terms put the modules that are trained with the student.
        models: Student and teacher, for terms that call them again.
        signal: The teacher's on the same batch; None where no term reads it.
        teacher_on_all: Reads the teacher on the whole transfer set.
        precision: Of the forward pass of the training.

    Returns:
        The bound terms, as the target of `with`.

    Example:
        import torch
        from torch import nn
        from fractionate.losses.terms import bind_terms

        parts, models = nn.ModuleDict(), (nn.Linear(8, 4), None)
        with bind_terms([], student=None, teacher=None, examples=40, seed=0, parts=parts, models=models) as terms:
            print(terms)
    """
    with ExitStack() as stack:
        found = []
        for name, spec in zip(names_of(specs), specs, strict=True):
            drawn = draw_seed("term", seed, name)
            at = Binding(
                student=student,
                teacher=teacher,
                examples=examples,
                generator=torch.Generator().manual_seed(drawn),
                parts=parts,
                name=name,
                models=models,
                signal=signal,
                teacher_on_all=teacher_on_all,
                precision=precision,
            )
            with torch.random.fork_rng(devices=[]):  # layers draw from the global generator
                torch.default_generator.manual_seed(drawn)
                found.append(stack.enter_context(spec.bind(at)))
        yield tuple(found)
