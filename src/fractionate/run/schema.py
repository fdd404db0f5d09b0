"""The sections of a run file: every setting with its meaning, its default and what it may be. No torch here."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from fractionate.errors import ConfigError
from fractionate.system.paths import as_path

LARGEST_SEED = 2**53 - 1  # every generator takes it, every reader of JSON keeps it
MOST = 10**9  # examples or steps
MOST_STUDENTS = 100_000


def _warm(value: float) -> float:
    if value < 1e-6:
        raise ValueError("temperatures below 1e-6 leave no numbers: the logits are divided by them")
    return value


Temperature = Annotated[float, Field(gt=0, le=1e3), AfterValidator(_warm)]
Weight = Annotated[float, Field(ge=0, le=1)]
Rate = Annotated[float, Field(gt=0, le=1e3)]


class Section(BaseModel):
    """A part of the run file: unknown keys are refused, and so is a yes or no in the place of a number."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, bool) and cls.model_fields[str(info.field_name)].annotation is not bool:
            raise ValueError("this is not a yes-or-no setting")
        return value


def _path(value: str | None, what: str) -> str | None:
    """A path as it will be opened, its home folder written out."""
    try:
        return None if value is None else str(as_path(value, what))
    except ConfigError as error:
        raise ValueError(error.what + (f"; {error.fix}" if error.fix else f", got {error.got}")) from None


class DataSection(Section):
    """Which data, and how many examples each part gets (a part left out takes a fifth)."""

    source: str = Field(
        "digits",
        description="a bundled data set, files of yours (table('x.csv', label='y'), pictures, texts, saved), or "
        "package.module:function giving Examples or Parts",
    )
    transfer: int | None = Field(None, ge=1, le=MOST, description="examples the student learns from")
    validation: int | None = Field(None, ge=1, le=MOST, description="examples that choose settings")
    test: int | None = Field(None, ge=1, le=MOST, description="examples read once, for the report")
    seed: int = Field(0, ge=0, le=LARGEST_SEED, description="seed of the split")


class TeacherSection(Section):
    """The teacher: a network with weights from a file, or trained here on the data."""

    model: str = Field("mlp(256, 256)", description="a bundled model, or package.module:function giving an nn.Module")
    weights: str | None = Field(
        None, description="a .safetensors file (or a tensors-only .pt) to load; none: train here"
    )

    @field_validator("weights")
    @classmethod
    def _a_file(cls, value: str | None) -> str | None:
        return _path(value, "teacher.weights")

    train_on: Literal["teaching", "transfer"] = Field(
        "teaching", description="the part a teacher trained here learns from"
    )
    steps: int = Field(300, ge=1, le=MOST, description="optimiser steps of a teacher trained here")
    learning_rate: Rate = Field(2e-3, description="AdamW learning rate of a teacher trained here")
    weight_decay: float = Field(0.05, ge=0, le=1e3, description="AdamW weight decay of a teacher trained here")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="smooths the labels a teacher trained here sees")
    seed: int = Field(0, ge=0, le=LARGEST_SEED, description="seed of a teacher trained here")


class StudentSection(Section):
    """The student: a fresh network."""

    model: str = Field("mlp(24)", description="a bundled model, or package.module:function giving an nn.Module")


class ObjectiveSection(Section):
    """The loss contract; leave the whole section out to take the recipe that diagnose recommends."""

    cell: str = Field("kd", description="the target: a cell by name, or 'confidence * shape'")
    temperature: Temperature = Field(4.0, description="tempers teacher and student alike")
    teacher_weight: Weight = Field(0.9, description="weight of the teacher term; the label has the rest")
    divergence: str = Field("cross-entropy", description="how far the student is from the target")
    scale_by_temperature_squared: bool = Field(True, description="multiply the teacher term by temperature squared")


class TrainingSection(Section):
    """How long and how fast students are trained: steps, or epochs."""

    steps: int | None = Field(None, ge=1, le=MOST, description="optimiser steps")
    epochs: float | None = Field(None, gt=0, le=1e6, description="passes over the transfer data, in place of steps")
    batch_size: int = Field(32, ge=1, le=MOST, description="examples a step")
    learning_rate: Rate = Field(5e-3, description="the largest learning rate of the schedule")
    optimizer: Literal["adamw", "sgd"] = Field("adamw", description="sgd: Nesterov momentum 0.9")
    weight_decay: float = Field(0.0, ge=0, le=1e3, description="decoupled for adamw, L2 for sgd")
    schedule: Literal["cosine", "constant", "tenths"] = Field("cosine", description="how the learning rate falls")
    warmup_share: float = Field(0.0, ge=0, le=1, description="share of the steps in which the learning rate rises")

    @model_validator(mode="after")
    def _one_length(self) -> TrainingSection:
        if self.steps is not None and self.epochs is not None:
            raise ValueError("give steps or epochs, not both")
        return self


LADDER = (
    "hard", "ls", "class-mean", "kd-pt", "kd-sim", "kd-pt+sim", "kd-topk", "kd", "kd-pt-shuffled", "class-mean-permuted",
)  # fmt: skip


class TuneSection(Section):
    """What is tried for each arm before the study, chosen on validation data; the same number of tries for every arm."""

    temperatures: tuple[Temperature, ...] = Field((1.0, 4.0), min_length=1, description="tried for every arm but hard")
    teacher_weights: tuple[Weight, ...] = Field((0.5, 0.9), min_length=1, description="tried for every arm but hard")
    learning_rates: tuple[Rate, ...] = Field((), description="tried for every arm; empty: that of training")
    seeds: int = Field(1, ge=1, le=1000, description="students a setting, with seeds of their own")


class StudySection(Section):
    """The study that dissect runs: every cell at every temperature and weight, over seeds."""

    cells: tuple[str, ...] = Field(LADDER, min_length=1, description="the arms; hard is the student without a teacher")
    temperatures: tuple[Temperature, ...] = Field((1.0,), min_length=1, description="every cell is tried at each")
    teacher_weights: tuple[Weight, ...] = Field((0.9,), min_length=1, description="every cell is tried at each")
    seeds: int = Field(5, ge=2, le=10_000, description="students an arm; the same seeds for every arm")
    metric: str = Field("accuracy", min_length=1, description="what a gain is counted in; one of the task's metrics")
    margin: float | None = Field(
        None, gt=0, le=1e6,
        description="differences smaller than this count as equal, in the metric's unit; none: the metric's own",
    )  # fmt: skip
    shares: tuple[Annotated[float, Field(gt=0, le=1)], ...] | None = Field(
        None, min_length=1, description="parts of the data; every cell is tried with each"
    )
    learning_rates: tuple[Rate, ...] | None = Field(None, min_length=1, description="every cell is tried at each")
    divergences: tuple[str, ...] | None = Field(None, min_length=1, description="every cell is tried with each")
    tune: TuneSection | None = Field(None, description="settings tried for each arm before the study; none: not tuned")

    @field_validator("cells", mode="before")
    @classmethod
    def _several(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _can_be_trained(self) -> StudySection:
        factors = (
            self.cells,
            self.temperatures,
            self.teacher_weights,
            self.shares,
            self.learning_rates,
            self.divergences,
        )
        arms = math.prod(len(factor) for factor in factors if factor)
        students = arms * self.seeds
        if self.tune is not None:
            grid = (self.tune.temperatures, self.tune.teacher_weights, self.tune.learning_rates)
            students += arms * math.prod(len(factor) for factor in grid if factor) * self.tune.seeds
        if students > MOST_STUDENTS:
            raise ValueError(f"{students:,} students in all; at most {MOST_STUDENTS:,}")
        return self


class DiagnosisSection(Section):
    """What diagnose may spend on its recipe."""

    pilot_minutes: float = Field(0.0, ge=0, le=1e6, description="a pilot of this length refines the recipe; 0: none")


class ContradictionError(ValueError):
    """Settings of a section that cannot be combined with others: why, by key."""

    def __init__(self, by_key: dict[str, str]) -> None:
        super().__init__("; ".join(f"{key}: {why}" for key, why in by_key.items()))
        self.by_key = by_key


class DistillSection(Section):
    """What `distill` alone takes beside `training`: the loop of the one student that is trained for real."""

    precision: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="of the forward and backward pass; weights and losses stay float32"
    )
    micro_batch_size: int | None = Field(
        None, ge=1, description="at most so many examples at once on a device; the step stays training.batch_size"
    )
    clip_norm: float | None = Field(None, gt=0, description="the gradient's norm is cut to this")
    average_decay: float | None = Field(
        None, gt=0, lt=1, description="the student is the running average of the weights, with this decay a step"
    )
    evaluate_every: int | None = Field(
        None, ge=1, description="steps between looks at the validation data; none: an epoch where a look is needed"
    )
    patience: int | None = Field(None, ge=1, description="stop after so many looks without a better one")
    keep: Literal["last", "best"] = Field(
        "last", description="which weights become the student; best: by validation accuracy, then NLL"
    )
    loss_from: Literal["logits", "hidden"] = Field(
        "logits",
        description="hidden: losses from hidden states, without [rows, classes] logits; for large vocabularies",
    )
    recompute: tuple[str, ...] = Field(
        (), description="paths of modules, with *, that keep no activations and compute them again"
    )
    compile_mode: Literal["default", "reduce-overhead", "max-autotune"] | None = Field(
        None, description="train through torch.compile in this mode"
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: a GPU where torch sees one")
    parallel: Literal["copies", "shards"] = Field(
        "copies", description="what the processes of torchrun hold of the student: copies (DDP) or shards (FSDP2)"
    )
    save_every_seconds: float = Field(60.0, ge=0, le=1e9, description="seconds between checkpoints")
    save_every_steps: int | None = Field(
        None, ge=1, le=MOST, description="steps between checkpoints, beside those by time"
    )
    log_every: int | None = Field(None, ge=1, description="steps between rows of metrics.jsonl; none: a hundred rows")
    trackers: tuple[Literal["tensorboard", "wandb", "trackio", "mlflow"], ...] = Field(
        (), description="who is told the rows of metrics.jsonl too"
    )

    @field_validator("recompute", "trackers", mode="before")
    @classmethod
    def _several(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value


class ExportSection(Section):
    """How the student is handed over, beside model.safetensors, config.json and README.md."""

    program: bool = Field(True, description="model.pt2, the program of torch.export, checked against the student")
    onnx: bool = Field(False, description="model.onnx, checked with ONNX Runtime (extra: export)")
    licence: str = Field("", max_length=80, description="the student's licence, as the hub names it: apache-2.0")
    data: str = Field(
        "", max_length=2000, description="what the model card says of the data; empty: their name and size"
    )


class RunFile(Section):
    """A whole run: teacher, student and data, what to measure, where to write."""

    name: str = Field("run", min_length=1, max_length=80, description="what the report calls this run")
    out: str = Field("runs/run", description="the folder everything is written to; ~ is your home folder")
    seed: int = Field(0, ge=0, le=LARGEST_SEED, description="seed of the student that is distilled for real")
    data: DataSection = DataSection()
    teacher: TeacherSection = TeacherSection()
    student: StudentSection = StudentSection()
    diagnosis: DiagnosisSection = DiagnosisSection()
    objective: ObjectiveSection | None = None
    training: TrainingSection = TrainingSection()
    study: StudySection = StudySection()
    distill: DistillSection = DistillSection()
    export: ExportSection = ExportSection()

    @field_validator("out")
    @classmethod
    def _a_folder(cls, value: str) -> str | None:
        return _path(value, "out")

    @field_validator("distill")
    @classmethod
    def _fits_training(cls, value: DistillSection, info: ValidationInfo) -> DistillSection:
        training, told = info.data.get("training"), {}
        if training is None:  # its own faults are told already
            return value
        if value.micro_batch_size is not None and value.micro_batch_size > training.batch_size:
            told["micro_batch_size"] = (
                f"{value.micro_batch_size} is more than training.batch_size, {training.batch_size}"
            )
        for key in ("evaluate_every", "save_every_steps", "log_every"):
            every = getattr(value, key)
            if every is not None and training.steps is not None and every > training.steps:
                told[key] = f"{every} never comes within training.steps, {training.steps}"
        if told:
            raise ContradictionError(told)
        return value


def known_keys(place: tuple[str | int, ...] = ()) -> list[str]:
    """The keys a section of the run file may have."""
    section: Any = RunFile
    for step in place:
        section = section_of(section, str(step))
        if section is None:
            return []
    return list(section.model_fields)


def section_of(section: Any, key: str) -> Any:
    """The section behind a key, or None."""
    annotation = section.model_fields[key].annotation if key in section.model_fields else None
    options = [annotation, *getattr(annotation, "__args__", ())]
    return next((o for o in options if isinstance(o, type) and issubclass(o, Section)), None)


def all_keys(place: tuple[str | int, ...] = ()) -> list[str]:
    """Every key of the run file, dotted."""
    found = []
    for key in known_keys(place):
        below = all_keys((*place, key))
        found += below or [".".join(map(str, (*place, key)))]
    return found
