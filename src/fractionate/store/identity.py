"""Whose words a store holds: fingerprints of everything that decides a row. Any difference refuses, naming the field."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from hashlib import sha256
from typing import Any

from torch import nn

from fractionate.errors import ConfigError, MismatchError
from fractionate.models.function import UNREADABLE, FunctionTeacher, identity_of
from fractionate.models.modes import plain_module, plain_state
from fractionate.store.forms import FormKind, StoredDtype
from fractionate.system.fingerprints import plain_repr, settings_text
from fractionate.system.hashing import feed_tensor, parts_of

PASSING = ("transformers_version", "_name_or_path", "_attn_implementation", "torch_dtype")  # not what the model says
CODE = "collect/1"  # raised when the same call would give other rows


@dataclass(frozen=True)
class Identity:
    """Everything that decides what a row holds.

    Args:
        data: sha256 over the examples' fingerprints in order; empty for data that was streamed.
        ids: Where ids come from: place, data, content.
        teacher: Hash of weights and buffers.
        teacher_config: Hash of class, modules and their settings.
        outputs: What the teacher gives: logits, log-probabilities, probabilities.
        precision: What the teacher computed in.
        tokenizer: Hash of its vocabulary and settings.
        template: Hash of the chat template.
        tokens: Which token a row is for: "", aligned, next.
        transform: Hash of the transform of views.
        view_seed: Seed of the views.
        views: Views of each example.
        form: How rows are kept.
        k: Entries of a row.
        dtype: Of the numbers on disk.
        temperatures: At which the mass outside the k entries is kept.
        vocabulary: "whole", or "trim": classes beyond the tokenizer's strings are left out.
        features: Paths of the layers whose features are kept.
        non_finite: "refuse", or "skip": examples whose outputs are not finite have no row.
        code: Version of the code that computes rows.
    """

    data: str = ""
    ids: str = "place"
    teacher: str = ""
    teacher_config: str = ""
    outputs: str = "logits"
    precision: str = "float32"
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
    vocabulary: str = "whole"
    features: str = ""
    non_finite: str = "refuse"
    code: str = field(default_factory=lambda: CODE)

    def of_outputs(self, outputs: str) -> Identity:
        """The same with outputs that were recognised, where they were not known yet."""
        return replace(self, outputs=outputs) if self.outputs == "auto" else self

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
                fix='name the teacher, named="…", or FunctionTeacher(function, content=its file or version): its content cannot be '
                "read, so that it is known in one process alone"
                if self.teacher.startswith(UNREADABLE) and "teacher" in wrong
                else "give another out=, or run with what the store was collected with",
            )


def teacher_weights(teacher: object, named: str = "") -> str:
    """sha256 over a teacher's weights and buffers by name; of one without any, over its file, code and settings; else its name."""
    if named:
        return f"named:{named}"
    if isinstance(teacher, FunctionTeacher):
        return teacher.identity
    module = plain_module(teacher) if isinstance(teacher, nn.Module) else None
    found = {} if module is None else plain_state(module)
    if not found:
        return identity_of(teacher)
    state = sha256()
    assert module is not None
    unsaved = {name: buffer for name, buffer in module.named_buffers() if name not in module.state_dict()}
    for name, value in sorted((found | unsaved).items()):
        state.update(name.encode())
        for part in parts_of(value):
            feed_tensor(state, part)
    return state.hexdigest()


def teacher_config(teacher: object) -> str:
    """sha256 over a teacher's class, its modules and settings, and the configuration it carries."""
    teacher = plain_module(teacher) if isinstance(teacher, nn.Module) else teacher
    text = plain_repr(teacher) + (settings_text(teacher) if isinstance(teacher, nn.Module) else "")
    config: Any = getattr(teacher, "config", None)
    if hasattr(config, "to_dict"):
        message = {str(key): str(value) for key, value in config.to_dict().items()}
        text += repr(sorted((key, value) for key, value in message.items() if key not in PASSING))
    return sha256(text.encode()).hexdigest()


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
