"""What a training method is to the trainer, and the steps that methods are made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from SAMAutoSegLib.adapt.adapted_model import Adaptation, AdaptedModel
from SAMAutoSegLib.device import as_precision
from SAMAutoSegLib.methods.losses import segmentation_loss
from SAMAutoSegLib.methods.settings import Settings
from SAMAutoSegLib.methods.training_set import TrainingSet
from SAMAutoSegLib.sam.backbone import Backbone
from SAMAutoSegLib.sam.input_spec import InputSpec

# Keeps this stream of random numbers apart from those that draw slices.
_VIEWS = 3

# Where AdamW is fused in all versions of torch that are supported: one call, not one a tensor.
_FUSED_ON = ("cpu", "cuda")

AGREEMENT = "anchor_dice"
"""In what a step tells, beside the losses: how far the model still agrees with its source."""


class Steps(Protocol):
    """What the trainer drives."""

    def step(self, number: int) -> dict[str, float]:
        """Train one step. Losses by name, each name with the word "loss"; the first is watched."""
        ...

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """By name: their states are part of a checkpoint."""
        ...

    def notes(self) -> list[str]:
        """What a user should know about how this training runs, one sentence each."""
        ...


class Method(Steps, Protocol):
    """One way to train an adapted model; made anew for every training.

    A file in this folder with a class like this is all that a new method takes: it is found by its
    `name`, which has to be written as in `name: ClassVar[str] = "..."`.

    Everything random at a step depends on the seed and the step's number only, so that a training
    that was interrupted goes on exactly as if it had not been.
    """

    name: ClassVar[str]
    settings_type: ClassVar[type[Settings]]

    @classmethod
    def adaptation(cls, settings: Any, backbone: Backbone) -> Adaptation:
        """What this method adapts, unless the user asks for something else."""
        ...

    def __init__(self, model: AdaptedModel, samples: Any, settings: Any) -> None:
        """For samples, see `TrainingSet`; a method that learns without labels has its own kind."""
        ...


@runtime_checkable
class Guarded(Protocol):
    """A method that can tell without labels that its training should end, or was in vain."""

    def stop_reason(self, history: Sequence[dict[str, float]]) -> str:
        """Why to stop, judged from the entries of all steps; empty to go on."""
        ...

    def concluded(self, model: AdaptedModel) -> list[str]:
        """The last word on the model that was kept: notes, and perhaps other weights in it."""
        ...


def adamw(parameters: Sequence[nn.Parameter], weight_decay: float) -> torch.optim.AdamW:
    fused = all(one.device.type in _FUSED_ON for one in parameters)
    return torch.optim.AdamW(parameters, lr=0.0, weight_decay=weight_decay, fused=fused)


def draw(number: int, slices: list[int], settings: Settings, stream: int = 0) -> list[int]:
    """The batch of step `number`: all slices in random order, then all in another.

    Where they do not fill the last batch of a round, its first ones come once more.
    """
    size = min(settings.batch, len(slices))
    batches = -(-len(slices) // size)
    epoch, turn = divmod(number, batches)
    order = np.random.default_rng([settings.seed, stream, epoch]).permutation(len(slices))
    return [slices[order[n % len(slices)]] for n in range(turn * size, (turn + 1) * size)]


def descend(optimizer: torch.optim.Optimizer, loss: Tensor, rate: float, clip: float) -> None:
    """One step of the optimizer's own parameters; no other gradient is computed or kept.

    Args:
        clip: see `Settings.gradient_clip`.
    """
    (group,) = optimizer.param_groups
    apply_gradients(optimizer, torch.autograd.grad(loss, group["params"]), rate, clip)


def apply_gradients(
    optimizer: torch.optim.Optimizer, gradients: Sequence[Tensor], rate: float, clip: float
) -> None:
    """One step along gradients of the optimizer's own parameters."""
    (group,) = optimizer.param_groups
    group["lr"] = rate
    for parameter, gradient in zip(group["params"], gradients, strict=True):
        # The fused AdamW of a CPU would take a transposed gradient for one that is not.
        parameter.grad = gradient.contiguous()
    if clip:
        nn.utils.clip_grad_norm_(group["params"], clip)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def is_finite(model: nn.Module) -> bool:
    """Whether all that is learned is numbers."""
    learned = (parameter.detach() for parameter in model.parameters() if parameter.requires_grad)
    return all(bool(parameter.isfinite().all()) for parameter in learned)


def batch_loss(
    model: AdaptedModel,
    samples: TrainingSet,
    chosen: Sequence[int],
    settings: Settings,
    step: int,
    learned: dict[str, Tensor] | None = None,
) -> Tensor:
    """The loss on some slices, see `batch_logits`."""
    logits, targets = batch_logits(model, samples, chosen, settings, step, learned)
    return segmentation_loss(logits, targets, settings.ce_weight, settings.count_absent)


def batch_logits(
    model: AdaptedModel,
    samples: TrainingSet,
    chosen: Sequence[int],
    settings: Settings,
    step: int,
    learned: dict[str, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Low-res logits [B, K, m, m] and targets [B, m, m] of some slices, see `batch_views`.

    With `learned`, by name, they are a function of these tensors instead of the model's own, and
    computed in full precision, so that they can be differentiated twice or by finite differences.
    """
    features, targets = batch_views(model, samples, chosen, settings, step)
    if learned is None:
        with as_precision(samples.features.dtype, features.device):
            return model(features), targets
    precision = next(iter(learned.values())).dtype
    return functional_call(model, learned, (features.to(precision),)), targets


def sample_low_res(model: AdaptedModel, samples: TrainingSet, n: int) -> Tensor:
    """Low-res logits [K, m, m] of a labeled slice as it is, by the SAM alone."""
    with as_precision(samples.features.dtype, samples.features.device):
        return model(samples.features[n : n + 1])[0].float()


def sample_logits(model: AdaptedModel, samples: TrainingSet, n: int, spec: InputSpec) -> Tensor:
    """Logits [K, H, W] of a labeled slice as it is, at the image's resolution."""
    low_res = sample_low_res(model, samples, n)
    with as_precision(samples.features.dtype, samples.features.device):
        return model.slice_logits(low_res, samples.images[n], spec)


def batch_views(
    model: AdaptedModel, samples: TrainingSet, chosen: Sequence[int], settings: Settings, step: int
) -> tuple[Tensor, Tensor]:
    """Features and targets of some slices, each in one of its views, with this step's dropout."""
    views = samples.views
    picked = np.random.default_rng([settings.seed, _VIEWS, step]).integers(
        len(views), size=len(chosen)
    )
    # Joined, not stacked: this keeps the order in memory.
    features = torch.cat([views[v][0][n : n + 1] for v, n in zip(picked, chosen, strict=True)])
    targets = torch.stack([views[v][1][n] for v, n in zip(picked, chosen, strict=True)])
    if settings.feature_dropout:
        # Embeddings have their channels first, what enters an adapted part of the encoder last.
        axis = 1 if model.tail is None else features.ndim - 1
        features = features * _channels_kept(features, axis, settings, step)
    return features, targets


def _channels_kept(features: Tensor, axis: int, settings: Settings, step: int) -> Tensor:
    """Zero for a blanked channel of a slice, else 1 / (1 - share); 1 long along other axes."""
    # Drawn on the CPU, so that the same seed gives the same training on every device.
    generator = torch.Generator().manual_seed((settings.seed * 1_000_003 + step) % 2**63)
    batch, channels = len(features), features.shape[axis]
    kept = torch.rand(batch, channels, generator=generator) >= settings.feature_dropout
    factor = kept.float() / (1 - settings.feature_dropout)
    shape = [batch] + [1] * (features.ndim - 1)
    shape[axis] = channels
    return factor.view(shape).to(features.device, features.dtype)
