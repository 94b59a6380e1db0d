"""Labeled slices as the methods take them: kept features and low-res targets."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from SAMAutoSegLib.errors import SAMAutoSegError
from SAMAutoSegLib.images.intensity import Intensity, default_intensity
from SAMAutoSegLib.images.slices import Plane, SliceStack
from SAMAutoSegLib.images.structure import Structure, as_classes
from SAMAutoSegLib.images.views import changed_view
from SAMAutoSegLib.images.volume import Volume, require_same_grid
from SAMAutoSegLib.methods.losses import IGNORED
from SAMAutoSegLib.methods.slice_groups import group_neighbors
from SAMAutoSegLib.progress import Progress, part_of, silent
from SAMAutoSegLib.sam.backbone import Backbone
from SAMAutoSegLib.sam.embedding_cache import EmbeddingCache, embed_images, embed_slices
from SAMAutoSegLib.sam.input_spec import InputSpec


class ChosenSlices(Protocol):
    """An image and those of its slices that a training looks at."""

    @property
    def image(self) -> Volume: ...
    @property
    def slices(self) -> tuple[int, ...]: ...


@dataclass(frozen=True)
class LabeledVolume:
    """An image, its labels on the same grid, and which of its slices are labeled.

    `slices` are numbers along the axis of training. Slices that are not named are not looked at,
    whatever their labels hold.
    """

    image: Volume
    labels: Volume
    slices: tuple[int, ...]


@dataclass(frozen=True)
class TrainingSet:
    """N labeled slices, encoded.

    Attributes:
        features: [N, ...] of `Backbone.encode`, in the backbone's precision and on its device.
        targets: [N, m, m] uint8, m = 4e: class numbers, `IGNORED` outside the slice.
        references: N label slices [H, W] uint8 at the image's resolution, class numbers.
        pixel_spacings: N (row, column) in mm.
        groups: for every slice the number of its group of neighbors, over all volumes.
        images: N slices as the backbone was shown them, uint8 [H, W].
        changed: features and targets of slightly changed views of all slices, see `changed_view`.
        structures: names of the classes from 1.
        owners: for every slice the number of its volume.
    """

    features: Tensor
    targets: Tensor
    references: tuple[np.ndarray, ...]
    pixel_spacings: tuple[tuple[float, float], ...]
    groups: tuple[int, ...]
    images: tuple[np.ndarray, ...] = ()
    changed: tuple[tuple[Tensor, Tensor], ...] = ()
    structures: tuple[str, ...] = ()
    owners: tuple[int, ...] = ()

    @property
    def views(self) -> tuple[tuple[Tensor, Tensor], ...]:
        """Features and targets of all views, the slices as they are first."""
        return ((self.features, self.targets), *self.changed)

    @property
    def of_several_volumes(self) -> bool:
        return len(set(self.owners)) > 1

    def __len__(self) -> int:
        return len(self.targets)

    def chosen(self, numbers: Sequence[int]) -> TrainingSet:
        """Some of the slices."""
        kept = list(numbers)
        return replace(
            self,
            features=self.features[kept],
            targets=self.targets[kept],
            references=tuple(self.references[n] for n in kept),
            pixel_spacings=tuple(self.pixel_spacings[n] for n in kept),
            groups=tuple(self.groups[n] for n in kept),
            images=tuple(self.images[n] for n in kept),
            changed=tuple((features[kept], targets[kept]) for features, targets in self.changed),
            owners=tuple(self.owners[n] for n in kept),
        )

    def require_structures(self) -> None:
        """`SAMAutoSegError` unless a slice holds any of what is to be learned."""
        if not any(reference.any() for reference in self.references):
            raise SAMAutoSegError(
                f"none of the {len(self)} labeled slices holds a voxel of "
                f"{', '.join(self.structures)}: choose slices that show what is to be learned"
            )

    def fingerprint(self) -> str:
        """SHA-256 of all of it: whether a training can go on with this set."""
        told = (self.structures, self.pixel_spacings, self.groups, self.owners)
        digest = hashlib.sha256(repr(told).encode())
        for tensor in (tensor for view in self.views for tensor in view):
            digest.update(tensor.cpu().contiguous().view(torch.uint8).numpy().data)
        # At the image's resolution the pixel branch learns what low-res targets may not show.
        for slice_ in (*self.images, *self.references):
            digest.update(np.ascontiguousarray(slice_).data)
        return digest.hexdigest()


def build_training_set(
    volumes: Sequence[LabeledVolume],
    structures: Sequence[Structure],
    backbone: Backbone,
    *,
    plane: Plane,
    intensity: Intensity | None = None,
    encoder_blocks: int = 0,
    changed_views: int = 0,
    view_strength: float = 1.0,
    seed: int = 0,
    cache: EmbeddingCache | None = None,
    progress: Progress = silent,
) -> TrainingSet:
    """Encode the labeled slices of some volumes.

    Args:
        structures: what is to be learned; label values that belong to none count as background.
        plane: of the slices.
        intensity: by default that of `default_intensity`, for every volume its own.
        encoder_blocks: features from before so many last blocks of the encoder.
        changed_views: how many changed views of every slice are encoded besides.
        view_strength: how much they differ, see `changed_view`.
        seed: of the changes.

    Raises:
        SAMAutoSegError: grids that differ, no slice, or slices out of range.
    """
    total = sum(len(volume.slices) for volume in volumes)
    if not total:
        raise SAMAutoSegError("no labeled slice: name at least one")
    rng = np.random.default_rng(seed)
    parts: list[TrainingSet] = []
    done = 0
    for volume in volumes:
        if not volume.slices:
            continue
        classes, shown = _stacks(volume, structures, plane, intensity)
        told = part_of(progress, done / total, (done + len(volume.slices)) / total)
        encoder = _Encoder(backbone, cache, encoder_blocks)
        parts.append(
            _encoded(volume, classes, shown, encoder, changed_views, view_strength, rng, told)
        )
        done += len(volume.slices)
    owners = tuple(owner for owner, part in enumerate(parts) for _ in range(len(part)))
    names = tuple(one.name for one in structures)
    return replace(_joined(parts), structures=names, owners=owners)


@dataclass(frozen=True)
class _Encoder:
    """Turns slices of one volume, with their labels, into features and targets."""

    backbone: Backbone
    cache: EmbeddingCache | None
    blocks: int

    def features_of(
        self, images: Sequence[np.ndarray], slices: Sequence[int], progress: Progress
    ) -> Iterator[tuple[int, Tensor]]:
        return embed_slices(
            self.backbone,
            images,
            numbers=slices,
            cache=self.cache,
            encoder_blocks=self.blocks,
            progress=progress,
        )

    def feature_of(self, image: np.ndarray) -> Tensor:
        (feature,) = embed_images(self.backbone, [image], self.cache, self.blocks)
        return feature.to(self.backbone.precision)

    def stacked(self, features: list[Tensor]) -> Tensor:
        """Embeddings with the channels last in memory, as every step reads them."""
        whole = torch.stack(features)
        return whole if self.blocks else whole.contiguous(memory_format=torch.channels_last)

    def target_of(self, reference: np.ndarray) -> Tensor:
        side = 4 * self.backbone.embedding_side
        target = low_res_target(reference, self.backbone.spec, side)
        return target.to(self.backbone.device)


def _stacks(
    volume: LabeledVolume,
    structures: Sequence[Structure],
    plane: Plane,
    intensity: Intensity | None,
) -> tuple[SliceStack, SliceStack]:
    """Class numbers and gray levels of a volume, checked."""
    require_same_grid(volume.image, volume.labels)
    grid = volume.image.grid
    classes = SliceStack(as_classes(volume.labels.array, structures), grid, plane)
    check_slices(volume.image, volume.slices, classes)
    gray = (intensity or default_intensity(volume.image)).apply(volume.image.array)
    if gray.min() == gray.max():
        raise SAMAutoSegError(
            f"all of {volume.image.source or volume.image.name} is shown in one gray level, so "
            "nothing can be learned from it: check the file, or choose other intensity limits"
        )
    return classes, SliceStack(gray, grid, plane)


def _encoded(
    volume: LabeledVolume,
    classes: SliceStack,
    shown: SliceStack,
    encoder: _Encoder,
    changed_views: int,
    view_strength: float,
    rng: np.random.Generator,
    progress: Progress,
) -> TrainingSet:
    """The labeled slices of one volume."""
    precision = encoder.backbone.precision
    spacing = classes.pixel_spacing
    features, targets, references, images = [], [], [], []
    changed: list[list[tuple[Tensor, Tensor]]] = [[] for _ in range(changed_views)]
    for number, feature in encoder.features_of(shown.views, volume.slices, progress):
        reference = classes.slice_at(number).copy()
        image = shown.slice_at(number).copy()
        features.append(feature.to(precision))
        targets.append(encoder.target_of(reference))
        references.append(reference)
        images.append(image)
        for view in changed:
            moved, labels = changed_view(image, reference, spacing, rng, view_strength)
            view.append((encoder.feature_of(moved), encoder.target_of(labels)))
    return TrainingSet(
        encoder.stacked(features),
        torch.stack(targets),
        tuple(references),
        (spacing,) * len(references),
        tuple(group_neighbors(volume.slices)),
        tuple(images),
        tuple(
            (encoder.stacked([f for f, _ in view]), torch.stack([t for _, t in view]))
            for view in changed
        ),
    )


def _joined(parts: Sequence[TrainingSet]) -> TrainingSet:
    """The slices of several volumes, which are no neighbors of each other."""
    if len(parts) == 1:
        return parts[0]
    groups: list[int] = []
    for part in parts:
        first = max(groups, default=-1) + 1
        groups += [first + group for group in part.groups]
    return TrainingSet(
        torch.cat([part.features for part in parts]),
        torch.cat([part.targets for part in parts]),
        tuple(one for part in parts for one in part.references),
        tuple(one for part in parts for one in part.pixel_spacings),
        tuple(groups),
        tuple(one for part in parts for one in part.images),
        tuple(
            (torch.cat([f for f, _ in views]), torch.cat([t for _, t in views]))
            for views in zip(*(part.changed for part in parts), strict=True)
        ),
    )


def low_res_target(reference: np.ndarray, spec: InputSpec, side: int) -> Tensor:
    """Class numbers [H, W] where the low-res logits [side, side] have them."""
    return spec.labels_to_low_res(reference, side, IGNORED)


def check_slices(image: Volume, slices: Sequence[int], stack: SliceStack) -> None:
    """`SAMAutoSegError` for a slice that the image lacks."""
    for number in slices:
        if not 0 <= number < len(stack):
            raise SAMAutoSegError(
                f"slice {number} is out of range: {image.source or image.name} has "
                f"{stack.plane} slices 0 to {len(stack) - 1}"
            )
