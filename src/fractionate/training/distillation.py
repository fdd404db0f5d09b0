"""distill(): the one training loop. A run without a teacher is the same loop on the labels alone.

The order of the data is a function of (seed, epoch) and the draws within the model of (seed, step), so a run that is killed and
started again resumes bit for bit, on one process or many. Losses come one per row or example; only here are they reduced: the
weighted mean over all valid rows of a step, however the step is cut into micro-batches and processes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from numbers import Integral
from pathlib import Path
from typing import Any, get_args

from jaxtyping import Bool, Float
from torch import Tensor, nn

from fractionate.data.parts import weighted
from fractionate.data.splits import as_split
from fractionate.errors import ConfigError
from fractionate.losses.objective import Objective
from fractionate.losses.terms.base import TermSpec
from fractionate.losses.terms.plain import CallableTerm
from fractionate.models.outputs import Head, device_of
from fractionate.models.placing import check_ready
from fractionate.models.weights import check_saveable
from fractionate.records import Run, Training
from fractionate.system.paths import as_path
from fractionate.system.progress import Show
from fractionate.tasks.kind import Kind
from fractionate.tasks.task import Task
from fractionate.teachers.given import as_source
from fractionate.teachers.source import TeacherSource
from fractionate.training.distributed import Parallel, join
from fractionate.training.interrupt import stop_notice
from fractionate.training.recipe import Recipe
from fractionate.training.recompute import recomputed
from fractionate.training.run_folder import Folder
from fractionate.training.step import check_labelled
from fractionate.training.student import check_gradients, make_student, transform_split
from fractionate.training.tracking import Observer, Tracker
from fractionate.training.trainer import Session

PLAIN = Training()
COMPILE_MODES = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")


def distill(
    student: nn.Module | Task,
    data: Any = None,
    teacher: Any = None,
    *,
    recipe: Recipe | None = None,
    objective: Objective | None = None,
    training: Training | None = None,
    terms: Sequence[TermSpec | str | Callable[..., Tensor]] = (),
    validation: Any = None,
    test: Any = None,
    validation_signal: Any = None,
    test_signal: Any = None,
    weights: Float[Tensor, "examples"] | None = None,
    labelled: Bool[Tensor, "examples"] | None = None,
    head: Head = None,
    teacher_head: Head = None,
    predicts_next: bool = False,
    seed: int = 0,
    arm: str = "",
    out: Path | str | None = None,
    save_every_steps: int | None = None,
    save_every_seconds: float = 60.0,
    log_every: int | None = None,
    trackers: Sequence[Tracker] = (),
    show: Show = "auto",
    parallel: Parallel = "copies",
    compile_mode: str | None = None,
    recompute: Sequence[str] = (),
    observer: Observer | None = None,
) -> tuple[nn.Module, Run]:
    """Train a student on labels and, if given, on a teacher. Returns the student and the record of the run.

        distill(student, data, teacher, objective=Objective("kd", 4.0, 0.9))     # a model, trained in place
        distill(task, teacher=teacher, recipe=recipe, seed=1)                    # a fresh student of a task

    Loss of a step = Σ weight · loss / Σ weight over its rows, and likewise over its examples for terms of that unit.

    Args:
        student: A model, which is trained in place, or a `Task`, which makes one and has data and metrics.
        data: Examples, a pair of tensors, a map-style dataset, a loader over one, or a stream (it needs `Training(steps=…)`).
        teacher: A `TeacherSignal`, a store, a model (run in evaluation mode without gradients), a teacher source or a sequence of
            these; None: the labels alone.
        recipe: How the student is trained; `objective`, `training` and `terms` are short for its fields.
        validation, test: Data on which settings are chosen and results measured; `validation_signal`, `test_signal`: the
            teacher's signal on them.
        weights: [examples] the weight of each example.
        labelled: [examples] False where the label is a prediction of the teacher: there the student learns from the teacher alone.
        head, teacher_head: Where the logits are in the output of a model.
        predicts_next: For causal language models: the logits at a token predict the next label.
        out: A folder for checkpoints, `metrics.jsonl`, `run.json` and `student.safetensors`. The same call resumes an
            interrupted run, with bitwise the same result; a finished run is read back. SIGTERM and Ctrl-C save before they stop.
        arm: The name of the variant in the record.
        save_every_steps, save_every_seconds, log_every: How often a checkpoint and a row of metrics are written.
        trackers: They log each row of metrics.
        show: Progress and loss contract on the terminal, or "nothing".
        parallel: Under torchrun, whether processes hold copies (DDP) or shards (FSDP2) of the student.
        compile_mode: Run the student through `torch.compile` in this mode.
        recompute: Paths of modules, with `*`, whose activations are recomputed in the backward pass.
        observer: Measures the student along its training (studies).

    Returns:
        The trained student, and its `Run`: scores, loss contract, settings, versions.

    Raises:
        MismatchError: where student, teacher, data, terms or folder do not fit together.
        ConfigError: for settings that cannot be combined.
        ResourceError: where a step cannot fit into memory.
        NumericsError: for a loss or gradient that is not finite, naming examples, before the weights are touched.
        StoppedError: after a signal.

    Example:
        import torch
        from torch import nn
        from fractionate import Objective, distill
        from fractionate.records import Training

        data, teacher = (torch.randn(40, 8), torch.arange(40) % 4), nn.Linear(8, 4)
        objective = Objective("kd", temperature=2.0, teacher_weight=0.9)
        student, run = distill(nn.Linear(8, 4), data, teacher, objective=objective, training=Training(steps=5))
    """
    check_gradients()
    _check_call(
        seed, show, parallel, compile_mode, terms, {"save_every_steps": save_every_steps, "log_every": log_every}
    )
    if not isinstance(student, Task):
        check_ready(student)
    source = as_source(teacher)
    short = {"objective": objective, "training": training, "terms": tuple(terms) or None}
    recipe = _recipe(recipe, short, source)
    if isinstance(student, Task):
        task = _whole_task(student, data, (validation, test, weights, labelled, head, teacher_head))
        model, split = make_student(task, recipe, source, seed), task.splits.transfer
    else:
        kind: Kind | str = "language-modelling" if predicts_next else "classification"
        split = as_split(data, training=recipe.training)
        task = Task(
            kind,
            transfer=split,
            validation=None if validation is None else as_split(validation, "validation data"),
            test=None if test is None else as_split(test, "test data"),
            head=head,
            teacher_head=teacher_head,
            device=str(device_of(student)),
        )
        model = make_student(task, recipe, source, seed, given=student)
    if out is not None:
        check_saveable(model)
    split = transform_split(task, split, recipe, source, model, seed)
    if weights is not None or labelled is not None:
        split = weighted(split, weights, labelled)
    _check(task, recipe, labelled=labelled, kept=out is not None)
    steps = recipe.training.steps_for(len(split))
    with ExitStack() as stack:
        session = Session(
            task=task,
            recipe=recipe,
            student=model,
            split=split,
            source=source,
            seed=seed,
            arm=arm or ("hard" if recipe.objective is None else recipe.objective.describe().cell),
            steps=steps,
            folder=None if out is None else Folder(as_path(out, "out")),
            save_every_steps=save_every_steps,
            save_every_seconds=save_every_seconds,
            log_every=log_every or max(1, steps // 100),
            held_out=_held_out(validation=validation_signal, test=test_signal),
            trackers=tuple(trackers),
            show=show,
            compile_mode=compile_mode,
            recompute=tuple(recompute),
            observer=observer,
            notice=stack.enter_context(stop_notice(active=out is not None)),
            world=stack.enter_context(join(parallel)),
        )
        stack.enter_context(recomputed(model, session.recompute))
        return session.run()


def _recipe(recipe: Recipe | None, short: dict[str, Any], source: TeacherSource | None) -> Recipe:
    """The recipe of a call: given, or made of its fields."""
    if recipe is not None and not isinstance(recipe, Recipe):
        raise ConfigError("recipe= is no recipe", expected="Recipe(...)", got=repr(recipe)[:80])
    given = {name: value for name, value in short.items() if value is not None}
    if recipe is not None and given:
        raise ConfigError(
            f"recipe= and {', '.join(given)}= cannot be combined",
            expected="one of them",
            fix="put them into the recipe: dataclasses.replace(recipe, ...)",
        )
    if recipe is None:
        given["terms"] = tuple(_as_spec(term) for term in given.get("terms", ()))
        recipe = Recipe(**given)
        if recipe.objective is None and source is not None and not any(spec.reads_teacher for spec in recipe.specs):
            recipe = replace(recipe, objective=Objective())
    if recipe.needs_teacher and source is None:
        parts: list[Any] = [*recipe.specs, *recipe.preparation_specs, *recipe.transform_specs]
        what = "an objective" if recipe.objective is not None else repr(next(p for p in parts if p.reads_teacher))
        raise ConfigError(f"{what} needs a teacher", fix="pass teacher=, or leave it out of the recipe")
    return recipe


def _as_spec(term: Any) -> TermSpec | str:
    if isinstance(term, (str, TermSpec)):
        return term
    return CallableTerm(term)


def _whole_task(task: Task, data: Any, others: tuple[Any, ...]) -> Task:
    if data is not None or any(other is not None for other in others):
        raise ConfigError(
            "a task brings its own data",
            expected="distill(task, teacher=..., recipe=...)",
            got="data, validation, test, weights, labelled or head next to a task",
            fix="put them into the task",
        )
    return task


def _held_out(**signals: Any) -> dict[str, TeacherSource]:
    found = {name: as_source(signal) for name, signal in signals.items()}
    return {name: source for name, source in found.items() if source is not None}


def _check_call(
    seed: int, show: Show, parallel: Parallel, compile_mode: str | None, terms: object, counts: Mapping[str, int | None]
) -> None:
    """Raise `ConfigError` for settings of a call that mean nothing."""
    wrong: list[tuple[str, str, object]] = []
    if not isinstance(seed, Integral) or isinstance(seed, bool):
        wrong.append(("seed", "a whole number", seed))
    for name, value, known in (
        ("show", show, get_args(Show)),
        ("parallel", parallel, get_args(Parallel)),
        ("compile_mode", compile_mode, (None, *COMPILE_MODES)),
    ):
        if value not in known:
            wrong.append((name, f"one of {', '.join(map(str, known))}", value))
    for name, count in counts.items():
        if count is not None and (not isinstance(count, Integral) or count < 1):
            wrong.append((name, "a count of steps from 1, or None", count))
    if isinstance(terms, str):
        wrong.append(("terms", f"a list: terms=[{terms!r}]", terms))
    for name, expected, got in wrong:
        raise ConfigError(f"invalid value for {name}", expected=expected, got=repr(got))


def _check(task: Task, recipe: Recipe, *, labelled: Tensor | None, kept: bool) -> None:
    """Raise `ConfigError` for settings that cannot be combined, before anything is trained."""
    training = recipe.training
    if labelled is not None:
        check_labelled(recipe.objective)
    if task.validation is None and (training.patience is not None or training.keep == "best"):
        raise ConfigError(
            "the best weights are found on validation data",
            expected="validation= with keep='best' or patience",
            got="none",
            fix="pass validation=, or leave keep and patience out",
        )
    if recipe.objective is not None and not task.reader.distributions:
        raise ConfigError(
            f"rows of {type(task.kind).__name__} are not distributions: cells and objectives do not apply",
            fix="leave objective out, and learn from the teacher by a term: "
            + (", ".join(f"terms=({term!r},)" for term in task.reader.teacher_terms) or "terms=(...)"),
        )
    if training.loss_from == "hidden" and not task.reader.output_rows:
        raise ConfigError(
            f"loss_from='hidden' and the task {type(task.kind).__name__} cannot be combined",
            expected="a task whose logits are those of the output layer",
            fix="leave loss_from out",
        )
    plain = [spec for spec in recipe.specs if isinstance(spec, CallableTerm)]
    if plain and kept:
        raise ConfigError(
            "a plain function as a term has no identity: a resumed run could not tell it from another",
            expected="terms by name or as registered specs, with out=",
            got=", ".join(map(repr, plain)),
            fix="write the term as a frozen dataclass (docs/reference/distill.md), or leave out= out",
        )
