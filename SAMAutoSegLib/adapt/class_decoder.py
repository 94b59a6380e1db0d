"""SAM's mask decoder with one token per class: all structures in one pass, without a prompt."""

from __future__ import annotations

import copy
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from SAMAutoSegLib.adapt.lora import add_lora_to_attention
from SAMAutoSegLib.adapt.token_init import TokenInit
from SAMAutoSegLib.sam.two_way import freeze_key_biases, mask_logits, two_way, upscale


class ClassDecoder(nn.Module):
    """Image embedding to low-res logits of K classes, class 0 the background.

    The weights and their names are those of upstream's `MaskDecoder`, with K mask tokens and
    hypernetworks instead of four (BLO-SAM, arXiv 2402.16338; the same in SAMed). The transformer
    is frozen but for the low-rank update of its query and value projections.

    Args:
        mask_decoder: an upstream `MaskDecoder`; its weights are copied, it is not changed.
        classes: K, the number of structures plus one.
        lora_rank: of the update; 4 gives BLO-SAM's 23 552 values, 0 leaves it out.
        token_init: 'random' draws class tokens and hypernetworks anew; 'sam' starts all of them
            from SAM's single-mask token.
        whole: learn the transformer as a whole instead, as SAMed does.
    """

    takes_prompt: ClassVar[bool] = True

    def __init__(
        self,
        mask_decoder: Any,
        classes: int,
        lora_rank: int = 4,
        token_init: TokenInit = "random",
        whole: bool = False,
    ) -> None:
        super().__init__()
        source = copy.deepcopy(mask_decoder)
        self.transformer: nn.Module = source.transformer.requires_grad_(whole)
        freeze_key_biases(self.transformer)
        if lora_rank and not whole:
            add_lora_to_attention(self.transformer, lora_rank)
        self.iou_token: nn.Embedding = source.iou_token.requires_grad_(True)
        self.output_upscaling: nn.Module = source.output_upscaling.requires_grad_(True)
        self.mask_tokens = nn.Embedding(classes, source.mask_tokens.weight.shape[1])
        first = source.output_hypernetworks_mlps[0].requires_grad_(True)
        self.output_hypernetworks_mlps = nn.ModuleList(copy.deepcopy(first) for _ in range(classes))
        if token_init == "sam":
            with torch.no_grad():
                self.mask_tokens.weight.copy_(source.mask_tokens.weight[:1].expand(classes, -1))
        else:
            for module in self.output_hypernetworks_mlps.modules():
                if isinstance(module, nn.Linear):
                    module.reset_parameters()

    def forward(self, embedding: Tensor, position: Tensor) -> Tensor:
        """Low-res logits [B, K, 4e, 4e].

        Args:
            embedding: [B, 256, e, e], the dense prompt already added.
            position: [1, 256, e, e], SAM's image-wide position code.
        """
        image = embedding.flatten(2).transpose(1, 2).contiguous()
        place = position.flatten(2).transpose(1, 2)
        tokens = torch.cat([self.iou_token.weight, self.mask_tokens.weight])
        tokens, image = two_way(self.transformer, tokens.expand(len(image), -1, -1), image, place)
        features = upscale(self.output_upscaling, image)
        return mask_logits(features, self.output_hypernetworks_mlps, tokens[:, 1:])
