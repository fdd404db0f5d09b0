"""How strongly pairs of inputs act together on a teacher: second derivatives, or attributions where it has no gradient."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, Literal, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fractionate.errors import ConfigError, MismatchError, NumericsError, extra
from fractionate.models.modes import eval_mode
from fractionate.models.outputs import Head, call, logits_of

Quantity = Literal["log-probabilities", "log-odds"]
Method = Literal["ablation", "shapley"]
Teacher = nn.Module | Callable[[Any], Any]

LINEAR_TOLERANCE = 1e-4  # relative; float32 derivatives agree to about 1e-6 where there is no second term
COPIES = 6  # how many times the activations of an example are held while one row of its Hessian is computed
ROWS_AT_ONCE = 4_096


def quantity_of(
    logits: Float[Tensor, "batch classes"], named: Int[Tensor, "batch"], quantity: Quantity
) -> Float[Tensor, "batch"]:
    """What is differentiated: Σ_c log p_c, or the log-odds of the named class, z_named - mean z.

    Σ_c log p_c holds -K log Z, so even the log-probabilities of an additive model have cross terms between its parts; log-odds
    hold no Z and have none. The first is the code of Chowdhury et al. (arXiv 2310.02572).
    """
    if quantity == "log-probabilities":
        return torch.log_softmax(logits, dim=1).sum(dim=1)
    if quantity == "log-odds":
        return logits.gather(1, named[:, None]).squeeze(1) - logits.mean(dim=1)
    raise ConfigError(
        f"unknown quantity {quantity!r}", expected="log-probabilities (the paper's) or log-odds (no cross terms of Z)"
    )


def varying(inputs: Float[Tensor, "examples *features"], names: Sequence[str] = ()) -> Tensor:
    """True for the columns that vary. Raises `NumericsError` naming columns with missing values, `MismatchError` if none varies."""
    flat = inputs.flatten(1)
    missing = (~torch.isfinite(flat)).any(dim=0).nonzero().flatten().tolist()
    if missing:
        shown = ", ".join(names[c] if names else str(c) for c in missing[:8])
        rows = int((~torch.isfinite(flat)).any(dim=1).sum())
        raise NumericsError(
            f"{len(missing)} of {flat.shape[1]} columns have missing values, in {rows} of {len(flat)} examples",
            expected="finite numbers",
            got=f"columns {shown}{' …' if len(missing) > 8 else ''}",
            fix="fill them (for example with the column's mean) or drop these rows before the teacher is run",
        )
    moves = (flat != flat[:1]).any(dim=0)
    if not bool(moves.any()):
        raise MismatchError(
            "no column of these inputs varies", expected="at least two different examples", got=f"{len(flat)} alike"
        )
    return moves


def smoothed(teacher: nn.Module, sharpness: float = 10.0) -> nn.Module:
    """A copy of a teacher whose `nn.ReLU` are softplus(sharpness · x) / sharpness, so that its logits have second derivatives.

    Raises `ConfigError` where the teacher has no `nn.ReLU` module. Source: Janizek et al. (arXiv 2002.04138), section 2.
    """
    made = copy.deepcopy(teacher)
    found = [(parent, name) for parent in made.modules() for name, m in parent.named_children() if type(m) is nn.ReLU]
    if not found:
        raise ConfigError("there is no nn.ReLU to smooth", got=type(teacher).__name__, fix="use ablation instead")
    for parent, name in found:
        setattr(parent, name, nn.Softplus(beta=sharpness))
    return made


def second_derivatives(
    teacher: Teacher,
    inputs: Float[Tensor, "examples *features"],
    *,
    quantity: Quantity = "log-probabilities",
    head: Head = None,
    memory_mebibytes: float = 512.0,
) -> Float[Tensor, "features features"]:
    """Interaction strength |H| + |H|ᵀ with an empty diagonal, H the mean over examples of the Hessian of a quantity of the teacher.

    - log-probabilities: H = mean_n ∂²/∂x∂x Σ_c log p_c(x_n), the paper's.
    - log-odds: Σ_c share_c |mean over the examples whose first class is c of ∂²/∂x∂x (z_c - mean z)|; 0 between the parts of an
      additive teacher.

    The Hessian is J ᵀ (∂²q/∂z²) J + Σ_k (∂q/∂z_k) ∂²z_k/∂x∂x. Where its product with a random vector shows, example by example,
    that the logits have no second derivative (ReLU networks), the first term alone is computed: a pass a class, not a feature.
    Otherwise a pass a feature, batched by `torch.func`. Source: Chowdhury et al. (arXiv 2310.02572), section 3 and their code.

    Args:
        teacher: A model with gradients.
        inputs: [examples, ...].
        quantity: log-probabilities or log-odds.
        head: Where the logits are in the teacher's output.
        memory_mebibytes: Held at once, about.

    Returns:
        [features, features] of the flattened inputs.

    Raises:
        MismatchError: for a teacher without gradients, and for log-odds of a piecewise linear one.
        NumericsError: for missing values.

    Example:
        import torch
        from torch import nn
        from fractionate.diagnosis import second_derivatives

        teacher = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
        print(second_derivatives(teacher, torch.randn(30, 6)).shape)
    """
    flat = inputs.flatten(1)
    moves = varying(inputs)
    activations = _activations(teacher, inputs, head)
    features = flat.shape[1]

    def logits(x: Tensor) -> Tensor:
        return logits_of(call(cast(nn.Module, teacher), x.reshape(-1, *inputs.shape[1:])), head)

    elements = memory_mebibytes * 2**20 / flat.element_size()
    pairs = max(1, int(elements / (COPIES * (activations + features))))  # examples × tangents at once
    modules = teacher if isinstance(teacher, nn.Module) else nn.Module()
    with eval_mode(modules):
        outputs = torch.cat([logits(part) for part in torch.split(flat, ROWS_AT_ONCE)])
        named = outputs.argmax(dim=1)
        linear = _is_piecewise_linear(logits, flat, named, quantity)
        if linear and quantity == "log-odds":
            raise MismatchError(
                "the teacher's log-odds have no second derivatives: it is piecewise linear",
                expected="a smooth teacher",
                got="logits without curvature, as of a ReLU network",
                fix="smoothed(teacher), quantity='log-probabilities', or method='ablation'",
            )
        classes = outputs.shape[1]
        groups = [named == c for c in range(classes)] if quantity == "log-odds" else [torch.ones_like(named).bool()]
        strength = torch.zeros(features, features, dtype=torch.float64, device=flat.device)
        for group in groups:
            count = int(group.sum())
            if count:
                hessian = (
                    _of_linear(logits, flat[group], classes, pairs)
                    if linear and classes < features
                    else _of_any(logits, flat[group], named[group], quantity, pairs)
                )
                strength += (hessian / count).abs() * (count / len(flat))
    return pooled_strength(strength, moves)


def pooled_strength(strength: Float[Tensor, "features features"], moves: Tensor) -> Float[Tensor, "features features"]:
    """S + Sᵀ with an empty diagonal, and nothing for columns that do not vary."""
    both = strength + strength.T
    both.fill_diagonal_(0.0)
    both[~moves] = 0.0
    both[:, ~moves] = 0.0
    return both


def _no_gradient(got: str) -> MismatchError:
    return MismatchError(
        "the teacher has no gradient with respect to its inputs",
        expected="a differentiable torch model",
        got=got,
        fix="method='ablation' or method='shapley' asks it on changed inputs instead",
    )


def _activations(teacher: Teacher, inputs: Tensor, head: Head) -> int:
    """How many numbers a backward pass keeps for one example; raises where there is no backward pass."""
    own = {id(p) for p in teacher.parameters()} if isinstance(teacher, nn.Module) else set()
    kept = 0

    def count(tensor: Tensor) -> Tensor:
        nonlocal kept
        kept += 0 if id(tensor) in own else tensor.numel()
        return tensor

    modules = teacher if isinstance(teacher, nn.Module) else nn.Module()
    probe = inputs[:1].detach().clone()
    if not probe.is_floating_point():
        raise _no_gradient(f"inputs of {probe.dtype}")
    probe.requires_grad_()
    with eval_mode(modules), torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(count, lambda t: t):
        try:
            outputs = logits_of(call(cast(nn.Module, teacher), probe), head)
        except (RuntimeError, TypeError, AttributeError, ValueError) as error:
            if isinstance(error, MismatchError):
                raise
            raise _no_gradient(str(error).splitlines()[0]) from error
        if not outputs.requires_grad or torch.autograd.grad(outputs.sum(), probe, allow_unused=True)[0] is None:
            raise _no_gradient("outputs that do not depend on the inputs through torch")
    return kept


def _gradient(logits: Any, named: Tensor, quantity: Quantity) -> Any:
    return torch.func.grad(lambda x: quantity_of(logits(x), named, quantity).sum())


def _is_piecewise_linear(logits: Any, flat: Tensor, named: Tensor, quantity: Quantity) -> bool:
    """Whether Hessian times a random vector is, on each of up to 256 examples, what a network without curvature would give."""
    part = torch.linspace(0, len(flat) - 1, min(256, len(flat)), device=flat.device).long()
    x, who = flat[part], named[part]
    generator = torch.Generator().manual_seed(0)
    vector = torch.randn(x.shape[1], generator=generator, dtype=x.dtype).to(x.device).expand_as(x)
    _, pull = torch.func.vjp(_gradient(logits, who, quantity), x)
    exact = pull(vector.contiguous())[0]
    if quantity == "log-odds":
        return not bool(exact.any())
    outputs, back = torch.func.vjp(logits, x)
    slope = torch.func.vjp(lambda way: back(way)[0], torch.zeros_like(outputs))[1](vector.contiguous())[0]  # J · vector
    p = torch.softmax(outputs, dim=1)
    # ∂²q/∂z² · dz of q = Σ_c log p_c: -K p ∘ (dz - Σ p dz)
    bent = -outputs.shape[1] * p * (slope - (p * slope).sum(1, keepdim=True))
    expected = back(bent)[0]
    error, size = (exact - expected).norm(dim=1), exact.norm(dim=1)
    return bool((error <= LINEAR_TOLERANCE * (size + size.mean())).all())


def _of_linear(logits: Any, flat: Tensor, classes: int, pairs: int) -> Tensor:
    """Σ_n of the Hessian of Σ_c log p_c where the logits are piecewise linear: -K Σ_n Σ_c p_c (J_c - Σ p J)(J_c - Σ p J)ᵀ."""
    features = flat.shape[1]
    total = torch.zeros(features, features, dtype=torch.float64, device=flat.device)
    for x in torch.split(flat, max(1, pairs // classes)):
        outputs, pull = torch.func.vjp(logits, x)
        ways = torch.eye(classes, dtype=outputs.dtype, device=x.device)[:, None, :].expand(-1, len(x), -1)
        slopes = torch.func.vmap(lambda way: pull(way)[0])(ways)  # noqa: B023  # [classes, batch, features]
        p = torch.softmax(outputs, dim=1).T[..., None]
        apart = (slopes - (p * slopes).sum(0)) * p.sqrt()
        rows = apart.reshape(-1, features)
        total -= classes * (rows.T @ rows).double()
    return total


def _of_any(logits: Any, flat: Tensor, named: Tensor, quantity: Quantity, pairs: int) -> Tensor:
    """Σ_n of the Hessian of the quantity: one backward pass through the gradient for each feature, many at once."""
    features = flat.shape[1]
    total = torch.zeros(features, features, dtype=torch.float64, device=flat.device)
    size = max(1, min(len(flat), pairs))
    for x, who in zip(torch.split(flat, size), torch.split(named, size), strict=True):
        _, pull = torch.func.vjp(_gradient(logits, who, quantity), x)
        basis = torch.eye(features, dtype=x.dtype, device=x.device)
        for start in range(0, features, max(1, pairs // len(x))):
            ways = basis[start : start + max(1, pairs // len(x))]
            rows = torch.func.vmap(lambda way: pull(way.expand_as(x))[0].sum(0))(ways)  # noqa: B023
            total[start : start + len(ways)] += rows.double()
    return total


def attribution_interactions(
    teacher: Teacher,
    inputs: Float[Tensor, "examples *features"],
    *,
    method: Method = "ablation",
    quantity: Quantity = "log-probabilities",
    baseline: Float[Tensor, "*features"] | None = None,
    samples: int = 10,
    head: Head = None,
    advance: Callable[[int], object] = lambda features: None,
) -> Float[Tensor, "features features"]:
    """Interaction strength of a teacher that can only be queried, by captum: |I| + |I|ᵀ, I the mean over examples.

    - ablation: I_ij = f(x) - f(x without i) - f(x without j) + f(x without both).
    - shapley: I_ij = φ_i(with j) - φ_i(without j), the Shapley interaction index, each φ by `samples` permutations.

    A feature that is left out takes the value of `baseline` (the column's mean where none is given). Costs features² questions for
    each example (ablation), 2 · samples times that (shapley). `teacher` takes inputs and gives logits, torch or not. Raises
    `MissingExtraError` without captum. Source: Grabisch and Roubens (1999), the recursive definition.
    """
    from_captum = captum_attributions()
    moves = varying(inputs)
    flat = inputs.flatten(1).detach()
    without = (flat.mean(dim=0) if baseline is None else baseline.flatten()).to(flat).expand_as(flat)
    modules = teacher if isinstance(teacher, nn.Module) else nn.Module()

    def logits(x: Tensor) -> Tensor:
        found = call(cast(nn.Module, teacher), x.reshape(-1, *inputs.shape[1:]))
        return logits_of(found if isinstance(found, Tensor) or head is not None else _as_tensor(found), head)

    def scores_of(x: Tensor, who: Tensor) -> Tensor:
        return quantity_of(logits(x), who, quantity)

    with eval_mode(modules):
        outputs = torch.cat([logits(part) for part in torch.split(flat, ROWS_AT_ONCE)])
        named = outputs.argmax(dim=1)
        classes = outputs.shape[1] if quantity == "log-odds" else 1
        group = named if quantity == "log-odds" else torch.zeros_like(named)
        at_once = max(1, ROWS_AT_ONCE // len(flat))

        def attribute(x: Tensor, other: Tensor) -> Tensor:
            if method == "ablation":
                tool: Any = from_captum.FeatureAblation(scores_of)
                found = tool.attribute(x, other, additional_forward_args=(named,), perturbations_per_eval=at_once)
            else:
                with torch.random.fork_rng(devices=[]):
                    torch.manual_seed(0)  # the same permutations with and without j
                    tool = from_captum.ShapleyValueSampling(scores_of)
                    found = tool.attribute(
                        x, other, additional_forward_args=(named,), n_samples=samples, perturbations_per_eval=at_once
                    )
            return cast(Tensor, found).double()

        if method not in ("ablation", "shapley"):
            raise ConfigError(f"unknown method {method!r}", expected="ablation or shapley")
        alone = attribute(flat, without) if method == "ablation" else None
        strength = torch.zeros(flat.shape[1], flat.shape[1], dtype=torch.float64)
        for j in moves.nonzero().flatten().tolist():
            absent, present = flat.clone(), without.clone()
            absent[:, j] = without[:, j]
            present[:, j] = flat[:, j]
            joint = alone if alone is not None else attribute(flat, present)
            pair = joint - attribute(absent, without)
            means = torch.zeros(classes, flat.shape[1], dtype=torch.float64).index_add_(0, group.cpu(), pair.cpu())
            strength[j] = (means.abs() / len(flat)).sum(dim=0)
            advance(1)
    return pooled_strength(strength, moves.cpu())


def _as_tensor(found: Any) -> Any:
    return torch.as_tensor(found) if hasattr(found, "__array__") else found


def captum_attributions() -> Any:
    """captum.attr. Raises `MissingExtraError` where captum is not installed."""
    with extra("explain", "attributions come from captum"):
        import captum.attr
    return captum.attr
