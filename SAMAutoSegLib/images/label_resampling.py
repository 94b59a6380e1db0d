"""Labels of a slice on a coarser grid, without a shift and without growing or shrinking anything.

Each pixel gets the label with the largest share of it, seen through the filter that images are made
smaller with. The nearest pixel would do worse: where the size is halved it is always the one to the
lower right, half a pixel off.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

# Shares of a pixel that are closer than this are the same.
_SAME = 0.01


def resample_labels(labels: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Labels [H, W] of unsigned integers on `shape` pixels that cover the same area."""
    if labels.shape == shape:
        return labels
    values, planes = label_planes(labels)
    return winning_labels(values, smoothly(planes, shape))


def label_planes(labels: np.ndarray) -> tuple[np.ndarray, Tensor]:
    """The labels [K] that occur in a slice, and a plane [K, H, W] of 0 and 1 for each of them."""
    values, codes = np.unique(labels, return_inverse=True)
    planes = F.one_hot(torch.from_numpy(codes.reshape(labels.shape)).long(), len(values))
    return values, planes.permute(2, 0, 1).float()


def smoothly(planes: Tensor, shape: tuple[int, int]) -> Tensor:
    """Planes [K, H, W] on `shape` pixels: bilinear, over all that a pixel covers."""
    return F.interpolate(planes[None], shape, mode="bilinear", antialias=True)[0]


def winning_labels(values: np.ndarray, shares: Tensor) -> np.ndarray:
    """The label of `values` [K] with the largest of the shares [K, H, W] of each pixel: [H, W].

    Where two have the same share, as along every other edge of a slice of twice the size, they take
    turns: else the background would always win.
    """
    winners = (shares >= shares.amax(0) - _SAME).to(torch.uint8)
    first = winners.argmax(0)
    last = len(values) - 1 - winners.flip(0).argmax(0)
    rows, columns = (torch.arange(size) for size in shares.shape[1:])
    chosen = torch.where((rows[:, None] + columns) % 2 == 0, first, last)
    return np.asarray(values[chosen.numpy()])
