"""What `Training` means: the optimiser and the learning rate at a step, the same for one student and for a fleet."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from fractionate.records import Training

DECAYS = {
    "tenths": (5 / 8, 6 / 8, 7 / 8),
    "thirds": (1 / 3, 2 / 3),
}  # shares of the steps at which the rate falls to a tenth


def learning_rate(training: Training, step: int, steps: int) -> float:
    """The learning rate of step 0 ≤ step < steps: linear warm-up, then constant, half a cosine down towards 0, or tenths.

    With u = round(warmup_share · steps): (step + 1) / u of the full rate during warm-up; after it, for the cosine,
    ½ (1 + cos(π (step - u) / (steps - u))). Tenths: × 0.1 at 5/8, 6/8 and 7/8 of the steps, which is 150, 180 and 210 of 240 epochs
    (Tian et al., arXiv 1910.10699).

    Args:
        training: Its learning_rate, schedule and warmup_share.
        step: The number of the step, from 0.
        steps: In all.

    Returns:
        The rate.

    Example:
        from fractionate.records import Training
        from fractionate.training import learning_rate

        print([round(learning_rate(Training(), step, 4), 5) for step in range(4)])
    """
    warmup = round(training.warmup_share * steps)
    if step < warmup:
        return training.learning_rate * (step + 1) / warmup
    if training.schedule == "constant":
        return training.learning_rate
    if training.schedule in DECAYS:
        passed = sum(step >= share * steps for share in DECAYS[training.schedule])
        return float(training.learning_rate * 0.1**passed)
    return training.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def make_optimizer(parameters: Iterable[Tensor], training: Training) -> torch.optim.Optimizer:
    """AdamW, or SGD with momentum 0.9 and Nesterov, with the training's weight decay; both work element by element.

    Args:
        parameters: What is trained.
        training: Its optimizer, learning_rate and weight_decay.

    Returns:
        The optimizer.

    Example:
        from torch import nn
        from fractionate.records import Training
        from fractionate.training import make_optimizer

        print(make_optimizer(nn.Linear(8, 4).parameters(), Training()))
    """
    given = list(parameters)
    # one kernel a tensor in place of a dozen: a third of the time on a CPU
    fused = all(p.device.type == "cpu" and p.is_floating_point() for p in given) or None
    rate, decay = training.learning_rate, training.weight_decay
    if training.optimizer != "adamw":
        nesterov = training.optimizer == "sgd"
        return torch.optim.SGD(given, lr=rate, momentum=0.9, nesterov=nesterov, weight_decay=decay, fused=fused)
    return torch.optim.AdamW(given, lr=rate, weight_decay=decay, fused=fused)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of all parameter groups."""
    for group in optimizer.param_groups:
        group["lr"] = rate
