"""The one caller of models: a module whose forward returns what the model gave and what its hooks captured."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fractionate.errors import MismatchError
from fractionate.models.additive import EXPLANATIONS, explanations_of
from fractionate.models.attention_hooks import Watch, find_layers, watching
from fractionate.models.hooks import module_at
from fractionate.models.modes import eval_mode, plain_module
from fractionate.models.outputs import call, logits_of
from fractionate.tasks.model_inputs import ModelInputs
from fractionate.tasks.predictions import NOTHING, AttentionStates, Needs

HIDDEN = "hidden"  # what enters the output layer, among the captured
STATES = "states"  # the same, next to logits
ATTENTION = "attention"
FEATURES = "features"

Captured = Mapping[str, Any]


def output_layer(model: nn.Module, path: str = "") -> nn.Linear:
    """The linear layer that makes a model's logits: `get_output_embeddings()` of transformers models, or the one at a path.

    Raises `MismatchError` where there is none.
    """
    if path:
        found: Any = module_at(model, path)
    elif isinstance(model, nn.Linear):
        found = model
    else:
        ask: Callable[[], Any] | None = getattr(model, "get_output_embeddings", None)
        found = None if ask is None else ask()
    if not isinstance(found, nn.Linear):
        raise MismatchError(
            f"{type(model).__name__} has no linear output layer{f' at {path!r}' if path else ''}",
            expected="an nn.Linear",
            got=type(found).__name__,
            fix='name it: head="lm_head"',
        )
    return found


class Reader(nn.Module):
    """Calls a model and returns (output, captured). DDP, FSDP2 and compile wrap this, so that hooks are part of the call.

    `parts` holds what terms train together with the student. The model's own state is `reader.model.state_dict()`.

    Args:
        model: The model that is called.
        needs: What its passes give besides the output.
    """

    def __init__(self, model: nn.Module, needs: Needs) -> None:
        super().__init__()
        self.model = model
        self.parts = nn.ModuleDict()
        self.needs = needs
        self.inputs_of = ModelInputs.of(model)
        self.head: nn.Linear | None = None
        self.watch: Watch | None = None
        self.active = False
        self.features: dict[str, Tensor] = {}
        self.entered: Tensor | None = None

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "head":  # a layer of the model, not a child of its own: its weights would have two names
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    def forward(self, inputs: Any) -> tuple[Any, Captured]:
        """The model on a batch's inputs: its output, and by name what was needed."""
        if not self.needs:
            return call(self.model, inputs), {}
        self.features, self.entered, self.active = {}, None, True
        try:
            output = call(self.model, inputs)
        finally:
            self.active = False
        captured: dict[str, Any] = {}
        if self.needs.features:
            captured[FEATURES] = dict(self.features)
        if self.needs.attention:
            captured[ATTENTION] = self._attention()
        if self.needs.hidden:
            captured[HIDDEN] = self.entered
        if self.needs.states:
            captured[STATES] = self.entered
        if self.needs.explanations:
            captured[EXPLANATIONS] = explanations_of(output)
        self.features, self.entered = {}, None
        return output, captured

    def _attention(self) -> AttentionStates:
        assert self.watch is not None
        kept = self.needs.layers
        parts = {
            name: {i: value for i, value in getattr(self.watch, name).items() if kept is None or i in kept}
            for name in ("scores", "outputs", "hidden")
            if name in self.needs.attention
        }
        states = AttentionStates(
            len(self.watch.layers),
            parts.get("scores", {}),
            parts.get("outputs", {}),
            parts.get("hidden", {}),
            self.watch.required_valid,
        )
        self.watch.clear()
        return states

    def feature_hook(self, path: str) -> Callable[..., None]:
        """A forward hook that captures a module's output while the reader runs."""

        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if not self.active:
                return
            found = output[0] if isinstance(output, (tuple, list)) else output
            if not isinstance(found, Tensor):
                found = getattr(output, "logits", None)
            if not isinstance(found, Tensor):
                raise MismatchError(
                    f"module {path!r} returns no tensor",
                    expected="a tensor, or a tuple that starts with one",
                    got=type(output).__name__,
                    fix="choose a module inside it",
                )
            self.features[path] = found

        return hook

    def head_hook(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        """A forward pre-hook of the output layer: keeps what enters; without logits, lets one row through so that none are made."""
        if not self.active:
            return None
        self.entered = inputs[0]
        if not self.needs.hidden:
            return None
        return (inputs[0][:, :1] if inputs[0].ndim == 3 else inputs[0][:1],)


def check_head(model: nn.Module, layer: nn.Linear, example: Any) -> None:
    """Raise `MismatchError` where a model does more to its logits than its output layer does (a soft cap, a scale)."""
    seen: list[Tensor] = []
    handle = layer.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    try:
        with eval_mode(model):
            logits = logits_of(call(model, example)).float()
            ours = functional.linear(seen[-1], layer.weight, layer.bias).float()
    finally:
        handle.remove()
    if logits.shape != ours.shape or not torch.allclose(logits, ours, rtol=1e-3, atol=1e-3):
        gap = "other shapes" if logits.shape != ours.shape else f"{float((logits - ours).abs().max()):.3g} apart"
        raise MismatchError(
            f"{type(model).__name__} does more to its logits than its output layer does",
            expected="logits = hidden · weightᵀ + bias",
            got=gap,
            fix="a soft cap or a scale of the logits is part of the model: train it on its logits",
        )


@contextmanager
def reading(model: nn.Module, needs: Needs = NOTHING, example: Any = None, *, head: str = "") -> Iterator[Reader]:
    """A reader of a model: hooks set once, before the model is wrapped or compiled, and removed at the end.

    Where there are needs, the module inside the wrappers is read.

    Args:
        example: Inputs of a small batch; needed for attention and hidden states, whose layers are found by a pass over it.
        head: Dotted path of the output layer where the model does not name it.
        model: The model to read.
        needs: Features, attention, hidden states or explanations.

    Returns:
        A `Reader`, as the target of `with`.

    Raises:
        MismatchError: for modules that do not exist, attention that cannot be seen, logits that are not those of the output layer.

    Example:
        import torch
        from torch import nn
        from fractionate.tasks import Needs, reading

        model = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 4))
        with reading(model, Needs(features=frozenset({"1"}))) as reader:
            output, captured = reader(torch.randn(2, 8))
        print(captured["features"]["1"].shape)
    """
    if not needs:
        yield Reader(model, needs)
        return
    model = plain_module(model)  # hooks are no part of what was compiled before, nor of replicas
    reader = Reader(model, needs)
    with ExitStack() as stack:
        for path in sorted(needs.features):
            stack.callback(module_at(model, path).register_forward_hook(reader.feature_hook(path)).remove)
        if needs.attention:
            layers = find_layers(model, example)
            reader.watch = stack.enter_context(watching(model, layers))
        if needs.hidden or needs.states:
            layer = output_layer(model, head)
            check_head(model, layer, example)
            reader.head = layer
            stack.callback(layer.register_forward_pre_hook(reader.head_hook).remove)
        yield reader
