"""Wrappers do not reach what is exported, shared layers are found before a step, and no part of a model is left out of its hash."""

from __future__ import annotations

import warnings

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.optim.swa_utils import AveragedModel

from encoders import encoder, inputs_of, transformers
from fractionate import Objective
from fractionate.errors import MismatchError
from fractionate.models.export import export_student
from fractionate.models.modes import plain_module, plain_names, plain_state
from fractionate.records import Training
from fractionate.store.identity import teacher_weights
from fractionate.system.fingerprints import model_hash
from fractionate.training import distill

GENERATOR = torch.Generator().manual_seed(0)
DATA = (torch.randn(32, 8, generator=GENERATOR), torch.arange(32) % 4)
FAST = Training(steps=3, batch_size=8)
KD = Objective("kd", 1.0, 1.0)
TERM = "fitnets('0', '0')"


def net() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))


def compiled(model: nn.Module) -> nn.Module:
    return torch.compile(model, backend="eager")  # type: ignore[return-value]


def compiled_inside(model: nn.Sequential) -> nn.Module:
    model[0] = compiled(model[0])
    return model


WRAPPERS = {
    "compiled": compiled,
    "parallel": nn.DataParallel,
    "averaged": AveragedModel,
    "parallel of compiled": lambda model: nn.DataParallel(compiled(model)),
    "compiled of parallel": lambda model: compiled(nn.DataParallel(model)),
    "a part compiled": compiled_inside,
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("terms", [(), (TERM,)])
def test_wrapped_models_train_and_teach_as_the_plain_ones(wrapper: str, terms: tuple[str, ...], tmp_path) -> None:
    wrap = WRAPPERS[wrapper]
    settings = {"objective": KD, "training": FAST, "terms": terms}
    teacher = net()
    teacher[2].weight.data.add_(1)
    plain, _ = distill(net(), DATA, teacher, **settings)
    student, _ = distill(wrap(net()), DATA, teacher, **settings, out=tmp_path / "run")
    found = load_file(tmp_path / "run" / "student.safetensors")
    expected = plain.state_dict()
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, expected[name])
        torch.testing.assert_close(plain_state(plain_module(student))[name], tensor)
    again, _ = distill(wrap(net()), DATA, teacher, **settings, out=tmp_path / "run")  # a finished run is read back
    assert all(torch.equal(plain_state(plain_module(again))[name], tensor) for name, tensor in found.items())
    other, _ = distill(net(), DATA, wrap(teacher), **settings)
    for one, two in zip(plain.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one, two)
    out = export_student(student, tmp_path / "export", program=False)
    assert load_file(out / "model.safetensors").keys() == expected.keys()
    assert teacher_weights(wrap(net())) == teacher_weights(net()), "a store of it belongs to the plain model too"


def test_a_compiled_part_of_a_transformers_model_loads_by_itself(tmp_path) -> None:
    transformers()
    student = encoder().eval()
    expected = student(**inputs_of()).logits
    student.bert.encoder.layer[0] = compiled(student.bert.encoder.layer[0])
    out = export_student(student, tmp_path / "student", program=False)
    back = type(student).from_pretrained(out).eval()
    torch.testing.assert_close(back(**inputs_of()).logits, expected)


def test_ddp_is_a_wrapper() -> None:
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        wrapped = nn.parallel.DistributedDataParallel(net())
        assert set(plain_names(wrapped).values()) == set(net().state_dict())
        assert isinstance(plain_module(wrapped), nn.Sequential)
    finally:
        torch.distributed.destroy_process_group()


def test_statistics_of_a_shared_layer_are_found_before_a_step() -> None:
    shared = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16)).requires_grad_(False)
    teacher, student = nn.Sequential(shared, nn.Linear(16, 4)), nn.Sequential(shared, nn.Linear(16, 4))
    before = student[1].weight.clone()
    with pytest.raises(MismatchError, match="share 1 of what is trained") as error:
        distill(student, DATA, teacher, objective=KD, training=FAST)
    assert "running_mean" in str(error.value) and torch.equal(before, student[1].weight)
    student.train()
    shared.eval()
    distill(student, DATA, teacher, objective=KD, training=FAST)  # frozen on purpose: it may be shared


class Ordered(nn.Module):
    """A model whose order of columns is a buffer that is not saved."""

    order: torch.Tensor

    def __init__(self, *order: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(8, 4)
        self.register_buffer("order", torch.tensor(order), persistent=False)

    def forward(self, x):
        return self.layer(x[:, self.order])


def test_buffers_that_are_not_saved_tell_models_apart(tmp_path) -> None:
    forward, backward = tuple(range(8)), tuple(reversed(range(8)))
    assert model_hash(Ordered(*forward)) == model_hash(Ordered(*forward)) != model_hash(Ordered(*backward))
    distill(Ordered(*forward), DATA, training=FAST, out=tmp_path)
    with pytest.raises(MismatchError, match="initial_weights"):
        distill(Ordered(*backward), DATA, training=FAST, out=tmp_path)
    distill(net(), DATA, Ordered(*forward), objective=KD, training=FAST, out=tmp_path / "taught")
    with pytest.raises(MismatchError, match="teacher"):
        distill(net(), DATA, Ordered(*backward), objective=KD, training=FAST, out=tmp_path / "taught")


@pytest.mark.filterwarnings("ignore")
def test_quantized_teachers_teach(tmp_path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torchao.quantization import Int8WeightOnlyConfig, quantize_

        dynamic = torch.ao.quantization.quantize_dynamic(net(), {nn.Linear}, dtype=torch.qint8)
    weights = net()
    quantize_(weights, Int8WeightOnlyConfig())
    other = net()
    other[0].weight.data.mul_(2)
    for teacher in (dynamic, weights):
        for terms in ((), ("fitnets('1', '1')",)):
            out = tmp_path / type(teacher[0]).__module__ / str(len(terms))
            _, run = distill(net(), DATA, teacher, objective=KD, training=FAST, terms=terms, out=out)
            assert run.steps == 3
        assert model_hash(teacher) != model_hash(net())
        assert teacher_weights(teacher) == teacher_weights(teacher)
    changed = torch.ao.quantization.quantize_dynamic(other, {nn.Linear}, dtype=torch.qint8)
    assert model_hash(changed) != model_hash(dynamic) and teacher_weights(changed) != teacher_weights(dynamic)
