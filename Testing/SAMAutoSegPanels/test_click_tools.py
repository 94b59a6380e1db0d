"""Clicks in views of a scene of Slicer's own classes; the views are played."""

from types import SimpleNamespace

import pytest

slicer = pytest.importorskip("slicer", reason="needs slicer-core", exc_type=ImportError)

import vtk  # noqa: E402
from SAMAutoSegPanels.ClickTools import BOX, POINT, ClickTools  # noqa: E402


class Played:
    """One slice view; `told` is what the tools have told, `passed` what Slicer's tools got."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.mrml = slicer.vtkMRMLScene()
        self.application = slicer.vtkSlicerApplicationLogic()
        self.application.SetMRMLScene(self.mrml)
        self.mode = self.application.GetInteractionNode()
        self.interactor = vtk.vtkRenderWindowInteractor()
        node = self.mrml.AddNewNodeByClass("vtkMRMLSliceNode", "Red")
        view = SimpleNamespace(interactor=lambda: self.interactor, mrmlSliceNode=lambda: node)
        manager = SimpleNamespace(
            sliceViewNames=lambda: ("Red",),
            sliceWidget=lambda name: SimpleNamespace(sliceView=lambda: view),
        )
        app = SimpleNamespace(
            layoutManager=lambda: manager, applicationLogic=lambda: self.application
        )
        monkeypatch.setattr(slicer, "app", app, raising=False)
        self.told: list[str] = []
        self.passed: list[str] = []
        self.tools = ClickTools(
            lambda *given: self.told.append("point"),
            lambda *given: self.told.append("box"),
            self.let_go,
        )
        for event in ("LeftButtonPressEvent", "LeftButtonDoubleClickEvent"):
            self.interactor.AddObserver(event, lambda caller, name: self.passed.append(name))

    def let_go(self) -> None:
        self.told.append("let go")
        self.tools.choose("")


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> Played:
    return Played(monkeypatch)


@pytest.mark.parametrize("tool", [POINT, BOX])
def test_a_double_click_with_a_tool_does_not_maximize_the_view(played: Played, tool: str) -> None:
    played.tools.choose(tool)
    played.interactor.InvokeEvent("LeftButtonDoubleClickEvent")
    assert played.passed == []
    assert played.told == (["point"] if tool == POINT else [])
    played.tools.choose("")
    played.interactor.InvokeEvent("LeftButtonDoubleClickEvent")
    assert played.passed == ["LeftButtonDoubleClickEvent"]


def test_a_tool_ends_the_mode_that_the_mouse_was_in(played: Played) -> None:
    played.mode.SetCurrentInteractionMode(played.mode.Place)
    played.tools.choose(POINT)
    assert played.mode.GetCurrentInteractionMode() == played.mode.ViewTransform
    assert played.told == []


@pytest.mark.parametrize("mode", ["Place", "AdjustWindowLevel"])
def test_another_mode_of_the_mouse_ends_a_tool(played: Played, mode: str) -> None:
    played.tools.choose(POINT)
    played.mode.SetCurrentInteractionMode(getattr(played.mode, mode))
    assert played.told == ["let go"]
    played.interactor.InvokeEvent("LeftButtonPressEvent")
    assert played.told == ["let go"] and played.passed == ["LeftButtonPressEvent"]
    assert played.mode.GetCurrentInteractionMode() == getattr(played.mode, mode)


@pytest.mark.parametrize("tool", [POINT, BOX])
def test_a_drag_with_shift_is_slicers_from_its_press_to_its_release(
    played: Played, tool: str
) -> None:
    name = "LeftButtonReleaseEvent"
    played.interactor.AddObserver(name, lambda caller, event: played.passed.append(event))
    played.tools.choose(tool)
    for shift, passed in ((1, ["LeftButtonPressEvent", name]), (0, [])):
        played.interactor.SetShiftKey(shift)
        played.passed.clear()
        for event in ("LeftButtonPressEvent", name):
            played.interactor.InvokeEvent(event)
        assert played.passed == passed
