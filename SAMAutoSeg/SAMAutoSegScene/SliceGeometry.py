"""Where a point of the scene lies in the slices of a volume, and the way back."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import slicer
import vtk

from SAMAutoSegLib.errors import SAMAutoSegError
from SAMAutoSegLib.images.selection import Roi
from SAMAutoSegLib.images.slices import Axis, Plane, SliceStack, plane_along
from SAMAutoSegLib.images.volume import Grid
from SAMAutoSegScene.Translation import _
from SAMAutoSegScene.VolumeReader import gridOfVolume

# Points of a region box along each of its edges. A curved transform is followed between corners.
_BOX_POINTS = 9

# Parts of a voxel that rounding may add to a corner, far less than anybody places a box by.
_ROUNDING = 1e-4


class SlicePoint(NamedTuple):
    """A place in voxels: slice number, row and column; whole numbers are voxel centers."""

    number: float
    row: float
    column: float


@dataclass(frozen=True)
class ViewedSlice:
    """What a slice view shows of a volume.

    Attributes:
        plane: of the volume's slices that are closest to the view.
        number: of the slice at the view's center; may lie outside of the volume.
        degrees: between the view and the volume's slices; 0 if they are parallel.
    """

    plane: Plane
    number: int
    degrees: float


class SliceGeometry:
    """Places in the slices of a volume along one axis, as `SliceStack` shows them.

    Points of the scene are RAS in world coordinates, below all transforms. The transform above the
    volume is followed, whether linear or not.
    """

    def __init__(self, volumeNode, axis: Axis = "axial") -> None:
        self.volumeNode = volumeNode
        self.grid = gridOfVolume(volumeNode)
        self.stack = emptyStack(self.grid, axis)
        self.plane = self.stack.plane
        # `place_of` is affine: its values at the origin and one step along each axis say all.
        steps = [self.stack.place_of(ijk) for ijk in ([0, 0, 0], *np.eye(3))]
        self._ijkToPlace = np.column_stack([*(step - steps[0] for step in steps[1:]), steps[0]])
        self._ijkToPlace = np.vstack([self._ijkToPlace, [0, 0, 0, 1]])

    def pointFromRAS(self, ras) -> SlicePoint:
        """Slice number, row and column of a point in world RAS; not rounded."""
        return SlicePoint(*(self._ijkToPlace @ [*ijkFromRAS(self.volumeNode, ras), 1.0])[:3])

    def rasFromPoint(self, number: float, row: float, column: float) -> np.ndarray:
        """World RAS [3] of a place in a slice."""
        ijk = np.linalg.inv(self._ijkToPlace) @ [number, row, column, 1.0]
        return rasFromIJK(self.volumeNode, ijk[:3])

    def voxelFromRAS(self, ras) -> tuple[int, int, int] | None:
        """Slice number, row and column of the voxel that holds a point; None outside."""
        number, row, column = (int(np.floor(value + 0.5)) for value in self.pointFromRAS(ras))
        rows, columns = self.stack.slice_shape
        if not (0 <= number < len(self.stack) and 0 <= row < rows and 0 <= column < columns):
            return None
        return number, row, column


def emptyStack(grid: Grid, axis: Axis) -> SliceStack:
    """A stack that has the shape of the grid and takes no memory."""
    return SliceStack(np.broadcast_to(np.uint8(0), grid.size[::-1]), grid, axis)


def boxOfSlice(stack: SliceStack, number: int) -> tuple[slice, slice, slice]:
    """The voxels of a slice as an index of an array [K, J, I]."""
    box = [slice(0, length) for length in stack.grid.size[::-1]]
    box[2 - stack.axis_index] = slice(number, number + 1)
    return box[0], box[1], box[2]


def sliceOfBox(voxels: np.ndarray, stack: SliceStack) -> np.ndarray:
    """The one slice of an array that `boxOfSlice` cut out, as [rows, columns]; a view."""
    grid = replace(stack.grid, size=voxels.shape[::-1])
    return SliceStack(voxels, grid, stack.plane).slice_at(0)


def ijkFromRAS(volumeNode, ras) -> np.ndarray:
    """World RAS in mm to voxels I, J, K of a volume, through its transform; not rounded."""
    local = _between(None, volumeNode.GetParentTransformNode()).TransformPoint(*map(float, ras))
    return (np.linalg.inv(_ijkToRAS(volumeNode)) @ [*local, 1.0])[:3]


def rasFromIJK(volumeNode, ijk) -> np.ndarray:
    """Voxels I, J, K of a volume to world RAS in mm, through its transform."""
    x, y, z, __ = (float(value) for value in _ijkToRAS(volumeNode) @ [*ijk, 1.0])
    world = _between(volumeNode.GetParentTransformNode(), None)
    return np.array(world.TransformPoint(x, y, z))


def viewedSlice(sliceNode, volumeNode) -> ViewedSlice:
    """Which slice of the volume a slice view shows, by the view's normal and center."""
    sliceToRAS = sliceNode.GetSliceToRAS()
    center = np.array([sliceToRAS.GetElement(row, 3) for row in range(3)])
    # Carried through the transform as two directions within the view: a normal would not stay
    # one under shear or a curved transform.
    edges = []
    for column in (0, 1):
        step = np.array([sliceToRAS.GetElement(row, column) for row in range(3)])
        edges.append(ijkFromRAS(volumeNode, center + step) - ijkFromRAS(volumeNode, center - step))
    spacing = np.array(gridOfVolume(volumeNode).spacing)
    normal = np.cross(*(edge * spacing for edge in edges))
    # Within a hair of a tie the first axis is taken, not whichever rounding prefers.
    share = np.round(np.abs(normal) / np.linalg.norm(normal), 9)
    axis = int(np.argmax(share))
    plane = plane_along(gridOfVolume(volumeNode), "ijk"[axis])
    number = int(np.floor(ijkFromRAS(volumeNode, center)[axis] + 0.5))
    return ViewedSlice(plane, number, float(np.degrees(np.arccos(min(share[axis], 1.0)))))


def fitRoi(roiNode, volumeNode) -> None:
    """Put a region of interest around a volume, so that there is something to drag."""
    bounds = [0.0] * 6
    volumeNode.GetRASBounds(bounds)
    low, high = np.array(bounds[::2]), np.array(bounds[1::2])
    roiNode.SetCenterWorld(*map(float, (low + high) / 2))
    roiNode.SetSizeWorld(*map(float, high - low))
    if roiNode.GetDisplayNode() is not None:
        # What is segmented in it is to be seen.
        roiNode.GetDisplayNode().SetFillVisibility(False)


def roiOfNode(roiNode, volumeNode) -> Roi:
    """The smallest box of voxels that holds every voxel the region touches.

    The region may be turned against the volume or curved by a transform; the box then holds more
    than the region.

    Raises:
        SAMAutoSegError: the region has no extent or lies outside of the volume.
    """
    size = np.array(roiNode.GetSize())
    if size.min() <= 0:
        raise SAMAutoSegError(
            _("the region '{name}' is empty: draw it in a view").format(name=roiNode.GetName())
        )
    matrix = vtk.vtkMatrix4x4()
    matrix.DeepCopy(roiNode.GetObjectToNodeMatrix())
    world = _between(roiNode.GetParentTransformNode(), None)
    local = _between(None, volumeNode.GetParentTransformNode())
    points = []
    for place in np.ndindex(_BOX_POINTS, _BOX_POINTS, _BOX_POINTS):
        if not any(index in (0, _BOX_POINTS - 1) for index in place):
            continue  # inside of the box
        corner = (np.array(place) / (_BOX_POINTS - 1) - 0.5) * size
        node = matrix.MultiplyPoint([*corner, 1.0])
        points.append([*local.TransformPoint(world.TransformPoint(*node[:3])), 1.0])
    ijk = (np.array(points) @ np.linalg.inv(_ijkToRAS(volumeNode)).T)[:, :3]
    lowest, highest = np.min(ijk, axis=0), np.max(ijk, axis=0)
    length = np.array(gridOfVolume(volumeNode).size)
    first = np.clip(np.floor(lowest + 0.5 + _ROUNDING), 0, length).astype(int)
    end = np.clip(np.ceil(highest + 0.5 - _ROUNDING), 0, length).astype(int)
    if (first >= end).any():
        raise SAMAutoSegError(
            _(
                "the region '{name}' lies outside of the volume '{volume}': move it onto the image"
            ).format(name=roiNode.GetName(), volume=volumeNode.GetName())
        )
    return Roi(*((int(a), int(b)) for a, b in zip(first, end, strict=True)))


def _ijkToRAS(volumeNode) -> np.ndarray:
    return gridOfVolume(volumeNode).ijk_to_ras


def _between(source, target):
    """The transform from below one transform node to below another; None is the world."""
    transform = vtk.vtkGeneralTransform()
    slicer.vtkMRMLTransformNode.GetTransformBetweenNodes(source, target, transform)
    return transform
