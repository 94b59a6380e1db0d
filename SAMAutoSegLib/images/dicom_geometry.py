"""Whether the slices of a DICOM series are an even stack: as one volume others were distorted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from SAMAutoSegLib.errors import SAMAutoSegError

# Distances of slices that differ by more than this mean that one is missing.
_UNEVEN_RATIO = 1.05

_MOST_TILT_DEGREES = 0.5

# Of direction cosines; scanners write them with six digits or fewer, and half a degree is 0.009.
_COSINE_TOLERANCE = 0.005

_SAME_PLACE_MM = 1e-3


@dataclass(frozen=True)
class SliceTags:
    """What a DICOM file says of its slice, as text that is empty where it says nothing."""

    file: Path
    uid: str
    position: str
    orientation: str


def require_even_stack(slices: Sequence[SliceTags], folder: Path) -> None:
    """`SAMAutoSegError`, with what is wrong, unless the slices are in order an even stack.

    Files without any position (secondary captures, many frames in one file) are not compared.
    """
    if not any(one.position for one in slices):
        return
    positions = np.array([_position(one) for one in slices])
    cosines = np.array([_orientation(one) for one in slices])
    for one, other in zip(slices, cosines, strict=True):
        if abs(other - cosines[0]).max() > _COSINE_TOLERANCE:
            raise SAMAutoSegError(
                f"{one.file} is a slice of another orientation than {slices[0].file.name}: put the "
                "slices of each orientation in a folder of their own"
            )
    normal = np.cross(cosines[0][:3], cosines[0][3:])
    _refuse_same_place(slices, positions, normal, folder)
    if len(slices) < 2:
        return
    steps = np.diff(positions, axis=0)
    gaps = np.linalg.norm(steps, axis=1)
    if gaps.max() > gaps.min() * _UNEVEN_RATIO:
        raise SAMAutoSegError(
            f"the slices of the DICOM series in {folder} are {gaps.min():.4g} to {gaps.max():.4g} "
            "mm apart: a file is missing, or the series has to be resampled to an even spacing"
        )
    tilt = np.degrees(np.arccos(np.clip(abs(steps.sum(axis=0) @ normal) / gaps.sum(), 0, 1)))
    if tilt > _MOST_TILT_DEGREES:
        raise SAMAutoSegError(
            f"the DICOM series in {folder} was taken with a gantry tilted by {tilt:.1f} degrees: "
            "resample it to a rectangular grid first"
        )


def _refuse_same_place(
    slices: Sequence[SliceTags], positions: np.ndarray, normal: np.ndarray, folder: Path
) -> None:
    # Where two are in one place, ITK has put the files in another order than that of the places.
    order = np.argsort(positions @ normal, kind="stable").tolist()
    for one, other in zip(order[:-1], order[1:], strict=True):
        if np.linalg.norm(positions[one] - positions[other]) > _SAME_PLACE_MM:
            continue
        names = f"{slices[one].file.name} and {slices[other].file.name}"
        if slices[one].uid == slices[other].uid:
            raise SAMAutoSegError(
                f"{folder} holds a slice of the DICOM series twice, in {names}: remove one of them"
            )
        raise SAMAutoSegError(
            f"the DICOM series in {folder} has several slices at one position (phases or echoes), "
            f"as in {names}: put the files of one volume in a folder of its own"
        )


def _position(tags: SliceTags) -> np.ndarray:
    numbers = _numbers(tags.position)
    if len(numbers) != 3:
        raise _malformed(tags, "ImagePositionPatient", tags.position, "three numbers")
    return numbers


def _orientation(tags: SliceTags) -> np.ndarray:
    numbers = _numbers(tags.orientation)
    axes = numbers.reshape(2, -1) if len(numbers) == 6 else np.zeros((2, 3))
    if not np.allclose(axes @ axes.T, np.eye(2), atol=2 * _COSINE_TOLERANCE):
        expected = "six numbers, two unit vectors at right angles"
        raise _malformed(tags, "ImageOrientationPatient", tags.orientation, expected)
    return numbers


def _numbers(text: str) -> np.ndarray:
    """Empty unless all of them are finite numbers."""
    try:
        numbers = np.array([float(part) for part in text.split("\\")])
    except ValueError:
        return np.empty(0)
    return numbers if np.isfinite(numbers).all() else np.empty(0)


def _malformed(tags: SliceTags, name: str, text: str, expected: str) -> SAMAutoSegError:
    return SAMAutoSegError(
        f"{tags.file} has the {name} '{text}': expected {expected}; export the series anew"
    )
