"""Hidden states as a form of the store: exact logits out of few numbers a row, for tokens and for classes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from fractionate import Objective, Task, collect, diagnose, distill
from fractionate.data import Examples
from fractionate.errors import ConfigError, DamagedError, MismatchError
from fractionate.records import Training
from fractionate.store import Store, check_teacher, info, repair, verify
from fractionate.teachers import StoredTokens, cached

torch.manual_seed(0)
WORDS, WIDTH = 40, 6
IDS = torch.randint(1, WORDS, (12, 7))
LABELS = IDS.roll(-1, 1).clone()
LABELS[:, -2:] = -100
LABELS[3] = IDS[3]
SENTENCES = (IDS, LABELS)
ROWS = Examples(torch.randn(50, 8), torch.arange(50) % 5)


class Tagger(nn.Module):
    """Embeddings, a layer, and an output layer with or without what some models add after it."""

    def __init__(self, after: str = "", width: int = WIDTH) -> None:
        super().__init__()
        self.vectors, self.layer = nn.Embedding(WORDS, width), nn.Linear(width, width)
        self.out = nn.Linear(width, WORDS, bias=after == "bias")
        self.after = after
        self.register_buffer("late", torch.linspace(-1, 1, WORDS))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        logits = self.out(torch.tanh(self.layer(self.vectors(ids))))
        return {"late": logits + self.late, "cap": 0.1 * torch.tanh(10 * logits)}.get(self.after, logits)


def tagger(after: str = "", seed: int = 0) -> Tagger:
    torch.manual_seed(seed)
    return Tagger(after)


@pytest.mark.parametrize("after", ["", "bias", "late"])
def test_logits_made_of_hidden_states_are_the_teachers(tmp_path, after: str) -> None:
    teacher = tagger(after)
    store = collect(teacher, SENTENCES, tmp_path / "s", tokens="aligned", form="hidden", batch_size=5)
    with torch.no_grad():
        by_hand = teacher(IDS)[LABELS != -100]
    found = store.signal()
    torch.testing.assert_close(found.logits, by_hand, rtol=1e-5, atol=1e-5)
    assert store.head.k == WIDTH and store.form.row_bytes() < 0.6 * WORDS * 4
    stored = StoredTokens(store)
    torch.testing.assert_close(stored.rows(torch.tensor([4, 1])).logits, by_hand[[4, 1]], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(stored.whole().logits, by_hand, rtol=1e-5, atol=1e-5)
    stats = stored.rows(torch.arange(3)).population.stats(2.0)  # of all rows, made in chunks
    probabilities = functional.softmax(by_hand.double() / 2.0, dim=1)
    assert float(stats.mean_confidence) == pytest.approx(
        float(probabilities.gather(1, LABELS[LABELS != -100][:, None]).mean()), rel=1e-5
    )
    assert check_teacher(store, teacher, SENTENCES) < 1e-5 and "hidden states of width 6" in str(info(tmp_path / "s"))
    with pytest.raises(MismatchError, match="something else"):
        check_teacher(store, tagger(after, seed=1), SENTENCES)


@pytest.mark.parametrize("cell", ["kd", "class-mean"])
def test_a_student_of_the_store_is_that_of_the_living_teacher(tmp_path, cell: str) -> None:
    teacher, students = tagger("bias"), []
    task = Task("token-classification", transfer=SENTENCES, student=lambda: tagger(seed=3))
    store = collect(teacher, task, tmp_path / "s", form="hidden", batch_size=4)
    training = Training(steps=6, batch_size=4, learning_rate=0.05)
    before_head = replace(training, loss_from="hidden")
    task = replace(task, output_layer="out")
    for source, how in ((store, training), (teacher, training), (store, before_head)):
        made, _ = distill(task, teacher=source, objective=Objective(cell, 2.0, 0.7), training=how, show="nothing")
        students.append(made.out.weight.detach())
    torch.testing.assert_close(students[0], students[1], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(students[0], students[2], rtol=1e-4, atol=1e-5)
    assert diagnose(store, data=task).spectrum is not None


@pytest.mark.parametrize("width", [WIDTH, 4])
@pytest.mark.parametrize("how", ["logits", "hidden"])
def test_the_states_of_a_store_teach_as_those_of_the_living_teacher(tmp_path, width: int, how: str) -> None:
    teacher, made = tagger("bias"), []
    task = Task("token-classification", transfer=SENTENCES, student=lambda: Tagger(width=width), output_layer="out")
    store = collect(teacher, task, tmp_path / "s", form="hidden", batch_size=4)
    training = Training(steps=6, batch_size=4, learning_rate=0.05, loss_from=how)
    for source in (store, teacher):
        recipe = {"objective": Objective("kd", 2.0, 0.7), "terms": ("states",), "training": training}
        student, _ = distill(task, teacher=source, show="nothing", **recipe)
        made.append(student.layer.weight.detach())
    torch.testing.assert_close(*made, rtol=1e-4, atol=1e-5)
    plain, _ = distill(task, teacher=store, objective=Objective("kd", 2.0, 0.7), training=training, show="nothing")
    assert not torch.allclose(plain.layer.weight, made[0], atol=1e-3), "the term moves the student"


@pytest.mark.parametrize("kept", ["hidden", "top-k", "dense"])
def test_a_store_read_batch_by_batch_teaches_bit_for_bit_as_one_in_memory(tmp_path, monkeypatch, kept: str) -> None:
    teacher, made = tagger("bias"), []
    task = Task("token-classification", transfer=SENTENCES, student=lambda: tagger(seed=3))
    more = {"k": 4} if kept == "top-k" else {}
    store = collect(teacher, task, tmp_path / "s", form=kept, batch_size=4, shard_bytes=400, **more)
    terms = ("states",) if kept == "hidden" else ()
    recipe = {"objective": Objective("kd", 1.0, 0.7), "terms": terms, "training": Training(steps=6, batch_size=4)}
    task = replace(task, output_layer="out")
    for most in (1 << 30, 0):
        monkeypatch.setattr(cached, "STREAMED_BYTES", most)
        student, _ = distill(task, teacher=store, show="nothing", **recipe)
        made.append(student.out.weight.detach())
    assert torch.equal(*made) and len(store.shards) > 1
    recipe["objective"] = Objective("class-mean", 1.0, 0.7)  # statistics of all rows: read as a whole
    if kept != "top-k":
        distill(task, teacher=store, show="nothing", **recipe)


@pytest.mark.parametrize(("kept", "temperature"), [("hidden", 2.0), ("top-k", 1.0), ("dense", 2.0)])
def test_rows_read_batch_by_batch_teach_bit_for_bit_as_those_in_memory(
    tmp_path, monkeypatch, kept: str, temperature: float
) -> None:
    torch.manual_seed(0)
    teacher, made = nn.Sequential(nn.Linear(8, 4), nn.Tanh(), nn.Linear(4, 5)), []
    more = {"k": 2} if kept == "top-k" else {}
    store = collect(teacher, ROWS, tmp_path / "s", form=kept, batch_size=10, shard_bytes=200, **more)
    recipe = {"objective": Objective("kd", temperature, 0.7, divergence="jsd" if kept == "dense" else "cross-entropy")}
    training = Training(steps=6, batch_size=10, learning_rate=0.05)
    for most in (1 << 30, 0):
        monkeypatch.setattr(cached, "STREAMED_BYTES", most)
        torch.manual_seed(1)
        student, _ = distill(nn.Linear(8, 5), ROWS, store, training=training, show="nothing", **recipe)
        made.append(student.weight.detach())
    torch.testing.assert_close(*made, rtol=1e-5, atol=1e-6)  # in memory a dense target is made once for all rows
    assert len(store.shards) > 1
    fewer = Examples(ROWS.inputs[:40], ROWS.labels[:40])
    with pytest.raises(MismatchError, match="differ in length"):
        distill(nn.Linear(8, 5), fewer, store, training=training, show="nothing", **recipe)
    other = Examples(ROWS.inputs, (ROWS.labels + 1) % 5)
    with pytest.raises(MismatchError):
        distill(nn.Linear(8, 5), other, store, training=training, show="nothing", **recipe)
    distill(nn.Linear(8, 5), ROWS, store, objective=Objective("class-mean"), training=training, show="nothing")


def test_states_of_classes_come_from_a_store_and_are_refused_without(tmp_path) -> None:
    teacher = nn.Sequential(nn.Linear(8, 4), nn.Tanh(), nn.Linear(4, 5))
    task = Task("classification", transfer=ROWS, student=lambda: nn.Sequential(nn.Linear(8, 5)), output_layer="0")
    store = collect(teacher, ROWS, tmp_path / "s", form="hidden", dtype="float32")
    training = Training(steps=3, batch_size=10)
    student, _ = distill(task, teacher=store, terms=("states",), training=training, show="nothing")
    assert torch.isfinite(student[0].weight).all()
    dense = collect(teacher, ROWS, tmp_path / "d")
    with pytest.raises(ConfigError, match="reads inside the teacher") as caught:
        distill(task, teacher=dense, terms=("states",), training=training, show="nothing")
    assert 'form="hidden"' in str(caught.value.fix)


def test_classes_without_tokens_a_reader_and_an_interrupted_pass(tmp_path) -> None:
    teacher = nn.Sequential(nn.Linear(8, 4), nn.Tanh(), nn.Linear(4, 5))
    collect(teacher, ROWS, tmp_path / "s", form="hidden", dtype="float64", part=(0, 2), batch_size=10)
    store = collect(teacher, ROWS, tmp_path / "s", form="hidden", dtype="float64", batch_size=10)
    whole = collect(teacher, ROWS, tmp_path / "whole", form="hidden", dtype="float64", batch_size=10)
    assert store.complete and store.content() == whole.content()
    with torch.no_grad():
        torch.testing.assert_close(store.signal().logits, teacher(ROWS.inputs).float(), rtol=1e-5, atol=1e-6)
    taken = collect(teacher, ROWS, tmp_path / "t", form="hidden", dtype="float64", batch_size=10, reuse=store)
    assert taken.content() == store.content()
    kept = np.concatenate([np.asarray(shard.column("values")) for shard in store.shards])
    assert kept.shape == (50, 4), "the width, not the classes"
    assert store.class_relation is not None and store.class_relation.shape == (5, 5)
    with pytest.raises(ConfigError, match="kept hidden"):
        store.compact_signal()


def test_a_damaged_output_layer_is_named_and_mended(tmp_path) -> None:
    teacher = tagger()
    collect(teacher, SENTENCES, tmp_path / "s", tokens="aligned", form="hidden")
    content = Store.open(tmp_path / "s").content()
    file = tmp_path / "s" / "relation.safetensors"
    raw = bytearray(file.read_bytes())
    raw[-2] ^= 1
    file.write_bytes(bytes(raw))
    with pytest.raises(DamagedError):
        Store.open(tmp_path / "s").signal()
    assert verify(tmp_path / "s").damages
    repair(tmp_path / "s", teacher=teacher, data=SENTENCES)
    assert Store.open(tmp_path / "s").content() == content


@pytest.mark.parametrize(
    ("teacher", "error", "match"),
    [
        (tagger("cap"), MismatchError, "not made by its output layer alone"),
        (nn.Embedding(WORDS, WORDS), ConfigError, "output layer of a torch module"),
        (lambda ids: torch.zeros(*ids.shape, WORDS), ConfigError, "output layer of a torch module"),
    ],
)
def test_what_cannot_be_kept_as_hidden_states_is_refused(tmp_path, teacher, error, match: str) -> None:
    with pytest.raises(error, match=match):
        collect(teacher, SENTENCES, tmp_path / "s", tokens="aligned", form="hidden")
    assert not (tmp_path / "s").exists()
