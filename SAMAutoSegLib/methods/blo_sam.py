"""BLO-SAM: bi-level optimization of a SAM on few labeled slices.

Zhang et al., "BLO-SAM: Bi-level Optimization Based Finetuning of the Segment Anything Model for
Overfitting-Preventing Semantic Segmentation", ICML 2024 (arXiv 2402.16338), section 3: the weights
minimize the loss on one part of the labeled slices (D1, lower level), the prompt embedding
minimizes the loss of those weights on the other part (D2, upper level). Here in first order: the
gradient of the upper level does not see how the weights depend on the prompt.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, get_args

import torch

from SAMAutoSegLib.adapt.adapted_model import Adaptation, AdaptedModel
from SAMAutoSegLib.errors import SAMAutoSegError
from SAMAutoSegLib.methods.method import adamw, batch_loss, descend, draw
from SAMAutoSegLib.methods.settings import Settings, require_between
from SAMAutoSegLib.methods.slice_groups import SliceGroups, Split
from SAMAutoSegLib.methods.training_set import TrainingSet
from SAMAutoSegLib.sam.backbone import Backbone

_LOWER, _UPPER = 1, 2


@dataclass(frozen=True)
class BLOSAMSettings(Settings):
    """Settings of both levels.

    Attributes:
        prompt_learning_rate: of the prompt embedding, with the schedule of `learning_rate`.
        split: 'rotate' lets D1 and D2 change places and members, so that the weights learn from
            all slices in turn; 'half' is the published fixed split.
        prompt_every: steps of the weights per step of the prompt; 1 is the published alternation.
            256 values need fewer steps than a million, and each costs as much as one of theirs.
    """

    prompt_learning_rate: float = 3e-3
    split: Split = "rotate"
    prompt_every: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.split not in get_args(Split):
            raise SAMAutoSegError(f"setting split {self.split}: expected rotate or half")
        require_between("prompt_learning_rate", self.prompt_learning_rate, 1e-9, 1.0)
        require_between("prompt_every", self.prompt_every, 1, 1_000_000)


class BLOSAM:
    """Alternating steps of the two levels, each on its own part of the slices."""

    name: ClassVar[str] = "blo-sam"
    settings_type: ClassVar[type[Settings]] = BLOSAMSettings

    @classmethod
    def adaptation(cls, settings: BLOSAMSettings, backbone: Backbone) -> Adaptation:
        return Adaptation()

    def __init__(self, model: AdaptedModel, samples: TrainingSet, settings: BLOSAMSettings) -> None:
        self.model = model
        self.samples = samples
        self.settings = settings
        self.groups = SliceGroups(samples.groups, settings.split, settings.seed)
        self.lower = adamw(model.weights(), settings.weight_decay)
        # Decay would pull the pretrained embedding towards zero.
        self.upper = adamw([model.prompt_embedding], 0.0)
        # One round lasts until each part was gone through about once.
        self.round_steps = max(1, -(-len(samples) // (2 * settings.batch)))

    def step(self, number: int) -> dict[str, float]:
        first, second = self.groups.parts(number // self.round_steps)
        rate = self.settings.rate_at
        chosen = draw(number, first, self.settings, _LOWER)
        loss = batch_loss(self.model, self.samples, chosen, self.settings, number)
        descend(self.lower, loss, rate(number, self.settings.learning_rate))
        losses = {"weights_loss_on_D1": loss.item()}
        if number % self.settings.prompt_every == self.settings.prompt_every - 1:
            chosen = draw(number // self.settings.prompt_every, second, self.settings, _UPPER)
            loss = batch_loss(self.model, self.samples, chosen, self.settings, number)
            descend(self.upper, loss, rate(number, self.settings.prompt_learning_rate))
            losses["prompt_loss_on_D2"] = loss.item()
        return losses

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        return {"weights": self.lower, "prompt": self.upper}

    def notes(self) -> list[str]:
        notes = [self.groups.describe()]
        if self.settings.split == "half":
            first, _ = self.groups.parts(0)
            missing = self._structures_absent_from(first)
            if missing:
                notes.append(
                    f"structures {missing} are only in the prompt's half of the slices, so the "
                    "weights never see them: use split 'rotate'"
                )
        return [note for note in notes if note]

    def _structures_absent_from(self, slices: list[int]) -> list[int]:
        def present(chosen: list[int]) -> set[int]:
            return set(torch.unique(self.samples.targets[chosen]).tolist())

        return sorted(present(list(range(len(self.samples)))) - present(slices))
