"""Voxels of segments, read and written in place, box by box, on the grid of their volume."""

from __future__ import annotations

import numpy as np
import slicer
import vtk
from vtk.util.numpy_support import vtk_to_numpy

from SAMAutoSegLib.errors import SAMAutoSegError
from SAMAutoSegLib.images.bounding_box import bounding_box
from SAMAutoSegLib.images.volume import GRID_TOLERANCE, Grid
from SAMAutoSegScene.VolumeReader import arrayFromMatrix, matrixFromArray

BINARY = "Binary labelmap"
SURFACE = "Closed surface"

Box = tuple[slice, slice, slice]


class SegmentLayers:
    """The labelmaps of a segmentation node, seen on the grid of a volume.

    Slicer keeps segments in layers: one labelmap holds several segments that do not overlap, each
    with a value of its own, and covers only the part that is not empty. Boxes are indices
    [K, J, I] of the volume's array, whatever part a layer covers.
    """

    def __init__(self, segmentationNode, grid: Grid) -> None:
        self.segmentationNode = segmentationNode
        self.grid = grid

    @property
    def segmentation(self):
        return self.segmentationNode.GetSegmentation()

    def segmentIds(self) -> list[str]:
        return list(self.segmentation.GetSegmentIDs())

    def labelmap(self, segmentId: str):
        """The vtkOrientedImageData that a segment shares with those of its layer; or None."""
        segment = self.segmentation.GetSegment(segmentId)
        return None if segment is None else segment.GetRepresentation(BINARY)

    def value(self, segmentId: str) -> int:
        """The segment's voxel value in its layer."""
        return self.segmentation.GetSegment(segmentId).GetLabelValue()

    def sharing(self, labelmap) -> list[str]:
        """The segments of a layer."""
        return [one for one in self.segmentIds() if self.labelmap(one) is labelmap]

    def stamp(self, segmentId: str) -> tuple:
        """Differs from an earlier one if the segment's voxels may have changed since."""
        labelmap = self.labelmap(segmentId)
        if labelmap is None:
            return ()
        return labelmap.GetAddressAsString(""), labelmap.GetMTime(), self.value(segmentId)

    def offset(self, labelmap) -> tuple[int, int, int] | None:
        """Voxels I, J, K from the grid's first one to the layer's index 0; None off the grid."""
        return latticeOffset(labelmap, self.grid)

    def occupied(self, labelmap) -> Box:
        """What a layer on the grid covers, in the grid's indices; it may reach beyond the grid."""
        extent, offset = labelmap.GetExtent(), self.offset(labelmap)
        return tuple(
            slice(extent[2 * axis] + offset[axis], extent[2 * axis + 1] + offset[axis] + 1)
            for axis in (2, 1, 0)
        )

    def codes(self, labelmap, box: Box) -> np.ndarray:
        """The layer's values in a box; 0 where it covers nothing. Off the grid: the nearest."""
        if isEmpty(labelmap):
            return np.zeros(shapeOf(box), np.uint8)
        if self.offset(labelmap) is None:
            return resampled(labelmap, self.grid, box)
        covered = self.occupied(labelmap)
        common = intersection(covered, box)
        if common is None:
            return np.zeros(shapeOf(box), np.uint8)
        view = viewOf(labelmap)
        if common == box:
            return view[within(covered, box)]
        values = np.zeros(shapeOf(box), view.dtype)
        values[within(box, common)] = view[within(covered, common)]
        return values

    def mask(self, segmentId: str, box: Box) -> np.ndarray:
        """Where a segment is, bool, in a box."""
        labelmap = self.labelmap(segmentId)
        if labelmap is None:
            return np.zeros(shapeOf(box), bool)
        return self.codes(labelmap, box) == self.value(segmentId)

    def write(self, masks: dict[str, np.ndarray], box: Box, *, roomFor: Box) -> list[str]:
        """Give segments these voxels in a box, and none else there; no other segment changes.

        Only voxels of the box are touched. Where a layer has to be enlarged it gets room for
        `roomFor`, so that writing there next costs nothing but the writing. Nobody is told: see
        `announce`.

        Returns:
            The segments whose voxels did change.

        Raises:
            SAMAutoSegError: a segment is off the grid of the volume.
        """
        changed = [one for one, mask in masks.items() if (self.mask(one, box) != mask).any()]
        for segmentId in changed:
            self._requireOnGrid(segmentId)
        # All are taken away before any is added, so that voxels can change hands in one layer.
        for segmentId in changed:
            gone = self.mask(segmentId, box) & ~masks[segmentId]
            if gone.any():
                self._fill(segmentId, gone, box, 0)
        for segmentId in changed:
            added = masks[segmentId] & ~self.mask(segmentId, box)
            if not added.any():
                continue
            self._makeRoom(segmentId, box, roomFor)
            if (self.codes(self.labelmap(segmentId), box)[added] != 0).any():
                # Another segment of the layer stays there: they overlap from now on.
                self.segmentation.SeparateSegmentLabelmap(segmentId)
                self._makeRoom(segmentId, box, roomFor)
            self._fill(segmentId, added, box, self.value(segmentId))
        return changed

    def announce(self, segmentIds) -> None:
        """Tell views and tables that these segments changed."""
        for segmentId in segmentIds:
            segmentation = self.segmentation
            segmentation.InvokeEvent(segmentation.SourceRepresentationModified, segmentId)
            segmentation.InvokeEvent(segmentation.RepresentationModified, segmentId)

    def shrink(self) -> None:
        """Let every layer cover only what is not empty, as Slicer keeps them."""
        for labelmap in self.labelmaps():
            if isEmpty(labelmap):
                continue
            view = viewOf(labelmap)
            part = bounding_box(view != 0)
            if part is None:
                part = tuple(slice(0, 1) for _ in range(3))
            if all(s.stop - s.start == n for s, n in zip(part, view.shape, strict=True)):
                continue
            extent = list(labelmap.GetExtent())
            for axis, s in zip((2, 1, 0), part, strict=True):
                first = extent[2 * axis]
                extent[2 * axis], extent[2 * axis + 1] = first + s.start, first + s.stop - 1
            self._replace(labelmap, extent, view[part])

    def labelmaps(self) -> list:
        """Each layer once."""
        found: list = []
        for segmentId in self.segmentIds():
            labelmap = self.labelmap(segmentId)
            if labelmap is not None and not any(labelmap is other for other in found):
                found.append(labelmap)
        return found

    def bringToGrid(self) -> None:
        """Resample the layers that are off the grid; each voxel takes the nearest one's value."""
        box = wholeBox(self.grid)
        for labelmap in self.labelmaps():
            if not isEmpty(labelmap) and self.offset(labelmap) is None:
                values = self.codes(labelmap, box)
                self._replaceByGrid(labelmap, box, values, int(values.max()))
        self.shrink()
        self.announce(self.segmentIds())

    def updateSurfaces(self, segmentIds) -> None:
        """Make the surfaces of these segments anew where they have one."""
        logic = slicer.vtkSlicerSegmentationsModuleLogic
        for segmentId in segmentIds:
            segment = self.segmentation.GetSegment(segmentId)
            if segment is None or segment.GetRepresentation(SURFACE) is None:
                continue
            # Adding nothing is how one segment's surface is made again from Python.
            labelmap = self.labelmap(segmentId)
            nothing = slicer.vtkOrientedImageData()
            nothing.SetGeometryFromImageToWorldMatrix(matrixFromArray(self.grid.ijk_to_ras))
            nothing.SetExtent(0, 0, 0, 0, 0, 0)
            nothing.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 1)
            viewOf(nothing)[...] = 0
            logic.SetBinaryLabelmapToSegment(
                nothing,
                self.segmentationNode,
                segmentId,
                logic.MODE_MERGE_MASK,
                nothing.GetExtent(),
                False,
                self.sharing(labelmap),
            )

    def _fill(self, segmentId: str, where: np.ndarray, box: Box, value: int) -> None:
        labelmap = self.labelmap(segmentId)
        covered = self.occupied(labelmap)
        common = intersection(covered, box)
        target = viewOf(labelmap)[within(covered, common)]
        target[where[within(box, common)]] = value
        # Said of the array, not of the labelmap, which would throw away the surfaces shown in 3D.
        labelmap.GetPointData().GetScalars().Modified()

    def _requireOnGrid(self, segmentId: str) -> None:
        labelmap = self.labelmap(segmentId)
        if labelmap is None:
            raise SAMAutoSegError(
                f"segment '{self.segmentation.GetSegment(segmentId).GetName()}' has no voxels "
                "(its source is a surface): make Binary labelmap the source representation in the "
                "Segmentations module"
            )
        if not isEmpty(labelmap) and self.offset(labelmap) is None:
            raise SAMAutoSegError(
                f"segment '{self.segmentation.GetSegment(segmentId).GetName()}' is on another "
                "grid than the volume: resample the segmentation to the volume, or choose a new one"
            )

    def _makeRoom(self, segmentId: str, box: Box, roomFor: Box) -> None:
        """Let the segment's layer cover a box and hold the segment's value."""
        labelmap = self.labelmap(segmentId)
        value = self.value(segmentId)
        covered = None if isEmpty(labelmap) else self.occupied(labelmap)
        if covered is not None and intersection(covered, box) == box:
            if value > np.iinfo(viewOf(labelmap).dtype).max:
                slicer.vtkOrientedImageDataResample.CastImageForValue(labelmap, value)
            return
        if covered is None:
            self._replaceByGrid(labelmap, union(box, roomFor), None, value)
            return
        room = union(union(covered, box), roomFor)
        values = np.zeros(shapeOf(room), viewOf(labelmap).dtype)
        values[within(room, covered)] = viewOf(labelmap)
        self._replaceByGrid(labelmap, room, values, value)

    def _replaceByGrid(self, labelmap, box: Box, values: np.ndarray | None, value: int) -> None:
        """A new labelmap on the grid's own lattice in place of one; its voxels in `box`."""
        new = slicer.vtkOrientedImageData()
        new.SetGeometryFromImageToWorldMatrix(matrixFromArray(self.grid.ijk_to_ras))
        new.SetExtent([end for s in box[::-1] for end in (s.start, s.stop - 1)])
        kind = vtk.VTK_UNSIGNED_CHAR
        if values is not None:
            kind = labelmap.GetScalarType()
        elif value > 255:
            kind = vtk.VTK_UNSIGNED_SHORT
        new.AllocateScalars(kind, 1)
        viewOf(new)[...] = 0 if values is None else values
        slicer.vtkOrientedImageDataResample.CastImageForValue(new, value)
        self._put(labelmap, new)

    def _replace(self, labelmap, extent, values: np.ndarray) -> None:
        """A new labelmap on the same lattice in place of one."""
        new = slicer.vtkOrientedImageData()
        matrix = vtk.vtkMatrix4x4()
        labelmap.GetImageToWorldMatrix(matrix)
        new.SetGeometryFromImageToWorldMatrix(matrix)
        new.SetExtent(extent)
        new.AllocateScalars(labelmap.GetScalarType(), 1)
        viewOf(new)[...] = values
        self._put(labelmap, new)

    def _put(self, labelmap, new) -> None:
        for segmentId in self.sharing(labelmap):
            self.segmentation.GetSegment(segmentId).AddRepresentation(BINARY, new)


def viewOf(image) -> np.ndarray:
    """The voxels [K, J, I] of a vtkImageData; writing changes the image."""
    i, j, k = image.GetDimensions()
    return vtk_to_numpy(image.GetPointData().GetScalars()).reshape(k, j, i)


def isEmpty(labelmap) -> bool:
    """Whether a labelmap has no voxel at all."""
    return min(labelmap.GetDimensions()) < 1 or labelmap.GetPointData().GetScalars() is None


def latticeOffset(image, grid: Grid) -> tuple[int, int, int] | None:
    """Voxels from the grid's first voxel to the image's index 0, None unless on its lattice."""
    matrix = vtk.vtkMatrix4x4()
    image.GetImageToWorldMatrix(matrix)
    toGrid = np.linalg.inv(grid.ijk_to_ras) @ arrayFromMatrix(matrix)
    offset = np.round(toGrid[:3, 3])
    # How far the corners of the image lie from voxel centers of the grid.
    extent = np.reshape(image.GetExtent(), (3, 2))
    corners = np.array(np.meshgrid(*extent, indexing="ij")).reshape(3, -1)
    moved = toGrid[:3, :3] @ corners + toGrid[:3, 3:] - corners - offset[:, None]
    if np.abs(moved).max() > GRID_TOLERANCE:
        return None
    if np.abs(toGrid[:3, :3] - np.eye(3)).max() > GRID_TOLERANCE:
        return None
    i, j, k = (int(value) for value in offset)
    return i, j, k


def resampled(image, grid: Grid, box: Box) -> np.ndarray:
    """Values of an image in a box of the grid, each taken from the nearest voxel; 0 outside."""
    reference = slicer.vtkOrientedImageData()
    reference.SetGeometryFromImageToWorldMatrix(matrixFromArray(grid.ijk_to_ras))
    reference.SetExtent([end for s in box[::-1] for end in (s.start, s.stop - 1)])
    result = slicer.vtkOrientedImageData()
    slicer.vtkOrientedImageDataResample.ResampleOrientedImageToReferenceOrientedImage(
        image, reference, result, False, False
    )
    return viewOf(result)


def wholeBox(grid: Grid) -> Box:
    """The box of all voxels."""
    i, j, k = grid.size
    return slice(0, k), slice(0, j), slice(0, i)


def shapeOf(box: Box) -> tuple[int, int, int]:
    k, j, i = (s.stop - s.start for s in box)
    return k, j, i


def intersection(one: Box, other: Box) -> Box | None:
    """What two boxes share; None if nothing."""
    common = tuple(
        slice(max(a.start, b.start), min(a.stop, b.stop)) for a, b in zip(one, other, strict=True)
    )
    return None if any(s.start >= s.stop for s in common) else common


def union(one: Box, other: Box) -> Box:
    """The smallest box around two boxes."""
    return tuple(
        slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in zip(one, other, strict=True)
    )


def within(outer: Box, inner: Box) -> Box:
    """A box as an index of an array that covers another one."""
    return tuple(
        slice(i.start - o.start, i.stop - o.start) for o, i in zip(outer, inner, strict=True)
    )
