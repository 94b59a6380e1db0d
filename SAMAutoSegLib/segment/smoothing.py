"""Class probabilities smoothed across slices, as a stream."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator

from torch import Tensor

# Beyond three standard deviations lie 0.3 % of the weight.
_TRUNCATE = 3.0


def smooth_across_slices(
    maps: Iterable[tuple[int, Tensor]], sigma: float
) -> Iterator[tuple[int, Tensor]]:
    """Weigh every slice with its neighbors by a Gaussian.

    A slice is given out as soon as the last neighbor that counts has come in, so that no more than
    2 * 3 sigma + 1 slices are in memory. Neighbors that never come (beyond the first and the last
    slice, or in a gap) have no weight: the others' weights are raised to a sum of one.

    Args:
        maps: slice numbers, increasing, with maps of any one shape.
        sigma: standard deviation in slices, above 0.
    """
    radius = int(_TRUNCATE * sigma + 0.5)
    window: deque[tuple[int, Tensor]] = deque()
    waiting: deque[int] = deque()
    for number, values in maps:
        window.append((number, values))
        waiting.append(number)
        while waiting and waiting[0] + radius <= number:
            ready = waiting.popleft()
            yield ready, _weighted_mean(window, ready, radius, sigma)
        oldest = waiting[0] if waiting else number + 1
        while window and window[0][0] < oldest - radius:
            window.popleft()
    for ready in waiting:
        yield ready, _weighted_mean(window, ready, radius, sigma)


def _weighted_mean(
    window: Iterable[tuple[int, Tensor]], center: int, radius: int, sigma: float
) -> Tensor:
    near = [
        (math.exp(-0.5 * ((n - center) / sigma) ** 2), values)
        for n, values in window
        if abs(n - center) <= radius
    ]
    total = sum(weight for weight, _ in near)
    weight, values = near[0]
    mean = values * (weight / total)
    for weight, values in near[1:]:
        # Where memory ran out on the way, later slices lie on another device.
        mean.add_(values.to(mean.device), alpha=weight / total)
    return mean
