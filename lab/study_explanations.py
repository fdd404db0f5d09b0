"""Do the teacher's explanations pay? KED against KD on breast-cancer, DNA, spam and Fashion-MNIST, full and reduced, 10 seeds.

python lab/study_explanations.py        # trains what is missing under runs/explanations_per_seed, then writes tables and page
python lab/study_explanations.py tiny   # few steps on breast-cancer: shows that it runs
python lab/study_explanations.py --only "fashion-mnist, reduced" --temperature 2   # T = τ = 2, in tables of their own
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace

import torch
from explanations_setup import GROUPS, MORE_STEPS, REAL_STEPS, SETTINGS, TINY, Material, Setting
from explanations_tables import ALONE, BEGUN, PLACEBOS, STEPS, write

from fractionate import Objective, Recipe, dissect
from fractionate.losses.terms import Explanations, ked, paper_objective
from fractionate.records import Study
from fractionate.study import Arm, BySeed

SHARE = 0.7


def arms_of(at: Material) -> dict[str, Recipe | Arm]:
    """Every arm in two parts: steps on real data, then as many again on real data or, for two arms, on chimeras."""
    setting, objective = at.setting, replace(paper_objective(), temperature=at.setting.temperature)
    begun, more = setting.steps(REAL_STEPS, 5e-3), setting.steps(MORE_STEPS, 2e-3)

    def explained(student: str, weights: tuple[float, ...] | None = None) -> Recipe:
        term = Explanations(Objective("kd", setting.temperature, 1.0, divergence="forward-kl"), weights=weights)
        return Recipe(student=student, **ked(objective, share=SHARE, explanations=term))

    found: dict[str, Arm] = {
        "hard": Arm(Recipe(student="plain"), role="baseline"),
        "hard grouped": Arm(Recipe(student="grouped")),
        "kd": Arm(Recipe(student="plain", objective=objective)),
        "kd grouped": Arm(Recipe(student="grouped", objective=objective), teacher=BySeed(at.explaining)),
        "ked": Arm(explained("grouped"), teacher=BySeed(at.explaining)),
        "ked shuffled": Arm(explained("grouped"), teacher=BySeed(at.shuffled)),
        "ked random groups": Arm(explained("random groups"), teacher=BySeed(at.of_random_groups)),
    }
    for name, one in zip(at.found.names if setting.alone else (), torch.eye(GROUPS).tolist(), strict=False):
        found[f"ked {name}{ALONE}"] = replace(found["ked"], recipe=explained("grouped", tuple(one)))
    arms: dict[str, Recipe | Arm] = {}
    mixed = f"chimeras({at.found.groups!r}, size={50 * (more.steps or 0)})"
    models = {"kd": BySeed(at.black_box), "ked": BySeed(at.explaining_model)}  # of chimeras there are no stored answers
    for name, arm in found.items():
        arms[name + BEGUN] = replace(arm, recipe=replace(arm.recipe, training=begun), role="start")
        own = replace(arm, recipe=replace(arm.recipe, training=more), start=name + BEGUN)
        arms[name] = replace(own, placebo_of="ked" if name in PLACEBOS else "")
        if name in models:
            arms[f"{name} + chimeras"] = replace(own, recipe=replace(own.recipe, data=(mixed,)), teacher=models[name])
    return arms


def studied(at: Material, seeds: int, workers: int) -> tuple[Material, Study, dict[str, Recipe | Arm]]:
    """Every arm and seed at one setting; a finished student is read back."""
    arms = arms_of(at)
    contrasts = [step[:2] for step in STEPS] + [(name, "kd grouped") for name in arms if name.endswith(ALONE)]
    return at, dissect(
        at.task, arms, BySeed(at.signal), test_signal=BySeed(at.test_signal), contrasts=contrasts, seeds=seeds, workers=workers,
        out=at.setting.kept, keep="weights", name=at.setting.name, progress="off",
    ), arms  # fmt: skip


def main(settings: Sequence[Setting], seeds: int = 10, workers: int = 2) -> None:
    torch.set_num_threads(1)
    write([studied(Material(setting), seeds, workers) for setting in settings])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("size", nargs="?", choices=("full", "tiny"), default="full")
    for name, usual in (("--only", ""), ("--seeds", 10), ("--temperature", 10.0)):
        parser.add_argument(name, type=type(usual), default=usual)
    options = parser.parse_args()
    chosen = [replace(s, temperature=options.temperature) for s in SETTINGS if options.only in s.name]
    main(TINY, 2) if options.size == "tiny" else main(chosen, options.seeds)
