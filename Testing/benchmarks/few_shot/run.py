"""Few labeled slices, many methods: who segments the rest, and other patients, best.

    make benchmark-fewshot DATA=folder
    python Testing/benchmarks/few_shot/run.py --sets ct --counts 4 --seeds 3

Every line of the results is one method on one draw. What is there already is not computed again,
so a run can be stopped and taken up, or widened. `report.py` makes the tables and the figure.

Fixed before the first run: the primary endpoint is the test Dice at N = 4 on other patients.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import numpy as np
from contenders import CONTENDERS, ORACLES, WITHIN_A_VOLUME, Segment, Task
from image_sets import ImageSet, Scheme, draw, load_set

from SAMAutoSegLib.errors import SAMAutoSegError
from SAMAutoSegLib.evaluate.metrics import mean_score, score_volume
from SAMAutoSegLib.images.slices import SliceStack
from SAMAutoSegLib.methods.training_set import LabeledVolume
from SAMAutoSegLib.sam.checkpoint import load_backbone
from SAMAutoSegLib.sam.embedding_cache import EmbeddingCache
from SAMAutoSegLib.sam.fetch import fetched
from SAMAutoSegLib.segment.volume import SegmentationResult

RESULTS = Path("docs/benchmarks/few-shot.jsonl")
_DATA = "SAMAUTOSEG_BENCHMARK_DATA"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=os.environ.get(_DATA))
    parser.add_argument("--sets", default="ct,hippocampus,cardiac")
    parser.add_argument("--schemes", default="volume,spread,patients")
    parser.add_argument("--counts", default="1,2,4,8,16", help="labeled slices")
    parser.add_argument("--methods", default=",".join(CONTENDERS))
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--evaluations", type=int, default=200, help="gradients of a training")
    parser.add_argument("--test-patients", type=int, default=10)
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    methods = _named(parser, "method", options.methods, list(CONTENDERS))
    schemes = _named(parser, "scheme", options.schemes, get_args(Scheme))
    data = Path(options.data) if options.data else None
    try:
        sets = [load_set(name, data, options.test_patients) for name in options.sets.split(",")]
    except SAMAutoSegError as error:
        parser.error(str(error))  # before hours have passed with the sets before it
    options.results.parent.mkdir(parents=True, exist_ok=True)
    lines = options.results.read_text().splitlines() if options.results.exists() else []
    known = {_key(json.loads(line)) for line in lines}
    backbone = load_backbone(fetched("lite-medsam"))
    cache = EmbeddingCache(max_bytes=16 * 2**30)
    for images in sets:
        name = images.name
        for scheme in schemes:
            if scheme == "patients" and not images.test:
                continue
            for count in map(int, options.counts.split(",")):
                for seed in range(options.seeds):
                    try:
                        drawn = draw(images, scheme, count, seed)
                    except SAMAutoSegError as error:
                        print(f"left out: {name}, {scheme}, seed {seed}: {error}")
                        continue
                    task = Task(images, drawn, backbone, cache, options.evaluations, seed)
                    for method in methods:
                        entry = {
                            "set": name,
                            "scheme": scheme,
                            "slices": count,
                            "seed": seed,
                            "method": method,
                            "evaluations": options.evaluations,
                        }
                        # Other patients are the same for every seed, and oracles learn nothing.
                        across = scheme == "patients"
                        again = across and method in ORACLES and seed > 0
                        if again or across and method in WITHIN_A_VOLUME or _key(entry) in known:
                            continue
                        try:
                            entry |= _result(task, method)
                        except SAMAutoSegError as error:  # such as half of two slices, an empty one
                            print(f"left out: {name}, {scheme}, seed {seed}, {method}: {error}")
                            continue
                        with options.results.open("a") as stream:
                            stream.write(json.dumps(entry) + "\n")
                        print(json.dumps(entry), flush=True)


def _named(
    parser: argparse.ArgumentParser, kind: str, text: str, there: Sequence[str]
) -> list[str]:
    names = text.split(",")
    if unknown := [name for name in names if name not in there]:
        parser.error(f"no such {kind}: {', '.join(unknown)}; there are {', '.join(there)}")
    return names


def _key(entry: dict) -> tuple:
    return tuple(entry[n] for n in ("set", "scheme", "slices", "seed", "method", "evaluations"))


def _result(task: Task, method: str) -> dict:
    started = time.monotonic()
    segment = CONTENDERS[method](task)
    seconds = time.monotonic() - started
    tested = [_scores(task.images, segment, volume) for volume in task.drawn.tested]
    learned = [_scores(task.images, segment, volume) for volume in task.drawn.labeled]
    dice, nsd, hd95 = np.nanmean([scores[:3] for scores in tested], axis=0)
    unsure = [scores[4] for scores in tested if np.isfinite(scores[4])]
    return {
        "dice": round(float(dice), 4),
        "nsd": round(float(nsd), 4),
        "hd95_mm": round(float(hd95), 2) if np.isfinite(hd95) else None,
        "gap": round(float(np.nanmean([scores[0] for scores in learned]) - dice), 4),
        "outside": round(float(np.mean([scores[3] for scores in tested])), 4),
        "calibration": round(float(np.mean(unsure)), 4) if unsure else None,
        "seconds": round(seconds, 1),
    }


def _scores(images: ImageSet, segment: Segment, volume: LabeledVolume) -> tuple[float, ...]:
    """Mean Dice, NSD and HD95 over the structures, the share of what was found that lies on slices
    without any of them, and the calibration error."""
    result = segment(volume)
    found = result.labels
    truth = volume.labels.array
    grid, plane = volume.image.grid, images.plane
    scores = score_volume(found, truth, grid, images.structures, slices=volume.slices, axis=plane)
    mean = mean_score(scores)
    error = _calibration_error(images, result, volume)
    return mean.dice, mean.nsd, mean.hd95_mm, _outside(images, found, volume), error


def _calibration_error(
    images: ImageSet, result: SegmentationResult, volume: LabeledVolume
) -> float:
    """Expected calibration error (Guo et al., ICML 2017, section 2) of the probability to be wrong.

    Ten bins, over the voxels that the model or the reference gives to a structure: over all, the
    background would hide everything. NaN if the method tells no probability.
    """
    if result.uncertainty is None:
        return float("nan")
    labels = [structure.label for structure in images.structures]
    truth = np.where(np.isin(volume.labels.array, labels), volume.labels.array, 0)
    stacks = [
        SliceStack(array, volume.image.grid, images.plane)
        for array in (result.labels, truth, result.uncertainty)
    ]
    shown = [np.stack([stack.slice_at(n) for n in volume.slices]) for stack in stacks]
    found, expected, doubt = (array.ravel() for array in shown)
    counted = (found > 0) | (expected > 0)
    wrong, doubt = (found != expected)[counted], doubt[counted]
    bins = np.minimum((doubt * 10).astype(int), 9)
    gaps = np.bincount(bins, doubt, 10) - np.bincount(bins, wrong, 10)
    return float(np.abs(gaps).sum() / max(len(bins), 1))


def _outside(images: ImageSet, found: np.ndarray, volume: LabeledVolume) -> float:
    labels = [structure.label for structure in images.structures]
    predicted, expected = (
        SliceStack(np.isin(array, labels), volume.image.grid, images.plane)
        for array in (found, volume.labels.array)
    )
    sizes = {n: int(predicted.slice_at(n).sum()) for n in volume.slices}
    empty = [n for n in volume.slices if not expected.slice_at(n).any()]
    return sum(sizes[n] for n in empty) / max(sum(sizes.values()), 1)


if __name__ == "__main__":
    main()
