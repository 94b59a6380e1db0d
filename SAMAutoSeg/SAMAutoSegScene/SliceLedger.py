"""What is known of every slice of a segmentation: the model's, corrected, reviewed, excluded."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager

import numpy as np

from SAMAutoSegLib.images.slices import Axis, Plane, SliceStack
from SAMAutoSegScene.Provenance import TAG, tagOf
from SAMAutoSegScene.SegmentLayers import SegmentLayers
from SAMAutoSegScene.SliceDigests import EMPTY, SliceDigests, differ, filled, splitDigests
from SAMAutoSegScene.SliceGeometry import emptyStack
from SAMAutoSegScene.SliceState import SliceState
from SAMAutoSegScene.VolumeReader import gridOfVolume
from SAMAutoSegScene.WrittenByModel import WrittenByModel

ATTRIBUTE = "SAMAutoSeg.Ledger"
GENERATION = "SAMAutoSeg.Generation"
IN_USE = "SAMAutoSeg.InUse"
UNSAVED = "SAMAutoSeg.Unsaved"
PLANES: tuple[Plane, ...] = ("axial", "coronal", "sagittal")
VERSION = 2

# During a run the scene is kept up to date this often; in between it holds slice numbers alone.
_SECONDS_BETWEEN_SAVES = 2.0

# Of one slice and segment, from before the latest change; more than Slicer's editor can undo.
_KEPT_DIGESTS = 12

# What segments were in slices: for a number and a segment some digests.
_Seen = dict[int, dict[str, list[str]]]


class SliceLedger:
    """The states of the slices of a segmentation along one axis of its volume.

    What the model wrote is remembered as a digest for each segment and slice; states follow from
    comparing it with what is there now. So a slice is corrected as soon as one voxel of it differs,
    and is the model's again once that is undone. What nobody told this ledger about counts as the
    user's own work, except in segments that say that a model wrote them, as after a segmentation
    file was loaded without its scene: nobody knows what was corrected there, so these slices are
    unchecked; they are protected, but not learned from. A segment that was renamed is the same
    segment; one that was removed counts no more, neither does what the model had written into it.

    Undoing what the model wrote brings back the states of before, see `WrittenByModel`.

    A slice that was marked as reviewed and is changed later is a corrected one. One that was left
    to the model counts as the model's as it is. So does what was done while slices of another plane
    were in use, except that what was unchecked stays so: what was corrected there stays known, and
    protected, in that plane. Everything is kept in an attribute of the segmentation node, so it is
    saved with the scene and restored from it.

    Attributes:
        inRun: a run of the model is writing, and tells this ledger.
    """

    def __init__(self, segmentationNode, volumeNode, axis: Axis = "axial") -> None:
        self.segmentationNode = segmentationNode
        grid = gridOfVolume(volumeNode)
        self.layers = SegmentLayers(segmentationNode, grid)
        self.stack = emptyStack(grid, axis)
        self.plane: Plane = self.stack.plane
        self._digests = SliceDigests(self.layers, self.stack)
        self._listeners: list[Callable[[], None]] = []
        self._afterModel: dict[str, tuple] = {}
        self._saved = 0.0
        self.inRun = False
        self._load()
        self._tags = [
            segmentationNode.AddObserver(event, self._onSegmentationChanged)
            for event in _eventsOf(segmentationNode)
        ]

    def close(self) -> None:
        """Stop watching the segmentation."""
        for tag in self._tags:
            self.segmentationNode.RemoveObserver(tag)
        self._tags = []
        self._listeners = []

    def __len__(self) -> int:
        """Number of slices along the axis."""
        return len(self.stack)

    def markInUse(self) -> None:
        """Keep in mind that these slices are worked on, before anything is known of them.

        Nothing that is shown follows from it, so nobody is told.
        """
        if self._left is not None and self._mayKeep:
            # The scene may be loaded with slices of another plane in use, and what is corrected
            # until it is saved must not seem to be of that plane.
            self._left = None
            self._write(quietly=True)
        self._setAttribute(IN_USE, self.plane, quietly=True)

    def leave(self) -> None:
        """Keep which slices are corrected: those of another plane may be in use from now on."""
        if not self._mayKeep or any(self.layers.isOffGrid(one) for one in self.layers.labelmaps()):
            return
        corrected = self.slicesIn(SliceState.CORRECTED)
        if corrected != self._left and (corrected or hasLedger(self.segmentationNode, self.plane)):
            self._left = corrected
            self._write(quietly=True)

    def addListener(self, listener: Callable[[], None]) -> None:
        """Call `listener` whenever states may have changed."""
        self._listeners.append(listener)

    # States

    def stateOf(self, number: int) -> SliceState:
        """The state of a slice; costs about one slice if segments changed since the last call."""
        if number in self._excluded:
            return SliceState.EXCLUDED
        now = self._now(number)
        reviewed = self._reviewed.get(number)
        if reviewed is not None:
            return SliceState.CORRECTED if differ(now, reviewed) else SliceState.REVIEWED
        byUser, unchecked = self._changesIn(number)
        if byUser:
            return SliceState.CORRECTED
        if unchecked:
            return SliceState.UNCHECKED
        isModels = filled(now) or self._written.known(number)
        return SliceState.MODEL if isModels else SliceState.UNTOUCHED

    def states(self) -> list[SliceState]:
        """The states of all slices; costs about one volume if segments changed."""
        self.refresh(np.inf)
        return [self.stateOf(number) for number in range(len(self))]

    def refresh(self, seconds: float) -> bool:
        """Bring what is known up to date for that long; True if nothing is left to do.

        For a timer: `states` costs next to nothing afterwards.
        """
        return self._digests.refresh(seconds)

    def slicesIn(self, *states: SliceState) -> list[int]:
        """The numbers of the slices in one of these states."""
        return [number for number, state in enumerate(self.states()) if state in states]

    def toLearnFrom(self, segmentIds: Iterable[str] | None = None) -> list[int]:
        """The numbers of the slices that are right: corrected or reviewed, and not excluded.

        Args:
            segmentIds: what is to be learned. A slice in which the user drew other segments alone
                says nothing of these: it is not known to be without them.
        """
        right = self.slicesIn(SliceState.CORRECTED, SliceState.REVIEWED)
        if segmentIds is None:
            return right
        wanted = list(segmentIds)
        return [number for number in right if self.isProtected(number, wanted)]

    def isProtected(self, number: int, segmentIds: Iterable[str]) -> bool:
        """Whether the model must not write these segments in a slice.

        True if the slice was reviewed, or if the user changed one of these segments there, or may
        have done so before anything was known.
        """
        if number in self._reviewed:
            return True
        byUser, unchecked = self._changesIn(number)
        return not (byUser | unchecked).isdisjoint(segmentIds)

    # What the user says

    def markReviewed(self, numbers: Iterable[int], reviewed: bool = True) -> None:
        """Say that slices are right as they are, or take that back."""
        for number in numbers:
            self._checked(number)
            if reviewed:
                self._reviewed[number] = filled(self._now(number))
                self._excluded.discard(number)
            else:
                self._reviewed.pop(number, None)
        self._save()

    def exclude(self, numbers: Iterable[int], excluded: bool = True) -> None:
        """Leave slices out of training and checking, or take that back."""
        for number in numbers:
            if excluded:
                self._excluded.add(self._checked(number))
            else:
                self._excluded.discard(number)
        self._save()

    def leaveToModel(self, numbers: Iterable[int]) -> None:
        """Say that the model may overwrite slices as they are, until they are changed again."""
        for number in numbers:
            self._reviewed.pop(self._checked(number), None)
            self._remember(self._asModels, number, set().union(*self._changesIn(number)))
        self._save()

    # What the model did

    def beginRun(self, segmentIds: Iterable[str]) -> None:
        """Start a new generation of what the model writes into these segments.

        To be called after the undo state was saved and before the first slice is written.
        """
        self.inRun = True
        self._written.forgetOld()
        self._written.start(segmentIds)
        self._save()

    @contextmanager
    def modelWrites(self, numbers: Iterable[int], segmentIds: Iterable[str]) -> Iterator[None]:
        """Around the writing of slices by the model: what is there afterwards is the model's.

        Nothing but these slices may be changed inside.
        """
        numbers = [self._checked(number) for number in numbers]
        present = [one for one in segmentIds if self.layers.labelmap(one) is not None]
        before = self._digests.stamps()
        # What others did in between may be undone on its own, and takes along all that the model
        # writes from now on. So that gets a generation of its own.
        others = self._afterModel and before != self._afterModel
        if others or self._written.isUndone():
            self._written.start(present)
            self._saved = 0.0  # at once, as the segments say from now on that they hold it
        with self.onlyChanges(numbers):
            yield
        for number in numbers:
            now = self._now(number)
            self._written.note(number, {one: now[one] for one in present})
            self._reviewed.pop(number, None)
            asModels = self._asModels.get(number, {})
            for one in asModels.keys() & present:  # erasing it from now on corrects it
                asModels[one] = [digest for digest in asModels[one] if digest != EMPTY]
        self._afterModel = self._digests.stamps()
        if time.monotonic() - self._saved > _SECONDS_BETWEEN_SAVES:
            self._save(quietly=True)
        elif self._mayKeep:
            self._unsaved += numbers
            text = ",".join(map(str, self._unsaved))
            self._setAttribute(self._unsavedAttribute, text, quietly=True)

    def onlyChanges(self, numbers: Iterable[int]) -> AbstractContextManager[None]:
        """Around changes to these slices alone: others need not be looked at again."""
        return self._digests.onlyChanges(numbers)

    @contextmanager
    def crossed(self, numbers: Iterable[int]) -> Iterator[None]:
        """Around a click in another plane: what it leaves in these slices is unchecked.

        One row of pixels makes no slice right. Those that the user has corrected or reviewed are
        the user's as before.
        """
        before = {n: self._now(n) for n in numbers if not self._isOfUser(n)}
        yield
        for number, digests in before.items():
            now = self._now(number).items()
            changed = [one for one, digest in now if digest != digests.get(one, EMPTY)]
            for one in changed:
                self._unchecked.setdefault(number, {}).setdefault(one, [EMPTY])
            self._remember(self._unchecked, number, changed)
        self._save()

    def _isOfUser(self, number: int) -> bool:
        return number in self._reviewed or bool(self._changesIn(number)[0])

    def endRun(self) -> None:
        """Keep what the run wrote in the scene."""
        self._afterModel = {}
        self._save()
        self.inRun = False

    # What was trained

    @property
    def learned(self) -> list[int]:
        """The numbers of the slices that trainings learned from."""
        return sorted(set().union(*self._learned.values()))

    @property
    def heldOut(self) -> list[int]:
        """The numbers of the slices that were only used for scores, never learned from."""
        return sorted(self._heldOut)

    def noteTraining(self, name: str, learned: Iterable[int], heldOut: Iterable[int]) -> None:
        """Keep in mind what a training learns from and what it holds out.

        Args:
            name: of the training, to forget it by.
        """
        self._learned[name] = {self._checked(number) for number in learned}
        self._heldOut |= {self._checked(number) for number in heldOut}
        self._heldOut -= {*self.learned}
        self._save()

    def forgetTraining(self, name: str) -> None:
        """Take back what a training was to learn from: there is no model that did."""
        if self._learned.pop(name, None) is not None:
            self._save()

    # Where to look next

    def setUncertainty(self, values: Mapping[int, float]) -> None:
        """Keep how uncertain the model is of slices; higher is more. Others stay as they were."""
        for number, value in values.items():
            self._uncertainty[self._checked(int(number))] = float(value)
        self._save()

    def uncertainties(self) -> dict[int, float]:
        """How uncertain the model is of the slices that it was asked about."""
        return dict(self._uncertainty)

    def _now(self, number: int) -> dict[str, str]:
        return self._digests.of(self._checked(number))

    def _changesIn(self, number: int) -> tuple[set[str], set[str]]:
        """The segments that differ from what the model wrote: by the user, and unchecked."""
        known, unchecked = self._written.known(number), self._unchecked.get(number, {})
        asModels = self._asModels.get(number, {})
        byUser, toCheck = set(), set()
        for one, digest in self._now(number).items():
            seen = unchecked.get(one, [EMPTY])
            if digest == known.get(one, EMPTY if EMPTY in seen else None):
                continue
            if digest in asModels.get(one, ()):
                continue
            (toCheck if digest != EMPTY and digest in seen else byUser).add(one)
        return byUser, toCheck

    # The scene

    @property
    def _isInUse(self) -> bool:
        return self.segmentationNode.GetAttribute(IN_USE) == self.plane

    def _findElsewhere(self) -> None:
        """Take what was changed since these slices were left for the model's.

        What nobody has checked stays unchecked: there may be corrections in it.
        """
        for number in set(self.slicesIn(SliceState.CORRECTED)) - {*self._left, *self._reviewed}:
            byUser, __ = self._changesIn(number)
            models = self._written.known(number).keys() | self._asModels.get(number, {}).keys()
            unchecked = self._unchecked.get(number, {}).keys() - models
            self._remember(self._unchecked, number, byUser & unchecked)
            self._remember(self._asModels, number, byUser - unchecked)
        self._save(quietly=True)

    def _remember(self, kept: _Seen, number: int, segmentIds: Iterable[str]) -> None:
        """Keep what segments hold in a slice, besides what undo or redo may bring back."""
        now = self._now(number)
        for one in segmentIds:
            seen = kept.setdefault(number, {}).setdefault(one, [])
            seen[:] = [*seen[-_KEPT_DIGESTS:], now[one]]

    @property
    def _attribute(self) -> str:
        return f"{ATTRIBUTE}.{self.plane}"

    @property
    def _unsavedAttribute(self) -> str:
        return f"{UNSAVED}.{self.plane}"

    @property
    def _tagName(self) -> str:
        return f"{GENERATION}.{self.plane}"

    @property
    def _upwards(self) -> bool:
        """Whether slice numbers grow towards the patient's left, back or head."""
        normal = ("sagittal", "coronal", "axial").index(self.plane)
        return bool(self.stack.grid.direction[normal, self.stack.axis_index] > 0)

    def _load(self) -> None:
        text = self.segmentationNode.GetAttribute(self._attribute)
        data = json.loads(text) if text else {}
        # What is known of the slices of another volume stays with the segmentation until its
        # voxels are gone.
        self._mayKeep = not text or _isOf(data, self.stack) or self.layers.areEmpty()
        if not _isOf(data, self.stack):
            data = {"id": uuid.uuid4().hex[:8]}
        turned = data.get("upwards", self._upwards) != self._upwards

        def here(number: int | str) -> int:
            return len(self) - 1 - int(number) if turned else int(number)

        self._id: str = data["id"]
        self._written = WrittenByModel(self.layers, self._tagName, self._id)
        self._written.unpack(data.get("generations", []), here)
        self._reviewed: dict[int, dict[str, str]] = {
            here(n): digests for n, digests in data.get("reviewed", {}).items()
        }
        self._excluded: set[int] = {here(n) for n in data.get("excluded", [])}
        learned = data.get("learned", {})
        if isinstance(learned, list):  # of version 1, which did not tell trainings apart
            learned = {"": learned}
        self._learned: dict[str, set[int]] = {
            name: {here(n) for n in numbers} for name, numbers in learned.items()
        }
        self._heldOut: set[int] = {here(n) for n in data.get("held_out", [])}
        self._uncertainty: dict[int, float] = {
            here(n): value for n, value in data.get("uncertainty", {}).items()
        }
        # For each segment what it was while nobody had checked it.
        self._unchecked = _unpacked(data.get("unchecked", {}), here)
        self._left: list[int] | None = None
        if "left" in data:
            self._left = sorted(here(n) for n in data["left"])
        # For each segment what it was when it was left to the model, or was changed in slices of
        # another plane.
        self._asModels = _unpacked(data.get("as_models", {}), here)
        self._unsaved: list[int] = []
        unsaved = self.segmentationNode.GetAttribute(self._unsavedAttribute)
        newest = self._written.inNewest()
        if unsaved and newest:
            # The scene was saved in the middle of a run.
            for number in map(here, unsaved.split(",")):
                now = self._now(number)
                self._written.note(number, {one: now[one] for one in newest})
            self._save(quietly=True)
        if not text and any(hasLedger(self.segmentationNode, plane) for plane in PLANES):
            # Slices of another plane were in use so far, and corrections are known there.
            for number, state in enumerate(self.states()):
                if state == SliceState.CORRECTED:
                    self._written.noteForGood(number, filled(self._now(number)))
            # At once: else what is corrected here from now on would count as that the next time.
            self._save(quietly=True)
        elif "version" not in data:
            self._findUnchecked()
        elif self._left is not None and not self._isInUse:
            self._findElsewhere()

    def _findUnchecked(self) -> None:
        """Remember as they are now the slices of segments that a model wrote, nobody knows when."""
        written = {one for one in self.layers.segmentIds() if self._isOfModel(one)}
        if not written:
            return
        self.refresh(np.inf)
        for number in range(len(self)):
            now = filled(self._now(number))
            if written & now.keys():
                self._unchecked[number] = {one: [now[one]] for one in written & now.keys()}
        # At once: else what is corrected from now on would count as unchecked the next time. But a
        # look at a scene does not change it.
        self._save(quietly=True)

    def _isOfModel(self, segmentId: str) -> bool:
        """Whether a segment says that a model wrote into it, in this scene or before."""
        segment = self.layers.segmentation.GetSegment(segmentId)
        names = (TAG, *(f"{GENERATION}.{plane}" for plane in PLANES))
        return any(tagOf(segment, name) for name in names)

    def _save(self, quietly: bool = False) -> None:
        if self._mayKeep:
            self._write(quietly)
        self._saved = time.monotonic()
        self._tell()

    def _write(self, quietly: bool) -> None:
        """Into an attribute of the segmentation node.

        Otherwise than quietly that counts as a change of the scene, as it must: what is not changed
        is not saved by Slicer, nor asked for when it is closed.
        """
        data = {
            "version": VERSION,
            "id": self._id,
            "count": len(self),
            "size": self.stack.grid.size,
            "upwards": self._upwards,
            "generations": self._written.packed(),
            "reviewed": self._reviewed,
            "excluded": sorted(self._excluded),
            "learned": {name: sorted(numbers) for name, numbers in self._learned.items()},
            "held_out": self.heldOut,
            "uncertainty": {n: round(value, 6) for n, value in self._uncertainty.items()},
            "unchecked": _packed(self._unchecked),
            "as_models": _packed(self._asModels),
        }
        if self._left is not None:
            data["left"] = self._left
        # In the middle of a run views and tables need not look again because of this.
        self._setAttribute(self._attribute, json.dumps(data, separators=(",", ":")), quietly)
        self._unsaved = []
        self._setAttribute(self._unsavedAttribute, None, quietly=True)

    def _setAttribute(self, name: str, text: str | None, quietly: bool) -> None:
        node = self.segmentationNode
        disabled = node.GetDisableModifiedEvent()
        node.SetDisableModifiedEvent(quietly or disabled)
        node.SetAttribute(name, text)
        node.SetDisableModifiedEvent(disabled)

    def _onSegmentationChanged(self, caller, event) -> None:
        self._tell()

    def _tell(self) -> None:
        for listener in list(self._listeners):
            listener()

    def _checked(self, number: int) -> int:
        if not 0 <= number < len(self):
            raise IndexError(f"slice {number} is not in 0..{len(self) - 1}")
        return number


def _packed(kept: _Seen) -> dict[int, dict[str, str]]:
    """As JSON."""
    return {n: {one: "".join(seen) for one, seen in digests.items()} for n, digests in kept.items()}


def _unpacked(data: Mapping[str, dict[str, str]], here: Callable[[str], int]) -> _Seen:
    """What `_packed` gave; `here` tells what number a slice of then has now."""
    return {
        here(n): {one: splitDigests(text) for one, text in digests.items()}
        for n, digests in data.items()
    }


def _isOf(data: Mapping, stack: SliceStack) -> bool:
    """Whether what was kept is of these slices, and can be read."""
    size = list(stack.grid.size)
    same = data.get("count") == len(stack) and data.get("size", size) == size
    return same and data.get("version") in (1, VERSION)


def hasLedger(segmentationNode, plane: Plane) -> bool:
    """Whether states of the slices of a plane were kept with a segmentation."""
    return bool(segmentationNode.GetAttribute(f"{ATTRIBUTE}.{plane}"))


def isInUse(segmentationNode, plane: Plane) -> bool:
    """Whether slices of a plane were worked on here, or states of them were kept."""
    return segmentationNode.GetAttribute(IN_USE) == plane or hasLedger(segmentationNode, plane)


def hasLedgerOfOtherSize(segmentationNode, volumeNode) -> bool:
    """Whether states were kept of the slices of a volume of another size.

    Those of a segmentation that was emptied since do not count.
    """
    grid = gridOfVolume(volumeNode)
    kept = {plane: segmentationNode.GetAttribute(f"{ATTRIBUTE}.{plane}") for plane in PLANES}
    same = all(
        _isOf(json.loads(text), emptyStack(grid, plane)) for plane, text in kept.items() if text
    )
    return not same and not SegmentLayers(segmentationNode, grid).areEmpty()


def forgetTraining(segmentationNode, name: str) -> None:
    """What `SliceLedger.forgetTraining` does, for all planes of which no ledger is open."""
    for plane in PLANES:
        attribute = f"{ATTRIBUTE}.{plane}"
        text = segmentationNode.GetAttribute(attribute)
        data = json.loads(text) if text else {}
        if name in data.get("learned", {}):
            del data["learned"][name]
            segmentationNode.SetAttribute(attribute, json.dumps(data, separators=(",", ":")))


def forgetLedgers(segmentationNode) -> None:
    """Remove all states: the voxels that they are of are gone."""
    for plane in PLANES:
        segmentationNode.RemoveAttribute(f"{ATTRIBUTE}.{plane}")
        segmentationNode.RemoveAttribute(f"{UNSAVED}.{plane}")


def _eventsOf(segmentationNode) -> tuple[int, ...]:
    # Undo and redo announce themselves as changed segments only.
    segmentation = segmentationNode.GetSegmentation()
    return (
        segmentation.SourceRepresentationModified,
        segmentation.SegmentModified,
        segmentation.SegmentAdded,
        segmentation.SegmentRemoved,
    )
