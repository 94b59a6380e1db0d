"""From a model and slices of another scanner to a model for that scanner: WeSAM as a whole."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from SAMAutoSegLib.adapt.adapted_file import CALIBRATION, Adapted
from SAMAutoSegLib.adapt.adapted_model import AdaptedModel
from SAMAutoSegLib.adapt.heatmap_decoder import HeatmapDecoder
from SAMAutoSegLib.adapt.with_encoder_blocks import with_encoder_blocks
from SAMAutoSegLib.errors import Cancelled, SAMAutoSegError
from SAMAutoSegLib.images.intensity import Intensity
from SAMAutoSegLib.methods.branch_adaptation import Together, adapt_branch, keep_better_sam
from SAMAutoSegLib.methods.branch_stages import FAILURES
from SAMAutoSegLib.methods.held_out import (
    held_out_neighbors,
    held_out_scorer,
    refuse_overlap,
    unseen,
)
from SAMAutoSegLib.methods.settings import make_settings
from SAMAutoSegLib.methods.trainer import OnStep, TrainingResult, score_left, train
from SAMAutoSegLib.methods.training_set import LabeledVolume, build_training_set
from SAMAutoSegLib.methods.tuned_model import FineTuned, provenance_of, require_a_step, seconds_of
from SAMAutoSegLib.methods.unlabeled_set import UnlabeledVolume, build_unlabeled_set
from SAMAutoSegLib.methods.we_sam import ADAPTED, WeSAM, WeSAMSettings, blocks_to_adapt
from SAMAutoSegLib.progress import Progress, part_of, parts_of, silent
from SAMAutoSegLib.sam.embedding_cache import EmbeddingCache

# For the progress bar only: a slice is encoded in several views, all of it before the first step.
_ENCODING_SHARE = 0.4

# The same of the pixel branch of a source that has one.
_BRANCH_SHARE = 0.1


def adapt_source(
    volumes: Sequence[UnlabeledVolume],
    source: Adapted,
    *,
    settings: dict[str, Any] | None = None,
    intensity: Intensity | None = None,
    held_out: Sequence[LabeledVolume] = (),
    cache: EmbeddingCache | None = None,
    checkpoint: Path | None = None,
    resume: bool = False,
    on_step: OnStep | None = None,
    progress: Progress = silent,
) -> FineTuned:
    """Adapt a model to unlabeled slices by WeSAM.

    Args:
        volumes: slices with weak labels, or without any.
        source: the model to adapt; it is not changed.
        settings: where they differ from the defaults of `WeSAMSettings`.
        intensity: by default that of the source.
        held_out: labeled slices that train nothing and choose nothing, only give the score; without
            those that the source learned from.
        checkpoint, resume, on_step: see `train`.
        progress: a `Cancelled` it raises while training keeps the best so far.

    Returns:
        The adapted model, or the source where nothing speaks for the adapted one, as a note says.

    Raises:
        SAMAutoSegError: a source that proposes instances, slices or weak labels that cannot be, or
            nothing to learn from, see `WeSAM`.
        Cancelled: while encoding, when there is nothing to keep yet.
    """
    card, backbone = source.card, source.backbone
    if isinstance(source.model.decoder, HeatmapDecoder):
        raise SAMAutoSegError(
            "we-sam cannot adapt a model that proposes instances (method heatmap), because its "
            "losses do not reach what proposes them: start from a model of another method"
        )
    count = sum(len(volume.slices) for volume in volumes)
    chosen = make_settings(WeSAMSettings, settings or {}, count)
    assert isinstance(chosen, WeSAMSettings)
    refuse_overlap(volumes, held_out)
    held_out, seen = unseen(held_out, card, card.plane)
    intensity = intensity or card.intensity
    started = time.monotonic()
    torch.manual_seed(chosen.seed)
    model = with_encoder_blocks(source.model, backbone, blocks_to_adapt(chosen, backbone))
    before = model.learned_state()
    tested = sum(len(volume.slices) for volume in held_out)
    parts = parts_of(progress, _ENCODING_SHARE, (count, tested))
    samples = build_unlabeled_set(
        volumes,
        card.structures,
        backbone,
        plane=card.plane,
        intensity=intensity,
        encoder_blocks=model.adaptation.encoder_blocks,
        views=chosen.views,
        strong=chosen.strong,
        seed=chosen.seed,
        cache=cache,
        progress=parts[0],
    )
    encoded = time.monotonic()
    tests = None
    if held_out:
        tests = build_training_set(
            held_out,
            card.structures,
            backbone,
            plane=card.plane,
            intensity=intensity,
            encoder_blocks=model.adaptation.encoder_blocks,
            cache=cache,
            progress=parts[1],
        )
    scoring = time.monotonic() - encoded
    scorer = None if tests is None else held_out_scorer(tests, backbone)
    together = None if model.pixels is None else Together(model, samples)
    trained = 1.0 if together is None else 1.0 - _BRANCH_SHARE
    result = train(
        WeSAM,
        model,
        samples,
        chosen,
        checkpoint=checkpoint,
        resume=resume,
        score=scorer,
        on_step=on_step,
        progress=part_of(progress, _ENCODING_SHARE, trained),
    )
    require_a_step(result)
    if together is not None:
        told = part_of(progress, trained, 1.0)
        changed = _with_branch(model, before, together, chosen, result, told)
        if changed and scorer is not None:
            scoring += score_left(model, scorer, result)
    provenance = provenance_of(volumes, held_out, result, card, card.plane)
    provenance["images"] = [_without_labels(image) for image in provenance["images"]]
    provenance["weak_labels"] = _kinds(volumes)
    if all(torch.equal(value, before[name]) for name, value in model.learned_state().items()):
        model = source.model  # by its own path through the encoder: not even rounding differs
        provenance[CALIBRATION] = card.provenance.get(CALIBRATION)
    result.notes += [*seen, *held_out_neighbors(volumes, held_out, card, card.plane)]
    adapted_card = replace(
        card,
        intensity=intensity,
        adaptation=model.adaptation,
        method=WeSAM.name,
        settings=chosen.to_json(),
        provenance=provenance,
    )
    seconds = seconds_of(result, encoded - started, scoring)
    return FineTuned(Adapted(model, adapted_card, backbone), result, seconds)


def _with_branch(
    model: AdaptedModel,
    source: dict[str, Tensor],
    together: Together,
    settings: WeSAMSettings,
    result: TrainingResult,
    progress: Progress,
) -> bool:
    """See that SAM and branch are better together than those of the source.

    Returns:
        Whether the model is another one now than the training left. The result is told all.
    """
    started = time.monotonic()
    if note := keep_better_sam(model, source, together, settings.least_agreement):
        # Of the SAM alone was said that it is the better one.
        result.notes = [n for n in result.notes if not n.startswith(ADAPTED)] + [note]
    changed = bool(note)
    if together.samples.hinted and settings.pixel_steps and result.stopped != "cancelled":
        try:
            adapted, note = adapt_branch(model, together, settings, progress)
            changed = changed or adapted
        except Cancelled:
            result.stopped, note = "cancelled", "cancelled before the pixel branch was adapted"
        except FAILURES as error:  # the rest is not lost
            note = f"the pixel branch could not be adapted: {error}"
        result.notes.append(note)
    result.seconds += time.monotonic() - started
    return changed


def _without_labels(image: dict[str, Any]) -> dict[str, Any]:
    """An image of a card's provenance: `slices` are those that labels were learned from."""
    return image | {"slices": [], "unlabeled": image["slices"]}


def _kinds(volumes: Sequence[UnlabeledVolume]) -> list[str]:
    """The kinds of weak labels there were."""
    hints = [hint for v in volumes for n in v.slices for hint in v.weak.of(n).values()]
    return sorted({kind for hint in hints for kind in hint.words.split(", ")})
