"""Data sets by name, and their parts: what can be used without a download, and what divides files of a person's own."""

from __future__ import annotations

import gzip
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from fractionate.data.batch import Split
from fractionate.data.dividing import Size, divide
from fractionate.data.examples import Examples
from fractionate.data.packages import package_file
from fractionate.data.parts import balanced, subset
from fractionate.errors import ConfigError, extra
from fractionate.records.base import Record
from fractionate.system.hashing import content_hash
from fractionate.system.registry import Registry


@dataclass(frozen=True, eq=False)
class Parts:
    """Disjoint parts of a data set, by what they are for: `Examples`, or a `Split` where they have weights or views.

    `transfer` is what the student learns from and the teacher is run on, `validation` chooses settings, `test` is read
    once, and `teaching` is what a bundled teacher is trained on (None where the teacher comes trained). `encoding` is how raw
    data became these inputs, where that is known: it is kept with the student, which has to be fed the same way.
    """

    transfer: Any
    validation: Any
    test: Any
    teaching: Any = None
    encoding: Record | None = None

    def __repr__(self) -> str:
        found = [(field.name, getattr(self, field.name)) for field in fields(self) if field.name != "encoding"]
        parts = ", ".join(f"{name} {len(part):,}" for name, part in found if part is not None)
        return f"Parts({self.transfer.name}: {parts})"


def split_parts(
    data: Any,
    *,
    transfer: Size = None,
    validation: Size = None,
    test: Size = None,
    seed: int = 0,
    encoding: Record | None = None,
    class_weights: bool = False,
    **more: Any,
) -> Parts:
    """The parts of `Examples`, a `Split` or a `RawSplit` by `divide`, which takes the sizes and `more`.

    What is left over teaches a teacher. `class_weights` gives each class the same weight in what is learned from. Raises
    `ConfigError` where the parts are empty or larger than the data.
    """
    sizes: Mapping[str, Any] = {"transfer": transfer, "validation": validation, "test": test}
    places = divide(len(data), labels=data.labels, **sizes, seed=seed, name=data.name, **more)
    made = {part: subset(data, some) if isinstance(data, Split) else data.take(some) for part, some in places.items()}
    if class_weights:
        made |= {part: balanced(made[part]) for part in ("transfer", "teaching") if part in made}
    return Parts(made["transfer"], made["validation"], made["test"], made.get("teaching"), encoding)


@runtime_checkable
class Undivided(Protocol):
    """Data that divides itself: it has parts of its own, or becomes numbers only when it is known what students learn from."""

    def parts(self, *, transfer: Size, validation: Size, test: Size, seed: int) -> Parts:
        """The parts, of the requested size."""
        ...


@dataclass(frozen=True, eq=False)
class Divided:
    """Examples, and what `split_parts` takes with them.

    Args:
        examples: All examples: `Examples`, a `Split`, or a `RawSplit`.
        given: The part that the data name for each, where they do.
        groups: The group of each, where there are groups.
        keys: What makes two of them the same, where repeats are left out.
        encoding: How raw data became inputs.
        class_weights: Each class has the same weight in what is learned from.
    """

    examples: Any
    given: Sequence[str | None] | None = None
    groups: Sequence[Hashable] | None = None
    keys: Sequence[Hashable] | None = None
    encoding: Record | None = None
    class_weights: bool = False

    def parts(self, *, transfer: Size = None, validation: Size = None, test: Size = None, seed: int = 0) -> Parts:
        """The parts, by `divide`. Raises what it raises."""
        sizes: Mapping[str, Any] = {"transfer": transfer, "validation": validation, "test": test}
        settings = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "examples"}
        return split_parts(self.examples, **sizes, seed=seed, **settings)


def joined(parts: Mapping[str, Examples], *, repeats: bool = True, **settings: Any) -> Divided:
    """The examples of parts that are there already, by their names; without `repeats`, each example is in one part alone."""
    whole = next(iter(parts.values()))
    if len(parts) > 1:
        inputs, labels = (torch.cat([getattr(part, name) for part in parts.values()]) for name in ("inputs", "labels"))
        whole = replace(whole, inputs=inputs, labels=labels, ids=tuple(i for part in parts.values() for i in part.ids))
    given = [name for name, part in parts.items() for _ in part.ids]
    pairs = zip(whole.inputs, whole.labels.tolist(), strict=True)
    keys = None if repeats else [(content_hash(example), label) for example, label in pairs]
    return Divided(whole, given, keys=keys, **settings)


data_sets: Registry[Examples | Parts | Undivided] = Registry(
    "data set",
    "fractionate.data_sets",
    files=(
        "data.hierarchy",
        "data.language_sets",
        "data.own_pairs",
        "data.own_pictures",
        "data.own_prompts",
        "data.own_queries",
        "data.own_saved",
        "data.own_table",
        "data.own_tags",
        "data.own_texts",
    ),
)


@data_sets.register("digits")
def digits() -> Examples:
    """1,797 handwritten digits of 8 × 8 pixels in 10 classes, bundled with scikit-learn.

    Source: UCI, Alpaydin and Kaynak (1998).

    Returns:
        `Examples`: inputs [1797, 1, 8, 8] in 0 to 1, labels 0 to 9.

    Raises:
        MissingExtraError: without scikit-learn.

    Example:
        from fractionate.data import digits

        print(digits().inputs.shape)
    """
    with extra("demo", "the digits come with scikit-learn"):
        from sklearn.datasets import load_digits
    loaded = load_digits()
    pixels = torch.as_tensor(loaded.images, dtype=torch.float32)[:, None] / 16
    return Examples(pixels, torch.as_tensor(loaded.target), tuple(str(n) for n in loaded.target_names), "digits")


CLASSES = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
GROUPS = (0, 1, 0, 0, 0, 2, 0, 2, 3, 2)  # tops, trousers, shoes, bags
FILES = {
    "train-images-idx3": "b0564c3eedabfbf835052cff8503ea422014ce006caf5b757f851416ee8300c7",
    "train-labels-idx1": "0ae29f65d86684f32d1b9c85147786c547b9c6aebcaf235f0400a0cce308b056",
    "t10k-images-idx3": "cc1d090a38ace84dfa1aa66e3ada7c336ef481a96936906477e6dd344da56eaa",
    "t10k-labels-idx1": "8d3605d196f4be44669e46906da9733c8131fef761fdbfec72c424d5222f1a05",
}


def read_idx(path: Path) -> np.ndarray:
    """The array of a gzipped IDX file: magic 0 0 8 n, n big-endian sizes, then bytes."""
    raw = gzip.decompress(path.read_bytes())
    dimensions = raw[3]
    sizes = np.frombuffer(raw, ">u4", count=dimensions, offset=4).astype(int)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * dimensions).reshape(sizes)


def _read(split: str) -> tuple[torch.Tensor, torch.Tensor]:
    arrays = [
        read_idx(
            package_file(
                "dataset-fashion-mnist",
                f"usr/share/datasets/fashion-mnist/{split}-{kind}-ubyte.gz",
                FILES[f"{split}-{kind}"],
            )
        )
        for kind in ("images-idx3", "labels-idx1")
    ]
    return torch.from_numpy(arrays[0].astype(np.float32))[:, None] / 255, torch.from_numpy(arrays[1].astype(np.int64))


@data_sets.register("fashion-mnist")
def fashion_mnist(split: str = "all") -> Examples:
    """Fashion-MNIST from the Debian package dataset-fashion-mnist.

    Args:
        split: `train` (60,000), `t10k` (10,000) or `all` (70,000).

    Returns:
        `Examples`: inputs [examples, 1, 28, 28] in 0 to 1, 10 classes.

    Example:
        from fractionate.data import fashion_mnist

        print(len(fashion_mnist("t10k")))
    """
    parts = [_read(s) for s in (("train", "t10k") if split == "all" else (split,))]
    return Examples(torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts]), CLASSES, "fashion-mnist")


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
        One name per column.

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
