"""Models that explain: one prediction for each superfeature, and their product as the prediction of the whole.

    teacher = explaining_mlp(found, classes, hidden_layers=2, parameters=count, prior=prior_of(black_box_signal))
    out = teacher(inputs)   # {"logits": [batch, classes], "explanations": [batch, superfeatures, classes]}

The explanation of superfeature m is a distribution over the classes, e_m = softmax(g_m(x_m)), of a sub-network that
sees nothing else.
Source: Chowdhury, Liang, Tizghadam and Albanese (arXiv 2310.02572) and their code.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fractionate.errors import ConfigError, MismatchError
from fractionate.models.columns import check_superfeatures
from fractionate.models.modes import eval_mode
from fractionate.records import Superfeatures

EXPLANATIONS = "explanations"  # their name in the output
Builder = Callable[[Sequence[int], int], nn.Module]  # (input shape, classes) -> a model
SubNetwork = Callable[[int, int], nn.Module]  # (features, classes) -> a module that gives logits


class Signal(Protocol):
    """A teacher's logits on some examples."""

    logits: Float[Tensor, "examples classes"]


def combined(
    explanations: Float[Tensor, "batch superfeatures classes"], log_prior: Float[Tensor, "classes"] | None = None
) -> Float[Tensor, "batch classes"]:
    """Logits of the prediction: Σ_m log e_m - (M - 1) log prior; without a prior Σ_m log e_m, as the CNNs of the paper.

    Bayes' rule where the superfeatures are independent given the class. `explanations` are log-probabilities.
    """
    logits = explanations.sum(dim=1)
    return logits if log_prior is None else logits - (explanations.shape[1] - 1) * log_prior


class Columns(nn.Module):
    """Splits inputs into the columns of each superfeature."""

    order: Tensor

    def __init__(self, groups: Sequence[Sequence[int]]) -> None:
        super().__init__()
        self.sizes = [len(group) for group in groups]
        order = torch.tensor([column for group in groups for column in group])
        self.register_buffer("order", order, persistent=False)

    def forward(self, inputs: Float[Tensor, "batch *features"]) -> tuple[Tensor, ...]:
        flat = inputs.flatten(1)
        if flat.shape[1] != len(self.order):
            raise MismatchError(
                "these inputs do not have the columns of the superfeatures",
                expected=f"[batch, {len(self.order)}] when flattened",
                got=str(list(inputs.shape)),
            )
        return torch.split(flat[:, self.order], self.sizes, dim=1)


class Channels(nn.Module):
    """Splits a map into groups of neighbouring channels of one size."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, features: Float[Tensor, "batch channels height width"]) -> tuple[Tensor, ...]:
        if features.shape[1] % self.groups:
            raise MismatchError(
                "these channels do not fall into groups of one size",
                expected=f"a multiple of {self.groups}",
                got=f"{features.shape[1]} channels",
            )
        return features.chunk(self.groups, dim=1)


class Explaining(nn.Module):
    """A trunk, a split into superfeatures, and a branch for each: gives `logits` and `explanations` (log-probabilities).

    A branch may be any module that gives logits [batch, classes]. `prior` [classes] are the class shares that are divided out
    M - 1 times; None leaves them out. Raises `ConfigError` for a prior that is not a distribution with every class.
    """

    log_prior: Tensor | None

    def __init__(
        self,
        branches: Sequence[nn.Module],
        split: nn.Module,
        *,
        trunk: nn.Module | None = None,
        prior: Float[Tensor, "classes"] | None = None,
    ) -> None:
        super().__init__()
        if not branches:
            raise ConfigError("there is no superfeature", expected="at least one branch", got="none")
        self.trunk = trunk if trunk is not None else nn.Identity()
        self.split = split
        self.branches = nn.ModuleList(branches)
        log_prior = None
        if prior is not None:
            log_prior = torch.as_tensor(prior).double()
            if log_prior.ndim != 1 or not bool((log_prior > 0).all()) or abs(float(log_prior.sum()) - 1) > 1e-3:
                raise ConfigError(
                    "this is not a class prior",
                    expected="shares of all classes, each above 0, that sum to 1",
                    got=str([round(v, 4) for v in log_prior.flatten().tolist()[:8]]),
                    fix="prior_of(signal) takes the mean of the black-box teacher's predictions",
                )
            log_prior = log_prior.log().float()
        self.register_buffer("log_prior", log_prior)

    def forward(self, inputs: Any) -> dict[str, Tensor]:
        parts = self.split(self.trunk(inputs))
        outputs = [torch.log_softmax(branch(part), dim=-1) for branch, part in zip(self.branches, parts, strict=True)]
        explanations = torch.stack(outputs, dim=1)
        return {"logits": combined(explanations, self.log_prior), EXPLANATIONS: explanations}


def prior_of(signal: Signal) -> Float[Tensor, "classes"]:
    """The class prior of the combination: the mean of a teacher's predictions on the training data.

    Args:
        signal: The teacher's on the training data.

    Returns:
        [classes] probabilities.

    Example:
        import torch
        from fractionate import TeacherSignal
        from fractionate.models import prior_of

        print(prior_of(TeacherSignal(torch.zeros(8, 4), torch.arange(8) % 4)))
    """
    return torch.softmax(signal.logits.double(), dim=1).mean(dim=0).float()


def fully_connected(features: int, widths: Sequence[int], classes: int) -> nn.Sequential:
    """A branch for tables: ReLU layers of these widths."""
    layers: list[nn.Module] = []
    for before, after in pairwise((features, *widths)):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(widths[-1] if widths else features, classes))


def matched_width(features: int, superfeatures: int, classes: int, *, hidden_layers: int, parameters: int) -> int:
    """The width h of all hidden layers at which the explaining model has at most so many parameters, the paper's closed form.

    h solves M (L - 1) h² + (M (L + K) + d) h + M K = parameters for M superfeatures of d features in all, L layers, K classes;
    the positive root is floored. Raises `ConfigError` where not even width 1 fits.
    """
    square = superfeatures * (hidden_layers - 1)
    linear = superfeatures * (hidden_layers + classes) + features
    constant = superfeatures * classes - parameters
    if square == 0:
        root = -constant / linear
    else:
        root = (-linear + math.sqrt(max(0.0, linear**2 - 4 * square * constant))) / (2 * square)
    width = math.floor(root + 1e-9)
    if hidden_layers < 1 or width < 1:
        raise ConfigError(
            "an explaining model of this size cannot be built",
            expected=f"at least one hidden layer and {square + linear + superfeatures * classes} parameters",
            got=f"{hidden_layers} hidden layers, {parameters} parameters",
            fix="fewer superfeatures, fewer layers or more parameters",
        )
    return width


def explaining_mlp(
    found: Superfeatures,
    classes: int,
    *,
    hidden_layers: int = 2,
    parameters: int | None = None,
    width: int | None = None,
    prior: Float[Tensor, "classes"] | None = None,
    branch: SubNetwork | None = None,
) -> Explaining:
    """An explaining model for tables: a sub-network for the columns of each superfeature. Give one of parameters, width and branch.

    Args:
        found: The superfeatures.
        classes: Logits of each sub-network.
        hidden_layers: Of each sub-network.
        parameters: The size to match: equal widths first, then single branches and layers are widened by one as long as it fits.
        width: Of all hidden layers.
        prior: [classes] class prior of the combination; None: uniform.
        branch: Called with features and classes, builds any other sub-network.

    Returns:
        An `Explaining` module.

    Raises:
        ConfigError: where none or more than one of parameters, width and branch is given.

    Example:
        from fractionate.models import explaining_mlp
        from fractionate.records import Superfeatures

        found = Superfeatures(groups=((0, 1), (2, 3)), features=4, names=("a", "b"))
        model = explaining_mlp(found, classes=3, width=8)
    """
    check_superfeatures(found)
    if sum(option is not None for option in (parameters, width, branch)) != 1:
        raise ConfigError("say how large the sub-networks are", expected="one of parameters=, width= and branch=")
    sizes = [len(group) for group in found.groups]
    if branch is not None:
        branches = [branch(size, classes) for size in sizes]
    else:
        if parameters is not None:
            widths = _matched_widths(found, classes, hidden_layers, parameters)
        else:
            widths = [[width or 1] * hidden_layers for _ in sizes]
        branches = [fully_connected(size, w, classes) for size, w in zip(sizes, widths, strict=True)]
    return Explaining(branches, Columns(found.groups), prior=prior)


def _matched_widths(found: Superfeatures, classes: int, hidden_layers: int, parameters: int) -> list[list[int]]:
    """The paper's equal widths, then what is left over: whole branches wider by one, then single layers, as long as it fits."""
    sizes = [len(group) for group in found.groups]
    least = matched_width(found.features, len(sizes), classes, hidden_layers=hidden_layers, parameters=parameters)
    widths = [[least] * hidden_layers for _ in sizes]

    def count() -> int:
        rows = [(size, *w, classes) for size, w in zip(sizes, widths, strict=True)]
        return sum((before + 1) * after for row in rows for before, after in pairwise(row))

    layers = range(hidden_layers)
    wider = [(place, layers) for place in range(len(sizes))]
    wider += [(place, range(layer, layer + 1)) for layer in reversed(layers) for place in range(len(sizes))]
    for place, some in wider:
        for layer in some:
            widths[place][layer] += 1
        if count() > parameters:
            for layer in some:
                widths[place][layer] -= 1
    return widths


def explaining_cnn(
    trunk: nn.Module,
    branch: Callable[[], nn.Module],
    superfeatures: int,
    *,
    trunk_channels: int,
    branch_channels: int,
    classes: int,
) -> Explaining:
    """An explaining model for pictures: a shared trunk, channel groups of its map, and a branch for each group; no prior term.

    After the trunk a 1 × 1 convolution with batch normalisation and ReLU gives M · `branch_channels` channels; group m goes
    through its own `branch()` (maps in, maps out), global average and a linear layer. The superfeatures are the groups.
    """

    def head() -> nn.Sequential:
        maps = nn.Sequential(branch(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        with eval_mode(maps):  # how many channels it gives
            given = maps(torch.zeros(1, branch_channels, 8, 8)).shape[1]
        return nn.Sequential(*maps, nn.Linear(given, classes))

    wide = superfeatures * branch_channels
    return Explaining(
        [head() for _ in range(superfeatures)],
        Channels(superfeatures),
        trunk=nn.Sequential(trunk, nn.Conv2d(trunk_channels, wide, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU()),
    )


def explaining_cnn_builder(
    *channels: int, superfeatures: int = 4, branch_channels: int = 8, trunk_stages: int = 1
) -> Builder:
    """Stages of 3 × 3 convolution, batch normalisation, ReLU and halving: the first `trunk_stages` shared, the others a group."""

    def stages(sizes: Sequence[int]) -> nn.Sequential:
        layers: list[nn.Module] = []
        for before, after in pairwise(sizes):
            layers += [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
            layers += [nn.MaxPool2d(2, ceil_mode=True)]
        return nn.Sequential(*layers)

    def build(shape: Sequence[int], classes: int) -> nn.Module:
        if len(shape) != 3 or not 1 <= trunk_stages < len(channels):
            raise MismatchError(
                "an explaining cnn cannot be built like this",
                expected="inputs [channels, height, width], and a stage for trunk and branch each",
                got=f"inputs {list(shape)}, {len(channels)} stages, {trunk_stages} of them the trunk's",
            )
        shared, own = (shape[0], *channels[:trunk_stages]), (branch_channels, *channels[trunk_stages:])
        return explaining_cnn(
            stages(shared),
            lambda: stages(own),
            superfeatures,
            trunk_channels=shared[-1],
            branch_channels=branch_channels,
            classes=classes,
        )

    return build


def explanations_of(output: Any) -> Float[Tensor, "batch superfeatures classes"]:
    """The explanations in a model's output. Raises `MismatchError` where there are none."""
    found = output.get(EXPLANATIONS) if isinstance(output, dict) else getattr(output, EXPLANATIONS, None)
    if not isinstance(found, Tensor) or found.ndim != 3:
        raise MismatchError(
            "this model does not explain",
            expected=f"an output with {EXPLANATIONS!r} [batch, superfeatures, classes] and 'logits'",
            got=", ".join(map(str, found.shape)) if isinstance(found, Tensor) else type(output).__name__,
            fix="build it with explaining_mlp, explaining_cnn or Explaining",
        )
    return found
