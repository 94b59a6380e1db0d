"""What the Segment Editor allows to change: masking, overlap and finished segments."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import slicer

from SAMAutoSegScene.SegmentLayers import (
    Box,
    SegmentLayers,
    SegmentsInBox,
    resampled,
    shapeOf,
    viewOf,
)
from SAMAutoSegScene.VolumeReader import gridOfVolume, matrixFromArray


class EditRules:
    """The settings of a segment editor node, as they hold for a segmentation at this moment.

    Without a node, or with one that edits another segmentation, everything may be edited and areas
    that are added are taken from all other segments: Slicer's defaults.

    Slicer itself has no lock for a segment. One whose status is "Completed" counts as locked here:
    the user said that it is finished.
    """

    def __init__(self, layers: SegmentLayers, editorNode=None) -> None:
        self.layers = layers
        if editorNode is not None and (
            editorNode.GetSegmentationNode() is not layers.segmentationNode
        ):
            editorNode = None
        self.editorNode = editorNode

    def isLocked(self, segmentId: str) -> bool:
        """Whether the user marked the segment as completed."""
        logic = slicer.vtkSlicerSegmentationsModuleLogic
        segment = self.layers.segmentation.GetSegment(segmentId)
        return segment is not None and logic.GetSegmentStatus(segment) == logic.Completed

    def isVisible(self, segmentId: str) -> bool:
        display = self.layers.segmentationNode.GetDisplayNode()
        return display is not None and display.GetSegmentVisibility(segmentId)

    def keepsOverlap(self, segmentId: str) -> bool:
        """Whether areas added to other segments are not taken from this one."""
        if self.editorNode is None:
            return False
        mode = self.editorNode.GetOverwriteMode()
        if mode == slicer.vtkMRMLSegmentEditorNode.OverwriteNone:
            return True
        if mode == slicer.vtkMRMLSegmentEditorNode.OverwriteVisibleSegments:
            return not self.isVisible(segmentId)
        return False

    @property
    def maskSegmentId(self) -> str | None:
        """The single segment inside of which may be edited; None in the other modes."""
        inside = slicer.vtkMRMLSegmentationNode.EditAllowedInsideSingleSegment
        if self.editorNode is None or self.editorNode.GetMaskMode() != inside:
            return None
        return self.editorNode.GetMaskSegmentID() or None

    def editable(self, now: SegmentsInBox, edited: Iterable[str]) -> np.ndarray:
        """Where these segments may be changed, bool, in a box."""
        allowed = np.ones(shapeOf(now.box), bool)
        if self.editorNode is None:
            return allowed
        node = slicer.vtkMRMLSegmentationNode
        mode = self.editorNode.GetMaskMode()
        every = self.layers.segmentIds()
        if mode in (
            node.EditAllowedInsideVisibleSegments,
            node.EditAllowedOutsideVisibleSegments,
        ):
            every = [one for one in every if self.isVisible(one)]
        if mode in (node.EditAllowedInsideAllSegments, node.EditAllowedInsideVisibleSegments):
            allowed = now.anyOf(every)
        elif mode in (node.EditAllowedOutsideAllSegments, node.EditAllowedOutsideVisibleSegments):
            changing = set(edited)
            allowed = ~now.anyOf(one for one in every if one not in changing)
        elif mode == node.EditAllowedInsideSingleSegment:
            chosen = self.editorNode.GetMaskSegmentID()
            allowed = now.anyOf([chosen] if chosen else [])
        if self.editorNode.GetSourceVolumeIntensityMask():
            lowest, highest = self.editorNode.GetSourceVolumeIntensityMaskRange()
            gray = self._gray(now.box)
            if gray is not None:
                allowed &= (lowest <= gray) & (gray <= highest)
        return allowed

    def _gray(self, box: Box) -> np.ndarray | None:
        """The editor's source volume in a box; None if it has none."""
        volumeNode = self.editorNode.GetSourceVolumeNode()
        if volumeNode is None or volumeNode.GetImageData() is None:
            return None
        image = volumeNode.GetImageData()
        grid = gridOfVolume(volumeNode)
        if grid.same_as(self.layers.grid):
            return viewOf(image)[box]
        oriented = slicer.vtkOrientedImageData()
        oriented.ShallowCopy(image)
        oriented.SetGeometryFromImageToWorldMatrix(matrixFromArray(grid.ijk_to_ras))
        return resampled(oriented, self.layers.grid, box)
