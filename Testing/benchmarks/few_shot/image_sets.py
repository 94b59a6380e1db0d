"""The image sets of the few-shot benchmark: who trains, who tests, which slices are labeled."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from SAMAutoSegLib.demo.run import STRUCTURES, load_case
from SAMAutoSegLib.errors import SAMAutoSegError
from SAMAutoSegLib.images.read import read_image, read_labels
from SAMAutoSegLib.images.slices import Plane, SliceStack
from SAMAutoSegLib.images.structure import Structure, structure_named
from SAMAutoSegLib.images.volume import Volume
from SAMAutoSegLib.methods.training_set import LabeledVolume
from SAMAutoSegLib.progress import silent

Scheme = Literal["volume", "spread", "patients"]
Read = Callable[[], tuple[Volume, Volume]]

# Slices beside a structure may be labeled as well, so that its ends are learned.
_BESIDE = 2


@dataclass(frozen=True)
class ImageSet:
    """Volumes of patients, split once and for all.

    Attributes:
        pool: volumes that slices are labeled in.
        test: volumes of other patients; empty for a set of one patient.
        every: of a test volume every so many slices are scored.
    """

    name: str
    plane: Plane
    structures: Sequence[Structure]
    pool: Sequence[Read]
    test: Sequence[Read]
    every: int = 1


@dataclass(frozen=True)
class Draw:
    """What one seed drew: the labeled slices, and the slices that are scored."""

    labeled: list[LabeledVolume]
    tested: list[LabeledVolume]


def load_set(name: str, data: Path | None, test_patients: int) -> ImageSet:
    """A set by name: 'ct' installs by itself, the others lie in a folder.

    Raises:
        SAMAutoSegError: the folder is not given or does not hold the set.
    """
    if name == "ct":
        case = load_case(silent)
        structures = [structure_named(name, value) for name, value in STRUCTURES.items()]
        return ImageSet(name, "axial", structures, [lambda: (case.image, case.labels)], [])
    if name not in ("hippocampus", "cardiac"):
        raise SAMAutoSegError(f"image set {name!r}: expected ct, hippocampus or cardiac")
    folder = {"hippocampus": "hippocampus_mr", "cardiac": "cardiac_lv_mr"}[name]
    if data is None or not (data / folder).is_dir():
        raise SAMAutoSegError(
            f"image set {name}: no folder {folder}{'' if data is None else f' in {data}'}; name "
            "the folder that holds it with --data or the environment variable "
            "SAMAUTOSEG_BENCHMARK_DATA, or leave the set out"
        )
    root = data / folder
    if name == "hippocampus":
        names = sorted(path.name for path in (root / "images").glob("*.nii.gz"))
        random.Random(2026).shuffle(names)
        readers = [_reader(root / "images" / n, root / "labels" / n) for n in names]
        structures = [structure_named("anterior", 1), structure_named("posterior", 2)]
        return ImageSet(
            name, "sagittal", structures, readers[test_patients:], readers[:test_patients], 2
        )
    patients = sorted({path.name.rsplit("_", 2)[0] for path in root.glob("*_ED_img.nii.gz")})
    random.Random(2026).shuffle(patients)
    readers = [_reader(root / f"{p}_ED_img.nii.gz", root / f"{p}_ED_lv.nii.gz") for p in patients]
    structures = [structure_named("left ventricle", 1)]
    return ImageSet(name, "axial", structures, readers[test_patients:], readers[:test_patients])


def draw(images: ImageSet, scheme: Scheme, count: int, seed: int) -> Draw:
    """Labeled slices by seed.

    volume: anywhere in one volume, however close to each other; tested is every slice that is
        neither labeled nor next to a labeled one.
    spread: one in each of `count` equal parts of one volume, as a user would who sees the whole;
        tested is every slice that is not labeled.
    patients: one slice of each of `count` patients; tested are other patients.

    Raises:
        SAMAutoSegError: the volume has fewer slices or leaves none that shows a structure, or the
            set has fewer patients.
    """
    rng = np.random.default_rng([seed, count, ("volume", "patients", "spread").index(scheme)])
    if scheme != "patients":
        image, labels = images.pool[int(rng.integers(len(images.pool)))]()
        stack = SliceStack(labels.array, image.grid, images.plane)
        near = _near_structures(stack)
        if len(near) < count:
            raise SAMAutoSegError(f"{count} slices: {image.name} has {len(near)} with a structure")
        if scheme == "spread":
            chosen = [int(rng.choice(part)) for part in np.array_split(near, count)]
            left_out = set(chosen)
        else:
            chosen = sorted(int(n) for n in rng.choice(near, count, replace=False))
            left_out = {n + step for n in chosen for step in (-1, 0, 1)}
        left = tuple(n for n in range(len(stack)) if n not in left_out)
        if not any(stack.slice_at(n).any() for n in left):
            raise SAMAutoSegError(f"{count} slices of {image.name} leave none to test")
        return Draw(
            [LabeledVolume(image, labels, tuple(chosen))], [LabeledVolume(image, labels, left)]
        )
    if count > len(images.pool):
        raise SAMAutoSegError(f"{count} patients: {images.name} has {len(images.pool)} to learn of")
    labeled = []
    for number in rng.choice(len(images.pool), count, replace=False):
        image, labels = images.pool[int(number)]()
        near = _near_structures(SliceStack(labels.array, image.grid, images.plane))
        labeled.append(LabeledVolume(image, labels, (int(rng.choice(near)),)))
    return Draw(labeled, [_tested(images, read) for read in images.test])


def _tested(images: ImageSet, read: Read) -> LabeledVolume:
    image, labels = read()
    slices = len(SliceStack(labels.array, image.grid, images.plane))
    return LabeledVolume(image, labels, tuple(range(0, slices, images.every)))


def _near_structures(stack: SliceStack) -> list[int]:
    shown = [n for n in range(len(stack)) if stack.slice_at(n).any()]
    first, last = max(shown[0] - _BESIDE, 0), min(shown[-1] + _BESIDE, len(stack) - 1)
    return list(range(first, last + 1))


def _reader(image: Path, labels: Path) -> Read:
    return lambda: (read_image(image), read_labels(labels)[0])
