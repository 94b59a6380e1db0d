"""Which volume is meant before the user says so."""

_CLASS = "vtkMRMLScalarVolumeNode"


def defaultVolume(scene):
    """The gray volume in the background of a slice view, else the first in the scene, else None.

    Label maps and color volumes, whose classes derive from that of gray ones, are not meant.
    """
    views = _nodes(scene, "vtkMRMLSliceCompositeNode")
    shown = [scene.GetNodeByID(view.GetBackgroundVolumeID() or "") for view in views]
    volumes = [node for node in shown if node is not None] + _nodes(scene, _CLASS)
    return next((node for node in volumes if node.GetClassName() == _CLASS), None)


def _nodes(scene, className):
    count = scene.GetNumberOfNodesByClass(className)
    return [scene.GetNthNodeByClass(number, className) for number in range(count)]
