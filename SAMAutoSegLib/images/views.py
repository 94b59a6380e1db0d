"""Slightly changed copies of a labeled slice, made before the encoder: each is encoded once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

# Mild: inside one patient the place of an organ is knowledge that strong changes would destroy.
_RADIANS = 0.1
_SCALE = 0.07
_SHIFT = 0.025
_GAMMA = (0.75, 1.35)
_GAIN = (0.9, 1.1)
_NOISE = 0.03


@dataclass(frozen=True, eq=False)
class Motion:
    """A small rotation, scaling and shift of a slice: where each of its pixels is taken from."""

    matrix: np.ndarray
    offset: np.ndarray

    def moved(self, plane: np.ndarray, order: int, outside: float = 0.0) -> np.ndarray:
        """A plane [H, W] at its own size, splines of `order`; from beyond comes `outside`."""
        return ndimage.affine_transform(plane, self.matrix, self.offset, order=order, cval=outside)

    def moved_image(self, image: np.ndarray) -> np.ndarray:
        """An image [H, W], linear, as float32."""
        return self.moved(image.astype(np.float32), 1)


def random_motion(
    shape: tuple[int, ...],
    pixel_spacing: tuple[float, float],
    rng: np.random.Generator,
    strength: float = 1.0,
) -> Motion:
    """A motion of a slice [H, W]; angles and sizes are true in the patient."""
    angle = rng.uniform(-_RADIANS, _RADIANS) * strength
    scale = 1 + rng.uniform(-_SCALE, _SCALE) * strength
    shift = rng.uniform(-_SHIFT, _SHIFT, 2) * strength * shape
    turned = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = turned * np.array(pixel_spacing) / np.array(pixel_spacing)[:, None]
    center = (np.array(shape) - 1) / 2
    return Motion(matrix, center - matrix @ center + shift)


def changed_view(
    image: np.ndarray,
    reference: np.ndarray,
    pixel_spacing: tuple[float, float],
    rng: np.random.Generator,
    strength: float = 1.0,
) -> tuple[np.ndarray, np.ndarray]:
    """A slice rotated, scaled, shifted, with other contrast and noise, and its labels.

    Args:
        image: uint8 [H, W].
        reference: class numbers [H, W].
        pixel_spacing: (row, column) in mm; angles and sizes are true in the patient.
        strength: 1 is mild; motions grow with it, contrast with its root.

    Returns:
        Both at their own size and type; what comes in from outside is 0.
    """
    motion = random_motion(reference.shape, pixel_spacing, rng, strength)
    shown = motion.moved_image(image) / 255
    low, high = (end**strength**0.5 for end in _GAMMA)
    shown = np.clip(shown, 0, 1) ** rng.uniform(low, high) * rng.uniform(*_GAIN)
    shown = shown + rng.normal(0, rng.uniform(0, _NOISE), shown.shape)
    gray = (np.clip(shown, 0, 1) * 255).round().astype(np.uint8)
    return gray, motion.moved(reference, 0)
