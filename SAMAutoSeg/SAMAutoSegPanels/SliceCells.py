"""Where each slice stands in the slice strip, and what color it has."""

from dataclasses import dataclass

from SAMAutoSegScene.SliceState import SliceState

# Told apart by lightness too, for eyes that see no red or green.
COLORS = {
    SliceState.UNTOUCHED: (150, 150, 150),
    SliceState.MODEL: (86, 140, 196),
    SliceState.UNCHECKED: (150, 185, 215),
    SliceState.CORRECTED: (240, 170, 50),
    SliceState.REVIEWED: (90, 190, 120),
    SliceState.EXCLUDED: (105, 90, 90),
}

# Where several slices share a pixel, the one that asks for attention is seen.
_RANK = [
    SliceState.UNTOUCHED,
    SliceState.EXCLUDED,
    SliceState.MODEL,
    SliceState.UNCHECKED,
    SliceState.REVIEWED,
    SliceState.CORRECTED,
]


@dataclass(frozen=True)
class Cell:
    """A rectangle of the strip: pixels ``left`` to ``right`` (excluded), slices ``first`` to
    ``last``; ``doubt`` from 0 (sure) to 1, None where it is not known."""

    left: int
    right: int
    first: int
    last: int
    state: SliceState
    doubt: float | None


def cells(width, states, doubts=None):
    """The strip as rectangles, from left to right.

    Args:
        width: pixels.
        states: the state of every slice in order.
        doubts: by slice number, any scale; the highest is drawn fully.
    """
    count = len(states)
    if not count or width < 1:
        return []
    doubts = doubts or {}
    highest = max(doubts.values(), default=0.0)
    found = []
    shown = min(count, width)
    for n in range(shown):
        first, end = n * count // shown, (n + 1) * count // shown
        inside = range(first, end)
        known = [doubts[number] for number in inside if number in doubts]
        doubt = max(known) / highest if known and highest > 0 else (0.0 if known else None)
        state = max((states[number] for number in inside), key=_RANK.index)
        found.append(
            Cell(n * width // shown, (n + 1) * width // shown, first, end - 1, state, doubt)
        )
    return found


def sliceAt(x, width, count):
    """The slice under a pixel column."""
    if not count or width < 1:
        return None
    return min(max(int(x) * count // width, 0), count - 1)


def nextToCheck(states, doubts, current=None):
    """The slice to look at next: what came from a model, the slices it doubts most first.

    Without measured doubt, the slice in the middle of the longest run that nobody looked at.
    The current one only if no other is left; None where nothing is left to check.
    """
    unseen = (SliceState.MODEL, SliceState.UNCHECKED)
    open_ = [n for n, state in enumerate(states) if state in unseen]
    if not open_:
        return None
    open_ = [n for n in open_ if n != current] or open_
    rated = [n for n in open_ if n in doubts]
    if rated:
        return max(rated, key=lambda n: (doubts[n], -n))
    runs = []
    for number in open_:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    longest = max(runs, key=len)
    return longest[len(longest) // 2]
