"""The points and the box set so far on one object, and what they ask of the engine."""

from dataclasses import dataclass, field

import numpy as np

from SAMAutoSegLib.errors import SAMAutoSegError
from SAMAutoSegPanels.Translation import _

ADD = "add"
REMOVE = "remove"


@dataclass
class ClickedObject:
    """What the clicks mean: a part of the segment in the slice.

    Attributes:
        mask: bool [rows, columns], None until a click was answered or hit something.
    """

    mask: np.ndarray | None = None


@dataclass(frozen=True)
class Prompt:
    """What the engine is asked, and what is done with its answer.

    Attributes:
        params: of the request ``click`` besides volume, model and slice.
        mode: 'add' or 'remove'.
        clicked: what is added to or taken from.
    """

    params: dict
    mode: str
    clicked: ClickedObject

    def change(self, answer):
        """The voxels that are added or removed: a plus never takes away, a minus never adds.

        A minus takes from the clicked object only. The answer is silent about whatever else the
        segment has in the slice, such as the other kidney, and that stays.
        """
        answer = np.asarray(answer).astype(bool)
        before = self.clicked.mask
        if before is None:
            before = np.zeros_like(answer)
        if self.mode == ADD:
            self.clicked.mask = before | answer
            return answer
        self.clicked.mask = before & answer
        return before & ~answer


@dataclass
class ClickSession:
    """Clicks belong together as long as slice and segment are the same and nobody else changes it.

    Attributes:
        place: plane, slice number and segment of the clicks.
        points: [[row, column, +1 or -1], ...].
        box: [row0, column0, row1, column1] or None.
        clicked: the object that they are on.
    """

    place: tuple | None = None
    points: list = field(default_factory=list)
    box: list | None = None
    clicked: ClickedObject = field(default_factory=ClickedObject)
    stamp: object = None

    def clear(self):
        self.place = self.stamp = None
        self._beginObject()

    def _beginObject(self, box=None):
        self.points, self.box, self.clicked = [], box, ClickedObject()

    def follow(self, place, stamp):
        """Start anew unless the clicks go on where they were and nothing else happened."""
        if place != self.place or stamp != self.stamp:
            self.clear()
            self.place, self.stamp = place, stamp

    def wrote(self, stamp):
        """The last answer was written: the segment looks like this now."""
        self.stamp = stamp

    def point(self, row, column, sign, mask):
        """Another point; ``mask`` is what the segment holds in the slice now.

        Raises:
            SAMAutoSegError: there is nothing that a first minus could take away.
        """
        mask = np.asarray(mask).astype(bool)
        known = self.clicked.mask
        if sign < 0 and known is not None and mask[row, column] and not known[row, column]:
            self._beginObject()  # another part of the segment
        if sign < 0 and self.box is None and not self.points:
            if not mask[row, column]:
                raise SAMAutoSegError(
                    _("nothing of the selected segment is there: click on what is too much")
                )
            self.clicked.mask = _connectedPart(mask, row, column)
        self.points.append([row, column, sign])
        params = {"points": list(self.points)}
        if self.box is not None:
            params["box"] = list(self.box)
        elif all(one[2] < 0 for one in self.points):
            # Nothing says what the object is but its present outline.
            params["mask"] = np.ascontiguousarray(self.clicked.mask, np.uint8)
        return Prompt(params, ADD if sign > 0 else REMOVE, self.clicked)

    def boxed(self, row0, column0, row1, column1):
        """A box, which begins a new object."""
        rows, columns = sorted((row0, row1)), sorted((column0, column1))
        self._beginObject([rows[0], columns[0], rows[1], columns[1]])
        return Prompt({"box": list(self.box)}, ADD, self.clicked)


def _connectedPart(mask, row, column):
    """What hangs together with a pixel, also across corners."""
    from scipy.ndimage import label

    parts, _count = label(mask, np.ones((3, 3)))
    return parts == parts[row, column]
