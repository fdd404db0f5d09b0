"""Teacher sources: cached signals, a model run on every batch, many teachers as one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from fractionate.models.function import as_teacher_module, is_function_teacher
from fractionate.models.placing import check_ready
from fractionate.store.reading import Store
from fractionate.teachers.cached import Cached
from fractionate.teachers.ensemble import Ensemble
from fractionate.teachers.online import Online
from fractionate.teachers.source import TeacherSource


def as_source(teacher: Any) -> TeacherSource | None:
    """A teacher source of what a verb was given.

    Args:
        teacher: A source, a model, a fitted estimator, a function, a signal, a store or its path, the path of an ONNX or skops
            file, a sequence of these (an ensemble), or None.

    Returns:
        Cached, online or ensemble; None for None.

    Example:
        from torch import nn
        from fractionate.teachers import as_source

        print(type(as_source(nn.Linear(8, 4))).__name__)
    """
    if teacher is None or isinstance(teacher, (Cached, Online, Ensemble)):
        return teacher
    if isinstance(teacher, nn.Module):
        check_ready(teacher, "teacher")
        return Online(teacher)
    if is_function_teacher(teacher) and not isinstance(teacher, TeacherSource):
        return Online(as_teacher_module(teacher))
    if isinstance(teacher, (str, Path)):
        return Cached(Store.open(teacher))
    if isinstance(teacher, Sequence):
        members = tuple(source for source in map(as_source, teacher) if source is not None)
        return Ensemble(members)
    if isinstance(teacher, TeacherSource):
        return teacher
    return Cached(teacher)
