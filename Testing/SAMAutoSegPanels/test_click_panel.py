"""Clicks on a scene of Slicer's own classes; widgets and the engine's answers are played."""

from types import SimpleNamespace
from unittest.mock import MagicMock

import numpy as np
import pytest

slicer = pytest.importorskip("slicer", reason="needs slicer-core", exc_type=ImportError)

from SAMAutoSegPanels import ClickPanel as module  # noqa: E402
from SAMAutoSegPanels.ClickSession import ClickSession  # noqa: E402
from SAMAutoSegScene.SegmentationOutput import prepareSegmentation  # noqa: E402

from SAMAutoSegLib.images.structure import structure_named  # noqa: E402

from .conftest import add_volume  # noqa: E402


class Played:
    """A volume of 6 x 5 x 8 voxels of 1 mm, and boxes in its slice 3 that the test answers."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(slicer, "util", MagicMock(), raising=False)
        monkeypatch.setattr(module, "ClickTools", MagicMock())
        self.mrml = slicer.vtkMRMLScene()
        self.logic = slicer.vtkSlicerSegmentationsModuleLogic()
        self.logic.SetMRMLScene(self.mrml)
        self.volume = add_volume(self.mrml)
        structures = [structure_named("liver", 1), structure_named("spleen", 2)]
        self.output = prepareSegmentation(self.volume, structures)
        self.ui = MagicMock()
        node = SimpleNamespace(inputVolume=self.volume, outputSegmentation=self.output.node)
        editor = SimpleNamespace(of=lambda segmentation: (None, None))
        ledgers = SimpleNamespace(ledger=None)
        self.panel = module.ClickPanel(self.ui, MagicMock(parameterNode=node), ledgers, editor)

    def answer(self, mask: np.ndarray, label: int = 1) -> str:
        """A box that the engine answers with a mask; what is said then."""
        place = "axial", 3, self.output.segmentIds[label]
        prompt = ClickSession().boxed(0, 0, 4, 5)
        self.panel._write(self.output.node, self.volume, place, prompt, mask)
        return str(self.ui.clickStatusLabel.text)


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> Played:
    return Played(monkeypatch)


def test_a_box_that_finds_what_is_there_already_does_not_blame_the_masking(
    played: Played,
) -> None:
    large, small = np.zeros((2, 5, 6), np.uint8)
    large[1:4, 1:5] = small[2, 2:4] = 1
    assert played.answer(large) == ""
    assert "in the segment already" in played.answer(small)
    assert "finds nothing" in played.answer(np.zeros_like(small))


def test_a_box_over_a_completed_segment_says_that_another_one_forbids_it(played: Played) -> None:
    mask = np.ones((5, 6), np.uint8)
    assert played.answer(mask, label=2) == ""
    segment = played.output.node.GetSegmentation().GetSegment(played.output.segmentIds[2])
    played.logic.SetSegmentStatus(segment, played.logic.Completed)
    assert "another segment forbids it" in played.answer(mask)
