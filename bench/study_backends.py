"""What a study of small students costs by the loop and by the stack, in CPU time and test NLL; one line a run.

    OMP_NUM_THREADS=1 python bench/study_backends.py loop
    OMP_NUM_THREADS=1 python bench/study_backends.py stacked

At commit ff0e808, before the frame, the same students: `dissect(..., way="one by one")` and `way="stacked"` in place of `backend=`.
"""

from __future__ import annotations

import sys
import time

import torch
from sklearn.datasets import load_digits
from torch import nn

from fractionate import TeacherSignal, dissect
from fractionate.records import Training

STEPS = 250


def student() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


def main(backend: str) -> None:
    torch.set_num_threads(1)
    pictures, numbers = load_digits(return_X_y=True)
    inputs, labels = torch.tensor(pictures, dtype=torch.float32) / 16, torch.tensor(numbers)
    torch.manual_seed(0)
    teacher = student()
    optimizer = torch.optim.Adam(teacher.parameters(), 3e-3)
    for _ in range(200):
        optimizer.zero_grad()
        nn.functional.cross_entropy(teacher(inputs[:800]), labels[:800]).backward()
        optimizer.step()
    signal = TeacherSignal(teacher(inputs[:800]).detach(), labels[:800])
    for timed in (False, True):  # the first one loads what the second has
        begin = time.process_time()
        study = dissect(
            student,
            (inputs[:800], labels[:800]),
            signal,
            cells=("kd", "ls", "kd-pt"),
            seeds=3,
            training=Training(epochs=10, batch_size=32, learning_rate=3e-3),
            validation=(inputs[1200:], labels[1200:]),
            test=(inputs[800:1200], labels[800:1200]),
            points=2,
            progress="off",
            backend=backend,  # type: ignore[arg-type]
        )
        if timed:
            each = 1e3 * (time.process_time() - begin) / (len(study.runs) * STEPS)
            nll = ", ".join(f"{run.test.nll_nats:.6f}" for run in study.runs[:4] if run.test is not None)
            print(f"{backend}: {each:.3f} ms of CPU a student's step, test NLL {nll}")


if __name__ == "__main__":
    main(sys.argv[1])
