"""WeSAM: a model adapts to a new scanner or protocol from slices without contours.

Zhang et al., "Improving the Generalization of Segmentation Foundation Model under Distribution
Shift via Weakly Supervised Adaptation", CVPR 2024 (arXiv 2312.03502): a student that sees a
strongly changed view learns from a teacher that sees the slice as it is. The two share their
weights. A frozen copy of the source, the anchor, holds both back, and features pooled over the
masks are kept close to the anchor's. What the weak labels say corrects teacher and anchor alike,
as a prompt does in the published form; here the model stays prompt-free.

With one structure the published contrast is zero. The background takes part in it here.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from SAMAutoSegLib.adapt.adapted_model import Adaptation, AdaptedModel
from SAMAutoSegLib.device import as_precision
from SAMAutoSegLib.errors import SAMAutoSegError
from SAMAutoSegLib.methods.losses import IGNORED, mean_dice
from SAMAutoSegLib.methods.method import AGREEMENT, adamw, descend, draw
from SAMAutoSegLib.methods.settings import Settings, require_between, require_one_of
from SAMAutoSegLib.methods.unlabeled_set import UnlabeledSet
from SAMAutoSegLib.methods.we_sam_losses import (
    contrastive_loss,
    dice_loss,
    focal_loss,
    prototypes,
)
from SAMAutoSegLib.methods.weak_evidence import Evidence, corrected, pseudo_labels
from SAMAutoSegLib.sam.backbone import Backbone
from SAMAutoSegLib.sam.encoder_tail import tunable_blocks

Learned = Literal["encoder", "all"]
Schedule = Literal["polynomial", "constant"]

# How the note on an adapted model begins.
ADAPTED = "adapted: "

_VIEWS = 3

# Without weak labels: how much more alike predictions for changed views have to become.
_LEAST_GAIN = 0.01

# Without weak labels: a source that segments changed views as alike as this is left alone. More
# alike is not better then: chosen after two models had become worse, one while it rose from 0.83
# to 0.89, one while it rose from 0.70 to 0.85. Those that became better began at 0.62 or below.
_SURE_SOURCE = 0.65

# Dice with what is marked; a source below it finds nothing that it could teach itself.
_LOST = 0.1

# Steps over which the agreement is averaged before it can stop the training.
_WINDOW = 10


@dataclass(frozen=True)
class WeSAMSettings(Settings):
    """Settings of the adaptation; those of `Settings` that it makes no use of are refused.

    Those are of other losses, of labeled slices, and of a pixel branch that begins anew: one that
    the source model has goes on. Views of the SAM are moved as mildly as slices of one volume.

    Attributes:
        learned: 'encoder', as published, the low-rank updates of the encoder's blocks alone; 'all'
            also what the source model learned.
        encoder_blocks: how many of the encoder's last blocks are adapted; 0: all that can be, as
            published (a ViT has no others; of TinyViT those are the last two). A step costs what
            these blocks cost, forward twice and backward twice; the ones before are run once.
        strong: how many degraded copies of every view are encoded.
        focal_weight, anchor_weight, contrast_weight: of the losses; that of Dice is 1.
        temperature: of the contrast.
        confidence: the least probability of a pixel in a pseudo-label; others are left out.
        least_agreement: the share of the agreement with the anchor that has to remain. The
            training stops where it falls below; what it had found until then is not taken for bad
            because of that, but judged as after any training, see `WeSAM.concluded`.
        schedule: of the learning rate, 'polynomial' as elsewhere; 'constant', as published, after
            the warm-up.
        pixel_steps: of the source's pixel branch for each of the SAM's, after these, where there
            are weak labels, see `adapt_branch`; 0: it stays as it is.
    """

    steps: int = 150
    learning_rate: float = 2e-3
    weight_decay: float = 1e-4
    feature_dropout: float = 0.0
    patience: float = 0.0
    learned: Learned = "all"
    encoder_blocks: int = 2
    strong: int = 1
    focal_weight: float = 20.0
    anchor_weight: float = 1.0
    contrast_weight: float = 1.0
    temperature: float = 0.3
    confidence: float = 0.5
    least_agreement: float = 0.8
    schedule: Schedule = "polynomial"
    pixel_steps: int = 1

    unused: ClassVar[tuple[str, ...]] = (
        "ce_weight",
        "count_absent",
        "feature_dropout",
        "teach_branch",
        "spare_every",
        "pixel_weight",
        "view_strength",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require_one_of("learned", self.learned, get_args(Learned))
        require_one_of("schedule", self.schedule, get_args(Schedule))
        require_between("encoder_blocks", self.encoder_blocks, 0, 1000)
        require_between("strong", self.strong, 1, 100)
        for name in ("focal_weight", "anchor_weight", "contrast_weight"):
            require_between(name, getattr(self, name), 0.0, 1000.0)
        require_between("temperature", self.temperature, 0.01, 100.0)
        require_between("confidence", self.confidence, 0.0, 0.999)
        require_between("least_agreement", self.least_agreement, 0.0, 1.0)

    def rate_at(self, step: int, peak: float) -> float:
        if self.schedule == "constant":
            return peak * min(1.0, (step + 1) / (self.warmup + 1))
        return super().rate_at(step, peak)

    @classmethod
    def recipes(cls, slices: int) -> dict[str, dict[str, Any]]:
        """As published but for AdamW in place of Adam, no flips, and strong views drawn once."""
        return {
            "published": {
                "steps": 40_000,
                "batch": 1,
                "learning_rate": 1e-4,
                "warmup": 250,
                "learned": "encoder",
                "encoder_blocks": 0,
                "confidence": 0.0,
                "average": 0.0,
                "views": 1,
                "gradient_clip": 0.0,
                "schedule": "constant",
                "pixel_steps": 0,
            }
        }


class WeSAM:
    """Steps of student and teacher, held by the anchor.

    Args:
        model: the source model, with the encoder blocks that are to be adapted, see
            `with_encoder_blocks`.
        samples: the slices.

    Raises:
        SAMAutoSegError: labeled slices instead of unlabeled ones, or no structure is found in any
            slice and no weak label says where one is.
    """

    name: ClassVar[str] = "we-sam"
    settings_type: ClassVar[type[Settings]] = WeSAMSettings

    @classmethod
    def adaptation(cls, settings: WeSAMSettings, backbone: Backbone) -> Adaptation:
        """Of a source without adapted blocks; the head is the source's."""
        return Adaptation(encoder_blocks=blocks_to_adapt(settings, backbone))

    def __init__(self, model: AdaptedModel, samples: Any, settings: WeSAMSettings) -> None:
        if not isinstance(samples, UnlabeledSet):
            raise SAMAutoSegError(
                "we-sam adapts a model to slices without contours: name the model to start from,"
                " and give weak labels in place of contours"
            )
        self.model = model
        self.samples = samples
        self.settings = settings
        self.anchor_state = model.learned_state()
        self.anchor = copy.deepcopy(model).eval().requires_grad_(False)
        # What only a pass with a box uses has no part in the losses: it stays the source's.
        apart = set() if model.prompted is None else set(model.prompted.parameters())
        learned = [p for p in model.learned() if p not in apart]
        if settings.learned == "encoder" and model.tail is not None:
            learned = [p for p in model.tail.parameters() if p.requires_grad]
        self.optimizer = adamw(learned, settings.weight_decay)
        self._anchors = [self._anchored(v) for v in range(len(samples.views))]
        self._require_something()

    def step(self, number: int) -> dict[str, float]:
        settings = self.settings
        chosen = draw(number, list(range(len(self.samples))), settings)
        rng = np.random.default_rng([settings.seed, _VIEWS, number])
        v = int(rng.integers(len(self.samples.views)))
        view, anchors = self.samples.views[v], self._anchors[v]
        strong = view.strong[int(rng.integers(len(view.strong)))]
        inside = view.inside[chosen]
        _, student = self._forward(self.model, strong[chosen])
        embedding, teacher = self._forward(self.model, view.weak[chosen])

        with torch.no_grad():
            known = corrected(teacher.detach(), [view.evidence[n] for n in chosen])
            labels = pseudo_labels(known, inside, settings.confidence)
        targets, counted = _one_hot(labels, self.model.classes)
        focal = focal_loss(student[:, 1:], targets, counted)
        overlap = dice_loss(student[:, 1:], targets, counted)

        expected, all_inside = _one_hot(anchors.labels[chosen], self.model.classes)
        held = 0.5 * dice_loss(student[:, 1:], expected, all_inside)
        held = held + 0.5 * dice_loss(teacher[:, 1:], expected, all_inside)

        found, _ = _one_hot(_hard(teacher.detach(), inside), self.model.classes)
        own, there = prototypes(embedding, found, all_inside)
        contrast = contrastive_loss(
            own,
            anchors.prototypes[chosen],
            there & anchors.there[chosen],
            settings.temperature,
        )
        loss = (
            settings.focal_weight * focal
            + overlap
            + settings.anchor_weight * held
            + settings.contrast_weight * contrast
        )
        rate = settings.rate_at(number, settings.learning_rate)
        descend(self.optimizer, loss, rate, settings.gradient_clip)
        return {
            "adaptation_loss": loss.item(),
            "self_training_loss": (settings.focal_weight * focal + overlap).item(),
            "anchor_loss": held.item(),
            "contrast_loss": contrast.item(),
            AGREEMENT: agreement(teacher.detach(), anchors.labels[chosen]),
        }

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        return {"learned": self.optimizer}

    def notes(self) -> list[str]:
        count = len(self.samples)
        notes = [f"slices shown: {count}, with weak labels: {self.samples.hinted}"]
        asked, there = self.settings.encoder_blocks, self.model.adaptation.encoder_blocks
        if asked > there:
            notes.append(
                f"encoder_blocks {asked}: all {there} that this SAM has to tune are adapted"
            )
        if count == 1:
            notes.append("one slice only: the model adapts to it alone, give several")
        found = {int(n) for n in self._anchors[0].labels.unique() if n != IGNORED}
        absent = [s.name for n, s in enumerate(self.samples.structures, 1) if n not in found]
        if absent:
            notes.append(f"no slice seems to show {', '.join(absent)}: nothing about it is learned")
        return notes

    def stop_reason(self, history: Sequence[dict[str, float]]) -> str:
        """Why to stop: a source that is to be left alone, or a drift; empty to go on."""
        if self.source_is_sure:
            return "the source is sure already"
        least = self.settings.least_agreement * self.agreement_at_start
        return drift(history, least)

    @property
    def agreement_at_start(self) -> float:
        """Dice of the source's own predictions and those corrected by the weak labels."""
        return self._anchors[0].agreement

    @cached_property
    def judged_source(self) -> Judgment:
        return self.judged(self.anchor)

    @property
    def source_is_sure(self) -> bool:
        """Nothing could tell that a model has become better than this source."""
        return not self.samples.hinted and self.judged_source.consistency >= _SURE_SOURCE

    def concluded(self, model: AdaptedModel) -> list[str]:
        """Put the source back unless the adapted model is the better one, as far as can be told.

        By the weak labels where there are any, else by how alike changed views are segmented, if
        the source does that badly; and where no weak label is, it still has to agree with the
        source. That holds after a drift too: the model that was kept is not the one of the last
        steps.
        """
        before, after = self.judged_source, self.judged(model)
        if self.samples.hinted:
            better = after.marked > before.marked
            values = f"{before.marked:.3f} before, {after.marked:.3f} after"
            measure = f"agreement with the weak labels {values}"
        else:
            gain = after.consistency - before.consistency
            better = not self.source_is_sure and gain >= _LEAST_GAIN
            measure = (
                f"Dice between views {before.consistency:.3f} before, {after.consistency:.3f} after"
            )
        astray = after.rest < self.settings.least_agreement * before.rest
        if after.rest == after.rest:
            measure += f", agreement with the source where nothing is marked {after.rest:.3f}"
        if better and not astray:
            return [f"{ADAPTED}{measure}"]
        model.load_learned_state(self.anchor_state)
        why = "the adapted one departs from it" if better else "nothing speaks for the adapted one"
        if self.source_is_sure:
            why = (
                "it segments changed views alike already; if it is wrong, mark where in some slices"
            )
        elif not better and before.marked < _LOST and self._says_where:
            why = (
                "it finds next to nothing of what is marked, which is too little to begin with: "
                "correct some slices and learn from these instead"
            )
        # A branch beside it may still be adapted, see `branch_adaptation`.
        kept = "SAM" if model.pixels is not None and self.samples.hinted else "model"
        return [f"the source {kept} is kept, since {why} ({measure})"]

    @property
    def _says_where(self) -> bool:
        """Whether any weak label says where a structure is, and not only where it is not."""
        known = [evidence for evidence in self.samples.views[0].evidence if evidence is not None]
        return any(bool((e.outline > 0).any() or (e.clicks > 0).any()) for e in known)

    @torch.no_grad()
    def judged(self, model: AdaptedModel) -> Judgment:
        """How a model does on the slices as they are, without any contour."""
        view, anchors = self.samples.views[0], self._anchors[0]
        marked, rest, changed = [], [], []
        for n, known in enumerate(view.evidence):
            shares = [
                self._forward(model, features[n : n + 1])[1]
                for features in (view.weak, *view.unseen)
            ]
            labels = [_hard(share, view.inside[n : n + 1]) for share in shares]
            changed += [mean_dice(labels[0], other, model.classes) for other in labels[1:]]
            own, other = agreements_by_mark(shares[0], anchors.labels[n : n + 1], known)
            marked += own
            rest += other
        return Judgment(_mean(marked), _mean(rest), _mean(changed))

    def _forward(self, model: AdaptedModel, features: Tensor) -> tuple[Tensor, Tensor]:
        """Image embedding and class probabilities [B, K, m, m]."""
        with as_precision(features.dtype, features.device):
            embedding = model.embed(features)
            logits = model.decode(embedding)
        return embedding, logits.float().softmax(1)

    @torch.no_grad()
    def _anchored(self, v: int) -> _Anchors:
        view = self.samples.views[v]
        labels, means, there, agreed = [], [], [], []
        for n in range(len(self.samples)):
            inside = view.inside[n : n + 1]
            embedding, shares = self._forward(self.anchor, view.weak[n : n + 1])
            known = corrected(shares, view.evidence[n : n + 1])
            labels.append(pseudo_labels(known, inside, 0.0))
            masks, _ = _one_hot(_hard(shares, inside), self.model.classes)
            mean, found = prototypes(embedding, masks, inside[:, None].float())
            means.append(mean)
            there.append(found)
            agreed.append(agreement(shares, labels[-1]))
        return _Anchors(torch.cat(labels), torch.cat(means), torch.cat(there), _mean(agreed))

    def _require_something(self) -> None:
        labels = self._anchors[0].labels
        if not ((labels > 0) & (labels != IGNORED)).any():
            names = ", ".join(structure.name for structure in self.samples.structures)
            raise SAMAutoSegError(
                f"the model finds nothing of {names} in any of the {len(self.samples)} slices, and "
                "no weak label says where it is: mark it with a box or paint in some slices"
            )


@dataclass(frozen=True)
class Judgment:
    """What can be said of a model without contours, each 0 to 1, NaN where nothing can.

    Attributes:
        marked: Dice with the anchor's predictions as corrected by the weak labels, mean over the
            structures that these are about, in the slices in which they are.
        rest: the same of all others, where the anchor agrees with itself.
        consistency: Dice of the predictions for a slice as it is and for a degraded copy of it that
            nothing was learned from.
    """

    marked: float
    rest: float
    consistency: float


@dataclass(frozen=True)
class _Anchors:
    """Of all slices of a view: hard labels, prototypes with which of them are there."""

    labels: Tensor
    prototypes: Tensor
    there: Tensor
    agreement: float


def blocks_to_adapt(settings: WeSAMSettings, backbone: Backbone) -> int:
    """How many of the encoder's last blocks; not more than it has."""
    most = tunable_blocks(backbone.encoder)
    return min(settings.encoder_blocks or most, most)


def drift(history: Sequence[dict[str, float]], least: float) -> str:
    """Says so where the last steps agree less than `least` with the anchor, on average.

    A step on slices where neither finds anything has no agreement, and does not count.
    """
    told = (entry[AGREEMENT] for entry in reversed(history))
    known = list(islice((value for value in told if value == value), _WINDOW))
    mean = sum(known) / _WINDOW
    if len(known) < _WINDOW or mean >= least:
        return ""
    return f"drift: agreement with the anchor {mean:.3f}, below {least:.3f}"


def agreement(shares: Tensor, labels: Tensor) -> float:
    """Mean Dice over structures of the winners among probabilities and of hard labels."""
    return _mean(agreements(shares, labels))


def agreements(shares: Tensor, labels: Tensor) -> list[float]:
    """The Dice of every structure; NaN of one that is in neither."""
    found, known = _hard(shares, labels != IGNORED), _hard_known(labels)
    return [mean_dice(found == c, known == c, 2) for c in range(1, shares.shape[1])]


def agreements_by_mark(
    shares: Tensor, labels: Tensor, evidence: Evidence | None
) -> tuple[list[float], list[float]]:
    """The Dice in a slice of the structures that its weak labels are about, and of the others.

    Of the former it is 1 where one is rightly nowhere, of the others NaN.
    """
    marked, rest = [], []
    for c, dice in enumerate(agreements(shares, labels)):
        if evidence is not None and evidence.marked[c]:
            marked.append(dice if dice == dice else 1.0)
        else:
            rest.append(dice)
    return marked, rest


def _hard(shares: Tensor, inside: Tensor) -> Tensor:
    return torch.where(inside, shares.argmax(1), 0)


def _hard_known(labels: Tensor) -> Tensor:
    return torch.where(labels == IGNORED, 0, labels).long()


def _one_hot(labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Masks [B, C, m, m] of the structures, and the pixels that count, [B, 1, m, m]."""
    counted = (labels != IGNORED)[:, None]
    masks = F.one_hot(_hard_known(labels), classes).permute(0, 3, 1, 2)[:, 1:]
    return masks.float() * counted, counted.float()


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if value == value]
    return sum(known) / len(known) if known else float("nan")
