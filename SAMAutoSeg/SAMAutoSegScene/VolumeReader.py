"""A volume node as the library's volume: voxels [K, J, I] and the grid that places them."""

from __future__ import annotations

import numpy as np
import slicer
import vtk
from vtk.util.numpy_support import vtk_to_numpy

from SAMAutoSegLib.errors import SAMAutoSegError
from SAMAutoSegLib.images.volume import Grid, Modality, Volume
from SAMAutoSegScene.Translation import _

_MODALITIES: tuple[Modality, ...] = ("CT", "MR")


def readVolume(volumeNode) -> Volume:
    """The volume of a node, without a copy: its array [K, J, I] changes when the node does.

    The grid is that of the node itself. A transform above the node moves volume and segmentation
    together and is no part of it.

    Raises:
        SAMAutoSegError: see `requireReadable`.
    """
    requireReadable(volumeNode)
    grid = gridOfVolume(volumeNode)
    scalars = volumeNode.GetImageData().GetPointData().GetScalars()
    array = vtk_to_numpy(scalars).reshape(grid.size[::-1])
    return Volume(array, grid, volumeNode.GetName() or "volume", modality=_modality(volumeNode))


def requireReadable(volumeNode) -> None:
    """Raise `SAMAutoSegError` unless the node holds one gray value a voxel."""
    if volumeNode is None:
        raise SAMAutoSegError(_("no volume is chosen: load an image and choose it as input volume"))
    problem = _problemOf(volumeNode)
    if problem:
        raise SAMAutoSegError(
            problem.format(name=volumeNode.GetName(), components=_componentsOf(volumeNode))
        )


def _problemOf(volumeNode) -> str:
    if volumeNode.GetScene() is None:
        return _("the volume '{name}' was removed: choose another input volume")
    if not volumeNode.IsA("vtkMRMLScalarVolumeNode"):
        return _("'{name}' is not an image volume: choose a CT or MR volume")
    if volumeNode.IsA("vtkMRMLLabelMapVolumeNode"):
        return _("'{name}' is a label map, not an image: choose the volume that it was drawn on")
    if volumeNode.IsA("vtkMRMLDiffusionTensorVolumeNode"):
        return _(
            "'{name}' holds tensors, not gray values: choose a volume with one value per voxel"
        )
    if _componentsOf(volumeNode) > 1:
        return _(
            "'{name}' has {components} values per voxel (a color, vector or 4D image): choose a"
            " volume with one gray value per voxel, such as one frame or one color channel"
        )
    image = volumeNode.GetImageData()
    if (
        image is None
        or min(image.GetDimensions()) < 1
        or image.GetPointData().GetScalars() is None
        or image.GetPointData().GetScalars().GetNumberOfTuples() == 0
    ):
        return _("the volume '{name}' is empty: load its image again")
    return ""


def _componentsOf(volumeNode) -> int:
    image = volumeNode.GetImageData() if volumeNode.IsA("vtkMRMLVolumeNode") else None
    return 0 if image is None else image.GetNumberOfScalarComponents()


def gridOfVolume(volumeNode) -> Grid:
    """The grid (LPS) of a volume node that holds an image."""
    matrix = vtk.vtkMatrix4x4()
    volumeNode.GetIJKToRASMatrix(matrix)
    return gridFromMatrix(arrayFromMatrix(matrix), volumeNode.GetImageData().GetExtent())


def gridFromMatrix(ijkToRAS: np.ndarray, extent) -> Grid:
    """The grid (LPS) of the voxels of `extent` (i0, i1, j0, j1, k0, k1; both ends included)."""
    ijkToLPS = np.diag([-1.0, -1.0, 1.0, 1.0]) @ ijkToRAS
    first = ijkToLPS @ [extent[0], extent[2], extent[4], 1.0]
    spacing = np.linalg.norm(ijkToLPS[:3, :3], axis=0)
    if not (spacing > 0).all():
        raise SAMAutoSegError(
            _(
                "the voxel spacing is {spacing} mm: give the volume a spacing above zero in the"
                " Volumes module"
            ).format(spacing=", ".join(f"{value:g}" for value in spacing))
        )
    size = tuple(extent[2 * axis + 1] - extent[2 * axis] + 1 for axis in range(3))
    x, y, z = (float(value) for value in first[:3])
    i, j, k = (float(value) for value in spacing)
    return Grid(size, (i, j, k), (x, y, z), ijkToLPS[:3, :3] / spacing)


def arrayFromMatrix(matrix) -> np.ndarray:
    """A vtkMatrix4x4 as an array."""
    return np.reshape(matrix.GetData(), (4, 4))


def matrixFromArray(array: np.ndarray):
    """An array [4, 4] as a vtkMatrix4x4."""
    matrix = vtk.vtkMatrix4x4()
    matrix.DeepCopy(np.asarray(array, float).ravel().tolist())
    return matrix


def _modality(volumeNode) -> Modality | None:
    """What DICOM says, if the volume came from there."""
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(volumeNode.GetScene())
    item = hierarchy.GetItemByDataNode(volumeNode) if hierarchy is not None else 0
    if not item:
        return None
    stated = hierarchy.GetItemAttribute(item, "DICOM.Modality")
    return next((modality for modality in _MODALITIES if modality == stated), None)
