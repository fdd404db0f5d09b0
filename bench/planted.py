"""Planted failures: real teachers on real data, one fault at several strengths, combined faults, healthy controls.

    python bench/planted.py --half set      # the half on which thresholds are set: even seeds
    python bench/planted.py --half judged   # the half they are judged on; each writes its part of bench/results/planted.md
    python bench/planted.py --kind "temperature too high" healthy   # only these kinds; the table keeps the others' last figures
    python bench/planted.py --train N       # only train teachers that are not cached, at most N

Cost is what the fault takes from a student (test accuracy, points): the same objective on the sound signal less on the planted.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from bench.fleet_of_mlps import Schedule, train
from bench.planted_table import keep, write_table
from bench.teachers import CACHE, HEALTHY, MLP, Upbringing, parts, signal_of, with_labels
from bench.teachers import teacher as trained_teacher
from torch import nn

from fractionate import Objective, TeacherSignal, diagnose
from fractionate.data import Examples

DATA = ("digits", "fashion", "glosses", "cancer")
SEEDS = {"set": (0, 2), "judged": (1, 3)}
BROUGHT_UP = {  # healthy in different ways
    "regularised": replace(HEALTHY, epochs=25),
    "wide, early stop": Upbringing(hidden=(512,), epochs=12, dropout=0.0),
    "deep, decay": Upbringing(hidden=(128, 128, 128), epochs=20, dropout=0.1, decay=0.1),
    "small": Upbringing(hidden=(64,), epochs=25, dropout=0.1),
}
STUDENT_WIDTH = {"digits": 12, "fashion": 24, "glosses": 24, "cancer": 8}
EXAMPLES = {"digits": 300, "fashion": 1000, "glosses": 1000, "cancer": 100}
PLAN = Objective("kd", 2.0, 0.9)


TRAINING_SHARE = {
    "digits": 1.0,
    "fashion": 0.3,
    "glosses": 0.3,
    "cancer": 1.0,
}  # of the training part: a minute less a teacher


def teacher(name: str, kind: Upbringing, seed: int) -> nn.Module:
    return trained_teacher(name, replace(kind, share=kind.share * TRAINING_SHARE[name]), seed)


@dataclass
class Sound:
    """A healthy case: what a plant starts from."""

    name: str
    seed: int
    model: nn.Module
    data: Examples
    held: Examples
    test: Examples
    signal: TeacherSignal
    arguments: dict[str, Any] = field(default_factory=dict)


def sound(name: str, seed: int, kind: Upbringing, where: str = "outside") -> Sound:
    cut = parts(name, seed)
    model = teacher(name, kind, seed)
    data = getattr(cut, where)
    data = data.take(torch.arange(min(EXAMPLES[name], len(data))))
    signal = signal_of(model, data)
    torch.manual_seed(seed)
    student = MLP(data.inputs.shape[1], data.classes, (STUDENT_WIDTH[name],))
    arguments = {"student": student, "data": data, "objective": PLAN, "held_out": signal_of(model, cut.held)}
    return Sound(name, seed, model, data, cut.held, cut.test, signal, arguments)


@dataclass(frozen=True)
class Planted:
    """A fault planted: what diagnose gets, and (for the cost) what a student would be trained on."""

    signal: TeacherSignal
    arguments: dict[str, Any]
    data: Examples
    objective: Objective = PLAN


Plant = Callable[[Sound, Any], Planted]
PLANTS: dict[str, tuple[Plant, tuple[Any, ...], tuple[str, ...]]] = {}


def plant(finding: str, *strengths: Any, also: tuple[str, ...] = ()) -> Callable[[Plant], Plant]:
    """Register a fault: the finding that must name it (or one of `also`) and its strengths."""

    def add(function: Plant) -> Plant:
        PLANTS[function.__name__.replace("_", " ")] = (function, strengths, (finding, *also))
        return function

    return add


def other_teacher(case: Sound, kind: Upbringing, where: str = "outside", **more: Any) -> Planted:
    model = teacher(case.name, kind, case.seed)
    data = case.data
    if where == "train":
        data = parts(case.name, case.seed).train
        data = data.take(torch.arange(min(EXAMPLES[case.name], len(data))))
    arguments = case.arguments | {"data": data, "held_out": signal_of(model, case.held)} | more
    return Planted(signal_of(model, data), arguments, data)


@plant("weak-teacher", 0.4, 0.1, 0.02)
def weak_teacher(case: Sound, share: float) -> Planted:
    kind = Upbringing(hidden=(16,), epochs=4 if share < 0.4 else 8, share=share, dropout=0.0, best=False)
    return other_teacher(case, kind)


@plant("over-confident-teacher", 30, 100, 300, also=("memorising-teacher",))
def over_trained_teacher(case: Sound, epochs: int) -> Planted:
    epochs = epochs if case.name in ("digits", "cancer") else epochs // 3
    kind = Upbringing(hidden=(512, 512), epochs=epochs, dropout=0.0, decay=0.0, best=False)
    return other_teacher(case, kind, "train")


@plant("smoothed-teacher", 0.05, 0.1, 0.2, 0.4)
def smoothed_teacher(case: Sound, smoothing: float) -> Planted:
    return other_teacher(case, replace(HEALTHY, epochs=25, smoothing=smoothing, best=False))


@plant("temperature", 6.0, 12.0, 30.0)
def temperature_too_high(case: Sound, temperature: float) -> Planted:
    objective = Objective("kd", temperature, 0.9)
    return Planted(case.signal, case.arguments | {"objective": objective}, case.data, objective)


@plant("instance-noise", 0.5, 1.0, 2.0, 4.0)
def noisy_logits(case: Sound, deviation: float) -> Planted:
    draw = torch.Generator().manual_seed(case.seed)
    views = [
        TeacherSignal(
            case.signal.logits + deviation * torch.randn(case.signal.logits.shape, generator=draw), case.data.labels
        )
        for _ in range(2)
    ]
    return Planted(views[0], case.arguments | {"second_view": views[1]}, case.data)


@plant("label-noise", 0.05, 0.1, 0.2, 0.4)
def wrong_labels(case: Sound, share: float) -> Planted:
    draw = torch.Generator().manual_seed(case.seed)
    labels = case.data.labels.clone()
    wrong = torch.rand(len(labels), generator=draw) < share
    moved = torch.randint(1, case.data.classes, (int(wrong.sum()),), generator=draw)
    labels[wrong] = (labels[wrong] + moved) % case.data.classes
    data = with_labels(case.data, labels)
    return Planted(TeacherSignal(case.signal.logits, labels), case.arguments | {"data": data}, data)


@plant("permuted-classes", 2, 3, 1000, also=("misaligned-cache",))
def permuted_classes(case: Sound, moved: int) -> Planted:
    draw = torch.Generator().manual_seed(case.seed)
    chosen = torch.randperm(case.data.classes, generator=draw)[: min(moved, case.data.classes)]
    order = torch.arange(case.data.classes)
    order[chosen] = chosen.roll(1)
    return Planted(TeacherSignal(case.signal.logits[:, order], case.data.labels), case.arguments, case.data)


@plant("misaligned-cache", "a tenth", "a third", "all", "shift 1", "shift 5")
def misaligned_cache(case: Sound, how: str) -> Planted:
    draw = torch.Generator().manual_seed(case.seed)
    n = len(case.data)
    order = torch.arange(n)
    if how.startswith("shift"):
        order = order.roll(int(how[6:]))
    else:
        count = {"a tenth": n // 10, "a third": n // 3, "all": n}[how]
        start = int(torch.randint(0, n - count + 1, (1,), generator=draw))
        order[start : start + count] = start + torch.randperm(count, generator=draw)
    return Planted(TeacherSignal(case.signal.logits[order], case.data.labels), case.arguments, case.data)


@plant("misaligned-cache", 0.1, 0.3, 0.6, also=("label-noise",))
def scattered_wrong_rows(case: Sound, share: float) -> Planted:
    draw = torch.Generator().manual_seed(case.seed)
    n = len(case.data)
    chosen = (torch.rand(n, generator=draw) < share).nonzero().flatten()
    order = torch.arange(n)
    order[chosen] = chosen[torch.randperm(len(chosen), generator=draw)]
    return Planted(TeacherSignal(case.signal.logits[order], case.data.labels), case.arguments, case.data)


@plant("training-mode", 0.05, 0.2, 0.5)
def training_mode(case: Sound, dropout: float) -> Planted:
    for layer in case.model:
        if isinstance(layer, nn.Dropout):
            layer.p = dropout
    case.model.train()
    torch.manual_seed(case.seed)
    first, second = signal_of(case.model, case.data), signal_of(case.model, case.data)
    case.model.eval()
    return Planted(first, case.arguments | {"second_pass": second}, case.data)


@plant("input-mismatch", "scale 0.5", "scale 3", "scale 255", "shift 0.5", "negative", "shuffled features",
       also=("logit-scale",))  # fmt: skip
def input_mismatch(case: Sound, how: str) -> Planted:
    x = case.data.inputs
    if how.startswith("scale"):
        x = x * float(how[6:])
    elif how.startswith("shift"):
        x = x + float(how[6:])
    elif how == "negative":
        x = -x
    else:
        x = x[:, torch.randperm(x.shape[1], generator=torch.Generator().manual_seed(case.seed))]
    with torch.no_grad():
        signal = TeacherSignal(case.model(x), case.data.labels)
    return Planted(signal, case.arguments, case.data)


@plant("class-balance", 30, 100)
def imbalance(case: Sound, ratio: int) -> Planted:
    labels = case.data.labels
    count = torch.bincount(labels)
    rank = torch.argsort(torch.argsort(count, descending=True)).double()
    quota = (count.max().double() * ratio ** (-rank / max(1, case.data.classes - 1))).ceil().clamp_min(1)
    keep = torch.cat([(labels == c).nonzero().flatten()[: int(quota[c])] for c in range(case.data.classes)])
    return taken(case, keep.sort().values)


@plant("class-balance", 1, 3)
def absent_classes(case: Sound, absent: int) -> Planted:
    if case.data.classes <= absent:
        absent = case.data.classes - 1
    return taken(case, (case.data.labels >= absent).nonzero().flatten())


@plant("too-few-examples", 40, 20)
def too_few_examples(case: Sound, count: int) -> Planted:
    return taken(case, torch.arange(count))


def taken(case: Sound, keep: torch.Tensor) -> Planted:
    data = case.data.take(keep)
    return Planted(TeacherSignal(case.signal.logits[keep], data.labels), case.arguments | {"data": data}, data)


@plant("loss-scale", "no T² at 12", "T² at 30")
def loss_scale(case: Sound, how: str) -> Planted:
    objective = Objective("kd", 12.0, 0.5, scale_by_temperature_squared=False)
    if how == "T² at 30":
        objective = Objective("kd", 30.0, 0.99)
    return Planted(case.signal, case.arguments | {"objective": objective}, case.data, objective)


@plant("vocabulary-mismatch", 1, 6)
def padded_columns(case: Sound, columns: int) -> Planted:
    pad = torch.full((len(case.data), columns), float(case.signal.logits.mean()))
    arguments = {k: v for k, v in case.arguments.items() if k not in ("student", "held_out")}
    return Planted(TeacherSignal(torch.cat([case.signal.logits, pad], 1), case.data.labels), arguments, case.data)


@plant("unusable-numbers", "probabilities", "masked label", "constant")
def unusable_numbers(case: Sound, how: str) -> Planted:
    logits = case.signal.logits.clone()
    if how == "probabilities":
        logits = torch.softmax(logits, 1)
    elif how == "masked label":
        logits[::7] = logits[::7].scatter(1, case.data.labels[::7, None], -torch.inf)
    else:
        logits = logits[:1].expand_as(logits).clone()
    return Planted(TeacherSignal(logits, case.data.labels), case.arguments, case.data)


COMBINED: dict[str, tuple[tuple[str, Any], tuple[str, Any]]] = {
    "wrong labels + smoothed": (("smoothed teacher", 0.2), ("wrong labels", 0.2)),
    "permuted + few misaligned": (("permuted classes", 3), ("misaligned cache", "a third")),
    "over-trained + wrong labels": (("over trained teacher", 300), ("wrong labels", 0.2)),
}


def combine(case: Sound, one: tuple[str, Any], two: tuple[str, Any]) -> Planted:
    first = PLANTS[one[0]][0](case, one[1])
    middle = replace(case, data=first.data, signal=first.signal, arguments=first.arguments)
    return PLANTS[two[0]][0](middle, two[1])


def cost(case: Sound, planted: Planted) -> float | None:
    """Points of test accuracy that the fault takes from a student, over 4 seeds; None where the sizes do not allow it."""
    if planted.signal.classes != case.signal.classes:
        return None
    plan = Schedule(hidden=STUDENT_WIDTH[case.name], epochs=max(10, 600 // -(-len(planted.data) // 64)))
    test = case.test.take(torch.arange(min(2000, len(case.test))))
    signal = planted.signal
    if bool(torch.isneginf(signal.logits).any()):
        return None
    with_fault = train([planted.objective], planted.data, signal, test, range(4), plan)
    key = (case.name, case.seed, len(case.data))
    if key not in SOUND_ACCURACY:
        SOUND_ACCURACY[key] = float(train([PLAN], case.data, case.signal, test, range(4), plan).mean())
    return SOUND_ACCURACY[key] - float(with_fault.mean())


SOUND_ACCURACY: dict[tuple[str, int, int], float] = {}


def controls(half: str, data: list[str]) -> Iterator[tuple[str, Sound]]:
    """Healthy teachers, each on examples of its training and on new ones."""
    for name in data:
        for label, kind in BROUGHT_UP.items():
            for seed in SEEDS[half]:
                for where in ("outside", "train"):
                    yield f"{name}, {label}, seed {seed}, {where}", sound(name, seed, kind, where)


def raised(planted: Planted) -> dict[str, str]:
    found = diagnose(planted.signal, **planted.arguments)
    return {f.name: f.severity for f in found.findings if f.severity in ("error", "warning")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--half", choices=list(SEEDS), default="judged")
    parser.add_argument("--train", type=int, default=0)
    parser.add_argument("--no-cost", action="store_true")
    parser.add_argument("--kind", nargs="*", choices=["healthy", *PLANTS, *COMBINED], default=[])
    parser.add_argument("--data", nargs="*", default=list(DATA))
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.train:
        return prepare(options.train)
    wanted_kinds = options.kind or ["healthy", *PLANTS, *COMBINED]
    sound_ones = healthy(options.half, options.data) if "healthy" in wanted_kinds else None
    rows = []
    everything = {k: (s, f) for k, (_, s, f) in PLANTS.items()}
    everything |= {k: (("both",), (PLANTS[a[0]][2][0],)) for k, (a, b) in COMBINED.items()}
    for kind, (strengths, names) in everything.items():
        if kind not in wanted_kinds:
            continue
        for strength in strengths:
            hits, cases, alarms, costs, others = 0, 0, 0, [], defaultdict(int)
            for name in options.data:
                for index, seed in enumerate(SEEDS[options.half]):
                    case = sound(name, seed, BROUGHT_UP["regularised"])
                    planted = combine(case, *COMBINED[kind]) if kind in COMBINED else PLANTS[kind][0](case, strength)
                    found = raised(planted)
                    wanted = names if kind not in COMBINED else ()
                    hit = any(n in found for n in wanted)
                    if kind in COMBINED:
                        hit = all(any(n in found for n in PLANTS[k][2]) for k, _ in COMBINED[kind])
                    alarm = hit or any(n not in raised(Planted(case.signal, case.arguments, case.data)) for n in found)
                    hits, alarms, cases = hits + hit, alarms + alarm, cases + 1
                    for other in found:
                        others[other] += 1
                    if not hit:
                        others[f"MISSED {name} {seed}"] += 1
                    if not options.no_cost and index < 1:
                        spent = cost(case, planted)
                        costs += [] if spent is None else [(name, spent, hit, alarm)]
            mean = sum(c[1] for c in costs) / len(costs) if costs else float("nan")
            rows.append({"kind": kind, "strength": str(strength), "hits": hits, "alarms": alarms, "cases": cases, "cost": mean,
                         "costs": costs, "raised": dict(others)})  # fmt: skip
            print(f"{kind:28s} {strength!s:18s} recall {hits}/{cases}  cost {mean:6.2f}  {dict(others)}", flush=True)
    if not options.no_cost and len(options.data) == len(DATA):
        keep(CACHE, options.half, sound_ones, rows)
        write_table(CACHE)


def healthy(half: str, data: list[str]) -> dict[str, Any]:
    errors, warnings, count = [], defaultdict(list), 0
    for label, case in controls(half, data):
        found = raised(Planted(case.signal, case.arguments, case.data))
        count += 1
        for name, severity in found.items():
            (errors.append((label, name)) if severity == "error" else warnings[name].append(label))
    print(f"healthy: {count} controls, {len(errors)} errors {errors}")
    for name, labels in warnings.items():
        print(f"  warning {name}: {len(labels)}: {labels[:12]}")
    return {"controls": count, "errors": errors, "warnings": {k: len(v) for k, v in warnings.items()}}


def plant_in(label: str, name: str, seed: int, strength: Any) -> Planted:
    return PLANTS[label][0](sound(name, seed, BROUGHT_UP["regularised"]), strength)


def prepare(most: int) -> None:
    """Train teachers that are not in the cache, at most so many."""
    made = 0
    for half in SEEDS:
        for name in DATA:
            for seed in SEEDS[half]:
                wanted = [partial(teacher, name, kind, seed) for kind in BROUGHT_UP.values()]
                for label in ("weak teacher", "over trained teacher", "smoothed teacher"):
                    wanted += [partial(plant_in, label, name, seed, strength) for strength in PLANTS[label][1]]
                for make in wanted:
                    before = len(list(CACHE.glob("teacher-*")))
                    make()
                    made += len(list(CACHE.glob("teacher-*"))) - before
                    if made >= most:
                        print(name, seed, flush=True)
                        return


if __name__ == "__main__":
    main()
