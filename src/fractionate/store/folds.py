"""Out-of-fold answers: an estimator fitted again on the other folds answers each example, so that it has never seen its label."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fractionate.data.examples import Examples
from fractionate.data.splits import as_examples
from fractionate.errors import ConfigError, MismatchError, extra
from fractionate.models.estimators import METHODS, EstimatorRows, method_of
from fractionate.models.output_kinds import OutputKind
from fractionate.system.fingerprints import fingerprint_object


@dataclass(frozen=True, eq=False)
class OutOfFold:
    """Answers by place; the fits run at the first call."""

    estimator: Any
    examples: Examples
    folds: int

    @property
    def kind(self) -> OutputKind:
        """What the estimator gives."""
        return METHODS[method_of(self.estimator)]

    @property
    def named(self) -> str:
        """The estimator's class and settings, and the folds: what was fitted before does not count."""
        made = fingerprint_object((type(self.estimator), self.estimator.get_params()))
        return f"{type(self.estimator).__name__}, {self.folds} folds, {made.digest}"

    @cached_property
    def rows(self) -> Tensor:
        """What the estimators give, [examples, classes], in the order of the data."""
        with extra("sklearn", "fitting an estimator again needs scikit-learn"):
            from sklearn.base import clone
        labels, classes = self.examples.labels, self.examples.classes
        known = getattr(self.estimator, "classes_", None)
        names = self.examples.class_names
        by_name = known is not None and np.asarray(known).dtype.kind in "OUT" and set(map(str, known)) <= set(names)
        targets = np.array(names)[labels.numpy()] if by_name else labels.numpy()
        reader = EstimatorRows(self.estimator, method_of(self.estimator))
        fold = fold_of(labels.numpy(), self.folds)
        found = torch.empty(len(labels), classes, dtype=torch.float64)
        for number in range(self.folds):
            inside, outside = np.flatnonzero(fold != number), np.flatnonzero(fold == number)
            again = clone(self.estimator).fit(reader.rows_of(self.examples.inputs[inside]), targets[inside])
            answers = EstimatorRows(again, method_of(again), names, classes)(self.examples.inputs[outside])
            found[outside] = torch.as_tensor(answers, dtype=torch.float64)
        return found

    def __call__(self, places: Tensor) -> Tensor:
        return self.rows[places]


def fold_of(labels: NDArray[np.int64], folds: int, seed: int = 0) -> NDArray[np.int64]:
    """The fold of each example, at random and with each class spread evenly over the folds."""
    shuffled = np.random.default_rng(seed).permutation(len(labels))
    ordered = shuffled[np.argsort(labels[shuffled], kind="stable")]
    found = np.empty(len(labels), np.int64)
    found[ordered] = np.arange(len(labels)) % folds
    return found


def out_of_fold(estimator: Any, data: Any, folds: int) -> OutOfFold:
    """The answers of estimators that are fitted on the transfer set without the fold they answer.

    Raises:
        ConfigError: for what cannot be fitted again, and fewer than two folds.
        MismatchError: where there are fewer examples than folds.
    """
    if isinstance(folds, bool) or folds < 2:
        raise ConfigError("invalid number of folds", expected="2 or more, or none", got=repr(folds))
    if isinstance(estimator, nn.Module) or not (hasattr(estimator, "fit") and hasattr(estimator, "get_params")):
        raise ConfigError(
            f"{type(estimator).__name__} cannot be fitted again on each fold",
            expected="an estimator with fit and get_params",
            fix="leave folds= out, and train the teacher on other data than the transfer set",
        )
    examples = as_examples(data)
    if len(examples) < folds:
        raise MismatchError("fewer examples than folds", expected=f"at least {folds}", got=str(len(examples)))
    method_of(estimator)
    return OutOfFold(estimator, examples, folds)
