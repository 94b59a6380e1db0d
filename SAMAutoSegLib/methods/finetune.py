"""From labeled volumes to an adapted model with its card: what every interface calls."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from SAMAutoSegLib.adapt.adapted_file import CALIBRATION, Adapted, ModelCard
from SAMAutoSegLib.adapt.adapted_model import Adaptation
from SAMAutoSegLib.adapt.pixel_branch import pixel_side_for
from SAMAutoSegLib.errors import SAMAutoSegError
from SAMAutoSegLib.images.intensity import Intensity, default_intensity
from SAMAutoSegLib.images.slices import Plane
from SAMAutoSegLib.images.structure import Structure
from SAMAutoSegLib.methods.branch_stages import StagesResult, run_stages, stages_for, usual_weight
from SAMAutoSegLib.methods.branch_teaching import Trained
from SAMAutoSegLib.methods.held_out import (
    held_out_neighbors,
    held_out_scorer,
    of_one_image,
    refuse_overlap,
    unseen,
)
from SAMAutoSegLib.methods.method import Method
from SAMAutoSegLib.methods.registry import method_named
from SAMAutoSegLib.methods.settings import Settings, make_settings
from SAMAutoSegLib.methods.starting_model import StartingModel, starting_model
from SAMAutoSegLib.methods.trainer import OnStep, score_left, train
from SAMAutoSegLib.methods.training_set import LabeledVolume, TrainingSet, build_training_set
from SAMAutoSegLib.methods.tuned_model import FineTuned, provenance_of, require_a_step, seconds_of
from SAMAutoSegLib.progress import Progress, part_of, parts_of, silent
from SAMAutoSegLib.sam.backbone import Backbone
from SAMAutoSegLib.sam.embedding_cache import EmbeddingCache
from SAMAutoSegLib.sam.encoder_tail import require_tunable

# Encoding a slice costs about as much as some steps of training: for the progress bar only.
_ENCODING_SHARE = 0.2

# Of several volumes. The place of an organ in one patient is knowledge; in others it differs.
_STRENGTH_ACROSS_PATIENTS = 2.0

_OF_THE_BRANCH = ("pixel_steps", "pixel_weight")


def finetune(
    volumes: Sequence[LabeledVolume],
    structures: Sequence[Structure],
    backbone: Backbone,
    *,
    plane: Plane,
    method: str = "blo-sam",
    settings: dict[str, Any] | None = None,
    adaptation: dict[str, Any] | None = None,
    intensity: Intensity | None = None,
    start: Adapted | None = None,
    held_out: Sequence[LabeledVolume] = (),
    cache: EmbeddingCache | None = None,
    checkpoint: Path | None = None,
    resume: bool = False,
    on_step: OnStep | None = None,
    with_calibration: bool = False,
    progress: Progress = silent,
) -> FineTuned:
    """Encode the labeled slices and train a model on them.

    Args:
        volumes: images with their labels, and which of their slices are labeled.
        structures: what is to be learned; their `label` is the value in the labels.
        backbone: the SAM to adapt, as `load_backbone` gives it.
        plane: of the slices.
        method: name in the registry.
        settings: of the method, where they differ from its defaults, see `make_settings`.
        adaptation: entries of `Adaptation`, where they differ from what the method adapts, or from
            what a `start` of the same method has.
        intensity: by default that of `start`, or that of the first image, for all.
        start: a model to go on from, see `starting_model`; with another backbone than its own the
            training starts anew.
        held_out: labeled slices that train nothing and choose nothing, only give the score; without
            those that `start` learned from.
        cache: where embeddings are looked up and kept; None keeps nothing.
        checkpoint, resume, on_step: see `train`.
        with_calibration: find the model's temperature by two more trainings on half of the slices
            each, see `cross_fit`; it goes into the card's provenance. In a third of the steps that
            is done anyway where a new pixel branch learns from eight slices or more of several
            volumes, since its weight is found so.
        progress: a `Cancelled` it raises while training keeps the best so far, and in the trainings
            after it the model without what they would have told.

    Returns:
        The model with its card, the course of the training (with `notes` for the user, and the
        score on the held-out slices) and the seconds it took.

    Raises:
        SAMAutoSegError: unknown method or setting, slices or labels that cannot be learned from.
        Cancelled: while encoding, when there is nothing to keep yet.
    """
    kind = method_named(method)
    _require(volumes, structures, start)
    labeled = sum(len(volume.slices) for volume in volumes)
    several = sum(bool(volume.slices) for volume in volumes) > 1
    asked = settings or {}
    former = start.card if start is not None else None
    chosen, adapted = _chosen(kind, asked, adaptation, former, backbone, labeled, several)
    intensity = (
        intensity or (former.intensity if former else None) or default_intensity(volumes[0].image)
    )
    refuse_overlap(volumes, held_out)
    held_out, seen = unseen(held_out, former, plane)
    strength = chosen.view_strength or (_STRENGTH_ACROSS_PATIENTS if several else 1.0)

    def encode(which: Sequence[LabeledVolume], views: int, told: Progress) -> TrainingSet:
        return build_training_set(
            which,
            structures,
            backbone,
            plane=plane,
            intensity=intensity,
            encoder_blocks=adapted.encoder_blocks,
            changed_views=views - 1,
            view_strength=strength,
            seed=chosen.seed,
            cache=cache,
            progress=told,
        )

    started = time.monotonic()
    tested = sum(len(volume.slices) for volume in held_out)
    parts = parts_of(progress, _ENCODING_SHARE, (labeled * chosen.views, tested))
    samples = encode(volumes, chosen.views, parts[0])
    samples.require_structures()
    encoded = time.monotonic()
    tests = encode(held_out, 1, parts[1]) if held_out else None
    scoring = time.monotonic() - encoded
    side = pixel_side_for(samples.images) if chosen.pixel_steps else 0
    weight = chosen.pixel_weight or usual_weight(samples, side, several)
    adapted = replace(adapted, pixel_side=side, pixel_weight=weight)
    torch.manual_seed(chosen.seed)
    begun = starting_model(start, structures, adapted, backbone, labeled, several)
    model = begun.model
    chosen, left_out = _with_its_branch(chosen, begun, asked)
    if chosen.pixel_weight:
        model.set_pixel_weight(chosen.pixel_weight)
    stages = stages_for(
        chosen,
        volumes,
        held_out,
        plane,
        is_new=begun.source is None,
        with_calibration=with_calibration,
    )
    all_steps = chosen.steps + sum(stages.steps(chosen))
    trained = _ENCODING_SHARE + (1 - _ENCODING_SHARE) * chosen.steps / all_steps
    scorer = None if tests is None else held_out_scorer(tests, backbone)
    result = train(
        kind,
        model,
        samples,
        chosen,
        checkpoint=checkpoint,
        resume=resume,
        settle=chosen.steps_to_settle(begun.source is not None, several),
        score=scorer,
        on_step=on_step,
        progress=part_of(progress, _ENCODING_SHARE, trained),
    )
    require_a_step(result)
    result.notes += [*begun.notes, *left_out, *seen]
    done = StagesResult()
    if result.stopped != "cancelled":
        done = run_stages(
            stages,
            Trained(kind, model, samples, volumes, chosen, backbone, plane, intensity, cache),
            result,
            part_of(progress, trained, 1.0),
        )
    if scorer is not None and done.changed:
        scoring += score_left(model, scorer, result)
    result.notes += [*_given_twice(volumes), *_not_learned(samples, structures)]
    result.notes += held_out_neighbors(volumes, held_out, begun.source, plane)
    card = ModelCard(
        backbone=backbone.name,
        backbone_sha256=backbone.sha256,
        input=backbone.spec,
        intensity=intensity,
        plane=plane,
        adaptation=model.adaptation,
        structures=tuple(structures),
        method=kind.name,
        settings=chosen.to_json(),
        provenance={
            **provenance_of(volumes, held_out, result, begun.source, plane, done.unlabeled),
            CALIBRATION: done.calibration,
        },
    )
    seconds = seconds_of(result, encoded - started, scoring)
    return FineTuned(Adapted(model, card, backbone), result, seconds)


def _require(
    volumes: Sequence[LabeledVolume], structures: Sequence[Structure], start: Adapted | None
) -> None:
    """`SAMAutoSegError` where something was forgotten."""
    if not volumes:
        raise SAMAutoSegError("no volume to learn from: give at least one with its labels")
    if not any(volume.slices for volume in volumes):
        raise SAMAutoSegError("no labeled slice: name at least one")
    if not structures:
        raise SAMAutoSegError("no structure to learn: name at least one")
    if start is not None and not isinstance(start, Adapted):
        raise SAMAutoSegError(
            f"start is a {type(start).__name__}: expected Adapted, as load_adapted gives it, or "
            "the 'adapted' of a former training"
        )


def _chosen(
    kind: type[Method],
    asked: dict[str, Any],
    adaptation: dict[str, Any] | None,
    former: ModelCard | None,
    backbone: Backbone,
    labeled: int,
    several: bool,
) -> tuple[Settings, Adaptation]:
    """What a method does and adapts: as asked for, else as its own former model has it."""
    if former is None or former.method != kind.name:
        former = None
    elif "recipe" not in asked:
        shaping = kind.settings_type.shaping & former.settings.keys()
        asked = {name: former.settings[name] for name in shaping} | asked
    chosen = make_settings(kind.settings_type, asked, labeled, several=several)
    own = adapted = kind.adaptation(chosen, backbone)
    if former is not None and adapted.head == former.adaptation.head:
        adapted = replace(former.adaptation, prompt=adapted.prompt)
    adapted = replace(adapted, **adaptation or {})
    if adapted.prompted and not own.prompted:
        raise SAMAutoSegError(f"prompted: {kind.name} learns no pass with a prompt: leave it out")
    if adapted.encoder_blocks:
        require_tunable(backbone.encoder, adapted.encoder_blocks)
    return chosen, adapted


def _with_its_branch(
    chosen: Settings, begun: StartingModel, asked: dict[str, Any]
) -> tuple[Settings, list[str]]:
    """Settings that fit the pixel branch that a model begins with, and what to say of it."""
    if begun.model.pixels is None:
        left_out = begun.source is not None and any(map(asked.get, _OF_THE_BRANCH))
        note = (
            "no pixel branch is trained, though settings of it are given: the former model has "
            "none, and may know more slices than a new one would see"
        )
        return replace(chosen, pixel_steps=0, pixel_weight=0.0), [note] if left_out else []
    if begun.knows_more and "pixel_steps" not in asked:
        return replace(chosen, pixel_steps=0), []
    return chosen, []


def _given_twice(volumes: Sequence[LabeledVolume]) -> list[str]:
    """Notes on images that count as two patients, so that neighbors are parted."""
    used = [volume for volume in volumes if volume.slices]
    pairs = (pair for n, one in enumerate(used) for pair in of_one_image(used[:n], [one]))
    names = dict.fromkeys(again.image.name for _, again in pairs)
    return [f"{name} is given twice and counts as two patients: give it once" for name in names]


def _not_learned(samples: TrainingSet, structures: Sequence[Structure]) -> list[str]:
    """Notes on structures that could not be learned."""
    shown = {int(value) for reference in samples.references for value in np.unique(reference)}
    drawn = {int(value) for value in samples.targets.unique()}
    numbered = list(enumerate(structures, start=1))
    absent = ", ".join(s.name for n, s in numbered if n not in shown)
    small = ", ".join(s.name for n, s in numbered if n in shown and n not in drawn)
    notes = []
    if absent:
        notes.append(f"no labeled slice shows {absent}: this model cannot find it")
    if small:
        notes.append(
            f"in every labeled slice {small} is smaller than a pixel of the SAM's output: this "
            "model can hardly find it"
        )
    return notes
