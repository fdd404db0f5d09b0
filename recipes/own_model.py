"""Your own model on your own data: what the teacher knows, which part pays, and a student trained with the recipe."""

from torch import nn

from fractionate import Objective, collect, diagnose, dissect, distill, report
from fractionate.data import data_sets
from fractionate.records import Training


def network(width: int) -> nn.Module:
    """Any torch module will do."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))


transfer, test, teaching = data_sets["digits"].split(100, 600, 1097)  # your data: Examples(inputs, labels)
training = Training(steps=400, batch_size=32, learning_rate=5e-3)
teacher, _ = distill(network(256), teaching, training=training)  # your teacher (without a signal: plain training)

store = collect(teacher, transfer, "runs/own/store")  # the teacher runs once
diagnosis = diagnose(store, lambda: network(24), data=transfer)
study = dissect(lambda: network(24), transfer, store.signal(), training=training, test=test)
objective = Objective.from_recipe(diagnosis.recipe)
student, run = distill(network(24), transfer, store, objective=objective, training=training, test=test)
print(diagnosis, study, run, report([diagnosis, study, run], "runs/own/report.html"), sep="\n\n")
