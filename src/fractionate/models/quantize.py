"""Quantizers for training: ternary, 2-, 4- and 8-bit weights, 8-bit activations, straight-through gradients; prepare a student.

    Recipe(preparations=("from_teacher()", "quantize(activation_clip=10.0)"))    # weights and activations quantized as it runs
    student = prepare(teacher, Quantization("ternary"), example=inputs)          # the same by hand: a copy
    save_packed(student, "student/")                                             # fractionate.models.packed: packed weights

Layers are torchao's `FakeQuantizedLinear`; its integer quantizers serve 2, 4 and 8 bits. Ternary weights, per-tensor activations
and clipped gradients it cannot express and are ours (docs/decisions/0100). Source: Kim et al. (arXiv 2211.11014), TernaryBERT.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fractionate.errors import ConfigError, MismatchError, extra
from fractionate.models.attention_hooks import ATTENTION, QUANTIZER, attends_by, find_layers, register, set_attention
from fractionate.models.hooks import module_at
from fractionate.models.modes import eval_mode, replace_module
from fractionate.models.outputs import call
from fractionate.models.preparations import Preparation, Preparing, given_student, preparations

CLIP = 2.5
THRESHOLD = 0.7  # of the mean size: smaller weights become 0 (TWN)
LEAST_BATCHES = 8  # of a calibration
Weights = Literal["ternary", 2, 4, 8]


class StraightThrough(torch.autograd.Function):
    """Forward the quantized value, bit for bit; backward the gradient where the input lay inside (-clip, clip), else 0."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, quantized: Tensor, clip: float) -> Tensor:
        """The quantized value."""
        ctx.save_for_backward(None if math.isinf(clip) else x.abs() < clip)
        return quantized

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        """The gradient, masked."""
        (inside,) = ctx.saved_tensors
        return gradient if inside is None else gradient * inside, None, None


def ternary_codes(
    weight: Float[Tensor, "rows columns"], *, per: Literal["matrix", "row"] = "matrix"
) -> tuple[Int[Tensor, "rows columns"], Float[Tensor, "scales 1"]]:
    """Signs in {-1, 0, 1} and the size they stand for: per matrix, or per row.

    Delta = 0.7 · mean|w|; code = sign(w) where |w| > Delta; scale = mean of |w| over those. A matrix or row of zeros has scale 0.
    Source: TWN (Li et al., arXiv 1605.04711), eqs. 3-6.
    """
    kept, scale = _kept(weight, per)
    return (weight.sign() * kept).to(torch.int8), scale


def _kept(weight: Tensor, per: Literal["matrix", "row"]) -> tuple[Tensor, Tensor]:
    """Which weights do not become 0, and the size they get."""
    size = weight.abs()
    over = (0, 1) if per == "matrix" else (1,)
    kept = size > THRESHOLD * size.mean(dim=over, keepdim=True)
    total = size.mul_(kept).sum(dim=over, keepdim=True)
    return kept, total / kept.sum(dim=over, keepdim=True).clamp_min(1)


class Ternary(nn.Module):
    """Ternary weights, one scale per matrix or one per row; weights are clipped to ± clip first."""

    def __init__(self, *, per: Literal["matrix", "row"] = "matrix", clip: float = CLIP) -> None:
        super().__init__()
        self.per, self.clip, self.enabled = per, clip, True

    def codes(self, weight: Float[Tensor, "rows columns"]) -> tuple[Tensor, Tensor]:
        """Codes (int8) and scales [1 or rows, 1]."""
        return ternary_codes(weight.detach().clamp(-self.clip, self.clip), per=self.per)

    def forward(self, weight: Tensor) -> Tensor:
        if not self.enabled:
            return weight
        clipped = weight.detach().clamp(-self.clip, self.clip)
        kept, scale = _kept(clipped, self.per)
        value = clipped.sign_().mul_(kept).mul_(scale)
        quantized: Tensor = StraightThrough.apply(weight, value, self.clip)  # type: ignore[no-untyped-call]
        return quantized


class Uniform(nn.Module):
    """2-, 4- or 8-bit weights, symmetric, one scale per row: torchao's quantizer behind our clipping."""

    def __init__(self, bits: int, *, clip: float = CLIP) -> None:
        super().__init__()
        qat = torchao()
        kind = getattr(torch, f"int{bits}")
        self.bits, self.clip, self.enabled = bits, clip, True
        self.inner = qat.IntxFakeQuantizer(qat.IntxFakeQuantizeConfig(kind, "per_channel", is_symmetric=True))

    def codes(self, weight: Float[Tensor, "rows columns"]) -> tuple[Tensor, Tensor]:
        """Codes (int8) and scales [rows, 1], as the quantizer uses them."""
        clipped = weight.detach().clamp(-self.clip, self.clip)
        with torch.no_grad():
            self.inner(clipped)
        scale = self.inner.scale.reshape(-1, 1)
        least, most = -(2 ** (self.bits - 1)), 2 ** (self.bits - 1) - 1
        return torch.round(clipped * (1.0 / scale)).clamp(least, most).to(torch.int8), scale

    def forward(self, weight: Tensor) -> Tensor:
        if not self.enabled:
            return weight
        quantized: Tensor = self.inner(weight.clamp(-self.clip, self.clip))
        return quantized


class Activations(nn.Module):
    """8-bit symmetric activations, one scale a tensor: round(x s) / s, s = 127 / max|x|, x clipped to ± clip first.

    Dynamic: the maximum is the tensor's own, padding included. `peak`, set by `calibrate`, makes it the same for all tensors.
    """

    def __init__(self, *, clip: float = CLIP) -> None:
        super().__init__()
        self.clip, self.enabled = clip, True
        self.peak: float | None = None
        self.seen: list[float] | None = None  # maxima, while calibrating

    def forward(self, x: Tensor) -> Tensor:
        if not self.enabled:
            return x
        wide = x.detach().to(torch.promote_types(x.dtype, torch.float32)).clamp(-self.clip, self.clip)
        most = wide.abs().amax() if wide.numel() else wide.new_zeros(())
        if self.seen is not None:
            self.seen.append(float(most))
        if self.peak is not None:
            most = most.new_tensor(self.peak)
        step = torch.where(most > 0, most / 127, 1.0)
        rounded = torch.round(wide / step).clamp(-127, 127) * step
        quantized: Tensor = StraightThrough.apply(x, rounded.to(x.dtype), self.clip)  # type: ignore[no-untyped-call]
        return quantized


class QuantizedEmbedding(nn.Embedding):
    """An embedding whose rows are quantized as they are looked up: the same numbers as of the whole table, at a batch's cost."""

    weight_fake_quantizer: nn.Module

    def forward(self, ids: Tensor) -> Tensor:
        rows = super().forward(ids)
        quantized: Tensor = self.weight_fake_quantizer(rows.flatten(0, -2))
        return quantized.view_as(rows)


@preparations.register("quantize")
@dataclass(frozen=True)
class Quantization(Preparation):
    """Quantized weights of an encoder's linear layers, input embedding and activations: `quantize(2, 8)`; None leaves them.

    Args:
        weights, embeddings: "ternary", 2, 4 or 8 bits.
        activations: 8 bits, or None.
        clip, activation_clip: Bounds of weights and activations (the paper: 2.5 both; None: no bound). Check your encoder's
            states before you keep 2.5: MiniLM's reach 28.
        keep: Modules that stay in full precision; biases, norms, position embeddings and what lies outside the encoder (the
            classifier) always do.
        calibration: Batches of the transfer set over which the scales of activations are fixed before training; 0: each
            tensor has its own.

    Raises:
        ConfigError: Other bits, or a bound of 0 or below.

    Example:
        from fractionate.models import Quantization
        print(Quantization(2, 8, activation_clip=10.0))
    """

    weights: Weights = "ternary"
    embeddings: Weights | None = "ternary"
    activations: Literal[8] | None = 8
    clip: float | None = CLIP
    activation_clip: float | None = CLIP
    keep: tuple[str, ...] = ()
    calibration: int = 0

    def __call__(self, student: nn.Module | None, at: Preparing) -> nn.Module:
        """A quantized copy of the student. Raises what `prepare` and `calibrate` raise."""
        prepared = prepare(given_student(student, "quantize"), self, example=at.inputs)
        if self.calibration:
            calibrate(prepared, list(at.calibration(self.calibration)))
        return prepared

    def __post_init__(self) -> None:
        object.__setattr__(self, "keep", tuple(self.keep))
        for name, known in (("weights", ("ternary", 2, 4, 8)), ("embeddings", ("ternary", 2, 4, 8, None)),
                            ("activations", (8, None))):  # fmt: skip
            if getattr(self, name) not in known:
                raise ConfigError(
                    f"invalid value for {name} of quantize", expected=f"one of {', '.join(map(repr, known))}",
                    got=repr(getattr(self, name)),
                )  # fmt: skip
        for clip in (self.clip, self.activation_clip):
            if clip is not None and not 0 < clip < math.inf:
                raise ConfigError("the clip cannot be used", expected="above 0, or None", got=repr(clip))

    def of_weights(self, bits: Weights, per: Literal["matrix", "row"]) -> nn.Module:
        """The quantizer of a weight."""
        clip = math.inf if self.clip is None else self.clip
        return Ternary(per=per, clip=clip) if bits == "ternary" else Uniform(bits, clip=clip)

    def of_activations(self) -> nn.Module | None:
        """The quantizer of an activation, None where they stay as they are."""
        return Activations(clip=self.activation_clip or math.inf) if self.activations else None


def torchao() -> Any:
    """torchao's QAT module. Raises `MissingExtraError` where it is not installed."""
    with extra("quantize", "quantized layers are torchao's"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torchao.quantization.qat as qat
    return qat


def prepare(model: nn.Module, quantization: Quantization, *, example: Any) -> nn.Module:
    """A copy of an encoder that computes as if it were quantized, ready for `distill`; the model itself is left alone.

    Args:
        model: In full precision.
        quantization: Bits of weights, embeddings and activations, and the modules to keep.
        example: A small batch of inputs, on which the model is run to find its layers and the copy to see that it works.

    Returns:
        The prepared copy.

    Raises:
        MismatchError: naming layers that cannot be quantized (put them into `keep`); for a model prepared already, and attention
            that cannot be seen.
        MissingExtraError: without torchao.

    Example:
        import torch
        from torch import nn
        from fractionate.models import Quantization, prepare

        model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
        student = prepare(model, Quantization("ternary", activations=None), example=torch.randn(2, 8))
    """
    qat = torchao()
    if any(isinstance(m, (qat.FakeQuantizedLinear, QuantizedEmbedding)) for m in model.modules()):
        raise MismatchError("the model is prepared already", fix="prepare the full-precision model")
    layers = find_layers(model, example) if quantization.activations else ()
    student = copy.deepcopy(model)
    for path in quantization.keep:
        module_at(student, path)
    inside = encoder_path(student)
    chosen = list(_chosen(student, quantization, inside))
    for path, module in chosen:
        if isinstance(module, nn.Linear):
            layer = qat.FakeQuantizedLinear.from_linear(module)
            layer.weight_fake_quantizer = quantization.of_weights(quantization.weights, "matrix")
            layer.activation_fake_quantizer = quantization.of_activations()
        else:
            assert quantization.embeddings is not None and isinstance(module, nn.Embedding)
            layer = QuantizedEmbedding(*module.weight.shape, padding_idx=module.padding_idx, device="meta")
            layer.weight = module.weight
            layer.weight_fake_quantizer = quantization.of_weights(quantization.embeddings, "row")
        replace_module(student, path, layer.train(module.training))
    for found in layers:
        setattr(module_at(student, found.attention), QUANTIZER, quantization.of_activations())
    if layers:
        register()
        set_attention(student, dict.fromkeys(attends_by(student), ATTENTION))
    with eval_mode(student):
        call(student, example)
    return student


def encoder_path(model: nn.Module) -> str:
    """Where the encoder within a model is: what lies outside of it (the classifier) stays in full precision."""
    prefix = getattr(model, "base_model_prefix", "")
    return prefix if prefix and isinstance(getattr(model, prefix, None), nn.Module) else ""


def _chosen(model: nn.Module, quantization: Quantization, inside: str) -> Iterator[tuple[str, nn.Module]]:
    """The modules to quantize. Raises `MismatchError` naming those that nobody can."""
    getter = getattr(model, "get_input_embeddings", None)
    words = getter() if callable(getter) else None
    unsupported = []
    known = (nn.Linear, nn.Embedding, nn.LayerNorm)
    for path, module in model.named_modules():
        if any(path == kept or path.startswith(f"{kept}.") for kept in quantization.keep):
            continue
        if inside and not path.startswith(f"{inside}."):
            continue
        if type(module) is nn.Linear or (module is words and type(module) is nn.Embedding and quantization.embeddings):
            yield path, module
        elif type(module) not in known:
            own = [n for n, p in module.named_parameters(recurse=False) if p.ndim == 2 or p.ndim == 4]
            if own:
                unsupported.append(f"{path} ({type(module).__name__})")
    if unsupported:
        paths = ", ".join(repr(name.split(" ")[0]) for name in unsupported[:6])
        raise MismatchError(
            f"{len(unsupported)} layers cannot be quantized", expected="linear layers, and the embedding of the words",
            got=", ".join(unsupported[:6]) + (" …" if len(unsupported) > 6 else ""),
            fix=f"leave them in full precision: Quantization(keep=({paths},))",
        )  # fmt: skip


def quantizers(student: nn.Module) -> dict[str, nn.Module]:
    """Every quantizer of a prepared student by its path. Raises `MismatchError` where there is none."""
    found: dict[str, nn.Module] = {
        n: m for n, m in student.named_modules() if isinstance(m, (Ternary, Uniform, Activations))
    }
    if not found:
        raise MismatchError(
            f"{type(student).__name__} is not prepared", fix="prepare(model, Quantization(), example=…)"
        )
    return found


@contextmanager
def only(student: nn.Module, prefixes: Sequence[str]) -> Iterator[None]:
    """Quantize only below these paths for the time of the block; with none, the student computes in full precision."""
    every = quantizers(student)
    before = {name: bool(q.enabled) for name, q in every.items()}
    try:
        for name, quantizer in every.items():
            quantizer.enabled = before[name] and any(name == p or name.startswith(f"{p}.") for p in prefixes)  # type: ignore[assignment]
        yield
    finally:
        for name, quantizer in every.items():
            quantizer.enabled = before[name]  # type: ignore[assignment]


def calibrate(student: nn.Module, batches: Sequence[Any], *, least: int = LEAST_BATCHES) -> dict[str, float]:
    """Fix the scale of every activation to the mean of its maxima over some batches of inputs; gives them by path.

    A fixed scale needs no pass over the tensor as it runs, and makes an example's prediction independent of the others in its
    batch. Raises `ConfigError` for fewer than `least` batches and `MismatchError` naming activations that no batch reached.
    """
    if len(batches) < least:
        raise ConfigError(
            "too few batches to calibrate with", expected=f"at least {least}", got=str(len(batches)),
            fix="give more batches, or stay with dynamic scales, which need none",
        )  # fmt: skip
    found = {name: q for name, q in quantizers(student).items() if isinstance(q, Activations)}
    if not found:
        raise MismatchError("the student has no quantized activations", fix="prepare with activations=8")
    for quantizer in found.values():
        quantizer.peak, quantizer.seen = None, []
    try:
        with eval_mode(student):
            for inputs in batches:
                call(student, inputs)
        missed = [name for name, q in found.items() if not q.seen]
        if missed:
            raise MismatchError(
                f"{len(missed)} activations were never reached", expected="batches that run the whole student",
                got=", ".join(missed[:6]),
            )  # fmt: skip
        for quantizer in found.values():
            assert quantizer.seen
            quantizer.peak = sum(quantizer.seen) / len(quantizer.seen)
    finally:
        for quantizer in found.values():
            quantizer.seen = None
    return {name: float(q.peak or 0.0) for name, q in found.items()}
