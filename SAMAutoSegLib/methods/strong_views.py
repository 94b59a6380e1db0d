"""A slice as another scanner or protocol might have shown it: the strong views of WeSAM.

The published strong augmentation is made for photographs (posterize, solarize, shadow). These are
what differs between scans: tone curve, window, coil shading, noise, sharpness and resolution.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

# Each change takes part in half of the views, as in the published training.
_SHARE = 0.5

_GAMMA = (0.5, 2.0)
_WINDOW = 0.15
_SHADING = 0.5
_NOISE = (0.02, 0.1)
_BLUR = (0.4, 1.0)
_COARSENESS = (1.3, 2.5)


def degraded(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The same slice with other gray levels, nothing moved; uint8 [H, W] in and out.

    Window: both limits by up to 15 % of the range. Tone: gamma 0.5 to 2. Shading: a smooth field
    of up to a factor of 1.6 from the middle to a border, as of an MR coil. Blur: Gaussian, 0.4 to 1
    pixels. Resolution: 1.3 to 2.5 times as coarse along rows, columns or both. Noise: Gaussian as
    of CT or Rician as of MR magnitudes, 2 to 10 % of the range.
    """
    shown = image.astype(np.float64) / 255

    def happens() -> bool:
        return bool(rng.random() < _SHARE)

    if happens():
        low, high = rng.uniform(-_WINDOW, _WINDOW, 2) + (0, 1)
        shown = np.clip((shown - low) / (high - low), 0, 1)
    if happens():
        shown = shown ** np.exp(rng.uniform(*np.log(_GAMMA)))
    if happens():
        shown = shown * _shading(image.shape, rng)
    if happens():
        shown = ndimage.gaussian_filter(shown, rng.uniform(*_BLUR))
    if happens():
        shown = _coarser(shown, rng)
    if happens():
        spread = rng.uniform(*_NOISE)
        noise = rng.normal(0, spread, shown.shape)
        if rng.random() < 0.5:
            shown = np.hypot(shown + noise, rng.normal(0, spread, shown.shape))
        else:
            shown = shown + noise
    return (np.clip(shown, 0, 1) * 255).round().astype(np.uint8)


def _shading(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """A smooth factor [H, W]: the exponential of a random quadratic of the place."""
    rows, columns = (np.linspace(-1, 1, n) for n in shape)
    y, x = rows[:, None], columns[None]
    terms = [y + 0 * x, x + 0 * y, x * y, y * y + 0 * x, x * x + 0 * y]
    field = sum(weight * term for weight, term in zip(rng.normal(size=5), terms, strict=True))
    field = field - field.mean()
    return np.exp(field * rng.uniform(0, _SHADING) / max(np.abs(field).max(), 1e-9))


def _coarser(shown: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Sampled on a coarser grid and brought back."""
    factor = rng.uniform(*_COARSENESS)
    along = rng.integers(3)  # rows, columns, both
    height, width = shown.shape
    small = (
        max(2, round(height / factor)) if along != 1 else height,
        max(2, round(width / factor)) if along != 0 else width,
    )
    there = [small[0] / height, small[1] / width]
    coarse = ndimage.zoom(shown, there, order=1, mode="nearest", grid_mode=True)
    back = [height / small[0], width / small[1]]
    return ndimage.zoom(coarse, back, order=1, mode="nearest", grid_mode=True)[:height, :width]
