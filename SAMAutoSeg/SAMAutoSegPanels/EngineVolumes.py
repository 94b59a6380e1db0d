"""Volumes of the scene handed to the engine, each once, without a pause of the interface."""

from SAMAutoSegLib.engine.arrays import share_in_steps
from SAMAutoSegLib.errors import SAMAutoSegError


class EngineVolumes:
    """Knows which volumes the engine holds and whether they changed since.

    Args:
        client: an `EngineClient`.
        later: calls a function once the event loop has drawn and answered.
        read: a volume node as the library's `Volume`; by default that of the scene adapters.
    """

    def __init__(self, client, later, read=None):
        self._client = client
        self._later = later
        self._readVolume = read
        self._keys = {}

    def open(self, volumeNode, onReady, onError):
        """Hand over a volume unless that was done; ``onReady`` is told its key.

        Returns:
            `Opening`, which can be cancelled; neither callback is called after that.
        """
        opening = Opening()
        stamp = volumeStamp(volumeNode)
        nodeId = volumeNode.GetID()
        known = self._keys.get(nodeId)
        if known is not None and known[0] == stamp:
            self._later(lambda: opening.cancelled or onReady(known[1]))
            return opening
        self.close(nodeId)
        try:
            volume = self._read(volumeNode)
            steps = share_in_steps(self._client.folder, volume.array)
        except SAMAutoSegError as error:
            message = str(error)
            self._later(lambda: opening.cancelled or onError(message))
            return opening

        def step():
            if opening.cancelled:
                steps.close()
                return
            try:
                next(steps)
            except StopIteration as end:
                self._open(volume, end.value, (nodeId, stamp), opening, onReady, onError)
            except SAMAutoSegError as error:
                onError(str(error))
            else:
                self._later(step)

        self._later(step)
        return opening

    def close(self, nodeId):
        """Let the engine forget a volume."""
        known = self._keys.pop(nodeId, None)
        if known is not None and self._client.state in ("ready", "busy"):
            self._client.send("close_volume", {"volume": known[1]})

    def closeAll(self):
        for nodeId in list(self._keys):
            self.close(nodeId)

    def forget(self):
        """The engine was ended and holds none any more."""
        self._keys.clear()

    def _open(self, volume, shared, known, opening, onReady, onError):
        nodeId, stamp = known
        grid = volume.grid
        params = {
            "array": shared,
            "size": list(grid.size),
            "spacing": list(grid.spacing),
            "origin": list(grid.origin),
            "direction": [float(value) for value in grid.direction.ravel()],
            "name": volume.name,
            "modality": volume.modality,
        }

        def onResult(result):
            self._keys[nodeId] = (stamp, result["volume"])
            if not opening.cancelled:
                onReady(result["volume"])

        self._client.send(
            "open_volume",
            params,
            on_result=onResult,
            on_error=lambda message, details: opening.cancelled or onError(message),
        )

    def _read(self, volumeNode):
        if self._readVolume is not None:
            return self._readVolume(volumeNode)
        from SAMAutoSegScene.VolumeReader import readVolume

        return readVolume(volumeNode)


class Opening:
    """A volume on its way to the engine."""

    def __init__(self):
        self.cancelled = False

    def cancel(self):
        self.cancelled = True


def volumeStamp(volumeNode):
    """Differs from an earlier one if the voxels or the grid may have changed."""
    image = volumeNode.GetImageData()
    if image is None:
        return ()
    place = [*volumeNode.GetOrigin(), *volumeNode.GetSpacing()]
    directions = [[0.0] * 3 for _ in range(3)]
    volumeNode.GetIJKToRASDirections(directions)
    scalars = image.GetPointData().GetScalars()
    changed = image.GetMTime() if scalars is None else scalars.GetMTime()
    return (changed, image.GetDimensions(), *place, *(v for row in directions for v in row))
