"""What quantization did to an encoder's attention: per head, per layer and per arm of a study."""

from __future__ import annotations

from dataclasses import dataclass, field

from fractionate.records.base import Record
from fractionate.records.findings import Finding
from fractionate.records.measures import Interval, Matrix


@dataclass(frozen=True)
class ArmAttention(Record):
    """How one variant's attention maps differ from the teacher's: means over seeds by layer and head, and over all heads.

    Args:
        arm: The variant.
        seeds: How many seeds the means are over.
        ranking_loss: [layers][heads] ranking loss of the maps against the teacher's.
        cover_length_ratio: [layers][heads] cover length over the teacher's.
        ranking_mean: Mean ranking loss over all heads and seeds.
        cover_mean: The same of the cover length ratio.
        ranking_interval: 95 % t interval of `ranking_mean` over seeds; None for one seed.
        cover_interval: The same of `cover_mean`.
        sharpness: Largest eigenvalue of the Hessian of the task loss; None where it was not measured.
    """

    arm: str
    seeds: int
    ranking_loss: Matrix
    cover_length_ratio: Matrix
    ranking_mean: float
    cover_mean: float
    ranking_interval: Interval | None = None
    cover_interval: Interval | None = None
    sharpness: float | None = None

    def __str__(self) -> str:
        ranking, cover = (f" {i}" if i else "" for i in (self.ranking_interval, self.cover_interval))
        return (
            f"{self.arm:<28} ranking loss {self.ranking_mean:.3f}{ranking}, cover length {self.cover_mean:.3f}{cover}"
        )


@dataclass(frozen=True)
class AttentionStudy(Record):
    """A study of quantized encoders: what became of their attention, which layers are sensitive, which term the task needs.

    Args:
        name: What the page calls the study.
        quantization: How the students were quantized.
        attention_arms: The variants; the first is what was quantized without training.
        sensitivity: KL in nats of quantizing one block alone, layer by layer.
        attention_sensitivity: The same of its attention alone.
        finding: What is advised, and why.
        recipe: The terms that are advised.
        settings: Of the study, by name.
    """

    name: str
    quantization: str
    attention_arms: tuple[ArmAttention, ...]
    sensitivity: tuple[float, ...] = ()
    attention_sensitivity: tuple[float, ...] = ()
    finding: Finding | None = None
    recipe: str = ""
    settings: dict[str, str | float | int | bool | None] = field(default_factory=dict)

    def __str__(self) -> str:
        entries = [self.finding.summary] if self.finding else []
        return "\n".join([f"{self.name}, {self.quantization}", *entries, *(f"  {arm}" for arm in self.attention_arms)])
