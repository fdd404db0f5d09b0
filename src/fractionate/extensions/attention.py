"""Attention terms: score, map, output of each layer, hidden states, and the unified loss in both of its forms.

    with attended(student, teacher, [Match("hidden"), *unified(0.5)], example=inputs) as term:
        distill(student, data, signal, objective=Objective("kd", 1.0, 1.0), terms=[term])

The logit loss is the objective (`kd` at temperature 1, teacher weight 1). Student and teacher are encoders of transformers
(BERT-, RoBERTa-, ViT-like), watched by hooks and as they are; padding never counts. Source: Kim et al. (EMNLP 2022, arXiv
2211.11014) and their code.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from fractionate.errors import ConfigError, MismatchError
from fractionate.models.attention_hooks import Watch, find_layers, masked_softmax, watching
from fractionate.models.modes import eval_mode
from fractionate.outputs import call
from fractionate.registry import Registry

LEAST = 1e-8  # probabilities of a map are clamped here (the paper's code)
Precision = Literal["float32", "bfloat16", "float16"]
Sight = Literal["scores", "outputs", "hidden"]
Scores = Float[Tensor, "batch heads tokens tokens"]
States = Float[Tensor, "batch tokens width"]
Valid = Bool[Tensor, "batch tokens"]
Loss = Float[Tensor, "batch"]


@runtime_checkable
class LayerComparison(Protocol):
    """What one layer of student and teacher computed in, one number an example out; `valid` marks what is no padding."""

    sees: ClassVar[Sight]

    def __call__(self, student: Tensor, teacher: Tensor, valid: Valid) -> Loss: ...


attention_terms: Registry[LayerComparison] = Registry("attention term", "fractionate.attention_terms")


@attention_terms.register("score")
@dataclass(frozen=True)
class AttentionScore:
    """Mean over heads and pairs of tokens of (A_student − A_teacher)², A = Q Kᵀ / √d before the softmax.

    Sees a constant added to a row, which no map shows. The mean is over pairs of tokens that are no padding (the code's is over
    the padded square). Source: TernaryBERT (Zhang et al., arXiv 2009.12812), eq. 10.
    """

    sees: ClassVar[Sight] = "scores"

    def __call__(self, student: Scores, teacher: Scores, valid: Valid) -> Loss:
        pairs = (valid[:, :, None] & valid[:, None, :])[:, None]
        squares = (student - teacher).masked_fill(~pairs, 0.0).square()
        return squares.sum(dim=(1, 2, 3)) / (student.shape[1] * pairs.sum(dim=(1, 2, 3)))


@attention_terms.register("map")
@dataclass(frozen=True)
class AttentionMap:
    """Mean over heads and rows of KL(map of teacher ‖ map of student), map = softmax(A / temperature), in nats.

    (1/n) Σ_{r,c<n} AM_T log(AM_T / AM_S), n the tokens that are no padding, probabilities clamped at 1e-8. Its gradient in the
    scores is (AM_S − AM_T) / n. Source: Kim et al. (arXiv 2211.11014), their code; temperature 1 there.
    """

    temperature: float = 1.0
    sees: ClassVar[Sight] = "scores"

    def __post_init__(self) -> None:
        if not 0 < self.temperature < math.inf:
            raise ConfigError("the temperature of a map cannot be used", expected="above 0", got=repr(self.temperature))

    def __call__(self, student: Scores, teacher: Scores, valid: Valid) -> Loss:
        ours, theirs = (masked_softmax(s / self.temperature, valid).clamp_min(LEAST) for s in (student, teacher))
        pairs = (valid[:, :, None] & valid[:, None, :])[:, None]
        each = torch.where(pairs, theirs * (theirs.log() - ours.log()), 0.0)
        return each.sum(dim=(2, 3)).mean(dim=1) / valid.sum(dim=1)


def _squares(student: States, teacher: States, valid: Valid) -> Loss:
    squares = (student - teacher).masked_fill(~valid[..., None], 0.0).square()
    return squares.mean(dim=2).sum(dim=1) / valid.sum(dim=1)


@attention_terms.register("output")
@dataclass(frozen=True)
class AttentionOutput:
    """Mean over tokens and width of (Y_student − Y_teacher)², Y = norm(W_o AM V + X): after residual and LayerNorm.

    Source: Kim et al. (arXiv 2211.11014), their code; without the residual it does not work (their ablation).
    """

    sees: ClassVar[Sight] = "outputs"

    def __call__(self, student: States, teacher: States, valid: Valid) -> Loss:
        return _squares(student, teacher, valid)


@attention_terms.register("hidden")
@dataclass(frozen=True)
class HiddenStates:
    """Mean over tokens and width of (X_student − X_teacher)²; layer 0 is the embeddings, layer l the output of block l.

    Source: TinyBERT (Jiao et al., arXiv 1909.10351), eqs. 8-9 without the projection.
    """

    sees: ClassVar[Sight] = "hidden"

    def __call__(self, student: States, teacher: States, valid: Valid) -> Loss:
        return _squares(student, teacher, valid)


@dataclass(frozen=True)
class Match:
    """One comparison at some layers, summed over them: all, places in both, or pairs (student's, teacher's)."""

    comparison: LayerComparison | str
    weight: float = 1.0
    layers: Literal["all"] | tuple[int | tuple[int, int], ...] = "all"
    name: str = ""

    def __post_init__(self) -> None:
        written = self.comparison if isinstance(self.comparison, str) else type(self.comparison).__name__
        if isinstance(self.comparison, str):
            object.__setattr__(self, "comparison", attention_terms[self.comparison])
        if not (isinstance(self.weight, (int, float)) and 0 <= self.weight < math.inf):
            raise ConfigError(f"the weight of {written} cannot be used", expected="at least 0", got=repr(self.weight))
        if self.layers != "all" and not self.layers:
            raise ConfigError(f"{written} is matched at no layer", expected="'all', or at least one layer")
        object.__setattr__(self, "name", self.name or written)

    def places(self, student: int, teacher: int) -> list[tuple[int, int]]:
        """The pairs of layers to compare, of so many. Raises `ConfigError` where they are not there."""
        assert not isinstance(self.comparison, str)
        first = 1 if self.comparison.sees == "hidden" else 0
        ours, theirs = student + first, teacher + first
        if self.layers == "all":
            if ours != theirs:
                raise ConfigError(
                    f"{self.name}: student and teacher differ in depth", expected=f"{teacher} layers, as the teacher",
                    got=f"{student}", fix="pair them: layers=((0, 1), (1, 3))",
                )  # fmt: skip
            return [(i, i) for i in range(ours)]
        pairs = [place if isinstance(place, tuple) else (place, place) for place in self.layers]
        for a, b in pairs:
            if not (0 <= a < ours and 0 <= b < theirs):
                raise ConfigError(
                    f"{self.name}: there is no such layer",
                    expected=f"student 0..{ours - 1}, teacher 0..{theirs - 1}",
                    got=f"{a} ~ {b}",
                )
        return pairs


def unified(
    gamma: float | None = None, *, map_weight: float | None = None, output_weight: float | None = None
) -> tuple[Match, Match]:
    """Map and output together: `unified(gamma)` is gamma · map + (1 − gamma) · output, else two free coefficients.

    The paper writes the first form, its code computes the second and sweeps one coefficient while the other is 1. Raises
    `ConfigError` for both forms at once or neither, and for a gamma outside [0, 1].
    """
    free = (map_weight, output_weight)
    if (gamma is None) == (free == (None, None)):
        raise ConfigError(
            "the unified loss has two forms", expected="gamma, or map_weight and output_weight",
            got="both" if gamma is not None else "neither", fix="unified(0.5), or unified(map_weight=1.0, output_weight=0.4)",
        )  # fmt: skip
    if gamma is not None:
        if not 0 <= gamma <= 1:
            raise ConfigError("gamma cannot be used", expected="a number in [0, 1]", got=repr(gamma))
        return Match("map", gamma), Match("output", 1 - gamma)
    return tuple(Match(n, 1.0 if w is None else w) for n, w in zip(("map", "output"), free, strict=True))  # type: ignore[return-value]


class Attending:
    """The weighted sum of matches as one term. `values`: each match's last losses, unweighted, summed over layers."""

    def __init__(
        self,
        matches: Sequence[Match],
        student: Watch,
        teacher: Watch,
        model: nn.Module,
        precision: Precision = "float32",
    ) -> None:
        self.matches, self.student, self.teacher, self.model = tuple(matches), student, teacher, model
        self.precision = precision
        self.values: dict[str, Tensor] = {}

    def each(self, batch: Any) -> dict[str, Loss]:
        """Every match's losses on the batch that the student has just seen."""
        valid = self.student.required_valid
        if len(valid) != len(batch.labels):
            raise MismatchError(
                "the student ran on another batch", expected=f"{len(batch.labels)} examples", got=str(len(valid))
            )
        half = torch.bfloat16 if self.precision == "bfloat16" else torch.float16
        with eval_mode(self.model), torch.autocast(valid.device.type, half, enabled=self.precision != "float32"):
            call(self.model, batch.inputs)
        found = {}
        for match in self.matches:
            assert not isinstance(match.comparison, str)
            ours, theirs = (getattr(w, match.comparison.sees) for w in (self.student, self.teacher))
            losses = []
            for a, b in match.places(len(self.student.layers), len(self.teacher.layers)):
                one, other = ours[a], theirs[b].detach()
                dtype = torch.promote_types(one.dtype, torch.float32)
                losses.append(match.comparison(one.to(dtype), other.to(dtype), valid))
            found[match.name] = torch.stack(losses).sum(dim=0)
        return found

    def __call__(self, output: Any, batch: Any, signal: Any) -> Loss:
        found = self.each(batch)
        self.values = {name: value.detach() for name, value in found.items()}
        return torch.stack([match.weight * found[match.name] for match in self.matches]).sum(dim=0)


@contextmanager
def attended(
    student: nn.Module, teacher: nn.Module, matches: Sequence[Match], *, example: Any, precision: Precision = "float32"
) -> Iterator[Attending]:
    """Watch student and teacher, and give the term that `distill` takes.

    `example` is a small batch of inputs, on which both are run once to find their layers; `precision` is the teacher's forward
    pass (the student's is the training's). Within the block both attend by the
    plain formula, whatever kernel they were set to; afterwards all is as it was. Raises `ConfigError` for matches that cannot be
    meant and `MismatchError` where attention cannot be seen or shapes differ.
    """
    if not matches:
        raise ConfigError("there is nothing to match", fix="leave the block out")
    names = [match.name for match in matches]
    if len(set(names)) != len(names):
        raise ConfigError("two matches have one name", got=", ".join(names), fix="give them names")
    layers = [find_layers(model, example) for model in (student, teacher)]
    with watching(student, layers[0]) as ours, watching(teacher, layers[1]) as theirs:
        term = Attending(matches, ours, theirs, teacher, precision)
        _check(term, student, example)
        yield term


def _check(term: Attending, student: nn.Module, example: Any) -> None:
    """Run both once and compare the shapes that will meet."""
    with eval_mode(student):
        call(student, example)
    with eval_mode(term.model):
        call(term.model, example)
    for match in term.matches:
        assert not isinstance(match.comparison, str)
        sees = match.comparison.sees
        for a, b in match.places(len(term.student.layers), len(term.teacher.layers)):
            one, other = getattr(term.student, sees)[a], getattr(term.teacher, sees)[b]
            if one.shape != other.shape:
                what = "heads" if sees == "scores" else "width"
                raise MismatchError(
                    f"{match.name}: layers {a} ~ {b} differ in shape", expected=f"{list(other.shape)}, as the teacher's",
                    got=f"{list(one.shape)}",
                    fix=f"student and teacher need the same {what}; else use terms on features (fitnets, cka)",
                )  # fmt: skip
