"""What a training leaves: the model, its card and where it comes from."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np

from SAMAutoSegLib import __version__
from SAMAutoSegLib.adapt.adapted_file import Adapted, ModelCard
from SAMAutoSegLib.errors import Cancelled
from SAMAutoSegLib.files import sha256_of_file
from SAMAutoSegLib.images.slices import Plane
from SAMAutoSegLib.methods.trainer import TrainingResult
from SAMAutoSegLib.methods.training_set import ChosenSlices, LabeledVolume
from SAMAutoSegLib.provenance import origins


@dataclass(frozen=True)
class FineTuned:
    """An adapted model and the course of its training.

    `seconds` were spent on: 'encoding' the labeled slices, 'training', and 'scoring' the held-out
    ones with their encoding.
    """

    adapted: Adapted
    result: TrainingResult
    seconds: dict[str, float]


def require_a_step(result: TrainingResult) -> None:
    """`Cancelled` if a training was cancelled before it made any."""
    if result.stopped == "cancelled" and not result.steps:
        raise Cancelled("cancelled before the first step: nothing to keep")


def seconds_of(result: TrainingResult, encoding: float, scoring: float) -> dict[str, float]:
    """`FineTuned.seconds`; `scoring` is what the encoding of the held-out slices took."""
    return {
        "encoding": encoding,
        "training": result.seconds - result.scoring_seconds,
        "scoring": scoring + result.scoring_seconds,
    }


def provenance_of(
    volumes: Sequence[ChosenSlices],
    held_out: Sequence[LabeledVolume],
    result: TrainingResult,
    source: ModelCard | None,
    plane: Plane,
    unlabeled: Sequence[Sequence[int]] = (),
) -> dict[str, Any]:
    """Where a model comes from, for its card.

    Args:
        source: the card of the model it went on from.
        plane: of all slices.
        unlabeled: slices of each volume that were learned from without their labels.
    """
    images = [origin_of(volume, plane) for volume in volumes]
    for image, numbers in zip(images, unlabeled, strict=False):
        if numbers:
            image["unlabeled"] = list(numbers)
    scores = {name: round(score, 4) for name, score in result.score.items()}
    dice = "held_out_dice/"
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "program": f"SAMAutoSeg {__version__}",
        "images": images,
        "held_out": [origin_of(volume, plane) for volume in held_out],
        "held_out_dice": scores.get("held_out_dice"),
        "held_out_dice_by_structure": {
            name.removeprefix(dice): score
            for name, score in scores.items()
            if name.startswith(dice)
        },
        "steps": result.steps,
        "best_step": result.best_step,
        "seconds": round(result.seconds, 1),
        "source": None
        if source is None
        else {"method": source.method, "provenance": source.provenance},
    }


def origin_of(volume: ChosenSlices, plane: Plane) -> dict[str, Any]:
    """An image and its slices, as a card names them.

    Returns:
        `name`, `sha256` of its file, `voxels` (SHA-256 of their values, as one image may lie in
        several files), `plane` and `slices`.
    """
    source = volume.image.source
    digest = sha256_of_file(source) if source is not None and source.is_file() else None
    return {
        "name": volume.image.name,
        "sha256": digest,
        "voxels": _digest_of_voxels(volume.image.array),
        "plane": plane,
        "slices": list(volume.slices),
    }


def same_image(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two of `origin_of` are of one image: by content if both tell it, else by name."""
    keys = (key for key in ("voxels", "sha256") if one.get(key) and other.get(key))
    key = next(keys, "name")
    return one.get(key) == other.get(key)


def knows_other_slices(card: ModelCard, volumes: Sequence[ChosenSlices], plane: Plane) -> bool:
    """Whether a model, or one that it went on from, learned from labeled slices but these.

    Args:
        plane: of the slices.
    """
    there = [origin_of(volume, plane) for volume in volumes]

    def is_there(image: dict[str, Any]) -> bool:
        same = [one for one in there if same_image(image, one)]
        numbers = {n for one in same for n in one["slices"]}
        return image.get("plane") == plane and {*image["slices"]} <= numbers

    known = [origin.get("images") for origin in origins(card.provenance)]
    if not known or not all(known):
        return True
    return not all(is_there(one) for images in known for one in images or () if one["slices"])


def _digest_of_voxels(array: np.ndarray) -> str:
    """Of an array [K, J, I], whatever its type: programs that read one file differ in it."""
    digest = hashlib.sha256(repr(array.shape).encode())
    for part in array:
        digest.update(np.ascontiguousarray(part, np.float32).data)
    return digest.hexdigest()
