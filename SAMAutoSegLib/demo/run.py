"""The whole loop on a real CT: the program plays the clinician, everything else is as in use."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from SAMAutoSegLib import __version__
from SAMAutoSegLib.adapt.adapted_file import load_adapted, save_adapted
from SAMAutoSegLib.demo.sample import Sample, fetch_sample
from SAMAutoSegLib.demo.unet import segment_by_unet
from SAMAutoSegLib.evaluate.figures import montage_png, training_curve_png
from SAMAutoSegLib.evaluate.metrics import StructureScore, mean_score, score_volume
from SAMAutoSegLib.evaluate.table import comparison_table
from SAMAutoSegLib.files import replace_when_complete
from SAMAutoSegLib.images.intensity import default_intensity
from SAMAutoSegLib.images.read import read_image, read_labels
from SAMAutoSegLib.images.slices import SliceStack
from SAMAutoSegLib.images.structure import Structure, as_classes, structure_named
from SAMAutoSegLib.images.volume import Volume
from SAMAutoSegLib.images.write import write_segmentation, write_volume
from SAMAutoSegLib.methods.blo_sam import BLOSAMSettings
from SAMAutoSegLib.methods.finetune import finetune
from SAMAutoSegLib.methods.settings import make_settings
from SAMAutoSegLib.methods.training_set import LabeledVolume
from SAMAutoSegLib.methods.tuned_model import FineTuned
from SAMAutoSegLib.progress import Progress
from SAMAutoSegLib.sam.backbone import Backbone
from SAMAutoSegLib.sam.checkpoint import load_backbone
from SAMAutoSegLib.sam.embedding_cache import EmbeddingCache
from SAMAutoSegLib.sam.fetch import fetched
from SAMAutoSegLib.segment.cleanup import CleanUp
from SAMAutoSegLib.segment.corrected import CorrectedSlices
from SAMAutoSegLib.segment.prompted import prompt_with_boxes
from SAMAutoSegLib.segment.volume import segment_volume

BASE = "lite-medsam"
SAMPLE = "abdomen-ct"

# Values of these structures in the sample's labels.
STRUCTURES = {
    "spleen": 1,
    "right kidney": 2,
    "left kidney": 3,
    "liver": 5,
    "stomach": 6,
    "aorta": 52,
}
LABELED_SLICES = 5
MODEL_FILE = "model.safetensors"
NSD_TOLERANCE_MM = 2.0

BOXES = "boxes"
UNET = "U-Net"
JOINT = "joint"
SAM_ALONE = "BLO-SAM alone"
BLO_SAM = "BLO-SAM"
CORRECTED = "+ corrected"
CLEANED = "cleaned up"

MEANINGS = {
    BOXES: "the backbone prompted with boxes around the reference, which no user has",
    UNET: "trained from scratch on the same slices",
    JOINT: "plain fine-tuning",
    SAM_ALONE: "without the pixel branch, a small net that learns beside the SAM",
    BLO_SAM: "no prompt, no clean-up",
    CORRECTED: "and the slices that were learned from steer those between them",
    CLEANED: "that, of each structure the parts that were labeled, smoothed across slices",
}

# What a user would tick for compact organs: one part each, smoothed over about a slice.
CLEAN_UP = CleanUp(largest_component=True, smooth_slices_mm=3.0)


@dataclass
class Case:
    """The sample as the demo uses it.

    Attributes:
        labeled: the slices that count as corrected, in the middle of equal parts of the volume.
        tested: all others; nothing is learned from or chosen by them.
    """

    sample: Sample
    image: Volume
    labels: Volume
    structures: list[Structure]
    labeled: tuple[int, ...]
    tested: tuple[int, ...]


@dataclass
class Demo:
    """What the demo found: label maps and scores by method, seconds by step."""

    case: Case
    predictions: dict[str, np.ndarray] = field(default_factory=dict)
    scores: dict[str, list[StructureScore]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    tuned: FineTuned | None = None

    def score(self, method: str, labels: np.ndarray) -> None:
        """Score a label map on the slices that were never labeled."""
        case = self.case
        self.predictions[method] = labels
        self.scores[method] = score_volume(
            labels,
            case.labels.array,
            case.image.grid,
            case.structures,
            NSD_TOLERANCE_MM,
            case.tested,
        )

    @contextmanager
    def timed(self, step: str) -> Iterator[None]:
        started = time.monotonic()
        yield
        self.seconds[step] = time.monotonic() - started

    def table(self) -> str:
        return comparison_table(self.scores)


def load_case(progress: Progress, folder: Path | None = None) -> Case:
    """The sample CT, fetched if need be, with five slices that count as corrected."""
    sample = fetch_sample(SAMPLE, folder, progress)
    image = read_image(sample.image)
    labels, _ = read_labels(sample.labels)
    structures = [structure_named(name, value) for name, value in STRUCTURES.items()]
    count = image.array.shape[0]
    labeled = tuple(int((n + 0.5) * count / LABELED_SLICES) for n in range(LABELED_SLICES))
    tested = tuple(n for n in range(count) if n not in labeled)
    return Case(sample, image, labels, structures, labeled, tested)


def run_demo(
    output: Path,
    *,
    device: str = "auto",
    budget: str = "standard",
    seed: int | None = None,
    baselines: bool = True,
    progress: Progress,
) -> Demo:
    """Fetch, fine-tune on five slices, segment the volume, score, write results to `output`.

    The user's cache has no part in it, and BLO-SAM's own steps use none at all, so that their
    seconds are those of a first run.

    Raises:
        SAMAutoSegError: sample or weights cannot be fetched, or the folder cannot be written.
    """
    settings: dict[str, Any] = {"budget": budget}
    if seed is not None:
        settings["seed"] = seed
    make_settings(BLOSAMSettings, settings, LABELED_SLICES)  # what cannot be is told before
    base = fetched(BASE, progress)
    demo = Demo(load_case(progress))
    output.mkdir(parents=True, exist_ok=True)
    with demo.timed("loading the backbone"):
        backbone = load_backbone(base, device=device)
    with TemporaryDirectory() as folder:
        cache = EmbeddingCache(Path(folder))
        if baselines:
            _run_baselines(demo, backbone, settings, cache, progress)
        _run_blo_sam(demo, backbone, settings, cache, output / MODEL_FILE, progress)
    _write(demo, output)
    return demo


def _run_blo_sam(
    demo: Demo,
    backbone: Backbone,
    settings: dict[str, Any],
    cache: EmbeddingCache,
    model_file: Path,
    progress: Progress,
) -> None:
    case = demo.case
    held_out = [LabeledVolume(case.image, case.labels, case.tested)]
    tuned = _tune(case, backbone, "blo-sam", settings, None, progress, held_out)
    demo.tuned = tuned
    demo.seconds["BLO-SAM: encoding the 5 slices"] = tuned.seconds["encoding"]
    demo.seconds["BLO-SAM: training"] = tuned.seconds["training"]
    save_adapted(model_file, tuned.adapted)
    # Through the file, as a user would: what is scored is what can be loaded again.
    adapted = load_adapted(model_file, device=backbone.device)
    model = adapted.model

    def segmented(cache: EmbeddingCache | None, **options: Any) -> np.ndarray:
        found = segment_volume(case.image, adapted, cache=cache, progress=progress, **options)
        return found.labels

    known = CorrectedSlices(case.labels.array, case.labeled)
    with demo.timed("segmenting the volume"):
        followed = segmented(None, corrected=known)
    if model.pixels is not None:
        branch, model.pixels = model.pixels, None
        demo.score(SAM_ALONE, segmented(cache))
        model.pixels = branch
    demo.score(BLO_SAM, segmented(cache))
    demo.score(CORRECTED, followed)
    demo.score(CLEANED, segmented(cache, corrected=known, cleanup=CLEAN_UP))


def _tune(
    case: Case,
    backbone: Backbone,
    method: str,
    settings: dict[str, Any],
    cache: EmbeddingCache | None,
    progress: Progress,
    held_out: Sequence[LabeledVolume] = (),
) -> FineTuned:
    return finetune(
        [LabeledVolume(case.image, case.labels, case.labeled)],
        case.structures,
        backbone,
        plane="axial",
        method=method,
        settings=settings,
        held_out=held_out,
        cache=cache,
        progress=progress,
    )


def _run_baselines(
    demo: Demo,
    backbone: Backbone,
    settings: dict[str, Any],
    cache: EmbeddingCache,
    progress: Progress,
) -> None:
    case = demo.case
    gray = default_intensity(case.image).apply(case.image.array)
    images = SliceStack(gray, case.image.grid)
    classes = as_classes(case.labels.array, case.structures)
    values = np.array([0, *(structure.label for structure in case.structures)], np.uint8)
    with demo.timed("baseline: boxes"):
        boxed = prompt_with_boxes(
            images, SliceStack(classes, case.image.grid), backbone, cache=cache, progress=progress
        )
    demo.score(BOXES, values[boxed])
    with demo.timed("baseline: U-Net"):
        found = segment_by_unet(
            images,
            SliceStack(classes, case.image.grid),
            case.labeled,
            seed=settings.get("seed", 0),
            progress=progress,
        )
    demo.score(UNET, values[found])
    with demo.timed("baseline: joint fine-tuning"):
        joint = _tune(case, backbone, "joint", settings, None, progress)
    segmented = segment_volume(case.image, joint.adapted, cache=cache, progress=progress)
    demo.score(JOINT, segmented.labels)


def _write(demo: Demo, output: Path) -> None:
    case, tuned = demo.case, demo.tuned
    assert tuned is not None
    card = tuned.adapted.card
    provenance = {
        "model": MODEL_FILE,
        "backbone": card.backbone,
        "method": card.method,
        "version": __version__,
    }
    labels = demo.predictions[CORRECTED]
    for name in ("segmentation.seg.nrrd", "segmentation.nii.gz"):
        write_segmentation(output / name, labels, case.image.grid, case.structures, provenance)
    write_volume(output / "image.nrrd", case.image)
    gray = card.intensity.apply(case.image.array)
    stacks = [SliceStack(a, case.image.grid) for a in (gray, case.labels.array, labels)]
    shown = sorted({*case.labeled[::2], *case.tested[1::4]})[:10]
    images, references, predictions = ([s.slice_at(n) for n in shown] for s in stacks)
    montage_png(
        output / "montage.png",
        images,
        references,
        predictions,
        case.structures,
        shown,
        case.labeled,
        stacks[0].pixel_spacing,
        title=f"BLO-SAM, learned from {len(case.labeled)} of {len(stacks[0])} slices",
    )
    training_curve_png(
        output / "training-curve.png",
        tuned.result.history,
        title="BLO-SAM: losses, and Dice on slices that train nothing",
    )
    with replace_when_complete(output / "report.json") as temporary:
        temporary.write_text(json.dumps(report(demo), indent=2), encoding="utf-8")


def report(demo: Demo) -> dict[str, Any]:
    """Everything the demo found, as JSON values."""
    tuned = demo.tuned
    assert tuned is not None
    return {
        "sample": demo.case.sample.title,
        "remark": demo.case.sample.remark,
        "labeled_slices": list(demo.case.labeled),
        "scored_slices": list(demo.case.tested),
        "nsd_tolerance_mm": NSD_TOLERANCE_MM,
        "scores": {
            method: {
                "structures": [score.to_json() for score in scores],
                "mean": mean_score(scores).to_json(),
            }
            for method, scores in demo.scores.items()
        },
        "seconds": {step: round(value, 2) for step, value in demo.seconds.items()},
        "settings": tuned.adapted.card.settings,
        "notes": tuned.result.notes,
        "machine": machine(),
        "version": __version__,
    }


def machine() -> dict[str, Any]:
    """What the seconds were measured on."""
    return {
        "system": platform.platform(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch": torch.__version__,
    }
