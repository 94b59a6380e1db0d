"""Which ledger is in use, as nodes are chosen, moved and loaded."""

from dataclasses import replace

import numpy as np
import pytest
from SAMAutoSegPanels.CurrentLedger import CurrentLedger
from SAMAutoSegScene.SegmentationOutput import prepareSegmentation
from SAMAutoSegScene.SegmentWriter import SegmentWriter
from SAMAutoSegScene.SliceState import SliceState


@pytest.fixture
def chosen(scene, plain_grid, structures, labels_for):
    """Volume and segmentation of a model, and the ledger of these."""
    volume_node = scene.volume(plain_grid)
    output = prepareSegmentation(volume_node, structures)
    ledgers = CurrentLedger()
    ledger = ledgers.choose(output.node, volume_node, "axial")
    writer = SegmentWriter(output.node, volume_node, ledger=ledger)
    writer.begin(output.segmentIds.values())
    for number, labels in enumerate(labels_for(plain_grid)):
        writer.writeSlice("axial", number, labels, output.segmentIds)
    writer.end()
    return volume_node, output.node, ledgers


@pytest.mark.parametrize("first", [0, 1])
def test_the_models_slices_stay_its_own_when_a_transform_is_hardened(scene, chosen, first):
    *nodes, ledgers = chosen
    transform = scene.linear_transform(shift=(5, 7, 9), degrees=20)
    for node in nodes:
        node.SetAndObserveTransformNodeID(transform.GetID())
    assert set(ledgers.ledger.states()) == {SliceState.MODEL}
    heard = []
    ledgers.changed.connect(lambda: heard.append(ledgers.ledger is None))
    for node in (nodes[first], nodes[1 - first]):
        node.HardenTransform()
    assert set(ledgers.ledger.states()) == {SliceState.MODEL}
    assert ledgers.problem == ""
    assert True in heard and heard[-1] is False


def test_what_is_known_survives_a_look_at_another_volume(scene, chosen, plain_grid):
    volume_node, node, ledgers = chosen
    ledgers.ledger.markReviewed([2, 3])
    ledgers.ledger.exclude([5])
    states = ledgers.ledger.states()
    for size, spacing in (((9, 8, 9), (1, 1, 0.7)), ((9, 8, 7), (1, 1, 2)), ((9, 8, 5), (1, 1, 1))):
        other = scene.volume(replace(plain_grid, size=size, spacing=spacing))
        assert ledgers.choose(node, other, "axial") is None
        assert "does not fit" in ledgers.problem
        assert ledgers.choose(node, volume_node, "axial").states() == states
        assert ledgers.problem == ""


def test_a_stroke_after_a_look_at_another_plane_is_a_correction_of_one_plane(
    chosen, paint, plain_grid
):
    volume_node, node, ledgers = chosen
    for plane in ("coronal", "axial"):
        ledgers.choose(node, volume_node, plane)
    voxels = np.zeros(plain_grid.size[::-1], bool)
    voxels[2] = True
    paint(node, node.GetSegmentation().GetNthSegmentID(0), voxels, plain_grid)
    assert ledgers.ledger.toLearnFrom() == [2]
    assert ledgers.choose(node, volume_node, "coronal").toLearnFrom() == []
    assert ledgers.choose(node, volume_node, "axial").toLearnFrom() == [2]


def test_an_emptied_segmentation_serves_another_volume(scene, chosen, plain_grid):
    _, node, ledgers = chosen
    for one in list(node.GetSegmentation().GetSegmentIDs()):
        node.GetSegmentation().RemoveSegment(one)
    other = scene.volume(replace(plain_grid, size=(9, 8, 5)))
    ledgers.choose(node, other, "axial").exclude([4])
    ledgers.close()
    assert ledgers.choose(node, other, "axial").slicesIn(SliceState.EXCLUDED) == [4]


def test_nothing_is_held_of_nodes_that_were_let_go(scene, chosen):
    volume_node, node, ledgers = chosen
    heard = []
    ledgers.close()
    ledgers.changed.connect(lambda: heard.append(1))
    volume_node.SetSpacing(1, 1, 3)
    node.Modified()
    assert heard == [] and ledgers.ledger is None


def test_a_volume_without_voxels_has_no_ledger(chosen):
    volume_node, node, ledgers = chosen
    volume_node.SetAndObserveImageData(None)
    assert ledgers.choose(node, volume_node, "axial") is None
