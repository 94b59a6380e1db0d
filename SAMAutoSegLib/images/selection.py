"""Which part of a volume is meant: slice numbers and regions of interest, as text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from SAMAutoSegLib.errors import SAMAutoSegError
from SAMAutoSegLib.images.volume import Volume


def parse_slices(text: str, count: int) -> list[int]:
    """Slice numbers from text such as `3,9,15-20` or `all`, for a volume with `count` slices.

    Numbers start at 0 and ranges include both ends. The list is sorted. Text that is not such a
    list, numbers out of range and numbers given twice raise `SAMAutoSegError`.
    """
    numbers: list[int] = []
    for part in (part.strip().lower() for part in text.split(",")):
        if part == "all":
            numbers.extend(range(count))
            continue
        match = re.fullmatch(r"(\d+)(?:\s*-\s*(\d+))?", part)
        if match is None:
            raise SAMAutoSegError(
                f"cannot read slice '{part}' in '{text}': expected numbers, ranges such as 15-20, "
                "or all"
            )
        first = int(match[1])
        last = first if match[2] is None else int(match[2])
        if last < first:
            raise SAMAutoSegError(f"slice range {part} runs backwards: write {last}-{first}")
        if last >= count:
            raise SAMAutoSegError(
                f"slice {last} is out of range: the volume has slices 0 to {count - 1} on this axis"
            )
        numbers.extend(range(first, last + 1))
    duplicates = sorted({number for number in numbers if numbers.count(number) > 1})
    if duplicates:
        raise SAMAutoSegError(
            f"slice {', '.join(map(str, duplicates))} given more than once in '{text}': "
            "name each slice once"
        )
    return sorted(numbers)


@dataclass(frozen=True)
class Roi:
    """A box of voxels: half-open index ranges along I, J and K."""

    i: tuple[int, int]
    j: tuple[int, int]
    k: tuple[int, int]

    @classmethod
    def parse(cls, text: str, size: tuple[int, int, int]) -> Roi:
        """Read `i0:i1,j0:j1,k0:k1` for a volume of `size` (I, J, K) voxels.

        As in Python the second index is not included and a missing one means the border
        (`10:90,:,5:`). Ranges that are empty or leave the volume raise `SAMAutoSegError`.
        """
        parts = [part.strip() for part in text.split(",")]
        if len(parts) != 3:
            raise SAMAutoSegError(f"cannot read region '{text}': expected i0:i1,j0:j1,k0:k1")
        ranges = []
        for part, name, length in zip(parts, "ijk", size, strict=True):
            match = re.fullmatch(r"(\d*)\s*:\s*(\d*)", part)
            if match is None:
                raise SAMAutoSegError(
                    f"cannot read '{part}' in region '{text}': expected {name}0:{name}1"
                )
            ranges.append((int(match[1] or 0), int(match[2] or length)))
        return cls.within(size, ranges)

    @classmethod
    def within(cls, size: tuple[int, int, int], ranges: Iterable[Sequence[int]]) -> Roi:
        """The box of a start and a stop along I, J and K.

        Raises:
            SAMAutoSegError: a range is empty or leaves a volume of `size` voxels.
        """
        box = []
        for (start, stop), name, length in zip(ranges, "ijk", size, strict=True):
            if not 0 <= start < stop <= length:
                raise SAMAutoSegError(
                    f"region {name} = {start}:{stop} is empty or outside of the volume: "
                    f"expected a range within 0:{length}"
                )
            box.append((start, stop))
        return cls(*box)

    @property
    def kji(self) -> tuple[slice, slice, slice]:
        """Index of this box in an array [K, J, I]."""
        return slice(*self.k), slice(*self.j), slice(*self.i)

    def crop(self, volume: Volume) -> Volume:
        """The part of `volume` inside the box: a view of its array, on the grid of that part."""
        start = np.array([self.i[0], self.j[0], self.k[0], 1])
        x, y, z, _ = (float(value) for value in volume.grid.ijk_to_lps @ start)
        array = volume.array[self.kji]
        k, j, i = array.shape
        grid = replace(volume.grid, size=(i, j, k), origin=(x, y, z))
        return replace(volume, array=array, grid=grid)
