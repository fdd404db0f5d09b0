"""The signal store: what is written comes back, in order, proved; what cannot be right is refused by name."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from fractionate import TeacherSignal
from fractionate.data.arrays import arrays_in
from fractionate.data.examples import Examples
from fractionate.errors import ConfigError, DamagedError, MismatchError, NumericsError, ResourceError
from fractionate.store import Store, collect
from fractionate.store.exchange import read_array
from fractionate.theory.teacher_signal import relation_from_rows


@pytest.fixture(scope="module")
def digits():
    from sklearn.datasets import load_digits

    found = load_digits()
    names = tuple(f"digit {n}" for n in range(10))
    return Examples(torch.tensor(found.data, dtype=torch.float32) / 16, torch.tensor(found.target), names, "digits")


@pytest.fixture
def teacher():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.5), nn.Linear(32, 10))


def asked(teacher, data):
    with torch.no_grad():
        return torch.cat([teacher.eval()(data.inputs[i : i + 256]) for i in range(0, len(data), 256)])


def test_the_signal_is_what_the_teacher_says_in_evaluation_mode_in_order(digits, teacher, tmp_path):
    teacher[1].eval()  # a mode of its own, which must come back
    teacher[0].train(), teacher[3].train()
    modes = [module.training for module in teacher.modules()]
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    store = collect(teacher, digits, tmp_path / "s")
    assert [module.training for module in teacher.modules()] == modes
    assert all(torch.equal(before[name], value) for name, value in teacher.state_dict().items())
    signal = store.signal()
    assert isinstance(signal, TeacherSignal) and len(store) == len(signal) == 1797 and store.complete
    assert torch.equal(signal.logits, asked(teacher, digits))
    assert torch.equal(signal.labels, digits.labels)
    torch.testing.assert_close(signal.class_relation, relation_from_rows(teacher[4].weight))
    assert store.head.class_names == digits.class_names


def test_opening_again_gives_the_same_and_asks_the_teacher_nothing(digits, teacher, tmp_path):
    store = collect(teacher, digits, tmp_path / "s")
    teacher.forward = None  # asking now would fail
    again = collect(teacher, digits, tmp_path / "s")
    opened = Store.open(tmp_path / "s")
    for other in (again, opened):
        assert torch.equal(other.signal().logits, store.signal().logits)
    assert "1,797 of 1,797 rows" in repr(opened)


def test_a_pass_that_stops_goes_on_where_it_stopped_and_ends_the_same(digits, teacher, tmp_path):
    whole = collect(teacher, digits, tmp_path / "whole").signal().logits
    calls = []

    class Stops(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = teacher

        def forward(self, x):
            calls.append(len(x))
            if len(calls) == 4:
                raise KeyboardInterrupt
            return self.inner(x)

    stops = Stops()
    with pytest.raises(KeyboardInterrupt):
        collect(stops, digits, tmp_path / "s", shard_bytes=1)
    store = Store.open(tmp_path / "s")
    assert not store.complete and store.present().sum() == 3 * 256
    with pytest.raises(MismatchError, match="run collect again"):
        store.signal()
    store = collect(stops, digits, tmp_path / "s", shard_bytes=1)
    assert len(calls) == 3 + 1 + 5 and store.complete
    assert torch.equal(store.signal().logits, whole)


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_stored_types_round_as_torch_does(digits, teacher, tmp_path, dtype):
    signal = collect(teacher, digits, tmp_path / dtype, dtype=dtype).signal()
    assert signal.logits.dtype == getattr(torch, dtype)
    assert torch.equal(signal.logits, asked(teacher, digits).to(getattr(torch, dtype)))


def test_plain_safetensors_reads_a_shard(digits, teacher, tmp_path):
    store = collect(teacher, digits, tmp_path / "s", dtype="bfloat16")
    (shard,) = (tmp_path / "s" / "shards").iterdir()
    columns = load_file(shard)
    assert torch.equal(columns["values"][columns["places"].argsort()], store.signal().logits)
    assert set(columns) == {"values", "labels", "places", "keys", "hashes"}


@pytest.mark.parametrize("data", ["pair", "arrays", "dataset"])
def test_pairs_arrays_and_datasets_are_data_too(digits, teacher, tmp_path, data):
    forms = {
        "pair": (digits.inputs, digits.labels),
        "arrays": (digits.inputs.numpy(), digits.labels.numpy()),
        "dataset": torch.utils.data.TensorDataset(digits.inputs, digits.labels),
    }
    signal = collect(teacher, forms[data], tmp_path / "s").signal()
    assert torch.equal(signal.logits, asked(teacher, digits))


def test_a_black_box_of_probabilities(digits, teacher, tmp_path):
    def black_box(inputs):
        return torch.softmax(teacher(inputs), dim=1).numpy().tolist()

    teacher.eval()
    store = collect(black_box, digits, tmp_path / "s", outputs="probabilities")
    torch.testing.assert_close(store.signal().probabilities, torch.softmax(asked(teacher, digits), 1))
    assert store.class_relation is None
    with pytest.raises(NumericsError, match="not probabilities"):
        collect(teacher, digits, tmp_path / "t", outputs="probabilities")


# --- what is refused, and leaves nothing behind ---------------------------------------------------------------------------


def refuses(error, match, teacher, data, out, **options):
    with pytest.raises(error, match=match) as caught:
        collect(teacher, data, out, **options)
    assert not out.exists()
    return str(caught.value)


def test_logits_that_are_not_finite_name_their_examples(digits, tmp_path):
    data = Examples(digits.inputs, digits.labels, ids=tuple(f"img-{n}" for n in range(1797)))

    def teacher(inputs):
        return torch.where(inputs[:, :1] == data.inputs[7, 0], inputs[:, :10], inputs[:, :10]).index_put(
            (torch.tensor([7]), torch.tensor([3])), torch.tensor(float("nan"))
        )

    assert "img-7" in refuses(NumericsError, "not finite", teacher, data, tmp_path / "s", named="t")


@pytest.mark.wrong_types
@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        (lambda d: (d.inputs, d.labels - 1), MismatchError, "label"),
        (lambda d: (d.inputs, d.labels + 1), MismatchError, "no class of the teacher"),
        (lambda d: (d.inputs, d.labels.float()), MismatchError, "label"),
        (lambda d: (d.inputs[:0], d.labels[:0]), MismatchError, "inputs and labels do not fit"),
        (lambda d: torch.utils.data.TensorDataset(d.inputs[:0]), MismatchError, "no data"),
        (lambda d: torch.utils.data.TensorDataset(d.inputs), MismatchError, r"not \(input, label\)"),
        (lambda d: iter(d.inputs), MismatchError, "number of examples is not known"),
        (lambda d: Examples(d.inputs, d.labels, tuple("abcdefghijkl")), MismatchError, "number of classes"),
    ],
)
def test_data_that_do_not_fit_are_refused(digits, teacher, tmp_path, change, error, match):
    with pytest.raises(error, match=match):
        collect(teacher, change(digits), tmp_path / "s")
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    "outputs",
    [
        lambda x: x[:, 0],
        lambda x: x[:, :1],
        lambda x: x[:, :10].to(torch.int8),
        lambda x: x[:, :10].to(torch.complex64),
        lambda x: "logits",
        lambda x: x[:-1, :10],
    ],
)
def test_outputs_that_are_not_logits_are_refused(digits, tmp_path, outputs):
    refuses(MismatchError, "the teacher does not", outputs, digits, tmp_path / "s")


@pytest.mark.parametrize(
    "wrap",
    [
        lambda x: {"logits": x},
        lambda x: (x, None),
        lambda x: type("Output", (), {"logits": x})(),
        lambda x: x.T.contiguous().T,
        lambda x: x.to_sparse(),
        lambda x: x.numpy(),
    ],
)
def test_usual_wrappings_of_logits_are_understood(digits, tmp_path, wrap):
    signal = collect(lambda x: wrap(x[:, :10]), digits, tmp_path / "s", named="t").signal()
    assert torch.equal(signal.logits, digits.inputs[:, :10])


def test_a_place_that_cannot_be_written(digits, teacher, tmp_path):
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(ConfigError, match="holds something else"):
        collect(teacher, digits, tmp_path / "file")
    with pytest.raises(ResourceError, match="cannot write"):
        collect(teacher, digits, tmp_path / "file" / "below")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "1.jpg").write_bytes(b"x")
    with pytest.raises(ConfigError, match="holds something else"):
        collect(teacher, digits, tmp_path / "photos")
    assert [p.name for p in (tmp_path / "photos").iterdir()] == ["1.jpg"]
    with pytest.raises(ConfigError, match="no signal store"):
        Store.open(tmp_path / "photos")


def test_other_data_or_another_teacher_are_refused_by_name(digits, teacher, tmp_path):
    collect(teacher, digits, tmp_path / "s")
    order = torch.randperm(1797, generator=torch.Generator().manual_seed(0))
    shuffled = Examples(
        digits.inputs[order], digits.labels[order], digits.class_names, ids=tuple(str(i) for i in order.tolist())
    )
    with pytest.raises(MismatchError, match="data"):
        collect(teacher, shuffled, tmp_path / "s")
    edited = digits.inputs.clone()
    edited[40, 3] += 1e-3
    with pytest.raises(MismatchError, match=r"1 of 1,797 checked examples differ \(field data, first: id 40\)"):
        collect(teacher, Examples(edited, digits.labels, digits.class_names, "digits"), tmp_path / "s")
    with torch.no_grad():
        teacher[4].bias[2] += 1e-6
    with pytest.raises(MismatchError, match="belongs to something else: teacher differs"):
        collect(teacher, digits, tmp_path / "s")


def test_one_flipped_bit_is_caught_before_a_value_is_used(digits, teacher, tmp_path):
    collect(teacher, digits, tmp_path / "s", shard_bytes=20_000)
    files = sorted(p for p in (tmp_path / "s").rglob("*") if p.is_file() and p.name != "head-copy.json")
    random = np.random.default_rng(0)
    for _ in range(150):
        file = files[random.integers(len(files))]
        good = file.read_bytes()
        bad = bytearray(good)
        bad[random.integers(len(bad))] ^= 1 << random.integers(8)
        file.write_bytes(bad)
        with pytest.raises(DamagedError) as caught:
            Store.open(tmp_path / "s").signal()
        assert str(file) in str(caught.value) and "fractionate store repair" in str(caught.value)
        file.write_bytes(good)
    assert len(Store.open(tmp_path / "s").signal()) == 1797


def test_a_copied_store_is_the_same_store(digits, teacher, tmp_path):
    store = collect(teacher, digits, tmp_path / "s")
    shutil.copytree(tmp_path / "s", tmp_path / "t")
    assert torch.equal(Store.open(tmp_path / "t").signal().logits, store.signal().logits)


def test_a_file_of_logits_is_mapped_and_not_copied(tmp_path):
    """A 3 GB file took 6 GB; what is changed in memory never reaches the file."""
    rows = np.arange(12, dtype=np.float32).reshape(4, 3)
    np.save(tmp_path / "logits.npy", rows)
    found = arrays_in(tmp_path / "logits.npy")[""].opened()
    assert isinstance(found, np.memmap)
    read_array(tmp_path / "logits.npy").zero_()
    assert np.array_equal(np.load(tmp_path / "logits.npy"), rows)
