"""Compact forms: what is kept is exact, what is left out is known, what is drawn is without bias."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.drawn import draws
from torch import nn

from fractionate import CELLS, TeacherSignal, spectrum
from fractionate.errors import ConfigError, MismatchError, NumericsError
from fractionate.store import Store, collect
from fractionate.store.forms import Form, row_hashes, smallest_unsigned
from fractionate.store.ranges import joined, rows_of, stored_of


def random_signal(rows=40, classes=30, scale=3.0, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, classes, generator=generator, dtype=torch.float64) * scale
    return TeacherSignal(logits.to(dtype), torch.randint(classes, (rows,), generator=generator))


def encoded(form, signal, seed=0):
    seeds = np.random.default_rng(seed).integers(0, 2**64, len(signal), np.uint64)
    return form.encode(signal.logits, signal.labels, seeds)


@given(draws(dtypes=(torch.float32,), max_classes=20), st.data())
def test_top_k_keeps_label_and_entries_and_the_exact_mass_of_the_rest(draw, data):
    signal = draw.signal()
    if signal.classes < 3:
        return
    k = data.draw(st.integers(1, signal.classes - 2))
    form = Form("top-k", signal.classes, "float32", k, (draw.temperature,))
    kept = form.compact(encoded(form, signal)).at(draw.temperature)
    p = torch.softmax(signal.logits.double() / draw.temperature, dim=1)
    torch.testing.assert_close(
        kept.confidence.double(), p.gather(1, signal.labels[:, None]).squeeze(1), atol=1e-5, rtol=1e-4
    )
    dense = kept.dense()
    given_back = torch.softmax(dense.logits.double() / draw.temperature, dim=1)
    stored = torch.cat([kept.indices, signal.labels[:, None]], dim=1)
    torch.testing.assert_close(given_back.gather(1, stored), p.gather(1, stored), atol=1e-5, rtol=1e-4)
    captured = torch.zeros_like(p).scatter(1, stored, p.gather(1, stored)).sum(1)  # padding may repeat the label
    torch.testing.assert_close(kept.captured.double(), captured, atol=1e-5, rtol=1e-4)


def test_the_remainder_is_even_so_an_even_remainder_is_exact():
    signal = random_signal()
    logits = signal.logits.clone()
    others = logits.scatter(1, signal.labels[:, None], -torch.inf)
    low = others.topk(5, dim=1).values[:, -1:] - 1
    logits = torch.where((others < low + 1) & (others != -torch.inf), low, logits)
    flat = TeacherSignal(logits, signal.labels)
    for temperature in (1.0, 4.0):
        form = Form("top-k", 30, "float32", 5, (1.0, 4.0))
        back = form.compact(encoded(form, flat)).at(temperature).dense()
        torch.testing.assert_close(back.probabilities, flat.at(temperature).probabilities)


@pytest.mark.parametrize("cell", ["hard", "kd-pt", "kd-topk(2)", "kd-topk(5)"])
def test_cells_that_need_no_more_than_k_classes_lose_nothing(cell):
    signal = random_signal()
    back = Form("top-k", 30, "float32", 5).round_trip(signal)
    torch.testing.assert_close(CELLS[cell].target(back), CELLS[cell].target(signal), atol=1e-6, rtol=1e-5)


def test_a_temperature_that_was_not_stored_is_refused():
    form = Form("top-k", 30, "float32", 5, (1.0, 2.0))
    kept = form.compact(encoded(form, random_signal()))
    assert kept.at(2.0).temperature == 2.0
    with pytest.raises(ConfigError, match="not known at temperature 4"):
        kept.at(4.0)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_sampled_entries_are_without_bias(temperature):
    signal = random_signal(6, 12)
    form = Form("sampled", 12, "float32", 4, (temperature,))
    rounds = 1500
    total = sum(form.round_trip(signal, seed).probabilities.double() for seed in range(rounds)) / rounds
    p = signal.at(temperature).probabilities.double()
    bound = 4 * (p * (1 - p) / (4 * rounds)).sqrt() + 1e-6  # four standard errors of plain draws
    assert bool(((total - p).abs() < bound).all())
    one = form.round_trip(signal, 1)
    torch.testing.assert_close(one.confidence.double(), signal.at(temperature).confidence.double())


def test_sampled_rows_mask_all_that_was_not_drawn_and_a_certain_teacher_draws_nothing():
    logits = torch.tensor([[5.0, -torch.inf, -torch.inf, -torch.inf], [0.0, 1.0, 2.0, -torch.inf]])
    form = Form("sampled", 4, "float32", 8)
    back = form.round_trip(TeacherSignal(logits, torch.tensor([0, 1])))
    assert torch.isneginf(back.logits[0, 1:]).all() and torch.isneginf(back.logits[1, 3])
    torch.testing.assert_close(back.confidence, torch.softmax(logits, 1)[[0, 1], [0, 1]])


@pytest.mark.parametrize(
    ("kind", "k", "temperatures", "dtype"),
    [("top-k", 0, (1.0,), "float32"), ("top-k", 29, (1.0,), "float32"), ("sampled", 0, (1.0,), "float32"),
     ("dense", 3, (1.0,), "float32"), ("sampled", 3, (1.0, 2.0), "float32"), ("top-k", 3, (), "float32"),
     ("top", 3, (1.0,), "float32"), ("top-k", 3, (1.0,), "int8"), ("top-k", 3, (0.0,), "float32")],
)  # fmt: skip
def test_forms_that_cannot_be_meant(kind, k, temperatures, dtype):
    with pytest.raises(ConfigError):
        Form(kind, 30, dtype, k, temperatures)


def test_a_logit_that_float16_cannot_hold_is_an_error():
    signal = TeacherSignal(torch.tensor([[1e5, 0.0, 1.0]]), torch.tensor([0]))
    with pytest.raises(NumericsError, match="too large for float16"):
        Form("dense", 3, "float16").round_trip(signal)
    assert torch.isneginf(
        Form("dense", 3, "float16")
        .round_trip(TeacherSignal(torch.tensor([[0.0, -torch.inf, 1]]), torch.tensor([0])))
        .logits
    ).any()


def test_the_narrowest_index():
    assert [smallest_unsigned(n).itemsize for n in (255, 256, 65_535, 65_536, 151_935)] == [1, 2, 2, 4, 4]


@given(st.integers(0, 10**6), st.booleans(), st.booleans())
def test_columns_of_unequal_length_are_taken_and_joined_as_a_loop_would(seed, tokens, ragged):
    random = np.random.default_rng(seed)

    def piece():
        entries = int(random.integers(1, 6))
        sizes = random.integers(0, 4, entries) if tokens else np.ones(entries, int)
        rows = int(sizes.sum())
        columns = {"places": random.integers(0, 99, entries), "labels": random.integers(0, 9, rows)}
        if tokens:
            columns["row_offsets"] = np.concatenate([[0], np.cumsum(sizes)]).astype("<u8")
        if ragged:
            counts = random.integers(0, 4, rows)
            columns["item_offsets"] = np.concatenate([[0], np.cumsum(counts)]).astype("<u8")
            columns |= {name: random.integers(0, 9, int(counts.sum())) for name in ("counts", "indices")}
        return columns

    def loop(columns, entries):
        found = []
        for entry in entries:
            first, last = columns["row_offsets"][entry : entry + 2] if tokens else (entry, entry + 1)
            for row in range(int(first), int(last)):
                a, b = (int(n) for n in columns["item_offsets"][row : row + 2]) if ragged else (0, 0)
                items = columns["counts"][a:b].tolist() if ragged else []
                found.append((columns["places"][entry], columns["labels"][row], row - int(first), items))
        return found

    pieces = [piece(), piece()]
    whole = joined(pieces)
    entries = random.integers(0, len(whole["places"]), 5)
    expected = loop(whole, entries)
    parts = [x for p in pieces for x in loop(p, range(len(p["places"])))]
    assert loop(whole, range(len(whole["places"]))) == parts
    taken = rows_of(whole, entries)
    items = np.split(taken["counts"], taken["item_offsets"][1:-1].astype(int)) if ragged and expected else []
    for number, (place, label, token, counts) in enumerate(expected):
        assert taken["places"][number] == place and taken["labels"][number] == label
        assert not tokens or taken["tokens"][number] == token
        assert not ragged or items[number].tolist() == counts
    assert loop(stored_of(whole, entries), range(5)) == expected


def test_every_stored_byte_is_in_the_hash_of_its_row():
    for kind, k in (("dense", 0), ("top-k", 3), ("sampled", 5)):
        columns = encoded(Form(kind, 30, "float16", k), random_signal(8))
        columns |= {"places": np.arange(8), "keys": np.zeros((8, 16), np.uint8)}
        good = row_hashes(rows_of(columns, np.arange(8)))
        for name in columns:
            if name == "item_offsets":
                continue
            changed = {n: c.copy() for n, c in columns.items()}
            raw = changed[name].reshape(-1).view(np.uint8)
            raw[-1] ^= 1
            differ = row_hashes(rows_of(changed, np.arange(8))) != good
            assert differ.tolist() == [False] * 7 + [True], name


@pytest.fixture(scope="module")
def teacher_and_data():
    torch.manual_seed(0)
    return nn.Linear(20, 300), (torch.randn(500, 20), torch.randint(300, (500,)))


@pytest.mark.parametrize(("form", "k"), [("top-k", 16), ("sampled", 16)])
def test_compact_stores_read_as_compact_and_as_dense(teacher_and_data, tmp_path, form, k):
    teacher, data = teacher_and_data
    collect(teacher, data, tmp_path / "s", form=form, k=k, dtype="float16", shard_bytes=10_000)
    store = Store.open(tmp_path / "s")
    assert len(store.shards) > 1
    kept = store.compact_signal()
    with torch.no_grad():
        full = TeacherSignal(teacher(data[0]), data[1])
    torch.testing.assert_close(kept.confidence, full.confidence, atol=1e-3, rtol=1e-2)
    dense = store.signal()
    torch.testing.assert_close(dense.probabilities, kept.dense().probabilities)
    torch.testing.assert_close(dense.confidence, full.confidence, atol=1e-3, rtol=1e-2)
    assert spectrum(dense).instance_confidence_nats == pytest.approx(spectrum(full).instance_confidence_nats, rel=0.05)
    some = torch.tensor([400, 3, 77, 3])
    torch.testing.assert_close(store.logits(some), dense.logits[some])
    pieces = torch.cat([piece.logits for piece in store.batches(64)])
    torch.testing.assert_close(pieces, dense.logits)
    with pytest.raises(MismatchError, match="k differs"):
        collect(teacher, data, tmp_path / "s", form=form, k=k + 1, dtype="float16")
