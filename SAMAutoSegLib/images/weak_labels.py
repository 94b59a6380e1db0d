"""What is known about a slice without drawing its contours: points, boxes, rough paint."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from SAMAutoSegLib.errors import SAMAutoSegError
from SAMAutoSegLib.images.bounding_box import bounding_box
from SAMAutoSegLib.images.slices import Plane, SliceStack
from SAMAutoSegLib.images.structure import Structure

Point = tuple[int, int, int]
"""Row, column, and +1 inside the structure or -1 outside of it."""

Box = tuple[int, int, int, int]
"""First row and column and the ones after the last: row0, column0, row1, column1."""


@dataclass(frozen=True, eq=False)
class Hint:
    """What is known of one structure in one slice; pixels as `SliceStack` shows them.

    Attributes:
        points: pixels inside and outside of the structure.
        boxes: all of the structure lies in them.
        tight: each box is filled from side to side by a part of the structure, as one drawn in
            this very slice is; a slice through a region of interest in space need not be.
        coarse: [H, W] bool, rough paint, None if there is none.
        absent: the structure is not in this slice.
    """

    points: tuple[Point, ...] = ()
    boxes: tuple[Box, ...] = ()
    tight: bool = True
    coarse: np.ndarray | None = None
    absent: bool = False

    def joined(self, other: Hint) -> Hint:
        """Both together. Boxes drawn in the slice replace what a region in space says of it."""
        boxes = {*self.boxes, *other.boxes}
        tight = self.tight and other.tight
        if self.boxes and other.boxes and self.tight != other.tight:
            boxes, tight = {*(self if self.tight else other).boxes}, True
        absent = self.absent or other.absent
        if not (self.tight or other.tight):  # in one of the regions in space is enough
            absent = self.absent and other.absent
        paint = [mask for mask in (self.coarse, other.coarse) if mask is not None]
        return Hint(
            tuple(dict.fromkeys(self.points + other.points)),
            tuple(sorted(boxes)),
            tight,
            np.logical_or.reduce(paint) if paint else None,
            absent,
        )

    @property
    def prompts(self) -> tuple[Box, ...]:
        """What a prompted SAM is given: the boxes, else that around the paint."""
        around = None if self.coarse is None else bounding_box(self.coarse)
        if self.boxes or around is None:
            return self.boxes
        rows, columns = around
        return ((rows.start, columns.start, rows.stop, columns.stop),)

    @property
    def words(self) -> str:
        """Its kinds, for reports."""
        kinds = {
            "points": self.points,
            "boxes": self.boxes,
            "paint": self.coarse is not None,
            "absence": self.absent,
        }
        return ", ".join(kind for kind, there in kinds.items() if there)


@dataclass(frozen=True)
class WeakLabels:
    """Hints by slice number and structure label; a pair that is missing is not known.

    Attributes:
        plane: of the slices.
        hints: slice number -> label of the structure -> hint.
    """

    plane: Plane
    hints: Mapping[int, Mapping[int, Hint]] = field(default_factory=dict)

    @property
    def slices(self) -> list[int]:
        """Numbers of the slices of which more is known than what they do not show."""
        return sorted(
            number
            for number, found in self.hints.items()
            if any(not hint.absent for hint in found.values())
        )

    def of(self, number: int) -> Mapping[int, Hint]:
        """The hints of a slice by structure label."""
        return self.hints.get(number, {})

    def joined(self, other: WeakLabels) -> WeakLabels:
        """Both together; `SAMAutoSegError` if their planes differ."""
        if self.plane != other.plane:
            raise SAMAutoSegError(
                f"weak labels of {self.plane} and of {other.plane} slices cannot be used together"
            )
        hints = {number: dict(found) for number, found in self.hints.items()}
        for number, found in other.hints.items():
            for label, hint in found.items():
                mine = hints.setdefault(number, {})
                mine[label] = mine[label].joined(hint) if label in mine else hint
        return WeakLabels(self.plane, hints)


def rough_paint(
    labels: SliceStack, structures: Mapping[int, int], numbers: Iterable[int]
) -> WeakLabels:
    """What is painted in some slices of a label volume, as coarse masks.

    Args:
        structures: the structure's label for each value in `labels` that counts.
        numbers: of the slices.
    """
    hints: dict[int, dict[int, Hint]] = {}
    for number in numbers:
        values = labels.slice_at(number)
        for value, label in structures.items():
            mask = values == value
            if mask.any():
                hints.setdefault(number, {})[label] = Hint(coarse=mask)
    return WeakLabels(labels.plane, hints)


def check_weak_labels(
    labels: WeakLabels, stack: SliceStack, structures: Sequence[Structure] | None
) -> list[str]:
    """What a user should know about weak labels for the slices of an image.

    Args:
        structures: that a model knows; None where the labels may be about any.

    Returns:
        Notes, one sentence each: structures of which nothing is said.

    Raises:
        SAMAutoSegError: another plane, a structure that the model does not know, a label outside of
            the image, an empty box or paint, statements that contradict each other, or a hint that
            says nothing.
    """
    if labels.plane != stack.plane:
        raise SAMAutoSegError(
            f"the weak labels are of {labels.plane} slices, but {stack.plane} ones are adapted to: "
            "mark those"
        )
    count = len(stack)
    names = {structure.label: structure.name for structure in structures or ()}
    for number, found in sorted(labels.hints.items()):
        if not 0 <= number < count:
            raise SAMAutoSegError(
                f"weak label in slice {number}: the image has {labels.plane} slices "
                f"0 to {count - 1}"
            )
        for label, hint in found.items():
            where = f"{names.get(label, f'label {label}')} in slice {number}"
            if structures is not None and label not in names:
                raise SAMAutoSegError(
                    f"weak label of {where} is about no structure of the model: expected label "
                    f"{' or '.join(map(str, names))}"
                )
            if not hint.words:
                raise SAMAutoSegError(
                    f"weak label of {where} says nothing: give points, boxes, paint or absence, or "
                    "leave it out"
                )
            _check_inside(hint, stack.slice_shape, where)
            _check_agreement(hint, where)
        _check_between(found, names, number)
    silent = [s.name for s in structures or () if not _spoken_of(labels, s.label)]
    if labels.hints and silent:
        return [
            f"no weak label for {', '.join(silent)}: adapted by the model's own predictions alone"
        ]
    return []


def _spoken_of(labels: WeakLabels, label: int) -> bool:
    return any(label in found for found in labels.hints.values())


def _check_inside(hint: Hint, shape: tuple[int, int], where: str) -> None:
    rows, columns = shape
    for row, column, sign in hint.points:
        if sign not in (1, -1):
            raise SAMAutoSegError(f"point of {where} has sign {sign}: expected 1 or -1")
        if not (0 <= row < rows and 0 <= column < columns):
            raise SAMAutoSegError(
                f"point {row}, {column} of {where} lies outside of the image: expected rows 0 to "
                f"{rows - 1} and columns 0 to {columns - 1}"
            )
    for box in hint.boxes:
        row0, column0, row1, column1 = box
        text = ", ".join(map(str, box))
        if row1 <= row0 or column1 <= column0:
            raise SAMAutoSegError(
                f"box {text} of {where} has no area: expected row0, column0, row1, column1 with "
                "row0 < row1 and column0 < column1"
            )
        if row0 < 0 or column0 < 0 or row1 > rows or column1 > columns:
            raise SAMAutoSegError(
                f"box {text} of {where} leaves the image: expected rows 0 to {rows} and columns 0 "
                f"to {columns}"
            )
    if hint.coarse is not None:
        if hint.coarse.shape != shape:
            raise SAMAutoSegError(
                f"paint of {where} has {hint.coarse.shape[0]} x {hint.coarse.shape[1]} pixels: "
                f"expected {rows} x {columns}"
            )
        if not hint.coarse.any():
            raise SAMAutoSegError(f"paint of {where} covers no pixel: paint it, or leave it out")


def _check_agreement(hint: Hint, where: str) -> None:
    inside = [(row, column) for row, column, sign in hint.points if sign > 0]
    outside = {(row, column) for row, column, sign in hint.points if sign < 0}
    both = sorted(outside.intersection(inside))
    if both:
        raise SAMAutoSegError(
            f"point {both[0][0]}, {both[0][1]} of {where} is said to be inside and outside: "
            "remove one of the two"
        )
    if hint.absent and (inside or hint.boxes or hint.coarse is not None):
        raise SAMAutoSegError(
            f"{where} is said to be absent, or lies outside of its region of interest, but has a "
            "point, box or paint there: remove one of the two"
        )
    if hint.boxes and hint.coarse is not None:
        parts = [hint.coarse[r0:r1, c0:c1] for r0, c0, r1, c1 in hint.boxes]
        if not any(part.any() for part in parts):
            raise SAMAutoSegError(f"paint of {where} lies outside of its boxes: move one of them")
    for row, column in inside:
        if hint.boxes and not any(_holds(box, row, column) for box in hint.boxes):
            raise SAMAutoSegError(
                f"point {row}, {column} inside {where} lies outside of its boxes: move one of them"
            )


def _check_between(found: Mapping[int, Hint], names: Mapping[int, str], number: int) -> None:
    owner: dict[tuple[int, int], int] = {}
    for label, hint in found.items():
        for row, column, sign in hint.points:
            if sign > 0 and owner.setdefault((row, column), label) != label:
                both = " and ".join(names.get(n, f"label {n}") for n in (owner[row, column], label))
                raise SAMAutoSegError(
                    f"point {row}, {column} of slice {number} is said to be inside {both}: "
                    "structures do not overlap; remove one of the two"
                )


def _holds(box: Box, row: int, column: int) -> bool:
    return box[0] <= row < box[2] and box[1] <= column < box[3]
