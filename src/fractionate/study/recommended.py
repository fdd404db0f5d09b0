"""The arms of every study after a diagnosis: its recipe, what everyone copies, and no teacher under the same training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from fractionate.losses.objective import Objective
from fractionate.losses.terms.base import TermSpec
from fractionate.records import Diagnosis, Training
from fractionate.study.arms import Arm
from fractionate.study.pilot_arms import USUAL
from fractionate.training.recipe import Recipe


def recommended_arms(diagnosis: Diagnosis, training: Training, *, base: Recipe | None = None) -> dict[str, Arm]:
    """Arms by name for `dissect(task, arms, teacher)`; no teacher at the rate given, at the recipe's and at the best of a pilot.

        dissect(task, recommended_arms(found, training) | {"mine": Arm(recipe)}, teacher)

    Raises `MismatchError` where a fault has to be repaired first.

    Args:
        training: What the factors of the learning rate are multiples of.
        base: Student, preparations, terms and transforms of every arm; no teacher has no terms.
        diagnosis: What `diagnose` gave.

    Returns:
        Variants by name: no teacher, the recommended recipe, and T = 4 / 0.9 at the rate given and at the recipe's.

    Example:
        import torch
        from fractionate import TeacherSignal, diagnose
        from fractionate.records import Training
        from fractionate.study import recommended_arms

        found = diagnose(TeacherSignal(torch.eye(4).repeat(10, 1) * 3, torch.arange(40) % 4))
        print(list(recommended_arms(found, Training(steps=10))))
    """
    base, advice = base or Recipe(), diagnosis.recipe

    def at(factor: float, objective: Objective | None = None, terms: Sequence[TermSpec | str] = ()) -> Recipe:
        own = replace(training, learning_rate=training.learning_rate * factor)
        return replace(base, objective=objective, training=own, terms=tuple(terms))

    factors = [advice.learning_rate_factor]
    if diagnosis.pilot is not None:
        factors += [t.learning_rate_factor for t in diagnosis.pilot.trials if t.arm == diagnosis.pilot.no_teacher]
    found = {"no teacher": Arm(at(1.0), role="baseline")}
    found |= {f"no teacher lr×{factor:.3g}": Arm(at(factor)) for factor in dict.fromkeys(factors) if factor != 1}
    if advice.distil or advice.repair:
        made = Recipe.recommended(advice, training)
        terms = (*base.terms, *made.terms)
        found["recommended"] = Arm(at(advice.learning_rate_factor, made.objective, terms), role="recommended")
    own = (advice.cell, advice.temperature, advice.teacher_weight, advice.learning_rate_factor)
    for factor in dict.fromkeys([1.0, advice.learning_rate_factor]):
        if not advice.terms and own != (*USUAL, factor):
            name = "T = 4 / 0.9" + (f" lr×{factor:.3g}" if factor != 1 else "")
            found[name] = Arm(at(factor, Objective(*USUAL), base.terms), role="usual" if factor == 1 else "")
    return found
