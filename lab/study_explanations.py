"""Do the teacher's explanations pay? KED against KD on breast-cancer, DNA, spam and Fashion-MNIST, full and reduced, 10 seeds.

python lab/study_explanations.py   # trains what is not there yet under runs/explanations_per_seed, then writes tables and page
python lab/study_explanations.py tiny   # few steps on breast-cancer: shows that it runs
python lab/study_explanations.py --only "fashion-mnist, reduced" --temperature 2   # T = τ = 2, tables beside the others
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace

import torch
from explanations_setup import GROUPS, SETTINGS, TINY, Material, Seed, Setting
from explanations_tables import write
from explanations_training import Arms, train

from fractionate import Objective, Recipe
from fractionate.losses.terms import Explanations, ked, paper_objective

SEEDS, SHARE = 10, 0.7


def arms_of(own: Seed) -> Arms:
    """Recipe and teacher of each arm: three teachers, new ones for every seed, so that `dissect` with its one has no place here."""
    setting = own.at.setting
    objective = replace(paper_objective(), temperature=setting.temperature)

    def explained(student: str, weights: tuple[float, ...] | None = None) -> Recipe:
        term = Explanations(Objective("kd", setting.temperature, 1.0, divergence="forward-kl"), weights=weights)
        return Recipe(student=student, **ked(objective, share=SHARE, explanations=term))

    taught, drawn = own.said(own.explaining), own.said(own.of_random_groups)
    arms: dict[str, tuple[Recipe, object]] = {
        "hard": (Recipe(student="plain"), None),
        "hard grouped": (Recipe(student="grouped"), None),
        "kd": (Recipe(student="plain", objective=objective), own.signals[0]),
        "kd grouped": (Recipe(student="grouped", objective=objective), taught),
        "ked": (explained("grouped"), taught),
        "ked shuffled": (explained("grouped"), own.said(own.explaining, own.moved)),
        "ked random groups": (explained("random groups"), drawn),
    }
    for m, name in enumerate(own.at.found.names if setting.alone else ()):
        arms[f"ked {name} alone"] = (explained("grouped", tuple(float(i == m) for i in range(GROUPS))), taught)
    return arms


def main(settings: Sequence[Setting], seeds: int = SEEDS) -> None:
    torch.set_num_threads(1)
    for setting in settings:
        at = Material(setting)
        for own in map(at.of, range(seeds)):
            if not (setting.kept / f"done-{own.seed}").exists():
                train(own, arms_of(own))
                (setting.kept / f"done-{own.seed}").touch()
    write(settings, seeds)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("size", nargs="?", choices=("full", "tiny"), default="full")
    parser.add_argument("--only", default="")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--temperature", type=float, default=10.0)
    options = parser.parse_args()
    given = [replace(s, temperature=options.temperature) for s in SETTINGS if options.only in s.name]
    main(TINY, 2) if options.size == "tiny" else main(given, options.seeds)
