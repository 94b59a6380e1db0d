"""Corrected slices as labels to learn from."""

import numpy as np
import pytest
from SAMAutoSegScene.CorrectedSlices import readCorrectedSlices, slicesToFollow
from SAMAutoSegScene.SegmentationOutput import prepareSegmentation
from SAMAutoSegScene.SegmentWriter import SegmentWriter
from SAMAutoSegScene.SliceLedger import SliceLedger

from SAMAutoSegLib.errors import SAMAutoSegError
from SAMAutoSegLib.images.slices import SliceStack

from .conftest import write_volume


@pytest.fixture
def segmented(scene, grid, plane, structures, labels_for):
    """Volume, segmentation and ledger of a plane after a run, with the labels of the run."""
    labels = labels_for(grid)
    volume_node = scene.volume(grid)
    output = prepareSegmentation(volume_node, structures)
    ledger = SliceLedger(output.node, volume_node, plane)
    writer = SegmentWriter(output.node, volume_node, ledger=ledger)
    writer.begin(output.segmentIds.values())
    write_volume(writer, plane, labels, output.segmentIds)
    writer.end()
    return volume_node, output, ledger, labels


def inSlices(labels, grid, plane, numbers):
    """Labels in some slices only."""
    kept = SliceStack(np.zeros_like(labels), grid, plane)
    for number in numbers:
        kept.put(number, SliceStack(labels, grid, plane).slice_at(number))
    return kept.array


def test_labels_and_slices_are_those_that_were_corrected(segmented, grid, plane, structures):
    volume_node, output, ledger, labels = segmented
    writer = SegmentWriter(output.node, volume_node, ledger=ledger)
    stack = SliceStack(labels, grid, plane)
    mask = stack.slice_at(4) != 1
    writer.writeMask(plane, 4, ~mask, output.segmentIds[1], "remove")
    writer.writeMask(plane, 4, mask, output.segmentIds[1])
    ledger.markReviewed([1])
    corrected = readCorrectedSlices(output.node, volume_node, ledger)
    stack.slice_at(4)[stack.slice_at(4) == 1] = 0
    stack.slice_at(4)[mask] = 1
    np.testing.assert_array_equal(corrected.labels, inSlices(labels, grid, plane, [1, 4]))
    assert corrected.labels.dtype == np.uint8
    assert (corrected.plane, corrected.slices) == (plane, [1, 4])
    assert list(corrected.structures) == structures
    assert corrected.segmentIds == output.segmentIds
    assert corrected.volume.grid.same_as(grid)
    assert corrected.notes == []


def test_a_renamed_segment_is_learned_under_its_new_name(segmented):
    volume_node, output, ledger, _ = segmented
    output.node.GetSegmentation().GetSegment(output.segmentIds[1]).SetName("Milz")
    ledger.markReviewed([1])
    corrected = readCorrectedSlices(output.node, volume_node, ledger)
    assert corrected.structures[0].name == "Milz"
    assert "'spleen' is learned as 'Milz'" in corrected.notes


def test_segments_to_learn_can_be_chosen_and_removed_ones_are_left_out(segmented, grid, plane):
    volume_node, output, ledger, labels = segmented
    shown = inSlices(labels, grid, plane, [1])
    ledger.markReviewed([1])
    chosen = [output.segmentIds[2], "gone"]
    corrected = readCorrectedSlices(output.node, volume_node, ledger, chosen)
    np.testing.assert_array_equal(corrected.labels, shown == 2)
    assert [structure.name for structure in corrected.structures] == ["liver"]
    assert corrected.segmentIds == {1: output.segmentIds[2]}
    with pytest.raises(SAMAutoSegError, match="none of the segments to learn"):
        readCorrectedSlices(output.node, volume_node, ledger, ["gone"])


def test_where_segments_overlap_the_last_counts_and_that_is_told(segmented, grid, plane, paint):
    volume_node, output, ledger, labels = segmented
    lesion = output.node.GetSegmentation().AddEmptySegment("", "lesion")
    voxels = np.zeros(grid.size[::-1], bool)
    stack = SliceStack(voxels, grid, plane)
    stack.slice_at(3)[1:3, 1:3] = True
    both = int((voxels & (labels > 0)).sum())
    # As painting with "Allow overlap" does.
    output.node.GetSegmentation().SeparateSegmentLabelmap(lesion)
    paint(output.node, lesion, voxels, grid)
    corrected = readCorrectedSlices(output.node, volume_node, ledger)
    assert corrected.slices == [3]
    expected = inSlices(np.where(voxels, 3, labels), grid, plane, [3])
    np.testing.assert_array_equal(corrected.labels, expected)
    assert corrected.notes[0].startswith(f"{both} voxels belong to several segments")


def test_slices_to_follow_come_one_by_one_with_the_models_values(segmented, grid, plane):
    _, output, ledger, labels = segmented
    ledger.markReviewed([1, 3])
    ledger.markReviewed([2])
    ledger.exclude([2])
    first, second = output.segmentIds[1], output.segmentIds[2]
    numbers, found = slicesToFollow(output.node, ledger, {7: second, 300: first, 9: "gone"})
    assert numbers == [1, 3] and found.dtype == np.uint16
    stack = SliceStack(labels, grid, plane)
    values = np.array([0, 300, 7])
    np.testing.assert_array_equal(found, [values[stack.slice_at(n)] for n in numbers])


def test_without_a_corrected_slice_there_is_nothing_to_learn(segmented):
    volume_node, output, ledger, _ = segmented
    with pytest.raises(SAMAutoSegError, match="no slice is corrected or reviewed yet"):
        readCorrectedSlices(output.node, volume_node, ledger)
    ledger.markReviewed([2])
    ledger.exclude([2])
    with pytest.raises(SAMAutoSegError, match="no slice is corrected or reviewed yet"):
        readCorrectedSlices(output.node, volume_node, ledger)


def test_a_slice_in_which_other_segments_alone_were_drawn_says_nothing_of_these(
    segmented, grid, plane
):
    volume_node, output, ledger, labels = segmented
    tumor = output.node.GetSegmentation().AddEmptySegment("", "tumor")
    writer = SegmentWriter(output.node, volume_node, ledger=ledger)
    mask = SliceStack(labels, grid, plane).slice_at(2) == 0  # of the background: nothing gives way
    writer.writeMask(plane, 2, mask, tumor)
    ledger.markReviewed([1])
    assert ledger.toLearnFrom() == [1, 2]
    assert slicesToFollow(output.node, ledger, output.segmentIds)[0] == [1]
    for wanted, slices in (
        (list(output.segmentIds.values()), [1]),
        ([tumor], [1, 2]),
        (None, [1, 2]),
    ):
        assert readCorrectedSlices(output.node, volume_node, ledger, wanted).slices == slices


def test_two_segments_of_one_name_cannot_be_learned(segmented):
    volume_node, output, ledger, _ = segmented
    ledger.markReviewed([1])
    first, second = output.segmentIds[1], output.segmentIds[2]
    segmentation = output.node.GetSegmentation()
    name = segmentation.GetSegment(first).GetName()
    segmentation.GetSegment(second).SetName(name.upper())
    with pytest.raises(SAMAutoSegError, match=f"two segments are named '{name}': rename one"):
        readCorrectedSlices(output.node, volume_node, ledger)
    assert readCorrectedSlices(output.node, volume_node, ledger, [second]).slices == [1]
