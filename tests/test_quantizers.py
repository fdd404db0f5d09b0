"""Quantizers against their formulas written as loops, straight-through gradients, preparing, packing and what they refuse."""

from __future__ import annotations

import copy
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from encoders import WIDTH, encoder, inputs_of, transformers
from fractionate.errors import ConfigError, DamagedError, MismatchError
from fractionate.models.outputs import call
from fractionate.models.packed import PackedActivations, load_packed, pack_codes, save_packed, unpack_codes
from fractionate.models.quantize import (
    Activations,
    Quantization,
    StraightThrough,
    Ternary,
    Uniform,
    calibrate,
    only,
    prepare,
    quantizers,
    ternary_codes,
)
from fractionate.records import Training
from fractionate.training import distill

transformers()
WEIGHT = torch.randn(6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
SETTINGS = {"activation_clip": 10.0}


def ternary_by_loops(weights: list[float]) -> list[float]:
    delta = 0.7 * sum(map(abs, weights)) / len(weights)
    kept = [abs(w) for w in weights if abs(w) > delta]
    size = sum(kept) / len(kept) if kept else 0.0
    return [0.0 if abs(w) <= delta else size if w > 0 else -size for w in weights]


@pytest.mark.parametrize("per", ["matrix", "row"])
def test_ternary_is_the_formula(per):
    found = Ternary(per=per)(WEIGHT)
    rows = [WEIGHT.flatten().tolist()] if per == "matrix" else WEIGHT.tolist()
    oracle = torch.tensor([ternary_by_loops(row) for row in rows], dtype=torch.float64).view_as(WEIGHT)
    torch.testing.assert_close(found, oracle, rtol=1e-12, atol=0)
    for row in found.flatten()[None] if per == "matrix" else found:
        assert len(row.unique()) <= 3
    codes, scale = Ternary(per=per).codes(WEIGHT)
    torch.testing.assert_close(codes * scale, found, rtol=0, atol=0)


@given(st.lists(st.floats(-4, 4), min_size=2, max_size=30), st.floats(0.1, 5))
def test_ternary_keeps_its_support_and_its_scale(values, factor):
    weight = torch.tensor([values], dtype=torch.float64)
    once = Ternary()(weight)
    twice = Ternary()(once)
    torch.testing.assert_close(twice, once)  # ternary weights are their own ternary form
    codes, scale = ternary_codes(weight)
    scaled, larger = ternary_codes(factor * weight)
    if float(weight.abs().max()) > 1e-9:
        torch.testing.assert_close(larger, factor * scale)
        assert (codes != scaled).double().mean() <= 1 / len(values)  # one may sit on the threshold


def test_zero_weights_stay_zero():
    assert not Ternary()(torch.zeros(3, 4)).any() and not Ternary(per="row")(torch.zeros(3, 4)).any()
    assert not Activations()(torch.zeros(3, 4)).any() and Activations()(torch.zeros(0, 4)).shape == (0, 4)


@pytest.mark.parametrize("make", [Ternary, lambda: Ternary(per="row"), lambda: Uniform(4), Activations])
def test_gradients_pass_straight_inside_the_clip_alone(make):
    x = torch.tensor([[-3.0, -2.4, -0.1, 0.0, 1.0, 2.4, 2.6]], requires_grad=True)
    weights = torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]])
    (weights * make()(x)).sum().backward()
    torch.testing.assert_close(x.grad, torch.tensor([[0.0, 2.0, 3.0, 4.0, 5.0, 6.0, 0.0]]))
    assert float(make()(x).detach().abs().max()) <= 2.5 + 0.3  # clipped first; 4 bits round by at most half a step


def test_straight_through_can_be_differentiated_twice():
    x = torch.tensor([1.4, 3.0], requires_grad=True, dtype=torch.float64)
    value = (StraightThrough.apply(x, x.detach().round(), 2.5) ** 3).sum()
    (slope,) = torch.autograd.grad(value, x, create_graph=True)
    assert slope.requires_grad  # of a quantized loss, what the training sees has a curvature
    (bend,) = torch.autograd.grad(slope.sum(), x)
    torch.testing.assert_close(bend, torch.tensor([6.0, 0.0], dtype=torch.float64))  # (x rounded)³ at 1; clipped


@given(st.lists(st.floats(-6, 6, width=32), min_size=1, max_size=40))
def test_activations_err_by_half_a_step(values):
    x = torch.tensor(values)
    clipped = x.clamp(-2.5, 2.5)
    found = Activations()(x)
    most = float(clipped.abs().max())
    assert float((found - clipped).abs().max()) <= most / 254 * (1 + 1e-5) + 1e-7
    assert len(found.unique()) <= 255
    torch.testing.assert_close(PackedActivations(2.5, None)(x), found, rtol=0, atol=0)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_integer_weights_are_torchaos(bits):
    weight = WEIGHT.float()
    quantizer = Uniform(bits)
    found, (codes, scale) = quantizer(weight), quantizer.codes(weight)
    torch.testing.assert_close(codes * scale, found, rtol=0, atol=1e-7)
    for row, original, step in zip(found, weight, scale, strict=True):
        assert len(row.unique()) <= 2**bits
        assert float((row - original).abs().max()) <= float(step) * (0.5 if bits > 2 else 1.0) * (1 + 1e-5)


@given(st.sampled_from([2, 4, 8]), st.integers(1, 5), st.integers(1, 13), st.integers(0, 9))
def test_packing_can_be_undone(bits, rows, columns, seed):
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(-(2 ** (bits - 1)), 2 ** (bits - 1), (rows, columns), generator=generator).to(torch.int8)
    packed = pack_codes(codes, bits)
    assert packed.shape == (rows, -(-columns * bits // 8))
    assert torch.equal(unpack_codes(packed, bits, columns), codes)


def test_codes_that_do_not_fit_are_refused():
    with pytest.raises(MismatchError, match="do not fit into 2 bits"):
        pack_codes(torch.tensor([[2]]), 2)


# -- preparing ------------------------------------------------------------------------------------------------------------


def test_what_the_paper_quantizes_is_quantized_and_the_teacher_is_left_alone():
    teacher = encoder()
    before = copy.deepcopy(teacher.state_dict())
    student = prepare(teacher, Quantization(**SETTINGS), example=inputs_of())
    found = quantizers(student)
    layer = "bert.encoder.layer.0"
    linear = ["attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"]
    linear = [f"{layer}.{name}" for name in (*linear, "intermediate.dense", "output.dense")] + ["bert.pooler.dense"]
    assert all(f"{path}.{kind}_fake_quantizer" in found for path in linear for kind in ("weight", "activation"))
    assert "bert.embeddings.word_embeddings.weight_fake_quantizer" in found
    assert f"{layer}.attention.self.attention_quantizer" in found
    assert not any("classifier" in path or "position" in path or "token_type" in path for path in found)
    assert all(torch.equal(value, teacher.state_dict()[name]) for name, value in before.items())
    assert teacher.config._attn_implementation == "eager" and list(student.state_dict()) == list(before)
    inputs = inputs_of()
    assert not torch.allclose(call(student.eval(), inputs).logits, call(teacher.eval(), inputs).logits, atol=1e-3)
    with only(student, ()):
        torch.testing.assert_close(call(student, inputs).logits, call(teacher, inputs).logits)


def test_weights_of_a_running_student_have_three_values_and_rows_of_words_too():
    student = prepare(encoder(), Quantization(**SETTINGS), example=inputs_of()).eval()
    layer = student.bert.encoder.layer[0].intermediate.dense
    assert len(layer.weight_fake_quantizer(layer.weight).unique()) <= 3
    rows = student.bert.embeddings.word_embeddings(torch.arange(40))
    assert all(len(row.unique()) <= 3 for row in rows)


def test_eight_bits_change_little_and_two_change_much():
    teacher, inputs = encoder().eval(), inputs_of()
    far = []
    for weights in (8, 4, 2):
        student = prepare(teacher, Quantization(weights, weights, clip=None, activation_clip=None), example=inputs)
        with torch.no_grad():
            far.append(float((call(student.eval(), inputs).logits - call(teacher, inputs).logits).abs().mean()))
    assert far[0] < far[1] < far[2]


def test_a_prepared_student_learns_and_its_weights_move():
    student = prepare(encoder(), Quantization(4, 4, **SETTINGS), example=inputs_of())
    inputs = inputs_of(batch=16)
    rows = [{name: part[i] for name, part in inputs.items()} | {"labels": torch.tensor(i % 3)} for i in range(16)]
    before = student.bert.encoder.layer[1].output.dense.weight.detach().clone()
    _, first = distill(student, rows, training=Training(steps=1, batch_size=16, learning_rate=1e-4), test=rows)
    _, run = distill(student, rows, training=Training(steps=25, batch_size=16, learning_rate=5e-3), test=rows)
    assert run.test.nll_nats < first.test.nll_nats
    assert not torch.equal(before, student.bert.encoder.layer[1].output.dense.weight)


@pytest.mark.parametrize("kind", ["roberta", "vit"])
def test_other_encoders_can_be_prepared_and_packed(kind, tmp_path):
    teacher, inputs = encoder(kind), inputs_of(kind)
    keep = ("vit.embeddings.patch_embeddings.projection",) if kind == "vit" else ()
    student = prepare(teacher, Quantization(keep=keep, **SETTINGS), example=inputs).eval()
    save_packed(student, tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(
            call(load_packed(tmp_path), inputs).logits, call(student, inputs).logits, rtol=0.05, atol=0.05
        )


class Odd(nn.Module):
    """A transformers encoder between layers that nobody can quantize."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.mixing, self.recurrent = encoder(), nn.Conv1d(3, 3, 1), nn.GRU(3, 3)
        self.bilinear = nn.Bilinear(3, 3, 3)

    def forward(self, **inputs):
        return self.recurrent(call(self.inner, inputs).logits)[0]


def test_faults_of_preparing_are_named():
    inputs = inputs_of()
    with pytest.raises(MismatchError, match=r"(?s)layers cannot be quantized.*recurrent \(GRU\).*keep="):
        prepare(Odd(), Quantization(embeddings=None), example=inputs)
    assert quantizers(prepare(Odd(), Quantization(keep=("recurrent",)), example=inputs))
    with pytest.raises(MismatchError, match=r"(?s)projection \(Conv2d\)"):
        prepare(encoder("vit"), Quantization(), example=inputs_of("vit"))
    with pytest.raises(MismatchError, match="prepared already"):
        prepare(prepare(encoder(), Quantization(), example=inputs), Quantization(), example=inputs)
    with pytest.raises(MismatchError, match="did you mean 'classifier'"):
        prepare(encoder(), Quantization(keep=("clasifier",)), example=inputs)
    with pytest.raises(MismatchError, match="is not prepared"):
        save_packed(encoder(), "nowhere")
    for wrong in ({"weights": 3}, {"embeddings": 16}, {"activations": 4}, {"clip": 0.0}, {"activation_clip": -1}):
        with pytest.raises(ConfigError):
            Quantization(**wrong)


def test_too_few_batches_to_calibrate():
    student = prepare(encoder(), Quantization(**SETTINGS), example=inputs_of())
    with pytest.raises(ConfigError, match=r"(?s)too few batches to calibrate with.*at least 8.*3"):
        calibrate(student, [inputs_of(seed=i) for i in range(3)])
    peaks = calibrate(student, [inputs_of(seed=i) for i in range(8)])
    assert len(peaks) == sum(isinstance(q, Activations) for q in quantizers(student).values())
    assert all(peak > 0 for peak in peaks.values())
    with pytest.raises(MismatchError, match="no quantized activations"):
        calibrate(prepare(encoder(), Quantization(activations=None), example=inputs_of()), [inputs_of()] * 8)


def test_a_calibrated_scale_is_the_mean_of_the_peaks():
    some = Activations(clip=math.inf)
    student = torch.nn.Sequential(some)
    peaks = calibrate(student, [torch.tensor([[-peak, 0.5]]) for peak in (1.0, 3.0, 5.0)], least=3)
    assert peaks == {"0": 3.0}
    torch.testing.assert_close(student(torch.tensor([[1.0, 9.0]])), torch.tensor([[42 * 3 / 127, 3.0]]))


def test_a_calibrated_example_does_not_hang_on_its_batch():
    student = prepare(encoder(), Quantization(**SETTINGS), example=inputs_of()).eval()
    inputs = inputs_of(batch=3)
    alone = {name: part[:1] for name, part in inputs.items()}
    with torch.no_grad():
        calibrate(student, [inputs_of(seed=i) for i in range(8)])
        torch.testing.assert_close(call(student, alone).logits, call(student, inputs).logits[:1])


# -- packing --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weights", ["ternary", 2, 4, 8])
def test_the_packed_student_says_what_the_prepared_one_says(weights, tmp_path):
    inputs = inputs_of(batch=8)
    student = prepare(encoder(), Quantization(weights, weights, **SETTINGS), example=inputs).eval()
    size = save_packed(student, tmp_path)
    numbers = sum(m.weight.numel() for n, m in student.named_modules() if hasattr(m, "weight_fake_quantizer"))
    assert size["packed"] == numbers * (2 if weights == "ternary" else weights) // 8
    assert (tmp_path / "packed.safetensors").stat().st_size == size["file"]
    packed = load_packed(tmp_path)
    with torch.no_grad():  # a code may flip where rounding is on the edge
        torch.testing.assert_close(call(packed, inputs).logits, call(student, inputs).logits, rtol=0.02, atol=0.02)
    layer = packed.bert.encoder.layer[0].output.dense
    assert layer.codes.dtype == torch.int8 and not list(layer.parameters())


def test_a_calibrated_student_is_packed_with_its_peaks(tmp_path):
    student = prepare(encoder(), Quantization(**SETTINGS), example=inputs_of()).eval()
    calibrate(student, [inputs_of(seed=i) for i in range(8)])
    save_packed(student, tmp_path)
    inputs = inputs_of()
    with torch.no_grad():
        torch.testing.assert_close(
            call(load_packed(tmp_path), inputs).logits, call(student, inputs).logits, rtol=0.02, atol=0.02
        )


def test_no_training_code_is_needed_to_run_a_packed_student(tmp_path):
    student = prepare(encoder(), Quantization(**SETTINGS), example=inputs_of()).eval()
    save_packed(student, tmp_path)
    code = (
        "import sys, warnings; warnings.simplefilter('ignore')\n"
        "from fractionate.models.packed import load_packed; import torch\n"
        f"model = load_packed({str(tmp_path)!r})\n"
        "print(model(input_ids=torch.arange(1, 8)[None]).logits.shape[1])\n"
        "loaded = [n for n in sys.modules if n.startswith(('fractionate.training', 'fractionate.models.quantize'))]\n"
        "assert not loaded, loaded"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[1] / "src"
    )
    assert done.returncode == 0 and done.stdout.strip() == "3", done.stderr


def test_damage_and_wrong_architectures_are_told(tmp_path):
    student = prepare(encoder(), Quantization(**SETTINGS), example=inputs_of())
    save_packed(student, tmp_path)
    with pytest.raises(ConfigError, match="no packed student"):
        load_packed(tmp_path / "elsewhere")
    with pytest.raises(MismatchError, match=r"not the architecture|has no module"):
        load_packed(tmp_path, into=encoder("roberta"))
    with pytest.raises(MismatchError, match="not the architecture"):
        load_packed(tmp_path, into=encoder(num_hidden_layers=3))
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"architectures": ["os"]}))
    with pytest.raises(ConfigError, match="no model 'os'"):
        load_packed(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(ConfigError, match="into=your_model"):
        load_packed(tmp_path)
    content = (tmp_path / "packed.safetensors").read_bytes()
    (tmp_path / "packed.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(DamagedError, match="damaged"):
        load_packed(tmp_path)
    manifest = json.loads((tmp_path / "packed.json").read_text())
    (tmp_path / "packed.json").write_text(json.dumps(manifest | {"format": 9}))
    with pytest.raises(ConfigError, match="another format"):
        load_packed(tmp_path)


def test_other_models_than_transformers_can_be_packed_where_nothing_attends(tmp_path):
    student = nn.Sequential(nn.Linear(WIDTH, 8), nn.ReLU(), nn.Linear(8, 3))
    prepared = prepare(student, Quantization(activations=None, keep=("2",)), example=torch.randn(2, WIDTH))
    save_packed(prepared, tmp_path)
    again = load_packed(tmp_path, into=nn.Sequential(nn.Linear(WIDTH, 8), nn.ReLU(), nn.Linear(8, 3)))
    x = torch.randn(5, WIDTH)
    with torch.no_grad():
        torch.testing.assert_close(again(x), prepared(x), rtol=1e-5, atol=1e-5)
