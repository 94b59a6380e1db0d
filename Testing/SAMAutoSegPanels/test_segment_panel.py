"""The Segment panel on a scene of Slicer's own classes; widgets and the engine are played."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest

slicer = pytest.importorskip("slicer", reason="needs slicer-core", exc_type=ImportError)

import SAMAutoSegScene.SliceGeometry  # noqa: E402
import vtk  # noqa: E402
from SAMAutoSegPanels.ModelLibrary import ModelEntry  # noqa: E402
from SAMAutoSegPanels.Options import GrayLevels, Precision, Refinement, SliceAxis  # noqa: E402
from SAMAutoSegPanels.SegmentPanel import SegmentPanel  # noqa: E402
from SAMAutoSegPanels.Signal import Signal  # noqa: E402
from SAMAutoSegScene.SegmentationOutput import prepareSegmentation  # noqa: E402

from SAMAutoSegLib.errors import SAMAutoSegError  # noqa: E402

from .conftest import add_volume  # noqa: E402


class Played:
    """A volume of 6 x 5 x 8 voxels of 1 mm, a region node, and a session around them."""

    def __init__(self) -> None:
        self.mrml = slicer.vtkMRMLScene()
        self.application = slicer.vtkSlicerApplicationLogic()
        self.application.SetMRMLScene(self.mrml)
        self.markups = slicer.vtkSlicerMarkupsLogic()
        self.markups.SetMRMLScene(self.mrml)
        self.volume = add_volume(self.mrml)
        self.region = self.mrml.AddNewNodeByClass("vtkMRMLMarkupsROINode", "R")
        self.region.SetSize(20.0, 20.0, 3.0)
        self.region.SetCenter(0.0, 0.0, 1.0)
        self.node = SimpleNamespace(
            inputVolume=self.volume,
            outputSegmentation=None,
            axis=SliceAxis.MODEL,
            slices="",
            roi=None,
            intensity=GrayLevels.MODEL,
            precision=Precision.AUTOMATIC,
            refinement=Refinement.OFF,
            largestPart=False,
            smoothSlicesMm=0.0,
            uncertainty=False,
            followCorrected=False,
        )
        self.sent: list[tuple[str, dict]] = []
        self.shown: list[Any] = []
        self.waiting: list[Any] = []
        self.session = SimpleNamespace(
            changed=Signal(),
            parameterNode=self.node,
            ready=True,
            model=ModelEntry(Path("Organs.safetensors"), "Organs", 1, ("liver",), "axial"),
            modelProblem="",
            backboneProblem="",
            loading={"base": None, "device": None},
            device="",
            devices=[],
            secondsForVolume=None,
            shareOfSlices=1.0,
            client=SimpleNamespace(state="ready", send=self.send),
            later=self.waiting.append,
            volumes=SimpleNamespace(open=lambda node, onReady, onError: onReady("key")),
        )
        ui = MagicMock()
        ui.deviceSelector.findData.return_value = 0
        self.panel = SegmentPanel(ui, self.session, None, None)

    def send(self, do: str, params: dict, on_result: Any) -> None:
        self.sent.append((do, params))
        on_result({"seconds": 80.0})

    def turn(self) -> None:
        """What waits for the event loop has its turn."""
        while self.waiting:
            self.waiting.pop(0)()

    def another(self, made: bool = True) -> tuple[Any, Any]:
        """A volume with the same voxels, and the segmentation that was made for it."""
        volume = self.mrml.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "later CT")
        volume.SetAndObserveImageData(self.volume.GetImageData())
        return volume, prepareSegmentation(volume, []).node if made else None


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> Played:
    played = Played()
    monkeypatch.setattr(
        slicer.util,
        "setSliceViewerLayers",
        lambda background, fit: played.shown.append(background),
        raising=False,
    )
    return played


def test_how_long_it_takes_is_asked_for_the_plane_that_is_chosen(played: Played) -> None:
    played.panel.refresh()
    played.panel.refresh()
    played.node.axis = SliceAxis.CORONAL
    played.panel.refresh()
    assert [params["axis"] for do, params in played.sent] == ["axial", "coronal"]


def test_how_long_it_takes_follows_the_slices_and_the_region_that_are_chosen(
    played: Played,
) -> None:
    played.panel.refresh()
    assert (played.session.secondsForVolume, played.session.shareOfSlices) == (80.0, 1.0)
    played.node.slices = "1-4"
    played.panel.refresh()
    assert played.session.shareOfSlices == 4 / 8
    played.node.roi = played.region  # slices 0 to 2
    played.panel.refresh()
    assert played.session.shareOfSlices == 2 / 8
    played.node.slices = ""
    played.panel.refresh()
    assert played.session.shareOfSlices == 3 / 8 and len(played.sent) == 1


def test_a_region_that_is_moved_is_looked_at_anew(played: Played) -> None:
    played.region.SetCenter(0.0, 0.0, 100.0)
    played.node.roi = played.region
    played.panel.refresh()
    assert "outside" in played.panel.facts.optionsProblem
    played.region.SetCenter(0.0, 0.0, 1.0)
    assert (played.panel.facts.optionsProblem, played.session.shareOfSlices) == ("", 3 / 8)
    played.panel.abandon()
    played.region.SetCenter(0.0, 0.0, 100.0)
    assert played.panel.facts.optionsProblem == ""


def test_a_region_made_by_the_selector_lies_around_the_volume_and_can_be_segmented(
    played: Played,
) -> None:
    region = played.mrml.AddNewNodeByClass("vtkMRMLMarkupsROINode", "new")
    played.node.roi = region
    played.panel.refresh()
    assert "is empty" in played.panel.facts.optionsProblem
    played.panel._onNewRoi(region)
    assert (played.panel.facts.optionsProblem, played.session.shareOfSlices) == ("", 1.0)


def test_a_change_of_the_share_is_told_to_those_who_show_it_and_once(played: Played) -> None:
    told: list[float] = []
    played.session.changed.connect(lambda: told.append(played.session.shareOfSlices))
    played.panel.refresh()
    told.clear()
    played.node.slices = "0-3"
    played.panel.refresh()
    played.panel.refresh()
    assert told == [0.5]


def test_progress_is_shown_by_this_panel_alone(
    played: Played, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(played.session.volumes, "open", lambda *given: None)
    played.node.roi = played.region
    played.panel.refresh()
    played.panel.onSegmentButton()
    told: list[int] = []
    played.session.changed.connect(lambda: told.append(1))
    looked: list[int] = []
    monkeypatch.setattr(SAMAutoSegScene.SliceGeometry, "roiOfNode", lambda *given: looked.append(1))
    played.panel.run._onProgress(0.5, "segmenting", 3.0)
    assert played.panel.facts.fraction == 0.5
    played.panel._ui.segmentProgressBar.setValue.assert_called()
    assert told == [] and looked == []


def test_the_engine_gets_the_voxels_of_the_region_wherever_box_and_volume_are(
    played: Played,
) -> None:
    played.node.roi = played.region

    def asked() -> list[int]:
        return played.panel.request(played.volume, "axial")["roi"][2]

    assert asked() == [0, 3]
    played.region.SetCenter(0.0, 0.0, 4.0)
    assert asked() == [3, 6]
    played.region.SetSize(20.0, 20.0, 1.0)
    assert asked() == [4, 5]
    played.volume.SetOrigin(0.0, 0.0, 1.0)
    assert asked() == [3, 4]
    transform = played.mrml.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    played.region.SetAndObserveTransformNodeID(transform.GetID())
    assert asked() == [3, 4]
    up = vtk.vtkMatrix4x4()
    up.SetElement(2, 3, 2.0)
    transform.SetMatrixTransformToParent(up)
    assert asked() == [5, 6]
    played.region.SetSize(0.0, 1.0, 1.0)
    with pytest.raises(SAMAutoSegError, match="is empty"):
        asked()


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        (Refinement.OFF, {}),
        (Refinement.BEST_OF_FOUR, {"refine": 3}),
        (Refinement.SECOND, {"refine": 1, "keep_iteration": 1}),
    ],
)
def test_the_engine_is_asked_to_refine_and_to_keep_the_pass_that_is_chosen(
    played: Played, chosen: Refinement, expected: dict[str, int]
) -> None:
    played.node.refinement = chosen
    request = played.panel.request(played.volume, "axial")
    assert {name: request[name] for name in ("refine", "keep_iteration") if name in request} == (
        expected
    )


@pytest.mark.parametrize("made", [True, False])
def test_another_volume_does_not_go_into_the_segmentation_of_the_one_before(
    played: Played, made: bool
) -> None:
    played.node.outputSegmentation = first = prepareSegmentation(played.volume, []).node
    played.panel.refresh()
    other, its = played.another(made)
    played.node.inputVolume = other
    played.panel.refresh()
    assert played.node.outputSegmentation is its
    played.node.inputVolume = played.volume
    played.panel.refresh()
    assert played.node.outputSegmentation is (first if made else None)


def test_the_views_show_another_volume_without_what_was_found_in_the_one_before(
    played: Played,
) -> None:
    first = prepareSegmentation(played.volume, []).node
    loaded = played.mrml.AddNewNodeByClass("vtkMRMLSegmentationNode", "of no volume")
    loaded.CreateDefaultDisplayNodes()
    played.panel.refresh()
    other, its = played.another()
    assert played.shown == [] and first.GetDisplayNode().GetVisibility()
    nodes = (first, its, loaded)
    for volume, visible in ((other, [0, 1, 1]), (played.volume, [1, 0, 1])):
        played.node.inputVolume = volume
        played.panel.refresh()
        assert played.shown[-1] is volume
        assert [node.GetDisplayNode().GetVisibility() for node in nodes] == visible
    view = played.mrml.AddNewNodeByClass("vtkMRMLSliceCompositeNode")
    view.SetBackgroundVolumeID(other.GetID())
    played.node.inputVolume = other
    played.panel.refresh()
    assert played.shown == [other, played.volume]  # it is seen already, as the user has it


def test_the_views_go_to_another_volume_although_the_editor_shows_it_by_itself(
    played: Played,
) -> None:
    view = played.mrml.AddNewNodeByClass("vtkMRMLSliceCompositeNode")

    class Told(SimpleNamespace):
        def __setattr__(self, name: str, value: Any) -> None:
            super().__setattr__(name, value)
            if name == "outputSegmentation":  # the editor hears of it, as of all that is chosen
                view.SetBackgroundVolumeID(self.inputVolume.GetID())

    values = {
        **vars(played.node),
        "outputSegmentation": prepareSegmentation(played.volume, []).node,
    }
    played.node = played.session.parameterNode = Told(**values)
    played.panel.refresh()
    played.node.inputVolume, its = played.another()
    played.panel.refresh()
    assert played.node.outputSegmentation is its
    assert played.shown == [played.node.inputVolume]


def test_a_volume_that_is_deleted_leaves_the_views_to_slicer(played: Played) -> None:
    played.panel.refresh()
    other, its = played.another()
    played.panel.onNodeRemoved(played.volume)
    played.node.inputVolume = other  # as Slicer's selector does by itself
    played.panel.refresh()
    assert played.shown == []


@pytest.mark.parametrize("more", [True, False])
def test_a_segmentation_that_was_deleted_is_not_followed_by_that_of_another_volume(
    played: Played, more: bool
) -> None:
    mine = [prepareSegmentation(played.volume, []).node for _ in range(1 + more)]
    _other, its = played.another()
    played.node.outputSegmentation = mine[0]
    played.panel.refresh()
    played.panel.onNodeRemoved(mine[0])
    for selected in (None, its):  # as Slicer's selector does by itself
        played.node.outputSegmentation = selected
        played.panel.refresh()
    played.mrml.RemoveNode(mine[0])
    assert played.node.outputSegmentation is (mine[1] if more else None)
    played.turn()
    played.node.outputSegmentation = its  # and now the user
    played.panel.refresh()
    assert played.node.outputSegmentation is its


def test_a_segmentation_that_is_chosen_after_the_volume_is_meant(played: Played) -> None:
    played.node.inputVolume, _its = played.another()
    played.panel.refresh()
    played.node.outputSegmentation = first = prepareSegmentation(played.volume, []).node
    played.panel.refresh()
    assert played.node.outputSegmentation is first


def test_what_a_scene_was_saved_with_stays_chosen(played: Played) -> None:
    played.panel.refresh()
    other, _its = played.another()
    first = prepareSegmentation(played.volume, []).node
    values = {**vars(played.node), "inputVolume": other, "outputSegmentation": first}
    played.session.parameterNode = SimpleNamespace(**values)
    played.panel.refresh()
    assert played.session.parameterNode.outputSegmentation is first


def test_a_model_deleted_after_it_was_listed_starts_no_run_and_that_is_told(
    played: Played,
) -> None:
    played.session.model = None
    played.session.modelProblem = "Organs.safetensors is not on this computer."
    played.panel.onSegmentButton()
    assert played.panel.run is None
    assert played.panel._ui.segmentStatusLabel.text == played.session.modelProblem
