"""Heatmap prompts: a head that proposes every instance, and SAM's own decoder for the masks.

For structures that occur many times in a slice (nodules, metastases, nuclei, ribs). The head is the
prompt generator of UOIS-SAM (arXiv 2409.15481): a small convolutional network on the frozen
embedding gives a heatmap of instance centers and the foreground; local maxima prompt SAM. Its
suppression of over-segmentation is done here by the overlap of the masks. Instances to learn from
are the connected parts of every structure in a slice. What comes out is a label map of the
structures, as from every other method; `HeatmapDecoder.instances` gives the single instances.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from SAMAutoSegLib.adapt.adapted_model import Adaptation, AdaptedModel
from SAMAutoSegLib.adapt.heatmap_decoder import HeatmapDecoder
from SAMAutoSegLib.adapt.heatmap_head import HeatmapOutput
from SAMAutoSegLib.device import as_precision
from SAMAutoSegLib.errors import SAMAutoSegError
from SAMAutoSegLib.methods.instance_targets import InstanceTargets, instance_targets
from SAMAutoSegLib.methods.losses import IGNORED
from SAMAutoSegLib.methods.method import adamw, batch_views, descend, draw
from SAMAutoSegLib.methods.settings import Settings, require_one_of
from SAMAutoSegLib.methods.training_set import TrainingSet
from SAMAutoSegLib.sam import catalog
from SAMAutoSegLib.sam.backbone import Backbone

Prompt = Literal["auto", "box", "point"]


@dataclass(frozen=True)
class HeatmapSettings(Settings):
    """Settings of the head's training; `ce_weight` is the foreground's share of the loss.

    Attributes:
        prompt: what the proposals give to SAM: 'box', 'point', or 'auto': points where the
            catalogue knows that the backbone was trained with points, else boxes, which every
            SAM understands.
    """

    shaping: ClassVar[frozenset[str]] = frozenset({"prompt"})

    learning_rate: float = 3e-3
    weight_decay: float = 0.01
    prompt: Prompt = "auto"

    unused: ClassVar[tuple[str, ...]] = ("count_absent",)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_one_of("prompt", self.prompt, get_args(Prompt))


class Heatmap:
    """Trains the head alone; prompt embedding, encoder and decoder stay SAM's own."""

    name: ClassVar[str] = "heatmap"
    settings_type: ClassVar[type[Settings]] = HeatmapSettings

    @classmethod
    def adaptation(cls, settings: HeatmapSettings, backbone: Backbone) -> Adaptation:
        prompt = settings.prompt
        if prompt == "auto":
            entry = catalog.find_by_sha256(backbone.sha256)
            prompt = "point" if entry is not None and entry.takes_points else "box"
        return Adaptation(lora_rank=0, head="heatmap-point" if prompt == "point" else "heatmap-box")

    def __init__(self, model: AdaptedModel, samples: TrainingSet, settings: Any) -> None:
        if not isinstance(model.decoder, HeatmapDecoder):
            raise SAMAutoSegError(
                f"method 'heatmap' cannot train the head {model.adaptation.head}: expected "
                "heatmap-box or heatmap-point"
            )
        self.model = model
        self.decoder = model.decoder
        self.samples = samples
        self.settings = settings
        self.optimizer = adamw([*self.decoder.head.parameters()], settings.weight_decay)

    def step(self, number: int) -> dict[str, float]:
        chosen = draw(number, list(range(len(self.samples))), self.settings)
        features, labels = batch_views(self.model, self.samples, chosen, self.settings, number)
        with as_precision(features.dtype, features.device):
            output = self.decoder.head(features)
        structures, side = self.decoder.head.structures, output.centers.shape[-1]
        targets = [instance_targets(own, structures, side) for own in labels.cpu().numpy()]
        share = self.settings.ce_weight
        centers, boxes, inside = instance_losses(output, targets)
        loss = (1 - share) * (centers + boxes) + share * inside
        rate = self.settings.rate_at(number, self.settings.learning_rate)
        descend(self.optimizer, loss, rate, self.settings.gradient_clip)
        return {
            "training_loss": loss.item(),
            "center_loss": centers.item(),
            "box_loss": boxes.item(),
            "inside_loss": inside.item(),
        }

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        return {"head": self.optimizer}

    def notes(self) -> list[str]:
        return []


def instance_losses(
    output: HeatmapOutput, targets: Sequence[InstanceTargets]
) -> tuple[Tensor, Tensor, Tensor]:
    """Losses of centers, boxes and foreground.

    Centers: the focal loss of CenterNet (arXiv 1904.07850, equation 1), per instance. Boxes: one
    minus the overlap with the true box (FCOS, arXiv 1904.01355), where the Gaussian of a center is
    high. Foreground: cross-entropy, each class present counting the same.
    """
    device = output.centers.device
    heat = torch.stack([target.heat for target in targets]).to(device)
    inside = torch.stack([target.inside for target in targets]).to(device).long()
    valid = inside != IGNORED
    count = max(sum(target.count for target in targets), 1)
    is_center = heat == 1
    hit, miss = F.logsigmoid(output.centers), F.logsigmoid(-output.centers)
    found = hit.exp()
    focal = torch.where(
        is_center, (1 - found) ** 2 * hit, (1 - heat) ** 4 * found**2 * miss * valid[:, None]
    )
    centers = -focal.sum() / count

    weight = torch.stack([target.box_weight for target in targets]).to(device)
    reach = torch.stack([target.reach for target in targets]).to(device)
    missed = 1 - _box_overlap(output.reach, reach)
    boxes = (missed * weight).sum() / weight.sum().clamp(min=1)

    numbers = inside[valid]
    amount = numbers.bincount(minlength=output.inside.shape[1]).clamp(min=1)
    entropy = F.cross_entropy(
        output.inside, inside, weight=1.0 / amount.float(), ignore_index=IGNORED
    )
    return centers, boxes, entropy


def _box_overlap(one: Tensor, other: Tensor) -> Tensor:
    """Intersection over union [B, g, g] of boxes around the same point, as reaches [B, 4, g, g]."""

    def area(reach: Tensor) -> Tensor:
        left, up, right, down = reach.unbind(1)
        return (left + right) * (up + down)

    common = area(torch.minimum(one, other))
    return common / (area(one) + area(other) - common).clamp(min=1e-6)
