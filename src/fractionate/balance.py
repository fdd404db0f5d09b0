"""How much each of several losses pulls: gradient norms, logged by name, and a balancer that holds them at stated shares."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fractionate.errors import ConfigError
from fractionate.models.hooks import TRAINING_ONLY, host_of

Term = Callable[[Any, Any, Any], Float[Tensor, "rows"]]


def gradient_norm(loss: Tensor, parameters: list[nn.Parameter]) -> float:
    """The length of d loss / d parameters; the graph stays for the step's own backward pass."""
    if not loss.requires_grad:
        return 0.0
    gradients = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
    return float(
        torch.stack([g.double().square().sum() for g in gradients if g is not None] or [torch.zeros(())]).sum().sqrt()
    )


class Balance:
    """Terms by name as one term, at fixed weights or at stated shares of the main loss' gradient.

    `terms` are `distill`'s terms by name. With `weights` they are summed as they are. With `shares`, weight = share · |gradient of
    the main loss| / |gradient of the term| over the student's parameters, measured every `every` calls and smoothed in its
    logarithm: share 0.5 means half the pull of the main loss. `main(output, batch, signal)` gives the main loss.

    Each measurement is a row of `rows` (and of the JSON lines file `log`): step, name, raw loss, gradient norm, weight. The state
    is a child of the student named `training_only.balance`, so a killed run goes on with it. In the spirit of GradNorm (Chen et
    al., arXiv 1711.02257), with the targets stated instead of learned.

    Raises `ConfigError` unless each term has exactly one of a weight and a share.
    """

    def __init__(
        self,
        student: nn.Module,
        terms: Mapping[str, Term],
        *,
        weights: Mapping[str, float] | None = None,
        shares: Mapping[str, float] | None = None,
        main: Term | None = None,
        every: int = 50,
        smoothing: float = 0.9,
        log: Path | str | None = None,
    ) -> None:
        weights, shares = dict(weights or {}), dict(shares or {})
        if set(weights) & set(shares) or set(weights) | set(shares) != set(terms) or not terms:
            raise ConfigError(
                "each term needs a weight or a share, and not both",
                expected=f"{', '.join(terms) or 'at least one term'}",
                got=f"weights for {', '.join(weights) or 'none'}; shares for {', '.join(shares) or 'none'}",
            )
        wrong = {name: value for name, value in (weights | shares).items() if not 0 <= value < float("inf")}
        if wrong or every < 1 or not 0 <= smoothing < 1:
            raise ConfigError("these settings of a balance cannot be meant", got=f"{wrong or (every, smoothing)}")
        if shares and main is None:
            raise ConfigError("shares are of the main loss", fix="pass main=: a function that gives it")
        self.terms, self.shares, self.main = dict(terms), shares, main
        self.every, self.smoothing, self.log = every, smoothing, None if log is None else Path(log)
        self.rows: list[dict[str, str | float | int]] = []
        self.state = nn.Module()
        self.state.register_buffer("calls", torch.zeros((), dtype=torch.long))
        self.state.register_buffer("measured", torch.zeros((), dtype=torch.long))
        start = [weights.get(name, 1.0) for name in terms]
        self.state.register_buffer("weights", torch.tensor(start, dtype=torch.float64))
        self._parameters = [
            p for n, p in student.named_parameters() if p.requires_grad and TRAINING_ONLY not in n.split(".")
        ]
        self._host = host_of(student)
        if not hasattr(self._host, TRAINING_ONLY):
            self._host.add_module(TRAINING_ONLY, nn.ModuleDict())
        self._host.get_submodule(TRAINING_ONLY).add_module("balance", self.state)

    def detach(self) -> None:
        """Take the state off the student."""
        apart = self._host.get_submodule(TRAINING_ONLY)
        assert isinstance(apart, nn.ModuleDict)
        if "balance" in apart:
            del apart["balance"]
        if len(apart) == 0:
            delattr(self._host, TRAINING_ONLY)

    @property
    def weights(self) -> dict[str, float]:
        """The weights in use."""
        return dict(zip(self.terms, self._buffer("weights").tolist(), strict=True))

    def _buffer(self, name: str) -> Tensor:
        found = self.state.get_buffer(name)
        return found

    def __call__(self, output: Any, batch: Any, signal: Any) -> Float[Tensor, "rows"]:
        values = {name: term(output, batch, signal) for name, term in self.terms.items()}
        step = int(self._buffer("calls"))
        if step % self.every == 0 and torch.is_grad_enabled():
            self._measure(step, values, output, batch, signal)
        self._buffer("calls").add_(1)
        weights = self.weights
        return torch.stack([weights[name] * value for name, value in values.items()]).sum(dim=0)

    def _measure(self, step: int, values: dict[str, Tensor], output: Any, batch: Any, signal: Any) -> None:
        norms = {name: gradient_norm(value.mean(), self._parameters) for name, value in values.items()}
        found: dict[str, tuple[float, float]] = {
            name: (float(v.detach().mean()), norms[name]) for name, v in values.items()
        }
        if self.main is not None:
            loss = self.main(output, batch, signal).mean()
            found["main"] = (float(loss.detach()), gradient_norm(loss, self._parameters))
            self._rebalance(norms, found["main"][1])
        weights = self.weights
        new: list[dict[str, str | float | int]] = [
            {"step": step, "name": name, "loss": value, "gradient_norm": norm, "weight": weights.get(name, 1.0)}
            for name, (value, norm) in found.items()
        ]
        self.rows += new
        if self.log is not None:
            with self.log.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(row) + "\n" for row in new)

    def _rebalance(self, norms: dict[str, float], main: float) -> None:
        weights, first = self._buffer("weights"), int(self._buffer("measured")) == 0
        for place, name in enumerate(self.terms):
            if name in self.shares and norms[name] > 0 and main > 0:
                wanted = self.shares[name] * main / norms[name]
                kept = 0.0 if first else self.smoothing
                old = float(weights[place])
                # a geometric mean: a factor 10 up and a factor 10 down weigh the same
                weights[place] = wanted if old <= 0 or wanted <= 0 else old**kept * wanted ** (1 - kept)
        self._buffer("measured").add_(1)
