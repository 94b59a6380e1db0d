"""Plain joint fine-tuning: prompt embedding and weights together, on all labeled slices."""

from __future__ import annotations

from typing import ClassVar

import torch

from SAMAutoSegLib.adapt.adapted_model import Adaptation, AdaptedModel
from SAMAutoSegLib.methods.method import adamw, batch_loss, descend, draw
from SAMAutoSegLib.methods.settings import Settings
from SAMAutoSegLib.methods.training_set import TrainingSet
from SAMAutoSegLib.sam.backbone import Backbone


class Joint:
    """The baseline of bi-level training: everything that is learned, learned on every slice."""

    name: ClassVar[str] = "joint"
    settings_type: ClassVar[type[Settings]] = Settings

    @classmethod
    def adaptation(cls, settings: Settings, backbone: Backbone) -> Adaptation:
        return Adaptation()

    def __init__(self, model: AdaptedModel, samples: TrainingSet, settings: Settings) -> None:
        self.model = model
        self.samples = samples
        self.settings = settings
        self.optimizer = adamw(model.learned(), settings.weight_decay)

    def step(self, number: int) -> dict[str, float]:
        chosen = draw(number, list(range(len(self.samples))), self.settings)
        loss = batch_loss(self.model, self.samples, chosen, self.settings, number)
        rate = self.settings.rate_at(number, self.settings.learning_rate)
        descend(self.optimizer, loss, rate, self.settings.gradient_clip)
        return {"training_loss": loss.item()}

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        return {"all": self.optimizer}

    def notes(self) -> list[str]:
        return []
