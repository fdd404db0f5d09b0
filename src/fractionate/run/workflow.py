"""The five verbs over a run file: each step makes what it needs first, keeps it in the run's folder, and reuses it next time.

out/run.yaml  teacher.safetensors  store/  diagnosis.json  pilot/  study/  study.json  training/  student/  report.html
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fractionate.data.bundled import Parts, data_sets
from fractionate.data.examples import Examples
from fractionate.diagnosis.examination import diagnose
from fractionate.errors import ConfigError, DamagedError, MismatchError, printable
from fractionate.losses.divergences.base import divergences
from fractionate.losses.objective import Objective
from fractionate.models.export import export_student
from fractionate.models.names import find_model, find_parts
from fractionate.models.weights import load_weights, read_own_weights, read_weights, save_weights
from fractionate.models.zoo import logit_layer, models
from fractionate.page.document import report
from fractionate.records import Diagnosis, Run, Study, Training, Tuning
from fractionate.records.training import LOOP_SETTINGS
from fractionate.run.resources import check_extras, make_trackers, training_device
from fractionate.run.runfile import dump_run, load_run, trusting
from fractionate.run.schema import RunFile
from fractionate.store.collection import collect
from fractionate.store.reading import Store
from fractionate.study.dissection import dissect
from fractionate.study.pilot import PilotPlan
from fractionate.system.atomic import make_directory, read_file, sweep, write_file
from fractionate.system.paths import shell_line
from fractionate.system.registry import names_code
from fractionate.tasks.evaluate import CLASSIFICATION
from fractionate.tasks.metric import infos
from fractionate.theory.cells import as_cell
from fractionate.theory.teacher_signal import TeacherSignal, relation_from_rows
from fractionate.training.cost import measure_cost
from fractionate.training.distillation import distill
from fractionate.training.evaluation import evaluate
from fractionate.training.rank_zero import together
from fractionate.training.run_folder import Folder, check_files, file_digests


def read_run(path: Path | str | None, overrides: tuple[str, ...] = (), *, trust: tuple[str, ...] = ()) -> RunFile:
    """A run file with every name looked up in its registry; all errors at once (`load_run`)."""

    def bundled(lookup: Callable[[str], object]) -> Callable[[str], object]:
        return lambda name: None if names_code(name) else lookup(name)

    lookups = {
        "data.source": bundled(data_sets.check),
        "teacher.model": bundled(lambda name: models[name]),
        "student.model": bundled(lambda name: models[name]),
        "objective.cell": as_cell,
        "objective.divergence": lambda name: divergences[name],
        "study.cells": as_cell,
        "study.divergences": lambda name: divergences[name],
        "study.metric": lambda name: infos(CLASSIFICATION, name),
    }
    return load_run(path, overrides, trust=trust, lookups=lookups)


@dataclass(frozen=True)
class Workflow:
    """A run file and the folder it writes to. Every property is made on first use, or read from the folder.

    Raises `MismatchError` where the folder holds another run.
    """

    run: RunFile
    command: str = ""
    pilot_minutes: float | None = None  # None: what the run file says
    workers: int | str = 1  # processes of a study, or "ray"
    second_view: Path | None = None  # the teacher's signal on another view of the transfer part
    say: Callable[[str], None] = lambda _: None  # told the loss contract before the student is trained

    @cached_property
    def out(self) -> Path:
        """The folder; it belongs to one run file."""
        self.check_folder()
        out = Path(self.run.out)
        written = out / "run.yaml"
        if not written.exists():
            _ = self.parts  # data that cannot be read are told of before the folder belongs to this run
        make_directory(out)
        sweep(out, deep=True)
        if not written.exists():
            write_file(written, dump_run(self.run).encode())
        return out

    def check_folder(self) -> None:
        """Raise `MismatchError` where the folder belongs to another run file, `DamagedError` where its run file is none."""
        written = Path(self.run.out) / "run.yaml"
        if not os.path.lexists(written):
            return
        again = f"restore it, or remove {self.run.out}"
        try:
            found, text = read_file(written, fix=again).decode(), dump_run(self.run)
        except UnicodeDecodeError as error:
            raise DamagedError(f"{written} is damaged: it is not UTF-8 text", got=str(error), fix=again) from None
        if found != text:
            pairs = zip(found.splitlines(), text.splitlines(), strict=False)
            changed = [f"{printable(a.strip())} → {printable(b.strip())}" for a, b in pairs if a != b]
            raise MismatchError(
                f"{self.run.out} holds another run: {written} differs",
                got="; ".join(changed[:3]) or "more settings",
                fix="write elsewhere with out=FOLDER, or remove that folder",
            )

    @cached_property
    def parts(self) -> Parts:
        """The data, in its parts."""
        data = self.run.data
        return find_parts(
            data.source, transfer=data.transfer, validation=data.validation, test=data.test, seed=data.seed
        )

    @property
    def training(self) -> Training:
        """How students are trained."""
        return Training(**self.run.training.model_dump())

    @property
    def distill_training(self) -> Training:
        """How the one student is trained that is distilled for real."""
        asked = self.run.distill
        return replace(self.training, **{name: getattr(asked, name) for name in LOOP_SETTINGS})

    def new_student(self) -> nn.Module:
        """A fresh student."""
        transfer = self.parts.transfer
        return find_model(self.run.student.model)(transfer.inputs.shape[1:], transfer.classes)

    @property
    def taught(self) -> Examples:
        """What a teacher trained here learns from. Raises `ConfigError` where the other parts leave nothing."""
        taught: Examples | None = (
            self.parts.teaching if self.run.teacher.train_on == "teaching" else self.parts.transfer
        )
        if taught is None:
            raise ConfigError(
                "there is nothing left to train a teacher on",
                fix="give teacher.weights, make the parts of data smaller, or set teacher.train_on=transfer",
            )
        return taught

    @cached_property
    def teacher(self) -> nn.Module:
        """The teacher: weights from a file, or trained here once on the labels."""
        asked, parts = self.run.teacher, self.parts
        torch.manual_seed(asked.seed)
        model = find_model(asked.model)(parts.transfer.inputs.shape[1:], parts.transfer.classes)
        kept = self.out / "teacher.safetensors"
        if asked.weights:
            load_weights(model, read_weights(asked.weights), asked.weights)
            return model.eval()
        if os.path.lexists(kept):
            again = f"remove {kept} and {self.out / 'store'}, and run the same command again"
            load_weights(model, read_own_weights(kept, fix=again), str(kept))
            return model.eval()
        taught = self.taught
        # label smoothing is distillation from a teacher that says nothing: uniform logits
        silent = TeacherSignal(torch.zeros(len(taught), parts.transfer.classes), taught.labels)
        smoothing = Objective(f"ls({asked.label_smoothing})", temperature=1.0, teacher_weight=1.0)
        model, _ = distill(
            model,
            taught,
            silent if asked.label_smoothing else None,
            objective=smoothing if asked.label_smoothing else None,
            training=Training(
                steps=asked.steps,
                batch_size=64,
                learning_rate=asked.learning_rate,
                weight_decay=asked.weight_decay,
            ),
            seed=asked.seed,
            arm="teacher",
        )
        save_weights(kept, model.state_dict())
        return model.eval()

    @cached_property
    def store(self) -> Store:
        """The teacher's signal on the transfer part, collected once."""
        return collect(self.teacher, self.parts.transfer, self.out / "store")

    def signal_on(self, part: str) -> TeacherSignal:
        """What the teacher says about a part it is not distilled on."""
        examples = getattr(self.parts, part)
        with torch.no_grad():
            logits = self.teacher(examples.inputs)
        weight = logit_layer(self.teacher)
        return TeacherSignal(logits, examples.labels, None if weight is None else relation_from_rows(weight))

    @cached_property
    def diagnosis(self) -> Diagnosis:
        """What the teacher knows, what will go wrong, which recipe to use."""
        kept = self.out / "diagnosis.json"
        minutes = self.run.diagnosis.pilot_minutes if self.pilot_minutes is None else self.pilot_minutes
        before = Diagnosis.load_kept(kept) if self.second_view is None else None
        # a pilot asked for now is run now, and one that ran stays
        if before is not None and (not minutes or before.pilot is not None):
            return before
        store = self.store  # before the seed: a teacher that is trained now draws too
        torch.manual_seed(self.run.seed)
        found = diagnose(
            store,
            self.new_student if minutes else self.new_student(),
            pilot=self._pilot(minutes) if minutes else None,
            second_view=self.second_view,
            name=self.run.name,
            class_names=self.parts.transfer.class_names,
            data=self.parts.transfer,
            held_out=self.signal_on("validation"),
            objective=self.objective_asked,
        )
        found.save(kept)
        return found

    def _pilot(self, minutes: float) -> PilotPlan:
        return PilotPlan(
            minutes, self.parts.validation, self.training, first_seed=self.run.seed, out=self.out / "pilot"
        )

    @property
    def study_settings(self) -> dict[str, Any]:
        """Arms, seeds and judgement of the study, as `dissect` takes them."""
        asked = self.run.study
        return {
            "cells": asked.cells,
            "temperatures": asked.temperatures,
            "teacher_weights": asked.teacher_weights,
            "seeds": asked.seeds,
            "metric": asked.metric,
            "margin": asked.margin,
            "share": asked.shares or (1.0,),
            "learning_rates": asked.learning_rates,
            "divergence": asked.divergences or ("cross-entropy",),
            "tune": None if asked.tune is None else Tuning(**asked.tune.model_dump()),
        }

    @cached_property
    def study(self) -> Study:
        """Which part of the teacher pays."""
        kept = self.out / "study.json"
        before = Study.load_kept(kept)
        if before is not None:
            return before
        made = dissect(
            self.new_student,
            self.parts.transfer,
            self.store.signal(),
            **self.study_settings,
            training=self.training,
            validation=self.parts.validation,
            test=self.parts.test,
            workers=self.workers,
            out=self.out / "study",
            name=self.run.name,
        )
        made.save(kept)
        return made

    @property
    def objective_asked(self) -> Objective | None:
        """The objective of the run file; None where it leaves the choice to the recipe."""
        return None if self.run.objective is None else Objective(**self.run.objective.model_dump(exclude_defaults=True))

    @property
    def objective(self) -> Objective:
        """The objective of the run file, or of the recommended recipe."""
        return self.objective_asked or Objective.from_recipe(self.diagnosis.recipe)

    @cached_property
    def student(self) -> Run:
        """The student, trained for real by all processes of the command and handed over by the first.

        `training/` is the engine's folder, `student/` is for others; the record in it is written last and says that all is there.
        """
        with together(self.run.distill.parallel) as company:
            company.first_alone(self._prepare)
            kept = self.out / "student" / "run.json"
            run = Run.load_kept(kept)
            if run is None:
                made = self._train(first=company.first)
                company.first_alone(lambda: self._hand_over(made).save(kept))
                run = Run.load(kept)
            check_files(kept.parent, run)
            return run

    def _prepare(self) -> None:
        """What the training reads, made by one process; what it will need is looked for before the teacher is asked."""
        if os.path.lexists(self.out / "student" / "run.json"):
            return
        check_extras(self.run)
        _ = self.store
        self.say(str(self.objective.describe()))

    def _train(self, *, first: bool) -> Run:
        asked, objective = self.run.distill, self.objective
        torch.manual_seed(self.run.seed)
        _, made = distill(
            self.new_student().to(training_device(asked.device)),
            self.parts.transfer,
            Store.open(self.out / "store").signal(),
            objective=objective,
            training=self.distill_training,
            validation=self.parts.validation,
            test=self.parts.test,
            seed=self.run.seed,
            arm=str(objective.cell),
            out=self.out / "training",
            save_every_steps=asked.save_every_steps,
            save_every_seconds=asked.save_every_seconds,
            log_every=asked.log_every,
            trackers=make_trackers(self.run, self.out) if first else (),
            parallel=asked.parallel,
            compile_mode=asked.compile_mode,
            recompute=asked.recompute,
        )
        return made

    def _hand_over(self, made: Run) -> Run:
        """The student in the ecosystem's form, read from the training's folder; gives the record with the teacher's cost."""
        student = self.new_student()
        Folder(self.out / "training").read_into(student, made)
        # the signal was stored: the teacher itself has not run beside the student yet
        made = replace(made, cost=made.cost | measure_cost(self.teacher, self.parts.test.inputs[:1], name="teacher"))
        asked, parts = self.run.export, self.parts
        counts = (
            f"{len(parts.transfer):,} examples, validated on {len(parts.validation):,}, tested on {len(parts.test):,}"
        )
        export_student(
            student,
            self.out / "student",
            run=made,
            example=parts.test.inputs[:2],
            name=f"{self.run.name}: {self.run.student.model}",
            data=asked.data or f"{parts.transfer.name}: {counts}",
            class_names=parts.transfer.class_names,
            licence=asked.licence,
            program=asked.program,
            onnx=asked.onnx,
            strict=False,
        )
        if parts.encoding is not None:
            parts.encoding.save(self.out / "student" / "data.json")
        return replace(made, settings=made.settings | file_digests(self.out / "student"))

    @cached_property
    def teacher_scores(self) -> str:
        """How good the teacher itself is on the test part, in words."""
        return str(evaluate(self.teacher, self.parts.test))

    def report(self) -> Path:
        """Everything on one page; makes what is missing first."""
        again = shell_line(["fractionate", "report", str(self.out / "run.yaml"), *trusting(self.run)])
        return report([self.diagnosis, self.study, self.student], self.out / "report.html", command=again)
