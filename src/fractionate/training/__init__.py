"""distill(): the one training loop, its state, resume, processes and memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fractionate.system.lazy import exports

if TYPE_CHECKING:
    from fractionate.training.checkpoint import steps_in as steps_in
    from fractionate.training.distillation import distill as distill
    from fractionate.training.evaluation import evaluate as evaluate
    from fractionate.training.evaluation import signal_on as signal_on
    from fractionate.training.memory import estimate_memory as estimate_memory
    from fractionate.training.recipe import Recipe as Recipe
    from fractionate.training.recompute import recomputed as recomputed
    from fractionate.training.run_folder import CHECKPOINTS as CHECKPOINTS
    from fractionate.training.run_folder import METRICS as METRICS
    from fractionate.training.run_folder import RUN as RUN
    from fractionate.training.run_folder import STUDENT as STUDENT
    from fractionate.training.schedule import learning_rate as learning_rate
    from fractionate.training.schedule import make_optimizer as make_optimizer
else:
    __getattr__, __dir__, __all__ = exports(__name__)
