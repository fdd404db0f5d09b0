"""Measurements of a student along its training: loss, scores, rescaling, how its logit layer lies."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fractionate.losses.objective import Objective
from fractionate.records import Point
from fractionate.tasks.evaluate import scores
from fractionate.theory.teacher_signal import TeacherSignal
from fractionate.training.fleet.setup import StackSetup, model_logits
from fractionate.training.mechanism import Geometry, distance_order, measure_rescaling, row_geometry

ORDERED_EXAMPLES = 64  # examples and classes whose order of distances is measured: it compares all pairs of classes
ORDERED_CLASSES = 64


def last_linear(model: nn.Module) -> nn.Linear | None:
    """The logit layer: the last linear one."""
    found = [part for part in model.modules() if isinstance(part, nn.Linear)]
    return found[-1] if found else None


def features_before(model: nn.Module, layer: nn.Module, inputs: Tensor) -> Tensor:
    """What enters a layer for these inputs, in evaluation mode."""
    kept: list[Tensor] = []
    handle = layer.register_forward_pre_hook(lambda _, given: kept.append(given[0].detach()))
    try:
        model_logits(model, inputs)
    finally:
        handle.remove()
    return kept[0]


def layer_geometry(model: nn.Module, stack_setup: StackSetup) -> tuple[Geometry | None, float | None]:
    """How a student's logit layer lies against the teacher's relations, and the share of distances in the teacher's order.

    (None, None) for a student whose logits do not come from a linear layer with one row per class. With many classes or examples,
    an evenly spaced part of them is measured.
    """
    layer, signal, relation = last_linear(model), stack_setup.signal, stack_setup.relation
    if layer is None or signal is None or relation is None or layer.out_features != signal.classes:
        return None, None
    rows = layer.weight.detach().cpu()
    groups = stack_setup.superclasses if len(stack_setup.superclasses) == signal.classes else ()
    geometry = row_geometry(rows, relation, groups)
    places = stack_setup.probe[:: max(1, len(stack_setup.probe) // ORDERED_EXAMPLES)]
    inputs = stack_setup.transfer.inputs[places].to(stack_setup.device)
    features = features_before(model, layer, inputs).cpu()
    if features.ndim != 2 or len(features) != len(places):
        return geometry, None
    theirs = signal.logits[places].float().cpu()
    labels = signal.labels[places].cpu()
    if signal.classes > ORDERED_CLASSES:
        chosen = torch.linspace(0, signal.classes - 1, ORDERED_CLASSES).round().long()
        kept = (labels[:, None] == chosen[None, :]).any(dim=1)  # examples whose label is among the chosen classes
        if not bool(kept.any()):
            return geometry, None
        features, rows = features[kept], rows[chosen]
        theirs, labels = theirs[kept][:, chosen], torch.searchsorted(chosen, labels[kept])
    return geometry, distance_order(features, rows, TeacherSignal(theirs, labels))


def measure(
    stack_setup: StackSetup,
    objective: Objective | None,
    step: int,
    loss: float,
    model: nn.Module,
    transfer_logits: Tensor,
    validation_logits: Tensor | None,
) -> Point:
    """The point of a student after a step (counted from 0), from its logits on the probe and the validation data."""
    signal = stack_setup.signal
    finite = bool(torch.isfinite(transfer_logits).all())
    found = None
    if finite and objective is not None and signal is not None and objective.teacher_weight > 0:
        found = measure_rescaling(transfer_logits.cpu(), signal.take(stack_setup.probe), objective)
    geometry, order = layer_geometry(model, stack_setup) if finite else (None, None)
    validated = None
    evaluated = finite and validation_logits is not None and bool(torch.isfinite(validation_logits).all())
    if evaluated and validation_logits is not None and stack_setup.validated is not None:
        labels, theirs = stack_setup.validated.labels, stack_setup.validated_teacher
        validated = scores(validation_logits.cpu(), labels, None if theirs is None else TeacherSignal(theirs, labels))
    return Point(
        step=step + 1,
        loss=loss,
        validation=validated,
        rescaling_mean=None if found is None else found.mean,
        rescaling_deviation=None if found is None else found.deviation,
        rescaling_correlation=None if found is None else found.correlation,
        rows_to_relation=None if geometry is None else geometry.relation_correlation,
        rows_within_superclass=None if geometry is None else geometry.within_superclass,
        rows_between_superclasses=None if geometry is None else geometry.between_superclasses,
        distance_order=order,
    )
