"""How long a step will still take, from its pace so far."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

# Recent enough to follow a pace that changes, as where kept embeddings end; not so close that
# quick slices never cover the least time to tell from.
_MARKS = 30
_SECONDS_BETWEEN_MARKS = 0.1

_LEAST_SECONDS = 0.5


class TimeLeft:
    """Told the fraction done, it says how many seconds are left."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._marks: deque[tuple[float, float]] = deque(maxlen=_MARKS)

    def at(self, fraction: float) -> float | None:
        """Seconds left, to a tenth; None while there is too little to tell from."""
        now = self._clock()
        if not self._marks or now - self._marks[-1][0] >= _SECONDS_BETWEEN_MARKS:
            self._marks.append((now, fraction))
        if fraction >= 1:
            return 0.0
        since, before = self._marks[0]
        if fraction <= before or now - since < _LEAST_SECONDS:
            return None
        return round((now - since) / (fraction - before) * max(0.0, 1 - fraction), 1)
