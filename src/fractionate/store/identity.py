"""Whose words a store holds: fingerprints of everything that decides a row. Any difference refuses, naming the field."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from hashlib import sha256
from pathlib import Path
from types import CodeType
from typing import Any

import torch
from torch import Tensor, nn

from fractionate.errors import ConfigError, MismatchError
from fractionate.models.modes import plain_module, plain_state
from fractionate.store.forms import FormKind, StoredDtype
from fractionate.system.files import existing_file
from fractionate.system.hashing import parts_of

PASSING = ("transformers_version", "_name_or_path", "_attn_implementation", "torch_dtype")  # not what the model says
CODE = "collect/1"  # raised when the same call would give other rows


@dataclass(frozen=True)
class Identity:
    """Everything that decides what a row says."""

    data: str = ""  # sha256 over the examples' fingerprints in order; empty for data that was streamed
    ids: str = "place"  # where sample ids come from: place, data, content
    teacher: str = ""  # weights and buffers
    teacher_config: str = ""  # class, modules and their settings
    outputs: str = "logits"
    precision: str = "float32"  # what the teacher computed in
    tokenizer: str = ""
    template: str = ""
    tokens: str = ""
    transform: str = ""
    view_seed: int = 0
    views: int = 1
    form: FormKind = "dense"
    k: int = 0
    dtype: StoredDtype = "float32"
    temperatures: tuple[float, ...] = (1.0,)
    vocabulary: str = "whole"  # or trim: classes beyond the tokenizer's strings are left out
    non_finite: str = "refuse"  # or skip: examples of which the teacher says nothing finite have no row
    code: str = field(default_factory=lambda: CODE)

    def differences(self, other: Mapping[str, Any]) -> list[str]:
        """The names of the fields in which a stored identity differs from this one."""
        mine = asdict(self) | {"temperatures": list(self.temperatures)}
        older = {f.name: f.default for f in fields(self) if f.default is not MISSING}  # stores from before a field was
        theirs = older | dict(other) | {"temperatures": list(other.get("temperatures", ()))}
        names = [f.name for f in fields(self)] + [name for name in theirs if name not in mine]
        return [name for name in names if mine.get(name) != theirs.get(name)]

    def require(self, other: Mapping[str, Any], place: object) -> None:
        """Raise `MismatchError` naming every field that differs."""
        wrong = self.differences(other)
        if wrong:
            mine = asdict(self)
            raise MismatchError(
                f"the store {place} belongs to something else: {', '.join(wrong)} differ"
                + ("" if len(wrong) > 1 else "s"),
                expected="; ".join(f"{name} = {other.get(name)!r}" for name in wrong),
                got="; ".join(f"{name} = {mine.get(name)!r}" for name in wrong),
                fix="give another out=, or run with what the store was collected with",
            )


def teacher_weights(teacher: object, named: str = "") -> str:
    """sha256 over a teacher's weights and buffers by name; for a file, of the file; else of the name or the code given."""
    if named:
        return f"named:{named}"
    modules = [teacher] if isinstance(teacher, nn.Module) else list(_enclosed_modules(teacher))
    if modules:
        state = sha256()
        for module in modules:
            for name, value in sorted(plain_state(plain_module(module)).items()):
                state.update(name.encode())
                for part in parts_of(value):
                    _hash_tensor(state, part)
        return state.hexdigest()
    if isinstance(teacher, (str, Path)) or hasattr(teacher, "file"):
        with existing_file(getattr(teacher, "file", teacher)).open("rb") as file:  # type: ignore[arg-type]
            import hashlib

            return hashlib.file_digest(file, "sha256").hexdigest()
    return callable_fingerprint(teacher)


def _enclosed_modules(function: Any) -> list[nn.Module]:
    """The modules that a function, method or partial computes with."""
    owner = getattr(function, "__self__", None)
    parts: list[Any] = [owner, *getattr(function, "args", ()), getattr(function, "func", None)]
    parts += _closed_over(function)
    code = getattr(function, "__code__", None)
    scope = getattr(function, "__globals__", {})
    parts += [scope[name] for name in (code.co_names if code else ()) if name in scope]
    parts += list(vars(function).values()) if hasattr(function, "__dict__") else []
    parts += list(vars(owner).values()) if owner is not None and hasattr(owner, "__dict__") else []
    return [part for part in parts if isinstance(part, nn.Module)]


def _closed_over(function: Any) -> list[Any]:
    found = []
    for cell in getattr(function, "__closure__", None) or ():
        with contextlib.suppress(ValueError):  # a cell that is not filled yet
            found.append(cell.cell_contents)
    return found


def _hash_tensor(state: Any, tensor: Tensor) -> None:
    part = tensor.detach().cpu().contiguous()
    state.update(f"{part.dtype}{tuple(part.shape)}".encode())
    state.update(part.reshape(-1).view(torch.uint8).numpy().data)


def teacher_config(teacher: object) -> str:
    """sha256 over a teacher's class, its modules and settings, and the configuration it carries."""
    teacher = plain_module(teacher) if isinstance(teacher, nn.Module) else teacher
    text = plain_repr(teacher)
    config: Any = getattr(teacher, "config", None)
    if hasattr(config, "to_dict"):
        told = {str(key): str(value) for key, value in config.to_dict().items()}
        text += repr(sorted((key, value) for key, value in told.items() if key not in PASSING))
    return sha256(text.encode()).hexdigest()


def plain_repr(value: object) -> str:
    """repr without addresses, which change from run to run."""
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    name = getattr(value, "__qualname__", "")
    return f"{kind} {name} {re.sub(r' at 0x[0-9a-f]+', '', repr(value)) if not name else ''}"


def callable_fingerprint(function: Callable[..., Any] | Any) -> str:
    """sha256 over a callable: its name, code, constants, defaults, settings and what it closes over; empty for None."""
    if function is None:
        return ""
    state = sha256()
    _hash_callable(state, function, set())
    return state.hexdigest()


def _hash_callable(state: Any, value: Any, seen: set[int]) -> None:
    if id(value) in seen:  # a function that closes over itself
        return
    seen.add(id(value))
    if isinstance(value, nn.Module):
        state.update(teacher_weights(value).encode())
    state.update(plain_repr(value).encode())
    if isinstance(value, Tensor):
        _hash_tensor(state, value)
    elif isinstance(value, (list, tuple)):
        for part in value:
            _hash_callable(state, part, seen)
    elif isinstance(value, dict):
        for name in value:
            _hash_callable(state, name, seen)
            _hash_callable(state, value[name], seen)
    elif callable(value):
        target = getattr(value, "__func__", value)
        _hash_code(state, getattr(target, "__code__", None) or getattr(type(target).__call__, "__code__", None))
        inside = [getattr(target, "__defaults__", None), getattr(target, "__self__", None), *_closed_over(target)]
        inside += [getattr(target, name, None) for name in ("func", "args", "keywords")]  # functools.partial
        inside += list(vars(target).values()) if hasattr(target, "__dict__") and not isinstance(target, type) else []
        for part in inside:
            if part is not None:
                _hash_callable(state, part, seen)


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """sha256 over a tokenizer's strings and their numbers, its special tokens and chat template; text as it is; empty for None."""
    if tokenizer is None or isinstance(tokenizer, str):
        return tokenizer or ""
    vocabulary = tokenizer.get_vocab() if hasattr(tokenizer, "get_vocab") else dict(tokenizer)
    state = sha256()
    for text, number in sorted(vocabulary.items(), key=lambda item: (item[1], item[0])):
        state.update(f"{number}:{len(text)}:".encode() + text.encode("utf-8", "surrogatepass"))
    for name in ("special_tokens_map", "chat_template", "padding_side", "truncation_side"):
        state.update(f"{name}={getattr(tokenizer, name, None)}".encode())
    return state.hexdigest()


def vocabulary_size(tokenizer: Any) -> int:
    """One more than the largest number a tokenizer gives to a string. Raises `ConfigError` where there is no tokenizer to ask."""
    if tokenizer is None or isinstance(tokenizer, str):
        raise ConfigError(
            "which classes are padding cannot be seen",
            expected="a tokenizer, or a mapping of strings to numbers",
            got=repr(tokenizer),
            fix='give tokenizer=, or leave vocabulary="whole"',
        )
    words = tokenizer.get_vocab() if hasattr(tokenizer, "get_vocab") else dict(tokenizer)
    return max(map(int, words.values()), default=-1) + 1


def _hash_code(state: Any, code: CodeType | None) -> None:
    if code is None:
        return
    state.update(code.co_code)
    state.update(repr(code.co_names).encode())
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            _hash_code(state, constant)
        else:
            plain = sorted(map(repr, constant)) if isinstance(constant, frozenset) else constant
            state.update(repr(plain).encode())
