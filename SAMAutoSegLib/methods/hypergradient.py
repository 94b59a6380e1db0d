"""The gradient of bi-level optimization that knows how the weights follow the prompt.

With one step of the weights unrolled, theta' = step(theta, grad L1(theta, phi)), the upper level
minimizes L2(theta'(phi), phi). Its gradient is

    d L2 / d phi  +  (d^2 L1 / d theta d phi)^T w,    w = (d theta' / d grad)^T  d L2 / d theta'

of which first order keeps the first term only. The second one is computed either exactly, by a
backward pass through the gradient, or by a finite difference of two more gradients (Liu et al.,
"DARTS", ICLR 2019, section 2.3, which BLO-SAM, arXiv 2402.16338, follows).

Unlike the published code, which copies the model and shifts its weights in place, nothing here
touches the model: losses are functions of the tensors they are given.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

Order = Literal["first", "exact", "finite-difference"]

Weights = dict[str, Tensor]
Loss = Callable[[Weights, Tensor], Tensor]
Step = Callable[[Weights, Weights], Weights]

# Length of the probe. Shorter ones drown in float32's rounding, longer ones in the curvature and
# beyond kinks: of 1e-2 to 1e-5 the nearest to the exact gradient on LiteMedSAM.
_PROBE = 1e-3


def hypergradient(
    lower: Loss, upper: Loss, weights: Weights, prompt: Tensor, step: Step, order: Order
) -> tuple[Tensor, Tensor]:
    """Loss of the upper level after one step of the weights, and its gradient.

    Args:
        lower, upper: L1 and L2, differentiable in weights and prompt. In float32 or finer: in
            bfloat16 a finite difference is noise.
        weights: theta by name; not changed.
        prompt: phi; not changed.
        step: theta and its gradient to theta', differentiable in the gradient; see `adamw_step`.
        order: 'exact' or 'finite-difference'; 'first' leaves out the second term and the step,
            L2(theta, phi).

    Returns:
        The loss, and the gradient in the shape of `prompt`.
    """
    theta = {name: value.detach() for name, value in weights.items()}
    phi = prompt.detach().requires_grad_()
    if order == "first":
        loss = upper(theta, phi)
        return loss.detach(), torch.autograd.grad(loss, phi)[0]
    if order == "exact":
        leaves = {name: value.clone().requires_grad_() for name, value in theta.items()}
        gradient = _gradient(lower(leaves, phi), leaves, create_graph=True)
        loss = upper(step(theta, gradient), phi)
        return loss.detach(), torch.autograd.grad(loss, phi)[0]
    leaves = {name: value.clone().requires_grad_() for name, value in theta.items()}
    gradient = _gradient(lower(leaves, phi), leaves)
    gradient = {name: value.detach().requires_grad_() for name, value in gradient.items()}
    moved = step(theta, gradient)
    ends = {name: value.detach().requires_grad_() for name, value in moved.items()}
    loss = upper(ends, phi)
    *slopes, direct = torch.autograd.grad(loss, [*ends.values(), phi])
    pulled = torch.autograd.grad(list(moved.values()), list(gradient.values()), slopes)
    # A weight that L1 does not feel, as of a unit that its ReLU keeps at zero, adds nothing to the
    # second term; but an adaptive step divides by the size of its gradients, and would make such
    # weights nearly all of the probe, which then ends beyond the ReLU's kink.
    probe = {
        name: torch.where(gradient[name] == 0, 0.0, value)
        for name, value in zip(theta, pulled, strict=True)
    }
    length = torch.stack([value.square().sum() for value in probe.values()]).sum().sqrt()
    if not length > 0:
        return loss.detach(), direct
    share = _PROBE / length

    def slope(sign: float) -> Tensor:
        shifted = {name: theta[name] + sign * share * probe[name] for name in theta}
        return torch.autograd.grad(lower(shifted, phi), phi)[0]

    return loss.detach(), direct + (slope(1) - slope(-1)) / (2 * share)


def adamw_step(
    optimizer: torch.optim.AdamW, names: dict[str, Tensor], rate: float, longest: float = 0.0
) -> Step:
    """The step that AdamW would make next, from its present state, which stays as it is.

    Args:
        optimizer: of one group; its moments may be those of many steps or not exist yet.
        names: the optimizer's parameters by the names that the weights have.
        rate: learning rate of the step.
        longest: longer gradients are shortened to this; 0: none is.
    """
    (group,) = optimizer.param_groups
    first, second = group["betas"]
    decay, epsilon = group["weight_decay"], group["eps"]

    def step(weights: Weights, gradient: Weights) -> Weights:
        if longest:
            length = torch.stack([value.square().sum() for value in gradient.values()]).sum().sqrt()
            shortened = (longest / (length + 1e-6)).clamp(max=1.0)
            gradient = {name: value * shortened for name, value in gradient.items()}
        moved = {}
        for name, weight in weights.items():
            slope = gradient[name]
            state = optimizer.state.get(names[name], {})
            count = float(state.get("step", 0)) + 1
            mean = state.get("exp_avg", torch.zeros_like(slope))
            square = state.get("exp_avg_sq", torch.zeros_like(slope))
            mean = first * mean + (1 - first) * slope
            square = second * square + (1 - second) * slope.square()
            # The smallest addition keeps the root differentiable where no gradient ever came.
            root = (square / (1 - second**count) + torch.finfo(square.dtype).tiny).sqrt()
            step_of = mean / (1 - first**count) / (root + epsilon)
            moved[name] = weight * (1 - rate * decay) - rate * step_of
        return moved

    return step


def _gradient(loss: Tensor, leaves: Weights, create_graph: bool = False) -> Weights:
    found = torch.autograd.grad(loss, list(leaves.values()), create_graph=create_graph)
    return dict(zip(leaves, found, strict=True))
