"""Modules of a model by path, what they give captured by hooks, and where a student carries what is trained with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from fractionate.errors import MismatchError
from fractionate.registry import nearest

TRAINING_ONLY = "training_only"  # the name of the student's child that is left out of its export


def module_at(model: nn.Module, path: str) -> nn.Module:
    """The module at a dotted path. Raises `MismatchError` naming the nearest path where there is none."""
    try:
        return model.get_submodule(path)
    except AttributeError:
        known = [name for name, _ in model.named_modules() if name and not name.startswith(TRAINING_ONLY)]
        near = nearest(path, known)
        raise MismatchError(
            f"{type(model).__name__} has no module {path!r}",
            expected=f"one of {', '.join(known[:12])}{' …' if len(known) > 12 else ''}",
            fix=f"did you mean {near!r}?" if near else "see model.named_modules()",
        ) from None


def host_of(student: nn.Module) -> nn.Module:
    """The module that can carry further children without calling them: the student, or within `nn.Sequential` its first leaf."""
    if not isinstance(student, nn.Sequential):
        return student
    return next((m for m in student.modules() if {name for name, _ in m.named_children()} <= {TRAINING_ONLY}), student)


class Tap:
    """Captures what some modules of a model give, by forward hooks, until it is closed."""

    def __init__(self, model: nn.Module, paths: Sequence[str]) -> None:
        self.features: dict[str, Tensor] = {}
        self._handles = [
            module_at(model, path).register_forward_hook(self._keep(path)) for path in dict.fromkeys(paths)
        ]

    def _keep(self, path: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            found = output[0] if isinstance(output, (tuple, list)) else getattr(output, "logits", output)
            if not isinstance(found, Tensor):
                raise MismatchError(
                    f"module {path!r} gives no tensor", expected="a tensor, or a tuple that starts with one",
                    got=type(output).__name__, fix="choose a module inside it",
                )  # fmt: skip
            self.features[path] = found

        return hook

    def close(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()
        self.features.clear()
