"""Proposed instances as prompts of SAM's own decoder: masks of instances, logits of structures."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from SAMAutoSegLib.adapt.heatmap_head import HeatmapHead, Proposals, propose
from SAMAutoSegLib.sam.two_way import decode

InstancePrompt = Literal["box", "point"]

# Prompts per pass of the decoder: each takes as much memory as an image.
_PASS = 16

# A structure that has no instance in a slice: next to impossible, and still a finite logit.
_ABSENT = -10.0


@dataclass(frozen=True)
class Instance:
    """One instance found in a slice.

    Attributes:
        number: class number from 1.
        score: 0 to 1.
        point: (x, y) in units of the input's side.
        box: (x0, y0, x1, y1), likewise.
        logits: [4e, 4e] of its mask, which holds where they are above 0.
    """

    number: int
    score: float
    point: tuple[float, float]
    box: tuple[float, float, float, float]
    logits: Tensor


class HeatmapDecoder(nn.Module):
    """Embedding to low-res logits of K classes by way of instances; only the head is learned.

    Every proposal of the head prompts SAM's frozen decoder. Of masks of one structure that overlap
    by more than `overlap` of the smaller one, only that with the highest score is kept. The logit
    of a structure is the highest of its instances' mask logits, that of the background is 0, so
    that a pixel is a structure's where one of its masks holds.

    Args:
        prompt_encoder, mask_decoder: upstream's modules; their weights are copied.
        classes: K, the number of structures plus one.
        prompt: 'box' (all that backbones trained on boxes understand) or 'point'.
        least: score that a proposal has to reach.
        most: proposals in a slice.
        overlap: see above.
    """

    # SAM's own, which the prompt encoder adds, and which is not learned.
    takes_prompt: ClassVar[bool] = False

    def __init__(
        self,
        prompt_encoder: Any,
        mask_decoder: Any,
        classes: int,
        prompt: InstancePrompt = "box",
        least: float = 0.5,
        most: int = 64,
        overlap: float = 0.6,
    ) -> None:
        super().__init__()
        self.classes = classes
        self.prompt, self.least, self.most, self.overlap = prompt, least, most, overlap
        self.prompt_encoder: Any = copy.deepcopy(prompt_encoder).requires_grad_(False)
        self.mask_decoder: Any = copy.deepcopy(mask_decoder).requires_grad_(False)
        self.head = HeatmapHead(classes - 1)

    def forward(self, embedding: Tensor, position: Tensor) -> Tensor:
        """Low-res logits [B, K, 4e, 4e]; arguments as for `ClassDecoder`."""
        side = 4 * embedding.shape[-1]
        logits = embedding.new_full((len(embedding), self.classes, side, side), _ABSENT)
        logits[:, 0] = 0
        for n, found in enumerate(self.instances(embedding, position)):
            for number in {instance.number for instance in found}:
                masks = torch.stack([i.logits for i in found if i.number == number])
                logits[n, number] = masks.amax(0).clamp_min(_ABSENT).to(logits.dtype)
        return logits

    def instances(self, embedding: Tensor, position: Tensor) -> list[list[Instance]]:
        """The instances in every image, the most certain first; arguments as for `forward`."""
        proposals = propose(self.head(embedding), self.least, self.most)
        return [
            self._masked(image[None], position, found)
            for image, found in zip(embedding, proposals, strict=True)
        ]

    def _masked(self, image: Tensor, position: Tensor, found: Proposals) -> list[Instance]:
        kept: list[Instance] = []
        masks: list[Tensor] = []
        for start in range(0, len(found.scores), _PASS):
            part = slice(start, start + _PASS)
            logits = self.masks(image, position, found.points[part], found.boxes[part])
            for n, logit in enumerate(logits, start):
                mask = logit > 0
                number = int(found.classes[n])
                rivals = [m for m, i in zip(masks, kept, strict=True) if i.number == number]
                if not mask.any() or any(_share(mask, other) > self.overlap for other in rivals):
                    continue
                x, y = found.points[n].tolist()
                x0, y0, x1, y1 = found.boxes[n].tolist()
                score = float(found.scores[n])
                kept.append(Instance(number, score, (x, y), (x0, y0, x1, y1), logit))
                masks.append(mask)
        return kept

    def masks(self, image: Tensor, position: Tensor, points: Tensor, boxes: Tensor) -> Tensor:
        """Mask logits [N, 4e, 4e] of N prompts on one image.

        Args:
            image: [1, 256, e, e].
            position: [1, 256, e, e].
            points: [N, 2] (x, y) in units of the input's side; used with prompt 'point'.
            boxes: [N, 4] (x0, y0, x1, y1), likewise; used with prompt 'box'.
        """
        side = self.prompt_encoder.input_image_size[0]
        if self.prompt == "box":
            sparse, dense = self.prompt_encoder(None, boxes * side, None)
        else:
            inside = torch.ones(len(points), 1, dtype=torch.int, device=points.device)
            # Upstream moves points from the corner of a pixel to its middle.
            at = points[:, None] * side - 0.5
            sparse, dense = self.prompt_encoder((at, inside), None, None)
        multimask = self.prompt == "point"  # a point leaves open how much of what it hits is meant
        logits, quality = decode(
            self.mask_decoder, image, position, sparse, dense.to(image.dtype), multimask
        )
        best = quality.argmax(1)
        return logits[torch.arange(len(logits), device=logits.device), best].float()


def _share(mask: Tensor, other: Tensor) -> float:
    """How much of the smaller mask they have in common."""
    common = (mask & other).sum()
    return float(common / torch.minimum(mask.sum(), other.sum()))
