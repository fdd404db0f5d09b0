"""What quantization does to attention: ranking loss and cover length per head, sensitivity per layer, norms, ranges, sharpness.

Each reads encoders as they run and gives numbers. Source: Kim et al. (arXiv 2211.11014), section 3 and their code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from fractionate.errors import ConfigError, MismatchError
from fractionate.models.attention_hooks import Layer, find_layers, watching
from fractionate.models.hooks import module_at
from fractionate.models.modes import eval_mode
from fractionate.models.outputs import Head, call, logits_of
from fractionate.models.quantize import only
from fractionate.records import ArmAttention, Interval, Matrix
from fractionate.study.effects.contrasts import paired
from fractionate.tasks.attention_metrics import cover_length_ratio, ranking_loss

Batches = Sequence[tuple[Any, Tensor]]  # inputs and labels


@dataclass(frozen=True)
class MapChange:
    """How a student's maps differ from its teacher's, layers × heads, means over the examples."""

    ranking_loss: Matrix
    cover_length_ratio: Matrix


def compare_maps(student: nn.Module, teacher: nn.Module, batches: Batches, *, top: int = 5) -> MapChange:
    """Ranking loss and cover length ratio of every head, over some batches.

    Args:
        student: An encoder.
        teacher: Another of the same depth.
        batches: Inputs and labels.
        top: How many of the teacher's strongest tokens the cover length is of.

    Returns:
        `MapChange`: both by layer and head, means over examples.

    Raises:
        ConfigError: for no batch.
        MismatchError: for depths that differ.

    Example:
        import torch
        from transformers import BertConfig, BertForSequenceClassification
        from fractionate.study import compare_maps

        sizes = {"num_hidden_layers": 1, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16, "vocab_size": 30}
        student, teacher = (BertForSequenceClassification(BertConfig(**sizes)) for _ in range(2))
        batch = {"input_ids": torch.randint(30, (2, 8)), "attention_mask": torch.ones(2, 8, dtype=torch.long)}
        print(compare_maps(student, teacher, [(batch, torch.tensor([0, 1]))]))
    """
    if not batches:
        raise ConfigError("there is nothing to compare", expected="at least one batch of inputs and labels")
    layers = [find_layers(model, batches[0][0]) for model in (student, teacher)]
    if len(layers[0]) != len(layers[1]):
        raise MismatchError(
            "student and teacher differ in depth", expected=f"{len(layers[1])} layers", got=str(len(layers[0]))
        )
    sums: list[list[Tensor]] = [[], []]
    count = 0
    with (
        watching(student, layers[0]) as ours,
        watching(teacher, layers[1]) as theirs,
        eval_mode(student),
        eval_mode(teacher),
    ):
        for inputs, labels in batches:
            call(student, inputs)
            call(teacher, inputs)
            count += len(labels)
            pairs = [(ours.maps(i), theirs.maps(i)) for i in range(len(layers[0]))]
            valid = ours.required_valid
            sums[0].append(torch.stack([ranking_loss(a, b, valid).sum(dim=0) for a, b in pairs]))
            sums[1].append(torch.stack([cover_length_ratio(a, b, valid, top=top).sum(dim=0) for a, b in pairs]))
    found = [torch.stack(parts).sum(dim=0) / count for parts in sums]
    return MapChange(*(tuple(map(tuple, f.double().tolist())) for f in found))


def attention_arm(arm: str, changes: Sequence[MapChange], *, sharpness: float | None = None) -> ArmAttention:
    """One variant's maps over its seeds, as a record for the page: means over seeds, and over all heads with t intervals.

    Args:
        arm: The variant.
        changes: What `compare_maps` gave, one per seed.
        sharpness: Largest eigenvalue of the Hessian of the task loss.

    Returns:
        An `ArmAttention`.

    Raises:
        ConfigError: for no seeds at all.

    Example:
        from fractionate.study import attention_arm
        from fractionate.study.attention_measures import MapChange

        print(attention_arm("map", [MapChange(((0.1, 0.2),), ((1.0, 1.1),))]))
    """
    if not changes:
        raise ConfigError(f"arm {arm!r} has no seeds", expected="at least one MapChange", got="none")
    measured: dict[str, Tensor] = {
        field: torch.tensor([getattr(change, field) for change in changes], dtype=torch.float64)
        for field in ("ranking_loss", "cover_length_ratio")
    }  # seeds, layers, heads
    over_heads = {field: found.mean(dim=(1, 2)).tolist() for field, found in measured.items()}
    mean = {field: tuple(map(tuple, found.mean(dim=0).tolist())) for field, found in measured.items()}
    intervals: dict[str, Interval | None] = dict.fromkeys(measured)
    if len(changes) > 1:  # an interval needs no margin
        intervals = {field: paired(values, margin=1.0).interval for field, values in over_heads.items()}
    return ArmAttention(
        arm=arm,
        seeds=len(changes),
        ranking_loss=mean["ranking_loss"],
        cover_length_ratio=mean["cover_length_ratio"],
        ranking_mean=sum(over_heads["ranking_loss"]) / len(changes),
        cover_mean=sum(over_heads["cover_length_ratio"]) / len(changes),
        ranking_interval=intervals["ranking_loss"],
        cover_interval=intervals["cover_length_ratio"],
        sharpness=sharpness,
    )


def layer_sensitivity(
    student: nn.Module, batches: Batches, *, part: Literal["block", "attention"] = "block", head: Head = None
) -> tuple[float, ...]:
    """What quantizing one layer alone costs: KL(full precision ‖ that layer quantized) of the predictions, layer by layer.

    Best measured before training.

    Args:
        student: A prepared encoder; without any quantizer it is its own full-precision self.
        batches: Inputs and labels.
        part: Quantize the whole block, or its attention alone.
        head: Where the logits are in its output.

    Returns:
        Nats, one number per layer.

    Example:
        import torch
        from transformers import BertConfig, BertForSequenceClassification
        from fractionate.models import Quantization, prepare
        from fractionate.study import layer_sensitivity

        sizes = {"num_hidden_layers": 1, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16, "vocab_size": 30}
        batch = {"input_ids": torch.randint(30, (2, 8)), "attention_mask": torch.ones(2, 8, dtype=torch.long)}
        student = prepare(BertForSequenceClassification(BertConfig(**sizes)), Quantization("ternary"), example=batch)
        print(layer_sensitivity(student, [(batch, torch.tensor([0, 1]))]))
    """
    layers = find_layers(student, batches[0][0])
    paths = [getattr(layer, part) for layer in layers]

    def predictions(prefixes: Sequence[str]) -> Tensor:
        with only(student, prefixes), eval_mode(student):
            return torch.cat([logits_of(call(student, inputs), head).double().log_softmax(-1) for inputs, _ in batches])

    full = predictions(())
    kl = [functional.kl_div(predictions((path,)), full, log_target=True, reduction="batchmean") for path in paths]
    return tuple(float(value) for value in kl)


def output_ranges(model: nn.Module, batches: Batches) -> tuple[tuple[float, float], ...]:
    """Least and largest entry of each layer's attention output (after residual and norm) over the tokens that are no padding."""
    layers = find_layers(model, batches[0][0])
    found = [[float("inf"), -float("inf")] for _ in layers]
    with watching(model, layers) as watch, eval_mode(model):
        for inputs, _ in batches:
            call(model, inputs)
            for place, bounds in enumerate(found):
                real = watch.outputs[place][watch.required_valid]
                bounds[0], bounds[1] = min(bounds[0], float(real.min())), max(bounds[1], float(real.max()))
    return tuple((low, high) for low, high in found)


@dataclass(frozen=True)
class Norms:
    """Of one layer and one group of tokens: mean weight they get, mean ‖f(x)‖, mean ‖weight · f(x)‖ summed over heads."""

    weight: float
    transformed: float
    weighted: float


def norm_analysis(
    model: nn.Module, inputs: Any, groups: Mapping[str, Bool[Tensor, "batch tokens"]]
) -> tuple[dict[str, Norms], ...]:
    """How much each group of tokens ([CLS], [SEP], punctuation, others) is listened to, layer by layer.

    f(x) = x W_v W_o of a head (biases of the values included). A token may get much weight and still give little: ‖weight · f‖
    tells. Means over the tokens of a group, over heads (summed for ‖weight · f‖, which add up), and over the query rows.
    Source: Kobayashi et al. (EMNLP 2020, arXiv 2004.10102).
    """
    layers = find_layers(model, inputs)
    result = []
    with watching(model, layers) as watch, eval_mode(model):
        call(model, inputs)
        valid = watch.required_valid
        for place, layer in enumerate(layers):
            maps, values = watch.maps(place), watch.values[place]
            parts = _projection(model, layer).view(-1, values.shape[1], values.shape[3])  # width, heads, size
            transformed = torch.einsum("bhts,dhs->bhtd", values, parts).norm(dim=-1)  # batch, heads, tokens
            rows = valid[:, None, :, None].to(maps.dtype)
            given = (maps * rows).sum(dim=2) / rows.sum(dim=2)  # mean over the query rows
            layer_norms = {}
            for name, group in groups.items():
                inside = (group & valid)[:, None, :].expand_as(given)
                weighted = (given * transformed).sum(dim=1)[group & valid]
                layer_norms[name] = Norms(
                    float(given[inside].mean()), float(transformed[inside].mean()), float(weighted.mean())
                )
            result.append(layer_norms)
    return tuple(result)


def _projection(model: nn.Module, layer: Layer) -> Float[Tensor, "width inner"]:
    """The weight of the output projection, quantized where the model computes with it quantized."""
    module: Any = module_at(model, layer.projection)
    quantizer = getattr(module, "weight_fake_quantizer", None)
    weight: Tensor = module.weight.detach()
    return weight if quantizer is None else quantizer(weight)


def top_eigenvalue(
    model: nn.Module,
    inputs: Any,
    labels: Tensor,
    *,
    steps: int = 20,
    tolerance: float = 1e-2,
    seed: int = 0,
    head: Head = None,
) -> float:
    """The largest (in size) eigenvalue of the Hessian of the task loss in all trained weights, by power iteration.

    v ← H v / ‖H v‖ from a random v until vᵀ H v changes by less than `tolerance`, relatively, or `steps` are done; H v by
    differentiating twice. Gradients of quantizers are straight-through, so of a quantized student this is the curvature that its
    training sees. Evaluation mode. Source: PyHessian (Yao et al., arXiv 1912.07145).
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    if not trained:
        raise ConfigError("there is nothing to differentiate in", expected="parameters that require gradients")
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.enable_grad():
            loss = functional.cross_entropy(logits_of(call(model, inputs), head), labels)
            slopes = torch.autograd.grad(loss, trained, create_graph=True, allow_unused=True)
            used = [(p, g) for p, g in zip(trained, slopes, strict=True) if g is not None and g.requires_grad]
            weights, gradients = [p for p, _ in used], [g for _, g in used]
            generator = torch.Generator().manual_seed(seed)
            way = [torch.randn(p.shape, generator=generator).to(p) for p in weights]
            value = 0.0
            for _ in range(steps):
                length = torch.stack([w.square().sum() for w in way]).sum().sqrt().clamp_min(1e-30)
                way = [w / length for w in way]
                bent = torch.autograd.grad(gradients, weights, grad_outputs=way, retain_graph=True, allow_unused=True)
                product = [torch.zeros_like(w) if b is None else b for w, b in zip(way, bent, strict=True)]
                found = float(torch.stack([(w * b).sum() for w, b in zip(way, product, strict=True)]).sum())
                if abs(found - value) <= tolerance * abs(found):
                    return found
                value, way = found, product
            return value
    finally:
        for module, mode in modes:
            module.training = mode
