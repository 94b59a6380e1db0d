"""WeSAM as published: a prompted SAM adapts to unlabeled images with prompts.

Zhang et al., CVPR 2024 (arXiv 2312.03502), see `we_sam`. Student, teacher and anchor are given the
same prompts: a box or the points of each instance; of rough paint its box, as in the published
code. Only low-rank updates of the encoder learn. The result is a SAM that takes clicks and boxes as
before. The published views are mirrored too; here only the gray levels change, because prompts and
embeddings stay where they are that way.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from SAMAutoSegLib.adapt.prompted_model import PromptedModel, restore_learned
from SAMAutoSegLib.errors import Cancelled, SAMAutoSegError
from SAMAutoSegLib.images.intensity import Intensity, default_intensity
from SAMAutoSegLib.images.slices import Plane, SliceStack
from SAMAutoSegLib.images.weak_labels import Hint, check_weak_labels
from SAMAutoSegLib.methods.method import AGREEMENT, adamw, descend, draw, is_finite
from SAMAutoSegLib.methods.settings import make_settings
from SAMAutoSegLib.methods.strong_views import degraded
from SAMAutoSegLib.methods.training_set import check_slices
from SAMAutoSegLib.methods.unlabeled_set import UnlabeledVolume
from SAMAutoSegLib.methods.we_sam import Learned, WeSAMSettings, blocks_to_adapt, drift
from SAMAutoSegLib.methods.we_sam_losses import (
    contrastive_loss,
    dice_loss,
    focal_loss,
    prototypes,
    quality_loss,
)
from SAMAutoSegLib.progress import Progress, part_of, silent
from SAMAutoSegLib.sam.backbone import Backbone
from SAMAutoSegLib.sam.embedding_cache import EmbeddingCache, embed_images

# As published: more instances of an image would only cost memory.
_MOST_INSTANCES = 40

_ENCODING_SHARE = 0.4


@dataclass(frozen=True)
class PromptedWeSAMSettings(WeSAMSettings):
    """A step takes a slice as it is; the last weights are the model, of the encoder's updates."""

    batch: int = 1
    views: int = 1
    average: float = 0.0
    confidence: float = 0.0
    learned: Learned = "encoder"
    pixel_steps: int = 0

    unused: ClassVar[tuple[str, ...]] = (
        *WeSAMSettings.unused,
        "average",
        "batch",
        "confidence",
        "learned",
        "patience",
        "pixel_steps",
        "views",
    )


@dataclass(frozen=True)
class PromptedSlice:
    """A slice with M prompts of equally many tokens: its features, and what the anchor makes of it.

    `weak` are features of the slice as it is, `strong` of degraded copies;
    `masks` [1, M, m, m] are the anchor's, hard; `means`, `there` its prototypes; `inside`
    [1, 1, m, m] is the slice without its padding.
    """

    weak: Tensor
    strong: tuple[Tensor, ...]
    sparse: Tensor
    dense: Tensor
    inside: Tensor
    masks: Tensor
    means: Tensor
    there: Tensor


class PromptedWeSAM:
    """The steps; a slice each, with all its instances."""

    def __init__(
        self,
        model: PromptedModel,
        backbone: Backbone,
        slices: Sequence[PromptedSlice],
        settings: PromptedWeSAMSettings,
    ) -> None:
        self.model = model
        self.backbone = backbone
        self.slices = slices
        self.settings = settings
        self.optimizer = adamw(model.learned(), settings.weight_decay)

    def step(self, number: int) -> dict[str, float]:
        settings = self.settings
        (n,) = draw(number, list(range(len(self.slices))), settings)
        seen = self.slices[n]
        rng = np.random.default_rng([settings.seed, number])
        strong = seen.strong[int(rng.integers(len(seen.strong)))]
        _, logits, estimate = self.model(strong, seen.sparse, seen.dense, self.backbone)
        student = logits.sigmoid()[None]
        embedding, logits, _ = self.model(seen.weak, seen.sparse, seen.dense, self.backbone)
        teacher = logits.sigmoid()[None]

        targets = (teacher.detach() > 0.5).float() * seen.inside
        focal = focal_loss(student, targets, seen.inside)
        overlap = dice_loss(student, targets, seen.inside)
        quality = quality_loss(estimate[None], student, targets, seen.inside)
        held = 0.5 * dice_loss(student, seen.masks, seen.inside)
        held = held + 0.5 * dice_loss(teacher, seen.masks, seen.inside)
        own, there = prototypes(embedding, teacher.detach(), seen.inside)
        contrast = contrastive_loss(own, seen.means, there & seen.there, settings.temperature)
        loss = (
            settings.focal_weight * focal
            + overlap
            + quality
            + settings.anchor_weight * held
            + settings.contrast_weight * contrast
        )
        rate = settings.rate_at(number, settings.learning_rate)
        descend(self.optimizer, loss, rate, settings.gradient_clip)
        return {
            "adaptation_loss": loss.item(),
            "self_training_loss": (settings.focal_weight * focal + overlap + quality).item(),
            "anchor_loss": held.item(),
            "contrast_loss": contrast.item(),
            AGREEMENT: 1 - dice_loss(targets, seen.masks, seen.inside).item(),
        }


@dataclass(frozen=True)
class AdaptedSAM:
    """The adapted model, an entry for every step, and why it ended early, if it did."""

    model: PromptedModel
    history: list[dict[str, float]]
    stopped: str
    notes: list[str]


def adapt_prompted(
    volumes: Sequence[UnlabeledVolume],
    backbone: Backbone,
    *,
    plane: Plane,
    settings: dict[str, Any] | None = None,
    intensity: Intensity | None = None,
    cache: EmbeddingCache | None = None,
    progress: Progress = silent,
) -> AdaptedSAM:
    """Adapt a SAM to slices with prompts; where the masks drift away it stays as it was.

    Args:
        settings: where they differ from the defaults of `PromptedWeSAMSettings`.
        intensity: by default that of the first image.
        progress: a `Cancelled` it raises while training ends it, and the last weights are kept.

    Raises:
        SAMAutoSegError: no volume, no slice with a prompt, slices that the image lacks, and what
            `check_weak_labels` refuses.
    """
    if not volumes:
        raise SAMAutoSegError("no volume to adapt to: give at least one with its weak labels")
    chosen = make_settings(PromptedWeSAMSettings, settings or {})
    assert isinstance(chosen, PromptedWeSAMSettings)
    torch.manual_seed(chosen.seed)
    model = PromptedModel(backbone, blocks_to_adapt(chosen, backbone))
    slices = _prompted_slices(
        volumes,
        model,
        backbone,
        plane,
        intensity or default_intensity(volumes[0].image),
        chosen,
        cache,
        part_of(progress, 0.0, _ENCODING_SHARE),
    )
    method = PromptedWeSAM(model, backbone, slices, chosen)
    source = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}
    told = part_of(progress, _ENCODING_SHARE, 1.0)
    prompts = sum(len(seen.sparse) for seen in slices)
    found = AdaptedSAM(model.train(), [], "", [f"adapted with {prompts} prompts"])
    stopped = ""
    for number in range(chosen.steps):
        losses = method.step(number)
        found.history.append({"step": number + 1.0, **losses})
        stopped = drift(found.history, chosen.least_agreement)
        if not (math.isfinite(losses["adaptation_loss"]) and is_finite(model)):
            stopped = "the loss is no number any more"
        if stopped:
            restore_learned(model, source)
            found.notes.append(f"the SAM is kept as it was, because of this: {stopped}")
            break
        held = losses[AGREEMENT]
        line = f"training: step {number + 1} of {chosen.steps}, agreement {held:.2f}"
        try:
            told((number + 1) / chosen.steps, line)
        except Cancelled:
            stopped = "cancelled"
            break
    return AdaptedSAM(model.eval(), found.history, stopped, found.notes)


def _prompted_slices(
    volumes: Sequence[UnlabeledVolume],
    model: PromptedModel,
    backbone: Backbone,
    plane: Plane,
    intensity: Intensity,
    settings: PromptedWeSAMSettings,
    cache: EmbeddingCache | None,
    progress: Progress,
) -> list[PromptedSlice]:
    rng = np.random.default_rng(settings.seed)
    blocks, m = model.adaptation.encoder_blocks, 4 * backbone.embedding_side
    total = sum(len(volume.slices) for volume in volumes)
    slices: list[PromptedSlice] = []
    looked = 0
    for volume in volumes:
        stack = SliceStack(intensity.apply(volume.image.array), volume.image.grid, plane)
        shape = stack.slice_shape
        check_slices(volume.image, volume.slices, stack)
        check_weak_labels(volume.weak, stack, None)
        inside = backbone.spec.slice_to_low_res(torch.ones(1, *shape), m)[None]
        for number in volume.slices:
            prompts = [
                prompt
                for hint in volume.weak.of(number).values()
                for prompt in _prompts(hint, backbone, shape)
            ][:_MOST_INSTANCES]
            if prompts:
                image = stack.slice_at(number)
                images = [image, *(degraded(image, rng) for _ in range(settings.strong))]
                weak, *strong = (
                    embed_images(backbone, [one], cache, blocks)[0][None] for one in images
                )
                for sparse, dense in _alike(prompts):
                    slices.append(
                        _with_anchor(model, backbone, weak, tuple(strong), sparse, dense, inside)
                    )
            looked += 1
            progress(looked / total, f"encoding slices and views: {looked} of {total}")
    if not slices:
        raise SAMAutoSegError(
            "no slice has a box, a point or paint: a prompted SAM is adapted with prompts, so give "
            "weak labels"
        )
    return slices


@torch.no_grad()
def _with_anchor(
    model: PromptedModel,
    backbone: Backbone,
    weak: Tensor,
    strong: tuple[Tensor, ...],
    sparse: Tensor,
    dense: Tensor,
    inside: Tensor,
) -> PromptedSlice:
    """Before the first step the model is the anchor: its updates start without effect."""
    inside = inside.to(weak.device)
    embedding, logits, _ = model(weak, sparse, dense, backbone)
    masks = (logits > 0).float()[None] * inside
    means, there = prototypes(embedding, masks, inside)
    return PromptedSlice(weak, strong, sparse, dense, inside, masks, means, there)


@torch.no_grad()
def _prompts(hint: Hint, backbone: Backbone, shape: tuple[int, int]) -> list[tuple[Tensor, Tensor]]:
    """The embedded prompt of every instance: its box, else the points."""
    spec, device = backbone.spec, backbone.device
    if hint.prompts:
        around = np.array([(c0, r0, c1, r1) for r0, c0, r1, c1 in hint.prompts])
        moved = torch.as_tensor(
            spec.to_input_boxes(around, shape), dtype=torch.float, device=device
        )
        sparse, dense = backbone.prompt_encoder(points=None, boxes=moved, masks=None)
        return list(zip(sparse.split(1), dense.split(1), strict=True))
    if any(sign > 0 for *_, sign in hint.points):
        places = np.array([(column, row) for row, column, _ in hint.points], float)
        moved = torch.as_tensor(
            spec.to_input_points(places, shape), dtype=torch.float, device=device
        )
        signs = torch.tensor([int(sign > 0) for *_, sign in hint.points], device=device)
        sparse, dense = backbone.prompt_encoder(
            points=(moved[None], signs[None]), boxes=None, masks=None
        )
        return [(sparse, dense)]
    return []


def _alike(prompts: Sequence[tuple[Tensor, Tensor]]) -> list[tuple[Tensor, Tensor]]:
    """Prompts with equally many tokens, together: those can be decoded in one pass."""
    counts = sorted({sparse.shape[1] for sparse, _ in prompts})
    groups = [[p for p in prompts if p[0].shape[1] == count] for count in counts]
    return [(torch.cat([s for s, _ in g]), torch.cat([d for _, d in g])) for g in groups]
