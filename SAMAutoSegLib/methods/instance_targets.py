"""Labeled slices as instances: the heatmaps, boxes and foreground that a head is to give."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from SAMAutoSegLib.methods.losses import IGNORED

# Standard deviation of a center's Gaussian, as a share of the instance's size and in cells.
_SPREAD = 0.1
_SPREAD_CELLS = (0.7, 3.0)

# Boxes are learned where a center's Gaussian is at least so high.
_BOX_FROM = 0.3

_TOUCHING = np.ones((3, 3), int)


@dataclass(frozen=True)
class LabeledInstance:
    """A connected part of a structure in a slice; places in pixels of the label map.

    Attributes:
        number: class number from 1.
        point: (row, column) of the pixel of the part that is nearest to its center of gravity.
        box: (row0, column0, row1, column1), ends not included.
        pixels: how many.
    """

    number: int
    point: tuple[int, int]
    box: tuple[int, int, int, int]
    pixels: int


@dataclass(frozen=True)
class InstanceTargets:
    """Targets on a grid of g cells a side.

    Attributes:
        heat: [C, g, g] 0 to 1, exactly 1 in the cell of every center.
        reach: [4, g, g] cells to the left, upper, right and lower edge of the box.
        box_weight: [g, g], 0 where no box is to be learned.
        inside: [g, g] class numbers, `IGNORED` outside the slice.
        count: how many instances.
    """

    heat: Tensor
    reach: Tensor
    box_weight: Tensor
    inside: Tensor
    count: int


def find_instances(labels: np.ndarray) -> list[LabeledInstance]:
    """The connected parts (corners connect too) of every class of class numbers [H, W]."""
    found = []
    for number in np.unique(labels[(labels > 0) & (labels != IGNORED)]):
        parts, _ = ndimage.label(labels == number, _TOUCHING)
        for part, (rows, columns) in enumerate(ndimage.find_objects(parts), start=1):
            places = np.argwhere(parts[rows, columns] == part)
            distance = ((places - places.mean(0)) ** 2).sum(1)
            row, column = places[distance.argmin()]
            found.append(
                LabeledInstance(
                    int(number),
                    (int(row) + rows.start, int(column) + columns.start),
                    (rows.start, columns.start, rows.stop, columns.stop),
                    len(places),
                )
            )
    return found


def instance_targets(labels: np.ndarray, structures: int, side: int) -> InstanceTargets:
    """Targets of a slice's class numbers [m, m] on a grid of `side` cells, m a multiple of it."""
    step = labels.shape[0] // side
    heat = np.zeros((structures, side, side), np.float32)
    reach = np.zeros((4, side, side), np.float32)
    weight = np.zeros((side, side), np.float32)
    rows, columns = np.mgrid[:side, :side] + 0.5
    instances = find_instances(labels)
    for instance in instances:
        row, column = (place // step for place in instance.point)
        top, left, bottom, right = (edge / step for edge in instance.box)
        size = math.sqrt((bottom - top) * (right - left))
        spread = min(max(_SPREAD * size, _SPREAD_CELLS[0]), _SPREAD_CELLS[1])
        squared = (rows - row - 0.5) ** 2 + (columns - column - 0.5) ** 2
        bump = np.exp(-squared / (2 * spread**2)).astype(np.float32)
        own = heat[instance.number - 1]
        np.maximum(own, bump, out=own)
        edges = np.stack([columns - left, rows - top, right - columns, bottom - rows])
        here = (bump >= _BOX_FROM) & (bump > weight) & (edges > 0).all(0)
        here[row, column] = True  # an instance smaller than a cell has its center on an edge
        reach[:, here] = np.maximum(edges[:, here], 0.25)
        weight[here] = bump[here]
    inside = labels[step // 2 :: step, step // 2 :: step]
    return InstanceTargets(
        torch.from_numpy(heat),
        torch.from_numpy(reach),
        torch.from_numpy(weight),
        torch.from_numpy(np.ascontiguousarray(inside)),
        len(instances),
    )
