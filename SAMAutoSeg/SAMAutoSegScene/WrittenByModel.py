"""What models wrote into a segmentation, run by run, as far as it was not undone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from SAMAutoSegScene.Provenance import tagOf
from SAMAutoSegScene.SegmentLayers import SegmentLayers
from SAMAutoSegScene.SliceDigests import WIDTH, splitDigests

# More than Slicer can undo.
_KEPT = 20

_BASE = 0
_NONE = "-" * WIDTH


class WrittenByModel:
    """Generations of digests: each run starts one, and follows the one that it found.

    The segments carry, as a tag, the generation of what was written, and Slicer's undo restores
    tags together with voxels. So what was undone is not known any more, and redo brings it back.
    """

    def __init__(self, layers: SegmentLayers, tagName: str, ledger: str) -> None:
        self._layers = layers
        self._tagName = tagName
        self._ledger = ledger
        self._generations: list[dict] = []

    def known(self, number: int) -> dict[str, str]:
        """For each segment the digest of what was written last in a slice."""
        known: dict[str, str] = {}
        for entry in self._lineage():
            for one, digest in entry["slices"].get(number, {}).items():
                known.setdefault(one, digest)
        return known

    def isUndone(self) -> bool:
        """Whether the newest generation is not what the segments hold."""
        return not self._generations or self._held() != self._generations[-1]["id"]

    def start(self, segmentIds: Iterable[str]) -> None:
        """Begin a generation of what is written into these segments."""
        parent = self._held()
        number = max((entry["id"] for entry in self._generations), default=_BASE) + 1
        self._generations.append({"id": number, "parent": parent, "slices": {}})
        for one in segmentIds:
            segment = self._layers.segmentation.GetSegment(one)
            if segment is not None:
                segment.SetTag(self._tagName, f"{self._ledger}:{number}")

    def inNewest(self) -> list[str]:
        """The segments that hold the newest generation."""
        if not self._generations:
            return []
        newest = f"{self._ledger}:{self._generations[-1]['id']}"
        segment = self._layers.segmentation.GetSegment
        return [o for o in self._layers.segmentIds() if tagOf(segment(o), self._tagName) == newest]

    def note(self, number: int, digests: Mapping[str, str]) -> None:
        """Keep what was written into a slice, in the newest generation."""
        self._generations[-1]["slices"][number] = dict(digests)

    def noteForGood(self, number: int, digests: Mapping[str, str]) -> None:
        """Keep what was written into a slice where no undo takes it away."""
        self._base()["slices"][number] = dict(digests)

    def forgetOld(self) -> None:
        """Put together what is too long ago to be undone, so that the scene does not grow."""
        lineage = self._lineage()
        old = [entry for entry in lineage[_KEPT:] if entry["id"] != _BASE]
        if not old:
            return
        for entry in reversed(old):
            self._base()["slices"].update(entry["slices"])
        kept = {_BASE, *(entry["id"] for entry in lineage[:_KEPT])}
        self._generations = [entry for entry in self._generations if entry["id"] in kept]
        for entry in self._generations[1:]:
            entry["parent"] = entry["parent"] if entry["parent"] in kept else _BASE

    def packed(self) -> list[dict]:
        """As JSON."""
        return [_packed(entry) for entry in self._generations]

    def unpack(self, entries: Iterable[dict], here: Callable[[int], int]) -> None:
        """Take over what `packed` gave; `here` tells what number a slice of then has now."""
        self._generations = [
            {
                "id": entry["id"],
                "parent": entry["parent"],
                "slices": {here(n): digests for n, digests in _unpacked(entry).items()},
            }
            for entry in entries
        ]

    def _held(self) -> int:
        """The newest generation that the segments hold; 0 if none."""
        found = _BASE
        for one in self._layers.segmentIds():
            tag = tagOf(self._layers.segmentation.GetSegment(one), self._tagName)
            ledger, _, number = tag.partition(":")
            if ledger == self._ledger and number.isdigit():
                found = max(found, int(number))
        return found

    def _lineage(self) -> list[dict]:
        """The generations that led to what is there now, the newest first."""
        entries = {entry["id"]: entry for entry in self._generations}
        lineage = []
        number = self._held()
        while number in entries:
            lineage.append(entries[number])
            number = entries[number]["parent"]
        return lineage

    def _base(self) -> dict:
        """The generation that no undo takes away."""
        if not self._generations or self._generations[0]["id"] != _BASE:
            self._generations.insert(0, {"id": _BASE, "parent": -1, "slices": {}})
        return self._generations[0]


def _packed(entry: dict) -> dict:
    """A generation as JSON: for each segment the digests of its slices, one after the other."""
    numbers = sorted(entry["slices"])
    segments = sorted({one for digests in entry["slices"].values() for one in digests})
    return {
        "id": entry["id"],
        "parent": entry["parent"],
        "numbers": numbers,
        "digests": {
            one: "".join(entry["slices"][number].get(one, _NONE) for number in numbers)
            for one in segments
        },
    }


def _unpacked(data: dict) -> dict[int, dict[str, str]]:
    slices: dict[int, dict[str, str]] = {number: {} for number in data["numbers"]}
    for one, text in data["digests"].items():
        for number, digest in zip(data["numbers"], splitDigests(text), strict=True):
            if digest != _NONE:
                slices[number][one] = digest
    return slices
