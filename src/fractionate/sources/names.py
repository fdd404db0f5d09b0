"""From names to models and data: bundled names, or a person's own `package.module:function`."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import nn

from fractionate.data.splits import as_examples
from fractionate.errors import ConfigError, MismatchError
from fractionate.registry import names_code, nearest
from fractionate.sources.bundled import Parts, Undivided, data_sets, split_parts
from fractionate.sources.models import Builder, models


def import_function(name: str) -> Any:
    """The function or class behind `package.module:function`; the working folder is looked in first.

    Raises `ConfigError` where there is no such module or name. Importing runs the module: call it for names a person typed or
    trusts, never for a name read from a file alone.
    """
    module_name, _, attribute = name.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = import_module(module_name)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"there is no module {module_name!r} to take {attribute!r} from",
            got=str(error),
            fix="run from the folder that holds the module, or install its package",
        ) from error
    if not hasattr(module, attribute):
        near = nearest(attribute, dir(module))
        raise ConfigError(
            f"module {module_name!r} has no {attribute!r}", fix=f"did you mean {module_name}:{near}?" if near else None
        )
    return getattr(module, attribute)


def find_model(name: str) -> Builder:
    """The builder of a model: called with the shape of an input and the number of classes.

    An own function may take both (`build(shape, classes)`), or nothing.
    """
    if not names_code(name):
        return models[name]
    function = import_function(name)
    wants = len(inspect.signature(function).parameters)

    def build(shape: Sequence[int], classes: int) -> nn.Module:
        model = function(shape, classes) if wants >= 2 else function()
        if not isinstance(model, nn.Module):
            raise ConfigError(f"{name} does not give a model", expected="a torch.nn.Module", got=type(model).__name__)
        return model

    return build


def find_parts(name: str, *, transfer: int | None, validation: int | None, test: int | None, seed: int) -> Parts:
    """The parts of a data set by name. An own function gives `Parts`, or one data set that is split here."""
    data = import_function(name)() if names_code(name) else data_sets[name]
    if isinstance(data, Parts):
        return data
    if isinstance(data, Undivided):
        return data.parts(transfer=transfer, validation=validation, test=test, seed=seed)
    if not hasattr(data, "__len__"):
        raise MismatchError(
            f"{name} gives data without a length",
            expected="Examples, Parts, a pair of tensors, or a dataset with len()",
            got=type(data).__name__,
            fix="read what you need of the stream into Examples; distill() in Python takes streams",
        )
    return split_parts(as_examples(data, name), transfer=transfer, validation=validation, test=test, seed=seed)
