"""Teachers in files that run without code of their own: ONNX programs and skops estimators. Nothing is unpickled."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fractionate.errors import ConfigError, DamagedError, MismatchError, extra, printable, reason
from fractionate.models.estimators import as_array, as_cells
from fractionate.system.files import existing_file

FILES = (".onnx", ".skops")
PICKLES = (".pkl", ".pickle", ".joblib")
# scikit-learn's own parts that hold numbers and settings: making them runs nothing, and trees are checked afterwards
HARMLESS = (
    "sklearn.tree._tree.Tree",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
    "sklearn.neural_network._stochastic_optimizers.SGDOptimizer",
    "sklearn.calibration._CalibratedClassifier",
    "sklearn.calibration._SigmoidCalibration",
    "sklearn.utils._bunch.Bunch",
)


class OnnxFile:
    """An ONNX file as a function of a batch, run by onnxruntime on the CPU; its inputs by name or in order.

    Of multiple outputs the one called `logits`, `probabilities` or `output_probability` is read, else the first of floating point.
    """

    def __init__(self, file: Path) -> None:
        with extra("onnx", "ONNX teachers need onnxruntime"):
            import onnxruntime
        self.file = existing_file(file)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        try:
            self.session = onnxruntime.InferenceSession(self.file, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime raises classes of its own for each way a file can be wrong
            raise ConfigError(f"cannot read {self.file} as ONNX", got=reason(error)) from error
        self.wanted = {one.name: one.type for one in self.session.get_inputs()}
        self.ranks = {one.name: len(one.shape) for one in self.session.get_inputs()}
        outputs = self.session.get_outputs()
        named = [one.name for one in outputs if one.name in ("logits", "probabilities", "output_probability")]
        plain = [one.name for one in outputs if one.type in ("tensor(float)", "tensor(double)", "tensor(float16)")]
        found = [*named, *plain]
        if not found:
            raise ConfigError(
                f"{self.file.name} gives no numbers", expected="an output of floating point [batch, classes]",
                got=", ".join(f"{one.name}: {one.type}" for one in outputs),
                fix="export probabilities as an array (skl2onnx: options={'zipmap': False})",
            )  # fmt: skip
        self.output = found[0]

    def __call__(self, inputs: Any) -> NDArray[Any]:
        names = list(self.wanted)
        if (
            isinstance(inputs, Mapping) and len(names) == 1 and names[0] not in inputs
        ):  # one matrix of a table's columns
            given = {names[0]: np.stack([as_array(part) for part in inputs.values()], axis=1)}
        elif isinstance(inputs, Mapping):
            given = {name: inputs[name] for name in names if name in inputs}
        else:
            parts = inputs if isinstance(inputs, (tuple, list)) else (inputs,)
            if len(parts) != len(names):
                raise MismatchError(
                    f"{self.file.name} takes other inputs", expected=", ".join(names), got=f"{len(parts)} inputs"
                )
            given = dict(zip(names, parts, strict=True))
        kinds = {"tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(float16)": np.float16}
        arrays = {name: self._rows(name, as_array(part)) for name, part in given.items()}
        fed = {
            name: part.astype(kinds[self.wanted[name]], copy=False)
            if part.dtype.kind == "f" and self.wanted[name] in kinds
            else part
            for name, part in arrays.items()
        }
        try:
            found = self.session.run([self.output], fed)[0]
        except Exception as error:  # onnxruntime's own errors, for inputs of another shape, type or name
            raise MismatchError(
                f"{self.file.name} does not take these inputs",
                expected=", ".join(f"{one.name}: {one.type} {one.shape}" for one in self.session.get_inputs()),
                got=", ".join(f"{name}: {part.dtype} {list(part.shape)}" for name, part in fed.items())
                or "none of them",
                fix="data whose inputs have these names and shapes",
            ) from error
        if isinstance(found, list) and found and isinstance(found[0], Mapping):  # a probability by class name a row
            found = np.array([list(row.values()) for row in found])
        return np.asarray(found)

    def _rows(self, name: str, part: NDArray[Any]) -> NDArray[Any]:
        """Rows of numbers for a program that takes rows, as an estimator would be given them; text out of its bytes."""
        if self.wanted[name] == "tensor(string)":
            text = as_cells(part)
            return text.reshape(-1, 1) if self.ranks[name] == 2 else text
        return part.reshape(len(part), -1) if self.ranks[name] == 2 and part.ndim > 2 else part

    def __repr__(self) -> str:
        return f"OnnxFile({self.file.name})"


def read_estimator(path: Path) -> Any:
    """A fitted estimator out of a .skops file; only types that skops trusts and `HARMLESS` ones are built, nothing is unpickled.

    Raises `ConfigError` naming the types that are not trusted, `DamagedError` for trees that lead out of themselves,
    `MissingExtraError` without skops.
    """
    with extra("sklearn", "estimators are read with skops"):
        from skops import io
    file = existing_file(path)
    try:
        strange = sorted(set(io.get_untrusted_types(file=file)) - set(HARMLESS))
        found = None if strange else io.load(file, trusted=list(HARMLESS))
    except Exception as error:  # a file that is no archive, or of another version
        raise ConfigError(f"cannot read {file} as an estimator", got=reason(error)) from error
    if not strange:
        _check_trees(found, file, set())
        return found
    raise ConfigError(
        f"{file.name} holds types that are not trusted: {printable(', '.join(strange), 200)}",
        expected="an estimator made of parts that skops trusts",
        fix="if you trust the file, load it in a function of your own and give teacher: package.module:function",
    )


def _check_trees(value: Any, file: Path, seen: set[int]) -> None:
    """Raise `DamagedError` where a tree's branches do not lead to later nodes of it: reading could leave its memory."""
    if id(value) in seen:
        return
    seen.add(id(value))
    kind = f"{type(value).__module__}.{type(value).__name__}"
    if kind == HARMLESS[0]:
        inner = np.flatnonzero(value.children_left != -1)
        branches = (value.children_left[inner], value.children_right[inner])
        _check_branches(inner, branches, value.feature[inner], value.node_count, value.n_features, file)
    elif kind == HARMLESS[1]:
        inner = np.flatnonzero(value.nodes["is_leaf"] == 0)
        branches = (value.nodes["left"][inner].astype(np.int64), value.nodes["right"][inner].astype(np.int64))
        _check_branches(inner, branches, value.nodes["feature_idx"][inner], len(value.nodes), None, file)
    elif isinstance(value, np.ndarray):
        if value.dtype.hasobject:
            _check_trees(value.tolist(), file, seen)
    elif isinstance(value, Mapping):
        _check_trees(list(value.values()), file, seen)
    elif isinstance(value, (list, tuple)):
        for part in value:
            _check_trees(part, file, seen)
    elif hasattr(value, "__dict__") and not isinstance(value, type):
        _check_trees(list(vars(value).values()), file, seen)


def _check_branches(
    inner: NDArray[np.int64],
    branches: tuple[NDArray[Any], NDArray[Any]],
    features: NDArray[Any],
    nodes: int,
    width: int | None,
    file: Path,
) -> None:
    later = all(bool(((branch > inner) & (branch < nodes)).all()) for branch in branches)
    if not later or bool((features < 0).any()) or (width is not None and bool((features >= width).any())):
        raise DamagedError(
            f"{file} holds a tree whose branches lead out of it",
            expected="branches to later nodes of the tree, on columns that it was fitted on",
            fix="fit the estimator again, and write the file anew",
        )
