"""Features of named layers in a store: losses that read inside the teacher need no online teacher."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fractionate import Objective, Task, collect, distill
from fractionate.data import Examples
from fractionate.errors import ConfigError, MismatchError, NumericsError
from fractionate.records import Training
from fractionate.store import Store, export
from fractionate.teachers import Cached

torch.manual_seed(0)
DATA = Examples(torch.randn(90, 1, 6, 6), torch.arange(90) % 3)
FAST = Training(steps=12, batch_size=30, learning_rate=0.01)
TERMS = ("fitnets('0', '0', weight=0.5)",)


def network(channels: int, seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, channels, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 3)
    )


def test_a_hint_from_the_store_equals_the_hint_of_the_living_teacher(tmp_path) -> None:
    teacher = network(8, 0)
    store = collect(teacher, DATA, tmp_path / "s", features=("0", "3"), batch_size=40, shard_bytes=1)
    kept = Store.open(tmp_path / "s").features()
    with torch.no_grad():
        by_hand = teacher[0](DATA.inputs)  # the loop that a person would write
    assert kept["0"].dtype == torch.float16 and kept["3"].shape == (90, 8)
    torch.testing.assert_close(kept["0"].float(), by_hand, rtol=1e-3, atol=1e-3)
    settings = {"objective": Objective("kd", 2.0, 0.5), "training": FAST, "terms": TERMS, "show": "nothing"}
    one, _ = distill(network(4, 1), DATA, store, **settings)
    two, _ = distill(network(4, 1), DATA, teacher, **settings)
    three, _ = distill(network(4, 1), DATA, store.signal(), **{**settings, "terms": ()})
    for ours, living in zip(one.parameters(), two.parameters(), strict=True):
        torch.testing.assert_close(ours, living, rtol=2e-3, atol=2e-4)
    assert not torch.allclose(one[0].weight, three[0].weight, atol=1e-3), "the term does something"
    only = Cached(store, features={"0": by_hand})  # what is given goes before what is stored
    four, _ = distill(network(4, 1), DATA, only, **settings)
    torch.testing.assert_close(four[0].weight, two[0].weight)


def test_an_interrupted_pass_goes_on_and_other_layers_are_another_store(tmp_path) -> None:
    teacher = network(8, 0)
    collect(teacher, DATA, tmp_path / "s", features=("3",), part=(0, 2), batch_size=15)
    store = collect(teacher, DATA, tmp_path / "s", features=("3",), batch_size=15)
    assert store.complete and store.feature_paths == ("3",)
    whole = collect(teacher, DATA, tmp_path / "whole", features=("3",), batch_size=15)
    assert store.content() == whole.content()
    with pytest.raises(MismatchError, match="features differs"):
        collect(teacher, DATA, tmp_path / "s", batch_size=15)
    with pytest.raises(ConfigError, match=r"(?s)reads inside the teacher.*collect\(\.\.\., features="):
        distill(network(4, 1), DATA, store, terms=TERMS, training=FAST, show="nothing")
    pytest.importorskip("pyarrow")
    export(tmp_path / "s", "parquet", tmp_path / "out.parquet")  # rows travel, features stay
    taken = collect(teacher, DATA, tmp_path / "t", features=("3",), batch_size=15, reuse=store)
    assert torch.equal(taken.features()["3"], store.features()["3"])


@pytest.mark.parametrize(
    ("teacher", "options", "error", "match"),
    [
        (network(8, 0), {"features": ("9",)}, MismatchError, "9"),
        (network(8, 0), {"features": "0"}, ConfigError, "paths of modules"),
        (network(8, 0), {"features": ("0",), "non_finite": "skip"}, ConfigError, "one per example"),
        (lambda x: x.flatten(1)[:, :3], {"features": ("0",)}, ConfigError, "one per example"),
        (
            nn.Sequential(nn.Flatten(0), nn.Unflatten(0, (-1, 36)), nn.Linear(36, 3)),
            {"features": ("0",)},
            MismatchError,
            "'0' are not",
        ),
    ],
)
def test_features_that_cannot_be_kept_are_refused(teacher, options, error, match, tmp_path) -> None:
    with pytest.raises(error, match=match):
        collect(teacher, DATA, tmp_path / "s", **options)
    assert not (tmp_path / "s").exists()


def test_features_beyond_half_precision_are_named(tmp_path) -> None:
    teacher = network(8, 0)
    teacher[0].weight.data.mul_(1e6)
    with pytest.raises(NumericsError, match="cannot be kept in float16"):
        collect(teacher, DATA, tmp_path / "s", features=("0",))


def test_a_study_reads_stored_features(tmp_path) -> None:
    from fractionate import dissect
    from fractionate.training import Recipe

    store = collect(network(8, 0), DATA, tmp_path / "s", features=("0",))
    task = Task("classification", transfer=DATA, test=DATA, student=lambda: network(4, 1))
    arms = {
        "hard": Recipe(training=FAST),
        "hint": Recipe(terms=TERMS, training=FAST),
    }
    found = dissect(task, arms=arms, teacher=store, seeds=2, progress="nothing")
    assert {run.status for run in found.runs} == {"completed"}


# --- batches by length, models spread over devices -----------------------------------------------------------------------------


class Reads(nn.Module):
    """A causal model that counts what it reads."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.vectors, self.head = nn.Embedding(30, 8), nn.Linear(8, 30)
        self.read = 0

    def forward(self, input_ids, attention_mask):
        self.read += input_ids.numel()
        hidden = self.vectors(input_ids) * attention_mask[..., None]
        return self.head(hidden.cumsum(dim=1))


def sentences(count: int = 40, longest: int = 24) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(1)
    sizes = torch.randint(2, longest + 1, (count,), generator=draw)
    mask = (torch.arange(longest) < sizes[:, None]).long()
    ids = torch.randint(30, (count, longest), generator=draw) * mask
    return {"input_ids": ids, "attention_mask": mask, "labels": torch.where(mask.bool(), ids, -100)}


@pytest.mark.parametrize("kind", ["in memory", "a dataset"])
def test_batches_by_length_give_the_same_rows_and_read_less(kind, tmp_path) -> None:
    whole = sentences()
    data = whole if kind == "in memory" else [{name: part[n] for name, part in whole.items()} for n in range(40)]
    task = Task("language-modelling", transfer=data)
    plain, sorted_ = Reads(), Reads()
    one = collect(plain, task, tmp_path / "a", batch_size=8)
    collect(sorted_, task, tmp_path / "b", batch_size=8, by_length=True, part=(0, 2))
    two = collect(sorted_, task, tmp_path / "b", batch_size=8, by_length=True)
    torch.testing.assert_close(one.signal().logits, two.signal().logits)
    assert torch.equal(one.labels(), two.labels())
    assert sorted_.read < 0.75 * plain.read
    with pytest.raises(ConfigError, match="no length to sort by"):
        collect(network(8, 0), DATA, tmp_path / "c", by_length=True)


def test_a_model_over_processor_and_disk_gives_the_same_rows_and_is_put_back(tmp_path) -> None:
    pytest.importorskip("accelerate")
    teacher, one = network(8, 0), collect(network(8, 0), DATA, tmp_path / "a")
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    two = collect(
        teacher, DATA, tmp_path / "b", device_map={"0": "cpu", "1": "cpu", "2": "cpu", "3": "cpu", "4": "disk"}
    )
    torch.testing.assert_close(one.signal().logits, two.signal().logits)
    assert all(torch.equal(value, teacher.state_dict()[name]) for name, value in before.items())
    assert one.head.identity["teacher"] == two.head.identity["teacher"]
    collect(teacher, DATA, tmp_path / "c", device_map="auto")
    with pytest.raises(ConfigError, match="device map"):
        collect(teacher, DATA, tmp_path / "d", device_map={"0": "cpu"})
