"""Name to part: refuses duplicates, suggests near names, reads arguments, loads plug-ins from entry points.

A name may carry arguments: `ls(0.1)`, `kd-topk(5)`, `relation(power=0.5, sharpness=0.3)`. They are literals only; nothing is
ever executed from a name.
"""

from __future__ import annotations

import ast
import difflib
import inspect
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from importlib.metadata import EntryPoint, distributions, entry_points
from typing import TypeVar

from fractionate.errors import ConfigError, FractionateError, ResourceError, UnknownNameError, printable, reason

Part = TypeVar("Part")
Factory = TypeVar("Factory", bound=Callable[..., object])
LONGEST = 10_000  # characters of a name with its arguments
LARGEST = 2**63  # of a whole number among the arguments
_registered: dict[object, str] = {}  # class -> "kind:name", the first it was registered under


def nearest(name: str, known: list[str], least_likeness: float = 0.5) -> str | None:
    """The known name that was most likely meant, or None."""
    found = difflib.get_close_matches(name, known, n=1, cutoff=least_likeness)
    return found[0] if found else None


def parse_call(text: str) -> tuple[str, list[object], dict[str, object]]:
    """Split `name(1, key=2)` into its name, arguments and keywords; arguments are Python literals."""
    if not isinstance(text, str):
        raise ConfigError("this is not a name", expected="text, for example 'kd' or 'ls(0.1)'", got=repr(text))
    if len(text) > LONGEST:
        raise ConfigError(f"a name of {len(text):,} characters", expected=f"at most {LONGEST:,}", got=printable(text))
    name, opening, rest = text.strip().partition("(")
    if not opening:
        return name, [], {}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the compiler prints what it thinks of a backslash
            call = ast.parse(f"f({rest}", mode="eval").body
        if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name)):
            raise ValueError(text)
        if any(keyword.arg is None for keyword in call.keywords):
            raise ValueError(text)
        arguments = [_plain(ast.literal_eval(argument)) for argument in call.args]
        keywords = {str(keyword.arg): _plain(ast.literal_eval(keyword.value)) for keyword in call.keywords}
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError) as error:
        raise ConfigError(
            f"cannot read {printable(text, 200)!r}",
            expected="name or name(1, key=2) with plain numbers",
            fix="write for example ls(0.1)",
        ) from error
    return name.strip(), arguments, keywords


def _plain(value: object) -> object:
    """A literal of a run file: text, a finite number, yes or no, nothing, or lists and mappings of these."""
    if isinstance(value, (list, tuple)):
        return type(value)(_plain(part) for part in value)
    if isinstance(value, dict):
        return {_plain(key): _plain(part) for key, part in value.items()}
    whole = isinstance(value, int) and abs(value) < LARGEST
    number = whole or (isinstance(value, float) and math.isfinite(value))
    if not (number or isinstance(value, str) or value is None):
        raise ValueError("no plain value")
    return value


def registered_name(part: type) -> str:
    """`kind:name` of a registered class, the same whatever module it is in; empty for a class that is not registered."""
    return _registered.get(part, "")


def names_code(name: str) -> bool:
    """Whether a name is `package.module:function`. A colon among arguments (`table('a:b.csv')`) is none of that."""
    return ":" in name.partition("(")[0]


class Registry(Mapping[str, Part]):
    """Named factories of one kind of part, a mapping: `registry["name(arguments)"]` builds the part.

    Raises `UnknownNameError` for a name nobody registered (suggesting the nearest) and `ConfigError` for a name that
    is registered twice or for arguments the part does not take. A plug-in that cannot be imported is left out with a warning.
    """

    def __init__(self, kind: str, group: str, files: Sequence[str] = ()) -> None:
        self.kind = kind
        self.group = group
        self.files = tuple(files)  # below the package: each registers parts when it is imported
        self._factories: dict[str, Callable[..., Part]] = {}
        self._plugins_loaded = False
        self._left_out: list[str] = []

    def register(self, name: str) -> Callable[[Factory], Factory]:
        """A decorator: register a class or function under a name."""

        def add(factory: Factory) -> Factory:
            if (
                not isinstance(name, str)
                or not name.isprintable()
                or name != name.partition("(")[0].strip()
                or not name
            ):
                raise ConfigError(f"{name!r} cannot be the name of a {self.kind}", expected="a name without brackets")
            if name in self._factories:
                raise ConfigError(f"{self.kind} {name!r} is registered already", fix="choose another name")
            self._factories[name] = factory  # type: ignore[assignment]
            _registered.setdefault(factory, f"{self.kind}:{name}")
            return factory

        return add

    def _load_plugins(self) -> None:
        if not self._plugins_loaded:
            self._plugins_loaded = True
            for file in self.files:
                import_module(f"fractionate.{file}")
            for point in self._entry_points():
                try:
                    point.load()
                except (Exception, SystemExit) as error:  # another package's import may raise anything
                    self._leave_out(f"{point.name} = {point.value}", error)

    def _entry_points(self) -> list[EntryPoint]:
        try:
            return [*entry_points(group=self.group)]
        except Exception:  # the metadata of one package cannot be read: those of the others can
            found: list[EntryPoint] = []
            for package in distributions():
                try:
                    found += package.entry_points.select(group=self.group)
                except Exception as error:
                    self._leave_out(str(package.metadata["Name"]), error)
            return found

    def _leave_out(self, plugin: str, error: BaseException) -> None:
        self._left_out.append(printable(f"{plugin}: {type(error).__name__}: {reason(error)}", 300))
        warnings.warn(f"a plug-in of {self.group} is left out: {self._left_out[-1]}", stacklevel=5)

    def factory(self, name: str) -> Callable[..., Part]:
        """The class or function registered under a bare name."""
        if name not in self._factories:
            self._load_plugins()
        if name not in self._factories:
            near = nearest(name, list(self._factories))
            broken = f"plug-ins that could not be imported: {'; '.join(self._left_out)}" if self._left_out else None
            raise UnknownNameError(
                f"unknown {self.kind} {printable(name)!r}",
                expected=f"one of {', '.join(self._factories)}",
                got=broken,
                fix=f"did you mean {near!r}?" if near else "mend or remove these plug-ins" if broken else None,
            )
        return self._factories[name]

    def check(self, text: str) -> None:
        """Raise what `self[text]` raises for an unknown name or arguments that are not taken, without making the part."""
        name, arguments, keywords = parse_call(text)
        try:
            takes = inspect.signature(self.factory(name))
        except ValueError:  # a function of C has none to read
            return
        try:
            takes.bind(*arguments, **keywords)
        except TypeError as error:
            message = ", ".join(str(p.replace(annotation=p.empty)) for p in takes.parameters.values())
            raise ConfigError(
                f"{self.kind} {printable(text)!r} does not take these arguments: {reason(error)}",
                expected=f"{name}({message})",
            ) from error

    def __getitem__(self, text: str) -> Part:
        name, arguments, keywords = parse_call(text)
        factory = self.factory(name)
        try:
            return factory(*arguments, **keywords)
        except FractionateError:
            raise
        except MemoryError as error:
            raise ResourceError(
                f"{self.kind} {printable(text)!r} does not fit into memory", got=reason(error)
            ) from error
        except TypeError as error:
            raise ConfigError(
                f"{self.kind} {printable(text)!r} does not take these arguments: {reason(error)}"
            ) from error
        except Exception as error:  # a part is made from what a file says, and may raise anything for it
            raise ConfigError(
                f"{self.kind} {printable(text)!r} cannot be made", got=f"{type(error).__name__}: {reason(error)}"
            ) from error

    def __contains__(self, text: object) -> bool:
        self._load_plugins()
        return isinstance(text, str) and text.partition("(")[0].strip() in self._factories

    def __iter__(self) -> Iterator[str]:
        self._load_plugins()
        return iter(tuple(self._factories))

    def __len__(self) -> int:
        self._load_plugins()
        return len(self._factories)

    __eq__ = object.__eq__  # a registry is itself, whatever it holds
    __hash__ = object.__hash__

    def __repr__(self) -> str:
        return f"<{self.kind} registry: {', '.join(self._factories)}>"
