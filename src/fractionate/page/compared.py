"""The comparisons of a study that a decision rests on: which variants use the teacher, which one is the recommended recipe."""

from __future__ import annotations

from dataclasses import dataclass, replace

from fractionate.losses.terms.base import formula_of, term_specs
from fractionate.page.summaries import (
    arms_of,
    interval_text,
    main_effects,
    mean_interval,
    named_value,
    score_values,
    size_text,
    uses_teacher,
    value_text,
)
from fractionate.page.text import number, short
from fractionate.records import Contract, Effect, Interval, MetricInfo, Recommendation, Run, Study, Verdict
from fractionate.study.effects.harm import compared_with_no_teacher

USUAL = Recommendation(True, "kd", 4.0, 0.9, "cross-entropy", True, "the usual recipe")


@dataclass(frozen=True)
class Compared:
    """The comparisons of a study that a decision rests on."""

    study: Study
    arms: dict[str, list[Run]]
    with_teacher: tuple[Effect, ...]  # variants with a teacher against none
    smoothing: tuple[Effect, ...]  # variants that are as soft as the teacher is on average, and know nothing else of it
    steps: tuple[Effect, ...]
    placebos: tuple[Effect, ...]

    @property
    def metric(self) -> MetricInfo:
        return self.study.deciding

    def contract(self, arm: str) -> Contract | None:
        return next((run.contract for run in self.arms.get(arm, ()) if run.contract), None)

    def mean(self, arm: str) -> tuple[float, Interval | None] | None:
        values = score_values(self.arms.get(arm, ()), self.metric.name)
        return mean_interval(values) if values else None

    def at(self, recipe: Recommendation | None) -> Effect | None:
        """The comparison of a recipe, where it is one of the variants; of two that at the nearest learning rate."""
        if recipe is None or not recipe.distil or recipe.repair:
            return None
        contracts = [c for c in map(self.contract, self.arms) if c is not None]
        alike = (
            len({(c.preparations, c.transforms) for c in contracts}) == 1
        )  # what all students have is no other recipe
        found = [
            e
            for e in self.with_teacher
            if matches(recipe, self.contract(e.arm), alike) or (e.arm == "recommended" and recipe != USUAL)
        ]
        base = self.rate(self.study.baseline)

        def off(e: Effect) -> float:  # by how much it is trained at another learning rate than the recipe's
            rate = self.rate(e.arm)
            return 0.0 if rate is None or base is None else abs(rate / base - recipe.learning_rate_factor)

        return min(found, key=off, default=None)

    def rate(self, arm: str) -> float | None:
        """The learning rate of a variant; None where it is not known."""
        rate = next((run.settings.get("learning_rate") for run in self.arms.get(arm, ())), None)
        return rate if isinstance(rate, float) and rate > 0 else None

    def same_rate(self, e: Effect) -> bool:
        """Whether both sides were trained at one learning rate: else the rate may be what makes the difference."""
        return self.rate(e.arm) == self.rate(e.against)

    @property
    def harmful(self) -> list[Effect]:
        """Variants that hurt at the learning rate of the students without a teacher."""
        return [e for e in self.with_teacher if e.verdict == "hurts" and self.same_rate(e)]


def compared(study: Study) -> Compared:
    """The comparisons of a study: with the teacher, with label smoothing alone, between variants, placebos."""
    arms = arms_of(study.runs, study.arms)
    against, steps, placebos = main_effects(study)
    found = Compared(study, arms, (), (), tuple(steps), tuple(placebos))

    def soft(e: Effect) -> bool:
        contract = found.contract(e.arm)
        return contract is not None and contract.level == "universe" and not contract.terms

    with_teacher = [e for e in against if not soft(e) and (e.arm not in arms or uses_teacher(found.contract(e.arm)))]
    smoothing = [e for e in against if soft(e) and uses_teacher(found.contract(e.arm))]
    fair = [_against_best(study, e) if e.arm in arms else e for e in with_teacher]
    return replace(found, with_teacher=tuple(fair), smoothing=tuple(smoothing))


def _against_best(study: Study, e: Effect) -> Effect:
    """The same variant against the best one without a teacher under the same training, where that is another.

    A student that is trained at another learning rate has to beat no teacher at that rate too.
    """
    c = compared_with_no_teacher(study, e.arm)
    if c.gain is None or c.interval is None or c.against == e.against:
        return e
    words: dict[str, Verdict] = {"surely better": "helps", "surely worse": "hurts", "equal": "equivalent"}
    verdict, settle = words.get(c.verdict, "cannot tell"), c.seeds_to_settle
    if verdict == "helps" and e.verdict != "helps":
        verdict, settle = "cannot tell", e.seeds_to_settle  # the correction for many comparisons holds for both
    return replace(
        e,
        against=c.against,
        gain=c.gain,
        interval=c.interval,
        verdict=verdict,
        seeds=c.seeds,
        seeds_to_settle=settle,
        smallest_effect=c.smallest_effect,
    )


def matches(recipe: Recommendation, contract: Contract | None, alike: bool = False) -> bool:
    """Whether a run computed what a recipe recommends, and nothing else; `alike`: all students are prepared and fed alike."""
    if recipe.terms:
        specs = [term_specs[term] for term in recipe.terms]
        wanted = tuple(f"{formula_of(spec)}  (mean over {spec.unit}s)" for spec in specs)
        return contract is not None and contract.teacher_weight == 0 and contract.terms == wanted
    return (
        contract is not None
        and (contract.cell, contract.divergence) == (recipe.cell, recipe.divergence)
        and abs(contract.temperature - recipe.temperature) < 1e-6
        and abs(contract.teacher_weight - recipe.teacher_weight) < 1e-6
        and not contract.terms
        and (alike or not (contract.preparations or contract.transforms))
    )


def recipe_text(recipe: Recommendation | Contract) -> str:
    """A recipe in one phrase."""
    if isinstance(recipe, Recommendation) and recipe.terms:
        return recipe.settings
    if isinstance(recipe, Contract) and recipe.terms and recipe.teacher_weight == 0:
        return f"the labels and {short('; '.join(recipe.terms), 160)}"
    extra = ""
    if isinstance(recipe, Contract) and recipe.terms:
        extra = f" and {len(recipe.terms)} more {'term' if len(recipe.terms) == 1 else 'terms'}"
    return f"{short(recipe.cell, 40)} at temperature {recipe.temperature:g}, teacher weight {recipe.teacher_weight:g}{extra}"


def change_text(metric: MetricInfo, e: Effect) -> str:
    """What a variant does to a metric, as a clause without its subject: gains 2.37 points of accuracy."""
    size, title = size_text(metric, abs(e.gain)), short(metric.title, 40)
    if metric.better == "more":
        return f"{'gains' if e.gain > 0 else 'costs'} {size} of {title}"
    return f"{'raises' if e.gain > 0 else 'lowers'} {title} by {size}"


def values_text(found: Compared, e: Effect) -> tuple[str, str] | None:
    """The deciding metric of a variant and of what it is compared with, in words; None without scores."""
    own, other = found.mean(e.arm), found.mean(e.against)
    if own is None or other is None:
        return None
    same = [number(own[0], digits) == number(other[0], digits) for digits in (3, 5)]
    digits = 5 if same == [True, False] else 3  # two values that differ are not shown as one
    return named_value(found.metric, own[0], digits), value_text(found.metric, other[0], digits)


def sureness(metric: MetricInfo, e: Effect) -> str:
    """The difference, its interval and the number of seeds."""
    seeds = f"{e.seeds} {'seed' if e.seeds == 1 else 'seeds'}"
    return f"{size_text(metric, e.gain, sign=True)}, 95 % interval {interval_text(metric, e.interval)}, {seeds}"
