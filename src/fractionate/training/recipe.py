"""Recipe: what is varied. Student, preparations, objective, terms, transforms and training, each in a run's identity."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from fractionate.data.transforms import Transform, transforms
from fractionate.errors import ConfigError
from fractionate.losses.objective import Objective
from fractionate.losses.terms.base import TermSpec, term_specs
from fractionate.models import explaining, from_teacher, lora, quantize  # noqa: F401 (each registers its preparation)
from fractionate.models.preparations import Preparation, preparations
from fractionate.records import Contract, Recommendation, Training
from fractionate.teachers import chimeras as chimera  # noqa: F401 (each registers its transform)


@dataclass(frozen=True)
class Recipe:
    """How a student of a task is prepared and trained.

        Recipe(objective=Objective("kd", 4.0, 0.9), terms=("fitnets('0', '2', weight=0.5)",))

    Args:
        student: The task's model by name.
        preparations: Changes to the student before training, in order, as specs or by name: "quantize(2, 8)",
            "from_teacher(layers='every 2')", "lora(8)".
        objective: The loss on the teacher's outputs; None: labels alone.
        objective_weight: Weight of the objective (or label loss) next to the terms.
        terms: Further losses, as specs or by name.
        data: Transforms of the transfer set, as specs or by name: "augment(crop=2)", "on_policy(0.5)", "sequence_level(beams=4)",
            "chimeras(...)".
        training: Length, rate, optimizer, precision.

    Raises:
        ConfigError: A part that is neither a spec nor a name, or a weight below 0.
        UnknownNameError: A name that no registry has.

    Example:
        from fractionate import Objective, Recipe
        from fractionate.records import Training
        recipe = Recipe(objective=Objective("kd", 2.0, 0.9), terms=("ranking(5)",), training=Training(steps=100))
        print(recipe.contract())
    """

    student: str = "student"
    preparations: tuple[Preparation | str, ...] = ()
    objective: Objective | None = None
    objective_weight: float = 1.0
    terms: tuple[TermSpec | str, ...] = ()
    data: tuple[Transform | str, ...] = ()
    training: Training = field(default_factory=Training)

    def __post_init__(self) -> None:
        for name, known in (("terms", term_specs), ("preparations", preparations), ("data", transforms)):
            parts = getattr(self, name)
            if isinstance(parts, str):
                raise ConfigError(f"invalid value for {name}", expected="a tuple of specs or names", got=repr(parts))
            made = tuple(known[part] if isinstance(part, str) else part for part in parts)
            object.__setattr__(self, name, made)
        for name, kind in (("objective", Objective), ("training", Training)):
            value = getattr(self, name)
            if not isinstance(value, kind) and not (name == "objective" and value is None):
                raise ConfigError(
                    f"{name}= is no {kind.__name__}", expected=f"{kind.__name__}(...)", got=repr(value)[:80]
                )
        self.training.check()
        weight = self.objective_weight
        if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0 <= weight < float("inf"):
            raise ConfigError("invalid value for objective_weight", expected="a number of at least 0", got=repr(weight))

    @classmethod
    def recommended(cls, advice: Recommendation, training: Training | None = None, **parts: Any) -> Recipe:
        """The recipe that a diagnosis recommends: its objective, and the training given at its learning rate.

        `parts` are further fields: student, preparations, terms. Raises `MismatchError` where a fault has to be repaired first.
        """
        training = training or Training()
        training = replace(training, learning_rate=training.learning_rate * advice.learning_rate_factor)
        if advice.terms and not advice.repair:  # a task without classes
            return cls(training=training, **{**parts, "terms": (*parts.get("terms", ()), *advice.terms)})
        return cls(objective=Objective.from_recipe(advice), training=training, **parts)

    @property
    def specs(self) -> tuple[TermSpec, ...]:
        """The terms, none of them by name."""
        return tuple(term for term in self.terms if not isinstance(term, str))

    @property
    def preparation_specs(self) -> tuple[Preparation, ...]:
        """The preparations, none of them by name."""
        return tuple(part for part in self.preparations if not isinstance(part, str))

    @property
    def transform_specs(self) -> tuple[Transform, ...]:
        """The transforms, none of them by name."""
        return tuple(part for part in self.data if not isinstance(part, str))

    @property
    def uses_teacher(self) -> bool:
        """Whether the teacher's outputs or insides are learned from."""
        learns = self.objective is not None and self.objective.teacher_weight > 0 and self.objective_weight > 0
        return learns or any(spec.reads_teacher and spec.weight > 0 for spec in self.specs)

    @property
    def opens_teacher(self) -> bool:
        """Whether the teacher is read in training: by the objective or a term, whatever their weight."""
        return self.objective is not None or any(spec.reads_teacher for spec in self.specs)

    @property
    def needs_teacher(self) -> bool:
        """Whether a teacher has to be at hand, for losses, transforms or preparations."""
        parts: tuple[Preparation | Transform, ...] = (*self.preparation_specs, *self.transform_specs)
        return self.opens_teacher or any(part.reads_teacher for part in parts)

    def formula(self, label_loss: str = "CE(label, student)") -> str:
        """The whole loss in one line, terms with their weights."""
        base = label_loss if self.objective is None else self.objective.describe().formula
        summed = " + " in base and self.specs
        first = base if self.objective_weight == 1 else f"{self.objective_weight:g} · [{base}]"
        parts = [first if not summed or self.objective_weight != 1 else base]
        parts += [f"{spec.weight:g} · {spec.formula}" for spec in self.specs]
        return " + ".join(parts)

    def contract(self, label_loss: str = "CE(label, student)") -> Contract | None:
        """What is computed, as a record: the objective's contract with weights, terms, preparations and transforms.

        `label_loss` is the formula of the task's loss on labels.
        """
        if self.objective is None and not self.specs:
            return None
        plain = Objective("hard", 1.0, 0.0) if self.objective is None else self.objective
        return replace(
            plain.describe(),
            formula=self.formula(label_loss),
            objective_weight=float(self.objective_weight),
            terms=tuple(f"{spec.weight:g} · {spec.formula}  (mean over {spec.unit}s)" for spec in self.specs),
            preparations=tuple(map(repr, self.preparations)),
            transforms=tuple(map(repr, self.data)),
            uses_teacher=self.uses_teacher,
        )
