"""What models that learned from one half of the slices say of the other half.

On slices that it learned from, a model is right more often than elsewhere, so these cannot tell how
sure it may be, nor how much its pixel branch should have to say. Both are single numbers, which a
few slices can: they are found across the halves, then the model that learned from all slices takes
them over. The temperature is that of Guo et al., "On Calibration of Modern Neural Networks", ICML
2017, section 4.2; the weight is designed here, in the manner of BLO-SAM's upper level.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import log2
from typing import Any

import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from SAMAutoSegLib.adapt.adapted_model import AdaptedModel
from SAMAutoSegLib.adapt.pixel_branch import product
from SAMAutoSegLib.device import as_precision
from SAMAutoSegLib.errors import Cancelled
from SAMAutoSegLib.methods.losses import IGNORED, segmentation_loss
from SAMAutoSegLib.methods.method import Method, sample_low_res
from SAMAutoSegLib.methods.settings import Settings
from SAMAutoSegLib.methods.trainer import train
from SAMAutoSegLib.methods.training_set import TrainingSet
from SAMAutoSegLib.progress import Progress, part_of, silent
from SAMAutoSegLib.sam.backbone import Backbone

PIXEL_WEIGHTS = (0.25, 0.5, 1.0, 2.0)
"""Of the pixel branch: those that are tried. It errs elsewhere than the SAM, so none is never best
by much, and with more than twice the SAM's say it is nearly alone."""

# Few numbers are fitted: more pixels of a slice tell nothing more of them, and fill the memory.
_PIXELS_OF_A_SLICE = 2**16


@dataclass(frozen=True)
class Opinion:
    """What is said of some pixels of a slice by models that did not learn from it.

    Attributes:
        sam, branch: logarithms of probabilities [K, n]; no `branch` without one.
        classes: [n], the true ones.
    """

    sam: Tensor
    branch: Tensor | None
    classes: Tensor

    def agreed(self, weight: float) -> Tensor:
        """Logits [K, n] with a weight of the branch."""
        return self.sam if self.branch is None else product(self.sam, self.branch, weight)


def cross_fit(
    kind: type[Method],
    model: AdaptedModel,
    samples: TrainingSet,
    settings: Settings,
    backbone: Backbone,
    *,
    choose_weight: bool = False,
    in_the_end: Callable[[float], float] = lambda weight: weight,
    progress: Progress = silent,
) -> dict[str, Any] | None:
    """The temperature of a model, and the weight of its pixel branch, found with two others.

    Each half of the volumes, or of the groups of neighboring slices of a single volume, is
    predicted by a model that learned from the other half only. The weight is the one of
    `PIXEL_WEIGHTS` with the least loss of the training over all of them. Not the one that makes the
    labels most likely: that is told by the slice that is understood least.

    Args:
        model: says what is adapted; it is left as it is.
        settings: of the two trainings.
        choose_weight: by default the weight stays the model's own.
        in_the_end: the weight that the branch will have if this is the best one. The temperature is
            that of a model with this weight.

    Returns:
        `temperature`, the number of `slices`, and `pixel_weight` where it was chosen; None with a
        single group of neighbors.

    Raises:
        Cancelled: by `progress`.
    """
    said = _opinions(kind, model, samples, settings, backbone, progress)
    if said is None:
        return None
    weights = PIXEL_WEIGHTS if choose_weight else (model.adaptation.pixel_weight,)
    weight = min(weights, key=lambda weight: _loss(said, weight, settings.ce_weight))
    agreed = [one.agreed(in_the_end(weight)) for one in said]
    temperature = fit_temperature(agreed, [one.classes for one in said])
    found = {"temperature": round(temperature, 3), "slices": len(said)}
    return found | ({"pixel_weight": weight} if choose_weight else {})


def _loss(said: Sequence[Opinion], weight: float, ce_weight: float) -> float:
    """`segmentation_loss` over the pixels of all slices, as if they were one."""
    logits = torch.cat([one.agreed(weight) for one in said], 1)
    classes = torch.cat([one.classes for one in said])
    return float(segmentation_loss(logits[None, ..., None], classes[None, :, None], ce_weight))


def _opinions(
    kind: type[Method],
    model: AdaptedModel,
    samples: TrainingSet,
    settings: Settings,
    backbone: Backbone,
    progress: Progress,
) -> list[Opinion] | None:
    """Of every slice; None with a single group of neighbors."""
    # What holds for other patients is told by patients that nothing was learned from.
    parties = samples.owners if samples.of_several_volumes else samples.groups
    names = sorted(set(parties))
    if len(names) < 2:
        return None
    # They start anew: a branch that these settings do not train would only add noise.
    side = model.adaptation.pixel_side if settings.pixel_steps else 0
    adaptation = replace(model.adaptation, pixel_side=side)
    said = []
    for half in (0, 1):
        shown = [n for n, party in enumerate(parties) if names.index(party) % 2 != half]
        hidden = [n for n in range(len(samples)) if n not in shown]
        torch.manual_seed(settings.seed)
        other = AdaptedModel(backbone, model.classes, adaptation)
        part = part_of(progress, half / 2, (half + 1) / 2)

        def tell(fraction: float, message: str, part: Progress = part) -> None:
            part(fraction, f"checking on the other half: {message}")

        known = samples.chosen(shown)
        settle = settings.steps_to_settle(False, known.of_several_volumes)
        ended = train(kind, other, known, settings, settle=settle, progress=tell)
        if ended.stopped == "cancelled":
            raise Cancelled("cancelled while checking on the other half")
        with torch.inference_mode():
            said += [_opinion(other, samples, n, backbone) for n in hidden]
    return said


def _opinion(model: AdaptedModel, samples: TrainingSet, n: int, backbone: Backbone) -> Opinion:
    reference = torch.from_numpy(samples.references[n])
    low_res = sample_low_res(model, samples, n)
    logits = backbone.spec.logits_to_slice(low_res, samples.references[n].shape)
    with as_precision(samples.features.dtype, samples.features.device):
        branch = None if model.pixels is None else model.pixels.log_shares(samples.images[n])
    sam, classes = _some_pixels(logits.log_softmax(0).cpu(), reference)
    return Opinion(
        sam, None if branch is None else _some_pixels(branch.cpu(), reference)[0], classes
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

    # Convex in 1 / temperature, so with one minimum.
    found = minimize_scalar(
        cost, bounds=(log2(0.2), log2(20)), method="bounded", options={"xatol": 0.005}
    )
    return float(2.0**found.x)


def _some_pixels(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Logits [K, n] and class numbers [n] of known pixels, evenly spread where there are many."""
    known = (target != IGNORED).flatten().nonzero()[:, 0]
    known = known[:: -(-len(known) // _PIXELS_OF_A_SLICE) or 1]
    return logits.flatten(1)[:, known], target.flatten()[known]
