"""What a run needs of the scene: one place that knows the adapters."""

import numpy as np
from SAMAutoSegScene.CorrectedSlices import slicesToFollow
from SAMAutoSegScene.Provenance import Provenance, writeProvenance
from SAMAutoSegScene.SegmentationOutput import prepareSegmentation
from SAMAutoSegScene.SegmentWriter import SegmentWriter
from SAMAutoSegScene.SliceGeometry import boxOfSlice, emptyStack, sliceOfBox

from SAMAutoSegLib.errors import SAMAutoSegError


class SceneOutput:
    """Prepares a segmentation, writes slices into it, and notes where they come from.

    Args:
        ledgerOf: (segmentation node, volume node, plane) to the ledger of these.
        editorOf: segmentation node to the editor's node and the function that saves its state for
            undo; both None where no editor shows it.
        onReady: told the segmentation once it has its segments.
    """

    def __init__(self, ledgerOf, editorOf, onReady):
        self._ledgerOf = ledgerOf
        self._editorOf = editorOf
        self._onReady = onReady
        self._writer = None
        self._output = None
        self._provenance = None
        self.sliceCount = 0

    def begin(self, volumeNode, structures, segmentationNode, plane, provenance):
        """The output; see `prepareSegmentation` for what is raised.

        ``provenance`` are the fields of `Provenance`; they are noted with the first slice.
        """
        output = prepareSegmentation(volumeNode, structures, segmentationNode)
        self._onReady(output.node)
        editorNode, saveUndo = self._editorOf(output.node)
        ledger = self._ledgerOf(output.node, volumeNode, plane)
        self.sliceCount = len(ledger)
        self._writer = SegmentWriter(
            output.node, volumeNode, editorNode=editorNode, saveUndo=saveUndo, ledger=ledger
        )
        self._output, self._provenance = output, Provenance(**provenance)
        self._writer.begin(output.segmentIds.values())
        return output

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
        written = writer.end()
        if uncertainty is not None:
            values = uncertainty["per_slice"]
            writer.ledger.setUncertainty({int(number): v for number, v in values.items()})
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
