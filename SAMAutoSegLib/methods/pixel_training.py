"""Trains the pixel branch beside any method that learns from labeled slices."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from SAMAutoSegLib.adapt.adapted_model import AdaptedModel
from SAMAutoSegLib.device import as_precision
from SAMAutoSegLib.images.views import changed_view
from SAMAutoSegLib.methods.losses import segmentation_loss
from SAMAutoSegLib.methods.method import Steps, adamw, descend, draw
from SAMAutoSegLib.methods.settings import Settings
from SAMAutoSegLib.methods.training_set import TrainingSet, low_res_target
from SAMAutoSegLib.sam.input_spec import InputSpec

_LEARNING_RATE = 3e-3
_WEIGHT_DECAY = 0.01

# Changed views are all that keeps a net from scratch from overfitting, so they may differ much.
_VIEW_STRENGTH = 2.0

# As much cross-entropy as Dice: it has to learn first what is background.
_CE_WEIGHT = 0.5

# Keeps these streams of random numbers apart from those of the methods.
_SLICES, _VIEWS = 11, 12


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
        self.branch = model.pixels
        self.settings = settings
        self.precision, self.device = samples.features.dtype, samples.features.device
        self.slices = [
            _reduced(*whole, self.branch.spec)
            for whole in zip(
                samples.images, samples.references, samples.pixel_spacings, strict=True
            )
        ]
        self.optimizer = adamw(list(self.branch.parameters()), _WEIGHT_DECAY)

    def step(self, number: int) -> dict[str, float]:
        losses = self.method.step(number)
        count = self.settings.pixel_steps
        for n in range(number * count, (number + 1) * count):
            losses["pixel_loss"] = self._branch_step(n)
        return losses

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        return {**self.method.optimizers(), "pixels": self.optimizer}

    def notes(self) -> list[str]:
        return self.method.notes()

    def _branch_step(self, number: int) -> float:
        settings, spec = self.settings, self.branch.spec
        rng = np.random.default_rng([settings.seed, _VIEWS, number])
        pixels, targets = [], []
        for n in draw(number, list(range(len(self.slices))), settings, _SLICES):
            image, reference, spacing = self.slices[n]
            image, reference = changed_view(image, reference, spacing, rng, _VIEW_STRENGTH)
            pixels.append(spec.prepare(image, spacing))
            targets.append(low_res_target(reference, spec, spec.side, spacing))
        with as_precision(self.precision, self.device):
            logits = self.branch(torch.stack(pixels).to(self.device))
        loss = segmentation_loss(logits.float(), torch.stack(targets).to(self.device), _CE_WEIGHT)
        rate = settings.rate_at(number // settings.pixel_steps, _LEARNING_RATE)
        descend(self.optimizer, loss, rate, settings.gradient_clip)
        return loss.item()


def _reduced(
    image: np.ndarray, reference: np.ndarray, spacing: tuple[float, float], spec: InputSpec
) -> tuple[np.ndarray, np.ndarray, tuple[float, float]]:
    """A slice, its labels and its spacing, not larger than the branch sees them.

    Views of a slice of 512 x 512 pixels would take longer than the step that they are made for.
    """
    rows, columns = reference.shape
    place = spec.placement((rows, columns), spacing)
    height, width = min(rows, place.height), min(columns, place.width)
    if (height, width) == (rows, columns):
        return image, reference, spacing
    size = (width, height)
    small = np.array(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))
    labels = np.array(Image.fromarray(reference).resize(size, Image.Resampling.NEAREST))
    return small, labels, (spacing[0] * rows / height, spacing[1] * columns / width)
