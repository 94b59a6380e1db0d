"""Which labeled slices train the weights and which the prompt: D1 and D2 of BLO-SAM."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

Split = Literal["rotate", "half"]


@dataclass(frozen=True)
class SliceGroups:
    """Splits N labeled slices in two, without parting neighbors.

    Adjacent slices of a volume look almost alike: with one on either side, the upper level would
    see what the lower level was trained on. So whole groups change sides.

    Attributes:
        groups: for every slice the number of its group.
        split: 'half' keeps one split for good, the first half of the groups as D1, as published;
            'rotate' draws a new one every round, so that every slice serves both levels.
        seed: of the draw.
    """

    groups: tuple[int, ...]
    split: Split
    seed: int

    def parts(self, round_number: int) -> tuple[list[int], list[int]]:
        """Slice numbers of D1 and D2; the same slices in both if there is but one slice."""
        keys: Sequence[int] = self.groups
        names = list(dict.fromkeys(keys))
        if len(names) == 1:  # all neighbors: rather part them than learn nothing at one level
            keys = range(len(self.groups))
            names = list(keys)
        if len(names) == 1:
            return [0], [0]
        if self.split == "rotate":
            # Every second round mirrors the one before: each slice is as often in D1 as in D2.
            order = np.random.default_rng([self.seed, round_number // 2]).permutation(len(names))
            names = [names[n] for n in order]
        first = set(names[: (len(names) + 1) // 2])
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


def group_neighbors(numbers: Sequence[int], largest_gap: int = 1) -> list[int]:
    """Group numbers for sorted or unsorted slice numbers of one volume, from 0 in their order.

    Slices not farther than `largest_gap` from a member belong to its group.
    """
    order = sorted(range(len(numbers)), key=lambda n: numbers[n])
    groups = [0] * len(numbers)
    for before, n in zip(order, order[1:], strict=False):
        step = numbers[n] - numbers[before] > largest_gap
        groups[n] = groups[before] + int(step)
    return groups
