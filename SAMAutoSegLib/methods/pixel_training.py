"""Trains the pixel branch beside any method that learns from labeled slices."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from SAMAutoSegLib.adapt.adapted_model import AdaptedModel
from SAMAutoSegLib.adapt.pixel_branch import PixelBranch
from SAMAutoSegLib.device import as_precision
from SAMAutoSegLib.images.label_resampling import resample_labels
from SAMAutoSegLib.images.views import changed_view
from SAMAutoSegLib.methods.losses import segmentation_loss
from SAMAutoSegLib.methods.method import Steps, adamw, descend, draw
from SAMAutoSegLib.methods.settings import Settings
from SAMAutoSegLib.methods.training_set import TrainingSet, low_res_target
from SAMAutoSegLib.sam.input_spec import InputSpec

LEARNING_RATE = 3e-3
_WEIGHT_DECAY = 0.01

# Changed views are all that keeps a net from scratch from overfitting, so they may differ much.
_VIEW_STRENGTH = 2.0

# As much cross-entropy as Dice: it has to learn first what is background.
_CE_WEIGHT = 0.5

# Keeps these streams of random numbers apart from those of the methods.
_SLICES, _VIEWS = 11, 12


@dataclass(frozen=True)
class PixelSlice:
    """A slice as the branch learns it.

    Attributes:
        image: uint8 [H, W].
        reference: class numbers [H, W] uint8; `IGNORED` where none is known.
        spacing: (row, column) in mm.
    """

    image: np.ndarray
    reference: np.ndarray
    spacing: tuple[float, float]


class WithPixelBranch:
    """A method, with `Settings.pixel_steps` steps of the pixel branch after each of its own.

    The branch has its own loss. Neither part sees the other while it learns: on the labeled slices
    the SAM is right more often than elsewhere, and the branch would learn to leave all to it.
    """

    def __init__(
        self, method: Steps, model: AdaptedModel, samples: TrainingSet, settings: Settings
    ) -> None:
        assert model.pixels is not None
        self.method = method
        self.settings = settings
        self.slices = pixel_slices(samples, model.pixels.spec)
        features = samples.features
        self.training = PixelTraining(
            model.pixels, settings.seed, settings.gradient_clip, features.dtype, features.device
        )

    def step(self, number: int) -> dict[str, float]:
        losses = self.method.step(number)
        settings, count = self.settings, self.settings.pixel_steps
        rate = settings.rate_at(number, LEARNING_RATE)
        for n in range(number * count, (number + 1) * count):
            chosen = draw(n, list(range(len(self.slices))), settings, _SLICES)
            losses["pixel_loss"] = self.training.step(n, [self.slices[i] for i in chosen], rate)
        return losses

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        return {**self.method.optimizers(), "pixels": self.training.optimizer}

    def notes(self) -> list[str]:
        return self.method.notes()


class PixelTraining:
    """Steps of a branch; everything random at one depends on the seed and its number only."""

    def __init__(
        self,
        branch: PixelBranch,
        seed: int,
        gradient_clip: float,
        precision: torch.dtype,
        device: torch.device,
    ) -> None:
        self.branch, self.seed, self.gradient_clip = branch, seed, gradient_clip
        self.precision, self.device = precision, device
        self.optimizer = adamw(list(branch.parameters()), _WEIGHT_DECAY)

    def step(self, number: int, slices: Iterable[PixelSlice], rate: float) -> float:
        """One step along the loss on a new view of each of these slices; that loss."""
        spec = self.branch.spec
        rng = np.random.default_rng([self.seed, _VIEWS, number])
        pixels, targets = [], []
        for one in slices:
            image, reference = changed_view(
                one.image, one.reference, one.spacing, rng, _VIEW_STRENGTH
            )
            pixels.append(spec.prepare(image))
            targets.append(low_res_target(reference, spec, spec.side))
        with as_precision(self.precision, self.device):
            logits = self.branch(torch.stack(pixels).to(self.device))
        loss = segmentation_loss(logits.float(), torch.stack(targets).to(self.device), _CE_WEIGHT)
        descend(self.optimizer, loss, rate, self.gradient_clip)
        return loss.item()


def pixel_slices(samples: TrainingSet, spec: InputSpec) -> list[PixelSlice]:
    """The labeled slices as a branch with this input learns them."""
    whole = zip(samples.images, samples.references, samples.pixel_spacings, strict=True)
    return [reduced(PixelSlice(*one), spec) for one in whole]


def reduced(one: PixelSlice, spec: InputSpec) -> PixelSlice:
    """A slice not larger than the branch sees it.

    Views of a slice of 512 x 512 pixels would take longer than the step that they are made for.
    """
    rows, columns = one.reference.shape
    place = spec.placement((rows, columns))
    height, width = min(rows, place.height), min(columns, place.width)
    if (height, width) == (rows, columns):
        return one
    size = (width, height)
    small = np.array(Image.fromarray(one.image).resize(size, Image.Resampling.BILINEAR))
    labels = resample_labels(one.reference, (height, width))
    spacing = (one.spacing[0] * rows / height, one.spacing[1] * columns / width)
    return PixelSlice(small, labels, spacing)
