"""The order of classes in which related ones are neighbours, and matrices small enough to look at."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from fractionate.records import Matrix

LARGEST_DRAWN = 60  # classes drawn one by one; of more, neighbours are averaged in blocks


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

    For more than 1,500 classes a chain: each class is followed by its nearest one that is left.
    """
    classes = len(relation)
    if classes < 3:
        return list(range(classes))
    likeness = (relation + relation.T) / 2
    distance = likeness.max() - likeness
    np.fill_diagonal(distance, 0.0)
    if classes > 1_500:
        return _chain(distance)
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    tree = linkage(squareform(distance, checks=False), "average", optimal_ordering=classes <= 300)
    order: list[int] = leaves_list(tree).tolist()
    return order


def _chain(distance: NDArray[np.float64]) -> list[int]:
    left = np.ones(len(distance), dtype=bool)
    order = [int(distance.sum(1).argmax())]
    left[order[0]] = False
    while left.any():
        order.append(int(np.where(left, distance[order[-1]], np.inf).argmin()))
        left[order[-1]] = False
    return order


def blocks(matrix: NDArray[np.float64], largest: int = LARGEST_DRAWN) -> tuple[NDArray[np.float64], int]:
    """A matrix of at most `largest` rows by averaging neighbours, and how many classes a block holds."""
    classes = len(matrix)
    size = math.ceil(classes / largest)
    if size == 1:
        return matrix, 1
    starts = np.arange(0, classes, size)
    sums = np.add.reduceat(np.add.reduceat(matrix, starts, 0), starts, 1)
    counts = np.diff([*starts.tolist(), classes])
    return sums / np.outer(counts, counts), size
