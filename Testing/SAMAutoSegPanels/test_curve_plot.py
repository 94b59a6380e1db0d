"""The nodes of the training curve in a scene of Slicer's own classes; widgets are played."""

import importlib
import sys
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest

slicer = pytest.importorskip("slicer", reason="needs slicer-core", exc_type=ImportError)

import vtk  # noqa: E402
from SAMAutoSegPanels.TrainingCurve import TrainingCurve  # noqa: E402


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Any:
    scene = slicer.vtkMRMLScene()
    monkeypatch.setattr(slicer, "mrmlScene", scene, raising=False)
    monkeypatch.setattr(slicer, "qMRMLPlotWidget", MagicMock(), raising=False)
    return scene


@pytest.fixture
def plot(scene: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    color = MagicMock(**{f"{one}F.return_value": 0.5 for one in ("red", "green", "blue")})
    qt = SimpleNamespace(QColor=lambda *rgb: color, QLabel=MagicMock(), Qt=MagicMock())
    monkeypatch.setitem(sys.modules, "qt", qt)
    monkeypatch.delitem(sys.modules, "SAMAutoSegPanels.CurvePlot", raising=False)
    module = importlib.import_module("SAMAutoSegPanels.CurvePlot")
    monkeypatch.delitem(sys.modules, "SAMAutoSegPanels.CurvePlot")
    return module.CurvePlot(MagicMock())


def test_slicers_layout_makes_no_view_for_the_curve(scene: Any, plot: Any) -> None:
    parents = []

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def on_added(caller: Any, event: str, node: Any) -> None:
        if node.IsA("vtkMRMLPlotViewNode"):
            parents.append(node.GetParentLayoutNode())

    scene.AddObserver(scene.NodeAddedEvent, on_added)
    plot.show_(TrainingCurve())
    assert len(parents) == 1 and parents[0] is not None


def test_the_charts_of_other_modules_do_not_replace_the_curve(scene: Any, plot: Any) -> None:
    application = slicer.vtkSlicerApplicationLogic()
    application.SetMRMLScene(scene)
    plot.show_(TrainingCurve())
    view = scene.GetFirstNodeByClass("vtkMRMLPlotViewNode")
    own = view.GetPlotChartNodeID()
    other = scene.AddNewNodeByClass("vtkMRMLPlotChartNode")
    application.GetSelectionNode().SetActivePlotChartID(other.GetID())
    application.PropagatePlotChartSelection()
    assert own and view.GetPlotChartNodeID() == own
