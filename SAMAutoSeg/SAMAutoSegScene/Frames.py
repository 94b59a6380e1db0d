"""Volumes that are a frame of a sequence, as of a beating heart: outlines belong to one frame."""

from SAMAutoSegScene.SceneNodes import nodesOfClass
from SAMAutoSegScene.Translation import _

ATTRIBUTE = "SAMAutoSeg.Frame"


def noteFrame(segmentationNode, volumeNode) -> None:
    """Keep in mind which frame a segmentation is of, if the volume is one of a sequence."""
    frame = _frameOf(segmentationNode, volumeNode)
    if frame is None:
        segmentationNode.RemoveAttribute(ATTRIBUTE)
    elif segmentationNode.GetAttribute(ATTRIBUTE) != str(frame):
        segmentationNode.SetAttribute(ATTRIBUTE, str(frame))


def frameProblem(segmentationNode, volumeNode) -> str:
    """Why a segmentation does not belong to the frame that the volume shows; empty if it does."""
    noted, frame = segmentationNode.GetAttribute(ATTRIBUTE), _frameOf(segmentationNode, volumeNode)
    if frame is None or noted in (None, str(frame)):
        return ""
    return _(
        "it was made on frame {one} of the sequence, and the volume shows frame {other}"
    ).format(one=int(noted) + 1, other=frame + 1)


def _frameOf(segmentationNode, volumeNode) -> int | None:
    """The number of the frame; None where there is none, or where the segmentation has its own."""
    for browser in nodesOfClass(volumeNode.GetScene(), "vtkMRMLSequenceBrowserNode"):
        if browser.GetSequenceNode(volumeNode) is not None:
            along = browser.GetSequenceNode(segmentationNode) is not None
            return None if along else browser.GetSelectedItemNumber()
    return None
