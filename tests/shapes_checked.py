"""The checker behind `pytest --shapes`: beartype, where a whole number may stand for a float (PEP 484)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from beartype import BeartypeConf, beartype

CONFIGURATION = BeartypeConf(is_pep484_tower=True)


def checked(function: Callable[..., Any], *_: Any, **__: Any) -> Callable[..., Any]:
    """The function with its annotations checked at every call."""
    return beartype(conf=CONFIGURATION)(function)
