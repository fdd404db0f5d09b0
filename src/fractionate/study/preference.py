"""What a quantized student of a task has to learn: attention map, attention output, or both. From the runs of a 2 × 2 of arms.

The arms share everything but two terms: `base` (neither), `map`, `output`, `both`. Contrasts are paired over seeds, corrected
together; the shares of map and output in what both bring are Shapley values of two players, seed by seed, so that they add up.
Records only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from fractionate.errors import MismatchError
from fractionate.records import Effect, Evidence, Finding, Interval, MetricInfo, Run
from fractionate.records.base import Record
from fractionate.study.effects.contrasts import Contrast, effects, grain_of, paired, values_of
from fractionate.study.effects.contrasts import unpaired as too_few
from fractionate.tasks.evaluate import CLASSIFICATION
from fractionate.tasks.metric import infos

Prefers = Literal["map", "output", "both", "neither", "cannot tell"]
Roles = Mapping[Literal["base", "map", "output", "both"], str]
ACCURACY = infos(CLASSIFICATION, "accuracy")[0]
ROLES: Roles = {"base": "hidden", "map": "map", "output": "output", "both": "unified"}


@dataclass(frozen=True)
class TermShare(Record):
    """A term's part of what both terms bring together, in the metric's unit."""

    term: str
    gain: float
    interval: Interval


@dataclass(frozen=True)
class Preference(Record):
    """Which attention terms a task needs, with the contrasts it rests on and the recipe that follows."""

    prefers: Prefers
    finding: Finding
    effects: tuple[Effect, ...]
    shares: tuple[TermShare, ...]
    recipe: str

    def __str__(self) -> str:
        return "\n".join([self.finding.summary, *map(str, self.effects), f"recipe: {self.recipe}"])


def preference(
    runs: Sequence[Run],
    *,
    roles: Roles = ROLES,
    metric: MetricInfo = ACCURACY,
    task: str = "this task",
) -> Preference:
    """Read the four arms' runs.

    - both: `both` is surely better than `map` alone and than `output` alone
    - map (output): surely better than the other alone, or than `base` while the other is within the margin of it, and `both` is
      not surely better than it
    - neither: no arm is surely better than `base`, and all three are within the margin of it
    - else the runs cannot tell

    share(map) = ½ (map − base) + ½ (both − output), likewise for output. Raises `MismatchError` where an arm has no runs, or
    fewer than two seeds are common to all.
    """
    names = {role: roles[role] for role in ("base", "map", "output", "both")}
    table = values_of(runs, metric.name)
    missing = [name for name in names.values() if name not in table]
    if missing:
        raise MismatchError(
            f"no run of arm {missing[0]!r}", expected=f"runs of {', '.join(names.values())}", got=", ".join(table)
        )
    pairs = (
        ("map", "base"),
        ("output", "base"),
        ("both", "base"),
        ("map", "output"),
        ("both", "map"),
        ("both", "output"),
    )
    contrasts = [Contrast(names[a], names[b]) for a, b in pairs]
    judged = {(e.arm, e.against): e for e in effects(runs, contrasts, metric=metric)}
    found = {(a, b): judged[names[a], names[b]] for a, b in pairs if (names[a], names[b]) in judged}
    seeds = sorted(set.intersection(*(set(table[name]) for name in names.values())))
    if len(seeds) < 2 or len(found) < len(pairs):
        notes = "; ".join(too_few(runs, contrasts, metric.name)) or f"{len(seeds)} common seeds"
        raise MismatchError(
            "these runs cannot be paired", expected="at least two seeds that every arm completed", got=notes
        )
    prefers = _prefers({pair: e.verdict for pair, e in found.items()})
    of = {role: [table[name][s] for s in seeds] for role, name in names.items()}
    shares = []
    for term, other in (("map", "output"), ("output", "map")):
        gains = [
            ((a - b) + (both - c)) / 2
            for a, b, both, c in zip(of[term], of["base"], of["both"], of[other], strict=True)
        ]
        pair = paired(gains, margin=metric.margin, grain=grain_of(runs, metric))
        shares.append(TermShare(term, pair.gain, pair.interval))
    return Preference(
        prefers=prefers,
        finding=_finding(prefers, found, metric, task),
        effects=tuple(found.values()),
        shares=tuple(shares),
        recipe=RECIPES[prefers],
    )


def _prefers(verdicts: Mapping[tuple[str, str], str]) -> Prefers:
    def sure(a: str, b: str) -> bool:
        return verdicts[a, b] == "helps"

    if sure("both", "map") and sure("both", "output"):
        return "both"
    for term, other in (("map", "output"), ("output", "map")):
        better = verdicts["map", "output"] == ("helps" if term == "map" else "hurts")
        alone = sure(term, "base") and verdicts[other, "base"] in ("equivalent", "hurts")
        if (better or alone) and not sure("both", term):
            return term  # type: ignore[return-value]
    if all(verdicts[arm, "base"] == "equivalent" for arm in ("map", "output", "both")):
        return "neither"
    return "cannot tell"


RECIPES: dict[Prefers, str] = {
    "map": 'terms=("hidden", "map")',
    "output": 'terms=("hidden", "output")',
    "both": 'terms=("hidden", "map", "output")',
    "neither": 'terms=("hidden",)',
    "cannot tell": 'terms=("hidden", "map", "output"): both, as the paper does, until more seeds tell',
}


def _finding(prefers: Prefers, found: Mapping[tuple[str, str], Effect], metric: MetricInfo, task: str) -> Finding:
    entries = {
        "map": f"{task} prefers the attention map",
        "output": f"{task} prefers the attention output",
        "both": f"{task} needs map and output",
        "neither": f"{task} needs no attention term",
        "cannot tell": f"whether {task} prefers map or output is open",
    }[prefers]
    evidence = tuple(
        Evidence(f"{e.arm} − {e.against}", e.gain, metric.unit, interval=e.interval, threshold=metric.margin)
        for e in found.values()
    )
    settle = [e.seeds_to_settle for e in found.values() if e.seeds_to_settle]
    return Finding(
        name="attention preference",
        severity="info",
        score=1.0,
        summary=entries,
        evidence=evidence,
        cause=""
        if prefers != "cannot tell"
        else "the differences between arms are small against their spread over seeds",
        fix=f"train it with {RECIPES[prefers]}"
        + (f"; about {max(settle)} seeds would settle it" if prefers == "cannot tell" and settle else ""),
    )
