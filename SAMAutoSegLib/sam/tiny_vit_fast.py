"""TinyViT for inference: batch normalization folded, channels last, the wide stem in strips.

In bfloat16 only the products inside the blocks are rounded to it. The stem, what leaves the steps
between stages and the sum that runs through all blocks stay in float32: they cost little, and
rounding them too doubles the error of the embedding.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from SAMAutoSegLib.sam.neck_fast import FastNeck
from SAMAutoSegLib.sam.tiny_vit import (
    Conv2dBN,
    MBConv,
    PatchMerging,
    TinyViT,
    TinyViTBlock,
)

# Size of the widest map inside one strip of the first stage. Maps of this size stay in the caches
# and are allocated anew cheaply; the whole map of 256 x 256 x 256 values is neither.
STRIP_BYTES = 4 << 20


def folded(layer: Conv2dBN) -> tuple[Tensor, Tensor]:
    """Weight and bias of the one convolution that equals a convolution and its normalization."""
    convolution: Any = layer.c
    norm: Any = layer.bn
    factor = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    weight = convolution.weight.double() * factor[:, None, None, None]
    bias = norm.bias.double() - norm.running_mean.double() * factor
    return weight.detach().float(), bias.detach().float()


class Pointwise(nn.Linear):
    """A folded 1x1 convolution on [..., C]."""

    def __init__(self, layer: Conv2dBN) -> None:
        weight, bias = folded(layer)
        super().__init__(weight.shape[1], weight.shape[0])
        self.weight = nn.Parameter(weight.flatten(1), requires_grad=False)
        self.bias = nn.Parameter(bias, requires_grad=False)


class Spatial(nn.Conv2d):
    """A folded convolution on [B, H, W, C]."""

    def __init__(self, layer: Conv2dBN) -> None:
        c: Any = layer.c
        super().__init__(
            c.in_channels, c.out_channels, c.kernel_size, c.stride, c.padding, groups=c.groups
        )
        weight, bias = folded(layer)
        self.weight = nn.Parameter(
            weight.contiguous(memory_format=torch.channels_last), requires_grad=False
        )
        self.bias = nn.Parameter(bias, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class FastMBConv(nn.Module):
    def __init__(self, block: MBConv) -> None:
        super().__init__()
        self.expand = Pointwise(block.conv1)
        self.mix = Spatial(block.conv2)
        self.project = Pointwise(block.conv3)

    def forward(self, x: Tensor) -> Tensor:
        """[B, H, W, C] to the same; on a CPU in strips of rows, with the same result."""
        rows = self._strip_rows(x)
        height = x.shape[1]
        if rows >= height:
            return self._whole(x)
        y = torch.empty_like(x)
        for top in range(0, height, rows):
            # One row more on either side is what the 3 x 3 convolution sees of the neighbors.
            first, last = max(top - 1, 0), min(top + rows + 1, height)
            strip = self._whole(x[:, first:last])
            y[:, top : top + rows] = strip[:, top - first : top - first + rows]
        return y

    def _whole(self, x: Tensor) -> Tensor:
        y = F.gelu(self.expand(x.to(self.expand.weight.dtype)))
        y = F.gelu(self.mix(y))
        return F.gelu(self.project(y) + x)

    def lower(self, precision: torch.dtype) -> None:
        """Compute the convolutions in `precision`."""
        self.to(precision)

    def _strip_rows(self, x: Tensor) -> int:
        if x.device.type != "cpu":
            return x.shape[1]
        row_bytes = x.shape[0] * x.shape[2] * self.expand.out_features * x.element_size()
        return max(STRIP_BYTES // row_bytes, 8)


class FastMerging(nn.Module):
    def __init__(self, merging: PatchMerging) -> None:
        super().__init__()
        self.widen = Pointwise(merging.conv1)
        self.mix = Spatial(merging.conv2)
        self.project = Pointwise(merging.conv3)

    def forward(self, x: Tensor) -> Tensor:
        y = F.gelu(self.widen(x.to(self.widen.weight.dtype))).to(self.mix.weight.dtype)
        return self.project(F.gelu(self.mix(y)))

    def lower(self, precision: torch.dtype) -> None:
        """Compute the first convolution in `precision`."""
        self.widen.to(precision)


class FastAttentionBlock(nn.Module):
    """A `TinyViTBlock` on [B, H, W, C]."""

    bias: Tensor

    def __init__(self, block: TinyViTBlock) -> None:
        super().__init__()
        attention: Any = block.attn
        self.window = block.window
        self.heads = attention.heads
        self.norm = attention.norm
        self.qkv = attention.qkv
        self.proj = attention.proj
        bias = attention.attention_biases.detach()[:, attention.offset_index]
        self.register_buffer("bias", bias[None].contiguous(), persistent=False)
        self.local_conv = Spatial(block.local_conv)
        self.mlp_norm = block.mlp.norm
        self.fc1 = block.mlp.fc1
        self.fc2 = block.mlp.fc2

    def forward(self, x: Tensor) -> Tensor:
        x = x + self._attend_in_windows(x)
        x = self.local_conv(x)
        y = self.mlp_norm(x).to(self.bias.dtype)
        return x + self.fc2(F.gelu(self.fc1(y)))

    def lower(self, precision: torch.dtype) -> None:
        """Compute the matrix products in `precision`."""
        for module in (self.qkv, self.proj, self.fc1, self.fc2):
            module.to(precision)
        self.bias = self.bias.to(precision)

    def _attend_in_windows(self, x: Tensor) -> Tensor:
        batch, height, width, channels = x.shape
        w = self.window
        x = F.pad(x, (0, 0, 0, -width % w, 0, -height % w))
        rows, columns = x.shape[1] // w, x.shape[2] // w
        x = x.view(batch, rows, w, columns, w, channels).transpose(2, 3)
        x = self.norm(x.reshape(-1, w * w, channels)).to(self.bias.dtype)
        qkv = self.qkv(x).view(-1, w * w, self.heads, 3, channels // self.heads)
        q, k, v = qkv.permute(3, 0, 2, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=self.bias)
        y = self.proj(y.transpose(1, 2).reshape(-1, w * w, channels))
        y = y.view(batch, rows, columns, w, w, channels).transpose(2, 3)
        return y.reshape(batch, rows * w, columns * w, channels)[:, :height, :width]


class FastTinyViT(nn.Module):
    """`TinyViT` [B, 3, S, S] -> [B, 256, e, e]; its attention layers are the given encoder's."""

    def __init__(self, encoder: TinyViT) -> None:
        super().__init__()
        stem: Any = encoder.patch_embed.seq
        self.stem = nn.ModuleList([Spatial(stem[0]), Spatial(stem[2])])
        layers: list[Any] = list(encoder.layers)
        self.first = nn.ModuleList(FastMBConv(block) for block in layers[0].blocks)
        self.first_merging = FastMerging(layers[0].downsample)
        blocks: list[nn.Module] = []
        for layer in layers[1:]:
            blocks += [FastAttentionBlock(block) for block in layer.blocks]
            if layer.downsample is not None:
                blocks.append(FastMerging(layer.downsample))
        self.blocks = nn.ModuleList(blocks)
        self.neck = FastNeck(encoder.neck)

    def forward(self, images: Tensor) -> Tensor:
        x = self.enter(images)
        for block in self.blocks:
            x = block(x)
        return self.neck(x)

    def lower(self, precision: torch.dtype) -> None:
        """Compute in `precision` what bears it."""
        for module in [*self.first, self.first_merging, *self.blocks, self.neck]:
            module.lower(precision)

    def enter(self, images: Tensor) -> Tensor:
        """What enters the first attention block: [B, S/2, S/2, 128] with a stem of stride 1."""
        x = images.permute(0, 2, 3, 1).contiguous()
        x = self.stem[1](F.gelu(self.stem[0](x)))
        for block in self.first:
            x = block(x)
        return self.first_merging(x)
