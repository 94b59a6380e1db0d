"""The editor's node in a scene of Slicer's own classes; its widget is played."""

from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest

slicer = pytest.importorskip("slicer", reason="needs slicer-core", exc_type=ImportError)

from SAMAutoSegPanels.EmbeddedEditor import EmbeddedEditor  # noqa: E402


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    scene = slicer.vtkMRMLScene()
    logic = slicer.vtkSlicerSegmentationsModuleLogic()
    logic.SetMRMLScene(scene)
    widget = MagicMock()
    monkeypatch.setattr(slicer, "mrmlScene", scene, raising=False)
    monkeypatch.setattr(slicer, "qMRMLSegmentEditorWidget", lambda: widget, raising=False)
    told: list[bool] = []
    editor = EmbeddedEditor(MagicMock(), lambda: (None, None), told.append)
    widget.setActiveEffect = lambda effect: editor.node.SetActiveEffectName("")
    return SimpleNamespace(editor=editor, told=told, scene=scene, logic=logic)


def test_an_effect_that_becomes_active_is_told_once_and_so_is_its_end(
    played: SimpleNamespace,
) -> None:
    editor = played.editor
    editor.ensure()
    assert not editor.hasEffect and played.told == []
    editor.node.SetActiveEffectName("Paint")
    editor.node.SetOverwriteMode(editor.node.OverwriteNone)
    assert editor.hasEffect and played.told == [True]
    editor.node.SetActiveEffectName("Draw")
    assert played.told == [True]
    editor.letGoOfEffect()
    assert not editor.hasEffect and played.told == [True, False]


def test_after_a_scene_was_closed_the_new_node_is_followed_and_the_old_one_is_not(
    played: SimpleNamespace,
) -> None:
    editor = played.editor
    editor.ensure()
    old = editor.node
    old.SetActiveEffectName("Paint")
    editor.onSceneStartClose()
    played.scene.Clear(True)
    editor.onSceneEndClose()
    assert played.told == [True, False]
    old.SetActiveEffectName("Draw")
    assert played.told == [True, False]
    editor.node.SetActiveEffectName("Draw")
    assert played.told == [True, False, True]
    editor.cleanup()
    assert played.told[-1] is False


def test_an_effect_that_a_scene_was_saved_with_is_not_taken_up(played: SimpleNamespace) -> None:
    node = played.scene.CreateNodeByClass("vtkMRMLSegmentEditorNode")
    node.SetSingletonTag("SAMAutoSegSegmentEditor")
    node.SetActiveEffectName("Paint")
    node = played.scene.AddNode(node)
    played.editor.ensure()
    assert played.editor.node is node
    assert not played.editor.hasEffect and played.told == []
