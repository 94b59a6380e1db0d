"""Prompts made of a prediction, for the decoder to look again.

Zhou et al., "SAM-SP: Self-Prompting Makes SAM Great Again", 2024 (arXiv 2408.12364): what a pass
without a prompt found becomes the prompt of the next pass. Published is the box from smallest to
largest coordinate; the largest component, the padding, the point and the mask are ours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from SAMAutoSegLib.images.bounding_box import bounding_box

# What of a prediction becomes the prompt.
PromptKind = Literal["box", "box-point", "box-mask", "box-point-mask"]

# Beyond it a sigmoid is flat: a mask prompt says no more than "certainly".
_LARGEST_LOGIT = 10.0


@dataclass(frozen=True)
class SelfPrompts:
    """N prompts of the B predictions that they were made of.

    Attributes:
        images: [N] which of the B predictions.
        classes: [N] which class, from 1. A class without a pixel has no prompt.
        boxes: [N, 4] as x0, y0, x1, y1 in the encoder's input; no gradient.
        points: [N, 2] as x, y, inside the structure; None unless asked for.
        masks: [N, 1, m, m] clamped log-odds of the class; None unless asked for. Gradients flow
            through them to the prediction.
    """

    images: Tensor
    classes: Tensor
    boxes: Tensor
    points: Tensor | None = None
    masks: Tensor | None = None

    def __len__(self) -> int:
        return len(self.classes)

    def chosen(self, keep: Tensor) -> SelfPrompts:
        """Some of the prompts, by numbers or by a mask of N."""
        return self._each(lambda name, own: own[keep])

    def joined(self, others: SelfPrompts) -> SelfPrompts:
        """These, and others of the same kind and of the same predictions."""
        return self._each(lambda name, own: torch.cat([own, getattr(others, name)]))

    def _each(self, change: Callable[[str, Tensor], Tensor]) -> SelfPrompts:
        changed: dict[str, Any] = {
            name: None if own is None else change(name, own) for name, own in vars(self).items()
        }
        return SelfPrompts(**changed)


def self_prompts(
    logits: Tensor, side: int, kind: PromptKind = "box", *, padding: float = 0.0
) -> SelfPrompts:
    """One prompt for every class that any pixel of a prediction takes.

    The box encloses the largest connected part (through pixel edges) of the class: pixel (r, c) of
    the low-res map covers the square from (c, r) S/m to (c + 1, r + 1) S/m of the input.

    Args:
        logits: [B, K, m, m], class 0 the background.
        side: S of the input.
        kind: beside the box, a point: the center of the pixel that lies deepest inside the part;
            a mask: the log-odds of the class against all others.
        padding: added on all four sides of the box, as a share of its width and height; clipped to
            the input.
    """
    m = logits.shape[-1]
    scale = side / m
    points, masks = "point" in kind, "mask" in kind
    taken = logits.detach().max(1).indices.cpu().numpy()
    images, classes, boxes, centers = [], [], [], []
    for image, labels in enumerate(taken):
        for number, where in enumerate(ndimage.find_objects(labels), start=1):
            if where is None:
                continue
            part = largest_part(labels[where] == number)
            rows, columns = _within(where, part)
            box = np.array([columns.start, rows.start, columns.stop, rows.stop]) * scale
            size = box[2:] - box[:2]
            box += padding * np.concatenate([-size, size])
            images.append(image)
            classes.append(number)
            boxes.append(box.clip(0, side))
            if points:
                row, column = deepest(part)
                center = np.array([where[1].start + column, where[0].start + row]) + 0.5
                centers.append(center * scale)
    device = logits.device
    found = torch.tensor(images, dtype=torch.long, device=device)
    numbers = torch.tensor(classes, dtype=torch.long, device=device)
    return SelfPrompts(
        found,
        numbers,
        _stacked(boxes, 4, device),
        _stacked(centers, 2, device) if points else None,
        mask_prompts(logits, found, numbers) if masks else None,
    )


def shown_only(logits: Tensor, inside: Tensor) -> Tensor:
    """A prediction with nothing but background in the padding around the slice.

    No label is known there in a training, so what a model says of it means nothing.

    Args:
        logits: [..., K, m, m], class 0 the background.
        inside: bool [..., 1, m, m], where the slice is shown.
    """
    nothing = logits.new_full((logits.shape[-3], 1, 1), -_LARGEST_LOGIT)
    nothing[0] = _LARGEST_LOGIT
    return torch.where(inside, logits, nothing)


def mask_prompts(logits: Tensor, images: Tensor, classes: Tensor) -> Tensor:
    """Log-odds [N, 1, m, m] of N classes in N of the B predictions [B, K, m, m], clamped."""
    return log_odds(logits)[images, classes, None].clamp(-_LARGEST_LOGIT, _LARGEST_LOGIT)


def log_odds(logits: Tensor) -> Tensor:
    """Of every class against all others, [B, K, ...]: the logit of its softmax probability."""
    shares = (logits - logits.detach().amax(1, keepdim=True)).exp()
    none = torch.zeros_like(shares[:, :1])
    # Sums from both sides instead of a difference, which would cancel where one class is certain.
    before = torch.cat([none, shares[:, :-1].cumsum(1)], 1)
    after = torch.cat([shares[:, 1:].flip(1).cumsum(1).flip(1), none], 1)
    others = (before + after).clamp(min=torch.finfo(shares.dtype).tiny)
    return logits - logits.detach().amax(1, keepdim=True) - others.log()


def largest_part(mask: np.ndarray) -> np.ndarray:
    """The largest part of a mask that hangs together through edges of pixels."""
    numbered, count = ndimage.label(mask)
    if count == 1:
        return mask
    return numbered == 1 + np.bincount(numbered[numbered > 0])[1:].argmax()


def _within(where: tuple[slice, ...], part: np.ndarray) -> tuple[slice, slice]:
    """Rows and columns of `part`, which was cut out at `where`."""
    box = bounding_box(part)
    assert box is not None
    rows, columns = (
        slice(outer.start + inner.start, outer.start + inner.stop)
        for outer, inner in zip(where, box, strict=True)
    )
    return rows, columns


def deepest(part: np.ndarray) -> tuple[int, int]:
    """The pixel farthest from the outside; what lies beyond the array is outside."""
    depth = ndimage.distance_transform_edt(np.pad(part, 1))[1:-1, 1:-1]
    row, column = np.unravel_index(depth.argmax(), depth.shape)
    return int(row), int(column)


def _stacked(rows: list[np.ndarray], width: int, device: torch.device) -> Tensor:
    array = np.array(rows, dtype=np.float32).reshape(-1, width)
    return torch.from_numpy(array).to(device)
