"""Activations computed again in the backward pass rather than kept: less memory for about a third more time."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint

from fractionate.errors import ConfigError
from fractionate.system.registry import nearest


@contextmanager
def recomputed(student: nn.Module, patterns: Sequence[str]) -> Iterator[None]:
    """In a `with` block: modules whose path matches a pattern keep their inputs only, and the gradient is the same.

    A step with dropout redraws the same masks. A module within one that matches is left alone, as it is recomputed with it.

    Args:
        student: The model.
        patterns: Paths as in `named_modules()`, with `*` for any name: `encoder.layer.*`.

    Returns:
        Nothing.

    Raises:
        ConfigError: for a pattern that no module matches.

    Example:
        import torch
        from torch import nn
        from fractionate.training import recomputed

        model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
        with recomputed(model, ["*"]):
            model(torch.randn(2, 8)).sum().backward()
    """
    paths = [path for path, _ in student.named_modules() if path]
    chosen: list[str] = []
    for pattern in patterns:
        found = [path for path in paths if fnmatchcase(path, pattern) and path.count(".") == pattern.count(".")]
        if not found:
            near = nearest(pattern, paths)
            raise ConfigError(
                f"no module of the student matches recompute={pattern!r}",
                expected="paths as in student.named_modules(), with * for any name",
                got=f"modules {', '.join(paths[:8])}{' …' if len(paths) > 8 else ''}",
                fix=f"did you mean {near!r}?" if near else None,
            )
        chosen += found
    modules = dict(student.named_modules())
    outermost = [p for p in dict.fromkeys(chosen) if not any(p.startswith(f"{other}.") for other in chosen)]
    before = {path: modules[path].__dict__.get("forward") for path in outermost}  # most have that of their class
    for path in outermost:
        module = modules[path]
        module.forward = functools.partial(_again, module, module.forward)
    try:
        yield
    finally:
        for path, own in before.items():
            del modules[path].__dict__["forward"]
            if own is not None:
                modules[path].forward = own


def _again(module: nn.Module, forward: Any, *inputs: Any, **named: Any) -> Any:
    if not module.training:
        return forward(*inputs, **named)
    return checkpoint(forward, *inputs, use_reentrant=False, **named)
