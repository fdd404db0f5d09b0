"""Canonical text of frozen specs: what a run's identity, its contract and its record hold of objectives, terms and other parts."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Set
from dataclasses import MISSING, Field, fields, is_dataclass
from numbers import Integral, Real
from typing import Any, TypeAlias

from torch import Tensor

from fractionate.errors import ConfigError
from fractionate.system.hashing import content_hash
from fractionate.system.registry import registered_name

Json: TypeAlias = Any  # None, truth values, numbers, texts, lists, dictionaries with texts as keys


def canonical(value: Any) -> Json:
    """A frozen spec as JSON: equal specs give equal values, in every process and whatever the order of arguments.

    A frozen dataclass becomes `{"is": name, "version": n, field: value, ...}`. The name is the one in its registry (`term:map`),
    which does not change when its file is moved, else its class. Left out are version 1, fields that equality ignores and fields
    that hold their default: a field added later does not change the identity of older runs. A tensor becomes a hash of its content.

    Args:
        value: A frozen dataclass, a number, a text, a tensor, None, or a tuple, list, mapping or set of those.

    Raises:
        ConfigError: For functions, modules, classes inside functions and everything else that has no stable text.
    """
    return _canonical(value, "")


def canonical_text(value: Any) -> str:
    """`canonical` as one line of JSON with sorted keys: for hashes and comparisons."""
    return json.dumps(canonical(value), sort_keys=True, ensure_ascii=False, allow_nan=False)


def _canonical(value: Any, where: str) -> Json:
    if value is None or isinstance(value, (str, bool)):
        return value
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return _number(float(value))
    if isinstance(value, Tensor):
        return {"tensor": content_hash(value)}
    if isinstance(value, (tuple, list)):
        return [_canonical(part, f"{where}[{place}]") for place, part in enumerate(value)]
    if isinstance(value, Set):
        return sorted((_canonical(part, where) for part in value), key=lambda part: json.dumps(part, sort_keys=True))
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise _refused(value, where, "a mapping with keys that are not texts")
        return {key: _canonical(part, f"{where}[{key!r}]") for key, part in value.items()}
    if is_dataclass(value) and not isinstance(value, type) and value.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        return _spec(value, where)
    raise _refused(value, where, f"{type(value).__name__}: {value!r}"[:200])


def _number(value: float) -> Json:
    if not math.isfinite(value):
        return {"number": repr(value)}  # JSON has none
    return int(value) if value.is_integer() and abs(value) < 2**53 else value  # 2 and 2.0 are equal


def _spec(value: Any, where: str) -> dict[str, Json]:
    kind = type(value)
    found: dict[str, Json] = {"is": registered_name(kind) or _class_name(kind, where)}
    if (version := getattr(kind, "version", 1)) != 1:
        found["version"] = version
    for field in fields(value):
        if not field.compare:
            continue
        own = _canonical(getattr(value, field.name), f"{where}.{field.name}".lstrip("."))
        default = _default(field)
        if default is MISSING or own != _canonical(default, where):
            found[field.name] = own
    return found


def _default(field: Field[Any]) -> Any:
    return field.default_factory() if field.default_factory is not MISSING else field.default


def _class_name(kind: type, where: str) -> str:
    if "<locals>" in kind.__qualname__:
        raise _refused(kind, where, f"{kind.__qualname__}, a class inside a function")
    package = kind.__module__.partition(".")[0]
    # a script is __mp_main__ in the processes it starts; files of this package may be moved
    module = {"fractionate": package, "__mp_main__": "__main__"}.get(package, kind.__module__)
    return f"{module}.{kind.__qualname__}"


def _refused(value: Any, where: str, got: str) -> ConfigError:
    return ConfigError(
        f"{where or 'this'} has no text that is the same in every process: runs could not be distinguished by it",
        expected="a frozen dataclass of numbers, texts, tensors and such dataclasses",
        got=got,
        fix="write it as a frozen dataclass at the top of a module, and register it",
    )
