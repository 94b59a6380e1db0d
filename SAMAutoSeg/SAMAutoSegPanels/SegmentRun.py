"""One run of a model over a volume: slices appear in the scene as they are done."""

from collections import deque
from datetime import datetime

from SAMAutoSegLib import __version__
from SAMAutoSegLib.errors import SAMAutoSegError
from SAMAutoSegLib.files import sha256_of_file
from SAMAutoSegPanels.ModelLibrary import readStructures
from SAMAutoSegPanels.Options import SliceAxis
from SAMAutoSegPanels.SegmentState import CANCELLING, IDLE, PREPARING, RUNNING, doneMessage
from SAMAutoSegPanels.Signal import Signal
from SAMAutoSegPanels.Translation import _
from SAMAutoSegPanels.Wording import asSentence, listWords, sliceWords

_UNEXPECTED = _("an unexpected error ended it, see the Python console; what is done is kept")


class SegmentRun:
    """Started once; goes on by itself through callbacks of the engine and of the event loop.

    Args:
        session: the `Session`.
        scene: the adapters it writes with, see `SceneOutput`.
        model: a `ModelEntry` with structures.
        volumeNode: what is segmented.
        segmentationNode: where to, None for a new one.
        request: further parameters of the engine's request ``segment``.
        plane: of the slices.
        follow: let slices that the user corrected draw the others after them.

    Attributes:
        changed: emitted when anything below has changed.
        state: see `SegmentState`.
        message: what it ended with.
    """

    def __init__(self, session, scene, model, volumeNode, segmentationNode, request, plane, follow):
        self.changed = Signal()
        self.state = IDLE
        self.fraction = 0.0
        self.secondsLeft = None
        self.message = ""
        self.failed = False
        self.output = None
        self._session = session
        self._scene = scene
        self._model = model
        self._volumeNode = volumeNode
        self._segmentationNode = segmentationNode
        self._request = request
        self._plane = plane
        self._follow = follow
        self._opening = None
        self._pending = None
        self._arrived = deque()
        self._done = set()
        self._stopped = False
        self._ending = None
        self._pumping = False

    @property
    def running(self):
        return self.state != IDLE

    def uses(self, node):
        """Whether it reads from or writes to a node of the scene."""
        output = None if self.output is None else self.output.node
        return node is not None and node in (self._volumeNode, self._segmentationNode, output)

    def start(self):
        self._set(PREPARING)
        self._opening = self._session.volumes.open(self._volumeNode, self._onVolume, self._fail)

    def cancel(self):
        """Stop, and keep the slices that are done."""
        if self.state == PREPARING:
            self._opening.cancel()
            self._end(doneMessage(0, 0, True, []))
        elif self.state == RUNNING:
            self._set(CANCELLING)
            self._pending.cancel()

    def abandon(self):
        """Stop at once and touch no node any more: the scene is being closed."""
        if self._opening is not None:
            self._opening.cancel()
        if self._pending is not None and not self._pending.done:
            self._pending.cancel()
        self._arrived.clear()
        self._ending = None
        self.output = None
        self._scene.abandon()
        self._volumeNode = self._segmentationNode = None
        self.state = IDLE
        self.changed.emit()

    def _onVolume(self, key):
        try:
            structures = readStructures(self._model.path)
            self.output = self._scene.begin(
                self._volumeNode,
                structures,
                self._segmentationNode,
                self._plane,
                self._provenance(),
                self._request.get("roi"),
            )
            corrected = self._scene.corrected() if self._follow else {}
        except SAMAutoSegError as error:
            self._fail(str(error))
            return
        except Exception:
            self._fail(_UNEXPECTED)
            raise
        self._set(RUNNING)
        self._pending = self._session.client.send(
            "segment",
            {
                "volume": key,
                "model": str(self._model.path),
                "axis": self._plane,
                **corrected,
                **self._request,
            },
            on_progress=self._onProgress,
            on_slice=self._onSlice,
            on_result=self._onResult,
            on_error=lambda message, details: self._onEngineError(message),
            on_cancelled=self._onCancelled,
        )

    def _onProgress(self, fraction, message, secondsLeft):
        if self.running:
            self.fraction, self.secondsLeft = fraction, secondsLeft
            self.changed.emit()

    def _onSlice(self, number, plane, labels):
        if self.running:
            self._arrived.append((number, plane, labels))
            self._pump()

    def _onResult(self, result):
        if self.running:
            self._ending = lambda: self._finish(result)
            self._pump()

    def _onCancelled(self, result):
        # Nobody pressed Cancel if the engine was ended, which brings nothing but this.
        self._stopped = True
        self._onResult(result)

    def _onEngineError(self, message):
        if self.running:
            # What has arrived until then is shown first.
            self._ending = lambda: self._fail(message)
            self._pump()

    def _pump(self):
        """Write what has arrived, one slice at a time between two turns of the event loop."""
        if not self._pumping:
            self._pumping = True
            self._session.later(self._step)

    def _step(self):
        self._pumping = False
        if not self.running:
            return
        if self._arrived:
            number, plane, labels = self._arrived.popleft()
            try:
                self._scene.write(number, plane, labels)
            except SAMAutoSegError as error:
                self._stopWriting(str(error))
                return
            except Exception:
                self._stopWriting(_UNEXPECTED)
                raise
            self._done.add(number)
            self._pump()
        elif self._ending is not None:
            ending, self._ending = self._ending, None
            try:
                ending()
            except Exception:
                self._fail(_UNEXPECTED)
                raise

    def _stopWriting(self, message):
        """The volume or the segmentation is gone, or was moved: what was written stays.

        A fault of the program ends the run too; a run that goes on for ever helps nobody.
        """
        self._arrived.clear()
        if not self._pending.done:
            self._pending.cancel()
        self._fail(message)

    def _finish(self, result):
        """Bring what only the whole volume tells, such as removed islands, into the slices.

        Slices that the engine could not show before, where the disk was full, come here too.
        """
        labels, numbers = result.get("labels"), result.get("slices_done", [])
        if not self._request.get("cleanup"):
            numbers = [number for number in numbers if number not in self._done]
        if labels is not None and numbers:
            self._arrived.extend(self._scene.slicesOf(labels, result["axis"], numbers))
            self._ending = lambda: self._close(result)
            self._pump()
        else:
            self._close(result)

    def _close(self, result):
        try:
            written = self._scene.end(result.get("uncertainty"))
        except SAMAutoSegError as error:
            self._fail(str(error))
            return
        told = [*_refinedNotes(result.get("refined")), *result.get("notes", [])]
        notes = [*self.output.notes, *told, *_writtenNotes(written)]
        self._end(doneMessage(len(self._done), self._scene.sliceCount, self._stopped, notes))

    def _provenance(self):
        return {
            "model": self._model.name,
            "version": str(self._model.version),
            "sha256": sha256_of_file(self._model.path) if self._model.path.is_file() else "",
            "date": datetime.now().astimezone().isoformat(timespec="seconds"),
            "program": f"SAMAutoSeg {__version__}",
        }

    def _fail(self, message):
        self.failed = True
        if self.output is not None:
            self._scene.abandon()
        self._end(asSentence(message))

    def _end(self, message):
        self.message = message
        self._set(IDLE)

    def _set(self, state):
        self.state = state
        self.changed.emit()


def _refinedNotes(decisions):
    """What a refinement did to the outlines, by the engine's counts; None without one."""
    if not decisions:
        return []
    sure = decisions.get("sure, no prompt", 0)
    text = _("refined: {changed} of {count} outlines were changed, the model was sure of {sure}")
    return [
        text.format(
            changed=decisions.get("refinement kept", 0),
            count=decisions.get("first pass", 0) + sure,
            sure=sure,
        )
    ]


def _writtenNotes(written):
    notes = []
    if written.protected:
        one = len(written.protected) == 1
        text = _("slices {numbers} were left as they are: yours, or not checked yet")
        if one:
            text = _("slice {numbers} was left as it is: yours, or not checked yet")
        notes.append(text.format(numbers=sliceWords(written.protected)))
    for plane, numbers in written.elsewhere.items():
        text = _(
            "what lies in the {plane} slices {numbers} was left as it is: yours, or not checked yet"
        )
        if len(numbers) == 1:
            text = _(
                "what lies in the {plane} slice {numbers} was left as it is: yours, or not checked"
                " yet"
            )
        name = SliceAxis(plane).label().lower()
        notes.append(text.format(plane=name, numbers=sliceWords(numbers)))
    if written.locked:
        notes.append(
            _("{names} is marked as completed and was left as it is").format(
                names=listWords(written.locked)
            )
        )
    return notes
