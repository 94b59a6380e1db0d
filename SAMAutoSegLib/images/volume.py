"""An image volume and the grid that places its voxels in the patient."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from SAMAutoSegLib.errors import SAMAutoSegError

Modality = Literal["CT", "MR"]

# One hundredth of a voxel: wider than what a float32 NIfTI header loses on a large volume, far
# narrower than any shift that would matter to a label.
GRID_TOLERANCE = 0.01

# SimpleITK and DICOM count millimetres to the patient's left and back, Slicer to right and front.
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True, eq=False)
class Grid:
    """Where the voxels of a volume lie in the patient.

    `size` counts voxels along I, J, K; `spacing` is in mm along I, J, K; `origin` is the center of
    voxel (0, 0, 0) in mm, LPS; `direction` is 3x3, its columns are the LPS unit vectors of I, J, K
    (the row-major form of SimpleITK's and NRRD's direction cosines).
    """

    size: tuple[int, int, int]
    spacing: tuple[float, float, float]
    origin: tuple[float, float, float]
    direction: np.ndarray

    @property
    def ijk_to_lps(self) -> np.ndarray:
        """4x4 matrix from voxel indices (i, j, k, 1) to mm in LPS."""
        matrix = np.eye(4)
        matrix[:3, :3] = self.direction * np.asarray(self.spacing)
        matrix[:3, 3] = self.origin
        return matrix

    @property
    def ijk_to_ras(self) -> np.ndarray:
        """4x4 matrix from voxel indices (i, j, k, 1) to mm in RAS, as 3D Slicer uses it."""
        return _LPS_TO_RAS @ self.ijk_to_lps

    @property
    def voxel_volume_mm3(self) -> float:
        return float(np.prod(self.spacing))

    def same_as(self, other: Grid, tolerance: float = GRID_TOLERANCE) -> bool:
        """True if the sizes agree and no corner voxel moves by more than `tolerance` voxels."""
        return self.size == other.size and self._displacement(other) <= tolerance

    def describe_difference(self, other: Grid, tolerance: float = GRID_TOLERANCE) -> str:
        """Name what differs between two grids, with both values; empty if `same_as` holds."""
        if self.same_as(other, tolerance):
            return ""
        differences = []
        if self.size != other.size:
            differences.append(f"size {_times(self.size)} against {_times(other.size)}")
        if self._displacement(replace(self, spacing=other.spacing)) > tolerance:
            differences.append(f"spacing {_times(self.spacing)} against {_times(other.spacing)} mm")
        if self._displacement(replace(self, origin=other.origin)) > tolerance:
            differences.append(
                f"origin ({_listed(self.origin)}) against ({_listed(other.origin)}) mm LPS"
            )
        if self._displacement(replace(self, direction=other.direction)) > tolerance:
            differences.append(
                f"direction ({_listed(self.direction.ravel())}) "
                f"against ({_listed(other.direction.ravel())})"
            )
        if not differences:
            # Each part is within the tolerance, their sum is not.
            differences.append(f"corners up to {self._displacement(other):.3g} voxels apart")
        return ", ".join(differences)

    def _displacement(self, other: Grid) -> float:
        """The farthest that a corner of this grid moves under the other's geometry, in voxels."""
        corners = np.array([(*c, 1) for c in itertools.product(*((0, n - 1) for n in self.size))])
        moved = (self.ijk_to_lps - other.ijk_to_lps) @ corners.T
        farthest = np.linalg.norm(moved[:3], axis=0).max()
        # A volume that is one voxel thick shows a changed spacing or direction in no corner.
        flat = np.abs(self.ijk_to_lps - other.ijk_to_lps)[:3, :3].max()
        return float(max(farthest, flat) / min(self.spacing))


@dataclass(frozen=True, eq=False)
class Volume:
    """A scalar image: `array` is [K, J, I] (the order of numpy and SimpleITK) on `grid`.

    `source` is the file or folder it came from; `modality` is known only where the file says so
    (DICOM).
    """

    array: np.ndarray
    grid: Grid
    name: str
    source: Path | None = None
    modality: Modality | None = None

    def __post_init__(self) -> None:
        if self.array.shape != self.grid.size[::-1]:
            raise ValueError(
                f"array [K, J, I] of shape {self.array.shape} does not fit a grid of "
                f"{_times(self.grid.size)} voxels (I x J x K)"
            )


def require_same_grid(image: Volume, labels: Volume) -> None:
    """Raise `SAMAutoSegError`, with what differs, unless the labels lie on the image's grid."""
    difference = labels.grid.describe_difference(image.grid)
    if difference:
        raise SAMAutoSegError(
            f"{labels.source or labels.name} is not on the grid of {image.source or image.name}: "
            f"{difference}; resample it to that image"
        )


def _times(values: tuple[float, ...]) -> str:
    return " x ".join(f"{value:.6g}" for value in values)


def _listed(values: tuple[float, ...] | np.ndarray) -> str:
    return ", ".join(f"{value:.6g}" for value in values)
