"""From labeled volumes to an adapted model with its card: what every interface calls."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from SAMAutoSegLib import __version__
from SAMAutoSegLib.adapt.adapted_file import ModelCard
from SAMAutoSegLib.adapt.adapted_model import Adaptation, AdaptedModel
from SAMAutoSegLib.adapt.pixel_branch import pixel_side_for
from SAMAutoSegLib.errors import Cancelled, SAMAutoSegError
from SAMAutoSegLib.files import sha256_of_file
from SAMAutoSegLib.images.intensity import Intensity, default_intensity
from SAMAutoSegLib.images.slices import Plane
from SAMAutoSegLib.images.structure import Structure
from SAMAutoSegLib.methods.calibration import CALIBRATION, calibrate
from SAMAutoSegLib.methods.losses import mean_dice
from SAMAutoSegLib.methods.method import sample_logits
from SAMAutoSegLib.methods.registry import method_named
from SAMAutoSegLib.methods.settings import make_settings
from SAMAutoSegLib.methods.trainer import OnStep, TrainingResult, train
from SAMAutoSegLib.methods.training_set import (
    ChosenSlices,
    LabeledVolume,
    TrainingSet,
    build_training_set,
)
from SAMAutoSegLib.progress import Progress, part_of, silent
from SAMAutoSegLib.sam.backbone import Backbone
from SAMAutoSegLib.sam.embedding_cache import EmbeddingCache

# Encoding a slice costs about as much as some steps of training: for the progress bar only.
_ENCODING_SHARE = 0.2

# Of several volumes. The place of an organ in one patient is knowledge; in others it differs.
_STRENGTH_ACROSS_PATIENTS = 2.0

# How much the pixel branch has to say. What a net from scratch learns on a few slices holds in this
# patient, and less in the next: chosen on the demo CT, and on patients of the benchmark's pools.
_PIXELS_IN_ONE_PATIENT, _PIXELS_ACROSS_PATIENTS = 0.5, 0.25


@dataclass(frozen=True)
class FineTuned:
    """An adapted model, its card and the course of its training.

    `seconds` were spent on: 'encoding' the labeled slices, 'training', and 'scoring' the held-out
    ones with their encoding.
    """

    model: AdaptedModel
    card: ModelCard
    result: TrainingResult
    seconds: dict[str, float]


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
    start: AdaptedModel | None = None,
    start_slices: int | None = None,
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
        structures: what is to be learned.
        plane: of the slices.
        method: name in the registry.
        settings: of the method, where they differ from its defaults, see `make_settings`.
        adaptation: entries of `Adaptation`, where they differ from what the method adapts.
        intensity: by default that of the first image, for all.
        start: a model of the same structures, in the same order, to go on from; where another part
            of the backbone is adapted the training starts anew and a note says so.
        start_slices: how many slices `start` was learned from, if that is known. If there are not
            more now, it gets a pixel branch that it has not; a branch that knows a few slices
            should not speak into a model that knows many.
        held_out: labeled slices that train nothing and choose nothing, only give the score.
        checkpoint, resume, on_step: see `train`.
        with_calibration: find the model's temperature by two more trainings on half of the slices
            each, see `calibrate`; it goes into the card's provenance.
        progress: a `Cancelled` it raises while training keeps the best so far.

    Raises:
        SAMAutoSegError: unknown method or setting, slices or labels that cannot be learned from.
        Cancelled: while encoding, when there is nothing to keep yet.
    """
    kind = method_named(method)
    labeled = sum(len(volume.slices) for volume in volumes)
    chosen = make_settings(kind.settings_type, settings or {}, labeled)
    adapted = replace(kind.adaptation(chosen, backbone), **adaptation or {})
    intensity = intensity or default_intensity(volumes[0].image)
    refuse_overlap(volumes, held_out)
    several = len(volumes) > 1
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
    samples = encode(volumes, chosen.views, part_of(progress, 0.0, _ENCODING_SHARE))
    encoded = time.monotonic()
    tests = encode(held_out, 1, silent) if held_out else None
    scoring = time.monotonic() - encoded
    usual = _PIXELS_ACROSS_PATIENTS if several else _PIXELS_IN_ONE_PATIENT
    side = pixel_side_for(samples.images) if chosen.pixel_steps else 0
    adapted = replace(adapted, pixel_side=side, pixel_weight=chosen.pixel_weight or usual)
    classes = len(structures) + 1
    former = start if start is not None and _fits(start, adapted, classes) else None
    if former is not None:
        known = former.adaptation
        few = start_slices is not None and start_slices <= labeled
        adapted = adapted if few and not known.pixel_side else known
    torch.manual_seed(chosen.seed)
    model = AdaptedModel(backbone, classes, adapted)
    if former is not None:
        model.load_learned_state({**model.learned_state(), **former.learned_state()})
    result = train(
        kind,
        model,
        samples,
        chosen,
        checkpoint=checkpoint,
        resume=resume,
        score=None if tests is None else held_out_scorer(tests, backbone),
        on_step=on_step,
        progress=part_of(progress, _ENCODING_SHARE, 1.0),
    )
    require_a_step(result)
    if start is not former:
        result.notes.append(
            "the training started anew, because the former model adapts other parts"
        )
    calibration = None
    if with_calibration and result.stopped != "cancelled":
        calibration = calibrate(kind, model, samples, chosen, backbone)
        if calibration is None:
            result.notes.append("no calibration: the labeled slices are neighbors of each other")
    result.notes += _absent_structures(samples, structures)
    result.notes += held_out_neighbors(volumes, held_out)
    card = ModelCard(
        backbone=backbone.name,
        backbone_sha256=backbone.sha256,
        input=backbone.spec,
        intensity=intensity,
        plane=plane,
        adaptation=adapted,
        structures=tuple(structures),
        method=kind.name,
        settings=chosen.to_json(),
        provenance={**provenance_of(volumes, held_out, result), CALIBRATION: calibration},
    )
    return FineTuned(model, card, result, seconds_of(result, encoded - started, scoring))


def require_a_step(result: TrainingResult) -> None:
    """`Cancelled` if a training was cancelled before it made any."""
    if result.stopped == "cancelled" and not result.steps:
        raise Cancelled("cancelled before the first step: nothing to keep")


def seconds_of(result: TrainingResult, encoding: float, scoring: float) -> dict[str, float]:
    """`FineTuned.seconds`; `scoring` is what the encoding of the held-out slices took."""
    return {
        "encoding": encoding,
        "training": result.seconds - result.scoring_seconds,
        "scoring": scoring + result.scoring_seconds,
    }


def _fits(start: AdaptedModel, adapted: Adaptation, classes: int) -> bool:
    """Whether a training can go on from a model; it keeps the pixel branch that this has."""
    known = start.adaptation
    wanted = replace(adapted, pixel_side=known.pixel_side, pixel_weight=known.pixel_weight)
    return (known, start.classes) == (wanted, classes)


def held_out_scorer(
    tests: TrainingSet, backbone: Backbone
) -> Callable[[AdaptedModel], dict[str, float]]:
    """Mean Dice over the structures, of the voxels of all slices at the images' resolution.

    Not a mean over slices: at the end of an organ, where a slice holds a few voxels of it, that
    would count these as much as the whole organ.
    """
    expected = torch.cat([torch.from_numpy(slice_).flatten() for slice_ in tests.references])

    def score(model: AdaptedModel) -> dict[str, float]:
        predicted = []
        for n in range(len(tests)):
            shown = sample_logits(model, tests, n, backbone.spec)
            predicted.append(shown.argmax(0).to(torch.uint8).flatten().cpu())
        dice = mean_dice(torch.cat(predicted), expected, model.classes)
        return {} if math.isnan(dice) else {"held_out_dice": dice}

    return score


def _of_one_image(
    volumes: Sequence[ChosenSlices], held_out: Sequence[LabeledVolume]
) -> Iterator[tuple[ChosenSlices, LabeledVolume]]:
    """What is learned from an image, with what is held out of the same."""
    for test in held_out:
        for volume in volumes:
            one, other = volume.image.source, test.image.source
            same_file = one is not None and other is not None and one.resolve() == other.resolve()
            if same_file or volume.image is test.image:
                yield volume, test


def refuse_overlap(volumes: Sequence[ChosenSlices], held_out: Sequence[LabeledVolume]) -> None:
    """`SAMAutoSegError` if a slice is both learned from and held out."""
    for volume, test in _of_one_image(volumes, held_out):
        both = sorted(set(volume.slices) & set(test.slices))
        if both:
            raise SAMAutoSegError(
                f"slice {both[0]} of {test.image.name} is both learned from and held out: "
                "name it once"
            )


def held_out_neighbors(
    volumes: Sequence[ChosenSlices], held_out: Sequence[LabeledVolume]
) -> list[str]:
    """What to know about a score on slices that look almost like what was learned from."""
    notes = []
    for volume, test in _of_one_image(volumes, held_out):
        near = sorted(n for n in test.slices if {n - 1, n + 1} & set(volume.slices))
        if near:
            notes.append(
                f"held-out slice {near[0]} of {test.image.name} is next to a learned one, which "
                "flatters the score: hold out slices farther away"
            )
    return notes


def _absent_structures(samples: TrainingSet, structures: Sequence[Structure]) -> list[str]:
    seen = {int(value) for reference in samples.references for value in set(reference.flat)}
    absent = [s.name for number, s in enumerate(structures, start=1) if number not in seen]
    if not absent:
        return []
    return [f"no labeled slice shows {', '.join(absent)}: this model cannot find it"]


def provenance_of(
    volumes: Sequence[ChosenSlices], held_out: Sequence[LabeledVolume], result: TrainingResult
) -> dict[str, Any]:
    """Where a model comes from, for its card."""
    scores = [entry["held_out_dice"] for entry in result.history if "held_out_dice" in entry]
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "program": f"SAMAutoSeg {__version__}",
        "images": [_origin(volume) for volume in volumes],
        "held_out": [_origin(volume) for volume in held_out],
        "held_out_dice": round(scores[-1], 4) if scores else None,
        "steps": result.steps,
        "best_step": result.best_step,
        "seconds": round(result.seconds, 1),
    }


def _origin(volume: ChosenSlices) -> dict[str, Any]:
    source = volume.image.source
    digest = sha256_of_file(source) if source is not None and source.is_file() else None
    return {"name": volume.image.name, "sha256": digest, "slices": list(volume.slices)}
