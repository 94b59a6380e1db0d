"""A MRML scene without a window, and volumes in every orientation."""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

try:
    import slicer
    import vtk
    from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy
except ImportError:
    # test_slicer_core.py says what is missing.
    collect_ignore_glob = ["test_[!s]*.py", "test_s[!l]*.py", "test_slice_*.py"]

from SAMAutoSegLib.images.structure import Structure
from SAMAutoSegLib.images.volume import Grid

# Slicer puts the folder of a module on its path.
sys.path.insert(0, str(Path(__file__).parents[2] / "SAMAutoSeg"))


def rotation(degrees: float) -> np.ndarray:
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    about_z = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    return about_z @ np.array([[1, 0, 0], [0, c, -s], [0, s, c]])


# Directions in LPS, as in NRRD and DICOM.
GRIDS = {
    "plain": Grid((9, 8, 7), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), np.eye(3)),
    "anisotropic": Grid((9, 8, 7), (0.7, 0.8, 5.0), (-12.5, 30.25, 1000.125), np.eye(3)),
    "oblique": Grid((9, 8, 7), (0.7, 0.8, 5.0), (-12.5, 30.25, -400.5), rotation(17.0)),
    "flipped": Grid((9, 8, 7), (0.7, 0.8, 5.0), (177.9, 11.3, 94.3), np.diag([-1.0, -1.0, 1.0])),
    "mirrored": Grid((9, 8, 7), (0.7, 0.8, 5.0), (5.0, 6.0, 7.0), np.diag([1.0, 1.0, -1.0])),
    "permuted": Grid((9, 8, 7), (0.7, 0.8, 5.0), (5.0, 6.0, 7.0), np.eye(3)[[2, 0, 1]]),
}
PLANES = ("axial", "coronal", "sagittal")


class Scene:
    """A scene with the logics that segmentations need, and ways to fill it."""

    def __init__(self) -> None:
        self.mrml = slicer.vtkMRMLScene()
        self.application = slicer.vtkSlicerApplicationLogic()
        self.application.SetMRMLScene(self.mrml)
        # Registers the conversion rules and the classes of the segmentation nodes.
        self.segmentations = slicer.vtkSlicerSegmentationsModuleLogic()
        self.segmentations.SetMRMLApplicationLogic(self.application)
        self.segmentations.SetMRMLScene(self.mrml)

    def add(self, name: str):
        return self.mrml.AddNewNodeByClass(name)

    def volume(self, grid: Grid, array: np.ndarray | None = None, name: str = "CT"):
        """A volume node; by default every voxel has a value of its own."""
        if array is None:
            array = np.arange(np.prod(grid.size), dtype=np.int16).reshape(grid.size[::-1])
        node = self.mrml.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
        image = vtk.vtkImageData()
        image.SetDimensions(grid.size)
        image.GetPointData().SetScalars(numpy_to_vtk(array.ravel(), deep=True))
        node.SetAndObserveImageData(image)
        matrix = vtk.vtkMatrix4x4()
        matrix.DeepCopy(grid.ijk_to_ras.ravel().tolist())
        node.SetIJKToRASMatrix(matrix)
        return node

    def linear_transform(self, shift=(10.0, -20.0, 30.0), degrees: float = 30.0):
        node = self.add("vtkMRMLLinearTransformNode")
        transform = vtk.vtkTransform()
        transform.Translate(*shift)
        transform.RotateWXYZ(degrees, 1, 2, 3)
        node.SetMatrixTransformToParent(transform.GetMatrix())
        return node

    def curved_transform(self, pull: float = 4.0):
        """Moves points along x by up to `pull` mm, the most near the origin."""
        node = self.add("vtkMRMLTransformNode")
        transform = vtk.vtkThinPlateSplineTransform()
        corners = [[x, y, z] for x in (-90, 90) for y in (-90, 90) for z in (-90, 90)]
        source, target = vtk.vtkPoints(), vtk.vtkPoints()
        for x, y, z in [*corners, [0, 0, 0]]:
            source.InsertNextPoint(x, y, z)
            target.InsertNextPoint(x + (pull if (x, y, z) == (0, 0, 0) else 0), y, z)
        transform.SetSourceLandmarks(source)
        transform.SetTargetLandmarks(target)
        transform.SetBasisToR()
        node.SetAndObserveTransformToParent(transform)
        return node


def write_volume(writer, axis: str, labels: np.ndarray, segment_ids, numbers=None) -> None:
    """Write these slices of labels [K, J, I] as a run does, by default all."""
    from SAMAutoSegScene.SliceGeometry import boxOfSlice, emptyStack, sliceOfBox

    stack = emptyStack(writer.layers.grid, axis)
    for number in range(len(stack)) if numbers is None else numbers:
        values = sliceOfBox(labels[boxOfSlice(stack, number)], stack)
        writer.writeSlice(axis, number, values, segment_ids)


@pytest.fixture
def scene() -> Scene:
    return Scene()


@pytest.fixture
def make_scene() -> type[Scene]:
    """For tests that compare what happens in two scenes."""
    return Scene


@pytest.fixture(params=GRIDS)
def grid(request: pytest.FixtureRequest) -> Grid:
    return GRIDS[request.param]


@pytest.fixture
def plain_grid() -> Grid:
    return GRIDS["plain"]


@pytest.fixture(params=PLANES)
def plane(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def structures() -> list[Structure]:
    return [
        Structure(1, "spleen", (0.8, 0.5, 0.9)),
        Structure(2, "liver", (0.2, 0.8, 0.5), "a~b^c^liver~d^e^liver~^^~f~^^~^^"),
    ]


@pytest.fixture
def mask_of() -> Callable[..., np.ndarray]:
    """The voxels of a segment [K, J, I] on a grid, as Slicer itself exports them."""

    def read(node, segment_id: str, grid: Grid) -> np.ndarray:
        image = slicer.vtkOrientedImageData()
        node.GetBinaryLabelmapRepresentation(segment_id, image)
        reference = slicer.vtkOrientedImageData()
        matrix = vtk.vtkMatrix4x4()
        matrix.DeepCopy(grid.ijk_to_ras.ravel().tolist())
        reference.SetGeometryFromImageToWorldMatrix(matrix)
        reference.SetExtent(0, grid.size[0] - 1, 0, grid.size[1] - 1, 0, grid.size[2] - 1)
        result = slicer.vtkOrientedImageData()
        if min(image.GetDimensions()) < 1:
            return np.zeros(grid.size[::-1], bool)
        slicer.vtkOrientedImageDataResample.ResampleOrientedImageToReferenceOrientedImage(
            image, reference, result, False, False
        )
        scalars = result.GetPointData().GetScalars()
        return vtk_to_numpy(scalars).reshape(grid.size[::-1]) != 0

    return read


@pytest.fixture
def paint() -> Callable[..., None]:
    """What painting or erasing with Slicer's own tools does; others keep what they have."""

    def change(node, segment_id: str, voxels: np.ndarray, grid: Grid, erase: bool = False) -> None:
        image = slicer.vtkOrientedImageData()
        matrix = vtk.vtkMatrix4x4()
        matrix.DeepCopy(grid.ijk_to_ras.ravel().tolist())
        image.SetGeometryFromImageToWorldMatrix(matrix)
        image.SetExtent(0, grid.size[0] - 1, 0, grid.size[1] - 1, 0, grid.size[2] - 1)
        image.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 1)
        values = ~voxels if erase else voxels
        vtk_to_numpy(image.GetPointData().GetScalars())[:] = values.ravel()
        logic = slicer.vtkSlicerSegmentationsModuleLogic
        logic.SetBinaryLabelmapToSegment(
            image,
            node,
            segment_id,
            logic.MODE_MERGE_MIN if erase else logic.MODE_MERGE_MASK,
            image.GetExtent(),
        )

    return change


@pytest.fixture
def history() -> Callable[..., object]:
    """Slicer's undo of a segmentation."""

    def of(node):
        states = slicer.vtkSegmentationHistory()
        states.SetSegmentation(node.GetSegmentation())
        return states

    return of


@pytest.fixture
def labels_for() -> Callable[..., np.ndarray]:
    """Random labels 0, 1, 2 on a grid."""

    def draw(grid: Grid, seed: int = 0) -> np.ndarray:
        return np.random.default_rng(seed).integers(0, 3, grid.size[::-1]).astype(np.uint8)

    return draw
