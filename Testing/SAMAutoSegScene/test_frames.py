"""Outlines of one frame of a sequence are not those of another."""

import pytest
import slicer
from SAMAutoSegPanels.CurrentLedger import CurrentLedger
from SAMAutoSegPanels.MeantFor import requireOwn
from SAMAutoSegScene.Frames import frameProblem
from SAMAutoSegScene.SegmentationOutput import prepareSegmentation, segmentationOf

from SAMAutoSegLib.errors import SAMAutoSegError


@pytest.fixture
def cine(scene, plain_grid):
    """A volume that shows the first of two frames, and the browser that changes it."""
    logic = slicer.vtkSlicerSequencesLogic()
    logic.SetMRMLScene(scene.mrml)
    volume = scene.volume(plain_grid, name="cine")
    sequence = scene.add("vtkMRMLSequenceNode")
    for value in ("0", "1"):
        sequence.SetDataNodeAtValue(volume, value)
    browser = scene.add("vtkMRMLSequenceBrowserNode")
    browser.SetAndObserveMasterSequenceNodeID(sequence.GetID())
    browser.AddProxyNode(volume, sequence, False)
    browser.SetSelectedItemNumber(0)
    browser.logic = logic
    return volume, browser


def test_what_was_made_on_another_frame_is_neither_corrected_nor_overwritten(cine, structures):
    volume, browser = cine
    node = prepareSegmentation(volume, structures).node
    ledgers = CurrentLedger()
    assert ledgers.choose(node, volume, "axial") is not None and segmentationOf(volume) is node
    browser.SetSelectedItemNumber(1)
    assert ledgers.choose(node, volume, "axial") is None
    assert "made on frame 1 of the sequence, and the volume shows frame 2" in ledgers.problem
    assert segmentationOf(volume) is None
    with pytest.raises(SAMAutoSegError, match="made on frame 1 of the sequence"):
        prepareSegmentation(volume, structures, node)
    other = prepareSegmentation(volume, structures).node
    assert ledgers.choose(other, volume, "axial") is not None
    browser.SetSelectedItemNumber(0)
    assert ledgers.choose(node, volume, "axial") is not None and ledgers.problem == ""


def test_what_slicers_own_editor_made_is_of_the_frame_that_it_was_first_used_with(cine, scene):
    volume, browser = cine
    node = scene.add("vtkMRMLSegmentationNode")
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    requireOwn(node, volume, lambda question: False)
    browser.SetSelectedItemNumber(1)
    requireOwn(node, volume, lambda question: False)
    assert "made on frame 1" in frameProblem(node, volume)


def test_a_segmentation_that_is_browsed_along_fits_every_frame(cine, structures, scene):
    volume, browser = cine
    node = prepareSegmentation(volume, structures).node
    along = scene.add("vtkMRMLSequenceNode")
    for value in ("0", "1"):
        along.SetDataNodeAtValue(node, value)
    browser.AddSynchronizedSequenceNodeID(along.GetID())
    browser.AddProxyNode(node, along, False)
    browser.SetSelectedItemNumber(1)
    assert prepareSegmentation(volume, structures, node).node is node
