"""The run file as a whole, and its keys by place. No torch here."""

from __future__ import annotations

from typing import Any

from pydantic import Field, ValidationInfo, field_validator

from fractionate.run.sections import (
    LARGEST_SEED,
    CollectSection,
    ContradictionError,
    DataSection,
    DiagnosisSection,
    DistillSection,
    ExportSection,
    Names,
    ObjectiveSection,
    ReportSection,
    Section,
    StudentSection,
    StudySection,
    TeacherSection,
    TrainingSection,
    checked_path,
)


class RunFile(Section):
    """A whole run: teacher, student and data, what to measure, where to write.

    Each section is described in the reference of the run file.

    Args:
        name: What the report calls this run.
        out: The folder everything is written to.
        seed: Of the student that is distilled for real.
        task: The kind of task.
        metrics: The metrics that judge; the first decides.
        data: Where examples come from and how they are split.
        teacher: The model, its weights, and its training where it is trained here.
        collect: How the teacher's outputs are stored.
        student: The model and its preparations.
        diagnosis: Pilot and thresholds.
        objective: The loss on the teacher's outputs; left out, the recommended one.
        terms: Further losses.
        transforms: Of the transfer set.
        training: Steps, batch size, learning rate.
        study: Variants and seeds.
        distill: Precision, evaluation, checkpoints.
        export: What is written of the student.
        report: Settings of the page.

    Example:
        from fractionate.run import RunFile, Workflow
        run = RunFile(out="runs/digits", data={"source": "digits", "transfer": 100}, study={"seeds": 3})
        print(Workflow(run).out)  # .diagnosis, .study, .student and .report() make what they need
    """

    name: str = Field("run", min_length=1, max_length=80, description="what the report calls this run")
    out: str = Field("runs/run", description="the folder for everything that is written; ~ is your home folder")
    seed: int = Field(0, ge=0, le=LARGEST_SEED, description="seed of the student that is exported")
    task: str = Field(
        "classification",
        description="the kind of task: classification (text-classification is the same), token-classification, "
        "language-modelling, translation, multi-label, regression, embeddings, reranking",
    )
    metrics: Names = Field((), description="the metrics that judge, the first decides; empty: those of the task")
    data: DataSection = DataSection()
    teacher: TeacherSection = TeacherSection()
    collect: CollectSection = CollectSection()
    student: StudentSection = StudentSection()
    diagnosis: DiagnosisSection = DiagnosisSection()
    objective: ObjectiveSection | None = None
    terms: Names = Field((), description="further losses next to the objective: map, fitnets('0', '0', weight=0.5)")
    transforms: Names = Field((), description="of the transfer set: augment(crop=2), on_policy(0.5), sequence_level()")
    training: TrainingSection = TrainingSection()
    study: StudySection = StudySection()
    distill: DistillSection = DistillSection()
    export: ExportSection = ExportSection()
    report: ReportSection = ReportSection()

    @field_validator("out")
    @classmethod
    def _a_folder(cls, value: str) -> str | None:
        return checked_path(value, "out")

    @field_validator("distill")
    @classmethod
    def _fits_training(cls, value: DistillSection, info: ValidationInfo) -> DistillSection:
        training, message = info.data.get("training"), {}
        if training is None:  # its own faults are reported already
            return value
        if value.micro_batch_size is not None and value.micro_batch_size > training.batch_size:
            message["micro_batch_size"] = (
                f"{value.micro_batch_size} is more than training.batch_size, {training.batch_size}"
            )
        for key in ("evaluate_every", "save_every_steps", "log_every"):
            every = getattr(value, key)
            if every is not None and training.steps is not None and every > training.steps:
                message[key] = f"{every} never comes within training.steps, {training.steps}"
        if message:
            raise ContradictionError(message)
        return value


def known_keys(place: tuple[str | int, ...] = ()) -> list[str]:
    """The keys a section of the run file may have."""
    section = section_at(place)
    return [] if section is None else list(section.model_fields)


def section_at(place: tuple[str | int, ...]) -> type[Section] | None:
    """The section at a place of the run file; below a mapping of sections, each name has one."""
    section: type[Section] | None = RunFile
    steps = list(place)
    while steps and section is not None:
        field = section.model_fields.get(str(steps.pop(0)))
        if field is None:
            return None
        section, named = _section_in(field.annotation)
        if named and steps:
            steps.pop(0)
        elif named:
            return None
    return section


def _section_in(annotation: Any) -> tuple[type[Section] | None, bool]:
    """The section that an annotation speaks of, and whether it is one for each name of a mapping."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation, False
    options = getattr(annotation, "__args__", ())
    for option in options:
        found, _ = _section_in(option)
        if found is not None:
            return found, getattr(annotation, "__origin__", None) is dict or _section_in(option)[1]
    return None, False


def all_keys(place: tuple[str | int, ...] = ()) -> list[str]:
    """Every key of the run file, dotted.

    Args:
        place: The section to start from; () is the file.

    Returns:
        Keys in the order of the file; of a mapping of sections, with NAME for its names.

    Example:
        from fractionate.run import all_keys

        print(all_keys(("teacher",)))
    """
    found = []
    for key in known_keys(place):
        section, named = _section_in(section_at(place).model_fields[key].annotation)  # type: ignore[union-attr]
        below = all_keys((*place, key, *(["NAME"] * named))) if section is not None else []
        found += below or [".".join(map(str, (*place, key)))]
    return found
