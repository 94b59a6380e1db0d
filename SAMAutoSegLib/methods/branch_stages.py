"""What follows a training: its pixel branch gets its weight, and learns from other slices.

How much a net from scratch has to say is not learned with the model: on slices that it learned from
it is as sure as the SAM.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from SAMAutoSegLib.errors import Cancelled, SAMAutoSegError
from SAMAutoSegLib.images.slices import Plane
from SAMAutoSegLib.methods.branch_teaching import Trained, slices_to_teach_from, teach_branch
from SAMAutoSegLib.methods.cross_fit import cross_fit
from SAMAutoSegLib.methods.settings import Settings
from SAMAutoSegLib.methods.trainer import TrainingResult
from SAMAutoSegLib.methods.training_set import LabeledVolume, TrainingSet
from SAMAutoSegLib.progress import Progress, part_of

# Where it is not found by trying. What a net from scratch learns holds in this patient, and less in
# the next, least where it sees slices smaller than they are: chosen on the demo CT, and on volumes
# of the benchmark's pools.
_IN_ONE_PATIENT, _ACROSS_PATIENTS, _FEWER_PIXELS_ACROSS = 1.0, 0.5, 0.25

# After it learned from slices without labels, which it does from what the SAM says too. Chosen on
# volumes of the pools: three to five draws each of four and eight hippocampi and four hearts.
_TAUGHT, _TIMES_TAUGHT_FEWER = 2.0, 2.0

# Fewer slices of several volumes cannot tell: what models learn from two or three is not like what
# is learned from all.
_LEAST_TO_WEIGH = 8

# Of the steps: a weight is as well seen after this share of them.
_STEPS_TO_WEIGH = 1 / 3

# Of a stage: a loss that is no number, or no memory left on either device.
FAILURES = (SAMAutoSegError, RuntimeError, MemoryError)


@dataclass(frozen=True)
class Stages:
    """What is to follow a training.

    Attributes:
        halves: settings of two trainings on one half of the slices each; None: there are none.
        weigh: they choose the weight of the pixel branch.
        unlabeled: numbers of the slices of each volume that the branch learns from besides.
        notes: what was asked for and cannot be.
    """

    halves: Settings | None = None
    weigh: bool = False
    unlabeled: Sequence[tuple[int, ...]] = ()
    notes: tuple[str, ...] = ()

    @property
    def teach(self) -> bool:
        return any(self.unlabeled)

    def steps(self, settings: Settings) -> tuple[int, int]:
        """So many steps of the training both trainings on halves, and teaching, last about."""
        halves = 0 if self.halves is None else 2 * self.halves.steps
        return halves, settings.steps if self.teach else 0


@dataclass
class StagesResult:
    """What the stages left.

    Attributes:
        calibration: see `cross_fit`.
        unlabeled: numbers of the slices of each volume that the branch has learned from besides.
        changed: the model is another one than it was after the training.
    """

    calibration: dict[str, Any] | None = None
    unlabeled: Sequence[tuple[int, ...]] = ()
    changed: bool = False


def usual_weight(samples: TrainingSet, side: int, several: bool) -> float:
    """Of a branch that sees slices of this side at most.

    Args:
        several: the slices are of several volumes.
    """
    if not several:
        return _IN_ONE_PATIENT
    return _ACROSS_PATIENTS if _sees_all_pixels(samples, side) else _FEWER_PIXELS_ACROSS


def stages_for(
    settings: Settings,
    volumes: Sequence[LabeledVolume],
    held_out: Sequence[LabeledVolume],
    plane: Plane,
    *,
    is_new: bool,
    with_calibration: bool,
) -> Stages:
    """What is to follow the training of a model.

    Args:
        held_out: slices that must teach nothing.
        is_new: the model goes on from none.
        with_calibration: train on halves anyway.
    """
    labeled = [len(volume.slices) for volume in volumes if volume.slices]
    across = bool(len(labeled) > 1 and settings.pixel_steps and is_new)
    weigh = across and sum(labeled) >= _LEAST_TO_WEIGH and not settings.pixel_weight
    unlabeled: Sequence[tuple[int, ...]] = ()
    if across and settings.teach_branch:
        unlabeled = slices_to_teach_from(volumes, held_out, plane, settings.spare_every)
    fewer = replace(settings, steps=max(1, round(settings.steps * _STEPS_TO_WEIGH)))
    if with_calibration and not is_new:
        # Models of the halves would know neither what this one knows, nor be as unsure as it is.
        return Stages(notes=("no calibration: that is for models that go on from no other",))
    halves = settings if with_calibration else fewer if weigh else None
    return Stages(halves, weigh, unlabeled)


def run_stages(
    stages: Stages, trained: Trained, result: TrainingResult, progress: Progress
) -> StagesResult:
    """Do what follows a training; notes and seconds go into its result.

    A stage that `progress` cancels, or that fails, leaves the model as it was before it: what was
    trained is not lost. After a cancel there are no further stages, and the result says so.
    """
    started = time.monotonic()
    model, settings, outcome = trained.model, trained.settings, StagesResult()
    result.notes += stages.notes
    on_halves, teaching = stages.steps(settings)
    between = on_halves / max(1, on_halves + teaching)
    if stages.halves is not None:
        told = part_of(progress, 0.0, between)
        found = _cross_fitted(stages, trained, result, told)
        outcome.calibration = found
        if found is not None and stages.weigh:
            model.set_pixel_weight(found["pixel_weight"])
            outcome.changed = True
    if stages.teach and result.stopped != "cancelled":
        try:
            teach_branch(trained, stages.unlabeled, part_of(progress, between, 1.0))
        except Cancelled:
            result.stopped, outcome.calibration = "cancelled", None
            result.notes.append("cancelled before the pixel branch learned from other slices")
        except FAILURES as error:
            outcome.calibration = None  # it was that of what should have come of it
            result.notes.append(f"the pixel branch could not learn from other slices: {error}")
        else:
            outcome.unlabeled, outcome.changed = stages.unlabeled, True
            if not settings.pixel_weight:
                weight = model.adaptation.pixel_weight
                model.set_pixel_weight(_taught_weight(weight, trained))
    result.seconds += time.monotonic() - started
    return outcome


def _cross_fitted(
    stages: Stages, trained: Trained, result: TrainingResult, progress: Progress
) -> dict[str, Any] | None:
    """What `cross_fit` finds; where it finds nothing, a note in the result says why."""
    halves = stages.halves
    assert halves is not None
    why = "the labeled slices are neighbors of each other"

    def in_the_end(weight: float) -> float:
        changes = stages.teach and not halves.pixel_weight
        return _taught_weight(weight, trained) if changes else weight

    try:
        found = cross_fit(
            trained.kind,
            trained.model,
            trained.samples,
            halves,
            trained.backbone,
            choose_weight=stages.weigh,
            in_the_end=in_the_end,
            progress=progress,
        )
    except Cancelled:
        result.stopped = "cancelled"
        found, why = None, "cancelled; the model itself is complete"
    except FAILURES as error:
        found, why = None, f"{error}; the model itself is complete"
    if found is None:
        result.notes.append(f"no calibration: {why}")
    return found


def _taught_weight(weight: float, trained: Trained) -> float:
    """Of a branch that knows from other slices what the SAM says, and had this weight before."""
    assert trained.model.pixels is not None
    if _sees_all_pixels(trained.samples, trained.model.pixels.spec.side):
        return _TAUGHT
    return min(_TIMES_TAUGHT_FEWER * weight, _TAUGHT)


def _sees_all_pixels(samples: TrainingSet, side: int) -> bool:
    return all(max(image.shape) <= side for image in samples.images)
