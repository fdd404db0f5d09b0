"""What a run file asks of the one student trained for real, as objects: its device, its trackers, the libraries it will need."""

from __future__ import annotations

import os
import re
from importlib.util import find_spec
from pathlib import Path

import torch

from fractionate.errors import MissingExtraError, ResourceError
from fractionate.integrations.trackers import MLflow, TensorBoard, Wandb
from fractionate.run.schema import RunFile
from fractionate.training.tracking import Tracker

NEEDS = {  # a tracker, or onnx: the modules and how to get them
    "tensorboard": (("tensorboard",), 'pip install "fractionate[track]"'),
    "wandb": (("wandb",), "pip install wandb"),
    "trackio": (("trackio",), "pip install trackio"),
    "mlflow": (("mlflow",), "pip install mlflow-skinny"),
    "onnx": (("onnx", "onnxscript", "onnxruntime"), 'pip install "fractionate[export]"'),
}


def check_extras(run: RunFile) -> None:
    """Raise `MissingExtraError` or `ResourceError` now for what a run would miss after hours."""
    for requested in (*run.distill.trackers, *(("onnx",) if run.export.onnx else ())):
        modules, fix = NEEDS[requested]
        missing = [module for module in modules if find_spec(module) is None]
        if missing:
            key = "export.onnx" if requested == "onnx" else "distill.trackers"
            raise MissingExtraError(f"{key} needs {', '.join(missing)}, which is not installed", fix=fix)
    training_device(run.distill.device)


def training_device(wanted: str) -> torch.device:
    """The device of this process; under torchrun each has a GPU of its own. Raises `ResourceError` where there is no GPU."""
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ResourceError(
            "there is no GPU", expected="distill.device: cuda", got="none that torch sees", fix="take auto or cpu"
        )
    if wanted == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    torch.cuda.set_device(device)
    return device


def make_trackers(run: RunFile, out: Path) -> tuple[Tracker, ...]:
    """The trackers that a run file names. TensorBoard's files lie in the run's folder; projects are named after the run."""
    project = re.sub(r"[^\w.-]+", "-", run.name).strip("-") or "fractionate"
    made: list[Tracker] = []
    for name in dict.fromkeys(run.distill.trackers):
        if name == "tensorboard":
            made.append(TensorBoard(out / "tensorboard"))
        elif name == "mlflow":
            made.append(MLflow())
        else:
            made.append(Wandb(project, module=name))
    return tuple(made)
