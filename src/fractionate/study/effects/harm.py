"""Does a recipe harm? A student against no teacher under the same training, and students that learned nothing. Records only."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fractionate.errors import MismatchError
from fractionate.records import Comparison, Run, Study
from fractionate.study.effects.contrasts import grain_of, paired, resolution_of, values_of
from fractionate.study.effects.power import seeds_to_settle, smallest_effect

LEARNED = (
    0.1  # of the way from the most frequent class to a faultless student: what is below has hardly learned anything
)
UNDERTRAINED = "the students are undertrained"  # how the remark about them begins
NOT_TRAINING = {
    "cell", "temperature", "teacher_weight", "divergence", "backend", "terms", "objective_weight", "transforms", "teacher",
    "learning_rate",
}  # fmt: skip


def uses_teacher(run: Run) -> bool:
    """Whether a run learned from a teacher: by its objective, or by terms with it."""
    return run.contract is not None and (run.contract.teacher_weight > 0 or bool(run.contract.terms))


def without_teacher(study: Study, arm: str) -> str:
    """The arm without a teacher under the same training as this one; empty where the study has none.

    The same student, preparations, share of the data and training; the learning rate too, unless the study tuned it or has no
    teacher at multiple rates. Of these the best by the deciding metric: what one would have without the teacher. Raises
    `MismatchError` for an arm without runs.
    """
    own, metric = _of_arm(study, arm), study.deciding

    def training(run: Run) -> dict[str, object]:
        return {key: value for key, value in run.settings.items() if key not in NOT_TRAINING}

    alone = [r for r in study.runs if r.arm != arm and not uses_teacher(r) and training(r) == training(own)]
    rates = {run.settings.get("learning_rate") for run in alone}
    if not study.tries and own.settings.get("learning_rate") not in rates and len(rates) < 2:
        return ""
    table = {name: list(values.values()) for name, values in values_of(alone, metric.name).items() if values}
    return max(table, key=lambda name: metric.sign * sum(table[name]) / len(table[name]), default="")


def compared_with_no_teacher(study: Study, arm: str) -> Comparison:
    """A variant against no teacher under the same training: mean paired difference in the deciding metric, with a 95 % interval.

    One comparison, not corrected for others: whether to export a student is one question. Differences below rounding are equal.

    Args:
        study: What `dissect` gave.
        arm: The variant.

    Returns:
        A `Comparison`; "not compared" where the study has no such variant without a teacher.

    Raises:
        MismatchError: for a variant without runs.

    Example:
        import torch
        from torch import nn
        from fractionate import dissect
        from fractionate.records import Training
        from fractionate.study.effects import compared_with_no_teacher

        data = (torch.randn(40, 8), torch.arange(40) % 4)
        few, teacher = Training(steps=2), nn.Linear(8, 4)
        study = dissect(lambda: nn.Linear(8, 4), data, teacher, test=data, cells=("kd",), seeds=2, training=few)
        print(compared_with_no_teacher(study, "kd"))
    """
    metric, against = study.deciding, without_teacher(study, arm)
    if not against:
        return Comparison(arm, "", metric.name, "not compared")
    table = values_of(study.runs, metric.name)
    seeds = sorted(table[arm].keys() & table[against].keys())
    if len(seeds) < 2:
        return Comparison(arm, against, metric.name, "not compared", seeds=len(seeds))
    differences = [table[arm][seed] - table[against][seed] for seed in seeds]
    pair = paired(differences, margin=metric.margin, grain=grain_of(study.runs, metric))
    low, high = sorted((metric.sign * pair.interval.low, metric.sign * pair.interval.high))
    none = abs(pair.gain) < resolution_of(metric)
    settle = None
    if (low > 0 or high < 0) and not none:
        verdict = "surely better" if low > 0 else "surely worse"
    elif max(abs(low), abs(high)) < metric.margin or (none and not low < 0 < high):
        verdict = "equal"
    else:
        verdict = "cannot tell"
        settle = seeds_to_settle(pair.gain, pair.deviation, margin=metric.margin, seeds=pair.seeds)
    return Comparison(
        arm, against, metric.name, verdict, gain=pair.gain, interval=pair.interval, seeds=pair.seeds,  # type: ignore[arg-type]
        smallest_effect=smallest_effect(pair.deviation, pair.seeds), seeds_to_settle=settle,
    )  # fmt: skip


def surely_worse(study: Study, arm: str) -> bool:
    """Whether a variant's whole paired interval against no teacher is on the worse side.

    Such a student is not exported unless that is wanted all the same.

    Args:
        study: What `dissect` gave.
        arm: The variant.

    Returns:
        False also where it was not compared.

    Raises:
        MismatchError: for a variant without runs.

    Example:
        import torch
        from torch import nn
        from fractionate import dissect
        from fractionate.records import Training
        from fractionate.study.effects import surely_worse

        data = (torch.randn(40, 8), torch.arange(40) % 4)
        few, teacher = Training(steps=2), nn.Linear(8, 4)
        study = dissect(lambda: nn.Linear(8, 4), data, teacher, test=data, cells=("kd",), seeds=2, training=few)
        print(surely_worse(study, "kd"))
    """
    return compared_with_no_teacher(study, arm).verdict == "surely worse"


def undertrained(runs: Sequence[Run], labels: Sequence[int], metric: str = "accuracy") -> str:
    """A remark where no arm is clearly better than naming the most frequent class always; else nothing.

    Args:
        labels: Of the data that the runs were judged on.
    """
    table = {arm: list(values.values()) for arm, values in values_of(runs, metric).items() if values}
    if not table or not len(labels):
        return ""
    chance = 100 * float(np.unique(np.asarray(labels), return_counts=True)[1].max()) / len(labels)
    best = max(sum(values) / len(values) for values in table.values())
    if best >= chance + LEARNED * (100 - chance):
        return ""
    return (
        f"{UNDERTRAINED}, or too small: the best variant has {best:.1f} % right, and naming the most frequent class "
        f"always has {chance:.1f} %; what the teacher is worth does not follow from them"
    )


def _of_arm(study: Study, arm: str) -> Run:
    found = next((run for run in study.runs if run.arm == arm), None)
    if found is None:
        raise MismatchError(f"no run of arm {arm!r}", expected=f"one of {', '.join(study.arms)}")
    return found
