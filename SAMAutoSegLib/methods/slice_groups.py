"""Which labeled slices train the weights and which the prompt: D1 and D2 of BLO-SAM."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

Split = Literal["rotate", "half"]

# A group with a larger share of the slices is parted.
_MOST_NEIGHBORS = 2 / 3

_Key = tuple[int, int]


@dataclass(frozen=True)
class SliceGroups:
    """Splits N labeled slices in two, without parting neighbors.

    Adjacent slices of a volume look almost alike: with one on either side, the upper level would
    see what the lower level was trained on. So whole groups change sides, as many as make about
    half of the slices.

    Attributes:
        groups: for every slice the number of its group.
        split: 'half' keeps one split for good, as published: D1 is the first groups, without those
            that would make it more than half of the slices; 'rotate' draws a new one every round,
            so that every slice serves both levels.
        seed: of the draw.
    """

    groups: tuple[int, ...]
    split: Split
    seed: int

    def parts(self, round_number: int) -> tuple[list[int], list[int]]:
        """Slice numbers of D1 and D2; the same slices in both if there is but one slice."""
        if len(self.groups) == 1:
            return [0], [0]
        sizes = Counter(self.groups)
        keys = [
            # Nearly all are neighbors: rather part them than learn next to nothing at one level.
            (group, n if sizes[group] > _MOST_NEIGHBORS * len(self.groups) else -1)
            for n, group in enumerate(self.groups)
        ]
        names = list(dict.fromkeys(keys))
        if self.split == "rotate":
            # Every second round mirrors the one before: each slice is as often in D1 as in D2.
            order = np.random.default_rng([self.seed, round_number // 2]).permutation(len(names))
            names = [names[n] for n in order]
        first = _about_half(names, Counter(keys))
        if self.split == "rotate" and round_number % 2:
            first = set(names) - first
        inside = [n for n, key in enumerate(keys) if key in first]
        return inside, [n for n in range(len(keys)) if n not in inside]

    def describe(self) -> str:
        """What a user should know about the split, one sentence; empty if nothing."""
        if len(self.groups) == 1:
            return "one slice cannot be split: weights and prompt both learn from it"
        if len(set(self.groups)) == 1:
            return (
                "all labeled slices are neighbors: split slice by slice, which overfits more; "
                "label slices farther apart"
            )
        return ""


def _about_half(names: Sequence[_Key], sizes: Counter[_Key]) -> set[_Key]:
    """Groups that hold half of all slices together, as far as they can."""
    wanted = (sizes.total() + 1) // 2
    first: set[_Key] = set()
    count = 0
    for name in names:
        if not first or count + sizes[name] <= wanted:
            first.add(name)
            count += sizes[name]
    return first


def group_neighbors(numbers: Sequence[int]) -> list[int]:
    """Group numbers for sorted or unsorted slice numbers of one volume, from 0 in their order."""
    order = sorted(range(len(numbers)), key=lambda n: numbers[n])
    groups = [0] * len(numbers)
    for before, n in zip(order, order[1:], strict=False):
        step = numbers[n] - numbers[before] > 1
        groups[n] = groups[before] + int(step)
    return groups
