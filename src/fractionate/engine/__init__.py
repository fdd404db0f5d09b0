"""distill(): the one training loop. A run without a teacher is the same loop on the labels alone.

The order of the data is a function of (seed, epoch) and the draws within the model of (seed, step), so a run that is killed and
started again goes on bit for bit, on one process or several. Losses come one an example; only here are they reduced: the
weighted mean over all valid examples (or tokens) of a step, however the step is cut into pieces and processes.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from jaxtyping import Bool, Float
from torch import Tensor, nn

from fractionate.data.splits import as_split
from fractionate.engine.council import as_signal, as_teacher
from fractionate.engine.interrupt import stop_notice
from fractionate.engine.progress import Show
from fractionate.engine.recompute import recomputed
from fractionate.engine.session import HeldOut, Session
from fractionate.engine.step import Term, check_labelled
from fractionate.engine.tracking import Tracker
from fractionate.engine.world import Parallel, join
from fractionate.errors import ConfigError
from fractionate.folder import Folder
from fractionate.objective import Objective
from fractionate.outputs import Head, device_of
from fractionate.records import Run, Training
from fractionate.teacher import TeacherSignal

PLAIN = Training()


def distill(
    student: nn.Module,
    data: Any,
    signal: TeacherSignal | nn.Module | Any | None = None,
    *,
    objective: Objective | None = None,
    training: Training = PLAIN,
    validation: Any | None = None,
    test: Any | None = None,
    validation_signal: TeacherSignal | Any | None = None,
    test_signal: TeacherSignal | Any | None = None,
    seed: int = 0,
    arm: str = "",
    out: Path | str | None = None,
    weights: Float[Tensor, "examples"] | None = None,
    labelled: Bool[Tensor, "examples"] | None = None,
    terms: Sequence[Term] = (),
    head: Head = None,
    teacher_head: Head = None,
    predicts_next: bool = False,
    save_every_steps: int | None = None,
    save_every_seconds: float = 60.0,
    log_every: int | None = None,
    trackers: Sequence[Tracker] = (),
    show: Show = "auto",
    parallel: Parallel = "copies",
    compile_mode: str | None = None,
    recompute: Sequence[str] = (),
) -> tuple[nn.Module, Run]:
    """Train a student on labels and, where given, on a teacher; in place, returned with the record of the run.

    - `data`: `Examples`, a pair of tensors, a map-style dataset, a loader over one, or a stream (an iterable,
      read in its order; it needs `Training(steps=…)`). `weights` counts examples for more or less; `labelled` is False where
      the label is only the teacher's guess: there the teacher alone is learned from, whatever its weight elsewhere.
    - `signal`: a `TeacherSignal` in the order of the data, a store, a model (asked in evaluation mode and without a graph; its
      weights are hashed before and after), or None for the labels alone. Several teachers: `council.mix`.
    - `objective`: what is learned from the teacher; `terms` are added to it.
    - `out`: a folder for checkpoints, `metrics.jsonl`, `run.json` and `student.safetensors`. The same call goes on where a
      killed one stopped, bit for bit; a finished run is read back. SIGTERM and Ctrl-C save before they stop.
    - `head`, `teacher_head`: where the logits are in what a model gives; `predicts_next` for causal language models.
    - `parallel`: under torchrun or `accelerate launch`, whether processes hold copies (DDP) or shards (FSDP2) of the student;
      a sharded one stays so, its whole weights are in `out`.
    - `compile_mode`: run the student through `torch.compile` in this mode (measured in bench/engine.py: small steps gain little).
    - `recompute`: paths of modules, with `*`, whose activations are computed again in the backward pass rather than kept.

    Loss of a step = Σ weight · loss / Σ weight over its valid examples or tokens.

    Raises `MismatchError` where student, teacher and data do not belong together, `ConfigError` for settings that cannot be
    meant, `ResourceError` where a step cannot fit into memory, `NumericsError`, naming examples and before the weights are
    touched, for a loss or gradient that is not finite, and `StoppedError` after a signal.
    """
    feed = as_split(data, training=training)
    if objective is not None and signal is None:
        raise ConfigError("an objective needs a teacher", fix="pass signal=, or leave the objective out")
    if signal is not None and objective is None:
        objective = Objective()
    if labelled is not None:
        check_labelled(labelled, feed, objective)
    if validation is None and (training.patience is not None or training.keep == "best"):
        raise ConfigError(
            "the best weights are found on validation data",
            expected="validation= beside keep='best' or patience",
            got="none",
            fix="pass validation=, or leave keep and patience out",
        )
    teacher = as_teacher(
        signal, feed, objective, device=device_of(student), head=teacher_head, predicts_next=predicts_next
    )
    with ExitStack() as stack:
        session = Session(
            student=student,
            feed=feed,
            teacher=teacher,
            teacher_model=signal if isinstance(signal, nn.Module) else None,
            objective=objective,
            training=training,
            seed=seed,
            arm=arm or ("hard" if objective is None else objective.describe().cell),
            steps=training.steps_for(len(feed)),
            weights=None if weights is None else weights.to(device_of(student)),
            labelled=labelled,
            terms=tuple(terms),
            head=head,
            predicts_next=predicts_next,
            folder=None if out is None else Folder(Path(out)),
            save_every_steps=save_every_steps,
            save_every_seconds=save_every_seconds,
            log_every=log_every or max(1, training.steps_for(len(feed)) // 100),
            validation=_held_out(validation, validation_signal, "validation data"),
            test=_held_out(test, test_signal, "test data"),
            trackers=tuple(trackers),
            show=show,
            compile_mode=compile_mode,
            recompute=tuple(recompute),
            notice=stack.enter_context(stop_notice(active=out is not None)),
            world=stack.enter_context(join(parallel)),
        )
        stack.enter_context(recomputed(student, session.recompute))
        return session.run()


def _held_out(data: Any, signal: Any, name: str) -> HeldOut:
    if data is None:
        return None
    feed = as_split(data, name)
    return feed, as_signal(signal, feed)
