"""Estimators of scikit-learn by name, fitted on the teaching part: `fitted('HistGradientBoostingClassifier', max_iter=200)`."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fractionate.data.batch import Split
from fractionate.data.labels import IGNORED
from fractionate.data.raw import Tokenizing
from fractionate.errors import ConfigError, MismatchError, UnknownNameError, extra, printable, reason
from fractionate.models.estimators import METHODS, EstimatorRows, as_array, method_of
from fractionate.models.function import FunctionTeacher
from fractionate.models.zoo import models
from fractionate.system.registry import nearest

ESTIMATORS: Mapping[str, str] = {  # all that a run file can name, and where they are
    "ExtraTreesClassifier": "ensemble",
    "ExtraTreesRegressor": "ensemble",
    "GaussianNB": "naive_bayes",
    "GaussianProcessClassifier": "gaussian_process",
    "GradientBoostingClassifier": "ensemble",
    "GradientBoostingRegressor": "ensemble",
    "HistGradientBoostingClassifier": "ensemble",
    "HistGradientBoostingRegressor": "ensemble",
    "KNeighborsClassifier": "neighbors",
    "KNeighborsRegressor": "neighbors",
    "LinearDiscriminantAnalysis": "discriminant_analysis",
    "LogisticRegression": "linear_model",
    "QuadraticDiscriminantAnalysis": "discriminant_analysis",
    "RandomForestClassifier": "ensemble",
    "RandomForestRegressor": "ensemble",
    "Ridge": "linear_model",
    "SVC": "svm",
    "SVR": "svm",
}
READ_AT_ONCE = 1024
KINDS = ("classification", "multi-label", "regression")


@dataclass(frozen=True)
class FittedEstimator:
    """An estimator by name and its settings; builds a teacher that was fitted on the teaching part. `trained`: used as it is."""

    name: str
    settings: Mapping[str, Any]
    trained: bool = True

    def tokenizing(self, length: int) -> Tokenizing | None:
        """None: it reads numbers."""
        return None

    def build(self, need: Any) -> nn.Module:
        """The fitted estimator as a module.

        Raises:
            ConfigError: for tasks without one row per example, where nothing is left to fit on, and for settings that scikit-learn
                refuses.
            MismatchError: for inputs that are no numbers, such as tokens.
        """
        if need.kind not in KINDS or need.teaching is None:
            raise ConfigError(
                f"{self.name} cannot be fitted for this run",
                expected=f"task: {', '.join(KINDS)}, and examples that are left to teach it",
                got=f"task {need.kind}" if need.kind not in KINDS else "no teaching part",
                fix="another teacher" if need.kind not in KINDS else "make the parts of data smaller",
            )
        estimator = self.fresh()
        inputs, labels, weights = _teaching(need.teaching, self.name)
        given = {} if weights is None else {"sample_weight": weights}
        if given and "sample_weight" not in inspect.signature(estimator.fit).parameters:
            raise ConfigError(
                f"{self.name} takes no weights", fix="leave class_weights= out, or take another estimator"
            )
        try:
            estimator.fit(inputs, labels, **given)
        except ValueError as error:  # settings out of their range, labels it does not take
            raise ConfigError(f"{self.name} cannot be fitted on these data", got=reason(error)) from error
        numbers = need.kind == "regression"
        method = method_of(estimator, "numbers" if numbers else "auto")
        return FunctionTeacher(
            EstimatorRows(estimator, method, need.class_names, need.classes or None),
            outputs="numbers" if numbers else METHODS[method],
            title=self.name,
            classes=None if numbers else need.classes or None,
            # not the fitted numbers: their last bits follow the number of threads
            content=(self.name, dict(self.settings), need.teaching.fingerprint(), version("scikit-learn")),
        )

    def fresh(self) -> Any:
        """The estimator, not fitted. Raises `ConfigError` for settings it does not have."""
        with extra("sklearn", f"{self.name} is an estimator of scikit-learn"):
            kind = getattr(import_module(f"sklearn.{ESTIMATORS[self.name]}"), self.name)
        known = list(inspect.signature(kind).parameters)
        strange = next((name for name in self.settings if name not in known), None)
        if strange is not None:
            near = nearest(strange, known)
            raise ConfigError(
                f"{self.name} has no setting {printable(strange)!r}",
                expected=", ".join(known),
                fix=f"did you mean {near!r}?" if near else None,
            )
        seeded = {"random_state": 0} if "random_state" in known else {}
        return kind(**(seeded | dict(self.settings)))


def _teaching(split: Split, name: str) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any] | None]:
    """All inputs as rows, their labels and weights, as the teacher reads them. Examples without a label are left out."""
    rows, labels, weights = [], [], []
    plan = ((0, places) for places in torch.split(torch.arange(len(split)), READ_AT_ONCE))
    for batch in split.batches(plan, 0):
        inputs = batch.view("teacher")
        if not isinstance(inputs, torch.Tensor) or not inputs.is_floating_point():
            raise MismatchError(
                f"{name} reads rows of numbers", expected="a table, or pictures",
                got="tokens or words by number" if isinstance(inputs, torch.Tensor) else type(inputs).__name__,
                fix="hf(…) or bag() for texts",
            )  # fmt: skip
        rows.append(as_array(inputs).reshape(len(inputs), -1))
        labels.append(as_array(batch.labels))
        weights.append(np.ones(len(inputs)) if batch.weight is None else as_array(batch.weight))
    targets = np.concatenate(labels)
    known = (targets != IGNORED).reshape(len(targets), -1).all(axis=1)
    counted = np.concatenate(weights)[known]
    return np.concatenate(rows)[known], targets[known], None if (counted == counted[:1]).all() else counted


@models.register("fitted")
def fitted(name: str, **settings: Any) -> FittedEstimator:
    """An estimator of scikit-learn, fitted on the teaching part: `fitted('RandomForestClassifier', n_estimators=200)`.

    Args:
        name: One of `ESTIMATORS`.
        settings: Its own, as plain values; `random_state` is 0 where none is given.

    Raises:
        UnknownNameError: for an estimator that is not in the list.
    """
    if name not in ESTIMATORS:
        near = nearest(str(name), list(ESTIMATORS))
        raise UnknownNameError(
            f"unknown estimator {printable(str(name))!r}",
            expected=f"one of {', '.join(ESTIMATORS)}",
            fix=f"did you mean {near!r}?" if near else "fit it yourself: sklearn('estimator.skops')",
        )
    return FittedEstimator(name, settings)
