"""Writing slices and clicks into segments."""

import itertools

import numpy as np
import pytest
import slicer
import vtk
from SAMAutoSegScene.SegmentationOutput import prepareSegmentation
from SAMAutoSegScene.SegmentWriter import SegmentWriter
from vtk.util.numpy_support import vtk_to_numpy

from SAMAutoSegLib.errors import SAMAutoSegError
from SAMAutoSegLib.images.selection import Roi
from SAMAutoSegLib.images.slices import SliceStack
from SAMAutoSegLib.images.structure import Structure
from SAMAutoSegLib.images.volume import Grid

from .conftest import write_volume


def written(scene, grid, structures, labels, plane="axial", **options):
    """A volume and its segmentation with these labels."""
    volume_node = scene.volume(grid)
    output = prepareSegmentation(volume_node, structures)
    writer = SegmentWriter(output.node, volume_node, **options)
    writer.begin(output.segmentIds.values())
    write_volume(writer, plane, labels, output.segmentIds)
    writer.end()
    return volume_node, output


def test_every_voxel_gets_into_its_segment_in_every_plane(
    scene, grid, plane, structures, labels_for, mask_of
):
    labels = labels_for(grid)
    _, output = written(scene, grid, structures, labels, plane)
    for label, one in output.segmentIds.items():
        np.testing.assert_array_equal(mask_of(output.node, one, grid), labels == label)


def test_one_slice_is_written_and_the_others_stay(
    scene, grid, plane, structures, labels_for, mask_of
):
    labels = labels_for(grid)
    volume_node, output = written(scene, grid, structures, labels)
    stack = SliceStack(labels, grid, plane)
    new = np.where(stack.slice_at(2) == 1, 2, 1).astype(np.uint8)
    writer = SegmentWriter(output.node, volume_node)
    writer.begin(output.segmentIds.values())
    assert writer.writeSlice(plane, 2, new, output.segmentIds)
    assert writer.end().written == [2]
    stack.put(2, new)
    for label, one in output.segmentIds.items():
        np.testing.assert_array_equal(mask_of(output.node, one, grid), labels == label)


def test_a_run_in_a_region_changes_nothing_outside(
    scene, grid, plane, structures, labels_for, mask_of
):
    labels = labels_for(grid)
    volume_node, output = written(scene, grid, structures, labels)
    region = Roi(*((1, length - 1) for length in grid.size))
    expected = labels.copy()
    expected[region.kji] = 3 - labels[region.kji]
    writer = SegmentWriter(output.node, volume_node)
    writer.begin(output.segmentIds.values(), region)
    stack = SliceStack((3 - labels).astype(np.uint8), grid, plane)
    for number in range(1, len(stack) - 1):
        assert writer.writeSlice(plane, number, stack.slice_at(number), output.segmentIds)
    writer.end()
    for label, one in output.segmentIds.items():
        np.testing.assert_array_equal(mask_of(output.node, one, grid), expected == label)


def test_segments_cover_no_more_than_they_have_to_after_a_run(scene, plain_grid, structures):
    labels = np.zeros(plain_grid.size[::-1], np.uint8)
    labels[2:4, 3, 5:7] = 1
    _, output = written(scene, plain_grid, structures, labels)
    segment = output.node.GetSegmentation().GetSegment(output.segmentIds[1])
    assert segment.GetRepresentation("Binary labelmap").GetExtent() == (5, 6, 3, 3, 2, 3)


def test_slices_appear_one_by_one(scene, plain_grid, structures, labels_for, mask_of):
    labels = labels_for(plain_grid)
    volume_node = scene.volume(plain_grid)
    output = prepareSegmentation(volume_node, structures)
    told = []
    for name in ("SourceRepresentationModified", "RepresentationModified"):
        event = getattr(slicer.vtkSegmentation, name)
        output.node.AddObserver(event, lambda caller, event: told.append(event))
    writer = SegmentWriter(output.node, volume_node)
    writer.begin(output.segmentIds.values())
    for number in (4, 1):
        told.clear()
        writer.writeSlice("axial", number, labels[number], output.segmentIds)
        shown = mask_of(output.node, output.segmentIds[2], plain_grid)
        np.testing.assert_array_equal(shown[number], labels[number] == 2)
        assert len(told) == 4
    told.clear()
    writer.writeSlice("axial", 1, labels[1], output.segmentIds)
    assert told == []


def test_writing_a_slice_touches_no_more_than_the_slice(scene, structures):
    grid = Grid((96, 96, 96), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), np.eye(3))
    volume_node = scene.volume(grid, np.zeros(grid.size[::-1], np.uint8))
    output = prepareSegmentation(volume_node, structures)
    writer = SegmentWriter(output.node, volume_node)
    writer.begin(output.segmentIds.values())
    labels = np.ones((96, 96), np.uint8)
    writer.writeSlice("axial", 0, labels, output.segmentIds)
    segment = output.node.GetSegmentation().GetSegment(output.segmentIds[1])
    labelmap = segment.GetRepresentation("Binary labelmap")
    for number in (95, 40):
        writer.writeSlice("axial", number, labels, output.segmentIds)
        assert segment.GetRepresentation("Binary labelmap") is labelmap
    # A slice written by Slicer's own function has to be cropped and padded anew each time.
    assert labelmap.GetDimensions() == (96, 96, 96)


def test_undo_takes_back_a_whole_run_and_redo_brings_it_again(
    scene, plain_grid, structures, labels_for, mask_of, history
):
    labels = labels_for(plain_grid)
    volume_node, output = written(scene, plain_grid, structures, labels)
    states = history(output.node)
    saved = []

    def save():
        saved.append(states.SaveState())

    writer = SegmentWriter(output.node, volume_node, saveUndo=save)
    writer.begin(output.segmentIds.values())
    write_volume(writer, "axial", labels[::-1], output.segmentIds)
    writer.end()
    assert saved == [True]
    states.RestorePreviousState()
    for label, one in output.segmentIds.items():
        np.testing.assert_array_equal(mask_of(output.node, one, plain_grid), labels == label)
    states.RestoreNextState()
    for label, one in output.segmentIds.items():
        np.testing.assert_array_equal(mask_of(output.node, one, plain_grid), labels[::-1] == label)


def test_undo_takes_back_one_click(scene, plain_grid, structures, labels_for, mask_of, history):
    labels = labels_for(plain_grid)
    volume_node, output = written(scene, plain_grid, structures, labels)
    states = history(output.node)
    writer = SegmentWriter(output.node, volume_node, saveUndo=states.SaveState)
    assert writer.writeMask("axial", 2, np.ones((8, 9), bool), output.segmentIds[1])
    states.RestorePreviousState()
    for label, one in output.segmentIds.items():
        np.testing.assert_array_equal(mask_of(output.node, one, plain_grid), labels == label)


def test_a_click_that_changes_nothing_is_no_action(scene, plain_grid, structures, labels_for):
    labels = labels_for(plain_grid)
    volume_node, output = written(scene, plain_grid, structures, labels)
    saved = []
    writer = SegmentWriter(output.node, volume_node, saveUndo=lambda: saved.append(1))
    assert not writer.writeMask("axial", 2, labels[2] == 1, output.segmentIds[1])
    assert saved == []


EDITOR = slicer.vtkMRMLSegmentationNode
MASKS = {
    "everywhere": EDITOR.EditAllowedEverywhere,
    "inside all": EDITOR.EditAllowedInsideAllSegments,
    "inside visible": EDITOR.EditAllowedInsideVisibleSegments,
    "outside all": EDITOR.EditAllowedOutsideAllSegments,
    "outside visible": EDITOR.EditAllowedOutsideVisibleSegments,
    "inside single": EDITOR.EditAllowedInsideSingleSegment,
}
OVERWRITE = {
    "all": slicer.vtkMRMLSegmentEditorNode.OverwriteAllSegments,
    "visible": slicer.vtkMRMLSegmentEditorNode.OverwriteVisibleSegments,
    "none": slicer.vtkMRMLSegmentEditorNode.OverwriteNone,
}
FOUR = [Structure(n, name, (1, n / 5, 0)) for n, name in enumerate("abcd", start=1)]


def segments(scene, grid, count: int = 4):
    """Segments a, b, c, ..., of which c is hidden, and an editor of a."""
    labels = np.random.default_rng(1).integers(0, count + 1, grid.size[::-1]).astype(np.uint8)
    volume_node, output = written(scene, grid, FOUR[:count], labels)
    output.node.GetDisplayNode().SetSegmentVisibility(output.segmentIds[3], False)
    editor = scene.add("vtkMRMLSegmentEditorNode")
    editor.SetAndObserveSegmentationNode(output.node)
    editor.SetAndObserveSourceVolumeNode(volume_node)
    editor.SetSelectedSegmentID(output.segmentIds[1])
    editor.SetMaskSegmentID(output.segmentIds[2])
    return volume_node, output, editor


@pytest.mark.parametrize("mode", ["add", "remove"])
@pytest.mark.parametrize("intensity", [False, True])
@pytest.mark.parametrize("overwrite", OVERWRITE)
@pytest.mark.parametrize("mask", MASKS)
def test_masking_and_overlap_are_what_slicer_makes_of_them(
    make_scene, plain_grid, mask_of, mask, overwrite, intensity, mode
):
    grid = plain_grid
    painted = np.random.default_rng(2).random(grid.size[1::-1]) < 0.5
    voxels = np.zeros(grid.size[::-1], np.uint8)
    voxels[3] = painted
    results = []
    for by_slicer in (True, False):
        scene = make_scene()
        # Not four: of visible segments in one layer with a hidden one, Slicer 5.13 takes the areas
        # from the first alone.
        volume_node, output, editor = segments(scene, grid, 3)
        editor.SetMaskMode(MASKS[mask])
        editor.SetOverwriteMode(OVERWRITE[overwrite])
        editor.SetSourceVolumeIntensityMask(intensity)
        editor.SetSourceVolumeIntensityMaskRange(230, 270)
        one = output.segmentIds[1]
        if by_slicer:
            logic = slicer.vtkSlicerSegmentEditorLogic()
            logic.SetMRMLApplicationLogic(scene.application)
            logic.SetMRMLScene(scene.mrml)
            logic.SetSegmentEditorNode(editor)
            stroke = slicer.vtkOrientedImageData()
            matrix = vtk.vtkMatrix4x4()
            volume_node.GetIJKToRASMatrix(matrix)
            stroke.SetGeometryFromImageToWorldMatrix(matrix)
            stroke.SetExtent(0, grid.size[0] - 1, 0, grid.size[1] - 1, 0, grid.size[2] - 1)
            stroke.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 1)
            vtk_to_numpy(stroke.GetPointData().GetScalars())[:] = voxels.ravel()
            how = {
                "add": logic.ModificationModeAdd,
                "remove": logic.ModificationModeRemove,
            }[mode]
            logic.ModifySegmentByLabelmap(output.node, one, stroke, how, False, False)
        else:
            writer = SegmentWriter(output.node, volume_node, editorNode=editor)
            shown = SliceStack(voxels, grid, "axial").slice_at(3) > 0
            writer.writeMask("axial", 3, shown, one, mode)
        results.append([mask_of(output.node, i, grid) for i in output.segmentIds.values()])
    for expected, found in zip(*results, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_a_mask_is_added_in_its_slice_only(scene, plain_grid, mask_of):
    volume_node, output, editor = segments(scene, plain_grid)
    before = {one: mask_of(output.node, one, plain_grid) for one in output.segmentIds.values()}
    mask = np.zeros((8, 9), bool)
    mask[2:5, 3:6] = True
    writer = SegmentWriter(output.node, volume_node, editorNode=editor)
    writer.writeMask("axial", 3, mask, output.segmentIds[1])
    for one, expected in before.items():
        expected[3] = expected[3] | mask if one == output.segmentIds[1] else expected[3] & ~mask
        np.testing.assert_array_equal(mask_of(output.node, one, plain_grid), expected)


def complete(output, label: int) -> None:
    logic = slicer.vtkSlicerSegmentationsModuleLogic
    segment = output.node.GetSegmentation().GetSegment(output.segmentIds[label])
    logic.SetSegmentStatus(segment, logic.Completed)


def test_completed_segments_are_neither_written_nor_overwritten(
    scene, plain_grid, mask_of, labels_for
):
    volume_node, output, editor = segments(scene, plain_grid)
    complete(output, 2)
    before = mask_of(output.node, output.segmentIds[2], plain_grid)
    writer = SegmentWriter(output.node, volume_node, editorNode=editor)
    writer.writeMask("axial", 3, np.ones((8, 9), bool), output.segmentIds[1])
    writer.begin(output.segmentIds.values())
    write_volume(writer, "axial", labels_for(plain_grid), output.segmentIds)
    assert writer.end().locked == ["b"]
    np.testing.assert_array_equal(mask_of(output.node, output.segmentIds[2], plain_grid), before)
    with pytest.raises(SAMAutoSegError, match="'b' is marked as completed"):
        writer.writeMask("axial", 3, np.ones((8, 9), bool), output.segmentIds[2])


def test_the_model_takes_nothing_from_segments_that_it_does_not_write(scene, plain_grid, mask_of):
    volume_node, output, _ = segments(scene, plain_grid)
    mine = {1: output.segmentIds[1]}
    before = {one: mask_of(output.node, one, plain_grid) for one in output.segmentIds.values()}
    writer = SegmentWriter(output.node, volume_node)
    writer.begin(mine.values())
    write_volume(writer, "axial", np.ones(plain_grid.size[::-1], np.uint8), mine)
    writer.end()
    others = np.zeros(plain_grid.size[::-1], bool)
    for label, one in itertools.islice(output.segmentIds.items(), 1, None):
        np.testing.assert_array_equal(
            mask_of(output.node, one, plain_grid), before[one], str(label)
        )
        others |= before[one]
    np.testing.assert_array_equal(mask_of(output.node, mine[1], plain_grid), ~others)


def test_segments_may_overlap_where_the_editor_allows_it(scene, plain_grid, mask_of):
    volume_node, output, editor = segments(scene, plain_grid)
    editor.SetOverwriteMode(OVERWRITE["none"])
    mine = {1: output.segmentIds[1]}
    before = {one: mask_of(output.node, one, plain_grid) for one in output.segmentIds.values()}
    writer = SegmentWriter(output.node, volume_node, editorNode=editor)
    writer.begin(mine.values())
    write_volume(writer, "axial", np.ones(plain_grid.size[::-1], np.uint8), mine)
    writer.end()
    assert mask_of(output.node, mine[1], plain_grid).all()
    for one in list(output.segmentIds.values())[1:]:
        np.testing.assert_array_equal(mask_of(output.node, one, plain_grid), before[one])


def test_a_segment_removed_during_a_run_is_left_out(scene, plain_grid, structures, labels_for):
    volume_node, output = written(scene, plain_grid, structures, labels_for(plain_grid))
    writer = SegmentWriter(output.node, volume_node)
    writer.begin(output.segmentIds.values())
    output.node.GetSegmentation().RemoveSegment(output.segmentIds[1])
    assert writer.writeSlice("axial", 0, labels_for(plain_grid, 3)[0], output.segmentIds)
    writer.end()
    assert output.node.GetSegmentation().GetNumberOfSegments() == 1


def test_a_segmentation_emptied_during_a_run_is_told(scene, plain_grid, structures, labels_for):
    volume_node, output = written(scene, plain_grid, structures, labels_for(plain_grid))
    writer = SegmentWriter(output.node, volume_node)
    writer.begin(output.segmentIds.values())
    output.node.GetSegmentation().RemoveAllSegments()
    with pytest.raises(SAMAutoSegError, match="all segments of the model were removed"):
        writer.writeSlice("axial", 0, labels_for(plain_grid, 3)[0], output.segmentIds)
    writer.end()


def test_a_volume_or_segmentation_removed_during_a_run_is_told(
    scene, plain_grid, structures, labels_for
):
    labels = labels_for(plain_grid)
    volume_node, output = written(scene, plain_grid, structures, labels)
    writer = SegmentWriter(output.node, volume_node)
    scene.mrml.RemoveNode(volume_node)
    with pytest.raises(SAMAutoSegError, match="volume 'CT' was removed"):
        writer.writeSlice("axial", 0, labels[0], output.segmentIds)
    scene.mrml.RemoveNode(output.node)
    with pytest.raises(SAMAutoSegError, match="segmentation 'CT segmentation' was removed"):
        writer.writeSlice("axial", 0, labels[0], output.segmentIds)


def test_surfaces_stay_and_follow_the_voxels(scene, plain_grid, structures):
    labels = np.zeros(plain_grid.size[::-1], np.uint8)
    labels[2:4, 2:4, 2:4] = 1
    volume_node, output = written(scene, plain_grid, structures, labels)
    output.node.CreateClosedSurfaceRepresentation()
    labels[2:6, 2:6, 2:6] = 1
    writer = SegmentWriter(output.node, volume_node)
    writer.begin(output.segmentIds.values())
    write_volume(writer, "axial", labels, output.segmentIds)
    writer.end()
    segment = output.node.GetSegmentation().GetSegment(output.segmentIds[1])
    bounds = segment.GetRepresentation("Closed surface").GetBounds()
    assert bounds[5] - bounds[4] > 3


def test_more_segments_than_a_byte_can_name(scene, plain_grid, mask_of):
    structures = [Structure(n, f"part {n}", (1, 0, 0)) for n in range(1, 301)]
    labels = (np.arange(np.prod(plain_grid.size)) % 301).astype(np.uint16)
    labels = labels.reshape(plain_grid.size[::-1])
    _, output = written(scene, plain_grid, structures, labels)
    for label in (1, 255, 256, 300):
        found = mask_of(output.node, output.segmentIds[label], plain_grid)
        np.testing.assert_array_equal(found, labels == label)
