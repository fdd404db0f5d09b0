"""Faults to plant in a sound case: what changes, which finding names it, and which would lead to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from bench.planted_cases import SOUND, Case, logits_of, sound, trained_teacher, with_inputs
from bench.teachers import Upbringing, with_labels
from torch import Tensor, nn

from fractionate import Objective
from fractionate.data import Examples

Plant = Callable[[Case], Case]


@dataclass(frozen=True)
class Fault:
    """A kind of fault. `names`: findings that name it; `leads`: findings that send a person to the right place."""

    group: str
    names: tuple[str, ...]
    leads: tuple[str, ...]
    plant: Plant


FAULTS: dict[str, Fault] = {}


def fault(group: str, kind: str, names: str, leads: str = "") -> Callable[[Plant], Plant]:
    """Register a fault by its kind."""

    def add(plant: Plant) -> Plant:
        FAULTS[kind] = Fault(group, tuple(names.split()), tuple(leads.split()), plant)
        return plant

    return add


def draw_of(case: Case, salt: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(977 * case.seed + salt)


# --- teachers that are no good ---------------------------------------------------------------------------------------------------
def other(case: Case, kind: Upbringing, key: str = "", change: Callable[[Examples], Examples] | None = None, *,
          where: str = "outside") -> Case:  # fmt: skip
    model = trained_teacher(case.name, case.seed, kind, key, change)
    transfer = sound(case.name, case.seed, case.model, where=where).transfer
    return replace(case, model=model, transfer=transfer, logits=logits_of(model, transfer.inputs),
                   held_logits=logits_of(model, case.held.inputs))  # fmt: skip


def weak(share: float) -> Plant:
    kind = Upbringing(hidden=(16,), epochs=6, share=share, dropout=0.0, best=False)
    return lambda case: other(case, kind)


fault("teacher", "trained on 2 % of the data", "weak-teacher", "held-out-calibration")(weak(0.02))
fault("teacher", "trained on 10 % of the data", "weak-teacher", "held-out-calibration")(weak(0.1))


def mislabelled(share: float) -> Callable[[Examples], Examples]:
    def change(data: Examples) -> Examples:
        draw = torch.Generator().manual_seed(5)
        wrong = torch.rand(len(data), generator=draw) < share
        random = torch.randint(data.classes, (len(data),), generator=draw)
        return with_labels(data, torch.where(wrong, random, data.labels))

    return change


@fault("teacher", "trained on half wrong labels", "weak-teacher held-out-calibration", "temperature")
def trained_on_wrong_labels(case: Case) -> Case:
    return other(case, replace(SOUND, epochs=20, dropout=0.0, best=False), "wrong", mislabelled(0.5))


@fault("teacher", "over-trained, on its own training examples",
       "over-confident-teacher memorising-teacher held-out-calibration")  # fmt: skip
def memorised(case: Case) -> Case:
    return other(case, OVER_TRAINED, where="train")


OVER_TRAINED = Upbringing(hidden=(512, 512), epochs=120, dropout=0.0, decay=0.0, best=False)
fault("teacher", "over-trained, on new examples", "held-out-calibration over-confident-teacher")(
    lambda case: other(case, OVER_TRAINED)
)
fault("teacher", "trained with label smoothing 0.4", "smoothed-teacher held-out-calibration")(
    lambda case: other(case, replace(SOUND, smoothing=0.4, best=False))
)


@fault("teacher", "one class absent from its training", "lost-class class-balance")
def lost_class(case: Case) -> Case:
    return other(case, SOUND, "lost", lambda data: data.take((data.labels != 1).nonzero().flatten()))


@fault("teacher", "one class a twentieth of its share", "lost-class class-balance", "weak-teacher")
def thinned_class(case: Case) -> Case:
    def change(data: Examples) -> Examples:
        own = (data.labels == 0).nonzero().flatten()
        return data.take(torch.cat([(data.labels != 0).nonzero().flatten(), own[: len(own) // 20]]).sort().values)

    return other(case, SOUND, "thinned", change)


@fault("teacher", "two classes merged in its training", "duplicate-classes lost-class", "class-balance weak-teacher")
def merged_classes(case: Case) -> Case:
    def change(data: Examples) -> Examples:
        both = (data.labels <= 1).nonzero().flatten()
        labels = data.labels.clone()
        labels[both] = torch.randint(2, (len(both),), generator=torch.Generator().manual_seed(3))
        return with_labels(data, labels)

    return other(case, SOUND, "merged", change)


@fault("teacher", "trained on classes of other frequencies", "class-balance lost-class", "weak-teacher")
def other_prior(case: Case) -> Case:
    def change(data: Examples) -> Examples:
        keep = torch.rand(len(data), generator=torch.Generator().manual_seed(2)) < 0.04 ** (
            data.labels.double() / max(1, data.classes - 1)
        )
        return data.take(keep.nonzero().flatten())

    return other(case, SOUND, "prior", change)


@fault("teacher", "left in training mode", "training-mode")
def training_mode(case: Case) -> Case:
    for layer in case.model.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = 0.5
    case.model.train()
    torch.manual_seed(case.seed)
    one, two = logits_of(case.model, case.transfer.inputs), logits_of(case.model, case.transfer.inputs)
    for layer in case.model.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = SOUND.dropout
    case.model.eval()
    return replace(case, logits=one, second=two)


# --- names and order of classes --------------------------------------------------------------------------------------------------
def renamed(order: Callable[[int, torch.Generator], Tensor], *, held: bool = False) -> Plant:
    def plant(case: Case) -> Case:
        columns = order(case.transfer.classes, draw_of(case, 1))
        there = case.held_logits
        there = there[:, columns] if held and there is not None else there
        return replace(case, logits=case.logits[:, columns], held_logits=there)

    return plant


def cycled(count: int) -> Callable[[int, torch.Generator], Tensor]:
    def order(classes: int, draw: torch.Generator) -> Tensor:
        columns = torch.arange(classes)
        chosen = torch.randperm(classes, generator=draw)[: min(count, classes)]
        columns[chosen] = chosen.roll(1)
        return columns

    return order


def by_text(classes: int, draw: torch.Generator) -> Tensor:
    return torch.tensor(sorted(range(classes), key=lambda c: str(c + 8)))


NAMING = "permuted-classes", "misaligned-cache label-map"
for kind, order in (
    ("two classes swapped", cycled(2)),
    ("three classes in a circle", cycled(3)),
    ("classes sorted as text", by_text),
    ("all classes permuted", cycled(10**6)),
    ("class numbers off by one", lambda classes, draw: torch.arange(classes).roll(1)),
    ("classes in reverse", lambda classes, draw: torch.arange(classes).flip(0)),
):
    fault("names", kind, *NAMING)(renamed(order))
fault("names", "all classes permuted, held-out too", *NAMING)(renamed(cycled(10**6), held=True))
fault("names", "permuted, the teacher weak", *NAMING)(lambda case: renamed(cycled(10**6))(weak(0.1)(case)))


# --- what the numbers are --------------------------------------------------------------------------------------------------------
def numbers(change: Callable[[Tensor, Case], Tensor], *, held: bool = True) -> Plant:
    def plant(case: Case) -> Case:
        there = case.held_logits
        return replace(
            case,
            logits=change(case.logits, case),
            held_logits=there if not held or there is None else change(there, case),
        )

    return plant


def largest(logits: Tensor, case: Case, fill: float) -> Tensor:
    k = max(1, min(5, logits.shape[1] // 3))
    kept = logits.topk(k, dim=1)
    return torch.full_like(logits, fill).scatter(1, kept.indices, kept.values)


NUMBERS = "unusable-numbers"
for kind, change in (
    ("probabilities", lambda z, c: z.softmax(1)),
    ("probabilities as percentages", lambda z, c: 100 * z.softmax(1)),
    ("percentages to one decimal", lambda z, c: (1000 * z.softmax(1)).round() / 10),
    ("votes of 50 members", lambda z, c: torch.stack([
        torch.bincount(row, minlength=z.shape[1]) for row in torch.multinomial(z.softmax(1), 50, True, generator=draw_of(c, 4))
    ]).float()),
    ("reversed sign (costs for scores)", lambda z, c: -z),
    ("negative log-likelihoods", lambda z, c: -z.log_softmax(1)),
    ("sigmoid of the logits", lambda z, c: z.sigmoid()),
    ("ranks of the classes", lambda z, c: z.argsort(1).argsort(1).float()),
    ("the label's logit masked", lambda z, c: z.index_put(
        (torch.arange(0, len(z), 7), (c.transfer if len(z) == len(c.transfer) else c.held).labels[::7]), torch.tensor(-torch.inf))),
    ("the same row for all", lambda z, c: z[:1].expand_as(z).clone()),
):  # fmt: skip
    # with two classes a reversed sign is a renaming
    fault("numbers", kind, NUMBERS, "held-out-calibration temperature permuted-classes")(numbers(change))
fault(
    "numbers",
    "the 5 largest, the rest 0",
    "unusable-numbers stored-form",
    "held-out-calibration over-confident-teacher",
)(numbers(lambda z, c: largest(z - z.mean(1, keepdim=True), c, 0.0)))
fault(
    "numbers",
    "the 5 largest, the rest -1e4",
    "unusable-numbers stored-form",
    "held-out-calibration over-confident-teacher",
)(numbers(lambda z, c: largest(z, c, -1e4)))
fault("numbers", "hard answers as one-hot rows", "unusable-numbers over-confident-teacher held-out-calibration")(
    numbers(lambda z, c: nn.functional.one_hot(z.argmax(1), z.shape[1]).float())
)
fault(
    "numbers",
    "hard answers, 30 for the answer",
    "over-confident-teacher held-out-calibration stored-form unusable-numbers",
)(numbers(lambda z, c: 30.0 * nn.functional.one_hot(z.argmax(1), z.shape[1])))
fault("numbers", "divided by 4 (a stored temperature)", "held-out-calibration logit-scale", "temperature")(
    numbers(lambda z, c: z / 4)
)
fault("numbers", "divided by 4, held-out not", "logit-scale held-out-calibration", "temperature")(
    numbers(lambda z, c: z / 4, held=False)
)
fault("numbers", "multiplied by 6", "held-out-calibration over-confident-teacher logit-scale")(
    numbers(lambda z, c: z * 6)
)
fault("numbers", "rows of length one (cosines)", "held-out-calibration", "temperature")(
    numbers(lambda z, c: nn.functional.normalize(z, dim=1))
)
fault("numbers", "cut to -1 … 1", "held-out-calibration stored-form unusable-numbers", "temperature weak-teacher")(
    numbers(lambda z, c: (z - z.mean(1, keepdim=True)).clamp(-1, 1))
)


@fault("numbers", "noise, a second view given", "instance-noise", "weak-teacher held-out-calibration")
def noisy_views(case: Case) -> Case:
    draw, z = draw_of(case, 6), case.logits
    scale = 0.8 * float(z.std())
    one, two = (z + scale * torch.randn(z.shape, generator=draw) for _ in range(2))
    there = case.held_logits
    return replace(
        case,
        logits=one,
        view=two,
        held_logits=None if there is None else there + scale * torch.randn(there.shape, generator=draw),
    )


@fault("numbers", "noise, no second view", "weak-teacher held-out-calibration instance-noise", "label-noise")
def noisy(case: Case) -> Case:
    return replace(noisy_views(case), view=None)


# --- rows ------------------------------------------------------------------------------------------------------------------------
def rows(order: Callable[[int, Case], Tensor]) -> Plant:
    return lambda case: replace(case, logits=case.logits[order(len(case.transfer), case)])


def part_shuffled(share: float) -> Callable[[int, Case], Tensor]:
    def order(n: int, case: Case) -> Tensor:
        draw, count = draw_of(case, 7), round(n * share)
        start = int(torch.randint(0, n - count + 1, (1,), generator=draw))
        found = torch.arange(n)
        found[start : start + count] = start + torch.randperm(count, generator=draw)
        return found

    return order


def scattered(share: float) -> Callable[[int, Case], Tensor]:
    def order(n: int, case: Case) -> Tensor:
        draw = draw_of(case, 8)
        chosen = (torch.rand(n, generator=draw) < share).nonzero().flatten()
        found = torch.arange(n)
        found[chosen] = chosen[torch.randperm(len(chosen), generator=draw)]
        return found

    return order


def from_the_middle(n: int, case: Case) -> Tensor:
    found = torch.arange(n)
    found[n // 2 :] = found[n // 2 :].roll(1)
    return found


ROWS = "misaligned-cache"
for kind, sequence in (
    ("rows shifted by 1", lambda n, c: torch.arange(n).roll(1)),
    ("rows shifted by 5", lambda n, c: torch.arange(n).roll(5)),
    ("rows shuffled", lambda n, c: torch.randperm(n, generator=draw_of(c, 9))),
    ("a third of the rows shuffled", part_shuffled(1 / 3)),
    ("rows in reverse", lambda n, c: torch.arange(n).flip(0)),
    ("halves exchanged", lambda n, c: torch.arange(n).roll(n // 2)),
    ("one row lost in the middle", from_the_middle),
    ("signal sorted by class, labels not", lambda n, c: c.transfer.labels.argsort(stable=True)),
):
    fault("rows", kind, ROWS, "label-noise")(rows(sequence))
fault("rows", "a third of the rows scattered", "misaligned-cache label-noise")(rows(scattered(0.35)))


@fault("rows", "labels shuffled, inputs and signal not", "misaligned-cache", "label-noise")
def shuffled_labels(case: Case) -> Case:
    labels = case.transfer.labels[torch.randperm(len(case.transfer), generator=draw_of(case, 10))]
    return replace(case, transfer=with_labels(case.transfer, labels))


@fault("rows", "inputs shuffled, labels and signal not", "misaligned-cache")
def shuffled_inputs(case: Case) -> Case:
    order = torch.randperm(len(case.transfer), generator=draw_of(case, 11))
    return replace(case, transfer=with_inputs(case.transfer, case.transfer.inputs[order]))


# --- what the teacher sees -------------------------------------------------------------------------------------------------------
def seen(change: Callable[[Tensor, Case], Tensor]) -> Plant:
    return lambda case: replace(case, logits=logits_of(case.model, change(case.transfer.inputs, case)))


INPUTS = "input-mismatch logit-scale"
for kind, wrong in (
    ("inputs 10 times as large", lambda x, c: 10 * x),
    ("inputs a tenth as large", lambda x, c: x / 10),
    ("inputs shifted by a deviation", lambda x, c: x + x.std()),
    ("inputs negative", lambda x, c: -x),
    ("input columns shuffled", lambda x, c: x[:, torch.randperm(x.shape[1], generator=draw_of(c, 12))]),
    ("input columns in reverse", lambda x, c: x.flip(1)),
    ("half of the columns lost", lambda x, c: x * (torch.arange(x.shape[1]) < x.shape[1] // 2)),
    ("noise over the inputs", lambda x, c: x + 2 * x.std() * torch.randn(x.shape, generator=draw_of(c, 13))),
    ("blank inputs", lambda x, c: torch.zeros_like(x) + 1e-3 * torch.randn(x.shape, generator=draw_of(c, 13))),
    ("a third of the inputs blank", lambda x, c: x * (torch.arange(len(x))[:, None] >= len(x) // 3)),
):
    fault(
        "inputs", kind, INPUTS, "weak-teacher held-out-calibration misaligned-cache unusable-numbers permuted-classes"
    )(seen(wrong))


# --- data ------------------------------------------------------------------------------------------------------------------------
def relabelled(share: float, *, held: bool = False) -> Plant:
    def wrong(data: Examples, draw: torch.Generator) -> Examples:
        moved = torch.randint(1, data.classes, (len(data),), generator=draw)
        changed = torch.rand(len(data), generator=draw) < share
        return with_labels(data, torch.where(changed, (data.labels + moved) % data.classes, data.labels))

    def plant(case: Case) -> Case:
        draw = draw_of(case, 14)
        return replace(case, transfer=wrong(case.transfer, draw), held=wrong(case.held, draw) if held else case.held)

    return plant


fault("data", "a fifth of the labels wrong", "label-noise", "weak-teacher")(relabelled(0.2))
fault("data", "two fifths of the labels wrong", "label-noise", "weak-teacher misaligned-cache")(relabelled(0.4))
for words, share in (("tenth", 0.1), ("fifth", 0.2), ("third", 0.35)):
    fault("data", f"a {words} of the labels wrong, held-out too", "label-noise", "weak-teacher held-out-calibration")(
        relabelled(share, held=True)
    )


@fault("data", "half of one class labelled as another", "label-noise lost-class", "duplicate-classes class-balance")
def one_way(case: Case) -> Case:
    labels = case.transfer.labels.clone()
    own = (labels == 1).nonzero().flatten()
    labels[own[: len(own) // 2]] = 0
    return replace(case, transfer=with_labels(case.transfer, labels))


def kept(choose: Callable[[Case], Tensor]) -> Plant:
    def plant(case: Case) -> Case:
        rows = choose(case)
        return replace(case, transfer=case.transfer.take(rows), logits=case.logits[rows])

    return plant


def skewed(ratio: float) -> Callable[[Case], Tensor]:
    def choose(case: Case) -> Tensor:
        labels, classes = case.transfer.labels, case.transfer.classes
        most = float(torch.bincount(labels).max())
        return torch.cat([
            (labels == c).nonzero().flatten()[: max(1, round(most * ratio ** (-c / max(1, classes - 1))))] for c in range(classes)
        ]).sort().values  # fmt: skip

    return choose


fault("data", "classes of very different size", "class-balance", "too-few-examples")(kept(skewed(60)))
fault("data", "a third of the classes absent", "class-balance", "too-few-examples")(
    kept(lambda c: (c.transfer.labels >= max(1, c.transfer.classes // 3)).nonzero().flatten())
)
fault("data", "40 examples", "too-few-examples")(kept(lambda c: torch.arange(40)))
fault("data", "20 examples", "too-few-examples")(kept(lambda c: torch.arange(20)))


@fault("data", "labels are the teacher's own answers", "answers-as-labels")
def own_answers(case: Case) -> Case:
    return replace(case, transfer=with_labels(case.transfer, case.logits.argmax(1)))


@fault("data", "many classes of the teacher never occur", "class-balance vocabulary-mismatch")
def never_occur(case: Case) -> Case:
    def wide(z: Tensor) -> Tensor:
        more = 3 * z.shape[1]
        around = z.mean(1, keepdim=True) + z.std(1, keepdim=True) * (
            torch.randn(len(z), more, generator=torch.Generator().manual_seed(len(z))) - 0.5
        )
        return torch.cat([z, around], 1)

    return replace(
        case, logits=wide(case.logits), held_logits=None if case.held_logits is None else wide(case.held_logits)
    )


@fault("data", "padded columns", "vocabulary-mismatch class-balance")
def padded(case: Case) -> Case:
    def wide(z: Tensor) -> Tensor:
        return torch.cat([z, torch.full((len(z), 6), float(case.logits.mean()))], 1)

    return replace(
        case, logits=wide(case.logits), held_logits=None if case.held_logits is None else wide(case.held_logits)
    )


@fault("data", "copies under another label", "duplicate-examples label-noise")
def torn_copies(case: Case) -> Case:
    n = len(case.transfer) // 3
    again = case.transfer.take(torch.arange(n))
    labels = torch.randint(case.transfer.classes, (n,), generator=draw_of(case, 15))
    transfer = Examples(torch.cat([case.transfer.inputs, again.inputs]), torch.cat([case.transfer.labels, labels]),
                        case.transfer.class_names)  # fmt: skip
    return replace(case, transfer=transfer, logits=torch.cat([case.logits, case.logits[:n]]))


@fault("splits", "half of the test examples in the transfer set", "leaked-examples", "duplicate-examples")
def leaked(case: Case) -> Case:
    half = case.test.take(torch.arange(0, min(len(case.test), 2 * len(case.transfer)), 2))
    transfer = Examples(torch.cat([case.transfer.inputs, half.inputs]), torch.cat([case.transfer.labels, half.labels]),
                        case.transfer.class_names)  # fmt: skip
    unseen = case.test.take(torch.arange(1, len(case.test), 2))
    return replace(case, transfer=transfer, logits=torch.cat([case.logits, logits_of(case.model, half.inputs)]),
                   reported=case.test, honest=unseen)  # fmt: skip


@fault("splits", "validation examples are transfer examples", "leaked-examples", "duplicate-examples")
def leaked_validation(case: Case) -> Case:
    return with_validation(case, case.transfer.take(torch.arange(min(300, len(case.transfer)))))


def with_validation(case: Case, data: Examples) -> Case:
    return replace(case, validation=data, reported=data, honest=case.validation)


@fault("splits", "validation of half of the classes", "split-shift")
def other_classes(case: Case) -> Case:
    whole = case.validation
    return with_validation(case, whole.take((whole.labels < max(1, whole.classes // 2)).nonzero().flatten()))


@fault("splits", "validation inputs of another scale", "split-shift")
def other_inputs(case: Case) -> Case:
    x = case.validation.inputs
    return with_validation(case, with_inputs(case.validation, 0.3 * x + x.std()))


@fault("splits", "test labels off by one", "split-shift permuted-classes")
def other_labels(case: Case) -> Case:
    wrong = with_labels(case.test, (case.test.labels + 1) % case.test.classes)
    return replace(case, test=wrong, reported=wrong, honest=case.test)


# --- the plan and the student ----------------------------------------------------------------------------------------------------
def planned(objective: Objective) -> Plant:
    return lambda case: replace(case, plan=objective)


fault("plan", "temperature 12", "temperature", "loss-scale")(planned(Objective("kd", 12.0, 0.9)))
fault("plan", "temperature 30", "temperature", "loss-scale")(planned(Objective("kd", 30.0, 0.9)))
fault("plan", "temperature 12 without T²", "temperature loss-scale")(
    planned(Objective("kd", 12.0, 0.9, scale_by_temperature_squared=False))
)
fault("plan", "temperature 30, weight 0.99", "temperature loss-scale")(planned(Objective("kd", 30.0, 0.99)))
fault("plan", "teacher alone, one class lost", "lost-class class-balance")(
    lambda case: replace(lost_class(case), plan=Objective("kd", 2.0, 1.0))
)
fault("student", "other number of outputs", "vocabulary-mismatch")(
    lambda case: replace(case, outputs=case.logits.shape[1] + 2)
)
fault("student", "inputs 40 times too large", "initial-loss")(lambda case: replace(case, student_scale=40.0))
fault("student", "two hidden units", "capacity-gap")(lambda case: replace(case, student=(2,)))


# --- two at once -----------------------------------------------------------------------------------------------------------------
def both(*kinds: str) -> Plant:
    def plant(case: Case) -> Case:
        for kind in kinds:
            case = FAULTS[kind].plant(case)
        return case

    return plant


fault("two faults", "wrong labels, and percentages", NUMBERS, "label-noise")(
    both("a fifth of the labels wrong", "probabilities as percentages")
)
fault("two faults", "shifted rows, and wrong labels", ROWS, "label-noise")(
    both("rows shifted by 1", "a fifth of the labels wrong")
)
fault("two faults", "swapped classes, and temperature 30", "permuted-classes", "temperature")(
    both("two classes swapped", "temperature 30")
)
