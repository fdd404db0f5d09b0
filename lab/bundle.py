"""The students of several seeds as one module for `distill`: batched matrix products, each on its own order of the examples.

Every row of a step's loss belongs to one student and touches its weights only, and the loss is a mean for each student, so a step
of the bundle is a step of each. Plain networks and explaining ones (every branch a network of its own).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fractionate import Objective, TeacherSignal
from fractionate.data.batch import Batch, Places
from fractionate.data.examples import Examples
from fractionate.extensions.chimera import Chimeras
from fractionate.models.additive import Explaining
from fractionate.order import batches, draw_seed


def linears(model: nn.Module) -> list[nn.Linear]:
    return [m for m in model.modules() if isinstance(m, nn.Linear)]


class Bundle(nn.Module):
    """Networks of one architecture: inputs [batch, students, features] to logits [batch, students, classes]."""

    def __init__(self, models: Sequence[nn.Module], groups: Sequence[Sequence[int]] | None, features: int) -> None:
        super().__init__()
        self.kept = list(models)  # a plain list: their own parameters are no part of the bundle
        self.explains = groups is not None
        self.groups = [list(g) for g in groups] if groups is not None else [list(range(features))]
        widest = max(map(len, self.groups))
        columns = torch.full((len(self.groups), widest), features)  # the column after the last is 0
        for row, group in enumerate(self.groups):
            columns[row, : len(group)] = torch.tensor(group)
        self.register_buffer("columns", columns, persistent=False)
        weights: list[Tensor] = []
        biases: list[Tensor] = []
        for layer in range(len(self.nets()[0])):
            found = [net[layer] for net in self.nets()]
            wide = widest if layer == 0 else found[0].in_features
            padded = [functional.pad(f.weight.detach().T, (0, 0, 0, wide - f.in_features)) for f in found]
            weights.append(torch.stack(padded))
            biases.append(torch.stack([f.bias.detach()[None] for f in found]))
        self.weights = nn.ParameterList(nn.Parameter(w) for w in weights)
        self.biases = nn.ParameterList(nn.Parameter(b) for b in biases)
        if self.explains:
            self.register_buffer("log_prior", torch.stack([m.log_prior for m in self.kept]), persistent=False)

    def nets(self) -> list[list[nn.Linear]]:
        parts = [list(m.branches) if isinstance(m, Explaining) else [m] for m in self.kept]
        return [linears(part) for model in parts for part in model]

    def forward(self, inputs: Tensor) -> Any:
        batch, students, _ = inputs.shape
        own = functional.pad(inputs, (0, 1))[..., self.columns]  # batch, students, groups, widest
        h = own.permute(1, 2, 0, 3).reshape(-1, batch, own.shape[-1])
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            h = torch.baddbmm(bias, h, weight)
            h = h.relu() if layer < len(self.weights) - 1 else h
        said = h.view(students, len(self.groups), batch, -1).permute(2, 0, 1, 3)
        if not self.explains:
            return said[:, :, 0]
        said = torch.log_softmax(said, dim=-1)
        return {"logits": said.sum(2) - (len(self.groups) - 1) * self.log_prior, "explanations": said}

    def unbundle(self) -> list[nn.Module]:
        """The networks with the weights they have now."""
        with torch.no_grad():
            for number, net in enumerate(self.nets()):
                for layer, linear in enumerate(net):
                    linear.weight.copy_(self.weights[layer][number, : linear.in_features].T)
                    linear.bias.copy_(self.biases[layer][number, 0])
        return self.kept


class Ordered:
    """Examples for a bundle: each student meets them in an order of its own."""

    labels = None
    class_names = ()

    def __init__(self, examples: Examples, seeds: Sequence[int]) -> None:
        self.examples, self.seeds, self.name = examples, seeds, examples.name
        self.ids = Places(len(examples))
        self.own_order = torch.stack(
            [torch.randperm(len(examples), generator=torch.Generator().manual_seed(draw_seed("order", s))) for s in seeds], 1
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.examples)

    def order(self, batch_size: int, seed: int, epoch: int) -> tuple[Tensor, ...]:
        return batches(len(self), batch_size, seed, epoch)

    def batches(self, plan: Any, seed: int) -> Iterator[Batch]:
        for _, index in plan:
            rows = self.own_order[index]
            yield Batch(self.examples.inputs[rows].flatten(2), self.examples.labels[rows], index, complete=True)

    def fingerprint(self) -> str:
        return "bundle"

    def places(self, index: Tensor) -> Tensor:
        """Where signals of all students, one after another, hold these rows."""
        return self.own_order[index] + len(self.examples) * torch.arange(len(self.seeds))


class Said:
    """What the students' teachers said on the examples: logits [students, examples, classes]."""

    def __init__(self, data: Ordered, signals: Sequence[TeacherSignal]) -> None:
        self.data = data
        self.signal = TeacherSignal(torch.cat([s.logits for s in signals]), torch.cat([s.labels for s in signals]))

    def whole(self) -> TeacherSignal:
        return self.signal

    def signal_for(self, predictions: Predictions) -> TeacherSignal:
        return self.signal.take(self.data.places(predictions.batch.index).flatten())

    def fingerprint(self) -> str:
        return "bundle"


class Mixed:
    """Chimeras for a bundle, each student's labelled by its own teacher; feed and teacher in one."""

    labels = None
    name = "chimeras"
    class_names = ()

    def __init__(self, chimeras: Chimeras, teachers: Bundle, seeds: Sequence[int]) -> None:
        self.chimeras, self.teachers, self.seeds = chimeras, teachers.eval(), seeds
        self.ids = Places(len(chimeras))
        self.said: Any = None

    def __len__(self) -> int:
        return len(self.chimeras)

    def order(self, batch_size: int, seed: int, epoch: int) -> tuple[Tensor, ...]:
        return batches(len(self), batch_size, seed, epoch)

    def batches(self, plan: Any, seed: int) -> Iterator[Batch]:
        for _, index in plan:
            places = index[:, None] + len(self) * torch.arange(len(self.seeds))
            inputs = self.chimeras.inputs(places.flatten()).flatten(1).view(*places.shape, -1)
            with torch.no_grad():
                said = self.teachers(inputs)
            self.said = said if isinstance(said, dict) else {"logits": said}
            yield Batch(inputs, self.said["logits"].argmax(-1), index, complete=True)

    def whole(self) -> TeacherSignal:
        raise NotImplementedError

    def signal_for(self, predictions: Predictions) -> TeacherSignal:
        return TeacherSignal(self.said["logits"].flatten(0, 1), predictions.labels)

    def fingerprint(self) -> str:
        return "bundle"


class Explained:
    """The explanations' part of KED on a bundle: each student's row is an example of its own.

    `said` gives the explanations of each row's teacher, [batch · students, superfeatures, classes].
    """

    def __init__(
        self, said: Callable[[Batch], Tensor], objective: Objective, weights: tuple[float, ...] | None = None
    ) -> None:
        self.said, self.objective, self.weights = said, objective, weights

    def __call__(self, output: Any, batch: Batch, signal: Any) -> Tensor:
        ours, theirs = output["explanations"].flatten(0, 1), self.said(batch)
        count = ours.shape[1]
        labels = batch.labels.flatten().repeat_interleave(count)
        losses = self.objective(ours.flatten(0, 1), TeacherSignal(theirs.flatten(0, 1), labels)).view(-1, count)
        share = torch.tensor(self.weights or [1.0] * count)
        return losses @ (share / share.sum())


def explanations_on(data: Ordered, signals: Sequence[Sequence[TeacherSignal]]) -> Callable[[Batch], Tensor]:
    """What each student's teacher explains on the examples, from a signal for each superfeature."""
    whole = torch.cat([torch.stack([signal.logits for signal in own], dim=1) for own in signals])
    return lambda batch: whole[data.places(batch.index).flatten()]
