"""The order of classes in which related ones are neighbours, and clusters of very many classes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fractionate.records import Matrix

LARGEST_DRAWN = 50  # classes drawn one by one; more are drawn as clusters
MOST_CLUSTERS = 24
MOST_LINKED = 1_500  # classes that are clustered as a tree


def square(relation: Matrix) -> NDArray[np.float64] | None:
    """The relation as a finite square array with an empty diagonal, or None where it is not one."""
    classes = len(relation)
    if classes < 2 or any(len(row) != classes for row in relation):
        return None
    matrix = np.nan_to_num(np.array(relation, dtype=np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    np.fill_diagonal(matrix, 0.0)
    return matrix


def cluster_order(relation: NDArray[np.float64]) -> list[int]:
    """Classes so that related ones stand together: average linkage with the best order of the leaves.

    For more than `MOST_LINKED` classes a chain: each class is followed by its nearest one that is left.
    """
    classes = len(relation)
    if classes < 3:
        return list(range(classes))
    distance = _distance(relation)
    if classes > MOST_LINKED:
        return _chain(distance)
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    tree = linkage(squareform(distance, checks=False), "average", optimal_ordering=classes <= 300)
    order: list[int] = leaves_list(tree).tolist()
    return order


def clusters(relation: NDArray[np.float64], most: int = MOST_CLUSTERS) -> list[list[int]]:
    """At most so many groups of related classes, related groups as neighbours: Ward's tree, cut.

    For more than `MOST_LINKED` classes equal parts of the chain of `cluster_order`.
    """
    if len(relation) > MOST_LINKED:
        return _parts(_chain(_distance(relation)), most)
    from scipy.cluster.hierarchy import fcluster, leaves_list, linkage
    from scipy.spatial.distance import squareform

    tree = linkage(squareform(_distance(relation), checks=False), "ward")
    group = fcluster(tree, most, "maxclust")
    found: dict[int, list[int]] = {}
    for leaf in leaves_list(tree).tolist():
        found.setdefault(int(group[leaf]), []).append(leaf)
    return list(found.values())


def between_clusters(relation: NDArray[np.float64], groups: Sequence[Sequence[int]]) -> NDArray[np.float64]:
    """Where the rest of the probability goes, by cluster: mean over the labels of one, sum over the classes of the other."""
    member = np.zeros((len(groups), len(relation)))
    for i, group in enumerate(groups):
        member[i, list(group)] = 1.0
    return np.asarray((member / member.sum(1, keepdims=True)) @ relation @ member.T, dtype=np.float64)


def _parts(order: list[int], count: int) -> list[list[int]]:
    return [part.tolist() for part in np.array_split(np.array(order), count)]


def _distance(relation: NDArray[np.float64]) -> NDArray[np.float64]:
    likeness = (relation + relation.T) / 2
    distance: NDArray[np.float64] = likeness.max() - likeness
    np.fill_diagonal(distance, 0.0)
    return distance


def _chain(distance: NDArray[np.float64]) -> list[int]:
    left = np.ones(len(distance), dtype=bool)
    order = [int(distance.sum(1).argmax())]
    left[order[0]] = False
    while left.any():
        order.append(int(np.where(left, distance[order[-1]], np.inf).argmin()))
        left[order[-1]] = False
    return order
