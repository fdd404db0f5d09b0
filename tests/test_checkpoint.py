from __future__ import annotations

import itertools
import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from fractionate.errors import DamagedError, MismatchError, ResourceError
from fractionate.models.weights import from_bytes, load_weights, to_bytes
from fractionate.training.checkpoint import (
    Checkpoint,
    latest_checkpoint,
    load_checkpoint,
    optimizer_tensors,
    random_state,
    restore_optimizer,
    restore_random_state,
    save_checkpoint,
    steps_in,
)


def at(step: int) -> Checkpoint:
    generator = torch.Generator().manual_seed(step)
    return Checkpoint(
        step, {"a/x": torch.randn(50, 7, generator=generator), "b": torch.arange(step)}, {"sum": 0.1 * step}
    )


def equal(first: Checkpoint, second: Checkpoint) -> bool:
    tensors = all(torch.equal(first.tensors[name], second.tensors[name]) for name in first.tensors | second.tensors)
    return first.step == second.step and first.facts == second.facts and tensors


def test_a_checkpoint_comes_back_as_it_was_and_only_two_are_kept(tmp_path):
    for step in (1, 2, 3):
        save_checkpoint(tmp_path, at(step))
    assert steps_in(tmp_path) == [2, 3]
    assert len(list(tmp_path.iterdir())) == 4
    found, damaged = latest_checkpoint(tmp_path)
    assert found is not None and equal(found, at(3)) and not damaged
    assert set(found.part("a")) == {"x"}


def test_nothing_there_is_no_checkpoint(tmp_path):
    assert latest_checkpoint(tmp_path / "none") == (None, ())
    assert latest_checkpoint(tmp_path) == (None, ())


def damages(folder: Path, step: int, rng: random.Random):
    """Every way to damage the two files of a checkpoint; each yields a name after it has been done."""
    files = [folder / f"step-{step:08d}.safetensors", folder / f"step-{step:08d}.json"]
    for path in files:
        whole = path.read_bytes()
        for _ in range(60):
            flipped = bytearray(whole)
            place = rng.randrange(len(flipped))
            flipped[place] ^= 1 << rng.randrange(8)
            path.write_bytes(flipped)
            yield f"bit flip at {place} of {path.name}"
        for size in (0, 1, len(whole) // 2, len(whole) - 1):
            path.write_bytes(whole[:size])
            yield f"{path.name} cut to {size}"
        path.write_bytes(whole + b"x")
        yield f"{path.name} longer"
        zeroed = bytearray(whole)
        middle = len(whole) // 2
        zeroed[middle : middle + 64] = bytes(64)
        path.write_bytes(zeroed)
        yield f"{path.name} zeroed"
        path.write_bytes(whole)
    sibling = folder / f"step-{step - 1:08d}"
    whole = files[0].read_bytes()
    files[0].write_bytes(sibling.with_suffix(".safetensors").read_bytes())
    yield "tensors of the sibling"
    files[0].unlink()
    yield "tensors gone"
    files[0].write_bytes(whole)
    manifest = files[1].read_bytes()
    files[1].write_bytes(sibling.with_suffix(".json").read_bytes())
    yield "manifest of the sibling"
    files[1].write_bytes(manifest)


def test_every_damage_is_seen_and_the_checkpoint_before_is_used(tmp_path):
    save_checkpoint(tmp_path, at(7))
    save_checkpoint(tmp_path, at(8))
    seen = 0
    for name in damages(tmp_path, 8, random.Random(0)):
        with pytest.raises(DamagedError):
            load_checkpoint(tmp_path, 8)
        found, damaged = latest_checkpoint(tmp_path)
        assert found is not None and equal(found, at(7)), name
        assert len(damaged) == 1 and "step-00000008" in str(damaged[0]), name
        seen += 1
    assert seen == 135
    found, damaged = latest_checkpoint(tmp_path)
    assert found is not None and equal(found, at(8)) and not damaged  # and no false alarm


def dying(calls: int) -> None:
    """Let this process end, as a kill would, before its n-th call to the operating system that matters."""
    counter = itertools.count()
    for name in ("fsync", "replace", "rename", "unlink", "open"):
        real = getattr(os, name)

        def guarded(*given, _real=real, **named):
            if next(counter) == calls:
                os._exit(9)
            return _real(*given, **named)

        setattr(os, name, guarded)


def test_a_kill_before_any_call_of_a_save_leaves_a_whole_checkpoint(tmp_path):
    codes = set()
    for calls in range(60):
        folder = tmp_path / str(calls)
        for step in (1, 2):
            save_checkpoint(folder, at(step))
        child = os.fork()
        if not child:
            dying(calls)
            save_checkpoint(folder, at(3))
            os._exit(0)
        _, status = os.waitpid(child, 0)
        found, damaged = latest_checkpoint(folder)
        assert not damaged
        assert found is not None and (equal(found, at(2)) or equal(found, at(3))), calls
        assert not list(folder.glob(".partial-*"))
        save_checkpoint(folder, at(4))
        found, _ = latest_checkpoint(folder)
        assert found is not None and equal(found, at(4))
        codes.add(os.waitstatus_to_exitcode(status))
        if status == 0:
            break
    assert codes == {0, 9} and calls > 8  # every call was reached, and then none was left


def test_a_disk_that_refuses_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    save_checkpoint(tmp_path, at(1))

    def full(number: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ResourceError, match="No space left") as caught:
        save_checkpoint(tmp_path, at(2))
    assert caught.value.exit_code == 6
    monkeypatch.undo()
    found, _ = latest_checkpoint(tmp_path)
    assert found is not None and equal(found, at(1))
    assert not list(tmp_path.glob(".partial-*"))


def test_tensors_that_share_memory_and_views_survive():
    base = torch.arange(12.0)
    tensors = {"a": base, "tied": base, "view": base.view(3, 4).T, "part": base[2:5], "empty": torch.zeros(0)}
    content, aliases = to_bytes(tensors)
    assert aliases == {"tied": "a"}
    back = from_bytes(content, aliases)
    assert set(back) == set(tensors) and all(torch.equal(back[name], tensors[name]) for name in tensors)


@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.SGD])
def test_the_optimiser_goes_on_where_it_was(kind):
    def stepped(model: nn.Module, optimizer: torch.optim.Optimizer, times: int) -> None:
        for place in range(times):
            model(torch.full((4, 5), 0.1 * place + 1)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()

    settings = {"momentum": 0.9} if kind is torch.optim.SGD else {}
    torch.manual_seed(0)
    model = nn.Linear(5, 3)
    optimizer = kind(model.parameters(), lr=0.1, **settings)
    stepped(model, optimizer, 3)
    other = nn.Linear(5, 3)
    other.load_state_dict(model.state_dict())
    again = kind(other.parameters(), lr=0.1, **settings)
    restore_optimizer(again, {name: tensor.clone() for name, tensor in optimizer_tensors(optimizer).items()})
    stepped(model, optimizer, 3)
    stepped(other, again, 3)
    assert torch.equal(model.weight, other.weight)


def test_random_states_come_back():
    def draw() -> tuple[object, ...]:
        return torch.rand(3).tolist(), np.random.rand(3).tolist(), np.random.randn(), random.random(), random.gauss()

    random.gauss()  # now a second normal number waits in Python's generator
    np.random.randn()
    state = random_state()
    first = draw()
    draw()
    restore_random_state(state)
    assert draw() == first


def test_weights_of_another_student_are_refused():
    with pytest.raises(MismatchError, match="belongs to another model") as caught:
        load_weights(nn.Linear(3, 2), {"weight": torch.zeros(2, 4), "more": torch.zeros(1)})
    assert "missing bias" in str(caught.value) and "weight: [2, 4] for [2, 3]" in str(caught.value)
