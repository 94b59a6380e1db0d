"""AutoSAM: a head without a prompt on the frozen encoder, learned on all labeled slices.

Hu et al., "How to Efficiently Adapt Large Segmentation Model (SAM) to Medical Images", 2023 (arXiv
2306.13731): the encoder stays as it is, and one of three heads, transformer, convolutional or
linear, gives all classes in one pass. Here from kept embeddings, so the encoder sees every slice
once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from SAMAutoSegLib.adapt.adapted_model import Adaptation, AdaptedModel
from SAMAutoSegLib.adapt.token_init import TokenInit
from SAMAutoSegLib.errors import SAMAutoSegError
from SAMAutoSegLib.methods.losses import IGNORED, segmentation_loss
from SAMAutoSegLib.methods.method import adamw, batch_logits, descend, draw
from SAMAutoSegLib.methods.settings import Settings, require_one_of
from SAMAutoSegLib.methods.training_set import TrainingSet
from SAMAutoSegLib.sam.backbone import Backbone

AutoHead = Literal["auto-vit", "auto-vit-tokens", "auto-cnn", "auto-cnn-small", "auto-linear"]
Schedule = Literal["polynomial", "plateau"]
Dice = Literal["all", "foreground"]

# Of the published schedule: the loss may stay high for so many epochs, the first ones uncounted.
_PATIENCE = 10
_UNCOUNTED_EPOCHS = 10
_FACTOR = 0.1
_LEAST_GAIN = 1e-4
_EPOCHS = 120
_BATCH = 4


@dataclass(frozen=True)
class AutoSAMSettings(Settings):
    """Settings of the head and of its training.

    Attributes:
        head: 'auto-vit' is published, a pass of the decoder for every class; 'auto-vit-tokens' has
            all classes in one; 'auto-cnn' (published, slow on a CPU), 'auto-cnn-small' and
            'auto-linear' do without the decoder.
        token_init: where the tokens of the two ViT heads start.
        schedule: 'polynomial' as for the other methods; 'plateau', as published, takes a tenth of
            the rate when the loss of an epoch's last batch has not fallen for ten epochs.
        dice: 'all' for the loss that methods share; 'foreground', as published, for cross-entropy
            plus a Dice loss without the background, smoothed by one pixel (`ce_weight` has no part
            in it).
    """

    shaping: ClassVar[frozenset[str]] = frozenset({"head", "token_init"})

    learning_rate: float = 1e-3
    head: AutoHead = "auto-vit-tokens"
    token_init: TokenInit = "random"
    schedule: Schedule = "polynomial"
    dice: Dice = "all"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, kind in (
            ("head", AutoHead),
            ("token_init", TokenInit),
            ("schedule", Schedule),
            ("dice", Dice),
        ):
            require_one_of(name, getattr(self, name), get_args(kind))
        for name in ("ce_weight", "count_absent") if self.dice == "foreground" else ():
            default = getattr(Settings, name)
            if getattr(self, name) != default:
                raise SAMAutoSegError(
                    f"setting {name}={getattr(self, name)} with dice=foreground: expected "
                    f"{default}, since that loss makes no use of it"
                )

    @classmethod
    def recipes(cls, slices: int) -> dict[str, dict[str, Any]]:
        """'published': Adam, 5e-4, batches of 4, 120 epochs, no regularization.

        What it cannot have are the paper's changed views at every step, which need the encoder
        anew; so each slice is learned as it is. Its loss is that of the low-res logits.
        """
        return {
            "published": {
                "head": "auto-vit",
                "token_init": "random",
                "schedule": "plateau",
                "dice": "foreground",
                "learning_rate": 5e-4,
                "weight_decay": 0.0,  # which makes AdamW Adam
                "batch": _BATCH,
                "steps": _EPOCHS * -(-slices // _BATCH),
                "warmup": 0,
                "views": 1,
                "feature_dropout": 0.0,
                "gradient_clip": 0.0,
                "average": 0.0,
                "patience": 0.0,
            }
        }


class AutoSAM:
    """Everything of the head, learned on every slice."""

    name: ClassVar[str] = "auto-sam"
    settings_type: ClassVar[type[Settings]] = AutoSAMSettings

    @classmethod
    def adaptation(cls, settings: AutoSAMSettings, backbone: Backbone) -> Adaptation:
        return Adaptation(lora_rank=0, token_init=settings.token_init, head=settings.head)

    def __init__(
        self, model: AdaptedModel, samples: TrainingSet, settings: AutoSAMSettings
    ) -> None:
        self.model = model
        self.samples = samples
        self.settings = settings
        self.optimizer = adamw(model.learned(), settings.weight_decay)
        self.epoch_steps = -(-len(samples) // settings.batch)
        if settings.schedule == "plateau":
            # In the optimizer, whose state is part of a checkpoint.
            (group,) = self.optimizer.param_groups
            group |= {"rate": settings.learning_rate, "lowest": float("inf"), "epochs_above": 0}

    def step(self, number: int) -> dict[str, float]:
        settings = self.settings
        chosen = draw(number, list(range(len(self.samples))), settings)
        logits, targets = batch_logits(self.model, self.samples, chosen, settings, number)
        if settings.dice == "foreground":
            loss = foreground_loss(logits, targets)
        else:
            loss = segmentation_loss(logits, targets, settings.ce_weight, settings.count_absent)
        (group,) = self.optimizer.param_groups
        rate = group.get("rate", settings.rate_at(number, settings.learning_rate))
        descend(self.optimizer, loss, rate, settings.gradient_clip)
        epoch, turn = divmod(number, self.epoch_steps)
        if "rate" in group and turn == self.epoch_steps - 1 and epoch >= _UNCOUNTED_EPOCHS:
            _lower_on_plateau(group, loss.item())
        return {"training_loss": loss.item()}

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        return {"head": self.optimizer}

    def notes(self) -> list[str]:
        return []


def foreground_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """AutoSAM's loss: cross-entropy plus the mean Dice loss of the structures.

    Dice is that of the whole batch, with squared denominators and 1 added to both sides; terms that
    are not positive are left out. The published mean of no terms, which is no number, is 0 here.

    Args:
        logits: [B, K, m, m].
        targets: [B, m, m] class numbers, `IGNORED` outside the slice.
    """
    targets = targets.long()
    valid = (targets != IGNORED)[:, None]
    logs = logits.float().log_softmax(1)
    entropy = F.nll_loss(logs, targets, ignore_index=IGNORED)
    wanted = F.one_hot(targets * valid[:, 0], logs.shape[1]).movedim(-1, 1) * valid
    shares = logs.exp() * valid
    common = (shares * wanted).sum((0, 2, 3))
    sizes = (shares.square() + wanted).sum((0, 2, 3))
    terms = (1 - (2 * common + 1) / (sizes + 1))[1:]
    positive = terms > 0
    return entropy + (terms * positive).sum() / positive.sum().clamp(min=1)


def _lower_on_plateau(group: dict[str, Any], loss: float) -> None:
    """What torch's `ReduceLROnPlateau` does with its defaults."""
    if loss < group["lowest"] * (1 - _LEAST_GAIN):
        group["lowest"], group["epochs_above"] = loss, 0
    else:
        group["epochs_above"] += 1
    if group["epochs_above"] > _PATIENCE:
        group["rate"] *= _FACTOR
        group["epochs_above"] = 0
