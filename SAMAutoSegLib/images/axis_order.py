"""The same voxels stored in another order: axes exchanged or turned over, nothing interpolated.

Programs differ in it for one and the same scan, such as a DICOM series and the NIfTI file that was
made of it.
"""

from __future__ import annotations

import numpy as np

from SAMAutoSegLib.images.volume import Grid


def in_order_of(array: np.ndarray, grid: Grid, wanted: Grid) -> tuple[np.ndarray, Grid]:
    """An array [..., K, J, I] and its grid, with axes as nearly along those of `wanted` as can be.

    Every voxel keeps its value and its place in the patient.
    """
    along = wanted.direction.T @ grid.direction
    # For each wanted axis the one that lies along it.
    i, j, k = (int(axis) for axis in np.abs(along).argmax(axis=1))
    if {i, j, k} != {0, 1, 2}:
        return array, grid
    turned = [axis for n, axis in enumerate((i, j, k)) if along[n, axis] < 0]
    direction = grid.direction.copy()
    direction[:, turned] *= -1
    last = [grid.size[axis] - 1 if axis in turned else 0 for axis in range(3)]
    x, y, z, _ = (grid.ijk_to_lps @ [*last, 1.0]).tolist()
    ordered = Grid(
        size=(grid.size[i], grid.size[j], grid.size[k]),
        spacing=(grid.spacing[i], grid.spacing[j], grid.spacing[k]),
        origin=(x, y, z),
        direction=direction[:, [i, j, k]],
    )
    # I is the last axis of the array, K the third from the end.
    array = np.flip(array, tuple(-1 - axis for axis in turned))
    end = array.ndim - 1
    return array.transpose(*range(array.ndim - 3), end - k, end - j, end - i), ordered
