"""Which volume is meant before the user says so."""

from SAMAutoSegScene.SceneNodes import nodesOfClass

_CLASS = "vtkMRMLScalarVolumeNode"


def defaultVolume(scene):
    """The gray volume in the background of a slice view, else the first in the scene, else None.

    Label maps and color volumes, whose classes derive from that of gray ones, are not meant.
    """
    views = nodesOfClass(scene, "vtkMRMLSliceCompositeNode")
    shown = [scene.GetNodeByID(view.GetBackgroundVolumeID() or "") for view in views]
    volumes = [node for node in shown if node is not None] + nodesOfClass(scene, _CLASS)
    return next((node for node in volumes if node.GetClassName() == _CLASS), None)


def isInViews(volumeNode):
    """Whether a slice view has a volume in its background."""
    views = nodesOfClass(volumeNode.GetScene(), "vtkMRMLSliceCompositeNode")
    return any(view.GetBackgroundVolumeID() == volumeNode.GetID() for view in views)
