"""Volume nodes as the library's volumes."""

import numpy as np
import pytest
import slicer
import vtk
from SAMAutoSegScene.VolumeReader import gridOfVolume, readVolume

from SAMAutoSegLib.errors import SAMAutoSegError


def test_voxels_and_grid_are_those_of_the_node(scene, grid):
    array = np.random.default_rng(0).normal(size=grid.size[::-1]).astype(np.float32)
    volume = readVolume(scene.volume(grid, array, name="scan"))
    np.testing.assert_array_equal(volume.array, array)
    assert volume.array.dtype == np.float32
    assert volume.grid.describe_difference(grid, tolerance=1e-9) == ""
    assert volume.name == "scan"


def test_nothing_is_copied(scene, grid):
    node = scene.volume(grid)
    node.GetImageData().GetPointData().GetScalars().SetComponent(0, 0, 77)
    assert readVolume(node).array[0, 0, 0] == 77


def test_a_transform_above_the_volume_does_not_change_its_grid(scene, grid):
    node = scene.volume(grid)
    node.SetAndObserveTransformNodeID(scene.linear_transform().GetID())
    assert readVolume(node).grid.describe_difference(grid, tolerance=1e-9) == ""


def test_an_image_whose_indices_start_elsewhere_keeps_its_place(scene):
    node = scene.add("vtkMRMLScalarVolumeNode")
    image = vtk.vtkImageData()
    image.SetExtent(3, 6, 2, 4, 5, 6)
    image.AllocateScalars(vtk.VTK_SHORT, 1)
    node.SetAndObserveImageData(image)
    node.SetSpacing(2, 3, 4)
    grid = gridOfVolume(node)
    assert grid.size == (4, 3, 2)
    np.testing.assert_allclose(grid.ijk_to_ras @ [0, 0, 0, 1], [6, 6, 20, 1])


def test_the_modality_is_what_dicom_says(scene, plain_grid):
    node = scene.volume(plain_grid)
    assert readVolume(node).modality is None
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene.mrml)
    item = hierarchy.CreateItem(hierarchy.GetSceneItemID(), node)
    hierarchy.SetItemAttribute(item, "DICOM.Modality", "MR")
    assert readVolume(node).modality == "MR"


def no_volume(scene, grid):
    return None


def removed(scene, grid):
    node = scene.volume(grid)
    scene.mrml.RemoveNode(node)
    return node


def without_image(scene, grid):
    return scene.add("vtkMRMLScalarVolumeNode")


def without_voxels(scene, grid):
    node = scene.add("vtkMRMLScalarVolumeNode")
    node.SetAndObserveImageData(vtk.vtkImageData())
    return node


def without_values(scene, grid):
    node = scene.add("vtkMRMLScalarVolumeNode")
    image = vtk.vtkImageData()
    image.SetDimensions(4, 4, 4)
    node.SetAndObserveImageData(image)
    return node


def color(scene, grid):
    node = scene.add("vtkMRMLVectorVolumeNode")
    image = vtk.vtkImageData()
    image.SetDimensions(4, 4, 4)
    image.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 3)
    node.SetAndObserveImageData(image)
    return node


def label_map(scene, grid):
    return scene.add("vtkMRMLLabelMapVolumeNode")


def model(scene, grid):
    return scene.add("vtkMRMLModelNode")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (no_volume, "no volume is chosen"),
        (removed, "was removed"),
        (without_image, "is empty"),
        (without_voxels, "is empty"),
        (without_values, "is empty"),
        (color, "3 values per voxel"),
        (label_map, "is a label map"),
        (model, "is not an image volume"),
    ],
)
def test_what_cannot_be_segmented_is_said_in_one_line(scene, plain_grid, make, words):
    with pytest.raises(SAMAutoSegError, match=words) as caught:
        readVolume(make(scene, plain_grid))
    assert "\n" not in str(caught.value)


def test_a_frame_of_a_sequence_is_a_volume_like_any_other(scene, plain_grid):
    sequences = slicer.vtkSlicerSequencesLogic()
    sequences.SetMRMLApplicationLogic(scene.application)
    sequences.SetMRMLScene(scene.mrml)
    sequence = scene.add("vtkMRMLSequenceNode")
    sequence.SetDataNodeAtValue(scene.volume(plain_grid), "0")
    browser = scene.add("vtkMRMLSequenceBrowserNode")
    browser.SetAndObserveMasterSequenceNodeID(sequence.GetID())
    sequences.UpdateProxyNodesFromSequences(browser)
    assert readVolume(browser.GetProxyNode(sequence)).grid.size == plain_grid.size
