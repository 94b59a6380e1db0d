"""The region of interest as voxels of a volume."""

from SAMAutoSegLib.errors import SAMAutoSegError
from SAMAutoSegPanels.EngineVolumes import volumeStamp


class SegmentRegion:
    """Looks again only when the box or the volume has moved: a look takes some milliseconds."""

    def __init__(self):
        self._of = None
        self._ranges = None
        self._problem = ""

    def ranges(self, roiNode, volumeNode):
        """[[i0, i1], [j0, j1], [k0, k1]], as the engine takes it.

        Raises:
            SAMAutoSegError: see `roiOfNode`.
        """
        from SAMAutoSegScene.SliceGeometry import roiOfNode

        box = tuple(roiNode.GetSize()), tuple(roiNode.GetObjectToNodeMatrix().GetData())
        of = box, volumeStamp(volumeNode), _placeOf(roiNode), _placeOf(volumeNode)
        if of != self._of:
            self._of, self._ranges, self._problem = of, None, ""
            try:
                roi = roiOfNode(roiNode, volumeNode)
                self._ranges = [list(roi.i), list(roi.j), list(roi.k)]
            except SAMAutoSegError as error:
                self._problem = str(error)
        if self._problem:
            raise SAMAutoSegError(self._problem)
        return self._ranges


def _placeOf(node):
    transform = node.GetParentTransformNode()
    moved = 0 if transform is None else transform.GetTransformToWorldMTime()
    return node.GetID(), node.GetName(), node.GetTransformNodeID(), moved
