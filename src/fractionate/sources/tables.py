"""Tables: bundled ones by name, standardised columns."""

from __future__ import annotations

import torch

from fractionate.errors import MissingExtraError
from fractionate.sources.bundled import data_sets
from fractionate.sources.examples import Examples


@data_sets.register("breast-cancer")
def breast_cancer() -> Examples:
    """569 tumours by 30 measures (10 × mean, error, worst), 2 classes, bundled with scikit-learn (UCI, Street et al. 1993)."""
    try:
        from sklearn.datasets import load_breast_cancer
    except ImportError as error:
        raise MissingExtraError("this table comes with scikit-learn", fix='pip install "fractionate[demo]"') from error
    loaded = load_breast_cancer()
    columns = torch.as_tensor(loaded.data, dtype=torch.float32)
    columns = (columns - columns.mean(0)) / columns.std(0)
    return Examples(
        columns, torch.as_tensor(loaded.target), tuple(str(n) for n in loaded.target_names), "breast-cancer"
    )
