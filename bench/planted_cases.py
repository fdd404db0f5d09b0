"""Sound cases that faults are planted in, and healthy teachers of many kinds."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import torch
from bench.teachers import CACHE, MLP, Parts, Upbringing, parts, train
from torch import Tensor, nn

from fractionate import Objective, TeacherSignal, diagnose
from fractionate.data import Examples
from fractionate.records import Diagnosis
from fractionate.tasks import Task

SOUND = Upbringing(hidden=(256,), epochs=25, dropout=0.3)
BROUGHT_UP = {  # healthy in different ways
    "regularised": SOUND,
    "narrow": Upbringing(hidden=(48,), epochs=25, dropout=0.1),
    "deep, decay": Upbringing(hidden=(96, 96, 96), epochs=15, dropout=0.2, decay=0.1),
    "early stop": Upbringing(hidden=(384,), epochs=8, dropout=0.0),
}
PLAN = Objective("kd", 2.0, 0.9)
TRANSFER, HELD, VALIDATION, TEST = 1000, 700, 400, 2000
WIDTH = {"cancer": 8, "spam": 8, "dna": 12, "digits": 12}  # of the student; else 24


@dataclass(frozen=True)
class Case:
    """What `diagnose` gets, and what a student would be trained on.

    `second` is a second pass over the same inputs, `view` another view. `rows` is False where rows are tokens.
    """

    name: str
    seed: int
    model: nn.Module
    transfer: Examples
    held: Examples
    validation: Examples
    test: Examples
    logits: Tensor
    held_logits: Tensor | None
    plan: Objective = PLAN
    view: Tensor | None = None
    second: Tensor | None = None
    student: tuple[int, ...] = ()  # hidden widths; () for the usual one
    outputs: int | None = None  # of the student; None: the classes
    student_scale: float = 1.0  # of the student's inputs
    reported: Examples | None = None  # what a wrong split reports on, and
    honest: Examples | None = None  # what it should have been

    @property
    def signal(self) -> TeacherSignal:
        return TeacherSignal(self.logits, self.transfer.labels)

    @property
    def widths(self) -> tuple[int, ...]:
        return self.student or (WIDTH.get(self.name, 24),)

    def fresh(self) -> nn.Module:
        torch.manual_seed(self.seed)
        outputs = self.outputs or self.logits.shape[1]
        model = MLP(self.transfer.inputs.shape[1], outputs, self.widths)
        return nn.Sequential(Scale(self.student_scale), model) if self.student_scale != 1 else model

    def diagnosis(self, only: tuple[str, ...] = ()) -> Diagnosis:
        names = self.transfer.class_names if len(self.transfer.class_names) == self.logits.shape[1] else ()
        task = Task(
            "classification", transfer=self.transfer, validation=self.validation, test=self.test, student=self.fresh,
            class_names=names,
        )  # fmt: skip
        labels = self.transfer.labels
        return diagnose(
            self.signal, data=task, objective=self.plan, only=only,
            held_out=None if self.held_logits is None else TeacherSignal(self.held_logits, self.held.labels),
            second_view=None if self.view is None else TeacherSignal(self.view, labels),
            second_pass=None if self.second is None else TeacherSignal(self.second, labels),
        )  # fmt: skip


def remember_fits() -> None:
    """Let `diagnose` train each student once on the same data: most faults leave inputs and labels as they were."""
    from fractionate.diagnosis import examination

    fit, known = examination.student_fit, {}

    def remembered(student: nn.Module, transfer: Any) -> Any:
        parts = [*student.state_dict().values(), transfer.inputs, transfer.labels, transfer.group]
        scale = [module.factor for module in student.modules() if isinstance(module, Scale)]
        found = hashlib.blake2b(repr(scale).encode())
        for part in parts:
            found.update(part.contiguous().numpy().tobytes())
        key = found.digest()
        if key not in known:
            known[key] = fit(student, transfer)
        return known[key]

    examination.student_fit = remembered


class Scale(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


def raised(found: Diagnosis) -> dict[str, str]:
    return {f.name: f.severity for f in found.findings if f.severity in ("error", "warning")}


def first(data: Examples, count: int) -> Examples:
    return data.take(torch.arange(min(count, len(data))))


def logits_of(model: nn.Module, inputs: Tensor) -> Tensor:
    with torch.no_grad():
        return model(inputs)


@cache
def trained_teacher(
    name: str, seed: int, kind: Upbringing, key: str = "", change: Callable[[Examples], Examples] | None = None
) -> nn.Module:
    """A teacher from the cache or trained now, on training data changed by `change` (named by `key`)."""
    cut = cut_up(name, seed)
    train_part = first(cut.train, 4000)
    label = f"{kind}".replace(" ", "").replace("Upbringing", "")
    path = CACHE / f"planted-{name}-{seed}-{label}-{key}.pt"
    model = MLP(train_part.inputs.shape[1], train_part.classes, kind.hidden, kind.dropout).eval()
    if path.exists():
        model.load_state_dict(torch.load(path, weights_only=True))
        return model
    model = train(kind, train_part if change is None else change(train_part), cut.held, seed)
    torch.save(model.state_dict(), path)
    return model


@cache
def cut_up(name: str, seed: int) -> Parts:
    """The parts of a data set, divided once."""
    return parts(name, seed)


def sound(
    name: str, seed: int, model: nn.Module | None = None, *, where: str = "outside", ordered: bool = False
) -> Case:
    """A case with a healthy teacher, on new examples or on those of its training, as drawn or sorted by class."""
    cut = cut_up(name, seed)
    model = trained_teacher(name, seed, SOUND) if model is None else model
    transfer = first(getattr(cut, where), TRANSFER)  # classes take turns in it, as it was divided
    transfer = transfer.take(torch.randperm(len(transfer), generator=torch.Generator().manual_seed(4100 + seed)))
    if ordered:
        transfer = transfer.take(transfer.labels.argsort(stable=True))
    validation, test = first(cut.test, min(VALIDATION, len(cut.test) // 3)), cut.test
    test = first(test.take(torch.arange(len(validation), len(test))), TEST)
    held = first(cut.held, HELD)
    return Case(
        name,
        seed,
        model,
        transfer,
        held,
        validation,
        test,
        logits_of(model, transfer.inputs),
        logits_of(model, held.inputs),
    )


class Fitted(nn.Module):
    """A scikit-learn classifier as a teacher: logarithms of its probabilities, those of 0 as `floor`."""

    def __init__(self, classifier: Any, classes: int, floor: float) -> None:
        super().__init__()
        self.classifier, self.classes, self.floor = classifier, classes, floor

    def forward(self, x: Tensor) -> Tensor:
        found = torch.zeros(len(x), self.classes, dtype=torch.float64)
        found[:, torch.from_numpy(self.classifier.classes_)] = torch.from_numpy(
            self.classifier.predict_proba(x.numpy())
        ).double()
        return found.log().clamp_min(self.floor).float()


def classical(name: str, seed: int) -> Iterator[tuple[str, nn.Module]]:
    """Trees, neighbours and lines, fitted on the teacher's part; the last four rough ones (see `ROUGH`)."""
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
    from sklearn.ensemble import ExtraTreesClassifier, HistGradientBoostingClassifier, RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.naive_bayes import GaussianNB
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.tree import DecisionTreeClassifier

    data = first(parts(name, seed).train, 2000)
    x, y = data.inputs.numpy(), data.labels.numpy()
    for label, classifier, floor in (
        ("forest", RandomForestClassifier(60, min_samples_leaf=3, random_state=seed), -9.0),
        ("forest, zeros as -inf", RandomForestClassifier(60, min_samples_leaf=3, random_state=seed), -float("inf")),
        ("extra trees", ExtraTreesClassifier(60, min_samples_leaf=5, random_state=seed), -9.0),
        ("one tree", DecisionTreeClassifier(min_samples_leaf=15, random_state=seed), -6.0),
        ("boosted trees", HistGradientBoostingClassifier(max_iter=25, max_leaf_nodes=15, random_state=seed), -30.0),
        ("neighbours", KNeighborsClassifier(15), -5.0),
        ("neighbours, zeros as -inf", KNeighborsClassifier(25), -float("inf")),
        ("logistic regression", LogisticRegression(C=0.05, max_iter=200), -30.0),
        ("discriminant analysis", LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto"), -30.0),
        ("a deep tree", DecisionTreeClassifier(min_samples_leaf=5, random_state=seed), -6.0),
        ("a flat tree", DecisionTreeClassifier(min_samples_leaf=40, random_state=seed), -6.0),
        ("five neighbours", KNeighborsClassifier(5), -5.0),
        ("naive Bayes", GaussianNB(), -30.0),
    ):
        yield label, Fitted(classifier.fit(x, y), data.classes, floor)


def many_classes(classes: int, seed: int, *, each: int = 8, features: int = 24) -> Case:
    """Gaussians around class centres, and the teacher that knows their densities: calibrated exactly."""
    draw = torch.Generator().manual_seed(1000 * seed + classes)
    centres = torch.randn(classes, features, generator=draw)
    width = 0.5 + 0.3 * (classes < 50)

    def made(count: int) -> Examples:
        labels = torch.arange(classes).repeat(-(-count // classes))[
            torch.randperm(classes * -(-count // classes), generator=draw)
        ]
        names = tuple(f"kind {c}" for c in range(classes))
        return Examples(centres[labels] + width * 2 * torch.randn(len(labels), features, generator=draw), labels, names)

    class Density(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return -torch.cdist(x, centres).square() / (2 * (2 * width) ** 2)

    size, model = max(400, each * classes), Density()
    transfer, held, validation, test = made(size), made(max(400, size // 2)), made(400), made(800)
    return Case(
        f"gaussians {classes}", seed, model, transfer, held, validation, test, model(transfer.inputs), model(held.inputs),
        student=(16,),
    )  # fmt: skip


def healthy(sets: tuple[str, ...], *, rough: bool = False) -> Iterator[tuple[str, Callable[[], Case]]]:
    """Healthy teachers by a name: brought up differently, classical, of 2 to 1,000 classes; as drawn and sorted by class.

    `rough` adds classical ones that look like teachers of wrong labels; rules are fitted with them.
    """
    for name in sets:
        for label, kind in BROUGHT_UP.items():
            for seed in (0, 1):
                where = "outside" if (seed + len(label)) % 3 else "train"
                ordered = label in ("narrow", "early stop")
                yield (
                    f"{name}, {label}, seed {seed}, {where}{', sorted by class' if ordered else ''}",
                    lambda name=name, seed=seed, kind=kind, where=where, ordered=ordered: sound(
                        name, seed, trained_teacher(name, seed, kind), where=where, ordered=ordered
                    ),
                )
        for label in CLASSICAL + ROUGH * rough:
            yield (
                f"{name}, {label}",
                lambda name=name, label=label: sound(
                    name, 0, dict(fitted(name, 0))[label], ordered=label in ("neighbours", "one tree")
                ),
            )
    for classes in (2, 3, 8, 30, 100, 300, 1000):
        yield f"gaussians of {classes} classes", lambda classes=classes: many_classes(classes, 0)


@cache
def fitted(name: str, seed: int) -> tuple[tuple[str, nn.Module], ...]:
    return tuple(classical(name, seed))


CLASSICAL = ("forest", "forest, zeros as -inf", "extra trees", "one tree", "boosted trees", "neighbours",
             "neighbours, zeros as -inf", "logistic regression", "discriminant analysis")  # fmt: skip
ROUGH = ("a deep tree", "a flat tree", "five neighbours", "naive Bayes")


def resampled(data: Examples, keep: Tensor | np.ndarray) -> Examples:
    return data.take(torch.as_tensor(keep))


def with_inputs(data: Examples, inputs: Tensor) -> Examples:
    return replace(data, inputs=inputs)
