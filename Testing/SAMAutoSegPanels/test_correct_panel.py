"""The Correct section on a scene of Slicer's own classes; widgets and the engine are played."""

import importlib
import sys
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest

slicer = pytest.importorskip("slicer", reason="needs slicer-core", exc_type=ImportError)

import vtk  # noqa: E402
from SAMAutoSegPanels.CurrentLedger import CurrentLedger  # noqa: E402
from SAMAutoSegPanels.Signal import Signal  # noqa: E402
from SAMAutoSegScene.SegmentLayers import SegmentsInBox  # noqa: E402

from .conftest import add_volume  # noqa: E402


class Played:
    """The section, open in an entered module, with a volume of 6 x 5 x 8 voxels of 1 mm."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.mrml = slicer.vtkMRMLScene()
        self.logic = slicer.vtkSlicerSegmentationsModuleLogic()
        self.logic.SetMRMLScene(self.mrml)
        self.views: dict[str, Any] = {}
        self.editor = MagicMock(currentSegmentID=lambda: "")
        manager = SimpleNamespace(
            sliceViewNames=lambda: tuple(self.views),
            sliceWidget=lambda name: SimpleNamespace(
                mrmlSliceNode=lambda: self.views[name], sliceView=MagicMock()
            ),
        )
        app = SimpleNamespace(layoutManager=lambda: manager)
        util = SimpleNamespace(
            mainWindow=MagicMock(),
            confirmOkCancelDisplay=MagicMock(),
            getNodesByClass=lambda name: list(self.mrml.GetNodesByClass(name)),
        )
        for name, played in {
            "mrmlScene": self.mrml,
            "app": app,
            "util": util,
            "qMRMLSegmentEditorWidget": lambda: self.editor,
        }.items():
            monkeypatch.setattr(slicer, name, played, raising=False)
        qt = MagicMock(QTimer=lambda: MagicMock(), QShortcut=lambda *given: MagicMock())
        monkeypatch.setitem(sys.modules, "qt", qt)
        monkeypatch.setitem(sys.modules, "SAMAutoSegPanels.SliceStrip", MagicMock())
        monkeypatch.delitem(sys.modules, "SAMAutoSegPanels.CorrectPanel", raising=False)
        module = importlib.import_module("SAMAutoSegPanels.CorrectPanel")
        monkeypatch.delitem(sys.modules, "SAMAutoSegPanels.CorrectPanel")
        self.volume = add_volume(self.mrml)
        self.node = SimpleNamespace(inputVolume=self.volume, outputSegmentation=None)
        session = MagicMock(changed=Signal(), parameterNode=self.node, ready=False)
        self.ui = MagicMock()
        self.ui.correctCollapsibleButton.collapsed = False
        self.panel = module.CorrectPanel(self.ui, session, CurrentLedger(), lambda: "axial")
        self.panel.enter()

    def add_surface(self) -> None:
        ball = vtk.vtkSphereSource()
        ball.Update()
        node = self.mrml.AddNewNodeByClass("vtkMRMLSegmentationNode", "a surface")
        node.SetSourceRepresentationToClosedSurface()
        node.AddSegmentFromClosedSurfaceRepresentation(ball.GetOutput(), "skin", (1, 0, 0))

    def begin_at(self, number: int) -> Any:
        """Begin a segmentation with this slice in view; returns the slice node."""
        view = self.mrml.AddNewNodeByClass("vtkMRMLSliceNode", "Red")
        view.JumpSliceByOffsetting(3.0, 3.0, float(number))
        view.SetMappedInLayout(True)
        self.views["Red"] = view
        self.panel._beginSegmentation()
        self.panel.refresh()
        self.panel._onViewsChanged()
        return view

    def collapse(self, collapsed: bool) -> None:
        self.ui.correctCollapsibleButton.collapsed = collapsed
        self.panel._onCollapsed(collapsed)

    def keys(self) -> str:
        shortcuts = self.panel._shortcuts
        return "".join(sorted(key for key, one in shortcuts.items() if one.enabled))


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> Played:
    return Played(monkeypatch)


def test_a_section_that_is_closed_takes_neither_mouse_nor_keys(played: Played) -> None:
    assert played.keys() == "ADMNSX"
    played.ui.boxButton.checked = True
    played.editor.reset_mock()
    played.collapse(True)
    assert played.keys() == ""
    assert played.ui.boxButton.checked is False
    played.editor.setActiveEffect.assert_called_once_with(None)
    played.editor.uninstallKeyboardShortcuts.assert_called_once()
    played.editor.installKeyboardShortcuts.assert_not_called()


def test_a_section_that_is_opened_again_has_its_keys_back(played: Played) -> None:
    played.collapse(True)
    played.editor.reset_mock()
    played.collapse(False)
    assert played.keys() == "ADMNSX"
    played.editor.installKeyboardShortcuts.assert_called_once()


def test_a_module_that_is_entered_with_the_section_closed_takes_no_keys(played: Played) -> None:
    played.collapse(True)
    played.panel.exit()
    played.editor.reset_mock()
    played.panel.enter()
    assert played.keys() == ""
    played.editor.installKeyboardShortcuts.assert_not_called()


def test_the_current_slice_is_one_of_a_view_that_is_shown(played: Played) -> None:
    for name, number in (("Hidden", 2), ("Shown", 5)):
        view = played.mrml.AddNewNodeByClass("vtkMRMLSliceNode", name)
        view.JumpSliceByOffsetting(3.0, 3.0, float(number))
        view.SetMappedInLayout(name == "Shown")
        played.views[name] = view
    played.panel.refresh()
    played.panel._viewTimer.start.reset_mock()
    played.panel.onLayoutChanged()
    played.panel._viewTimer.start.assert_called_once()
    played.panel._onViewsChanged()
    assert played.panel._current == 5
    played.views["Hidden"].SetMappedInLayout(True)
    played.panel._onViewsChanged()
    assert played.panel._current == 2


def test_who_opens_it_goes_on_in_the_first_segmentation_that_fits_the_volume(
    played: Played,
) -> None:
    played.add_surface()
    first = played.mrml.AddNewNodeByClass("vtkMRMLSegmentationNode", "first")
    played.mrml.AddNewNodeByClass("vtkMRMLSegmentationNode", "second")
    played.panel._beginSegmentation()
    assert played.node.outputSegmentation is first
    assert played.mrml.GetNumberOfNodesByClass("vtkMRMLSegmentationNode") == 3


def test_who_opens_it_where_no_segmentation_fits_gets_a_new_one(played: Played) -> None:
    played.add_surface()
    played.panel._beginSegmentation()
    assert played.node.outputSegmentation.GetName() == "CT segmentation"


def test_what_is_marked_is_the_slice_in_view_after_another_volume_was_chosen(
    played: Played,
) -> None:
    played.begin_at(4)
    assert played.panel._current == 4
    for thickness, number in ((0.5, 8), (0.8, 5)):  # another one, and the same one changed
        thin = played.mrml.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "thin")
        image = vtk.vtkImageData()
        image.SetDimensions(6, 5, 16)
        image.AllocateScalars(vtk.VTK_SHORT, 1)
        thin.SetAndObserveImageData(image)
        thin.SetSpacing(1, 1, thickness)
        played.node.inputVolume, played.node.outputSegmentation = thin, None
        timer = played.panel._viewTimer
        timer.start.reset_mock()
        played.panel._beginSegmentation()  # and tells of it
        timer.start.assert_called()
        played.panel.markReviewed()  # before the timer tells
        assert played.panel._ledgers.ledger.toLearnFrom() == [number]
        timer.start.reset_mock()
        played.panel._look()
        timer.start.assert_not_called()
        thin.SetOrigin(0, 0, 1)
        played.panel._look()
        timer.start.assert_called()


def test_the_slice_in_view_can_be_left_to_the_model_where_a_run_would_not_overwrite_it(
    played: Played,
) -> None:
    view = played.begin_at(4)
    ledger = played.panel._ledgers.ledger
    played.panel._look()
    assert not played.ui.leaveToModelButton.enabled
    ledger.markReviewed([4, 5])
    played.panel._look()
    assert played.ui.leaveToModelButton.enabled
    assert not played.panel._leaveAll.enabled
    view.JumpSliceByOffsetting(3.0, 3.0, 5.0)  # the button is pressed before a timer tells
    played.panel.leaveToModel()
    assert ledger.toLearnFrom() == [4]
    played.panel._look()
    assert not played.ui.leaveToModelButton.enabled
    view.JumpSliceByOffsetting(3.0, 3.0, 4.0)
    played.panel.exclude(True)  # from training; a run keeps it as before
    played.panel._look()
    assert played.ui.leaveToModelButton.enabled
    played.panel.leaveToModel()
    played.panel._look()
    assert not played.ui.leaveToModelButton.enabled


def test_all_slices_that_nobody_checked_can_be_left_to_the_model_at_once(played: Played) -> None:
    played.panel._beginSegmentation()
    played.panel.refresh()
    ledger = played.panel._ledgers.ledger
    one = played.node.outputSegmentation.GetSegmentation().AddEmptySegment("liver")
    box = slice(2, 6), slice(1, 3), slice(1, 3)
    with ledger.crossed(range(8)):
        ledger.layers.write(SegmentsInBox(ledger.layers, box), {one: np.ones((4, 2, 2), bool)})
        ledger.layers.announce([one])
    ledger.markReviewed([3])
    played.panel._look()
    assert played.ui.leaveToModelButton.enabled and played.panel._leaveAll.enabled
    played.panel.leaveUncheckedToModel()
    assert not any(ledger.isProtected(number, [one]) for number in (2, 4, 5))
    assert ledger.toLearnFrom() == [3]
    played.panel._look()
    assert not played.panel._leaveAll.enabled


def test_who_chooses_a_new_segmentation_gets_none_that_is_there(played: Played) -> None:
    begin = played.panel._beginTimer
    begin.start.reset_mock()
    played.panel.refresh()
    begin.start.assert_called_once()  # the volume is a new one
    played.panel._beginSegmentation()
    begin.start.reset_mock()
    played.panel.refresh()
    kept = played.node.outputSegmentation
    played.node.outputSegmentation = None
    played.panel.refresh()
    begin.start.assert_not_called()
    played.node.outputSegmentation = kept
    played.panel.refresh()
    played.mrml.RemoveNode(kept)
    played.node.outputSegmentation = None
    played.panel.refresh()
    begin.start.assert_called_once()
