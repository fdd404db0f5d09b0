"""Which part of a teacher pays on scikit-learn's digits: three teachers, small and large transfer sets, 10 seeds.

python lab/study_digits.py
"""

from __future__ import annotations

import cell_studies
import torch
from torch import nn

from fractionate.data import digits
from fractionate.records import Training

SEEDS = 10


def teacher() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10)
    )


def student() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))


def main() -> None:
    torch.set_num_threads(1)
    teaching, validation, test = digits().split(897, 300, 600, seed=0)
    (small,) = teaching.split(150, seed=1)
    teachers = [
        cell_studies.teach("plain", teacher, teaching, epochs=40),
        cell_studies.teach("smoothed 0.2", teacher, teaching, epochs=40, smoothing=0.2),
        cell_studies.teach("over-confident", teacher, teaching, epochs=150),
    ]
    studies = []
    for which in teachers:
        for size, transfer, epochs in (("small", small, 60), ("large", teaching, 30)):
            for temperature in (1.0, 4.0):
                studies.append(
                    cell_studies.run(
                        f"digits, {which.name}, {size}, T={temperature:g}",
                        student,
                        which,
                        transfer,
                        validation,
                        test,
                        temperature=temperature,
                        seeds=SEEDS,
                        training=Training(epochs=epochs, batch_size=32, learning_rate=5e-3),
                    )
                )
    rows = [cell_studies.teacher_row(t, part, test) for part in (small, teaching) for t in teachers]
    cell_studies.write(
        "study_digits",
        "PYTHONPATH=src python lab/study_digits.py",
        "scikit-learn digits, 8 × 8: teachers 64-256-256-10 on 897 examples, students 64-16-10; transfer sets of 150 and of "
        "all 897 of the teacher's own training examples; teacher weight 0.9. First table: small transfer set, then large.",
        rows,
        studies,
        shown=[s for s in studies if "small, T=1" in s.name],
    )


if __name__ == "__main__":
    main()
