"""AutoSAM's linear head: SAM's upscaling, then a small map from features to classes."""

from __future__ import annotations

import copy
from typing import Any, ClassVar

from torch import Tensor, nn

from SAMAutoSegLib.sam.two_way import upscale


class AutoLinear(nn.Module):
    """Image embedding to low-res logits of K classes, class 0 the background.

    Hu et al., "How to Efficiently Adapt Large Segmentation Model (SAM) to Medical Images", 2023
    (arXiv 2306.13731), section 3.2: two transposed convolutions from 256 to 32 channels, as in
    SAM's decoder, and a linear layer, a ReLU and a linear layer at every pixel; 75 thousand values.
    Here the convolutions start from SAM's own.

    Unlike the published code there is no ReLU after the logits: a class whose logits are negative
    everywhere would get no gradient any more.

    Args:
        mask_decoder: an upstream `MaskDecoder`; its weights are copied, it is not changed.
        classes: K, the number of structures plus one.
    """

    takes_prompt: ClassVar[bool] = False

    def __init__(self, mask_decoder: Any, classes: int) -> None:
        super().__init__()
        upscaling = copy.deepcopy(mask_decoder.output_upscaling)
        self.output_upscaling: nn.Module = upscaling.requires_grad_(True)
        width = mask_decoder.output_upscaling[3].out_channels
        self.classify = nn.Sequential(
            nn.Linear(width, width), nn.ReLU(inplace=True), nn.Linear(width, classes)
        )

    def forward(self, embedding: Tensor, position: Tensor) -> Tensor:
        """Low-res logits [B, K, 4e, 4e] of an embedding [B, 256, e, e]; positions are not used."""
        image = embedding.flatten(2).transpose(1, 2).contiguous()
        features = upscale(self.output_upscaling, image)
        return self.classify(features).movedim(-1, 1).contiguous()
