"""What a run file describes, built: data, task, networks, recipes and variants. Nothing is written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fractionate.data.batch import Split
from fractionate.data.parts import seen_as
from fractionate.errors import ConfigError, FractionateError
from fractionate.losses.objective import Objective
from fractionate.models.names import find_model
from fractionate.models.placing import place
from fractionate.models.weights import load_weights, read_weights
from fractionate.records import Training, Tuning
from fractionate.records.training import LOOP_SETTINGS
from fractionate.run.data import RunData, kind_of, read_data
from fractionate.run.resources import training_device
from fractionate.run.schema import RunFile
from fractionate.run.sections import ArmSection, ObjectiveSection, TeacherTrainingSection
from fractionate.store.collection import collect
from fractionate.store.reading import Store
from fractionate.study.arms import Arm, make_arms
from fractionate.tasks.regression import in_units
from fractionate.tasks.task import Task
from fractionate.teachers.cached import Cached, keeps
from fractionate.teachers.online import Online
from fractionate.teachers.source import TeacherSource
from fractionate.training.recipe import Recipe
from fractionate.training.student import make_student


@dataclass(frozen=True)
class Assembly:
    """A run file, and what it names; every property is made on first use.

    Args:
        run: The run file.
        places: Where each key is written, as `places_of` gives it.
        estimated: The cost alone is wanted: a teacher may have drawn weights.
    """

    run: RunFile
    places: Mapping[str, str] = field(default_factory=dict)
    estimated: bool = False

    @contextmanager
    def written_in(self, *keys: str) -> Iterator[None]:
        """Around what a setting brings about: errors name the place where it, or else the section it is in, is written.

        Of further keys the first counts that is written.
        """
        try:
            yield
        except FractionateError as error:
            sections = tuple(key.partition(".")[0] for key in keys)
            typed = (
                key for key, place in self.places.items()
                if place.startswith("override ") and key.startswith(sections) and key.rpartition(".")[2] in (error.got or "")
            )  # fmt: skip
            places = ((self._place(key), key) for key in (*typed, *keys))
            place, key = next(((place, key) for place, key in places if place), ("", ""))
            if place:
                error.name_place(f"{place} {key}")
            raise

    def _place(self, key: str) -> str:
        """Where a key is written, or the section that it is in."""
        steps = key.split(".")
        heads = (".".join(steps[:count]) for count in range(len(steps), 0, -1))
        return next((self.places[head] for head in heads if head in self.places), "")

    @cached_property
    def data(self) -> RunData:
        """The data, in its parts."""
        with self.written_in("data.source"):
            try:
                return read_data(self.run)
            except FractionateError as error:
                self._name_model(error)
                raise

    def _name_model(self, error: FractionateError) -> None:
        """Where a model's tokenizer cannot be read, the place is the model's, not that of the data."""
        for key, name in (("teacher.model", self.run.teacher.model), ("student.model", self.run.student.model)):
            try:
                find_model(name).tokenizing(self.run.data.length)
            except FractionateError as brought:
                if brought.what == error.what and (place := self._place(key)):
                    error.name_place(f"{place} {key}")

    @cached_property
    def task(self) -> Task:
        """What all students of the run share."""
        data, run = self.data, self.run
        task = Task(
            kind_of(run.task),
            transfer=data.transfer,
            validation=data.validation,
            test=data.test,
            teaching=data.teaching,
            student=self.new_student,
            metrics=run.metrics,
            teacher_head=run.teacher.head,
            class_names=data.need.class_names,
            device=str(self.device),
        )
        if data.deviation is None:
            return task
        return replace(task, metrics=tuple(in_units(metric, data.deviation) for metric in task.judged))

    @property
    def device(self) -> torch.device:
        """Where this process computes."""
        return training_device(self.run.distill.device)

    def new_student(self) -> nn.Module:
        """A fresh student, before its preparations."""
        need = self.data.need
        with self.written_in("student.model"):
            return find_model(self.run.student.model).build(need)

    def new_teacher(self) -> nn.Module:
        """The teacher's network, with the weights it comes with."""
        given = self.run.teacher
        torch.manual_seed(TeacherTrainingSection().seed if given.train is None else given.train.seed)
        frozen = self.teacher_training is None and not given.weights
        parts = (self.data.transfer, self.data.validation, self.data.test)
        need = replace(
            self.data.need,
            shape=self.data.teacher_shape,
            frozen=frozen,
            drawn=self.drawn_teacher,
            splits=parts,
            teaching=self.data.teaching,
        )
        with self.written_in("teacher.model"):
            model = find_model(given.model).build(need)
        if given.prepare:
            seed = 0 if given.train is None else given.train.seed
            with self.written_in("teacher.prepare"):
                model = make_student(self.task, Recipe(preparations=given.prepare), None, seed, given=model)
        if given.weights:
            with self.written_in("teacher.weights"):
                load_weights(model, read_weights(given.weights), given.weights)
        return model

    @property
    def drawn_teacher(self) -> bool:
        """Whether the teacher gets drawn weights: its own take seconds to unpack, and its cost alone is wanted."""
        given = self.run.teacher
        language_model = kind_of(self.run.task).predicts_next  # whose head a GGUF file holds
        return self.estimated and language_model and not given.weights and find_model(given.model).packed

    @property
    def teacher_training(self) -> TeacherTrainingSection | None:
        """How the teacher is trained here; None for one that is used as it comes."""
        given = self.run.teacher
        fresh = not given.weights and not find_model(given.model).trained
        return given.train or (TeacherTrainingSection() if fresh else None)

    @property
    def teaching(self) -> Split:
        """What a teacher trained here learns from. Raises `ConfigError` where the other parts leave nothing."""
        training = self.teacher_training
        chosen = self.data.transfer if training is not None and training.on == "transfer" else self.data.teaching
        if chosen is None:
            raise ConfigError(
                "there is nothing left to train a teacher on",
                fix="give teacher.weights, make the parts of data smaller, or set teacher.train.on=transfer",
            )
        return seen_as(chosen, "teacher")

    @property
    def training(self) -> Training:
        """How students are trained."""
        return Training(**self.run.training.model_dump())

    @property
    def distill_training(self) -> Training:
        """How the one student is trained that is distilled for real."""
        given = self.run.distill
        return replace(self.training, **{name: getattr(given, name) for name in LOOP_SETTINGS})

    @property
    def given_objective(self) -> Objective | None:
        """The objective of the run file; None where it leaves the choice to the recipe."""
        return _objective(self.run.objective)

    @property
    def study_decides_the_rate(self) -> bool:
        """Whether the student is trained at a learning rate that its study chooses."""
        return self.run.study.tune is not None and self.given_objective is None and self.task.reader.distributions

    def recipe(self, objective: Objective | None, training: Training) -> Recipe:
        """The run file's recipe with this objective."""
        run = self.run
        return Recipe(
            preparations=run.student.prepare,
            objective=objective,
            terms=run.terms,
            data=run.transforms,
            training=training,
        )

    @cached_property
    def given_teacher(self) -> nn.Module:
        """The teacher as it comes."""
        model = self.new_teacher()
        place(model, self.device)  # one that is spread over devices stays there
        return model.eval()

    @property
    def given_arms(self) -> dict[str, Arm]:
        """The variants of the study that the run file gives, by name."""
        given = self.run.study
        if given.arms is not None:
            return {name: self._arm(arm) for name, arm in given.arms.items()}
        if not self.task.reader.distributions:  # no cells: a term learns from the teacher
            base = self.recipe(None, self.training)
            terms = base.terms or self.task.reader.teacher_terms
            with_terms = Arm(replace(base, terms=terms), role="recommended")
            arms = {"hard": Arm(replace(base, terms=()))}
            return arms | ({" + ".join(self.run.terms or map(str, terms)): with_terms} if terms else {})
        made = make_arms(
            given.cells,
            given.temperatures,
            given.teacher_weights,
            given.shares or (1.0,),
            given.learning_rates or (self.training.learning_rate,),
            given.divergences or ("cross-entropy",),
            base=self.recipe(None, self.training),
            students=given.students or (),
        )
        return {arm.name: arm for arm in made}

    def collect_from(self, model: nn.Module, task: Task, out: Path, **more: Any) -> Store:
        """A model's signal on the transfer part of a task, stored as the run file says."""
        given = self.run.collect
        return collect(
            model,
            task,
            out,
            form=given.form,
            k=given.k,
            dtype=given.dtype,
            temperatures=given.temperatures,
            batch_size=given.batch_size,
            precision=given.precision,
            features=given.features,
            device=str(training_device(given.device)),
            **more,
        )

    def source_of(self, store: Store, model: nn.Module, *recipes: Recipe) -> TeacherSource:
        """The teacher for recipes: its stored signal, with the model where something reads inside it or changes the data."""
        if any(recipe.transform_specs for recipe in recipes):
            return Online(model)
        specs = [
            spec for recipe in recipes for spec in recipe.specs if not (spec.needs[1] and keeps(store, spec.needs[1]))
        ]
        parts: list[Any] = [*(part for recipe in recipes for part in recipe.preparation_specs), *specs]
        inside = any(part.reads_teacher for part in parts)
        dense = store.form.kind == "dense" and not store.head.tokens
        return Cached(store.signal() if dense else store, model=model if inside else None)

    @property
    def usual(self) -> tuple[Arm, ...]:
        """T = 4 / 0.9, where the stored rows allow it: compact ones know the rest of the classes at some temperatures alone."""
        stored = self.run.collect
        possible = stored.form in ("dense", "hidden") or 4.0 in stored.temperatures or self.run.transforms
        return (Arm(self.recipe(Objective("kd", 4.0, 0.9), self.training), role="usual"),) if possible else ()

    def _arm(self, given: ArmSection) -> Arm:
        base = self.recipe(_objective(given.objective), self.training)
        recipe = replace(base, terms=given.terms, data=given.transforms)
        if given.prepare is not None:
            recipe = replace(recipe, preparations=given.prepare)
        if given.training is not None:
            recipe = replace(recipe, training=Training(**given.training.model_dump()))
        return Arm(recipe, share=given.share, placebo_of=given.placebo_of)

    @property
    def study_settings(self) -> dict[str, Any]:
        """Seeds and judgement of the study, as `dissect` takes them."""
        given = self.run.study
        return {
            "seeds": given.seeds,
            "metric": given.metric,
            "margin": given.margin,
            "baseline": "hard" if given.arms is None else "",
            "tune": None if given.tune is None else Tuning(**given.tune.model_dump()),
        }


def _objective(given: ObjectiveSection | None) -> Objective | None:
    return None if given is None else Objective(**given.model_dump(exclude_none=True))
