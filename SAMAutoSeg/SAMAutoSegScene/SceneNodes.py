"""What there is in a scene."""


def nodesOfClass(scene, className):
    """The nodes of a class and of those derived from it, in the order of the scene."""
    count = scene.GetNumberOfNodesByClass(className)
    return [scene.GetNthNodeByClass(number, className) for number in range(count)]
