"""What a run needs of the scene: one place that knows the adapters."""

import numpy as np
import slicer
from SAMAutoSegScene.CorrectedSlices import slicesToFollow
from SAMAutoSegScene.Provenance import Provenance, writeProvenance
from SAMAutoSegScene.SegmentationOutput import misfit, prepareSegmentation
from SAMAutoSegScene.SegmentWriter import SegmentWriter
from SAMAutoSegScene.SliceGeometry import boxOfSlice, emptyStack, sliceOfBox

from SAMAutoSegLib.errors import SAMAutoSegError
from SAMAutoSegLib.images.selection import Roi
from SAMAutoSegPanels.MeantFor import requireMeant
from SAMAutoSegPanels.Translation import _


class SceneOutput:
    """Prepares a segmentation, writes slices into it, and notes where they come from.

    Args:
        ledgerOf: (segmentation node, volume node, plane) to the ledger of these.
        editorOf: segmentation node, and whether to make an editor if there is none, to the
            editor's node and the function that saves its state for undo; both None where no editor
            shows the segmentation.
        onReady: told the segmentation once it has its segments.
        confirm: asks a question; by default in a dialog of Slicer.
    """

    def __init__(self, ledgerOf, editorOf, onReady, confirm=None):
        self._ledgerOf = ledgerOf
        self._editorOf = editorOf
        self._onReady = onReady
        self._confirm = confirm or slicer.util.confirmOkCancelDisplay
        self._writer = None
        self._output = None
        self._provenance = None
        self.sliceCount = 0

    def begin(self, volumeNode, structures, segmentationNode, plane, provenance, region=None):
        """The output; see `prepareSegmentation` for what is raised.

        A segmentation on other voxels than the volume's is resampled if the user agrees.
        ``provenance`` are the fields of `Provenance`; they are noted with the first slice. Outside
        of ``region``, index ranges along I, J and K, all stays as it is.
        """
        resample = False
        if segmentationNode is not None:
            overwritten = _("What a model wrote in it is overwritten.")
            requireMeant(segmentationNode, volumeNode, self._confirm, overwritten)
            resample = self._mayResample(segmentationNode, volumeNode)
        output = prepareSegmentation(volumeNode, structures, segmentationNode, resample=resample)
        self._onReady(output.node)
        # What is in a segmentation must come back with an undo. A new one is not worth the wait
        # that making an editor takes.
        editorNode, saveUndo = self._editorOf(output.node, segmentationNode is not None)
        ledger = self._ledgerOf(output.node, volumeNode, plane)
        self.sliceCount = len(ledger)
        self._writer = SegmentWriter(
            output.node, volumeNode, editorNode=editorNode, saveUndo=saveUndo, ledger=ledger
        )
        self._output, self._provenance = output, Provenance(**provenance)
        self._writer.begin(output.segmentIds.values(), None if region is None else Roi(*region))
        return output

    def _mayResample(self, segmentationNode, volumeNode):
        difference = misfit(segmentationNode, volumeNode)
        return bool(difference) and self._confirm(
            _(
                "{segmentation} does not fit the volume {volume}: {difference}.\n\nResample it to"
                " the volume? Borders move by up to half a voxel, and which slices were corrected"
                " or reviewed is not known afterwards. This cannot be undone."
            ).format(
                segmentation=segmentationNode.GetName(),
                volume=volumeNode.GetName(),
                difference=difference,
            )
        )

    def corrected(self):
        """The slices that the user corrected or reviewed, as the engine's request takes them."""
        numbers, labels = slicesToFollow(
            self._output.node, self._writer.ledger, self._output.segmentIds
        )
        return {"corrected_slices": numbers, "corrected": labels} if numbers else {}

    def write(self, number, plane, labels):
        ids = self._output.segmentIds
        written = self._writer.writeSlice(plane, number, np.asarray(labels), ids)
        if written and self._provenance is not None:
            # Now, as a run may break off at any time, and what it wrote stays.
            writeProvenance(self._output.node, ids.values(), self._provenance)
            self._provenance = None

    def slicesOf(self, labels, plane, numbers):
        """Slices of labels [K, J, I], as `write` takes them."""
        stack = emptyStack(self._writer.layers.grid, plane)
        for number in numbers:
            yield number, plane, sliceOfBox(labels[boxOfSlice(stack, number)], stack)

    def end(self, uncertainty):
        """End the run; what became of its slices."""
        writer = self._writer
        if uncertainty is not None:
            values = uncertainty["per_slice"]
            writer.ledger.setUncertainty({int(number): v for number, v in values.items()})
        written = writer.end()
        self.abandon()
        return written

    def abandon(self):
        """End a run that broke off; what was written stays."""
        writer, self._writer, self._output = self._writer, None, None
        if writer is None or writer.segmentationNode.GetScene() is None:
            return
        try:
            writer.end()
        except SAMAutoSegError:
            return
