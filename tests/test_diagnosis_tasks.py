"""diagnose() on whatever distill() takes: transformers models, mappings, tokens, loaders, tasks; a preflight by the one loop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from fractionate import Objective, collect, diagnose
from fractionate.data.examples import Examples
from fractionate.diagnosis import preflight
from fractionate.diagnosis.linear_probe import linear_probe
from fractionate.errors import ConfigError, MismatchError
from fractionate.records import Diagnosis, Finding, Training
from fractionate.study.pilot import PilotPlan
from fractionate.study.pilot_arms import Round
from fractionate.tasks import Task
from fractionate.teachers.tokens import StoredTokens, TokenSignal
from fractionate.theory.teacher_signal import TeacherSignal
from test_dissect_tasks import TASKS, bert, continued, llama, seeded, tagged, texts


def named(found: Diagnosis, name: str) -> Finding:
    return next(f for f in found.findings if f.name == name)


def rows_of(task: Task, teacher: nn.Module) -> TeacherSignal:
    found = list(task.predictions(teacher, task.splits.transfer))
    return TeacherSignal(torch.cat([f.required_logits for f in found]), torch.cat([f.labels for f in found]))


@pytest.mark.parametrize("name", TASKS)
def test_every_task_is_diagnosed_with_its_student(name: str) -> None:
    kind, data, make = TASKS[name]
    task = Task(kind, transfer=data(24), student=make)
    signal = rows_of(task, seeded(make))
    state = torch.get_rng_state()
    found = diagnose(signal, data=task, objective=Objective("kd", 2.0, 0.5))
    assert torch.equal(state, torch.get_rng_state())
    assert "times a uniform guess" in named(found, "initial-loss").summary
    assert "pulls" in named(found, "loss-scale").summary  # gradients of both parts were there
    assert named(found, "duplicate-examples").severity == "skipped" and found.rescaling is not None
    assert ("rows are tokens" in named(found, "duplicate-examples").summary) is (name != "texts")
    assert Diagnosis.from_json(found.to_json()) == found
    again = diagnose(seeded(make), data=task, objective=Objective("kd", 2.0, 0.5))  # the teacher itself
    assert again.findings == found.findings


@pytest.mark.parametrize("name", TASKS)
def test_a_preflight_of_every_task(name: str) -> None:
    kind, data, make = TASKS[name]
    task = Task(kind, transfer=data(24))
    student = seeded(make, 3)
    before = {key: value.clone() for key, value in student.state_dict().items()}
    found = preflight(student, task, rows_of(task, seeded(make)), training=Training(steps=30, batch_size=8), steps=4)
    assert len(found.losses) == 4 and found.gradient_ratio is not None and found.memory_bytes > 0 and found.steps == 30
    assert all(torch.equal(before[key], value) for key, value in student.state_dict().items())


def test_mappings_loaders_and_ids_in_one_tensor_without_a_task() -> None:
    rows = texts(24)
    columns = {key: torch.stack([torch.as_tensor(row[key]) for row in rows]) for key in rows[0]}
    signal = rows_of(Task("classification", transfer=rows), seeded(bert))
    ids = Examples(columns["input_ids"], columns["labels"])
    for data in (rows, columns, DataLoader(rows, batch_size=5), ids):
        found = diagnose(signal, bert, data=data, objective=Objective())
        assert named(found, "loss-scale").severity != "skipped" and named(found, "initial-loss").severity == "ok"
    assert named(diagnose(signal, data=ids), "duplicate-examples").severity == "ok"


@pytest.mark.parametrize("form", ["dense", "top-k"])
def test_stores_of_tokens(form: str, tmp_path: Path) -> None:
    data = continued(24)
    options: dict[str, Any] = {} if form == "dense" else {"form": "top-k", "k": 8}
    store = collect(seeded(llama), data, tmp_path / "store", tokens="next", **options)
    for given in (store, tmp_path / "store", StoredTokens(store)):
        found = diagnose(given, seeded(llama, 1), data=data, predicts_next=True, objective=Objective())
        assert named(found, "loss-scale").severity != "skipped"
        assert "tokens" in named(found, "class-balance").summary or named(found, "class-balance").severity == "warning"
    alone = diagnose(store).spectrum  # compact rows as they are, not made dense for a student
    assert list(alone.nats.values()) == pytest.approx(list(found.spectrum.nats.values()), rel=1e-5, abs=1e-6)


def test_rows_of_other_data_are_refused() -> None:
    task = Task("token-classification", transfer=tagged(24), student=lambda: bert(tokens=True))
    signal = rows_of(task, seeded(lambda: bert(tokens=True)))
    with pytest.raises(MismatchError, match="labelled tokens"):
        diagnose(signal.take(torch.arange(len(signal) - 1)), data=task)
    changed = signal.labels.clone()
    changed[5] = (changed[5] + 1) % 3
    with pytest.raises(MismatchError, match="different labels at 1 of"):
        diagnose(TeacherSignal(signal.logits, changed), data=task)
    with pytest.raises(ConfigError, match="own head and kind"):
        diagnose(signal, data=task, predicts_next=True)
    with pytest.raises(ConfigError, match="a teacher is run on data"):
        diagnose(seeded(bert))


def test_views_of_one_example_are_judged_together() -> None:
    draw = torch.Generator().manual_seed(0)
    labels = torch.randint(4, (100,), generator=draw)  # nothing to learn
    one = torch.randn(100, 60, generator=draw)
    views, twice = torch.cat([one, one + 1e-3 * torch.randn(100, 60, generator=draw)]), labels.repeat(2)
    group = torch.arange(100).repeat(2)
    apart, together = linear_probe(views, twice, 4), linear_probe(views, twice, 4, group)
    assert apart is not None and together is not None
    assert float(apart[0].double().mean()) > 0.5 > 0.4 > float(together[0].double().mean())
    data = Examples(views, twice, ids=tuple(map(str, group.tolist())))
    signal = TeacherSignal(torch.randn(200, 4, generator=draw) + 3 * nn.functional.one_hot(twice, 4), twice)
    assert named(diagnose(signal, data=data), "duplicate-examples").severity == "ok"
    copied = Examples(torch.cat([one, one]), twice, ids=data.ids)
    assert "100 ids repeat" in named(diagnose(signal, data=copied), "duplicate-examples").summary


def test_a_pilot_reads_the_splits_of_a_task() -> None:
    task = Task("classification", transfer=texts(32), validation=texts(24, 1), student=bert)
    signal = rows_of(task, seeded(bert))
    plan = PilotPlan(
        training=Training(steps=4, batch_size=8), rounds=(Round(None, 1),), confirming_seeds=2, grid=(), rates=(1.0,),
        progress="off",
    )  # fmt: skip
    found = diagnose(signal, data=task, pilot=plan, only=["temperature"])
    assert found.pilot is not None and found.pilot.validation_examples == 24 and found.pilot.decided_by == "accuracy"
    words = Task("language-modelling", transfer=continued(8), validation=continued(8, 1), student=llama)
    for teacher in (rows_of(words, seeded(llama)), seeded(llama)):  # tokens: by likelihood, from rows or from the model
        found = diagnose(teacher, data=words, pilot=plan, only=["temperature"])
        assert (
            found.pilot is not None and found.pilot.decided_by == "likelihood" and found.pilot.nll_gain_nats is not None
        )
    bare = Task("classification", transfer=texts(32), student=bert)
    with pytest.raises(ConfigError, match="validation"):
        diagnose(signal, data=bare, pilot=plan, only=["temperature"])


def test_a_token_that_a_language_model_never_expects_is_a_warning_and_no_other_preparation() -> None:
    """A chat model on texts without its template: it knows the words, and never that a text ends."""
    draw, tokens = torch.Generator().manual_seed(0), 300
    frequent = -torch.arange(1, tokens + 1).double().log()
    logits = (frequent + 1.5 * torch.randn(2000, tokens, generator=draw)).float()
    labels = torch.multinomial(logits.softmax(1), 1, generator=draw).squeeze(1)
    logits[:, 2] = -20.0
    labels[labels == 2] = 3
    sentence = torch.arange(2000) // 10
    ends = torch.where(torch.arange(2000) % 10 == 9, 2, labels)

    def found(truth: torch.Tensor) -> Finding:
        signal = TokenSignal(TeacherSignal(logits, truth), sentence, torch.arange(2000) % 10)
        return named(diagnose(signal, only=["input-mismatch"]), "input-mismatch")

    assert found(labels).severity == "ok"
    assert found(ends).severity == "warning" and "does not expect token 2: 10.0% of the labels" in found(ends).summary
