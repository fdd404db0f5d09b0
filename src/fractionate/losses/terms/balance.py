"""Terms at stated shares of the main loss' gradient: norms are measured along the training and logged by name."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from fractionate.errors import ConfigError
from fractionate.losses.objective import Objective
from fractionate.losses.terms.base import Binding, BoundTerm, TermSpec, Unit, as_spec, names_of, needs_of, term_specs
from fractionate.system.paths import as_path
from fractionate.tasks.predictions import Needs, Predictions


def gradient_norm(loss: Tensor, parameters: list[nn.Parameter]) -> float:
    """The length of d loss / d parameters; the graph stays for the step's own backward pass."""
    if not (loss.requires_grad and parameters):
        return 0.0
    gradients = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
    return float(
        torch.stack([g.double().square().sum() for g in gradients if g is not None] or [torch.zeros(())]).sum().sqrt()
    )


class BalanceState(nn.Module):
    """How often a balance was called and measured, and its weights; buffers, so that a resumed run continues with them."""

    calls: Tensor
    measured: Tensor
    weights: Tensor

    def __init__(self, weights: list[float]) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))
        self.register_buffer("measured", torch.zeros((), dtype=torch.long))
        self.register_buffer("weights", torch.tensor(weights, dtype=torch.float64))


@term_specs.register("balance")
@dataclass(frozen=True)
class Balance(TermSpec):
    """Terms of one unit, each at its own weight or at a stated share of the main loss' gradient.

    At a share, weight = share · |gradient of the main loss| / |gradient of the term| over the student's parameters, measured every
    `every` calls and smoothed in its logarithm: share 0.5 means half the pull of the main loss. In the spirit of GradNorm (Chen et
    al., arXiv 1711.02257), with the targets stated instead of learned.

    Args:
        terms: Specs, or their names: `balance(("map", "output"), shares=(0.5, None))`.
        shares: One per term; None keeps the term's own weight.
        main: The main loss; None: cross-entropy with the labels.
        log: A JSON lines file with a row for each measurement: step, name, raw loss, gradient norm, weight.
        weight: Of the whole in the loss.
        every: Calls between two measurements.
        smoothing: Share of the last measurement that stays, in [0, 1).

    Raises:
        ConfigError: Unless there is a share for each term, and for terms of different units.

    Example:
        from fractionate import Objective, Recipe
        from fractionate.losses.terms import Balance
        balance = Balance(("cka('0', '0')",), shares=(0.5,))  # half of the gradient of the objective
        print(Recipe(objective=Objective("kd"), terms=(balance,)).contract())
    """

    terms: tuple[TermSpec, ...]
    _: KW_ONLY
    shares: tuple[float | None, ...]
    main: Objective | None = None
    weight: float = 1.0
    every: int = 50
    smoothing: float = 0.9
    log: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        TermSpec.__post_init__(self)
        terms = tuple(map(as_spec, self.terms))
        object.__setattr__(self, "terms", terms)
        object.__setattr__(self, "shares", tuple(self.shares))
        if not terms or len(terms) != len(self.shares):
            raise ConfigError(
                "each term of a balance needs a share, or None for its own weight",
                expected=f"{len(terms) or 'at least one'} shares",
                got=f"{len(terms)} terms, {len(self.shares)} shares",
            )
        if len({term.unit for term in terms}) > 1:
            raise ConfigError(
                "terms of rows and terms of examples have different means",
                expected="terms of one unit",
                got=", ".join(f"{type(term).__name__}: {term.unit}" for term in terms),
                fix="balance them apart: each is held at a share of the same main loss",
            )
        wrong = [share for share in self.shares if share is not None and not 0 <= share < float("inf")]
        if wrong or self.every < 1 or not 0 <= self.smoothing < 1:
            raise ConfigError("invalid settings of a balance", got=str(wrong or (self.every, self.smoothing)))

    @property
    def unit(self) -> Unit:  # type: ignore[override]
        """That of its terms."""
        return self.terms[0].unit

    @property
    def reads_teacher(self) -> bool:  # type: ignore[override]
        """Whether a term does, or the main loss."""
        return self.main is not None or any(term.reads_teacher for term in self.terms)

    @property
    def reads_signal(self) -> bool:  # type: ignore[override]
        """Whether a term does, or the main loss."""
        return self.main is not None or any(term.reads_signal for term in self.terms)

    @property
    def couples_batch(self) -> bool:
        """Whether a term does."""
        return any(term.couples_batch for term in self.terms)

    @property
    def needs(self) -> tuple[Needs, Needs]:
        """What all terms need."""
        return needs_of(self.terms)

    @property
    def formula(self) -> str:
        parts = [
            f"{term.weight:g} · {term.formula}"
            if share is None
            else f"({share:g} of the main gradient) · {term.formula}"
            for term, share in zip(self.terms, self.shares, strict=True)
        ]
        return f"[{' + '.join(parts)}]"

    @contextmanager
    def bind(self, at: Binding) -> Iterator[BoundTerm]:
        """Binds its terms."""
        names = names_of(self.terms)
        parameters = [p for p in at.models[0].parameters() if p.requires_grad]
        with ExitStack() as stack:
            bound = [
                stack.enter_context(term.bind(replace(at, name=f"{at.name}_{name}")))
                for term, name in zip(self.terms, names, strict=True)
            ]
            at.parts[at.name] = BalanceState([term.weight for term in self.terms])

            def balanced(
                student: Predictions, teacher: Predictions | None, signal: Any | None
            ) -> Float[Tensor, "units"]:
                state = at.parts[at.name]
                assert isinstance(state, BalanceState)
                values = [term(student, teacher, signal) for term in bound]
                step = int(state.calls)
                if step % self.every == 0 and torch.is_grad_enabled():
                    self._measure(state, dict(zip(names, values, strict=True)), parameters, student, signal)
                state.calls.add_(1)
                weights = state.weights.tolist()
                return torch.stack([weight * value for weight, value in zip(weights, values, strict=True)]).sum(dim=0)

            yield balanced

    def _measure(
        self,
        state: BalanceState,
        values: dict[str, Tensor],
        parameters: list[nn.Parameter],
        student: Predictions,
        signal: Any | None,
    ) -> None:
        norms = [gradient_norm(value.mean(), parameters) for value in values.values()]
        main = self._main(student, signal).mean()
        pull = gradient_norm(main, parameters)
        for place, (share, norm) in enumerate(zip(self.shares, norms, strict=True)):
            if share is not None and norm > 0 and pull > 0:
                wanted, old = share * pull / norm, float(state.weights[place])
                kept = 0.0 if int(state.measured) == 0 else self.smoothing
                # a geometric mean: a factor 10 up and a factor 10 down weigh the same
                state.weights[place] = wanted if old <= 0 or wanted <= 0 else old**kept * wanted ** (1 - kept)
        state.measured.add_(1)
        if self.log:
            weights = [*state.weights.tolist(), 1.0]
            losses = [*(float(value.detach().mean()) for value in values.values()), float(main.detach())]
            rows = zip([*values, "main"], losses, [*norms, pull], weights, strict=True)
            with as_path(self.log).open("a", encoding="utf-8") as file:
                for name, loss, norm, weight in rows:
                    row = {
                        "step": int(state.calls),
                        "name": name,
                        "loss": loss,
                        "gradient_norm": norm,
                        "weight": weight,
                    }
                    file.write(json.dumps(row) + "\n")

    def _main(self, student: Predictions, signal: Any | None) -> Float[Tensor, "rows"]:
        logits = student.required_logits
        if self.main is not None:
            return self.main(logits, signal)  # type: ignore[arg-type]
        return functional.cross_entropy(
            logits.to(torch.promote_types(logits.dtype, torch.float32)), student.labels, reduction="none"
        )
