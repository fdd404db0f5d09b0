"""A cell of the study of quantization: a task at a bit width, its teacher, its students and what they are trained and judged on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from quantized_tasks import TINY, Texts, fine_tuned, parts
from torch import nn

from fractionate import Task, TeacherSignal
from fractionate.models import Quantization, prepare
from fractionate.records import Training
from fractionate.training import signal_on

NAMES = {"glosses": "WordNet glosses → 45 topics", "pairs": "pairs of definitions → hypernym or not"}
EXAMPLES = {  # of the training texts; every arm and seed sees these
    ("glosses", "W2A8"): 1920, ("glosses", "W4A8"): 480, ("pairs", "W2A8"): 240, ("pairs", "W4A8"): 240,
}  # fmt: skip
SHORT = {"glosses": 16, "pairs": 24}  # students are trained on texts of at most so many tokens: two shared cores
TESTED = {"glosses": 400, "pairs": 200}
RATES = {"W2A8": (1e-4, 3e-4, 1e-3), "W4A8": (1e-5, 3e-5, 1e-4)}
QUANTIZATIONS = {
    "W2A8": Quantization("ternary", "ternary", 8, activation_clip=10.0),
    "W4A8": Quantization(4, 4, 8, activation_clip=10.0),
}
STEPS = {("glosses", "W2A8"): 120, ("glosses", "W4A8"): 6, ("pairs", "W2A8"): 15, ("pairs", "W4A8"): 6}


@dataclass(frozen=True)
class Cell:
    """A task at a bit width, kept under a folder."""

    name: str
    bits: str
    out: Path

    @property
    def title(self) -> str:
        return f"{NAMES[self.name]}, {self.bits}"

    @property
    def texts(self) -> Texts:
        return parts(self.name, self.out)[0].at_most(SHORT[self.name]).take(0, EXAMPLES[self.name, self.bits])

    @property
    def teacher(self) -> nn.Module:
        return fine_tuned(self.name, self.out)[0]

    @property
    def untrained(self) -> nn.Module:
        """The teacher's architecture with random weights, for the placebo."""
        torch.manual_seed(1)
        return type(self.teacher)(self.teacher.config).eval()  # type: ignore[call-arg, return-value]

    def student(self) -> nn.Module:
        """Made of the teacher, without training. Word embeddings are quantized, not trained: half the weights."""
        example = parts(self.name, self.out)[0].batch(0, 4)[0]
        student = prepare(self.teacher, QUANTIZATIONS[self.bits], example=example)
        student.get_input_embeddings().weight.requires_grad_(False)  # type: ignore[operator]
        return student

    @cached_property
    def task(self) -> Task:
        """Judged by test texts that are read once for each run; what became of attention is measured on them too."""
        test = parts(self.name, self.out)[2].take(0, TESTED[self.name]).by_length()
        return Task(
            "classification", name=NAMES[self.name], transfer=self.texts.loader(), test=test.loader(),
            student=self.student, metrics=("accuracy", "nll", "ece", "ranking-loss", "cover-length"), batch_size=32,
        )  # fmt: skip

    @property
    def tuned_on(self) -> Task:
        """The same students on 200 validation texts, for the learning rate."""
        validation = parts(self.name, self.out)[1].take(0, 200).by_length()
        return replace(self.task, validation=validation.loader(), test=None, metrics=("accuracy", "nll"))

    @cached_property
    def signal(self) -> TeacherSignal:
        """What the teacher says of the training texts."""
        return signal_on(self.teacher, self.texts.loader(), batch_size=64)


def training(cell: Cell, rate: float) -> Training:
    return Training(
        steps=2 if cell.out == TINY else STEPS[cell.name, cell.bits],
        batch_size=16,
        learning_rate=rate,
        warmup_share=0.1,
        clip_norm=1.0,
        precision="bfloat16",
    )
