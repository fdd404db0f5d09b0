"""One call of `distill` from its first check to its record: resume or start, train, measure, write down."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import NoReturn, cast

import torch
import xxhash
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from fractionate.checkpoint import content_hash, latest_checkpoint, random_state, restore_random_state, save_checkpoint
from fractionate.data.batch import Split
from fractionate.data.dataset import DatasetSplit
from fractionate.engine.cost import measure_cost
from fractionate.engine.council import Recorded, Teacher, no_better_than_chance
from fractionate.engine.evaluation import evaluate
from fractionate.engine.interrupt import InterruptedLook, Notice, Watched
from fractionate.engine.memory import check_memory, foresee, small_for_sure
from fractionate.engine.plan import Portion, portions
from fractionate.engine.progress import Progress, Show
from fractionate.engine.standing import Parts, Standing, asked_for, history, versions
from fractionate.engine.step import Stepper, Taken, Term, seed_run, seed_step
from fractionate.engine.tracking import Ledger, Tracker
from fractionate.engine.world import World
from fractionate.errors import ConfigError, DamagedError, StoppedError
from fractionate.folder import Folder
from fractionate.objective import Objective
from fractionate.outputs import Head, device_of
from fractionate.records import Run, Scores, Training
from fractionate.schedule import learning_rate, make_optimizer, set_learning_rate
from fractionate.tasks import CLASSIFICATION, infos
from fractionate.teacher import TeacherSignal

DESCRIBED_ROWS = 5  # the rescaling of gradients is measured in one row of so many: it costs about half a step
HeldOut = tuple[Split, TeacherSignal | None] | None


def _running_average(student: nn.Module, decay: float) -> nn.Module:
    update = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
    return AveragedModel(student, multi_avg_fn=update)


@dataclass(kw_only=True, eq=False)
class Session:
    """One call of `distill`: what was asked, and where it stands."""

    student: nn.Module
    feed: Split
    teacher: Teacher | None
    teacher_model: nn.Module | None
    objective: Objective | None
    training: Training
    seed: int
    arm: str
    steps: int
    weights: Float[Tensor, "examples"] | None
    labelled: Bool[Tensor, "examples"] | None
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
    recompute: tuple[str, ...]
    notice: Notice
    world: World

    standing: Standing = field(default_factory=Standing)
    started: float = field(default_factory=time.monotonic)

    def run(self) -> tuple[nn.Module, Run]:
        """Check, resume or start, train to the end, measure, write down."""
        before = random_state()
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
            weights=content_hash(self.weights) if kept and self.weights is not None else None,
            labelled=content_hash(self.labelled) if kept and self.labelled is not None else None,
        )
        if self.folder is not None:
            finished = self.folder.finished(self.asked, self.student)
            if finished is not None:
                restore_random_state(before)
                return self.student, finished
        self.device = device_of(self.student)
        try:
            self._foresee()  # before processes share the student: a pass over shapes would confuse them
        except BaseException:
            restore_random_state(before)
            raise
        seed_run(self.seed)
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
            labelled=self.labelled,
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

    def _foresee(self) -> None:
        """Refuse a step that cannot fit before anything is allocated for it."""
        if self.world.holds_shards(self.student):
            return
        size = min(self.training.micro_batch_size or self.training.batch_size, len(self.feed))
        feed = replace(self.feed, workers=0) if isinstance(self.feed, DatasetSplit) else self.feed
        inputs = next(feed.batches([(0, torch.arange(-(-size // self.world.size)))], self.seed)).inputs
        if small_for_sure(self.student, inputs, self.device):
            return
        copies = (self.training.average_decay is not None) + (self.training.keep == "best")
        learns_from = "labels" if self.teacher is None else "teacher"
        forecast = foresee(self.student, inputs, self.training, learns_from=learns_from, head=self.head, copies=copies)
        check_memory(forecast, self.device)

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
        if self.standing.look_due:  # a signal came within it
            self._look()
            if self.standing.look_due:
                self._stop()
        saved = time.monotonic()
        ahead, plan = itertools.tee(self._plan())  # what to fetch, and what to do with it
        wanted = ((step.epoch, step.index[:1] if p is None else p) for step in ahead for p in step.pieces)
        fetched = self.feed.batches(wanted, self.seed)
        for step in plan:
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
                stop = stop or self.standing.look_due
            if self.save_every_steps and self.standing.step % self.save_every_steps == 0:
                due = True
            if (
                self.folder is not None
                and (due or stop)
                and (self.standing.step < self.steps or self.standing.look_due)
            ):
                self._save()
                saved = time.monotonic()
            if stop:
                self._stop()

    def _stop(self) -> NoReturn:
        raise StoppedError(
            f"stopped by a signal after step {self.standing.step} of {self.steps}",
            number=self.notice.number or 15,
            fix="run the same command again to go on",
        )

    def _plan(self) -> Iterator[Portion]:
        return portions(
            self.feed, self.training, self.world, seed=self.seed, first=self.standing.step, steps=self.steps
        )

    def _note(self, step: Portion, taken: Taken, rate: float, *, row_due: bool) -> None:
        """Count the step, and write a row where one is due."""
        now = self.standing
        now.step += 1
        now.loss_steps += 1
        now.loss_sum += taken.loss
        now.seen += step.index.shape[0]
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
        assert self.validation is not None
        now, (feed, signal) = self.standing, self.validation
        now.look_due = True
        try:
            # processes that look apart cannot agree to stop in between
            scores = self._measure((Watched(feed, self.notice), signal) if self.world.size == 1 else self.validation)
        except InterruptedLook:
            return
        now.look_due = False
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
            last = self.world.whole(self._measured().state_dict()) if now.best_step != now.step else {}
            if self.folder is not None and last and self.world.rank == 0:
                self.folder.keep_last(last)
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
            metrics=infos(CLASSIFICATION),
        )

    def _cost(self) -> dict[str, float]:
        """What student and living teacher need for one example."""
        one = next(self.feed.batches([(0, torch.tensor([0]))], self.seed)).inputs
        found = measure_cost(self.student, one, name="student")
        if self.teacher_model is not None:
            found |= measure_cost(self.teacher_model, one, name="teacher")
        return found
