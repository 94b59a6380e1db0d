"""Short texts that stand for what segments hold in each slice, to tell when something changed."""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

import numpy as np

from SAMAutoSegLib.images.slices import SliceStack
from SAMAutoSegScene.SegmentLayers import SegmentLayers
from SAMAutoSegScene.SliceGeometry import boxOfSlice

# Bytes of a digest: two different masks of a slice agree once in 2**48 times.
_BYTES = 6
WIDTH = _BYTES * 4 // 3
EMPTY = "A" * WIDTH

# Slices that are looked at together.
_BLOCK = 16


class SliceDigests:
    """The digests of all segments of a segmentation, slice by slice of a plane.

    They are computed when they are asked for, and kept as long as the segment's voxels stay.
    """

    def __init__(self, layers: SegmentLayers, stack: SliceStack) -> None:
        self._layers = layers
        self._stack = stack
        self._kept: dict[str, tuple[tuple, dict[int, str]]] = {}

    def of(self, number: int) -> dict[str, str]:
        """For each segment the digest of its voxels in a slice."""
        current = self._current()
        if any(number not in digests for digests in current.values()):
            self._read(range(number, number + 1))
        return {one: digests[number] for one, digests in current.items()}

    def refresh(self, seconds: float) -> bool:
        """Compute what is missing for that long; True if nothing is left to do."""
        until = time.perf_counter() + seconds
        current = self._current().values()
        count = len(self._stack)
        for start in range(0, count, _BLOCK):
            block = range(start, min(start + _BLOCK, count))
            if any(number not in digests for digests in current for number in block):
                self._read(block)
                if time.perf_counter() > until:
                    return block.stop == count
        return True

    def stamps(self) -> dict[str, tuple]:
        """For each segment what changes whenever its voxels do."""
        return {one: self._layers.stamp(one) for one in self._layers.segmentIds()}

    @contextmanager
    def onlyChanges(self, numbers: Iterable[int]) -> Iterator[None]:
        """Around changes to these slices alone: others need not be looked at again."""
        before = self.stamps()
        yield
        changed = set(numbers)
        for one, stamp in self.stamps().items():
            kept = self._kept.get(one)
            if kept is not None and kept[0] == before.get(one):
                rest = {n: digest for n, digest in kept[1].items() if n not in changed}
                self._kept[one] = (stamp, rest)

    def _current(self) -> dict[str, dict[int, str]]:
        """For each segment the digests that hold for what is there now."""
        current = {}
        for one, stamp in self.stamps().items():
            kept = self._kept.get(one)
            if kept is None or kept[0] != stamp:
                kept = self._kept[one] = (stamp, {})
            current[one] = kept[1]
        return current

    def _read(self, numbers: range) -> None:
        """Compute the digests of neighboring slices."""
        current = self._current()
        for digests in current.values():
            digests.update(dict.fromkeys(numbers, EMPTY))
        box = list(boxOfSlice(self._stack, numbers[0]))
        box[2 - self._stack.axis_index] = slice(numbers.start, numbers.stop)
        for labelmap in self._layers.labelmaps():
            segments = {
                self._layers.value(one): current[one] for one in self._layers.sharing(labelmap)
            }
            # As the views show them: Slicer turns left-handed volumes over when it loads them.
            block = self._layers.codes(labelmap, tuple(box))
            grid = replace(self._stack.grid, size=block.shape[::-1])
            views = SliceStack(block, grid, self._stack.plane).views
            for number, codes in zip(numbers, views, strict=True):
                for value, digest in digestsOf(codes).items():
                    if value in segments:
                        segments[value][number] = digest


def digestsOf(codes: np.ndarray) -> dict[int, str]:
    """For each value of a slice, except 0, text that stands for where it is."""
    inside = codes != 0  # nonzero is ten times as fast on booleans as on bytes
    places = np.flatnonzero(inside).astype(np.int32)
    values = codes[inside]
    return {
        int(value): base64.urlsafe_b64encode(
            hashlib.blake2b(places[values == value].data, digest_size=_BYTES).digest()
        ).decode()
        for value in np.unique(values)
    }


def filled(digests: Mapping[str, str]) -> dict[str, str]:
    """The digests of segments that are in a slice."""
    return {one: digest for one, digest in digests.items() if digest != EMPTY}


def differ(now: Mapping[str, str], known: Mapping[str, str]) -> bool:
    """Whether any segment is otherwise than known; what is not known is empty."""
    return any(known.get(one, EMPTY) != digest for one, digest in now.items())


def splitDigests(text: str) -> list[str]:
    """Digests that were written one after the other."""
    return [text[start : start + WIDTH] for start in range(0, len(text), WIDTH)]
