"""The run file: one YAML page that names teacher, student, data, objective and study. Validated, never executed.

All errors are collected and shown together as `file:line:column`. Overrides are written `key.sub=value`. No torch here.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from fractionate.errors import ConfigError, FractionateError, printable, visible
from fractionate.records.commands import Difference, Differences, Setting, Settings
from fractionate.run.schema import RunFile, all_keys, known_keys, section_at
from fractionate.run.sections import FACTORS, ContradictionError
from fractionate.run.yaml import MOST_DEEP, Lines, Place, parse_file, parse_text
from fractionate.system.registry import names_code, nearest

CODE_KEYS = ("data.source", "teacher.model", "student.model")  # the settings that may name package.module:function
SHORT = {  # what people write elsewhere, and the name of the setting
    "lr": "learning_rate", "wd": "weight_decay", "bs": "batch_size", "bsz": "batch_size", "T": "temperature", "tau": "temperature",
    "kd_weight": "teacher_weight", "max_steps": "steps", "num_epochs": "epochs", "max_length": "length", "output_dir": "out",
}  # fmt: skip
MOST_FAULTS = 50  # shown at once
Fault = tuple[int, int, str]  # line and column (0: nowhere in the file), and what is wrong


def load_run(
    path: Path | str | None,
    overrides: tuple[str, ...] = (),
    *,
    trust: tuple[str, ...] = (),
    lookups: Callable[[Any], Mapping[str, Callable[[str], object]]] | None = None,
) -> RunFile:
    """Read and validate a run file, apply `key.sub=value` overrides; no file gives the defaults.

    `lookups` gives, for the tree of a run file, what resolves names by key (`study.cells`, `study.arms.*.terms`, …) and raises
    `ConfigError` for those nobody knows. Code named in the file
    (`package.module:function`) is refused unless its module is in `trust` or the same name is given as an override: what you
    type may run, what a file says may not.

    Raises `ConfigError` with every error found, each as file:line:column, what is wrong, and the nearest known key.
    """
    source = str(path) if path else "defaults"
    tree, lines = parse_file(path) if path else ({}, {})
    faults: list[Fault] = []
    typed = _override(tree, overrides, faults)
    run: RunFile | None = None
    try:
        run = RunFile.model_validate(tree)
    except ValidationError as error:
        for fault in error.errors():
            place: Place = fault["loc"]
            cause = fault.get("ctx", {}).get("error")
            if isinstance(cause, ContradictionError):
                message = [
                    ((*place, key), f"{'.'.join(map(str, (*place, key)))}: {why}") for key, why in cause.by_key.items()
                ]
            else:
                message = [(place, _say(fault, place))]
            faults += [_fault(lines, typed, there, what) for there, what in message]
    for key, lookup in ({} if lookups is None else lookups(tree)).items():
        for place, name in _names(tree, tuple(key.split("."))):
            try:
                lookup(name)
            except FractionateError as error:
                at = ".".join(map(str, place))
                faults.append(
                    _fault(lines, typed, place, f"{at}: {error.what}; {error.fix or error.expected or error.got}")
                )
    for key in CODE_KEYS:
        for place, name in _names(tree, tuple(key.split("."))):
            if not names_code(name):
                continue
            module = name.partition(":")[0]
            if key not in typed and not any(module == t or module.startswith(f"{t}.") for t in trust):
                line, column = _where(lines, place)
                shown = printable(module)
                faults.append(
                    (line, column, f"{key} names code, {printable(name)!r}; to let it run, add --trust {shown}")
                )
    if faults:
        entries = [f"{source}:{line}:{column} {what}" if line else what for line, column, what in sorted(faults)]
        raise _listed(entries)
    assert run is not None
    return run


def _listed(entries: list[str]) -> ConfigError:
    """One error that lists all."""
    more = [f"and {len(entries) - MOST_FAULTS} more"] if len(entries) > MOST_FAULTS else []
    count = f"{len(entries)} error{'s' * (len(entries) > 1)} in the run file"
    return ConfigError("\n  ".join([count, *entries[:MOST_FAULTS], *more]))


def raise_listed(found: Sequence[FractionateError]) -> None:
    """Raise the one error, or one that lists them all, each with its place; none where there is none."""
    if len(found) == 1 and isinstance(found[0], ConfigError):
        raise found[0]
    if len(found) == 1:
        error = found[0]
        only = ConfigError(error.what, expected=error.expected, got=error.got, fix=error.fix)
        if error.place is not None:
            only.name_place(error.place)
        raise only from error
    if found:
        raise _listed([_entry(error) for error in found])


def _entry(error: FractionateError) -> str:
    """An error as one line of a list."""
    parts = (error.expected and f"expected {error.expected}", error.got and f"got {error.got}", error.fix)
    return " ".join(f"{error.place or ''} {'; '.join([error.what, *filter(None, parts)])}".split())


def _fault(lines: Lines, typed: Mapping[str, str], place: Place, what: str) -> Fault:
    """A fault where it was written: in an override, which is cited, or in the file."""
    at = ".".join(map(str, place))
    for key, value in typed.items():
        if at == key or at.startswith(f"{key}."):
            return 0, 0, f"override {printable(f'{key}={value}')!r}: {what}"
    return (*_where(lines, place), what)


def places_of(path: Path | str | None, overrides: tuple[str, ...] = ()) -> dict[str, str]:
    """Where each key of a run file is written: file:line:column, or the override on the command line."""
    _, lines = parse_file(path) if path else ({}, {})
    found = {".".join(map(str, place)): f"{path}:{line}:{column}" for place, (line, column) in lines.items()}
    for text in overrides:
        typed = text.partition("=")[0].strip()
        found = {key: place for key, place in found.items() if not f"{key}.".startswith(f"{typed}.")}
        found[typed] = f"override {printable(text)!r}"
    return found


def _override(tree: dict[str, Any], overrides: tuple[str, ...], faults: list[Fault]) -> dict[str, str]:
    """Put overrides into the tree of a run file; gives them by key, and adds what is wrong with them to the faults."""
    typed: dict[str, str] = {}
    for text in overrides:
        shown = printable(text)
        key, equals, value = (part.strip() for part in text.partition("="))
        if not equals or not key:
            faults.append((0, 0, f"override {shown!r} is not key=value; write for example training.steps=100"))
            continue
        if typed.setdefault(key, value) != value:
            faults.append(
                (0, 0, f"override {shown!r}: {printable(key)} is given twice, first as {printable(typed[key])!r}")
            )
            continue
        try:
            parsed, _ = parse_text(value, f"override {shown!r}")
        except ConfigError as error:
            faults.append((0, 0, f"{error.what}; {error.fix or error.expected or error.got or ''}".rstrip("; ")))
            continue
        node: Any = tree
        *heads, last = key.split(".")
        for head in heads[:MOST_DEEP]:
            if isinstance(node, dict) and node.get(head) is None:
                node[head] = {}
            node = node[head] if isinstance(node, dict) else None
        if not isinstance(node, dict):
            faults.append((0, 0, f"override {shown!r}: {printable('.'.join(heads))} is not a section in the run file"))
            continue
        node[last] = parsed
    return typed


def _names(tree: Any, key: tuple[str, ...], place: Place = ()) -> list[tuple[Place, str]]:
    """The names written at a key, alone or in a list, each with its place; `*` stands for every name of a mapping."""
    if not key:
        if isinstance(tree, str):
            return [(place, tree)]
        parts = enumerate(tree) if isinstance(tree, list) else ()
        return [((*place, i), name) for i, name in parts if isinstance(name, str)]
    if not isinstance(tree, dict):
        return []
    steps = [str(step) for step in tree] if key[0] == "*" else [key[0]] if key[0] in tree else []
    return [found for step in steps for found in _names(tree.get(step), key[1:], (*place, step))]


def _say(fault: Any, place: Place) -> str:
    key = printable(".".join(map(str, place)), 200)
    if fault["type"] == "extra_forbidden":
        here = known_keys(place[:-1])
        known = sorted(
            all_keys(), key=lambda key: (key.split(".")[0] == place[0], -key.count("."))
        )  # the best one last
        elsewhere = {key.rpartition(".")[2]: key for key in known}
        written = SHORT.get(str(place[-1]), str(place[-1]))
        near = nearest(written, here, 0.75) or elsewhere.get(nearest(written, list(elsewhere), 0.75) or "")
        if near == key.rpartition(".")[2]:  # right, and in the wrong place
            parent = ".".join(map(str, place[:-1]))
            return (
                f"unknown key {near!r} in {parent!r}: it is one of the whole file; here: {', '.join(sorted(here)[:16])}"
            )
        return f"unknown key {printable(str(place[-1]))!r}" + (
            f"; did you mean {near!r}?"
            if near
            else f" in {key!r}; see: fractionate config explain {' '.join(map(str, place[:1]))}"
        )
    got = fault.get("input")
    shown = "" if isinstance(got, dict) else f", got {printable(repr(got))}"
    hint = " (write numbers without quotes)" if isinstance(got, str) and "pars" in fault["type"] else ""
    return f"{key}: {fault['msg'].removeprefix('Value error, ')}{shown}{hint}"


def _where(lines: Lines, place: Place) -> tuple[int, int]:
    for length in range(len(place), 0, -1):
        if place[:length] in lines:
            return lines[place[:length]]
    return (0, 0)


def dump_run(run: RunFile) -> str:
    """The run as the YAML text of a run file with every setting that applies written out.

    Args:
        run: What `read_run` or `load_run` gave.

    Returns:
        YAML; what cannot be printed is escaped.

    Example:
        from fractionate.run import dump_run, read_run

        print(dump_run(read_run(None))[:80])
    """
    from ruamel.yaml import YAML

    out = io.StringIO()
    yaml = YAML()
    yaml.default_flow_style = None
    tree = run.model_dump(mode="json", exclude_none=True)
    if run.study.arms is not None:  # which stand in the place of the factors
        tree["study"] = {key: value for key, value in tree["study"].items() if key not in FACTORS}
    yaml.dump(_quoted(tree), out)
    return visible(out.getvalue())


def _quoted(value: Any) -> Any:
    """Texts with characters that cannot be printed in double quotes, the one style of YAML that has escapes."""
    from ruamel.yaml.scalarstring import DoubleQuotedScalarString

    if isinstance(value, dict):
        return {key: _quoted(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_quoted(part) for part in value]
    return DoubleQuotedScalarString(value) if isinstance(value, str) and not value.isprintable() else value


def trusting(run: RunFile) -> list[str]:
    """The `--trust` options that the run needs once it stands in a file."""
    names = [_at(run.model_dump(mode="json"), key) for key in CODE_KEYS]
    modules = dict.fromkeys(name.partition(":")[0] for name in names if names_code(name))
    return [word for module in modules for word in ("--trust", module)]


def differences(first: RunFile, second: RunFile) -> Differences:
    """The settings in which two runs differ."""
    found = []
    for key in all_keys():
        values = [_at(run.model_dump(mode="json"), key) for run in (first, second)]
        if values[0] != values[1]:
            unset = "(the recipe of diagnose)" if key.startswith("objective.") else "(not set)"
            found.append(Difference(key, *(unset if value is None else str(value) for value in values)))
    return Differences(tuple(found))


def _at(tree: Any, key: str) -> Any:
    for step in key.split("."):
        tree = tree.get(step) if isinstance(tree, dict) else None
    return tree


def explain(key: str | None = None) -> Settings:
    """What a setting means and its default: one key, a section, every setting of a name (`learning_rate`, `lr`), or all.

    Raises `ConfigError` for others.
    """
    keys = all_keys()
    found = keys if key is None else [k for k in keys if k == key or k.startswith(f"{key}.")]
    if not found:
        heads, _, last = str(key).rpartition(".")
        last = last.replace("-", "_")
        last = SHORT.get(last, last)
        found = [k for k in keys if k.startswith(heads) and last in k.split(".")]
    if not found:
        near = nearest(str(key), keys)
        raise ConfigError(f"unknown key {key!r}", fix=f"did you mean {near!r}?" if near else "see: config explain")
    return Settings(tuple(_setting(name) for name in found))


def _setting(name: str) -> Setting:
    *heads, last = name.split(".")
    section = section_at(tuple(heads))
    assert section is not None
    field = section.model_fields[last]
    default = field.get_default()
    shown = list(default) if isinstance(default, tuple) else default
    return Setting(name, "none" if default is None else json.dumps(shown, ensure_ascii=False), field.description or "")
