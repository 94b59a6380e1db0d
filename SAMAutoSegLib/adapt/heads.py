"""From an image embedding to the logits of all classes: the forms there are."""

from __future__ import annotations

from typing import Any, Literal, Protocol

from torch import Tensor

from SAMAutoSegLib.adapt.auto_cnn import AutoCNN
from SAMAutoSegLib.adapt.auto_linear import AutoLinear
from SAMAutoSegLib.adapt.auto_vit import AutoViT
from SAMAutoSegLib.adapt.auto_vit_tokens import AutoViTTokens
from SAMAutoSegLib.adapt.class_decoder import ClassDecoder
from SAMAutoSegLib.adapt.heatmap_decoder import HeatmapDecoder
from SAMAutoSegLib.adapt.token_init import TokenInit

HeadName = Literal[
    "class-tokens",
    "class-tokens-whole",
    "auto-vit",
    "auto-vit-tokens",
    "auto-cnn",
    "auto-cnn-small",
    "auto-linear",
    "heatmap-box",
    "heatmap-point",
]


class Head(Protocol):
    """A module that gives the low-res logits [B, K, 4e, 4e] of all classes in one call.

    `takes_prompt`: the learnable prompt embedding is added to the image embedding.
    """

    takes_prompt: bool

    def __call__(self, embedding: Tensor, position: Tensor) -> Tensor: ...


def make_head(
    name: HeadName,
    prompt_encoder: Any,
    mask_decoder: Any,
    classes: int,
    lora_rank: int,
    token_init: TokenInit,
) -> Any:
    """A `Head` that starts from a mask decoder, which it does not change.

    Args:
        prompt_encoder: an upstream `PromptEncoder`, used by the heads that prompt.
        mask_decoder: an upstream `MaskDecoder`.
        classes: K, the number of structures plus one.
        lora_rank: used by 'class-tokens', whose transformer is frozen but for low-rank updates.
        token_init: used by the heads that have tokens.
    """
    if classes < 2:
        raise ValueError(f"{classes} classes: expected the background and a structure")
    channels = mask_decoder.transformer_dim
    match name:
        case "class-tokens":
            return ClassDecoder(mask_decoder, classes, lora_rank, token_init)
        case "class-tokens-whole":
            return ClassDecoder(mask_decoder, classes, token_init=token_init, whole=True)
        case "auto-vit":
            return AutoViT(mask_decoder, classes, token_init)
        case "auto-vit-tokens":
            return AutoViTTokens(mask_decoder, classes, token_init)
        case "auto-cnn":
            return AutoCNN(channels, classes, depth=4)
        case "auto-cnn-small":
            return AutoCNN(channels, classes, depth=2)
        case "auto-linear":
            return AutoLinear(mask_decoder, classes)
        case "heatmap-box":
            return HeatmapDecoder(prompt_encoder, mask_decoder, classes, "box")
        case "heatmap-point":
            return HeatmapDecoder(prompt_encoder, mask_decoder, classes, "point")
