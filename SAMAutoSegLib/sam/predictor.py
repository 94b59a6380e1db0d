"""Masks from clicks, boxes and masks, on an embedding that is at hand already."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from SAMAutoSegLib.device import as_precision
from SAMAutoSegLib.errors import SAMAutoSegError
from SAMAutoSegLib.sam.backbone import Backbone


@dataclass(frozen=True)
class Prediction:
    """What the decoder answers to a prompt.

    Attributes:
        masks: [C, H, W] bool in the slice's pixels, C = 3 with multimask, else 1.
        iou: [C] float32, the decoder's own estimate of each mask's quality.
        low_res: [C, 4e, 4e] float32 logits, to be given back as `mask_input`.
    """

    masks: np.ndarray
    iou: np.ndarray
    low_res: np.ndarray


class ClickPredictor:
    """Prompted segmentation of one slice at a time.

    Gives what `SamPredictor` of segment-anything gives for the same prompts: the same masks; the
    same logits and IoU estimates to 1e-5, on the reference path bit for bit. Points and boxes are
    (column, row) in the slice's pixels.
    """

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone
        self._embedding: Tensor | None = None
        self._original = (0, 0)
        self._dense_pe: Tensor | None = None

    def set_image(self, image: np.ndarray) -> Tensor:
        """Encode a uint8 slice [H, W] or [H, W, 3] and keep it; returns the embedding."""
        prepared = self.backbone.spec.prepare(image)
        embedding = self.backbone.encode(prepared[None])
        self.set_embedding(embedding, (image.shape[0], image.shape[1]))
        return embedding

    def set_embedding(self, embedding: Tensor, original: tuple[int, int]) -> None:
        """Work on the slice of `original` (H, W) pixels whose embedding [256, e, e] this is.

        Raises:
            SAMAutoSegError: an embedding of another shape.
        """
        e = self.backbone.embedding_side
        if embedding.shape[-3:] != (256, e, e) or embedding.numel() != 256 * e * e:
            raise SAMAutoSegError(
                f"embedding of shape {tuple(embedding.shape)}: expected (256, {e}, {e})"
            )
        kept = embedding.reshape(1, 256, e, e).to(self.backbone.device, torch.float32)
        self._embedding = self._arranged(kept)
        self._original = original

    def predict(
        self,
        points: np.ndarray | None = None,
        labels: np.ndarray | None = None,
        box: np.ndarray | None = None,
        mask_input: np.ndarray | None = None,
        multimask: bool = True,
    ) -> Prediction:
        """Segment one object.

        Args:
            points: [N, 2] with labels [N]: 1 inside the object, 0 outside.
            box: [4] as column0, row0, column1, row1.
            mask_input: [1, 4e, 4e] logits of an earlier prediction.
            multimask: three masks of different extent (whole, part, subpart) instead of one.

        Raises:
            SAMAutoSegError: no slice set, or points and labels that do not belong together.
        """
        self._current()
        if (points is None) != (labels is None) or (
            points is not None and labels is not None and len(points) != len(labels)
        ):
            raise SAMAutoSegError("every point needs a label: 1 inside the object, 0 outside")
        prompts = None
        if points is not None:
            moved = self._to_input(np.asarray(points, dtype=float).reshape(-1, 2), boxes=False)
            wanted = torch.as_tensor(np.asarray(labels), dtype=torch.int)
            prompts = (moved[None], wanted[None].to(moved.device))
        boxes = None if box is None else self._to_input(np.asarray(box).reshape(1, 4), boxes=True)
        masks = None
        if mask_input is not None:
            device = self.backbone.device
            masks = torch.as_tensor(mask_input, dtype=torch.float, device=device)[None]
        return self._decode(prompts, boxes, masks, multimask)[0]

    def predict_boxes(self, boxes: np.ndarray, rough: bool = False) -> list[Prediction]:
        """Segment one object per box [N, 4], all in one pass of the decoder.

        Args:
            rough: in bfloat16 where the backbone computes in it, which is faster and good enough
                to tell which box to take.

        Raises:
            SAMAutoSegError: no slice set.
        """
        self._current()
        prompts = self._to_input(np.asarray(boxes), boxes=True)
        return self._decode(None, prompts, None, False, rough)

    def _arranged(self, image: Tensor) -> Tensor:
        """In the order in memory in which the fast decoder reads positions, once for all clicks."""
        if self.backbone.attention == "reference":
            return image
        return image.contiguous(memory_format=torch.channels_last)

    def _current(self) -> Tensor:
        """The embedding to work on."""
        if self._embedding is None:
            raise SAMAutoSegError("no slice is set: call set_image or set_embedding first")
        return self._embedding

    def _to_input(self, values: np.ndarray, boxes: bool) -> Tensor:
        spec = self.backbone.spec
        transform = spec.to_input_boxes if boxes else spec.to_input_points
        moved = transform(values, self._original)
        return torch.as_tensor(moved, dtype=torch.float, device=self.backbone.device)

    def _decode(
        self,
        points: tuple[Tensor, Tensor] | None,
        boxes: Tensor | None,
        masks: Tensor | None,
        multimask: bool,
        rough: bool = False,
    ) -> list[Prediction]:
        precision = self.backbone.precision if rough else torch.float32
        with torch.inference_mode(), as_precision(precision, self.backbone.device):
            if self._dense_pe is None or self._dense_pe.device != self.backbone.device:
                self._dense_pe = self._arranged(self.backbone.prompt_encoder.get_dense_pe())
            sparse, dense = self.backbone.prompt_encoder(points=points, boxes=boxes, masks=masks)
            if masks is None:  # the same for all prompts
                dense = dense[:1]
            low_res, iou = self.backbone.decode(
                self._current().to(precision),
                self._dense_pe.to(precision),
                sparse,
                dense.to(precision),
                multimask,
            )
            logits = self.backbone.spec.logits_to_slice(low_res.float(), self._original)
            found = (logits > 0).cpu().numpy()  # Sam.mask_threshold
        return [
            Prediction(found[n], iou[n].float().cpu().numpy(), low_res[n].float().cpu().numpy())
            for n in range(len(found))
        ]
