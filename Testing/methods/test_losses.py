import math

import pytest
import torch

from SAMAutoSegLib.methods.losses import IGNORED, mean_dice, segmentation_loss


def published_loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """0.2 cross-entropy + 0.8 Dice over all classes, squared denominators, the batch as one."""
    shares = logits.softmax(1)
    dice = []
    for number in range(logits.shape[1]):
        share, mask = shares[:, number], (targets == number).float()
        common, sizes = (share * mask).sum(), (share**2).sum() + (mask**2).sum()
        dice.append(1 - (2 * common + 1e-5) / (sizes + 1e-5))
    entropy = -(shares.log().gather(1, targets[:, None])).mean()
    return 0.2 * entropy + 0.8 * torch.stack(dice).mean()


def noise(classes: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(3, classes, 8, 8, generator=generator)
    return logits, torch.randint(0, classes, (3, 8, 8), generator=generator)


def test_two_pixels_by_hand() -> None:
    # Probabilities of classes 0 and 1: pixel one 3/4, 1/4; pixel two 1/2, 1/2.
    logits = torch.tensor([[math.log(3.0), 0.0], [0.0, 0.0]]).T.view(1, 2, 1, 2)
    targets = torch.tensor([[[0, 1]]])
    entropy = -(math.log(3 / 4) + math.log(1 / 2)) / 2
    background = 1 - 2 * (3 / 4) / ((9 / 16 + 1 / 4) + 1)
    structure = 1 - 2 * (1 / 2) / ((1 / 16 + 1 / 4) + 1)
    wanted = 0.2 * entropy + 0.8 * (background + structure) / 2
    assert segmentation_loss(logits, targets, 0.2).item() == pytest.approx(wanted, abs=1e-5)
    assert segmentation_loss(logits, targets, 1.0).item() == pytest.approx(entropy, abs=1e-6)


@pytest.mark.parametrize("classes", [2, 5])
def test_with_all_classes_present_it_is_the_published_loss(classes: int) -> None:
    logits, targets = noise(classes)
    found = segmentation_loss(logits.requires_grad_(), targets.to(torch.uint8), 0.2)
    wanted = published_loss(logits, targets)
    torch.testing.assert_close(found, wanted)
    (gradient,) = torch.autograd.grad(found, logits)
    torch.testing.assert_close(gradient, torch.autograd.grad(wanted, logits)[0])


def test_padding_counts_in_nothing() -> None:
    logits, targets = noise(3)
    wanted = segmentation_loss(logits[..., :5], targets[..., :5], 0.2)
    targets[..., 5:] = IGNORED
    for change in (0.0, 100.0):
        changed = logits.clone()
        changed[:, 1, :, 5:] += change
        torch.testing.assert_close(segmentation_loss(changed, targets, 0.2), wanted)


def test_a_class_that_nobody_holds_contributes_nothing() -> None:
    logits, targets = noise(3)
    never = torch.full((3, 1, 8, 8), -30.0)
    found = segmentation_loss(torch.cat([logits, never], 1), targets, 0.2)
    torch.testing.assert_close(found, segmentation_loss(logits, targets, 0.2))


def test_a_class_that_is_found_where_it_is_not_costs() -> None:
    logits, targets = noise(3)
    targets[targets == 2] = 0
    logits[:, 2] += 5
    above = segmentation_loss(logits, targets, 0.0)
    assert above > segmentation_loss(logits[:, :2], targets, 0.0) + 0.1


def test_the_loss_is_that_of_float32_whatever_the_logits_are() -> None:
    logits, targets = noise(3)
    half = logits.to(torch.bfloat16)
    found = segmentation_loss(half, targets, 0.2)
    assert found.dtype == torch.float32
    assert torch.equal(found, segmentation_loss(half.float(), targets, 0.2))


def test_mean_dice_is_over_the_structures_that_either_side_holds() -> None:
    expected = torch.tensor([0, 1, 1, 1, 2, 0])
    predicted = torch.tensor([0, 1, 1, 0, 0, 0])
    assert mean_dice(predicted, expected, 4) == pytest.approx((0.8 + 0.0) / 2)
    assert mean_dice(expected, expected, 4) == 1.0
    assert math.isnan(mean_dice(torch.zeros(3), torch.zeros(3), 4))
