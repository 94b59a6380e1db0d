"""How likely the label of every voxel is wrong, and which slices deserve the first look."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor


def wrong_probability(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """The probability [H, W] that the most probable class is not the true one.

    One minus the highest softmax probability of logits [K, H, W] divided by the temperature (Guo
    et al., "On Calibration of Modern Neural Networks", ICML 2017, section 4.2), 0 to 1 - 1/K. Its
    sum over a slice is the number of wrong pixels to expect there.
    """
    return 1 - (logits / temperature).softmax(0).amax(0)


def first_to_check(by_slice: Mapping[int, float]) -> list[int]:
    """Slice numbers, that with the most to correct first; of equals the first in the volume."""
    return sorted(by_slice, key=lambda number: (-by_slice[number], number))
