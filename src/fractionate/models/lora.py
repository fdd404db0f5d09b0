"""Low-rank adapters through peft: put into a student before it is trained, merged into its weights afterwards."""

from __future__ import annotations

import copy
import math
import sys
import warnings
from dataclasses import dataclass
from typing import Any

from torch import nn

from fractionate.errors import ConfigError, MismatchError, extra, reason
from fractionate.models.modes import replace_module
from fractionate.models.preparations import Preparation, Preparing, given_student, preparations


@preparations.register("lora")
@dataclass(frozen=True)
class LoRA(Preparation):
    """Low-rank adapters: `lora(8)`. Only these and the modules in `trained` are trained; they are merged at the end.

    A layer computes W x + scaling · B A x with A [rank, in] drawn and B [out, rank] = 0, so the student starts as it was. The
    exported weights are W + scaling · B A, under the names that the student had before.
    Source: Hu et al. (arXiv 2106.09685), eq. 3.

    Args:
        rank: Rows of A.
        scaling: What B A is multiplied by (`lora_alpha / r` of peft).
        targets: Names, or ends of paths, of the layers that are adapted; (): those that peft knows for this kind of model.
        trained: Paths of further modules that are trained as they are, such as a fresh classifier.
        dropout: Of what enters A.
    """

    rank: int = 8
    scaling: float = 2.0
    targets: tuple[str, ...] = ()
    trained: tuple[str, ...] = ()
    dropout: float = 0.0

    def __post_init__(self) -> None:
        for name in ("targets", "trained"):
            given = getattr(self, name)
            object.__setattr__(self, name, (given,) if isinstance(given, str) else tuple(given))
        whole = isinstance(self.rank, int) and not isinstance(self.rank, bool)
        if not (whole and self.rank >= 1 and 0 < self.scaling < math.inf and 0 <= self.dropout < 1):
            raise ConfigError(
                "invalid value for lora",
                expected="rank of at least 1, scaling above 0, dropout in [0, 1)",
                got=f"rank {self.rank!r}, scaling {self.scaling!r}, dropout {self.dropout!r}",
            )

    def __call__(self, student: nn.Module | None, at: Preparing) -> nn.Module:
        """The student with adapters in its layers.

        Raises `MissingExtraError` without peft and `MismatchError` for targets and modules that the student does not have.
        """
        student, peft = given_student(student, "lora"), library()
        if adapters(student):
            raise MismatchError("the student has adapters already", expected="a student without", got="layers of peft")
        modules = dict(student.named_modules())
        unknown = [path for path in self.trained if path not in modules]
        if unknown:
            raise MismatchError(
                f"{type(student).__name__} has no module {unknown[0]!r}", fix="see model.named_modules() for trained="
            )
        settings = peft.LoraConfig(
            r=self.rank,
            lora_alpha=self.scaling * self.rank,
            lora_dropout=self.dropout,
            target_modules=list(self.targets) or None,
        )
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # it says of layers with transposed weights that it knows them
                peft.inject_adapter_in_model(settings, student)
        except ValueError as error:
            raise MismatchError(
                f"lora finds no layers in {type(student).__name__}",
                expected="names of linear layers in targets=",
                got=reason(error, 200),
                fix='name them: lora(8, targets=("query", "value"))',
            ) from error
        for path in self.trained:
            modules[path].requires_grad_(True)
        return student

    def finish(self, student: nn.Module) -> nn.Module:
        """The student with its adapters merged into its weights, all of its parameters trainable."""
        return merge(student).requires_grad_(True)


def library() -> Any:
    """The module peft. Raises `MissingExtraError` where it is not installed."""
    with extra("lora", "lora needs peft"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it imports what it can quantize with, whose imports warn
        import peft
    return peft


def adapters(model: nn.Module) -> dict[str, Any]:
    """The layers of peft in a model by their path."""
    known = sys.modules.get("peft.tuners.tuners_utils")  # without it there are none
    if known is None:
        return {}
    return {path: module for path, module in model.named_modules() if isinstance(module, known.BaseTunerLayer)}


def merge(model: nn.Module) -> nn.Module:
    """Merge the adapters of a model into the layers they adapt, in place. Raises `MismatchError` where the sum is not finite."""
    for path, layer in adapters(model).items():
        try:
            layer.merge(safe_merge=True)
        except ValueError as error:
            raise MismatchError(
                f"the adapter of {path!r} cannot be merged", expected="finite weights", got=reason(error, 200)
            ) from error
        replace_module(model, path, layer.get_base_layer())
    vars(model).pop("peft_config", None)  # what peft notes on a model that it adapts
    return model


def merged(model: nn.Module) -> nn.Module:
    """A model without adapters: a merged copy where there are any, without peft's wrapper; else the model itself."""
    known = sys.modules.get("peft")
    if not adapters(model):
        if known is not None and isinstance(model, known.PeftModel):
            raise MismatchError(
                f"the adapter of {type(model).__name__} is no change of weights: the student would need peft and its base",
                expected="adapters that can be merged, such as LoRA",
                got=", ".join(str(config.peft_type) for config in model.peft_config.values()),
                fix="model.save_pretrained(...) of peft keeps adapter and base apart",
            )
        return model
    copied: Any = copy.deepcopy(model)
    if isinstance(copied, library().PeftModel):
        whole: nn.Module = copied.merge_and_unload(safe_merge=True)
        return whole
    return merge(copied)
