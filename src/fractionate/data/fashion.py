"""Fashion-MNIST: 70,000 pictures of clothes, 28 × 28, 10 classes in natural groups (Xiao et al., arXiv 1708.07747; MIT)."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import torch

from fractionate.data.bundled import data_sets
from fractionate.data.examples import Examples
from fractionate.data.packages import package_file

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
