"""Many one-hidden-layer students at once, by hand: all arms of all seeds in one batched product, analytic gradients.

Arms of a seed share initial weights and batches. Checked against autograd and `Objective` by `check()`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fractionate import Objective, TeacherSignal
from fractionate.data import Examples


@dataclass(frozen=True)
class Schedule:
    hidden: int = 32
    epochs: int = 40
    batch: int = 64
    rate: float = 2e-3


def initial(features: int, classes: int, hidden: int, seeds: range) -> list[Tensor]:
    """PyTorch's own initial weights of Linear layers, one set a seed: [seeds, 1, ...]."""
    sets = []
    for seed in seeds:
        torch.manual_seed(seed)
        first, second = torch.nn.Linear(features, hidden), torch.nn.Linear(hidden, classes)
        sets.append([first.weight.T, first.bias[None], second.weight.T, second.bias[None]])
    return [torch.stack([s[i].detach() for s in sets])[:, None] for i in range(4)]


def gradients(weights: list[Tensor], x: Tensor, y: Tensor, target: Tensor, arms: Arms) -> list[Tensor]:
    """Gradients of the mean loss. x [seeds, batch, features], y [seeds, batch], target [seeds, arms, batch, classes]."""
    w1, b1, w2, b2 = weights
    seeds, count, features, hidden = w1.shape
    # one product for the arms of a seed: they see the same batch
    h = torch.bmm(x, w1.permute(0, 2, 1, 3).reshape(seeds, features, count * hidden))
    h = (h.view(seeds, -1, count, hidden).transpose(1, 2) + b1).relu_()
    z = h @ w2 + b2
    q = torch.softmax(z, -1)
    soft = torch.softmax(z / arms.temperature, -1)
    hard = q.clone()
    hard.scatter_add_(
        3,
        y[:, None, :, None].expand(-1, count, -1, -1),
        torch.full((1, 1, 1, 1), -1.0).expand(seeds, count, y.shape[1], 1),
    )
    # (1 - w) (q - y) + w T (q_T - target): the T² factor over the 1/T of the chain rule
    g = ((1 - arms.weight) * hard + arms.weight * arms.temperature * (soft - target)) / y.shape[1]
    g2, gb2 = h.transpose(2, 3) @ g, g.sum(2, keepdim=True)
    gh = (g @ w2.transpose(2, 3)) * (h > 0)
    g1 = torch.bmm(x.transpose(1, 2), gh.transpose(1, 2).reshape(seeds, -1, count * hidden))
    return [g1.view(seeds, features, count, hidden).transpose(1, 2), gh.sum(2, keepdim=True), g2, gb2]


class Arms:
    """Objectives as tensors: their targets on all the data, temperatures, weights. Cross-entropy with T² only."""

    def __init__(self, objectives: list[Objective], signal: TeacherSignal) -> None:
        self.targets = torch.stack([o.cell.target(signal, o.temperature).float() for o in objectives])
        shape = (1, len(objectives), 1, 1)
        self.temperature = torch.tensor([o.temperature for o in objectives]).view(shape)
        self.weight = torch.tensor([float(o.teacher_weight) for o in objectives]).view(shape)


def train(
    objectives: list[Objective], data: Examples, signal: TeacherSignal, test: Examples, seeds: range, plan: Schedule
) -> Tensor:
    """Test accuracy in percent, [seeds, arms]."""
    return accuracy(weights_of(objectives, data, signal, seeds, plan), test)


def weights_of(
    objectives: list[Objective], data: Examples, signal: TeacherSignal, seeds: range, plan: Schedule,
    places: Tensor | None = None,
) -> list[Tensor]:  # fmt: skip
    """The trained students: [seeds, arms, ...] of each layer's weight and bias. `places` [seeds, kept]: of the data, all."""
    arms = Arms(objectives, signal)
    weights = [
        w.repeat(1, len(objectives), 1, 1) for w in initial(data.inputs.shape[1], data.classes, plan.hidden, seeds)
    ]
    first = [torch.zeros_like(w) for w in weights]
    second = [torch.zeros_like(w) for w in weights]
    streams = [torch.Generator().manual_seed(1000 + seed) for seed in seeds]
    kept = torch.arange(len(data)).expand(len(seeds), -1) if places is None else places
    steps, step = plan.epochs * -(-kept.shape[1] // plan.batch), 0
    for _ in range(plan.epochs):
        orders = torch.stack(
            [own[torch.randperm(len(own), generator=stream)] for own, stream in zip(kept, streams, strict=True)]
        )
        for start in range(0, kept.shape[1], plan.batch):
            index = orders[:, start : start + plan.batch]
            target = arms.targets[:, index].transpose(0, 1)
            grads = gradients(weights, data.inputs[index], data.labels[index], target, arms)
            step += 1
            rate = plan.rate * 0.5 * (1 + torch.cos(torch.tensor(torch.pi * (step - 1) / steps)).item())
            for w, g, m, v in zip(weights, grads, first, second, strict=True):
                m.lerp_(g, 0.1)
                v.mul_(0.999).addcmul_(g, g, value=0.001)
                denominator = (v / (1 - 0.999**step)).sqrt_().add_(1e-8)
                w.addcdiv_(m, denominator, value=-rate / (1 - 0.9**step))
    return weights


def accuracy(weights: list[Tensor], test: Examples) -> Tensor:
    """Accuracy in percent, [seeds, arms]."""
    w1, b1, w2, b2 = weights
    right = torch.zeros(w1.shape[:2])
    for start in range(0, len(test), 250):
        x, y = test.inputs[start : start + 250], test.labels[start : start + 250]
        z = (x @ w1 + b1).relu_() @ w2 + b2
        right += (z.argmax(-1) == y).sum(-1)
    return 100 * right / len(test)


def check() -> float:
    """The largest difference of the analytic gradients to autograd through `Objective`."""
    torch.manual_seed(0)
    data = Examples(torch.randn(20, 7), torch.arange(20) % 5)
    signal = TeacherSignal(3 * torch.randn(20, 5), data.labels)
    objectives = [Objective("kd", 4.0, 0.9), Objective("kd-pt", 2.0, 0.5), Objective("hard", 1.0, 0.0)]
    arms = Arms(objectives, signal)
    weights = [w.repeat(1, 3, 1, 1) for w in initial(7, 5, 6, range(2))]
    index = torch.stack([torch.randperm(20)[:8] for _ in range(2)])
    found = gradients(weights, data.inputs[index], data.labels[index], arms.targets[:, index].transpose(0, 1), arms)
    worst = 0.0
    for seed in range(2):
        for arm, objective in enumerate(objectives):
            own = [w[seed, arm].clone().requires_grad_() for w in weights]
            z = (data.inputs[index[seed]] @ own[0] + own[1]).relu() @ own[2] + own[3]
            objective(z, signal.take(index[seed])).mean().backward()
            worst = max(worst, *(float((w.grad - f[seed, arm]).abs().max()) for w, f in zip(own, found, strict=True)))
    return worst
