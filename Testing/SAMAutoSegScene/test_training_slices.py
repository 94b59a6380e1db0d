"""What a training learns from, in all volumes of a scene."""

from dataclasses import replace

import numpy as np
import pytest
from SAMAutoSegPanels.CurrentLedger import CurrentLedger, ledgerOf
from SAMAutoSegPanels.TrainingSlices import TrainingSlices
from SAMAutoSegScene.CorrectedSlices import readCorrectedSlices
from SAMAutoSegScene.SegmentationOutput import prepareSegmentation
from SAMAutoSegScene.SegmentWriter import SegmentWriter

from .conftest import write_volume

NAMES = ["spleen", "liver"]
NAME = "a-training"


class Patient:
    """A volume that a model has segmented, with its labels."""

    def __init__(self, scene, grid, structures, labels, name):
        self.labels = labels
        self.volume = scene.volume(grid, name=name)
        self.output = prepareSegmentation(self.volume, structures)
        self.node = self.output.node
        ledgers = CurrentLedger()
        ledger = ledgers.choose(self.node, self.volume, "axial")
        writer = SegmentWriter(self.node, self.volume, ledger=ledger)
        writer.begin(self.output.segmentIds.values())
        write_volume(writer, "axial", labels, self.output.segmentIds)
        writer.end()
        ledgers.close()


@pytest.fixture
def patients(scene, plain_grid, structures, labels_for):
    """Three of them, the second on another grid and with its segments in another order."""
    grids = [plain_grid, replace(plain_grid, size=(7, 6, 20)), plain_grid]
    orders = [structures, [replace(s, label=3 - s.label) for s in structures[::-1]], structures]
    return [
        Patient(scene, grid, order, labels_for(grid, seed), f"CT {seed + 1}")
        for seed, (grid, order) in enumerate(zip(grids, orders, strict=True))
    ]


@pytest.fixture
def ledgers():
    return CurrentLedger()


@pytest.fixture
def slices(ledgers):
    return TrainingSlices(ledgers)


def choose(ledgers, slices, patient, names=NAMES):
    """Choose a patient and look at all others."""
    ledger = ledgers.choose(patient.node, patient.volume, "axial")
    slices.look([*patient.output.segmentIds.values()])
    assert slices.lookAtOthers(patient.volume, names, np.inf)
    return ledger


def review(ledgers, slices, patient, numbers):
    choose(ledgers, slices, patient).markReviewed(numbers)


def both_reviewed(ledgers, slices, first, second):
    """Three slices of each; the first is chosen, and its slices are returned."""
    review(ledgers, slices, second, [3, 6, 9])
    review(ledgers, slices, first, [1, 3, 5])
    choose(ledgers, slices, first)
    return readCorrectedSlices(first.node, first.volume, ledgers.ledger)


def names_of(slices):
    return [other.name for other in slices.others]


def test_all_volumes_with_corrected_slices_are_learned_from(ledgers, slices, patients):
    first, second, third = patients
    review(ledgers, slices, second, [3, 4, 9])
    review(ledgers, slices, first, [1, 4])
    choose(ledgers, slices, first)
    assert slices.reviewed == (1, 4) and slices.corrected == ()
    assert [(one.name, one.count, one.slices) for one in slices.others] == [("CT 2", 20, (3, 4, 9))]
    corrected = readCorrectedSlices(first.node, first.volume, ledgers.ledger)
    readers = slices.forTraining(NAME, corrected, holdOut=False, withOthers=True)
    one, other = [read() for read in readers]
    assert (one.train, one.heldOut) == ([1, 4], []) and other.train == [3, 4, 9]
    assert other.corrected.volume.name == "CT 2"
    assert other.corrected.structures == one.corrected.structures
    # Its segments stand in the other order, but labels are those of the first volume.
    expected = np.zeros_like(second.labels)
    expected[[3, 4, 9]] = (3 - second.labels)[[3, 4, 9]] % 3
    np.testing.assert_array_equal(other.corrected.labels, expected)


def test_with_several_volumes_few_slices_of_each_give_a_score(ledgers, slices, patients):
    first, second, _ = patients
    corrected = both_reviewed(ledgers, slices, first, second)
    parts = [read() for read in slices.forTraining(NAME, corrected, holdOut=True, withOthers=True)]
    assert [(part.train, part.heldOut) for part in parts] == [([1, 5], [3]), ([3, 9], [6])]
    assert choose(ledgers, slices, second).learned == [3, 9]
    choose(ledgers, slices, first)
    slices.forTraining(NAME, corrected, holdOut=True, withOthers=True, teaches=True)
    # Other slices may teach without labels, so later only spared ones give a score.
    assert {*range(20)} - {*choose(ledgers, slices, second).learned} == {2, 6, 10, 14, 18}
    assert ledgers.ledger.heldOut == [6]


def test_a_training_that_came_to_nothing_is_forgotten_in_all_volumes(
    ledgers, slices, patients, scene
):
    first, second, _ = patients
    corrected = both_reviewed(ledgers, slices, first, second)
    for withOthers in (False, True):
        slices.forTraining(NAME, corrected, holdOut=False, withOthers=withOthers)
        assert set(ledgers.ledger.learned) >= {1, 3, 5}
        choose(ledgers, slices, second)  # the user goes on in the other one meanwhile
        slices.forget(NAME, scene.mrml)
        assert ledgers.ledger.learned == []
        assert choose(ledgers, slices, first).learned == []


def test_what_another_training_has_learned_too_stays_learned(ledgers, slices, patients, scene):
    first, second, _ = patients
    corrected = both_reviewed(ledgers, slices, first, second)
    for name in (NAME, "one that is kept"):
        slices.forTraining(name, corrected, holdOut=False, withOthers=False)
    slices.forget(NAME, scene.mrml)
    assert ledgers.ledger.learned == [1, 3, 5]


def test_it_is_forgotten_after_slicer_was_closed_and_started_again(
    ledgers, slices, patients, scene
):
    first, second, _ = patients
    corrected = both_reviewed(ledgers, slices, first, second)
    slices.forTraining(NAME, corrected, holdOut=False, withOthers=True)
    # What stays is in the scene: nothing of these two objects.
    slices.close()
    ledgers.close()
    TrainingSlices(CurrentLedger()).forget(NAME, scene.mrml)
    for patient in (first, second):
        ledger, _problem = ledgerOf(patient.node, patient.volume, "axial")
        assert ledger.learned == []
        ledger.close()


def test_it_is_forgotten_where_slices_of_another_plane_are_in_use_now(
    ledgers, slices, patients, scene
):
    first, second, _ = patients
    corrected = both_reviewed(ledgers, slices, first, second)
    slices.forTraining(NAME, corrected, holdOut=False, withOthers=True)
    ledgers.choose(first.node, first.volume, "coronal")
    slices.lookAtOthers(first.volume, NAMES, np.inf)
    slices.forget(NAME, scene.mrml)
    assert choose(ledgers, slices, first).learned == []
    assert choose(ledgers, slices, second).learned == []


def test_a_volume_that_lacks_a_structure_or_has_it_twice_is_left_out(ledgers, slices, patients):
    first, second, third = patients
    for patient in patients:
        review(ledgers, slices, patient, [1, 4])
    choose(ledgers, slices, first)
    assert names_of(slices) == ["CT 2", "CT 3"]
    liver = third.node.GetSegmentation().GetSegment(third.output.segmentIds[2])
    liver.SetName("LIVER")
    choose(ledgers, slices, first)
    assert names_of(slices) == ["CT 2", "CT 3"]
    liver.SetName("tumor")
    choose(ledgers, slices, first)
    assert names_of(slices) == ["CT 2"]
    choose(ledgers, slices, first, ["spleen"])
    assert names_of(slices) == ["CT 2", "CT 3"]
    second.node.GetSegmentation().AddEmptySegment("", "Spleen")
    choose(ledgers, slices, first, ["spleen"])
    assert names_of(slices) == ["CT 3"]


def test_an_image_of_another_kind_is_left_out(ledgers, slices, patients):
    first, second, third = patients
    for patient in patients:
        review(ledgers, slices, patient, [1, 4])
    hounsfield = np.resize(np.array([-1000, 50], np.int16), second.labels.shape)
    image = second.volume.GetImageData().GetPointData().GetScalars()
    for place, value in enumerate(hounsfield.ravel()):
        image.SetTuple1(place, value)
    slices.close()
    choose(ledgers, slices, first)
    assert names_of(slices) == ["CT 3"]


def test_a_volume_that_was_moved_or_removed_does_no_harm(scene, ledgers, slices, patients):
    first, second, third = patients
    for patient in patients:
        review(ledgers, slices, patient, [1, 4])
    choose(ledgers, slices, first)
    second.volume.SetAndObserveTransformNodeID(scene.linear_transform().GetID())
    choose(ledgers, slices, first)
    assert names_of(slices) == ["CT 3"]  # the segmentation did not move along
    corrected = readCorrectedSlices(first.node, first.volume, ledgers.ledger)
    scene.mrml.RemoveNode(third.volume)
    assert len(slices.forTraining(NAME, corrected, holdOut=False, withOthers=True)) == 1
    choose(ledgers, slices, first)
    assert names_of(slices) == []


def test_what_is_corrected_elsewhere_is_noticed(ledgers, slices, patients, paint, plain_grid):
    first, _, third = patients
    review(ledgers, slices, third, [1])
    choose(ledgers, slices, first)
    heard = []
    slices.othersChanged.connect(lambda: heard.append(1))
    voxels = np.zeros(plain_grid.size[::-1], bool)
    voxels[5, 2:4, 2:4] = True
    paint(third.node, third.output.segmentIds[1], voxels, plain_grid)
    assert heard
    choose(ledgers, slices, first)
    assert slices.others[0].slices == (1, 5)
    slices.close()
    heard.clear()
    third.node.GetSegmentation().GetNthSegment(0).SetName("spleen 2")
    assert heard == [] and slices.others == ()


def test_what_was_only_drawn_counts_once_it_was_worked_on_here(
    scene, ledgers, slices, patients, plain_grid, paint
):
    first = patients[0]
    review(ledgers, slices, first, [1, 4])
    volume = scene.volume(plain_grid, name="CT 4")
    node = scene.mrml.AddNewNodeByClass("vtkMRMLSegmentationNode")
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    voxels = np.zeros(plain_grid.size[::-1], bool)
    voxels[[2, 5], 2:4, 2:4] = True
    for name in NAMES:
        segment = node.GetSegmentation().AddEmptySegment("", name)
    paint(node, segment, voxels, plain_grid)
    choose(ledgers, slices, first)
    assert names_of(slices) == []  # as it is where another program has made it
    ledgers.choose(node, volume, "axial")
    choose(ledgers, slices, first)
    assert [(one.name, one.slices) for one in slices.others] == [("CT 4", (2, 5))]
    ledgers.choose(node, volume, "coronal")  # and what was drawn in axial slices stays known
    choose(ledgers, slices, first)
    assert [(one.name, one.slices) for one in slices.others] == [("CT 4", (2, 5))]


def test_rough_paint_is_of_the_chosen_volume_alone(ledgers, slices, patients):
    first, second, _ = patients
    review(ledgers, slices, first, [1, 4])
    review(ledgers, slices, second, [3, 6])
    corrected = readCorrectedSlices(second.node, second.volume, ledgers.ledger)
    (read,) = slices.forPaint(NAME, corrected)
    assert read().rough == [3, 6] and {*read().train} > {3, 6} and read().heldOut == ()
    assert ledgers.ledger.learned == read().train
