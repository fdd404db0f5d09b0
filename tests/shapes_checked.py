"""The checker behind `pytest --shapes`: beartype on the annotations that write a shape, and on those alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from beartype import BeartypeConf, beartype

CONFIGURATION = BeartypeConf(is_pep484_tower=True)  # a whole number may stand for a float


def checked(function: Callable[..., Any], *_: Any, **__: Any) -> Callable[..., Any]:
    """The function with its shapes checked at every call; mypy looks after the other annotations."""
    shapes = {name: hint for name, hint in function.__annotations__.items() if "[Tensor, " in str(hint)}
    if not shapes:
        return function
    function.__annotations__ = shapes
    return beartype(conf=CONFIGURATION)(function)
