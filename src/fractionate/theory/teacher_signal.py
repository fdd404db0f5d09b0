"""A teacher's outputs on some examples, and the statistics of all of them.

Rules, divergences and probes read a `TeacherSignal`, never a model. A mini-batch is a `take` of the whole signal: it keeps
the whole as its `population`, so that "the mean over the data" means the data and not the batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, field, fields, replace
from numbers import Real
from typing import Any, Generic, TypeVar, overload

import torch
from jaxtyping import Bool, Float, Int, Integer
from torch import Tensor

from fractionate.errors import ConfigError, MismatchError, NumericsError

Value = TypeVar("Value")
ROWS_A_CHUNK_ELEMENTS = 1 << 19  # elements touched at once when a whole signal is walked: bounds the extra memory


class once(Generic[Value]):  # noqa: N801  # a decorator
    """functools.cached_property without its lock, at which torch.compile breaks the graph; traced, the value is made anew."""

    def __init__(self, made_by: Callable[[Any], Value]) -> None:
        self.made_by, self.name, self.__doc__ = made_by, made_by.__name__, made_by.__doc__

    @overload
    def __get__(self, owner: None, kind: type) -> once[Value]: ...

    @overload
    def __get__(self, owner: object, kind: type) -> Value: ...

    def __get__(self, owner: object | None, kind: type) -> once[Value] | Value:
        if owner is None:
            return self
        value = self.made_by(owner)
        if not torch.compiler.is_compiling():
            owner.__dict__[self.name] = value  # found before this descriptor the next time
        return value


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """Half precision is computed in float32; float32 and float64 stay as they are."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def check_temperature(temperature: float) -> float:
    """A temperature as float. Raises `ConfigError` unless it is above 0, and it and its inverse are numbers of float32."""
    if not (isinstance(temperature, Real) and 1e-30 <= temperature <= 1e30):
        raise ConfigError(
            "the temperature cannot be used", expected="a number above 0, often 1 to 8", got=repr(temperature)
        )
    return float(temperature)


@dataclass(frozen=True, eq=False)
class SignalStats:
    """Statistics of a whole signal at one temperature; what universe and domain rules are functions of.

    `confidence` is p[y] of every example, `class_mean` the mean prediction m_c of each class present (rows in the order
    of `present`), `class_share` their shares, `mean_confidence` the share-weighted mean of m_c[c].
    """

    temperature: float
    labels: Int[Tensor, "examples"]
    confidence: Float[Tensor, "examples"]
    present: Int[Tensor, "present"]
    class_share: Float[Tensor, "present"]
    class_mean: Float[Tensor, "present classes"]
    mean_confidence: Float[Tensor, ""]
    shuffles: dict[tuple[str, int], Tensor] = field(
        default_factory=dict, repr=False
    )  # the orders drawn so far, by seed

    def to(self, device: torch.device) -> SignalStats:
        """The same statistics on a device."""
        names = ("labels", "confidence", "present", "class_share", "class_mean", "mean_confidence")
        moved: dict[str, Any] = {name: getattr(self, name).to(device) for name in names}
        return replace(self, shuffles={}, **moved)

    @once
    def row_of_class(self) -> Int[Tensor, "classes"]:
        """The row of `class_mean` that belongs to a class; -1 for a class nobody has."""
        rows = torch.full((self.class_mean.shape[1],), -1, dtype=torch.long, device=self.present.device)
        rows[self.present] = torch.arange(len(self.present), device=self.present.device)
        return rows

    def class_mean_of(self, labels: Int[Tensor, "batch"]) -> Float[Tensor, "batch classes"]:
        """The mean prediction of each label's class; for an absent class the mean confidence and a flat rest."""
        rows = self.row_of_class[labels]
        means = self.class_mean[rows.clamp_min(0)]
        absent = rows < 0
        if bool(absent.any()):
            classes = means.shape[1]
            flat = ((1 - self.mean_confidence) / (classes - 1)).expand(int(absent.sum()), classes).clone()
            flat[torch.arange(len(flat), device=flat.device), labels[absent]] = self.mean_confidence
            means = means.clone()
            means[absent] = flat
        return means


class Population:
    """All of the teacher's outputs: its statistics by temperature, computed once, in chunks of rows, summed in float64.

    `logits` may be anything that gives rows when it is indexed with a slice.
    """

    def __init__(self, logits: Any, labels: Int[Tensor, "examples"]) -> None:
        self.logits = logits
        self.labels = labels
        self._stats: dict[tuple[float, torch.device], SignalStats] = {}

    def stats(self, temperature: float, device: torch.device | None = None) -> SignalStats:
        """The statistics at a temperature, on a device (cached)."""
        home = self.logits.device
        device = home if device is None else device
        if (temperature, home) not in self._stats:
            self._stats[temperature, home] = self._measure(temperature)
        if (temperature, device) not in self._stats:
            self._stats[temperature, device] = self._stats[temperature, home].to(device)
        return self._stats[temperature, device]

    def _measure(self, temperature: float) -> SignalStats:
        examples, classes = self.logits.shape
        present, row, counts = torch.unique(self.labels, return_inverse=True, return_counts=True)
        sums = torch.zeros(len(present), classes, dtype=torch.float64, device=self.logits.device)
        confidence = torch.empty(examples, dtype=torch.float64, device=self.logits.device)
        step = max(1, ROWS_A_CHUNK_ELEMENTS // classes)
        for start in range(0, examples, step):
            part = slice(start, start + step)
            p = torch.softmax(self.logits[part].double() / temperature, dim=-1)
            confidence[part] = p.gather(1, self.labels[part, None]).squeeze(1)
            sums.index_add_(0, row[part], p)
        dtype = compute_dtype(self.logits.dtype)
        return SignalStats(
            temperature=temperature,
            labels=self.labels,
            confidence=confidence.to(dtype),
            present=present,
            class_share=(counts.double() / examples).to(dtype),
            class_mean=sums.div_(counts[:, None]).to(dtype),
            mean_confidence=confidence.mean().to(dtype),
        )


@dataclass(frozen=True, eq=False, repr=False)
class TeacherSignal:
    """A teacher's logits on labelled examples, read at a temperature.

    Args:
        logits: [batch, classes], unnormalised; -inf masks a class. Half precision is computed in float32.
        labels: [batch], integers from 0 to classes - 1.
        class_relation: [classes, classes] similarities of classes, for example cosines of the rows of the teacher's output layer
            (`relation_from_rows`).
        temperature: Divides the logits.
        population, rows: The whole signal that a batch was taken from, and the places of these examples in it.

    Raises:
        MismatchError: Shapes, dtypes or labels do not fit.
        NumericsError: A logit is NaN or +inf, or a row has every class masked.

    Example:
        import torch
        from fractionate import TeacherSignal
        signal = TeacherSignal(torch.randn(4, 3), torch.tensor([0, 1, 2, 0]))
        print(signal.at(4.0).probabilities, signal.take(torch.tensor([2, 3])).labels)
    """

    logits: Float[Tensor, "batch classes"]
    labels: Integer[Tensor, "batch"]
    class_relation: Float[Tensor, "classes classes"] | None = None
    _: KW_ONLY
    temperature: float = 1.0
    population: Population | None = field(default=None, repr=False)
    rows: Int[Tensor, "batch"] | None = field(default=None, repr=False)  # places of these examples in the population

    def __post_init__(self) -> None:
        if (
            self.population is None
        ):  # a whole signal enters here: check it once; batches taken from it are not re-checked
            _check(self.logits, self.labels, self.class_relation)
            check_temperature(self.temperature)
            object.__setattr__(self, "logits", self.logits.detach())
            object.__setattr__(self, "labels", self.labels.long())
            object.__setattr__(self, "population", Population(self.logits, self.labels))
            object.__setattr__(self, "rows", torch.arange(len(self.labels), device=self.labels.device))

    def at(self, temperature: float) -> TeacherSignal:
        """The same signal read at another temperature."""
        return self if temperature == self.temperature else self._but(temperature=check_temperature(temperature))

    def take(self, index: Int[Tensor, "some"] | Bool[Tensor, "batch"] | slice) -> TeacherSignal:
        """Some of the examples, by places, by a mask or by a slice; statistics stay those of the whole signal."""
        assert self.rows is not None
        return self._but(logits=self.logits[index], labels=self.labels[index], rows=self.rows[index])

    def _but(self, **changes: Any) -> TeacherSignal:
        """`dataclasses.replace` without its checks, much faster: this runs for every chunk of every step."""
        other = object.__new__(TeacherSignal)
        other.__dict__.update({name: self.__dict__[name] for name in _FIELDS} | changes)
        return other

    def to(self, device: torch.device | str) -> TeacherSignal:
        """The same examples on a device; statistics stay those of the whole signal."""
        if torch.device(device) == self.logits.device:
            return self
        assert self.rows is not None
        relation = None if self.class_relation is None else self.class_relation.to(device)
        return replace(
            self,
            logits=self.logits.to(device),
            labels=self.labels.to(device),
            class_relation=relation,
            rows=self.rows.to(device),
        )

    @property
    def classes(self) -> int:
        """The number of classes K."""
        return self.logits.shape[1]

    @property
    def stats(self) -> SignalStats:
        """Statistics of the whole signal at this temperature."""
        assert self.population is not None
        return self.population.stats(self.temperature, self.logits.device)

    @property
    def tempered_logits(self) -> Float[Tensor, "batch classes"]:
        """logits / temperature, in the dtype that is computed in."""
        return self.logits.to(compute_dtype(self.logits.dtype)) / self.temperature

    @once
    def probabilities(self) -> Float[Tensor, "batch classes"]:
        """p = softmax(logits / temperature)."""
        return torch.softmax(self.tempered_logits, dim=-1)

    @property
    def confidence(self) -> Float[Tensor, "batch"]:
        """p[y], the teacher's probability of the label."""
        return self.probabilities.gather(1, self.labels[:, None]).squeeze(1)

    @property
    def others(self) -> Bool[Tensor, "batch classes"]:
        """True for the classes that may share the off-label mass: not the label and not masked by the teacher."""
        allowed = ~torch.isneginf(self.logits)
        allowed = allowed.scatter(1, self.labels[:, None], False)
        # every other class is masked: any shape will do, since it carries no mass; take all of them to stay finite
        allowed = allowed | ~allowed.any(dim=1, keepdim=True)
        return allowed.scatter(1, self.labels[:, None], False)

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        relation = "none" if self.class_relation is None else "given"
        return (
            f"TeacherSignal({len(self)} examples × {self.classes} classes, {self.logits.dtype}, "
            f"temperature {self.temperature:g}, class relation {relation})"
        )

    def _repr_html_(self) -> str:
        right = float((self.logits.argmax(dim=1) == self.labels).double().mean()) if len(self) else float("nan")
        rows = {
            "examples": f"{len(self):,}",
            "classes": f"{self.classes:,}",
            "temperature": f"{self.temperature:g}",
            "label on top": f"{right:.1%}",
            "mean confidence in the label": f"{float(self.stats.mean_confidence):.3f} (all the data)",
            "class relation": "none" if self.class_relation is None else "given",
        }
        cells = "".join(
            f"<tr><th style='text-align:left'>{name}</th><td>{value}</td></tr>" for name, value in rows.items()
        )
        return f"<table><caption>TeacherSignal</caption>{cells}</table>"


_FIELDS = tuple(each.name for each in fields(TeacherSignal) if each.name != "_")


def relation_from_rows(weight: Float[Tensor, "classes features"]) -> Float[Tensor, "classes classes"]:
    """Cosine similarity of the rows of a logit layer: C[i, j] = w_i · w_j / (|w_i| |w_j|) (Tang et al., 2002.03532)."""
    rows = torch.nn.functional.normalize(weight.detach().to(compute_dtype(weight.dtype)), dim=1)
    return rows @ rows.T


def _check(logits: Tensor, labels: Tensor, relation: Tensor | None) -> None:
    for name, value in {"logits": logits, "labels": labels, "class_relation": relation}.items():
        if not isinstance(value, Tensor) and not (name == "class_relation" and value is None):
            raise MismatchError(
                f"{name} are not a tensor", expected="a torch.Tensor", got=type(value).__name__,
                fix=f"pass torch.as_tensor({name})",
            )  # fmt: skip
    if logits.ndim != 2 or logits.shape[1] < 2 or not logits.is_floating_point():
        raise MismatchError(
            "these are not teacher logits",
            expected="floating point [batch, classes] with at least 2 classes",
            got=f"{logits.dtype} {list(logits.shape)}",
            fix="pass the outputs before softmax, one row per example; flatten tokens into rows",
        )
    if len(logits) == 0:
        raise MismatchError("there is no data", expected="at least one example", got="0 rows")
    if labels.ndim != 1 or labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        one_hot = labels.shape == logits.shape and bool((labels.sum(dim=1) == 1).all())
        raise MismatchError(
            "labels are not class numbers",
            expected=f"integers [{len(logits)}]",
            got=f"{labels.dtype} {list(labels.shape)}",
            fix="these look one-hot: pass labels.argmax(1)" if one_hot else "pass labels.long(), one class per example",
        )
    if len(labels) != len(logits):
        raise MismatchError(
            "logits and labels differ in length", expected=f"{len(logits)} labels", got=f"{len(labels)} labels"
        )
    if labels.device != logits.device:
        raise MismatchError(
            "logits and labels live on different devices", got=f"{logits.device} and {labels.device}", fix="move one"
        )
    classes = logits.shape[1]
    wrong = ((labels < 0) | (labels >= classes)).nonzero().flatten()
    if len(wrong):
        first = int(wrong[0])
        one_based = int(labels.min()) >= 1 and int(labels.max()) == classes
        raise MismatchError(
            f"{len(wrong)} of {len(labels)} labels are out of range (first: example {first})",
            expected=f"integers in 0..{classes - 1}",
            got=str(int(labels[first])),
            fix="labels look 1-based: subtract 1" if one_based else "check the label map, or drop ignored examples",
        )
    bad = (torch.isnan(logits) | torch.isposinf(logits)).any(dim=1) | torch.isneginf(logits).all(dim=1)
    if bool(bad.any()):
        first = int(bad.nonzero()[0])
        raise NumericsError(
            f"{int(bad.sum())} of {len(logits)} rows of teacher logits are not usable (first: example {first})",
            expected="finite numbers, -inf only to mask some of the classes",
            got=str(logits[first].flatten()[:6].tolist()) + (" …" if classes > 6 else ""),
            fix="check these inputs; a half-precision teacher may overflow: run it in float32 or bfloat16",
        )
    if relation is not None and (relation.shape != (classes, classes) or not bool(torch.isfinite(relation).all())):
        raise MismatchError(
            "class_relation does not fit the logits",
            expected=f"finite [{classes}, {classes}]",
            got=f"{list(relation.shape)}",
            fix="pass relation_from_rows(teacher.head.weight), or leave it out",
        )


def check_finite(logits: Float[Tensor, "rows classes"], examples: Tensor) -> None:
    """Raise `NumericsError` naming the examples on which a teacher gives NaN, +inf or nothing but -inf."""
    bad = (torch.isnan(logits) | torch.isposinf(logits)).any(dim=1) | torch.isneginf(logits).all(dim=1)
    if bool(bad.any()):
        named = ", ".join(map(str, examples[bad.nonzero().flatten().to(examples.device)][:8].tolist()))
        raise NumericsError(
            f"the teacher's logits are not finite on {int(bad.sum())} of {len(logits)} rows",
            expected="finite numbers, -inf only to mask some of the classes",
            got=f"examples {named}",
            fix="check these inputs; a half-precision teacher may overflow: run it in float32 or bfloat16",
        )
