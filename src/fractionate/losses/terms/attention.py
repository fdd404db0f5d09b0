"""Attention terms: score, map, output of each layer, hidden states, and the unified loss in both of its forms.

    Recipe(objective=Objective("kd", 1.0, 1.0), terms=("hidden", *unified(0.5)))

Student and teacher are encoders of transformers (BERT-, RoBERTa-, ViT-like) with any output: one row per example or one per token.
Padding never counts. Source: Kim et al. (EMNLP 2022, arXiv 2211.11014) and their code.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar, Literal, Protocol, TypeAlias

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fractionate.errors import ConfigError, MismatchError
from fractionate.losses.terms.base import Binding, BoundTerm, TermSpec, Unit, term_specs
from fractionate.models.attention_hooks import masked_softmax
from fractionate.system.registry import registered_name
from fractionate.tasks.predictions import AttentionPart, AttentionStates, Needs, Predictions

LEAST = 1e-8  # probabilities of a map are clamped here (the paper's code)
Layers: TypeAlias = Literal["all"] | tuple[int | tuple[int, int], ...]
Scores = Float[Tensor, "batch heads tokens tokens"]
States = Float[Tensor, "batch tokens width"]
Valid = Bool[Tensor, "batch tokens"]
Loss = Float[Tensor, "batch"]


class LayerTerm(TermSpec, Protocol):
    """A comparison of layers, summed over them: "all", numbers of layers in both, or pairs (student's, teacher's).

    Scores and outputs count layers from 0; hidden state 0 is the embeddings and l the output of block l.
    """

    layers: Layers
    measure: ClassVar[str]  # the formula of one layer
    part: ClassVar[AttentionPart]
    unit: ClassVar[Unit] = "example"

    def __post_init__(self) -> None:
        TermSpec.__post_init__(self)
        layers: Any = self.layers
        if layers == "all":
            return
        places = layers if isinstance(layers, (tuple, list)) else ()
        found = tuple(tuple(place) if isinstance(place, list) else place for place in places)
        numbers = [place if isinstance(place, tuple) else (place, place) for place in found]
        if not found or any(len(pair) != 2 or not all(type(i) is int for i in pair) for pair in numbers):
            raise ConfigError(
                f"invalid layers for {self.name}",
                expected="'all', numbers of layers, or pairs (student's, teacher's)",
                got=repr(layers),
                fix="layers=((0, 1), (1, 3))",
            )
        object.__setattr__(self, "layers", found)

    def compare(self, student: Any, teacher: Any, valid: Valid) -> Loss:
        """One layer of both in, one number per example out; `valid` marks the tokens that are not padding."""
        ...

    @property
    def name(self) -> str:
        """The name in the registry."""
        return registered_name(type(self)).rpartition(":")[2] or type(self).__name__

    @property
    def pairs(self) -> tuple[tuple[int, int], ...] | None:
        """Layers as pairs; None for all."""
        if self.layers == "all":
            return None
        return tuple(place if isinstance(place, tuple) else (place, place) for place in self.layers)

    @property
    def needs(self) -> tuple[Needs, Needs]:
        """The layers that are compared, of each."""
        sides = (None, None) if self.pairs is None else tuple(map(frozenset, zip(*self.pairs, strict=True)))
        ours, theirs = (Needs(attention=frozenset({self.part}), layers=layers) for layers in sides)
        return ours, theirs

    @property
    def formula(self) -> str:
        which = "all layers" if self.pairs is None else ", ".join(f"{a} ~ {b}" for a, b in self.pairs)
        return f"Σ over {which} of {self.measure}"

    def places(self, student: int, teacher: int) -> tuple[tuple[int, int], ...]:
        """The pairs of layers to compare, of so many. Raises `ConfigError` where they are not there."""
        first = 1 if self.part == "hidden" else 0
        ours, theirs = student + first, teacher + first
        if self.pairs is None:
            if ours != theirs:
                raise ConfigError(
                    f"{self.name}: student and teacher differ in depth",
                    expected=f"{teacher} layers, as the teacher",
                    got=f"{student}",
                    fix="pair them: layers=((0, 1), (1, 3))",
                )
            return tuple((i, i) for i in range(ours))
        for a, b in self.pairs:
            if not (0 <= a < ours and 0 <= b < theirs):
                raise ConfigError(
                    f"{self.name}: there is no such layer",
                    expected=f"student 0..{ours - 1}, teacher 0..{theirs - 1}",
                    got=f"{a} ~ {b}",
                )
        return self.pairs

    @contextmanager
    def bind(self, at: Binding) -> Iterator[BoundTerm]:
        """Raises `ConfigError` for layers that are not there and `MismatchError` for shapes that differ."""
        ours, theirs = _attention(at.student, self.name), _attention(at.teacher, self.name)
        places = self.places(ours.layers, theirs.layers)
        for a, b in places:
            one, other = _states(ours, self.part)[a], _states(theirs, self.part)[b]
            if one.shape != other.shape:
                what = "heads" if self.part == "scores" else "width"
                raise MismatchError(
                    f"{self.name}: layers {a} ~ {b} differ in shape",
                    expected=f"{list(other.shape)}, as the teacher's",
                    got=f"{list(one.shape)}",
                    fix=f"student and teacher need the same {what}; else use terms on features (fitnets, cka)",
                )

        def term(student: Predictions, teacher: Predictions | None, signal: Any | None) -> Loss:
            ours, theirs = _attention(student, self.name), _attention(teacher, self.name)
            losses = []
            for a, b in places:
                one, other = _states(ours, self.part)[a], _states(theirs, self.part)[b].detach()
                dtype = torch.promote_types(one.dtype, torch.float32)
                losses.append(self.compare(one.to(dtype), other.to(dtype), ours.valid))
            return torch.stack(losses).sum(dim=0)

        yield term


def _attention(predictions: Predictions | None, name: str) -> AttentionStates:
    if predictions is None or predictions.attention is None:
        raise MismatchError(
            f"{name}: there are no attention states", expected="predictions of a reader that was opened for this term"
        )
    return predictions.attention


def _states(attention: AttentionStates, part: AttentionPart) -> Mapping[int, Tensor]:
    return {"scores": attention.scores, "outputs": attention.outputs, "hidden": attention.hidden}[part]


@term_specs.register("score")
@dataclass(frozen=True)
class AttentionScore(LayerTerm):
    """Mean over heads and pairs of tokens of (A_student − A_teacher)², A = Q Kᵀ / √d before the softmax.

    Sees a constant added to a row, which no map shows. The mean is over pairs of tokens that are not padding (the code's is over
    the padded square). Source: TernaryBERT (Zhang et al., arXiv 2009.12812), eq. 10.

    Args:
        weight: Of the term in the loss.
        layers: Which are compared: "all", layer numbers, or pairs (student's, teacher's).

    Example:
        from fractionate import Recipe
        from fractionate.losses.terms import AttentionScore
        recipe = Recipe(terms=(AttentionScore(layers=(0, 1)),))
        print(recipe.contract())
    """

    _: KW_ONLY
    weight: float = 1.0
    layers: Layers = "all"
    measure: ClassVar[str] = "mean (scores of student - scores of teacher)²"
    part: ClassVar[AttentionPart] = "scores"

    def compare(self, student: Scores, teacher: Scores, valid: Valid) -> Loss:
        """The loss of each example."""
        pairs = (valid[:, :, None] & valid[:, None, :])[:, None]
        squares = (student - teacher).masked_fill(~pairs, 0.0).square()
        return squares.sum(dim=(1, 2, 3)) / (student.shape[1] * pairs.sum(dim=(1, 2, 3)))


@term_specs.register("map")
@dataclass(frozen=True)
class AttentionMap(LayerTerm):
    """Mean over heads and rows of KL(map of teacher ‖ map of student), map = softmax(A / temperature), in nats.

    (1/n) Σ_{r,c<n} AM_T log(AM_T / AM_S), n the tokens that are not padding, probabilities clamped at 1e-8. Its gradient in the
    scores is (AM_S − AM_T) / n. Source: Kim et al. (arXiv 2211.11014), their code; temperature 1 there.

    Args:
        weight: Of the term in the loss.
        layers: Which are compared: "all", layer numbers, or pairs (student's, teacher's).
        temperature: Divides the scores.

    Raises:
        ConfigError: A temperature of 0 or below.

    Example:
        from fractionate import Recipe
        from fractionate.losses.terms import AttentionMap
        recipe = Recipe(terms=(AttentionMap(layers=((0, 1), (1, 3)), temperature=2.0),))
        print(recipe.contract())
    """

    _: KW_ONLY
    weight: float = 1.0
    layers: Layers = "all"
    temperature: float = 1.0
    measure: ClassVar[str] = "KL(map of teacher ‖ map of student)"
    part: ClassVar[AttentionPart] = "scores"

    def __post_init__(self) -> None:
        LayerTerm.__post_init__(self)
        if not 0 < self.temperature < math.inf:
            raise ConfigError("invalid temperature of a map", expected="above 0", got=repr(self.temperature))

    @property
    def formula(self) -> str:
        whole = super().formula
        return whole if self.temperature == 1 else f"{whole}, scores / {self.temperature:g}"

    def compare(self, student: Scores, teacher: Scores, valid: Valid) -> Loss:
        """The loss of each example."""
        ours, theirs = (masked_softmax(s / self.temperature, valid).clamp_min(LEAST) for s in (student, teacher))
        pairs = (valid[:, :, None] & valid[:, None, :])[:, None]
        each = torch.where(pairs, theirs * (theirs.log() - ours.log()), 0.0)
        return each.sum(dim=(2, 3)).mean(dim=1) / valid.sum(dim=1)


def mean_square(student: States, teacher: States, valid: Valid) -> Loss:
    """The mean over valid tokens and width of the squared difference."""
    squares = (student - teacher).masked_fill(~valid[..., None], 0.0).square()
    return squares.mean(dim=2).sum(dim=1) / valid.sum(dim=1)


@term_specs.register("output")
@dataclass(frozen=True)
class AttentionOutput(LayerTerm):
    """Mean over tokens and width of (Y_student − Y_teacher)², Y = norm(W_o AM V + X): after residual and LayerNorm.

    Source: Kim et al. (arXiv 2211.11014), their code; without the residual it does not work (their ablation).

    Args:
        weight: Of the term in the loss.
        layers: Which are compared: "all", layer numbers, or pairs (student's, teacher's).

    Example:
        from fractionate import Recipe
        from fractionate.losses.terms import AttentionOutput
        recipe = Recipe(terms=(AttentionOutput(weight=0.5),))
        print(recipe.contract())
    """

    _: KW_ONLY
    weight: float = 1.0
    layers: Layers = "all"
    measure: ClassVar[str] = "mean (attention output of student - of teacher)²"
    part: ClassVar[AttentionPart] = "outputs"

    def compare(self, student: States, teacher: States, valid: Valid) -> Loss:
        """The loss of each example."""
        return mean_square(student, teacher, valid)


@term_specs.register("hidden")
@dataclass(frozen=True)
class HiddenState(LayerTerm):
    """Mean over tokens and width of (X_student − X_teacher)²; layer 0 is the embeddings, layer l the output of block l.

    Source: TinyBERT (Jiao et al., arXiv 1909.10351), eqs. 8-9 without the projection.

    Args:
        weight: Of the term in the loss.
        layers: Which are compared: "all", layer numbers, or pairs (student's, teacher's).

    Example:
        from fractionate import Recipe
        from fractionate.losses.terms import HiddenState
        recipe = Recipe(terms=(HiddenState(layers=((0, 0), (2, 4))),))
        print(recipe.contract())
    """

    _: KW_ONLY
    weight: float = 1.0
    layers: Layers = "all"
    measure: ClassVar[str] = "mean (hidden states of student - of teacher)²"
    part: ClassVar[AttentionPart] = "hidden"

    def compare(self, student: States, teacher: States, valid: Valid) -> Loss:
        """The loss of each example."""
        return mean_square(student, teacher, valid)


def unified(
    gamma: float | None = None, *, map_weight: float | None = None, output_weight: float | None = None
) -> tuple[AttentionMap, AttentionOutput]:
    """Map and output together: gamma · map + (1 − gamma) · output, or two free coefficients.

    The paper writes the first form, its code computes the second and sweeps one coefficient while the other is 1.
    Source: Kim et al. (arXiv 2211.11014).

    Args:
        gamma: Share of the map, in [0, 1].
        map_weight: In place of gamma; 1 where only `output_weight` is given.
        output_weight: In place of gamma; 1 where only `map_weight` is given.

    Returns:
        The two terms, for `Recipe(terms=...)`.

    Raises:
        ConfigError: for both forms at once or neither, and for a gamma outside [0, 1].

    Example:
        from fractionate.losses.terms import unified

        print([term.weight for term in unified(0.3)])
    """
    free = (map_weight, output_weight)
    if (gamma is None) == (free == (None, None)):
        raise ConfigError(
            "the unified loss has two forms",
            expected="gamma, or map_weight and output_weight",
            got="both" if gamma is not None else "neither",
            fix="unified(0.5), or unified(map_weight=1.0, output_weight=0.4)",
        )
    if gamma is not None:
        if not 0 <= gamma <= 1:
            raise ConfigError("invalid value for gamma", expected="a number in [0, 1]", got=repr(gamma))
        return AttentionMap(weight=gamma), AttentionOutput(weight=1 - gamma)
    own, other = (1.0 if weight is None else weight for weight in free)
    return AttentionMap(weight=own), AttentionOutput(weight=other)
