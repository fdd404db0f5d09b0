"""Students made of the teacher: every n-th layer of its stacks, with its embeddings and head; or a whole copy.

    Recipe(preparations=("from_teacher(layers='every 2')",))    # layers 0, 2, 4, …, as DistilBERT

A stack is an `nn.ModuleList` of blocks of one class that lies in no other stack.
"""

from __future__ import annotations

import copy
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from fractionate.errors import ConfigError, MismatchError, reason
from fractionate.models.modes import replace_module
from fractionate.models.preparations import Preparation, Preparing, preparations


@preparations.register("from_teacher")
@dataclass(frozen=True)
class FromTeacher(Preparation):
    """A copy of the teacher with some of its layers: `from_teacher("every 2")`, `from_teacher((0, 3, 5))`; None: all of them.

    Embeddings, head and everything outside the stacks are copied. A model of transformers is built anew from its config, whose
    numbers of layers follow, so that the student loads by itself. All parameters are trained.
    Source: Sanh et al. (arXiv 1910.01108), DistilBERT.

    Args:
        layers: "every n": layers 0, n, 2n, …; or the numbers of the layers that are kept, in order; None: a whole copy.
        stack: Path of the one stack that is cut, for models with more than one; "" cuts all of them.
    """

    layers: str | tuple[int, ...] | None = None
    stack: str = ""
    reads_teacher: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if isinstance(self.layers, list):
            object.__setattr__(self, "layers", tuple(self.layers))
        if self.layers is not None:
            kept_layers(self.layers, 1 << 20)

    def __call__(self, student: nn.Module | None, at: Preparing) -> nn.Module:
        """The student; the one given is not used. Raises `ConfigError` without a teacher, `MismatchError` for layers it lacks."""
        if at.teacher is None:
            raise ConfigError(
                f"{self!r} needs the teacher's model",
                expected="a model, or Online(model)",
                got="a cached signal",
                fix="pass the teacher itself, or leave from_teacher out",
            )
        kept = {} if self.layers is None else self._kept(at.teacher)
        made = cut(at.teacher, kept)
        return made.requires_grad_(True).train()

    def _kept(self, teacher: nn.Module) -> dict[str, tuple[int, ...]]:
        assert self.layers is not None
        found = stacks(teacher)
        chosen = {path: size for path, size in found.items() if self.stack in ("", path)}
        if not chosen:
            raise MismatchError(
                f"{type(teacher).__name__} has no stack of layers{f' at {self.stack!r}' if self.stack else ''}",
                expected="an nn.ModuleList of blocks of one class",
                got=", ".join(found) or "none",
                fix="from_teacher() copies the whole model",
            )
        kept = {path: kept_layers(self.layers, size, path) for path, size in chosen.items()}
        if self.layers != "every 1" and all(len(kept[path]) == size for path, size in chosen.items()):
            raise MismatchError(
                f"{self!r} leaves no layer of {type(teacher).__name__} out",
                expected="a stack with more layers",
                got=", ".join(f"{size} in {path}" for path, size in chosen.items()),
                fix="from_teacher() copies the whole model",
            )
        return kept


def kept_layers(layers: str | tuple[int, ...], size: int, path: str = "the stack") -> tuple[int, ...]:
    """The numbers of the layers that are kept of so many.

    Raises `ConfigError` for what is neither "every n" nor numbers, and `MismatchError` for layers that are not there.
    """
    if isinstance(layers, str):
        written = re.fullmatch(r"every ([1-9]\d{0,5})", layers)
        if written is not None:
            return tuple(range(0, size, int(written[1])))
    elif (
        isinstance(layers, tuple)
        and layers
        and all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in layers)
    ):
        if max(layers) >= size:
            raise MismatchError(
                f"{path} has no layer {max(layers)}", expected=f"layers in 0..{size - 1}", got=repr(layers)
            )
        if list(layers) == sorted(set(layers)):
            return layers
    raise ConfigError(
        "invalid value for layers of from_teacher",
        expected="'every 2', or numbers of layers in order: (0, 2, 5)",
        got=repr(layers),
    )


def stacks(model: nn.Module) -> dict[str, int]:
    """Path and length of every stack of layers in a model."""
    found: dict[str, int] = {}
    for path, module in model.named_modules():
        inside = any(path.startswith(f"{outer}.") for outer in found)
        if isinstance(module, nn.ModuleList) and not inside and len(module) and len({type(m) for m in module}) == 1:
            found[path] = len(module)
    return found


def cut(model: nn.Module, kept: Mapping[str, tuple[int, ...]]) -> nn.Module:
    """A copy of a model with these layers of its stacks. Raises `MismatchError` where its config does not say how many it has."""
    config = _config_of(model)
    if config is None or not kept:
        made = copy.deepcopy(model)
        for path, numbers in kept.items():
            layers: Any = made.get_submodule(path)
            replace_module(made, path, nn.ModuleList(layers[number] for number in numbers))
        return made
    config = copy.deepcopy(config)
    for path, numbers in kept.items():
        _follow(config, path, numbers, len(model.get_submodule(path)))  # type: ignore[arg-type]
    try:
        made = type(model)(config)
        made.load_state_dict(_renumbered(model.state_dict(), kept))
    except (RuntimeError, ValueError, IndexError, AttributeError) as error:
        raise MismatchError(
            f"{type(model).__name__} cannot be built with fewer layers from its config",
            got=reason(error, 300),
            fix="build the student yourself: Task(student=...)",
        ) from error
    if made.can_generate():  # type: ignore[operator]
        made.generation_config = copy.deepcopy(model.generation_config)
    parameter = next(model.parameters())
    return made.to(parameter.device, parameter.dtype)


def _config_of(model: nn.Module) -> Any:
    """The config of a model of transformers, from which it can be built again; None of other models."""
    library = sys.modules.get("transformers")  # a model of it cannot exist before it was imported
    return model.config if library is not None and isinstance(model, library.PreTrainedModel) else None


def _follow(config: Any, path: str, kept: tuple[int, ...], before: int) -> None:
    """Update a config to the layers that the stack at a path has now: numbers of layers, and lists with an entry per layer."""
    side = next((s for s in ("encoder", "decoder") if config.is_encoder_decoder and s in path.split(".")), "")
    names = (
        f"{side}_layers",
        f"num_{side}_layers",
        *(("num_layers", "num_hidden_layers") if side != "decoder" else ()),
    )
    changed = False
    for name in names if side else ("num_hidden_layers", "num_layers"):
        if getattr(config, name, None) == before:
            setattr(config, name, len(kept))
            changed = True
    for name, value in config.to_dict().items():
        if isinstance(value, (list, tuple)) and len(value) == before and "layer" in name and changed:
            setattr(config, name, type(value)(value[number] for number in kept))


def _renumbered(weights: Mapping[str, torch.Tensor], kept: Mapping[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """A state dict under the names that the layers have once others are left out."""
    found = {}
    for name, tensor in weights.items():
        stack = next((path for path in kept if name.startswith(f"{path}.")), None)
        if stack is None:
            found[name] = tensor
            continue
        number, _, rest = name.removeprefix(f"{stack}.").partition(".")
        if int(number) in kept[stack]:
            found[f"{stack}.{kept[stack].index(int(number))}.{rest}"] = tensor
    return found
