"""What a run writes, in a scene of Slicer's own classes."""

from dataclasses import replace

import numpy as np
import pytest

slicer = pytest.importorskip("slicer", reason="needs slicer-core", exc_type=ImportError)

from SAMAutoSegPanels.CurrentLedger import CurrentLedger  # noqa: E402
from SAMAutoSegPanels.EngineVolumes import volumeStamp  # noqa: E402
from SAMAutoSegPanels.SceneOutput import SceneOutput  # noqa: E402

from SAMAutoSegLib.errors import SAMAutoSegError  # noqa: E402
from SAMAutoSegLib.images.structure import standard_structures  # noqa: E402

from .conftest import add_volume  # noqa: E402

PROVENANCE = {"model": "Organs", "version": "2", "sha256": "ab", "date": "d", "program": "p"}


class Scene:
    def __init__(self) -> None:
        self.mrml = slicer.vtkMRMLScene()
        self.application = slicer.vtkSlicerApplicationLogic()
        self.application.SetMRMLScene(self.mrml)
        self.segmentations = slicer.vtkSlicerSegmentationsModuleLogic()
        self.segmentations.SetMRMLApplicationLogic(self.application)
        self.segmentations.SetMRMLScene(self.mrml)
        self.volume = add_volume(self.mrml)
        self.ledgers = CurrentLedger()
        self.made: list = []
        self.agrees = False
        self.questions: list[str] = []
        self.output = SceneOutput(
            self.ledgers.choose, lambda node, make: (None, None), self.made.append, self.confirm
        )

    def confirm(self, question: str) -> bool:
        self.questions.append(question)
        return self.agrees

    def begin(self, node=None, region=None):
        structures = standard_structures(["liver", "spleen"])
        return self.output.begin(self.volume, structures, node, "axial", PROVENANCE, region)


@pytest.fixture
def scene() -> Scene:
    return Scene()


def halves() -> np.ndarray:
    labels = np.zeros((5, 6), np.uint8)
    labels[:, :3], labels[:, 3:] = 1, 2
    return labels


def test_a_run_makes_segments_colors_them_and_says_which_model_it_was(scene: Scene) -> None:
    output = scene.begin()
    assert scene.made == [output.node] and scene.output.sliceCount == 8
    scene.output.write(3, "axial", halves())
    written = scene.output.end({"per_slice": {"3": 0.4}})
    assert written.written == [3]
    segmentation = output.node.GetSegmentation()
    names = [segmentation.GetNthSegment(n).GetName() for n in range(2)]
    assert names == ["liver", "spleen"]
    assert '"Organs"' in output.node.GetAttribute("SAMAutoSeg.Provenance")
    ledger = scene.ledgers.ledger
    assert ledger.states()[2:4] == ["untouched", "model"]
    assert ledger.uncertainties()[3] == 0.4


def test_outside_of_a_region_all_stays_as_it_is(scene: Scene) -> None:
    node = scene.begin().node
    scene.output.write(3, "axial", halves())
    scene.output.end(None)
    scene.begin(node, [[1, 5], [2, 4], [0, 8]])
    scene.output.write(3, "axial", np.ones((5, 6), np.uint8))
    scene.output.end(None)
    expected = halves()
    expected[1:3, 1:5] = 1  # rows run against J here
    scene.ledgers.ledger.markReviewed([3])
    scene.begin(node)
    assert np.array_equal(scene.output.corrected()["corrected"], expected[None])


def test_slices_of_a_run_that_breaks_off_say_which_model_it_was(scene: Scene) -> None:
    output = scene.begin()
    assert output.node.GetAttribute("SAMAutoSeg.Provenance") is None
    scene.output.write(3, "axial", halves())
    scene.output.abandon()
    assert '"Organs"' in output.node.GetAttribute("SAMAutoSeg.Provenance")


def test_only_what_the_user_corrected_goes_along(scene: Scene) -> None:
    output = scene.begin()
    scene.output.write(3, "axial", halves())
    assert scene.output.corrected() == {}
    scene.ledgers.ledger.markReviewed([3])
    given = scene.output.corrected()
    assert given["corrected_slices"] == [3]
    assert np.array_equal(given["corrected"], halves()[None])
    assert scene.begin(output.node) is not None
    assert scene.output.corrected()["corrected_slices"] == [3]


def test_a_segmentation_on_other_voxels_is_resampled_if_the_user_agrees(scene: Scene) -> None:
    output = scene.begin()
    scene.output.write(3, "axial", halves())
    scene.output.end(None)
    assert scene.begin(output.node) and scene.questions == []
    scene.output.end(None)
    scene.volume.SetSpacing(1, 1, 1.5)
    with pytest.raises(SAMAutoSegError, match="does not fit the volume"):
        scene.begin(output.node)
    assert len(scene.questions) == 1 and "Resample it" in scene.questions[0]
    scene.agrees = True
    assert "was resampled" in scene.begin(output.node).notes[0]
    # Thicker than before, and nobody knows any more who drew it.
    assert scene.ledgers.ledger.states().count("unchecked") == 1
    scene.output.end(None)


def test_slices_of_a_volume_come_as_the_engine_gives_single_ones(scene: Scene) -> None:
    scene.begin()
    labels = np.random.default_rng(0).integers(0, 3, (8, 5, 6)).astype(np.uint8)
    for number, plane, values in scene.output.slicesOf(labels, "axial", range(8)):
        scene.output.write(number, plane, values)
    scene.output.end(None)
    node = scene.made[0]
    image = slicer.vtkOrientedImageData()
    first = node.GetSegmentation().GetNthSegmentID(0)
    node.GetBinaryLabelmapRepresentation(first, image)
    assert image.GetScalarRange() == (0.0, 1.0)
    count = sum(
        image.GetScalarComponentAsDouble(i, j, k, 0)
        for i in range(image.GetExtent()[0], image.GetExtent()[1] + 1)
        for j in range(image.GetExtent()[2], image.GetExtent()[3] + 1)
        for k in range(image.GetExtent()[4], image.GetExtent()[5] + 1)
    )
    assert count == (labels == 1).sum()


@pytest.mark.parametrize("which", ["volume", "segmentation"])
def test_a_node_removed_in_the_middle_is_told_and_can_be_abandoned(
    scene: Scene, which: str
) -> None:
    output = scene.begin()
    scene.output.write(3, "axial", halves())
    scene.mrml.RemoveNode(scene.volume if which == "volume" else output.node)
    with pytest.raises(SAMAutoSegError, match="was removed"):
        scene.output.write(4, "axial", halves())
    scene.output.abandon()


def test_the_stamp_of_a_volume_follows_its_voxels_and_its_place(scene: Scene) -> None:
    before = volumeStamp(scene.volume)
    assert volumeStamp(scene.volume) == before
    scene.volume.SetSpacing(1, 1, 4)
    moved = volumeStamp(scene.volume)
    scene.volume.GetImageData().GetPointData().GetScalars().Modified()
    assert len({before, moved, volumeStamp(scene.volume)}) == 3


def test_a_run_keeps_its_ledger_until_it_ends(scene: Scene) -> None:
    output = scene.begin()
    ledger = scene.ledgers.ledger
    for number in range(8):
        scene.output.write(number, "axial", halves())
        # Meanwhile another model is chosen, and both nodes are moved.
        assert scene.ledgers.choose(output.node, scene.volume, "coronal") is ledger
        transform = scene.mrml.AddNewNodeByClass("vtkMRMLLinearTransformNode").GetID()
        for node in (output.node, scene.volume):
            node.DisableModifiedEventOn()
            node.SetAndObserveTransformNodeID(transform)
        for node in (output.node, scene.volume):
            node.DisableModifiedEventOff()
            node.InvokePendingModifiedEvent()
    scene.output.end({"per_slice": {"3": 0.4}})
    later = scene.ledgers.choose(output.node, scene.volume, "axial")
    assert later is not ledger and later.uncertainties()[3] == 0.4
    assert set(later.states()) == {"model"}
    across = scene.ledgers.choose(output.node, scene.volume, "coronal")
    assert across.plane == "coronal" and across.toLearnFrom() == []


def test_a_segmentation_that_is_removed_during_a_run_does_not_keep_its_ledger(scene: Scene) -> None:
    first = scene.begin().node
    other = scene.mrml.AddNewNodeByClass("vtkMRMLSegmentationNode")
    assert scene.ledgers.choose(other, scene.volume, "axial").segmentationNode is other
    assert first is not other


def test_structures_of_one_name_get_a_segment_each_in_every_run(scene: Scene) -> None:
    (liver,) = standard_structures(["liver"])
    structures = [liver, replace(liver, label=2)]
    node, found = None, []
    for _ in range(3):
        output = scene.output.begin(scene.volume, structures, node, "axial", PROVENANCE)
        scene.output.write(3, "axial", halves())
        scene.output.end(None)
        node = output.node
        found.append(set(output.segmentIds.values()))
    assert all(len(ids) == 2 for ids in found)


def test_the_segmentation_of_another_volume_is_written_only_if_that_is_meant(scene: Scene) -> None:
    node = scene.begin().node
    scene.output.end(None)
    later = scene.mrml.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "later CT")
    later.SetAndObserveImageData(scene.volume.GetImageData())
    scene.volume = later
    with pytest.raises(SAMAutoSegError, match="for later CT choose another output segmentation"):
        scene.begin(node)
    assert len(scene.questions) == 1 and "was made for the volume CT" in scene.questions[0]
    scene.agrees = True
    for _again in range(2):
        assert scene.begin(node).node is node
        scene.output.end(None)
    assert len(scene.questions) == 2
