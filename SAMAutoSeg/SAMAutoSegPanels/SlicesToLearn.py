"""Which slices a training learns from, and which it holds out for the score."""

from dataclasses import dataclass

from SAMAutoSegLib.methods.settings import spared_slices

# Fewer would leave one slice for the score, which says next to nothing.
FEWEST_FOR_HELD_OUT = 6

# Each is encoded in several views.
MOST_WITHOUT_PAINT = 12

# Where several volumes are learned from, their slices without labels teach, too, but for each
# so-manieth: a slice that has taught gives no honest score once it is corrected.
SPARE_EVERY = 4


@dataclass(frozen=True)
class OtherSlices:
    """What there is to learn from in a volume that is not the chosen one.

    ``name`` is the volume's and ``count`` that of all its slices; ``slices`` are the numbers of
    those to learn from, ``learned`` and ``heldOut`` of those that earlier trainings learned from
    and held out.
    """

    name: str
    count: int
    slices: tuple
    learned: tuple = ()
    heldOut: tuple = ()


def splitSlices(slices, holdOut=True, learned=(), heldOut=(), total=0):
    """Slices to train on and about one in four held out, spread evenly, never the outermost.

    The outermost ones train because a model can fill in between slices better than go beyond
    them. Fewer than `FEWEST_FOR_HELD_OUT` slices all train, where the ``total`` of all volumes is
    not greater.

    Of several trainings the later ones know what the earlier ones have learned: what is in
    ``learned`` is not held out any more, and what is in ``heldOut`` stays so. Else the score would
    favor the former model, which has learned what the new one is judged by.
    """
    slices = sorted(set(slices))
    kept = {*heldOut} & {*slices} - {*learned}
    if not holdOut or len(slices) == len(kept):
        return slices, []
    enough = max(len(slices), total) >= FEWEST_FOR_HELD_OUT
    count = (len(slices) + 2) // 4 - len(kept) if enough else 0
    free = [number for number in slices[1:-1] if number not in {*learned, *kept}]
    count = min(max(count, 0), len(free))
    chosen = {free[(2 * n + 1) * len(free) // (2 * count)] for n in range(count)} | kept
    return [number for number in slices if number not in chosen], sorted(chosen)


def slicesSeen(count, train, heldOut):
    """Of ``count`` slices those that a training of several volumes may look at."""
    return {*range(count)} - {*spared_slices(count, SPARE_EVERY), *heldOut} | {*train}


def slicesWithoutPaint(count, painted):
    """Slices that a model is adapted to besides the painted ones, spread over all ``count``."""
    free = [number for number in range(count) if number not in painted]
    step = -(-len(free) // MOST_WITHOUT_PAINT) or 1
    return free[step // 2 :: step]
