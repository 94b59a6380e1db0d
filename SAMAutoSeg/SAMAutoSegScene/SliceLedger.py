"""What is known of every slice of a segmentation: the model's, corrected, reviewed, excluded."""

from __future__ import annotations

import base64
import hashlib
import json
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from enum import StrEnum

import numpy as np

from SAMAutoSegLib.images.slices import Axis, Plane, SliceStack
from SAMAutoSegScene.Provenance import TAG, tagOf
from SAMAutoSegScene.SegmentLayers import SegmentLayers
from SAMAutoSegScene.SliceGeometry import boxOfSlice, emptyStack
from SAMAutoSegScene.VolumeReader import gridOfVolume

ATTRIBUTE = "SAMAutoSeg.Ledger"
GENERATION = "SAMAutoSeg.Generation"
PLANES: tuple[Plane, ...] = ("axial", "coronal", "sagittal")
VERSION = 1

# Bytes of a digest: two different masks of a slice agree once in 2**48 times.
_DIGEST_BYTES = 6
_EMPTY = "A" * (_DIGEST_BYTES * 4 // 3)

# Slices that are looked at together.
_BLOCK = 16

# More than Slicer can undo.
_KEPT_GENERATIONS = 20

# During a run the scene is kept up to date this often.
_SECONDS_BETWEEN_SAVES = 2.0


class SliceState(StrEnum):
    """What is known of a slice."""

    UNTOUCHED = "untouched"
    MODEL = "model"
    UNCHECKED = "unchecked"
    CORRECTED = "corrected"
    REVIEWED = "reviewed"
    EXCLUDED = "excluded"


class SliceLedger:
    """The states of the slices of a segmentation along one axis of its volume.

    What the model wrote is remembered as a digest for each segment and slice; states follow from
    comparing it with what is there now. So a slice is corrected as soon as one voxel of it differs,
    and is the model's again once that is undone. What nobody told this ledger about counts as the
    user's own work, except in segments that say that a model wrote them, as after a segmentation
    file was loaded without its scene: nobody knows what was corrected there, so these slices are
    unchecked; they are protected, but not learned from. A segment that was renamed is the same
    segment; one that was removed counts no more, neither does what the model had written into it.

    Undoing what the model wrote brings back the states of before: the segments carry, as a tag,
    the generation of what was written, and Slicer's undo restores tags together with voxels.

    A slice that was marked as reviewed and is changed later is a corrected one. Where slices of
    another plane were in use before, all that is there counts as the model's: what was corrected
    stays known, and protected, in the other plane. Everything is kept
    in an attribute of the segmentation node, so it is saved with the scene and restored from it.
    """

    def __init__(self, segmentationNode, volumeNode, axis: Axis = "axial") -> None:
        self.segmentationNode = segmentationNode
        grid = gridOfVolume(volumeNode)
        self.layers = SegmentLayers(segmentationNode, grid)
        self.stack = emptyStack(grid, axis)
        self.plane: Plane = self.stack.plane
        self._digests: dict[str, tuple[tuple, dict[int, str]]] = {}
        self._listeners: list[Callable[[], None]] = []
        self._written: dict[str, tuple] = {}
        self._saved = 0.0
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

    def addListener(self, listener: Callable[[], None]) -> None:
        """Call `listener` whenever states may have changed."""
        self._listeners.append(listener)

    # States

    def stateOf(self, number: int) -> SliceState:
        """The state of a slice; costs about one slice if segments changed since the last call."""
        if number in self._excluded:
            return SliceState.EXCLUDED
        now = self._digestsNow(number)
        reviewed = self._reviewed.get(number)
        if reviewed is not None:
            same = all(reviewed.get(one, _EMPTY) == digest for one, digest in now.items())
            return SliceState.REVIEWED if same else SliceState.CORRECTED
        known = self._known(number)
        unchecked = self._uncheckedIn(number, known)
        if self._differs(now, {**unchecked, **known}):
            return SliceState.CORRECTED
        if unchecked.keys() & now.keys():
            return SliceState.UNCHECKED
        return SliceState.MODEL if known else SliceState.UNTOUCHED

    def states(self) -> list[SliceState]:
        """The states of all slices; costs about one volume if segments changed."""
        self.refresh(np.inf)
        return [self.stateOf(number) for number in range(len(self))]

    def refresh(self, seconds: float) -> bool:
        """Bring what is known up to date for that long; True if nothing is left to do.

        For a timer: `states` costs next to nothing afterwards.
        """
        until = time.perf_counter() + seconds
        current = self._current().values()
        for start in range(0, len(self), _BLOCK):
            block = range(start, min(start + _BLOCK, len(self)))
            if any(number not in digests for digests in current for number in block):
                self._readSlices(block)
                if time.perf_counter() > until:
                    return block.stop == len(self)
        return True

    def slicesIn(self, *states: SliceState) -> list[int]:
        """The numbers of the slices in one of these states."""
        return [number for number, state in enumerate(self.states()) if state in states]

    def toLearnFrom(self) -> list[int]:
        """The numbers of the slices that are right: corrected or reviewed, and not excluded."""
        return self.slicesIn(SliceState.CORRECTED, SliceState.REVIEWED)

    def isProtected(self, number: int, segmentIds: Iterable[str]) -> bool:
        """Whether the model must not write these segments in a slice.

        True if the slice was reviewed, or if the user changed one of these segments there, or may
        have done so before anything was known.
        """
        now = self._digestsNow(number)
        reviewed = self._reviewed.get(number)
        if reviewed is not None:
            return True
        known = self._known(number)
        wanted = set(segmentIds) & now.keys()
        if wanted & self._uncheckedIn(number, known).keys():
            return True
        return self._differs({one: now[one] for one in wanted}, known)

    # What the user says

    def markReviewed(self, numbers: Iterable[int], reviewed: bool = True) -> None:
        """Say that slices are right as they are, or take that back."""
        for number in numbers:
            self._checked(number)
            if reviewed:
                self._reviewed[number] = self._filled(self._digestsNow(number))
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

    # What the model did

    def beginRun(self, segmentIds: Iterable[str]) -> None:
        """Start a new generation of what the model writes into these segments.

        To be called after the undo state was saved and before the first slice is written.
        """
        self._forgetOld()
        self._startGeneration(list(segmentIds))
        self._save()

    @contextmanager
    def modelWrites(self, numbers: Iterable[int], segmentIds: Iterable[str]) -> Iterator[None]:
        """Around the writing of slices by the model: what is there afterwards is the model's.

        Nothing but these slices may be changed inside.
        """
        numbers = [self._checked(number) for number in numbers]
        present = [one for one in segmentIds if self.layers.labelmap(one) is not None]
        before = self._stamps()
        undone = not self._generations or self._generation() != self._generations[-1]["id"]
        # What others did in between may be undone on its own, and takes along all that the model
        # writes from now on. So that gets a generation of its own.
        if undone or (self._written and before != self._written):
            self._startGeneration(present)
        with self.onlyChanges(numbers):
            yield
        for number in numbers:
            now = self._digestsNow(number)
            self._generations[-1]["slices"][number] = {one: now[one] for one in present}
            self._reviewed.pop(number, None)
        self._written = self._stamps()
        if time.monotonic() - self._saved > _SECONDS_BETWEEN_SAVES:
            self._save(quietly=True)

    @contextmanager
    def onlyChanges(self, numbers: Iterable[int]) -> Iterator[None]:
        """Around changes to these slices alone: others need not be looked at again."""
        before = self._stamps()
        yield
        changed = set(numbers)
        for one, stamp in self._stamps().items():
            kept = self._digests.get(one)
            if kept is not None and kept[0] == before.get(one):
                rest = {n: digest for n, digest in kept[1].items() if n not in changed}
                self._digests[one] = (stamp, rest)

    def endRun(self) -> None:
        """Keep what the run wrote in the scene."""
        self._written = {}
        self._save()

    def _stamps(self) -> dict[str, tuple]:
        return {one: self.layers.stamp(one) for one in self.layers.segmentIds()}

    # What was trained

    @property
    def learned(self) -> list[int]:
        """The numbers of the slices that trainings learned from."""
        return sorted(self._learned)

    @property
    def heldOut(self) -> list[int]:
        """The numbers of the slices that were only used for scores, never learned from."""
        return sorted(self._heldOut)

    def noteTraining(self, learned: Iterable[int], heldOut: Iterable[int]) -> None:
        """Keep in mind what a training learns from and what it holds out."""
        self._learned |= {self._checked(number) for number in learned}
        self._heldOut |= {self._checked(number) for number in heldOut}
        self._heldOut -= self._learned
        self._save()

    # Where to look next

    def setUncertainty(self, values: Mapping[int, float]) -> None:
        """Keep how uncertain the model is of slices; higher is more. Others stay as they were."""
        for number, value in values.items():
            self._uncertainty[self._checked(int(number))] = float(value)
        self._save()

    def uncertaintyOf(self, number: int) -> float | None:
        """How uncertain the model is of a slice; None if it was not asked."""
        return self._uncertainty.get(number)

    # Digests

    def _digestsNow(self, number: int) -> dict[str, str]:
        """For each segment the digest of its voxels in a slice."""
        self._checked(number)
        current = self._current()
        if any(number not in digests for digests in current.values()):
            self._readSlices(range(number, number + 1))
        return {one: digests[number] for one, digests in current.items()}

    def _current(self) -> dict[str, dict[int, str]]:
        """For each segment the digests that hold for what is there now."""
        current = {}
        for one, stamp in self._stamps().items():
            kept = self._digests.get(one)
            if kept is None or kept[0] != stamp:
                kept = self._digests[one] = (stamp, {})
            current[one] = kept[1]
        return current

    def _readSlices(self, numbers: range) -> None:
        """Compute the digests of neighboring slices."""
        current = self._current()
        for digests in current.values():
            digests.update(dict.fromkeys(numbers, _EMPTY))
        box = list(boxOfSlice(self.stack, numbers[0]))
        box[2 - self.stack.axis_index] = slice(numbers.start, numbers.stop)
        for labelmap in self.layers.labelmaps():
            segments = {
                self.layers.value(one): current[one] for one in self.layers.sharing(labelmap)
            }
            # As the views show them: Slicer turns left-handed volumes over when it loads them.
            block = self.layers.codes(labelmap, tuple(box))
            grid = replace(self.stack.grid, size=block.shape[::-1])
            views = SliceStack(block, grid, self.plane).views
            for number, codes in zip(numbers, views, strict=True):
                for value, digest in digestsOf(codes).items():
                    if value in segments:
                        segments[value][number] = digest

    def _known(self, number: int) -> dict[str, str]:
        """For each segment the digest of what the model wrote last, as far as it is not undone."""
        known: dict[str, str] = {}
        for entry in self._lineage():
            for one, digest in entry["slices"].get(number, {}).items():
                known.setdefault(one, digest)
        return known

    def _uncheckedIn(self, number: int, known: Mapping[str, str]) -> dict[str, str]:
        """For segments of an unknown model's run the digests they came with."""
        return {one: d for one, d in self._unchecked.get(number, {}).items() if one not in known}

    def _differs(self, now: Mapping[str, str], known: Mapping[str, str]) -> bool:
        return any(known.get(one, _EMPTY) != digest for one, digest in now.items())

    @staticmethod
    def _filled(digests: Mapping[str, str]) -> dict[str, str]:
        return {one: digest for one, digest in digests.items() if digest != _EMPTY}

    # Generations

    def _generation(self) -> int:
        """The newest generation that the segments hold; 0 if none."""
        found = 0
        for one in self.layers.segmentIds():
            tag = tagOf(self.layers.segmentation.GetSegment(one), self._tagName)
            ledger, _, number = tag.partition(":")
            if ledger == self._id and number.isdigit():
                found = max(found, int(number))
        return found

    def _lineage(self) -> list[dict]:
        """The generations that led to what is there now, the newest first."""
        entries = {entry["id"]: entry for entry in self._generations}
        lineage = []
        number = self._generation()
        while number in entries:
            lineage.append(entries[number])
            number = entries[number]["parent"]
        return lineage

    def _startGeneration(self, segmentIds: list[str]) -> None:
        parent = self._generation()
        number = max((entry["id"] for entry in self._generations), default=0) + 1
        self._generations.append({"id": number, "parent": parent, "slices": {}})
        for one in segmentIds:
            segment = self.layers.segmentation.GetSegment(one)
            if segment is not None:
                segment.SetTag(self._tagName, f"{self._id}:{number}")

    def _forgetOld(self) -> None:
        """Put together what is too long ago to be undone, so that the scene does not grow."""
        lineage = self._lineage()
        old = [entry for entry in lineage[_KEPT_GENERATIONS:] if entry["id"] != 0]
        if not old:
            return
        self._base()
        for entry in reversed(old):
            self._base()["slices"].update(entry["slices"])
        kept = {0, *(entry["id"] for entry in lineage[:_KEPT_GENERATIONS])}
        self._generations = [entry for entry in self._generations if entry["id"] in kept]
        for entry in self._generations[1:]:
            entry["parent"] = entry["parent"] if entry["parent"] in kept else 0

    def _base(self) -> dict:
        """The generation that no undo takes away."""
        if not self._generations or self._generations[0]["id"] != 0:
            self._generations.insert(0, {"id": 0, "parent": -1, "slices": {}})
        return self._generations[0]

    # The scene

    @property
    def _attribute(self) -> str:
        return f"{ATTRIBUTE}.{self.plane}"

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
        self._generations: list[dict] = [
            {
                "id": entry["id"],
                "parent": entry["parent"],
                "slices": {here(n): digests for n, digests in _unpacked(entry).items()},
            }
            for entry in data.get("generations", [])
        ]
        self._reviewed: dict[int, dict[str, str]] = {
            here(n): digests for n, digests in data.get("reviewed", {}).items()
        }
        self._excluded: set[int] = {here(n) for n in data.get("excluded", [])}
        self._learned: set[int] = {here(n) for n in data.get("learned", [])}
        self._heldOut: set[int] = {here(n) for n in data.get("held_out", [])}
        self._uncertainty: dict[int, float] = {
            here(n): value for n, value in data.get("uncertainty", {}).items()
        }
        self._unchecked: dict[int, dict[str, str]] = {
            here(n): digests for n, digests in data.get("unchecked", {}).items()
        }
        if not text and any(hasLedger(self.segmentationNode, plane) for plane in PLANES):
            # Slices of another plane were in use so far, and corrections are known there.
            for number, state in enumerate(self.states()):
                if state == SliceState.CORRECTED:
                    self._base()["slices"][number] = self._filled(self._digestsNow(number))
        elif "version" not in data:
            self._findUnchecked()

    def _findUnchecked(self) -> None:
        """Remember as they are now the slices of segments that a model wrote, nobody knows when."""
        written = {one for one in self.layers.segmentIds() if self._isOfModel(one)}
        if not written:
            return
        self.refresh(np.inf)
        for number in range(len(self)):
            now = self._filled(self._digestsNow(number))
            if written & now.keys():
                self._unchecked[number] = {one: now[one] for one in written & now.keys()}
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
            "generations": [_packed(entry) for entry in self._generations],
            "reviewed": self._reviewed,
            "excluded": sorted(self._excluded),
            "learned": self.learned,
            "held_out": self.heldOut,
            "uncertainty": {n: round(value, 6) for n, value in self._uncertainty.items()},
            "unchecked": self._unchecked,
        }
        node = self.segmentationNode
        # In the middle of a run views and tables need not look again because of this.
        disabled = node.GetDisableModifiedEvent()
        node.SetDisableModifiedEvent(quietly or disabled)
        node.SetAttribute(self._attribute, json.dumps(data, separators=(",", ":")))
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


def _isOf(data: Mapping, stack: SliceStack) -> bool:
    """Whether what was kept is of these slices, and can be read."""
    size = list(stack.grid.size)
    same = data.get("count") == len(stack) and data.get("size", size) == size
    return same and data.get("version") == VERSION


def hasLedger(segmentationNode, plane: Plane) -> bool:
    """Whether states of the slices of a plane were kept with a segmentation."""
    return bool(segmentationNode.GetAttribute(f"{ATTRIBUTE}.{plane}"))


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


def forgetLedgers(segmentationNode) -> None:
    """Remove all states: the voxels that they are of are gone."""
    for plane in PLANES:
        segmentationNode.RemoveAttribute(f"{ATTRIBUTE}.{plane}")


def digestsOf(codes: np.ndarray) -> dict[int, str]:
    """For each value of a slice, except 0, text that stands for where it is."""
    places = np.flatnonzero(codes).astype(np.int32)
    values = codes.ravel()[places]
    return {
        int(value): base64.urlsafe_b64encode(
            hashlib.blake2b(places[values == value].data, digest_size=_DIGEST_BYTES).digest()
        ).decode()
        for value in np.unique(values)
    }


def _packed(entry: dict) -> dict:
    """A generation as JSON: for each segment the digests of its slices, one after the other."""
    numbers = sorted(entry["slices"])
    segments = sorted({one for digests in entry["slices"].values() for one in digests})
    return {
        "id": entry["id"],
        "parent": entry["parent"],
        "numbers": numbers,
        "digests": {
            one: "".join(entry["slices"][number].get(one, "-" * len(_EMPTY)) for number in numbers)
            for one in segments
        },
    }


def _unpacked(data: dict) -> dict[int, dict[str, str]]:
    width = len(_EMPTY)
    slices: dict[int, dict[str, str]] = {number: {} for number in data["numbers"]}
    for one, text in data["digests"].items():
        for index, number in enumerate(data["numbers"]):
            digest = text[index * width : (index + 1) * width]
            if digest != "-" * width:
                slices[number][one] = digest
    return slices


def _eventsOf(segmentationNode) -> tuple[int, ...]:
    # Undo and redo announce themselves as changed segments only.
    segmentation = segmentationNode.GetSegmentation()
    return (
        segmentation.SourceRepresentationModified,
        segmentation.SegmentModified,
        segmentation.SegmentAdded,
        segmentation.SegmentRemoved,
    )
