"""`init`: a commented run file fitted to files. The task by their columns, parts, lengths, models and training by their size."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import quantiles
from typing import Any

from fractionate.data.dividing import PARTS
from fractionate.errors import ConfigError, printable
from fractionate.models.function import FileTeacher
from fractionate.models.hub import HubModel
from fractionate.models.names import find_model
from fractionate.models.teacher_files import read_estimator
from fractionate.run.columns_of import cells_of
from fractionate.run.findings_of import Inspection, inspect_source
from fractionate.run.task_of import find_source

PLACEHOLDER = "hf('models/teacher')"
TOKENS_A_WORD = 1.5  # of English in subwords, generously
COUNTED = 2000  # texts whose tokens are counted
LONGEST = 512
EPOCHS, LEAST_STEPS, STEPS = 3, 60, 100  # of a teacher's training; the most steps of it without a GPU
STUDENT_STEPS = 300  # of a student with a library's layers, likewise
HEADS = {"classification": "ForSequenceClassification", "token-classification": "ForTokenClassification"}


@dataclass(frozen=True)
class Fitted:
    """A run file for some data.

    Args:
        text: The run file.
        inspection: What was found in the data.
        notes: What is left to do, a line each.
    """

    text: str
    inspection: Inspection
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Models:
    """The models of a run file: their names, whether the teacher is trained here, and what a person has to decide."""

    teacher: str
    student: str
    trained_here: bool
    train: str = ""
    why: str = ""  # of the length of its training
    notes: tuple[str, ...] = ()


def fit_run_file(
    task: str | None,
    files: Sequence[Path | str],
    *,
    teacher: str | None = None,
    student: str | None = None,
    label: str | None = None,
) -> Fitted:
    """A run file fitted to files.

    Args:
        task: The kind of task; None: as the files tell.
        files: As `find_source` takes them.
        teacher: A model by name; None: a small network trained here, where there is one for the task.
        student: A model by name; None: a smaller one of the teacher's kind.
        label: The column to predict; None: the one that an estimator was not fitted on, else as the columns tell.

    Raises:
        ConfigError: for data that do not show what they are for, and models that are not there.
    """
    inspection = inspect_source(find_source(task, files, label or _left_out(teacher, files)))
    models = _models(inspection, teacher, student)
    source = inspection.source
    if source.reader == "table" and teacher is not None and isinstance(find_model(teacher).maker, FileTeacher):
        reads = "the teacher reads the cells as they stand in the file (raw=True), the student standardised numbers"
        source = replace(source, settings=source.settings | {"raw": True})
        inspection = replace(inspection, source=source, facts=(*inspection.facts, reads))
    length, cut = _length(inspection, models)
    return Fitted(_text(inspection, models, length), inspection, (*models.notes, *cut))


def _left_out(teacher: str | None, files: Sequence[Path | str]) -> str | None:
    """The one column of a file that an estimator was not fitted on, where it knows its columns by name."""
    maker = None if teacher is None else find_model(teacher).maker
    if (
        not isinstance(maker, FileTeacher)
        or not maker.file.endswith(".skops")
        or len(files) != 1
        or Path(files[0]).is_dir()
    ):
        return None
    names = getattr(read_estimator(Path(maker.file).expanduser()), "feature_names_in_", ())
    left = [name for name in cells_of(files[0]) if name not in set(map(str, names))]
    return left[0] if len(left) == 1 else None


def _models(inspection: Inspection, teacher: str | None, student: str | None) -> Models:
    source = inspection.source
    own = {
        "table": ("mlp(64, 64)", "mlp(8)"),
        "pictures": ("cnn(32, 64)", "cnn(8, 16)"),
        "texts": ("bag()", "bag(12000, 16, 16)"),
    }
    pairs = "second" in source.settings  # hashed words take one text
    if teacher is None and source.reader in own and not pairs and (student is None or not student.startswith("hf(")):
        return Models(own[source.reader][0], student or own[source.reader][1], trained_here=True)
    if teacher is None:
        note = f"teacher.model: write the folder of your teacher in place of {PLACEHOLDER}"
        return Models(PLACEHOLDER, student or _smaller(PLACEHOLDER), trained_here=False, notes=(note,))
    named = find_model(teacher)
    chosen = student or (_smaller(teacher) if teacher.startswith("hf(") else own.get(source.reader, ("", teacher))[1])
    if not named.trained:
        return Models(teacher, chosen, trained_here=True)
    if isinstance(named.maker, HubModel) and source.task in HEADS:
        written = getattr(named.maker.config, "architectures", None) or ()
        if not any(name.endswith(HEADS[source.task]) for name in written):
            note = f"{teacher} has no head for {source.task}: this run trains it first"
            train, why = _teacher_training(inspection)
            return Models(teacher, chosen, trained_here=True, train=train, why=why, notes=(note,))
    return Models(teacher, chosen, trained_here=False)


def _teacher_training(inspection: Inspection) -> tuple[str, str]:
    """How a checkpoint without a head is trained, as a run file writes it, and why so long: by its data and the machine."""
    left = max(1, round(0.3 * inspection.examples))  # what the other parts leave
    wanted = max(LEAST_STEPS, round(EPOCHS * left / 32))
    steps = wanted if has_gpu() else min(wanted, STEPS)
    why = f"{steps * 32 / left:.1f} epochs" + (
        f"; no GPU is seen here: with one take {wanted}" if steps < wanted else ""
    )
    return f"{{steps: {steps}, batch_size: 32, learning_rate: {5e-5 if steps > STEPS else 1e-4:g}}}", why


def has_gpu() -> bool:
    """Whether this machine has a GPU that torch sees."""
    import torch

    return torch.cuda.is_available()


def _smaller(teacher: str) -> str:
    """The same architecture and tokenizer with two layers."""
    return f"{teacher.removesuffix(')')}, layers=2)"


def _length(inspection: Inspection, models: Models) -> tuple[int | None, tuple[str, ...]]:
    """The most tokens of an input: what 99 of 100 examples need, counted by the teacher's tokenizer where it is there."""
    if not inspection.texts or models.teacher.startswith("bag("):
        return None, ()
    texts = inspection.texts[:: max(1, len(inspection.texts) // COUNTED)]
    by = None if models.teacher == PLACEHOLDER else find_model(models.teacher).tokenizing(1)
    if by is None:
        sizes = [round(TOKENS_A_WORD * len(text.split())) + 2 for text in texts]
    else:
        sizes = [len(row) + 1 for row in by.tokenizer(list(texts), verbose=False)["input_ids"]]
    most = quantiles(sizes, n=100)[-1] if len(sizes) > 1 else sizes[0]
    length = min(LONGEST, max(16, -(-int(most) // 8) * 8))
    long = sum(size > length for size in sizes)
    return length, (
        f"about {long / len(sizes):.1%} of the examples are longer than {length} tokens, and are cut",
    ) if long else ()


def _text(inspection: Inspection, models: Models, length: int | None) -> str:
    source = inspection.source
    name = re.sub(r"[^\w.-]+", "-", Path(source.path[0]).resolve().stem) or "run"
    task = "text-classification" if source.reader == "texts" and source.task == "classification" else source.task
    big = models.student.startswith("hf(")
    lines = [
        f"# Written by fractionate init for {printable(', '.join(source.path), 200)}. Every setting: fractionate config explain",
        "#",
        *(f"# {printable(fact, 200)}" for fact in inspection.facts),
        *(f"# check: {printable(note, 300)}" for note in (*inspection.odd, *models.notes)),
        "",
        f"name: {json.dumps(name, ensure_ascii=False)}",
        f"out: {json.dumps(f'runs/{name}', ensure_ascii=False)}  # all output; the same command resumes",
        f"task: {task}",
        "data:",
        f"  source: {json.dumps(str(source), ensure_ascii=False)}",
        *_sizes(inspection, models),
    ]
    if length is not None:
        lines.append(f"  length: {length}  # the most tokens of an input")
    train = f", train: {models.train}" if models.train else ""
    here = "trained by this run on the labels" if models.trained_here else "used as it is"
    here += f": {models.why}" if models.why else ""
    lines += [
        f"teacher: {{model: {json.dumps(models.teacher, ensure_ascii=False)}{train}}}  # {here}",
        f"student: {{model: {json.dumps(models.student, ensure_ascii=False)}}}",
    ]
    if source.task in ("language-modelling", "translation"):
        lines.append(
            "collect: {form: top-k, k: 32, temperatures: [1.0, 4.0]}  # the 32 most likely tokens, and the probability of the rest"
        )
    rate, epochs, batch = (5e-4, 10, 16) if big else (5e-3, 20, 32)
    batch = min(batch, max(2, inspection.examples // 10))
    length_of_training = f"epochs: {epochs}"
    if big and not has_gpu() and epochs * 0.3 * inspection.examples / batch > STUDENT_STEPS:
        length_of_training = f"steps: {STUDENT_STEPS}"
    study = "study: {seeds: 5}  # more seeds detect smaller effects"
    if big:  # each student takes minutes: few of them, and none for a pilot
        study = (
            "study: {cells: [hard, kd], seeds: 3}  # more seeds detect smaller effects; more cells show which part pays"
        )
        lines.append("diagnosis: {pilot: 0}  # 50: try recipes first, in at most 50 trainings")
    lines += [
        f"training: {{{length_of_training}, batch_size: {batch}, learning_rate: {rate}}}",
        study,
        "",
        "# Without an objective, the recipe that diagnose recommends is used and compared with no teacher.",
        "# next: fractionate report RUN.yaml, or one by one: collect, diagnose, dissect, distill",
    ]
    return "\n".join(lines) + "\n"


def _sizes(inspection: Inspection, models: Models) -> list[str]:
    """Lines for the sizes of the parts: what the data divide themselves is left as it is."""
    settings: dict[str, Any] = inspection.source.settings
    named = {*settings, *inspection.source.given} & {"validation", "test"}
    if "part" in settings:
        cells = {str(cell).strip().lower() for cell in inspection.source.cells[settings["part"]] if cell is not None}
        named = {PARTS[cell] for cell in cells} & {"validation", "test"}
    transfer = (0.5 if named else 0.3) if models.trained_here else (None if named else 0.6)
    rest = "; the rest trains the teacher" if models.trained_here else ""
    lines = [] if transfer is None else [f"  transfer: {transfer}  # the student is trained on these{rest}"]
    for part, what in (("validation", "settings are chosen on these"), ("test", "read once, for the report")):
        lines += [] if part in named else [f"  {part}: 0.2  # {what}"]
    return lines


def refuse_existing(path: Path) -> None:
    """Raise `ConfigError` where a run file would be written over another file."""
    if path.exists():
        raise ConfigError(
            f"{printable(str(path), 200)} is there already", fix="name another: --out other.yaml; or print it: --out -"
        )
