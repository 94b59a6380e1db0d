"""Slices that the user has corrected: they stay as they are, and speak for the slices between.

From one corrected slice to the next every contour has to pass over into the other. Shape-based
interpolation says how: of each structure the signed distances to its contour are interpolated
(Raya and Udupa, IEEE Transactions on Medical Imaging, 1990). How far that errs is measured on the
corrected slices themselves, each foretold by its neighbors; from that, distances become
probabilities, which are the less sure the farther the next corrected slice is. A slice's labels are
those of the product of these and the model's probabilities. The product is designed here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from scipy import ndimage
from scipy.special import log_softmax
from torch import Tensor

from SAMAutoSegLib.adapt.pixel_branch import product
from SAMAutoSegLib.errors import SAMAutoSegError

# What the corrected slices say counts as much as the model's word where they foretell contours
# exactly, and half as much where they err by so many mm. Chosen on three sets of slices of
# the demo's CT, three hippocampi and three hearts, as was the shrinking.
_HALF_WEIGHT_MM = 4.0

# Beyond the last corrected slice a shape gets smaller on each side by this part of the error.
_SHRINKING = 0.5

# In mm per mm to the next corrected slice; where a single one cannot tell it.
_USUAL_ERROR = 0.5

# A structure that the corrected slices do not have at a place can be there all the same.
_LEAST_SHARE = 0.01

# The share of the classes that a corrected pixel is not.
_IMPOSSIBLE = 1e-12

# A distance in mm that no image has.
_FAR = 1e4


@dataclass(frozen=True)
class CorrectedSlices:
    """Labels that are right in some slices.

    Attributes:
        labels: [K, J, I] on the image's grid, with the label values of the model's structures;
            other values are background. Only the slices count.
        slices: their numbers along the axis that is segmented.
    """

    labels: np.ndarray
    slices: Sequence[int]

    def __post_init__(self) -> None:
        if not self.slices:
            raise SAMAutoSegError("no corrected slice: name those in which the labels are right")


class CorrectedShapes:
    """What corrected slices say about all slices.

    Args:
        classes: class numbers [H, W] of every corrected slice.
        count: K, of the classes, with the background.
        pixel_spacing: in mm, of rows and columns.
        slice_spacing: in mm.

    Attributes:
        error: how far, in mm for each mm to the next corrected slice, a contour is off.
    """

    def __init__(
        self,
        classes: Mapping[int, np.ndarray],
        count: int,
        pixel_spacing: tuple[float, float],
        slice_spacing: float,
    ) -> None:
        self.classes = dict(classes)
        self._numbers = sorted(classes)
        self._count = count
        self._pixel_spacing = pixel_spacing
        self._slice_spacing = slice_spacing
        self._half_pixel = sum(pixel_spacing) / 4
        # The neighbors of the slices in order, and when errors are measured those of a neighbor.
        self._distances = lru_cache(maxsize=4)(self._signed_distances)
        shown = [np.unique(slice_) for slice_ in self.classes.values()]
        self._unknown = np.setdiff1d(np.arange(count), np.concatenate(shown))
        self.error = self._measured_error()

    def certain(self, number: int) -> Tensor:
        """Logits [K, H, W] of a corrected slice."""
        found = torch.from_numpy(np.ascontiguousarray(self.classes[number])).long()
        shares = torch.nn.functional.one_hot(found, self._count).movedim(-1, 0)
        return shares.float().clamp(min=_IMPOSSIBLE).log()

    def agreed(self, number: int, logits: Tensor) -> Tensor:
        """The weighted product [K, H, W] of what the model and the corrected slices find."""
        said = torch.from_numpy(self.log_shares(number)).to(logits.device)
        weight = 1 / (1 + self.error * self._way(number) / _HALF_WEIGHT_MM)
        return product(logits.float().log_softmax(0), said, weight)

    def log_shares(self, number: int) -> np.ndarray:
        """Logarithms [K, H, W], float32, of how probable the classes are in a slice.

        A structure that no corrected slice shows is as probable everywhere as the background, so
        that the model alone decides about it.
        """
        known = self._numbers
        expected_error = self.error * self._way(number)
        inside = self._between(number, known)
        if not known[0] <= number <= known[-1]:
            inside = inside - _SHRINKING * expected_error
        distances = np.concatenate([-inside.max(0, keepdims=True), inside])
        blur = expected_error + self._half_pixel
        shares = np.maximum(log_softmax(distances / blur, axis=0), np.log(_LEAST_SHARE))
        shares[self._unknown] = shares[0]
        return shares.astype(np.float32)

    def _way(self, number: int, besides: int | None = None) -> float:
        """Millimeters from a slice to the next corrected one, or to the next besides one."""
        steps = (abs(number - one) for one in self.classes if one != besides)
        return min(steps) * self._slice_spacing

    def _between(self, number: int, known: Sequence[int]) -> np.ndarray:
        """Signed distances [K - 1, H, W] in mm of structures, as the slices next to it foretell."""
        before = max((n for n in known if n <= number), default=min(known))
        after = min((n for n in known if n >= number), default=max(known))
        share = 0.0 if before == after else (number - before) / (after - before)
        found = np.empty((self._count - 1, *self.classes[before].shape))
        for k, (one, other) in enumerate(
            zip(self._distances(before), self._distances(after), strict=True)
        ):
            # What only one of two slices has ends half-way between them.
            if one is not None and other is not None:
                found[k] = (1 - share) * one + share * other
            elif one is not None:
                found[k] = (1 - share) * one - share * one.max()
            elif other is not None:
                found[k] = share * other - (1 - share) * other.max()
            else:
                found[k] = -_FAR
        return found

    def _signed_distances(self, number: int) -> list[np.ndarray | None]:
        """Of each structure the distance [H, W] in mm to its contour, positive inside.

        None of one that is not there.
        """
        slice_, pixels = self.classes[number], self._pixel_spacing
        found: list[np.ndarray | None] = []
        for value in range(1, self._count):
            inside = slice_ == value
            if not inside.any():
                found.append(None)
            elif inside.all():
                # Its contour is taken to be the slice's own edge.
                around = ndimage.distance_transform_edt(np.pad(inside, 1), pixels)[1:-1, 1:-1]
                found.append(around - self._half_pixel)
            else:
                within = ndimage.distance_transform_edt(inside, pixels) - self._half_pixel
                outside = ndimage.distance_transform_edt(~inside, pixels) - self._half_pixel
                found.append(np.where(inside, within, -outside))
        return found

    def _measured_error(self) -> float:
        """Mean distance of true contours from those foretold, for each mm to the next slice."""
        numbers = self._numbers
        off = way = 0.0
        for place, number in enumerate(numbers):
            beside = numbers[max(place - 1, 0) : place] + numbers[place + 1 : place + 2]
            if not beside:
                continue
            foretold = self._between(number, beside)
            for true, found in zip(self._distances(number), foretold, strict=True):
                if true is None or (true > 0).all() or (found == -_FAR).all():
                    continue
                contour = np.abs(true) <= 2 * self._half_pixel
                if contour.any():
                    off += float(np.abs(found[contour]).mean())
                    way += self._way(number, besides=number)
        return off / way if way else _USUAL_ERROR


def with_corrected(
    maps: Iterable[tuple[int, Tensor]], numbers: Sequence[int], shapes: CorrectedShapes
) -> Iterator[tuple[int, Tensor]]:
    """Logits of slices in order: the corrected ones' own, and those of the others agreed upon.

    Args:
        maps: those of the model for the slices that are not corrected; they may end early.
        numbers: of all slices that are wanted.
    """
    waiting = deque(numbers)
    for number, logits in maps:
        while waiting[0] != number:
            yield waiting[0], shapes.certain(waiting.popleft())
        waiting.popleft()
        yield number, shapes.agreed(number, logits)
    while waiting and waiting[0] in shapes.classes:
        yield waiting[0], shapes.certain(waiting.popleft())
