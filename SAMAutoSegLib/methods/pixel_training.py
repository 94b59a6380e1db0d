"""Trains the pixel branch beside any method that learns from labeled slices."""

from __future__ import annotations

import numpy as np
import torch

from SAMAutoSegLib.adapt.adapted_model import AdaptedModel
from SAMAutoSegLib.methods.losses import as_precision, segmentation_loss
from SAMAutoSegLib.methods.method import Steps, adamw, descend, draw
from SAMAutoSegLib.methods.settings import Settings
from SAMAutoSegLib.methods.training_set import TrainingSet, low_res_target
from SAMAutoSegLib.methods.views import changed_view

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
        self.samples = samples
        self.settings = settings
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
        samples, settings, spec = self.samples, self.settings, self.branch.spec
        rng = np.random.default_rng([settings.seed, _VIEWS, number])
        pixels, targets = [], []
        for n in draw(number, list(range(len(samples))), settings, _SLICES):
            spacing = samples.pixel_spacings[n]
            image, reference = changed_view(
                samples.images[n], samples.references[n], spacing, rng, _VIEW_STRENGTH
            )
            pixels.append(spec.prepare(image, spacing))
            targets.append(low_res_target(reference, spec, spec.side, spacing))
        device = samples.features.device
        with as_precision(samples.features.dtype, device):
            logits = self.branch(torch.stack(pixels).to(device))
        loss = segmentation_loss(logits.float(), torch.stack(targets).to(device), _CE_WEIGHT)
        rate = settings.rate_at(number // settings.pixel_steps, _LEARNING_RATE)
        descend(self.optimizer, loss, rate, settings.gradient_clip)
        return loss.item()
