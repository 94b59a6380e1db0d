"""The segmentation loss that all methods share."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORED = 255
"""Target value of input pixels outside the slice (padding): they count in no loss."""

_SMOOTHING = 1e-5


def segmentation_loss(
    logits: Tensor, targets: Tensor, ce_weight: float, count_absent: bool = False
) -> Tensor:
    """`ce_weight` cross-entropy plus the rest Dice loss, of low-res logits.

    BLO-SAM (arXiv 2402.16338) takes 0.2 and 0.8. The Dice loss has squared denominators, sums over
    the whole batch and is averaged over all classes with the background, as in the published code,
    but for one thing: a class that neither the batch's targets nor, to speak of, the prediction
    holds is left out, where the published form would give it a constant loss of one.

    Args:
        logits: [B, K, m, m].
        targets: [B, m, m] class numbers, `IGNORED` outside the slice.
        ce_weight: 0 to 1.
        count_absent: the published form, without that exception.
    """
    targets = targets.long()
    valid = targets != IGNORED
    logs = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(1)
    entropy = F.nll_loss(logs, targets, ignore_index=IGNORED)
    shares = logs.exp()
    classes = (targets * valid)[:, None]  # class 0 where ignored, with weight 0
    weight = valid.to(shares.dtype)
    zeros = shares.new_zeros(shares.shape[1])
    hits = (shares.gather(1, classes)[:, 0] * weight).flatten()
    common = zeros.index_add(0, classes.flatten(), hits)
    expected = zeros.index_add(0, classes.flatten(), weight.flatten())
    predicted = (shares.square() * weight[:, None]).sum((0, 2, 3))
    dice = 1 - (2 * common + _SMOOTHING) / (predicted + expected + _SMOOTHING)
    present = (expected > 0) | (predicted.detach() >= 1) | count_absent
    return ce_weight * entropy + (1 - ce_weight) * (dice * present).sum() / present.sum()


def mean_dice(predicted: Tensor, expected: Tensor, classes: int) -> float:
    """Mean Dice over the structures that either holds; NaN if there is none. Any equal shapes."""
    scores = [dice for dice in class_dice(predicted, expected, classes) if not math.isnan(dice)]
    return sum(scores) / len(scores) if scores else math.nan


def class_dice(predicted: Tensor, expected: Tensor, classes: int) -> list[float]:
    """Dice of every structure, NaN for one that neither holds. Any equal shapes."""
    scores = []
    for number in range(1, classes):
        a, b = predicted == number, expected == number
        size = int(a.sum() + b.sum())
        scores.append(2 * int((a & b).sum()) / size if size else math.nan)
    return scores
