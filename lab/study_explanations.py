"""Do the teacher's explanations pay? KED against KD on breast-cancer, DNA, spam and Fashion-MNIST, full and reduced, 5 seeds.

python lab/study_explanations.py   # trains what is not there yet under runs/explanations, then writes tables and page
python lab/study_explanations.py --only breast-cancer --seeds 1
"""

from __future__ import annotations

import argparse
import copy
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))

from fractionate import Objective, TeacherSignal, distill
from fractionate.engine.council import ask
from fractionate.extensions.chimera import Chimeras
from fractionate.extensions.explanation import explaining_mlp, prior_of
from fractionate.extensions.explanation_terms import Explained, explanation_signals, ked, paper_objective
from fractionate.extensions.superfeatures import given, superfeatures
from fractionate.order import draw_seed
from fractionate.records import Run, Superfeatures, Training
from fractionate.sources.bundled import data_sets
from fractionate.sources.examples import Examples
from fractionate.sources.fashion import fashion_mnist
from fractionate.sources.models import mlp
from fractionate.sources.tables import column_names

KEPT = Path("runs/explanations")
GROUPS = 4
SEEDS = 5
REAL_STEPS, MORE_STEPS = 400, 200  # then as many again on real or chimeric data, for every arm
SHARE = 0.7


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

    @property
    def name(self) -> str:
        return f"{self.data}, {self.size} ({self.train:,})"


SETTINGS = (
    Setting("breast-cancer", "full", 400, 169, 64, 8, alone=True),
    Setting("breast-cancer", "reduced", 60, 169, 64, 8),
    Setting("dna", "full", 2000, 1186, 100, 8, alone=True),
    Setting("dna", "reduced", 200, 1186, 100, 8),
    Setting("spam", "full", 3000, 1601, 100, 8, alone=True),
    Setting("spam", "reduced", 200, 1601, 100, 8),
    Setting("fashion-mnist", "full", 4000, 2000, 200, 20),
    Setting("fashion-mnist", "reduced", 400, 2000, 200, 20),
)


def load(setting: Setting) -> tuple[Examples, Examples]:
    """Training and test examples; a reduced training set is part of the full one, the test set is the same."""
    if setting.data == "fashion-mnist":
        (whole,), (test,) = (
            fashion_mnist("train").split(4000, seed=0),
            fashion_mnist("t10k").split(setting.test, seed=0),
        )
    else:
        table = data_sets[setting.data]
        full = next(s.train for s in SETTINGS if s.data == setting.data)
        whole, test = table.split(full, setting.test, seed=0)
    return (whole if setting.size == "full" else whole.split(setting.train, seed=1)[0]), test


def seeded(build: Callable[[], nn.Module], *key: int | str) -> nn.Module:
    torch.manual_seed(draw_seed(*key))
    return build()


def size_of(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def shuffled(signals: tuple[TeacherSignal, ...], seed: int) -> tuple[TeacherSignal, ...]:
    """The placebo: each explanation belongs to another example of the same class, all superfeatures moved together."""
    labels = signals[0].labels
    generator = torch.Generator().manual_seed(draw_seed("placebo", seed))
    order = torch.arange(len(labels))
    for label in labels.unique().tolist():
        places = (labels == label).nonzero().flatten()
        order[places] = places[torch.randperm(len(places), generator=generator)]
    return tuple(TeacherSignal(s.logits[order], labels) for s in signals)


class Bench:
    """One setting and one seed: teachers, students, and the runs of all arms."""

    def __init__(self, setting: Setting, found: Superfeatures | None, seed: int) -> None:
        self.setting, self.seed = setting, seed
        self.train, self.test = load(setting)
        self.shape, self.classes = self.train.inputs.shape[1:], self.train.classes
        self.real = Training(steps=REAL_STEPS, batch_size=50, learning_rate=5e-3)
        self.more = Training(steps=MORE_STEPS, batch_size=50, learning_rate=2e-3)
        self.black_box = self.taught(lambda: mlp(setting.teacher, setting.teacher)(self.shape, self.classes), "teacher")
        self.signal = ask(self.black_box, self.train)
        self.test_signal = ask(self.black_box, self.test)
        self.prior = prior_of(self.signal)
        names = () if setting.data == "fashion-mnist" else column_names(setting.data)
        self.found = found or superfeatures(self.black_box, self.train, GROUPS, feature_names=names)
        order = torch.randperm(self.found.features, generator=torch.Generator().manual_seed(draw_seed("random", seed)))
        sizes = [len(group) for group in self.found.groups]
        self.random = given([part.tolist() for part in order.split(sizes)], features=self.found.features)
        self.plain = lambda: mlp(setting.student, setting.student)(self.shape, self.classes)

    def taught(self, build: Callable[[], nn.Module], name: str) -> nn.Module:
        """A teacher, trained on the labels."""
        model = seeded(build, name, self.seed)
        training = Training(steps=REAL_STEPS, batch_size=50, learning_rate=2e-3)
        return distill(model, self.train, training=training, seed=self.seed, show="nothing")[0]

    def grouped(self, found: Superfeatures, like: nn.Module) -> Callable[[], nn.Module]:
        return lambda: explaining_mlp(found, self.classes, hidden_layers=2, parameters=size_of(like), prior=self.prior)

    def run(self) -> tuple[dict[str, Run], dict[str, nn.Module]]:
        """All arms, and the models that explain."""
        setting, seed = self.setting, self.seed
        student = self.plain()
        teacher = self.taught(self.grouped(self.found, self.black_box), "explaining teacher")
        other = self.taught(self.grouped(self.random, self.black_box), "explaining teacher of random groups")
        grouped, by_chance = self.grouped(self.found, student), self.grouped(self.random, student)
        objective, signal, random = paper_objective(), ask(teacher, self.train), ask(other, self.train)
        said, said_random = explanation_signals(teacher, self.train), explanation_signals(other, self.train)

        def explained(signals: Any, weights: tuple[float, ...] | None = None) -> list[Any]:
            return [ked(objective, Explained(signals, weights=weights), share=SHARE)]

        arms: dict[str, tuple[Callable[[], nn.Module], TeacherSignal | None, list[Any]]] = {
            "hard": (self.plain, None, []),
            "hard grouped": (grouped, None, []),
            "kd": (self.plain, self.signal, []),
            "kd grouped": (grouped, signal, []),
            "ked": (grouped, signal, explained(said)),
            "ked shuffled": (grouped, signal, explained(shuffled(said, seed))),
            "ked random groups": (by_chance, random, explained(said_random)),
        }
        if setting.alone:
            for m in range(GROUPS):
                only = tuple(float(i == m) for i in range(GROUPS))
                arms[f"ked {self.found.names[m]} alone"] = (grouped, signal, explained(said, only))
        runs: dict[str, Run] = {}
        models: dict[str, nn.Module] = {"teacher": teacher, "black_box": self.black_box}
        for arm, (build, taught, terms) in arms.items():
            model = seeded(build, "student", seed)
            self.go(model, taught, objective, terms, self.real, arm)
            if arm in ("ked", "kd"):
                mixed = copy.deepcopy(model)
            runs[arm] = self.go(model, taught, objective, terms, self.more, arm)
            if arm == "ked":
                models["student"] = model
                runs["ked + chimeras"] = self.chimeric(mixed, teacher, objective, True, "ked + chimeras")
            if arm == "kd":
                runs["kd + chimeras"] = self.chimeric(mixed, self.black_box, objective, False, "kd + chimeras")
        return runs, models

    def go(
        self, model: nn.Module, taught: Any, objective: Objective, terms: list[Any], training: Training, arm: str,
        data: Any = None,
    ) -> Run:  # fmt: skip
        _, run = distill(
            model, self.train if data is None else data, taught, objective=None if taught is None else objective,
            training=training, terms=terms, test=self.test, test_signal=self.test_signal, seed=self.seed, arm=arm, show="nothing",
            log_every=10**6,
        )  # fmt: skip
        if terms and run.contract is not None:
            formula = (
                f"0.3 · H(label, q) + 0.21 · 10² · KL(p ‖ q) + 0.49 / {GROUPS} · 10² · Σ KL(e_m ‖ e_m of the student)"
            )
            run = replace(run, contract=replace(run.contract, formula=formula))
        return run

    def chimeric(self, model: nn.Module, teacher: nn.Module, objective: Objective, explains: bool, arm: str) -> Run:
        chimeras = Chimeras(self.train, self.found, teacher, size=MORE_STEPS * 50, seed=self.seed)
        terms = [ked(objective, Explained(chimeras.teacher), share=SHARE)] if explains else []
        return self.go(model, chimeras.teacher, objective, terms, self.more, arm, chimeras)


def kept_at(setting: Setting) -> Path:
    return KEPT / f"{setting.data}-{setting.size}"


def train(setting: Setting, seeds: range) -> None:
    """Train what is not there yet. The superfeatures are those of the first seed's black-box teacher."""
    folder = kept_at(setting)
    folder.mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        if (folder / f"done-{seed}").exists():
            continue
        began = time.process_time()
        path = folder / "superfeatures.json"
        found = Superfeatures.load(path) if path.exists() else None
        bench = Bench(setting, found, seed)
        if found is None:
            bench.found.save(path)
        runs, models = bench.run()
        for arm, run in runs.items():
            run.save(folder / f"{arm.replace(' ', '_')}-{seed}.json")
        if seed == 0:
            torch.save({name: model.state_dict() for name, model in models.items()}, folder / "models.pt")
        (folder / f"done-{seed}").touch()
        scores = ", ".join(f"{arm} {100 * run.test.accuracy:.1f}" for arm, run in runs.items() if run.test)
        print(f"{setting.name} seed {seed}: {time.process_time() - began:.0f} CPU s: {scores}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--train-only", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    chosen = [s for s in SETTINGS if not options.only or options.only in s.name]
    for setting in chosen:
        train(setting, range(options.seeds))
    if not options.train_only:
        import explanations_tables

        explanations_tables.write(chosen, range(options.seeds))


if __name__ == "__main__":
    main()
