"""What the user corrected, as labels to learn from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from SAMAutoSegLib.errors import SAMAutoSegError
from SAMAutoSegLib.images.slices import Plane
from SAMAutoSegLib.images.structure import Structure
from SAMAutoSegLib.images.volume import Volume
from SAMAutoSegScene.SegmentationOutput import structureSegments
from SAMAutoSegScene.SegmentLayers import SegmentLayers, isEmpty, wholeBox
from SAMAutoSegScene.SliceGeometry import boxOfSlice
from SAMAutoSegScene.SliceLedger import SliceLedger
from SAMAutoSegScene.VolumeReader import readVolume


@dataclass
class CorrectedSlices:
    """A volume with labels that are right in some of its slices.

    Attributes:
        volume: the image; its array belongs to the node.
        labels: [K, J, I] on its grid with the structures' label values; uint8, or uint16 where a
            value needs it. Right in `slices` only.
        structures: of the labels, named as the segments are named now.
        segmentIds: the segment of each label value.
        plane: of the slices.
        slices: numbers of the slices to learn from.
        notes: what the user should know, one sentence each.
    """

    volume: Volume
    labels: np.ndarray
    structures: tuple[Structure, ...]
    segmentIds: dict[int, str]
    plane: Plane
    slices: list[int]
    notes: list[str] = field(default_factory=list)


def readCorrectedSlices(
    segmentationNode, volumeNode, ledger: SliceLedger, segmentIds: Sequence[str] | None = None
) -> CorrectedSlices:
    """The corrected and reviewed slices of a segmentation.

    Segments are labeled 1, 2, 3, ... in the order of the segmentation. A voxel in several of them
    gets the last one, which is also the one that Slicer draws and saves on top; a note says so.

    Args:
        segmentIds: the segments to learn, by default all that are there.

    Raises:
        SAMAutoSegError: the volume cannot be read, no slice is corrected or reviewed, or no
            segment is there.
    """
    volume = readVolume(volumeNode)
    layers = SegmentLayers(segmentationNode, volume.grid)
    present = layers.segmentIds()
    wanted = [one for one in present if segmentIds is None or one in segmentIds]
    if not wanted:
        raise SAMAutoSegError(
            f"'{segmentationNode.GetName()}' has none of the segments to learn: add a segment and "
            "draw it in a few slices"
        )
    slices = ledger.toLearnFrom()
    if not slices:
        raise SAMAutoSegError(
            "no slice is corrected or reviewed yet: correct a few slices, or mark slices that are "
            "right as reviewed"
        )
    labels = np.zeros(volume.array.shape, np.uint8 if len(wanted) < 256 else np.uint16)
    covered = np.zeros(volume.array.shape, bool)
    overlapping = np.zeros(volume.array.shape, bool)
    box = wholeBox(volume.grid)
    for value, one in enumerate(wanted, start=1):
        labelmap = layers.labelmap(one)
        if labelmap is None or isEmpty(labelmap):
            continue
        part = layers.codes(labelmap, box) == layers.value(one)
        overlapping |= part & covered
        covered |= part
        labels[part] = value
    shown = np.zeros_like(overlapping)
    for number in slices:
        shown[boxOfSlice(ledger.stack, number)] = True
    result = CorrectedSlices(
        volume,
        labels,
        tuple(_structure(layers, one, value) for value, one in enumerate(wanted, start=1)),
        dict(enumerate(wanted, start=1)),
        ledger.plane,
        slices,
    )
    twice = int((overlapping & shown).sum())
    if twice:
        result.notes.append(
            f"{twice} voxels belong to several segments: they count for the one that is lowest in "
            "the list"
        )
    for structure in result.structures:
        if not (shown & (labels == structure.label)).any():
            result.notes.append(f"'{structure.name}' is in none of the corrected slices")
    renamed = {one.segmentId: one for one in structureSegments(segmentationNode) if one.renamed}
    for one in wanted:
        if one in renamed:
            result.notes.append(
                f"'{renamed[one].structure}' is learned as '{renamed[one].segmentName}'"
            )
    return result


def _structure(layers: SegmentLayers, segmentId: str, label: int) -> Structure:
    segment = layers.segmentation.GetSegment(segmentId)
    red, green, blue = (float(part) for part in segment.GetColor())
    return Structure(label, segment.GetName(), (red, green, blue), segment.GetTerminology() or "")
