"""Where a training stands: the numbers and tensors that a checkpoint holds, and the record that comes of them at the end."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from fractionate.models.weights import load_weights
from fractionate.records import MetricInfo, Point, Scores
from fractionate.training.checkpoint import (
    Checkpoint,
    optimizer_tensors,
    random_state,
    restore_optimizer,
    restore_random_state,
)
from fractionate.training.distributed import World
from fractionate.training.run_folder import Settings
from fractionate.training.tracking import Row


@dataclass
class TrainState:
    """The numbers of a training: all that is not a tensor and not requested."""

    step: int = 0
    loss_sum: float = 0.0  # of the steps since the last row of the metrics
    loss_steps: int = 0
    seen: int = 0  # examples, over all epochs
    order: str = ""  # a rolling hash of the places of all examples seen, in their order
    seconds: float = 0.0  # of the processes before this one
    metrics_bytes: int = 0
    without_better: int = 0
    best_step: int | None = None
    best: dict[str, Any] | None = None  # the validation scores of the best evaluation
    evaluation_due: bool = False  # at this step, and not yet taken
    ended: bool = False  # by patience, before the last step

    def better(self, scores: Scores, metrics: Sequence[MetricInfo]) -> bool:
        """Whether these scores are better than the best so far, by the first metric, then by the second."""
        if self.best is None:
            return True
        best = Scores(**self.best)
        return _rank(scores, metrics) > _rank(best, metrics)


def _rank(scores: Scores, metrics: Sequence[MetricInfo]) -> tuple[float, ...]:
    deciding = [m for m in metrics if m.name in scores.values][:2]
    return tuple(scores.values[m.name] * (1 if m.better == "more" else -1) for m in deciding)


@dataclass(eq=False)
class Parts:
    """The tensors of a training: student, optimiser, and where wanted average, best weights and loss scale."""

    student: nn.Module
    optimizer: torch.optim.Optimizer
    trained: nn.Module = field(default_factory=nn.ModuleDict)  # parts of terms that are trained with the student
    average: nn.Module | None = None
    best: dict[str, Tensor] = field(default_factory=dict)
    scaler: torch.amp.GradScaler | None = None

    def snapshot(self, state: TrainState, settings: Settings, world: World) -> Checkpoint:
        """All of it, as a checkpoint (every process has to ask)."""
        tensors = {f"student/{name}": t for name, t in world.whole(self.student.state_dict()).items()}
        tensors |= {f"parts/{name}": t for name, t in world.whole(self.trained.state_dict()).items()}
        tensors |= {f"optimizer/{name}": t for name, t in world.whole(optimizer_tensors(self.optimizer)).items()}
        tensors |= {f"random/{name}": t for name, t in random_state().items()}
        if self.average is not None:
            tensors |= {f"average/{name}": t for name, t in world.whole(self.average.state_dict()).items()}
        tensors |= {f"best/{name}": t for name, t in self.best.items()}
        scale = self.scaler.state_dict() if self.scaler is not None else {}
        return Checkpoint(state.step, tensors, {"settings": settings, "state": asdict(state), "scale": scale})

    def restore(self, found: Checkpoint, world: World) -> TrainState:
        """Put a checkpoint back. Raises `MismatchError` where it belongs to another model."""
        load_weights(self.student, world.like(found.part("student"), self.student.state_dict()))
        load_weights(self.trained, world.like(found.part("parts"), self.trained.state_dict()))
        owners = [p for group in self.optimizer.param_groups for p in group["params"]]
        state = found.part("optimizer")
        restore_optimizer(self.optimizer, world.like(state, {key: owners[int(key.split("/")[0])] for key in state}))
        restore_random_state(found.part("random"))
        if self.average is not None:
            load_weights(self.average, world.like(found.part("average"), self.average.state_dict()))
        self.best = found.part("best")
        if self.scaler is not None and found.facts["scale"]:
            self.scaler.load_state_dict(found.facts["scale"])
        return TrainState(**found.facts["state"])


def running_average(student: nn.Module, decay: float) -> nn.Module:
    """A copy of the student whose weights are the exponential average of its own."""
    update = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
    return AveragedModel(student, multi_avg_fn=update)


def versions() -> dict[str, str]:
    """The versions that a result may depend on."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "threads": str(torch.get_num_threads()),
    }


def history(rows: Sequence[Row]) -> tuple[Point, ...]:
    """The rows of the metrics as the points of a record."""
    points: dict[int, dict[str, Any]] = {}
    loss = float("nan")
    for row in rows:
        loss = row.get("loss", loss)
        if "loss" in row or "validation" in row:
            point = points.setdefault(row["step"], {})
            point |= {"loss": loss} | {n: row[n] for n in ("rescaling_mean", "rescaling_deviation") if n in row}
            if "validation" in row:
                point["validation"] = Scores(**row["validation"])
    return tuple(Point(step=step, **point) for step, point in points.items())
