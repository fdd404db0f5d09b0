"""What is checked before a row is kept, and before rows kept earlier are believed to belong to some data or teacher."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

from fractionate.data.batch import Split
from fractionate.data.dataset import DatasetSplit
from fractionate.data.memory import MemorySplit
from fractionate.data.sampling import isolated
from fractionate.errors import MismatchError, NumericsError, printable
from fractionate.store.identity import tokenizer_fingerprint
from fractionate.store.keys import Keyed, key_of
from fractionate.store.rows import StoredRows
from fractionate.store.teachers import Asker, kind_of, token_rows
from fractionate.store.views import Replay
from fractionate.tasks.task import Task

ORDER_CHECK = 3  # examples whose places are compared before a store is learned from
SPOT_CHECK = 64  # a store with 10 % wrong rows passes a check of 64 with probability 0.9^64 = 0.12 %
TOLERANCE = {"float64": 1e-3, "float32": 1e-3, "float16": 5e-3, "bfloat16": 3e-2}  # of the largest logit in size


def check_data(store: StoredRows, source: Keyed, sample: int | None = None) -> None:
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
    if not source.in_memory:
        sample = SPOT_CHECK if sample is None else sample
    if sample is not None and sample < len(places):
        places = np.sort(np.random.default_rng().choice(places, sample, replace=False))
    stored, given = store.keys(places), source.keys(places)
    wrong = np.flatnonzero((stored != given).any(axis=1))
    if len(wrong):
        same = {bytes(k) for k in stored} == {bytes(k) for k in given}
        first = int(places[wrong[0]])
        raise MismatchError(
            f"the store {store.path} belongs to other data: {len(wrong):,} of {len(places):,} checked examples differ "
            f"(field data, first: id {source.shown(first)})",
            expected="the same ids, inputs and labels, in the same order",
            got="the same examples in another order" if same else f"other content at place {first}",
            fix="restore the data; or collect(..., reuse=this store) into a new folder: unchanged examples are taken over",
        )


def check_order(store: StoredRows, split: Split) -> None:
    """Raise `MismatchError` where the store has the examples of these data at other places, which labels alone may not show.

    A few examples are checked. What the store has nowhere says nothing: a student may have inputs of its own.
    """
    few = np.unique(np.linspace(0, len(split) - 1, ORDER_CHECK).astype(np.int64))
    if len(split) != store.examples or not isinstance(split, (MemorySplit, DatasetSplit)):
        return
    few = few[store.present()[few]]
    with isolated():
        rows = split if isinstance(split, MemorySplit) or split.canonical is None else split.canonical
        items = [rows[place] for place in few.tolist()]
    kept = store.keys(few)
    moved = [place for at, place in enumerate(few.tolist()) if key_of(split.ids[place], items[at]) != bytes(kept[at])]
    if not moved:
        return
    there = {bytes(one): place for place, one in enumerate(store.keys(np.flatnonzero(store.present()[: len(split)])))}
    counted = all(name == str(place) for place, name in enumerate(split.ids))
    for place in moved:
        item = items[few.tolist().index(place)]
        names = split.ids if counted else (split.ids[place],)  # an id of its own moves with the example
        other = next((there[key] for key in (key_of(name, item) for name in names) if key in there), None)
        if other is not None:
            raise MismatchError(
                f"the store {store.path} holds these data in another order (field data)",
                expected=f"the example {printable(split.ids[place])} at place {place}",
                got=f"the same example at place {other}",
                fix="give the data in the order they were collected in; or collect(..., reuse=this store) into a new folder",
            )


def check_teacher(
    store: StoredRows,
    teacher: Any,
    data: Any,
    *,
    sample: int = SPOT_CHECK,
    device: str = "cpu",
    seed: int | None = None,
) -> float:
    """Run the teacher again on some random rows and compare them with the store.

    A store of which a tenth is wrong passes 64 rows with probability 0.9^64 = 0.12 %.

    Args:
        store: What `collect` gave.
        teacher: The teacher, in any form that `collect` takes.
        data: The data it was collected on.
        sample: How many rows.
        device: Where the teacher runs.
        seed: Of the draw of rows; None: a new draw.

    Returns:
        The largest difference, as a share of the largest logit.

    Raises:
        MismatchError: naming the examples whose rows differ by more than rounding, or whose data are not those of the store.

    Example:
        import torch
        from torch import nn
        from fractionate import collect
        from fractionate.store import check_teacher

        teacher, data = nn.Linear(8, 4), (torch.randn(40, 8), torch.arange(40) % 4)
        print(check_teacher(collect(teacher, data, "store"), teacher, data))
    """
    kind, head_of = kind_of(data)
    data = data.splits.transfer if isinstance(data, Task) else data
    view = data if isinstance(data, Replay) else None
    source = view.keyed if view else Keyed.of(data)
    items = Keyed(view.as_split()) if view else source
    check_data(store, source, sample=sample)
    identity, head = store.head.identity, store.head
    trimmed = head.classes if identity.get("vocabulary") == "trim" else None
    asker = Asker(
        teacher,
        kind=kind,
        head=head_of,
        device=device,
        outputs=identity["outputs"],
        precision=identity["precision"],
        classes=trimmed,
    )
    there = store.kept()
    slots = np.sort(np.random.default_rng(seed).choice(there, min(sample, len(there)), replace=False))
    largest, wrong = 0.0, list[str]()
    with asker.ready():
        # no more at once than the pass did
        parts = (slots[start : start + head.batch_size] for start in range(0, len(slots), head.batch_size))
        for batch, _ in items.batches(parts):
            some = batch.index.numpy()
            each = some % len(source)
            logits, labels, sizes = token_rows(*asker(batch), identity["tokens"], source, each)
            gap, bad = _differences(store, some, logits, labels)
            places = each if sizes is None else np.repeat(each, sizes)
            wrong += dict.fromkeys(source.shown(int(places[row])) for row in bad)
            largest = max(largest, gap)
    if wrong:
        raise MismatchError(
            f"the teacher says something else than the store {store.path} for {len(wrong)} of {len(slots)} examples run "
            f"again: {', '.join(wrong[:8])}",
            expected=f"differences below {TOLERANCE[store.form.dtype]:g} of the largest logit",
            got=f"{largest:.3g}",
            fix="these rows belong to other examples or another teacher: collect again into a new folder",
        )
    return largest


def _differences(
    store: StoredRows, slots: NDArray[np.int64], fresh: Float[Tensor, "rows classes"], labels: Tensor
) -> tuple[float, list[int]]:
    """The largest difference between what is stored of some rows and what the teacher says now, and the rows that differ."""
    found = store.read(slots)
    if len(found["labels"]) != len(labels) or found["labels"].astype(np.int64).tolist() != labels.tolist():
        raise MismatchError("labels in the store and in the data differ", fix="collect again")
    kept, fresh = store.form.decode(found).double(), fresh.double()
    if store.form.compacted:  # what is stored of both: the label and the entries
        index = store.form.compact(found)
        rows = torch.arange(len(labels))[:, None]
        at = torch.cat([labels[:, None], index.indices if store.form.kind == "top-k" else labels[:, None]], dim=1)
        kept, fresh = kept[rows, at], fresh[rows, at]
    same_mask = torch.isneginf(kept) == torch.isneginf(fresh)
    scale = fresh[torch.isfinite(fresh)].abs().max().clamp_min(1.0)
    gap = torch.where(torch.isfinite(kept) & torch.isfinite(fresh), (kept - fresh).abs() / scale, 0.0).amax(dim=1)
    bad = ((gap > TOLERANCE[store.form.dtype]) | ~same_mask.all(dim=1)).nonzero().flatten().tolist()
    return float(gap.max()), bad


def check_tokenizer(store: StoredRows, tokenizer: Any) -> None:
    """Raise `MismatchError` unless a tokenizer is the one the store was collected with: the same strings with the same numbers.

    Strings are compared, not sizes: two vocabularies of one size may differ, and one padded for speed is still the same.
    """
    message = store.head.identity.get("tokenizer", "")
    given = tokenizer_fingerprint(tokenizer)
    if message != given:
        raise MismatchError(
            f"the store {store.path} was collected with another tokenizer (field tokenizer)",
            expected=message[:16] or "no tokenizer was named",
            got=given[:16],
            fix="classes are numbers of strings: use a student of the teacher's tokenizer",
        )


def check_logits(
    logits: Float[Tensor, "rows classes"], places: NDArray[np.int64], source: Keyed, classes: int | None
) -> None:
    """Raise `MismatchError` for a wrong number of rows or classes."""
    if len(logits) != len(places):
        raise MismatchError(
            "the teacher does not give one row per example",
            expected=f"[{len(places)}, classes]",
            got=str(list(logits.shape)),
        )
    named = len(source.split.class_names) if source.names_given else None
    for wanted, why in ((classes, ""), (named, ", as many as the data's class_names")):
        if wanted is not None and wanted != logits.shape[1]:
            raise MismatchError(
                "teacher and data differ in the number of classes",
                expected=f"{wanted} classes{why}",
                got=f"{logits.shape[1]} logits per row",
                fix="use a teacher of these classes, or map its outputs to them",
            )


def broken_rows(logits: Float[Tensor, "rows classes"], *, masks: bool = True) -> Bool[Tensor, "rows"]:
    """Which rows hold NaN or +inf, or nothing but -inf; without masks -inf too."""
    if bool(torch.isfinite(logits.sum(dim=1)).all()):  # one pass in place of five where nothing is broken or masked
        return torch.zeros(len(logits), dtype=torch.bool, device=logits.device)
    if not masks:
        return ~torch.isfinite(logits).all(dim=1)
    return (torch.isnan(logits) | torch.isposinf(logits)).any(dim=1) | torch.isneginf(logits).all(dim=1)


def check_finite(
    logits: Float[Tensor, "rows classes"],
    places: NDArray[np.int64],
    source: Keyed,
    outputs: str = "logits",
    *,
    masks: bool = True,
) -> None:
    """Raise `NumericsError` naming the examples of which the teacher says nothing finite. `outputs` is what its rows are called."""
    bad = broken_rows(logits, masks=masks)
    if bool(bad.any()):
        ids = list(dict.fromkeys(source.shown(int(places[row])) for row in bad.nonzero().flatten().tolist()))
        raise NumericsError(
            f"the teacher's {outputs} are not finite for {len(ids)} example(s) of a batch: {', '.join(ids[:8])}",
            expected="finite numbers" + (", -inf only to mask some of the classes" if masks else ""),
            got=str(logits[bad][0].flatten()[:6].tolist()) + (" …" if logits.shape[1] > 6 else ""),
            fix="check these inputs; a half-precision teacher may overflow: run it in float32 or bfloat16; "
            'or leave such examples out: non_finite="skip"',
        )
