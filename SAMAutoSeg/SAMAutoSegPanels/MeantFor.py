"""Whether a segmentation is meant for the chosen volume."""

from SAMAutoSegLib.errors import SAMAutoSegError
from SAMAutoSegPanels.Translation import _


def requireMeant(segmentationNode, volumeNode, confirm, consequence=""):
    """Ask before what was made for another volume of the scene is used with this one.

    Args:
        confirm: asks a question; whether the answer is yes.
        consequence: a sentence about what happens then.

    Raises:
        SAMAutoSegError: the answer is no.
    """
    from SAMAutoSegScene.SegmentationOutput import volumeOf

    other = volumeOf(segmentationNode)
    if other in (None, volumeNode):
        return
    names = {
        "segmentation": segmentationNode.GetName(),
        "other": other.GetName(),
        "volume": volumeNode.GetName(),
    }
    question = _(
        "{segmentation} was made for the volume {other}.\n\nUse it for {volume}? It belongs to"
        " {volume} from then on."
    ).format(**names)
    if not confirm(f"{question} {consequence}".strip()):
        raise SAMAutoSegError(
            _(
                "{segmentation} was left as it is: for {volume} choose another output"
                " segmentation, or none to get a new one"
            ).format(**names)
        )


def requireOwn(segmentationNode, volumeNode, confirm):
    """As `requireMeant` for a segmentation that fits the volume; after a yes it is the volume's."""
    from SAMAutoSegScene.Frames import ATTRIBUTE, noteFrame
    from SAMAutoSegScene.SegmentationOutput import placeWith, volumeOf

    requireMeant(segmentationNode, volumeNode, confirm)
    if volumeOf(segmentationNode) not in (None, volumeNode):
        placeWith(segmentationNode, volumeNode)
    elif segmentationNode.GetAttribute(ATTRIBUTE) is None:  # made by Slicer's Segment Editor
        noteFrame(segmentationNode, volumeNode)
