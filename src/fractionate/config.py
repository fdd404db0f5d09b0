"""The run file: one YAML page that names teacher, student, data, objective and study. Validated, never executed.

All errors are collected and shown together as `file:line:column`. Overrides are written `key.sub=value`. No torch here.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from fractionate.errors import ConfigError
from fractionate.registry import names_code, nearest

MOST_NODES = 10_000  # a run file is a page; more is an accident or an attack (alias bombs)
MOST_DEEP = 20
MOST_BYTES = 1 << 20


class Section(BaseModel):
    """A part of the run file: unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class DataSection(Section):
    """Which data, and how many examples each part gets (a part left out takes a fifth)."""

    source: str = Field(
        "digits",
        description="a bundled data set, files of yours (table('x.csv', label='y'), pictures, texts, saved), or "
        "package.module:function giving Examples or Parts",
    )
    transfer: int | None = Field(None, ge=1, description="examples the student learns from")
    validation: int | None = Field(None, ge=1, description="examples that choose settings")
    test: int | None = Field(None, ge=1, description="examples read once, for the report")
    seed: int = Field(0, ge=0, description="seed of the split")


class TeacherSection(Section):
    """The teacher: a network with weights from a file, or trained here on the data."""

    model: str = Field("mlp(256, 256)", description="a bundled model, or package.module:function giving an nn.Module")
    weights: str | None = Field(
        None, description="a .safetensors file (or a tensors-only .pt) to load; none: train here"
    )
    train_on: Literal["teaching", "transfer"] = Field(
        "teaching", description="the part a teacher trained here learns from"
    )
    steps: int = Field(300, ge=1, description="optimiser steps of a teacher trained here")
    learning_rate: float = Field(2e-3, gt=0, description="AdamW learning rate of a teacher trained here")
    weight_decay: float = Field(0.05, ge=0, description="AdamW weight decay of a teacher trained here")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="smooths the labels a teacher trained here sees")
    seed: int = Field(0, ge=0, description="seed of a teacher trained here")


class StudentSection(Section):
    """The student: a fresh network."""

    model: str = Field("mlp(24)", description="a bundled model, or package.module:function giving an nn.Module")


class ObjectiveSection(Section):
    """The loss contract; leave the whole section out to take the recipe that diagnose recommends."""

    cell: str = Field("kd", description="the target: a cell by name, or 'confidence * shape'")
    temperature: float = Field(4.0, gt=0, description="tempers teacher and student alike")
    teacher_weight: float = Field(0.9, ge=0, le=1, description="weight of the teacher term; the label has the rest")
    divergence: str = Field("cross-entropy", description="how far the student is from the target")
    scale_by_temperature_squared: bool = Field(True, description="multiply the teacher term by temperature squared")


class TrainingSection(Section):
    """How long and how fast students are trained: steps, or epochs."""

    steps: int | None = Field(None, ge=1, description="optimiser steps")
    epochs: float | None = Field(None, gt=0, description="passes over the transfer data, in place of steps")
    batch_size: int = Field(32, ge=1, description="examples a step")
    learning_rate: float = Field(5e-3, gt=0, description="the largest learning rate of the schedule")
    optimizer: Literal["adamw", "sgd"] = Field("adamw", description="sgd: Nesterov momentum 0.9")
    weight_decay: float = Field(0.0, ge=0, description="decoupled for adamw, L2 for sgd")
    schedule: Literal["cosine", "constant", "tenths"] = Field("cosine", description="how the learning rate falls")
    warmup_share: float = Field(0.0, ge=0, le=1, description="share of the steps in which the learning rate rises")

    @model_validator(mode="after")
    def _one_length(self) -> TrainingSection:
        if self.steps is not None and self.epochs is not None:
            raise ValueError("give steps or epochs, not both")
        return self


LADDER = (
    "hard", "ls", "class-mean", "kd-pt", "kd-sim", "kd-pt+sim", "kd-topk", "kd", "kd-pt-shuffled", "class-mean-permuted",
)  # fmt: skip


class TuneSection(Section):
    """What is tried for each arm before the study, chosen on validation data; the same number of tries for every arm."""

    temperatures: tuple[float, ...] = Field((1.0, 4.0), description="tried for every arm but hard")
    teacher_weights: tuple[float, ...] = Field((0.5, 0.9), description="tried for every arm but hard")
    learning_rates: tuple[float, ...] = Field((), description="tried for every arm; empty: that of training")
    seeds: int = Field(1, ge=1, description="students a setting, with seeds of their own")


class StudySection(Section):
    """The study that dissect runs: every cell at every temperature and weight, over seeds."""

    cells: tuple[str, ...] = Field(LADDER, description="the arms; hard is the student without a teacher")
    temperatures: tuple[float, ...] = Field((1.0,), description="every cell is tried at each")
    teacher_weights: tuple[float, ...] = Field((0.9,), description="every cell is tried at each")
    seeds: int = Field(5, ge=2, description="students an arm; the same seeds for every arm")
    metric: Literal["accuracy", "nll", "ece", "agreement"] = Field("accuracy", description="what a gain is counted in")
    margin: float = Field(0.5, gt=0, description="differences smaller than this count as equal, in the metric's unit")
    shares: tuple[float, ...] | None = Field(None, description="parts of the data; every cell is tried with each")
    learning_rates: tuple[float, ...] | None = Field(None, description="every cell is tried at each")
    divergences: tuple[str, ...] | None = Field(None, description="every cell is tried with each")
    tune: TuneSection | None = Field(None, description="settings tried for each arm before the study; none: not tuned")

    @field_validator("cells", mode="before")
    @classmethod
    def _several(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value


class DiagnosisSection(Section):
    """What diagnose may spend on its recipe."""

    pilot_minutes: float = Field(0.0, ge=0, description="a pilot of this length refines the recipe; 0: none")


class RunFile(Section):
    """A whole run: teacher, student and data, what to measure, where to write."""

    name: str = Field("run", min_length=1, max_length=80, description="what the report calls this run")
    out: str = Field("runs/run", description="the folder everything is written to")
    seed: int = Field(0, ge=0, description="seed of the student that is distilled for real")
    data: DataSection = DataSection()
    teacher: TeacherSection = TeacherSection()
    student: StudentSection = StudentSection()
    diagnosis: DiagnosisSection = DiagnosisSection()
    objective: ObjectiveSection | None = None
    training: TrainingSection = TrainingSection()
    study: StudySection = StudySection()


CODE_KEYS = ("data.source", "teacher.model", "student.model")  # the settings that may name package.module:function
Place = tuple[str | int, ...]


def load_run(
    path: Path | str | None,
    overrides: tuple[str, ...] = (),
    *,
    trust: tuple[str, ...] = (),
    lookups: Mapping[str, Callable[[str], object]] | None = None,
) -> RunFile:
    """Read and validate a run file, apply `key.sub=value` overrides; no file gives the defaults.

    `lookups` resolve names by key (`study.cells`, …) and raise `ConfigError` for those nobody knows. Code named in the file
    (`package.module:function`) is refused unless its module is in `trust` or the same name is given as an override: what you
    type may run, what a file says may not.

    Raises `ConfigError` with every error found, each as file:line:column, what is wrong, and the nearest known key.
    """
    source = str(path) if path else "defaults"
    tree, lines = _parse(Path(path)) if path else ({}, {})
    faults: list[tuple[int, int, str]] = []
    typed: set[str] = set()
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            faults.append((0, 0, f"override {text!r} is not key=value; write for example training.steps=100"))
            continue
        typed.add(key.strip())
        parsed, _ = _parse_text(value, f"override {text!r}")
        node = tree
        *heads, last = key.strip().split(".")
        for head in heads:
            if not isinstance(node.setdefault(head, {}), dict):
                node[head] = {}
            node = node[head]
        node[last] = parsed
    run: RunFile | None = None
    try:
        run = RunFile.model_validate(tree)
    except ValidationError as error:
        for fault in error.errors():
            place: Place = fault["loc"]
            line, column = _where(lines, place)
            faults.append((line, column, _say(fault, place)))
    for key, lookup in (lookups or {}).items():
        for place, name in _names(tree, tuple(key.split("."))):
            try:
                lookup(name)
            except ConfigError as error:
                line, column = _where(lines, place)
                faults.append((line, column, f"{key}: {error.what}; {error.fix or error.expected}"))
    for key in CODE_KEYS:
        for place, name in _names(tree, tuple(key.split("."))):
            if not names_code(name):
                continue
            module = name.partition(":")[0]
            if key not in typed and not any(module == t or module.startswith(f"{t}.") for t in trust):
                line, column = _where(lines, place)
                faults.append((line, column, f"{key} names code, {name!r}; to let it run, add --trust {module}"))
    if faults:
        told = [f"{source}:{line}:{column} {what}" if line else what for line, column, what in sorted(faults)]
        raise ConfigError(f"{len(told)} error{'s' * (len(told) > 1)} in the run file\n  " + "\n  ".join(told))
    assert run is not None
    return run


def _names(tree: Any, key: tuple[str, ...]) -> list[tuple[Place, str]]:
    """The names written at a key, alone or in a list, each with its place."""
    for step in key:
        tree = tree.get(step) if isinstance(tree, dict) else None
    if isinstance(tree, str):
        return [(key, tree)]
    return [((*key, i), name) for i, name in enumerate(tree) if isinstance(name, str)] if isinstance(tree, list) else []


def _say(fault: Any, place: Place) -> str:
    key = ".".join(map(str, place))
    if fault["type"] == "extra_forbidden":
        here = known_keys(place[:-1])
        elsewhere = {key.rpartition(".")[2]: key for key in all_keys()}
        near = nearest(str(place[-1]), here, 0.75) or elsewhere.get(
            nearest(str(place[-1]), list(elsewhere), 0.75) or ""
        )
        return f"unknown key {place[-1]!r}" + (f"; did you mean {near!r}?" if near else f" in {key!r}")
    got = fault.get("input")
    shown = "" if isinstance(got, dict) else f", got {got!r}"
    hint = " (write numbers without quotes)" if isinstance(got, str) and "pars" in fault["type"] else ""
    return f"{key}: {fault['msg'].removeprefix('Value error, ')}{shown}{hint}"


def known_keys(place: Place = ()) -> list[str]:
    """The keys a section of the run file may have."""
    section: Any = RunFile
    for step in place:
        section = _section(section, str(step))
        if section is None:
            return []
    return list(section.model_fields)


def _section(section: Any, key: str) -> Any:
    """The section behind a key, or None."""
    annotation = section.model_fields[key].annotation if key in section.model_fields else None
    options = [annotation, *getattr(annotation, "__args__", ())]
    return next((o for o in options if isinstance(o, type) and issubclass(o, Section)), None)


def all_keys(place: Place = ()) -> list[str]:
    """Every key of the run file, dotted."""
    found = []
    for key in known_keys(place):
        below = all_keys((*place, key))
        found += below or [".".join(map(str, (*place, key)))]
    return found


def _where(lines: dict[Place, tuple[int, int]], place: Place) -> tuple[int, int]:
    for length in range(len(place), 0, -1):
        if place[:length] in lines:
            return lines[place[:length]]
    return (0, 0)


def _parse(path: Path) -> tuple[dict[str, Any], dict[Place, tuple[int, int]]]:
    if not path.is_file():
        folder = path.parent
        there = [str(folder / p.name) for p in folder.glob("*.y*ml")] if folder.is_dir() else []
        near = nearest(str(path), there)
        raise ConfigError(
            f"there is no run file {str(path)!r}",
            fix=f"did you mean {near!r}?" if near else "write one with: fractionate config example > run.yaml",
        )
    if path.stat().st_size > MOST_BYTES:
        raise ConfigError(
            f"{path} is too large for a run file", expected="at most 1 MiB", got=f"{path.stat().st_size} bytes"
        )
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text", got=str(error)) from None
    tree, lines = _parse_text(text, str(path))
    if tree is None:
        return {}, {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{path} is not a run file", expected="key: value lines", got=type(tree).__name__)
    return tree, lines


def _parse_text(text: str, source: str) -> tuple[Any, dict[Place, tuple[int, int]]]:
    """YAML 1.2 to plain values and the place of every key; tags, aliases and duplicate keys are refused."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError
    from ruamel.yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent, NodeEvent

    yaml = YAML(typ="rt", pure=True)
    depth = 0
    try:
        for count, event in enumerate(yaml.parse(io.StringIO(text))):
            depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
            mark = getattr(event, "start_mark", None)
            where = f"{source}:{mark.line + 1}:{mark.column + 1}" if mark else source
            if isinstance(event, AliasEvent) or (isinstance(event, NodeEvent) and getattr(event, "anchor", None)):
                raise ConfigError(f"{where} anchors and aliases are not used in run files", fix="write the value out")
            tag = getattr(event, "tag", None)
            if (tag and not str(tag).startswith("tag:yaml.org,2002:")) or "python" in str(tag):
                raise ConfigError(f"{where} tags such as {tag} are not used in run files", fix="write the plain value")
            if count > MOST_NODES or depth > MOST_DEEP:
                raise ConfigError(
                    f"{source} is too long or too deep for a run file",
                    expected=f"at most {MOST_NODES} values, {MOST_DEEP} deep",
                )
        loaded = yaml.load(io.StringIO(text))
    except MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"{source}:{mark.line + 1}:{mark.column + 1}" if mark else source
        raise ConfigError(f"{where} this is not YAML: {error.problem or error.context}") from None
    except ConfigError:
        raise
    except (YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{source} this is not YAML: {error}") from None
    lines: dict[Place, tuple[int, int]] = {}
    return _plain(loaded, (), lines), lines


def _plain(node: Any, place: Place, lines: dict[Place, tuple[int, int]]) -> Any:
    from ruamel.yaml.comments import CommentedMap, CommentedSeq

    if isinstance(node, CommentedMap):
        for key in node:
            line, column = node.lc.key(key)
            lines[(*place, str(key))] = (line + 1, column + 1)
        return {str(key): _plain(value, (*place, str(key)), lines) for key, value in node.items()}
    if isinstance(node, CommentedSeq):
        for i in range(len(node)):
            line, column = node.lc.item(i)
            lines[(*place, i)] = (line + 1, column + 1)
        return [_plain(value, (*place, i), lines) for i, value in enumerate(node)]
    if isinstance(node, bool) or node is None:
        return node
    return next((kind(node) for kind in (int, float, str) if isinstance(node, kind)), node)


def dump_run(run: RunFile) -> str:
    """The run as the YAML text of a run file with every setting written out."""
    from ruamel.yaml import YAML

    out = io.StringIO()
    yaml = YAML()
    yaml.default_flow_style = None
    yaml.dump(run.model_dump(mode="json", exclude_none=True), out)
    return out.getvalue()


def differences(first: RunFile, second: RunFile) -> list[tuple[str, str, str]]:
    """The settings in which two runs differ: key, the one's, the other's."""
    found = []
    for key in all_keys():
        values = [_at(run.model_dump(mode="json"), key) for run in (first, second)]
        if values[0] != values[1]:
            found.append((key, *(("(the recipe of diagnose)" if v is None else str(v)) for v in values)))
    return found  # type: ignore[return-value]


def _at(tree: Any, key: str) -> Any:
    for step in key.split("."):
        tree = tree.get(step) if isinstance(tree, dict) else None
    return tree


def explain(key: str | None = None) -> str:
    """What a setting means and its default, or all settings of the run file."""
    keys = all_keys()
    if key is not None and key not in keys:
        below = [k for k in keys if k.startswith(f"{key}.")]
        if not below:
            near = nearest(key, keys)
            raise ConfigError(f"unknown key {key!r}", fix=f"did you mean {near!r}?" if near else "see: config explain")
        keys = below
    else:
        keys = [key] if key else keys
    lines = []
    for name in keys:
        *heads, last = name.split(".")
        section: type[BaseModel] = RunFile
        for head in heads:
            section = _section(section, head)
        field = section.model_fields[last]
        lines.append(f"{name:<42} default {field.get_default()!r:<14} {field.description}")
    return "\n".join(lines)
