"""A small head on the embedding that proposes a point and a box for every instance."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_WIDTH = 64

# Before anything is learned every position is a center with a probability of 2 %: else the many
# positions that are none would swamp the first steps (focal loss, arXiv 1708.02002, section 4.1).
_PRIOR_LOGIT = -4.0

# Boxes start with edges this far from their point, as a share of the grid's side.
_FIRST_REACH = 0.05


@dataclass(frozen=True)
class HeatmapOutput:
    """What the head gives, on a grid of g = 2e cells a side.

    Attributes:
        centers: [B, C, g, g] logits: does the center of an instance of structure n + 1 lie here?
        inside: [B, C + 1, g, g] logits of background and structures.
        reach: [B, 4, g, g] cells from here to the left, upper, right and lower edge of the box of
            the instance whose center lies here, above 0.
    """

    centers: Tensor
    inside: Tensor
    reach: Tensor


@dataclass(frozen=True)
class Proposals:
    """N instances in one image, the most certain first; places in units of the input's side.

    Attributes:
        classes: [N] class numbers from 1.
        scores: [N] 0 to 1.
        points: [N, 2] (x, y).
        boxes: [N, 4] (x0, y0, x1, y1), inside the input.
    """

    classes: Tensor
    scores: Tensor
    points: Tensor
    boxes: Tensor


class HeatmapHead(nn.Module):
    """Embedding [B, 256, e, e] to center heatmaps, foreground and box sizes.

    The heatmap of centers with a foreground map is the prompt generator of UOIS-SAM (arXiv
    2409.15481, section III). The box around each center, for backbones that know boxes only, is
    regressed as in FCOS (arXiv 1904.01355, section 3.1), since the center, which has to lie inside
    of the instance, need not be the middle of its box. About 0.11 M values.

    Args:
        structures: C.
        channels: of the embedding.
    """

    def __init__(self, structures: int, channels: int = 256) -> None:
        super().__init__()
        self.structures = structures
        self.body = nn.Sequential(
            nn.Conv2d(channels, _WIDTH, 1),
            nn.GELU(),
            nn.ConvTranspose2d(_WIDTH, _WIDTH, 2, stride=2),
            nn.GELU(),
            nn.Conv2d(_WIDTH, _WIDTH, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(_WIDTH, _WIDTH, 3, padding=1),
            nn.GELU(),
        )
        self.out = nn.Conv2d(_WIDTH, 2 * structures + 1 + 4, 1)
        with torch.no_grad():
            self.out.weight.mul_(0.1)
            bias = torch.zeros(2 * structures + 5)
            bias[:structures] = _PRIOR_LOGIT
            self.out.bias = nn.Parameter(bias)

    def forward(self, embedding: Tensor) -> HeatmapOutput:
        out = self.out(self.body(embedding)).float()
        centers, inside, reach = out.split([self.structures, self.structures + 1, 4], dim=1)
        # Exponential, so that an error of a tenth counts the same in small and large boxes.
        first = _FIRST_REACH * out.shape[-1]
        return HeatmapOutput(centers, inside, first * reach.clamp(-4, 4).exp())


def propose(output: HeatmapOutput, least: float, most: int) -> list[Proposals]:
    """The local maxima of the heatmaps of every image, with their boxes.

    A maximum is the highest of its 3 x 3 cells (CenterNet, arXiv 1904.07850, section 4). Its score
    is the geometric mean of its heatmap value and of the probability of its structure there.

    Args:
        least: score that a maximum has to reach.
        most: maxima that an image may have; the highest are taken.
    """
    heat = output.centers.sigmoid()
    shares = output.inside.softmax(1)[:, 1:]
    scores = (heat * shares).sqrt()
    highest = F.max_pool2d(scores, 3, stride=1, padding=1)
    scores = torch.where(scores == highest, scores, 0.0)
    return [
        _of_image(values, reach, least, most)
        for values, reach in zip(scores, output.reach, strict=True)
    ]


def _of_image(scores: Tensor, reach: Tensor, least: float, most: int) -> Proposals:
    side = scores.shape[-1]
    values, places = scores.flatten().topk(min(most, scores.numel()))
    places = places[values >= least]
    values = values[values >= least]
    classes = places // (side * side) + 1
    rows, columns = places % (side * side) // side, places % side
    points = torch.stack([columns, rows], 1) + 0.5
    left, up, right, down = reach[:, rows, columns]
    boxes = torch.stack(
        [points[:, 0] - left, points[:, 1] - up, points[:, 0] + right, points[:, 1] + down], 1
    )
    return Proposals(classes, values, points / side, boxes.clamp(0, side) / side)
