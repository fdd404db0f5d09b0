"""What quantization did to an encoder's attention: per head, per layer and per arm of a study."""

from __future__ import annotations

from dataclasses import dataclass, field

from fractionate.records.base import Record
from fractionate.records.knowledge import Finding
from fractionate.records.measures import Interval, Matrix


@dataclass(frozen=True)
class ArmAttention(Record):
    """How one arm's maps differ from the teacher's: layers × heads, means over seeds; the means over all heads with intervals."""

    arm: str
    seeds: int
    ranking_loss: Matrix
    cover_length_ratio: Matrix
    ranking_mean: float
    cover_mean: float
    ranking_interval: Interval | None = None
    cover_interval: Interval | None = None
    sharpness: float | None = None  # largest eigenvalue of the Hessian of the task loss

    def __str__(self) -> str:
        ranking, cover = (f" {i}" if i else "" for i in (self.ranking_interval, self.cover_interval))
        return (
            f"{self.arm:<28} ranking loss {self.ranking_mean:.3f}{ranking}, cover length {self.cover_mean:.3f}{cover}"
        )


@dataclass(frozen=True)
class AttentionStudy(Record):
    """Arms of a study of quantized encoders: what became of their attention, which layers are sensitive, which term the task needs.

    `attention_arms` starts with what was quantized without training. `sensitivity` is the KL in nats of quantizing one block
    alone, `attention_sensitivity` of its attention alone.
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
