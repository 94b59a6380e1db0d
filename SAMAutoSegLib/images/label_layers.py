"""The segments of a label file, which may overlap, and one label map made of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from SAMAutoSegLib.errors import SAMAutoSegError
from SAMAutoSegLib.images.axis_order import in_order_of
from SAMAutoSegLib.images.segment_header import Segment
from SAMAutoSegLib.images.structure import Structure, label_type
from SAMAutoSegLib.images.volume import Grid, Volume


@dataclass(frozen=True, eq=False)
class LabelLayers:
    """What a label file holds: `array` is [L, K, J, I], uint8 or uint16, 0 for background.

    Every segment says in which layer it lies and by which value there. The label of its structure
    is another one only where two layers use the same value.
    """

    array: np.ndarray
    segments: tuple[Segment, ...]
    grid: Grid
    name: str
    source: Path

    @property
    def structures(self) -> list[Structure]:
        """The structures by label."""
        return sorted((s.structure for s in self.segments), key=lambda one: one.label)

    def mask(self, label: int) -> np.ndarray:
        """Where the structure of this label lies, [K, J, I] bool; nowhere if there is none."""
        for segment in self.segments:
            if segment.structure.label == label:
                mask: np.ndarray = self.array[segment.layer] == segment.value
                return mask
        return np.zeros(self.array.shape[1:], bool)

    def flattened(self, labels: Sequence[int] | None = None) -> tuple[Volume, dict[int, int]]:
        """One label map of these labels (by default all), a later segment over an earlier one.

        Also how many voxels a label lost to later segments, of those that lost any.
        """
        segments = [s for s in self.segments if labels is None or s.structure.label in labels]
        kind = label_type([s.structure for s in segments]) if segments else np.uint8
        flat = np.zeros(self.array.shape[1:], kind)
        lost: dict[int, int] = {}
        for segment in segments:
            inside = self.array[segment.layer] == segment.value
            covered, counts = np.unique(flat[inside], return_counts=True)
            for label, count in zip(covered.tolist(), counts.tolist(), strict=True):
                if label:
                    lost[label] = lost.get(label, 0) + count
            flat[inside] = segment.structure.label
        return Volume(flat, self.grid, self.name, self.source), lost

    def on_grid_of(self, image: Volume | LabelLayers) -> LabelLayers:
        """The same segments on the grid of `image`, of which the file may hold a part only.

        So does Slicer write a segmentation that it crops to its segments. Their order may be
        another one, too. `SAMAutoSegError` unless the voxels of the file are voxels of the image.
        """
        if self.grid.same_as(image.grid):
            return replace(self, grid=image.grid)
        values, grid = in_order_of(self.array, self.grid, image.grid)
        first = np.linalg.solve(image.grid.ijk_to_lps, [*grid.origin, 1.0])[:3]
        start = np.round(first).astype(int)
        origin = image.grid.ijk_to_lps @ [*start, 1.0]
        part = replace(image.grid, size=grid.size, origin=tuple(origin[:3].tolist()))
        stop = start + grid.size
        inside = (start >= 0).all() and (stop <= image.grid.size).all()
        if not (inside and grid.same_as(part)):
            raise SAMAutoSegError(
                f"{self.source} is not on the grid of {image.source or image.name}:"
                f" {self.grid.describe_difference(image.grid)}; resample it to that image"
            )
        box = tuple(slice(a, b) for a, b in zip(start[::-1], stop[::-1], strict=True))
        array = np.zeros((len(self.array), *image.grid.size[::-1]), self.array.dtype)
        array[(slice(None), *box)] = values
        return replace(self, array=array, grid=image.grid)
