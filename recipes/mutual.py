"""Mutual learning (Zhang et al., arXiv 1706.00384): two students without a teacher, each trained on what the other knows.

The paper lets both step on every batch; here they take turns, an epoch each, so that each turn is one call of `distill`.
What one has learned is read once an epoch. The optimiser starts anew in every turn, hence SGD without a schedule.
"""

import torch
from torch import nn

from fractionate import Objective, distill
from fractionate.data import data_sets
from fractionate.records import Training
from fractionate.training import evaluate, signal_on

TURNS = 20


def network(width: int) -> nn.Module:
    """Two students need not be alike."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))


train, test, _ = data_sets["digits"].split(400, 600, 797)
turn = Training(epochs=1, batch_size=32, optimizer="sgd", learning_rate=0.05, schedule="constant")
objective = Objective("kd", temperature=1.0, teacher_weight=0.5)
students = []
for number, width in enumerate((32, 64)):
    torch.manual_seed(number)
    students.append(distill(network(width), train, training=turn)[0])  # a first epoch on the labels alone
for number in range(TURNS):
    for me, other in ((0, 1), (1, 0)):
        heard = signal_on(students[other], train)
        students[me], _ = distill(students[me], train, heard, objective=objective, training=turn, seed=number)
for number, width in enumerate((32, 64)):
    torch.manual_seed(number)
    alone, _ = distill(network(width), train, training=Training(**{**turn.__dict__, "epochs": TURNS + 1}))
    print(f"width {width}: together {evaluate(students[number], test)}; alone {evaluate(alone, test)}")
