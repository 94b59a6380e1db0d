"""Few-shot fine-tuning on the demo CT, or on a second one, over several seeds: Dice and seconds.

    python Testing/benchmarks/demo_ct.py --seeds 3
    python Testing/benchmarks/demo_ct.py --seeds 3 --unet --archive DIR

Five labeled slices, scored on all others; the labels are TotalSegmentator's output. The second CT
is the DICOM series in tests/reference_files (DIR) of the source archive totalsegmentator==2.18.0:
20 slices of 512 x 512 pixels, on which no setting was chosen.

Every method gets the same slices, settings and number of steps of the weights; BLO-SAM's steps of
the prompt and those of its pixel branch come on top, in its seconds too. The box-prompted backbone
is scored twice, with boxes that enclose all pixels of a structure (min to max + 1) and with boxes
from pixel index to pixel index (min to max), since either is in use and the difference at 3 mm is
large.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from SAMAutoSegLib.demo import run
from SAMAutoSegLib.demo.unet import segment_by_unet
from SAMAutoSegLib.evaluate.metrics import mean_score, score_volume
from SAMAutoSegLib.images.intensity import default_intensity
from SAMAutoSegLib.images.read import read_image, read_layers
from SAMAutoSegLib.images.slices import SliceStack
from SAMAutoSegLib.images.structure import as_classes
from SAMAutoSegLib.methods.finetune import finetune
from SAMAutoSegLib.methods.training_set import LabeledVolume
from SAMAutoSegLib.progress import silent
from SAMAutoSegLib.sam.checkpoint import load_backbone
from SAMAutoSegLib.sam.embedding_cache import EmbeddingCache
from SAMAutoSegLib.sam.fetch import fetched
from SAMAutoSegLib.sam.predictor import ClickPredictor
from SAMAutoSegLib.segment.corrected import CorrectedSlices
from SAMAutoSegLib.segment.prompted import prompt_with_boxes
from SAMAutoSegLib.segment.volume import segment_volume


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--budgets", default="standard", help="comma-separated")
    parser.add_argument("--unet", action="store_true", help="the U-Net too")
    parser.add_argument("--archive", type=Path, help="the folder of the second CT")
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    case = run.load_case(silent)
    if options.archive:
        case = second_case(case, options.archive)
    backbone = load_backbone(fetched(run.BASE), device=options.device)
    print(json.dumps(run.machine()))
    gray = default_intensity(case.image).apply(case.image.array)
    images = SliceStack(gray, case.image.grid)
    classes = as_classes(case.labels.array, case.structures)
    reference = SliceStack(classes, case.image.grid)
    values = np.array([0, *(structure.label for structure in case.structures)], np.uint8)

    def dice(labels: np.ndarray) -> float:
        scores = score_volume(
            labels, case.labels.array, case.image.grid, case.structures, slices=case.tested
        )
        return mean_score(scores).dice

    enclosing = values[prompt_with_boxes(images, reference, backbone)]
    print(f"boxes, min to max + 1: mean Dice {dice(enclosing):.4f}")
    by_index = values[index_boxes(images, reference, backbone)]
    print(f"boxes, min to max:     mean Dice {dice(by_index):.4f}")
    folder = tempfile.TemporaryDirectory()  # what is timed uses no kept embedding
    cache = EmbeddingCache(Path(folder.name))
    for budget in options.budgets.split(","):
        for method in ("joint", "blo-sam"):
            found: dict[str, list[float]] = {}
            spent = []
            for seed in range(options.seeds):
                started = time.monotonic()
                tuned = finetune(
                    [LabeledVolume(case.image, case.labels, case.labeled)],
                    case.structures,
                    backbone,
                    plane="axial",
                    method=method,
                    settings={"budget": budget, "seed": seed},
                )
                spent.append(time.monotonic() - started)
                known = CorrectedSlices(case.labels.array, case.labeled)
                for name, ways in {
                    "": {},
                    " cleaned up": {"cleanup": run.CLEAN_UP},
                    " + corrected": {"corrected": known},
                }.items():
                    result = segment_volume(case.image, tuned.adapted, cache=cache, **ways)
                    found.setdefault(name, []).append(dice(result.labels))
            for name, values_found in found.items():
                tell(f"{method}, {budget}{name}", values_found, spent)
    if options.unet:
        by_unet, spent = [], []
        for seed in range(options.seeds):
            started = time.monotonic()
            labels = values[segment_by_unet(images, reference, case.labeled, seed=seed)]
            spent.append(time.monotonic() - started)
            by_unet.append(dice(labels))
        tell("U-Net", by_unet, spent)


def second_case(demo: run.Case, folder: Path) -> run.Case:
    """The second CT with its labels, and five of its slices."""
    image = read_image(folder / "example_ct_dicom")
    layers = read_layers(folder / "example_seg_dicom.nii.gz").on_grid_of(image)
    there = {one.label for one in layers.structures}
    structures = [one for one in demo.structures if one.label in there]
    labels, _ = layers.flattened([one.label for one in structures])
    count = len(image.array)
    labeled = tuple(int((n + 0.5) * count / run.LABELED_SLICES) for n in range(run.LABELED_SLICES))
    tested = tuple(n for n in range(count) if n not in labeled)
    return run.Case(demo.sample, image, labels, structures, labeled, tested)


def tell(name: str, dice: list[float], seconds: list[float]) -> None:
    spread = statistics.stdev(dice) if len(dice) > 1 else float("nan")
    each = " ".join(f"{value:.4f}" for value in dice)
    print(
        f"{name}: mean Dice {statistics.mean(dice):.4f}, sd {spread:.4f} over {len(dice)} seeds "
        f"({each}), {statistics.median(seconds):.1f} s",
        flush=True,
    )


def index_boxes(images: SliceStack, reference: SliceStack, backbone) -> np.ndarray:  # type: ignore[no-untyped-def]
    """As `prompt_with_boxes`, but boxes end at the last pixel's index."""
    found = np.zeros_like(reference.array)
    target = SliceStack(found, reference.grid, reference.plane)
    predictor = ClickPredictor(backbone)
    for n in range(len(images)):
        labels = reference.slice_at(n)
        present = [int(label) for label in np.unique(labels) if label]
        if not present:
            continue
        places = [np.nonzero(labels == label) for label in present]
        boxes = np.array([[x.min(), y.min(), x.max(), y.max()] for y, x in places])
        predictor.set_image(images.slice_at(n))
        low_res = np.concatenate([mask.low_res for mask in predictor.predict_boxes(boxes)])
        logits = backbone.spec.logits_to_slice(torch.from_numpy(low_res), images.slice_shape)
        highest, winner = logits.max(0)
        target.put(n, np.where(highest.numpy() > 0, np.array(present)[winner.numpy()], 0))
    return found


if __name__ == "__main__":
    main()
