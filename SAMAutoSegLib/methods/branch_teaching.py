"""The pixel branch learns anew from what SAM and branch agree on in slices without labels.

A net from scratch is poor because it sees few slices, not because it is a poor net. In the volumes
that the labeled slices are of there are many more, and what SAM and branch say of them together is
better than what either says. So a new branch learns from these pseudo-labels (Lee, ICML workshop
2013) in strongly changed views, as in "noisy student" training (Xie et al., CVPR 2020) and as two
nets teach each other in "cross teaching" (Luo et al., MIDL 2022); here only the branch is taught,
since for the SAM every view would have to be encoded. It is used where slices of several volumes
are learned from: in a single one it gained nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from SAMAutoSegLib.adapt.adapted_model import AdaptedModel
from SAMAutoSegLib.adapt.pixel_branch import PixelBranch
from SAMAutoSegLib.device import as_precision
from SAMAutoSegLib.images.intensity import Intensity
from SAMAutoSegLib.images.slices import Plane, SliceStack
from SAMAutoSegLib.methods.held_out import of_one_image
from SAMAutoSegLib.methods.losses import IGNORED
from SAMAutoSegLib.methods.method import Method, draw
from SAMAutoSegLib.methods.pixel_training import (
    LEARNING_RATE,
    PixelSlice,
    PixelTraining,
    pixel_slices,
    reduced,
)
from SAMAutoSegLib.methods.settings import MOST_TEACHING_SLICES, Settings, spared_slices
from SAMAutoSegLib.methods.training_set import LabeledVolume, TrainingSet
from SAMAutoSegLib.progress import Progress, part_of
from SAMAutoSegLib.sam.backbone import Backbone
from SAMAutoSegLib.sam.embedding_cache import EmbeddingCache, embed_slices
from SAMAutoSegLib.sam.input_spec import InputSpec

# A pixel counts only if the two are as sure as this.
_LEAST_PROBABILITY = 0.7

# What the branch of one round finds makes the labels of the next one better.
_ROUNDS = 2

_LABELED, _UNLABELED = 13, 14

# A slice as the branch sees it, and what the SAM says of it there, which stays as it is: logarithms
# of probabilities [K, H, W], half precision, on the CPU.
_Seen = tuple[PixelSlice, Tensor]


@dataclass(frozen=True, eq=False)
class Trained:
    """A trained model, with what it was trained on and how.

    Attributes:
        volumes: those that the slices of `samples` are of.
        plane, intensity, cache: as for `samples`.
    """

    kind: type[Method]
    model: AdaptedModel
    samples: TrainingSet
    volumes: Sequence[LabeledVolume]
    settings: Settings
    backbone: Backbone
    plane: Plane
    intensity: Intensity
    cache: EmbeddingCache | None


def slices_to_teach_from(
    volumes: Sequence[LabeledVolume],
    held_out: Sequence[LabeledVolume],
    plane: Plane,
    spare_every: int = 0,
) -> list[tuple[int, ...]]:
    """For every volume, slices that are neither labeled, held out nor spared, spread over it.

    Args:
        volumes: those that are learned from.
        held_out: of these images or of others.
        spare_every: see `spared_slices`.

    Returns:
        Numbers in order, over all volumes `MOST_TEACHING_SLICES` at most.
    """
    left: list[tuple[int, int]] = []
    for owner, volume in enumerate(volumes):
        tests = (test for _, test in of_one_image([volume], held_out))
        count = len(SliceStack(volume.image.array, volume.image.grid, plane))
        taken = {*volume.slices, *spared_slices(count, spare_every)}
        taken.update(n for test in tests for n in test.slices)
        left += [(owner, n) for n in range(count) if n not in taken]
    left = left[:: max(1, -(-len(left) // MOST_TEACHING_SLICES))]
    return [tuple(n for of, n in left if of == owner) for owner in range(len(volumes))]


def teach_branch(trained: Trained, unlabeled: Sequence[Sequence[int]], progress: Progress) -> None:
    """Replace the weights of a trained model's branch by those of one that learned from more.

    In each round a new branch makes as many steps as the one before it, half of every batch labeled
    slices and half others, with the product of the SAM and the branch before as labels.

    Args:
        unlabeled: slice numbers of each volume to learn from besides.

    Raises:
        Cancelled: by `progress`; the branch is as it was, as after any error.
    """
    branch, samples, settings = trained.model.pixels, trained.samples, trained.settings
    assert branch is not None
    before = {name: value.clone() for name, value in branch.state_dict().items()}
    try:
        told = part_of(progress, 0.0, 0.2)
        others = _encoded(trained, branch.spec, unlabeled, told)
        labeled = pixel_slices(samples, branch.spec)
        for number in range(_ROUNDS):
            told = part_of(progress, *(0.2 + 0.8 * n / _ROUNDS for n in (number, number + 1)))
            guessed = [_guessed(branch, *one) for one in others]
            fresh = _taught(number, branch, labeled, guessed, samples, settings, told)
            branch.load_state_dict(fresh.state_dict())
    except BaseException:
        branch.load_state_dict(before)
        raise


def _encoded(
    trained: Trained,
    branch_spec: InputSpec,
    unlabeled: Sequence[Sequence[int]],
    progress: Progress,
) -> list[_Seen]:
    model, backbone, spec = trained.model, trained.backbone, trained.backbone.spec
    found: list[_Seen] = []
    total = sum(map(len, unlabeled))
    for volume, numbers in zip(trained.volumes, unlabeled, strict=True):
        gray = trained.intensity.apply(volume.image.array)
        shown = SliceStack(gray, volume.image.grid, trained.plane)
        embedded = embed_slices(
            backbone,
            shown.views,
            numbers=numbers,
            cache=trained.cache,
            encoder_blocks=model.adaptation.encoder_blocks,
        )
        for number, features in embedded:
            image = shown.slice_at(number).copy()
            unknown = np.full(image.shape, IGNORED, np.uint8)
            small = reduced(PixelSlice(image, unknown, shown.pixel_spacing), branch_spec)
            with torch.inference_mode(), as_precision(backbone.precision, backbone.device):
                low_res = model(features[None].to(backbone.precision))[0].float()
            rows, columns = small.reference.shape
            logits = spec.logits_to_slice(low_res, (rows, columns))
            found.append((small, logits.log_softmax(0).half().cpu()))
            progress(len(found) / total, f"looking at other slices: {len(found)} of {total}")
    return found


def _guessed(branch: PixelBranch, seen: PixelSlice, sam: Tensor) -> PixelSlice:
    """A slice with pseudo-labels, and `IGNORED` where SAM and branch are not sure together."""
    with torch.inference_mode():
        sam = sam.float().to(branch.output.weight.device)
        shares = branch.agreed(sam, seen.image).softmax(0)
    probability, classes = shares.max(0)
    classes = classes.to(torch.uint8)
    classes[probability < _LEAST_PROBABILITY] = IGNORED
    return replace(seen, reference=classes.cpu().numpy())


def _taught(
    number: int,
    branch: PixelBranch,
    labeled: list[PixelSlice],
    guessed: list[PixelSlice],
    samples: TrainingSet,
    settings: Settings,
    progress: Progress,
) -> PixelBranch:
    features, classes = samples.features, branch.output.out_channels
    steps = settings.steps * settings.pixel_steps
    seed = (settings.seed + 1 + number) % 2**63
    torch.manual_seed(seed)
    fresh = PixelBranch(branch.spec, classes, branch.weight).to(features.device)
    clip = settings.gradient_clip
    training = PixelTraining(fresh, seed, clip, features.dtype, features.device)
    paced = replace(settings, steps=steps, seed=seed)
    for n in range(steps):
        chosen = [labeled[i] for i in draw(n, list(range(len(labeled))), paced, _LABELED)]
        chosen += [guessed[i] for i in draw(n, list(range(len(guessed))), paced, _UNLABELED)]
        training.step(n, chosen, paced.rate_at(n, LEARNING_RATE))
        progress((n + 1) / steps, f"learning from other slices: round {number + 1} of {_ROUNDS}")
    return fresh.eval()
