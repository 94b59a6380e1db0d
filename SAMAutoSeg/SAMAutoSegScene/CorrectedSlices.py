"""What the user corrected, as labels to learn from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import slicer

from SAMAutoSegLib.errors import SAMAutoSegError
from SAMAutoSegLib.images.slices import Plane
from SAMAutoSegLib.images.structure import Structure
from SAMAutoSegLib.images.volume import Volume
from SAMAutoSegScene.SegmentationOutput import structureSegments
from SAMAutoSegScene.SegmentLayers import SegmentLayers, wholeBox
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
    labels, overlapping = _labels(layers, wanted)
    result = CorrectedSlices(
        volume,
        labels,
        tuple(_structure(layers, one, value) for value, one in enumerate(wanted, start=1)),
        dict(enumerate(wanted, start=1)),
        ledger.plane,
        slices,
    )
    boxes = [boxOfSlice(ledger.stack, number) for number in slices]
    twice = 0 if overlapping is None else sum(int(overlapping[box].sum()) for box in boxes)
    if twice:
        result.notes.append(
            f"{twice} voxels belong to several segments: they count for the one that is lowest in "
            "the list"
        )
    found = {int(value) for box in boxes for value in np.unique(labels[box])}
    for structure in result.structures:
        if structure.label not in found:
            result.notes.append(f"'{structure.name}' is in none of the corrected slices")
    renamed = {one.segmentId: one for one in structureSegments(segmentationNode) if one.renamed}
    for one in wanted:
        if one in renamed:
            result.notes.append(
                f"'{renamed[one].structure}' is learned as '{renamed[one].segmentName}'"
            )
    return result


def _labels(layers: SegmentLayers, wanted: Sequence[str]) -> tuple[np.ndarray, np.ndarray | None]:
    """Labels 1, 2, 3, ... of segments, the later on top; where several are, None if nowhere."""
    kind = np.uint8 if len(wanted) < 256 else np.uint16
    labels = overlapping = None
    box = wholeBox(layers.grid)
    for labelmap in layers.labelmaps():
        codes = layers.codes(labelmap, box)
        table = np.zeros(max(int(codes.max()), *map(layers.value, wanted)) + 1, kind)
        for label, one in enumerate(wanted, start=1):
            if layers.labelmap(one) is labelmap:
                table[layers.value(one)] = label
        values = table[codes]
        if labels is None:
            labels = values
            continue
        both = (labels > 0) & (values > 0)
        overlapping = both if overlapping is None else overlapping | both
        np.maximum(labels, values, out=labels)
    if labels is None:
        labels = np.zeros(layers.grid.size[::-1], kind)
    return labels, overlapping


def _structure(layers: SegmentLayers, segmentId: str, label: int) -> Structure:
    segment = layers.segmentation.GetSegment(segmentId)
    red, green, blue = (float(part) for part in segment.GetColor())
    terminology = segment.GetTerminology() or ""
    if terminology == slicer.vtkSegment().GetTerminology():
        terminology = ""  # what Slicer fills in where nothing is known
    return Structure(label, segment.GetName(), (red, green, blue), terminology)
