"""A plain SAM prompted with what the reference tells: what adapted models are compared with."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from SAMAutoSegLib.images.bounding_box import bounding_box
from SAMAutoSegLib.images.slices import SliceStack
from SAMAutoSegLib.progress import Progress, silent
from SAMAutoSegLib.sam.backbone import Backbone
from SAMAutoSegLib.sam.embedding_cache import EmbeddingCache, embed_slices
from SAMAutoSegLib.sam.predictor import ClickPredictor

Answers = dict[int, np.ndarray]
"""Low-res logits [1, 4e, 4e] of a slice by the label that was prompted."""


def prompt_with_boxes(
    images: SliceStack,
    reference: SliceStack,
    backbone: Backbone,
    *,
    slices: Sequence[int] | None = None,
    cache: EmbeddingCache | None = None,
    batch: int | None = None,
    progress: Progress = silent,
) -> np.ndarray:
    """Segment with one box prompt per structure and slice, taken from the reference.

    An oracle: no user has these boxes before the segmentation is done. They say in which slices a
    structure lies and where it ends, to the pixel, so the scores are what prompting could reach at
    best, not what it does reach in use.

    Args:
        images: uint8 gray slices.
        reference: labels on the same grid, along the same axis.
        slices: numbers of the slices to segment, by default all; the others stay 0.
        cache, batch, progress: as for `embed_slices`.

    Returns:
        Labels [K, J, I] of the reference's type. A box encloses all pixels of a label in a slice,
        from border to border (min to max + 1); where masks overlap, the higher logit wins.
    """

    def answer(predictor: ClickPredictor, labels: np.ndarray) -> Answers:
        boxes = _boxes(labels)
        masks = predictor.predict_boxes(np.array(list(boxes.values())))
        return {label: mask.low_res for label, mask in zip(boxes, masks, strict=True)}

    return prompt_slices(
        images,
        reference,
        backbone,
        answer,
        slices=slices,
        cache=cache,
        batch=batch,
        progress=progress,
    )


def prompt_slices(
    images: SliceStack,
    reference: SliceStack,
    backbone: Backbone,
    answer: Callable[[ClickPredictor, np.ndarray], Answers],
    *,
    slices: Sequence[int] | None = None,
    cache: EmbeddingCache | None = None,
    batch: int | None = None,
    progress: Progress = silent,
) -> np.ndarray:
    """As `prompt_with_boxes`, with prompts of any kind.

    Args:
        answer: from a predictor that is set to a slice, and the labels of the reference there.
    """
    found = np.zeros_like(reference.array)
    target = SliceStack(found, reference.grid, reference.plane)
    chosen = range(len(reference)) if slices is None else slices
    predictor = ClickPredictor(backbone)
    embedded = embed_slices(
        backbone,
        images.views,
        numbers=[number for number in chosen if reference.slice_at(number).any()],
        cache=cache,
        batch=batch,
        progress=progress,
    )
    for number, embedding in embedded:
        predictor.set_embedding(embedding, images.slice_shape)
        answers = answer(predictor, reference.slice_at(number))
        low_res = torch.from_numpy(np.concatenate(list(answers.values())))
        logits = backbone.spec.logits_to_slice(low_res, images.slice_shape)
        highest, winner = logits.max(0)
        labels = np.array(list(answers), found.dtype)
        target.put(number, np.where(highest.numpy() > 0, labels[winner.numpy()], 0))
    return found


def _boxes(labels: np.ndarray) -> dict[int, tuple[int, int, int, int]]:
    """For every label of a slice its box as (column0, row0, column1, row1)."""
    boxes = {}
    for label in np.unique(labels[labels > 0]):
        box = bounding_box(labels == label)
        assert box is not None
        rows, columns = box
        boxes[int(label)] = (columns.start, rows.start, columns.stop, rows.stop)
    return boxes
