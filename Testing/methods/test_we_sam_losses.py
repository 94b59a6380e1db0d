"""The losses of WeSAM against values computed by hand."""

import math

import pytest
import torch

from SAMAutoSegLib.methods.we_sam_losses import (
    contrastive_loss,
    dice_loss,
    focal_loss,
    prototypes,
    quality_loss,
)

# Two masks of 2 x 2 pixels.
SHARES = torch.tensor([[[[0.9, 0.2], [0.6, 0.1]], [[0.3, 0.3], [0.3, 0.8]]]])
TARGETS = torch.tensor([[[[1.0, 0.0], [1.0, 0.0]], [[0.0, 0.0], [0.0, 1.0]]]])
ALL = torch.ones(1, 1, 2, 2)


def test_focal_loss_is_that_of_the_paper() -> None:
    right = [0.9, 0.8, 0.6, 0.9, 0.7, 0.7, 0.7, 0.8]
    by_hand = sum(0.8 * (1 - p) ** 2 * -math.log(p) for p in right) / 8
    assert focal_loss(SHARES, TARGETS, ALL).item() == pytest.approx(by_hand, rel=1e-5)


def test_focal_loss_does_not_grow_with_the_number_of_masks() -> None:
    # The published code passes that number as the factor of the loss.
    twice = [torch.cat([part, part], 1) for part in (SHARES, TARGETS)]
    one = focal_loss(SHARES, TARGETS, ALL)
    assert torch.allclose(focal_loss(twice[0], twice[1], ALL), one)


def test_dice_loss_is_the_mean_over_masks() -> None:
    first = 1 - (2 * 1.5 + 1) / (1.8 + 2 + 1)
    second = 1 - (2 * 0.8 + 1) / (1.7 + 1 + 1)
    assert dice_loss(SHARES, TARGETS, ALL).item() == pytest.approx((first + second) / 2, rel=1e-5)


def test_a_mask_that_is_neither_expected_nor_predicted_costs_nothing() -> None:
    nothing = torch.zeros(1, 1, 2, 2)
    assert dice_loss(nothing, nothing, ALL) == 0


def test_quality_is_compared_with_the_overlap_at_the_level_of_sam() -> None:
    # A probability of 0.6 is inside: its logit 0.41 would not be at the published level of 0.5.
    estimate = torch.tensor([[0.5, 1.0]])
    assert quality_loss(estimate, SHARES, TARGETS, ALL).item() == pytest.approx(0.125)


@pytest.mark.parametrize("loss", [focal_loss, dice_loss])
def test_losses_do_not_depend_on_the_order_of_masks(loss) -> None:  # type: ignore[no-untyped-def]
    assert torch.allclose(loss(SHARES.flip(1), TARGETS.flip(1), ALL), loss(SHARES, TARGETS, ALL))


@pytest.mark.parametrize("loss", [focal_loss, dice_loss])
def test_pixels_that_do_not_count_change_nothing(loss) -> None:  # type: ignore[no-untyped-def]
    counted = torch.tensor([[[[1.0, 1.0], [0.0, 1.0]]]])
    other = SHARES.clone()
    other[..., 1, 0] = 0.01
    assert torch.allclose(loss(other, TARGETS, counted), loss(SHARES, TARGETS, counted))


def test_prototypes_are_mean_features_under_masks_and_of_the_rest() -> None:
    embedding = torch.tensor([[[[3.0, 0.0], [3.0, 0.0]], [[4.0, 1.0], [4.0, 3.0]]]])
    masks = torch.tensor([[[[1.0, 0.0], [1.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]]])
    found, there = prototypes(embedding, masks, ALL)
    assert there.tolist() == [[True, False, True]]
    assert torch.allclose(found[0], torch.tensor([[0.6, 0.8], [0.0, 0.0], [0.0, 1.0]]))
    # What does not count is in none of them, and not background either.
    embedding[0, :, 0, 1] = torch.tensor([-7.0, 0.0])
    counted = torch.tensor([[[[1.0, 0.0], [1.0, 1.0]]]])
    assert torch.equal(prototypes(embedding, masks, counted)[0], found)


def test_one_mask_alone_learns_nothing_and_with_the_background_it_does() -> None:
    torch.manual_seed(0)
    embedding = torch.randn(1, 8, 4, 4, requires_grad=True)
    masks = torch.zeros(1, 1, 4, 4)
    masks[..., :2, :2] = 1
    own, there = prototypes(embedding, masks, torch.ones(1, 1, 4, 4))
    anchors = own.detach().roll(1, 2)
    alone = contrastive_loss(own[:, :1], anchors[:, :1], there[:, :1])
    both = contrastive_loss(own, anchors, there)
    assert alone == 0 and both > 0
    (gradient,) = torch.autograd.grad(alone, embedding, retain_graph=True)
    assert not gradient.any()
    (gradient,) = torch.autograd.grad(both, embedding)
    assert gradient.abs().sum() > 0


def test_the_contrast_of_two_masks_is_as_computed_by_hand() -> None:
    own = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    anchors = torch.tensor([[[0.8, 0.6], [0.0, 1.0]]])
    e = [math.exp(s / 0.3) for s in (0.8, 0.0, 0.6, 1.0)]
    by_hand = -math.log((e[0] + e[3]) / sum(e))
    there = torch.ones(1, 2, dtype=torch.bool)
    assert contrastive_loss(own, anchors, there).item() == pytest.approx(by_hand, rel=1e-5)
    # A mask without pixels takes no part.
    more = [torch.cat([part, torch.zeros(1, 1, 2)], 1) for part in (own, anchors)]
    there = torch.tensor([[True, True, False]])
    assert contrastive_loss(more[0], more[1], there).item() == pytest.approx(by_hand, rel=1e-5)


def test_without_any_mask_the_contrast_is_zero_and_can_be_differentiated() -> None:
    own = torch.zeros(1, 2, 3, requires_grad=True)
    loss = contrastive_loss(own, own.detach(), torch.zeros(1, 2, dtype=torch.bool))
    (gradient,) = torch.autograd.grad(loss, own)
    assert loss == 0 and not gradient.any()
