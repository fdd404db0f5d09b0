"""Does it matter whether the teacher has seen the examples it is asked about? Digits, one teacher, two transfer sets, 10 seeds.

python lab/study_seen.py
"""

from __future__ import annotations

import cell_studies
import torch
from torch import nn

from fractionate.data import Examples, digits
from fractionate.records import Training

SEEDS = 10
SIZE = 150
CELLS = ("ls", "class-mean", "kd-pt", "kd", "kd-pt-shuffled-within-class", "class-mean-permuted")


def teacher() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10)
    )


def student() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))


def main() -> None:
    torch.set_num_threads(1)
    unseen, seen, rest, validation, test = digits().split(SIZE, SIZE, 597, 300, 600, seed=0)
    taught = Examples(torch.cat([seen.inputs, rest.inputs]), torch.cat([seen.labels, rest.labels]), seen.class_names)
    studies, rows = [], []
    for epochs in (40, 150):
        which = cell_studies.teach(f"{epochs} epochs", teacher, taught, epochs=epochs)
        for how, transfer in (("seen", seen), ("unseen", unseen)):
            studies.append(
                cell_studies.run(
                    f"digits, {which.name}, {how}, T=1",
                    student,
                    which,
                    transfer,
                    validation,
                    test,
                    temperature=1.0,
                    seeds=SEEDS,
                    training=Training(epochs=60, batch_size=32, learning_rate=5e-3),
                    cells=CELLS,
                )
            )
            rows.append(cell_studies.teacher_row(which, transfer, test).replace(which.name, f"{which.name}, {how}"))
    cell_studies.write(
        "study_seen",
        "PYTHONPATH=src python lab/study_seen.py",
        f"scikit-learn digits: teachers 64-256-256-10 on 747 examples, for 40 and for 150 epochs; students 64-16-10; transfer sets "
        f"of {SIZE} examples that the teacher was trained on and of {SIZE} that it never saw; teacher weight 0.9.",
        rows,
        studies,
    )


if __name__ == "__main__":
    main()
