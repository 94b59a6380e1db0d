"""SAM's ViT image encoder with fused attention: same weights, same result, no score matrices.

Upstream computes the N x N attention scores, adds the decomposed relative positions
(`add_decomposed_rel_pos`; Li et al., "MViTv2", CVPR 2022, section 4.1) and applies softmax, all in
memory. Here q is extended by its products with the position tables and k by one-hot rows and
columns, so that the plain product of the extended vectors is already score plus position:

    [q s, q Rh, q Rw] . [k, onehot(ky), onehot(kx)] = s q.k + q.Rh[qy, ky] + q.Rw[qx, kx]

and any fused attention kernel applies, with memory linear in N.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from SAMAutoSegLib.sam.neck_fast import FastNeck
from SAMAutoSegLib.sam.upstream import ImageEncoderViT

# Head widths that the fused kernels take without a copy of their own.
WIDTH_STEP = 8


def relative_table(table: Tensor, side: int) -> Tensor:
    """R [side, side, hd] with R[q, k] = table[q - k + side - 1], the table resized if need be."""
    if table.shape[0] != 2 * side - 1:
        line = table.T[None].float()
        table = F.interpolate(line, 2 * side - 1, mode="linear", align_corners=False)[0].T
    steps = torch.arange(side, device=table.device)
    return table[steps[:, None] - steps[None, :] + side - 1]


class FusedAttention(nn.Module):
    """Multi-head attention over a side x side map with decomposed relative positions.

    Takes over the linear layers of an upstream `Attention` as they are (possibly wrapped by
    LoRA), and its position tables spread out.
    """

    rows: Tensor
    columns: Tensor
    onehot: Tensor

    def __init__(self, attention: Any, side: int) -> None:
        super().__init__()
        self.side = side
        self.heads: int = attention.num_heads
        self.scale: float = attention.scale
        self.qkv: nn.Module = attention.qkv
        self.proj: nn.Module = attention.proj
        rows = relative_table(attention.rel_pos_h.detach(), side)
        columns = relative_table(attention.rel_pos_w.detach(), side)
        head = rows.shape[-1]
        self.fill = -(head + 2 * side) % WIDTH_STEP
        # [qy, hd, ky] and [qx, hd, kx]: q of one row times one matrix per row.
        self.register_buffer("rows", rows.transpose(1, 2).contiguous(), persistent=False)
        self.register_buffer("columns", columns.transpose(1, 2).contiguous(), persistent=False)
        one = torch.eye(side, dtype=rows.dtype, device=rows.device)
        onehot = torch.cat(
            [
                one[:, None].expand(side, side, side),
                one[None].expand(side, side, side),
                one.new_zeros(side, side, self.fill),
            ],
            dim=-1,
        )
        self.register_buffer("onehot", onehot.reshape(side * side, -1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, side, side, D] to the same shape."""
        batch, side, n = x.shape[0], self.side, self.side**2
        qkv = self.qkv(x).view(batch, n, 3, self.heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each [B, heads, N, hd]
        head = q.shape[-1]
        by_row = q.reshape(-1, side, side, head).transpose(0, 1).reshape(side, -1, head)
        by_row = torch.bmm(by_row, self.rows).view(side, -1, side, side).transpose(0, 1)
        by_column = q.reshape(-1, side, side, head).permute(2, 0, 1, 3).reshape(side, -1, head)
        by_column = torch.bmm(by_column, self.columns).view(side, -1, side, side)
        by_column = by_column.permute(1, 2, 0, 3)
        lead = (batch, self.heads, n)
        parts = [q * self.scale, by_row.reshape(*lead, side), by_column.reshape(*lead, side)]
        if self.fill:
            parts.append(q.new_zeros(*lead, self.fill))
        extended_q = torch.cat(parts, dim=-1)
        extended_k = torch.cat([k, self.onehot.expand(batch, self.heads, -1, -1)], dim=-1)
        wide_v = F.pad(v, (0, extended_q.shape[-1] - head))
        y = F.scaled_dot_product_attention(extended_q, extended_k, wide_v, scale=1.0)[..., :head]
        return self.proj(y.transpose(1, 2).reshape(batch, side, side, -1))


class FastBlock(nn.Module):
    """An upstream `Block` around fused attention."""

    def __init__(self, block: Any, side: int) -> None:
        super().__init__()
        self.window: int = block.window_size
        self.norm1: nn.Module = block.norm1
        self.norm2: nn.Module = block.norm2
        self.mlp: nn.Module = block.mlp
        self.attn = FusedAttention(block.attn, self.window or side)

    def forward(self, x: Tensor) -> Tensor:
        """[B, e, e, D] to the same shape."""
        y = self.norm1(x)
        y = self._attend_in_windows(y) if self.window else self.attn(y)
        x = x + y
        return x + self.mlp(self.norm2(x))

    def _attend_in_windows(self, x: Tensor) -> Tensor:
        batch, side, _, dim = x.shape
        w = self.window
        count = -(-side // w)
        # Zeros that stay in the attention as keys, as upstream; none at sides of 224 k.
        x = F.pad(x, (0, 0, 0, count * w - side, 0, count * w - side))
        x = x.view(batch, count, w, count, w, dim).transpose(2, 3)
        x = self.attn(x.reshape(-1, w, w, dim))
        x = x.view(batch, count, count, w, w, dim).transpose(2, 3)
        return x.reshape(batch, count * w, count * w, dim)[:, :side, :side]


class FastViT(nn.Module):
    """`ImageEncoderViT` [B, 3, S, S] -> [B, 256, e, e] on fused attention.

    Shares its layers with the encoder it is made of: copy the encoder first to keep it apart.
    """

    def __init__(self, encoder: ImageEncoderViT) -> None:
        super().__init__()
        side = encoder.pos_embed.shape[1]
        self.patch_embed = encoder.patch_embed
        self.pos_embed = encoder.pos_embed
        self.blocks = nn.ModuleList(FastBlock(block, side) for block in encoder.blocks)
        self.neck = FastNeck(encoder.neck)

    def forward(self, images: Tensor) -> Tensor:
        x = self.enter(images)
        for block in self.blocks:
            x = block(x)
        return self.neck(x)

    def enter(self, images: Tensor) -> Tensor:
        """What enters the first block: [B, e, e, D].

        Contiguous, because the convolution's layout would be passed on from block to block and
        make every layer normalization copy.
        """
        images = images.to(self.pos_embed.dtype)
        return (self.patch_embed(images) + self.pos_embed).contiguous()

    def lower(self, precision: torch.dtype) -> None:
        """Compute in `precision`."""
        self.to(precision)
