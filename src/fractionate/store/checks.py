"""What is checked before a row is kept, and before rows kept earlier are believed to belong to some data or teacher."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from fractionate.errors import MismatchError, NumericsError
from fractionate.store.reading import Store
from fractionate.store.source import Source
from fractionate.store.teachers import Asker, inert, token_rows
from fractionate.store.views import Replay

SPOT_CHECK = 64  # a store with 10 % wrong rows passes a check of 64 with probability 0.9^64 = 0.12 %
TOLERANCE = {"float64": 1e-3, "float32": 1e-3, "float16": 5e-3, "bfloat16": 3e-2}  # of the largest logit in size


def check_data(store: Store, source: Source, sample: int | None = None) -> None:
    """Raise `MismatchError` naming field and examples unless the rows that are there belong to these examples.

    All rows are checked where the data lie in memory, else `sample` (64) of them, drawn at random.
    """
    if len(source) != store.examples:
        raise MismatchError(
            f"the store {store.path} belongs to other data: the number of examples differs (field data)",
            expected=f"{store.examples:,} examples",
            got=f"{len(source):,}",
            fix="collect(..., reuse=this store) into a new folder takes over the examples that are the same",
        )
    places = np.unique(np.flatnonzero(store.present()) % store.examples)
    if source.examples is None:
        sample = SPOT_CHECK if sample is None else sample
    if sample is not None and sample < len(places):
        places = np.sort(np.random.default_rng().choice(places, sample, replace=False))
    stored, given = store.keys(places), source.keys(places)
    wrong = np.flatnonzero((stored != given).any(axis=1))
    if len(wrong):
        same = {bytes(k) for k in stored} == {bytes(k) for k in given}
        first = int(places[wrong[0]])
        raise MismatchError(
            f"the store {store.path} belongs to other data: {len(wrong):,} of {len(places):,} examples looked at differ "
            f"(field data, first: id {source.shown(first)})",
            expected="the same ids, inputs and labels, in the same order",
            got="the same examples in another order" if same else f"other content at place {first}",
            fix="restore the data; or collect(..., reuse=this store) into a new folder: unchanged examples are taken over",
        )


def check_teacher(
    store: Store, teacher: Any, data: Any, *, sample: int = SPOT_CHECK, device: str = "cpu", seed: int | None = None
) -> float:
    """Ask the teacher again about `sample` random rows; gives the largest difference, as a share of the largest logit.

    A store of which a tenth is wrong passes 64 rows with probability 0.9^64 = 0.12 %. Raises `MismatchError` naming the examples
    whose rows differ by more than rounding, or whose data are not those the store was collected on.
    """
    view = data if isinstance(data, Replay) else None
    source = view.source if view else Source(data)
    check_data(store, source, sample=sample)
    identity = store.head.identity
    asker = Asker(teacher, device=device, outputs=identity["outputs"], precision=identity["precision"])
    there = np.flatnonzero(store.present())
    slots = np.sort(np.random.default_rng(seed).choice(there, min(sample, len(there)), replace=False))
    batch = view.batch(slots) if view else source.batch(slots)
    with inert(asker.teacher, device):
        logits, labels, sizes = token_rows(asker(batch.inputs), batch.labels, identity["tokens"], source, batch.places)
    found = store.read(slots)
    if len(found["labels"]) != len(labels) or found["labels"].astype(np.int64).tolist() != labels.tolist():
        raise MismatchError("labels in the store and in the data differ", fix="collect again")
    kept = store.form.decode(found).double()
    fresh = logits.double()
    if store.form.kind != "dense":  # what is stored of both: the label and the entries
        index = store.form.compact(found)
        rows = torch.arange(len(labels))[:, None]
        at = torch.cat([labels[:, None], index.indices if store.form.kind == "top-k" else labels[:, None]], dim=1)
        kept, fresh = kept[rows, at], fresh[rows, at]
    same_mask = torch.isneginf(kept) == torch.isneginf(fresh)
    scale = fresh[torch.isfinite(fresh)].abs().max().clamp_min(1.0)
    gap = torch.where(torch.isfinite(kept) & torch.isfinite(fresh), (kept - fresh).abs() / scale, 0.0).amax(dim=1)
    bad = ((gap > TOLERANCE[store.form.dtype]) | ~same_mask.all(dim=1)).nonzero().flatten().tolist()
    if bad:
        places = batch.places if sizes is None else np.repeat(batch.places, sizes)
        ids = list(dict.fromkeys(source.shown(int(places[row])) for row in bad))
        raise MismatchError(
            f"the teacher says something else than the store {store.path} for {len(ids)} of {len(slots)} examples asked "
            f"again: {', '.join(ids[:8])}",
            expected=f"differences below {TOLERANCE[store.form.dtype]:g} of the largest logit",
            got=f"{gap.max().item():.3g}",
            fix="these rows belong to other examples or another teacher: collect again into a new folder",
        )
    return float(gap.max())


def check_logits(
    logits: Float[Tensor, "rows classes"], places: NDArray[np.int64], source: Source, classes: int | None
) -> None:
    """Raise `MismatchError` for a wrong number of rows or classes, `NumericsError` naming the examples that are not finite."""
    if len(logits) != len(places):
        raise MismatchError(
            "the teacher does not give one row an example",
            expected=f"[{len(places)}, classes]",
            got=str(list(logits.shape)),
        )
    named = len(source.class_names) if source.names_given else None
    for wanted in (classes, named):
        if wanted is not None and wanted != logits.shape[1]:
            raise MismatchError(
                "teacher and data differ in the number of classes",
                expected=f"{wanted} classes",
                got=f"{logits.shape[1]} logits a row",
                fix="use a teacher of these classes, or map its outputs to them",
            )
    bad = (torch.isnan(logits) | torch.isposinf(logits)).any(dim=1) | torch.isneginf(logits).all(dim=1)
    if bool(bad.any()):
        ids = list(dict.fromkeys(source.shown(int(places[row])) for row in bad.nonzero().flatten().tolist()))
        raise NumericsError(
            f"the teacher's logits are not finite for {len(ids)} example(s) of a batch: {', '.join(ids[:8])}",
            expected="finite numbers, -inf only to mask some of the classes",
            got=str(logits[bad][0].flatten()[:6].tolist()) + (" …" if logits.shape[1] > 6 else ""),
            fix="look at these inputs; a half-precision teacher may overflow: run it in float32 or bfloat16",
        )


def check_labels(labels: Tensor, places: NDArray[np.int64], source: Source, classes: int) -> Int[Tensor, "rows"]:
    """Labels as whole numbers from 0, one a row. Raises `MismatchError` naming the examples that have none or a wrong one."""
    if labels.ndim != 1 or labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise MismatchError(
            f"{source.name}: labels are not class numbers",
            expected=f"integers [{len(places)}]",
            got=f"{labels.dtype} {list(labels.shape)}",
            fix="pass labels.long(), one class an example",
        )
    labels = labels.long().cpu()
    wrong = (labels < 0) | (labels >= classes)
    if bool(wrong.any()):
        ids = list(dict.fromkeys(source.shown(int(places[row])) for row in wrong.nonzero().flatten().tolist()))
        raise MismatchError(
            f"labels do not fit the teacher's classes (examples {', '.join(ids[:8])})",
            expected=f"labels in 0..{classes - 1}",
            got=str(int(labels[wrong][0])),
            fix="check the label map; labels that start at 1 need 1 subtracted; drop examples without a label",
        )
    return labels
