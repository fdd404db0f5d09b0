"""The sections of a run file: every setting with its meaning, its default and what it may be. No torch here."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from fractionate.errors import ConfigError
from fractionate.records import Training
from fractionate.study.pilot_arms import LEAST_TRAININGS
from fractionate.system.paths import as_path

LARGEST_SEED = 2**53 - 1  # every generator takes it, every reader of JSON keeps it
MOST = 10**9  # examples or steps
MOST_STUDENTS = 100_000


def _warm(value: float) -> float:
    if value < 1e-6:
        raise ValueError("temperatures below 1e-6 leave no numbers: the logits are divided by them")
    return value


PLAIN = Training()  # the defaults of Python are those of run files
Temperature = Annotated[float, Field(gt=0, le=1e3), AfterValidator(_warm)]
Weight = Annotated[float, Field(ge=0, le=1)]
Rate = Annotated[float, Field(gt=0, le=1e3)]


def _one(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


Names = Annotated[tuple[str, ...], BeforeValidator(_one)]


class ContradictionError(ValueError):
    """Settings of a section that cannot be combined with others: why, by key."""

    def __init__(self, by_key: dict[str, str]) -> None:
        super().__init__("; ".join(f"{key}: {why}" for key, why in by_key.items()))
        self.by_key = by_key


class Section(BaseModel):
    """A part of the run file: unknown keys are refused, and so is a yes or no in the place of a number."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, bool) and cls.model_fields[str(info.field_name)].annotation is not bool:
            raise ValueError("this is not a yes-or-no setting")
        return value


def checked_path(value: str | None, what: str) -> str | None:
    """A path as it will be opened, its home folder written out."""
    try:
        return None if value is None else str(as_path(value, what))
    except ConfigError as error:
        raise ValueError(error.what + (f"; {error.fix}" if error.fix else f", got {error.got}")) from None


def _size(value: Any) -> Any:
    count = isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MOST
    if value is None or count or (isinstance(value, float) and 0 < value < 1):
        return value
    if isinstance(value, float) and value.is_integer() and 1 <= value <= MOST:
        return int(value)
    raise ValueError(f"expected a count of examples from 1 to {MOST:,}, or a share between 0 and 1")


Size = Annotated[int | float, BeforeValidator(_size)]


class DataSection(Section):
    """Which data, and how many examples each part gets: a count, a share below 1, or nothing for a fifth."""

    source: str = Field(
        "digits",
        description="a bundled data set, your own files (table('x.csv', label='y'), pictures, texts, tagged, prompts, pairs, "
        "similar, queries, saved), or package.module:function giving Examples, Parts or a Task",
    )
    transfer: Size | None = Field(
        None, description="examples the student learns from: a count, or a share below 1; none: a fifth"
    )
    validation: Size | None = Field(None, description="examples on which settings are chosen; a count or share")
    test: Size | None = Field(None, description="examples read once, for the report; a count or share")
    seed: int = Field(0, ge=0, le=LARGEST_SEED, description="seed of the split")
    length: int = Field(128, ge=1, le=1_000_000, description="the most tokens of a text, for models with a tokenizer")


class TeacherTrainingSection(Section):
    """How a teacher is trained here, on the labels."""

    on: Literal["teaching", "transfer"] = Field("teaching", description="the part that it is trained on")
    steps: int = Field(300, ge=1, le=MOST, description="optimizer steps")
    batch_size: int = Field(64, ge=1, le=MOST, description="examples per step")
    learning_rate: Rate = Field(2e-3, description="AdamW learning rate")
    weight_decay: float = Field(0.05, ge=0, le=1e3, description="AdamW weight decay")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="smooths its labels")
    seed: int = Field(0, ge=0, le=LARGEST_SEED, description="seed of its weights and order")


SHORT = {"train_on": "on"} | {name: name for name in TeacherTrainingSection.model_fields if name != "on"}


class TeacherSection(Section):
    """The teacher. One that comes with weights is used as it is; a fresh bundled network is trained here on the labels.

    The settings of `train` may be written without it: {model: mlp(64), steps: 100}.
    """

    model: str = Field(
        "mlp(256, 256)",
        description="a bundled model, hf('folder or hub name'), timm, torchvision, onnx('file'), sklearn('file.skops'), "
        "answers('file.jsonl'), fitted('RandomForestClassifier'), prompted('folder or hub name', …), or package.module:function "
        "giving an nn.Module",
    )
    weights: str | None = Field(
        None, description="a .safetensors file (or a tensors-only .pt) to load into the model; none: its own"
    )
    prepare: Names = Field((), description="changes to the model before training: explaining(((0, 1), (2, 3)))")
    head: str | None = Field(
        None, description="where the logits are in the output of the model; none: found automatically"
    )
    train: TeacherTrainingSection | None = Field(
        None, description="train it here, also where it has weights; none: only a fresh bundled network is trained"
    )

    @model_validator(mode="before")
    @classmethod
    def _short(cls, given: Any) -> Any:
        short = [key for key in given if key in SHORT] if isinstance(given, dict) else []
        if not short:
            return given
        if given.get("train") is not None:
            raise ContradictionError(dict.fromkeys(short, "cannot be combined with train; put it into train"))
        rest = {key: value for key, value in given.items() if key not in short}
        return rest | {"train": {SHORT[key]: given[key] for key in short}}

    @field_validator("weights")
    @classmethod
    def _a_file(cls, value: str | None) -> str | None:
        return checked_path(value, "teacher.weights")


class CollectSection(Section):
    """How the teacher's outputs are stored."""

    form: Literal["dense", "top-k", "sampled", "hidden"] = Field(
        "dense",
        description="dense: all logits of a row; top-k: the k largest; sampled: k drawn; hidden: what enters the output layer",
    )
    features: Names = Field((), description="paths of layers whose outputs are stored, for terms that read them")
    k: int = Field(0, ge=0, le=1_000_000, description="entries of a row for top-k and sampled")
    dtype: Literal["float32", "float16", "bfloat16"] = Field("float32", description="of the stored logits")
    temperatures: tuple[Temperature, ...] = Field(
        (1.0,),
        min_length=1,
        description="at which the mass of the entries left out is stored (top-k); objectives use these",
    )
    batch_size: int = Field(256, ge=1, le=MOST, description="examples a forward pass")
    precision: Literal["float32", "bfloat16", "float16"] = Field("float32", description="in which the teacher computes")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: a GPU if torch finds one")


class StudentSection(Section):
    """The student: a fresh network."""

    model: str = Field(
        "mlp(24)",
        description="a bundled model, hf('name', layers=2), timm, torchvision, or package.module:function giving a module",
    )
    prepare: Names = Field(
        (),
        description="changes to it before training, in order: quantize(2, 8), lora(8), from_teacher(layers='every 2')",
    )


class ObjectiveSection(Section):
    """The loss contract; leave the whole section out to take the recipe that diagnose recommends."""

    cell: str = Field("kd", description="the target: a cell by name, or 'confidence * shape'")
    temperature: Temperature | None = Field(
        None, description="tempers teacher and student alike; left out: 4, and 1 for hard and ls"
    )
    teacher_weight: Weight | None = Field(
        None, description="weight of the teacher term; the label has the rest; left out: 0.9, for hard 0, for ls 1"
    )
    divergence: str = Field("cross-entropy", description="how far the student is from the target")
    scale_by_temperature_squared: bool = Field(True, description="multiply the teacher term by temperature squared")


class TrainingSection(Section):
    """How long and how fast students are trained: steps, or epochs; 30 epochs where neither is given. Defaults: `Training`'s."""

    steps: int | None = Field(None, ge=1, le=MOST, description="optimiser steps")
    epochs: float | None = Field(None, gt=0, le=1e6, description="passes over the transfer data, in place of steps")
    batch_size: int = Field(PLAIN.batch_size, ge=1, le=MOST, description="examples per step")
    learning_rate: Rate = Field(PLAIN.learning_rate, description="the largest learning rate of the schedule")
    optimizer: Literal["adamw", "sgd", "momentum"] = Field(
        PLAIN.optimizer, description="sgd: Nesterov momentum 0.9; momentum: plain momentum 0.9"
    )
    weight_decay: float = Field(PLAIN.weight_decay, ge=0, le=1e3, description="decoupled for adamw, L2 for sgd")
    schedule: Literal["cosine", "constant", "tenths", "thirds"] = Field(
        PLAIN.schedule,
        description="how the learning rate falls; tenths: × 0.1 at 5/8, 6/8, 7/8 of the steps; thirds: at 1/3, 2/3",
    )
    warmup_share: float = Field(
        PLAIN.warmup_share, ge=0, le=1, description="share of the steps in which the learning rate rises"
    )

    @model_validator(mode="after")
    def _one_length(self) -> TrainingSection:
        if self.steps is not None and self.epochs is not None:
            raise ValueError("give steps or epochs, not both")
        return self


LADDER = (
    "hard", "ls", "class-mean", "kd-pt", "kd-sim", "kd-pt+sim", "kd-topk", "kd", "kd-pt-shuffled", "class-mean-permuted",
)  # fmt: skip


class TuneSection(Section):
    """What is tried for each variant before the study, chosen on validation data; as many tries for each."""

    temperatures: tuple[Temperature, ...] = Field(
        (1.0, 4.0), min_length=1, description="tried for every variant but hard"
    )
    teacher_weights: tuple[Weight, ...] = Field(
        (0.5, 0.9), min_length=1, description="tried for every variant but hard"
    )
    learning_rates: tuple[Rate, ...] = Field((), description="tried for every variant; empty: that of training")
    seeds: int = Field(1, ge=1, le=1000, description="students of each setting, with seeds of their own")


FACTORS = ("cells", "temperatures", "teacher_weights", "shares", "learning_rates", "divergences", "students")


class ArmSection(Section):
    """A variant of the study by name: what is left out is that of the run file, objective and terms excepted."""

    objective: ObjectiveSection | None = Field(
        None, description="what is learned from the teacher's outputs; none: labels"
    )
    terms: Names = Field((), description="further losses: map, fitnets('0', '0', weight=0.5)")
    transforms: Names = Field((), description="of the transfer set: augment(crop=2), on_policy(0.5)")
    prepare: Names | None = Field(None, description="changes to the student; none: those of student.prepare")
    training: TrainingSection | None = Field(None, description="none: the run file's")
    share: float = Field(1.0, gt=0, le=1, description="share of the transfer set")
    placebo_of: str = Field("", description="the variant whose control this is")


class StudySection(Section):
    """The study that dissect runs: variants by name, or every cell at every temperature and weight; over seeds."""

    arms: dict[str, ArmSection] | None = Field(
        None, min_length=2, description="variants by name, in place of cells and their factors"
    )
    students: dict[str, Names] | None = Field(
        None,
        min_length=2,
        description="sizes by name, each with the preparations of its student; every cell is tried at each",
    )
    cells: Names = Field(LADDER, min_length=1, description="the variants by their target; hard: no teacher")
    temperatures: tuple[Temperature, ...] = Field((1.0,), min_length=1, description="every cell is tried at each")
    teacher_weights: tuple[Weight, ...] = Field((0.9,), min_length=1, description="every cell is tried at each")
    seeds: int = Field(5, ge=2, le=10_000, description="students of each variant; the same seeds for all")
    metric: str = Field("", description="the metric in which gains are measured; empty: the first of the task")
    margin: float | None = Field(
        None, gt=0, le=1e6,
        description="smaller differences count as equal, in the metric's unit; none: the metric's default",
    )  # fmt: skip
    shares: tuple[Annotated[float, Field(gt=0, le=1)], ...] | None = Field(
        None, min_length=1, description="parts of the data; every cell is tried with each"
    )
    learning_rates: tuple[Rate, ...] | None = Field(None, min_length=1, description="every cell is tried at each")
    divergences: tuple[str, ...] | None = Field(None, min_length=1, description="every cell is tried with each")
    tune: TuneSection | None = Field(
        None, description="settings tried for each variant before the study; none: not tuned"
    )

    @model_validator(mode="after")
    def _can_be_trained(self) -> StudySection:
        if self.arms is not None:
            given_too = sorted(self.model_fields_set & set(FACTORS))
            if given_too:
                raise ContradictionError(dict.fromkeys(given_too, "cannot be combined with arms; put it into the arms"))
        factors = (getattr(self, name) for name in FACTORS)
        arms = len(self.arms or ()) or math.prod(len(factor) for factor in factors if factor)
        students = arms * self.seeds
        if self.tune is not None:
            grid = (self.tune.temperatures, self.tune.teacher_weights, self.tune.learning_rates)
            students += arms * math.prod(len(factor) for factor in grid if factor) * self.tune.seeds
        if students > MOST_STUDENTS:
            raise ValueError(f"{students:,} students in all; at most {MOST_STUDENTS:,}")
        return self


class DiagnosisSection(Section):
    """What diagnose may spend on trying recipes before it recommends one."""

    pilot: float | None = Field(
        None,
        ge=0,
        le=1e6,
        description="most whole trainings that a pilot may cost: 110 where quick, else 50; fewer are less sure; 0: none",
    )
    pilot_minutes: float = Field(
        10.0, gt=0, le=1e6, description="ends a pilot early, which then uses its results so far"
    )

    @field_validator("pilot")
    @classmethod
    def _large_enough(cls, trainings: float | None) -> float | None:
        if trainings is not None and 0 < trainings < LEAST_TRAININGS:
            raise ValueError(f"a pilot takes at least {LEAST_TRAININGS} trainings; 0 is none")
        return trainings


class DistillSection(Section):
    """What `distill` alone takes in addition to `training`: the loop of the one student that is trained for real."""

    precision: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="of the forward and backward pass; weights and losses stay float32"
    )
    micro_batch_size: int | None = Field(
        None, ge=1, description="the most examples at once on a device; the step still has training.batch_size"
    )
    clip_norm: float | None = Field(None, gt=0, description="the norm that the gradient is clipped to")
    average_decay: float | None = Field(
        None, gt=0, lt=1, description="the student is the running average of the weights, with this decay per step"
    )
    evaluate_every: int | None = Field(
        None, ge=1, description="steps between evaluations on validation data; none: an epoch where one is needed"
    )
    patience: int | None = Field(None, ge=1, description="stop after this many evaluations without improvement")
    keep: Literal["last", "best"] = Field(
        "last", description="which weights become the student; best: by validation accuracy, then NLL"
    )
    loss_from: Literal["logits", "hidden"] = Field(
        "logits",
        description="hidden: losses from hidden states, without [rows, classes] logits; for large vocabularies",
    )
    recompute: Names = Field(
        (), description="paths of modules, with *, whose activations are recomputed in the backward pass"
    )
    compile_mode: Literal["default", "reduce-overhead", "max-autotune"] | None = Field(
        None, description="train through torch.compile in this mode"
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: a GPU if torch finds one")
    parallel: Literal["copies", "shards"] = Field(
        "copies", description="how torchrun's processes hold the student: copies (DDP) or shards (FSDP2)"
    )
    save_every_seconds: float = Field(60.0, ge=0, le=1e9, description="seconds between checkpoints")
    save_every_steps: int | None = Field(
        None, ge=1, le=MOST, description="steps between checkpoints, in addition to those by time"
    )
    log_every: int | None = Field(None, ge=1, description="steps between rows of metrics.jsonl; none: a hundred rows")
    trackers: Annotated[tuple[Literal["tensorboard", "wandb", "trackio", "mlflow"], ...], BeforeValidator(_one)] = (
        Field((), description="trackers that also get the rows of metrics.jsonl")
    )


class ExportSection(Section):
    """How the student is exported, in addition to model.safetensors, config.json and README.md."""

    program: bool = Field(True, description="model.pt2, the program of torch.export, checked against the student")
    onnx: bool = Field(False, description="model.onnx, checked with ONNX Runtime (extra: export)")
    licence: str = Field("", max_length=80, description="the student's licence by its name on the hub: apache-2.0")
    data: str = Field("", max_length=2000, description="the model card's description of the data; empty: name and size")


class ReportSection(Section):
    """What the page shows in addition to figures."""

    examples: Literal["none", "ids", "show"] = Field(
        "none",
        description="test examples where teacher and student are unsure, wrong or apart: by id alone, or in full",
    )
