"""Where a segmentation comes from: the model that made it, kept with the node and its segments."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass

import vtk

ATTRIBUTE = "SAMAutoSeg.Provenance"

# Tags of segments are saved in .seg.nrrd files too, where node attributes are not.
TAG = "SAMAutoSeg.Provenance"


@dataclass(frozen=True)
class Provenance:
    """What made a segmentation.

    Attributes:
        model: name of the model.
        version: of the model; empty if it has none.
        sha256: of the model's file.
        date: when the run started, ISO 8601.
        program: name and version of the program.
    """

    model: str
    version: str
    sha256: str
    date: str
    program: str


def writeProvenance(segmentationNode, segmentIds: Iterable[str], provenance: Provenance) -> None:
    """Note on the node and on these segments what wrote them."""
    text = json.dumps(asdict(provenance))
    segmentationNode.SetAttribute(ATTRIBUTE, text)
    for segmentId in segmentIds:
        segment = segmentationNode.GetSegmentation().GetSegment(segmentId)
        if segment is not None:
            segment.SetTag(TAG, text)


def tagOf(segment, name: str) -> str:
    """A tag of a segment; empty if it has none."""
    value = vtk.reference("")
    segment.GetTag(name, value)
    return str(value)
