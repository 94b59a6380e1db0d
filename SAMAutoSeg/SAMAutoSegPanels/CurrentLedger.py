"""The slice ledger of what is chosen at present, made anew when something else is chosen."""

from SAMAutoSegPanels.Signal import Signal


class CurrentLedger:
    """Holds the ledger of the chosen segmentation, volume and plane.

    Args:
        make: (segmentation node, volume node, plane) to a ledger; by default that of the scene
            adapters.

    Attributes:
        changed: emitted when states may have changed, and when the ledger is another one.
    """

    def __init__(self, make=None):
        self.changed = Signal()
        self.ledger = None
        self._make = make or _makeLedger
        self._of = None

    def choose(self, segmentationNode, volumeNode, plane):
        """Have the ledger of these; the same one as before if they are the same."""
        if segmentationNode is None or volumeNode is None or volumeNode.GetImageData() is None:
            self.close()
            return None
        wanted = segmentationNode.GetID(), volumeNode.GetID(), plane
        if self.ledger is None or wanted != self._of:
            self._letGo()
            self.ledger = self._make(segmentationNode, volumeNode, plane)
            self._of = wanted
            self.ledger.addListener(self.changed.emit)
            self.changed.emit()
        return self.ledger

    def close(self):
        if self.ledger is not None:
            self._letGo()
            self.changed.emit()

    def _letGo(self):
        ledger, self.ledger, self._of = self.ledger, None, None
        if ledger is not None:
            ledger.close()


def _makeLedger(segmentationNode, volumeNode, plane):
    from SAMAutoSegScene.SliceLedger import SliceLedger

    return SliceLedger(segmentationNode, volumeNode, plane)
