"""Fingerprints of code and objects: what tells one function or fitted estimator from another, without running or pickling it."""

from __future__ import annotations

import contextlib
import random
import re
import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fractionate.system.hashing import content_hash, parts_of

_PROCESS = secrets.token_hex(8)  # objects that cannot be read are the same only within one process
_PLAIN = (bool, int, float, complex, str, bytes, type(None))
_DRAWS = (np.random.RandomState, np.random.Generator, np.random.BitGenerator, random.Random, torch.Generator)
_OWN = frozenset(vars(nn.Module())) - {"_modules"}  # what every module has: mode, hooks
_MACHINE = frozenset({"n_jobs", "n_threads", "nthread", "verbose"})  # how fast and how loud an estimator is


@dataclass(frozen=True)
class Fingerprint:
    """sha256 of an object's content; `unreadable` are the types of the parts of it that show none."""

    digest: str
    unreadable: tuple[str, ...] = ()


def fingerprint_object(value: object) -> Fingerprint:
    """A fingerprint of what an object computes with: code, settings, fitted arrays, what a function closes over.

    The parts are those that pickling would write; nothing is pickled. Sources of random numbers do not count. A part that shows
    no content (a session of another library, an open connection) counts as itself, in this process alone.
    """
    walk = _Walk(strict=True)
    walk.add(value)
    return Fingerprint(walk.state.hexdigest(), tuple(dict.fromkeys(walk.unreadable)))


def model_hash(model: nn.Module, saved: Mapping[str, Any] | None = None) -> str:
    """A hash of all parameters and buffers, those that are not saved included; of a model without any, of code and settings.

    `saved` is its state dict where that has to be gathered.
    """
    saved = model.state_dict() if saved is None else saved
    others = [buffer for name, buffer in model.named_buffers() if name not in saved]
    if not saved and not others:
        return fingerprint_object(model).digest
    return content_hash(*parts_of(saved), *parts_of(others))


def settings_text(model: nn.Module) -> str:
    """What a model computes with besides its weights: its modules with their settings, and floating-point numbers of their own.

    The name of its own class does not count, so that a class may be renamed.
    """
    own = [
        f"{path}.{name}={value!r}"
        for path, module in model.named_modules()
        for name, value in sorted(vars(module).items())
        if isinstance(value, float) and name not in _OWN and not name.startswith("_")
    ]
    return "\n".join([plain_repr(model).partition("(")[2], *own])


def callable_fingerprint(function: Callable[..., Any] | Any) -> str:
    """sha256 over a callable: its name, code, constants, defaults, settings and what it closes over; empty for None."""
    if function is None:
        return ""
    walk = _Walk(strict=False)
    walk.add(function)
    return walk.state.hexdigest()


def plain_repr(value: object) -> str:
    """repr without addresses, which change from run to run."""
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    name = getattr(value, "__qualname__", "")
    return f"{kind} {name} {re.sub(r' at 0x[0-9a-f]+', '', repr(value)) if not name else ''}"


class _Walk:
    """One pass over an object and its parts; each is hashed once, later meetings as the number of the first."""

    def __init__(self, *, strict: bool) -> None:
        self.state = sha256()
        self.strict = strict
        self.seen: dict[int, int] = {}
        self.held: list[object] = []  # parts made on the way: their ids must not be given away
        self.unreadable: list[str] = []

    def add(self, value: Any) -> None:
        """Hash a value."""
        if isinstance(value, _PLAIN):
            self._text(f"{type(value).__name__}{value!r}")
            return
        if id(value) in self.seen:  # a function that closes over itself
            self._text(f"again {self.seen[id(value)]}")
            return
        self.seen[id(value)] = len(self.seen)
        self.held.append(value)
        try:
            self._part(value)
        except RecursionError:
            self._unreadable(value)

    def _part(self, value: Any) -> None:
        if isinstance(value, nn.Module):
            self._module(value)
        elif isinstance(value, Tensor):
            part = value.detach().cpu().contiguous()
            self._text(f"{part.dtype}{tuple(part.shape)}")
            self.state.update(part.reshape(-1).view(torch.uint8).numpy().data)
        elif isinstance(value, np.ndarray):
            self._array(value)
        elif isinstance(value, _DRAWS):
            self._text(type(value).__name__)
        elif isinstance(value, (list, tuple)):
            self._text(f"{type(value).__name__}{len(value)}")
            self._all(value)
        elif isinstance(value, Mapping):
            self._text(f"{type(value).__qualname__}{len(value)}")
            for key, part in value.items():
                self.add(key)
                self.add(part)
        elif isinstance(value, (set, frozenset)):
            self._text(repr(sorted(callable_fingerprint(part) for part in value)))
        elif isinstance(value, (type, ModuleType, BuiltinFunctionType)) or (
            isinstance(value, np.ufunc) and not hasattr(value, "__wrapped__")
        ):
            self._text(plain_repr(value))
            owner = getattr(value, "__self__", None)
            if not isinstance(owner, (ModuleType, type(None))):
                self.add(owner)
        elif isinstance(value, MethodType):
            self.add(value.__func__)
            self.add(value.__self__)
        elif isinstance(value, FunctionType):
            self._function(value)
        elif isinstance(value, CodeType):
            self._code(value)
        else:
            self._object(value)

    def _text(self, text: str) -> None:
        self.state.update(f"{len(text)}:{text}".encode("utf-8", "surrogatepass"))

    def _all(self, parts: Iterable[Any]) -> None:
        for part in parts:
            self.add(part)

    def _array(self, value: np.ndarray[Any, Any]) -> None:
        self._text(f"{value.dtype}{value.shape}")
        if value.dtype.names:  # the gaps between the fields hold whatever memory held
            self._all(np.ascontiguousarray(value[name]) for name in value.dtype.names)
        elif value.dtype.hasobject:
            self._all(value.reshape(-1).tolist())
        else:
            self.state.update(np.ascontiguousarray(value).reshape(-1).view(np.uint8).data)

    def _module(self, value: nn.Module) -> None:
        self._text(plain_repr(value))
        if value.state_dict() or any(True for _ in value.buffers()):
            self._text(model_hash(value))
            return
        self._code(getattr(type(value).forward, "__code__", None))
        for name, part in vars(value).items():
            if name not in _OWN:
                self.add(name)
                self.add(part)

    def _function(self, value: FunctionType) -> None:
        self._text(f"{value.__module__}.{value.__qualname__}")
        self._code(value.__code__)
        self._all((value.__defaults__, value.__kwdefaults__, vars(value)))
        for cell in value.__closure__ or ():
            with contextlib.suppress(ValueError):  # a cell that is not filled yet
                self.add(cell.cell_contents)
        for name in value.__code__.co_names:
            found = value.__globals__.get(name)
            own = isinstance(found, FunctionType) and found.__module__ == value.__module__
            teaches = isinstance(found, (nn.Module, Tensor, np.ndarray, np.generic)) or hasattr(found, "predict_proba")
            if own or teaches or (found is not None and isinstance(found, _PLAIN)):
                self.add(found)

    def _code(self, code: CodeType | None) -> None:
        if code is None:
            return
        self.state.update(code.co_code)
        self._text(repr(code.co_names))
        for constant in code.co_consts:
            if isinstance(constant, CodeType):
                self._code(constant)
            else:
                self._text(repr(sorted(map(repr, constant)) if isinstance(constant, frozenset) else constant))

    def _object(self, value: Any) -> None:
        self._text(f"{type(value).__module__}.{type(value).__qualname__}")
        if "__call__" in vars(type(value)):
            self._code(getattr(type(value).__call__, "__code__", None))
        try:
            parts = value.__reduce_ex__(4)
        except Exception:  # each library has its own way of saying that it cannot be taken apart
            self._unreadable(value)
            return
        if isinstance(parts, str):
            self._text(parts)
            return
        make, given, *more = parts
        self._text(getattr(make, "__qualname__", type(make).__qualname__))
        self.add(given)
        if more and isinstance(more[0], dict):
            more[0] = {name: part for name, part in more[0].items() if name not in _MACHINE}
        self._all(part if index == 0 or part is None else list(part) for index, part in enumerate(more[:3]))

    def _unreadable(self, value: Any) -> None:
        self.unreadable.append(f"{type(value).__module__}.{type(value).__qualname__}")
        self._text(f"{_PROCESS} {id(value)}" if self.strict else "unreadable")
