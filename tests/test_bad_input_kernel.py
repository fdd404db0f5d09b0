"""Bad input to the kernel: an error that says what was expected, what came and how to fix it; never a wrong number."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fractionate import CELLS, Cell, Objective, TeacherSignal, rescaling, spectrum
from fractionate.errors import ConfigError, FractionateError, MismatchError, NumericsError, UnknownNameError
from fractionate.theory.cells import as_cell
from fractionate.theory.confidence import Relation, Shuffled, Smoothed
from fractionate.theory.shape import Permuted, TopK, Uniform

LOGITS = torch.zeros(4, 3)
LABELS = torch.tensor([0, 1, 2, 0])


def says(error: FractionateError, *words: str) -> None:
    text = str(error)
    assert error.expected or error.fix, f"says neither what was expected nor what to do: {text}"
    for word in words:
        assert word in text, text


def with_value(value: float, *, row: int = 2) -> Tensor:
    logits = LOGITS.clone()
    logits[row, 1] = value
    return logits


@pytest.mark.wrong_types
@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (torch.tensor([0, 1, 3, 0]), ("1 of 4 labels", "example 2", "0..2", "3")),
        (torch.tensor([0, -1, 2, -100]), ("2 of 4 labels", "example 1", "-1", "ignored")),
        (torch.tensor([1, 2, 3, 1]), ("1-based", "subtract 1")),
        (torch.eye(3)[LABELS], ("one-hot", "argmax(1)")),
        (torch.eye(3, dtype=torch.long)[LABELS], ("one-hot", "argmax(1)")),
        (LABELS.float(), ("torch.float32", "long()")),
        (LABELS.bool(), ("torch.bool", "long()")),
        (LABELS[:, None], ("[4, 1]", "integers [4]")),
        (LABELS[:3], ("4 labels", "3 labels")),
        (torch.tensor(1), ("integers [4]", "[]")),
        (LABELS + 2**40, ("out of range",)),
    ],
)
def test_labels_that_do_not_fit(labels: Tensor, words: tuple[str, ...]) -> None:
    with pytest.raises(MismatchError) as error:
        TeacherSignal(LOGITS, labels)
    says(error.value, *words)
    assert error.value.exit_code == 4


@pytest.mark.wrong_types
@pytest.mark.parametrize(
    ("logits", "words"),
    [
        (LOGITS[0], ("[3]", "[batch, classes]", "before softmax")),
        (torch.zeros(4, 2, 3), ("[4, 2, 3]", "flatten")),
        (torch.zeros(4, 1), ("at least 2 classes",)),
        (torch.zeros(4, 0), ("at least 2 classes",)),
        (torch.zeros(4, 3, dtype=torch.long), ("torch.int64", "floating point")),
        (torch.zeros(4, 3, dtype=torch.complex64), ("complex64", "floating point")),
        (torch.zeros(0, 3), ("no data", "at least one example")),
    ],
)
def test_logits_that_are_not_logits(logits: Tensor, words: tuple[str, ...]) -> None:
    with pytest.raises(MismatchError) as error:
        TeacherSignal(logits, LABELS[: len(logits)])
    says(error.value, *words)


@pytest.mark.parametrize(
    ("logits", "words"),
    [
        (with_value(math.nan), ("1 of 4 rows", "example 2", "nan", "float32 or bfloat16")),
        (with_value(math.inf), ("example 2", "inf", "-inf only to mask")),
        (torch.full((4, 3), -math.inf), ("4 of 4 rows", "example 0")),
        (torch.full((4, 3), 70000.0).half(), ("inf", "half-precision")),
    ],
)
def test_numbers_that_are_not_finite(logits: Tensor, words: tuple[str, ...]) -> None:
    with pytest.raises(NumericsError) as error:
        TeacherSignal(logits, LABELS)
    says(error.value, *words)
    assert error.value.exit_code == 5


@pytest.mark.wrong_types
@pytest.mark.parametrize("relation", [torch.eye(4), torch.eye(3)[:2], torch.full((3, 3), math.nan), torch.ones(3)])
def test_a_relation_that_does_not_fit(relation: Tensor) -> None:
    with pytest.raises(MismatchError) as error:
        TeacherSignal(LOGITS, LABELS, relation)
    says(error.value, "class_relation", "finite [3, 3]", "relation_from_rows")


@pytest.mark.wrong_types
@pytest.mark.parametrize("which", [0, 1, 2])
@pytest.mark.parametrize("wrong", [LOGITS.numpy(), LOGITS.tolist(), "logits", 3])
def test_what_is_not_a_tensor(which: int, wrong: object) -> None:
    arguments = [LOGITS, LABELS, torch.eye(3)]
    arguments[which] = wrong  # type: ignore[call-overload]
    with pytest.raises(MismatchError) as error:
        TeacherSignal(*arguments)
    says(error.value, "not a tensor", type(wrong).__name__, "as_tensor")


STUDENTS = [
    torch.zeros(4, 5),
    torch.zeros(3, 3),
    torch.zeros(4, 1),
    torch.zeros(12),
    torch.zeros(1, 3),
    torch.zeros(1, 4, 3),
]


@pytest.mark.wrong_types
@pytest.mark.parametrize("student", STUDENTS, ids=lambda t: str(list(t.shape)))
@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0])
def test_a_student_of_other_classes_or_examples(student: Tensor, weight: float) -> None:
    """No broadcasting: [batch, 1] and [1, classes] are as wrong as other class counts."""
    signal = TeacherSignal(LOGITS, LABELS)
    for compute in (lambda o: o(student, signal), lambda o: rescaling(student, signal, o)):
        with pytest.raises(MismatchError) as error:
            compute(Objective("kd", teacher_weight=weight))
        says(error.value, "[4, 3]", str(list(student.shape)))


@pytest.mark.parametrize("temperature", [0, -1, 0.0, math.nan, math.inf, -math.inf, "4", None, 1j, [1.0]])
def test_a_temperature_that_cannot_be_used(temperature: object) -> None:
    signal = TeacherSignal(LOGITS, LABELS)
    uses: list[Callable[[], object]] = [
        lambda: Objective("kd", temperature),  # type: ignore[arg-type]
        lambda: CELLS["kd"].target(signal, temperature),  # type: ignore[arg-type]
        lambda: signal.at(temperature),  # type: ignore[arg-type]
        *([] if temperature is None else [lambda: spectrum(signal, temperature)]),  # type: ignore[arg-type]  # None: its own
        lambda: TeacherSignal(LOGITS, LABELS, temperature=temperature),  # type: ignore[arg-type]
    ]
    for use in uses:
        with pytest.raises(ConfigError) as error:
            use()
        says(error.value, "temperature", "above 0", repr(temperature))


@pytest.mark.parametrize("weight", [-0.1, 1.1, 90, math.nan, math.inf, "0.9", None])
def test_a_teacher_weight_that_cannot_be_used(weight: object) -> None:
    with pytest.raises(ConfigError) as error:
        Objective(teacher_weight=weight)  # type: ignore[arg-type]
    says(error.value, "teacher weight", "[0, 1]", repr(weight))


@pytest.mark.parametrize(
    "make",
    [
        lambda: Smoothed(-0.1), lambda: Smoothed(1.5), lambda: Smoothed(math.nan), lambda: Smoothed("0.1"),  # type: ignore[arg-type]
        lambda: TopK(0), lambda: TopK(-2), lambda: TopK(2.5), lambda: TopK(True), lambda: TopK("3"),  # type: ignore[arg-type]
        lambda: Relation(0), lambda: Relation(0.5, -1), lambda: Relation(math.nan), lambda: Relation("a"),  # type: ignore[arg-type]
        lambda: Shuffled(-1), lambda: Shuffled(0.5), lambda: Shuffled("x"),  # type: ignore[arg-type]
        lambda: Permuted("instance"), lambda: Permuted("topk"), lambda: Permuted("shuffled-within-class"),
        lambda: CELLS["kd-sim('a')"], lambda: CELLS["kd-sim(0)"], lambda: CELLS["kd-pt-shuffled('x')"],
        lambda: CELLS["ls(2)"], lambda: CELLS["kd-topk(0)"],
        lambda: Cell(0.5, "uniform"), lambda: Cell("mean", None), lambda: Cell("mean", Uniform), lambda: Cell(len, "uniform"),  # type: ignore[arg-type]
        lambda: as_cell(None), lambda: as_cell(5), lambda: Objective(cell=None),  # type: ignore[arg-type]
    ],
)  # fmt: skip
def test_settings_that_cannot_be_meant(make: Callable[[], object]) -> None:
    with pytest.raises(ConfigError) as error:
        make()
    says(error.value, "expected")
    assert error.value.exit_code == 2


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Objective("kdd"), ("unknown cell 'kdd'", "did you mean 'kd'")),
        (lambda: Objective("instance * unifrm"), ("unknown shape rule", "did you mean 'uniform'")),
        (lambda: Objective("instanc * uniform"), ("unknown confidence rule", "did you mean 'instance'")),
        (lambda: Cell("men", "uniform"), ("unknown confidence rule", "did you mean 'mean'")),
        (lambda: Objective(divergence="forwardkl"), ("unknown divergence", "did you mean 'forward-kl'")),
        (lambda: Permuted("relations"), ("unknown shape rule", "did you mean 'relation'")),
        (lambda: CELLS["kd-pt sim"], ("unknown cell", "did you mean")),
        (lambda: CELLS[""], ("unknown cell ''", "one of")),
    ],
)
def test_unknown_names(make: Callable[[], object], words: tuple[str, ...]) -> None:
    with pytest.raises(UnknownNameError) as error:
        make()
    says(error.value, *words)


def test_every_error_shows_what_it_knows_and_nothing_else() -> None:
    full = MismatchError("it is wrong", expected="a", got="b", fix="c")
    assert str(full).splitlines() == ["it is wrong", "  expected: a", "  got:      b", "  fix:      c"]
    assert str(ConfigError("alone")) == "alone"
    assert str(UnknownNameError("no quotes")) == "no quotes", "KeyError would quote it"
    codes = {kind.__name__: kind.exit_code for kind in _kinds(FractionateError)}
    assert set(codes.values()) == {1, 2, 3, 4, 5, 6}
    assert issubclass(ConfigError, ValueError)


def _kinds(root: type[FractionateError]) -> list[type[FractionateError]]:
    return [root, *(kind for child in root.__subclasses__() for kind in _kinds(child))]
