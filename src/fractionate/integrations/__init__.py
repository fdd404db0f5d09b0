"""Other people's loops and trackers: the Hugging Face Trainer, TRL, Lightning, TensorBoard, MLflow, Weights & Biases."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fractionate.system.lazy import exports

if TYPE_CHECKING:
    from fractionate.integrations.trackers import TensorBoard as TensorBoard
    from fractionate.integrations.trainer import Distilling as Distilling
    from fractionate.integrations.trainer import distillation_loss as distillation_loss
    from fractionate.integrations.trainer import lightning_distillation as lightning_distillation
else:
    __getattr__, __dir__, __all__ = exports(__name__)
