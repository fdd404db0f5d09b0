"""Fitted estimators as functions of a batch: scikit-learn's interface, which XGBoost, LightGBM and others share."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fractionate.data.columns import NO_TEXT, plain_number
from fractionate.errors import ConfigError, MismatchError, printable
from fractionate.models.output_kinds import OutputKind
from fractionate.models.outputs import are_probabilities

METHODS: Mapping[str, OutputKind] = {  # of estimators, in the order in which they are looked for
    "predict_proba": "probabilities",
    "predict_log_proba": "log-probabilities",
    "decision_function": "logits",
}
PREDICTS = "predict"  # of regressors: numbers of tasks without classes


def is_estimator(value: object) -> bool:
    """Whether something has the methods by which fitted estimators answer."""
    if isinstance(value, (nn.Module, type)):
        return False
    return any(hasattr(value, name) for name in METHODS) or (hasattr(value, "predict") and not callable(value))


@dataclass(frozen=True, eq=False)
class EstimatorRows:
    """A fitted estimator as a function of a batch: rows of numbers, or a frame where it was fitted on named columns.

    Columns are those of the classes of the data, in their order; a class that the estimator never met gets no mass.
    """

    estimator: Any
    method: str
    class_names: tuple[str, ...] = ()
    classes: int | None = None

    def __call__(self, inputs: Any) -> NDArray[Any]:
        rows = self.rows_of(inputs)
        try:
            found = getattr(self.estimator, self.method)(rows)
        except Exception as error:
            if type(error).__name__ != "NotFittedError":
                raise
            raise ConfigError(
                f"the teacher {type(self.estimator).__name__} is not fitted",
                fix="fit it first, or collect(..., folds=5), which fits it on the transfer set",
            ) from error
        if isinstance(found, list):
            return self._of_labels([np.asarray(part) for part in found])
        values = np.asarray(found)
        if self.method == PREDICTS:
            return values.reshape(len(values), -1).astype(np.float64)
        if METHODS[self.method] == "probabilities" and self._labels_of_their_own(values):
            return np.stack([1 - values, values], axis=-1)
        if values.ndim == 1:  # a margin between two classes: its logistic function is the share of the second
            values = np.stack([np.zeros_like(values), values], axis=1)
        return self._placed(values)

    def _labels_of_their_own(self, values: NDArray[Any]) -> bool:
        """Whether each column is the share of a label alone: of OneVsRestClassifier, and of XGBoost fitted on rows of labels."""
        if getattr(self.estimator, "multilabel_", False):
            return True
        two = np.array_equal(np.asarray(getattr(self.estimator, "classes_", ())), [0, 1])
        return two and values.ndim == 2 and not are_probabilities(torch.from_numpy(values))

    def _of_labels(self, parts: list[NDArray[Any]]) -> NDArray[Any]:
        """Multiple labels per example, two classes each: [examples, labels, 2]."""
        known = getattr(self.estimator, "classes_", ())
        plain = len(known) == len(parts) and all(list(classes) == [0, 1] for classes in known)
        if not plain or any(part.shape[1:] != (2,) for part in parts):
            raise MismatchError(
                f"{type(self.estimator).__name__} answers multiple questions per row",
                expected="one distribution over classes, or labels that are each 0 or 1",
                got=", ".join(str(list(part.shape)) for part in parts[:6]),
                fix="give the estimator of one of them",
            )
        return np.stack(parts, axis=1)

    def rows_of(self, inputs: Any) -> Any:
        """What the estimator was fitted on: a frame of named columns, or rows of numbers."""
        names = getattr(self.estimator, "feature_names_in_", None)
        if isinstance(inputs, Mapping):
            columns = {str(name): as_cells(as_array(part)) for name, part in inputs.items()}
            if names is None and list(columns) == ["text"]:
                return columns["text"]  # what a vectoriser reads
            if names is None:
                return np.stack(list(columns.values()), axis=1)
            return _frame(columns, names)
        if isinstance(inputs, (tuple, list)):
            inputs = torch.cat([torch.as_tensor(part).flatten(1) for part in inputs], dim=1)
        rows = as_array(inputs)
        rows = rows.reshape(len(rows), -1)
        if names is None:
            return rows
        if rows.shape[1] != len(names):
            raise MismatchError(
                f"{type(self.estimator).__name__} was fitted on other columns",
                expected=f"{len(names)} columns: {', '.join(map(str, names[:6]))}", got=f"{rows.shape[1]} columns",
            )  # fmt: skip
        return _frame({str(name): rows[:, place] for place, name in enumerate(names)}, names)

    def _placed(self, values: NDArray[Any]) -> NDArray[Any]:
        known = getattr(self.estimator, "classes_", None)
        if known is None:
            return values
        if len(known) != values.shape[1]:
            raise MismatchError(
                f"{type(self.estimator).__name__}.{self.method} does not give one number per class",
                expected=f"{len(known)} columns", got=str(values.shape[1]),
                fix='decision_function_shape="ovr", or an estimator with predict_proba',
            )  # fmt: skip
        places = self._places(np.asarray(known))
        width = max(self.classes or 0, int(places.max()) + 1)
        if width == len(places) and (places == np.arange(width)).all():
            return values
        absent = 0.0 if METHODS[self.method] == "probabilities" else -math.inf
        whole = np.full((len(values), width), absent, values.dtype)
        whole[:, places] = values
        return whole

    def _places(self, known: NDArray[Any]) -> NDArray[np.int64]:
        """The class number of each of the estimator's columns."""
        written = [plain_number(name) if isinstance(name, float) else str(name) for name in known.tolist()]
        if self.class_names and set(written) <= set(self.class_names):  # a file's classes 1 and 3 are no class numbers
            return np.array([self.class_names.index(name) for name in written])
        if known.dtype.kind in "iub":
            if int(known.min()) < 0:
                raise MismatchError("the estimator's classes are not class numbers", got=str(known[:6].tolist()))
            return known.astype(np.int64)
        if known.dtype.kind == "f" and (known == known.round()).all():
            return known.astype(np.int64)
        names = [str(name) for name in known]
        if not self.class_names:
            raise MismatchError(
                f"{type(self.estimator).__name__} was fitted on names of classes, and the data have numbers alone",
                expected="class numbers, or data with class names",
                got=printable(", ".join(names), 200),
                fix="Examples(inputs, labels, class_names=...), or as_teacher_module(teacher, class_names=...), in the order of "
                "the class numbers",
            )
        wrong = [name for name in names if name not in self.class_names]
        if wrong:
            raise MismatchError(
                "the estimator knows classes that the data do not",
                expected=printable(", ".join(self.class_names), 200),
                got=printable(", ".join(wrong), 200),
                fix="fit it on the class numbers of the data, or on their names",
            )
        return np.array([self.class_names.index(name) for name in names])

    @property
    def title(self) -> str:
        return f"{type(self.estimator).__name__}.{self.method}"


def as_array(part: Any) -> NDArray[Any]:
    """An input as an array on the CPU."""
    return part.detach().cpu().numpy() if isinstance(part, Tensor) else np.asarray(part)


def as_cells(part: NDArray[Any]) -> NDArray[Any]:
    """A column as it is, or text out of its UTF-8 rows (`text_cells`), NaN where it is missing."""
    if part.dtype != np.uint8 or part.ndim != 2:
        return part
    found, places = np.unique(np.ascontiguousarray(part).view(f"S{part.shape[1]}")[:, 0], return_inverse=True)
    return np.array([math.nan if word == NO_TEXT else word.decode() for word in found.tolist()], object)[places]


def _frame(columns: Mapping[str, NDArray[Any]], names: Sequence[Any]) -> Any:
    missing = [str(name) for name in names if str(name) not in columns]
    if missing:
        raise MismatchError(
            "the data lack columns that the teacher was fitted on",
            expected=", ".join(map(str, names[:8])), got=f"no {', '.join(missing[:8])}",
        )  # fmt: skip
    import pandas

    return pandas.DataFrame({name: columns[str(name)] for name in names})


def method_of(estimator: Any, outputs: str = "auto") -> str:
    """By which method an estimator gives a distribution, margins or numbers. Raises `ConfigError` where it gives none of them."""
    if outputs == "numbers" and hasattr(estimator, PREDICTS):
        return PREDICTS
    for name in METHODS:
        if hasattr(estimator, name):
            return name
    raise ConfigError(
        f"the teacher {type(estimator).__name__} gives no probabilities",
        expected=", ".join(METHODS),
        got="predict alone",
        fix="CalibratedClassifierCV(estimator), SVC(probability=True), or a function that gives probabilities; of numbers to "
        "predict: collect(estimator, Task('regression', ...), out)",
    )
