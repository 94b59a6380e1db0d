"""Slightly changed views of a slice, which are segmented too and averaged.

Test-time augmentation: Wang et al., "Aleatoric uncertainty estimation with test-time augmentation
for medical image segmentation with convolutional neural networks", Neurocomputing 2019, section 3.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from SAMAutoSegLib.images.views import random_motion

# Smaller contrast changes than those of a training: a view should still be the same slice.
_GAMMA = (0.8, 1.25)

# A mean of no probability has a logarithm all the same.
_LEAST_SHARE = 1e-12

_SEED = 0


class ChangedViews:
    """Rotated, scaled and shifted views of the slices of a volume, all slices changed alike.

    Args:
        count: how many.
        shape: of a slice, [H, W].
        pixel_spacing: (row, column) in mm.
    """

    def __init__(
        self, count: int, shape: tuple[int, int], pixel_spacing: tuple[float, float]
    ) -> None:
        rng = np.random.default_rng(_SEED)
        self._motions = [random_motion(shape, pixel_spacing, rng) for _ in range(count)]
        self._gammas = rng.uniform(*_GAMMA, count)
        # What a view did not show it says nothing about.
        full = np.ones(shape, np.float32)
        self._shown = [
            motion.inverse.moved(motion.moved(full, 1), 1) > 0.99 for motion in self._motions
        ]

    def of(self, image: np.ndarray) -> list[np.ndarray]:
        """The views of a slice, uint8 [H, W] or [H, W, 3]."""
        changed = zip(self._motions, self._gammas, strict=True)
        shown = ((motion.moved_image(image) / 255, gamma) for motion, gamma in changed)
        return [(view.clip(0, 1) ** gamma * 255).round().astype(np.uint8) for view, gamma in shown]

    def averaged(self, logits: Tensor, of_views: Sequence[Tensor]) -> Tensor:
        """Logarithms [K, H, W] of the mean probabilities of a slice and its views.

        Args:
            logits: [K, H, W] of the slice as it is.
            of_views: the same of its views, where these lie.
        """
        total = logits.float().softmax(0)
        count = torch.ones_like(total[0])
        for found, motion, shown in zip(of_views, self._motions, self._shown, strict=True):
            shares = found.float().softmax(0).cpu().numpy()
            back = np.stack([motion.inverse.moved(plane, 1) for plane in shares])
            there = torch.from_numpy(shown).to(total)
            total = total + torch.from_numpy(back).to(total) * there
            count = count + there
        return (total / count).clamp(min=_LEAST_SHARE).log()
