"""The one way in which voxels get into segments."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import slicer

from SAMAutoSegLib.errors import SAMAutoSegError
from SAMAutoSegLib.images.slices import Axis
from SAMAutoSegScene.EditRules import EditRules
from SAMAutoSegScene.SegmentLayers import SegmentLayers, wholeBox
from SAMAutoSegScene.SliceGeometry import boxOfSlice, emptyStack, sliceOfBox
from SAMAutoSegScene.SliceLedger import SliceLedger
from SAMAutoSegScene.VolumeReader import gridOfVolume, requireReadable

Mode = Literal["replace", "add", "remove"]


@dataclass
class WrittenSlices:
    """What became of the slices of a run.

    Attributes:
        written: numbers of the slices that were written.
        protected: numbers of those left alone, as the user had corrected or reviewed them.
        locked: names of the segments left alone, as their status is Completed.
    """

    written: list[int] = field(default_factory=list)
    protected: list[int] = field(default_factory=list)
    locked: list[str] = field(default_factory=list)


class SegmentWriter:
    """Writes what the model found, or what a click changed, into the segments of a volume.

    Masking and overlap are those of the segment editor node, segments marked as completed stay as
    they are, and the state for undo is saved once per action. Only what changes is touched: a
    slice costs about as much as a slice, however large the volume is.

    What the model writes never takes voxels from segments that the model does not write itself,
    and never changes slices that the user corrected or reviewed, unless `overCorrected`.
    """

    def __init__(
        self,
        segmentationNode,
        volumeNode,
        *,
        editorNode=None,
        saveUndo: Callable[[], object] | None = None,
        ledger: SliceLedger | None = None,
    ) -> None:
        """`saveUndo` saves the state of the segmentation, as `saveStateForUndo` of the editor."""
        requireReadable(volumeNode)
        self.segmentationNode = segmentationNode
        self.volumeNode = volumeNode
        self.editorNode = editorNode
        self.saveUndo = saveUndo
        self.ledger = ledger
        self.layers = SegmentLayers(segmentationNode, gridOfVolume(volumeNode))
        self.result = WrittenSlices()
        self._touched: set[str] = set()

    # A run of the model

    def begin(self, segmentIds: Iterable[str]) -> None:
        """Start a run that writes these segments; the state for undo is saved now, once."""
        self._requireSamePlace()
        if self.saveUndo is not None:
            self.saveUndo()
        self.result = WrittenSlices()
        self._touched = set()
        if self.ledger is not None:
            self.ledger.beginRun(segmentIds)

    def writeSlice(
        self,
        axis: Axis,
        number: int,
        labels: np.ndarray,
        segmentIds: Mapping[int, str],
        *,
        overCorrected: bool = False,
    ) -> bool:
        """Write a slice of a run into all its segments.

        Args:
            axis, number: of the slice.
            labels: [rows, columns] as `SliceStack` orients them, 0 for the background.
            segmentIds: the segment for each label value; labels of removed segments are left out.
            overCorrected: write it even if the user corrected or reviewed it.

        Returns:
            False if the slice was left alone.
        """
        self._requireSamePlace()
        stack = emptyStack(self.layers.grid, axis)
        targets = self._targets(segmentIds)
        ledger = self.ledger
        if ledger is not None and ledger.plane != stack.plane:
            ledger = None
        if (
            ledger is not None
            and not overCorrected
            and ledger.isProtected(number, targets.values())
        ):
            self.result.protected.append(number)
            return False
        box = boxOfSlice(stack, number)
        voxels = np.zeros([part.stop - part.start for part in box], labels.dtype)
        sliceOfBox(voxels, stack)[...] = labels
        if ledger is not None:
            with ledger.modelWrites([number], targets.values()):
                self._writeLabels(voxels, box, targets)
        else:
            self._writeLabels(voxels, box, targets)
        self.result.written.append(number)
        return True

    def writeVolume(
        self,
        axis: Axis,
        labels: np.ndarray,
        segmentIds: Mapping[int, str],
        *,
        numbers: Iterable[int] | None = None,
        overCorrected: bool = False,
    ) -> None:
        """Write these slices of labels [K, J, I], by default all, as `writeSlice` does."""
        stack = emptyStack(self.layers.grid, axis)
        for number in range(len(stack)) if numbers is None else numbers:
            values = sliceOfBox(labels[boxOfSlice(stack, number)], stack)
            self.writeSlice(axis, number, values, segmentIds, overCorrected=overCorrected)

    def end(self) -> WrittenSlices:
        """End a run, also one that was cancelled: what is written stays."""
        self._finish()
        if self.ledger is not None:
            self.ledger.endRun()
        return self.result

    # A click

    def writeMask(
        self, axis: Axis, number: int, mask: np.ndarray, segmentId: str, mode: Mode = "replace"
    ) -> bool:
        """Change one segment in one slice as one action of the user; False if nothing changed.

        Args:
            mask: bool [rows, columns] as `SliceStack` orients them.
            mode: "replace" makes the segment this mask in the slice, "add" and "remove" are what
                painting and erasing it would do.

        Raises:
            SAMAutoSegError: the segment is completed or was removed.
        """
        self._requireSamePlace()
        segment = self.layers.segmentation.GetSegment(segmentId)
        if segment is None:
            raise SAMAutoSegError("the selected segment was removed: select another one")
        rules = EditRules(self.layers, self.editorNode)
        if rules.isLocked(segmentId):
            raise SAMAutoSegError(
                f"segment '{segment.GetName()}' is marked as completed: set its status back to "
                "'In progress' to change it"
            )
        stack = emptyStack(self.layers.grid, axis)
        box = boxOfSlice(stack, number)
        wanted = np.zeros([part.stop - part.start for part in box], bool)
        sliceOfBox(wanted, stack)[...] = mask
        masks = self._masksOfAction(segmentId, wanted, box, rules, mode)
        if not any((self.layers.mask(one, box) != new).any() for one, new in masks.items()):
            return False
        if self.saveUndo is not None:
            self.saveUndo()
        self._touched = set(self.layers.write(masks, box, roomFor=box))
        self._started(self._touched)
        self._finish()
        self.layers.announce(self._touched)
        return True

    def _masksOfAction(
        self, segmentId: str, wanted: np.ndarray, box, rules: EditRules, mode: Mode
    ) -> dict[str, np.ndarray]:
        """What all segments that the action changes shall be in the box."""
        now = self.layers.mask(segmentId, box)
        editable = rules.editable(box, [segmentId])
        others = [one for one in self.layers.segmentIds() if one != segmentId]
        masks = {segmentId: now.copy()}
        if mode != "remove":
            added = wanted & editable
            for one in others:
                if rules.isLocked(one) and not rules.keepsOverlap(one):
                    added &= ~self.layers.mask(one, box)
            masks[segmentId] |= added
            for one in others:
                if not rules.keepsOverlap(one):
                    masks[one] = self.layers.mask(one, box) & ~added
        if mode != "add":
            # Inside of a single segment the edited one may always shrink, as in Slicer.
            removable = editable | now if rules.maskSegmentId else editable
            gone = now & removable & (wanted if mode == "remove" else ~wanted)
            masks[segmentId] &= ~gone
            receiver = rules.maskSegmentId
            if receiver and receiver != segmentId and not rules.isLocked(receiver):
                # Erasing inside of a segment gives the area back to it: how Slicer splits one.
                masks[receiver] = masks.get(receiver, self.layers.mask(receiver, box)) | gone
        return masks

    def _writeLabels(self, labels: np.ndarray, box, targets: Mapping[int, str]) -> None:
        rules = EditRules(self.layers, self.editorNode)
        editable = rules.editable(box, targets.values())
        free = editable.copy()
        for one in self.layers.segmentIds():
            if one not in targets.values() and not rules.keepsOverlap(one):
                free &= ~self.layers.mask(one, box)
        masks = {
            one: (self.layers.mask(one, box) & ~editable) | (free & (labels == value))
            for value, one in targets.items()
        }
        changed = self.layers.write(masks, box, roomFor=wholeBox(self.layers.grid))
        self._started(changed)
        self._touched.update(changed)
        self.layers.announce(changed)

    def _targets(self, segmentIds: Mapping[int, str]) -> dict[int, str]:
        """The segments that are there and may be written."""
        rules = EditRules(self.layers, self.editorNode)
        targets = {}
        for value, one in segmentIds.items():
            segment = self.layers.segmentation.GetSegment(one)
            if segment is None:
                continue
            if rules.isLocked(one):
                if segment.GetName() not in self.result.locked:
                    self.result.locked.append(segment.GetName())
                continue
            targets[value] = one
        return targets

    def _started(self, segmentIds: Iterable[str]) -> None:
        """As painting does, say that work on these segments has begun."""
        logic = slicer.vtkSlicerSegmentationsModuleLogic
        for one in segmentIds:
            segment = self.layers.segmentation.GetSegment(one)
            if logic.GetSegmentStatus(segment) == logic.NotStarted:
                logic.SetSegmentStatus(segment, logic.InProgress)

    def _finish(self) -> None:
        """Leave segments as Slicer keeps them: cropped, with surfaces that fit the voxels."""
        self.layers.shrink()
        self.layers.updateSurfaces(self._touched)

    def _requireSamePlace(self) -> None:
        if self.segmentationNode.GetScene() is None:
            raise SAMAutoSegError(
                f"the segmentation '{self.segmentationNode.GetName()}' was removed: choose another"
            )
        if self.volumeNode.GetScene() is None:
            raise SAMAutoSegError(
                f"the volume '{self.volumeNode.GetName()}' was removed: what is segmented so far "
                "stays in the segmentation"
            )
        if (
            self.segmentationNode.GetParentTransformNode()
            is not self.volumeNode.GetParentTransformNode()
        ):
            raise SAMAutoSegError(
                f"the segmentation '{self.segmentationNode.GetName()}' and the volume "
                f"'{self.volumeNode.GetName()}' are under different transforms: put both under "
                "the same one in the Data module"
            )
