"""Tables: bundled ones by name, standardised columns."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fractionate.data.bundled import data_sets
from fractionate.data.examples import Examples
from fractionate.data.packages import package_file
from fractionate.errors import ConfigError, extra

R_TABLES = {  # of Debian's r-cran packages: file and its hash
    "dna": (
        "r-cran-mlbench",
        "mlbench/data/DNA.rda",
        "df941ad89a49f705a29bf38e52c91dc34029539cedb13fa24f803f1224278c9e",
    ),
    "spam": (
        "r-cran-kernlab",
        "kernlab/data/spam.rda",
        "09281b38bc7b064f63616d9056091f924f59e38aa9fd07dd3bc1af0cba9613d3",
    ),
}


@data_sets.register("breast-cancer")
def breast_cancer() -> Examples:
    """569 tumours by 30 measures (10 × mean, error, worst), 2 classes, bundled with scikit-learn (UCI, Street et al. 1993)."""
    with extra("demo", "this table comes with scikit-learn"):
        from sklearn.datasets import load_breast_cancer
    loaded = load_breast_cancer()
    columns = torch.as_tensor(loaded.data, dtype=torch.float32)
    columns = (columns - columns.mean(0)) / columns.std(0)
    return Examples(
        columns, torch.as_tensor(loaded.target), tuple(str(n) for n in loaded.target_names), "breast-cancer"
    )


def _r_table(name: str) -> Any:
    """A data frame out of an R package that Debian carries."""
    with extra("tables", "this table is an R file"):
        import rdata
    package, path, sha256 = R_TABLES[name]
    (frame,) = rdata.read_rda(
        package_file(package, f"usr/lib/R/site-library/{path}", sha256), default_encoding="ascii"
    ).values()
    return frame


def _labels(column: Any) -> tuple[Tensor, tuple[str, ...]]:
    names = sorted(map(str, set(column)))
    return torch.tensor([names.index(str(value)) for value in column]), tuple(names)


@data_sets.register("dna")
def dna() -> Examples:
    """3,186 stretches of DNA by 180 bits (60 positions × 3), splice sites of 3 kinds (Statlog; R package mlbench, GPL-2)."""
    frame = _r_table("dna")
    labels, names = _labels(frame["Class"])
    columns = frame.drop(columns="Class").astype(str).to_numpy()
    return Examples(torch.as_tensor((columns == "1").astype("float32")), labels, names, "dna")


@data_sets.register("spam")
def spam() -> Examples:
    """4,601 mails by 57 shares of words and characters and lengths of capitals, log(1 + x) standardised (UCI; R kernlab)."""
    frame = _r_table("spam")
    labels, names = _labels(frame["type"])
    columns = torch.as_tensor(frame.drop(columns="type").to_numpy(dtype="float32", copy=True)).log1p()
    return Examples((columns - columns.mean(0)) / columns.std(0), labels, names, "spam")


def column_names(name: str) -> tuple[str, ...]:
    """The names of a bundled table's columns.

    Args:
        name: breast-cancer, dna or spam.

    Returns:
        One name a column.

    Raises:
        ConfigError: for other data.

    Example:
        from fractionate.data import column_names

        print(column_names("breast-cancer")[:3])
    """
    if name == "breast-cancer":
        from sklearn.datasets import load_breast_cancer

        return tuple(str(column) for column in load_breast_cancer().feature_names)
    if name == "dna":  # V1 .. V180: three bits for each of the 60 positions around the middle
        return tuple(f"{position:+d}.{bit}" for position in (*range(-30, 0), *range(1, 31)) for bit in (1, 2, 3))
    if name == "spam":
        return tuple(str(column) for column in _r_table("spam").columns if column != "type")
    raise ConfigError(f"no column names are known of {name!r}", expected=f"breast-cancer, {', '.join(R_TABLES)}")
