"""The slice ledgers of other volumes in the scene, to learn from all that was corrected."""

from SAMAutoSegPanels.CurrentLedger import ledgerOf, placeOf
from SAMAutoSegPanels.Signal import Signal


class OtherLedgers:
    """Holds a ledger for each other volume whose slices were looked at.

    Attributes:
        changed: emitted when states may have changed.
    """

    def __init__(self):
        self.changed = Signal()
        self._held = {}
        self._kinds = {}

    def follow(self, segmentationNode, volumeNode, plane):
        """Have the ledgers of all volumes of the scene but the chosen one, for the same plane.

        A segmentation counts if such slices of it were worked on here, not if it was only loaded,
        and if it fits the volume that it was made for. Of several of one volume the first counts.
        """
        wanted = {}
        if volumeNode is not None and volumeNode.GetScene() is not None:
            wanted = _pairs(segmentationNode, volumeNode, plane)
        for key in [*self._held]:
            if key not in wanted:
                self._letGo(key)
        for key, (node, volume) in wanted.items():
            if key not in self._held:
                ledger, __ = ledgerOf(node, volume, plane)
                if ledger is not None:
                    ledger.addListener(self.changed.emit)
                self._held[key] = volume, ledger

    def refresh(self, seconds):
        """Look for what was corrected for that long; True if nothing is left to do."""
        return all(ledger.refresh(seconds) for ledger in self.ledgers())

    def ledgers(self):
        return [ledger for __, ledger in self._held.values() if ledger is not None]

    def of(self, chosenVolume, names):
        """Where there is something to learn of these structures, in images of the same kind.

        Args:
            names: of the structures. A volume without a segment for each of them says nothing of
                some, so it is left out.

        Returns:
            For each volume its node, its ledger, and the ids of the segments, named so.
        """
        found = []
        for volume, ledger in self._held.values():
            segmentIds = [] if ledger is None else _segmentsNamed(ledger.segmentationNode, names)
            if not segmentIds or not ledger.toLearnFrom(segmentIds):
                continue
            # A model shows its SAM all images with the gray levels of one kind.
            if self._kindOf(volume) == self._kindOf(chosenVolume):
                found.append((volume, ledger, segmentIds))
        return found

    def close(self):
        for key in [*self._held]:
            self._letGo(key)
        self._kinds.clear()

    def _kindOf(self, volumeNode):
        from SAMAutoSegScene.VolumeReader import readVolume

        from SAMAutoSegLib.images.intensity import default_intensity

        nodeId = volumeNode.GetID()
        if nodeId not in self._kinds:
            self._kinds[nodeId] = default_intensity(readVolume(volumeNode)).kind
        return self._kinds[nodeId]

    def _letGo(self, key):
        __, ledger = self._held.pop(key)
        if ledger is not None:
            ledger.close()


def _pairs(chosenSegmentation, chosenVolume, plane):
    """Segmentations with the volumes that they were made for, by what their ledgers are of."""
    from SAMAutoSegScene.SceneNodes import nodesOfClass
    from SAMAutoSegScene.SegmentationOutput import volumeOf
    from SAMAutoSegScene.SliceLedger import isInUse

    found, volumes = {}, [chosenVolume]
    for node in nodesOfClass(chosenVolume.GetScene(), "vtkMRMLSegmentationNode"):
        volume = volumeOf(node)
        if node is chosenSegmentation or volume is None or volume in volumes:
            continue
        if isInUse(node, plane):
            volumes.append(volume)
            found[placeOf(node, volume, plane)] = node, volume
    return found


def _segmentsNamed(segmentationNode, names):
    """The ids of the segments with these names, whatever their case; [] unless each is one's."""
    segmentation = segmentationNode.GetSegmentation()
    byName = {}
    for segmentId in segmentation.GetSegmentIDs():
        name = segmentation.GetSegment(segmentId).GetName().casefold()
        byName.setdefault(name, []).append(segmentId)
    found = [byName.get(name.casefold(), []) for name in names]
    return [ids[0] for ids in found] if all(len(ids) == 1 for ids in found) else []
