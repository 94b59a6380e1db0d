"""What one click finds with LiteMedSAM, which was trained with boxes only: Dice and milliseconds.

    python Testing/benchmarks/clicks.py

One point in the middle of the largest part of every structure in every second slice of the demo CT:
given to SAM as it is, and as boxes (`points_by_boxes`); beside it a box around the reference. The
labels are TotalSegmentator's output. Sizes of the boxes were chosen on this CT, on the MR of the
same archive and on three cardiac MRI.
"""

import argparse
import time

import numpy as np

from SAMAutoSegLib.adapt.self_prompts import deepest, largest_part
from SAMAutoSegLib.demo import run
from SAMAutoSegLib.images.bounding_box import bounding_box
from SAMAutoSegLib.images.intensity import default_intensity
from SAMAutoSegLib.images.slices import SliceStack
from SAMAutoSegLib.progress import silent
from SAMAutoSegLib.sam.checkpoint import load_backbone
from SAMAutoSegLib.sam.embedding_cache import embed_slices
from SAMAutoSegLib.sam.fetch import fetched
from SAMAutoSegLib.sam.points_by_boxes import predict_points_by_boxes
from SAMAutoSegLib.sam.predictor import ClickPredictor

_FEWEST_PIXELS = 60


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    case = run.load_case(silent)
    predictor = ClickPredictor(load_backbone(fetched(run.BASE)))
    gray = default_intensity(case.image).apply(case.image.array)
    images = SliceStack(gray, case.image.grid)
    labels = SliceStack(case.labels.array, case.image.grid)
    found: dict[str, list[float]] = {"point": [], "point by boxes": [], "box (oracle)": []}
    seconds = []
    numbers = list(range(0, len(images), 2))
    for number, embedding in embed_slices(predictor.backbone, images.views, numbers=numbers):
        predictor.set_embedding(embedding, images.slice_shape)
        for structure in case.structures:
            mask = labels.slice_at(number) == structure.label
            if mask.sum() < _FEWEST_PIXELS:
                continue
            row, column = deepest(largest_part(mask))
            point, sign = np.array([[column, row]], float), np.array([1])
            answer = predictor.predict(point, sign)
            found["point"].append(dice(answer.masks[answer.iou.argmax()], mask))
            started = time.perf_counter()
            answer = predict_points_by_boxes(predictor, point, sign, images.slice_shape)
            seconds.append(time.perf_counter() - started)
            found["point by boxes"].append(dice(answer.masks[0], mask))
            box = bounding_box(mask)
            assert box is not None
            rows, columns = box
            corners = np.array([columns.start, rows.start, columns.stop, rows.stop], float)
            answer = predictor.predict(box=corners, multimask=False)
            found["box (oracle)"].append(dice(answer.masks[0], mask))
    for name, values in found.items():
        print(f"{name:16} Dice {np.mean(values):.3f}, median {np.median(values):.3f}")
    print(f"{len(seconds)} clicks, median {1000 * np.median(seconds):.0f} ms by boxes")


def dice(found: np.ndarray, wanted: np.ndarray) -> float:
    return 2 * float((found & wanted).sum()) / float(found.sum() + wanted.sum())


if __name__ == "__main__":
    main()
