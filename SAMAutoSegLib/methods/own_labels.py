"""The slices of the labeled volumes that nobody labeled, as a half-trained model sees them.

Self-training with pseudo-labels (Lee, "Pseudo-Label", ICML workshop 2013), with what a volume tells
beyond a slice: of every structure only the largest part in 3D is believed, so what the model finds
far from it becomes background to learn from. Slices that hold no structure are among them, and a
few labeled slices seldom are such.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from SAMAutoSegLib.adapt.adapted_model import AdaptedModel
from SAMAutoSegLib.images.cleanup import CleanUp, remove_parts
from SAMAutoSegLib.images.intensity import Intensity
from SAMAutoSegLib.images.slices import Plane, SliceStack
from SAMAutoSegLib.images.structure import Structure
from SAMAutoSegLib.methods.checkpoint import TrainingState, load_state, save_state
from SAMAutoSegLib.methods.losses import as_precision
from SAMAutoSegLib.methods.settings import Settings
from SAMAutoSegLib.methods.trainer import OnStep, TrainingResult
from SAMAutoSegLib.methods.training_set import (
    LabeledVolume,
    TrainingSet,
    as_classes,
    is_same_image,
    low_res_target,
)
from SAMAutoSegLib.progress import Progress, part_of, silent
from SAMAutoSegLib.sam.backbone import Backbone
from SAMAutoSegLib.sam.embedding_cache import EmbeddingCache, embed_slices

# Labeling takes about as long as some steps: for the progress bar only.
_LABELING_SHARE = 0.1

# All of them are kept in memory: of long volumes, slices at equal distances.
MOST_SLICES = 96


class Part(Protocol):
    """Trains the model for a part of the steps, see `train`."""

    def __call__(
        self,
        samples: TrainingSet,
        settings: Settings,
        resume: bool,
        on_step: OnStep | None,
        progress: Progress,
    ) -> TrainingResult: ...


def train_with_own_labels(
    part: Part,
    model: AdaptedModel,
    samples: TrainingSet,
    settings: Settings,
    label: Callable[[Progress], TrainingSet | None],
    *,
    identity: dict[str, Any],
    checkpoint: Path | None,
    resume: bool,
    on_step: OnStep | None,
    progress: Progress,
) -> TrainingResult:
    """Train on the labeled slices, let the model label others, and train on both.

    The second part goes on from the best weights of the first, with optimizers and learning rate as
    at a start. What the first part gave is kept beside the checkpoint until the end.

    Args:
        label: what the model, as it is then, makes of the other slices.
        identity: of the training: what is kept is taken up again only for the same.
    """
    later = round(settings.steps * settings.own_labels)
    kept = None if checkpoint is None else first_part_of(checkpoint)
    middle = (1 - _LABELING_SHARE) * (1 - settings.own_labels)
    if resume and kept is not None and kept.exists():
        state = load_state(kept, identity)
        model.load_learned_state(state.learned)
        model.eval()
        first = TrainingResult(state.history, state.step, state.best_step)
    else:
        sooner = replace(settings, steps=max(1, settings.steps - later))
        first = part(samples, sooner, resume, on_step, part_of(progress, 0.0, middle))
        if first.stopped == "cancelled" or not later:
            return first
        resume = False
        if kept is not None:
            state = TrainingState(identity, first.steps, best_step=first.best_step)
            state.history = first.history
            save_state(kept, state, model)
    own = label(part_of(progress, middle, middle + _LABELING_SHARE))
    if own is None:
        first.notes.append("all slices of the volumes are labeled: the model labeled none itself")

    def told(entry: dict[str, float]) -> None:
        entry["step"] += first.steps  # in the history of the second part too
        if on_step is not None:
            on_step(entry)

    second = part(
        replace(samples, own=own),
        replace(settings, steps=later),
        resume and checkpoint is not None and checkpoint.exists(),
        told,
        part_of(progress, middle + _LABELING_SHARE, 1.0),
    )
    if kept is not None and second.stopped != "cancelled":
        kept.unlink(missing_ok=True)
    return TrainingResult(
        first.history + second.history,
        first.steps + second.steps,
        first.steps + second.best_step if second.best_step else first.best_step,
        first.seconds + second.seconds,
        first.scoring_seconds + second.scoring_seconds,
        second.stopped,
        first.notes + [note for note in second.notes if note not in first.notes],
    )


def can_resume(checkpoint: Path) -> bool:
    """Whether a training left something to go on with, in either part."""
    return checkpoint.exists() or first_part_of(checkpoint).exists()


def first_part_of(checkpoint: Path) -> Path:
    """Where the first part of a training is kept while the second runs."""
    return checkpoint.with_name(checkpoint.name + ".first")


def label_other_slices(
    volumes: Sequence[LabeledVolume],
    never: Sequence[LabeledVolume],
    structures: Sequence[Structure],
    model: AdaptedModel,
    backbone: Backbone,
    *,
    plane: Plane,
    intensity: Intensity,
    cache: EmbeddingCache | None = None,
    progress: Progress = silent,
) -> TrainingSet | None:
    """Label slices of the volumes that are neither labeled nor in `never`, at most `MOST_SLICES`.

    Args:
        never: what is held out: learning from these, even without labels, would flatter the score.

    Returns:
        None if there is no other slice.
    """
    features, targets, references, spacings, groups = [], [], [], [], []
    for count, volume in enumerate(volumes):
        grid = volume.image.grid
        known = SliceStack(as_classes(volume.labels.array, structures), grid, plane)
        gray = SliceStack(intensity.apply(volume.image.array), grid, plane)
        kept_out = {
            n for test in never if is_same_image(test.image, volume.image) for n in test.slices
        }
        others = [n for n in range(len(gray)) if n not in kept_out and n not in volume.slices]
        most = max(1, MOST_SLICES // len(volumes))
        numbers = others[:: -(-len(others) // most)] if others else []
        kept, found = [], {n: known.slice_at(n) for n in volume.slices}
        for number, feature in embed_slices(
            backbone,
            gray.views,
            gray.pixel_spacing,
            numbers=numbers,
            cache=cache,
            encoder_blocks=model.adaptation.encoder_blocks,
        ):
            kept.append(feature.to(backbone.precision))
            with torch.inference_mode(), as_precision(backbone.precision, backbone.device):
                logits = model(kept[-1][None]).float()
            shown = backbone.spec.logits_to_slice(logits, gray.slice_shape, gray.pixel_spacing)
            found[number] = shown[0].argmax(0).to(torch.uint8).cpu().numpy()
            share = (count + len(kept) / len(numbers)) / len(volumes)
            progress(share, "labeling other slices of the volumes")
        order = sorted(found)
        whole = np.stack([found[n] for n in order])
        remove_parts(whole, 1.0, CleanUp(largest_component=True))
        cleaned = dict(zip(order, whole, strict=True))
        for number, feature in zip(numbers, kept, strict=True):
            features.append(feature)
            references.append(cleaned[number])
            side = 4 * backbone.embedding_side
            target = low_res_target(cleaned[number], backbone.spec, side, gray.pixel_spacing)
            targets.append(target.to(backbone.device))
            spacings.append(gray.pixel_spacing)
            groups.append(count)
    if not features:
        return None
    return TrainingSet(
        torch.stack(features),
        torch.stack(targets),
        tuple(references),
        tuple(spacings),
        tuple(groups),
    )
