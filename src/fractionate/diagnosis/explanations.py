"""What explanations say: over all examples and for some of them, student next to teacher, and next to captum's attributions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fractionate.data.examples import Examples
from fractionate.data.splits import as_examples, as_split
from fractionate.diagnosis.interactions import captum_attributions, quantity_of
from fractionate.errors import MismatchError
from fractionate.models.additive import explanations_of
from fractionate.models.columns import check_superfeatures
from fractionate.models.modes import eval_mode
from fractionate.models.outputs import call, logits_of
from fractionate.records import Effect, ExampleExplanation, Explanations, Interval, Matrix, Superfeature, Superfeatures
from fractionate.records.explanations import HEAD
from fractionate.system.atomic import write_file
from fractionate.system.plain_text import csv_text
from fractionate.theory.spectrum.stream import spectrum
from fractionate.theory.teacher_signal import TeacherSignal

ROWS_AT_ONCE = 512


def outputs_of(model: nn.Module, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Logits [examples, classes] and explanations [examples, superfeatures, classes] of an explaining model, in float64."""
    found = []
    with eval_mode(model):
        for part in torch.split(inputs, ROWS_AT_ONCE):
            out = call(model, part)
            found.append((logits_of(out).double(), explanations_of(out).double()))
    return torch.cat([logits for logits, _ in found]), torch.cat([outputs for _, outputs in found])


def explanation_signals(teacher: nn.Module, data: Any, *, batch_size: int = 512) -> tuple[TeacherSignal, ...]:
    """A teacher's explanations of all the data, a signal for each superfeature, for cells, spectrum and diagnosis.

    Raises `MismatchError` for a teacher that does not explain.
    """
    split, found, labels = as_split(data), [], []
    with eval_mode(teacher):
        for batch in split.batches(((0, index) for index in torch.split(torch.arange(len(split)), batch_size)), 0):
            found.append(explanations_of(call(teacher, batch.inputs)).float())
            labels.append(batch.labels)
    return tuple(TeacherSignal(part, torch.cat(labels)) for part in torch.cat(found).unbind(1))


def evidence(
    explanations: Float[Tensor, "*examples superfeatures classes"], log_prior: Float[Tensor, "classes"]
) -> Float[Tensor, "*examples superfeatures classes"]:
    """log e_m - log prior, in nats: log prior + their sum over superfeatures are the logits of the prediction, exactly."""
    return explanations - log_prior


def explain(
    student: nn.Module,
    teacher: nn.Module,
    data: Any,
    found: Superfeatures,
    *,
    name: str = "",
    shown: int | Sequence[int] = 12,
    paid: Mapping[str, Effect] | None = None,
    paid_unit: str = "points",
    interaction: Matrix = (),
    black_box: nn.Module | None = None,
    outside_examples: int = 64,
) -> Explanations:
    """What a student and its explaining teacher say about some data: a record for `report`, and a table (`save_table`).

    Args:
        student: An explaining model.
        teacher: Another, over the same superfeatures.
        data: What `as_examples` takes.
        found: The superfeatures.
        name: Of the record; left out, the data's.
        shown: Examples that are split one by one: so many, evenly spaced, or these places.
        paid: Effects of a study by the name of the superfeature.
        paid_unit: Their unit.
        interaction: Mean strength between the features of two superfeatures.
        black_box: Captum's Shapley values of the superfeatures' columns on it are correlated with the teacher's evidence.
        outside_examples: How many examples that takes.

    Returns:
        An `Explanations` record.

    Raises:
        MismatchError: for models that do not explain these superfeatures.

    Example:
        import torch
        from fractionate.diagnosis import explain
        from fractionate.models import explaining_mlp
        from fractionate.records import Superfeatures

        found = Superfeatures(groups=((0, 1), (2, 3)), features=4, names=("a", "b"))
        student, teacher = (explaining_mlp(found, classes=3, width=width) for width in (4, 8))
        print(explain(student, teacher, (torch.randn(30, 4), torch.arange(30) % 3), found))
    """
    examples = as_examples(data)
    check_superfeatures(found, examples.inputs.flatten(1).shape[1])
    ours, theirs = outputs_of(student, examples.inputs), outputs_of(teacher, examples.inputs)
    if ours[1].shape != theirs[1].shape or ours[1].shape[1] != len(found):
        raise MismatchError(
            "student, teacher and superfeatures do not belong together",
            expected=f"explanations [examples, {len(found)}, {examples.classes}] of both",
            got=f"student {list(ours[1].shape)}, teacher {list(theirs[1].shape)}",
        )
    priors = [_log_prior(model, examples.classes) for model in (student, teacher)]
    outside = () if black_box is None else _outside(black_box, teacher, examples, found, outside_examples)
    superfeatures = tuple(
        _measure(found, m, examples.labels, ours[1][:, m], theirs[1][:, m], priors, paid or {}, outside)
        for m in range(len(found))
    )
    if isinstance(shown, int):
        chosen = torch.linspace(0, len(examples) - 1, min(shown, len(examples))).long().tolist()
    else:
        chosen = list(shown)
    return Explanations(
        name=name or examples.name,
        class_names=examples.class_names,
        superfeatures=superfeatures,
        examples=tuple(_example(examples, place, ours, theirs[1], priors) for place in dict.fromkeys(chosen)),
        measured_on=len(examples),
        prior=tuple(priors[0].exp().tolist()),
        paid_unit=paid_unit if paid else "",
        outside_method="captum's Shapley values of the black box" if outside else "",
        interaction=interaction,
        notes=found.notes,
    )


def _log_prior(model: nn.Module, classes: int) -> Tensor:
    kept = getattr(model, "log_prior", None)
    return torch.full((classes,), 1 / classes).double().log() if kept is None else kept.double()


def _measure(
    found: Superfeatures,
    m: int,
    labels: Int[Tensor, "examples"],
    ours: Float[Tensor, "examples classes"],
    theirs: Float[Tensor, "examples classes"],
    priors: Sequence[Tensor],
    paid: Mapping[str, Effect],
    outside: Sequence[float | None],
) -> Superfeature:
    def information(outputs: Tensor, prior: Tensor) -> float:
        return float((outputs.exp() * (outputs - prior)).sum(1).mean())

    def towards_label(outputs: Tensor, prior: Tensor) -> float:
        return float((outputs - prior).gather(1, labels[:, None]).mean())

    classes = ours.shape[1]
    tops = [outputs.argmax(dim=1) for outputs in (ours, theirs)]
    shares = [top.bincount(minlength=classes).double() / len(top) for top in tops]
    effect = paid.get(found.names[m])
    return Superfeature(
        name=found.names[m],
        members=found.members(m),
        features=len(found.groups[m]),
        teacher_information_nats=information(theirs, priors[1]),
        student_information_nats=information(ours, priors[0]),
        teacher_evidence_nats=towards_label(theirs, priors[1]),
        student_evidence_nats=towards_label(ours, priors[0]),
        agreement=float((tops[0] == tops[1]).double().mean()),
        agreement_by_chance=float((shares[0] * shares[1]).sum()),
        divergence_nats=float((theirs.exp() * (theirs - ours)).sum(1).mean()),
        teacher_spectrum=spectrum(TeacherSignal(theirs, labels)),
        student_spectrum=spectrum(TeacherSignal(ours, labels)),
        paid=None if effect is None else effect.gain,
        paid_interval=None if effect is None else Interval(effect.interval.low, effect.interval.high),
        paid_verdict="" if effect is None else effect.verdict,
        outside_correlation=outside[m] if outside else None,
    )


def _example(
    examples: Examples, place: int, ours: tuple[Tensor, Tensor], theirs: Tensor, priors: Sequence[Tensor]
) -> ExampleExplanation:
    logits, outputs = ours[0][place], ours[1][place]
    first, second = logits.topk(2).indices.tolist()

    def odds(values: Tensor) -> Tensor:
        return values[..., first] - values[..., second]

    return ExampleExplanation(
        example=examples.ids[place],
        label=examples.class_names[int(examples.labels[place])],
        predicted=examples.class_names[first],
        next_class=examples.class_names[second],
        log_odds_nats=float(odds(logits)),
        prior_nats=float(odds(priors[0])),
        student_nats=tuple(odds(evidence(outputs, priors[0])).tolist()),
        teacher_nats=tuple(odds(evidence(theirs[place], priors[1])).tolist()),
    )


def group_attributions(
    model: nn.Module,
    inputs: Float[Tensor, "examples *features"],
    found: Superfeatures,
    named: Int[Tensor, "examples"],
    *,
    baseline: Float[Tensor, "*features"] | None = None,
    samples: int = 24,
) -> Float[Tensor, "examples superfeatures"]:
    """captum's Shapley value of each superfeature's columns for the log-odds z_named - mean z of any model.

    What is left out takes the `baseline` (the columns' mean). For an explaining model this is the difference of its evidence
    between input and baseline, exactly and whatever the permutations, as its log-odds are a sum over superfeatures.
    """
    from_captum = captum_attributions()
    flat = inputs.flatten(1)
    without = (flat.mean(dim=0) if baseline is None else baseline.flatten())[None]
    mask = torch.empty(1, flat.shape[1], dtype=torch.long)
    for number, group in enumerate(found.groups):
        mask[0, list(group)] = number

    def scores_of(x: Tensor, who: Tensor) -> Tensor:
        return quantity_of(logits_of(call(model, x.reshape(-1, *inputs.shape[1:]))), who, "log-odds")

    with eval_mode(model), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        given = from_captum.ShapleyValueSampling(scores_of).attribute(
            flat, without, additional_forward_args=(named,), feature_mask=mask, n_samples=samples
        )
    return cast(Tensor, given)[:, [group[0] for group in found.groups]]  # the same in all columns of a group


def _outside(
    black_box: nn.Module, teacher: nn.Module, examples: Examples, found: Superfeatures, count: int
) -> tuple[float | None, ...]:
    """The correlation over examples of the black box's Shapley values and the explaining teacher's evidence."""
    places = torch.linspace(0, len(examples) - 1, min(count, len(examples))).long()
    inputs = examples.inputs[places]
    with eval_mode(black_box):
        named = logits_of(call(black_box, inputs)).argmax(dim=1)
    baseline = examples.inputs.mean(dim=0)
    theirs = group_attributions(black_box, inputs, found, named, baseline=baseline).double()
    outputs = outputs_of(teacher, inputs)[1]
    apart = outputs.gather(2, named[:, None, None].expand(-1, len(found), 1)).squeeze(2) - outputs.mean(dim=2)
    found_values: list[float | None] = []
    for m in range(len(found)):
        pair = torch.stack([theirs[:, m], apart[:, m]])
        varies = bool((pair.std(dim=1) > 0).all())
        found_values.append(float(torch.corrcoef(pair)[0, 1]) if varies else None)
    return tuple(found_values)


def save_table(record: Explanations, path: Path | str) -> Path:
    """Write one row an example and superfeature as CSV, whole or not at all.

    Args:
        record: What `explain` gave.
        path: The file.

    Returns:
        Its path.

    Example:
        import torch
        from fractionate.diagnosis import explain, save_table
        from fractionate.models import explaining_mlp
        from fractionate.records import Superfeatures

        found = Superfeatures(groups=((0, 1), (2, 3)), features=4, names=("a", "b"))
        model = explaining_mlp(found, classes=3, width=4)
        save_table(explain(model, model, (torch.randn(30, 4), torch.arange(30) % 3), found), "explained.csv")
    """
    return write_file(path, csv_text(HEAD, record.rows()).encode())
