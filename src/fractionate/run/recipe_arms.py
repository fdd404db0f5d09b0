"""The student's recipe and T = 4 / 0.9 as variants of a run file's study, tuned or not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from fractionate.records import Pilot, Study, Training
from fractionate.study.arms import Arm, arm_name
from fractionate.training.recipe import Recipe


def recipe_arms(recipe: Recipe, training: Training, pilot: Pilot | None = None) -> tuple[Arm, ...]:
    """A recipe as the study trains it, the last; before it no teacher at its learning rate, and at the best in the pilot.

    Without the latter a recipe at a rate that is too high for labels alone is compared with students that no one would train.
    """
    recipe = replace(recipe, training=replace(training, learning_rate=recipe.training.learning_rate))
    alone = replace(recipe, objective=None, terms=tuple(t for t in recipe.specs if not t.reads_teacher))
    trials = pilot.trials if pilot else ()
    best = [training.learning_rate * t.learning_rate_factor for t in trials if pilot and t.arm == pilot.no_teacher]
    without = [alone, *(replace(alone, training=replace(training, learning_rate=rate)) for rate in best)]
    return (*map(Arm, without), *([Arm(recipe, role="recommended")] if recipe != alone else []))


def usual_arms(usual: Sequence[Arm], rate: float) -> tuple[Arm, ...]:
    """T = 4 / 0.9 at the learning rate given, and at that of the student's recipe: no teacher is there at both."""
    there = [replace(arm.recipe, training=replace(arm.recipe.training, learning_rate=rate)) for arm in usual]
    return (*usual, *(Arm(recipe) for recipe, arm in zip(there, usual, strict=True) if recipe != arm.recipe))


def with_recipes(arms: Mapping[str, Arm], further: Iterable[Arm], training: Training, *, tuned: bool) -> dict[str, Arm]:
    """The variants and those of `further` that are not among them, named by what differs from `training`.

    Where variants are tuned, no teacher is there at its best learning rate, and a variant of the same settings is tuned away from
    them: then all that use a teacher are added.
    """
    found = dict(arms)
    for arm in further:
        if arm.role if tuned else all(arm.recipe != other.recipe or other.share != 1 for other in found.values()):
            name = arm_name(arm, training.learning_rate)
            name = name if name not in found else f"{name} (recipe)"
            found[name] = replace(arm, name=name)
    return found


def arm_of(arms: Mapping[str, Arm], wanted: Arm, *, tuned: bool) -> str:
    """The name of the variant that trains this recipe on all of the data; empty where there is none."""
    role = wanted.role if tuned else ""
    alike = (n for n, a in arms.items() if a.recipe == wanted.recipe and a.share == 1 and role in ("", a.role))
    return next(alike, "")


def at_tuned_rate(recipe: Recipe, study: Study, arm: str) -> Recipe:
    """The recipe at the learning rate that the tuned study chose for its variant."""
    rates = {one.arm: one.learning_rate for one in study.tries if one.chosen}
    training = recipe.training
    return replace(recipe, training=replace(training, learning_rate=rates.get(arm, training.learning_rate)))
