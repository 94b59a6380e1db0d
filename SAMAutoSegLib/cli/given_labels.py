"""Label files that a user names for an image: numbered, and cut to the slices that count."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from SAMAutoSegLib.cli.wording import counted, first_of
from SAMAutoSegLib.errors import SAMAutoSegError

if TYPE_CHECKING:
    from SAMAutoSegLib.images.label_layers import LabelLayers
    from SAMAutoSegLib.images.slices import Plane
    from SAMAutoSegLib.images.structure import Structure
    from SAMAutoSegLib.images.volume import Volume
    from SAMAutoSegLib.methods.training_set import LabeledVolume

# Label files without names hold few labels; an image of whole numbers holds many values.
_MOST_UNNAMED = 60


def listed(structures: "Sequence[Structure]", values: bool = True) -> str:
    """Their names, after their values; with a guess what a file is that has many without a name."""
    text = first_of(f"{one.label} ({one.name})" if values else one.name for one in structures)
    unnamed = sum(one.name == f"label {one.label}" for one in structures)
    return f"{text} (is it an image?)" if unnamed > _MOST_UNNAMED else text


def labels_of(
    image: "Volume",
    layers: "LabelLayers",
    known: "Sequence[Structure]",
    wanted: "Sequence[int] | None" = None,
) -> "tuple[Volume, list[str]]":
    """The labels on the image's grid, numbered as the `known` structures, and notes.

    Of these only the labels in `wanted` count, by default all. What else the file holds is 0; a
    note tells of structures that are not known, and of voxels in which segments overlap.
    """
    import numpy as np

    from SAMAutoSegLib.images.structure import matched

    pairs = [(a, b) for a, b in matched(known, layers.structures) if b is not None]
    taken = [(a, b) for a, b in pairs if wanted is None or a.label in wanted]
    flat, lost = layers.on_grid_of(image).flattened([b.label for _, b in taken])
    values = np.zeros(int(flat.array.max(initial=0)) + 1, np.uint16)
    for structure, partner in taken:
        if partner.label < len(values):
            values[partner.label] = structure.label
    notes = []
    partners = {partner.label for _, partner in pairs}
    strange = [one for one in layers.structures if one.label not in partners]
    if strange:
        told = f"{listed(strange)} counts as background; known are {listed(known)}"
        notes.append(f"{layers.source}: {told}")
    for structure, partner in taken:
        if partner.label in lost:
            notes.append(
                f"{layers.source}: {lost[partner.label]} voxels of {structure.name} lie under a"
                " later segment and count as that one: a voxel has one label"
            )
    return replace(flat, array=values[flat.array]), notes


def labeled(
    pairs: "Sequence[tuple[Volume, Volume]]",
    option: str,
    slices: list[str] | None,
    plane: "Plane",
    structures: "Sequence[Structure]",
    apart: "Sequence[LabeledVolume]" = (),
) -> "list[LabeledVolume]":
    """The slices that `option` chooses of every volume, of one of several also `none`.

    By default those that hold a label and are not `apart`.
    """
    from SAMAutoSegLib.images.selection import parse_slices
    from SAMAutoSegLib.images.slices import SliceStack
    from SAMAutoSegLib.images.structure import as_classes
    from SAMAutoSegLib.methods.training_set import LabeledVolume

    if slices is not None and len(slices) != len(pairs):
        raise SAMAutoSegError(
            f"{len(slices)} {option} for {counted(len(pairs), 'volume')}:"
            " give one for every volume, 'none' where it has none"
        )
    volumes = []
    for number, (image, labels) in enumerate(pairs):
        stack = SliceStack(as_classes(labels.array, structures), labels.grid, plane)
        if slices is None:
            taken = {n for other in apart if other.image is image for n in other.slices}
            chosen = [n for n in range(len(stack)) if stack.slice_at(n).any() and n not in taken]
        elif len(pairs) > 1 and slices[number].strip().lower() == "none":
            chosen = []
        else:
            chosen = parse_slices(slices[number], len(stack))
        volumes.append(LabeledVolume(image, labels, tuple(chosen)))
    return volumes
