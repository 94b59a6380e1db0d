"""Weak labels out of files: our own JSON, markups of 3D Slicer, rough paint in a label volume.

The JSON format, with pixels as `SliceStack` shows them (row and column from 0; the second corner of
a box is the first pixel outside), structures by name or by label value:

    {
      "format": "SAMAutoSeg weak labels", "version": 1, "plane": "axial",
      "slices": {
        "12": {
          "liver": {"points": [[40, 31, 1], [10, 5, -1]]},
          "spleen": {"boxes": [[30, 60, 52, 81]]},
          "aorta": {"polygons": [[[40, 40], [40, 48], [47, 44]]]},
          "stomach": {"absent": true}
        }
      }
    }

Of Slicer's markups (`.mrk.json`) point lists and regions of interest are read. The structure is the
name that a point or region carries ("liver", or "liver-3" as Slicer counts), else that of the file
(`liver.mrk.json`); "not liver" marks points outside. A region of interest says that the structure
lies inside of it: in the slices beyond it is absent. Several regions of one structure count
together.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from SAMAutoSegLib.errors import SAMAutoSegError
from SAMAutoSegLib.images.read import read_layers
from SAMAutoSegLib.images.slices import Plane, SliceStack
from SAMAutoSegLib.images.structure import Structure, matched
from SAMAutoSegLib.images.volume import Volume
from SAMAutoSegLib.images.weak_labels import Hint, WeakLabels, check_weak_labels, rough_paint

FORMAT = "SAMAutoSeg weak labels"
FORMAT_VERSION = 1

_COORDINATES = {"LPS": 1.0, "RAS": -1.0, "1": 1.0, "0": -1.0}  # Slicer 4.11 wrote numbers


def read_weak_labels(
    paths: Sequence[Path], image: Volume, plane: Plane, structures: Sequence[Structure]
) -> tuple[WeakLabels, list[str]]:
    """Read and join the weak labels of one image, of one file or several.

    Args:
        paths: JSON files of the format above, Slicer's `.mrk.json`, or label volumes on the
            image's grid whose structures are matched by name, else by value.
        plane: of the slices that are adapted to.
        structures: that the model knows; of others nothing is taken.

    Returns:
        The labels, and what a user should know about them, one sentence each.

    Raises:
        SAMAutoSegError: an unreadable file, an unknown structure, another plane or grid, and what
            `check_weak_labels` refuses.
    """
    stack = SliceStack(image.array, image.grid, plane)
    labels = WeakLabels(plane)
    for path in paths:
        labels = labels.joined(_read(path, image, stack, structures))
    notes = check_weak_labels(labels, stack, structures)
    return labels, notes


def _read(
    path: Path, image: Volume, stack: SliceStack, structures: Sequence[Structure]
) -> WeakLabels:
    if path.suffix.lower() != ".json":
        return _from_paint(path, image, stack, structures)
    content = _json(path)
    if "markups" in content:
        return _from_markups(content, path, stack, structures)
    if content.get("format") != FORMAT or content.get("version") != FORMAT_VERSION:
        raise SAMAutoSegError(
            f'{path} holds no weak labels: expected "format": "{FORMAT}" and '
            f'"version": {FORMAT_VERSION}, or markups of 3D Slicer'
        )
    return _from_json(content, path, stack, structures)


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise SAMAutoSegError(
            f"{path} does not exist: check the path of the weak labels"
        ) from error
    except OSError as error:
        raise SAMAutoSegError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:  # bad JSON and bad UTF-8
        raise SAMAutoSegError(f"{path} is no JSON: {str(error).splitlines()[0]}") from error
    if not isinstance(content, dict):
        raise SAMAutoSegError(f"{path} holds no weak labels: expected a JSON object")
    return content


def _from_json(
    content: dict[str, Any], path: Path, stack: SliceStack, structures: Sequence[Structure]
) -> WeakLabels:
    if content.get("plane") != stack.plane:
        raise SAMAutoSegError(
            f"{path} is about {content.get('plane')} slices, the model sees {stack.plane} ones: "
            "mark those"
        )
    hints: dict[int, dict[int, Hint]] = {}
    place = "the entry 'slices'"
    try:
        for number, found in content["slices"].items():
            place = f"slice {number}"
            if not number.isdigit():
                raise ValueError("no slice number")
            for name, values in found.items():
                place = f"slice {number}, {name}"
                structure = _structure(name, structures)
                if structure is None:
                    raise _unknown(name, path, structures)
                hint = _hint(values, stack.slice_shape)
                known = hints.setdefault(int(number), {})
                if structure.label in known:
                    raise ValueError("named twice")
                known[structure.label] = hint
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = str(error) if isinstance(error, ValueError) else "missing, or of another kind"
        raise SAMAutoSegError(
            f"{path} is not as its format says, {place}: {reason}; expected is "
            '{"slices": {"12": {"liver": {"points": [[row, column, 1]], "boxes": [[row, column, '
            "row, column]]}}}}"
        ) from error
    return WeakLabels(stack.plane, hints)


def _hint(values: dict[str, Any], shape: tuple[int, int]) -> Hint:
    unknown = set(values) - {"points", "boxes", "polygons", "absent"}
    if unknown:
        raise ValueError(f"unknown entry {min(unknown)!r}")
    points = [tuple(map(_whole, point)) for point in values.get("points", [])]
    boxes = [tuple(map(_whole, box)) for box in values.get("boxes", [])]
    if any(len(point) != 3 for point in points):
        raise ValueError("a point that is not [row, column, sign]")
    if any(len(box) != 4 for box in boxes):
        raise ValueError("a box that is not [row0, column0, row1, column1]")
    polygons = values.get("polygons", [])
    coarse = _filled(polygons, shape) if polygons else None
    absent = values.get("absent", False)
    if not isinstance(absent, bool):
        raise ValueError(f"absent {absent!r} is neither true nor false")
    return Hint(tuple(points), tuple(boxes), True, coarse, absent)  # type: ignore[arg-type]


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value):
        raise ValueError(f"{value!r} is no number")
    return int(np.floor(value + 0.5))


def _filled(polygons: Sequence[Any], shape: tuple[int, int]) -> np.ndarray:
    picture = Image.new("1", (shape[1], shape[0]))
    for polygon in polygons:
        if len(polygon) < 3:
            raise ValueError("a polygon of less than three corners")
        corners = [(float(column), float(row)) for row, column in polygon]
        for column, row in corners:
            if not (0 <= row < shape[0] and 0 <= column < shape[1]):
                raise SAMAutoSegError(
                    f"corner {row:g}, {column:g} of a polygon lies outside of the image: expected "
                    f"rows 0 to {shape[0] - 1} and columns 0 to {shape[1] - 1}"
                )
        ImageDraw.Draw(picture).polygon(corners, fill=1, outline=1)
    return np.array(picture, bool)


def _from_markups(
    content: dict[str, Any], path: Path, stack: SliceStack, structures: Sequence[Structure]
) -> WeakLabels:
    hints: dict[int, dict[int, Hint]] = {}
    regions: dict[int, list[tuple[np.ndarray, np.ndarray]]] = {}

    def add(number: int, label: int, hint: Hint) -> None:
        mine = hints.setdefault(number, {})
        mine[label] = mine[label].joined(hint) if label in mine else hint

    try:
        for markup in content["markups"]:
            sense = _COORDINATES[str(markup.get("coordinateSystem", "LPS"))]
            to_lps = np.array([sense, sense, 1.0])
            if markup["type"] == "Fiducial":
                for point in markup["controlPoints"]:
                    if point.get("positionStatus", "defined") != "defined":
                        continue
                    structure, sign = _named(point.get("label", ""), path, structures)
                    position = np.array(point["position"], float) * to_lps
                    number, row, column = np.floor(_place(position, stack) + 0.5).astype(int)
                    if not 0 <= number < len(stack):
                        raise SAMAutoSegError(
                            f"point {point.get('label', '')!r} of {path} lies outside of the image"
                        )
                    hint = Hint(points=((int(row), int(column), sign),))
                    add(int(number), structure.label, hint)
            elif markup["type"] == "ROI":
                if markup.get("insideOut"):
                    raise SAMAutoSegError(
                        f"a region of interest of {path} is inside out: switch that off, and draw "
                        "it around the structure"
                    )
                points = markup.get("controlPoints") or [{}]
                structure, _ = _named(points[0].get("label", ""), path, structures)
                region = _region(markup, to_lps, stack, path)
                regions.setdefault(structure.label, []).append(region)
            else:
                raise SAMAutoSegError(
                    f"{path} holds markups of type {markup['type']}: expected point lists and "
                    "regions of interest"
                )
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise SAMAutoSegError(
            f"{path} is damaged or of another kind than Slicer's markups: "
            f"{type(error).__name__} {error}"
        ) from error
    for label, boxes in regions.items():
        for number in range(len(stack)):
            cuts = [(a, b) for a, b in boxes if a[0] <= number < b[0]]
            found = tuple((int(a[1]), int(a[2]), int(b[1]), int(b[2])) for a, b in cuts)
            add(number, label, Hint(boxes=found, tight=False, absent=not found))
    return WeakLabels(stack.plane, hints)


def _region(
    markup: dict[str, Any], to_lps: np.ndarray, stack: SliceStack, path: Path
) -> tuple[np.ndarray, np.ndarray]:
    """First and last + 1 (slice, row, column) of the voxels inside a region, cut to the image."""
    center = np.array(markup["center"], float) * to_lps
    axes = np.array(markup.get("orientation", np.eye(3).ravel()), float).reshape(3, 3)
    half = np.array(markup["size"], float) / 2
    if not (np.isfinite(half).all() and (half > 0).all()):
        raise SAMAutoSegError(f"a region of interest of {path} has no size: draw it anew")
    corners = [
        _place(center + to_lps * (axes @ (half * signs)), stack)
        for signs in itertools.product((-1.0, 1.0), repeat=3)
    ]
    limits = np.array([len(stack), *stack.slice_shape])
    first = np.maximum(np.ceil(np.min(corners, axis=0) - 1e-6), 0).astype(int)
    stop = np.minimum(np.floor(np.max(corners, axis=0) + 1e-6) + 1, limits).astype(int)
    if (first >= stop).any():
        raise SAMAutoSegError(
            f"a region of interest of {path} holds no voxel of the image: move it"
        )
    return first, stop


def _place(lps: np.ndarray, stack: SliceStack) -> np.ndarray:
    """Slice number, row and column, not rounded, of a place in mm."""
    ijk = np.linalg.solve(stack.grid.ijk_to_lps, [*lps, 1.0])[:3]
    return stack.place_of(ijk)


def _from_paint(
    path: Path, image: Volume, stack: SliceStack, structures: Sequence[Structure]
) -> WeakLabels:
    layers = read_layers(path).on_grid_of(image)
    known = matched(structures, layers.structures)
    partners = [(own, other) for own, other in known if other is not None]
    if not partners:
        names = ", ".join(structure.name for structure in structures)
        raise SAMAutoSegError(f"{path} holds no paint of what the model knows: {names}")
    labels = {other.label: own.label for own, other in partners}
    paint, _ = layers.flattened(list(labels))
    slices = SliceStack(paint.array, image.grid, stack.plane)
    return rough_paint(slices, labels, range(len(slices)))


def _named(label: str, path: Path, structures: Sequence[Structure]) -> tuple[Structure, int]:
    """The structure that a markup is about, and -1 if it says where the structure is not.

    By its label, else by the name of its file; by the whole name, else without the number that
    Slicer puts behind it. A label "not" alone is about the structure that the file is named after.
    """
    stem = path.name.removesuffix(".json").removesuffix(".mrk")
    label, outside = label.strip(), 1
    if re.fullmatch(r"not([-_ ]+\d+)?", label, re.IGNORECASE):
        label, outside = "", -1
    for text in (label, stem):
        for name in (text, re.sub(r"[-_ ]\d+$", "", text)):
            bare = re.sub(r"^not[-_ ]+", "", name, flags=re.IGNORECASE)
            for known, sign in ((name, 1), (bare, 1 if bare == name else -1)):
                structure = _structure(known, structures)
                if structure is not None:
                    return structure, sign * outside
        if re.match(r"not[-_ ]", text, re.IGNORECASE):
            break  # it must not become a point inside of what the file is named after
    raise _unknown(label or stem, path, structures)


def _structure(name: str, structures: Sequence[Structure]) -> Structure | None:
    wanted = name.strip().casefold()
    return next((s for s in structures if wanted in (s.name.casefold(), str(s.label))), None)


def _unknown(name: str, path: Path, structures: Sequence[Structure]) -> SAMAutoSegError:
    known = ", ".join(structure.name for structure in structures)
    return SAMAutoSegError(
        f"{path} marks {name!r}, which the model does not know: expected {known}"
    )
