"""One call of `distill` from its first check to its record: resume or start, train, evaluate, write down."""

from __future__ import annotations

import itertools
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import NoReturn, cast

import torch
import xxhash
from torch import nn

from fractionate.data.batch import Split
from fractionate.data.parts import first_batch
from fractionate.errors import ConfigError, DamagedError, StoppedError
from fractionate.losses.terms.base import bind_terms, needs_of
from fractionate.losses.terms.plain import CallableTerm
from fractionate.models.modes import frozen_modules, plain_module, plain_state, train_mode
from fractionate.models.outputs import device_of
from fractionate.records import Point, Run, Scores
from fractionate.system.progress import Progress, Show
from fractionate.tasks.fit import check_fit
from fractionate.tasks.metric import infos
from fractionate.tasks.predictions import Needs
from fractionate.tasks.task import Task
from fractionate.teachers.cached import OpenCache
from fractionate.teachers.shared import classes_of
from fractionate.teachers.source import OpenTeacher, TeacherSource, no_better_than_chance
from fractionate.theory.teacher_signal import TeacherSignal
from fractionate.theory.topk_signal import CompactSignal
from fractionate.training.checkpoint import latest_checkpoint, random_state, restore_random_state, save_checkpoint
from fractionate.training.cost import cost_of
from fractionate.training.distributed import MicroBatches, World, micro_batches
from fractionate.training.identity import check_apart, identity_of, settings_of
from fractionate.training.interrupt import InterruptedEvaluation, Notice, watched
from fractionate.training.memory import check_step
from fractionate.training.recipe import Recipe
from fractionate.training.run_folder import Folder, Settings
from fractionate.training.schedule import learning_rate, make_optimizer, set_learning_rate
from fractionate.training.state import Parts, TrainState, history, running_average, versions
from fractionate.training.step import Stepper, Taken, seed_run, seed_step
from fractionate.training.student import check_used, finish_student, teacher_on
from fractionate.training.tracking import Ledger, Observer, Tracker

DESCRIBED_ROWS = 5  # the rescaling of gradients is measured in one row of so many: it costs about half a step


@dataclass(kw_only=True, eq=False)
class Session:
    """One call of `distill`: what was given, and where it stands."""

    task: Task
    recipe: Recipe
    student: nn.Module
    split: Split  # what the student is trained on, transforms done
    source: TeacherSource | None
    seed: int
    arm: str
    steps: int
    folder: Folder | None
    save_every_steps: int | None
    save_every_seconds: float
    log_every: int
    held_out: dict[str, TeacherSource]  # teachers of the evaluation splits by name
    trackers: tuple[Tracker, ...]
    show: Show
    compile_mode: str | None
    recompute: tuple[str, ...]
    notice: Notice
    world: World
    observer: Observer | None = None

    state: TrainState = field(default_factory=TrainState)
    started: float = field(default_factory=time.monotonic)
    points: list[Point] = field(default_factory=list)

    def run(self) -> tuple[nn.Module, Run]:
        """Check, resume or start, train to the end, evaluate, write down."""
        before = random_state()
        self.training = self.recipe.training
        self.plain = plain_module(self.student)
        task, recipe, plain = self.task, self.recipe, self.plain
        given: Settings = {"seed": self.seed, "steps": self.steps, "arm": self.arm, "examples": len(self.split)}
        self.settings = settings_of(task, recipe, plain, given)
        if self.folder is not None:
            others = (self.source, self.split, self.world, self.held_out)
            self.settings = identity_of(self.settings, task, recipe, plain, *others)
            finished = self.folder.finished(self.settings)
            if finished is not None:
                self.student, self.plain = finish_student(self.recipe, self.student)
                self.folder.read_into(self.plain, finished)
                restore_random_state(before)
                return self.student, finished
        self.device = device_of(self.student)
        try:
            with ExitStack() as stack:
                return self._run(stack)
        finally:
            restore_random_state(before)
            for opened in ("ledger", "progress"):  # those that were reached
                if opened in vars(self):
                    vars(self)[opened].close()

    def _run(self, stack: ExitStack) -> tuple[nn.Module, Run]:
        self._foresee()  # before processes share the student: a pass over shapes would confuse them
        seed_run(self.seed)
        self._prepare(stack)
        self._open()
        self._train()
        run = self._record()
        self.ledger.sync()  # before run.json, which says that all is there
        if self.folder is not None:
            weights = self.world.whole(plain_state(self.plain))
            run = self.folder.finish(run, weights) if self.world.rank == 0 else run
        self.world.wait()
        self.ledger.finish(run)
        return self.student, run

    def _prepare(self, stack: ExitStack) -> None:
        """Reader, teacher, terms and optimiser."""
        recipe, training = self.recipe, self.training
        ours, theirs = needs_of(recipe.specs)
        if training.loss_from == "hidden":
            ours, theirs = ours | Needs(hidden=True), theirs | Needs(hidden=True)
        decay = training.average_decay  # before hooks are set, which a copy would take along
        average = None if decay is None else running_average(self.plain, decay)
        bound_here = [spec for spec in recipe.specs if not isinstance(spec, CallableTerm)]
        example = self.task.example(self.split).to(self.device) if ours or bound_here else None
        reader = stack.enter_context(self.task.open(self.student, ours, example))
        teacher: OpenTeacher | None = None
        if self.source is not None and recipe.opens_teacher:
            if self.source.model is not None:
                check_apart(self.plain, self.source.model)
            teacher = stack.enter_context(self.source.open(self.task, self.split, recipe.objective, theirs))
        bound: tuple[object, ...] = ()
        if recipe.specs:
            content = None if example is None else self.task.read(reader, example, head=self.task.head)
            inside = None if teacher is None or not theirs or example is None else teacher.predictions_for(example)
            reads = content is not None and any(spec.reads_signal for spec in bound_here)
            signal = teacher.signal_for(content) if reads and teacher is not None and content is not None else None
            bound = stack.enter_context(
                bind_terms(
                    recipe.specs,
                    student=content,
                    teacher=inside,
                    signal=signal,
                    examples=len(self.split),
                    seed=self.seed,
                    parts=reader.parts,
                    models=(self.student, None if self.source is None else self.source.model),
                    teacher_on_all=None if teacher is None else lambda: teacher_on(teacher, self.split, self.device),
                    precision=training.precision,
                )
            )
            reader.parts.to(self.device)
        self.reader, self.teacher = reader, teacher
        if self.world.size > 1 and self.world.parallel == "copies":
            check_used(reader, self.task, self.task.example(self.split).to(self.device))
        called = self.world.wrap(reader)
        trained = [p for p in (*self.plain.parameters(), *reader.parts.parameters()) if p.requires_grad]
        if not any(p.requires_grad for p in self.plain.parameters()):
            raise ConfigError("the student has nothing to train", expected="parameters that require gradients")
        self.parts = Parts(self.plain, make_optimizer(trained, training), reader.parts)
        self.parts.average = average
        if training.precision == "float16":
            self.parts.scaler = torch.amp.GradScaler(self.device.type)
        if self.compile_mode is not None:
            called = cast(nn.Module, torch.compile(called, mode=self.compile_mode))
        targets = None
        if teacher is not None and recipe.objective is not None and training.loss_from == "logits":
            targets = teacher.targets(recipe.objective)
        self.stepper = Stepper(
            task=self.task,
            called=called,
            parts=self.parts,
            teacher=teacher,
            objective=recipe.objective,
            objective_weight=recipe.objective_weight,
            terms=tuple(zip(recipe.specs, bound, strict=True)),  # type: ignore[arg-type]
            targets=targets,
            training=training,
            device=self.device,
            world=self.world,
            trained=list(trained),
            output_layer=reader.head,
            labels_checked=isinstance(teacher, OpenCache) and teacher.checked,
        )
        self.held = {name: self._held(stack, name) for name in ("validation", "test")}

    def _held(self, stack: ExitStack, name: str) -> OpenTeacher | None:
        """The teacher on an evaluation split, where one was given."""
        split, source = getattr(self.task.splits, name), self.held_out.get(name)
        if split is None or source is None:
            return None
        return stack.enter_context(source.open(self.task, split, None, self.task.inside))

    def _foresee(self) -> None:
        """Refuse a step that cannot fit into memory, and data, models and metrics that do not fit together."""
        if self.world.holds_shards(self.plain):
            return
        training = self.training
        size = min(training.micro_batch_size or training.batch_size, len(self.split))
        batch = first_batch(self.split, -(-size // self.world.size), self.seed)
        inputs = self.task.inputs_of(self.plain, batch)
        copies = (training.average_decay is not None) + (training.keep == "best")
        learns_from = "teacher" if self.recipe.opens_teacher else "labels"
        head = self.task.head
        check_step(self.plain, inputs, training, self.device, learns_from=learns_from, head=head, copies=copies)
        if self.observer is not None and self.observer.fitted:
            return
        with Stepper.errors:
            check_fit(self.task, self.plain, classes_of(self.source) if self.recipe.needs_teacher else None)

    def _open(self) -> None:
        """Find the newest sound checkpoint and resume from it, or start."""
        path: Path | None = None
        damaged: tuple[DamagedError, ...] = ()
        found = None
        if self.folder is not None:
            found, damaged = latest_checkpoint(self.folder.checkpoints, clean=self.world.rank == 0)
            path = self.folder.metrics if self.world.rank == 0 else None
        if found is not None and self.folder is not None:
            self.folder.check(self.settings, found.facts["settings"])
            self.state = self.parts.restore(found, self.world)
        self.ledger = Ledger(path, keep_bytes=self.state.metrics_bytes, trackers=self.trackers)
        self.ledger.start(self.arm, self.settings)
        show = self.show if self.world.rank == 0 else "nothing"
        self.progress = Progress(f"{self.arm} seed {self.seed}", self.steps, show=show, done=self.state.step)
        contract = self.recipe.contract(self.task.reader.label_formula)
        if contract is not None:
            self.progress.say(str(contract))
        self.remark = ""
        cached = self.teacher.signal if isinstance(self.teacher, OpenCache) else None
        if cached is not None and isinstance(cached, (TeacherSignal, CompactSignal)):
            self.remark = no_better_than_chance(cached)
        if self.remark:
            self.progress.say(f"warning: {self.remark}", warning=True)
        for error in damaged:
            self.progress.say(f"{error.what}: going on from step {self.state.step}")
        self.world.wait()

    def _train(self) -> None:
        self.frozen = frozen_modules(self.student)
        train_mode(self.student, self.frozen)
        self.reader.parts.train()
        every = self.training.evaluate_every
        if every is None and (self.training.patience is not None or self.training.keep == "best"):
            every = -(-len(self.split) // self.training.batch_size)
        if self.state.evaluation_due:  # a signal came within it
            self._evaluate()
            if self.state.evaluation_due:
                self._stop()
        saved = time.monotonic()
        steps = micro_batches(
            self.split, self.training, self.world, seed=self.seed, first=self.state.step, steps=self.steps
        )
        ahead, plan = itertools.tee(steps)  # what to fetch, and what to do with it
        wanted = ((step.epoch, step.index[:1] if p is None else p) for step in ahead for p in step.micro_batches)
        fetched = self.split.batches(wanted, self.seed)
        for step in plan:
            if self.state.ended:
                break
            batches = [(next(fetched).to(self.device), places is not None) for places in step.micro_batches]
            seed_step(self.seed, self.state.step, self.device, self.world.rank)
            rate = learning_rate(self.training, self.state.step, self.steps)
            set_learning_rate(self.parts.optimizer, rate)
            overdue = time.monotonic() - saved >= self.save_every_seconds and self.folder is not None
            number = self.state.step + 1
            row_due = number % self.log_every == 0 or number == self.steps
            requested = (float(self.notice.number), float(overdue))
            described = max(1, self.steps // self.log_every // DESCRIBED_ROWS)
            describe = row_due and (number // self.log_every % described == 0 or number == self.steps)
            taken = self.stepper.take(batches, step=self.state.step, describe=describe, also=requested)
            # a signal that came within this step can wait for the next where processes have to agree on it
            stop, due = bool(taken.also[0]) or (self.world.size == 1 and bool(self.notice.number)), bool(taken.also[1])
            self._note(step, taken, rate, row_due=row_due)
            if self.observer is not None:
                self.observer.stepped()
                if number in self.observer.steps:
                    self.points.append(self.observer.measure(number, taken.loss, self.student))
                    train_mode(self.student, self.frozen)
            if self.task.splits.validation is not None and every and (number % every == 0 or number == self.steps):
                self._evaluate()
                stop = stop or self.state.evaluation_due
            if self.save_every_steps and self.state.step % self.save_every_steps == 0:
                due = True
            more = self.state.step < self.steps or self.state.evaluation_due
            if self.folder is not None and (due or stop) and more:
                self._save()
                saved = time.monotonic()
            if stop:
                self._stop()

    def _stop(self) -> NoReturn:
        raise StoppedError(
            f"stopped by a signal after step {self.state.step} of {self.steps}",
            number=self.notice.number or 15,
            fix="run the same command again to resume",
        )

    def _note(self, step: MicroBatches, taken: Taken, rate: float, *, row_due: bool) -> None:
        """Count the step, and write a row where one is due."""
        now = self.state
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
        self.progress.at(now.step, "" if loss is None else f"loss {loss:.4f}")

    def _evaluate(self) -> None:
        """Measure on the validation data; keep the best weights; end where patience has run out."""
        now, split = self.state, self.task.splits.validation
        assert split is not None
        now.evaluation_due = True
        try:
            # processes that evaluate apart cannot agree to stop in between
            left = watched(split, self.notice) if self.world.size == 1 else split
            scores = self._measure("validation", left, final=False)
        except InterruptedEvaluation:
            return
        now.evaluation_due = False
        assert scores is not None
        self.ledger.write({"step": now.step, "validation": asdict(scores)})
        now.without_better += 1
        if now.better(scores, infos(self.task.judged)):
            now.best, now.best_step, now.without_better = asdict(scores), now.step, 0
            if self.training.keep == "best":
                state = self.world.whole(self._measured().state_dict())
                self.parts.best = {name: tensor.detach().clone() for name, tensor in state.items()}
        if self.training.patience is not None and now.without_better >= self.training.patience:
            now.ended = True

    def _measured(self) -> nn.Module:
        """The module whose weights become the student."""
        average = self.parts.average
        return self.plain if average is None else average.module  # type: ignore[return-value]

    def _measure(self, name: str, split: Split | None, *, final: bool = True) -> Scores | None:
        """The task's metrics on an evaluation split, with the weights that would become the student."""
        if split is None:
            return None
        return self.task.evaluate(self._measured(), split, self.held[name], final=final)

    def _save(self) -> None:
        assert self.folder is not None
        now = replace(self.state, metrics_bytes=self.ledger.sync())
        now.seconds += time.monotonic() - self.started
        checkpoint = self.parts.snapshot(now, self.settings, self.world)
        if self.world.rank == 0:
            save_checkpoint(self.folder.checkpoints, checkpoint)
        self.world.wait()

    def _record(self) -> Run:
        """Choose the weights, measure them, and say what was done."""
        now = self.state
        if self.parts.best:
            last = self.world.whole(plain_state(self._measured())) if now.best_step != now.step else {}
            if self.folder is not None and last and self.world.rank == 0:
                self.folder.keep_last(last)
            self.plain.load_state_dict(self.world.like(self.parts.best, self.plain.state_dict()))
        elif self.parts.average is not None:
            self.plain.load_state_dict(self._measured().state_dict())
        self.parts.average = None
        if self.teacher is not None:
            self.teacher.check_unchanged()
        self.student, self.plain = finish_student(self.recipe, self.student)
        return Run(
            arm=self.arm,
            seed=self.seed,
            status="completed",
            contract=self.recipe.contract(self.task.reader.label_formula),
            steps=now.step,
            wall_seconds=now.seconds + time.monotonic() - self.started,
            parameters=sum(p.numel() for p in self.plain.parameters()),
            validation=self._measure("validation", self.task.splits.validation),
            test=self._measure("test", self.task.splits.test),
            history=tuple(self.points) or history(self.ledger.rows),
            settings=self.settings | {"best_step": now.best_step, "order": now.order, "examples_seen": now.seen},
            versions=versions(),
            note=self.remark,
            cost=cost_of(self.plain, self.source, self.split, self.seed) if self.folder is not None else {},
            metrics=infos(self.task.judged),
        )
