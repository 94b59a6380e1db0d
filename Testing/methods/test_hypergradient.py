"""Second-order gradients of the upper level against numeric differentiation of the whole step."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from SAMAutoSegLib.methods import hypergradient as module
from SAMAutoSegLib.methods.hypergradient import (
    Loss,
    Step,
    Weights,
    adamw_step,
    hypergradient,
)


class Toy:
    """A small net whose input is shifted by a prompt, and losses on two sets, in float64."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3)).double()
        self.prompt = torch.randn(5, dtype=torch.float64)
        self.sets = [
            (torch.randn(9, 5, dtype=torch.float64), torch.randint(3, (9,))) for _ in range(2)
        ]

    @property
    def weights(self) -> Weights:
        return {name: value.detach() for name, value in self.net.named_parameters()}

    def loss(self, which: int) -> Loss:
        inputs, targets = self.sets[which]

        def of(weights: Weights, prompt: Tensor) -> Tensor:
            logits = functional_call(self.net, weights, (inputs + prompt,))
            return nn.functional.cross_entropy(logits, targets)

        return of

    def numeric(self, step: Step) -> Tensor:
        """Central differences of the loss after the step, value by value of the prompt."""

        def after(prompt: Tensor) -> Tensor:
            leaves = {name: value.clone().requires_grad_() for name, value in self.weights.items()}
            loss = self.loss(0)(leaves, prompt)
            found = torch.autograd.grad(loss, list(leaves.values()))
            moved = step(self.weights, dict(zip(leaves, found, strict=True)))
            return self.loss(1)(moved, prompt).detach()

        shifts = 1e-5 * torch.eye(len(self.prompt), dtype=torch.float64)
        return torch.stack(
            [(after(self.prompt + s) - after(self.prompt - s)) / 2e-5 for s in shifts]
        )

    def used_adamw(self) -> torch.optim.AdamW:
        """An optimizer with the moments of some steps."""
        optimizer = torch.optim.AdamW(self.net.parameters(), lr=1e-2, weight_decay=0.1)
        for _ in range(3):
            named = dict(self.net.named_parameters())
            loss = self.loss(0)(named, self.prompt)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        optimizer.zero_grad()
        return optimizer


def gradient_step(weights: Weights, gradient: Weights) -> Weights:
    """Plain gradient descent."""
    return {name: value - 0.5 * gradient[name] for name, value in weights.items()}


@pytest.fixture
def toy() -> Toy:
    return Toy()


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def computed(toy: Toy, step: Step, order: module.Order) -> Tensor:
    _, gradient = hypergradient(toy.loss(0), toy.loss(1), toy.weights, toy.prompt, step, order)
    return gradient


def test_the_exact_gradient_is_that_of_the_whole_step(toy: Toy) -> None:
    exact = computed(toy, gradient_step, "exact")

    assert relative(exact, toy.numeric(gradient_step)) < 1e-8


def test_the_exact_gradient_goes_through_adamw_with_its_moments(toy: Toy) -> None:
    names = dict(toy.net.named_parameters())
    step = adamw_step(toy.used_adamw(), names, rate=0.05, longest=0.1)

    assert relative(computed(toy, step, "exact"), toy.numeric(step)) < 1e-7


def test_first_order_misses_what_the_step_does(toy: Toy) -> None:
    first, exact = (computed(toy, gradient_step, order) for order in ("first", "exact"))

    assert relative(first, exact) > 0.05
    prompt = toy.prompt.clone().requires_grad_()
    (expected,) = torch.autograd.grad(toy.loss(1)(toy.weights, prompt), prompt)
    assert torch.equal(first, expected)


def test_the_error_of_finite_differences_falls_with_the_square_of_the_probe(
    toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = computed(toy, gradient_step, "exact")
    errors = []
    for probe in (1e-1, 1e-2, 1e-3):
        monkeypatch.setattr(module, "_PROBE", probe)
        errors.append(relative(computed(toy, gradient_step, "finite-difference"), exact))

    assert errors[1] < 1e-3
    assert 50 < errors[0] / errors[1] < 200 and 50 < errors[1] / errors[2] < 200


def test_the_probe_suits_float32(toy: Toy) -> None:
    exact = computed(toy, gradient_step, "exact")
    toy.net.float()
    toy.prompt = toy.prompt.float()
    toy.sets = [(inputs.float(), targets) for inputs, targets in toy.sets]

    found = computed(toy, gradient_step, "finite-difference")
    assert relative(found.double(), exact) < 1e-3


@pytest.mark.parametrize("order", ["first", "exact", "finite-difference"])
def test_model_prompt_and_optimizer_stay_bit_for_bit(toy: Toy, order: module.Order) -> None:
    optimizer = toy.used_adamw()
    before = copy.deepcopy((toy.weights, toy.prompt, optimizer.state_dict()))
    step = adamw_step(optimizer, dict(toy.net.named_parameters()), rate=0.05)

    computed(toy, step, order)

    weights, prompt, state = before
    assert all(torch.equal(value, weights[name]) for name, value in toy.weights.items())
    assert torch.equal(toy.prompt, prompt) and not toy.prompt.requires_grad
    for number, values in optimizer.state_dict()["state"].items():
        assert all(torch.equal(value, state["state"][number][n]) for n, value in values.items())
    assert all(parameter.grad is None for parameter in toy.net.parameters())


@pytest.mark.parametrize("longest", [0.0, 0.05, 100.0])
def test_the_virtual_step_is_the_one_that_adamw_makes(toy: Toy, longest: float) -> None:
    optimizer = toy.used_adamw()
    names = dict(toy.net.named_parameters())
    loss = toy.loss(0)(names, toy.prompt)
    found = torch.autograd.grad(loss, list(names.values()))
    step = adamw_step(optimizer, names, rate=0.03, longest=longest)
    expected = step(toy.weights, dict(zip(names, found, strict=True)))

    optimizer.param_groups[0]["lr"] = 0.03
    for parameter, gradient in zip(names.values(), found, strict=True):
        parameter.grad = gradient
    if longest:
        nn.utils.clip_grad_norm_(names.values(), longest)
    optimizer.step()

    for name, value in toy.weights.items():
        torch.testing.assert_close(value, expected[name])


def test_an_upper_loss_that_no_weight_touches_has_the_direct_gradient_only(toy: Toy) -> None:
    def upper(weights: Weights, prompt: Tensor) -> Tensor:
        return prompt.square().sum() + 0 * sum(value.sum() for value in weights.values())

    _, gradient = hypergradient(
        toy.loss(0), upper, toy.weights, toy.prompt, gradient_step, "finite-difference"
    )
    assert torch.equal(gradient, 2 * toy.prompt)


def test_weights_that_never_had_a_gradient_give_no_nan(toy: Toy) -> None:
    def lower(weights: Weights, prompt: Tensor) -> Tensor:
        return toy.loss(0)({**weights, "0.bias": weights["0.bias"] * 0}, prompt)

    optimizer = torch.optim.AdamW(toy.net.parameters(), weight_decay=0.1)
    step = adamw_step(optimizer, dict(toy.net.named_parameters()), rate=0.05)
    for order in ("exact", "finite-difference"):
        _, gradient = hypergradient(lower, toy.loss(1), toy.weights, toy.prompt, step, order)
        assert gradient.isfinite().all()
