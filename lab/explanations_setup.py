"""What the study of explanations works on: data sets at two sizes, and for every seed its teachers and students."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

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

    def file_of(self, arm: str, seed: int) -> Path:
        return self.kept / f"{arm.replace(' ', '_')}-{seed}.json"

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
    """One setting: its examples, and the superfeatures of the first seed's black-box teacher."""

    setting: Setting

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
        return superfeatures(self.of(0).black_box, self.examples[0], GROUPS, feature_names=names)

    @cached_property
    def random(self) -> Superfeatures:
        """Groups of the same sizes, drawn."""
        order = torch.randperm(self.features, generator=torch.Generator().manual_seed(draw_seed("random groups")))
        parts = torch.split(order, [len(group) for group in self.found.groups])
        return given([part.tolist() for part in parts], features=self.features)

    def of(self, seed: int) -> Seed:
        return Seed(self, seed)


@dataclass(frozen=True, eq=False)
class Seed:
    """The teachers and students of a seed; teachers are trained anew for each, on the examples of the students."""

    at: Material
    seed: int

    def plain(self, width: int) -> nn.Module:
        train = self.at.examples[0]
        return mlp(width, width)(train.inputs.shape[1:], train.classes)

    def grouped(self, found: Superfeatures, width: int) -> nn.Module:
        """An explaining network of equal widths, not larger than the plain one."""
        size, classes = sum(p.numel() for p in self.plain(width).parameters()), self.at.examples[0].classes
        own = matched_width(self.at.features, GROUPS, classes, hidden_layers=2, parameters=size)
        prior = prior_of(self.signals[0])
        return explaining_mlp(found, classes, hidden_layers=2, width=own, prior=prior)

    def taught(self, name: str, build: Callable[[], nn.Module]) -> nn.Module:
        """A teacher, trained on the labels; read back where it is there."""
        setting = self.at.setting
        torch.manual_seed(draw_seed(name, self.seed))
        model, _ = distill(
            build(), self.at.examples[0], training=setting.steps(REAL_STEPS + MORE_STEPS, 2e-3), seed=self.seed, show="nothing",
            log_every=10**6, out=setting.kept / "teachers" / f"{name.replace(' ', '_')}-{self.seed}",
        )  # fmt: skip
        return model.eval()

    @cached_property
    def black_box(self) -> nn.Module:
        return self.taught("teacher", lambda: self.plain(self.at.setting.teacher))

    @cached_property
    def signals(self) -> tuple[TeacherSignal, TeacherSignal]:
        """What the black box says of training and test examples."""
        train, test = self.at.examples
        return signal_on(self.black_box, train), signal_on(self.black_box, test)

    @cached_property
    def explaining(self) -> nn.Module:
        found, _ = self.at.found, self.signals  # made before the seed of the weights is set
        return self.taught("explaining teacher", lambda: self.grouped(found, self.at.setting.teacher))

    @cached_property
    def of_random_groups(self) -> nn.Module:
        found, _ = self.at.random, self.signals
        return self.taught("teacher of random groups", lambda: self.grouped(found, self.at.setting.teacher))

    def said(self, teacher: nn.Module, order: Tensor | None = None) -> Cached:
        """Predictions and explanations of a teacher, kept; `order` gives each example the explanations of another one."""
        train = self.at.examples[0]
        why = torch.stack([signal.logits for signal in explanation_signals(teacher, train)], dim=1)
        return Cached(signal_on(teacher, train), explanations=why if order is None else why[order])

    @property
    def moved(self) -> Tensor:
        """The placebo's order: another example of the same class."""
        labels = self.at.examples[0].labels
        generator = torch.Generator().manual_seed(draw_seed("placebo", self.seed))
        order = torch.arange(len(labels))
        for label in labels.unique().tolist():
            places = (labels == label).nonzero().flatten()
            order[places] = places[torch.randperm(len(places), generator=generator)]
        return order

    @property
    def task(self) -> Task:
        width = self.at.setting.student
        return Task(
            "classification",
            transfer=self.at.examples[0],
            student={
                "plain": lambda: self.plain(width),
                "grouped": lambda: self.grouped(self.at.found, width),
                "random groups": lambda: self.grouped(self.at.random, width),
            },
        )
