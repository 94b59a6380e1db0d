"""The points and the box set so far on one object, and what they ask of the engine."""

from dataclasses import dataclass, field

import numpy as np

ADD = "add"
REMOVE = "remove"


@dataclass(frozen=True)
class Prompt:
    """What the engine is asked, and what is done with its answer.

    Attributes:
        params: of the request ``click`` besides volume, model and slice.
        mode: 'add' or 'remove'.
    """

    params: dict
    mode: str

    def change(self, answer):
        """The voxels that are added or removed: a plus never takes away, a minus never adds."""
        mask = np.asarray(answer).astype(bool)
        return mask if self.mode == ADD else ~mask


@dataclass
class ClickSession:
    """Clicks belong together as long as slice and segment are the same and nobody else changes it.

    Attributes:
        place: plane, slice number and segment of the clicks.
        points: [[row, column, +1 or -1], ...].
        box: [row0, column0, row1, column1] or None.
    """

    place: tuple | None = None
    points: list = field(default_factory=list)
    box: list | None = None
    stamp: object = None

    def clear(self):
        self.place, self.points, self.box, self.stamp = None, [], None, None

    def follow(self, place, stamp):
        """Start anew unless the clicks go on where they were and nothing else happened."""
        if place != self.place or stamp != self.stamp:
            self.clear()
            self.place, self.stamp = place, stamp

    def wrote(self, stamp):
        """The last answer was written: the segment looks like this now."""
        self.stamp = stamp

    def point(self, row, column, sign, mask):
        """Another point; ``mask`` is what the segment holds in the slice now."""
        self.points.append([row, column, sign])
        params = {"points": list(self.points)}
        if self.box is not None:
            params["box"] = list(self.box)
        elif all(s < 0 for _, _, s in self.points):
            # Nothing says what the object is but its present outline.
            params["mask"] = np.ascontiguousarray(mask, np.uint8)
        return Prompt(params, ADD if sign > 0 else REMOVE)

    def boxed(self, row0, column0, row1, column1):
        """A box, which begins a new object."""
        self.points = []
        self.box = [min(row0, row1), min(column0, column1), max(row0, row1), max(column0, column1)]
        return Prompt({"box": list(self.box)}, ADD)
