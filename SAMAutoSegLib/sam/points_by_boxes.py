"""Clicks on a SAM that was trained with boxes only, such as LiteMedSAM and MedSAM.

A point alone finds next to nothing there (Dice .03 on the demo CT, where a box around the reference
gives .94). So boxes of several sizes around the points are tried, and the box of the best mask once
more; of the masks that agree with most points, the one the decoder is surest of is taken.
`Testing/benchmarks/clicks.py` measures it.
"""

from __future__ import annotations

import numpy as np

from SAMAutoSegLib.images.bounding_box import bounding_box
from SAMAutoSegLib.sam.predictor import ClickPredictor, Prediction

# Sides of the boxes, as shares of the longer side of the slice.
_SIZES = (0.06, 0.11, 0.19, 0.3, 0.45)

# Room left around several points, as a share of their extent.
_MARGIN = 0.2

# A box that a user drew is tried as it is, somewhat smaller and somewhat larger.
_GROWTHS = (1.0, 0.85, 1.15)


def predict_points_by_boxes(
    predictor: ClickPredictor,
    points: np.ndarray,
    labels: np.ndarray,
    shape: tuple[int, int],
    box: np.ndarray | None = None,
    mask: np.ndarray | None = None,
) -> Prediction:
    """Segment one object from points, and a box or a former mask if there is one.

    Args:
        points: [N, 2] as (column, row), N at least 1.
        labels: [N], 1 inside of the object, 0 outside.
        shape: (H, W) of the slice.
        box: [4] as column0, row0, column1, row1, drawn by the user.
        mask: [H, W], what there is; points outside of the object then cut into its box.

    Returns:
        One mask, its estimated quality and its logits.
    """
    present = None if mask is None else _box_of(np.asarray(mask) != 0)
    if present is not None and box is None and not (labels > 0).any():
        tried = predictor.predict_boxes(_cut(present, points))
        return max(tried, key=lambda answer: _kept(answer.masks[0], np.asarray(mask) != 0, points))
    tried = predictor.predict_boxes(_boxes(points, labels, shape, box), rough=box is None)
    best = _best(tried, points, labels)
    own = _box_of(best.masks[0])
    if own is not None and box is None:
        tried = [best, *predictor.predict_boxes(own[None])]
    return _best(tried, points, labels)


def _boxes(
    points: np.ndarray, labels: np.ndarray, shape: tuple[int, int], box: np.ndarray | None
) -> np.ndarray:
    """Candidates [M, 4], cut to the slice."""
    inside = points[labels > 0]
    if box is not None:
        corners = np.asarray(box, float).reshape(2, 2)
        grown = [corners.mean(0) + growth * (corners - corners.mean(0)) for growth in _GROWTHS]
    else:
        around = inside if len(inside) else points
        low, high = around.min(0), around.max(0)
        least = (high - low) * (1 + _MARGIN)
        sides = [np.maximum(size * max(shape), least) for size in _SIZES]
        center = (low + high) / 2
        grown = [np.stack([center - side / 2, center + side / 2]) for side in sides]
    if len(inside):  # what belongs to the object is never outside of its box
        grown = [
            np.stack([np.minimum(pair[0], inside.min(0)), np.maximum(pair[1], inside.max(0))])
            for pair in grown
        ]
    limits = np.array(shape[::-1], float)
    return np.stack([np.clip(pair, 0, limits).ravel() for pair in grown])


def _cut(box: np.ndarray, points: np.ndarray) -> np.ndarray:
    """The box as it is, and cut on each of its sides at the points: [5, 4]."""
    column0, row0, column1, row1 = box
    columns, rows = points[:, 0], points[:, 1]
    cuts = [
        [column0, row0, max(columns.min(), column0 + 1), row1],
        [min(columns.max() + 1, column1 - 1), row0, column1, row1],
        [column0, row0, column1, max(rows.min(), row0 + 1)],
        [column0, min(rows.max() + 1, row1 - 1), column1, row1],
    ]
    return np.array([list(box), *cuts], float)


def _kept(found: np.ndarray, present: np.ndarray, points: np.ndarray) -> tuple[int, float]:
    """How many points it leaves out, then how much of the former mask it keeps."""
    outside = ~found[points[:, 1].astype(int), points[:, 0].astype(int)]
    overlap = (found & present).sum() / max((found | present).sum(), 1)
    return int(outside.sum()), float(overlap)


def _best(tried: list[Prediction], points: np.ndarray, labels: np.ndarray) -> Prediction:
    def merit(answer: Prediction) -> tuple[int, float]:
        mask = answer.masks[0]
        rows, columns = points[:, 1].astype(int), points[:, 0].astype(int)
        agree = mask[rows, columns] == (labels > 0)
        return int(agree.sum()), float(answer.iou[0])

    return max(tried, key=merit)


def _box_of(mask: np.ndarray) -> np.ndarray | None:
    found = bounding_box(mask)
    if found is None:
        return None
    rows, columns = found
    return np.array([columns.start, rows.start, columns.stop, rows.stop], float)
