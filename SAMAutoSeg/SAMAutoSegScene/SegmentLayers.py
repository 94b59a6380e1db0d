"""Voxels of segments, read and written in place, box by box, on the grid of their volume."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import slicer
import vtk
from vtk.util.numpy_support import get_vtk_array_type, vtk_to_numpy

from SAMAutoSegLib.errors import SAMAutoSegError
from SAMAutoSegLib.images.bounding_box import bounding_box
from SAMAutoSegLib.images.volume import GRID_TOLERANCE, Grid
from SAMAutoSegScene.Translation import _
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
        self._ijkToRAS = grid.ijk_to_ras
        self._rasToIJK = np.linalg.inv(self._ijkToRAS)

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

    def labelmaps(self) -> list:
        """Each layer once."""
        found: list = []
        for segmentId in self.segmentIds():
            labelmap = self.labelmap(segmentId)
            if labelmap is not None and not any(labelmap is other for other in found):
                found.append(labelmap)
        return found

    def areEmpty(self) -> bool:
        """Whether no segment has a voxel."""
        return not any(viewOf(one).any() for one in self.labelmaps() if not isEmpty(one))

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
        matrix = vtk.vtkMatrix4x4()
        labelmap.GetImageToWorldMatrix(matrix)
        toGrid = self._rasToIJK @ arrayFromMatrix(matrix)
        offset = np.round(toGrid[:3, 3])
        # The farthest that a voxel can lie from a voxel of the grid.
        reach = np.abs(np.reshape(labelmap.GetExtent(), (3, 2))).max(1) + 1
        away = np.abs(toGrid[:3, :3] - np.eye(3)) @ reach + np.abs(toGrid[:3, 3] - offset)
        if away.max() > GRID_TOLERANCE:
            return None
        i, j, k = (int(value) for value in offset)
        return i, j, k

    def isOffGrid(self, labelmap) -> bool:
        """Whether a layer has voxels that are no voxels of the grid."""
        return not isEmpty(labelmap) and self.offset(labelmap) is None

    def isReordered(self, labelmap) -> bool:
        """Whether a layer is on the grid's voxels, though perhaps stored in another order."""
        matrix = vtk.vtkMatrix4x4()
        labelmap.GetImageToWorldMatrix(matrix)
        toGrid = self._rasToIJK @ arrayFromMatrix(matrix)
        order = np.round(toGrid)
        reach = np.abs(np.reshape(labelmap.GetExtent(), (3, 2))).max(1) + 1
        away = np.abs(toGrid - order)[:3] @ [*reach, 1]
        isOrder = (np.abs(order[:3, :3]).sum(0) == 1).all() and abs(np.linalg.det(order)) == 1
        return bool(isOrder and away.max() <= GRID_TOLERANCE)

    def occupied(self, labelmap) -> Box:
        """What a layer on the grid covers, in the grid's indices; it may reach beyond the grid."""
        extent, offset = labelmap.GetExtent(), self.offset(labelmap)
        k, j, i = (
            slice(extent[2 * axis] + offset[axis], extent[2 * axis + 1] + offset[axis] + 1)
            for axis in (2, 1, 0)
        )
        return k, j, i

    def codes(self, labelmap, box: Box) -> np.ndarray:
        """A copy of the layer's values in a box; 0 where it covers nothing.

        Of a layer that is off the grid, the values of the nearest voxels.
        """
        if isEmpty(labelmap):
            return np.zeros(shapeOf(box), np.uint8)
        if self.offset(labelmap) is None:
            return resampled(labelmap, self.grid, box)
        view = viewOf(labelmap)
        values = np.zeros(shapeOf(box), view.dtype)
        covered = self.occupied(labelmap)
        common = intersection(covered, box)
        if common is not None:
            values[within(box, common)] = view[within(covered, common)]
        return values

    def write(
        self, now: SegmentsInBox, masks: Mapping[str, np.ndarray], *, roomFor: Box | None = None
    ) -> list[str]:
        """Give segments these voxels in a box, and none else there; no other segment changes.

        Only voxels of the box are touched. Where a layer has to be enlarged it gets room for
        `roomFor`, so that writing there next costs nothing but the writing. Nobody is told: see
        `announce`.

        Args:
            now: the box as it is.
            masks: for each segment, bool of the box's shape.

        Returns:
            The segments whose voxels did change.

        Raises:
            SAMAutoSegError: a segment is off the grid of the volume.
        """
        changed = [one for one, mask in masks.items() if (now.mask(one) != mask).any()]
        for one in changed:
            self._requireOnGrid(one)
        while (updated := self._newCodes(now, changed, masks)) is None:
            now = SegmentsInBox(self, now.box)
        for labelmap, codes in updated:
            self._store(labelmap, codes, now.box, roomFor)
        return changed

    def announce(self, segmentIds: Iterable[str]) -> None:
        """Tell views and tables that these segments changed."""
        segmentation = self.segmentation
        for segmentId in segmentIds:
            segmentation.InvokeEvent(segmentation.SourceRepresentationModified, segmentId)
            segmentation.InvokeEvent(segmentation.RepresentationModified, segmentId)

    def shrink(self) -> None:
        """Let every layer cover only what is not empty, as Slicer keeps them."""
        for labelmap in self.labelmaps():
            if isEmpty(labelmap):
                continue
            view = viewOf(labelmap)
            part = bounding_box(view) or (slice(0, 1), slice(0, 1), slice(0, 1))
            if shapeOf(part) == view.shape:
                continue
            extent = list(labelmap.GetExtent())
            for axis, s in zip((2, 1, 0), part, strict=True):
                first = extent[2 * axis]
                extent[2 * axis], extent[2 * axis + 1] = first + s.start, first + s.stop - 1
            matrix = vtk.vtkMatrix4x4()
            labelmap.GetImageToWorldMatrix(matrix)
            self._put(labelmap, newImage(matrix, extent, view[part]))

    def bringToGrid(self) -> None:
        """Resample the layers that are off the grid; each voxel takes the nearest one's value."""
        box = wholeBox(self.grid)
        for labelmap in self.labelmaps():
            if not isEmpty(labelmap) and self.offset(labelmap) is None:
                self._put(labelmap, self._imageOf(self.codes(labelmap, box), box))
        self.shrink()
        self.announce(self.segmentIds())

    def updateSurfaces(self, segmentIds: Iterable[str]) -> None:
        """Make the surfaces of these segments anew where they have one."""
        logic = slicer.vtkSlicerSegmentationsModuleLogic
        for segmentId in segmentIds:
            segment = self.segmentation.GetSegment(segmentId)
            if segment is None or segment.GetRepresentation(SURFACE) is None:
                continue
            # Adding nothing is how one segment's surface is made again from Python.
            box = (slice(0, 1), slice(0, 1), slice(0, 1))
            nothing = self._imageOf(np.zeros((1, 1, 1), np.uint8), box)
            logic.SetBinaryLabelmapToSegment(
                nothing,
                self.segmentationNode,
                segmentId,
                logic.MODE_MERGE_MASK,
                nothing.GetExtent(),
                False,
                self.sharing(self.labelmap(segmentId)),
            )

    def _newCodes(
        self, now: SegmentsInBox, changed: list[str], masks: Mapping[str, np.ndarray]
    ) -> list[tuple] | None:
        """The new values of each layer that changes; None after a segment got its own layer."""
        updated = []
        for labelmap in self.labelmaps():
            segmentIds = [one for one in changed if self.labelmap(one) is labelmap]
            if not segmentIds:
                continue
            values = [self.value(one) for one in segmentIds]
            codes = now.codes(labelmap)
            codes = codes.astype(np.promote_types(codes.dtype, np.min_scalar_type(max(values))))
            # All are taken away before any is added, so that voxels can change hands.
            for one in segmentIds:
                codes[now.mask(one)] = 0
            for one, value in zip(segmentIds, values, strict=True):
                if codes[masks[one]].any():
                    # Another segment of the layer stays there: they overlap from now on.
                    self.segmentation.SeparateSegmentLabelmap(one)
                    return None
                codes[masks[one]] = value
            updated.append((labelmap, codes))
        return updated

    def _store(self, labelmap, codes: np.ndarray, box: Box, roomFor: Box | None) -> None:
        """Write a layer's values in a box; the layer is enlarged where it does not cover them."""
        covered = None if isEmpty(labelmap) else self.occupied(labelmap)
        filled = bounding_box(codes)
        if filled is not None:
            needed = moved(filled, box)
            tooSmall = covered is None or intersection(covered, needed) != needed
            if tooSmall or codes.max() > np.iinfo(viewOf(labelmap).dtype).max:
                room = union(needed, needed if roomFor is None else roomFor)
                covered = room if covered is None else union(covered, room)
                values = self.codes(labelmap, covered)
                values = values.astype(np.promote_types(values.dtype, codes.dtype), copy=False)
                enlarged = self._imageOf(values, covered)
                self._put(labelmap, enlarged)
                labelmap = enlarged
        common = None if covered is None else intersection(covered, box)
        if common is None:
            return
        viewOf(labelmap)[within(covered, common)] = codes[within(box, common)]
        # Said of the array, not of the labelmap, which would throw away the surfaces shown in 3D.
        labelmap.GetPointData().GetScalars().Modified()

    def _requireOnGrid(self, segmentId: str) -> None:
        labelmap = self.labelmap(segmentId)
        name = self.segmentation.GetSegment(segmentId).GetName()
        if labelmap is None:
            raise SAMAutoSegError(
                _(
                    "segment '{name}' has no voxels (its source is a surface): make Binary labelmap"
                    " the source representation in the Segmentations module"
                ).format(name=name)
            )
        if not isEmpty(labelmap) and self.offset(labelmap) is None:
            raise SAMAutoSegError(
                _(
                    "segment '{name}' is on another grid than the volume: press Segment to have the"
                    " segmentation resampled to the volume, or choose a new one"
                ).format(name=name)
            )

    def _imageOf(self, values: np.ndarray, box: Box):
        """A labelmap on the grid's own lattice that covers a box."""
        extent = [end for s in box[::-1] for end in (s.start, s.stop - 1)]
        return newImage(matrixFromArray(self._ijkToRAS), extent, values)

    def _put(self, labelmap, new) -> None:
        """Put a labelmap in the place of another, for all segments of the layer."""
        for segmentId in self.sharing(labelmap):
            self.segmentation.GetSegment(segmentId).AddRepresentation(BINARY, new)


class SegmentsInBox:
    """The segments as they are in a box; each layer is read once."""

    def __init__(self, layers: SegmentLayers, box: Box) -> None:
        self.layers = layers
        self.box = box
        self._codes: dict[str, np.ndarray] = {}
        self._masks: dict[str, np.ndarray] = {}

    def codes(self, labelmap) -> np.ndarray:
        """A layer's values in the box; not to be changed."""
        key = labelmap.GetAddressAsString("")
        if key not in self._codes:
            self._codes[key] = self.layers.codes(labelmap, self.box)
        return self._codes[key]

    def mask(self, segmentId: str) -> np.ndarray:
        """Where a segment is, bool; not to be changed."""
        if segmentId not in self._masks:
            labelmap = self.layers.labelmap(segmentId)
            if labelmap is None:
                self._masks[segmentId] = np.zeros(shapeOf(self.box), bool)
            else:
                self._masks[segmentId] = self.codes(labelmap) == self.layers.value(segmentId)
        return self._masks[segmentId]

    def anyOf(self, segmentIds: Iterable[str]) -> np.ndarray:
        """Where at least one of the segments is, bool."""
        found = np.zeros(shapeOf(self.box), bool)
        for segmentId in segmentIds:
            found |= self.mask(segmentId)
        return found


def viewOf(image) -> np.ndarray:
    """The voxels [K, J, I] of a vtkImageData; writing changes the image."""
    i, j, k = image.GetDimensions()
    return vtk_to_numpy(image.GetPointData().GetScalars()).reshape(k, j, i)


def newImage(matrix, extent, values: np.ndarray):
    """A vtkOrientedImageData with a copy of the values [K, J, I]."""
    image = slicer.vtkOrientedImageData()
    image.SetGeometryFromImageToWorldMatrix(matrix)
    image.SetExtent(extent)
    image.AllocateScalars(get_vtk_array_type(values.dtype), 1)
    viewOf(image)[...] = values
    return image


def isEmpty(labelmap) -> bool:
    """Whether a labelmap has no voxel at all."""
    return min(labelmap.GetDimensions()) < 1 or labelmap.GetPointData().GetScalars() is None


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
    k, j, i = (
        slice(max(a.start, b.start), min(a.stop, b.stop)) for a, b in zip(one, other, strict=True)
    )
    return None if any(s.start >= s.stop for s in (k, j, i)) else (k, j, i)


def union(one: Box, other: Box) -> Box:
    """The smallest box around two boxes."""
    k, j, i = (
        slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in zip(one, other, strict=True)
    )
    return k, j, i


def within(outer: Box, inner: Box) -> Box:
    """A box as an index of an array that covers another one."""
    return moved(inner, tuple(slice(-s.start, None) for s in outer))


def moved(box: Box, start: Box) -> Box:
    """A box that is counted from the start of another one."""
    k, j, i = (slice(s.start + o.start, s.stop + o.start) for s, o in zip(box, start, strict=True))
    return k, j, i
