"""AutoSAM's ViT head: SAM's mask decoder without a prompt, one pass of it for every class."""

from __future__ import annotations

import copy
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from SAMAutoSegLib.adapt.token_init import TokenInit
from SAMAutoSegLib.sam.two_way import freeze_key_biases, mask_logits, two_way, upscale

# Of a class: the IoU token, and the mask tokens that SAM has for one mask more than the single one.
_GROUP = 3


class AutoViT(nn.Module):
    """Image embedding to low-res logits of K classes, class 0 the background.

    Hu et al., "How to Efficiently Adapt Large Segmentation Model (SAM) to Medical Images", 2023
    (arXiv 2306.13731): the classes differ in a group of three tokens each, an IoU token and two
    mask tokens, the first of which gives the mask. Everything else is shared by all classes and
    learned, from SAM's weights on. Nothing is added to the image embedding. All classes pass the
    decoder at once, as a batch of B K images, so that they do not see each other.

    Unlike the published code, which
    - replaces SAM's position code by a random one, because a name differs in the checkpoint: here
      the pretrained one is handed in;
    - freezes the IoU tokens at random values: here they are learned, as the other tokens are, so
      that the model's file holds them;
    - has a hypernetwork for the second mask, which it discards: left out.

    Args:
        mask_decoder: an upstream `MaskDecoder`; its weights are copied, it is not changed.
        classes: K, the number of structures plus one.
        token_init: 'random' draws the tokens anew, as published; 'sam' starts from SAM's.
    """

    takes_prompt: ClassVar[bool] = False

    def __init__(self, mask_decoder: Any, classes: int, token_init: TokenInit = "random") -> None:
        super().__init__()
        self.transformer, self.output_upscaling, self.hypernetwork = learned_parts(mask_decoder)
        own = torch.cat([mask_decoder.iou_token.weight, mask_decoder.mask_tokens.weight])[:_GROUP]
        tokens = own.detach().expand(classes, -1, -1).clone()
        self.tokens = nn.Parameter(tokens if token_init == "sam" else torch.randn_like(tokens))

    def forward(self, embedding: Tensor, position: Tensor) -> Tensor:
        """Low-res logits [B, K, 4e, 4e].

        Args:
            embedding: [B, 256, e, e].
            position: [1, 256, e, e], SAM's image-wide position code.
        """
        batch, e, classes = len(embedding), embedding.shape[-1], len(self.tokens)
        image = embedding.flatten(2).transpose(1, 2)
        image = image[:, None].expand(-1, classes, -1, -1).flatten(0, 1)
        place = position.flatten(2).transpose(1, 2)
        tokens, image = two_way(self.transformer, self.tokens.repeat(batch, 1, 1), image, place)
        features = upscale(self.output_upscaling, image)
        logits = mask_logits(features, [self.hypernetwork], tokens[:, 1:2])
        return logits.view(batch, classes, 4 * e, 4 * e)


def learned_parts(mask_decoder: Any) -> tuple[nn.Module, nn.Module, nn.Module]:
    """Copies of the transformer, the upscaling and the first hypernetwork, all of it learned.

    But for the biases of keys: they add the same number to all scores of a query, so the softmax
    makes nothing of them.
    """
    source = copy.deepcopy(mask_decoder)
    parts = source.transformer, source.output_upscaling, source.output_hypernetworks_mlps[0]
    for part in parts:
        part.requires_grad_(True)
    freeze_key_biases(source.transformer)
    return parts
