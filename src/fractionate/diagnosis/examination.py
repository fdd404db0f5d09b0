"""What is wrong with this teacher for this student, and which recipe to use: from one pass, before any training.

Probes measure, judges decide, a finding names cause, evidence and fix; the recipe follows from spectrum and findings.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fractionate.data.labels import superclass_names
from fractionate.diagnosis.case import Case, examine, probes
from fractionate.diagnosis.causes import trace_back
from fractionate.diagnosis.class_correlation import class_correlations
from fractionate.diagnosis.given import as_signal, form_of, label_map, of_tokens, opened, source_of
from fractionate.diagnosis.given import predicts_next as next_tokens
from fractionate.diagnosis.knowledge import knowledge
from fractionate.diagnosis.number_diagnosis import diagnose_numbers
from fractionate.diagnosis.predicted_gain import Known, predict_gain
from fractionate.diagnosis.reading import CHUNK_ELEMENTS
from fractionate.diagnosis.recipe import Piloting, check_pilot, entries_worth_storing, recommend, worth_a_pilot
from fractionate.diagnosis.student_fit import student_fit
from fractionate.diagnosis.transfer import check_transfer, first_gradients, read_transfer, task_of
from fractionate.errors import ConfigError, MismatchError
from fractionate.losses.objective import Objective, Signal, needs_whole, rescaling
from fractionate.models.outputs import Head
from fractionate.records import Diagnosis, Histogram, Matrix
from fractionate.store.reading import Store
from fractionate.tasks.task import Task
from fractionate.theory.number_signal import NumberSignal
from fractionate.theory.spectrum import spectrum
from fractionate.theory.teacher_signal import Population, TeacherSignal
from fractionate.theory.topk_signal import CompactSignal, row_logits

TEMPERATURES = (1.0, 2.0, 4.0, 8.0)
MOST_CLASSES_SHOWN = 200  # a larger class relation is no picture


def diagnose(
    signal: Signal | Any,
    student: nn.Module | Callable[[], nn.Module] | None = None,
    *,
    name: str = "teacher",
    class_names: Sequence[str] = (),
    data: Any = None,
    held_out: TeacherSignal | Any = None,
    second_view: TeacherSignal | Any = None,
    second_pass: TeacherSignal | Any = None,
    objective: Objective | None = None,
    expected_accuracy: float | None = None,
    head: Head = None,
    predicts_next: bool = False,
    temperatures: Sequence[float] = TEMPERATURES,
    only: Sequence[str] = (),
    labels: Path | str | None = None,
    pilot: Piloting | None = None,
    superclasses: Sequence[str] = (),
) -> Diagnosis:
    """Spectrum, findings and recipe of a teacher's signal (or store), without training anything but a pilot's students.

    Everything but the signal is optional, and each makes more probes run; the others are reported as skipped.

    Args:
        signal: A `TeacherSignal`, a `CompactSignal`, a store, its path, rows of tokens (`StoredTokens`, a store of tokens), a
            teacher that is run on the data, or a file of raw outputs (.npy, .npz, .safetensors, .parquet). Compact rows are read
            as they are, and so is a compact store that would take more than 1 GiB with all its classes.
        student: A module or a function that makes one; needs `data`. `head` is where its logits are.
        name, class_names: What the record calls the teacher and the classes.
        data: Whatever `distill` takes, in the order of the signal; of a `Task` its transfer set, and its student where none is
            given.
        held_out: The teacher's signal on data that it was not trained on.
        second_view, second_pass: Its signal on another view of the same examples; on the very same inputs.
        objective: What you plan to train with.
        expected_accuracy: Of the teacher, in 0..1.
        predicts_next: For data of causal language models.
        temperatures: At which the spectrum is taken.
        only: The probes to run, with arguments where wanted: "label-noise(rate=0.1)".
        labels: The file of labels, where raw outputs lie apart from them.
        pilot: Refines the recipe by a small study, `PilotPlan.default(task, training)`; needs `data` and a `student`
            that makes fresh ones. Not run where a fault has to be repaired first.
        superclasses: The group of each class, for the breakdown; names such as noun.animal tell it by themselves.

    Returns:
        A `Diagnosis`: spectra, findings (worst first, with evidence, cause and fix), recipe, predicted gain.

    Raises:
        MismatchError: where the parts do not have the same examples.
        UnknownNameError: for an unknown probe.

    Example:
        import torch
        from fractionate import TeacherSignal, diagnose

        print(diagnose(TeacherSignal(torch.randn(40, 4), torch.arange(40) % 4)).recipe)
    """
    given = signal = opened(signal)
    task = None
    if data is not None:
        ahead = predicts_next or (not isinstance(data, Task) and next_tokens(signal))
        rows = len(signal) if isinstance(signal, (TeacherSignal, CompactSignal, Store)) else None
        task = task_of(data, student, rows=rows, head=head, predicts_next=ahead)
    tokens, stored, maps = of_tokens(signal), form_of(signal), {"teacher": label_map(signal)}
    factory = student is not None or (task is not None and task.student is not None)
    whole = factory or second_view is not None or second_pass is not None
    whole = whole or (objective is not None and needs_whole(objective))
    signal = as_signal(signal, labels=labels, task=task, whole=whole)
    if isinstance(signal, NumberSignal):
        model = student if isinstance(student, nn.Module) or student is None else student()
        others = {"held_out": held_out, "second_view": second_view, "second_pass": second_pass, "objective": objective}
        others |= {"expected_accuracy": expected_accuracy, "labels": labels, "pilot": pilot}
        others |= {"class_names": tuple(class_names) or None, "superclasses": tuple(superclasses) or None}
        return diagnose_numbers(signal, task, model, name=name, only=only, unused=others)
    if isinstance(signal, CompactSignal):
        _check_compact(student=student, second_view=second_view, second_pass=second_pass)
        stored = "top-k" if stored == "dense" else stored
    held_out, second_view, second_pass = (
        None if given is None else as_signal(opened(given), labels=file, known=known, whole=isinstance(signal, TeacherSignal))
        for given, file, known in (
            (held_out, None, None), (second_view, labels, signal.labels), (second_pass, None, None),
        )
    )  # fmt: skip
    _check(signal, second_view, second_pass)
    check_pilot(pilot, student, task)
    module = student if isinstance(student, nn.Module) or student is None else student()
    if module is None and task is not None and task.student is not None and not isinstance(signal, CompactSignal):
        module = task.model()
    transfer = None if task is None else read_transfer(task, module)
    if transfer is not None:
        check_transfer(transfer, signal)
        tokens = tokens or transfer.tokens
    names = tuple(class_names) or (() if task is None else tuple(task.class_names) or task.splits.transfer.class_names)
    if all(name == str(number) for number, name in enumerate(names)):
        names = ()  # counted from the labels that occur: nobody has named the classes
    student_logits = None if transfer is None else transfer.logits
    fits = student_logits is not None and student_logits.shape == signal.logits.shape
    gradients = None
    if objective is not None and fits and module is not None and transfer is not None:
        gradients = first_gradients(module, transfer, signal, objective)
    fit = None if module is None or transfer is None or not fits else student_fit(module, transfer)
    case = Case(
        signal=signal,
        stored=stored,
        class_names=names,
        tokens=tokens,
        objective=objective,
        data=transfer,
        held_out=held_out,
        second_view=second_view,
        second_pass=second_pass,
        expected_accuracy=expected_accuracy,
        student=module is not None,
        fit=fit,
        label_maps=maps | {"student": label_map(module), "data": names},
        gradients=gradients,
    )
    findings = trace_back(tuple(examine(case, probe) for probe in (only or tuple(probes))))
    recipe, piloted = recommend(case, findings), None
    if pilot is not None and task is not None and worth_a_pilot(findings):
        recipe, piloted = pilot(task, source_of(given, signal, transfer), recipe)
        recipe = replace(recipe, stored_entries=entries_worth_storing(signal, recipe.temperature))
    planned = objective or (Objective("hard") if recipe.repair else Objective.from_recipe(recipe))
    at_one = case.spectrum
    shown = sorted({*temperatures, recipe.temperature} if recipe.distil else {*temperatures})
    if isinstance(signal, CompactSignal):
        shown = [t for t in shown if signal.knows(t)]
    terms, class_parts, superclass_parts = knowledge(case, superclasses)
    return Diagnosis(
        name=name,
        spectrum=at_one,
        findings=findings,
        recipe=recipe,
        spectrum_over_temperature=tuple(at_one if t == 1 else spectrum(signal, t) for t in shown),
        class_names=names or tuple(str(c) for c in range(min(signal.classes, MOST_CLASSES_SHOWN))),
        class_relation=class_relation(signal, recipe.temperature),
        class_correlations=class_correlations(signal, list(superclasses) or superclass_names(names, signal.classes)),
        confidence=histogram("confidence in the label", case.reading.confidence, 0.0, 1.0),
        rescaling=_rescaling(case, planned, student_logits if fits else None),
        teacher=case.reading.scores,
        pilot=piloted,
        terms=terms,
        class_parts=class_parts,
        superclass_parts=superclass_parts,
        row="label" if task is not None and task.reader.independent else "token" if tokens else "example",
        predicted=predict_gain(Known.of(case), piloted, tokens=tokens) if recipe.distil else None,
    )


def class_relation(signal: TeacherSignal | CompactSignal, temperature: float) -> Matrix:
    """Off-label class means, one row a class: where the off-label mass lies. Rows sum to 1; absent classes are 0.

    Empty for more than 200 classes, and for compact rows that do not know the temperature.
    """
    if signal.classes > MOST_CLASSES_SHOWN:
        return ()
    if isinstance(signal, CompactSignal) and not signal.knows(temperature):
        return ()
    stats = Population(row_logits(signal.at(temperature)), signal.labels).stats(temperature)
    matrix = torch.zeros(signal.classes, signal.classes, dtype=torch.float64)
    means = stats.class_mean.double().cpu().scatter(1, stats.present.cpu()[:, None], 0.0)
    matrix[stats.present.cpu()] = means / means.sum(1, keepdim=True).clamp_min(1e-300)
    return tuple(tuple(row) for row in matrix.tolist())


def histogram(name: str, values: Tensor, low: float, high: float, bins: int = 40) -> Histogram:
    """Counts of values in equal bins; values outside go to the outermost bins."""
    values = values.double().cpu()
    edges = torch.linspace(low, high, bins + 1, dtype=torch.float64)
    places = ((values - low) / (high - low) * bins).long().clamp(0, bins - 1)
    counts = torch.bincount(places, minlength=bins)
    return Histogram(name, tuple(edges.tolist()), tuple(counts.tolist()), float(values.mean()),
                     float(values.std(correction=0)))  # fmt: skip


def _rescaling(case: Case, objective: Objective, student_logits: Tensor | None) -> Histogram | None:
    signal = case.signal
    if isinstance(signal, CompactSignal) and not signal.estimated:
        return None
    if student_logits is None:
        share = case.reading.counts.double().clamp_min(0.5) / len(case.reading)
        student_logits = share.log().expand(len(signal), -1)
        against = "a student that knows the class shares"
    else:
        against = "the student as it is"
    found, step = [], max(1, CHUNK_ELEMENTS // signal.classes)
    for start in range(0, len(signal), step):
        part = slice(start, start + step)
        some = signal.take(part)
        some = some.dense() if isinstance(some, CompactSignal) else some
        found.append(rescaling(student_logits[part].to(some.logits.device), some, objective))
    values = torch.cat(found)
    low, high = (float(values.quantile(q)) for q in (0.005, 0.995)) if len(values) < 1 << 24 else (0.0, 2.0)
    pad = max(0.05 * (high - low), 1e-3)
    return histogram(f"rescaling against {against}", values, low - pad, high + pad)


def _check_compact(**given: Any) -> None:
    """Raises `ConfigError` for what needs all classes of every row."""
    there = [name for name, value in given.items() if value is not None]
    if there:
        raise ConfigError(
            f"compact rows are diagnosed without {' and '.join(there)}, which need all classes of every row",
            expected="the signal, and data, held_out or objective with it", got=", ".join(there),
            fix="leave it out, or pass signal.dense() of fewer rows",
        )  # fmt: skip


def _check(signal: Signal, *others: Signal | None) -> None:
    for other in others:
        if other is not None and other.logits.shape != signal.logits.shape:
            raise MismatchError(
                "two signals of the same examples differ in shape",
                expected=str(list(signal.logits.shape)), got=str(list(other.logits.shape)),
            )  # fmt: skip
