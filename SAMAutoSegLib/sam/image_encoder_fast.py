"""The image encoders as they are run: same weights, faster operations."""

import copy

import torch
from torch import nn

from SAMAutoSegLib.sam.tiny_vit import Attention as TinyAttention
from SAMAutoSegLib.sam.tiny_vit import TinyViT
from SAMAutoSegLib.sam.tiny_vit_fast import FastTinyViT
from SAMAutoSegLib.sam.vit_fast import FastViT


def use_reference_attention(encoder: nn.Module) -> None:
    """Make a TinyViT compute attention in the published order of operations, bit for bit."""
    for module in encoder.modules():
        if isinstance(module, TinyAttention):
            module.exact = True


def fast_encoder(encoder: nn.Module, device: torch.device, precision: torch.dtype) -> nn.Module:
    """The fast form of an image encoder on `device`, computing in `precision`; a copy."""
    own = copy.deepcopy(encoder).requires_grad_(False)
    fast = FastTinyViT(own) if isinstance(own, TinyViT) else FastViT(own)
    fast.lower(precision)
    return fast.to(device).eval()
