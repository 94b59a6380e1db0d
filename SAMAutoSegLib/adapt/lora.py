"""Low-rank adaptation of linear projections.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2021, in the convention of the
SAM adapters (SAMed, BLO-SAM, WeSAM): y = W x + B(A x) with no bias, no dropout and no alpha/r
factor. The scale is 1 and no part of the tensors, so imported files stay exact.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from SAMAutoSegLib.sam.tiny_vit_fast import FastAttentionBlock


class LoRALinear(nn.Module):
    """A frozen `nn.Linear` plus a trainable update of rank r.

    The low-rank product is added to the weight instead of being applied to every token: with
    thousands of image tokens that is cheaper and gives the same result.
    """

    def __init__(self, base: nn.Linear, rank: int) -> None:
        super().__init__()
        if rank < 1:
            raise ValueError(f"LoRA rank {rank}: expected 1 or more")
        self.base = base.requires_grad_(False)
        self.scale = 1.0
        self.lora_a = nn.Parameter(base.weight.new_empty(rank, base.in_features))
        self.lora_b = nn.Parameter(base.weight.new_zeros(base.out_features, rank))
        nn.init.kaiming_uniform_(self.lora_a, a=math.sqrt(5))

    @property
    def weight(self) -> Tensor:
        """The effective weight [out, in], differentiable in A and B."""
        return self.base.weight + self.scale * (self.lora_b @ self.lora_a)

    @property
    def bias(self) -> Tensor:
        return self.base.bias

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


class LoRAQueryValue(nn.Module):
    """A frozen fused projection to query, key and value, with updates of query and value.

    Args:
        base: from D channels to 3 D.
        rank: r of both updates.
        rows: [3, D], which output rows of `base` are queries, keys and values: upstream's ViT
            has them one after the other, TinyViT head by head.
    """

    rows: Tensor

    def __init__(self, base: nn.Linear, rank: int, rows: Tensor) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        part = nn.Linear(base.in_features, rows.shape[1], bias=False)
        self.query = LoRALinear(part, rank)
        self.value = LoRALinear(part, rank)
        # Only the updates are wanted: the frozen part stays in `base`.
        del self.query.base, self.value.base
        self.register_buffer("rows", rows, persistent=False)

    @property
    def weight(self) -> Tensor:
        """The effective weight [3 D, D]."""
        update = torch.zeros_like(self.base.weight)
        for lora, rows in ((self.query, self.rows[0]), (self.value, self.rows[2])):
            product = lora.scale * (lora.lora_b @ lora.lora_a)  # in bfloat16 under autocast
            update = update.index_add(0, rows, product.to(update.dtype))
        return self.base.weight + update

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.base.bias)


def add_lora_to_attention(transformer: nn.Module, rank: int) -> None:
    """Wrap `q_proj` and `v_proj` of every attention of SAM's two-way transformer, in place."""
    for module in list(transformer.modules()):
        for name in ("q_proj", "v_proj"):
            projection = getattr(module, name, None)
            if isinstance(projection, nn.Linear):
                setattr(module, name, LoRALinear(projection, rank))


def add_lora_to_blocks(blocks: nn.Module, rank: int) -> None:
    """Wrap the `qkv` projection of every attention of fast encoder blocks, in place."""
    for module in list(blocks.modules()):
        qkv: Any = getattr(module, "qkv", None)
        if not isinstance(qkv, nn.Linear):
            continue
        rows = torch.arange(qkv.out_features)
        if isinstance(module, FastAttentionBlock):  # TinyViT: head, then query, key, value
            rows = rows.view(module.heads, 3, -1).transpose(0, 1)
        module.qkv = LoRAQueryValue(qkv, rank, rows.reshape(3, -1))
