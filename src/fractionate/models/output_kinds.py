"""What a teacher gives: logits, log-probabilities, probabilities or percentages, recognised and made logits here; or numbers."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from fractionate.errors import ConfigError, NumericsError
from fractionate.models.outputs import SUM_TOLERANCE, are_probabilities

OutputKind = Literal["logits", "log-probabilities", "probabilities", "percentages", "numbers"]
Outputs = Literal["auto", "logits", "log-probabilities", "probabilities", "percentages", "numbers"]
KINDS = ("logits", "log-probabilities", "probabilities", "percentages", "numbers")  # numbers: of tasks without classes


def recognise(values: Float[Tensor, "*rows classes"], *, independent: bool = False) -> OutputKind:
    """What some rows of outputs are; of independent labels [batch, labels], numbers in 0..1 are their probabilities.

    Rows from 0 that sum to 1 are probabilities, to 100 percentages; rows up to 0 whose exponentials sum to 1 are
    log-probabilities; all else are logits. Logits that happen to fit are practically impossible in more than a few rows.
    """
    if not values.numel() or values.ndim < 2 or values.shape[-1] < 2:  # one number is no distribution
        return "logits"
    if independent and values.ndim == 2:
        return "probabilities" if bool(((values >= 0) & (values <= 1)).all()) else "logits"
    if are_probabilities(values):
        return "probabilities"
    if are_probabilities(values / 100):
        return "percentages"
    return "log-probabilities" if _are_log_probabilities(values) else "logits"


def as_logits(values: Float[Tensor, "*rows classes"], kind: OutputKind) -> Float[Tensor, "*rows classes"]:
    """Logits whose softmax are these outputs: a probability of 0 becomes −inf, a class that the teacher rules out. Numbers stay.

    Raises:
        NumericsError: where the values are not of that kind.
        ConfigError: for a kind that is not known.
    """
    check_kind(kind)
    if kind in ("logits", "numbers"):
        return values
    if kind == "log-probabilities":
        if not _are_log_probabilities(values):
            raise _other_than(kind, "numbers up to 0 whose exponentials sum to 1", values, values.double().exp())
        return values
    shares = values / 100 if kind == "percentages" else values
    total = shares.double().sum(dim=-1)
    if not bool(((shares >= 0).all(dim=-1) & ((total - 1).abs() < SUM_TOLERANCE)).all()):
        whole = 100 if kind == "percentages" else 1
        raise _other_than(kind, f"numbers from 0 that sum to {whole}", values, values.double())
    return shares.log()


def of_two_classes(values: Float[Tensor, "batch labels"], kind: OutputKind) -> Float[Tensor, "batch labels 2"]:
    """What holds for "has the label" as two classes each, in the same kind: (1 - p, p)."""
    if kind == "log-probabilities":
        return torch.stack([(-values.double().exp()).log1p().to(values.dtype), values], dim=-1)
    if kind in ("probabilities", "percentages"):
        return torch.stack([(100 if kind == "percentages" else 1) - values, values], dim=-1)
    return torch.stack([torch.zeros_like(values), values], dim=-1)


def check_kind(kind: str, *also: str) -> None:
    """Raise `ConfigError` for a kind of outputs that is not known."""
    if kind not in (*KINDS, *also):
        raise ConfigError(
            f"unknown kind of outputs {kind!r}", expected=", ".join((*also, *KINDS)), fix="give outputs= one of these"
        )


def _are_log_probabilities(values: Tensor) -> bool:
    wide = values.double()
    inside = bool((wide <= SUM_TOLERANCE).all()) and not bool(torch.isnan(wide).any())
    return inside and bool((wide.exp().sum(dim=-1) - 1).abs().lt(SUM_TOLERANCE).all())


def _other_than(kind: str, expected: str, values: Tensor, summed: Tensor) -> NumericsError:
    total = summed.sum(dim=-1).flatten()
    row = int((total - (100 if kind == "percentages" else 1)).abs().nan_to_num(torch.inf).argmax())
    least = values.reshape(-1, values.shape[-1])[row].min().item()
    return NumericsError(
        f"the teacher's outputs are not {kind}",
        expected=expected,
        got=f"least {least:g}, sum {total[row].item():g}",
        fix='if these are logits, give outputs="logits"',
    )
