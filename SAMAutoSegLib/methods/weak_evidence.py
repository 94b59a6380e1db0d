"""What weak labels say of a slice, as planes, and how they correct what a model predicts.

A prompt-free model cannot be given a box. So that its pseudo-labels follow the weak labels as a
prompted SAM's would (WeSAM, arXiv 2312.03502), the labels speak in three ways: what they say for
certain is taken over; the frozen SAM, given the box, proposes a mask; and clicks move the level
at which the model's probability counts as inside.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from SAMAutoSegLib.images.structure import Structure
from SAMAutoSegLib.images.views import Motion
from SAMAutoSegLib.images.weak_labels import Box, Hint
from SAMAutoSegLib.methods.losses import IGNORED
from SAMAutoSegLib.sam.input_spec import InputSpec
from SAMAutoSegLib.sam.predictor import ClickPredictor

# Rough paint may be off by this share of the radius of a disc of its area, on either side.
_PAINT_SLACK = 0.35

# A click speaks for the pixels around it too, or a small motion of the slice could lose it, and so
# could the smaller size of low-res logits.
_CLICK_RADIUS = 1.5

# Levels, in logits, that clicks can move a structure to; farther ones need more clicks.
_LEVELS = torch.linspace(-6, 6, 49)
_LEVEL_SPREAD = 2.0


@dataclass(frozen=True, eq=False)
class Evidence:
    """Planes [C, H, W] of a slice, or [C, m, m] at the size of low-res logits.

    C structures in the order of the model's classes, without the background. At the size of
    logits they are kept for a whole training: int8, `prompted` float16.

    Attributes:
        certain: 1 inside, -1 outside for certain, 0 not known.
        clicks: 1 and -1 around points inside and outside, else 0.
        prompted: logits of the frozen SAM given the box; NaN where it was given none.
        outline: 1 in the boxes or paint that it was given, else 0.
        marked: of each structure whether a weak label is about it.
    """

    certain: Tensor
    clicks: Tensor
    prompted: Tensor
    outline: Tensor
    marked: tuple[bool, ...]

    @property
    def confined(self) -> Tensor:
        """[C] bool: whether a box, paint or absence says where a structure ends."""
        return (self.outline > 0).flatten(1).any(1) | (self.certain < 0).flatten(1).all(1)

    def moved(self, motion: Motion) -> Evidence:
        """From beyond the border comes nothing, but that what is confined is not there."""

        def of(planes: Tensor, outside: Sequence[float]) -> Tensor:
            moved = (motion.moved(p.numpy(), 0, o) for p, o in zip(planes, outside, strict=True))
            return torch.stack([torch.from_numpy(plane) for plane in moved])

        count = len(self.certain)
        return Evidence(
            of(self.certain, [-1.0 if confined else 0.0 for confined in self.confined]),
            of(self.clicks, [0.0] * count),
            of(self.prompted, [float("nan")] * count),
            of(self.outline, [0.0] * count),
            self.marked,
        )

    def low_res(self, spec: InputSpec, side: int) -> Evidence:
        # The nearest pixel of a larger slice lies beside the middle; clicks must not be averaged.
        reduced = spec.pixels_per_logit(self.certain.shape[1:], side) > 1

        def of(planes: Tensor, outside: float = 0.0, smooth: bool = reduced) -> Tensor:
            return spec.slice_to_low_res(planes, side, outside, smooth)

        return Evidence(
            of(self.certain).round().to(torch.int8),
            of(self.clicks, smooth=False).to(torch.int8),
            of(self.prompted, float("nan")).half(),
            of(self.outline).round().to(torch.int8),
            self.marked,
        )

    @property
    def planes(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.certain, self.clicks, self.prompted, self.outline

    def to(self, device: torch.device) -> Evidence:
        certain, clicks, prompted, outline = (plane.to(device) for plane in self.planes)
        return Evidence(certain, clicks, prompted, outline, self.marked)


def gather_evidence(
    hints: Mapping[int, Hint],
    structures: Sequence[Structure],
    predictor: ClickPredictor,
    shape: tuple[int, int],
) -> Evidence:
    """The evidence of a slice of `shape`, to which `predictor` has been set."""
    certain = np.zeros((len(structures), *shape), np.float32)
    clicks = np.zeros_like(certain)
    prompted = np.full_like(certain, np.nan)
    outline = np.zeros_like(certain)
    spec, side = predictor.backbone.spec, 4 * predictor.backbone.embedding_side
    radius = max(_CLICK_RADIUS, spec.pixels_per_logit(shape, side))
    for c, structure in enumerate(structures):
        hint = hints.get(structure.label)
        if hint is None:
            continue
        if hint.absent:
            certain[c] = -1
        if hint.boxes:
            certain[c] = -1
            for row0, column0, row1, column1 in hint.boxes:
                certain[c, row0:row1, column0:column1] = 0
                outline[c, row0:row1, column0:column1] = 1
        if hint.points:
            clicks[c] = _near(hint.points, shape, radius)
            certain[c] = np.where(certain[c] == 0, clicks[c], certain[c])
        if hint.coarse is not None:  # after the points, which are not rough
            core, reach = _slack(hint.coarse)
            outline[c] = hint.coarse
            certain[c] = np.where(certain[c] == 0, core * 1.0 - ~reach, certain[c])
        if hint.prompts and hint.tight:
            prompted[c] = _prompted(predictor, hint.prompts, shape)
    # What is one structure's for certain is no other's.
    inside = certain > 0
    certain[inside & (inside.sum(0) > 1)] = 0  # claimed twice, as by clicks side by side
    inside = certain > 0
    for c in range(len(structures)):
        others = np.delete(inside, c, axis=0).any(axis=0)
        certain[c][others & ~inside[c]] = -1
    return Evidence(
        torch.from_numpy(certain),
        torch.from_numpy(clicks),
        torch.from_numpy(prompted),
        torch.from_numpy(outline),
        tuple(structure.label in hints for structure in structures),
    )


def corrected(shares: Tensor, evidence: Sequence[Evidence | None]) -> Tensor:
    """Class probabilities [B, K, m, m] of a model, made to agree with the evidence of each slice.

    None: nothing is known of a slice, which stays as it is.
    """
    pairs = zip(shares, evidence, strict=True)
    return torch.stack([own if known is None else _corrected(own, known) for own, known in pairs])


def _corrected(shares: Tensor, evidence: Evidence) -> Tensor:
    """The same of a slice, [K, m, m]."""
    inner = _leveled(shares[1:], evidence.clicks)
    prompted = evidence.prompted.to(inner.dtype)
    there = ~prompted.isnan()
    mask = prompted.nan_to_num().sigmoid()
    # The worse the model's own mask fills the box, the more counts what the frozen SAM made of it.
    possible = torch.where(evidence.certain < 0, 0.0, inner)
    weight = 1 - _fit(possible > 0.5, evidence.outline)[..., None, None]
    inner = torch.where(there, (1 - weight) * inner + weight * mask, inner)
    inner = torch.where(evidence.certain < 0, 0.0, inner)
    inner = torch.where(evidence.certain > 0, 1.0, inner)
    # Where nothing was said the background keeps its share; elsewhere it is what is left.
    clicked = (evidence.clicks != 0).flatten(1).any(1)[:, None, None]
    said = there | (evidence.certain != 0) | clicked
    left = (1 - inner).prod(0, keepdim=True)
    outer = torch.where(said.any(0, keepdim=True), left, shares[:1])
    whole = torch.cat([outer, inner])
    return whole / whole.sum(0, keepdim=True).clamp_min(1e-6)


def pseudo_labels(shares: Tensor, inside: Tensor, least: float) -> Tensor:
    """Hard labels [B, m, m] uint8 of probabilities [B, K, m, m].

    Args:
        inside: [B, m, m] bool, the slice without its padding.
        least: the least probability of the winner; pixels below are `IGNORED`.
    """
    best, labels = shares.max(1)
    kept = inside & (best >= least)
    return torch.where(kept, labels, IGNORED).to(torch.uint8)


def _fit(masks: Tensor, outline: Tensor) -> Tensor:
    """How well masks [C, m, m] fill the rows and the columns of the outline: [C], 0 to 1."""
    fit = torch.ones(len(masks), device=masks.device)
    for axis in (1, 2):
        one, other = masks.any(axis), (outline > 0).any(axis)
        fit = fit * (one & other).sum(-1) / (one | other).sum(-1).clamp_min(1)
    return fit


def _leveled(shares: Tensor, clicks: Tensor) -> Tensor:
    """Shares [C, m, m] of the structures with the level moved to where clicks fit best."""
    clicked = (clicks != 0).flatten(1).any(1)
    if not clicked.any():
        return shares
    logits = shares.clamp(1e-6, 1 - 1e-6).logit()
    levels = _LEVELS.to(shares.device)
    moved = logits.clone()
    for c in clicked.nonzero().flatten().tolist():
        at = clicks[c] != 0
        signs = clicks[c][at]
        margins = signs * logits[c][at]
        misfit = torch.nn.functional.softplus(-(margins + levels[:, None] * signs)).mean(1)
        cost = misfit * _disc_count(clicks[c]) + levels.square() / (2 * _LEVEL_SPREAD**2)
        moved[c] += levels[cost.argmin()]
    return moved.sigmoid()


def _disc_count(clicks: Tensor) -> int:
    """How many clicks the marked discs stand for."""
    return int(ndimage.label(clicks.cpu().numpy() != 0)[1])


def _prompted(
    predictor: ClickPredictor,
    boxes: Sequence[Box],
    shape: tuple[int, int],
) -> np.ndarray:
    """The highest logit [H, W] over the boxes of a structure."""
    around = np.array([(column0, row0, column1, row1) for row0, column0, row1, column1 in boxes])
    masks = np.concatenate([found.low_res for found in predictor.predict_boxes(around)])
    spec = predictor.backbone.spec
    return spec.logits_to_slice(torch.from_numpy(masks), shape).amax(0).numpy()


def _slack(paint: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What is inside for all that rough paint can be off, and what may be."""
    slack = max(1.0, _PAINT_SLACK * float(np.sqrt(paint.sum() / np.pi)))
    depth = ndimage.distance_transform_edt(np.pad(paint, 1, mode="edge"))[1:-1, 1:-1]
    away = ndimage.distance_transform_edt(~paint)
    return depth > slack, away <= slack


def _near(
    points: Sequence[tuple[int, int, int]], shape: tuple[int, int], radius: float
) -> np.ndarray:
    """The sign of the nearest click [H, W] within a radius; 0 farther away and between two."""
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    squares = [(rows - row) ** 2 + (columns - column) ** 2 for row, column, _ in points]
    least = {sign: np.full(shape, np.inf) for sign in (1, -1)}
    for square, (_, _, sign) in zip(squares, points, strict=True):
        least[sign] = np.minimum(least[sign], square)
    near = np.sign(least[-1] - least[1]).astype(np.float32)
    return np.where(np.minimum(least[1], least[-1]) <= radius**2, near, 0)
