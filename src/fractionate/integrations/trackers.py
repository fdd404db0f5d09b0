"""Trackers: TensorBoard, W&B or trackio, MLflow. They repeat what metrics.jsonl says; one that fails is left out."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from fractionate.errors import MissingExtraError
from fractionate.records import Run
from fractionate.training.tracking import Row


def numbers(row: Row, prefix: str = "") -> Iterator[tuple[str, float]]:
    """The numbers of a row by name, nested ones as `validation/accuracy`, in the metrics' units."""
    for name, value in row.items():
        if isinstance(value, dict):
            yield from numbers(value, prefix if name == "values" else f"{prefix}{name}/")
        elif isinstance(value, (int, float)) and not isinstance(value, bool) and name != "step":
            yield f"{prefix}{name}", float(value)


def final(run: Run) -> dict[str, float]:
    """The numbers a finished run is remembered by."""
    found = {"wall_seconds": run.wall_seconds, "parameters": float(run.parameters)}
    for part, scores in (("final_validation", run.validation), ("final_test", run.test)):
        if scores is not None:
            found |= dict(numbers({part: scores.values}))
    return found


def _module(name: str, extra: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise MissingExtraError(f"{name} is not installed", fix=f"pip install {extra}") from error


class TensorBoard:
    """Event files in a folder: `tensorboard --logdir FOLDER`.

    Args:
        folder: Where the files are written.

    Example:
        from fractionate.integrations import TensorBoard
        trackers = [TensorBoard("runs/board")]  # of distill(..., trackers=trackers)
    """

    def __init__(self, folder: Path | str) -> None:
        self.writer = _module("torch.utils.tensorboard", '"fractionate[track]"').SummaryWriter(str(folder))
        self.step = 0

    def start(self, name: str, settings: dict[str, Any]) -> None:
        self.writer.add_text(name, "\n".join(f"    {key}: {value}" for key, value in settings.items()))

    def row(self, row: Row) -> None:
        self.step = row.get("step", self.step)
        for name, value in numbers(row):
            self.writer.add_scalar(name, value, self.step)

    def finish(self, run: Run) -> None:
        for name, value in final(run).items():
            self.writer.add_scalar(name, value, self.step)
        self.writer.close()


class Wandb:
    """Weights & Biases, or with `module="trackio"` the local-first library of the same interface."""

    def __init__(self, project: str, *, module: str = "wandb", **settings: Any) -> None:
        self.library, self.project, self.settings = _module(module, module), project, settings
        self.step = 0

    def start(self, name: str, settings: dict[str, Any]) -> None:
        self.library.init(project=self.project, name=name, config=settings, **self.settings)

    def row(self, row: Row) -> None:
        self.step = row.get("step", self.step)
        found = dict(numbers(row))
        if found:
            self.library.log(found, step=self.step)

    def finish(self, run: Run) -> None:
        self.library.log(final(run), step=self.step)
        self.library.finish()


class MLflow:
    """An MLflow run in the active experiment."""

    def __init__(self) -> None:
        self.library = _module("mlflow", "mlflow-skinny")
        self.step = 0

    def start(self, name: str, settings: dict[str, Any]) -> None:
        self.library.start_run(run_name=name)
        self.library.log_params({key: str(value)[:500] for key, value in settings.items()})

    def row(self, row: Row) -> None:
        self.step = row.get("step", self.step)
        found = {name.replace("/", "."): value for name, value in numbers(row)}
        if found:
            self.library.log_metrics(found, step=self.step)

    def finish(self, run: Run) -> None:
        self.library.log_metrics(final(run), step=self.step)
        self.library.end_run()
