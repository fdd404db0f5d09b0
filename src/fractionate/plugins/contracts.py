"""Checks that the author of a plug-in runs on a rule, a divergence, a term or a probe: does it keep the contract of its kind?

    from fractionate.plugins.contracts import check
    check(MyShape())        # raises with every promise that is broken; gives the names of those that hold

The same checks run over every registered part in our own tests.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from fractionate.data.batch import Batch
from fractionate.diagnosis.case import Case, Judgement, Measurement
from fractionate.errors import ConfigError, FractionateError, MismatchError
from fractionate.losses.divergences.base import (
    Divergence,
)
from fractionate.losses.objective import Objective
from fractionate.losses.terms.base import TermSpec, bind_terms
from fractionate.plugins.conformance.suite import conformance, subject_of
from fractionate.system.canonical import canonical_text
from fractionate.tasks.predictions import AttentionStates, Needs, Predictions
from fractionate.theory.cells import Cell
from fractionate.theory.confidence import ConfidenceRule
from fractionate.theory.number_signal import NumberSignal
from fractionate.theory.shape import ShapeRule
from fractionate.theory.teacher_signal import TeacherSignal

Promise = tuple[str, Callable[[], bool]]


def check(part: Any) -> tuple[str, ...]:
    """Check a part against the contract of its kind, found by what it is.

    Args:
        part: A confidence or shape rule, cell, divergence, term or probe.

    Returns:
        The names of the promises that hold.

    Raises:
        ConfigError: listing every promise that is broken.
        MismatchError: for something that is no part.

    Example:
        from fractionate import CELLS
        from fractionate.plugins import check

        print(check(CELLS["kd"]))
    """
    kind, promises = _promises(part)
    broken: list[str] = []
    held: list[str] = []
    for name, holds in promises:
        try:
            fine = bool(holds())
            why = ""
        except Exception as error:  # a plug-in may fail in any way; the author wants to see all of them at once
            fine, why = False, f" ({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''})"
        (held if fine else broken).append(name + why)
    if broken:
        raise ConfigError(
            f"{type(part).__name__} breaks the contract of a {kind}",
            expected="; ".join(broken),
            got=f"{len(broken)} of {len(broken) + len(held)} promises broken",
        )
    return tuple(held)


def _promises(part: Any) -> tuple[str, Iterator[Promise]]:
    if isinstance(part, Cell):
        return "cell", _cell(part)
    if isinstance(part, TermSpec):
        return "term", _spec(part)
    if hasattr(part, "formula"):
        return "divergence", _divergence(part)
    if hasattr(part, "judge"):
        return "probe", _probe(part)
    if hasattr(part, "level"):
        found = part(_signal())
        return ("shape rule", _shape(part)) if found.ndim == 2 else ("confidence rule", _confidence(part))
    raise MismatchError(
        "this is no part of ours",
        expected="a confidence or shape rule, a cell, a divergence, a term or a probe",
        got=type(part).__name__,
    )


def _signal(*, masked: bool = False, dtype: torch.dtype = torch.float64) -> TeacherSignal:
    """A teacher right and wrong × certain and unsure, on 5 classes of which one has no example."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(24) % 4
    logits = torch.randn(24, 5, generator=generator, dtype=torch.float64)
    favourite = torch.where(torch.arange(24) % 3 == 0, (labels + 1) % 4, labels)
    logits[torch.arange(24), favourite] += torch.where(torch.arange(24) % 2 == 0, 9.0, 1.0).double()
    if masked:
        logits[::5, 4] = -torch.inf
    rows = torch.nn.functional.normalize(torch.randn(5, 3, generator=generator, dtype=torch.float64), dim=1)
    return TeacherSignal(logits.to(dtype), labels, (rows @ rows.T).to(dtype))


def _frozen(part: Any) -> Promise:
    def holds() -> bool:
        return dataclasses.is_dataclass(part) and bool(getattr(part, "__dataclass_params__").frozen)  # noqa: B009

    return "is a frozen dataclass", holds


def _rule(part: Any) -> Iterator[Promise]:
    """What confidence and shape rules have in common."""
    signal = _signal()
    index = torch.tensor([7, 2, 19])
    yield _frozen(part)
    yield "level is universe, domain or instance", lambda: part.level in ("universe", "domain", "instance")
    yield "is a function of its signal alone", lambda: torch.equal(part(signal), part(signal))
    yield "a batch is read as the whole was", lambda: torch.allclose(part(signal.take(index)), part(signal)[index])
    yield "keeps float64", lambda: part(signal).dtype == torch.float64
    yield "computes half precision in float32", lambda: part(_signal(dtype=torch.bfloat16)).dtype == torch.float32
    yield "no gradient flows back", lambda: not part(signal).requires_grad
    yield "changes nothing it was given", lambda: _untouched(part)


def _untouched(part: Any) -> bool:
    signal = _signal()
    before = signal.logits.clone(), signal.labels.clone()
    part(signal)
    return torch.equal(before[0], signal.logits) and torch.equal(before[1], signal.labels)


def _confidence(part: ConfidenceRule) -> Iterator[Promise]:
    yield from _rule(part)
    signal = _signal()
    values = part(signal)
    yield "gives [batch]", lambda: values.shape == (24,)
    yield "lies in [0, 1]", lambda: bool(((values >= 0) & (values <= 1)).all())
    yield "is finite where classes are masked", lambda: bool(torch.isfinite(part(_signal(masked=True))).all())
    # placebos deal confidences out again: what they give an example is no function of it, by intention
    shuffled = "shuffle" in type(part).__name__.lower()
    if part.level == "universe" and not shuffled:
        yield "universe: the same for every example", lambda: bool((values == values[0]).all())
    if part.level == "domain" and not shuffled:
        yield "domain: the same for every example of a class", lambda: _by_class(values, signal)


def _shape(part: ShapeRule) -> Iterator[Promise]:
    yield from _rule(part)
    signal, masked = _signal(), _signal(masked=True)
    values = part(signal)
    sums = values.sum(dim=1)
    yield "gives [batch, classes]", lambda: values.shape == (24, 5)
    yield "is not negative", lambda: bool((values >= 0).all())
    yield "rows sum to 1", lambda: torch.allclose(sums, torch.ones_like(sums))
    yield "gives the label nothing", lambda: not values.gather(1, signal.labels[:, None]).any()
    yield "gives masked classes nothing", lambda: not part(masked)[torch.isneginf(masked.logits)].any()
    shuffled = "shuffle" in type(part).__name__.lower()
    if part.level in ("universe", "domain") and not shuffled:
        yield f"{part.level}: the same for every example of a class", lambda: _by_class(values, signal)


def _by_class(values: Tensor, signal: TeacherSignal) -> bool:
    return all(
        torch.allclose(rows, rows[:1].expand_as(rows)) for rows in (values[signal.labels == c] for c in range(4))
    )


def _cell(part: Cell) -> Iterator[Promise]:
    signal = _signal()
    target = part.target(signal, 2.0)
    yield "rows sum to 1", lambda: torch.allclose(target.sum(dim=1), torch.ones_like(target[:, 0]))
    yield "is not negative", lambda: bool((target >= 0).all())
    yield "masked classes get nothing", lambda: _masked_cell(part)
    yield from _rule_of(part)


def _masked_cell(part: Cell) -> bool:
    masked = _signal(masked=True)
    return not bool(part.target(masked)[torch.isneginf(masked.logits)].any())


def _rule_of(part: Cell) -> Iterator[Promise]:
    for rule, promises in ((part.confidence, _confidence), (part.shape, _shape)):
        assert not isinstance(rule, str)
        for name, holds in promises(rule):
            yield f"{type(rule).__name__}: {name}", holds


def _divergence(part: Divergence) -> Iterator[Promise]:
    yield _frozen(part)
    yield "has a formula", lambda: bool(part.formula)

    for requested in conformance(subject_of(type(part).__name__, part)).checks:
        yield f"{requested.name}: {requested.question}", lambda requested=requested: requested.status != "differs"
    yield "the analytic gradient is that of the plain form", lambda: _analytic(part)
    yield "refuses a cell by an error of ours, or meets it", lambda: _meets_or_refuses(part)


def _analytic(part: Divergence) -> bool:
    signal = _signal()
    student = torch.randn(24, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64).requires_grad_()
    objective = Objective("kd", 2.0, 0.7, divergence=part)
    (plain,) = torch.autograd.grad(objective.plain(student, signal).sum(), student)
    return torch.allclose(objective.loss_and_gradient(student.detach(), signal)[1], plain, rtol=1e-8, atol=1e-10)


def _meets_or_refuses(part: Divergence) -> bool:
    signal = _signal()
    student = torch.randn(24, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64).requires_grad_()
    for cell in ("hard", "ls", "class-mean", "kd-sim", "kd-pt", "kd-topk(2)", "kd"):
        try:
            loss = Objective(cell, 2.0, 1.0, divergence=part)(student, signal)
        except FractionateError:
            continue
        if not bool(torch.isfinite(loss).all()):
            return False
    return True


def _spec(part: Any) -> Iterator[Promise]:
    whole = list(range(len(ROWS)))
    losses = _term_losses(part, whole)
    yield _frozen(part)
    yield "has a formula", lambda: bool(part.formula)
    yield "has a text of its own, the same in every process", lambda: bool(canonical_text(part))
    yield "its weight is a field of at least 0", lambda: part.weight >= 0 and _refuses_weight(part)
    yield "gives one number per row or per example, as its unit says", lambda: losses.shape == (_units(part, whole),)
    yield "is finite", lambda: bool(torch.isfinite(losses).all())
    yield "the student gets a finite gradient, the teacher none", lambda: _gradient(part)
    yield "bound twice with one seed it is the same", lambda: torch.equal(losses, _term_losses(part, whole))
    yield "its trained part can be saved: every tensor is a parameter or a buffer", lambda: _term_parts(part)
    random = not torch.equal(losses, _term_losses(part, whole, seed=1))  # negatives drawn in the step
    if not part.couples_batch and not random:
        yield "examples are independent, or couples_batch says otherwise", lambda: _independent(part, losses)


ROWS = (1, 3, 2, 2, 1, 3)  # rows of each example


def _units(part: TermSpec, examples: list[int]) -> int:
    return len(examples) if part.unit == "example" else sum(ROWS[i] for i in examples)


def _refuses_weight(part: Any) -> bool:
    try:
        dataclasses.replace(part, weight=-1.0)
    except ConfigError:
        return True
    return False


def _drawn(needs: Needs, examples: list[int], seed: int, *, numbers: bool = False) -> Predictions:
    """Predictions of some of six examples with one to three rows each, on 5 classes (or 4 numbers), with what is needed."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(len(ROWS), *shape, generator=generator)[examples].requires_grad_()

    def rows(*shape: int) -> Tensor:
        found = torch.randn(len(ROWS), max(ROWS), *shape, generator=generator)
        return torch.cat([found[i, : ROWS[i]] for i in examples]).requires_grad_()

    place = torch.repeat_interleave(torch.arange(len(examples)), torch.tensor([ROWS[i] for i in examples]))
    labels = torch.tensor([(i + j) % 5 for i in examples for j in range(ROWS[i])])
    if numbers:  # two true numbers a row, each predicted as a mean and a log-variance
        labels = torch.stack([labels / 5, -labels / 3], dim=1)
    attention = None
    if needs.attention:
        count = 2 if needs.layers is None else max(needs.layers) + 1
        layers = range(count)
        attention = AttentionStates(
            count,
            {i: drawn(2, 4, 4) for i in layers},
            {i: drawn(4, 6) for i in layers},
            {i: drawn(4, 6) for i in range(count + 1)},
            torch.arange(4) < torch.tensor([4, 2, 3, 4, 1, 2])[examples][:, None],
        )
    return Predictions(
        logits=rows(4 if numbers else 5),
        labels=labels,
        place=place,
        batch=Batch(torch.zeros(len(examples)), labels, torch.tensor(examples)),
        states=rows(6) if needs.states else None,
        features={path: drawn(4, 3, 3) for path in sorted(needs.features)},
        attention=attention,
        explanations=torch.log_softmax(rows(3, 5), 2).detach().requires_grad_() if needs.explanations else None,
    )


def _read(part: TermSpec, examples: list[int]) -> tuple[Predictions, Predictions | None, Any]:
    ours, theirs = part.needs
    numbers = part.reads_numbers
    student, teacher = (_drawn(needs, examples, seed, numbers=numbers) for needs, seed in ((ours, 3), (theirs, 4)))
    return student, teacher if theirs else None, _signal_of(part, examples)


def _signal_of(part: TermSpec, examples: list[int]) -> TeacherSignal | NumberSignal | None:
    """The teacher's rows of some examples; of numbers with all rows as their population."""
    if not part.reads_signal:
        return None
    whole = _drawn(part.needs[1], list(range(len(ROWS))), 4, numbers=part.reads_numbers)
    starts = [sum(ROWS[:i]) for i in examples]
    rows = torch.tensor([a + j for a, i in zip(starts, examples, strict=True) for j in range(ROWS[i])])
    logits = whole.required_logits.detach()
    if part.reads_numbers:
        return NumberSignal(logits, whole.labels).take(rows)
    return TeacherSignal(logits[rows], whole.labels[rows])


def _bound(part: TermSpec, parts: torch.nn.ModuleDict) -> Any:
    student, teacher, signal = _read(part, list(range(len(ROWS))))
    models = (torch.nn.Identity(), torch.nn.Identity() if part.reads_teacher else None)
    whole = None if teacher is None else lambda: [teacher]
    return bind_terms(
        [part], student=student, teacher=teacher, signal=signal, examples=24, seed=0, parts=parts, models=models,
        teacher_on_all=whole,
    )  # fmt: skip


def _term_losses(part: TermSpec, examples: list[int], *, seed: int = 0) -> Tensor:
    with torch.random.fork_rng(devices=[]), _bound(part, torch.nn.ModuleDict()) as (term,):
        torch.default_generator.manual_seed(seed)
        losses: Tensor = term(*_read(part, examples)).detach()
        return losses


def _gradient(part: TermSpec) -> bool:
    with torch.random.fork_rng(devices=[]), _bound(part, torch.nn.ModuleDict()) as (term,):
        student, teacher, signal = _read(part, list(range(len(ROWS))))
        term(student, teacher, signal).sum().backward()
    found = [leaf.grad for leaf in _leaves(student) if leaf.grad is not None]
    left = teacher is None or all(leaf.grad is None for leaf in _leaves(teacher))
    return left and all(bool(torch.isfinite(g).all()) for g in found) and any(bool(g.any()) for g in found)


def _leaves(outputs: Predictions) -> list[Tensor]:
    states = outputs.attention
    inside = [] if states is None else [*states.scores.values(), *states.outputs.values(), *states.hidden.values()]
    found = [outputs.logits, outputs.explanations, outputs.states, *outputs.features.values(), *inside]
    return [leaf for leaf in found if leaf is not None]


def _term_parts(part: TermSpec) -> bool:
    parts = torch.nn.ModuleDict()
    with _bound(part, parts):
        return _saved(parts)


def _independent(part: TermSpec, losses: Tensor) -> bool:
    some = [1, 4]
    alone = _term_losses(part, some)
    if part.unit == "example":
        return torch.allclose(alone, losses[some], rtol=1e-5, atol=1e-6)
    starts = [sum(ROWS[:i]) for i in some]
    rows = torch.cat([losses[a : a + ROWS[i]] for a, i in zip(starts, some, strict=True)])
    return torch.allclose(alone, rows, rtol=1e-5, atol=1e-6)


def _saved(module: torch.nn.Module) -> bool:
    loose = [name for m in module.modules() for name, value in vars(m).items() if isinstance(value, Tensor)]
    return not loose


def _probe(part: Any) -> Iterator[Promise]:
    yield _frozen(part)
    yield "says what it needs", lambda: isinstance(part.needs, tuple)
    if part.needs:
        return  # what it needs is not here: diagnose reports such a probe as skipped
    measured = part(Case(_signal()))
    yield "measures", lambda: isinstance(measured, Measurement)
    yield "judges what it measured", lambda: isinstance(part.judge(measured), Judgement)
    yield "scores in [0, 1]", lambda: 0 <= part.judge(measured).score <= 1
    yield "measures the same twice", lambda: str(part(Case(_signal()))) == str(measured)
