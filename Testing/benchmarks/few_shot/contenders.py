"""The methods of the few-shot benchmark: each makes label maps of the tested volumes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from image_sets import Draw, ImageSet

from SAMAutoSegLib.adapt.adapted_file import Adapted
from SAMAutoSegLib.adapt.self_prompts import deepest, largest_part
from SAMAutoSegLib.demo.unet import train_unet, unet_classes
from SAMAutoSegLib.images.intensity import default_intensity
from SAMAutoSegLib.images.slices import SliceStack
from SAMAutoSegLib.images.structure import as_classes
from SAMAutoSegLib.methods.finetune import finetune
from SAMAutoSegLib.methods.training_set import LabeledVolume
from SAMAutoSegLib.sam.backbone import Backbone
from SAMAutoSegLib.sam.embedding_cache import EmbeddingCache
from SAMAutoSegLib.sam.points_by_boxes import predict_points_by_boxes
from SAMAutoSegLib.sam.predictor import ClickPredictor
from SAMAutoSegLib.segment.cleanup import CleanUp
from SAMAutoSegLib.segment.corrected import CorrectedShapes, CorrectedSlices
from SAMAutoSegLib.segment.prompted import Answers, prompt_slices, prompt_with_boxes
from SAMAutoSegLib.segment.refinement import Refinement
from SAMAutoSegLib.segment.volume import SegmentationResult, segment_volume

CLEAN_UP = CleanUp(largest_component=True)

Segment = Callable[[LabeledVolume], SegmentationResult]
"""From a volume and the slices that count to its labels, and how uncertain they are if known."""


@dataclass(frozen=True)
class Task:
    """One draw of one image set, and what all methods are given alike.

    `evaluations`: gradients of a batch that a training may compute, whatever it does with them.
    `trained`: models that were made already, by method and settings.
    """

    images: ImageSet
    drawn: Draw
    backbone: Backbone
    cache: EmbeddingCache
    evaluations: int
    seed: int
    trained: dict[str, Adapted] = field(default_factory=dict)


def boxes(task: Task) -> Segment:
    """An oracle: the plain backbone with a box around the reference in every slice."""
    return _prompted(task, prompt_with_boxes)


def points(task: Task) -> Segment:
    """An oracle: a click in the middle of every structure in every slice."""
    return _prompted(task, prompt_with_points)


def prompt_with_points(
    images: SliceStack, reference: SliceStack, backbone: Backbone, **options: Any
) -> np.ndarray:
    """Segment with one click per structure and slice, in the middle of its largest part.

    As for `prompt_with_boxes`, with less help: clicks say where structures lie, not how large they
    are. They are answered by way of boxes, see `points_by_boxes`.
    """

    def answer(predictor: ClickPredictor, labels: np.ndarray) -> Answers:
        found = {}
        for label in np.unique(labels[labels > 0]):
            row, column = deepest(largest_part(labels == label))
            click = np.array([[column, row]], float)
            found[int(label)] = predict_points_by_boxes(
                predictor, click, np.array([1]), images.slice_shape
            ).low_res
        return found

    return prompt_slices(images, reference, backbone, answer, **options)


def _prompted(task: Task, prompt: Callable[..., np.ndarray]) -> Segment:
    values = np.array([0, *(structure.label for structure in task.images.structures)])

    def segment(volume: LabeledVolume) -> SegmentationResult:
        gray, classes = _stacks(task, volume)
        found = prompt(gray, classes, task.backbone, slices=volume.slices, cache=task.cache)
        return SegmentationResult(values[found])

    return segment


def unet(task: Task) -> Segment:
    """MONAI's U-Net from scratch, with its usual augmentation and number of steps."""
    known = []
    for volume in task.drawn.labeled:
        gray, classes = _stacks(task, volume)
        known += [(gray.slice_at(n), classes.slice_at(n)) for n in volume.slices]
    net = train_unet(known, len(task.images.structures) + 1, seed=task.seed)
    values = np.array([0, *(structure.label for structure in task.images.structures)])
    return lambda volume: SegmentationResult(values[unet_classes(net, _stacks(task, volume)[0])])


def interpolation(task: Task) -> Segment:
    """No model: shapes between the labeled slices, of which each is one of the tested volume."""
    values = np.array([0, *(structure.label for structure in task.images.structures)])

    def segment(volume: LabeledVolume) -> SegmentationResult:
        _, classes = _stacks(task, volume)
        known = {n: classes.slice_at(n) for n in task.drawn.labeled[0].slices}
        spacings = classes.pixel_spacing, classes.slice_spacing
        shapes = CorrectedShapes(known, len(values), *spacings)
        found = np.zeros_like(classes.array)
        stack = SliceStack(found, volume.image.grid, task.images.plane)
        for n in range(len(stack)):
            stack.put(n, shapes.log_shares(n).argmax(0).astype(found.dtype))
        return SegmentationResult(values[found])

    return segment


def joint(task: Task) -> Segment:
    return _trained(task, "joint", {"steps": task.evaluations})


def joint_cleaned(task: Task) -> Segment:
    """How much of ours is the clean-up alone."""
    return _trained(task, "joint", {"steps": task.evaluations}, cleanup=CLEAN_UP)


def joint_half(task: Task) -> Segment:
    """Plain fine-tuning on as many slices as a fixed D1 has."""
    labeled = task.drawn.labeled
    slices = [(volume, n) for volume in labeled for n in volume.slices]
    half = slices[: max(1, len(slices) // 2)]
    kept = [
        replace(volume, slices=chosen)
        for volume in labeled
        if (chosen := tuple(n for owner, n in half if owner is volume))
    ]
    return _trained(task, "joint", {"steps": task.evaluations}, kept)


def blo_published(task: Task) -> Segment:
    """The published recipe; each of its iterations takes two gradients."""
    return _trained(
        task, "blo-sam", {"recipe": "published", "steps": max(1, task.evaluations // 2)}
    )


def blo_rotating(task: Task) -> Segment:
    """Our settings; the prompt's steps, one in ten, are part of the budget."""
    return _trained(task, "blo-sam", {**_levels(task), "pixel_steps": 0})


def blo_second_order(task: Task) -> Segment:
    """Our settings with the unrolled step, which takes four gradients more."""
    settings = {
        **_levels(task, gradients_of_prompt=4),
        "order": "finite-difference",
        "pixel_steps": 0,
    }
    return _trained(task, "blo-sam", settings)


def views_cleaned(task: Task) -> Segment:
    """Ours without the pixel branch."""
    settings = {**_levels(task), "views": 8, "pixel_steps": 0}
    return _trained(task, "blo-sam", settings, cleanup=CLEAN_UP)


def ours(task: Task, follow: bool = False) -> Segment:
    """What paid: BLO-SAM with the pixel branch and eight views, cleaned up.

    Chosen on volumes of the pool. The branch takes twice as many steps of its own small net
    besides, and where eight slices of several volumes tell its weight, that takes two more
    trainings, on half of these slices each.
    """
    several = len(task.drawn.labeled) > 1
    # The refit is half of the steps; in the other half one more in ten is the prompt's.
    length = {"steps": max(1, task.evaluations * 20 // 21)} if several else _levels(task)
    return _trained(task, "blo-sam", {**length, "views": 8}, cleanup=CLEAN_UP, follow=follow)


def without_refit(task: Task) -> Segment:
    """Ours, with the two levels in all of its steps. Within a volume it always does so."""
    return _trained(task, "blo-sam", {**_levels(task), "views": 8}, cleanup=CLEAN_UP)


def untaught(task: Task) -> Segment:
    """`without_refit`, with a branch that learned from labeled slices only. Within a volume it
    always does."""
    settings = {**_levels(task), "views": 8, "teach_branch": False}
    return _trained(task, "blo-sam", settings, cleanup=CLEAN_UP)


def fixed_weight(task: Task) -> Segment:
    """`untaught` with half as many steps of the branch, and less to say, always the same."""
    settings = {**_levels(task), **_fixed(task)}
    return _trained(task, "blo-sam", settings, cleanup=CLEAN_UP)


def joint_like_ours(task: Task) -> Segment:
    """`ours` without the two levels: all else is alike."""
    settings = {"steps": task.evaluations, "views": 8, "pixel_steps": 2}
    return _trained(task, "joint", settings, cleanup=CLEAN_UP)


def ours_corrected(task: Task) -> Segment:
    """Ours, with the labeled slices given as corrected where they lie in the tested volume."""
    return ours(task, follow=True)


def joint_fixed_weight(task: Task) -> Segment:
    """`fixed_weight` without the two levels."""
    settings = {"steps": task.evaluations, **_fixed(task)}
    return _trained(task, "joint", settings, cleanup=CLEAN_UP)


def _fixed(task: Task) -> dict[str, Any]:
    weight = 0.25 if len(task.drawn.labeled) > 1 else 0.5
    return {"views": 8, "pixel_steps": 1, "pixel_weight": weight, "teach_branch": False}


def _levels(task: Task, gradients_of_prompt: int = 1) -> dict[str, Any]:
    """The two levels alone: for ten steps of the weights one more is the prompt's."""
    steps = max(1, task.evaluations * 10 // (10 + gradients_of_prompt))
    return {"steps": steps, "refit": "never"}


def auto_sam(head: str) -> Callable[[Task], Segment]:
    """AutoSAM with one of its heads."""
    return lambda task: _trained(task, "auto-sam", {"steps": task.evaluations, "head": head})


def sam_sp(task: Task) -> Segment:
    """SAM-SP, whose gradients go through both passes, segmenting with its second look."""
    return _trained(task, "sam-sp", {"steps": task.evaluations}, refinement=Refinement())


ORACLES: dict[str, Callable[[Task], Segment]] = {
    "boxes (oracle)": boxes,
    "points (oracle)": points,
}

WITHIN_A_VOLUME: dict[str, Callable[[Task], Segment]] = {
    "interpolation": interpolation,
    "ours + corrected": ours_corrected,
}

CONTENDERS: dict[str, Callable[[Task], Segment]] = {
    **ORACLES,
    "U-Net": unet,
    "joint": joint,
    "joint + clean-up": joint_cleaned,
    "joint on half": joint_half,
    "BLO-SAM published": blo_published,
    "BLO-SAM rotating": blo_rotating,
    "BLO-SAM second order": blo_second_order,
    "BLO-SAM views": views_cleaned,
    "joint with fixed weight": joint_fixed_weight,
    "fixed weight": fixed_weight,
    "untaught": untaught,
    "joint like ours": joint_like_ours,
    "without refit": without_refit,
    "ours": ours,
    **WITHIN_A_VOLUME,
    "AutoSAM ViT": auto_sam("auto-vit-tokens"),
    "AutoSAM CNN": auto_sam("auto-cnn-small"),
    "AutoSAM linear": auto_sam("auto-linear"),
    "SAM-SP": sam_sp,
}


def _trained(
    task: Task,
    method: str,
    settings: dict[str, Any],
    labeled: Sequence[LabeledVolume] | None = None,
    cleanup: CleanUp | None = None,
    refinement: Refinement | None = None,
    follow: bool = False,
) -> Segment:
    own = {} if "recipe" in settings else {"patience": 0}
    volumes = labeled or task.drawn.labeled
    key = f"{method} {settings} {[volume.slices for volume in volumes]}"
    if key not in task.trained:
        task.trained[key] = finetune(
            volumes,
            task.images.structures,
            task.backbone,
            plane=task.images.plane,
            method=method,
            settings={**settings, **own, "seed": task.seed},
            cache=task.cache,
        ).adapted
    adapted = task.trained[key]

    # Within a volume all of it is segmented, as a user would: clean-up needs the neighbors.
    known = volumes[0]
    within = task.drawn.tested[0].image is known.image

    def segment(volume: LabeledVolume) -> SegmentationResult:
        return segment_volume(
            volume.image,
            adapted,
            slices=None if within else volume.slices,
            corrected=CorrectedSlices(known.labels.array, known.slices) if follow else None,
            cache=task.cache,
            cleanup=cleanup,
            refinement=refinement,
            uncertainty=True,
        )

    return segment


def _stacks(task: Task, volume: LabeledVolume) -> tuple[SliceStack, SliceStack]:
    grid, plane = volume.image.grid, task.images.plane
    gray = default_intensity(volume.image).apply(volume.image.array)
    classes = as_classes(volume.labels.array, task.images.structures)
    return SliceStack(gray, grid, plane), SliceStack(classes, grid, plane)
