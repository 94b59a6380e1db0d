"""The image encoders as they are run: same weights, faster operations."""

import copy

import torch
from torch import nn

from SAMAutoSegLib.sam.tiny_vit import Attention as TinyAttention


def use_reference_attention(encoder: nn.Module) -> None:
    """Make a TinyViT compute attention in the published order of operations, bit for bit."""
    for module in encoder.modules():
        if isinstance(module, TinyAttention):
            module.exact = True


def fast_encoder(encoder: nn.Module, device: torch.device, precision: torch.dtype) -> nn.Module:
    """A fast copy of an image encoder on `device`, computing in `precision`."""
    return copy.deepcopy(encoder).to(device, precision)
