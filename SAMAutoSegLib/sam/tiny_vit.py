"""TinyViT, the small image encoder of MobileSAM (side 1024) and LiteMedSAM (side 256).

Wu et al., "TinyViT: Fast Pretraining Distillation for Small Vision Transformers", ECCV 2022;
Zhang et al., "Faster Segment Anything" (MobileSAM), 2023. Module names are those of the published
checkpoints, so their tensors load unchanged; the classification head of MobileSAM has no part here.

Feature maps stay ``[B, C, H, W]`` between blocks. Both published variants reach an embedding of
one value per 16 pixels of side 1024, and per 4 pixels of side 256.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EMBED_DIMS = (64, 128, 160, 320)
DEPTHS = (2, 2, 6, 2)
NUM_HEADS = (2, 4, 5, 10)
WINDOW_SIZES = (7, 7, 14, 7)
OUT_CHANNELS = 256


class Conv2dBN(nn.Sequential):
    """Convolution without bias followed by batch normalization (children ``c`` and ``bn``)."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1
    ) -> None:
        super().__init__()
        self.add_module(
            "c",
            nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        )
        self.add_module("bn", nn.BatchNorm2d(outputs))


class LayerNorm2d(nn.Module):
    """Layer normalization over the channels of ``[B, C, H, W]``, as SAM's neck has it."""

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(1, keepdim=True)
        variance = (x - mean).pow(2).mean(1, keepdim=True)
        x = (x - mean) / torch.sqrt(variance + self.eps)
        return self.weight[:, None, None] * x + self.bias[:, None, None]


class PatchEmbed(nn.Module):
    """Two convolutions to ``EMBED_DIMS[0]`` channels.

    ``stem_stride`` 2 (MobileSAM) gives a quarter of the side; 1 (LiteMedSAM) keeps it, with
    1x1 kernels.
    """

    def __init__(self, stem_stride: int) -> None:
        super().__init__()
        kernel = 3 if stem_stride == 2 else 1
        width = EMBED_DIMS[0]
        self.seq = nn.Sequential(
            Conv2dBN(3, width // 2, kernel, stem_stride),
            nn.GELU(),
            Conv2dBN(width // 2, width, kernel, stem_stride),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.seq(x)


class MBConv(nn.Module):
    """Inverted bottleneck: expand by four, depth-wise 3x3, project, add."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = channels * 4
        self.conv1 = Conv2dBN(channels, hidden)
        self.conv2 = Conv2dBN(hidden, hidden, 3, groups=hidden)
        self.conv3 = Conv2dBN(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        y = F.gelu(self.conv1(x))
        y = F.gelu(self.conv2(y))
        return F.gelu(self.conv3(y) + x)


class PatchMerging(nn.Module):
    """Change the width and, with ``stride`` 2, halve the side."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = Conv2dBN(inputs, outputs)
        self.conv2 = Conv2dBN(outputs, outputs, 3, stride, groups=outputs)
        self.conv3 = Conv2dBN(outputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv3(F.gelu(self.conv2(F.gelu(self.conv1(x)))))


def relative_offset_index(side: int) -> Tensor:
    """Index ``[side², side²]`` of the learned bias shared by all pairs of equal |dy|, |dx|.

    The numbering follows the checkpoints: an offset gets the next number when it is first met,
    and row-major order meets them row by row, so the number is ``|dy| * side + |dx|``.
    """
    steps = torch.arange(side)
    distance = (steps[:, None] - steps[None, :]).abs()
    rows = distance.repeat_interleave(side, 0).repeat_interleave(side, 1)
    columns = distance.repeat(side, side)
    return rows * side + columns


class Attention(nn.Module):
    """Multi-head self-attention inside one window, with a learned bias per relative offset."""

    offset_index: Tensor

    def __init__(self, channels: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads = heads
        self.scale = (channels // heads) ** -0.5
        self.exact = False  # True: the reference's order of operations, bit for bit
        self.norm = nn.LayerNorm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)
        self.attention_biases = nn.Parameter(torch.zeros(heads, window * window))
        self.register_buffer("offset_index", relative_offset_index(window), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Attend within windows: ``[windows, window², C]`` to the same shape."""
        windows, tokens, channels = x.shape
        qkv = self.qkv(self.norm(x)).view(windows, tokens, self.heads, 3, -1)
        q, k, v = qkv.permute(3, 0, 2, 1, 4)  # each [windows, heads, tokens, C / heads]
        bias = self.attention_biases[:, self.offset_index]
        if self.exact:
            weights = ((q @ k.transpose(-2, -1)) * self.scale + bias).softmax(dim=-1)
            y = weights @ v
        else:
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias[None].to(q.dtype))
        return self.proj(y.transpose(1, 2).reshape(windows, tokens, channels))


class Mlp(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.fc1 = nn.Linear(channels, 4 * channels)
        self.fc2 = nn.Linear(4 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(self.norm(x))))


class TinyViTBlock(nn.Module):
    """Window attention, a depth-wise convolution across the windows' borders, and an MLP."""

    def __init__(self, channels: int, heads: int, window: int) -> None:
        super().__init__()
        self.window = window
        self.attn = Attention(channels, heads, window)
        self.mlp = Mlp(channels)
        self.local_conv = Conv2dBN(channels, channels, 3, groups=channels)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self._attend_in_windows(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        x = self.local_conv(x)
        return x + self.mlp(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    def _attend_in_windows(self, x: Tensor) -> Tensor:
        batch, height, width, channels = x.shape
        w = self.window
        # Padded positions stay in the attention (as keys), as in the published model.
        x = F.pad(x, (0, 0, 0, -width % w, 0, -height % w))
        rows, columns = x.shape[1] // w, x.shape[2] // w
        x = x.view(batch, rows, w, columns, w, channels).transpose(2, 3)
        x = self.attn(x.reshape(-1, w * w, channels))
        x = x.view(batch, rows, columns, w, w, channels).transpose(2, 3)
        return x.reshape(batch, rows * w, columns * w, channels)[:, :height, :width]


class Stage(nn.Module):
    """Blocks of one width, then the step to the next width (none after the last stage)."""

    def __init__(self, blocks: list[nn.Module], downsample: nn.Module | None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x if self.downsample is None else self.downsample(x)


class TinyViT(nn.Module):
    """Image ``[B, 3, S, S]`` to embedding ``[B, 256, e, e]``.

    ``e`` is S/16 with a stem of stride 2 (MobileSAM) and S/4 with stride 1 (LiteMedSAM).
    """

    def __init__(self, stem_stride: int) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed(stem_stride)
        self.layers = nn.ModuleList()
        for n, width in enumerate(EMBED_DIMS):
            blocks: list[nn.Module] = [
                MBConv(width) if n == 0 else TinyViTBlock(width, NUM_HEADS[n], WINDOW_SIZES[n])
                for _ in range(DEPTHS[n])
            ]
            downsample = None
            if n + 1 < len(EMBED_DIMS):
                # SAM needs a finer map than classification, so the last step keeps the side.
                stride = 1 if n + 2 == len(EMBED_DIMS) else 2
                downsample = PatchMerging(width, EMBED_DIMS[n + 1], stride)
            self.layers.append(Stage(blocks, downsample))
        self.neck = nn.Sequential(
            nn.Conv2d(EMBED_DIMS[-1], OUT_CHANNELS, 1, bias=False),
            LayerNorm2d(OUT_CHANNELS),
            nn.Conv2d(OUT_CHANNELS, OUT_CHANNELS, 3, padding=1, bias=False),
            LayerNorm2d(OUT_CHANNELS),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embed(x)
        for layer in self.layers:
            x = layer(x)
        return self.neck(x)
