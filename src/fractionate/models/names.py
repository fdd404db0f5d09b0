"""From names to models and data: bundled names, or a person's own `package.module:function`."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn

from fractionate.data.batch import Split
from fractionate.data.bundled import Parts, Undivided, data_sets, split_parts
from fractionate.data.dividing import Size
from fractionate.data.raw import Tokenizing
from fractionate.data.splits import as_examples
from fractionate.data.targets import TargetEncoding
from fractionate.errors import ConfigError, FractionateError, MismatchError, ResourceError, printable, reason
from fractionate.models.function import as_teacher_module, is_function_teacher
from fractionate.models.zoo import Builder, models
from fractionate.system.registry import names_code, nearest

_MODULE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")


def import_function(name: str) -> Callable[..., Any]:
    """The function or class behind `package.module:function`; the working folder is looked in first.

    Raises `ConfigError` where there is no such module or name, and where importing it fails. Importing runs the module: call it
    for names a person typed or trusts, never for a name read from a file alone.
    """
    module_name, _, attribute = name.partition(":")
    if not _MODULE.fullmatch(module_name) or not attribute.isidentifier():
        raise ConfigError(f"{printable(name)!r} is no place in a module", expected="package.module:function")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    with _own_code(f"module {module_name!r} cannot be imported"):
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
    found = getattr(module, attribute)
    if not callable(found):
        raise ConfigError(f"{name} cannot be called", expected="a function or class", got=type(found).__name__)
    function: Callable[..., Any] = found
    return function


@contextmanager
def _own_code(what: str) -> Iterator[None]:
    """Around code that a run file names: whatever it raises ends in a message, with the traceback under --debug."""
    try:
        yield
    except FractionateError:
        raise
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise ResourceError(what, got=f"not enough memory: {reason(error)}") from error
    except (Exception, SystemExit) as error:
        if "can't allocate memory" in str(error):  # torch's word for it on a processor
            raise ResourceError(what, got=reason(error)) from error
        raise ConfigError(
            what, got=f"{type(error).__name__}: {reason(error)}", fix="fractionate --debug … shows where"
        ) from error


@dataclass(frozen=True)
class ModelNeed:
    """What a network is built for.

    Args:
        kind: The kind of task, by name.
        shape: Shape of one example's input; empty where inputs are tokens.
        classes: Number of outputs; 0 where the model itself says how many.
        class_names: The data's classes, in the order of their numbers.
        tokenizing: How the data become inputs; a model without a tokenizer of its own takes this vocabulary.
        frozen: Its weights are used as they are: an output layer without trained weights is an error.
        drawn: Its weights are drawn even where it comes with some: its cost alone is wanted.
        splits: The parts of the data, for teachers that answer about these examples alone.
        teaching: The part that no student reads, for teachers that are fitted on it.
        units: How the numbers of a file's columns become what is learned, where a teacher of a file predicts in their unit.

    Example:
        from fractionate.models import ModelNeed, find_model
        print(find_model("mlp(8)").build(ModelNeed("classification", shape=(4,), classes=3)))
    """

    kind: str = "classification"
    shape: tuple[int, ...] = ()
    classes: int = 0
    class_names: tuple[str, ...] = ()
    tokenizing: Tokenizing | None = field(default=None, compare=False)
    frozen: bool = False
    drawn: bool = False
    splits: tuple[Split, ...] = field(default=(), compare=False)
    teaching: Split | None = field(default=None, compare=False)
    units: TargetEncoding | None = field(default=None, compare=False)


@runtime_checkable
class TaskModel(Protocol):
    """A maker of networks that know their task and their tokenizer, such as `hf(...)`; `trained`: with weights of its own."""

    trained: bool

    def tokenizing(self, length: int) -> Tokenizing | None:
        """How texts of at most so many tokens become its inputs; None for a network without a tokenizer."""
        ...

    def build(self, need: ModelNeed) -> nn.Module:
        """A network for a task."""
        ...


@dataclass(frozen=True)
class NamedModel:
    """A model of a run file by its name. Built for a task, or called with the shape of an input and the number of classes."""

    name: str
    maker: Builder | TaskModel

    @property
    def trained(self) -> bool:
        """Whether it comes with weights, and is not trained unless that is wanted."""
        return names_code(self.name) or bool(getattr(self.maker, "trained", False))

    @property
    def packed(self) -> bool:
        """Whether its weights take seconds to unpack, whatever it is used for."""
        return bool(getattr(self.maker, "packed", False))

    def tokenizing(self, length: int) -> Tokenizing | None:
        """How texts of at most so many tokens become its inputs; None for a network without a tokenizer."""
        return self.maker.tokenizing(length) if isinstance(self.maker, TaskModel) else None

    def build(self, need: ModelNeed) -> nn.Module:
        """A network for a task. Raises `ConfigError` where it cannot be built, `ResourceError` where memory is too small."""
        with _own_code(f"{self.name} cannot be built for inputs {list(need.shape)} and {need.classes} classes"):
            if isinstance(self.maker, TaskModel):
                model: object = self.maker.build(need)
            else:
                model = self.maker(need.shape, need.classes)
        if isinstance(model, nn.Module):
            return model
        if not is_function_teacher(model):
            raise ConfigError(
                f"{self.name} does not give a model",
                expected="a torch.nn.Module, or for a teacher an estimator or a function",
                got=type(model).__name__,
            )
        return as_teacher_module(model, classes=need.classes or None, class_names=need.class_names)

    def __call__(self, shape: Sequence[int], classes: int) -> nn.Module:
        return self.build(ModelNeed(shape=tuple(shape), classes=classes))


def find_model(name: str) -> NamedModel:
    """A model by name.

    Args:
        name: Of the registry, such as `mlp(64)`, or `module:function` of your own, which takes (shape, classes) or nothing.

    Returns:
        A builder: called with the shape of inputs and the number of classes, it gives a module.

    Example:
        from fractionate.models import find_model

        print(find_model("mlp(16)")((8,), 4))
    """
    return NamedModel(name, models[name] if not names_code(name) else _own_builder(name))


def _own_builder(name: str) -> Builder:
    function = import_function(name)
    try:
        wants = len(inspect.signature(function).parameters)
    except ValueError:  # a function of C has none to read
        wants = 2
    return lambda shape, classes: function(shape, classes) if wants >= 2 else function()


def find_data(name: str) -> Any:
    """What a data source gives, by its name or by an own function: examples, parts, or texts that are divided first."""
    with _own_code(f"{name} gives no data"):
        return import_function(name)() if names_code(name) else data_sets[name]


def as_parts(data: Any, name: str, *, transfer: Size, validation: Size, test: Size, seed: int) -> Parts:
    """The parts of what a data source gives: its own, or one data set that is split here. Sizes are counts or shares."""
    sizes: dict[str, Any] = {"transfer": transfer, "validation": validation, "test": test}
    with _own_code(f"{name} gives no data"):
        if isinstance(data, Parts):
            return data
        if isinstance(data, Undivided):
            return data.parts(**sizes, seed=seed)
        if not hasattr(data, "__len__"):
            raise MismatchError(
                f"{name} gives data without a length",
                expected="Examples, Parts, a pair of tensors, or a dataset with len()",
                got=type(data).__name__,
                fix="read what you need of the stream into Examples; distill() in Python takes streams",
            )
        return split_parts(as_examples(data, name), **sizes, seed=seed)


def find_parts(name: str, *, transfer: Size, validation: Size, test: Size, seed: int) -> Parts:
    """The parts of a data set by name. A function of your own gives `Parts`, or one data set that is split here.

    Args:
        name: Of the registry, such as `digits`, or `module:function`.
        transfer: A count, or a share below 1; None: a fifth.
        validation: Likewise.
        test: Likewise.
        seed: Of the draw.

    Returns:
        Disjoint parts.

    Example:
        from fractionate.models import find_parts

        print(find_parts("digits", transfer=400, validation=300, test=500, seed=0))
    """
    return as_parts(find_data(name), name, transfer=transfer, validation=validation, test=test, seed=seed)
