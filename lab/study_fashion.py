"""Which part of a teacher pays on Fashion-MNIST with a small CNN student: transfer sets of 500 and 2,000, 5 seeds.

python lab/study_fashion.py
"""

from __future__ import annotations

import claims
import torch
from torch import nn

from fractionate.records import Training
from fractionate.sources.fashion import CLASSES, GROUPS, fashion_mnist
from fractionate.sources.models import cnn, mlp

SEEDS = 5
SHAPE = (1, 28, 28)
CELLS = ("ls", "class-mean", "kd-pt", "kd", "kd-pt-shuffled-within-class", "class-mean-permuted")


def teacher() -> nn.Module:
    return mlp(256)(SHAPE, len(CLASSES))


def student() -> nn.Module:
    return cnn(8, 16)(SHAPE, len(CLASSES))


def main() -> None:
    torch.set_num_threads(1)
    large, validation, teaching = fashion_mnist("train").split(2000, 500, 30_000, seed=0)
    (small,) = large.split(500, seed=1)
    (test,) = fashion_mnist("t10k").split(2000, seed=0)
    plain = claims.teach("plain", teacher, teaching, epochs=6)
    studies = [
        claims.run(
            f"Fashion-MNIST, {plain.name}, {size}, T=1",
            student,
            plain,
            transfer,
            validation,
            test,
            temperature=1.0,
            seeds=SEEDS,
            training=Training(epochs=epochs, batch_size=50, learning_rate=1e-2),
            cells=CELLS,
            points=2,
        )
        for size, transfer, epochs in (("small", small, 16), ("large", large, 8))
    ]
    rows = [claims.teacher_row(plain, part, test, GROUPS) for part in (small, large)]
    claims.write(
        "study_fashion",
        "PYTHONPATH=src python lab/study_fashion.py",
        "Fashion-MNIST, 28 × 28: teacher an MLP 784-256-10 on 30,000 pictures, students cnn(8, 16) with batch normalisation; "
        "transfer sets of 500 and 2,000 pictures that the teacher never saw, 2,000 official test pictures; teacher weight 0.9. "
        "Rows of the first table: small transfer set, then large.",
        rows,
        studies,
    )


if __name__ == "__main__":
    main()
