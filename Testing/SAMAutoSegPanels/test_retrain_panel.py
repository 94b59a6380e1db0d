"""The Retrain section on a scene of Slicer's own classes; widgets and the engine are played."""

import importlib
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest

slicer = pytest.importorskip("slicer", reason="needs slicer-core", exc_type=ImportError)

import vtk  # noqa: E402
from SAMAutoSegPanels.CurrentLedger import CurrentLedger  # noqa: E402
from SAMAutoSegPanels.Options import Budget, Method  # noqa: E402
from SAMAutoSegPanels.Signal import Signal  # noqa: E402
from SAMAutoSegScene.SegmentationOutput import prepareSegmentation  # noqa: E402

from SAMAutoSegLib.images.structure import structure_named  # noqa: E402

from .conftest import add_volume  # noqa: E402


class Played:
    """The section with two volumes of 6 x 5 x 8 voxels of 1 mm; in the first, slice 3 is right."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, jobs: Path) -> None:
        self.mrml = slicer.vtkMRMLScene()
        self.logic = slicer.vtkSlicerSegmentationsModuleLogic()
        self.logic.SetMRMLScene(self.mrml)
        util = SimpleNamespace(
            confirmOkCancelDisplay=lambda question: False,
            getNodesByClass=lambda name: list(self.mrml.GetNodesByClass(name)),
        )
        for name, played in {"mrmlScene": self.mrml, "util": util}.items():
            monkeypatch.setattr(slicer, name, played, raising=False)
        monkeypatch.setitem(sys.modules, "qt", MagicMock())
        for name in ("CurvePlot", "StructureList"):
            monkeypatch.setitem(sys.modules, f"SAMAutoSegPanels.{name}", MagicMock())
        monkeypatch.delitem(sys.modules, "SAMAutoSegPanels.RetrainPanel", raising=False)
        module = importlib.import_module("SAMAutoSegPanels.RetrainPanel")
        monkeypatch.delitem(sys.modules, "SAMAutoSegPanels.RetrainPanel")
        self.volume, self.other = self.add_volume("CT"), self.add_volume("later CT")
        self.node = SimpleNamespace(
            inputVolume=self.volume,
            outputSegmentation=prepareSegmentation(self.volume, [structure_named("liver", 1)]).node,
            learnFromOthers=False,
            method=Method.BLO_SAM,
            budget=Budget.QUICK,
            holdOut=True,
        )
        self.session = MagicMock(
            changed=Signal(),
            parameterNode=self.node,
            ready=True,
            model=None,
            modelProblem="",
            backboneProblem="",
            secondsForVolume=None,
            device="cpu",
        )
        self.ui = MagicMock()
        self.ui.modelNameEdit.text = "liver"
        self.ledgers = CurrentLedger()
        self.panel = module.RetrainPanel(self.ui, self.session, self.ledgers, jobs)
        self.check("liver")
        self.choose(self.volume)
        self.ledgers.ledger.markReviewed([3])
        self.panel.onStates()

    def add_volume(self, name: str) -> Any:
        return add_volume(self.mrml, name)

    def choose(self, volume: Any) -> None:
        self.node.inputVolume = volume
        self.ledgers.choose(self.node.outputSegmentation, volume, "axial")
        self.session.changed.emit()

    def check(self, *names: str) -> None:
        segmentation = self.node.outputSegmentation.GetSegmentation()
        ids = [segmentation.GetSegmentIdBySegmentName(name) for name in names]
        self.panel._structures.checked = lambda: list(zip(ids, names, strict=True))

    @property
    def status(self) -> str:
        return str(self.ui.retrainStatusLabel.text)


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Played:
    return Played(monkeypatch, tmp_path)


def test_what_was_refused_for_one_volume_is_not_said_of_another(played: Played) -> None:
    played.choose(played.other)
    played.panel.onStates()
    played.panel.onRetrainButton()
    assert "was left as it is" in played.status
    played.session.changed.emit()
    assert "was left as it is" in played.status
    played.choose(played.volume)
    assert played.status == ""


def test_where_nothing_is_checked_the_corrected_slices_wait_for_that(played: Played) -> None:
    segment = played.node.outputSegmentation.GetSegmentation().GetNthSegmentID(0)
    played.ledgers.ledger.markReviewed([3], reviewed=False)
    box = slicer.vtkOrientedImageData()
    box.SetExtent(1, 3, 1, 3, 5, 5)
    box.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 1)
    box.GetPointData().GetScalars().Fill(1)
    mode = played.logic.MODE_REPLACE
    played.logic.SetBinaryLabelmapToSegment(box, played.node.outputSegmentation, segment, mode)
    played.check()
    played.panel.onStates()
    assert played.ui.retrainSummaryLabel.text.startswith("Learn from slice 5")
    assert played.status == "Check at least one structure to learn."


def test_a_model_deleted_after_it_was_listed_is_not_replaced_by_a_training_from_nothing(
    played: Played,
) -> None:
    played.session.modelProblem = "Organs.safetensors is not on this computer."
    played.panel.onRetrainButton()
    assert played.panel.facts.job == "idle"
    assert played.status == played.session.modelProblem
