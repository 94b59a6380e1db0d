"""What was made for one volume is used with another only if that is meant."""

from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest

slicer = pytest.importorskip("slicer", reason="needs slicer-core", exc_type=ImportError)

import vtk  # noqa: E402
from SAMAutoSegPanels import ClickPanel as module  # noqa: E402
from SAMAutoSegPanels.MeantFor import requireOwn  # noqa: E402
from SAMAutoSegScene.SegmentationOutput import prepareSegmentation, volumeOf  # noqa: E402
from vtk.util.numpy_support import numpy_to_vtk  # noqa: E402

from SAMAutoSegLib.errors import SAMAutoSegError  # noqa: E402


@pytest.fixture
def scene() -> Any:
    mrml = slicer.vtkMRMLScene()
    logic = slicer.vtkSlicerSegmentationsModuleLogic()
    logic.SetMRMLScene(mrml)
    image = vtk.vtkImageData()
    image.SetDimensions(6, 5, 8)
    image.GetPointData().SetScalars(numpy_to_vtk(np.arange(240, dtype=np.int16), deep=True))
    volumes = [mrml.AddNewNodeByClass("vtkMRMLScalarVolumeNode", f"CT {n}") for n in (1, 2)]
    for volume in volumes:
        volume.SetAndObserveImageData(image)
    node = prepareSegmentation(volumes[0], []).node
    return SimpleNamespace(mrml=mrml, logic=logic, first=volumes[0], second=volumes[1], node=node)


def test_the_segmentation_of_another_volume_is_used_after_one_question(scene: Any) -> None:
    asked: list[str] = []

    def answer(question: str) -> bool:
        asked.append(question)
        return len(asked) > 1

    requireOwn(scene.node, scene.first, answer)
    assert asked == []
    with pytest.raises(SAMAutoSegError, match="for CT 2 choose another output segmentation"):
        requireOwn(scene.node, scene.second, answer)
    assert "was made for the volume CT 1" in asked[0] and volumeOf(scene.node) is scene.first
    for _again in range(2):
        requireOwn(scene.node, scene.second, answer)
    assert volumeOf(scene.node) is scene.second and len(asked) == 2


class Clicks:
    """The click tools with a session, an editor that selects the first segment, no widgets."""

    def __init__(self, scene: Any, monkeypatch: pytest.MonkeyPatch, structures: tuple) -> None:
        monkeypatch.setattr(slicer, "util", MagicMock(), raising=False)
        monkeypatch.setattr(module, "ClickTools", MagicMock())
        self.node = SimpleNamespace(inputVolume=scene.second, outputSegmentation=None)
        model = SimpleNamespace(structures=structures)
        session = MagicMock(parameterNode=self.node, model=model)
        editor = SimpleNamespace(
            segmentToEdit=lambda node: node.GetSegmentation().GetNthSegmentID(0)
        )
        self.ledgers = SimpleNamespace(problem="")
        self.panel = module.ClickPanel(MagicMock(), session, self.ledgers, editor)
        self.panel.confirm = lambda question: False


def test_clicks_leave_alone_what_is_of_another_volume_or_does_not_fit(
    scene: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    clicks = Clicks(scene, monkeypatch, ())
    clicks.node.outputSegmentation = scene.node
    with pytest.raises(SAMAutoSegError, match="was left as it is"):
        clicks.panel._segmentToEdit()
    clicks.ledgers.problem = "The output segmentation does not fit the volume."
    with pytest.raises(SAMAutoSegError, match="does not fit"):
        clicks.panel._segmentToEdit()


@pytest.mark.parametrize(
    ("structures", "name"),
    [((), "Structure 1"), (("liver",), "liver"), (("liver", "spleen"), "Structure 1")],
)
def test_the_first_click_makes_the_segment_that_the_model_goes_into(
    scene: Any, monkeypatch: pytest.MonkeyPatch, structures: tuple, name: str
) -> None:
    clicks = Clicks(scene, monkeypatch, structures)
    node, segmentId = clicks.panel._segmentToEdit()
    assert node.GetSegmentation().GetSegment(segmentId).GetName() == name
    assert volumeOf(node) is scene.second
