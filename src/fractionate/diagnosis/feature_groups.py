"""Superfeatures: groups of inputs that act together on the teacher, found as communities of its interactions, or given.

    found = superfeatures(teacher, data, 4)              # second derivatives of a differentiable teacher
    found = superfeatures(forest, data, 4, method="ablation")  # a teacher that can only be queried
    found = given([["mean radius", …], […]], feature_names=names)   # fractionate.models.columns

Source: Chowdhury, Liang, Tizghadam and Albanese (arXiv 2310.02572), section 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from fractionate.data.examples import Examples
from fractionate.data.splits import as_examples
from fractionate.diagnosis.interactions import Quantity, Teacher, attribution_interactions, second_derivatives, varying
from fractionate.errors import ConfigError, MismatchError, extra
from fractionate.models.outputs import Head
from fractionate.records import Matrix, Superfeatures

Way = Literal["second-derivatives", "ablation", "shapley"]
EXAMPLES = 1_000  # how many training examples the interactions are averaged over, as in the paper
TRIES = 60
NEIGHBOURS = 64  # strongest interactions of a feature that are edges of the graph: Louvain takes time by edges
FINEST = 1e-3  # resolutions nearer to each other than this share are not distinguished


def superfeatures(
    teacher: Teacher,
    data: Any,
    count: int,
    *,
    method: Way = "second-derivatives",
    quantity: Quantity = "log-probabilities",
    examples: int = EXAMPLES,
    feature_names: Sequence[str] = (),
    seed: int = 0,
    head: Head = None,
    memory_mebibytes: float = 512.0,
) -> Superfeatures:
    """Exactly `count` groups of features that act together on a black-box teacher: interactions by `method`, then `communities`.

    Args:
        teacher: The black box.
        data: Training data.
        count: How many groups.
        method: How interactions are measured.
        quantity: What of the teacher: log-probabilities or log-odds.
        examples: How many of the first examples are read.
        feature_names: For notes and record.
        seed: Of the communities.
        head: Where the logits are in the teacher's output.
        memory_mebibytes: Held at once, about.

    Returns:
        `Superfeatures`.

    Raises:
        ConfigError: for a count that cannot be reached, naming those that can.
        MismatchError: for a teacher without gradients.
        NumericsError: for missing values.

    Example:
        import torch
        from torch import nn
        from fractionate.diagnosis import superfeatures

        torch.manual_seed(0)
        teacher = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
        found = superfeatures(teacher, (torch.randn(30, 6), torch.arange(30) % 3), 6)
    """
    inputs = _inputs(data)[:examples]
    features = inputs.flatten(1).shape[1]
    _check_count(count, features)
    moves = varying(inputs, feature_names)
    if method == "second-derivatives":
        strength = second_derivatives(teacher, inputs, quantity=quantity, head=head, memory_mebibytes=memory_mebibytes)
    else:
        strength = attribution_interactions(teacher, inputs, method=method, quantity=quantity, head=head)
    still = [column for column, moving in enumerate(moves.tolist()) if not moving]
    return communities(strength, count, seed=seed, feature_names=feature_names, constant=still)


def _inputs(data: Any) -> Tensor:
    if isinstance(data, Tensor):
        return data
    return data.inputs if isinstance(data, Examples) else as_examples(data).inputs


def _check_count(count: int, features: int) -> None:
    if not 1 <= count <= features:
        raise ConfigError(
            f"{features} features cannot be put into {count} superfeatures",
            expected=f"a count in 1..{features}",
            got=str(count),
            fix="each superfeature holds at least one feature: ask for fewer",
        )


def communities(
    strength: Float[Tensor, "features features"],
    count: int,
    *,
    seed: int = 0,
    feature_names: Sequence[str] = (),
    constant: Sequence[int] = (),
    tries: int = TRIES,
    neighbours: int = NEIGHBOURS,
) -> Superfeatures:
    """Exactly `count` disjoint communities of features: Louvain (networkx) on interaction strength, its resolution searched for.

    From resolution 1 it goes up where there are too few communities and down where there are too many, then halves the way between;
    where the count is jumped over, other orders of the nodes (seeds) are tried. Features that interact with nothing belong to no
    community; they join the smallest, and the notes say so. Source: Blondel et al. (arXiv 0803.0476); resolution as in Chowdhury et
    al.'s code, which steps by 0.01 up to 100 times.

    Args:
        strength: [features, features] symmetric, at least 0.
        count: How many communities.
        seed: Of the first order of the nodes.
        feature_names: For the notes and the record.
        constant: Columns that do not vary, for the notes.
        tries: Steps of the search.
        neighbours: The edges are so many strongest interactions of each feature.

    Returns:
        `Superfeatures`.

    Raises:
        ConfigError: naming the counts that can be reached.
        MismatchError: for strengths that are not symmetric, finite and at least 0.
        MissingExtraError: without networkx.

    Example:
        import torch
        from fractionate.diagnosis import communities

        strength = torch.block_diag(torch.ones(3, 3), torch.ones(3, 3)).fill_diagonal_(0)
        print(communities(strength, 2).groups)
    """
    features = len(strength)
    _check_count(count, features)
    sound = strength.ndim == 2 and strength.shape[1] == features and bool(torch.isfinite(strength).all())
    if not sound or bool((strength < 0).any()) or not torch.allclose(strength, strength.T):
        raise MismatchError(
            "these are not interaction strengths",
            expected="a symmetric matrix of finite numbers of at least 0",
            got=str(list(strength.shape)),
        )
    if count in (1, features):
        groups = [list(range(features))] if count == 1 else [[column] for column in range(features)]
        return _made(groups, features, feature_names, None, None, ())
    alone = (strength.sum(dim=1) == 0).nonzero().flatten().tolist()
    connected = [column for column in range(features) if column not in set(alone)]
    if len(connected) < count:
        raise ConfigError(
            f"only {len(connected)} of {features} features interact",
            expected=f"at least {count} for {count} superfeatures",
            got=f"{len(alone)} features without any interaction, {len(constant)} of them constant",
            fix="give the groups yourself, or ask for fewer; log-odds of an additive teacher have none",
        )
    search = _Search(_strongest(strength[connected][:, connected], neighbours), count, seed, tries)
    found, resolution = search.run()
    groups = [[connected[place] for place in group] for group in found]
    notes = []
    if alone:
        smallest = min(groups, key=len)
        smallest += alone
        names = [feature_names[c] if feature_names else str(c) for c in alone]
        shown = ", ".join(names[:8]) + (" …" if len(names) > 8 else "")
        still = len(set(constant) & set(alone))
        text = f"{len(alone)} of {features} features interact with nothing ({still} are constant)"
        notes.append(f"{text} and joined the smallest group: {shown}")
    return _made(groups, features, feature_names, resolution, search.modularity(found), tuple(notes))


def _made(
    groups: Sequence[Sequence[int]],
    features: int,
    feature_names: Sequence[str],
    resolution: float | None,
    modularity: float | None,
    notes: tuple[str, ...],
) -> Superfeatures:
    ordered = sorted((tuple(sorted(group)) for group in groups), key=lambda group: group[0])
    return Superfeatures(
        groups=tuple(ordered),
        features=features,
        names=tuple(f"S{number}" for number in range(1, len(ordered) + 1)),
        feature_names=tuple(feature_names),
        resolution=resolution,
        modularity=modularity,
        notes=notes,
    )


def _strongest(strength: Tensor, neighbours: int) -> Tensor:
    """The strength, kept where it is among the strongest of either of the two features."""
    if len(strength) <= neighbours + 1:
        return strength
    least = strength.topk(neighbours, dim=1).values[:, -1:]
    return torch.where((strength >= least) | (strength >= least.T), strength, 0.0)


class _Search:
    """The resolution at which Louvain gives exactly so many communities."""

    def __init__(self, strength: Tensor, count: int, seed: int, tries: int) -> None:
        with extra("explain", "communities come from networkx"):
            import networkx
        self.networkx = networkx
        # the mean edge at 1: resolutions do not depend on the scale, rounding does
        self.graph = networkx.from_numpy_array((strength / strength[strength > 0].mean()).double().cpu().numpy())
        self.count, self.seed, self.tries = count, seed, tries
        self.reached: dict[int, float] = {}

    def at(self, resolution: float, seed: int) -> list[list[int]]:
        """The communities at a resolution."""
        self.tries -= 1
        found = self.networkx.community.louvain_communities(self.graph, resolution=resolution, seed=seed)
        groups = [sorted(group) for group in found]
        self.reached.setdefault(len(groups), resolution)
        return groups

    def modularity(self, groups: list[list[int]]) -> float:
        """Newman's modularity at resolution 1."""
        return float(self.networkx.community.modularity(self.graph, groups))

    def run(self) -> tuple[list[list[int]], float]:
        """The groups and their resolution."""
        parts = self.networkx.number_connected_components(self.graph)
        if parts > self.count:
            raise self._out_of_reach(f"they fall into {parts} parts that do not interact at all")
        low, high = 0.0, float("inf")
        resolution, seed = 1.0, self.seed
        while self.tries > 0:
            found = self.at(resolution, seed)
            if len(found) == self.count:
                return found, resolution
            if len(found) < self.count:
                low = max(low, resolution)
            else:
                high = min(high, resolution)
            if high == float("inf"):
                resolution *= 1.5
            elif high - low > FINEST * high and low < high:
                resolution = (low + high) / 2
            else:  # jumped over: the same place, in another order of the nodes
                low, high, seed = low * 0.9, high * 1.1, seed + 1
                resolution = (low + high) / 2
        raise self._out_of_reach("no resolution that was tried gives this count")

    def _out_of_reach(self, why: str) -> ConfigError:
        reachable = ", ".join(map(str, sorted(self.reached))) or "none tried"
        return ConfigError(
            f"these features do not fall into {self.count} communities: {why}",
            expected=f"exactly {self.count}",
            got=f"reachable: {reachable}",
            fix="ask for a count that can be reached, or give the groups",
        )


def between_groups(strength: Float[Tensor, "features features"], found: Superfeatures) -> Matrix:
    """The mean interaction strength of the features of each two superfeatures, [superfeatures, superfeatures]."""
    member = torch.zeros(len(found), found.features, dtype=torch.float64)
    for row, group in enumerate(found.groups):
        member[row, list(group)] = 1.0
    sums = member @ strength.double().cpu() @ member.T
    sizes = member.sum(1)
    pairs = sizes[:, None] * sizes[None] - torch.diag(sizes)  # a feature does not interact with itself
    means = sums / pairs.clamp_min(1)
    return tuple(tuple(row) for row in means.tolist())
