"""Overlap and surface distance of a segmentation and its reference."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

# MONAI: maintained, pure Python on the torch that is here anyway, and its subvoxel surface elements
# are those of the published NSD. DeepMind's own `surface-distance` fails under NumPy 2, `medpy` has
# no wheels for Windows.
from monai.metrics.utils import get_mask_edges, get_surface_distance

from SAMAutoSegLib.images.bounding_box import bounding_box
from SAMAutoSegLib.images.slices import Axis, SliceStack
from SAMAutoSegLib.images.structure import Structure
from SAMAutoSegLib.images.volume import Grid

_PERCENTILE = 0.95

# Distances come as float32: one that equals the tolerance must not count as beyond it.
_ROUNDING = 1 + 1e-6

_SLAB_VOXELS = 1 << 21


@dataclass(frozen=True)
class StructureScore:
    """How well one structure was found. `dice` and `nsd` are 0 to 1, 1 is best.

    A structure that neither the reference nor the prediction holds has NaN for all three measures;
    one that only one of them holds has Dice 0, NSD 0 and an infinite HD95.
    """

    name: str
    label: int
    dice: float
    nsd: float
    hd95_mm: float
    reference_voxels: int
    predicted_voxels: int

    def to_json(self) -> dict[str, Any]:
        """The fields with None for NaN and infinity, which JSON does not have.

        The voxel counts tell the two apart.
        """
        return {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in vars(self).items()
        }


def score_volume(
    prediction: np.ndarray,
    reference: np.ndarray,
    grid: Grid,
    structures: Iterable[Structure],
    nsd_tolerance_mm: float = 2.0,
    slices: Sequence[int] | None = None,
    axis: Axis = "axial",
) -> list[StructureScore]:
    """Dice, NSD and HD95 of each structure of two label maps, see `score_structure`.

    Args:
        prediction, reference: label maps [K, J, I] on the same grid.
        grid: of both; distances are in mm by its spacing.
        structures: what is scored, by their `label`.
        nsd_tolerance_mm: how far surfaces may lie apart in mm and still count as the same.
        slices: numbers along `axis` from 0; only these are scored, and distances are taken within
            them. By default the whole volumes are, with distances in 3D. The two are different
            measures.
        axis: a plane, or an axis i, j or k of the grid; of no meaning without `slices`.

    Returns:
        A score for each structure, in their order.

    Raises:
        ValueError: the arrays do not have the size of the grid.
        SAMAutoSegError: the grid has no such axis.
        IndexError: a slice is out of range.
    """
    return [
        score_structure(
            prediction == structure.label,
            reference == structure.label,
            grid,
            structure,
            nsd_tolerance_mm,
            slices,
            axis,
        )
        for structure in structures
    ]


def score_structure(
    predicted: np.ndarray,
    expected: np.ndarray,
    grid: Grid,
    structure: Structure,
    nsd_tolerance_mm: float = 2.0,
    slices: Sequence[int] | None = None,
    axis: Axis = "axial",
) -> StructureScore:
    """Score the mask of a structure against that of the reference, [K, J, I] on the same grid.

    Dice is the overlap of the voxels. NSD (normalized surface Dice, Nikolov et al., J Med Internet
    Res 2021) is the part of both surfaces that lies within `nsd_tolerance_mm` of the other, and
    HD95 the distance in mm below which 95 % of a surface lie from the other, the larger of both
    directions; both weight every surface element by its area and use the spacing of the grid.

    With `slices` (numbers along `axis`) only these slices count: Dice takes their voxels, and the
    distances are taken between the contours within each slice, their elements weighted by length
    and pooled over the slices. So nothing in a slice that is not scored, such as one that the model
    was trained on, can bring a score closer or farther. A contour whose slice has no counterpart is
    infinitely far: it counts as missed in NSD, and HD95 is infinite if more than 5 % of the contour
    length is like that. Scores of slices and of whole volumes are different measures; do not
    compare the ones with the others.
    """
    if predicted.shape != expected.shape or predicted.shape != grid.size[::-1]:
        raise ValueError(
            f"prediction {predicted.shape} and reference {expected.shape} are not both [K, J, I] "
            f"of a {grid.size} grid"
        )
    if slices is None:
        pairs = [(predicted, expected)]
        spacing: tuple[float, ...] = grid.spacing[::-1]
    else:
        stacks = SliceStack(predicted, grid, axis), SliceStack(expected, grid, axis)
        pairs = [(stacks[0].slice_at(n), stacks[1].slice_at(n)) for n in slices]
        spacing = stacks[0].pixel_spacing
    return _score(structure, pairs, spacing, nsd_tolerance_mm)


def mean_score(scores: Sequence[StructureScore]) -> StructureScore:
    """The mean over the structures, each weighted alike; absent ones (NaN) are left out.

    HD95 is infinite if that of any structure is. The voxels are added up; the label is 0.
    """

    def mean(values: Iterable[float]) -> float:
        known = [value for value in values if not math.isnan(value)]
        return sum(known) / len(known) if known else math.nan

    return StructureScore(
        name="mean",
        label=0,
        dice=mean(score.dice for score in scores),
        nsd=mean(score.nsd for score in scores),
        hd95_mm=mean(score.hd95_mm for score in scores),
        reference_voxels=sum(score.reference_voxels for score in scores),
        predicted_voxels=sum(score.predicted_voxels for score in scores),
    )


def _score(
    structure: Structure,
    pairs: Sequence[tuple[np.ndarray, np.ndarray]],
    spacing: tuple[float, ...],
    tolerance_mm: float,
) -> StructureScore:
    """Score (predicted, expected) masks: one pair of volumes, or a pair for every slice."""
    predicted = sum(int(np.count_nonzero(a)) for a, _ in pairs)
    expected = sum(int(np.count_nonzero(b)) for _, b in pairs)
    if predicted == 0 and expected == 0:
        dice = nsd = hd95 = math.nan
    elif predicted == 0 or expected == 0:
        dice, nsd, hd95 = 0.0, 0.0, math.inf
    else:
        common = sum(int(np.count_nonzero(a & b)) for a, b in pairs)
        dice = 2 * common / (predicted + expected)
        directions = _surface_distances(pairs, spacing)
        within = sum(
            float(areas[far <= tolerance_mm * _ROUNDING].sum()) for far, areas in directions
        )
        nsd = within / sum(float(areas.sum()) for _, areas in directions)
        hd95 = max(_weighted_percentile(far, areas) for far, areas in directions)
    return StructureScore(structure.name, structure.label, dice, nsd, hd95, expected, predicted)


def _surface_distances(
    pairs: Sequence[tuple[np.ndarray, np.ndarray]], spacing: tuple[float, ...]
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Distances and areas of the surface elements, from predicted to expected and back."""
    parts = [_elements(predicted, expected, spacing) for predicted, expected in pairs]
    return [
        (
            np.concatenate([part[direction][0] for part in parts]),
            np.concatenate([part[direction][1] for part in parts]),
        )
        for direction in (0, 1)
    ]


def _elements(
    predicted: np.ndarray, expected: np.ndarray, spacing: tuple[float, ...]
) -> list[tuple[np.ndarray, np.ndarray]]:
    box = bounding_box(predicted | expected)
    if box is None:
        return [(np.empty(0), np.empty(0))] * 2
    # A border of background: a structure that ends with the volume has a surface there.
    surfaces = _surfaces(np.pad(predicted[box], 1), np.pad(expected[box], 1), spacing)
    return [
        (_distances(edges, others, spacing), areas)
        for (edges, areas), (others, _) in (surfaces, surfaces[::-1])
    ]


def _surfaces(
    predicted: np.ndarray, expected: np.ndarray, spacing: tuple[float, ...]
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Where the surface elements of both masks are, between the voxels, and their areas."""
    masks = torch.from_numpy(predicted), torch.from_numpy(expected)
    # In slabs, because MONAI needs some hundred bytes a voxel: gigabytes for a large organ.
    planes = max(1, _SLAB_VOXELS // masks[0][0].numel())
    slabs = [
        get_mask_edges(
            *(mask[first : first + planes + 1] for mask in masks), crop=False, spacing=spacing
        )
        for first in range(0, len(masks[0]) - 1, planes)
    ]
    surfaces = []
    for which in (0, 1):
        edges = [np.asarray(slab[which], dtype=bool) for slab in slabs]
        areas = [np.asarray(slab[which + 2])[e] for slab, e in zip(slabs, edges, strict=True)]
        surfaces.append((np.concatenate(edges), np.concatenate(areas)))
    return surfaces


def _distances(edges: np.ndarray, others: np.ndarray, spacing: tuple[float, ...]) -> np.ndarray:
    if not edges.any() or not others.any():
        return np.full(np.count_nonzero(edges), math.inf)
    return np.asarray(get_surface_distance(edges, others, spacing=spacing))


def _weighted_percentile(values: np.ndarray, weights: np.ndarray) -> float:
    order = np.argsort(values)
    reached = np.cumsum(weights[order], dtype=np.float64)
    return float(values[order][np.searchsorted(reached, _PERCENTILE * reached[-1])])
