"""Does KED pay for convolutional students, and on top of terms on hidden representations? Three sets of pictures, 10 seeds.

    PYTHONPATH=src:. OMP_NUM_THREADS=1 python lab/study_explaining_cnn.py [DATA]   # lab/results/study_explaining_cnn.md; resumable

Written down before the first run: Fashion-MNIST (7 x 7), digits (8 x 8), satellite (3 x 3 pixels of 4 bands); teachers of every
seed trained on the pictures of the students; lambda = mu = rho = 0.7 and T = tau = 10 (the paper's), 200 steps of 50, nothing
tuned. FitNets, attention transfer and similarity on the last maps; of grouped models on each branch's. *random groups*: the
explanations of each picture in a drawn order of the groups. *M = 2*: two groups where all others have four. Changed after the first
results, of digits: at the weights of the paper for attention transfer (1000) and similarity (3000) students broke down; all
sets have a hundredth of them now, and those of the paper as arms of plain students. Changed after the run of 5 seeds, before
that of 10: *M = 8* as well, models alike in size; random groups for M = 2 and 8; mu = 0.3 and 1 against mu = 0 (*kd grouped*) too.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache, cached_property

import torch
from bench.teachers import parts
from cell_studies import RESULTS, RUNS
from study_small_encoders import cell
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from fractionate import Recipe, Task, TeacherSignal, dissect, distill
from fractionate.data import Examples
from fractionate.losses.terms import ked, moved, paper_objective
from fractionate.models.additive import explaining_cnn_builder
from fractionate.models.zoo import cnn
from fractionate.records import Study, Training
from fractionate.study import Arm, BySeed
from fractionate.study.effects.contrasts import Contrast, effects
from fractionate.teachers import Cached

DATA = {"fashion": (2000, 2000, (1, 14, 14)), "digits": (900, 400, (1, 8, 8)), "satellite": (2000, 2500, (3, 3, 4))}
SEEDS, SHARE = 10, 0.7
TAUGHT, LEARNED = (
    Training(steps=steps, batch_size=50, learning_rate=rate) for steps, rate in ((300, 2e-3), (200, 5e-3))
)
SWEEP = {  # groups, and widths of trunk, branch and its input of teacher and student, by what names of arms end in
    "": (4, (16, 16, 6), (8, 8, 3)), ", M = 2": (2, (16, 26, 8), (8, 13, 4)), ", M = 8": (8, (16, 10, 4), (8, 5, 2)),
}  # fmt: skip
MODELS = {"plain": (cnn(16, 32), cnn(8, 16))} | {  # teachers, students; alike in size
    f"grouped{m}": tuple(explaining_cnn_builder(a, b, superfeatures=groups, branch_channels=c) for a, b, c in widths)
    for m, (groups, *widths) in SWEEP.items()
}
HIDDEN = {"fitnets": 1.0, "attention": 10.0, "similarity": 30.0}
PAPERS = {"attention": 1000.0, "similarity": 3000.0}  # weights of the paper
LAST = {"plain": ("6",), "grouped": tuple(f"branches.{m}.0.2" for m in range(4))}
CONTRASTS = [
    *(Contrast(*pair) for pair in (("kd", "hard"), ("hard grouped", "hard"), ("kd grouped", "kd"), ("ked", "kd grouped"))),
    *(Contrast("ked", arm) for arm in ("kd", "ked shuffled", "ked random groups", "ked, mu = 0.3", "ked, mu = 1")),
    *(Contrast(f"ked, mu = {mu}", "kd grouped") for mu in ("0.3", "1")),
    *(Contrast(f"ked{m}", arm) for m in (", M = 2", ", M = 8") for arm in (f"kd grouped{m}", f"ked random groups{m}", "ked")),
    *(Contrast(f"kd + {h}", "kd") for h in (*HIDDEN, *(f"{h}, the paper's weight" for h in PAPERS))),
    *(Contrast(f"ked + {h}", f"{arm} + {h}") for arm in ("kd", "kd grouped", "ked random groups") for h in HIDDEN),
]  # fmt: skip


def pictures(name: str, data: Examples, count: int) -> Examples:
    shape = DATA[name][2]
    inputs = data.inputs[:count].view(-1, *shape)
    seen = {"fashion": lambda: avg_pool2d(inputs, 2), "satellite": lambda: inputs.movedim(-1, 1).contiguous()}
    return Examples(seen.get(name, lambda: inputs)(), data.labels[:count])


@dataclass(frozen=True)
class Setting:
    """A data set, and what the teachers of every seed say of its pictures."""

    name: str

    @cached_property
    def examples(self) -> tuple[Examples, Examples]:
        cut, (train, test, _) = parts(self.name), DATA[self.name]
        return pictures(self.name, cut.train, train), pictures(self.name, cut.test, test)

    def built(self, kind: str, student: bool) -> nn.Module:
        train = self.examples[0]
        return MODELS[kind][student](train.inputs.shape[1:], train.classes)

    @cache  # noqa: B019
    def says(self, kind: str, seed: int) -> Cached:
        """Predictions, explanations and last maps of a teacher."""
        torch.manual_seed(seed)
        model, _ = distill(
            self.built(kind, False), self.examples[0], training=TAUGHT, seed=seed, show="nothing", log_every=10**6,
            out=RUNS / "explaining_cnn" / self.name / f"{kind} teacher {seed}",
        )  # fmt: skip
        maps: dict[str, Tensor] = {}
        for path in LAST.get(kind, ()):
            model.get_submodule(path).register_forward_hook(lambda _, __, out, path=path: maps.update({path: out}))
        with torch.no_grad():
            found = model.eval()(self.examples[0].inputs)
        if kind == "plain":
            return Cached(TeacherSignal(found, self.examples[0].labels), features=maps)
        signal = TeacherSignal(found["logits"], self.examples[0].labels)
        return Cached(signal, features=maps, explanations=found["explanations"])

    def drawn(self, kind: str, groups: bool, seed: int) -> Cached:
        """A placebo: explanations in a drawn order of the groups, or those of another picture of the class."""
        said, draw = self.says(kind, seed), torch.Generator().manual_seed(seed)
        why, labels = said.explanations, self.examples[0].labels
        assert why is not None
        if groups:
            order = torch.rand(why.shape[:2], generator=draw).argsort(1)
            return Cached(
                said.cached, features=said.features, explanations=why.gather(1, order[..., None].expand_as(why))
            )
        places = torch.arange(len(labels))
        for own in (places[labels == label] for label in labels.unique()):
            places[own] = own[torch.randperm(len(own), generator=draw)]
        return Cached(said.cached, features=said.features, explanations=why[places])

    def arms(self) -> dict[str, Arm]:
        def arm(kind: str, fields: dict | None = None, teacher: BySeed | None = None, **more: str) -> Arm:
            own = BySeed(lambda seed: self.says(kind, seed)) if fields and teacher is None else teacher
            return Arm(Recipe(student=kind, training=LEARNED, **(fields or {})), teacher=own, **more)

        def inside(term: str, kind: str, weights: Mapping[str, float] = HIDDEN) -> list[str]:
            weight = weights[term] / len(LAST[kind])
            return [f"{term}('{at}', '{at}', weight={weight})" for at in LAST[kind]]

        def drawn(kind: str, *, groups: bool) -> BySeed:
            return BySeed(lambda seed: self.drawn(kind, groups, seed))

        pure, explained = {"objective": paper_objective()}, ked(share=SHARE)
        found = {"hard": arm("plain", role="baseline"), "hard grouped": arm("grouped"), "kd": arm("plain", pure)}
        for m in SWEEP:
            kind = f"grouped{m}"
            found |= {f"kd grouped{m}": arm(kind, pure), f"ked{m}": arm(kind, explained)}
            found[f"ked random groups{m}"] = arm(kind, explained, drawn(kind, groups=True), placebo_of=f"ked{m}")
        found["ked shuffled"] = arm("grouped", explained, drawn("grouped", groups=False), placebo_of="ked")
        found |= {f"ked, mu = {mu:g}": arm("grouped", ked(share=mu)) for mu in (0.3, 1.0)}
        for term in HIDDEN:
            whole = ked(share=SHARE, hidden=inside(term, "grouped"), hidden_share=SHARE)
            found[f"kd + {term}"] = arm("plain", moved(paper_objective(), SHARE, inside(term, "plain")))
            found[f"kd grouped + {term}"] = arm("grouped", moved(paper_objective(), SHARE, inside(term, "grouped")))
            found[f"ked + {term}"] = arm("grouped", whole)
            mixed = drawn("grouped", groups=True)
            found[f"ked random groups + {term}"] = arm("grouped", whole, mixed, placebo_of=f"ked + {term}")
        for term in PAPERS:
            strong = moved(paper_objective(), SHARE, inside(term, "plain", PAPERS))
            found[f"kd + {term}, the paper's weight"] = arm("plain", strong)
        return found

    def studied(self) -> Study:
        train, test = self.examples
        students = {kind: lambda kind=kind: self.built(kind, True) for kind in MODELS}
        task = Task("classification", transfer=train, test=test, student=students)
        return dissect(
            task, self.arms(), contrasts=[], seeds=SEEDS, out=RUNS / "explaining_cnn" / self.name / "students", name=self.name,
            progress="off",
        )  # fmt: skip


def section(study: Study) -> list[str]:
    base = [run.test.accuracy for run in study.runs if run.arm == "hard" and run.test]
    sizes = {run.arm: run.parameters for run in study.runs}
    by = [effects(study.runs, CONTRASTS, metric=m) for m in study.metrics if m.name in ("accuracy", "nll")]
    lines = [
        f"## {'fashion-mnist' if study.name == 'fashion' else study.name}", "",
        f"Labels alone {sum(base) / len(base):.1%}; parameters of students: plain {sizes['kd']:,}, grouped {sizes['ked']:,}, "
        + ", ".join(f"{m[2:]} {sizes[f'ked{m}']:,}" for m in SWEEP if m) + ".", "",
        "| contrast | seeds | accuracy, points | NLL, nats |", "|---|---|---|---|",
    ]  # fmt: skip
    for points, nats in zip(*by, strict=True):
        lines.append(f"| {points.arm} − {points.against} | {len(study.seeds)} | {cell(points, 2)} | {cell(nats, 3)} |")
    return [*lines, ""]


def main(names: Collection[str]) -> None:
    text = [
        "# KED with convolutional students, and on top of terms on hidden representations", "",
        "Made by `PYTHONPATH=src:. python lab/study_explaining_cnn.py`, where the protocol stands. Differences paired over seeds, "
        "each with its own teachers; 95 % intervals; verdicts after Holm over a column.", "",
    ]  # fmt: skip
    for name in names:
        text += section(Setting(name).studied())
    if set(names) == set(DATA):
        (RESULTS / "study_explaining_cnn.md").write_text("\n".join(text), encoding="utf-8")
    print("\n".join(text))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1:] or DATA)
