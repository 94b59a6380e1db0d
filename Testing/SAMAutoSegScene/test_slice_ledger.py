"""What is known of every slice, and how it follows what the user does."""

import json
from dataclasses import replace

import numpy as np
import pytest
import slicer
import vtk
from SAMAutoSegScene.Provenance import Provenance, writeProvenance
from SAMAutoSegScene.SegmentationOutput import prepareSegmentation
from SAMAutoSegScene.SegmentWriter import SegmentWriter
from SAMAutoSegScene.SliceDigests import SliceDigests
from SAMAutoSegScene.SliceLedger import SliceLedger
from SAMAutoSegScene.SliceState import SliceState
from SAMAutoSegScene.VolumeReader import gridOfVolume

from SAMAutoSegLib.images.slices import SliceStack

from .conftest import write_volume


class Case:
    """A volume that a model segmented, with Slicer's undo and a ledger."""

    def __init__(self, scene, grid, structures, labels, history, plane="axial") -> None:
        self.grid, self.labels, self.plane = grid, labels, plane
        self.volume_node = scene.volume(grid)
        self.output = prepareSegmentation(self.volume_node, structures)
        self.node = self.output.node
        self.ids = self.output.segmentIds
        self.history = history(self.node)
        self.ledger = SliceLedger(self.node, self.volume_node, plane)

    def run(self, labels=None, plane=None, **options):
        writer = SegmentWriter(
            self.node,
            self.volume_node,
            saveUndo=self.history.SaveState,
            ledger=self.ledger,
        )
        writer.begin(self.ids.values())
        labels = self.labels if labels is None else labels
        write_volume(writer, plane or self.plane, labels, self.ids, **options)
        return writer.end()

    def flipped_voxel(self, number: int) -> np.ndarray:
        """A voxel of the first segment, or beside it, in a slice of the ledger's plane."""
        voxels = np.zeros(self.grid.size[::-1], bool)
        SliceStack(voxels, self.grid, self.plane).slice_at(number)[1, 2] = True
        return voxels


@pytest.fixture
def case(scene, grid, plane, structures, labels_for, history) -> Case:
    return Case(scene, grid, structures, labels_for(grid), history, plane)


@pytest.fixture
def plain(scene, plain_grid, structures, labels_for, history) -> Case:
    return Case(scene, plain_grid, structures, labels_for(plain_grid), history)


def correct(case: Case, paint, number: int) -> None:
    voxels = case.flipped_voxel(number)
    erase = (case.labels[voxels] == 1).item()
    case.history.SaveState()
    paint(case.node, case.ids[1], voxels, case.grid, erase)


def test_slices_are_untouched_until_the_model_writes_them(case):
    assert set(case.ledger.states()) == {SliceState.UNTOUCHED}
    case.run(numbers=[1, 3])
    assert case.ledger.slicesIn(SliceState.MODEL) == [1, 3]
    assert set(case.ledger.states()) == {SliceState.UNTOUCHED, SliceState.MODEL}


def test_painting_a_voxel_corrects_its_slice_and_undo_takes_that_back(case, paint):
    case.run()
    correct(case, paint, 2)
    assert case.ledger.slicesIn(SliceState.CORRECTED) == [2]
    case.history.RestorePreviousState()
    assert set(case.ledger.states()) == {SliceState.MODEL}
    case.history.RestoreNextState()
    assert case.ledger.slicesIn(SliceState.CORRECTED) == [2]


def test_undoing_a_run_brings_back_the_states_of_before(plain, paint):
    plain.run()
    correct(plain, paint, 2)
    plain.ledger.markReviewed([4])
    plain.run(plain.labels[::-1].copy())
    assert plain.ledger.slicesIn(SliceState.CORRECTED) == [2]
    plain.history.RestorePreviousState()
    assert plain.ledger.slicesIn(SliceState.CORRECTED) == [2]
    assert plain.ledger.slicesIn(SliceState.REVIEWED) == [4]
    plain.history.RestorePreviousState()
    plain.history.RestorePreviousState()
    plain.ledger.markReviewed([4], False)
    assert set(plain.ledger.states()) == {SliceState.UNTOUCHED}


def test_erasing_what_the_model_found_is_a_correction_and_no_undo(plain, paint):
    labels = np.zeros_like(plain.labels)
    labels[3, 4, 5] = 1
    plain.run(labels)
    paint(plain.node, plain.ids[1], labels == 1, plain.grid, True)
    assert plain.ledger.slicesIn(SliceState.CORRECTED) == [3]


def test_undoing_a_stroke_made_during_a_run_takes_later_slices_of_the_run_along(plain, paint):
    writer = SegmentWriter(
        plain.node, plain.volume_node, saveUndo=plain.history.SaveState, ledger=plain.ledger
    )
    writer.begin(plain.ids.values())
    for number in (0, 1, 2):
        writer.writeSlice("axial", number, plain.labels[number], plain.ids)
    correct(plain, paint, 1)
    for number in (3, 4):
        writer.writeSlice("axial", number, plain.labels[number], plain.ids)
    plain.history.RestorePreviousState()
    writer.writeSlice("axial", 5, plain.labels[5], plain.ids)
    writer.end()
    assert plain.ledger.slicesIn(SliceState.MODEL) == [0, 1, 2, 5]
    assert plain.ledger.slicesIn(SliceState.UNTOUCHED) == [3, 4, 6]


def test_a_scene_that_is_saved_during_a_run_knows_what_the_model_wrote_until_then(plain, paint):
    correct(plain, paint, 2)
    lesion = plain.node.GetSegmentation().AddEmptySegment("", "lesion")
    paint(plain.node, lesion, plain.flipped_voxel(1), plain.grid)
    writer = SegmentWriter(plain.node, plain.volume_node, ledger=plain.ledger)
    writer.begin(plain.ids.values())

    def in_the_saved_scene() -> list[SliceState]:
        return SliceLedger(plain.node, plain.volume_node).states()

    for number in range(3):
        writer.writeSlice("axial", number, plain.labels[number], plain.ids)
    assert in_the_saved_scene() == plain.ledger.states()
    assert plain.ledger.slicesIn(SliceState.MODEL) == [0]
    assert plain.ledger.slicesIn(SliceState.CORRECTED) == [1, 2]
    correct(plain, paint, 5)  # what is written from now on is undone with it
    writer.writeSlice("axial", 3, plain.labels[3], plain.ids)
    assert in_the_saved_scene() == plain.ledger.states()
    assert plain.ledger.slicesIn(SliceState.MODEL) == [0, 3]
    writer.end()
    assert plain.node.GetAttribute("SAMAutoSeg.Unsaved.axial") is None


def test_undoing_before_the_first_slice_of_a_run_leaves_its_slices_the_models(plain):
    plain.run()
    writer = SegmentWriter(
        plain.node, plain.volume_node, saveUndo=plain.history.SaveState, ledger=plain.ledger
    )
    writer.begin(plain.ids.values())
    plain.history.RestorePreviousState()
    writer.writeSlice("axial", 3, (plain.labels[3] + 1) % 3, plain.ids)
    writer.end()
    assert set(plain.ledger.states()) == {SliceState.MODEL}


def test_what_the_user_drew_without_a_model_is_a_correction(plain, paint):
    paint(plain.node, plain.ids[1], plain.flipped_voxel(3), plain.grid)
    assert plain.ledger.slicesIn(SliceState.CORRECTED) == [3]
    extra = plain.node.GetSegmentation().AddEmptySegment("", "lesion")
    paint(plain.node, extra, plain.flipped_voxel(5), plain.grid)
    assert plain.ledger.slicesIn(SliceState.CORRECTED) == [3, 5]


def test_corrected_and_reviewed_slices_are_not_overwritten(plain, paint, mask_of):
    plain.run()
    correct(plain, paint, 2)
    plain.ledger.markReviewed([4])
    before = mask_of(plain.node, plain.ids[1], plain.grid)
    new = (plain.labels + 1) % 3
    assert plain.run(new).protected == [2, 4]
    after = mask_of(plain.node, plain.ids[1], plain.grid)
    np.testing.assert_array_equal(after[[2, 4]], before[[2, 4]])
    np.testing.assert_array_equal(after[[0, 1, 3]], new[[0, 1, 3]] == 1)


def test_a_segment_of_the_user_does_not_keep_the_model_from_a_slice(plain, paint):
    lesion = plain.node.GetSegmentation().AddEmptySegment("", "lesion")
    paint(plain.node, lesion, plain.flipped_voxel(5), plain.grid)
    assert plain.run().protected == []
    assert plain.ledger.slicesIn(SliceState.CORRECTED) == [5]


def test_what_was_corrected_in_one_plane_is_not_overwritten_in_another(plain, paint, mask_of):
    plain.run()
    correct(plain, paint, 2)
    plain.ledger.markReviewed([4])
    before = mask_of(plain.node, plain.ids[1], plain.grid)
    new = ((plain.labels + 1) % 3).astype(np.uint8)
    axial = plain.ledger
    plain.ledger = SliceLedger(plain.node, plain.volume_node, "coronal")
    assert SliceState.CORRECTED not in plain.ledger.states()
    result = plain.run(new, plane="coronal")
    assert result.protected == [] and result.elsewhere == {"axial": [2, 4]}
    after = mask_of(plain.node, plain.ids[1], plain.grid)
    np.testing.assert_array_equal(after[[2, 4]], before[[2, 4]])
    np.testing.assert_array_equal(after[[0, 1, 3, 5, 6]], new[[0, 1, 3, 5, 6]] == 1)
    assert set(plain.ledger.states()) == {SliceState.MODEL}
    axial.close()
    again = SliceLedger(plain.node, plain.volume_node, "axial")
    assert again.slicesIn(SliceState.CORRECTED) == [2]
    assert again.slicesIn(SliceState.REVIEWED) == [4]
    assert again.slicesIn(SliceState.MODEL) == [0, 1, 3, 5, 6]


def test_what_is_corrected_in_a_second_plane_stays_known(plain, paint):
    plain.run()
    across = SliceLedger(plain.node, plain.volume_node, "coronal")
    assert across.toLearnFrom() == []
    voxels = np.zeros(plain.grid.size[::-1], bool)
    SliceStack(voxels, plain.grid, "coronal").slice_at(2)[1, 2] = True
    paint(plain.node, plain.ids[1], voxels, plain.grid)
    corrected = across.toLearnFrom()
    assert corrected == [2]
    across.close()
    again = SliceLedger(plain.node, plain.volume_node, "coronal")
    assert again.toLearnFrom() == corrected
    again.close()


def test_a_renamed_segment_changes_nothing_and_a_removed_one_counts_no_more(plain, paint):
    plain.run()
    correct(plain, paint, 2)
    plain.node.GetSegmentation().GetSegment(plain.ids[1]).SetName("Milz")
    assert plain.ledger.slicesIn(SliceState.CORRECTED) == [2]
    plain.node.GetSegmentation().RemoveSegment(plain.ids[1])
    assert set(plain.ledger.states()) == {SliceState.MODEL}


def test_a_reviewed_slice_that_is_changed_is_a_corrected_one(plain, paint):
    plain.run()
    plain.ledger.markReviewed([2, 3])
    assert plain.ledger.toLearnFrom() == [2, 3]
    correct(plain, paint, 2)
    assert plain.ledger.stateOf(2) == SliceState.CORRECTED
    assert plain.ledger.stateOf(3) == SliceState.REVIEWED
    plain.history.RestorePreviousState()
    assert plain.ledger.stateOf(2) == SliceState.REVIEWED


@pytest.mark.parametrize(
    "said",
    [
        lambda ledger: ledger.markReviewed([1]),
        lambda ledger: ledger.exclude([1]),
        lambda ledger: ledger.noteTraining("a", [1], [2]),
        lambda ledger: ledger.setUncertainty({1: 3.0}),
    ],
)
def test_what_was_said_of_a_slice_is_a_change_that_slicer_saves(plain, scene, said, tmp_path):
    plain.run()
    assert scene.mrml.Commit(str(tmp_path / "scene.mrml"))
    changed = vtk.vtkCollection()
    assert not scene.mrml.GetModifiedSinceRead(changed)
    said(plain.ledger)
    assert scene.mrml.GetModifiedSinceRead(changed)


def test_a_slice_that_is_left_to_the_model_is_overwritten_until_it_is_corrected_again(
    plain, paint, mask_of
):
    plain.run()
    correct(plain, paint, 2)
    correct(plain, paint, 4)
    plain.ledger.markReviewed([3])
    plain.ledger.leaveToModel([2, 3])
    assert plain.ledger.slicesIn(SliceState.MODEL) == [0, 1, 2, 3, 5, 6]
    assert plain.ledger.toLearnFrom() == [4]
    reopened = SliceLedger(plain.node, plain.volume_node)
    assert reopened.states() == plain.ledger.states()
    reopened.close()
    new = ((plain.labels + 1) % 3).astype(np.uint8)
    result = plain.run(new)
    assert result.protected == [4]
    after = mask_of(plain.node, plain.ids[1], plain.grid)
    np.testing.assert_array_equal(after[[2, 3]], new[[2, 3]] == 1)
    plain.history.RestorePreviousState()  # what was left to the model is back, and the model's
    assert plain.ledger.toLearnFrom() == [4]
    plain.history.RestoreNextState()
    correct(plain, paint, 2)
    assert plain.ledger.toLearnFrom() == [2, 4]


def test_what_was_erased_and_left_to_the_model_can_be_erased_again(plain, paint):
    plain.run()
    everything = np.ones(plain.grid.size[::-1], bool)
    everything[[0, 1, 3, 4, 5, 6]] = False
    for _again in range(2):
        plain.history.SaveState()
        for one in plain.ids.values():
            paint(plain.node, one, everything, plain.grid, True)
        assert plain.ledger.toLearnFrom() == [2]
        plain.ledger.leaveToModel([2])
        assert plain.ledger.toLearnFrom() == []
        plain.run()


def test_an_untouched_slice_is_not_the_models_because_it_was_left_to_it(plain):
    plain.ledger.leaveToModel([2])
    assert plain.ledger.stateOf(2) == SliceState.UNTOUCHED
    with pytest.raises(IndexError):
        plain.ledger.leaveToModel([7])


def test_what_was_erased_and_left_to_the_model_stays_so_when_other_segments_are_written(
    plain, paint
):
    plain.run()
    everything = np.zeros(plain.grid.size[::-1], bool)
    everything[2] = True
    paint(plain.node, plain.ids[2], everything, plain.grid, True)
    plain.ledger.leaveToModel([2])
    writer = SegmentWriter(plain.node, plain.volume_node, ledger=plain.ledger)
    writer.begin([plain.ids[1]])
    writer.writeSlice("axial", 2, plain.labels[2], {1: plain.ids[1]})
    writer.end()
    assert plain.ledger.toLearnFrom() == []


def test_what_was_drawn_and_left_to_the_model_is_untouched_again_once_it_is_undone(plain, paint):
    correct(plain, paint, 2)
    plain.ledger.leaveToModel([2])
    assert plain.ledger.slicesIn(SliceState.MODEL) == [2]
    plain.history.RestorePreviousState()
    assert set(plain.ledger.states()) == {SliceState.UNTOUCHED}
    plain.history.RestoreNextState()
    assert plain.ledger.slicesIn(SliceState.MODEL) == [2]


def test_excluded_slices_are_not_learned_from(plain, paint):
    plain.run()
    correct(plain, paint, 2)
    plain.ledger.markReviewed([3])
    plain.ledger.exclude([2, 3])
    assert plain.ledger.toLearnFrom() == []
    plain.ledger.exclude([2, 3], False)
    assert plain.ledger.toLearnFrom() == [2, 3]


def test_what_was_learned_from_is_held_out_no_more(plain):
    plain.ledger.noteTraining("a", [1, 3], [2, 4])
    plain.ledger.noteTraining("b", [2, 5], [4])
    again = SliceLedger(plain.node, plain.volume_node)
    assert (again.learned, again.heldOut) == ([1, 2, 3, 5], [4])


def test_what_an_earlier_version_has_kept_is_still_known(plain):
    plain.run()
    plain.ledger.markReviewed([3])
    plain.ledger.noteTraining("a", [1, 3], [2])
    name = plain.ledger._attribute
    data = json.loads(plain.node.GetAttribute(name))
    plain.node.SetAttribute(name, json.dumps({**data, "version": 1, "learned": [1, 3]}))
    again = SliceLedger(plain.node, plain.volume_node)
    assert (again.learned, again.heldOut) == ([1, 3], [2])
    assert again.stateOf(3) == SliceState.REVIEWED


def test_what_no_model_has_learned_from_may_be_held_out_again(plain):
    plain.ledger.noteTraining("a", [1, 3], [2])
    plain.ledger.noteTraining("b", [1, 5], [2])
    plain.ledger.forgetTraining("b")
    assert (plain.ledger.learned, plain.ledger.heldOut) == ([1, 3], [2])


def test_listeners_hear_of_strokes_undo_and_marks_until_closed(plain, paint):
    heard = []
    plain.run()
    plain.ledger.addListener(lambda: heard.append(1))
    for act in (
        lambda: correct(plain, paint, 2),
        plain.history.RestorePreviousState,
        lambda: plain.ledger.markReviewed([1]),
    ):
        heard.clear()
        act()
        assert heard
    heard.clear()
    plain.ledger.close()
    correct(plain, paint, 2)
    assert heard == []


def test_a_change_of_one_slice_costs_no_look_at_the_others_during_a_run(plain, monkeypatch):
    plain.run()
    plain.ledger.states()
    read = []
    original = SliceDigests._read
    monkeypatch.setattr(SliceDigests, "_read", lambda self, n: (read.extend(n), original(self, n)))
    writer = SegmentWriter(plain.node, plain.volume_node, ledger=plain.ledger)
    writer.begin(plain.ids.values())
    writer.writeSlice("axial", 3, (plain.labels[3] + 1) % 3, plain.ids)
    plain.ledger.states()
    writer.end()
    plain.ledger.states()
    assert set(read) == {3}


def test_what_is_known_is_brought_up_to_date_in_small_steps(plain, paint):
    plain.run()
    correct(plain, paint, 2)
    steps = 0
    while not plain.ledger.refresh(0.0):
        steps += 1
        assert steps < 10
    assert plain.ledger.slicesIn(SliceState.CORRECTED) == [2]


def test_states_survive_many_runs_without_growing(plain, paint):
    plain.run()
    correct(plain, paint, 2)
    sizes = []
    for _ in range(60):
        plain.run(numbers=[0, 1, 3])
        sizes.append(len(plain.node.GetAttribute("SAMAutoSeg.Ledger.axial")))
    assert sizes[-1] < 1.2 * sizes[30]
    assert plain.ledger.slicesIn(SliceState.CORRECTED) == [2]
    assert plain.ledger.slicesIn(SliceState.MODEL) == [0, 1, 3, 4, 5, 6]


@pytest.mark.parametrize("number", [-1, 7])
def test_a_slice_that_is_not_there_is_an_error(plain, number):
    with pytest.raises(IndexError, match=f"slice {number}"):
        plain.ledger.markReviewed([number])


def test_states_are_saved_with_the_scene_and_restored(
    make_scene, scene, case, paint, tmp_path, mask_of
):
    case.run(numbers=[0, 1, 2, 3, 4, 5])
    correct(case, paint, 2)
    case.ledger.markReviewed([1])
    case.ledger.exclude([4])
    case.ledger.noteTraining("a", [1, 2], [0])
    case.ledger.setUncertainty({0: 0.25, 5: 0.75})
    states = case.ledger.states()
    voxels = mask_of(case.node, case.ids[1], case.grid)
    save(scene, tmp_path)
    loaded = make_scene()
    # Also after other segments were there first, which shifts the ids of nodes.
    loaded.add("vtkMRMLSegmentationNode")
    loaded.mrml.SetURL(str(tmp_path / "scene.mrml"))
    assert loaded.mrml.Import() == 1
    volume_node = loaded.mrml.GetFirstNodeByClass("vtkMRMLScalarVolumeNode")
    node = loaded.mrml.GetFirstNodeByName(case.node.GetName())
    np.testing.assert_array_equal(mask_of(node, case.ids[1], case.grid), voxels)
    ledger = SliceLedger(node, volume_node, case.plane)
    # A left-handed volume comes back with its slices in reverse.
    turned = case.plane == "axial" and not gridOfVolume(volume_node).same_as(case.grid)
    assert ledger.states() == (states[::-1] if turned else states)
    assert ledger.learned == ([4, 5] if turned else [1, 2])
    assert ledger.heldOut == ([6] if turned else [0])
    places = (1, 2, 6) if turned else (5, 4, 0)
    assert [ledger.uncertainties().get(number) for number in places] == [0.75, None, 0.25]
    output = prepareSegmentation(volume_node, [], node)
    assert output.notes == []
    assert ledger.states() == (states[::-1] if turned else states)
    np.testing.assert_array_equal(mask_of(node, case.ids[1], case.grid), voxels)
    SegmentWriter(node, volume_node).writeMask(
        case.plane, 0, np.ones(ledger.stack.slice_shape, bool), case.ids[1]
    )
    assert ledger.stateOf(0) == SliceState.CORRECTED


def click_across(case: Case, label: int = 1) -> SegmentWriter:
    """A box of a coronal slice, seven rows high, while the slices of the ledger are axial."""
    writer = SegmentWriter(
        case.node, case.volume_node, ledger=case.ledger, saveUndo=case.history.SaveState
    )
    stack = SliceStack(case.labels, case.grid, "coronal")
    mask = np.zeros(stack.slice_shape, bool)
    mask[1:6, 2:7] = True
    assert writer.writeMask("coronal", 3, mask, case.ids[label])
    return writer


@pytest.mark.parametrize("segmented", [False, True])
def test_slices_that_a_click_in_another_plane_went_through_are_not_learned_from(plain, segmented):
    if segmented:
        plain.run()
    before = plain.ledger.states()
    click_across(plain)
    crossed = plain.ledger.slicesIn(SliceState.UNCHECKED)
    assert len(crossed) == 5
    assert plain.ledger.toLearnFrom() == []
    assert all(plain.ledger.isProtected(number, plain.ids.values()) for number in crossed)
    # Again, through slices that are unchecked already.
    click_across(plain, 2)
    assert plain.ledger.slicesIn(SliceState.UNCHECKED) == crossed
    again = SliceLedger(plain.node, plain.volume_node)
    assert again.states() == plain.ledger.states()
    plain.history.RestorePreviousState()
    assert plain.ledger.slicesIn(SliceState.UNCHECKED) == crossed
    plain.history.RestorePreviousState()
    assert plain.ledger.states() == before
    plain.history.RestoreNextState()
    assert plain.ledger.slicesIn(SliceState.UNCHECKED) == crossed


def test_what_the_user_does_after_a_click_across_is_a_correction(plain, paint):
    plain.run()
    correct(plain, paint, 1)
    plain.ledger.markReviewed([2])
    click_across(plain)
    assert plain.ledger.slicesIn(SliceState.CORRECTED) == [1, 2]
    crossed = plain.ledger.slicesIn(SliceState.UNCHECKED)
    correct(plain, paint, crossed[0])
    plain.ledger.markReviewed([crossed[1]])
    assert crossed[0] in plain.ledger.slicesIn(SliceState.CORRECTED)
    assert crossed[1] in plain.ledger.slicesIn(SliceState.REVIEWED)
    paint(plain.node, plain.ids[1], np.ones_like(plain.labels, bool), plain.grid, True)
    assert crossed[2] in plain.ledger.slicesIn(SliceState.CORRECTED)


def test_slices_of_a_models_file_loaded_without_its_scene_are_unchecked(
    plain, scene, paint, tmp_path
):
    plain.run(numbers=[0, 1, 2, 3, 4])
    writeProvenance(plain.node, [plain.ids[1]], Provenance("organs", "3", "ab", "d", "p"))
    plain.node.GetSegmentation().RemoveSegment(plain.ids[2])
    volume_node, node = plain.volume_node, reloaded(scene, plain.node, tmp_path / "a.seg.nrrd")
    one = node.GetSegmentation().GetNthSegmentID(0)
    ledger = SliceLedger(node, volume_node)
    assert ledger.slicesIn(SliceState.UNCHECKED) == [0, 1, 2, 3, 4]
    assert ledger.toLearnFrom() == []
    assert ledger.isProtected(3, [one]) and not ledger.isProtected(5, [one])
    # What the user does from now on is known.
    paint(node, one, plain.flipped_voxel(2), plain.grid, (plain.labels[2, 1, 2] == 1).item())
    ledger.markReviewed([3])
    for _ in range(2):
        assert ledger.slicesIn(SliceState.UNCHECKED) == [0, 1, 4]
        assert ledger.toLearnFrom() == [2, 3]
        ledger.close()
        ledger = SliceLedger(node, volume_node)


def test_slices_of_a_file_that_no_model_wrote_are_the_users(plain, scene, paint, tmp_path):
    paint(plain.node, plain.ids[1], plain.flipped_voxel(2), plain.grid)
    node = reloaded(scene, plain.node, tmp_path / "a.seg.nrrd")
    assert SliceLedger(node, plain.volume_node).toLearnFrom() == [2]


def test_what_is_known_stays_when_a_part_of_the_volume_is_looked_at(plain, scene, paint):
    plain.run()
    correct(plain, paint, 2)
    plain.ledger.markReviewed([3])
    plain.ledger.exclude([4])
    states = plain.ledger.states()
    for size in ((9, 8, 5), (9, 7, 7)):
        part = SliceLedger(plain.node, scene.volume(replace(plain.grid, size=size)))
        part.markReviewed([1])
        part.exclude([0])
        part.close()
        again = SliceLedger(plain.node, plain.volume_node)
        assert again.states() == states


def reloaded(scene, node, path):
    """A segmentation as it comes from its file alone."""
    storage = scene.add("vtkMRMLSegmentationStorageNode")
    storage.SetFileName(str(path))
    assert storage.WriteData(node) == 1
    loaded = scene.add("vtkMRMLSegmentationNode")
    assert storage.ReadData(loaded) == 1
    return loaded


def save(scene, folder) -> None:
    for class_name, storage_name, suffix in [
        ("vtkMRMLScalarVolumeNode", "vtkMRMLVolumeArchetypeStorageNode", ".nrrd"),
        ("vtkMRMLSegmentationNode", "vtkMRMLSegmentationStorageNode", ".seg.nrrd"),
    ]:
        node = scene.mrml.GetFirstNodeByClass(class_name)
        storage = getattr(slicer, storage_name)()
        scene.mrml.AddNode(storage)
        storage.SetFileName(str(folder / f"{node.GetName()}{suffix}"))
        node.SetAndObserveStorageNodeID(storage.GetID())
        assert storage.WriteData(node) == 1
    scene.mrml.SetURL(str(folder / "scene.mrml"))
    scene.mrml.SetRootDirectory(str(folder))
    assert scene.mrml.Commit() == 1


def go_to(case: Case, plane: str) -> None:
    """As the module does it where slices of another plane are chosen."""
    case.ledger.leave()
    case.ledger.close()
    case.plane, case.ledger = plane, SliceLedger(case.node, case.volume_node, plane)
    case.ledger.markInUse()


def test_what_is_corrected_after_a_look_at_another_plane_keeps_no_slice_of_it(
    plain, paint, mask_of
):
    plain.ledger.markInUse()
    plain.run()
    go_to(plain, "coronal")
    go_to(plain, "axial")
    correct(plain, paint, 2)
    before = mask_of(plain.node, plain.ids[1], plain.grid)
    new = ((plain.labels + 1) % 3).astype(np.uint8)
    result = plain.run(new)
    assert result.protected == [2] and result.elsewhere == {}
    after = mask_of(plain.node, plain.ids[1], plain.grid)
    np.testing.assert_array_equal(after[2], before[2])
    np.testing.assert_array_equal(after[[0, 1, 3, 4, 5, 6]], new[[0, 1, 3, 4, 5, 6]] == 1)


def test_corrections_are_learned_from_in_the_plane_that_they_were_made_in(plain, paint):
    plain.ledger.markInUse()
    plain.run()
    go_to(plain, "coronal")
    correct(plain, paint, 3)
    for _again in range(2):
        go_to(plain, "axial")
        correct(plain, paint, 2)
        assert plain.ledger.toLearnFrom() == [2]
        go_to(plain, "coronal")
        assert plain.ledger.toLearnFrom() == [3]
        plain.history.RestorePreviousState()
        assert plain.ledger.toLearnFrom() == [3]
        plain.history.RestoreNextState()


def test_what_was_drawn_without_a_model_in_another_plane_is_not_learned_from(plain, paint):
    plain.ledger.markInUse()
    correct(plain, paint, 2)
    go_to(plain, "coronal")
    assert plain.ledger.toLearnFrom() == []
    go_to(plain, "axial")
    assert plain.ledger.toLearnFrom() == [2]


def test_corrections_are_known_in_a_scene_that_is_reopened_in_another_plane(plain, paint):
    plain.ledger.markInUse()
    plain.run()
    correct(plain, paint, 2)
    go_to(plain, "coronal")
    go_to(plain, "axial")
    correct(plain, paint, 4)
    plain.ledger.close()  # and the scene is saved and loaded, which tells no ledger to leave
    plain.plane, plain.ledger = "coronal", SliceLedger(plain.node, plain.volume_node, "coronal")
    plain.ledger.markInUse()
    go_to(plain, "axial")
    assert plain.ledger.toLearnFrom() == [2, 4]


def test_what_nobody_checked_stays_so_when_it_is_changed_in_another_plane(plain, paint):
    plain.run()
    for plane in ("axial", "coronal"):
        plain.node.RemoveAttribute(f"SAMAutoSeg.Ledger.{plane}")
    go_to(plain, "axial")
    unchecked = plain.ledger.slicesIn(SliceState.UNCHECKED)
    go_to(plain, "coronal")
    correct(plain, paint, 3)
    go_to(plain, "axial")
    assert plain.ledger.slicesIn(SliceState.UNCHECKED) == unchecked
    assert plain.ledger.toLearnFrom() == []
