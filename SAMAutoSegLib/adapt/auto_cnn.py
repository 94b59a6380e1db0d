"""AutoSAM's CNN head: convolutions from the image embedding to the classes."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

_LAST_WIDTH = 64
_DOUBLINGS = 2  # of the embedding's side, as SAM's own decoder has


class AutoCNN(nn.Module):
    """Image embedding to low-res logits of K classes, class 0 the background.

    Hu et al., "How to Efficiently Adapt Large Segmentation Model (SAM) to Medical Images", 2023
    (arXiv 2306.13731), section 3.2: two 1x1 convolutions, then stages that halve the channels down
    to 64, the last two of which double the resolution; then a 3x3 and a 1x1 convolution. Nothing
    is normalized, and nothing stands between the last two convolutions, as published. Starts from
    random weights; nothing of SAM's decoder is used.

    Args:
        channels: of the embedding.
        classes: K, the number of structures plus one.
        depth: number of stages; 4 as published (20.7 million values), 2 for a smaller one (1.8
            million) without the stages that keep the resolution.
    """

    takes_prompt: ClassVar[bool] = False

    def __init__(self, channels: int, classes: int, depth: int) -> None:
        super().__init__()
        width = _LAST_WIDTH * 2**depth
        layers = [*_convolution(channels, width, 1), *_convolution(width, width, 1)]
        for stages_left in range(depth, 0, -1):
            half = width // 2
            layers += _convolution(width, width, 3)
            if stages_left > _DOUBLINGS:
                layers += _convolution(width, half, 3)
            else:
                layers += _convolution(width, width, 3)
                layers.append(nn.ConvTranspose2d(width, half, 2, stride=2))
            width = half
        layers += [nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, classes, 1)]
        self.layers = nn.Sequential(*layers)

    def forward(self, embedding: Tensor, position: Tensor) -> Tensor:
        """Low-res logits [B, K, 4e, 4e] of an embedding [B, C, e, e]; positions are not used."""
        logits: Tensor = self.layers(embedding)
        return logits


def _convolution(inputs: int, outputs: int, side: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, side, padding=side // 2), nn.ReLU(inplace=True)]
