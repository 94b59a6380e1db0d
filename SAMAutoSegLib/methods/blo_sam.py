"""BLO-SAM: bi-level optimization of a SAM on few labeled slices.

Zhang et al., "BLO-SAM: Bi-level Optimization Based Finetuning of the Segment Anything Model for
Overfitting-Preventing Semantic Segmentation", ICML 2024 (arXiv 2402.16338), section 3: the weights
minimize the loss on one part of the labeled slices (D1, lower level), the prompt embedding
minimizes the loss of those weights on the other part (D2, upper level).

The recipe "published" is that of the authors: fixed halves, one slice a step, the levels in turn,
both with AdamW at 5e-3 and a weight decay of 0.1, a polynomial schedule, a hundred passes over D1,
no augmentation, the weights kept that do best on D2. Of the faults of their code none is copied:
D2 is its first slice only, a schedule object that is never used sets AdamW's beta1 to 0.95, the
prompt's learning rate is overwritten after one step, and the unrolled step adds old gradients to
new ones and takes mature moments for fresh ones.

Designed here: halves that change places, and a second part of the training, the refit, in which
weights and prompt learn together from all slices.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from SAMAutoSegLib.adapt.adapted_model import PROMPT, Adaptation, AdaptedModel
from SAMAutoSegLib.errors import SAMAutoSegError
from SAMAutoSegLib.methods.hypergradient import (
    Loss,
    Order,
    Weights,
    adamw_step,
    hypergradient,
)
from SAMAutoSegLib.methods.losses import IGNORED
from SAMAutoSegLib.methods.method import adamw, apply_gradients, batch_loss, descend, draw
from SAMAutoSegLib.methods.settings import Settings, require_between, require_one_of, settled
from SAMAutoSegLib.methods.slice_groups import SliceGroups, Split
from SAMAutoSegLib.methods.training_set import TrainingSet
from SAMAutoSegLib.sam.backbone import Backbone

_LOWER, _UPPER, _REFIT = 1, 2, 4

Refit = Literal["across", "always", "never"]


@dataclass(frozen=True)
class BLOSAMSettings(Settings):
    """Settings of both levels.

    Attributes:
        prompt_learning_rate: of the prompt embedding, with the schedule of `learning_rate`.
        split: 'rotate' lets D1 and D2 change places and members, so that the weights learn from
            all slices in turn; 'half' is the published fixed split.
        prompt_every: steps of the weights per step of the prompt; 1 is the published alternation.
            256 values need fewer steps than a million, and each costs as much as one of theirs.
        prompt_weight_decay: decay pulls the pretrained embedding towards zero.
        order: of the prompt's gradient, see `hypergradient`: 'first' does not see how the weights
            depend on the prompt; the others unroll one step of theirs, in float32, and cost about
            four times as much.
        pixel_steps: see `Settings`; here it has the branch unless told otherwise, since that pays.
            Two of its steps take about as long as one of the SAM's weights.
        refit: whether the second half of the steps is a training of its own, in which weights and
            prompt learn together from all slices; 'across': where these are of several volumes.
        select: the part on which the lowest loss tells the best weights; D2 needs `prompt_every` 1.
    """

    prompt_learning_rate: float = 3e-3
    split: Split = "rotate"
    prompt_every: int = 10
    prompt_weight_decay: float = 0.0
    order: Order = "first"
    pixel_steps: int = 2
    refit: Refit = "across"
    select: Literal["D1", "D2"] = "D1"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, kind in (
            ("split", Split),
            ("order", Order),
            ("refit", Refit),
            ("select", Literal["D1", "D2"]),
        ):
            require_one_of(name, getattr(self, name), get_args(kind))
        require_between("prompt_learning_rate", self.prompt_learning_rate, 1e-9, 1.0)
        require_between("prompt_every", self.prompt_every, 1, 1_000_000)
        require_between("prompt_weight_decay", self.prompt_weight_decay, 0.0, 10.0)
        if self.select == "D2" and self.prompt_every != 1:
            raise SAMAutoSegError(
                f"setting select D2 with prompt_every {self.prompt_every}: expected 1, so that "
                "there is a loss on D2 at every step"
            )

    @classmethod
    def recipes(cls, slices: int) -> dict[str, dict[str, Any]]:
        published = {
            "steps": 100 * ((slices + 1) // 2),
            "batch": 1,
            "learning_rate": 5e-3,
            "prompt_learning_rate": 5e-3,
            "weight_decay": 0.1,
            "prompt_weight_decay": 0.1,
            "warmup": 0,
            "views": 1,
            "feature_dropout": 0.0,
            "average": 0.0,
            "patience": 0.0,
            "gradient_clip": 0.0,
            "count_absent": True,
            "pixel_steps": 0,
            "split": "half",
            "prompt_every": 1,
            "refit": "never",
            "select": "D2",
        }
        return {"published": published}

    def refit_steps(self, several: bool) -> int:
        """How many of the last steps are the refit's.

        Args:
            several: the slices are of several volumes.
        """
        refits = several if self.refit == "across" else self.refit == "always"
        return self.steps // 2 if refits else 0

    def steps_to_settle(self, goes_on: bool, several: bool) -> int:
        refit = self.refit_steps(several)
        if not refit:
            return super().steps_to_settle(goes_on, several)
        # It goes on from what the levels have learned, at a learning rate that is high again.
        return self.steps - refit + settled(refit)


class BLOSAM:
    """Alternating steps of the two levels, each on its own part of the slices; then the refit."""

    name: ClassVar[str] = "blo-sam"
    settings_type: ClassVar[type[Settings]] = BLOSAMSettings

    @classmethod
    def adaptation(cls, settings: BLOSAMSettings, backbone: Backbone) -> Adaptation:
        return Adaptation()

    def __init__(self, model: AdaptedModel, samples: TrainingSet, settings: BLOSAMSettings) -> None:
        if not model.decoder.takes_prompt:
            raise SAMAutoSegError(
                f"head {model.adaptation.head}: blo-sam learns a prompt embedding, which this head "
                "does not take: expected class-tokens or class-tokens-whole"
            )
        self.model = model
        self.samples = samples
        self.settings = settings
        self.groups = SliceGroups(samples.groups, settings.split, settings.seed)
        self.lower = adamw(model.weights(), settings.weight_decay)
        self.upper = adamw([model.prompt_embedding], settings.prompt_weight_decay)
        self.refit = adamw(model.learned(), settings.weight_decay)
        # One round lasts until each part was gone through about once.
        self.round_steps = max(1, -(-len(samples) // (2 * settings.batch)))
        refit = settings.refit_steps(samples.of_several_volumes)
        # Each with a learning rate that rises and falls.
        self.levels, self.refitting = (
            replace(settings, steps=max(1, steps)) for steps in (settings.steps - refit, refit)
        )

    def step(self, number: int) -> dict[str, float]:
        if number >= self.levels.steps:
            return self._refit_step(number)
        settings = self.levels
        first, second = self.groups.parts(number // self.round_steps)
        lower = draw(number, first, settings, _LOWER)
        loss = batch_loss(self.model, self.samples, lower, settings, number)
        rate = settings.rate_at(number, settings.learning_rate)
        descend(self.lower, loss, rate, settings.gradient_clip)
        losses = {"weights_loss_on_D1": loss.item()}
        if number % settings.prompt_every == settings.prompt_every - 1:
            upper = draw(number // settings.prompt_every, second, settings, _UPPER)
            loss, gradient = self._upper_gradient(lower, upper, number, rate)
            prompt_rate = settings.rate_at(number, settings.prompt_learning_rate)
            apply_gradients(self.upper, [gradient], prompt_rate, settings.gradient_clip)
            losses["prompt_loss_on_D2"] = loss.item()
        return losses if settings.select == "D1" else dict(reversed(losses.items()))

    def _refit_step(self, number: int) -> dict[str, float]:
        settings, own = self.refitting, number - self.levels.steps
        chosen = draw(own, list(range(len(self.samples))), settings, _REFIT)
        loss = batch_loss(self.model, self.samples, chosen, settings, number)
        rate = settings.rate_at(own, settings.learning_rate)
        descend(self.refit, loss, rate, settings.gradient_clip)
        return {"refit_loss": loss.item()}

    def _upper_gradient(
        self, lower: list[int], upper: list[int], number: int, rate: float
    ) -> tuple[Tensor, Tensor]:
        """The loss on slices of D2 and its gradient in the prompt embedding."""
        prompt = self.model.prompt_embedding
        if self.settings.order == "first":
            loss = batch_loss(self.model, self.samples, upper, self.settings, number)
            return loss.detach(), torch.autograd.grad(loss, prompt)[0]
        names: Weights = dict(self.model.named_weights())

        def loss_on(chosen: list[int]) -> Loss:
            def loss(weights: Weights, embedding: Tensor) -> Tensor:
                learned = {**weights, PROMPT: embedding}
                return batch_loss(self.model, self.samples, chosen, self.settings, number, learned)

            return loss

        step = adamw_step(self.lower, names, rate, self.settings.gradient_clip)
        order = self.settings.order
        # The fused kernels of attention have no second derivative.
        with sdpa_kernel(SDPBackend.MATH) if order == "exact" else nullcontext():
            return hypergradient(loss_on(lower), loss_on(upper), names, prompt, step, order)

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        return {"weights": self.lower, "prompt": self.upper, "refit": self.refit}

    def notes(self) -> list[str]:
        notes = [self.groups.describe()]
        if self.settings.split == "half" and self.levels.steps == self.settings.steps:
            weights, prompt = (self._structures_in(part) for part in self.groups.parts(0))
            for missing, learner, blind in (
                (prompt - weights, "the prompt embedding learns", "the weights never see"),
                (weights - prompt, "the weights learn", "the prompt embedding never sees"),
            ):
                if missing:
                    names = ", ".join(self.samples.structures[n - 1] for n in sorted(missing))
                    notes.append(
                        f"{names}: only in the half of the slices that {learner} from, so {blind} "
                        "it: use split 'rotate'"
                    )
        return [note for note in notes if note]

    def _structures_in(self, slices: list[int]) -> set[int]:
        """Class numbers."""
        return set(torch.unique(self.samples.targets[slices]).tolist()) - {0, IGNORED}
