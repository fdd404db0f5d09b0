"""Modules of a model by path."""

from __future__ import annotations

from torch import nn

from fractionate.errors import MismatchError
from fractionate.system.registry import nearest


def module_at(model: nn.Module, path: str) -> nn.Module:
    """The module at a dotted path. Raises `MismatchError` naming the nearest path where there is none."""
    try:
        return model.get_submodule(path)
    except AttributeError:
        known = [name for name, _ in model.named_modules() if name]
        near = nearest(path, known)
        raise MismatchError(
            f"{type(model).__name__} has no module {path!r}",
            expected=f"one of {', '.join(known[:12])}{' …' if len(known) > 12 else ''}",
            fix=f"did you mean {near!r}?" if near else "see model.named_modules()",
        ) from None
