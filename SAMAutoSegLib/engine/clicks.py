"""Clicks and boxes on slices whose embeddings are kept, and are made before they are needed."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from SAMAutoSegLib.engine.arrays import open_array
from SAMAutoSegLib.engine.models import Loaded, LoadedModels
from SAMAutoSegLib.engine.volumes import OpenVolumes
from SAMAutoSegLib.errors import SAMAutoSegError
from SAMAutoSegLib.images.intensity import Intensity, default_intensity
from SAMAutoSegLib.images.slices import Axis, SliceStack
from SAMAutoSegLib.sam import catalog
from SAMAutoSegLib.sam.backbone import Backbone
from SAMAutoSegLib.sam.embedding_cache import EmbeddingCache, embed_slices
from SAMAutoSegLib.sam.points_by_boxes import predict_points_by_boxes
from SAMAutoSegLib.sam.predictor import ClickPredictor

# 4 MB each, in the main memory.
_MOST_EMBEDDINGS = 32

# How far around the slice in view slices are encoded ahead.
_REACH = 8

# What a mask given as a prompt counts as, in logits: sure, as a sigmoid of 0.999.
_SURE = 6.9


@dataclass(frozen=True)
class _View:
    """The slices that clicks are made on."""

    key: tuple[str, ...]
    loaded: Loaded
    stack: SliceStack


class Clicks:
    """Answers to clicks.

    A first click gives three masks of different extent, of which the surest is taken; with more
    points, a box or a mask there is one (Kirillov et al., Segment Anything, ICCV 2023, section 3).
    Where the model was trained with boxes only, points become boxes, see `points_by_boxes`.
    """

    def __init__(self, volumes: OpenVolumes, models: LoadedModels, cache: EmbeddingCache) -> None:
        self._volumes = volumes
        self._models = models
        self._cache = cache
        self._embeddings: OrderedDict[tuple[str, ...], Tensor] = OrderedDict()
        self._predictor: ClickPredictor | None = None
        self._ahead: tuple[_View, list[int]] | None = None

    def prepare(self, params: Mapping[str, Any]) -> None:
        """Encode the slice of a request `prepare_clicks`, and plan its neighbors.

        Raises:
            SAMAutoSegError: unknown volume, model, axis or slice.
        """
        view = self._view(params)
        number = self._number(params, view)
        self._embedding(view, number)
        near = sorted(range(len(view.stack)), key=lambda other: abs(other - number))
        self._ahead = (view, [other for other in near if 0 < abs(other - number) <= _REACH])

    def look_ahead(self) -> bool:
        """Encode one of the planned slices; False if none is left."""
        if self._ahead is None or not self._ahead[1]:
            self._ahead = None
            return False
        view, numbers = self._ahead
        self._embedding(view, numbers.pop(0))
        return True

    def forget(self) -> None:
        """Let go of embeddings and plans, where memory has run out."""
        self._ahead = self._predictor = None
        self._embeddings.clear()

    def forget_volume(self, volume: str) -> None:
        """Let go of what belongs to a volume."""
        if self._ahead is not None and self._ahead[0].key[0] == volume:
            self._ahead = None
        for key in [key for key in self._embeddings if key[0] == volume]:
            del self._embeddings[key]

    def answer(self, params: Mapping[str, Any]) -> tuple[np.ndarray, float]:
        """The mask [rows, columns] bool for a request `click`, and how sure the model is of it.

        Raises:
            SAMAutoSegError: as `prepare`; a click without point, box or mask, or outside of the
                slice.
        """
        view = self._view(params)
        number = self._number(params, view)
        stack = view.stack
        points, box, mask = params.get("points") or [], params.get("box"), params.get("mask")
        if not points and box is None and mask is None:
            raise SAMAutoSegError("a click without a point, a box or a mask: set a point")
        rows, columns = stack.slice_shape
        for row, column, _ in points:
            if not (0 <= row < rows and 0 <= column < columns):
                raise SAMAutoSegError(
                    f"point ({row:g}, {column:g}) is outside of the slice of {rows} x {columns}"
                )
        backbone = view.loaded.backbone
        if self._predictor is None or self._predictor.backbone is not backbone:
            self._predictor = ClickPredictor(backbone)
        embedding = self._embedding(view, number)
        self._predictor.set_embedding(embedding, stack.slice_shape)
        drawn = None if box is None else np.array([box[1], box[0], box[3], box[2]], float)
        where = np.array([[column, row] for row, column, _ in points], float)
        signs = np.array([int(sign > 0) for _, _, sign in points])
        if points and not _takes_points(backbone):
            present = None if mask is None else open_array(mask)
            prediction = predict_points_by_boxes(
                self._predictor, where, signs, stack.slice_shape, drawn, present
            )
        else:
            prediction = self._predictor.predict(
                points=where if points else None,
                labels=signs if points else None,
                box=drawn,
                mask_input=None if mask is None else self._as_logits(open_array(mask), view),
                multimask=len(points) == 1 and box is None and mask is None,
            )
        best = int(prediction.iou.argmax())
        return prediction.masks[best], float(prediction.iou[best])

    def _view(self, params: Mapping[str, Any]) -> _View:
        loaded = self._models.get(
            params["backbone"], base=params.get("base"), device=params.get("device")
        )
        volume, axis = params["volume"], cast(Axis, params["axis"])
        if params.get("intensity"):
            intensity = Intensity.parse(params["intensity"])
        elif loaded.adapted is not None:
            intensity = loaded.adapted.card.intensity
        else:
            intensity = default_intensity(self._volumes[volume])
        stack = self._volumes.stack(volume, axis, intensity)
        return _View((volume, loaded.key, stack.plane, str(intensity)), loaded, stack)

    def _number(self, params: Mapping[str, Any], view: _View) -> int:
        number = params["slice"]
        if number >= len(view.stack):
            raise SAMAutoSegError(
                f"slice {number} is out of range: the volume has slices 0 to "
                f"{len(view.stack) - 1} on this axis"
            )
        return number

    def _embedding(self, view: _View, number: int) -> Tensor:
        key = (*view.key, str(number))
        if key not in self._embeddings:
            encoded = embed_slices(
                view.loaded.backbone,
                view.stack.views,
                numbers=[number],
                cache=self._cache,
            )
            ((_, embedding),) = encoded
            self._embeddings[key] = embedding.cpu()
            if len(self._embeddings) > _MOST_EMBEDDINGS:
                self._embeddings.popitem(last=False)
        self._embeddings.move_to_end(key)
        return self._embeddings[key]

    def _as_logits(self, mask: np.ndarray, view: _View) -> np.ndarray:
        """A mask [rows, columns] as the low-res logits [1, 4e, 4e] that a prompt takes."""
        if mask.shape != view.stack.slice_shape:
            raise SAMAutoSegError(
                f"a mask of {mask.shape} on a slice of {view.stack.slice_shape}: expected the same"
            )
        backbone = view.loaded.backbone
        side = 4 * backbone.embedding_side
        shown = torch.from_numpy((mask != 0).astype(np.float32))[None]
        inside = backbone.spec.slice_to_low_res(shown, side)
        return torch.where(inside == 1, _SURE, -_SURE).numpy()


def _takes_points(backbone: Backbone) -> bool:
    entry = catalog.find_by_sha256(backbone.sha256)
    return entry is None or entry.takes_points
