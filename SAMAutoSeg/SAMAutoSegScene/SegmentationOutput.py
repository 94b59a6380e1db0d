"""The segmentation node that a model's structures go into, and which segment is which structure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import slicer
import vtk
from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy

from SAMAutoSegLib.errors import SAMAutoSegError
from SAMAutoSegLib.images.structure import Structure
from SAMAutoSegLib.images.volume import Grid
from SAMAutoSegScene.Frames import frameProblem, noteFrame
from SAMAutoSegScene.SceneNodes import nodesOfClass
from SAMAutoSegScene.SegmentLayers import BINARY, SegmentLayers, isEmpty, viewOf
from SAMAutoSegScene.SliceLedger import forgetLedgers, hasLedgerOfOtherSize
from SAMAutoSegScene.Translation import _
from SAMAutoSegScene.VolumeReader import arrayFromMatrix, gridOfVolume, requireReadable

ATTRIBUTE = "SAMAutoSeg.Structures"

# Slicer's name for the reference to the volume whose geometry a segmentation has.
_MADE_FOR = "referenceImageGeometryRef"


@dataclass
class SegmentationOutput:
    """A segmentation that is ready to be written.

    Attributes:
        node: the segmentation node.
        segmentIds: the segment for each label value of the structures.
        notes: what the user should know, one sentence each.
    """

    node: object
    segmentIds: dict[int, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class StructureSegment:
    """A structure of a model and the segment that was made for it.

    Attributes:
        structure: name that the model knows it by.
        segmentId: of its segment, also if that was removed since.
        segmentName: the name that the segment has now; None if it was removed.
    """

    structure: str
    segmentId: str
    segmentName: str | None

    @property
    def removed(self) -> bool:
        return self.segmentName is None

    @property
    def renamed(self) -> bool:
        return self.segmentName is not None and self.segmentName != self.structure


def prepareSegmentation(
    volumeNode,
    structures: Sequence[Structure],
    segmentationNode=None,
    *,
    resample: bool = False,
) -> SegmentationOutput:
    """Make or reuse a segmentation of a volume that has a segment for each structure.

    A new node gets the volume's grid, its transform and its place in the subject hierarchy, below
    the same patient and study. In one that exists, the segment made for a structure is taken
    whatever its name is now, else one that has the structure's name, else a new one is added;
    segments, names, colors and voxels that are there stay.

    Args:
        segmentationNode: the node to reuse; by default a new one is made.
        resample: bring segments that are on another grid, or under another transform, to the grid
            of the volume. Each voxel then takes the nearest one's value.

    Raises:
        SAMAutoSegError: the volume cannot be read; the segmentation is of another frame of a
            sequence, or on another grid and `resample` is not set, or part of it lies outside of
            the volume.
    """
    requireReadable(volumeNode)
    scene = volumeNode.GetScene()
    notes: list[str] = []
    if segmentationNode is None:
        segmentationNode = scene.AddNewNodeByClass(
            "vtkMRMLSegmentationNode",
            _("{volume} segmentation").format(volume=volumeNode.GetName()),
        )
    named = {"segmentation": segmentationNode.GetName(), "volume": volumeNode.GetName()}
    if otherFrame := frameProblem(segmentationNode, volumeNode):
        raise SAMAutoSegError(
            _(
                "the segmentation '{segmentation}' does not fit the volume '{volume}': {reason}; go"
                " to that frame, or choose another output segmentation"
            ).format(reason=otherFrame, **named)
        )
    difference = misfit(segmentationNode, volumeNode)
    if not difference and differenceFromVolume(segmentationNode, volumeNode):
        # The same voxels in another order: nothing is lost, and nobody needs to know.
        _resampleTo(segmentationNode, volumeNode, sameVoxels=True)
    if difference and not resample:
        raise SAMAutoSegError(
            _(
                "the segmentation '{segmentation}' does not fit the volume '{volume}':"
                " {difference}; choose a new output segmentation, or agree to have this one"
                " resampled to the volume"
            ).format(difference=difference, **named)
        )
    if difference:
        _resampleTo(segmentationNode, volumeNode)
        notes.append(
            _("'{segmentation}' was resampled to the grid of '{volume}': {difference}").format(
                difference=difference, **named
            )
        )
    placeWith(segmentationNode, volumeNode)
    segmentIds = _segmentsFor(segmentationNode, structures, notes)
    return SegmentationOutput(segmentationNode, segmentIds, notes)


def segmentationOf(volumeNode, besides=None):
    """The first segmentation in the scene that is made for a volume, or that fits it; else None.

    Args:
        besides: a node that is about to be removed.

    Raises:
        SAMAutoSegError: the volume cannot be read.
    """
    requireReadable(volumeNode)
    for node in nodesOfClass(volumeNode.GetScene(), "vtkMRMLSegmentationNode"):
        madeFor = node.GetNodeReference(_MADE_FOR)
        if node is besides or madeFor not in (None, volumeNode):
            continue
        if not (frameProblem(node, volumeNode) or misfit(node, volumeNode)):
            return node
    return None


def volumeOf(segmentationNode):
    """The volume in the scene that a segmentation was made for, None if there is none to read."""
    volumeNode = segmentationNode.GetNodeReference(_MADE_FOR)
    try:
        requireReadable(volumeNode)
    except SAMAutoSegError:
        return None
    return volumeNode


def hideOthers(volumeNode) -> None:
    """Show the segmentations that were made for a volume, and hide those made for other volumes."""
    for node in nodesOfClass(volumeNode.GetScene(), "vtkMRMLSegmentationNode"):
        madeFor, display = volumeOf(node), node.GetDisplayNode()
        if madeFor is not None and display is not None:
            display.SetVisibility(madeFor is volumeNode)


def misfit(segmentationNode, volumeNode) -> str:
    """Why a segmentation does not belong to the volume as it is; empty if it does."""
    difference = differenceFromVolume(segmentationNode, volumeNode)
    if difference and _isReordered(segmentationNode, volumeNode):
        difference = ""
    if not difference and hasLedgerOfOtherSize(segmentationNode, volumeNode):
        difference = _("it was made on a volume of another size")
    return difference


def differenceFromVolume(segmentationNode, volumeNode) -> str:
    """Why a segmentation cannot be written in terms of the volume's voxels; empty if it can."""
    layers = SegmentLayers(segmentationNode, gridOfVolume(volumeNode))
    for one in layers.segmentIds():
        labelmap = layers.labelmap(one)
        segment = layers.segmentation.GetSegment(one)
        if labelmap is None or layers.segmentation.GetSourceRepresentationName() != BINARY:
            return _("segment '{name}' is a surface, not voxels").format(name=segment.GetName())
        if isEmpty(labelmap):
            continue
        if segmentationNode.GetParentTransformNode() is not volumeNode.GetParentTransformNode():
            return _("it is under another transform")
        if layers.offset(labelmap) is None:
            return _(
                "segment '{name}' has voxels of {spacing} mm in another place or direction than the"
                " volume's of {other} mm"
            ).format(
                name=segment.GetName(),
                spacing=_listed(labelmap.GetSpacing()),
                other=_listed(layers.grid.spacing),
            )
    return ""


def _isReordered(segmentationNode, volumeNode) -> bool:
    """Whether all segments are on the voxels of the volume, though stored in another order.

    Slicer turns a left-handed volume over when it loads it again, but not its segmentation.
    """
    if segmentationNode.GetParentTransformNode() is not volumeNode.GetParentTransformNode():
        return False
    layers = SegmentLayers(segmentationNode, gridOfVolume(volumeNode))
    if layers.segmentation.GetSourceRepresentationName() != BINARY:
        return False
    return all(isEmpty(one) or layers.isReordered(one) for one in layers.labelmaps())


def structureSegments(segmentationNode) -> list[StructureSegment]:
    """The structures that segments were made for, and what became of those segments.

    A segment is known by its id, which Slicer never changes: one that was renamed still belongs to
    its structure, and one that was removed is missing even if another has its name.
    """
    text = segmentationNode.GetAttribute(ATTRIBUTE)
    segmentation = segmentationNode.GetSegmentation()
    found = []
    for structure, segmentId in (json.loads(text) if text else {}).items():
        segment = segmentation.GetSegment(segmentId)
        name = None if segment is None else segment.GetName()
        found.append(StructureSegment(structure, segmentId, name))
    return found


def _segmentsFor(
    segmentationNode, structures: Sequence[Structure], notes: list[str]
) -> dict[int, str]:
    segmentation = segmentationNode.GetSegmentation()
    known = {one.structure: one for one in structureSegments(segmentationNode)}
    # Those of other structures may be meant: one that was renamed, and learned by its new name.
    wanted = {structure.name for structure in structures}
    taken = {one.segmentId for one in known.values() if one.structure in wanted and not one.removed}
    segmentIds: dict[int, str] = {}
    for structure in structures:
        one = known.get(structure.name)
        segmentId = None if one is None or one.removed else one.segmentId
        if segmentId in segmentIds.values():  # of another structure of the same name
            segmentId = None
        if segmentId is None:
            segmentId = next(
                (
                    other
                    for other in segmentation.GetSegmentIDs()
                    if other not in taken
                    and segmentation.GetSegment(other).GetName().casefold()
                    == structure.name.casefold()
                ),
                None,
            )
        if segmentId is None:
            segmentId = _addSegment(segmentation, structure)
            if one is not None and one.removed:
                notes.append(
                    _("the segment of '{name}' was removed; it is made again").format(
                        name=structure.name
                    )
                )
        elif one is not None and one.renamed:
            notes.append(
                _("'{structure}' goes into the segment '{segment}'").format(
                    structure=structure.name, segment=one.segmentName
                )
            )
        taken.add(segmentId)
        segmentIds[structure.label] = segmentId
    stored = {name: one.segmentId for name, one in known.items()}
    stored.update({s.name: segmentIds[s.label] for s in structures})
    segmentationNode.SetAttribute(ATTRIBUTE, json.dumps(stored))
    return segmentIds


def _addSegment(segmentation, structure: Structure) -> str:
    segmentId = segmentation.AddEmptySegment("", structure.name, structure.color)
    segment = segmentation.GetSegment(segmentId)
    if structure.terminology:
        segment.SetTerminology(structure.terminology)
    # Else Slicer would put the terminology's name and color in their place.
    segment.SetNameAutoGenerated(False)
    segment.SetColorAutoGenerated(False)
    return segmentId


def placeWith(segmentationNode, volumeNode) -> None:
    """Under the transform and the study of the volume, on its grid and its frame, and visible."""
    noteFrame(segmentationNode, volumeNode)
    segmentationNode.SetAndObserveTransformNodeID(volumeNode.GetTransformNodeID())
    segmentationNode.SetReferenceImageGeometryParameterFromVolumeNode(volumeNode)
    segmentationNode.CreateDefaultDisplayNodes()
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(volumeNode.GetScene())
    if hierarchy is None:
        return
    volume = hierarchy.GetItemByDataNode(volumeNode)
    segmentation = hierarchy.GetItemByDataNode(segmentationNode)
    if volume:
        parent = hierarchy.GetItemParent(volume)
        # Slicer's window makes an item for every node; without the window there may be none yet.
        segmentation = segmentation or hierarchy.CreateItem(parent, segmentationNode)
        # Where the user put it, it stays.
        if hierarchy.GetItemParent(segmentation) == hierarchy.GetSceneItemID():
            hierarchy.SetItemParent(segmentation, parent)


def _resampleTo(segmentationNode, volumeNode, sameVoxels: bool = False) -> None:
    """Bring the segments to the grid of the volume; nothing is changed if some would be lost.

    Unless the voxels stay the same, nothing is known of the slices any more.
    """
    grid = gridOfVolume(volumeNode)
    between = vtk.vtkGeneralTransform()
    source, target = segmentationNode.GetParentTransformNode(), volumeNode.GetParentTransformNode()
    slicer.vtkMRMLTransformNode.GetTransformBetweenNodes(source, target, between)
    layers = SegmentLayers(segmentationNode, grid)
    for labelmap in layers.labelmaps():
        outside = _outside(labelmap, between, grid)
        if outside:
            raise SAMAutoSegError(
                _(
                    "{count} voxels of the segmentation '{segmentation}' lie outside of the volume"
                    " '{volume}' and would be lost: choose a new output segmentation"
                ).format(
                    count=outside,
                    segmentation=segmentationNode.GetName(),
                    volume=volumeNode.GetName(),
                )
            )
    if not sameVoxels:
        forgetLedgers(segmentationNode)
    if source is not target:
        segmentationNode.ApplyTransform(between)
        segmentationNode.SetAndObserveTransformNodeID(volumeNode.GetTransformNodeID())
    segmentationNode.SetReferenceImageGeometryParameterFromVolumeNode(volumeNode)
    if layers.segmentation.GetSourceRepresentationName() != BINARY:
        segmentationNode.SetSourceRepresentationToBinaryLabelmap()
    layers.bringToGrid()


def _outside(labelmap, transform, grid: Grid) -> int:
    """How many voxels of a labelmap lie outside of a grid."""
    if isEmpty(labelmap):
        return 0
    matrix = vtk.vtkMatrix4x4()
    labelmap.GetImageToWorldMatrix(matrix)
    toRAS = arrayFromMatrix(matrix)
    toIJK = np.linalg.inv(grid.ijk_to_ras)
    extent = labelmap.GetExtent()
    count = 0
    for k, values in enumerate(viewOf(labelmap), start=extent[4]):
        j, i = np.nonzero(values)
        if not len(i):
            continue
        ones = np.ones(len(i))
        points = vtk.vtkPoints()
        points.SetData(
            numpy_to_vtk(
                (toRAS @ [i + extent[0], j + extent[2], k * ones, ones])[:3].T.copy(), deep=True
            )
        )
        moved = vtk.vtkPoints()
        transform.TransformPoints(points, moved)
        ras = vtk_to_numpy(moved.GetData())
        ijk = toIJK[:3, :3] @ ras.T + toIJK[:3, 3:]
        count += int(((ijk < -0.5) | (ijk > np.array(grid.size)[:, None] - 0.5)).any(0).sum())
    return count


def _listed(spacing) -> str:
    return " x ".join(f"{value:.3g}" for value in spacing)
