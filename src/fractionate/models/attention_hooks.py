"""Where a transformers encoder attends: its layers, found by running it once, and what passes through them while it runs.

No model is edited. transformers calls attention through a table of functions; ours, registered in it, computes softmax(scores)
as written down, lets `Watch` see scores and values, and quantizes them where a student was prepared for that. A fused kernel
never shows its map, so for the time of a `Watch` the model attends by our function, whatever it was set to before.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from fractionate.errors import ConfigError, MismatchError, extra
from fractionate.models.hooks import module_at
from fractionate.models.outputs import call

ATTENTION = "fractionate"  # our function's name in transformers' table
QUANTIZER = "attention_quantizer"  # the child of an attention module that quantizes what is multiplied in it
MASKED = -100.0  # scores at or below it are masked (TernaryBERT's convention)


@dataclass(frozen=True)
class Layer:
    """Paths of one layer: the module that attends, its block, the output projection, the norm after the residual."""

    attention: str
    block: str
    projection: str
    output: str


@dataclass(frozen=True, eq=False)
class Attended:
    """What one attention module just computed: scores without the mask, who may attend to whom, and the values."""

    scores: Float[Tensor, "batch heads tokens tokens"]
    allowed: Bool[Tensor, "batch tokens tokens"]
    values: Float[Tensor, "batch heads tokens size"]


_watchers: list[Callable[[nn.Module, Attended], None]] = []


def attend(
    module: nn.Module,
    query: Float[Tensor, "batch heads queries size"],
    key: Float[Tensor, "batch heads keys size"],
    value: Float[Tensor, "batch heads keys size"],
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **more: Any,
) -> tuple[Float[Tensor, "batch queries heads size"], Float[Tensor, "batch heads queries keys"]]:
    """softmax(query keyᵀ · scaling + mask) value, with its map; the form transformers asks of an attention function.

    A child of the module named `attention_quantizer` is applied to query, key, map and value. Raises `MismatchError` for
    attention that adds something we do not know.
    """
    extra = [name for name in ("softcap", "position_bias", "s_aux") if more.get(name) is not None]
    if extra:
        raise MismatchError(
            f"{type(module).__name__} attends in a way of its own", got=", ".join(extra),
            expected="softmax(query keyᵀ / √size + mask) value",
        )  # fmt: skip
    quantize = getattr(module, QUANTIZER, None) or _unchanged
    scores = quantize(query) @ quantize(key).transpose(2, 3) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    masked = scores
    if attention_mask is not None:
        mask = attention_mask[..., : key.shape[2]]
        if mask.dtype == torch.bool:
            mask = torch.zeros_like(mask, dtype=scores.dtype).masked_fill(~mask, torch.finfo(scores.dtype).min)
        masked = scores + mask
    maps = torch.softmax(masked, dim=-1, dtype=torch.promote_types(masked.dtype, torch.float32)).to(value.dtype)
    if _watchers:
        shape = (scores.shape[0], *scores.shape[2:])
        allowed = torch.ones(shape, dtype=torch.bool, device=scores.device)
        if attention_mask is not None:
            allowed = (mask[:, 0] > MASKED).expand(shape)
        for watcher in tuple(_watchers):
            watcher(module, Attended(scores, allowed, value))
    dropped = torch.nn.functional.dropout(maps, p=dropout, training=module.training)
    given = quantize(dropped) @ quantize(value)
    return given.transpose(1, 2).contiguous(), dropped


def _unchanged(x: Tensor) -> Tensor:
    return x


def register() -> None:
    """Put our function into transformers' table. Raises `MissingExtraError` without transformers."""
    with extra("quantize", "attention is seen inside transformers models"):
        from transformers import AttentionInterface
        from transformers.masking_utils import AttentionMaskInterface, eager_mask
    AttentionInterface.register(ATTENTION, attend)
    AttentionMaskInterface.register(ATTENTION, eager_mask)


def attends_by(model: nn.Module) -> dict[str, str]:
    """The attention implementation that each transformers model within a model is set to, by its path."""
    found = {}
    for name, module in model.named_modules():
        if hasattr(module, "set_attn_implementation") and hasattr(module, "config"):
            found[name] = str(module.config._attn_implementation)
    return found


def set_attention(model: nn.Module, implementations: dict[str, str]) -> None:
    """Set what `attends_by` returned."""
    for name, wanted in implementations.items():
        module: Any = model.get_submodule(name)
        if module.config._attn_implementation != wanted:
            module.set_attn_implementation(wanted)


@contextmanager
def seen(model: nn.Module) -> Iterator[None]:
    """The model attends by our function for the time of the block; what it was set to is put back.

    Raises `MismatchError` where nothing in it is a transformers model.
    """
    before = attends_by(model)
    if not before:
        fused = [n for n, m in model.named_modules() if isinstance(m, (nn.MultiheadAttention, nn.TransformerEncoder))]
        raise MismatchError(
            f"{type(model).__name__} gives no attention outputs: nothing in it is a transformers model",
            expected="an encoder of transformers (BERT-, RoBERTa- or ViT-like), alone or inside a module",
            got=f"torch's fused attention in {', '.join(fused[:4])}, which hides its map" if fused else None,
            fix="use the transformers model, or terms on features (fitnets, cka)",
        )
    register()
    try:
        set_attention(model, dict.fromkeys(before, ATTENTION))
        yield
    finally:
        set_attention(model, before)


@torch.no_grad()
def find_layers(model: nn.Module, example: Any) -> tuple[Layer, ...]:
    """The layers of an encoder in the order in which they attend, found by running it on a small batch.

    The output is the first norm that runs after a module attended, the projection the first linear layer. Raises `MismatchError`
    where no attention module asks transformers' table (their names are reported), where one attends more than once in a pass, where
    tokens attend to another sequence, and where the model computes something else with our function than without.
    """
    events: list[tuple[str, str]] = []
    paths = {module: name for name, module in model.named_modules()}
    crossed: list[str] = []

    def attended(module: nn.Module, what: Attended) -> None:
        if module in paths:
            events.append(("attention", paths[module]))
            if what.scores.shape[2] != what.scores.shape[3]:
                crossed.append(paths[module])

    def ran(kind: str, name: str) -> Callable[..., None]:
        return lambda *_: events.append((kind, name))

    handles = []
    for name, module in model.named_modules():
        kind = "norm" if "Norm" in type(module).__name__ else "linear" if isinstance(module, nn.Linear) else ""
        if kind:
            handles.append(module.register_forward_hook(ran(kind, name)))
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        usual = _tensors(call(model, example))
        events.clear()
        with seen(model):
            _watchers.append(attended)
            ours = _tensors(call(model, example))
    finally:
        if attended in _watchers:
            _watchers.remove(attended)
        for handle in handles:
            handle.remove()
        for module, mode in modes:
            module.training = mode
    _refuse(model, [name for kind, name in events if kind == "attention"], crossed, usual, ours)
    return tuple(_layer(model, events, i) for i, (kind, _) in enumerate(events) if kind == "attention")


def _refuse(
    model: nn.Module, found: list[str], crossed: list[str], usual: Sequence[Tensor], ours: Sequence[Tensor]
) -> None:
    who = type(model).__name__
    if not found:
        blind = [f"{n} ({type(m).__name__})" for n, m in model.named_modules() if "Attention" in type(m).__name__]
        raise MismatchError(
            f"the attention of {who} cannot be seen: it runs a kernel of its own that hides the map",
            expected="attention modules that ask transformers' attention functions",
            got=", ".join(blind[:6]) or "no attention module",
            fix="load a transformers encoder that can be set to attn_implementation='eager'",
        )
    if crossed:
        raise MismatchError(
            f"{crossed[0]} attends to another sequence", expected="an encoder: tokens attend to their own sequence"
        )
    twice = sorted({name for name in found if found.count(name) > 1})
    if twice:
        raise MismatchError(
            f"{twice[0]} attends {found.count(twice[0])} times in a pass", expected="a module of its own for each layer"
        )
    for a, b in zip(usual, ours, strict=True):
        if a.shape != b.shape or not torch.allclose(a.float(), b.float(), rtol=1e-3, atol=1e-3):
            raise MismatchError(
                f"{who} attends in a way of its own: with the plain formula it gives something else",
                expected="softmax(query keyᵀ / √size + mask) value",
                got=f"outputs that differ by {float((a.float() - b.float()).abs().max()):.2g}",
            )


def _tensors(output: Any) -> list[Tensor]:
    parts = output.values() if hasattr(output, "values") and not isinstance(output, Tensor) else output
    parts = [output] if isinstance(output, Tensor) else list(parts)
    return [part for part in parts if isinstance(part, Tensor) and part.is_floating_point()]


def _layer(model: nn.Module, events: Sequence[tuple[str, str]], at: int) -> Layer:
    name = events[at][1]
    after: dict[str, str] = {}
    for kind, path in events[at + 1 :]:
        if kind == "attention":
            break
        after.setdefault(kind, path)
    if not {"linear", "norm"} <= after.keys():
        raise MismatchError(
            f"after {name} come no projection and norm", expected="a linear layer and a LayerNorm in each layer"
        )
    numbered = re.match(r"(.*\.\d+)(?:\.|$)", f".{name}")
    block = numbered[1].lstrip(".") if numbered else name.rpartition(".")[0]
    return Layer(name, block, after["linear"], after["norm"])


@dataclass(eq=False)
class Watch:
    """Keeps what an encoder's layers compute in each run, from `with watching(...)` to its end.

    `scores`, `values` by layer; `hidden`: the input of the first block and the output of each; `outputs`: after attention,
    residual and norm. `valid`: the tokens that are no padding.
    """

    layers: tuple[Layer, ...]
    scores: dict[int, Float[Tensor, "batch heads tokens tokens"]] = field(default_factory=dict)
    values: dict[int, Float[Tensor, "batch heads tokens size"]] = field(default_factory=dict)
    outputs: dict[int, Float[Tensor, "batch tokens width"]] = field(default_factory=dict)
    hidden: dict[int, Float[Tensor, "batch tokens width"]] = field(default_factory=dict)
    valid: Bool[Tensor, "batch tokens"] | None = None

    def clear(self) -> None:
        """Forget the last run."""
        for kept in (self.scores, self.values, self.outputs, self.hidden):
            kept.clear()
        self.valid = None

    def maps(self, layer: int) -> Float[Tensor, "batch heads tokens tokens"]:
        """softmax of the scores over the tokens that are no padding."""
        return masked_softmax(self.scores[layer], self.required_valid)

    @property
    def required_valid(self) -> Bool[Tensor, "batch tokens"]:
        """The valid tokens. Raises `ConfigError` before the first run."""
        if self.valid is None:
            raise ConfigError("the model has not run since it is watched", fix="call the model first")
        return self.valid


def masked_softmax(
    scores: Float[Tensor, "batch heads tokens tokens"], valid: Bool[Tensor, "batch tokens"]
) -> Float[Tensor, "batch heads tokens tokens"]:
    """softmax over the valid tokens; padding gets exactly nothing."""
    return torch.softmax(scores.masked_fill(~valid[:, None, None, :], -torch.inf), dim=-1)


def _first(args: tuple[Any, ...], more: dict[str, Any]) -> Tensor:
    found = args[0] if args else more.get("hidden_states")
    if not isinstance(found, Tensor):
        raise MismatchError("a block is called without hidden states", expected="a tensor first, or hidden_states=")
    return found


@contextmanager
def watching(model: nn.Module, layers: tuple[Layer, ...]) -> Iterator[Watch]:
    """See what the layers of an encoder compute for the time of the block."""
    watch = Watch(layers)
    places = {module_at(model, layer.attention): i for i, layer in enumerate(layers)}

    def attended(module: nn.Module, what: Attended) -> None:
        place = places.get(module)
        if place is not None:
            watch.scores[place], watch.values[place] = what.scores, what.values
            watch.valid = what.allowed.any(dim=1)

    def keep(kind: dict[int, Tensor], place: int) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            kind[place] = output[0] if isinstance(output, tuple) else output

        return hook

    def enter(module: nn.Module, args: tuple[Any, ...], more: dict[str, Any]) -> None:
        watch.clear()
        watch.hidden[0] = _first(args, more)

    handles = [module_at(model, layers[0].block).register_forward_pre_hook(enter, with_kwargs=True)]
    for i, layer in enumerate(layers):
        handles.append(module_at(model, layer.block).register_forward_hook(keep(watch.hidden, i + 1)))
        handles.append(module_at(model, layer.output).register_forward_hook(keep(watch.outputs, i)))
    try:
        with seen(model):
            _watchers.append(attended)
            yield watch
    finally:
        if attended in _watchers:
            _watchers.remove(attended)
        for handle in handles:
            handle.remove()
        watch.clear()
