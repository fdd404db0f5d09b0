"""distill(): the one training loop. A run without a teacher is the same loop on the labels alone.

The order of the data is a function of (seed, epoch) and the draws within the model of (seed, step), so a run that is killed and
started again goes on bit for bit, on one process or several. Losses come one an example; only here are they reduced: the
weighted mean over all valid examples (or tokens) of a step, however the step is cut into pieces and processes.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import torch
import xxhash
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from fractionate.checkpoint import latest_checkpoint, random_state, restore_random_state, save_checkpoint
from fractionate.engine.cost import measure_cost
from fractionate.engine.council import Recorded, Teacher, as_signal, as_teacher, no_better_than_chance
from fractionate.engine.evaluation import evaluate
from fractionate.engine.feed import Feed, as_feed
from fractionate.engine.interrupt import Notice, stop_notice
from fractionate.engine.plan import Portion, portions
from fractionate.engine.progress import Progress, Show
from fractionate.engine.standing import Parts, Standing, asked_for, history, versions
from fractionate.engine.step import Stepper, Taken, Term, seed_run, seed_step
from fractionate.engine.tracking import Ledger, Tracker
from fractionate.engine.world import Parallel, World, join
from fractionate.errors import ConfigError, DamagedError, StoppedError
from fractionate.folder import Folder
from fractionate.objective import Objective
from fractionate.outputs import Head, device_of
from fractionate.records import Run, Scores, Training
from fractionate.schedule import learning_rate, make_optimizer, set_learning_rate
from fractionate.teacher import TeacherSignal

PLAIN = Training()
DESCRIBED_ROWS = (
    5  # how the objective rescales the gradient is measured in one row of so many: it costs about half a step
)
HeldOut = tuple[Feed, TeacherSignal | None] | None


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
) -> tuple[nn.Module, Run]:
    """Train a student on labels and, where given, on a teacher; in place, returned with the record of the run.

    - `data`: `Examples`, a pair of tensors, a map-style dataset or a loader over one. `weights` counts examples for more or less.
    - `signal`: a `TeacherSignal` in the order of the data, a store, a model (asked in evaluation mode and without a graph; its
      weights are hashed before and after), or None for the labels alone. Several teachers: `council.mix`.
    - `objective`: what is learned from the teacher; `terms` are added to it.
    - `out`: a folder for checkpoints, `metrics.jsonl`, `run.json` and `student.safetensors`. The same call goes on where a
      killed one stopped, bit for bit; a finished run is read back. SIGTERM and Ctrl-C save before they stop.
    - `head`, `teacher_head`: where the logits are in what a model gives; `predicts_next` for causal language models.
    - `parallel`: under torchrun or `accelerate launch`, whether processes hold copies (DDP) or shards (FSDP2) of the student;
      a sharded one stays so, its whole weights are in `out`.
    - `compile_mode`: run the student through `torch.compile` in this mode.

    Loss of a step = Σ weight · loss / Σ weight over its valid examples or tokens.

    Raises `MismatchError` where student, teacher and data do not belong together, `ConfigError` for settings that cannot be
    meant, `NumericsError`, naming examples and before the weights are touched, for a loss or gradient that is not finite, and
    `StoppedError` after a signal.
    """
    feed = as_feed(data)
    if objective is not None and signal is None:
        raise ConfigError("an objective needs a teacher", fix="pass signal=, or leave the objective out")
    if signal is not None and objective is None:
        objective = Objective()
    teacher = as_teacher(
        signal, feed, objective, device=device_of(student), head=teacher_head, predicts_next=predicts_next
    )
    with ExitStack() as stack:
        session = _Session(
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
            notice=stack.enter_context(stop_notice(active=out is not None)),
            world=stack.enter_context(join(parallel)),
        )
        return session.run()


def _held_out(data: Any, signal: Any, name: str) -> HeldOut:
    if data is None:
        return None
    feed = as_feed(data, name)
    return feed, as_signal(signal, feed)


def _running_average(student: nn.Module, decay: float) -> nn.Module:
    update = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
    return AveragedModel(student, multi_avg_fn=update)


@dataclass(kw_only=True, eq=False)
class _Session:
    """One call of `distill`: what was asked, and where it stands."""

    student: nn.Module
    feed: Feed
    teacher: Teacher | None
    teacher_model: nn.Module | None
    objective: Objective | None
    training: Training
    seed: int
    arm: str
    steps: int
    weights: Float[Tensor, "examples"] | None
    terms: tuple[Term, ...]
    head: Head
    predicts_next: bool
    folder: Folder | None
    save_every_steps: int | None
    save_every_seconds: float
    log_every: int
    validation: HeldOut
    test: HeldOut
    trackers: tuple[Tracker, ...]
    show: Show
    compile_mode: str | None
    notice: Notice
    world: World

    standing: Standing = field(default_factory=Standing)
    started: float = field(default_factory=time.monotonic)

    def run(self) -> tuple[nn.Module, Run]:
        """Check, resume or start, train to the end, measure, write down."""
        kept = self.folder is not None
        self.asked = asked_for(
            self.student,
            self.training,
            data=self.feed.fingerprint() if kept else None,
            teacher=self.teacher.fingerprint() if kept and self.teacher is not None else None,
            objective=repr(self.objective),
            seed=self.seed,
            steps=self.steps,
            arm=self.arm,
            examples=len(self.feed),
            predicts_next=self.predicts_next,
        )
        if self.folder is not None:
            finished = self.folder.finished(self.asked, self.student)
            if finished is not None:
                return self.student, finished
        before = random_state()
        seed_run(self.seed)
        self.device = device_of(self.student)
        called = self.world.wrap(self.student)
        trained = [p for p in self.student.parameters() if p.requires_grad]
        if not trained:
            raise ConfigError(
                "the student has nothing to train", expected="parameters that require gradients", got="none"
            )
        self.parts = Parts(self.student, make_optimizer(trained, self.training))
        if self.training.average_decay is not None:
            self.parts.average = _running_average(self.student, self.training.average_decay)
        if self.training.precision == "float16":
            self.parts.scaler = torch.amp.GradScaler(self.device.type)
        if self.compile_mode is not None:
            called = cast(nn.Module, torch.compile(called, mode=self.compile_mode))
        self.stepper = Stepper(
            called=called,
            parts=self.parts,
            teacher=self.teacher,
            objective=self.objective,
            terms=self.terms,
            training=self.training,
            weights=self.weights,
            head=self.head,
            predicts_next=self.predicts_next,
            device=self.device,
            world=self.world,
            trained=list(trained),
            labels_checked=isinstance(self.teacher, Recorded) and self.teacher.checked,
        )
        try:
            self._open()
            self._train()
            run = self._record()
            self.ledger.sync()  # before run.json, which says that all is there
            if self.folder is not None:
                weights = self.world.whole(self.student.state_dict())
                run = self.folder.finish(run, weights) if self.world.rank == 0 else run
            self.world.wait()
            self.ledger.finish(run)
        finally:
            restore_random_state(before)
            if hasattr(self, "ledger"):
                self.ledger.close()
                self.progress.close()
        return self.student, run

    def _open(self) -> None:
        """Find the newest sound checkpoint and go on from it, or start."""
        path: Path | None = None
        damaged: tuple[DamagedError, ...] = ()
        found = None
        if self.folder is not None:
            found, damaged = latest_checkpoint(self.folder.checkpoints, clean=self.world.rank == 0)
            path = self.folder.metrics if self.world.rank == 0 else None
        if found is not None and self.folder is not None:
            self.folder.check(self.asked, found.facts["asked"])
            self.standing = self.parts.restore(found, self.world)
        self.ledger = Ledger(path, keep_bytes=self.standing.metrics_bytes, trackers=self.trackers)
        self.ledger.start(self.arm, self.asked)
        show = self.show if self.world.rank == 0 else "nothing"
        self.progress = Progress(show, f"{self.arm} seed {self.seed}", steps=self.steps, done=self.standing.step)
        if self.objective is not None:
            self.progress.say(str(self.objective.describe()))
        self.remark = no_better_than_chance(self.teacher.signal) if isinstance(self.teacher, Recorded) else ""
        if self.remark:
            self.progress.say(f"warning: {self.remark}")
        for error in damaged:
            self.progress.say(f"{error.what}: going on from step {self.standing.step}")
        self.world.wait()

    def _train(self) -> None:
        self.student.train()
        look = self.training.evaluate_every
        if look is None and (self.training.patience is not None or self.training.keep == "best"):
            look = -(-len(self.feed) // self.training.batch_size)
        saved = time.monotonic()
        # two walks over one plan: what to fetch ahead, and what to do with it
        wanted = ((step.epoch, step.index[:1] if p is None else p) for step in self._plan() for p in step.pieces)
        fetched = self.feed.batches(wanted, self.seed)
        for step in self._plan():
            if self.standing.ended:
                break
            pieces = [(next(fetched).to(self.device), piece is not None) for piece in step.pieces]
            seed_step(self.seed, self.standing.step, self.device, self.world.rank)
            rate = learning_rate(self.training, self.standing.step, self.steps)
            set_learning_rate(self.parts.optimizer, rate)
            overdue = time.monotonic() - saved >= self.save_every_seconds and self.folder is not None
            number = self.standing.step + 1
            row_due = number % self.log_every == 0 or number == self.steps
            asked = (float(self.notice.number), float(overdue))
            described = max(1, self.steps // self.log_every // DESCRIBED_ROWS)
            describe = row_due and (number // self.log_every % described == 0 or number == self.steps)
            taken = self.stepper.take(pieces, step=self.standing.step, describe=describe, also=asked)
            # a signal that came within this step can wait for the next where processes have to agree on it
            stop, due = bool(taken.also[0]) or (self.world.size == 1 and bool(self.notice.number)), bool(taken.also[1])
            self._note(step, taken, rate, row_due=row_due)
            if self.validation is not None and look and (number % look == 0 or number == self.steps):
                self._look()
            if self.save_every_steps and self.standing.step % self.save_every_steps == 0:
                due = True
            if self.folder is not None and (due or stop) and self.standing.step < self.steps:
                self._save()
                saved = time.monotonic()
            if stop:
                raise StoppedError(
                    f"stopped by a signal after step {self.standing.step} of {self.steps}",
                    number=self.notice.number or 15,
                    fix="run the same command again to go on",
                )

    def _plan(self) -> Iterator[Portion]:
        return portions(
            len(self.feed), self.training, self.world, seed=self.seed, first=self.standing.step, steps=self.steps
        )

    def _note(self, step: Portion, taken: Taken, rate: float, *, row_due: bool) -> None:
        """Count the step, and write a row where one is due."""
        now = self.standing
        now.step += 1
        now.loss_steps += 1
        now.loss_sum += taken.loss
        now.seen += len(step.index)
        now.order = xxhash.xxh3_64_hexdigest(now.order.encode() + step.index.numpy().tobytes())
        loss = None
        if row_due:
            loss = now.loss_sum / now.loss_steps
            row = {"step": now.step, "loss": loss, "learning_rate": rate, "examples": now.seen, "order": now.order}
            if taken.rescaled is not None:
                row |= {"rescaling_mean": taken.rescaled[0], "rescaling_deviation": taken.rescaled[1]}
            self.ledger.write(row)
            now.loss_sum, now.loss_steps = 0.0, 0
        self.progress.step(now.step, loss)

    def _look(self) -> None:
        """Measure on the validation data; keep the best weights; end where patience has run out."""
        now, scores = self.standing, self._measure(self.validation)
        assert scores is not None
        self.ledger.write({"step": now.step, "validation": asdict(scores)})
        now.looks_without_better += 1
        if now.better(scores):
            now.best, now.best_step, now.looks_without_better = asdict(scores), now.step, 0
            if self.training.keep == "best":
                state = self.world.whole(self._measured().state_dict())
                self.parts.best = {name: tensor.detach().clone() for name, tensor in state.items()}
        if self.training.patience is not None and now.looks_without_better >= self.training.patience:
            now.ended = True

    def _measured(self) -> nn.Module:
        """The module whose weights become the student."""
        average = self.parts.average
        return self.student if average is None else average.module  # type: ignore[return-value]

    def _measure(self, held_out: HeldOut) -> Scores | None:
        if held_out is None:
            return None
        feed, signal = held_out
        return evaluate(self._measured(), feed, signal=signal, head=self.head, predicts_next=self.predicts_next)

    def _save(self) -> None:
        assert self.folder is not None
        now = replace(self.standing, metrics_bytes=self.ledger.sync())
        now.seconds += time.monotonic() - self.started
        checkpoint = self.parts.snapshot(now, self.asked, self.world)
        if self.world.rank == 0:
            save_checkpoint(self.folder.checkpoints, checkpoint)
        self.world.wait()

    def _record(self) -> Run:
        """Choose the weights, measure them, and say what was done."""
        now = self.standing
        if self.parts.best:
            self.student.load_state_dict(self.world.like(self.parts.best, self.student.state_dict()))
        elif self.parts.average is not None:
            self.student.load_state_dict(self._measured().state_dict())
        self.parts.average = None
        if self.teacher is not None:
            self.teacher.check_inert()
        return Run(
            arm=self.arm,
            seed=self.seed,
            status="completed",
            contract=None if self.objective is None else self.objective.describe(),
            steps=now.step,
            wall_seconds=now.seconds + time.monotonic() - self.started,
            parameters=sum(p.numel() for p in self.student.parameters()),
            validation=self._measure(self.validation),
            test=self._measure(self.test),
            history=history(self.ledger.rows),
            settings=self.asked | {"best_step": now.best_step, "order": now.order, "examples_seen": now.seen},
            versions=versions(),
            note=self.remark,
            cost=self._cost() if self.folder is not None else {},
        )

    def _cost(self) -> dict[str, float]:
        """What student and living teacher need for one example."""
        one = next(self.feed.batches([(0, torch.tensor([0]))], self.seed)).inputs
        found = measure_cost(self.student, one, name="student")
        if self.teacher_model is not None:
            found |= measure_cost(self.teacher_model, one, name="teacher")
        return found
