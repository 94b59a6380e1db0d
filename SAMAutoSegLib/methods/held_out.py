"""Slices that are held out of a training: never learned from, only scored."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from SAMAutoSegLib.adapt.adapted_file import ModelCard
from SAMAutoSegLib.adapt.adapted_model import AdaptedModel
from SAMAutoSegLib.errors import SAMAutoSegError
from SAMAutoSegLib.images.slices import Plane
from SAMAutoSegLib.methods.losses import class_dice
from SAMAutoSegLib.methods.method import sample_logits
from SAMAutoSegLib.methods.training_set import ChosenSlices, LabeledVolume, TrainingSet
from SAMAutoSegLib.methods.tuned_model import origin_of, same_image
from SAMAutoSegLib.provenance import origins
from SAMAutoSegLib.sam.backbone import Backbone


def held_out_scorer(
    tests: TrainingSet, backbone: Backbone
) -> Callable[[AdaptedModel], dict[str, float]]:
    """Dice of the voxels of all slices at the images' resolution.

    `held_out_dice` is the mean over the structures that a slice or the prediction holds,
    `held_out_dice/liver` that of one of them. Not a mean over slices: at the end of an organ, where
    a slice holds a few voxels of it, that would count these as much as the whole organ.
    """
    expected = torch.cat([torch.from_numpy(slice_).flatten() for slice_ in tests.references])

    def score(model: AdaptedModel) -> dict[str, float]:
        predicted = []
        for n in range(len(tests)):
            shown = sample_logits(model, tests, n, backbone.spec)
            predicted.append(shown.argmax(0).to(torch.uint8).flatten().cpu())
        dice = class_dice(torch.cat(predicted), expected, model.classes)
        known = {
            f"held_out_dice/{name}": value
            for name, value in zip(tests.structures, dice, strict=True)
            if not math.isnan(value)
        }
        return {"held_out_dice": sum(known.values()) / len(known), **known} if known else {}

    return score


def refuse_overlap(volumes: Sequence[ChosenSlices], held_out: Sequence[LabeledVolume]) -> None:
    """`SAMAutoSegError` if a slice is both learned from and held out."""
    for volume, test in of_one_image(volumes, held_out):
        both = sorted(set(volume.slices) & set(test.slices))
        if both:
            raise SAMAutoSegError(
                f"slice {both[0]} of {test.image.name} is both learned from and held out: "
                "name it once"
            )


def unseen(
    held_out: Sequence[LabeledVolume], former: ModelCard | None, plane: Plane
) -> tuple[list[LabeledVolume], list[str]]:
    """What may give a score of a model that goes on from a former one.

    Args:
        plane: of the slices that are held out. Of an image in which slices of another plane were
            learned from none is left, since each of them crosses all of these.

    Returns:
        `held_out` without the slices that `former` or a model before it learned from, and notes
        that say which these are.
    """
    kept, notes = [], []
    for volume in held_out:
        same = _learned_of(volume, former, plane)
        across = {image.get("plane", plane) for image in same if _slices_of(image)} - {plane}
        if across:
            notes.append(
                f"{volume.image.name} gives no score, because the former model learned from "
                f"{' and '.join(sorted(across))} slices of it"
            )
            continue
        seen = {n for image in same for n in _slices_of(image)}
        known = sorted(seen & set(volume.slices))
        if known:
            numbers = ", ".join(map(str, known))
            which, it = ("slice", "it") if len(known) == 1 else ("slices", "them")
            verb = "is" if len(known) == 1 else "are"
            notes.append(
                f"{which} {numbers} of {volume.image.name} {verb} not scored, because the former "
                f"model learned from {it}"
            )
        if left := tuple(n for n in volume.slices if n not in seen):
            kept.append(replace(volume, slices=left))
    return kept, notes


def _learned_of(
    volume: LabeledVolume, former: ModelCard | None, plane: Plane
) -> list[dict[str, Any]]:
    """What a model, and those before it, tell of this image, if they have learned from it."""
    learned = [
        image
        for origin in origins(former.provenance if former else None)
        for image in origin.get("images") or ()
    ]
    if not learned:
        return []  # nothing to compare the voxels with
    own = origin_of(volume, plane)
    return [image for image in learned if same_image(image, own)]


def _slices_of(image: dict[str, Any]) -> list[int]:
    """Those that were learned from, with labels or without."""
    return [*image["slices"], *image.get("unlabeled", ())]


def held_out_neighbors(
    volumes: Sequence[ChosenSlices],
    held_out: Sequence[LabeledVolume],
    former: ModelCard | None,
    plane: Plane,
) -> list[str]:
    """What to know about a score on slices that look almost like what was learned from.

    Args:
        former: the model that was gone on from; what it learned counts as well.
        plane: of the slices.
    """
    notes = []
    for test in held_out:
        learned = {n for volume, _ in of_one_image(volumes, [test]) for n in volume.slices}
        for image in _learned_of(test, former, plane):
            if image.get("plane", plane) == plane:
                learned.update(_slices_of(image))
        near = sorted(n for n in test.slices if {n - 1, n + 1} & learned)
        if near:
            notes.append(
                f"held-out slice {near[0]} of {test.image.name} is next to a learned one, which "
                "flatters the score: hold out slices farther away"
            )
    return notes


def of_one_image(
    volumes: Sequence[ChosenSlices], held_out: Sequence[LabeledVolume]
) -> Iterator[tuple[ChosenSlices, LabeledVolume]]:
    """What is learned from an image, with what is held out of the same."""
    for test in held_out:
        for volume in volumes:
            one, other = volume.image.source, test.image.source
            same_file = one is not None and other is not None and one.resolve() == other.resolve()
            if same_file or _same_voxels(volume.image.array, test.image.array):
                yield volume, test


def _same_voxels(one: np.ndarray, other: np.ndarray) -> bool:
    if one.shape != other.shape:
        return False
    # Two patients differ in their middle slices already; all of a large volume takes its time.
    middle = len(one) // 2
    return np.array_equal(one[middle], other[middle]) and np.array_equal(one, other)
