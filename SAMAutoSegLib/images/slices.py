"""The slices of a volume along one axis, seen as a radiologist sees them."""

from __future__ import annotations

import itertools
from typing import Literal, get_args

import numpy as np

from SAMAutoSegLib.errors import SAMAutoSegError
from SAMAutoSegLib.images.volume import Grid

Plane = Literal["axial", "coronal", "sagittal"]
Axis = Literal["axial", "coronal", "sagittal", "i", "j", "k", "auto"]

_PLANES: tuple[Plane, ...] = get_args(Plane)

# Patient axes in LPS: 0 towards the left, 1 towards the back, 2 towards the head.
_NORMAL: dict[Plane, int] = {"axial": 2, "coronal": 1, "sagittal": 0}

# For each plane the patient axis and the sense in which rows run down and columns run right.
_ROWS: dict[Plane, tuple[int, int]] = {"axial": (1, +1), "coronal": (2, -1), "sagittal": (2, -1)}
_COLUMNS: dict[Plane, tuple[int, int]] = {"axial": (0, +1), "coronal": (0, +1), "sagittal": (1, +1)}

# Spacings closer than this count as equal when the axis is chosen.
_SPACING_RATIO = 1.01


class SliceStack:
    """2D slices of an array [K, J, I] along one of its axes.

    Every slice is a view in canonical patient orientation, whatever order and sense the file
    stores its axes in: axial rows run from anterior to posterior and columns from the patient's
    right to left, coronal rows from superior to inferior and columns from right to left, sagittal
    rows from superior to inferior and columns from anterior to posterior. Of an oblique volume the
    closest I, J, K axes are taken; nothing is resampled. Slice numbers are voxel indices along the
    axis, in the order of storage.
    """

    def __init__(self, array: np.ndarray, grid: Grid, axis: Axis = "axial") -> None:
        if array.shape != grid.size[::-1]:
            raise ValueError(f"array {array.shape} is not [K, J, I] of a {grid.size} grid")
        self.array = array
        self.grid = grid
        self.plane = plane_along(grid, axis)
        nearest, sense = _nearest_axes(grid.direction)
        self.axis_index = nearest[_NORMAL[self.plane]]
        (row_axis, row_sense), (column_axis, column_sense) = _ROWS[self.plane], _COLUMNS[self.plane]
        order = (self.axis_index, nearest[row_axis], nearest[column_axis])
        self.pixel_spacing = (grid.spacing[order[1]], grid.spacing[order[2]])
        self._slices = array.transpose([2 - ijk for ijk in order])
        self._order = list(order)
        self._turned = [
            False,
            row_sense * sense[row_axis] < 0,
            column_sense * sense[column_axis] < 0,
        ]
        if self._turned[1]:
            self._slices = self._slices[:, ::-1]
        if self._turned[2]:
            self._slices = self._slices[:, :, ::-1]

    def __len__(self) -> int:
        return len(self._slices)

    @property
    def slice_shape(self) -> tuple[int, int]:
        """Rows and columns of each slice."""
        rows, columns = self._slices.shape[1:]
        return rows, columns

    @property
    def slice_spacing(self) -> float:
        """Distance of neighboring slices in mm."""
        return self.grid.spacing[self.axis_index]

    def slice_at(self, number: int) -> np.ndarray:
        """Slice `number` as a view [rows, columns]; writing to it writes to the array."""
        return self._slices[self._checked(number)]

    @property
    def views(self) -> list[np.ndarray]:
        """All slices in order, each as `slice_at` gives it."""
        return list(self._slices)

    def place_of(self, ijk: np.ndarray) -> np.ndarray:
        """Slice number, row and column of a place given in voxels I, J, K; not rounded."""
        place = np.asarray(ijk, dtype=float)[self._order]
        return np.where(self._turned, np.array(self._slices.shape) - 1 - place, place)

    def put(self, number: int, values: np.ndarray) -> None:
        """Write [rows, columns], oriented as `slice_at` gives them, back into the array."""
        target = self._slices[self._checked(number)]
        if values.shape != target.shape:
            raise ValueError(f"slice of shape {values.shape} where {target.shape} is needed")
        target[...] = values

    def _checked(self, number: int) -> int:
        if not 0 <= number < len(self):
            raise IndexError(f"slice {number} is not in 0..{len(self) - 1}")
        return number


def plane_along(grid: Grid, axis: Axis) -> Plane:
    """The patient plane of the slices along `axis`.

    'axial', 'coronal' and 'sagittal' stand for themselves; 'i', 'j' and 'k' name a storage axis;
    'auto' takes the axis along which the volume is one voxel thick, else the one with the largest
    spacing, where a reader of the images would scroll too. Of equal ones axial is taken, then
    coronal. Any other axis raises `SAMAutoSegError`.
    """
    if axis in _PLANES:
        return axis
    nearest, _ = _nearest_axes(grid.direction)
    if axis == "auto":
        thickness = {plane: nearest[_NORMAL[plane]] for plane in _PLANES}
        flat = [plane for plane in _PLANES if grid.size[thickness[plane]] == 1]
        if flat:
            return flat[0]
        widest = max(grid.spacing)
        return next(
            plane for plane in _PLANES if grid.spacing[thickness[plane]] * _SPACING_RATIO >= widest
        )
    if axis not in ("i", "j", "k"):
        raise SAMAutoSegError(f"unknown axis '{axis}': choose one of {', '.join(get_args(Axis))}")
    patient_axis = nearest.index("ijk".index(axis))
    return next(plane for plane in _PLANES if _NORMAL[plane] == patient_axis)


def plane_for(grid: Grid, usual: Plane, asked: Axis | None = None) -> Plane:
    """The plane that is asked for, see `plane_along`, else the usual one.

    But for an image that is one slice of another plane: then that.
    """
    if asked:
        return plane_along(grid, asked)
    only = plane_along(grid, "auto") if 1 in grid.size else usual
    across = _nearest_axes(grid.direction)[0][_NORMAL[usual]]
    return usual if grid.size[across] == 1 else only


def _nearest_axes(direction: np.ndarray) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """For the patient axes L, P, S the I/J/K axis closest to each, and its sense (+1 or -1)."""

    # All three at once: near 45 degrees the axes nearest one by one need not be different.
    def closeness(order: tuple[int, ...]) -> float:
        return sum(abs(direction[patient, ijk]) for patient, ijk in enumerate(order))

    nearest = max(itertools.permutations(range(3)), key=closeness)
    sense = tuple(1 if direction[p, ijk] >= 0 else -1 for p, ijk in enumerate(nearest))
    return nearest, sense
