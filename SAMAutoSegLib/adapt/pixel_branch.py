"""A small U-Net that looks at the pixels themselves, beside a SAM that looks at its embedding.

SAM's embedding has one vector for 16 x 16 pixels of its input (LiteMedSAM's for 4 x 4), and few
changed views of a slice can be encoded in the time of a training. A small net from scratch
(Ronneberger et al., MICCAI 2015) is worse alone, but it sees every pixel and a new view at every
step, so it errs elsewhere: the product of both is better than either. Designed here; nothing of it
is published.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from SAMAutoSegLib.sam.input_spec import InputSpec

# Beyond this a training on a CPU would take too long, for little: the SAM sees the slice larger.
PIXEL_SIDES = (32, 64, 128)

# The coarsest maps have this side, so that a pixel there sees most of the slice.
_BOTTOM = 8
_FIRST_CHANNELS, _MOST_CHANNELS = 16, 128


class PixelBranch(nn.Module):
    """Pixels of a slice to logits of K classes at the same size.

    Args:
        spec: how its square input is prepared; the side is a power of two, see `pixel_side_for`.
        classes: K, the number of structures plus one.
        weight: of what it says in the product, where the SAM has 1.
    """

    def __init__(self, spec: InputSpec, classes: int, weight: float) -> None:
        super().__init__()
        self.spec = spec
        self.weight = weight
        halvings = (spec.side // _BOTTOM).bit_length() - 1
        widths = [min(_FIRST_CHANNELS << n, _MOST_CHANNELS) for n in range(halvings + 1)]
        self.stem = _convolutions(3, widths[0])
        self.down = nn.ModuleList(
            _convolutions(fine, coarse, stride=2)
            for fine, coarse in zip(widths, widths[1:], strict=False)
        )
        self.up = nn.ModuleList(
            _convolutions(fine + coarse, fine)
            for fine, coarse in zip(widths, widths[1:], strict=False)
        )
        self.output = nn.Conv2d(widths[0], classes, 1)

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits [B, K, s, s] of slices [B, 3, s, s] that `spec` prepared."""
        maps = [self.stem(pixels.contiguous(memory_format=torch.channels_last))]
        for block in self.down:
            maps.append(block(maps[-1]))
        found = maps.pop()
        for block in reversed(self.up):
            found = block(torch.cat([F.interpolate(found, scale_factor=2.0), maps.pop()], 1))
        return self.output(found)

    def agreed(self, logits: Tensor, image: np.ndarray) -> Tensor:
        """The weighted product of what the SAM and the branch find.

        Args:
            logits: [K, H, W] of the SAM at the size of the slice.
            image: uint8 [H, W].

        Returns:
            Logits [K, H, W], no surer than the two are on average.
        """
        sam = logits.float().log_softmax(0)
        return product(sam, self.log_shares(image), self.weight)

    def log_shares(self, image: np.ndarray) -> Tensor:
        """Logarithms of what the branch alone finds likely [K, H, W], at the size of the slice."""
        rows, columns = image.shape
        found = self.spec.logits_to_slice(self._padded_logits(image), (rows, columns))
        return found.log_softmax(0)

    def low_res_shares(self, image: np.ndarray, side: int) -> Tensor:
        """The same where low-res logits of that side have the slice: [K, side, side]."""
        found = self._padded_logits(image).log_softmax(0)[None]
        return F.interpolate(found, (side, side), mode="bilinear", align_corners=False)[0]

    def _padded_logits(self, image: np.ndarray) -> Tensor:
        """[K, s, s], float32, of the square input that the slice is padded to."""
        return self(self.spec.prepare(image)[None].to(self.output.weight.device))[0].float()


def product(sam: Tensor, branch: Tensor, weight: float) -> Tensor:
    """The weighted product of two opinions, logarithms of probabilities [K, ...], as logits.

    Divided by the sum of weights, so that it is no surer than the two are on average.
    """
    return (sam + weight * branch) / (1 + weight)


def pixel_side_for(images: Iterable[np.ndarray]) -> int:
    """The smallest side at which no pixel of these slices is lost, or else the largest there is."""
    longest = max(max(image.shape) for image in images)
    return next((side for side in PIXEL_SIDES if side >= longest), PIXEL_SIDES[-1])


def _convolutions(channels: int, to: int, stride: int = 1) -> nn.Sequential:
    # Norms of groups of channels would be faster on a CPU, but learn far too slowly.
    return nn.Sequential(
        nn.Conv2d(channels, to, 3, stride, 1, bias=False),
        nn.InstanceNorm2d(to, affine=True),
        nn.ReLU(),
        nn.Conv2d(to, to, 3, 1, 1, bias=False),
        nn.InstanceNorm2d(to, affine=True),
        nn.ReLU(),
    )
