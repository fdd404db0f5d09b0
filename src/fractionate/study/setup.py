"""What all trials of a study share, and what one trial reads: its part of the transfer set and the teacher's signal on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from torch import Tensor, nn

from fractionate.data.batch import Split
from fractionate.data.examples import Examples
from fractionate.data.memory import MemorySplit
from fractionate.data.parts import subset
from fractionate.records import Training
from fractionate.study.arms import Arm, Settings, share_places
from fractionate.study.seed_teachers import SeedTeachers, Teacher, of_seed
from fractionate.tasks.classification import Classification
from fractionate.tasks.task import Task
from fractionate.teachers.cached import Cached
from fractionate.teachers.shared import kept_in_memory, part_of
from fractionate.teachers.source import TeacherSource
from fractionate.theory.teacher_signal import TeacherSignal
from fractionate.training.fleet.setup import MEASURED_EXAMPLES, VALIDATED_EXAMPLES, StackSetup


@dataclass(frozen=True, eq=False)
class Trial:
    """One student to train: a variant and a seed."""

    arm: Arm
    seed: int

    @property
    def key(self) -> tuple[str, int]:
        """How its run is found."""
        return self.arm.name, self.seed


@dataclass(frozen=True, eq=False)
class Setup:
    """Task, teacher and measurements of a study.

    Args:
        source: The teacher on the transfer set, of all seeds or by seed; `own` are those of variants that have one of their own.
        held_out: Teachers of the evaluation splits by name, for metrics that compare with the teacher; `given` names those
            that were passed as signals.
        points: How often a student is measured along its training; None: so seldom that it costs about a tenth of it.
    """

    task: Task
    source: Teacher
    held_out: Mapping[str, Teacher]
    settings: Settings
    own: Mapping[str, Teacher] = field(default_factory=dict)
    superclasses: tuple[int, ...] = ()
    points: int | None = None
    given: tuple[str, ...] = ()
    _parts: dict[tuple[float, int, int], tuple[Task, TeacherSource | None]] = field(default_factory=dict)
    _held: dict[int, Examples] = field(default_factory=dict)
    _kept: dict[int, TeacherSource] = field(default_factory=dict)

    def teacher(self, arm: Arm, seed: int) -> TeacherSource | None:
        """The teacher of a trial."""
        return of_seed(self.own.get(arm.name, self.source), seed)

    def held(self, name: str, seed: int) -> TeacherSource | None:
        """The teacher on an evaluation split, of a seed."""
        return of_seed(self.held_out.get(name), seed)

    def kept(self, source: TeacherSource) -> TeacherSource:
        """The teacher's answers on the transfer set kept in memory, where they are the same in every epoch; made once."""
        if id(source) not in self._kept:
            self._kept[id(source)] = kept_in_memory(source, self.task, self.task.splits.transfer) or source
        return self._kept[id(source)]

    def settings_of(self, arm: Arm, seed: int) -> Settings:
        """What tells the run of a trial from others, as its record holds it."""
        own = self.own.get(arm.name, self.source)
        changed = {"teacher": own} if isinstance(own, SeedTeachers) or arm.name in self.own else {}
        changed |= {f"{name}_signal": self.held_out[name] for name in self.given if name in self.held_out}
        found = {name: of_seed(teacher, seed) for name, teacher in changed.items()}
        marks = {name: source.fingerprint() for name, source in found.items() if source is not None}
        return {**self.settings, **marks, **arm.settings}

    def part(self, arm: Arm, seed: int) -> tuple[Task, TeacherSource | None]:
        """The task and the teacher on the share of the transfer set that is drawn for a seed."""
        share, source = arm.share, self.teacher(arm, seed)
        if source is not None and not arm.recipe.data:  # a cache knows nothing of data that a transform changes
            source = self.kept(source)
        key = (share, 0 if share == 1.0 else seed, id(source))
        if key not in self._parts:
            task = self.task
            places = share_places(task.splits.transfer, share, seed)
            if share != 1.0:
                whole = task.splits.transfer
                part: Split = whole.take(places) if isinstance(whole, MemorySplit) else subset(whole, places)
                task, source = replace(task, transfer=part), part_of(source, places)
            elif source is not None:
                source = part_of(source, places) if isinstance(source, Cached) and _dense(source) else source
            self._parts[key] = (task, source)
        return self._parts[key]

    def without_test(self) -> Setup:
        """The same for tries that must not read the test data."""
        held_out = {name: source for name, source in self.held_out.items() if name != "test"}
        return replace(self, task=replace(self.task, test=None), held_out=held_out, _parts={}, _held={})

    def size(self, share: float) -> int:
        """How many examples a student with this share learns from."""
        whole = len(self.task.splits.transfer)
        return whole if share == 1.0 else max(1, round(share * whole))

    def measured_points(self, training: Training, share: float) -> int:
        """How often a student is measured along its training."""
        validation = self.task.splits.validation
        size = self.size(share)
        affordable = affordable_points(training, size, 0 if validation is None else len(validation))
        return affordable if self.points is None else self.points

    def stack_setup(self, arm: Arm, seed: int) -> StackSetup | None:
        """What plain classifiers in memory run, for the stack and for measurements of the logit layer; None for other tasks."""
        task = self.task
        splits = task.splits
        if not isinstance(task.reader, Classification) or task.head is not None or not _tensors(splits.transfer):
            return None
        if splits.validation is not None and not _tensors(splits.validation):
            return None
        part, source = self.part(arm, seed)
        training = arm.recipe.training
        validation = None if splits.validation is None else self._examples(splits.validation)
        return StackSetup(
            self._examples(part.splits.transfer),
            _dense(source),
            training,
            seed,
            validation,
            _dense(self.held("validation", seed)),
            self.measured_points(training, arm.share),
            task.device,
            self.superclasses,
        )

    def _examples(self, split: Split) -> Examples:
        """The split as examples; the same object for the same split, so that students share what is made of it."""
        assert isinstance(split, MemorySplit)
        if id(split) not in self._held:
            names, ids = tuple(split.class_names), tuple(split.ids)
            self._held[id(split)] = Examples(split.inputs, split.labels, names, split.name, ids)
        return self._held[id(split)]


def _dense(source: TeacherSource | None) -> TeacherSignal | None:
    cached = source.cached if isinstance(source, Cached) else None
    return cached if isinstance(cached, TeacherSignal) else None


def _tensors(split: Split) -> bool:
    return isinstance(split, MemorySplit) and isinstance(split.inputs, Tensor) and split.labels.ndim == 1


def affordable_points(training: Training, examples: int, validation: int) -> int:
    """How often a student may be measured so that it costs about a tenth of its training: 1 to 8 times.

    A measurement is a forward pass over some transfer and validation examples; a training step counts as three forward passes.
    What is computed from the logits costs as much as five steps of a small student in a stack.
    """
    steps = training.steps_for(examples)
    trained = 3 * steps * min(training.batch_size, examples)
    measured = min(MEASURED_EXAMPLES, examples) + min(VALIDATED_EXAMPLES, validation)
    return max(1, min(8, trained // (10 * measured), steps // 50))


def same_module(first: nn.Module, second: nn.Module) -> bool:
    """Whether two models that should be fresh share a parameter."""
    held = {p.data_ptr() for p in first.parameters()} - {0}
    return first is second or any(p.data_ptr() in held for p in second.parameters())
