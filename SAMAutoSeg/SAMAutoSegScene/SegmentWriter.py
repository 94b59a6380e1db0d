"""The one way in which voxels get into segments."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import slicer

from SAMAutoSegLib.errors import SAMAutoSegError
from SAMAutoSegLib.images.selection import Roi
from SAMAutoSegLib.images.slices import Axis, Plane, SliceStack
from SAMAutoSegScene.EditRules import EditRules
from SAMAutoSegScene.SegmentLayers import Box, SegmentLayers, SegmentsInBox, wholeBox
from SAMAutoSegScene.SliceGeometry import boxOfSlice, emptyStack, sliceOfBox
from SAMAutoSegScene.SliceLedger import PLANES, SliceLedger, hasLedger
from SAMAutoSegScene.Translation import _
from SAMAutoSegScene.VolumeReader import gridOfVolume, requireReadable

Mode = Literal["add", "remove"]


@dataclass
class WrittenSlices:
    """What became of the slices of a run.

    Attributes:
        written: numbers of the slices that were written.
        protected: numbers of those left alone, as the user had corrected or reviewed them, or
            nobody had checked them.
        elsewhere: for other planes the numbers of the slices that are left alone for that, also
            those that the run does not cross.
        locked: names of the segments left alone, as their status is Completed.
    """

    written: list[int] = field(default_factory=list)
    protected: list[int] = field(default_factory=list)
    elsewhere: dict[Plane, list[int]] = field(default_factory=dict)
    locked: list[str] = field(default_factory=list)


class SegmentWriter:
    """Writes what the model found, or what a click changed, into the segments of a volume.

    Masking and overlap are those of the segment editor node, segments marked as completed stay as
    they are, and the state for undo is saved once per action. Only what changes is touched: a
    slice costs about as much as a slice, however large the volume is.

    What the model writes never takes voxels from segments that the model does not write itself,
    and never changes slices that the user corrected or reviewed. That holds for slices that were
    corrected in another plane, too.
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
        self._region: Box = wholeBox(self.layers.grid)
        # Of the planes that slices were corrected in before, and which of their slices stay.
        self._others: list[tuple[SliceLedger, list[int]]] = []

    # A run of the model

    def begin(self, segmentIds: Iterable[str], region: Roi | None = None) -> None:
        """Start a run that writes these segments; the state for undo is saved now, once.

        Outside of the region, where one is given, all stays as it is.
        """
        self._requireSamePlace()
        self._region = wholeBox(self.layers.grid) if region is None else region.kji
        segmentIds = list(segmentIds)
        if self.saveUndo is not None:
            self.saveUndo()
        self.result = WrittenSlices()
        self._touched = set()
        if self.ledger is not None:
            self._others = self._ledgersOfOtherPlanes(segmentIds)
            self.result.elsewhere = {ledger.plane: kept for ledger, kept in self._others if kept}
            for ledger in (self.ledger, *(ledger for ledger, __ in self._others)):
                ledger.beginRun(segmentIds)

    def writeSlice(
        self,
        axis: Axis,
        number: int,
        labels: np.ndarray,
        segmentIds: Mapping[int, str],
    ) -> bool:
        """Write a slice of a run into all its segments.

        Args:
            axis, number: of the slice.
            labels: [rows, columns] as `SliceStack` orients them, 0 for the background.
            segmentIds: the segment for each label value; labels of removed segments are left out.

        Returns:
            False if the slice was left alone.

        Raises:
            SAMAutoSegError: none of the segments is there any more.
        """
        self._requireSamePlace()
        if all(self.layers.segmentation.GetSegment(one) is None for one in segmentIds.values()):
            raise SAMAutoSegError(
                _("all segments of the model were removed: nothing is left to be written")
            )
        stack = emptyStack(self.layers.grid, axis)
        targets = self._targets(segmentIds)
        ledger = self.ledger
        if ledger is not None and ledger.plane != stack.plane:
            ledger = None
        if ledger is not None and ledger.isProtected(number, targets.values()):
            self.result.protected.append(number)
            return False
        box = boxOfSlice(stack, number)
        voxels = np.zeros([part.stop - part.start for part in box], labels.dtype)
        sliceOfBox(voxels, stack)[...] = labels
        box, voxels = self._inRegion(stack, number, voxels)
        if ledger is not None:
            with ledger.modelWrites([number], targets.values()):
                self._writeLabels(voxels, box, targets)
        else:
            self._writeLabels(voxels, box, targets)
        self.result.written.append(number)
        return True

    def _inRegion(
        self, stack: SliceStack, number: int, voxels: np.ndarray
    ) -> tuple[Box, np.ndarray]:
        """The part of a slice that lies in the region: its box and its voxels."""
        box, part = list(self._region), list(self._region)
        across = 2 - stack.axis_index
        box[across], part[across] = slice(number, number + 1), slice(0, 1)
        return (box[0], box[1], box[2]), voxels[tuple(part)]

    def end(self) -> WrittenSlices:
        """End a run, also one that was cancelled: what is written stays."""
        try:
            with nullcontext() if self.ledger is None else self.ledger.onlyChanges([]):
                # As Slicer keeps segments: cropped, with surfaces that fit the voxels.
                self.layers.shrink()
            self.layers.updateSurfaces(self._touched)
        finally:
            if self.ledger is not None:
                self.ledger.endRun()
        for ledger, kept in self._others:
            with ledger.modelWrites(set(range(len(ledger))) - set(kept), self._touched):
                pass
            ledger.endRun()
            ledger.close()
        self._others = []
        return self.result

    # A click

    def writeMask(
        self, axis: Axis, number: int, mask: np.ndarray, segmentId: str, mode: Mode = "add"
    ) -> bool:
        """Change one segment in one slice as one action of the user; False if nothing changed.

        Slices of the ledger that one of another plane goes through are unchecked afterwards.

        Args:
            mask: bool [rows, columns] as `SliceStack` orients them.
            mode: what painting or erasing it would do.

        Raises:
            SAMAutoSegError: the segment is completed or was removed.
        """
        self._requireSamePlace()
        segment = self.layers.segmentation.GetSegment(segmentId)
        if segment is None:
            raise SAMAutoSegError(_("the selected segment was removed: select another one"))
        rules = EditRules(self.layers, self.editorNode)
        if rules.isLocked(segmentId):
            raise SAMAutoSegError(
                _(
                    "segment '{name}' is marked as completed: set its status back to 'In progress'"
                    " to change it"
                ).format(name=segment.GetName())
            )
        stack = emptyStack(self.layers.grid, axis)
        box = boxOfSlice(stack, number)
        wanted = np.zeros([part.stop - part.start for part in box], bool)
        sliceOfBox(wanted, stack)[...] = mask
        now = SegmentsInBox(self.layers, box)
        masks = self._masksOfAction(segmentId, wanted, now, rules, mode)
        differs = np.any([now.mask(one) != mask for one, mask in masks.items()], axis=0)
        if not differs.any():
            return False
        if self.saveUndo is not None:
            self.saveUndo()
        with self._crossed(stack, box, differs):
            changed = self.layers.write(now, masks)
        self._started(changed)
        self.layers.updateSurfaces(changed)
        self.layers.announce(changed)
        return True

    def _crossed(
        self, stack: SliceStack, box: Box, differs: np.ndarray
    ) -> AbstractContextManager[None]:
        """Around a change of these voxels of a box: tells a ledger that is of another plane."""
        ledger = self.ledger
        if ledger is None or ledger.plane == stack.plane:
            return nullcontext()
        across = 2 - ledger.stack.axis_index
        rows = np.moveaxis(differs, across, 0).reshape(differs.shape[across], -1)
        return ledger.crossed(int(n) + box[across].start for n in np.flatnonzero(rows.any(axis=1)))

    def _masksOfAction(
        self,
        segmentId: str,
        wanted: np.ndarray,
        now: SegmentsInBox,
        rules: EditRules,
        mode: Mode,
    ) -> dict[str, np.ndarray]:
        """What the segments that the action may change shall be in the box."""
        editable = rules.editable(now, [segmentId])
        mask = now.mask(segmentId).copy()
        masks = {segmentId: mask}
        if mode == "add":
            others = [
                one
                for one in self.layers.segmentIds()
                if one != segmentId and not rules.keepsOverlap(one)
            ]
            added = wanted & editable & ~now.anyOf(one for one in others if rules.isLocked(one))
            mask |= added
            masks.update({one: now.mask(one) & ~added for one in others})
        else:
            # Inside of a single segment the edited one may always shrink, as in Slicer.
            removable = editable | now.mask(segmentId) if rules.maskSegmentId else editable
            gone = now.mask(segmentId) & removable & wanted
            mask &= ~gone
            receiver = rules.maskSegmentId
            if receiver and receiver != segmentId and not rules.isLocked(receiver):
                # Erasing inside of a segment gives the area back to it: how Slicer splits one.
                masks[receiver] = masks.get(receiver, now.mask(receiver)) | gone
        return masks

    def _writeLabels(self, labels: np.ndarray, box: Box, targets: Mapping[int, str]) -> None:
        rules = EditRules(self.layers, self.editorNode)
        now = SegmentsInBox(self.layers, box)
        editable = rules.editable(now, targets.values())
        for ledger, kept in self._others:
            axis = 2 - ledger.stack.axis_index
            part = box[axis]
            inBox = [number - part.start for number in kept if part.start <= number < part.stop]
            np.moveaxis(editable, axis, 0)[inBox] = False
        others = [
            one
            for one in self.layers.segmentIds()
            if one not in targets.values() and not rules.keepsOverlap(one)
        ]
        free = editable & ~now.anyOf(others)
        masks = {
            one: (now.mask(one) & ~editable) | (free & (labels == value))
            for value, one in targets.items()
        }
        changed = self.layers.write(now, masks, roomFor=wholeBox(self.layers.grid))
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

    def _ledgersOfOtherPlanes(
        self, segmentIds: Iterable[str]
    ) -> list[tuple[SliceLedger, list[int]]]:
        others = []
        for plane in PLANES:
            if plane == self.ledger.plane or not hasLedger(self.segmentationNode, plane):
                continue
            ledger = SliceLedger(self.segmentationNode, self.volumeNode, plane)
            ledger.refresh(np.inf)
            kept = [n for n in range(len(ledger)) if ledger.isProtected(n, segmentIds)]
            others.append((ledger, kept))
        return others

    def _started(self, segmentIds: Iterable[str]) -> None:
        """As painting does, say that work on these segments has begun."""
        logic = slicer.vtkSlicerSegmentationsModuleLogic
        for one in segmentIds:
            segment = self.layers.segmentation.GetSegment(one)
            if logic.GetSegmentStatus(segment) == logic.NotStarted:
                logic.SetSegmentStatus(segment, logic.InProgress)

    def _requireSamePlace(self) -> None:
        segmentation, volume = self.segmentationNode.GetName(), self.volumeNode.GetName()
        if self.segmentationNode.GetScene() is None:
            raise SAMAutoSegError(
                _("the segmentation '{name}' was removed: choose another").format(name=segmentation)
            )
        if self.volumeNode.GetScene() is None:
            raise SAMAutoSegError(
                _(
                    "the volume '{name}' was removed: what is segmented so far stays in the"
                    " segmentation"
                ).format(name=volume)
            )
        if (
            self.segmentationNode.GetParentTransformNode()
            is not self.volumeNode.GetParentTransformNode()
        ):
            raise SAMAutoSegError(
                _(
                    "the segmentation '{segmentation}' and the volume '{volume}' are under"
                    " different transforms: put both under the same one in the Data module"
                ).format(segmentation=segmentation, volume=volume)
            )
