"""SAM-SP: a model that prompts itself with what it found, and learns from its own second look.

SAM-SP, 2024 (arXiv 2408.12364). Published: a pass without a prompt, whose prediction becomes a box;
a second pass with that box, by the same prompt encoder and the same mask decoder; both are trained
end to end, with a self-distillation of the first pass by the second. Neither code nor numbers were
published. Designed here: what the passes share (`PromptedDecoder`), a point and a mask as prompts
besides the box, the loss of both passes, the
distillation (the second pass teaches, temperature 2, weight ramped up over the first fifth), boxes
that are moved at random so that the second pass cannot trust them to the pixel, boxes of the label
where the first pass has not found a structure yet, and a fixed number of prompts a step, so that
many structures do not make a step slow.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from SAMAutoSegLib.adapt.adapted_model import Adaptation, AdaptedModel
from SAMAutoSegLib.adapt.self_prompts import (
    PromptKind,
    SelfPrompts,
    log_odds,
    mask_prompts,
    self_prompts,
    shown_only,
)
from SAMAutoSegLib.device import as_precision
from SAMAutoSegLib.methods.losses import IGNORED, segmentation_loss
from SAMAutoSegLib.methods.method import adamw, apply_gradients, batch_views, draw
from SAMAutoSegLib.methods.settings import Settings, require_between, require_one_of
from SAMAutoSegLib.methods.training_set import TrainingSet
from SAMAutoSegLib.sam.backbone import Backbone

# Keeps this stream of random numbers apart from those that draw slices and views.
_PROMPTS = 5

# A first pass below this Dice has not found the structure: the label's box is taken instead.
_FOUND = 0.5

_RAMP = 0.2


@dataclass(frozen=True)
class SAMSPSettings(Settings):
    """Settings of the second pass.

    Attributes:
        prompt: what of the first pass prompts the second: 'box', and with it a point inside
            ('box-point'), the whole map of the first pass ('box-mask') or both ('box-point-mask').
        prompts: how many structures of a step's slices are prompted, drawn at random; each costs as
            much as a slice without a prompt.
        box_noise: each side of a box is moved by up to this share of the box's width or height.
        prompted_weight: of the loss of the second pass; that of the first has 1.
        distillation: weight of the distillation once it is ramped up; 0: none.
        temperature: of the distillation.
    """

    shaping: ClassVar[frozenset[str]] = frozenset({"prompt"})

    prompt: PromptKind = "box"
    prompts: int = 4
    box_noise: float = 0.1
    prompted_weight: float = 1.0
    distillation: float = 0.5
    temperature: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_one_of("prompt", self.prompt, get_args(PromptKind))
        for name, low, high in (
            ("prompts", 1, 1000),
            ("box_noise", 0.0, 0.4),
            ("prompted_weight", 0.0, 100.0),
            ("distillation", 0.0, 100.0),
            ("temperature", 0.1, 100.0),
        ):
            require_between(name, getattr(self, name), low, high)


class SAMSP:
    """One optimizer for both passes, on all labeled slices."""

    name: ClassVar[str] = "sam-sp"
    settings_type: ClassVar[type[Settings]] = SAMSPSettings

    @classmethod
    def adaptation(cls, settings: SAMSPSettings, backbone: Backbone) -> Adaptation:
        return Adaptation(prompted=True, prompt=settings.prompt)

    def __init__(self, model: AdaptedModel, samples: TrainingSet, settings: SAMSPSettings) -> None:
        self.model = model
        self.samples = samples
        self.settings = settings
        self.optimizer = adamw(model.learned(), settings.weight_decay)

    def step(self, number: int) -> dict[str, float]:
        chosen = draw(number, list(range(len(self.samples))), self.settings)
        features, targets = batch_views(self.model, self.samples, chosen, self.settings, number)
        settings = self.settings
        with as_precision(self.samples.features.dtype, features.device):
            embedding = self.model.embed(features)
            first = self.model.decode(embedding)
            prompts = self._prompts(first, targets, number)
            second = self.model.answer(embedding[prompts.images], prompts)[0] if prompts else None
        loss = segmentation_loss(first, targets, settings.ce_weight, settings.count_absent)
        losses = {"training_loss": 0.0, "first_pass_loss": loss.item()}
        watched = loss.item()
        if second is not None:
            own = _of_class(targets[prompts.images], prompts.classes)
            two = torch.stack([torch.zeros_like(second), second], 1)
            prompted = segmentation_loss(two, own, settings.ce_weight, settings.count_absent)
            student = log_odds(first.float())[prompts.images, prompts.classes]
            taught = distillation_loss(student, second, own != IGNORED, settings.temperature)
            share = min(1.0, number / (_RAMP * settings.steps))
            loss = loss + settings.prompted_weight * prompted
            # Its weight rises from step to step: a watched sum would look like a loss of skill.
            watched = loss.item()
            loss = loss + settings.distillation * share * taught
            losses |= {"prompted_loss": prompted.item(), "distillation_loss": taught.item()}
        self._descend(loss, number)
        return losses | {"training_loss": watched}

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        return {"all": self.optimizer}

    def notes(self) -> list[str]:
        return []

    def _prompts(self, logits: Tensor, targets: Tensor, number: int) -> SelfPrompts:
        """Of some structures: of the first pass, or of the label where it found nothing.

        The mask is the first pass's in either case: the label's would be the answer itself.
        """
        side, kind = self.model.input_side, self.settings.prompt
        place: PromptKind = "box-point" if "point" in kind else "box"
        shown = shown_only(logits.float(), (targets != IGNORED)[:, None])
        found = self_prompts(shown, side, place)
        labels = torch.where(targets == IGNORED, 0, targets).long()
        drawn = self_prompts(F.one_hot(labels, self.model.classes).movedim(3, 1), side, place)
        taken = shown.detach().argmax(1)[found.images] == found.classes.view(-1, 1, 1)
        wanted = labels[found.images] == found.classes.view(-1, 1, 1)
        overlap = 2 * (taken & wanted).sum((1, 2)) / (taken.sum((1, 2)) + wanted.sum((1, 2)))
        found = found.chosen((overlap >= _FOUND) | ~wanted.any(2).any(1))
        there = {(int(b), int(c)) for b, c in zip(found.images, found.classes, strict=True)}
        pairs = zip(drawn.images.tolist(), drawn.classes.tolist(), strict=True)
        absent = [n for n, pair in enumerate(pairs) if pair not in there]
        drawn = drawn.chosen(torch.tensor(absent, dtype=torch.long, device=drawn.boxes.device))
        both = found.joined(drawn)
        rng = np.random.default_rng([self.settings.seed, _PROMPTS, number])
        order = torch.from_numpy(rng.permutation(len(both))[: self.settings.prompts])
        both = both.chosen(order.to(both.boxes.device))
        return replace(
            both,
            boxes=shaken(both.boxes, self.settings.box_noise, side, rng),
            masks=mask_prompts(logits.float(), both.images, both.classes)
            if "mask" in kind
            else None,
        )

    def _descend(self, loss: Tensor, number: int) -> None:
        # A batch without any structure prompts nothing.
        (group,) = self.optimizer.param_groups
        gradients = torch.autograd.grad(
            loss, group["params"], allow_unused=True, materialize_grads=True
        )
        rate = self.settings.rate_at(number, self.settings.learning_rate)
        apply_gradients(self.optimizer, gradients, rate, self.settings.gradient_clip)


def shaken(boxes: Tensor, noise: float, side: int, rng: np.random.Generator) -> Tensor:
    """Boxes [N, 4] with each side moved by up to `noise` of the width or height, inside S x S."""
    sizes = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
    moves = torch.from_numpy(rng.uniform(-noise, noise, boxes.shape)).to(boxes)
    return (boxes + moves * sizes).clamp(0, side)


def distillation_loss(
    student: Tensor, teacher: Tensor, valid: Tensor, temperature: float
) -> Tensor:
    """T^2 KL(teacher || student) of two-class log-odds, averaged over valid pixels.

    No gradient reaches the teacher. Any equal shapes.
    """
    odds = teacher.detach() / temperature
    target = odds.sigmoid()
    entropy = F.binary_cross_entropy_with_logits(odds, target, reduction="none")
    cross = F.binary_cross_entropy_with_logits(student / temperature, target, reduction="none")
    return temperature**2 * ((cross - entropy) * valid).sum() / valid.sum().clamp(min=1)


def _of_class(targets: Tensor, classes: Tensor) -> Tensor:
    """1 where targets [N, m, m] are of one class each [N], else 0; `IGNORED` stays."""
    own = (targets == classes.view(-1, 1, 1)).to(targets.dtype)
    return torch.where(targets == IGNORED, targets, own)
