"""distill(): the one training loop. A run without a teacher is the same loop on the labels alone.

The order of the data is a function of (seed, epoch) and the draws within the model of (seed, step), so a run that is killed and
started again goes on bit for bit. Losses come one an example; only here are they reduced: the weighted mean over all valid
examples (or tokens) of a step, however the step is cut into pieces.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xxhash
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from fractionate.checkpoint import (
    Checkpoint,
    content_hash,
    from_bytes,
    latest_checkpoint,
    load_weights,
    optimizer_tensors,
    random_state,
    restore_optimizer,
    restore_random_state,
    save_checkpoint,
    to_bytes,
)
from fractionate.council import as_signal, check_labels
from fractionate.durable import make_directory, write_file
from fractionate.errors import ConfigError, MismatchError, NumericsError
from fractionate.evaluation import device_of, evaluate
from fractionate.feed import Batch, Feed, as_feed
from fractionate.objective import Objective
from fractionate.order import batches, step_seed
from fractionate.outputs import Head, call, logits_of, rows
from fractionate.records import Point, Run, Scores, Training
from fractionate.schedule import learning_rate, make_optimizer, set_learning_rate
from fractionate.teacher import TeacherSignal
from fractionate.tracking import Ledger

DEFAULT = Training()
STUDENT, RUN, METRICS, CHECKPOINTS = "student.safetensors", "run.json", "metrics.jsonl", "checkpoints"


def distill(
    student: nn.Module,
    data: Any,
    signal: TeacherSignal | Any | None = None,
    *,
    objective: Objective | None = None,
    training: Training = DEFAULT,
    validation: Any | None = None,
    test: Any | None = None,
    validation_signal: TeacherSignal | Any | None = None,
    test_signal: TeacherSignal | Any | None = None,
    seed: int = 0,
    arm: str = "",
    out: Path | str | None = None,
    head: Head = None,
    predicts_next: bool = False,
    save_every_steps: int | None = None,
    save_every_seconds: float = 60.0,
    log_every: int | None = None,
) -> tuple[nn.Module, Run]:
    """Train a student on labels and, where given, on a teacher's signal; in place, returned with the record of the run.

    `data` is `Examples`, a pair of tensors, a map-style dataset or a loader over one; `signal` a `TeacherSignal` in the
    order of the data, a store, or None for the labels alone. `objective` says what is learned from the teacher.
    With `out`, checkpoints, `metrics.jsonl`, `run.json` and `student.safetensors` are kept there and the same call goes on
    where a killed one stopped; a finished one is read back.

    Raises `MismatchError` where student, teacher and data do not belong together, `ConfigError` for settings that cannot be
    meant and `NumericsError`, naming examples and before the weights are touched, for a loss or gradient that is not finite.
    """
    feed = as_feed(data)
    teacher = as_signal(signal, feed)
    if objective is not None and teacher is None:
        raise ConfigError("an objective needs a teacher's signal", fix="pass signal=, or leave the objective out")
    if teacher is not None and objective is None:
        objective = Objective()
    session = _Session(
        student,
        feed,
        None if teacher is None else teacher.to(device_of(student)),
        objective,
        training,
        seed=seed,
        arm=arm or ("hard" if objective is None else objective.describe().cell),
        steps=training.steps_for(len(feed)),
        head=head,
        predicts_next=predicts_next,
        out=None if out is None else Path(out),
        save_every_steps=save_every_steps,
        save_every_seconds=save_every_seconds,
        log_every=log_every,
        validation=_held_out(validation, validation_signal, "validation data"),
        test=_held_out(test, test_signal, "test data"),
    )
    return session.run()


def _held_out(data: Any, signal: Any, name: str) -> tuple[Feed, TeacherSignal | None] | None:
    if data is None:
        return None
    feed = as_feed(data, name)
    return feed, as_signal(signal, feed)


def seed_step(seed: int, step: int, device: torch.device) -> None:
    """Let everything the model draws in a step follow from (seed, step)."""
    # the generators themselves: torch.manual_seed also queues a call for every accelerator there might be
    torch.default_generator.manual_seed(step_seed(seed, step))
    if device.type == "cuda":
        torch.cuda.default_generators[device.index or 0].manual_seed(step_seed(seed, step))


@dataclass(eq=False)
class _Session:
    """One call of `distill`: what was asked, and where it stands."""

    student: nn.Module
    feed: Feed
    teacher: TeacherSignal | None
    objective: Objective | None
    training: Training
    seed: int
    arm: str
    steps: int
    head: Head
    predicts_next: bool
    out: Path | None
    save_every_steps: int | None
    save_every_seconds: float
    log_every: int | None
    validation: tuple[Feed, TeacherSignal | None] | None
    test: tuple[Feed, TeacherSignal | None] | None

    step: int = 0
    loss_sum: float = 0.0  # since the last row of the ledger
    loss_steps: int = 0
    seen: int = 0  # examples, over all epochs
    order: str = ""  # a rolling hash of the examples seen, in their order
    seconds: float = 0.0  # of earlier processes
    ledger: Ledger = field(init=False)
    optimizer: torch.optim.Optimizer = field(init=False)

    def run(self) -> tuple[nn.Module, Run]:
        """Resume or start, train to the end, measure, write down."""
        asked = self.asked()
        if self.out is not None:
            finished = self._finished(asked)
            if finished is not None:
                return self.student, finished
        before = random_state()
        started = time.monotonic()
        self.optimizer = make_optimizer([p for p in self.student.parameters() if p.requires_grad], self.training)
        self.log_every = self.log_every or max(1, self.steps // 100)
        try:
            self._resume(asked)
            self._train(asked, started)
            run = self._record(asked, self.seconds + time.monotonic() - started)
            if self.out is not None:
                content, aliases = to_bytes(self.student.state_dict())
                write_file(self.out / STUDENT, content)
                run = replace(run, settings=run.settings | {f"alias {name}": of for name, of in aliases.items()})
                run.save(self.out / RUN)  # last: its presence says that the run is finished
        finally:
            restore_random_state(before)
            if hasattr(self, "ledger"):
                self.ledger.close()
        return self.student, run

    def asked(self) -> dict[str, str | float | int | bool | None]:
        """What was asked for, by name: two calls that agree in it are the same run."""
        settings: dict[str, str | float | int | bool | None] = {
            f"training.{name}": value for name, value in asdict(self.training).items()
        }
        settings |= {"steps": self.steps, "seed": self.seed, "arm": self.arm, "examples": len(self.feed)}
        settings["predicts_next"] = self.predicts_next
        if self.out is not None:
            shapes = [f"{name}{list(t.shape)}{t.dtype}" for name, t in self.student.state_dict().items()]
            settings["student"] = xxhash.xxh3_128_hexdigest("\n".join(shapes).encode())
            settings["data"] = self.feed.fingerprint()
            settings["objective"] = repr(self.objective)
            settings["signal"] = (
                None if self.teacher is None else content_hash(self.teacher.logits, self.teacher.labels)
            )
        return settings

    def _finished(self, asked: dict[str, Any]) -> Run | None:
        """The run that is there already, its student loaded. Raises `MismatchError` where it is another run."""
        assert self.out is not None
        make_directory(self.out)
        if not (self.out / RUN).exists():
            return None
        run = Run.load(self.out / RUN)
        self._same(asked, run.settings)
        aliases = {
            name.removeprefix("alias "): str(of) for name, of in run.settings.items() if name.startswith("alias ")
        }
        load_weights(self.student, from_bytes((self.out / STUDENT).read_bytes(), aliases), str(self.out / STUDENT))
        return run

    def _same(self, asked: dict[str, Any], found: dict[str, Any]) -> None:
        differing = [name for name in asked if found.get(name) != asked[name]]
        if differing:
            name = differing[0]
            raise MismatchError(
                f"{self.out} holds another run: {', '.join(differing)} differ",
                expected=f"{name} = {asked[name]}",
                got=f"{name} = {found.get(name)}",
                fix="choose another output folder, or ask for the same run again to go on with it",
            )

    def _resume(self, asked: dict[str, Any]) -> None:
        if self.out is None:
            self.ledger = Ledger(None)
            return
        found, damaged = latest_checkpoint(self.out / CHECKPOINTS)
        if found is None:
            self.ledger = Ledger(self.out / METRICS)
            return
        facts = found.facts
        self._same(asked, facts["asked"])
        load_weights(self.student, found.part("student"), str(self.out / CHECKPOINTS))
        restore_optimizer(self.optimizer, found.part("optimizer"))
        restore_random_state(found.part("random"))
        self.step, self.seen, self.order = found.step, facts["seen"], facts["order"]
        self.loss_sum, self.loss_steps, self.seconds = facts["loss_sum"], facts["loss_steps"], facts["seconds"]
        self.ledger = Ledger(self.out / METRICS, keep_bytes=facts["metrics_bytes"])
        for error in damaged:
            self.ledger.note(f"{error.what}; went on from step {found.step}")

    def _save(self, asked: dict[str, Any], started: float) -> None:
        assert self.out is not None
        tensors = {f"student/{name}": tensor for name, tensor in self.student.state_dict().items()}
        tensors |= {f"optimizer/{name}": tensor for name, tensor in optimizer_tensors(self.optimizer).items()}
        tensors |= {f"random/{name}": tensor for name, tensor in random_state().items()}
        facts = {
            "asked": asked,
            "seen": self.seen,
            "order": self.order,
            "loss_sum": self.loss_sum,
            "loss_steps": self.loss_steps,
            "seconds": self.seconds + time.monotonic() - started,
            "metrics_bytes": self.ledger.sync(),
        }
        save_checkpoint(self.out / CHECKPOINTS, Checkpoint(self.step, tensors, facts))

    def _plan(self) -> Iterator[tuple[int, Int[Tensor, "batch"]]]:
        """Epoch and places of the batches from the present step on, to the last."""
        examples, size = len(self.feed), self.training.batch_size
        epoch_steps = -(-examples // size)
        for epoch in range(self.step // epoch_steps, -(-self.steps // epoch_steps)):
            for place, index in enumerate(batches(examples, size, self.seed, epoch), epoch * epoch_steps):
                if self.step <= place < self.steps:
                    yield epoch, index

    def _train(self, asked: dict[str, Any], started: float) -> None:
        self.student.train()
        device = device_of(self.student)
        saved = time.monotonic()
        for batch in self.feed.batches(self._plan(), self.seed):
            seed_step(self.seed, self.step, device)
            rate = learning_rate(self.training, self.step, self.steps)
            set_learning_rate(self.optimizer, rate)
            self._optimize(batch.to(device))
            self._note(batch, rate)
            if self.out is not None and self.step < self.steps:
                due = self.save_every_steps is not None and self.step % self.save_every_steps == 0
                if due or time.monotonic() - saved >= self.save_every_seconds:
                    self._save(asked, started)
                    saved = time.monotonic()

    def _optimize(self, batch: Batch) -> None:
        logits, labels, place = rows(
            logits_of(call(self.student, batch.inputs), self.head), batch.labels, predicts_next=self.predicts_next
        )
        losses = self._losses(batch, logits, labels, place)
        loss = losses.sum() / max(1, len(losses))
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.get_total_norm(
            [p.grad for p in self.student.parameters() if p.grad is not None], foreach=True
        )
        value = float(loss.detach())
        if not (np.isfinite(value) and np.isfinite(float(norm))):
            raise self._not_finite(batch, losses.detach(), place, float(norm))
        self.optimizer.step()
        self.loss_sum += value

    def _losses(
        self, batch: Batch, logits: Float[Tensor, "rows classes"], labels: Int[Tensor, "rows"], place: Tensor | None
    ) -> Float[Tensor, "rows"]:
        if self.teacher is None:
            return functional.cross_entropy(logits.float(), labels, reduction="none")
        assert self.objective is not None
        taught = self.teacher.take(batch.index if place is None else batch.index[place.cpu()])
        check_labels(taught.labels, labels, batch.index)
        return self.objective(logits, taught)

    def _not_finite(self, batch: Batch, losses: Tensor, place: Tensor | None, norm: float) -> NumericsError:
        bad = (~torch.isfinite(losses)).nonzero().flatten().cpu()
        examples = batch.index[bad if place is None else place.cpu()[bad]]
        if not len(examples):
            what = f"the gradient is not finite at step {self.step} (norm {norm}) though the loss is"
            examples = batch.index
        else:
            what = f"the loss is not finite at step {self.step} for {len(examples)} of {len(losses)} examples"
        named = ", ".join(map(str, examples[:8].tolist())) + (" …" if len(examples) > 8 else "")
        return NumericsError(
            what,
            expected="finite numbers; the weights have not been touched",
            got=f"examples {named}",
            fix="look at these inputs; lower the learning rate, clip the gradient, or train in float32",
        )

    def _note(self, batch: Batch, rate: float) -> None:
        assert self.log_every is not None
        self.step += 1
        self.loss_steps += 1
        self.seen += len(batch.index)
        self.order = xxhash.xxh3_64_hexdigest(self.order.encode() + batch.index.numpy().tobytes())
        if self.step % self.log_every == 0 or self.step == self.steps:
            self.ledger.write(
                {
                    "step": self.step,
                    "loss": self.loss_sum / self.loss_steps,
                    "learning_rate": rate,
                    "examples": self.seen,
                    "order": self.order,
                }
            )
            self.loss_sum, self.loss_steps = 0.0, 0

    def _record(self, asked: dict[str, Any], seconds: float) -> Run:
        def measured(held_out: tuple[Feed, TeacherSignal | None] | None) -> Scores | None:
            if held_out is None:
                return None
            feed, signal = held_out
            return evaluate(self.student, feed, signal=signal, head=self.head, predicts_next=self.predicts_next)

        return Run(
            arm=self.arm,
            seed=self.seed,
            status="completed",
            contract=None if self.objective is None else self.objective.describe(),
            steps=self.step,
            wall_seconds=seconds,
            parameters=sum(p.numel() for p in self.student.parameters()),
            validation=measured(self.validation),
            test=measured(self.test),
            history=tuple(Point(step=row["step"], loss=row["loss"]) for row in self.ledger.rows if "loss" in row),
            settings=asked,
            versions={"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__},
        )
