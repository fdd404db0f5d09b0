"""The best pairing of rows and columns: which class of the teacher belongs to which class of the labels."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor


def best_assignment(gain: Float[Tensor, "n n"]) -> Int[Tensor, "n"]:
    """The permutation with the largest sum of gains, one column for each row.

    The Hungarian method by shortest augmenting paths with potentials, O(n³). Source: Kuhn, 1955; Jonker and Volgenant, 1987.
    """
    cost = -gain.double().cpu().numpy()
    n = len(cost)
    row_price, column_price = np.zeros(n + 1), np.zeros(n + 1)
    owner = np.zeros(n + 1, dtype=np.int64)  # the row that has each column; 0 for none, so rows count from 1
    came_from = np.zeros(n + 1, dtype=np.int64)
    for row in range(1, n + 1):
        owner[0], column = row, 0
        slack, used = np.full(n + 1, np.inf), np.zeros(n + 1, dtype=bool)
        while True:
            used[column] = True
            at = owner[column]
            reduced = cost[at - 1] - row_price[at] - column_price[1:]
            better = ~used[1:] & (reduced < slack[1:])
            slack[1:][better], came_from[1:][better] = reduced[better], column
            following = int(np.where(used, np.inf, slack)[1:].argmin()) + 1
            step = slack[following]
            row_price[owner[used]] += step
            column_price[used] -= step
            slack[~used] -= step
            column = following
            if owner[column] == 0:
                break
        while column:
            owner[column] = owner[came_from[column]]
            column = int(came_from[column])
    found = torch.empty(n, dtype=torch.long)
    found[torch.from_numpy(owner[1:] - 1)] = torch.arange(n)
    return found
