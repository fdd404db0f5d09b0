"""Networks of timm and torchvision by their names there, fresh or with the weights that come with the name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from fractionate.data.raw import Tokenizing
from fractionate.errors import ConfigError, MismatchError, MissingExtraError
from fractionate.models.names import ModelNeed
from fractionate.models.zoo import models
from fractionate.system.registry import nearest


@dataclass(frozen=True)
class PictureModel:
    """A network of a library by its name.

    Args:
        library: Whose it is.
        name: Its name there.
        weights: Those that come with the name; None: fresh ones.
    """

    library: Literal["timm", "torchvision"]
    name: str
    weights: str | None = None

    @property
    def trained(self) -> bool:
        """Whether it comes with weights, and is not trained unless that is wanted."""
        return self.weights is not None

    def tokenizing(self, length: int) -> Tokenizing | None:
        """None: it reads pictures."""
        return None

    def build(self, need: ModelNeed) -> nn.Module:
        """The network; weights of another number of classes keep their body and get a new head.

        Raises `MismatchError` for inputs that are no pictures, and for a new head where `need.frozen` forbids one.
        """
        found = _library(self)
        if len(need.shape) != 3:
            raise MismatchError(
                f"{self.name} needs pictures", expected="inputs [channels, height, width]", got=str(list(need.shape))
            )
        names = found.list_models()
        if self.name not in names:
            near = nearest(self.name, list(names))
            raise ConfigError(
                f"{self.library} has no model {self.name!r}", fix=f"did you mean {near!r}?" if near else None
            )
        return self._of_timm(found, need) if self.library == "timm" else self._of_torchvision(found, need)

    def _of_timm(self, timm: Any, need: ModelNeed) -> nn.Module:
        channels = need.shape[0]
        if not need.frozen or not self.trained:
            fresh: nn.Module = timm.create_model(
                self.name, pretrained=self.trained, num_classes=need.classes, in_chans=channels
            )
            return fresh
        model: Any = timm.create_model(self.name, pretrained=True, in_chans=channels)
        self._check_head(int(model.num_classes), need)
        frozen: nn.Module = model
        return frozen

    def _of_torchvision(self, torchvision: Any, need: ModelNeed) -> nn.Module:
        if need.shape[0] != 3:
            raise MismatchError(
                f"{self.name} takes colour pictures", expected="3 channels", got=f"{need.shape[0]}", fix="use timm"
            )
        if self.weights is None:
            fresh: nn.Module = torchvision.get_model(self.name, num_classes=need.classes)
            return fresh
        model: nn.Module = torchvision.get_model(self.name, weights=self.weights)
        path, last = [(path, layer) for path, layer in model.named_modules() if isinstance(layer, nn.Linear)][-1]
        if need.frozen:
            self._check_head(last.out_features, need)
        elif last.out_features != need.classes:
            above, _, leaf = path.rpartition(".")
            setattr(model.get_submodule(above), leaf, nn.Linear(last.in_features, need.classes))
        return model

    def _check_head(self, theirs: int, need: ModelNeed) -> None:
        if theirs != need.classes:
            raise MismatchError(
                f"{self.library}'s {self.name} has other classes than the data: with a new head it would answer at random",
                expected=f"{need.classes} classes",
                got=f"{theirs}",
                fix="train it here, teacher: {train: {steps: 1000}}; or give weights that were trained on these classes",
            )

    def __call__(self, shape: Sequence[int], classes: int) -> nn.Module:
        return self.build(ModelNeed(shape=tuple(shape), classes=classes))


def _library(model: PictureModel) -> Any:
    try:
        if model.library == "timm":
            import timm

            return timm
        import torchvision

        return torchvision.models
    except (ImportError, RuntimeError) as error:  # a build of torchvision that does not fit torch's raises the latter
        raise MissingExtraError(
            f"{model.library}({model.name!r}) needs {model.library}, which cannot be imported",
            got=str(error),
            fix=f"pip install {model.library}",
        ) from error


@models.register("timm")
def from_timm(name: str, *, pretrained: bool = False) -> PictureModel:
    """A network of timm by its name there: `timm('resnet18')`; pretrained weights are those that come with the name."""
    return PictureModel("timm", name, "pretrained" if pretrained else None)


@models.register("torchvision")
def from_torchvision(name: str, *, weights: str | None = None) -> PictureModel:
    """A network of torchvision by its name there: `torchvision('resnet18')`, with `weights='DEFAULT'` for pretrained ones."""
    return PictureModel("torchvision", name, weights)
