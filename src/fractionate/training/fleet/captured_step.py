"""The training step of a stack as a list of plain tensor operations, recorded once and replayed.

Going through `vmap` and autograd costs more than the arithmetic of small students. The recording holds the same operations on the
same stacked parameters, the gradient among them; only the way there is shorter. It is used where it gives the same numbers in its
first step, and where the training is long enough to pay for recording.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.fx import Graph, GraphModule, Node

from fractionate.training.fleet.stacked import Stack, State

RECORDED_STEPS = 60  # a recording costs about 0.05 s and saves a third of a millisecond a step and more


class Recording:
    """Forward and backward pass of a stack for one shape of inputs: `forward` keeps what `backward` needs."""

    def __init__(self, stack: Stack, inputs: Tensor, noise: State) -> None:
        trained = {name: p.detach() for name, p in stack.parameters.items() if p.requires_grad}
        fixed = {name: p.detach() for name, p in stack.parameters.items() if not p.requires_grad}
        buffers = {name: b.clone() for name, b in stack.buffers.items()}  # recording moves batch statistics
        self.names = list(trained)
        self.unused: set[str] = set()

        def joint(trained: State, fixed: State, buffers: State, noise: State, x: Tensor, gradient: Tensor) -> Any:
            leaves = {name: p.detach().requires_grad_() for name, p in trained.items()}
            logits = stack.call({**leaves, **fixed}, buffers, noise, x)
            pulled = torch.autograd.grad(logits, list(leaves.values()), gradient, allow_unused=True)
            return logits.detach(), [
                torch.zeros_like(p) if g is None else g for p, g in zip(leaves.values(), pulled, strict=True)
            ]

        from torch.fx.experimental.proxy_tensor import make_fx

        with torch.no_grad():
            logits = stack.call({**trained, **fixed}, {k: b.clone() for k, b in buffers.items()}, noise, inputs)
        whole = make_fx(joint)(trained, fixed, buffers, noise, inputs, torch.zeros_like(logits))
        self._forward, self._backward = _split(whole)

    def forward(self, stack: Stack, inputs: Tensor, noise: State) -> tuple[Tensor, list[Tensor]]:
        """Logits, and what the backward pass needs; batch statistics move."""
        trained = [stack.parameters[name].detach() for name in self.names]
        fixed = [p for p in stack.parameters.values() if not p.requires_grad]
        with torch.no_grad():
            logits, *kept = self._forward(*trained, *fixed, *stack.buffers.values(), *noise.values(), inputs)
        return logits, kept

    def backward(self, kept: list[Tensor], gradient: Tensor) -> dict[str, Tensor]:
        """Gradients of the trained parameters, by name."""
        with torch.no_grad():
            return dict(zip(self.names, self._backward(*kept, gradient), strict=True))

    def agrees(self, stack: Stack, inputs: Tensor, noise: State) -> bool:
        """Whether the recording gives the logits, gradients and batch statistics that `vmap` and autograd give."""
        kept = {name: b.clone() for name, b in stack.buffers.items()}
        logits, saved = self.forward(stack, inputs, noise)
        moved = [b.clone() for b in stack.buffers.values()]
        _restore(stack, kept)
        expected = stack.call(stack.parameters, stack.buffers, noise, inputs)
        pairs = [(a, b.clone()) for a, b in zip(moved, stack.buffers.values(), strict=True)]
        gradient = torch.randn(expected.shape, generator=torch.Generator().manual_seed(0)).to(expected)
        trained = [stack.parameters[name] for name in self.names]
        found = torch.autograd.grad(expected, trained, gradient, allow_unused=True)
        _restore(stack, kept)
        pairs.append((logits, expected.detach()))
        for (name, own), other in zip(list(self.backward(saved, gradient).items()), found, strict=True):
            if other is None:
                self.unused.add(name)  # an optimiser leaves a parameter without gradient alone, but not one with zeros
            else:
                pairs.append((own, other))
        return all(torch.allclose(a, b, rtol=1e-4, atol=1e-5 * float(b.abs().max() + 1)) for a, b in pairs)


def _restore(stack: Stack, buffers: State) -> None:
    for name, value in buffers.items():
        stack.buffers[name].copy_(value)


def record(stack: Stack, inputs: Tensor, noise: State) -> Recording | str:
    """The recorded step of a stack, or why there is none: it cannot be recorded, or does not give the same numbers."""
    stack.template.train()
    try:
        made = Recording(stack, inputs, noise)
        return made if made.agrees(stack, inputs, noise) else "recorded, it gives other numbers"
    except (RuntimeError, ValueError, TypeError, NotImplementedError, AttributeError) as error:
        return str(error).splitlines()[0] if str(error) else type(error).__name__


def _without_idle(graph: Graph) -> None:
    """Take out operations that give what they get: half of those that `vmap` and autograd leave behind."""
    overloads = [n for n in graph.nodes if isinstance(n.target, OpOverload)]
    in_place = any(n.target._schema.is_mutable for n in overloads)  # then a product with 1 may be there to copy
    for node in overloads:
        aten, given = torch.ops.aten, node.args[0]
        same = node.target in (aten.expand.default, aten.view.default, aten._unsafe_view.default)
        idle = node.target is aten.detach.default  # replayed without gradients
        idle = idle or (same and node.meta["val"].shape == given.meta["val"].shape)
        idle = idle or (node.target is aten.mul.Scalar and node.args[1] == 1 and not in_place)
        if idle:
            node.replace_all_uses_with(given)
            graph.erase_node(node)


def _split(whole: GraphModule) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The operations that need the gradient of the logits, apart from those that do not; in the order they were recorded."""
    _without_idle(whole.graph)
    nodes = list(whole.graph.nodes)
    inputs = [n for n in nodes if n.op == "placeholder"]
    (result,) = (n for n in nodes if n.op == "output")
    logits, gradients = _flat_result(result)
    late: set[Node] = {inputs[-1]}
    for node in nodes:
        if node.op not in ("placeholder", "output") and any(a in late for a in node.all_input_nodes):
            late.add(node)
    early = [n for n in nodes if n not in late and n.op not in ("placeholder", "output")]
    after = [n for n in nodes if n in late and n.op != "placeholder"]
    wanted = [a for n in after for a in n.all_input_nodes] + [g for g in gradients if g not in late]
    kept = list(dict.fromkeys(n for n in wanted if n not in late))
    first, second = Graph(), Graph()
    places: dict[Node, Node] = {n: first.placeholder(n.name) for n in inputs[:-1]}
    for node in early:
        places[node] = first.node_copy(node, lambda n: places[n])
    first.output([places[logits], *(places[n] for n in kept)])
    again: dict[Node, Node] = {n: second.placeholder(n.name) for n in [*kept, inputs[-1]]}
    for node in after:
        again[node] = second.node_copy(node, lambda n: again[n])
    second.output([again[n] for n in gradients])
    return GraphModule(whole, first).forward, GraphModule(whole, second).forward  # past the hooks of modules


def _flat_result(result: Node) -> tuple[Node, list[Node]]:
    flat: list[Node] = []
    torch.fx.map_arg(result.args[0], lambda n: flat.append(n))
    return flat[0], flat[1:]
