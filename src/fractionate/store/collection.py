"""The teacher's pass: run once, interrupted or not, by one process or many; what is there is never collected again."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from fractionate.data.lengths import lengths_of
from fractionate.errors import ConfigError
from fractionate.models.function import FunctionTeacher
from fractionate.models.output_kinds import Outputs
from fractionate.store.checks import check_data
from fractionate.store.features import check_features
from fractionate.store.folds import out_of_fold
from fractionate.store.forms import FormKind, StoredDtype
from fractionate.store.identity import (
    Identity,
    teacher_config,
    teacher_weights,
    tokenizer_fingerprint,
    vocabulary_size,
)
from fractionate.store.keys import Keyed
from fractionate.store.layout import HEAD, HEAD_COPY, RELATION, SEGMENTS, SHARDS
from fractionate.store.reading import Store
from fractionate.store.remote import require_folder
from fractionate.store.teacher_pass import TeacherPass
from fractionate.store.teachers import VIEW, Asker, ByPlace, Precision, Tokens, kind_of, outputs_of
from fractionate.store.views import Replay
from fractionate.system.atomic import TEMPORARY, make_directory, sweep
from fractionate.system.fingerprints import callable_fingerprint
from fractionate.system.paths import as_path
from fractionate.tasks.task import Task

Array = NDArray[Any]
OURS = (HEAD, HEAD_COPY, SHARDS, SEGMENTS, RELATION)


def collect(
    teacher: Any,
    data: Any,
    out: Path | str,
    *,
    batch_size: int = 256,
    by_length: bool = False,
    device: str = "cpu",
    device_map: str | Mapping[str, Any] | None = None,
    form: FormKind = "dense",
    k: int = 0,
    dtype: StoredDtype = "float32",
    temperatures: tuple[float, ...] = (1.0,),
    outputs: Outputs = "auto",
    precision: Precision = "float32",
    tokens: Tokens = "",
    tokenizer: Any = None,
    template: str = "",
    vocabulary: Literal["whole", "trim"] = "whole",
    non_finite: Literal["refuse", "skip"] = "refuse",
    class_relation: Float[Tensor, "classes classes"] | Literal["auto"] | None = "auto",
    named: str = "",
    folds: int = 0,
    features: Sequence[str] = (),
    reuse: Store | None = None,
    part: tuple[int, int] = (0, 1),
    shard_bytes: int = 64 << 20,
    commit_seconds: float = 60.0,
) -> Store:
    """Run the teacher once over the data and store its outputs, in the order of the data.

    Modules run in evaluation mode without gradients; their mode is restored. The same call resumes an interrupted pass, or
    returns at once.

    Args:
        teacher: A torch module, a fitted estimator, the path of an ONNX or skops file, or a function of a batch of inputs.
        data: `Examples`, a pair (inputs, labels), a dataset with a length, a loader over one, a `Task` (its transfer set), or a
            `Replay` of multiple views.
        out: The folder of the store.
        batch_size: Examples in a forward pass.
        by_length: Batch sequences of similar length, the longest first, without padding that a batch does not need.
        device, device_map: Where the teacher runs; "auto", or devices by module path, spreads it with accelerate.
        form: dense; top-k: label, `k` entries, the exact rest at each of `temperatures`; sampled: `k` draws (see `losses`); hidden:
            the input of the output layer, and that layer once: exact, as many numbers per row as the model is wide.
        outputs: What a function returns, if it should not be inferred.
        dtype: Of the stored logits.
        precision: Of the teacher's forward pass.
        tokens: "next" (logits at a token predict the next label) or "aligned", with `tokenizer` and `template` of a
            language model. Labels of -100 are not stored; `vocabulary="trim"` drops logits beyond the tokenizer's strings.
        non_finite: "skip" gives examples without finite logits no row (`Store.skipped`).
        class_relation: [classes, classes] similarities; "auto": the cosines of the output layer's rows.
        named: A name for a teacher whose content cannot be hashed.
        folds: An estimator is fitted this many times on the transfer set, each time without one fold, which it then predicts.
        features: Paths of layers whose outputs are stored in float16, one per example, for terms that read them.
        reuse: Another store, whose rows of unchanged examples are copied.
        part: (rank, world) of this process, which collects its part of the data.
        shard_bytes, commit_seconds: How often a shard is committed; at most this much work is lost in a crash.

    Returns:
        The whole `Store`: `store.signal()` is the teacher's signal in the order of the data.

    Raises:
        MismatchError: for data and labels that do not fit the teacher, and for a store of something else (naming the field).
        NumericsError: for logits that are not finite, naming the examples.
        ResourceError: for a place that cannot be written to or is too small. Nothing half-written stays behind.

    Example:
        import torch
        from torch import nn
        from fractionate import collect

        store = collect(nn.Linear(8, 4), (torch.randn(40, 8), torch.arange(40) % 4), "runs/store")
        print(store.signal().logits.shape)
    """
    kind, head = kind_of(data)
    if isinstance(data, Task):
        tokens = tokens or data.reader.tokens
        data = data.splits.transfer
    if class_relation == "auto" and not kind.output_rows:
        class_relation = None
    outputs = outputs_of(kind, outputs, form)
    require_folder(out, "collect into")
    if vocabulary not in ("whole", "trim") or non_finite not in ("refuse", "skip"):
        raise ConfigError(
            "vocabulary or non_finite is not known",
            expected="whole or trim; refuse or skip",
            got=f"{vocabulary!r}, {non_finite!r}",
        )
    if folds:
        again = out_of_fold(teacher, data, folds)
        teacher, outputs, named = ByPlace(again), again.kind, f"{named}{': ' if named else ''}{again.named}"
    trimmed = vocabulary_size(tokenizer) if vocabulary == "trim" else None
    view = data if isinstance(data, Replay) else None
    source = view.keyed if view else Keyed.of(data)
    names = source.split.class_names if source.names_given else ()
    asker = Asker(
        teacher,
        kind=kind,
        head=head,
        device=device,
        outputs=outputs,
        precision=precision,
        classes=trimmed,
        class_names=names,
        features=features,
        device_map=device_map,
        trim=by_length,
        hidden=form == "hidden",
    )
    kept = check_features(
        features, tokens=tokens, non_finite=non_finite, by_place=isinstance(asker.teacher, FunctionTeacher)
    )
    if batch_size < 1 or not 0 <= part[0] < part[1]:
        raise ConfigError("batch_size or part cannot be used", got=f"batch_size={batch_size}, part={part}")
    identity = Identity(
        data=source.fingerprint,
        ids="data" if source.ids_given else "place",
        teacher=teacher_weights(asker.teacher, named),
        teacher_config=named or teacher_config(asker.teacher),
        outputs=asker.outputs,
        precision=precision,
        tokenizer=tokenizer_fingerprint(tokenizer),
        template=template,
        tokens=tokens,
        transform=callable_fingerprint(view.transform) if view else "",
        view_seed=view.seed if view else 0,
        views=view.views if view else 1,
        form=form,
        k=k,
        dtype=dtype,
        temperatures=tuple(map(float, temperatures)),
        vocabulary=vocabulary,
        non_finite=non_finite,
        features=", ".join(kept),
    )
    root = as_path(out)
    existing = _existing(root, identity, source)
    new = not root.exists()
    try:
        make_directory(root)
        sweep(root, deep=True)
        with asker.ready():
            work = TeacherPass(
                asker,
                source,
                view,
                root,
                identity,
                existing,
                batch_size,
                shard_bytes,
                commit_seconds,
                class_relation,
            )
            if by_length:
                work.order = np.argsort(-np.tile(lengths_of(source.split, VIEW), identity.views), kind="stable")
            if reuse is not None:
                work.take_over(reuse)
            work.run(part)
    except BaseException:
        if new and not (root / HEAD).exists():  # nothing was committed: leave the place as it was
            shutil.rmtree(root, ignore_errors=True)
        raise
    return Store.open(root)


def _existing(root: Path, identity: Identity, source: Keyed) -> Store | None:
    if not (root / HEAD).exists():
        strange = root.exists() and (
            not root.is_dir() or any(p.name not in OURS and not p.name.startswith(TEMPORARY) for p in root.iterdir())
        )
        if strange:
            raise ConfigError(
                f"{root} holds something else", expected="a signal store, or a new folder", fix="give another out="
            )
        return None
    store = Store.open(root)
    check_data(store, source)
    identity.of_outputs(store.head.identity["outputs"]).require(store.head.identity, root)
    store.head.write_copy(root)  # a writer may have been killed between the two
    return store
