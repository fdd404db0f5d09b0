"""The quantized student as it is shipped: weights packed in 2, 4 or 8 bits in one file, and layers that compute with integers.

    save_packed(student, "student/")        # a prepared, trained student → packed.safetensors, packed.json, config.json
    model = load_packed("student/")         # a transformers model of packed layers; needs no training code and no torchao

A packed linear layer quantizes what comes in to int8 as the training did, multiplies integers and scales once: the same numbers as
the prepared student's, up to rounding. In memory a weight takes one byte, in the file its bits; the embedding stays packed.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from fractionate.errors import ConfigError, DamagedError, MismatchError, extra
from fractionate.models.attention_hooks import ATTENTION, QUANTIZER, attends_by, register, set_attention
from fractionate.models.hooks import module_at
from fractionate.system.atomic import make_directory, write_file
from fractionate.system.files import existing_file, irregular
from fractionate.system.paths import as_path

WEIGHTS, MANIFEST, CONFIG = "packed.safetensors", "packed.json", "config.json"
FORMAT = 1


def pack_codes(codes: Int[Tensor, "rows columns"], bits: int) -> UInt8[Tensor, "rows bytes"]:
    """Whole numbers of -2^(bits-1) .. 2^(bits-1) - 1 as bytes, 8 / bits of them in each, the first lowest; rows are padded.

    Raises `MismatchError` for codes that do not fit into so many bits.
    """
    least, most = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    if codes.numel() and not least <= int(codes.min()) <= int(codes.max()) <= most:
        raise MismatchError(
            f"these codes do not fit into {bits} bits", expected=f"{least}..{most}",
            got=f"{int(codes.min())}..{int(codes.max())}",
        )  # fmt: skip
    each = 8 // bits
    lifted = (codes.to(torch.int16) - least).to(torch.uint8)
    room = -codes.shape[1] % each
    lifted = torch.nn.functional.pad(lifted, (0, room)).view(len(codes), -1, each)
    packed = torch.zeros(lifted.shape[:2], dtype=torch.uint8)
    for place in range(each):
        packed |= lifted[..., place] << (bits * place)
    return packed


def unpack_codes(packed: UInt8[Tensor, "rows bytes"], bits: int, columns: int) -> Int[Tensor, "rows columns"]:
    """The inverse of `pack_codes`, as int8."""
    parts = [(packed >> (bits * place)) & (2**bits - 1) for place in range(8 // bits)]
    codes: Tensor = torch.stack(parts, dim=2).flatten(1)[:, :columns].to(torch.int16) - 2 ** (bits - 1)
    return codes.to(torch.int8)


class PackedActivations(nn.Module):
    """round(x s), s = 127 / max|x| (or of a calibrated peak), x clipped first: as the training quantized."""

    def __init__(self, clip: float, peak: float | None) -> None:
        super().__init__()
        self.clip, self.peak = clip, peak

    def codes(self, x: Float[Tensor, "..."]) -> tuple[Tensor, Tensor]:
        """Whole numbers in -127..127, as floats, and the step they count."""
        x = x if math.isinf(self.clip) else x.clamp(-self.clip, self.clip)
        most = x.abs().amax() if x.numel() else x.new_zeros(())
        if self.peak is not None:
            most = most.new_tensor(self.peak)
        step = torch.where(most > 0, most / 127, 1.0)
        return torch.round(x / step).clamp(-127, 127), step

    def forward(self, x: Tensor) -> Tensor:
        codes, step = self.codes(x)
        return codes * step


class PackedLinear(nn.Module):
    """A linear layer whose weight is int8 codes [in, out] with scales [out or 1]; x is quantized where `activations` says so."""

    codes: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(
        self, codes: Tensor, scale: Tensor, bias: Tensor | None, activations: PackedActivations | None
    ) -> None:
        super().__init__()
        self.register_buffer("codes", codes.t().contiguous())
        self.register_buffer("scale", scale.flatten())
        self.register_buffer("bias", bias)
        self.activations = activations
        self.in_features, self.out_features = codes.shape[1], codes.shape[0]

    def forward(self, x: Float[Tensor, "... inputs"]) -> Float[Tensor, "... outputs"]:
        rows = x.reshape(-1, x.shape[-1])
        if self.activations is None:
            found = (rows @ self.codes.to(x.dtype)) * self.scale
        else:
            whole, step = self.activations.codes(rows)
            found = torch._int_mm(whole.to(torch.int8), self.codes).to(x.dtype) * (self.scale * step)
        if self.bias is not None:
            found = found + self.bias
        return found.view(*x.shape[:-1], self.out_features)


class PackedEmbedding(nn.Module):
    """An embedding that stays packed: a row is unpacked when it is looked up."""

    packed: Tensor
    scale: Tensor

    def __init__(self, packed: Tensor, scale: Tensor, bits: int, width: int) -> None:
        super().__init__()
        self.register_buffer("packed", packed)
        self.register_buffer("scale", scale.reshape(-1, 1))
        self.bits, self.embedding_dim, self.num_embeddings = bits, width, len(packed)

    def forward(self, ids: Tensor) -> Tensor:
        flat = ids.flatten()
        codes = unpack_codes(self.packed[flat], self.bits, self.embedding_dim)
        return (codes * self.scale[flat]).view(*ids.shape, self.embedding_dim)


def save_packed(student: nn.Module, folder: Path | str) -> dict[str, int]:
    """Write a prepared student packed. Codes are those that training computed with.

    Args:
        student: What `prepare` gave, trained.
        folder: Where to write.

    Returns:
        The bytes of weights by kind: packed, scales, full precision, file.

    Raises:
        MismatchError: for a student that is not prepared.
        ResourceError: where the disk refuses.

    Example:
        import torch
        from transformers import BertConfig, BertForSequenceClassification
        from fractionate.models import Quantization, prepare, save_packed

        sizes = {"num_hidden_layers": 1, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16, "vocab_size": 30}
        model = BertForSequenceClassification(BertConfig(**sizes))
        example = {"input_ids": torch.ones(1, 4, dtype=torch.long)}
        print(save_packed(prepare(model, Quantization("ternary"), example=example), "packed"))
    """
    from safetensors.torch import save

    from fractionate.models.quantize import Activations, QuantizedEmbedding, Ternary, quantizers

    folder = as_path(folder)
    quantizers(student)  # says so where there are none
    tensors: dict[str, Tensor] = {}
    layers: dict[str, dict[str, Any]] = {}
    attention: dict[str, dict[str, Any]] = {}
    for path, module in student.named_modules():
        quantizer: Any = getattr(module, "weight_fake_quantizer", None)
        if quantizer is not None:
            codes, scale = quantizer.codes(module.weight)
            bits = 2 if isinstance(quantizer, Ternary) else quantizer.bits
            tensors[f"{path}.packed"], tensors[f"{path}.scale"] = pack_codes(codes, bits), scale.flatten().contiguous()
            kind = "embedding" if isinstance(module, QuantizedEmbedding) else "linear"
            layers[path] = {"kind": kind, "bits": bits, "columns": codes.shape[1]}
            layers[path]["activations"] = _settings(getattr(module, "activation_fake_quantizer", None))
        inner = getattr(module, QUANTIZER, None)
        if isinstance(inner, Activations):
            attention[path] = {"activations": _settings(inner)}
    left = {f"{path}.weight" for path in layers}
    tensors |= {name: t.detach().contiguous() for name, t in student.state_dict().items() if name not in left}
    tied = {name: t.clone() for name, t in tensors.items()}
    content = save(tied)
    make_directory(folder)
    config = getattr(student, "config", None)
    if config is not None:
        outputs = config.to_dict() | {"architectures": [type(student).__name__]}
        write_file(folder / CONFIG, json.dumps(outputs, indent=2, default=str).encode())
    write_file(folder / WEIGHTS, content)
    manifest = {"format": FORMAT, "layers": layers, "attention": attention}
    write_file(folder / MANIFEST, json.dumps(manifest, indent=1).encode())
    size = {"packed": 0, "scales": 0, "full precision": 0}
    for name, tensor in tied.items():
        kind = "packed" if name.endswith(".packed") else "scales" if name.endswith(".scale") else "full precision"
        size[kind] += tensor.numel() * tensor.element_size()
    return size | {"file": len(content)}


def _settings(quantizer: Any) -> dict[str, float | None] | None:
    if quantizer is None:
        return None
    return {"clip": None if math.isinf(quantizer.clip) else quantizer.clip, "peak": quantizer.peak}


def _activations(settings: dict[str, float | None] | None) -> PackedActivations | None:
    if settings is None:
        return None
    return PackedActivations(math.inf if settings["clip"] is None else settings["clip"], settings["peak"])


def load_packed(folder: Path | str, *, into: nn.Module | None = None) -> nn.Module:
    """The packed student, in evaluation mode.

    Args:
        folder: What `save_packed` wrote.
        into: A fresh model of its architecture; None: the transformers class in its config.

    Returns:
        The model, with packed weights.

    Raises:
        ConfigError: where a file is missing.
        DamagedError: for files that are not what was written.
        MismatchError: where `into` is another architecture.

    Example:
        import torch
        from transformers import BertConfig, BertForSequenceClassification
        from fractionate.models import Quantization, load_packed, prepare, save_packed

        sizes = {"num_hidden_layers": 1, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16, "vocab_size": 30}
        model = BertForSequenceClassification(BertConfig(**sizes))
        example = {"input_ids": torch.ones(1, 4, dtype=torch.long)}
        save_packed(prepare(model, Quantization("ternary"), example=example), "packed")
        student = load_packed("packed")
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    folder = as_path(folder)
    try:
        manifest = json.loads(existing_file(folder / MANIFEST).read_text())
        content = existing_file(folder / WEIGHTS).read_bytes()
    except (OSError, ConfigError) as error:
        raise ConfigError(
            f"there is no packed student in {folder}", expected=f"{MANIFEST} and {WEIGHTS}", got=str(error).splitlines()[0],
            fix="save_packed(student, folder)",
        ) from error  # fmt: skip
    except ValueError as error:
        raise DamagedError(f"{folder / MANIFEST} is not JSON", got=str(error), fix="pack the student again") from error
    if manifest.get("format") != FORMAT:
        raise ConfigError(
            "this packed student is of another format", expected=str(FORMAT), got=str(manifest.get("format"))
        )
    try:
        tensors = load(content)
    except SafetensorError as error:
        raise DamagedError(f"{folder / WEIGHTS} is damaged", got=str(error), fix="pack the student again") from error
    model = _architecture(folder) if into is None else into
    for path, layer in manifest["layers"].items():
        packed, scale = (_taken(tensors, f"{path}.{part}", folder) for part in ("packed", "scale"))
        module_at(model, path)
        if layer["kind"] == "embedding":
            made: nn.Module = PackedEmbedding(packed, scale, layer["bits"], layer["columns"])
        else:
            codes = unpack_codes(packed, layer["bits"], layer["columns"])
            made = PackedLinear(codes, scale, tensors.pop(f"{path}.bias", None), _activations(layer["activations"]))
        above, _, name = path.rpartition(".")
        setattr(model.get_submodule(above), name, made)
    for path, layer in manifest["attention"].items():
        setattr(module_at(model, path), QUANTIZER, _activations(layer["activations"]))
    if manifest["attention"]:
        register()
        set_attention(model, dict.fromkeys(attends_by(model), ATTENTION))
    wanted = {n for n in model.state_dict() if n.rpartition(".")[0] not in manifest["layers"]}
    if wanted != set(tensors):
        odd = sorted(wanted ^ set(tensors))
        raise MismatchError(
            f"{type(model).__name__} is not the architecture that was packed", expected=f"{len(tensors)} tensors by name",
            got=f"{len(odd)} that only one of them has: {', '.join(odd[:4])}",
        )  # fmt: skip
    model.load_state_dict(tensors, strict=False)
    return model.eval()


def _taken(tensors: dict[str, Tensor], name: str, folder: Path) -> Tensor:
    if name not in tensors:
        raise DamagedError(f"{folder / WEIGHTS} lacks {name}", fix="pack the student again")
    return tensors.pop(name)


def _architecture(folder: Path) -> nn.Module:
    """A fresh model of the transformers class that the config names; nothing but transformers' own models is made."""
    with extra("quantize", "the packed student is a transformers model"):
        import transformers
    if irregular(folder / CONFIG):
        raise ConfigError(
            f"{folder} does not say which model it is", expected=CONFIG, fix="load_packed(folder, into=your_model())"
        )
    content = json.loads((folder / CONFIG).read_text())
    name = (content.get("architectures") or ["?"])[0]
    kind = getattr(transformers, name, None)
    if not (isinstance(kind, type) and issubclass(kind, transformers.PreTrainedModel)):
        raise ConfigError(
            f"transformers has no model {name!r}",
            expected="one of its classes",
            fix="load_packed(folder, into=your_model())",
        )
    settings: Any = kind.config_class
    made: nn.Module = kind(settings.from_dict(content))
    return made
