"""Born again (Furlanello et al., arXiv 1805.04770): a student of the teacher's own size, then its student, and all of them as one.

Each generation is one call of `distill`: iterative distillation is a `for`.
"""

import torch
from torch import nn

from fractionate import Objective, distill
from fractionate.data import data_sets
from fractionate.records import Training
from fractionate.tasks import scores
from fractionate.teachers import mix
from fractionate.training import signal_on

GENERATIONS = 3


def network(seed: int) -> nn.Module:
    """The same architecture for all, born with other weights."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


train, test, _ = data_sets["digits"].split(400, 600, 797)
training = Training(steps=400, batch_size=32, learning_rate=5e-3)
model, run = distill(network(0), train, training=training, test=test, arm="generation 0")
heard = [signal_on(model, test)]
print(run.arm, run.test, sep=": ")
for generation in range(1, GENERATIONS + 1):
    objective = Objective("kd", temperature=1.0, teacher_weight=0.5)
    model, run = distill(
        network(generation),
        train,
        signal_on(model, train),
        objective=objective,
        training=training,
        test=test,
        seed=generation,
        arm=f"generation {generation}",
        out=f"runs/born_again/{generation}",
    )
    heard.append(signal_on(model, test))
    print(run.arm, run.test, sep=": ")
print("all of them as one:", scores(mix(heard).logits, test.labels))
