"""What the user corrected, as labels to learn from and to segment by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import slicer

from SAMAutoSegLib.errors import SAMAutoSegError
from SAMAutoSegLib.images.slices import Plane
from SAMAutoSegLib.images.structure import Structure
from SAMAutoSegLib.images.volume import Volume
from SAMAutoSegScene.SegmentationOutput import structureSegments
from SAMAutoSegScene.SegmentLayers import SegmentLayers, shapeOf
from SAMAutoSegScene.SliceGeometry import boxOfSlice, sliceOfBox
from SAMAutoSegScene.SliceLedger import SliceLedger
from SAMAutoSegScene.Translation import _
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
    segmentationNode,
    volumeNode,
    ledger: SliceLedger,
    segmentIds: Sequence[str] | None = None,
    like: Sequence[Structure] = (),
) -> CorrectedSlices:
    """The slices of a segmentation that are corrected or reviewed as far as these segments go.

    Segments are labeled 1, 2, 3, ... in the order of the segmentation. A voxel in several of them
    gets the last one, which is also the one that Slicer draws and saves on top; a note says so.

    Args:
        segmentIds: the segments to learn, by default all that are there.
        like: structures of another volume, each named as one of these segments; labels are theirs.

    Raises:
        SAMAutoSegError: the volume cannot be read, no slice is corrected or reviewed, no segment
            is there, or two have the same name.
    """
    volume = readVolume(volumeNode)
    layers = SegmentLayers(segmentationNode, volume.grid)
    present = layers.segmentIds()
    wanted = [one for one in present if segmentIds is None or one in segmentIds]
    if not wanted:
        raise SAMAutoSegError(
            _(
                "'{segmentation}' has none of the segments to learn: add a segment and draw it in a"
                " few slices"
            ).format(segmentation=segmentationNode.GetName())
        )
    _requireDistinctNames(layers, wanted)
    slices = ledger.toLearnFrom(wanted)
    if not slices:
        raise SAMAutoSegError(
            _(
                "no slice is corrected or reviewed yet: correct a few slices, or mark slices that"
                " are right as reviewed"
            )
        )
    valueOf = _valuesLike(like, layers, wanted) if like else _valuesInOrder(wanted)
    values = np.array([0, *valueOf.values()], np.min_scalar_type(max(valueOf.values())))
    labels = np.zeros(layers.grid.size[::-1], values.dtype)
    boxes = [boxOfSlice(ledger.stack, number) for number in slices]
    twice = 0
    for box in boxes:
        found, overlapping = _labels(layers, wanted, box)
        labels[box] = values[found]
        twice += overlapping
    result = CorrectedSlices(
        volume,
        labels,
        tuple(like) or tuple(_structure(layers, one, value) for one, value in valueOf.items()),
        {value: one for one, value in valueOf.items()},
        ledger.plane,
        slices,
    )
    if twice:
        result.notes.append(
            _(
                "{count} voxels belong to several segments: they count for the one that is lowest"
                " in the list"
            ).format(count=twice)
        )
    renamed = {one.segmentId: one for one in structureSegments(segmentationNode) if one.renamed}
    for one in wanted:
        if one in renamed:
            result.notes.append(
                _("'{structure}' is learned as '{segment}'").format(
                    structure=renamed[one].structure, segment=renamed[one].segmentName
                )
            )
    return result


def _valuesInOrder(segmentIds: Sequence[str]) -> dict[str, int]:
    return {one: value for value, one in enumerate(segmentIds, start=1)}


def _valuesLike(
    structures: Sequence[Structure], layers: SegmentLayers, segmentIds: Sequence[str]
) -> dict[str, int]:
    """The label values of structures by the segments that have their names."""
    labels = {structure.name.casefold(): structure.label for structure in structures}
    names = {one: layers.segmentation.GetSegment(one).GetName() for one in segmentIds}
    return {one: labels[name.casefold()] for one, name in names.items()}


def slicesToFollow(
    segmentationNode, ledger: SliceLedger, segmentIds: Mapping[int, str]
) -> tuple[list[int], np.ndarray]:
    """The slices that are corrected or reviewed as far as these segments go, as a model's labels.

    Args:
        segmentIds: the segment of each label value.

    Returns:
        Their numbers, and labels [N, rows, columns]; uint8, or uint16 where a value needs it. Of
        overlapping segments as in `readCorrectedSlices`.
    """
    layers = SegmentLayers(segmentationNode, ledger.stack.grid)
    valueOf = {one: value for value, one in segmentIds.items()}
    wanted = [one for one in layers.segmentIds() if one in valueOf]
    values = np.array([0, *(valueOf[one] for one in wanted)], np.min_scalar_type(max(segmentIds)))
    slices = ledger.toLearnFrom(wanted)
    found = np.zeros((len(slices), *ledger.stack.slice_shape), values.dtype)
    for place, number in enumerate(slices):
        labels, __ = _labels(layers, wanted, boxOfSlice(ledger.stack, number))
        found[place] = values[sliceOfBox(labels, ledger.stack)]
    return slices, found


def _labels(layers: SegmentLayers, wanted: Sequence[str], box) -> tuple[np.ndarray, int]:
    """Segments as labels 1, 2, 3, ... of a box, the later on top; and how many voxels overlap."""
    labels = np.zeros(shapeOf(box), np.min_scalar_type(len(wanted)))
    twice = np.zeros(labels.shape, bool)
    for labelmap in layers.labelmaps():
        codes = layers.codes(labelmap, box)
        table = np.zeros(max(int(codes.max()), *map(layers.value, wanted)) + 1, labels.dtype)
        for label, one in enumerate(wanted, start=1):
            if layers.labelmap(one) is labelmap:
                table[layers.value(one)] = label
        values = table[codes]
        twice |= (labels > 0) & (values > 0)
        np.maximum(labels, values, out=labels)
    return labels, int(twice.sum())


def _requireDistinctNames(layers: SegmentLayers, segmentIds: Sequence[str]) -> None:
    """A model knows its structures by their names."""
    names = [layers.segmentation.GetSegment(one).GetName() for one in segmentIds]
    folded = [name.casefold() for name in names]
    twice = [name for name, other in zip(names, folded, strict=True) if folded.count(other) > 1]
    if twice:
        raise SAMAutoSegError(
            _("two segments are named '{name}': rename one of them").format(name=twice[0])
        )


def _structure(layers: SegmentLayers, segmentId: str, label: int) -> Structure:
    segment = layers.segmentation.GetSegment(segmentId)
    red, green, blue = (float(part) for part in segment.GetColor())
    terminology = segment.GetTerminology() or ""
    if terminology == slicer.vtkSegment().GetTerminology():
        terminology = ""  # what Slicer fills in where nothing is known
    return Structure(label, segment.GetName(), (red, green, blue), terminology)
