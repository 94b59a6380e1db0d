"""The losses of WeSAM, on masks: structures of a prompt-free model or instances of a prompted one.

Zhang et al., "Improving the Generalization of Segmentation Foundation Model under Distribution
Shift via Weakly Supervised Adaptation", CVPR 2024 (arXiv 2312.03502). M masks of probabilities
[B, M, m, m], hard targets of the same shape, and the pixels that count, [B, 1, m, m].
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_GAMMA = 2.0
_SMOOTHING = 1.0
_SMALLEST = 1e-6


def focal_loss(shares: Tensor, targets: Tensor, counted: Tensor) -> Tensor:
    """0.8 (1 - p)^2 (-log p) of the target's probability p, mean over masks and pixels.

    The published code hands the number of masks over in the place of the factor 0.8, so that its
    loss grows with their number; this one does not.
    """
    p = torch.where(targets > 0.5, shares, 1 - shares).clamp_min(_SMALLEST)
    loss = 0.8 * (1 - p) ** _GAMMA * -p.log() * counted
    return loss.sum() / (counted.sum() * shares.shape[1]).clamp_min(1)


def dice_loss(shares: Tensor, targets: Tensor, counted: Tensor) -> Tensor:
    """1 - Dice of each mask of each image, mean; smoothed by one pixel, as published.

    A mask that is neither expected nor predicted has a loss of 0.
    """
    common = (shares * targets * counted).sum((-2, -1))
    size = ((shares + targets) * counted).sum((-2, -1))
    return (1 - (2 * common + _SMOOTHING) / (size + _SMOOTHING)).mean()


def quality_loss(estimate: Tensor, shares: Tensor, targets: Tensor, counted: Tensor) -> Tensor:
    """Squared error of SAM's own estimate [B, M] of the overlap of mask and target.

    A pixel is in a mask from a probability of 0.5; the published code takes a logit of 0.5.
    """
    mask = (shares >= 0.5) & (counted > 0)
    target = (targets > 0.5) & (counted > 0)
    common = (mask & target).sum((-2, -1))
    overlap = common / (mask | target).sum((-2, -1)).clamp_min(1)
    return F.mse_loss(estimate, overlap.to(estimate.dtype))


def prototypes(embedding: Tensor, masks: Tensor, counted: Tensor) -> tuple[Tensor, Tensor]:
    """Mean features under masks and under what is left, the background, each of length one.

    Args:
        embedding: [B, D, e, e].
        masks: [B, M, m, m] probabilities or hard masks; pooled to e x e.
        counted: [B, 1, m, m].

    Returns:
        [B, M + 1, D], the background last, and which of them [B, M + 1] have any pixel; the others
        are 0. The published code divides an empty mask's sum by one instead, so that it compares
        meaningless features.
    """
    hard = ((masks > 0.5) & (counted > 0)).float()
    rest = (counted - hard.amax(1, keepdim=True)).clamp_min(0)
    weight = F.adaptive_avg_pool2d(torch.cat([hard, rest], 1), embedding.shape[-1])
    total = weight.flatten(2).sum(2)
    mean = torch.einsum("bdhw,bmhw->bmd", embedding.float(), weight) / total.clamp_min(
        _SMALLEST
    ).unsqueeze(2)
    there = total > 0
    return F.normalize(mean, dim=2) * there.unsqueeze(2), there


def contrastive_loss(
    own: Tensor, anchors: Tensor, there: Tensor, temperature: float = 0.3
) -> Tensor:
    """Every prototype close to the anchor's of the same mask and far from those of the others.

    -log(sum_i exp(s_ii / t) / sum_ij exp(s_ij / t)) for each image, with cosines s; the mean. Of a
    single prototype it is 0 without a gradient, which is why the background is one too.

    Args:
        own, anchors: [B, M, D] of length one.
        there: [B, M] which of them count.
    """
    both = there[:, :, None] & there[:, None, :]
    alike = torch.einsum("bid,bjd->bij", own, anchors) / temperature
    alike = alike.masked_fill(~both, -torch.inf)
    counted = there.any(1)
    if not counted.any():
        return own.sum() * 0
    alike = alike[counted]
    same = alike.diagonal(dim1=1, dim2=2)
    return (alike.flatten(1).logsumexp(1) - same.logsumexp(1)).mean()
