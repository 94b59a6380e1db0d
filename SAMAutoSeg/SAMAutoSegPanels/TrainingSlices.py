"""The slices that a training learns from: of the chosen volume, and of others in the scene."""

from functools import partial

from SAMAutoSegScene.SliceState import SliceState

from SAMAutoSegPanels.OtherLedgers import OtherLedgers
from SAMAutoSegPanels.RetrainJob import JobVolume
from SAMAutoSegPanels.SlicesToLearn import (
    OtherSlices,
    slicesSeen,
    slicesWithoutPaint,
    splitSlices,
)


class TrainingSlices:
    """Finds them, reads them, and keeps in their ledgers what was learned from.

    Args:
        ledgers: a `CurrentLedger`.

    Attributes:
        corrected, reviewed: numbers of the slices of the chosen volume to learn from.
        lookedAt: the ledger that these are of.
        others: an `OtherSlices` for each other volume where there is something to learn.
        othersChanged: emitted when `lookAtOthers` is to be called again.
    """

    def __init__(self, ledgers):
        self._ledgers = ledgers
        self._others = OtherLedgers()
        self._found = []
        self.lookedAt = None
        self.corrected = self.reviewed = self.others = ()
        self.othersChanged = self._others.changed

    # What there is

    def look(self, segmentIds):
        """Ask the chosen volume's ledger, which knows all of its slices already."""
        ledger = self.lookedAt = self._ledgers.ledger
        right = [] if ledger is None else ledger.toLearnFrom(segmentIds)
        states = {number: ledger.stateOf(number) for number in right}
        self.corrected, self.reviewed = (
            tuple(number for number in right if states[number] == wanted)
            for wanted in (SliceState.CORRECTED, SliceState.REVIEWED)
        )

    def lookAtOthers(self, volumeNode, names, seconds):
        """Look at the other volumes for that long; True if nothing is left to do.

        Args:
            volumeNode: the chosen volume.
            names: of the structures to learn.
        """
        ledger = self._ledgers.ledger
        if ledger is None:
            self._others.close()
            self._found = []
        else:
            self._others.follow(ledger.segmentationNode, volumeNode, ledger.plane)
            if not self._others.refresh(seconds):
                return False
            self._found = self._others.of(volumeNode, names)
        self.others = tuple(
            OtherSlices(
                volume.GetName(),
                len(other),
                tuple(other.toLearnFrom(segmentIds)),
                tuple(other.learned),
                tuple(other.heldOut),
            )
            for volume, other, segmentIds in self._found
        )
        return True

    # A training

    def forTraining(self, name, corrected, holdOut, withOthers, teaches=False):
        """Functions that read a `JobVolume` each, of the chosen volume and of the others.

        The ledgers keep in mind from now on what is learned from.

        Args:
            name: of the training, to forget it by.
            corrected: the `CorrectedSlices` of the chosen volume.
            teaches: with others, slices without labels are learned from as well.
        """
        others = [one for one in self._found if withOthers and one[0].GetScene() is not None]
        ledgers = [self._ledgers.ledger, *(ledger for _volume, ledger, _ids in others)]
        slices = [corrected.slices, *(ledger.toLearnFrom(ids) for _volume, ledger, ids in others)]
        total = sum(map(len, slices))
        parts = [
            splitSlices(numbers, holdOut, ledger.learned, ledger.heldOut, total)
            for ledger, numbers in zip(ledgers, slices, strict=True)
        ]
        for ledger, (train, heldOut) in zip(ledgers, parts, strict=True):
            seen = slicesSeen(len(ledger), train, heldOut) if others and teaches else train
            ledger.noteTraining(name, seen, heldOut)
        like = corrected.structures
        return [
            lambda: JobVolume(corrected, *parts[0]),
            *(
                partial(_read, *other, like, *part)
                for other, part in zip(others, parts[1:], strict=True)
            ),
        ]

    def forPaint(self, name, corrected):
        """The same where labels are rough paint: of the chosen volume alone, none held out."""
        ledger, rough = self._ledgers.ledger, corrected.slices
        train = sorted({*rough, *slicesWithoutPaint(len(ledger), rough)})
        ledger.noteTraining(name, train, ())
        return [lambda: JobVolume(corrected, train, rough=rough)]

    def forget(self, name, scene):
        """No model has learned from the slices of this training: they may give a score.

        That holds for all that is in the scene, also if another Slicer began the training.
        """
        from SAMAutoSegScene.SceneNodes import nodesOfClass
        from SAMAutoSegScene.SliceLedger import forgetTraining

        for ledger in (self._ledgers.ledger, *self._others.ledgers()):
            if ledger is not None:
                ledger.forgetTraining(name)
        for node in nodesOfClass(scene, "vtkMRMLSegmentationNode"):
            forgetTraining(node, name)

    def close(self):
        """The scene is closed, or nobody looks any more."""
        self._others.close()
        self._found = []
        self.lookedAt = None
        self.corrected = self.reviewed = self.others = ()


def _read(volumeNode, ledger, segmentIds, like, train, heldOut):
    from SAMAutoSegScene.CorrectedSlices import readCorrectedSlices

    corrected = readCorrectedSlices(ledger.segmentationNode, volumeNode, ledger, segmentIds, like)
    still = {*corrected.slices}  # an undo may have come in between
    return JobVolume(
        corrected, [n for n in train if n in still], [n for n in heldOut if n in still]
    )
