"""Teachers in files that run without code of their own: ONNX programs and skops estimators. Nothing is unpickled."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fractionate.errors import ConfigError, MismatchError, MissingExtraError, printable, reason
from fractionate.models.estimators import as_array
from fractionate.system.files import existing_file

FILES = (".onnx", ".skops")
PICKLES = (".pkl", ".pickle", ".joblib")


class OnnxFile:
    """An ONNX file as a function of a batch, run by onnxruntime on the CPU; its inputs by name or in order.

    Of several outputs the one called `logits`, `probabilities` or `output_probability` is read, else the first of floating point.
    """

    def __init__(self, file: Path) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise MissingExtraError("ONNX teachers need onnxruntime", fix="pip install 'fractionate[onnx]'") from error
        self.file = existing_file(file)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        try:
            self.session = onnxruntime.InferenceSession(self.file, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime raises classes of its own for each way a file can be wrong
            raise ConfigError(f"cannot read {self.file} as ONNX", got=reason(error)) from error
        self.wanted = {one.name: one.type for one in self.session.get_inputs()}
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
        if isinstance(inputs, Mapping):
            given = {name: inputs[name] for name in names if name in inputs}
        else:
            parts = inputs if isinstance(inputs, (tuple, list)) else (inputs,)
            if len(parts) != len(names):
                raise MismatchError(
                    f"{self.file.name} takes other inputs", expected=", ".join(names), got=f"{len(parts)} inputs"
                )
            given = dict(zip(names, parts, strict=True))
        kinds = {"tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(float16)": np.float16}
        arrays = {name: as_array(part) for name, part in given.items()}
        fed = {
            name: part.astype(kinds[self.wanted[name]], copy=False)
            if part.dtype.kind == "f" and self.wanted[name] in kinds
            else part
            for name, part in arrays.items()
        }
        found = self.session.run([self.output], fed)[0]
        if isinstance(found, list) and found and isinstance(found[0], Mapping):  # a probability by class name a row
            found = np.array([list(row.values()) for row in found])
        return np.asarray(found)

    def __repr__(self) -> str:
        return f"OnnxFile({self.file.name})"


def read_estimator(path: Path) -> Any:
    """A fitted estimator out of a .skops file; only types that skops itself trusts are built, and nothing is unpickled.

    Raises `ConfigError` naming the types that are not trusted, `MissingExtraError` without skops.
    """
    try:
        from skops import io
    except ImportError as error:
        raise MissingExtraError("estimators are read with skops", fix="pip install 'fractionate[sklearn]'") from error
    file = existing_file(path)
    try:
        strange = io.get_untrusted_types(file=file)
        if not strange:
            return io.load(file, trusted=[])
    except Exception as error:  # a file that is no archive, or of another version
        raise ConfigError(f"cannot read {file} as an estimator", got=reason(error)) from error
    raise ConfigError(
        f"{file.name} holds types that are not trusted: {printable(', '.join(strange), 200)}",
        expected="an estimator made of parts that skops trusts",
        fix="if you trust the file, load it in a function of your own and give teacher: package.module:function",
    )
