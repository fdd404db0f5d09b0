"""Explaining students by name: an additive model over groups of input columns, as large as the student it stands for."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from fractionate.errors import ConfigError
from fractionate.models.additive import explaining_mlp
from fractionate.models.columns import given
from fractionate.models.modes import eval_mode
from fractionate.models.outputs import call, logits_of
from fractionate.models.preparations import Preparation, Preparing, given_student, preparations


@preparations.register("explaining")
@dataclass(frozen=True)
class ExplainingStudent(Preparation):
    """A student that explains by groups of columns: `explaining(((0, 1, 2), (3, 4)))`, in place of the one given.

    Args:
        groups: Columns of each superfeature in the flattened input; together all of them.
        hidden_layers: Of each sub-network.
        parameters: The most parameters it may have; None: as many as the student that it replaces.
        width: Fixes the width of all hidden layers instead.
        prior: Shares of the classes that are divided out; (): none.
        classes: The number of classes; None: the outputs of the student that it replaces.
    """

    groups: tuple[tuple[int, ...], ...]
    hidden_layers: int = 2
    parameters: int | None = None
    width: int | None = None
    prior: tuple[float, ...] = ()
    classes: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "groups", tuple(tuple(group) for group in self.groups))
        object.__setattr__(self, "prior", tuple(self.prior))
        given(self.groups)
        if self.parameters is not None and self.width is not None:
            raise ConfigError("parameters and width of explaining cannot be combined", expected="one of them")

    def __call__(self, student: nn.Module | None, at: Preparing) -> nn.Module:
        """The explaining student. Raises what `explaining_mlp` raises, and `ConfigError` where its size follows from no student."""
        classes, parameters = self.classes, self.parameters
        if classes is None or (parameters is None and self.width is None):
            whole = given_student(student, "explaining, without classes and width,")
            if classes is None:
                with eval_mode(whole):
                    classes = int(logits_of(call(whole, at.inputs)).shape[-1])
            if parameters is None and self.width is None:
                parameters = sum(p.numel() for p in whole.parameters())
        return explaining_mlp(
            given(self.groups),
            classes,
            hidden_layers=self.hidden_layers,
            parameters=parameters,
            width=self.width,
            prior=torch.tensor(self.prior) if self.prior else None,
        )
