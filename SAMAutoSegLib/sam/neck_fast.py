"""The neck that all SAM image encoders end in, channels last."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class FastNeck(nn.Module):
    """1x1 convolution, norm, 3x3 convolution, norm: [B, e, e, D] -> [B, 256, e, e].

    Takes over the layers of the upstream `neck`; its `LayerNorm2d` is a layer normalization of
    the last axis here, one operation instead of eight, and accumulated in float32.
    """

    def __init__(self, neck: Any) -> None:
        super().__init__()
        self.point, self.norm1, self.spread, self.norm2 = neck

    def forward(self, x: Tensor) -> Tensor:
        x = F.linear(x.to(self.point.weight.dtype), self.point.weight.flatten(1))
        x = normalized(self.norm1, x)
        x = self.spread(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return normalized(self.norm2, x).permute(0, 3, 1, 2)

    def lower(self, precision: torch.dtype) -> None:
        """Compute in `precision`."""
        self.to(precision)


def normalized(norm: Any, x: Tensor) -> Tensor:
    """A SAM `LayerNorm2d` on [..., C]."""
    return F.layer_norm(x, norm.weight.shape, norm.weight, norm.bias, norm.eps)
