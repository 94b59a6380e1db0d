"""First and second order of BLO-SAM on a tiny SAM, and the published recipe."""

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from SAMAutoSegLib.adapt.adapted_model import PROMPT, AdaptedModel
from SAMAutoSegLib.errors import SAMAutoSegError
from SAMAutoSegLib.methods import hypergradient as module
from SAMAutoSegLib.methods.blo_sam import BLOSAM, BLOSAMSettings
from SAMAutoSegLib.methods.hypergradient import (
    Loss,
    Weights,
    adamw_step,
    hypergradient,
)
from SAMAutoSegLib.methods.method import batch_loss, descend
from SAMAutoSegLib.methods.settings import Settings, make_settings
from SAMAutoSegLib.methods.training_set import TrainingSet

SETTINGS = BLOSAMSettings(steps=20, batch=1, split="half", prompt_every=1, warmup=0)


@pytest.fixture
def model(new_model: Callable[..., AdaptedModel]) -> AdaptedModel:
    return new_model().double()


@pytest.fixture
def slices(samples: Callable[..., TrainingSet]) -> TrainingSet:
    made = samples()
    return replace(made, features=made.features.double())


def weights_of(model: AdaptedModel) -> Weights:
    return {n: p.detach() for n, p in model.named_parameters() if p.requires_grad and n != PROMPT}


def test_the_exact_gradient_of_a_sam_is_that_of_the_whole_step(
    model: AdaptedModel, slices: TrainingSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Short enough to stay between the kinks of the hypernetworks' ReLU, which float64 allows.
    monkeypatch.setattr(module, "_PROBE", 1e-5)

    def loss_on(chosen: list[int]) -> Loss:
        def loss(weights: Weights, prompt: Tensor) -> Tensor:
            return batch_loss(model, slices, chosen, SETTINGS, 3, {**weights, PROMPT: prompt})

        return loss

    def step(weights: Weights, gradient: Weights) -> Weights:
        return {name: value - 0.3 * gradient[name] for name, value in weights.items()}

    lower, upper = loss_on([0, 1]), loss_on([2, 3])
    weights, prompt = weights_of(model), model.prompt_embedding.detach()

    def after(shifted: Tensor) -> Tensor:
        leaves = {name: value.clone().requires_grad_() for name, value in weights.items()}
        found = torch.autograd.grad(lower(leaves, shifted), list(leaves.values()))
        return upper(step(weights, dict(zip(leaves, found, strict=True))), shifted).detach()

    _, exact = hypergradient(lower, upper, weights, prompt, step, "exact")
    _, nearly = hypergradient(lower, upper, weights, prompt, step, "finite-difference")
    _, first = hypergradient(lower, upper, weights, prompt, step, "first")
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        way = torch.randn(prompt.shape, generator=generator, dtype=prompt.dtype)
        numeric = (after(prompt + 1e-5 * way) - after(prompt - 1e-5 * way)) / 2e-5
        assert float((exact * way).sum()) == pytest.approx(float(numeric), rel=1e-5)
    assert (nearly - exact).norm() < 1e-2 * exact.norm()
    assert (first - exact).norm() > 1e-3 * exact.norm()


def test_beside_units_that_are_off_the_difference_mostly_gives_the_exact_gradient(
    new_model: Callable[..., AdaptedModel], samples: Callable[..., TrainingSet]
) -> None:
    """As in a training: float32, AdamW's step, the usual probe, kinks of ReLU nearby.

    A probe across a kink is far off now and then, whatever its length.
    """
    model, slices, settings = new_model(), samples(), replace(SETTINGS, steps=60)
    method = BLOSAM(model, slices, settings)

    def loss_on(chosen: list[int]) -> Loss:
        def loss(weights: Weights, prompt: Tensor) -> Tensor:
            return batch_loss(model, slices, chosen, settings, 3, {**weights, PROMPT: prompt})

        return loss

    errors = []
    for number in range(40):
        method.step(number)
        if number % 4 == 3:
            names = model.named_weights()
            rate = settings.rate_at(number, settings.learning_rate)
            step = adamw_step(method.lower, names, rate, settings.gradient_clip)
            weights = weights_of(model)
            given = loss_on([0]), loss_on([2]), weights, model.prompt_embedding, step
            _, exact = hypergradient(*given, "exact")
            _, nearly = hypergradient(*given, "finite-difference")
            errors.append(float((nearly - exact).norm() / exact.norm()))
    errors.sort()
    assert errors[len(errors) // 2] < 0.05 and errors[-3] < 0.3, errors


def test_every_order_moves_the_prompt_by_its_own_gradient(
    new_model: Callable[..., AdaptedModel],
    slices: TrainingSet,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_PROBE", 1e-5)
    prompts = {}
    for order in ("first", "exact", "finite-difference"):
        model = new_model().double()
        method = BLOSAM(model, slices, replace(SETTINGS, order=order))
        for step in range(3):
            method.step(step)
        prompts[order] = model.prompt_embedding.detach().clone()
        assert all(parameter.grad is None for parameter in model.parameters())

    assert not torch.equal(prompts["first"], prompts["exact"])
    between = (prompts["finite-difference"] - prompts["exact"]).norm()
    assert between < 0.2 * (prompts["first"] - prompts["exact"]).norm()


def test_what_is_unrolled_is_the_step_that_the_weights_would_make_next(
    model: AdaptedModel, slices: TrainingSet
) -> None:
    """With the moments, the rate and the shortened gradients of the training."""
    settings = replace(SETTINGS, order="exact", gradient_clip=0.1, warmup=2)
    method = BLOSAM(model, slices, settings)
    for number in range(3):
        method.step(number)
    rate = settings.rate_at(2, settings.learning_rate)
    loss, gradient = method._upper_gradient([0, 1], [2, 3], 2, rate)

    def after(shift: float, way: Tensor) -> Tensor:
        other = copy.deepcopy(method)
        with torch.no_grad():
            other.model.prompt_embedding += shift * way
        lower = batch_loss(other.model, slices, [0, 1], settings, 2)
        descend(other.lower, lower, rate, settings.gradient_clip)
        return batch_loss(other.model, slices, [2, 3], settings, 2).detach()

    way = torch.randn(gradient.shape, generator=torch.Generator().manual_seed(0)).double()
    assert float(loss) == pytest.approx(float(after(0, way)), rel=1e-6)
    numeric = (after(1e-5, way) - after(-1e-5, way)) / 2e-5
    assert float((gradient * way).sum()) == pytest.approx(float(numeric), rel=1e-4)


@pytest.mark.parametrize("order", ["exact", "finite-difference"])
def test_second_order_works_with_adapted_encoder_blocks(
    tune: Callable[..., Any], order: str
) -> None:
    settings = {"steps": 1, "prompt_every": 1, "warmup": 1, "views": 1, "pixel_steps": 0}
    chosen = {**settings, "order": order}
    tuned = tune(method="blo-sam", adaptation={"encoder_blocks": 1}, settings=chosen)
    assert tuned.result.history[0]["prompt_loss_on_D2"] > 0


def test_second_order_works_on_features_in_bfloat16(
    new_model: Callable[..., AdaptedModel], samples: Callable[..., TrainingSet]
) -> None:
    made = samples()
    made = replace(made, features=made.features.bfloat16())
    method = BLOSAM(new_model(), made, replace(SETTINGS, order="finite-difference"))

    losses = method.step(0)

    assert losses["prompt_loss_on_D2"] > 0
    assert method.model.prompt_embedding.isfinite().all()


def test_the_published_recipe_is_one_setting() -> None:
    made = make_settings(BLOSAMSettings, {"recipe": "published"}, slices=8)

    assert made.steps == 400  # a hundred passes over the four slices of D1
    assert made.batch == 1 and made.split == "half" and made.prompt_every == 1
    assert made.learning_rate == made.prompt_learning_rate == 5e-3
    assert made.weight_decay == made.prompt_weight_decay == 0.1
    assert made.rate_at(0, 1.0) == 1.0 and made.views == 1 and made.average == 0
    assert made.order == "first" and made.count_absent and made.ce_weight == 0.2
    # Neither stopped, nor blanked, nor shortened.
    assert made.patience == made.feature_dropout == made.gradient_clip == made.pixel_steps == 0
    odd = make_settings(BLOSAMSettings, {"recipe": "published"}, slices=5)
    assert odd.steps == 300  # D1 has three
    assert make_settings(BLOSAMSettings, {"recipe": "published", "steps": 7}).steps == 7


def test_a_recipe_takes_the_place_of_the_budget() -> None:
    recipe = make_settings(BLOSAMSettings, {"recipe": "published"}, slices=4)
    assert recipe == make_settings(
        BLOSAMSettings, {"recipe": "published", "budget": "thorough"}, slices=4, several=True
    )


def test_an_unknown_recipe_is_named() -> None:
    with pytest.raises(SAMAutoSegError, match=r"recipe 'best'.*it has published"):
        make_settings(BLOSAMSettings, {"recipe": "best"})
    with pytest.raises(SAMAutoSegError, match=r"recipe 'published'.*it has none"):
        make_settings(Settings, {"recipe": "published"})


def test_the_published_recipe_watches_d2(
    new_model: Callable[..., AdaptedModel], samples: Callable[..., TrainingSet]
) -> None:
    settings = make_settings(BLOSAMSettings, {"recipe": "published"}, slices=4)
    losses = BLOSAM(new_model(), samples(), settings).step(0)  # type: ignore[arg-type]

    assert next(iter(losses)) == "prompt_loss_on_D2"
    with pytest.raises(SAMAutoSegError, match="select D2 with prompt_every 10"):
        BLOSAMSettings(select="D2")
