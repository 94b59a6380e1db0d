"""The slice ledger of what is chosen at present, made anew when something else is chosen."""

from SAMAutoSegPanels.Signal import Signal
from SAMAutoSegPanels.Translation import _


class CurrentLedger:
    """Holds the ledger of the chosen segmentation, volume and plane.

    It follows both nodes: a ledger knows slices by the place of the volume, which moves when a
    transform is hardened.

    Attributes:
        changed: emitted when states may have changed, and when the ledger is another one.
        ledger: None where nothing is chosen, or where the segmentation does not fit the volume.
        problem: a sentence that says why it does not fit; '' if it does.
        of: what was chosen, and where it lies; differs when slices have other numbers or places.
    """

    def __init__(self):
        self.changed = Signal()
        self.ledger = None
        self.problem = ""
        self.of = None
        self._observed = []

    def choose(self, segmentationNode, volumeNode, plane):
        """Have the ledger of these; the same one as before if they are the same.

        While a run writes into the segmentation it stays the one that is told so: a second one
        would take what the run writes for the user's work.
        """
        if segmentationNode is None or volumeNode is None or volumeNode.GetImageData() is None:
            self.close()
            return None
        if self._isNeeded(segmentationNode):
            return self.ledger
        wanted = placeOf(segmentationNode, volumeNode, plane)
        if self.ledger is None or wanted != self.of:
            before = self.ledger, self.problem
            self._letGo()
            self._observe(segmentationNode, volumeNode, plane)
            self.ledger, self.problem = ledgerOf(segmentationNode, volumeNode, plane)
            self.of = wanted
            if self.ledger is not None:
                self.ledger.markInUse()
                self.ledger.addListener(self.changed.emit)
            if before != (self.ledger, self.problem):
                self.changed.emit()
        return self.ledger

    def _isNeeded(self, segmentationNode):
        ledger = self.ledger
        return ledger is not None and ledger.inRun and ledger.segmentationNode is segmentationNode

    def close(self):
        had = self.ledger is not None or self.problem
        self._letGo()
        if had:
            self.changed.emit()

    def _observe(self, segmentationNode, volumeNode, plane):
        def onMoved(caller, event):
            self.choose(segmentationNode, volumeNode, plane)

        for node in (segmentationNode, volumeNode):
            for event in ("ModifiedEvent", node.TransformModifiedEvent):
                self._observed.append((node, node.AddObserver(event, onMoved)))

    def _letGo(self):
        for node, tag in self._observed:
            node.RemoveObserver(tag)
        self._observed = []
        ledger, self.ledger, self.problem, self.of = self.ledger, None, "", None
        if ledger is not None:
            ledger.leave()
            ledger.close()


def placeOf(segmentationNode, volumeNode, plane):
    """What a ledger is of; differs when slices have other numbers or places."""
    import vtk
    from SAMAutoSegScene.Frames import frameProblem

    nodes = (segmentationNode, volumeNode)
    matrix = vtk.vtkMatrix4x4()
    volumeNode.GetIJKToRASMatrix(matrix)
    return (
        plane,
        *((node.GetID(), node.GetTransformNodeID()) for node in nodes),
        tuple(matrix.GetData()),
        volumeNode.GetImageData().GetExtent(),
        frameProblem(segmentationNode, volumeNode),
    )


def ledgerOf(segmentationNode, volumeNode, plane):
    """The ledger and ''; None, and why, where the segmentation does not fit the volume."""
    from SAMAutoSegScene.Frames import frameProblem
    from SAMAutoSegScene.SegmentationOutput import misfit
    from SAMAutoSegScene.SliceLedger import SliceLedger

    if otherFrame := frameProblem(segmentationNode, volumeNode):
        return None, _(
            "The output segmentation does not fit the volume: {reason}. Go to that frame, or choose"
            " another one."
        ).format(reason=otherFrame)
    difference = misfit(segmentationNode, volumeNode)
    if not difference:
        return SliceLedger(segmentationNode, volumeNode, plane), ""
    return None, _(
        "The output segmentation does not fit the volume: {difference}. Choose another one, or"
        " press Segment to have it resampled to the volume."
    ).format(difference=difference)
