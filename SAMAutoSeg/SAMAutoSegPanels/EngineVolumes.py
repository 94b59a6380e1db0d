"""Volumes of the scene handed to the engine, each once, without a pause of the interface."""

from SAMAutoSegLib.engine.arrays import share_in_steps
from SAMAutoSegLib.engine.volumes import facts_of
from SAMAutoSegLib.errors import SAMAutoSegError
from SAMAutoSegPanels.Translation import _

# Each is a copy in the temporary folder. More are not looked at in turn.
_MOST = 3


class EngineVolumes:
    """Knows which volumes the engine holds or is getting, and whether they changed since.

    Args:
        client: an `EngineClient`.
        later: calls a function once the event loop has drawn and answered.
        read: a volume node as the library's `Volume`; by default that of the scene adapters.
    """

    def __init__(self, client, later, read=None):
        self._client = client
        self._later = later
        self._readVolume = read
        self._handovers = {}
        self._toClose = []

    def open(self, volumeNode, onReady, onError):
        """Hand over a volume unless that was done or is under way; ``onReady`` is told its key.

        Returns:
            `Opening`, which can be cancelled; neither callback is called after that.
        """
        opening = Opening(onReady, onError)
        stamp, nodeId = volumeStamp(volumeNode), volumeNode.GetID()
        self._closeWhatIsLeft()
        handover = self._handovers.get(nodeId)
        if handover is not None and handover.stamp == stamp:
            self._handovers[nodeId] = self._handovers.pop(nodeId)  # the latest one now
            if handover.key is not None:
                self._later(lambda: opening.tellReady(handover.key))
            else:
                handover.waiting.append(opening)
            return opening
        # Whoever waits for what the volume was gets what it is now.
        waiting = [*self._drop(nodeId), opening]
        self._closeOldest()
        handover = self._handovers[nodeId] = _Handover(stamp, waiting)
        try:
            volume = self._read(volumeNode)
            steps = share_in_steps(self._client.folder, volume.array)
        except SAMAutoSegError as error:
            message = str(error)
            self._later(lambda: self._fail(nodeId, handover, message))
            return opening

        def step():
            if not handover.wanted:
                steps.close()
                self._remove(nodeId, handover)
                return
            try:
                next(steps)
            except StopIteration as end:
                self._send(volume, end.value, nodeId, handover)
            except SAMAutoSegError as error:
                self._fail(nodeId, handover, str(error))
            else:
                self._later(step)

        self._later(step)
        return opening

    def close(self, nodeId):
        """Let the engine forget a volume that is no more; whoever waits for it is told."""
        for opening in self._drop(nodeId):
            opening.tellError(_("the volume was removed"))

    def closeAll(self):
        for nodeId in list(self._handovers):
            self.close(nodeId)

    def forget(self):
        """The engine is being ended and holds none any more; whoever waits for one is told."""
        handovers, self._handovers, self._toClose = list(self._handovers.values()), {}, []
        for handover in handovers:
            for opening in handover.drop():
                opening.tellError(_("the engine was ended meanwhile: try again"))

    def _closeOldest(self):
        """Make room for another volume: what was not asked for of late is handed over again."""
        idle = [nodeId for nodeId, held in self._handovers.items() if held.key is not None]
        for nodeId in idle[: max(0, len(self._handovers) - _MOST + 1)]:
            self.close(nodeId)

    def _drop(self, nodeId):
        """Close a volume as soon as that can be; the openings that wait for it."""
        handover = self._handovers.pop(nodeId, None)
        if handover is None:
            return []
        if handover.key is not None:
            self._closeKey(handover.key)
        return handover.drop()

    def _closeKey(self, key):
        if self._client.state in ("starting", "ready", "busy"):
            self._client.send("close_volume", {"volume": key})
        elif self._client.state == "failed":
            self._toClose.append(key)  # the next process opens again what was open

    def _closeWhatIsLeft(self):
        keys, self._toClose = self._toClose, []
        for key in keys:
            self._client.send("close_volume", {"volume": key})

    def _send(self, volume, shared, nodeId, handover):
        def onResult(result):
            if handover.dropped:
                self._closeKey(result["volume"])
                return
            handover.key = result["volume"]
            waiting, handover.waiting = handover.waiting, []
            for opening in waiting:
                opening.tellReady(handover.key)

        self._client.send(
            "open_volume",
            {"array": shared, **facts_of(volume)},
            on_result=onResult,
            on_error=lambda message, details: self._fail(nodeId, handover, message),
        )

    def _fail(self, nodeId, handover, message):
        """The volume was not handed over; the next opening tries again."""
        for opening in self._remove(nodeId, handover):
            opening.tellError(message)

    def _remove(self, nodeId, handover):
        if self._handovers.get(nodeId) is handover:
            del self._handovers[nodeId]
        return handover.drop()

    def _read(self, volumeNode):
        if self._readVolume is not None:
            return self._readVolume(volumeNode)
        from SAMAutoSegScene.VolumeReader import readVolume

        return readVolume(volumeNode)


class Opening:
    """Somebody who waits for a volume on its way to the engine."""

    def __init__(self, onReady, onError):
        self.cancelled = False
        self._onReady = onReady
        self._onError = onError

    def cancel(self):
        self.cancelled = True

    def tellReady(self, key):
        if not self.cancelled:
            self._onReady(key)

    def tellError(self, message):
        if not self.cancelled:
            self._onError(message)


class _Handover:
    """A volume that the engine has or is about to get, and those that wait for it.

    Attributes:
        stamp: see `volumeStamp`.
        key: the engine's name for it, None until it has it.
    """

    def __init__(self, stamp, waiting):
        self.stamp = stamp
        self.key = None
        self.waiting = waiting
        self.dropped = False

    @property
    def wanted(self):
        return not self.dropped and any(not opening.cancelled for opening in self.waiting)

    def drop(self):
        """Nobody gets it any more; those that waited."""
        self.dropped = True
        waiting, self.waiting = self.waiting, []
        return waiting


def volumeStamp(volumeNode):
    """Differs from an earlier one if the voxels or the grid may have changed."""
    image = volumeNode.GetImageData()
    if image is None:
        return ()
    place = [*volumeNode.GetOrigin(), *volumeNode.GetSpacing()]
    directions = [[0.0] * 3, [0.0] * 3, [0.0] * 3]
    volumeNode.GetIJKToRASDirections(directions)
    scalars = image.GetPointData().GetScalars()
    changed = image.GetMTime() if scalars is None else scalars.GetMTime()
    return (changed, image.GetDimensions(), *place, *(v for row in directions for v in row))
