"""Which part of a teacher pays on Fashion-MNIST with a small CNN student: three teachers, transfer sets of 500 and 2,000, 5 seeds.

python lab/study_fashion.py
"""

from __future__ import annotations

import cell_studies
import torch
from torch import nn

from fractionate.data import Examples, fashion_mnist
from fractionate.data.bundled import CLASSES, GROUPS
from fractionate.models import cnn
from fractionate.models.zoo import mlp
from fractionate.records import Training

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
    seen = Examples(
        torch.cat([teaching.inputs, large.inputs]), torch.cat([teaching.labels, large.labels]), large.class_names
    )
    teachers = [
        cell_studies.teach("plain", teacher, teaching, epochs=10),
        cell_studies.teach("smoothed 0.2", teacher, teaching, epochs=10, smoothing=0.2),
        cell_studies.teach("over-confident", teacher, seen, epochs=30),
    ]
    studies = [
        cell_studies.run(
            f"Fashion-MNIST, {which.name}, {size}, T=1, long",
            student,
            which,
            transfer,
            validation,
            test,
            temperature=1.0,
            seeds=SEEDS,
            training=Training(epochs=epochs, batch_size=50, learning_rate=1e-2),
            cells=CELLS,
            points=4,
            superclasses=GROUPS,
        )
        for size, transfer, epochs, heard in (("small", small, 40, teachers), ("large", large, 15, teachers[:1]))
        for which in heard
    ]
    rows = [cell_studies.teacher_row(which, small, test, GROUPS) for which in teachers]
    rows += [cell_studies.teacher_row(teachers[0], large, test, GROUPS)]
    cell_studies.write(
        "study_fashion",
        "PYTHONPATH=src python lab/study_fashion.py",
        "Fashion-MNIST, 28 × 28: teachers MLP 784-256-10, plain and smoothed ones on 30,000 pictures for 10 epochs, the "
        "over-confident one on these and the transfer pictures for 30; students cnn(8, 16) with batch normalisation, 400 steps "
        "on 500 pictures, 600 on 2,000; 2,000 official test pictures; teacher weight 0.9. First table: small transfer set, then "
        "large.",
        rows,
        studies,
        shown=[s for s in studies if "small" in s.name],
    )


if __name__ == "__main__":
    main()
