"""What may be done to a segmentation before a user sees it; nothing is unless it is asked for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from SAMAutoSegLib.errors import SAMAutoSegError


@dataclass(frozen=True)
class CleanUp:
    """Clean-up options, all off by default.

    Attributes:
        largest_component: keep of every structure only its largest connected part in 3D.
        minimum_island_mm3: remove connected parts that are smaller.
        smooth_slices_mm: standard deviation in mm of a Gaussian across slices, applied to the
            class probabilities before a voxel takes the most probable class; 0 for none.

    Where slices were corrected, the parts that these show take the place of the largest one. Parts
    are connected through voxel faces; what is removed becomes background. Where slices in
    between were not segmented, each group of neighboring slices is cleaned by itself.
    """

    largest_component: bool = False
    minimum_island_mm3: float = 0.0
    smooth_slices_mm: float = 0.0

    def __post_init__(self) -> None:
        for name, unit in (("minimum_island_mm3", "mm3"), ("smooth_slices_mm", "mm")):
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise SAMAutoSegError(f"clean-up {name} {value:g}: expected 0 or more {unit}")

    @property
    def removes_parts(self) -> bool:
        return self.largest_component or self.minimum_island_mm3 > 0


def remove_parts(
    labels: np.ndarray, voxel_mm3: float, cleanup: CleanUp, sure: Sequence[int] = ()
) -> None:
    """Set unwanted connected parts of a label volume, axes in any order, to 0 in place.

    Args:
        sure: slices along the first axis whose labels are known. Of a structure that these show,
            the parts are kept that they show, and none is taken for its size.
    """
    for label, box in enumerate(ndimage.find_objects(labels), start=1):
        if box is None:
            continue
        part = labels[box]
        # Numbered in the structure's own box: a volume of 32-bit numbers would be four times it.
        numbered, count = ndimage.label(part == label)
        sizes = np.bincount(numbered[numbered > 0], minlength=count + 1)
        keep = sizes * voxel_mm3 >= cleanup.minimum_island_mm3
        confirmed = np.zeros(count + 1, bool)
        for number in sure:
            if box[0].start <= number < box[0].stop:
                confirmed[numbered[number - box[0].start]] = True
        confirmed[0] = False
        if cleanup.largest_component:
            largest = np.arange(count + 1) == sizes.argmax()
            keep &= confirmed if confirmed.any() else largest
        keep |= confirmed
        keep[0] = True  # the other structures and the background
        part[~keep[numbered]] = 0
