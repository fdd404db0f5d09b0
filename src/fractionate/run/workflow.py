"""A run file carried out: each part is made on first use, kept in the run's folder, and read from there by the next command."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fractionate.diagnosis.examination import MOST_CLASSES_SHOWN, diagnose
from fractionate.errors import ConfigError
from fractionate.losses.objective import Objective
from fractionate.models.export import export_student
from fractionate.models.tokenizer import save_tokenizer
from fractionate.models.weights import load_weights, read_own_weights, save_weights
from fractionate.page.decisions import Card
from fractionate.page.document import report
from fractionate.page.folder import run_card, run_file_words, run_records
from fractionate.records import Diagnosis, Run, Scores, Study, Training
from fractionate.run.assembly import Assembly
from fractionate.run.explained import for_the_page
from fractionate.run.folder import check_folder, claim, claimed, folder_key
from fractionate.run.held_out import held_out_signal
from fractionate.run.preflight import check_run
from fractionate.run.recipe_arms import arm_of, at_tuned_rate, recipe_arms, usual_arms, with_recipes
from fractionate.run.resources import check_extras, make_trackers
from fractionate.run.runfile import trusting
from fractionate.run.sections import TeacherTrainingSection
from fractionate.store.reading import Store
from fractionate.study.arms import Arm
from fractionate.study.dissection import dissect
from fractionate.study.effects.harm import compared_with_no_teacher, surely_worse
from fractionate.study.pilot import PilotPlan
from fractionate.system.atomic import remove_folder
from fractionate.system.paths import shell_line
from fractionate.training.cost import measure_cost
from fractionate.training.distillation import distill
from fractionate.training.distributed import joined
from fractionate.training.recipe import Recipe
from fractionate.training.run_folder import RUN, Settings, check_files, file_digests


@dataclass(frozen=True)
class Workflow(Assembly):
    """A run file and the folder it writes to. Every property is made on first use, or read from the folder.

    Args:
        run, places, estimated, command, say: As of `Assembly`; the command, and what is called with lines for a person.
        pilot_minutes, no_pilot, force, remake, workers, second_view: As the options of the command line.
    """

    command: str = ""
    pilot_minutes: float | None = None
    no_pilot: bool = False
    force: bool = False
    remake: bool = False
    workers: int | str = 1
    second_view: Path | None = None
    say: Callable[[str], None] = lambda _: None

    @cached_property
    def out(self) -> Path:
        """The folder. Raises what `check_run` raises for a run file that was not checked with this folder yet."""
        if not claimed(self):
            check_run(self, remake=self.remake)
        return claim(self, remake=self.remake)

    @cached_property
    def outdated(self) -> tuple[str, ...]:
        """What the folder holds that has to be made anew."""
        return check_folder(self, remake=self.remake)

    @cached_property
    def teacher(self) -> nn.Module:
        """The teacher: as it comes, or trained here once on the labels."""
        training = self.teacher_training
        if training is None:
            return self.given_teacher
        model, kept = self.new_teacher(), self.out / "teacher.safetensors"
        if os.path.lexists(kept):
            again = f"remove {kept} and {self.out / 'store'}, and run the same command again"
            load_weights(model, read_own_weights(kept, fix=again, made_by=self._teacher_settings), str(kept))
            if (
                self.out / "teacher" / RUN
            ).exists():  # killed when the teacher was kept and its training not yet removed
                remove_folder(self.out / "teacher")
        else:
            model = self._trained(model, training, kept)
        return model.to(self.device).eval()

    @property
    def _teacher_settings(self) -> str:
        """What makes a teacher that is trained here the run's own."""
        return f"{self.run.teacher.model}; {self.teacher_training!r}; {self.teaching.fingerprint()}"

    def _trained(self, model: nn.Module, training: TeacherTrainingSection, kept: Path) -> nn.Module:
        smoothing = training.label_smoothing
        task = replace(self.task, transfer=self.teaching, validation=None, test=None, student=lambda: model)
        recipe = Recipe(
            terms=(f"label-smoothing({smoothing})",) if smoothing else (),
            training=Training(
                steps=training.steps, batch_size=training.batch_size, learning_rate=training.learning_rate,
                weight_decay=training.weight_decay,
            ),
        )  # fmt: skip
        made, _ = distill(task, recipe=recipe, seed=training.seed, arm="teacher", out=self.out / "teacher")
        save_weights(kept, made.state_dict(), made_by=self._teacher_settings)
        remove_folder(self.out / "teacher")
        return made

    @property
    def objective(self) -> Objective | None:
        """The objective of the run file, or of the recommended recipe; None where nothing is learned from the teacher's outputs."""
        if not self.task.reader.distributions:
            return None
        if self.given_objective is None and not self.diagnosis.recipe.distil and not self.repair:
            return None
        return self.given_objective or Objective.from_recipe(self.diagnosis.recipe)

    @property
    def chosen(self) -> Recipe:
        """The recipe of the one student: the run file's objective, or the recommended one at its learning rate."""
        training = self.distill_training
        if self.given_objective is None and self.task.reader.distributions:
            factor = self.diagnosis.recipe.learning_rate_factor
            training = replace(training, learning_rate=training.learning_rate * factor)
        recipe = self.recipe(self.objective, training)
        recommended = () if self.task.reader.distributions or recipe.terms else self.diagnosis.recipe.terms
        return replace(recipe, terms=recommended) if recommended else recipe

    @cached_property
    def arms(self) -> dict[str, Arm]:
        """The variants of the study: the run file's, the recipe of the student, and T = 4 / 0.9 that everyone copies."""
        if not self.task.reader.distributions:
            return dict(self.given_arms)
        pilot = None if self.given_objective else self.diagnosis.pilot  # before a repair there is no recipe
        own = () if self.repair else recipe_arms(self.chosen, self.training, pilot)
        usual = usual_arms(self.usual, (own[-1].recipe.training if own else self.training).learning_rate)
        return with_recipes(self.given_arms, (*own, *usual), self.training, tuned=self.run.study.tune is not None)

    @property
    def recipe_arm(self) -> str:
        """The variant of the study that is the student's recipe; empty where there is none."""
        return arm_of(self.arms, recipe_arms(self.chosen, self.training)[-1], tuned=self.run.study.tune is not None)

    @property
    def trained(self) -> Recipe:
        """The recipe of the one student; a recommended one at the rate that a tuned study chose: that study is made first."""
        tuned = self.study_decides_the_rate
        return at_tuned_rate(self.chosen, self.study, self.recipe_arm) if tuned else self.chosen

    @property
    def repair(self) -> str:
        """What has to be repaired before there is a recipe; empty where the run file has an objective."""
        given = self.given_objective is not None or not self.task.reader.distributions
        return "" if given else self.diagnosis.recipe.repair

    def harm(self) -> str:
        """How the study found the student's recipe surely worse than no teacher under the same training; else empty."""
        study = self._kept_study()
        arm = "" if study is None else self.recipe_arm
        if study is None or arm not in study.arms or not surely_worse(study, arm):
            return ""
        return str(compared_with_no_teacher(study, arm))

    def kept_back(self) -> str:
        """Why no student is exported: a fault to repair first, or harm that was measured. Empty where it is."""
        if self.repair:
            return f"repair first: {self.repair}"
        harm = "" if self.force else self.harm()
        return f"its recipe is surely worse than no teacher ({harm}); --force exports it all the same" if harm else ""

    # -- verbs ------------------------------------------------------------------------------------------------------------------

    @cached_property
    def store(self) -> Store:
        """The teacher's signal on the transfer part, collected once."""
        return self._collected()

    def collect_by_all(self) -> None:
        """Collect the signal, each process of the command its share; the first makes the folder and a teacher trained here."""
        with joined(self.run.distill.parallel) as company:
            company.first_alone(lambda: self.out)  # checks everything, before a word of the data
            company.first_alone(lambda: self.say(f"data: {self.data}"))
            company.first_alone(lambda: self.teacher)
            self._collected((company.world.rank, company.world.size))
            company.wait()

    def _collected(self, part: tuple[int, int] = (0, 1)) -> Store:
        return self.collect_from(self.teacher, self.task, self.out / "store", part=part)

    @cached_property
    def diagnosis(self) -> Diagnosis:
        """What the teacher knows, what will go wrong, which recipe to use."""
        kept = self.out / "diagnosis.json"
        before = (
            Diagnosis.load_kept(kept, made_for=folder_key(self.out, "diagnosis")) if self.second_view is None else None
        )
        # a pilot that is wanted now is run now, and one that ran stays
        if before is not None and (self.pilot_plan is None or before.pilot is not None):
            return replace(before, name=self.run.name)
        store = self.store  # before the seed: a teacher that is trained now draws too
        torch.manual_seed(self.run.seed)
        pilot = self.pilot_plan
        found = diagnose(
            store,
            self.new_student if pilot else None,
            pilot=pilot,
            second_view=self.second_view,
            name=self.run.name,
            class_names=self.data.class_names,
            data=self.task,
            held_out=held_out_signal(self.task, self.teacher, self.data.validation),
            objective=self.given_objective,
        )
        found = replace(found, class_names=found.class_names[:MOST_CLASSES_SHOWN])
        found.save(kept, made_for=folder_key(self.out, "diagnosis"))
        return found

    @property
    def pilot_plan(self) -> PilotPlan | None:
        """The pilot that refines the recipe; None where none is wanted, or the run file has an objective."""
        given, minutes = self.run.diagnosis, self.pilot_minutes
        by_file = given.pilot != 0 and self.given_objective is None and self.task.reader.distributions
        if self.no_pilot or not (minutes or by_file):
            return None
        return PilotPlan.default(
            self.task,
            self.training,
            budget=given.pilot or None,
            minutes=minutes or given.pilot_minutes,
            first_seed=self.run.seed,
            # on the data as stored: a cached signal knows nothing of changed data
            recipe=replace(self.recipe(None, self.training), data=()),
            out=self.out / "pilot",
            device=str(self.device),
        )

    @cached_property
    def study(self) -> Study:
        """Which part of the teacher pays."""
        kept = self.out / "study.json"
        if (before := self._kept_study()) is not None:
            return before
        arms = self.arms
        made = dissect(
            self.task,
            arms=arms,
            teacher=self.source_of(self.store, self.teacher, *(arm.recipe for arm in arms.values())),
            **self.study_settings,
            workers=self.workers,
            out=self.out / "study",
            name=self.run.name,
        )
        made = replace(made, teacher=self.teacher_scores)
        made.save(kept, made_for=folder_key(self.out, "study.json"))
        return made

    @cached_property
    def student(self) -> Run:
        """The student, trained for real by all processes of the command and exported by the first.

        `training/` is the loop's folder, `student/` is for others; the record in it is written last and says that all is there.
        """
        with joined(self.run.distill.parallel) as company:
            company.first_alone(self._prepare)
            kept = self.out / "student" / "run.json"
            key = folder_key(self.out, "student")
            run = Run.load_kept(kept, made_for=key)
            if run is None or self._compared_anew(run):
                student, made = self._train(first=company.first)
                company.first_alone(lambda: self._export(student, made).save(kept, made_for=key))
                run = Run.load(kept)
            company.first_alone(self._keep_examples)
            check_files(kept.parent, run)
            return run

    def _compared_anew(self, run: Run) -> bool:
        """Whether a study has shown more of the student's recipe since it was exported."""
        found = self._compared()["compared_with_no_teacher"]
        return not str(run.settings.get("compared_with_no_teacher")).startswith(str(found)) and not self.kept_back()

    def _keep_examples(self) -> None:
        """Test examples and explanations for the page, where there are any; the trained student is read back for them."""
        wanted = for_the_page(self.run, self.trained)
        missing = [name for name in wanted if not os.path.lexists(self.out / name)]
        if missing:
            student, _ = self._train(first=False)
            key = folder_key(self.out, "examples")
            for name in missing:
                wanted[name](self.run, self.task, self.data, student, self.teacher).save(self.out / name, made_for=key)

    def _kept_study(self) -> Study | None:
        """The study, where it has been made."""
        return Study.load_kept(self.out / "study.json", made_for=folder_key(self.out, "study.json"))

    def _prepare(self) -> None:
        """What the training reads, made by one process; what it will need is looked for before the teacher is run."""
        if os.path.lexists(self.out / "student" / "run.json"):
            return
        check_extras(self.run)
        _ = self.store
        recipe = self.trained  # first: a tuned study, which tells of harm too, belongs before its student
        harm = self.harm()
        if harm and not self.force:
            raise ConfigError(
                "this recipe is surely worse than no teacher under the same training: its student is not exported",
                expected="a recipe that does no harm",
                got=harm,
                fix="take the study's best variant as objective, or export it all the same with --force",
            )
        contract = recipe.contract()
        if contract is not None:
            self.say(str(contract))

    def _train(self, *, first: bool) -> tuple[nn.Module, Run]:
        given, objective = self.run.distill, self.objective
        recipe = self.trained
        return distill(
            self.task,
            teacher=self.source_of(self.store, self.teacher, recipe) if recipe.needs_teacher else None,
            recipe=recipe,
            seed=self.run.seed,
            arm=str(objective.cell) if objective else (self.recipe_arm if recipe.needs_teacher else "") or "no teacher",
            out=self.out / "training",
            save_every_steps=given.save_every_steps,
            save_every_seconds=given.save_every_seconds,
            log_every=given.log_every,
            trackers=make_trackers(self.run, self.out) if first else (),
            parallel=given.parallel,
            compile_mode=given.compile_mode,
            recompute=given.recompute,
        )

    def _export(self, student: nn.Module, made: Run) -> Run:
        """The student in the ecosystem's form; gives the record with the teacher's cost."""
        # the signal was stored: the teacher itself has not run next to the student yet
        one = self.task.example(self.data.test, 1).to(self.device)
        teacher = self.teacher
        cost = made.cost | measure_cost(teacher, self.task.inputs_of(teacher, one, "teacher"), name="teacher")
        made = replace(made, cost=cost, settings=made.settings | self._compared())
        given, data, folder = self.run.export, self.data, self.out / "student"
        counts = f"{len(data.transfer):,} examples, validated on {len(data.validation):,}, tested on {len(data.test):,}"
        export_student(
            student,
            folder,
            run=made,
            example=self.task.inputs_of(student, self.task.example(data.test).to(self.device)),
            name=f"{self.run.name}: {self.run.student.model}",
            data=given.data or f"{data.transfer.name}: {counts}",
            class_names=data.need.class_names,
            licence=given.licence,
            program=given.program,
            onnx=given.onnx,
            strict=False,
            image_processor=data.image_processor,
        )
        if data.encoding is not None:
            data.encoding.save(folder / "data.json")
        if data.need.tokenizing is not None:
            save_tokenizer(data.need.tokenizing.tokenizer, folder)
        return replace(made, settings=made.settings | file_digests(folder), teacher=self.teacher_scores)

    def _compared(self) -> Settings:
        """Whether the student's recipe was compared with no teacher, for its record."""
        study = self._kept_study()
        arm = "" if study is None else self.recipe_arm
        found = "not compared" if study is None or arm not in study.arms else str(compared_with_no_teacher(study, arm))
        return {"compared_with_no_teacher": found + (", exported by --force" if self.force and self.harm() else "")}

    @cached_property
    def teacher_scores(self) -> Scores:
        """How good the teacher itself is on the test part."""
        return self.task.evaluate(self.teacher, self.data.test, head=self.task.teacher_head, view="teacher")

    @property
    def card(self) -> Card:
        """The decision, from what the run has made so far."""
        return run_card(self.out, trusting(self.run))

    def report(self, form: str = "html") -> Path:
        """Everything on one page, or as Markdown (`form` "md"); makes what is missing first."""
        again = shell_line(["fractionate", "report", str(self.out / "run.yaml"), *trusting(self.run)])
        run_files = run_file_words(self.out, records := self.records(), trusting(self.run))
        return report(records, self.out / f"report.{form}", command=again, run_files=run_files)

    def records(self) -> list[Any]:
        """What the page is made of."""
        found = [self.diagnosis, self.study]
        if self.kept_back():
            return found
        _ = self.student
        return list(run_records(self.out))
