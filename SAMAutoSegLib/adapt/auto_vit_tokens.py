"""AutoSAM's ViT head with all classes in one sequence, at the cost of one class."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from SAMAutoSegLib.adapt.auto_vit import learned_parts
from SAMAutoSegLib.adapt.token_init import TokenInit
from SAMAutoSegLib.sam.two_way import mask_logits, two_way, upscale


class AutoViTTokens(nn.Module):
    """Image embedding to low-res logits of K classes, class 0 the background.

    As `AutoViT`, all learned and without a prompt, but with one IoU token and K mask tokens that
    pass the decoder together and see each other; the hypernetwork is shared.

    Args:
        mask_decoder: an upstream `MaskDecoder`; its weights are copied, it is not changed.
        classes: K, the number of structures plus one.
        token_init: 'random' draws the class tokens anew; 'sam' starts all of them from SAM's
            single-mask token.
    """

    takes_prompt: ClassVar[bool] = False

    def __init__(self, mask_decoder: Any, classes: int, token_init: TokenInit = "random") -> None:
        super().__init__()
        self.transformer, self.output_upscaling, self.hypernetwork = learned_parts(mask_decoder)
        self.iou_token = nn.Parameter(mask_decoder.iou_token.weight.detach().clone())
        own = mask_decoder.mask_tokens.weight[:1].detach().expand(classes, -1).clone()
        self.class_tokens = nn.Parameter(own if token_init == "sam" else torch.randn_like(own))

    def forward(self, embedding: Tensor, position: Tensor) -> Tensor:
        """Low-res logits [B, K, 4e, 4e] of an embedding [B, 256, e, e]; see `AutoViT`."""
        classes = len(self.class_tokens)
        image = embedding.flatten(2).transpose(1, 2).contiguous()
        place = position.flatten(2).transpose(1, 2)
        tokens = torch.cat([self.iou_token, self.class_tokens]).expand(len(image), -1, -1)
        tokens, image = two_way(self.transformer, tokens, image, place)
        features = upscale(self.output_upscaling, image)
        return mask_logits(features, [self.hypernetwork] * classes, tokens[:, 1:])
