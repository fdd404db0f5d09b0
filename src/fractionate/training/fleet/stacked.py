"""Students of one architecture as one module with stacked parameters, run by `torch.func`.

One forward pass of the stack is one forward pass of each student on the batch that all of a seed see; `torch.optim` works element
by element, so a step of the stack is a step of each. Dropout draws what each student would draw alone: the same for all of a seed.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from jaxtyping import Shaped
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from fractionate.training.step import seed_step

State = dict[str, Tensor]


class DealtDropout(nn.Module):
    """Dropout whose noise is dealt from outside, so that a stack draws what its students would draw."""

    noise: Tensor

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability
        self.shape: tuple[int, ...] = ()
        self.calls = 0
        self.register_buffer("noise", torch.ones(()), persistent=False)

    def forward(self, value: Tensor) -> Tensor:
        """value · noise in training, value in evaluation."""
        if not self.training:
            return value
        self.shape = tuple(value.shape)
        self.calls += 1
        return value * self.noise


class Stack:
    """Modules of one architecture and seed, stacked. `forward` takes inputs [batch, ...] and gives [students, batch, classes]."""

    def __init__(self, modules: Sequence[nn.Module], seed: int) -> None:
        self.students, self.seed = len(modules), seed
        template = copy.deepcopy(modules[0])
        self.dropouts: list[str] = []
        for name, part in list(template.named_modules()):
            if type(part) is nn.Dropout and part.p > 0:
                parent, _, last = name.rpartition(".")
                setattr(template.get_submodule(parent), last, DealtDropout(part.p))
                self.dropouts.append(name)
        self.parameters: dict[str, Tensor]
        self.parameters, self.buffers = stack_module_state(list(modules))
        for name, parameter in modules[0].named_parameters():
            self.parameters[name].requires_grad_(parameter.requires_grad)
        self.template = template.to("meta")
        self._noise: dict[tuple[int, ...], list[tuple[str, tuple[int, ...]]]] = {}

    def forward(self, inputs: Shaped[Tensor, "batch *features"]) -> Tensor:
        """Logits of all students in evaluation mode."""
        self.template.eval()
        return self.call(self.parameters, self.buffers, {}, inputs)

    def train_forward(self, inputs: Shaped[Tensor, "batch *features"], step: int) -> Tensor:
        """Logits of all students in training mode; batch statistics move, dropout draws for this step."""
        self.template.train()
        return self.call(self.parameters, self.buffers, self.deal(inputs, step), inputs)

    def call(self, parameters: State, buffers: State, noise: State, inputs: Tensor) -> Tensor:
        """The stack with these parameters, buffers and noise, in the mode its template is in."""

        def one(parameters: State, buffers: State, noise: State, x: Tensor) -> Tensor:
            out: Tensor = functional_call(self.template, (parameters, buffers | noise), (x,))
            return out

        neutral = {f"{name}.noise": inputs.new_ones((), dtype=torch.float32) for name in self.dropouts}
        stacked = vmap(one, in_dims=(0, 0, None, 0), randomness="error")
        # each its own: torch.func then refuses a way that hangs on the data, which a recorded step would not
        each = inputs.expand(self.students, *inputs.shape)
        out: Tensor = stacked(parameters, buffers, neutral | noise, each)
        return out

    def deal(self, inputs: Tensor, step: int) -> State:
        """The noise that `nn.Dropout` would draw in a student after `torch.manual_seed(step_seed(seed, step))`."""
        if not self.dropouts:
            return {}
        with torch.random.fork_rng(devices=[inputs.device] if inputs.is_cuda else []):
            seed_step(self.seed, step, inputs.device)
            return {
                f"{name}.noise": torch.empty(shape, device=inputs.device).bernoulli_(1 - share) / (1 - share)
                for name, shape in self._shapes(inputs)
                for share in [self._dropout(name).probability]
            }

    def _dropout(self, name: str) -> DealtDropout:
        part = self.template.get_submodule(name)
        assert isinstance(part, DealtDropout)
        return part

    def _shapes(self, inputs: Tensor) -> list[tuple[str, tuple[int, ...]]]:
        """What shapes pass through the dropouts, in the order of the calls; found once for each size of batch."""
        key = tuple(inputs.shape)
        if key not in self._noise:
            order: list[str] = []
            hooks = [
                self._dropout(name).register_forward_pre_hook(lambda _m, _i, name=name: order.append(name))
                for name in self.dropouts
            ]
            try:
                kept = {name: value.clone() for name, value in self.buffers.items()}
                self.call(self.parameters, self.buffers, {}, inputs.detach())
                for name, value in kept.items():  # batch statistics must not move by a trial
                    self.buffers[name].copy_(value)
            finally:
                for hook in hooks:
                    hook.remove()
            if len(set(order)) != len(order):
                raise RuntimeError("a dropout that is called twice in a forward pass cannot be stacked")
            self._noise[key] = [(name, self._dropout(name).shape) for name in order]
        return self._noise[key]

    def state(self, student: int) -> dict[str, Tensor]:
        """The state dict of one student."""
        both = {**self.parameters, **self.buffers}
        return {name: value[student].detach().clone() for name, value in both.items()}
