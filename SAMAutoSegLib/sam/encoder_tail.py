"""An image encoder in two: a frozen front that meets a slice once, and a tuned last part."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from SAMAutoSegLib.errors import SAMAutoSegError
from SAMAutoSegLib.sam.tiny_vit_fast import FastAttentionBlock
from SAMAutoSegLib.sam.vit_fast import FastBlock


class EncoderTail(nn.Module):
    """The last `count` blocks and the neck of a fast encoder, whose modules it takes over.

    [B, ...], what `front_features` gives for the same count -> [B, 256, e, e].
    """

    def __init__(self, encoder: Any, count: int) -> None:
        super().__init__()
        require_tunable(encoder, count)
        self.blocks = encoder.blocks[-count:]
        self.neck: nn.Module = encoder.neck

    def forward(self, features: Tensor) -> Tensor:
        for block in self.blocks:
            features = block(features)
        return self.neck(features)


def front_features(encoder: Any, images: Tensor, count: int) -> Tensor:
    """What enters the last `count` blocks of a fast encoder: [B, h, w, D]."""
    x = encoder.enter(images)
    for block in encoder.blocks[:-count]:
        x = block(x)
    return x


def require_tunable(encoder: Any, count: int) -> None:
    """`SAMAutoSegError` unless a fast encoder has so many last blocks that can be tuned."""
    most = tunable_blocks(encoder)
    if not 1 <= count <= most:
        raise SAMAutoSegError(f"encoder blocks {count}: this backbone has 1 to {most} to tune")


def tunable_blocks(encoder: Any) -> int:
    """How many of the last blocks form one run of attention blocks of the same width."""
    count = 0
    for block in reversed(encoder.blocks):
        if not isinstance(block, FastAttentionBlock | FastBlock):
            break
        count += 1
    return count
