"""How sure a model may be: the temperature that makes its probabilities true.

Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, section 4.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from SAMAutoSegLib.adapt.adapted_model import AdaptedModel
from SAMAutoSegLib.errors import Cancelled
from SAMAutoSegLib.methods.losses import IGNORED
from SAMAutoSegLib.methods.method import Method, sample_logits
from SAMAutoSegLib.methods.settings import Settings
from SAMAutoSegLib.methods.trainer import train
from SAMAutoSegLib.methods.training_set import TrainingSet
from SAMAutoSegLib.progress import Progress, part_of, silent
from SAMAutoSegLib.sam.backbone import Backbone

# One number is fitted: more pixels of a slice tell nothing more of it, and fill the memory.
_PIXELS_OF_A_SLICE = 2**16


def calibrate(
    kind: type[Method],
    model: AdaptedModel,
    samples: TrainingSet,
    settings: Settings,
    backbone: Backbone,
    progress: Progress = silent,
) -> dict[str, Any] | None:
    """The temperature of a model, found with two others of its kind.

    On slices that it learned from, a model is right more often than elsewhere. So each half of the
    groups of neighboring slices is predicted by a model that learned from the other half only.

    Returns:
        `temperature` and the number of `slices`; None with a single group of neighbors.

    Raises:
        Cancelled: by `progress`.
    """
    names = sorted(set(samples.groups))
    if len(names) < 2:
        return None
    # They start anew: a branch that these settings do not train would only add noise.
    side = model.adaptation.pixel_side if settings.pixel_steps else 0
    adaptation = replace(model.adaptation, pixel_side=side)
    logits, targets = [], []
    for half in (0, 1):
        shown = [n for n, group in enumerate(samples.groups) if names.index(group) % 2 != half]
        hidden = [n for n in range(len(samples)) if n not in shown]
        torch.manual_seed(settings.seed)
        other = AdaptedModel(backbone, model.classes, adaptation)
        part = part_of(progress, half / 2, (half + 1) / 2)

        def tell(fraction: float, message: str, part: Progress = part) -> None:
            part(fraction, f"calibrating: {message}")

        ended = train(kind, other, _subset(samples, shown), settings, progress=tell)
        if ended.stopped == "cancelled":
            raise Cancelled("cancelled while calibrating")
        with torch.inference_mode():
            for n in hidden:
                found = sample_logits(other, samples, n, backbone.spec).cpu()
                some = _some_pixels(found, torch.from_numpy(samples.references[n]))
                logits.append(some[0])
                targets.append(some[1])
    return {"temperature": round(fit_temperature(logits, targets), 3), "slices": len(targets)}


def _subset(samples: TrainingSet, chosen: Sequence[int]) -> TrainingSet:
    kept = list(chosen)
    return replace(
        samples,
        features=samples.features[kept],
        targets=samples.targets[kept],
        references=tuple(samples.references[n] for n in kept),
        pixel_spacings=tuple(samples.pixel_spacings[n] for n in kept),
        groups=tuple(samples.groups[n] for n in kept),
        images=tuple(samples.images[n] for n in kept),
        changed=tuple((features[kept], targets[kept]) for features, targets in samples.changed),
    )


def fit_temperature(logits: list[Tensor], targets: list[Tensor]) -> float:
    """The temperature that makes held-out labels most likely.

    Args:
        logits: [K, ...] of slices that nothing was learned from.
        targets: [...] class numbers, `IGNORED` where none is known.

    Returns:
        0.2 to 20, to about one percent; 1 if no pixel is known.
    """
    pixels = [_some_pixels(*pair) for pair in zip(logits, targets, strict=True)]
    columns = torch.cat([values for values, _ in pixels], 1).float()
    classes = torch.cat([numbers for _, numbers in pixels]).long()
    if not len(classes):
        return 1.0

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


def _some_pixels(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Logits [K, n] and class numbers [n] of known pixels, evenly spread where there are many."""
    known = (target != IGNORED).flatten().nonzero()[:, 0]
    known = known[:: -(-len(known) // _PIXELS_OF_A_SLICE) or 1]
    return logits.flatten(1)[:, known], target.flatten()[known]
