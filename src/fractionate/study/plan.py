"""How a fleet is trained: stacked or one by one, found by a short trial, and which students share a stack."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from fractionate.errors import ConfigError, MismatchError
from fractionate.order import step_seed
from fractionate.study.course import Course, Entrant, Lookup, StudentFactory, Way, convolves, make_student
from fractionate.study.stacked import Stack

PROBE_STEPS = 3
TRIED_STUDENTS = 4  # in the trial stack: a stack of seven is hardly more efficient


@dataclass(frozen=True)
class Plan:
    """How a fleet is trained; the times are measured, of a step of the same few students."""

    way: Literal["stacked", "one by one"]
    stacked_step_seconds: float | None = None
    single_step_seconds: float | None = None

    def groups(self, entrants: Sequence[Entrant]) -> list[list[Entrant]]:
        """The students that are trained together: those of one seed, or each by itself.

        What a student computes hangs, in its last bits, on who shares its stack. So the groups follow from the study alone and not
        from time, workers or machine.
        """
        if self.way == "one by one":
            return [[entrant] for entrant in entrants]
        return [[e for e in entrants if e.seed == seed] for seed in dict.fromkeys(e.seed for e in entrants)]


def check_training(course: Course) -> None:
    """Refuse settings of the training loop that a fleet has no place for."""
    unknown = [s for s in course.training.loop_settings if s != "precision" or course.training.precision == "float16"]
    if unknown:
        raise ConfigError(f"a study's training does not know {', '.join(unknown)}", fix="leave it out, or use distill")


def plan_fleet(factory: StudentFactory, entrants: Sequence[Entrant], course: Course, way: Way = "auto") -> Plan:
    """Choose the way by a few trial steps of one seed's students, stacked and alone; a module that cannot be stacked goes alone.

    Stacks whose results differ from the student alone are not used, whatever their speed.
    """
    seeds = list(dict.fromkeys(e.seed for e in entrants))
    if way == "one by one" or (way == "auto" and len(entrants) == 1):
        return Plan("one by one")
    own = [e for e in entrants if e.seed == seeds[0]][:TRIED_STUDENTS]
    try:
        stacked, single = _trial(factory, own, course)
    except (RuntimeError, ValueError, TypeError, NotImplementedError) as error:
        if way == "stacked":
            raise MismatchError(
                "this student cannot be stacked", got=str(error).splitlines()[0], fix='use way="one by one"'
            ) from error
        return Plan("one by one")
    return Plan("one by one" if way == "auto" and single <= stacked else "stacked", stacked, single)


def _trial(factory: StudentFactory, entrants: Sequence[Entrant], course: Course) -> tuple[float, float]:
    """Seconds of a step of these students, stacked and one by one. Raises `RuntimeError` where the two differ.

    A stack that is slower than the students alone by half in its first warm step is not measured any longer.
    """
    modules = [make_student(factory, e.own_seed, course.device) for e in entrants]
    stack = Stack(modules, [e.own_seed for e in entrants])
    layout = torch.channels_last if convolves(modules[0]) else torch.contiguous_format
    lookup = Lookup(course, entrants, layout=torch.contiguous_format)
    inputs = lookup.inputs(lookup.index(0))
    own = inputs[0].contiguous(memory_format=layout) if inputs.ndim == 5 else inputs[0]
    alone = modules[0].to(memory_format=layout)  # type: ignore[call-overload]
    alone.train()

    def stacked_step() -> Tensor:
        logits = stack.train_forward(inputs, 0)
        torch.autograd.backward(logits, torch.full_like(logits, 1e-3))
        return logits.detach()

    def single_step() -> Tensor:
        torch.manual_seed(step_seed(entrants[0].own_seed, 0))
        logits: Tensor = alone(own)
        torch.autograd.backward(logits, torch.full_like(logits, 1e-3))
        return logits.detach()

    with torch.random.fork_rng():
        together, apart = stacked_step(), single_step()
        if together.ndim != 3 or not torch.allclose(together[0], apart, rtol=1e-3, atol=1e-4):
            raise RuntimeError("stacked and alone do not give the same logits")
        best = {"single": float("inf"), "stacked": float("inf")}
        for _ in range(PROBE_STEPS):
            for name, step in (("single", single_step), ("stacked", stacked_step)):
                if name == "stacked" and best["stacked"] < float("inf") and _hopeless(best, len(entrants)):
                    continue
                begin = time.perf_counter()
                step()
                best[name] = min(best[name], time.perf_counter() - begin)
    return best["stacked"], best["single"] * len(entrants)


def _hopeless(best: dict[str, float], students: int) -> bool:
    return best["stacked"] > 1.5 * best["single"] * students
