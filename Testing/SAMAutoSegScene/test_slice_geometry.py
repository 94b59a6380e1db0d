"""Points of the scene in the slices of a volume."""

import numpy as np
import pytest
import slicer
import vtk
from SAMAutoSegScene.SliceGeometry import (
    SliceGeometry,
    boxOfSlice,
    fitRoi,
    ijkFromRAS,
    rasFromIJK,
    roiOfNode,
    sliceOfBox,
    viewedSlice,
)

from SAMAutoSegLib.errors import SAMAutoSegError
from SAMAutoSegLib.images.slices import SliceStack

TRANSFORMS = ["none", "linear", "curved"]


@pytest.fixture(params=TRANSFORMS)
def volume_node(request, scene, grid):
    node = scene.volume(grid)
    if request.param == "linear":
        node.SetAndObserveTransformNodeID(scene.linear_transform().GetID())
    elif request.param == "curved":
        node.SetAndObserveTransformNodeID(scene.curved_transform().GetID())
    return node


def test_the_point_of_a_voxel_is_found_in_its_slice(volume_node, grid, plane):
    geometry = SliceGeometry(volume_node, plane)
    array = np.arange(np.prod(grid.size)).reshape(grid.size[::-1])
    stack = SliceStack(array, grid, plane)
    for i, j, k in [(0, 0, 0), (3, 4, 5), (8, 7, 6)]:
        ras = rasFromIJK(volume_node, (i, j, k))
        number, row, column = geometry.voxelFromRAS(ras)
        assert stack.slice_at(number)[row, column] == array[k, j, i]
        np.testing.assert_allclose(geometry.rasFromPoint(number, row, column), ras, atol=1e-2)


def test_slicer_puts_the_voxel_at_the_same_point(scene, volume_node):
    point = scene.add("vtkMRMLMarkupsFiducialNode")
    point.SetAndObserveTransformNodeID(volume_node.GetTransformNodeID())
    matrix = vtk.vtkMatrix4x4()
    volume_node.GetIJKToRASMatrix(matrix)
    point.AddControlPoint(matrix.MultiplyPoint([3, 4, 5, 1])[:3])
    ras = [0.0, 0.0, 0.0]
    point.GetNthControlPointPositionWorld(0, ras)
    np.testing.assert_allclose(rasFromIJK(volume_node, (3, 4, 5)), ras, atol=1e-6)
    np.testing.assert_allclose(ijkFromRAS(volume_node, ras), [3, 4, 5], atol=1e-2)


def test_points_outside_of_the_volume_are_in_no_voxel(volume_node, plane):
    geometry = SliceGeometry(volume_node, plane)
    assert geometry.voxelFromRAS(rasFromIJK(volume_node, (-0.7, 2, 2))) is None
    assert geometry.voxelFromRAS(rasFromIJK(volume_node, (2, 2, 6.7))) is None


def test_a_slice_cut_out_of_an_array_looks_as_the_stack_shows_it(grid, plane, labels_for):
    array = labels_for(grid)
    stack = SliceStack(array, grid, plane)
    for number in (0, len(stack) - 1):
        cut = sliceOfBox(array[boxOfSlice(stack, number)], stack)
        np.testing.assert_array_equal(cut, stack.slice_at(number))


SLICE_TO_RAS = {
    "axial": [[-1, 0, 0], [0, 1, 0], [0, 0, 1]],
    "sagittal": [[0, 0, 1], [-1, 0, 0], [0, 1, 0]],
    "coronal": [[-1, 0, 0], [0, 0, 1], [0, 1, 0]],
}


def view(scene, orientation: str, center, turned: np.ndarray | None = None):
    node = slicer.vtkMRMLSliceNode()
    node.SetLayoutName("Red")
    scene.mrml.AddNode(node)
    matrix = np.eye(4)
    matrix[:3, :3] = SLICE_TO_RAS[orientation]
    if turned is not None:
        matrix[:3, :3] = turned @ matrix[:3, :3]
    matrix[:3, 3] = center
    node.GetSliceToRAS().DeepCopy(matrix.ravel().tolist())
    node.UpdateMatrices()
    return node


def test_a_view_shows_the_slices_of_its_plane(scene, grid, plane):
    volume_node = scene.volume(grid)
    center = rasFromIJK(volume_node, (4, 3, 2))
    viewed = viewedSlice(view(scene, plane, center), volume_node)
    geometry = SliceGeometry(volume_node, plane)
    assert viewed.plane == plane
    assert viewed.number == geometry.voxelFromRAS(center)[0]
    assert viewed.degrees < 25  # the oblique grid is turned by 17 degrees about two axes


def test_a_view_turned_with_the_transform_of_the_volume_is_parallel_to_its_slices(
    scene, plain_grid, plane
):
    volume_node = scene.volume(plain_grid)
    transform = scene.linear_transform(degrees=80.0)
    volume_node.SetAndObserveTransformNodeID(transform.GetID())
    matrix = vtk.vtkMatrix4x4()
    transform.GetMatrixTransformToParent(matrix)
    turned = np.reshape(matrix.GetData(), (4, 4))[:3, :3]
    center = rasFromIJK(volume_node, (4, 3, 2))
    viewed = viewedSlice(view(scene, plane, center, turned), volume_node)
    assert viewed.plane == plane
    assert viewed.degrees == pytest.approx(0, abs=0.1)


def roi(scene, center, size, degrees: float = 0.0):
    node = scene.add("vtkMRMLMarkupsROINode")
    transform = vtk.vtkTransform()
    transform.Translate(*center)
    transform.RotateZ(degrees)
    node.SetAndObserveObjectToNodeMatrix(transform.GetMatrix())
    node.SetSize(size)
    return node


def test_a_region_becomes_the_voxels_that_it_touches(scene, plain_grid):
    volume_node = scene.volume(plain_grid)
    center = rasFromIJK(volume_node, (4, 3, 2))
    box = roiOfNode(roi(scene, center, (3.0, 1.0, 2.0)), volume_node)
    # In I from 2.5 to 5.5, in J from 2.5 to 3.5, in K from 1 to 3.
    assert (box.i, box.j, box.k) == ((3, 6), (3, 4), (1, 4))


def test_a_turned_region_is_held_by_its_box(scene, plain_grid):
    volume_node = scene.volume(plain_grid)
    center = rasFromIJK(volume_node, (4, 4, 2))
    box = roiOfNode(roi(scene, center, (3.0, 3.0, 1.0), degrees=45), volume_node)
    # Half of the diagonal is 2.12 voxels.
    assert (box.i, box.j, box.k) == ((2, 7), (2, 7), (2, 3))


def test_a_region_holds_what_lies_in_it_on_every_grid(scene, volume_node, grid):
    center = rasFromIJK(volume_node, (4, 3, 3))
    node = roi(scene, center, (4.0, 4.0, 8.0), degrees=20)
    box = roiOfNode(node, volume_node)
    inverse = vtk.vtkMatrix4x4()
    vtk.vtkMatrix4x4.Invert(node.GetObjectToNodeMatrix(), inverse)
    for k, j, i in np.ndindex(grid.size[::-1]):
        place = inverse.MultiplyPoint([*rasFromIJK(volume_node, (i, j, k)), 1.0])[:3]
        if (np.abs(place) <= [2.0, 2.0, 4.0]).all():
            assert box.i[0] <= i < box.i[1] and box.j[0] <= j < box.j[1]
            assert box.k[0] <= k < box.k[1]


def test_a_new_region_is_put_around_the_volume(scene, volume_node, grid):
    node = scene.add("vtkMRMLMarkupsROINode")
    fitRoi(node, volume_node)
    box = roiOfNode(node, volume_node)
    assert [box.i, box.j, box.k] == [(0, length) for length in grid.size]


def test_a_region_beside_the_volume_or_without_extent_is_an_error(scene, plain_grid):
    volume_node = scene.volume(plain_grid)
    with pytest.raises(SAMAutoSegError, match="outside of the volume"):
        roiOfNode(roi(scene, (500, 0, 0), (3, 3, 3)), volume_node)
    with pytest.raises(SAMAutoSegError, match="is empty"):
        roiOfNode(roi(scene, (0, 0, 0), (0, 3, 3)), volume_node)
