"""What the study of explanations works on: data sets at two sizes, and for every seed its teachers and students."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from fractionate import Task, TeacherSignal, distill
from fractionate.data import Examples, column_names, data_sets, fashion_mnist
from fractionate.data.sampling import draw_seed
from fractionate.diagnosis import superfeatures
from fractionate.diagnosis.explanations import explanation_signals
from fractionate.models import explaining_mlp, prior_of
from fractionate.models.additive import matched_width
from fractionate.models.columns import given
from fractionate.models.zoo import mlp
from fractionate.records import Superfeatures, Training
from fractionate.teachers import Cached
from fractionate.training import signal_on

Made = TypeVar("Made")
GROUPS = 4
REAL_STEPS, MORE_STEPS = 300, 150  # then as many again on real or chimeric data, for every arm


@dataclass(frozen=True)
class Setting:
    """A data set at one size, with the widths of two hidden layers of black-box teacher and plain student."""

    data: str
    size: str
    train: int
    test: int
    teacher: int
    student: int
    alone: bool = False  # also teach each superfeature's explanation alone
    temperature: float = 10.0
    part: float = 1.0  # of the steps

    @property
    def name(self) -> str:
        return f"{self.data}, {self.size} ({self.train:,})"

    @property
    def kept(self) -> Path:
        mark = f"-T{self.temperature:g}" if self.temperature != 10 else ""
        return Path("runs/explanations_per_seed") / f"{self.data}-{self.size}{mark}"

    def steps(self, count: int, rate: float) -> Training:
        return Training(steps=round(self.part * count), batch_size=50, learning_rate=rate)


SETTINGS = (
    Setting("breast-cancer", "full", 400, 169, 64, 8, alone=True),
    Setting("breast-cancer", "reduced", 60, 169, 64, 8),
    Setting("dna", "full", 2000, 1186, 100, 11, alone=True),
    Setting("dna", "reduced", 200, 1186, 100, 11),
    Setting("spam", "full", 3000, 1601, 106, 7, alone=True),
    Setting("spam", "reduced", 200, 1601, 106, 7),
    Setting("fashion-mnist", "full", 4000, 2000, 200, 20),
    Setting("fashion-mnist", "reduced", 400, 2000, 200, 20),
)
TINY = (replace(SETTINGS[0], size="tiny", part=0.05),)


@dataclass(frozen=True, eq=False)
class Material:
    """One setting: its examples, the superfeatures of the first seed's black-box teacher, and the teachers of every seed.

    Teachers are trained anew for each seed, on the examples of the students, and read back where they are there. The prior of
    explaining models is that of the first seed's black box, as the superfeatures are.
    """

    setting: Setting
    _made: dict[tuple[str, int], Any] = field(default_factory=dict)

    @cached_property
    def examples(self) -> tuple[Examples, Examples]:
        """Training and test examples; a reduced training set is part of the full one, the test set is the same."""
        own = self.setting
        if own.data == "fashion-mnist":
            (whole,), (test,) = (
                fashion_mnist("train").split(4000, seed=0),
                fashion_mnist("t10k").split(own.test, seed=0),
            )
        else:
            full = next(s.train for s in SETTINGS if s.data == own.data)
            whole, test = data_sets[own.data].split(full, own.test, seed=0)
        return (whole.split(own.train, seed=1)[0] if own.size == "reduced" else whole), test

    @property
    def features(self) -> int:
        return self.examples[0].inputs[0].numel()

    @cached_property
    def found(self) -> Superfeatures:
        names = () if self.setting.data == "fashion-mnist" else column_names(self.setting.data)
        return superfeatures(self.black_box(0), self.examples[0], GROUPS, feature_names=names)

    @cached_property
    def random(self) -> Superfeatures:
        """Groups of the same sizes, drawn."""
        order = torch.randperm(self.features, generator=torch.Generator().manual_seed(draw_seed("random groups")))
        parts = torch.split(order, [len(group) for group in self.found.groups])
        return given([part.tolist() for part in parts], features=self.features)

    @cached_property
    def prior(self) -> Tensor:
        return prior_of(self.signal(0))

    def plain(self, width: int) -> nn.Module:
        train = self.examples[0]
        return mlp(width, width)(train.inputs.shape[1:], train.classes)

    def grouped(self, found: Superfeatures, width: int) -> nn.Module:
        """An explaining network of equal widths, not larger than the plain one."""
        size, classes = sum(p.numel() for p in self.plain(width).parameters()), self.examples[0].classes
        own = matched_width(self.features, GROUPS, classes, hidden_layers=2, parameters=size)
        return explaining_mlp(found, classes, hidden_layers=2, width=own, prior=self.prior)

    def once(self, name: str, seed: int, make: Callable[[], Made]) -> Made:
        if (name, seed) not in self._made:
            self._made[name, seed] = make()
        made: Made = self._made[name, seed]
        return made

    def taught(self, name: str, seed: int, build: Callable[[], nn.Module]) -> nn.Module:
        """A teacher, trained on the labels; read back where it is there."""

        def trained() -> nn.Module:
            torch.manual_seed(draw_seed(name, seed))
            model, _ = distill(
                build(), self.examples[0], training=self.setting.steps(REAL_STEPS + MORE_STEPS, 2e-3), seed=seed, show="nothing",
                log_every=10**6, out=self.setting.kept / "teachers" / f"{name.replace(' ', '_')}-{seed}",
            )  # fmt: skip
            return model.eval()

        return self.once(name, seed, trained)

    def black_box(self, seed: int) -> nn.Module:
        return self.taught("teacher", seed, lambda: self.plain(self.setting.teacher))

    def explaining_model(self, seed: int) -> nn.Module:
        found, _ = self.found, self.prior  # made before the seed of the weights is set
        return self.taught("explaining teacher", seed, lambda: self.grouped(found, self.setting.teacher))

    def signal(self, seed: int) -> TeacherSignal:
        """What the black box says of the training examples."""
        return self.once("signal", seed, lambda: signal_on(self.black_box(seed), self.examples[0]))

    def test_signal(self, seed: int) -> TeacherSignal:
        return self.once("test signal", seed, lambda: signal_on(self.black_box(seed), self.examples[1]))

    def explaining(self, seed: int) -> Cached:
        return self.once("said", seed, lambda: self.said(self.explaining_model(seed)))

    def shuffled(self, seed: int) -> Cached:
        """A placebo: each example gets the explanations of another one of its class."""
        labels = self.examples[0].labels
        generator = torch.Generator().manual_seed(draw_seed("placebo", seed))
        order = torch.arange(len(labels))
        for label in labels.unique().tolist():
            places = (labels == label).nonzero().flatten()
            order[places] = places[torch.randperm(len(places), generator=generator)]
        return self.once("shuffled", seed, lambda: self.said(self.explaining_model(seed), order))

    def of_random_groups(self, seed: int) -> Cached:
        found, _ = self.random, self.prior
        build = lambda: self.grouped(found, self.setting.teacher)  # noqa: E731
        return self.once("random", seed, lambda: self.said(self.taught("teacher of random groups", seed, build)))

    def said(self, teacher: nn.Module, order: Tensor | None = None) -> Cached:
        """Predictions and explanations of a teacher, kept."""
        train = self.examples[0]
        why = torch.stack([signal.logits for signal in explanation_signals(teacher, train)], dim=1)
        return Cached(signal_on(teacher, train), explanations=why if order is None else why[order])

    @cached_property
    def task(self) -> Task:
        width = self.setting.student
        return Task(
            "classification",
            transfer=self.examples[0],
            test=self.examples[1],
            student={
                "plain": lambda: self.plain(width),
                "grouped": lambda: self.grouped(self.found, width),
                "random groups": lambda: self.grouped(self.random, width),
            },
        )
