"""AutoSAM: its heads, its loss and schedule, and its published recipe."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import get_args

import pytest
import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau

from SAMAutoSegLib.adapt.adapted_model import Adaptation, AdaptedModel
from SAMAutoSegLib.errors import SAMAutoSegError
from SAMAutoSegLib.methods import auto_sam
from SAMAutoSegLib.methods.auto_sam import AutoHead, AutoSAM, AutoSAMSettings, foreground_loss
from SAMAutoSegLib.methods.losses import IGNORED
from SAMAutoSegLib.methods.settings import make_settings
from SAMAutoSegLib.methods.trainer import train
from SAMAutoSegLib.methods.training_set import TrainingSet
from SAMAutoSegLib.sam.backbone import Backbone

HEADS = get_args(AutoHead)
SMALL = [head for head in HEADS if head != "auto-cnn"]  # that one takes a second a step


@pytest.fixture
def build(
    tiny_backbone: Callable[..., Backbone], samples: Callable[..., TrainingSet]
) -> Callable[..., tuple[AutoSAM, AdaptedModel]]:
    """Builds the method with the model that it asks for."""

    def new(slices: tuple[int, ...] = (0, 2, 4, 6), **values: object) -> tuple:
        settings = make_settings(AutoSAMSettings, {"batch": 2, **values}, len(slices))
        backbone = tiny_backbone()
        torch.manual_seed(0)
        model = AdaptedModel(backbone, 3, AutoSAM.adaptation(settings, backbone))
        return AutoSAM(model, samples(slices), settings), model

    return new


@pytest.mark.parametrize("head", HEADS)
def test_the_head_is_the_one_of_the_settings_and_learned_as_a_whole(
    tiny_backbone: Callable[..., Backbone], head: AutoHead
) -> None:
    adaptation = AutoSAM.adaptation(AutoSAMSettings(head=head, token_init="sam"), tiny_backbone())
    assert adaptation == Adaptation(lora_rank=0, token_init="sam", head=head)


@pytest.mark.parametrize("head", SMALL)
def test_a_step_trains_all_that_is_learned_and_nothing_else(
    build: Callable[..., tuple[AutoSAM, AdaptedModel]], head: AutoHead
) -> None:
    method, model = build(head=head)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    method.step(0)
    after = model.state_dict()
    changed = {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}
    assert changed == set(model.learned_state())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("head", ["auto-vit", "auto-vit-tokens"])
def test_a_disc_and_a_bar_are_learned(
    tiny_backbone: Callable[..., Backbone],
    samples: Callable[..., TrainingSet],
    head: AutoHead,
) -> None:
    settings = AutoSAMSettings(steps=40, head=head, feature_dropout=0.0)
    backbone = tiny_backbone()
    torch.manual_seed(0)
    model = AdaptedModel(backbone, 3, AutoSAM.adaptation(settings, backbone))
    result = train(AutoSAM, model, samples(), settings)
    losses = [entry["training_loss"] for entry in result.history]
    assert sum(losses[-5:]) < 0.6 * sum(losses[:5])


@pytest.mark.parametrize(
    ("name", "value"),
    [("head", "class-tokens"), ("token_init", "zero"), ("schedule", "cosine"), ("dice", "none")],
)
def test_settings_are_checked(name: str, value: str) -> None:
    with pytest.raises(SAMAutoSegError, match=f"setting {name}={value}: expected .* or "):
        make_settings(AutoSAMSettings, {name: value})


def test_the_published_recipe_is_one_setting_and_others_may_differ_from_it() -> None:
    recipe = make_settings(AutoSAMSettings, {"recipe": "published"}, slices=10)
    assert recipe.head == "auto-vit" and recipe.learning_rate == 5e-4 and recipe.batch == 4
    assert recipe.steps == 120 * 3
    assert recipe.weight_decay == recipe.feature_dropout == recipe.gradient_clip == 0
    linear = make_settings(AutoSAMSettings, {"recipe": "published", "head": "auto-linear"}, 10)
    assert linear == replace(recipe, head="auto-linear")


@pytest.mark.parametrize(("name", "value"), [("ce_weight", 0.9), ("count_absent", True)])
def test_what_its_published_loss_makes_no_use_of_is_refused(name: str, value: object) -> None:
    assert make_settings(AutoSAMSettings, {name: value})
    with pytest.raises(SAMAutoSegError, match=f"{name}.*makes no use of it"):
        make_settings(AutoSAMSettings, {name: value, "dice": "foreground"})


def test_the_published_recipe_runs(build: Callable[..., tuple[AutoSAM, AdaptedModel]]) -> None:
    method, _ = build(recipe="published", head="auto-linear", batch=2)
    losses = [method.step(number)["training_loss"] for number in range(30)]
    assert sum(losses[-3:]) < sum(losses[:3])


def test_the_foreground_loss_is_the_published_one() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 4, 5, generator=generator)
    targets = torch.randint(0, 3, (2, 4, 5), generator=generator)
    shares = logits.softmax(1)
    entropy = -sum(
        math.log(shares[b, targets[b, y, x], y, x])
        for b in range(2)
        for y in range(4)
        for x in range(5)
    )
    terms = []
    for number in (1, 2):
        share, wanted = shares[:, number], (targets == number).float()
        both = (share * wanted).sum()
        terms.append(1 - (2 * both + 1) / ((share**2).sum() + (wanted**2).sum() + 1))
    expected = entropy / 40 + sum(terms) / 2
    assert float(foreground_loss(logits, targets)) == pytest.approx(float(expected), rel=1e-5)


def test_the_foreground_loss_of_a_perfect_or_an_absent_structure_is_a_number() -> None:
    targets = torch.zeros(1, 4, 4, dtype=torch.uint8)
    perfect = torch.stack([torch.full((1, 4, 4), value) for value in (90.0, -90.0, -90.0)], 1)
    assert float(foreground_loss(perfect, targets)) == 0
    targets[0, :2] = 1
    perfect[:, 0, :2], perfect[:, 1, :2] = -90.0, 90.0
    assert float(foreground_loss(perfect, targets)) == 0


def test_the_foreground_loss_does_not_see_what_is_outside_the_slice() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 3, 6, 4, generator=generator)
    targets = torch.randint(0, 3, (1, 6, 4), generator=generator)
    inside = foreground_loss(logits[:, :, :4], targets[:, :4])
    targets[:, 4:] = IGNORED
    torch.testing.assert_close(foreground_loss(logits, targets), inside)


def test_the_rate_falls_where_torchs_own_schedule_lets_it_fall(
    build: Callable[..., tuple[AutoSAM, AdaptedModel]], monkeypatch: pytest.MonkeyPatch
) -> None:
    noise_of = torch.rand(200, generator=torch.Generator().manual_seed(1))
    values = iter([0.1] * 20 + (1.0 + noise_of).tolist())  # ten epochs do not count
    losses: list[float] = []

    def noise(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        losses.append(next(values))
        return logits.sum() * 0 + losses[-1]

    monkeypatch.setattr(auto_sam, "foreground_loss", noise)
    method, _ = build(recipe="published", head="auto-linear", batch=2)
    optimizer = torch.optim.Adam([torch.zeros(1, requires_grad=True)], 5e-4)
    theirs = ReduceLROnPlateau(optimizer)
    for epoch in range(60):
        if epoch == 30:  # a training that is resumed
            state = method.optimizers()["head"].state_dict()
            method, _ = build(recipe="published", head="auto-linear", batch=2)
            method.optimizers()["head"].load_state_dict(state)
        for turn in range(2):  # batches of two of four slices
            method.step(2 * epoch + turn)
            (group,) = method.optimizer.param_groups
            assert group["lr"] == pytest.approx(optimizer.param_groups[0]["lr"])
        if epoch >= 10:
            theirs.step(losses[-1])
    assert group["lr"] < 5e-5
