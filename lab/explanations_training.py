"""The students of one seed of the study of explanations: all arms, measured and kept."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from explanations_setup import MORE_STEPS, REAL_STEPS, Seed
from safetensors.torch import save_file
from torch import nn

from fractionate import Recipe, distill
from fractionate.teachers.chimeras import Chimeras
from fractionate.training import evaluate

QUIET: dict[str, Any] = {"show": "nothing", "log_every": 10**6}
Arms = Mapping[str, tuple[Recipe, Any]]  # what is trained, and the teacher


def train(own: Seed, arms: Arms) -> None:
    """All arms of a seed: steps on real data, then as many again on real data or, for two arms, on chimeras."""
    setting, seed = own.at.setting, own.seed
    begun, more = setting.steps(REAL_STEPS, 5e-3), setting.steps(MORE_STEPS, 2e-3)

    def ended(arm: str, model: nn.Module, data: Any, teacher: Any, recipe: Recipe) -> None:
        _, run = distill(model, data, teacher, recipe=replace(recipe, training=more), seed=seed, arm=arm, **QUIET)
        scores = evaluate(model, own.at.examples[1], signal=own.signals[1])
        replace(run, test=scores, steps=run.steps + (begun.steps or 0), history=()).save(setting.file_of(arm, seed))

    for arm, (recipe, teacher) in arms.items():
        first = {"recipe": replace(recipe, training=begun), "seed": seed, "arm": arm, **QUIET}
        model, _ = distill(own.task, teacher=teacher, **first)
        if arm in ("kd", "ked"):
            mixed = Chimeras(own.at.examples[0], own.at.found, own.black_box if arm == "kd" else own.explaining,
                             size=50 * (more.steps or 0), seed=seed)  # fmt: skip
            ended(f"{arm} + chimeras", copy.deepcopy(model), mixed, mixed.teacher, recipe)
        ended(arm, model, own.at.examples[0], teacher, recipe)
        if arm == "ked" and seed == 0:
            save_file(model.state_dict(), setting.kept / "student.safetensors")
