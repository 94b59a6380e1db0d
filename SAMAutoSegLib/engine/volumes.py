"""The volumes that the engine has open."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, get_args

import numpy as np

from SAMAutoSegLib.errors import SAMAutoSegError
from SAMAutoSegLib.images.intensity import Intensity
from SAMAutoSegLib.images.slices import Axis, SliceStack, plane_along
from SAMAutoSegLib.images.volume import Grid, Modality, Volume

# Volumes lie in mapped files, which the system drops from memory as it likes; their gray levels
# for clicks do not.
_MOST_GRAY = 2


class OpenVolumes:
    """Volumes by key, and the gray levels of those that are clicked on."""

    def __init__(self) -> None:
        self._volumes: dict[str, Volume] = {}
        self._gray: OrderedDict[tuple[str, str], np.ndarray] = OrderedDict()

    def open(self, key: str, volume: Volume) -> None:
        """Keep a volume; one that had this key is closed."""
        self.close(key)
        self._volumes[key] = volume

    def close(self, key: str) -> None:
        """Forget a volume, if it is open."""
        self._volumes.pop(key, None)
        for known in [known for known in self._gray if known[0] == key]:
            del self._gray[known]

    def __getitem__(self, key: str) -> Volume:
        if key not in self._volumes:
            raise SAMAutoSegError(f"volume {key!r} is not open: it was closed meanwhile")
        return self._volumes[key]

    def stack(self, key: str, axis: Axis, intensity: Intensity) -> SliceStack:
        """The gray slices of a volume along an axis; kept for the last few."""
        volume = self[key]
        known = (key, str(intensity))
        if known not in self._gray:
            self._gray[known] = intensity.apply(volume.array)
        self._gray.move_to_end(known)
        if len(self._gray) > _MOST_GRAY:
            self._gray.popitem(last=False)
        return SliceStack(self._gray[known], volume.grid, plane_along(volume.grid, axis))


def facts_of(volume: Volume) -> dict[str, Any]:
    """All of a volume but its voxels, as JSON values: what `as_volume` takes."""
    grid = volume.grid
    return {
        "name": volume.name,
        "modality": volume.modality,
        "size": list(grid.size),
        "spacing": list(grid.spacing),
        "origin": list(grid.origin),
        "direction": grid.direction.ravel().tolist(),
    }


def as_volume(facts: Mapping[str, Any], array: np.ndarray) -> Volume:
    """The volume that these facts, see `facts_of`, describe.

    Raises:
        SAMAutoSegError: an array without voxels, with several values per voxel or other than real
            numbers, of another size, or a geometry that places no voxels.
    """
    name = facts["name"] or "the volume"
    size = tuple(facts["size"])
    if array.ndim != 3:
        raise SAMAutoSegError(
            f"{name} has {array.ndim} axes (a color image, a vector field or a time series): "
            "expected three; extract one volume of gray values"
        )
    if not array.size:
        raise SAMAutoSegError(f"{name} is empty: load an image into it")
    if array.dtype.kind not in "iufb":
        raise SAMAutoSegError(f"{name} holds values of type {array.dtype}: expected real numbers")
    if array.shape != size[::-1]:
        raise SAMAutoSegError(
            f"{name} has an array of shape {array.shape}, which does not fit its size {size}"
        )
    direction = np.array(facts["direction"], float).reshape(3, 3)
    spacing, origin = tuple(facts["spacing"]), tuple(facts["origin"])
    finite = np.isfinite([*spacing, *origin, *direction.flat]).all()
    if not finite or min(spacing) <= 0 or abs(np.linalg.det(direction)) < 1e-6:
        raise SAMAutoSegError(
            f"{name} has the spacing {spacing}, the origin {origin} and the direction "
            f"{direction.tolist()}, which place no voxels: correct them in the module Volumes"
        )
    modality = facts.get("modality")
    known: Modality | None = next((one for one in get_args(Modality) if one == modality), None)
    grid = Grid(size, spacing, origin, direction)
    return Volume(array, grid, facts["name"], modality=known)
