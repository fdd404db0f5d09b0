"""Cells: named pairs of a confidence rule and a shape rule. Each is one distillation target.

`target[y] = confidence`, `target[others] = (1 - confidence) * shape`. Any pair is legal; `CELLS` holds the ones with names.
Names take arguments (`CELLS["ls(0.1)"]`, `CELLS["kd-topk(5)"]`), and `as_cell("class-mean * instance")` builds any pair by
the names of its rules.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from fractionate.errors import ConfigError
from fractionate.system.registry import Registry
from fractionate.theory import confidence as confidence_rules
from fractionate.theory import shape as shape_rules
from fractionate.theory.confidence import ConfidenceRule, Level, confidences
from fractionate.theory.shape import ShapeRule, shapes
from fractionate.theory.teacher_signal import TeacherSignal

LEVELS: tuple[Level, ...] = ("universe", "domain", "instance")


@dataclass(frozen=True)
class Cell:
    """One distillation target: a confidence rule times a shape rule, given as rules or by name.

    Args:
        confidence: How much of the target the label gets.
        shape: How the rest is divided among the other classes.
        name: What it is called in tables; left out, made of the rules.

    Raises:
        ConfigError: A rule is no confidence or shape rule.
        UnknownNameError: No rule has this name.

    Source: Tang et al. 2020 (arXiv 2002.03532).

    Example:
        import torch
        from fractionate import Cell, TeacherSignal
        signal = TeacherSignal(torch.randn(4, 3), torch.tensor([0, 1, 2, 0]))
        print(Cell("instance", "uniform").target(signal))  # the targets [examples, classes]
    """

    confidence: ConfidenceRule | str
    shape: ShapeRule | str
    name: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        written = f"{_written(self.confidence)} * {_written(self.shape)}"
        if isinstance(self.confidence, str):
            object.__setattr__(self, "confidence", confidences[self.confidence])
        if isinstance(self.shape, str):
            object.__setattr__(self, "shape", shapes[self.shape])
        for kind, rule, protocol in (("confidence", self.confidence, ConfidenceRule), ("shape", self.shape, ShapeRule)):
            if isinstance(rule, type) or not isinstance(rule, protocol):
                raise ConfigError(
                    f"this is not a {kind} rule",
                    expected=f"a name ({', '.join(confidences if kind == 'confidence' else shapes)}) or a rule with a level",
                    got=repr(rule),
                )
        object.__setattr__(self, "name", self.name or written)

    def target(self, signal: TeacherSignal, temperature: float = 1.0) -> Float[Tensor, "batch classes"]:
        """The target distribution of each example: rows sum to 1, the label gets exactly the confidence.

        Computed in float32, or in float64 where the signal is float64; no gradient flows back.
        """
        assert not isinstance(self.confidence, str) and not isinstance(self.shape, str)
        signal = signal.at(temperature)
        with torch.no_grad():
            if isinstance(self.confidence, confidence_rules.Instance) and isinstance(self.shape, shape_rules.Instance):
                return signal.probabilities  # the same numbers, in one softmax
            label_mass = self.confidence(signal)[:, None]
            target = (1 - label_mass) * self.shape(signal)
            return target.scatter(1, signal.labels[:, None], label_mass.to(target.dtype))

    @property
    def level(self) -> Level:
        """The highest level the target is a function of. A certain confidence leaves no mass to a shape: universe."""
        assert not isinstance(self.confidence, str) and not isinstance(self.shape, str)
        if isinstance(self.confidence, confidence_rules.Certain):
            return "universe"
        return max(self.confidence.level, self.shape.level, key=LEVELS.index)

    def __str__(self) -> str:
        return self.name


def _written(rule: object) -> str:
    return rule if isinstance(rule, str) else repr(rule)


def _named(name: str, power: float, sharpness: float) -> str:
    """A name that builds the cell again, to the last digit."""
    return name if (power, sharpness) == (0.5, 0.3) else f"{name}({float(power)!r}, {float(sharpness)!r})"


CELLS: Registry[Cell] = Registry("cell", "fractionate.cells")


@CELLS.register("hard")
def hard() -> Cell:
    """The label alone: no teacher."""
    return Cell("certain", "uniform", "hard")


@CELLS.register("ls")
def ls(epsilon: float | None = None) -> Cell:
    """Label smoothing: as strong as the teacher's average uncertainty, or with a fixed epsilon."""
    if epsilon is None:
        return Cell("mean", "uniform", "ls")
    return Cell(confidence_rules.Smoothed(epsilon), "uniform", f"ls({float(epsilon)!r})")


@CELLS.register("class-mean")
def class_mean() -> Cell:
    """The teacher's mean prediction for the label's class: all of the domain level."""
    return Cell("class-mean", "class-mean", "class-mean")


@CELLS.register("kd-sim")
def kd_sim(power: float = 0.5, sharpness: float = 0.3) -> Cell:
    """Class relations alone, from similarities of the teacher's logit-layer rows where given, else from class means."""
    return Cell(
        confidence_rules.Relation(power, sharpness),
        shape_rules.Relation(power, sharpness),
        _named("kd-sim", power, sharpness),
    )


@CELLS.register("kd-pt")
def kd_pt() -> Cell:
    """The teacher's confidence in each example, the rest flat: instance level without class relations."""
    return Cell("instance", "uniform", "kd-pt")


@CELLS.register("kd-pt+sim")
def kd_pt_sim(power: float = 0.5, sharpness: float = 0.3) -> Cell:
    """The teacher's confidence in each example, the rest by class relation."""
    return Cell(
        "instance",
        shape_rules.Relation(power, sharpness),
        _named("kd-pt+sim", power, sharpness),
    )


@CELLS.register("kd-topk")
def kd_topk(k: int | None = None) -> Cell:
    """The teacher's k largest classes of each example, the remaining mass flat."""
    return Cell(confidence_rules.TopK(k), shape_rules.TopK(k), "kd-topk" if k is None else f"kd-topk({k})")


@CELLS.register("kd")
def kd() -> Cell:
    """The teacher's whole distribution for each example (Hinton et al., arXiv 1503.02531)."""
    return Cell("instance", "instance", "kd")


@CELLS.register("kd-pt-shuffled")
def kd_pt_shuffled(seed: int = 0) -> Cell:
    """Placebo of kd-pt: the confidences belong to other examples."""
    return Cell(confidence_rules.Shuffled(seed), "uniform", "kd-pt-shuffled")


@CELLS.register("kd-pt-shuffled-within-class")
def kd_pt_shuffled_within_class(seed: int = 0) -> Cell:
    """Placebo of kd-pt: the confidences belong to other examples of the same class."""
    return Cell(confidence_rules.ShuffledWithinClass(seed), "uniform", "kd-pt-shuffled-within-class")


@CELLS.register("kd-sim-permuted")
def kd_sim_permuted(seed: int = 0) -> Cell:
    """Placebo of kd-sim: the relations belong to other classes."""
    return Cell("relation", shape_rules.Permuted("relation", seed), "kd-sim-permuted")


@CELLS.register("class-mean-permuted")
def class_mean_permuted(seed: int = 0) -> Cell:
    """Placebo of class-mean: the shapes belong to other classes."""
    return Cell("class-mean", shape_rules.Permuted("class-mean", seed), "class-mean-permuted")


@CELLS.register("kd-shuffled")
def kd_shuffled(seed: int = 0) -> Cell:
    """Placebo of kd: the right confidence, the shape of another example of the same class."""
    return Cell("instance", shape_rules.ShuffledWithinClass(seed), "kd-shuffled")


PLACEBOS: dict[str, str] = {  # placebo -> the cell it stands next to
    "kd-pt-shuffled": "kd-pt",
    "kd-pt-shuffled-within-class": "kd-pt",
    "kd-sim-permuted": "kd-sim",
    "class-mean-permuted": "class-mean",
    "kd-shuffled": "kd",
}


def as_cell(cell: Cell | str) -> Cell:
    """A cell as it is, by its name in `CELLS`, or by its rules: `as_cell("class-mean * instance")`."""
    if isinstance(cell, Cell):
        return cell
    if not isinstance(cell, str):
        raise ConfigError(
            "this is not a cell",
            expected="a Cell, its name ('kd'), or two rules ('class-mean * instance')",
            got=repr(cell),
        )
    confidence, star, shape = cell.partition("*")
    return Cell(confidence.strip(), shape.strip()) if star else CELLS[cell]
