"""How likely the label of every voxel is wrong, and which slices deserve the first look."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from SAMAutoSegLib.adapt.adapted_file import ModelCard

CALIBRATION = "calibration"
"""Entry of a model card's provenance: a mapping with the number `temperature`."""


def temperature_of(card: ModelCard) -> float:
    """What the model's logits are divided by: that of its calibration, else 1."""
    calibration = card.provenance.get(CALIBRATION) or {}
    return float(calibration.get("temperature", 1.0))


def wrong_probability(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """The probability [H, W] that the most probable class is not the true one.

    One minus the highest softmax probability of logits [K, H, W] divided by the temperature (Guo
    et al., "On Calibration of Modern Neural Networks", ICML 2017, section 4.2), 0 to 1 - 1/K. Its
    sum over a slice is the number of wrong pixels to expect there.
    """
    return 1 - (logits / temperature).softmax(0).amax(0)


def first_to_check(by_slice: Mapping[int, float]) -> list[int]:
    """Slice numbers, that with the most to correct first; of equals the first in the volume."""
    return sorted(by_slice, key=lambda number: (-by_slice[number], number))


def fit_temperature(logits: list[Tensor], targets: list[Tensor], ignored: int) -> float:
    """The temperature that makes held-out labels most likely.

    Args:
        logits: [K, H, W] of slices that nothing was learned from.
        targets: [H, W] class numbers, `ignored` where none is known.

    Returns:
        0.2 to 20, to about one percent; 1 if no pixel is known.
    """
    known = [target != ignored for target in targets]
    if not any(bool(where.any()) for where in known):
        return 1.0
    columns = torch.cat([z[:, w] for z, w in zip(logits, known, strict=True)], 1).float()
    classes = torch.cat([t[w] for t, w in zip(targets, known, strict=True)]).long()

    def cost(exponent: float) -> float:
        scaled = columns * 2.0**-exponent
        chosen = scaled.gather(0, classes[None])[0]
        return float((scaled.logsumexp(0) - chosen).double().mean())

    # Convex in 1 / temperature, so with one minimum: golden section.
    low, high = torch.log2(torch.tensor([0.2, 20.0])).tolist()
    share = (5**0.5 - 1) / 2
    inner = [high - share * (high - low), low + share * (high - low)]
    costs = [cost(inner[0]), cost(inner[1])]
    while high - low > 0.01:
        if costs[0] < costs[1]:
            high, inner[1], costs[1] = inner[1], inner[0], costs[0]
            inner[0] = high - share * (high - low)
            costs[0] = cost(inner[0])
        else:
            low, inner[0], costs[0] = inner[0], inner[1], costs[1]
            inner[1] = low + share * (high - low)
            costs[1] = cost(inner[1])
    return float(2.0 ** ((low + high) / 2))
