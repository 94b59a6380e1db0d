"""Label files that a user names for an image: read, numbered, and cut to the slices that count."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from SAMAutoSegLib.errors import SAMAutoSegError

if TYPE_CHECKING:
    from SAMAutoSegLib.images.slices import Plane
    from SAMAutoSegLib.images.structure import Structure
    from SAMAutoSegLib.images.volume import Volume
    from SAMAutoSegLib.methods.training_set import LabeledVolume


def labels_of(
    image: "Volume", path: Path, structures: "Sequence[Structure]"
) -> "tuple[Volume, list[Structure], list[str]]":
    """Labels on the image's grid, the structures that the file holds, and notes.

    Where `structures` are given, voxels have their label values, whatever the file's are, and those
    of other structures are 0, which a note tells.
    """
    import numpy as np

    from SAMAutoSegLib.images.read import read_labels
    from SAMAutoSegLib.images.structure import matched
    from SAMAutoSegLib.images.volume import require_same_grid

    labels, found = read_labels(path)
    require_same_grid(image, labels)
    if not structures:
        return labels, found, []
    pairs = [(one, other) for one, other in matched(structures, found) if other is not None]
    values = np.zeros(max(int(labels.array.max()), *(o.label for _, o in pairs), 0) + 1, np.uint16)
    for structure, partner in pairs:
        values[partner.label] = structure.label
    known = [other for _, other in pairs]
    strange = ", ".join(f"{one.label} ({one.name})" for one in found if one not in known)
    expected = ", ".join(f"{one.label} ({one.name})" for one in structures)
    notes = [f"{path}: {strange} counts as background; known are {expected}"] if strange else []
    return replace(labels, array=values[labels.array]), found, notes


def labeled(
    pairs: "Sequence[tuple[Volume, Volume]]",
    slices: list[str] | None,
    plane: "Plane",
    structures: "Sequence[Structure]",
    apart: "Sequence[LabeledVolume]" = (),
) -> "list[LabeledVolume]":
    """The chosen slices of every volume, by default those that hold a label and are not `apart`."""
    from SAMAutoSegLib.images.selection import parse_slices
    from SAMAutoSegLib.images.slices import SliceStack
    from SAMAutoSegLib.methods.training_set import LabeledVolume, as_classes

    if slices is not None and len(slices) != len(pairs):
        raise SAMAutoSegError(
            f"{len(slices)} lists of slices for {len(pairs)} volumes: give one for every volume"
        )
    volumes = []
    for number, (image, labels) in enumerate(pairs):
        stack = SliceStack(as_classes(labels.array, structures), labels.grid, plane)
        if slices is None:
            taken = {n for other in apart if other.image is image for n in other.slices}
            chosen = [n for n in range(len(stack)) if stack.slice_at(n).any() and n not in taken]
        else:
            chosen = parse_slices(slices[number], len(stack))
        volumes.append(LabeledVolume(image, labels, tuple(chosen)))
    return volumes
