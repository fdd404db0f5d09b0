"""Do the teacher's explanations pay? KED against KD on breast-cancer, DNA, spam and Fashion-MNIST, full and reduced, 10 seeds.

python lab/study_explanations.py   # trains what is not there yet under runs/explanations, then writes tables and page
python lab/study_explanations.py --only "fashion-mnist, reduced" --temperature 2   # T = τ = 2, tables beside the others
"""

from __future__ import annotations

import argparse
import copy
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))

from bundle import Bundle, Explained, Mixed, Ordered, Said, explanations_on

from fractionate import Objective, TeacherSignal, distill
from fractionate.data.examples import Examples
from fractionate.engine.evaluation import evaluate, signal_on
from fractionate.extensions.chimera import Chimeras
from fractionate.extensions.superfeatures import superfeatures
from fractionate.extensions.understanding import explanation_signals
from fractionate.losses.terms import CallableTerm, ked, paper_objective
from fractionate.models.additive import explaining_mlp, matched_width, prior_of
from fractionate.models.columns import given
from fractionate.order import draw_seed
from fractionate.records import Run, Superfeatures, Training
from fractionate.sources.bundled import data_sets
from fractionate.sources.fashion import fashion_mnist
from fractionate.sources.models import mlp
from fractionate.sources.tables import column_names
from fractionate.training.recipe import Recipe

KEPT = Path("runs/explanations")
GROUPS = 4
SEEDS = 10
REAL_STEPS, MORE_STEPS = 300, 150  # then as many again on real or chimeric data, for every arm
SHARE = 0.7
TEMPERATURE = 10.0


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
    Setting("dna", "full", 2000, 1186, 100, 11, alone=True),
    Setting("dna", "reduced", 200, 1186, 100, 11),
    Setting("spam", "full", 3000, 1601, 106, 7, alone=True),
    Setting("spam", "reduced", 200, 1601, 106, 7),
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
    """One setting: teachers and students of all seeds, and the runs of all arms."""

    def __init__(self, setting: Setting, seeds: Sequence[int]) -> None:
        self.setting, self.seeds = setting, list(seeds)
        self.train, self.test = load(setting)
        self.shape, self.classes = self.train.inputs.shape[1:], self.train.classes
        self.features = self.shape.numel()
        self.data = Ordered(self.train, self.seeds)
        self.real = Training(steps=REAL_STEPS, batch_size=50, learning_rate=5e-3)
        self.more = Training(steps=MORE_STEPS, batch_size=50, learning_rate=2e-3)
        first = self.plain(setting.teacher)
        self.black_boxes = self.taught("teacher", lambda seed: first())
        self.signals = [signal_on(model, self.train) for model in self.black_boxes]
        self.test_signals = [signal_on(model, self.test) for model in self.black_boxes]
        names = () if setting.data == "fashion-mnist" else column_names(setting.data)
        self.found = superfeatures(self.black_boxes[0], self.train, GROUPS, feature_names=names)
        sizes = [len(group) for group in self.found.groups]
        order = torch.randperm(self.features, generator=torch.Generator().manual_seed(draw_seed("random groups")))
        self.random = given([part.tolist() for part in torch.split(order, sizes)], features=self.features)

    def plain(self, width: int) -> Callable[[], nn.Module]:
        return lambda: mlp(width, width)(self.shape, self.classes)

    def grouped(self, found: Superfeatures, width: int) -> Callable[[int], nn.Module]:
        """An explaining network for each place of a seed, of equal widths, not larger than the plain one."""
        plain = sum(p.numel() for p in self.plain(width)().parameters())
        own = matched_width(self.features, GROUPS, self.classes, hidden_layers=2, parameters=plain)
        return lambda place: explaining_mlp(
            found, self.classes, hidden_layers=2, width=own, prior=prior_of(self.signals[place])
        )

    def bundle(self, name: str, build: Callable[[int], nn.Module], found: Superfeatures | None = None) -> Bundle:
        models = [seeded(lambda place=place: build(place), name, seed) for place, seed in enumerate(self.seeds)]
        return Bundle(models, None if found is None else found.groups, self.features)

    def taught(
        self, name: str, build: Callable[[int], nn.Module], found: Superfeatures | None = None
    ) -> list[nn.Module]:
        """Teachers, trained on the labels."""
        training = Training(steps=REAL_STEPS + MORE_STEPS, batch_size=50, learning_rate=2e-3)
        bundle = self.bundle(name, build, found)
        distill(bundle, self.data, training=training, show="nothing", log_every=10**6)
        return bundle.unbundle()

    def run(self) -> tuple[dict[str, list[Run]], dict[str, nn.Module]]:
        """All arms, and the models of the first seed that explain."""
        setting = self.setting
        teachers = self.taught("explaining teacher", self.grouped(self.found, setting.teacher), self.found)
        others = self.taught("teacher of random groups", self.grouped(self.random, setting.teacher), self.random)
        grouped, by_chance = self.grouped(self.found, setting.student), self.grouped(self.random, setting.student)
        said = [explanation_signals(teacher, self.train) for teacher in teachers]
        moved = [shuffled(signals, seed) for signals, seed in zip(said, self.seeds, strict=True)]
        random = [explanation_signals(teacher, self.train) for teacher in others]
        black = Said(self.data, self.signals)
        explaining, drawn = (Said(self.data, [signal_on(t, self.train) for t in some]) for some in (teachers, others))

        def explained(signals: Any, weights: tuple[float, ...] | None = None) -> Explained:
            return explained_by(explanations_on(self.data, signals), weights)

        plain = self.plain(setting.student)
        arms: dict[str, tuple[Callable[[int], nn.Module], Superfeatures | None, Said | None, Explained | None]] = {
            "hard": (lambda place: plain(), None, None, None),
            "hard grouped": (grouped, self.found, None, None),
            "kd": (lambda place: plain(), None, black, None),
            "kd grouped": (grouped, self.found, explaining, None),
            "ked": (grouped, self.found, explaining, explained(said)),
            "ked shuffled": (grouped, self.found, explaining, explained(moved)),
            "ked random groups": (by_chance, self.random, drawn, explained(random)),
        }
        if setting.alone:
            for m in range(GROUPS):
                only = tuple(float(i == m) for i in range(GROUPS))
                arms[f"ked {self.found.names[m]} alone"] = (grouped, self.found, explaining, explained(said, only))
        runs: dict[str, list[Run]] = {}
        kept: dict[str, nn.Module] = {"teacher": teachers[0], "black_box": self.black_boxes[0]}
        for arm, (build, found, taught, why) in arms.items():
            bundle = self.bundle("student", build, found)
            self.go(bundle, self.data, taught, why, self.real, arm)
            mixed = copy.deepcopy(bundle)
            runs[arm] = self.go(bundle, self.data, taught, why, self.more, arm)
            if arm == "ked":
                kept["student"] = copy.deepcopy(bundle.unbundle()[0])
                runs["ked + chimeras"] = self.chimeric(
                    mixed, Bundle(teachers, self.found.groups, self.features), "ked + chimeras"
                )
            if arm == "kd":
                runs["kd + chimeras"] = self.chimeric(
                    mixed, Bundle(self.black_boxes, None, self.features), "kd + chimeras"
                )
        return runs, kept

    def go(
        self, bundle: Bundle, data: Any, taught: Any, why: Explained | None, training: Training, arm: str
    ) -> list[Run]:
        """Train a bundle and measure each of its students."""
        fields: dict[str, Any] = {"objective": None if taught is None else the_objective()}
        if why is not None:
            fields = dict(ked(the_objective(), share=SHARE))
            fields["terms"] = (CallableTerm(why, weight=fields["terms"][0].weight),)
        recipe = Recipe(**fields, training=training)
        _, run = distill(bundle, data, taught, recipe=recipe, arm=arm, show="nothing", log_every=10**6)
        contract = run.contract
        if why is not None and contract is not None:
            soft = f"0.21 · KL(p ‖ q) + 0.49 / {GROUPS} · Σ KL(e_m ‖ e_m of the student)"
            formula = f"0.3 · H(label, q) + {TEMPERATURE:g}² · ({soft})"
            contract = replace(contract, formula=formula)
        found = []
        for model, seed, signal in zip(bundle.unbundle(), self.seeds, self.test_signals, strict=True):
            scores = evaluate(model, self.test, signal=signal)
            size = sum(p.numel() for p in model.parameters())
            one = replace(run, seed=seed, test=scores, parameters=size, contract=contract, history=())
            seconds = run.wall_seconds / len(self.seeds)
            found.append(replace(one, wall_seconds=seconds, steps=REAL_STEPS + MORE_STEPS))
        return found

    def chimeric(self, bundle: Bundle, teachers: Bundle, arm: str) -> list[Run]:
        chimeras = Chimeras(self.train, self.found, teachers.unbundle()[0], size=MORE_STEPS * 50)
        mixed = Mixed(chimeras, teachers, self.seeds)
        why = explained_by(lambda batch: mixed.said["explanations"].flatten(0, 1)) if teachers.explains else None
        return self.go(bundle, mixed, mixed, why, self.more, arm)


def the_objective() -> Objective:
    """The paper's prediction part, at the temperature of this study."""
    return replace(paper_objective(), temperature=TEMPERATURE)


def explained_by(said: Callable[[Any], torch.Tensor], weights: tuple[float, ...] | None = None) -> Explained:
    """The paper's loss on explanations at the temperature of this study."""
    return Explained(said, Objective("kd", TEMPERATURE, 1.0, divergence="forward-kl"), weights)


def kept_at(setting: Setting) -> Path:
    return KEPT / (f"{setting.data}-{setting.size}" + (f"-T{TEMPERATURE:g}" if TEMPERATURE != 10 else ""))


def train(setting: Setting, seeds: int) -> None:
    """Train a setting that is not there yet. The superfeatures are those of the first seed's black-box teacher."""
    folder = kept_at(setting)
    if (folder / "done").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    began = time.process_time()
    bench = Bench(setting, range(seeds))
    print(f"{setting.name}: teachers and superfeatures, {time.process_time() - began:.0f} CPU s", flush=True)
    bench.found.save(folder / "superfeatures.json")
    runs, models = bench.run()
    for arm, found in runs.items():
        for run in found:
            run.save(folder / f"{arm.replace(' ', '_')}-{run.seed}.json")
    torch.save({name: model.state_dict() for name, model in models.items()}, folder / "models.pt")
    (folder / "done").touch()
    means = {arm: 100 * sum(run.test.accuracy for run in found) / len(found) for arm, found in runs.items()}
    shown = ", ".join(f"{arm} {mean:.2f}" for arm, mean in means.items())
    print(f"{setting.name}: {time.process_time() - began:.0f} CPU s: {shown}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--train-only", action="store_true")
    parser.add_argument("--temperature", type=float, default=TEMPERATURE)
    options = parser.parse_args()
    torch.set_num_threads(1)
    globals()["TEMPERATURE"] = options.temperature
    chosen = [s for s in SETTINGS if not options.only or options.only in s.name]
    for setting in chosen:
        train(setting, options.seeds)
    if not options.train_only:
        import explanations_tables
        import study_explanations

        study_explanations.TEMPERATURE = options.temperature  # the module, where this file runs as the program
        explanations_tables.write(chosen, options.temperature)


if __name__ == "__main__":
    main()
