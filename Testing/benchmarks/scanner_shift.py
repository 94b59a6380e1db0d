"""Adapting to another scanner: a model of one set of patients on changed images of others.

    python Testing/benchmarks/scanner_shift.py --data FOLDER --seeds 5 --write

FOLDER, or the variable SAMAUTOSEG_BENCHMARK_DATA, holds `hippocampus_mr` (the Medical Segmentation
Decathlon's task 4: images and labels) and `cardiac_lv_mr` (Sunnybrook: end-diastole and
end-systole); either will do. For every seed, patients are drawn anew:

- source: a model learns from labeled slices of some patients.
- target: slices of other patients, of the hippocampus with another tone curve, coil shading, Rician
  noise and half the resolution; of the heart at end-systole instead of end-diastole.
- source model, WeSAM with boxes, points, rough paint and without labels, and the fully supervised
  ceiling (the same target slices with their true labels) are scored on target images of a third
  set of patients. No score chooses anything.

The shift is made on the volumes by other code than the training's strong views. The settings were
chosen on patients that are never among the tested ones; --tune scores those instead.
Dice: over the scored slices of a patient, mean of structures and patients; the interval is a
95 % bootstrap over patients, seeds pooled.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage

from SAMAutoSegLib.adapt.adapted_file import Adapted
from SAMAutoSegLib.images.bounding_box import bounding_box
from SAMAutoSegLib.images.read import read_image, read_labels
from SAMAutoSegLib.images.slices import Plane, SliceStack
from SAMAutoSegLib.images.structure import Structure, structure_named
from SAMAutoSegLib.images.volume import Volume
from SAMAutoSegLib.images.weak_labels import Hint, WeakLabels
from SAMAutoSegLib.methods.adapt_source import adapt_source
from SAMAutoSegLib.methods.finetune import finetune
from SAMAutoSegLib.methods.training_set import LabeledVolume
from SAMAutoSegLib.methods.unlabeled_set import UnlabeledVolume
from SAMAutoSegLib.sam.backbone import Backbone
from SAMAutoSegLib.sam.checkpoint import load_backbone
from SAMAutoSegLib.sam.embedding_cache import EmbeddingCache
from SAMAutoSegLib.sam.fetch import fetched
from SAMAutoSegLib.segment.volume import segment_volume

KINDS = ("boxes", "points", "paint", "none")
DOCUMENT = Path(__file__).parents[2] / "docs" / "benchmarks" / "scanner-shift"


@dataclass(frozen=True)
class Task:
    """A set of images: `load(patient, shifted)` gives an image and its labels."""

    name: str
    patients: tuple[str, ...]
    structures: tuple[Structure, ...]
    plane: Plane
    load: Callable[[str, bool], tuple[Volume, Volume]]


def hippocampus(folder: Path) -> Task:
    def load(patient: str, shift: bool) -> tuple[Volume, Volume]:
        image = read_image(folder / "images" / patient)
        labels, _ = read_labels(folder / "labels" / patient)
        return (shifted(image, sum(patient.encode())) if shift else image), labels

    names = tuple(sorted(path.name for path in (folder / "images").glob("*.nii.gz")))
    structures = (structure_named("anterior", 1), structure_named("posterior", 2))
    return Task("hippocampus", names, structures, "sagittal", load)


def heart(folder: Path) -> Task:
    def load(patient: str, shift: bool) -> tuple[Volume, Volume]:
        phase = "ES" if shift else "ED"
        labels, _ = read_labels(folder / f"{patient}_{phase}_lv.nii.gz")
        return read_image(folder / f"{patient}_{phase}_img.nii.gz"), labels

    names = sorted(path.name.removesuffix("_ED_img.nii.gz") for path in folder.glob("*_ED_img*"))
    return Task("cardiac", tuple(names), (structure_named("left ventricle", 1),), "axial", load)


def shifted(image: Volume, seed: int) -> Volume:
    """The volume as a poorer scanner might show it."""
    rng = np.random.default_rng(seed)
    low, high = np.percentile(image.array, (0.5, 99.5))
    values = np.clip((image.array - low) / (high - low), 0, 1.2) ** rng.choice([0.45, 2.2])
    half = ndimage.zoom(values, 0.5, order=1, mode="nearest", grid_mode=True)
    back = np.array(values.shape) / half.shape
    values = ndimage.zoom(half, back, order=1, mode="nearest", grid_mode=True)
    places = np.meshgrid(*(np.linspace(-1, 1, n) for n in values.shape), indexing="ij")
    toward = rng.normal(size=3)
    toward /= np.linalg.norm(toward)
    values = values * np.exp(0.6 * sum(t * p for t, p in zip(toward, places, strict=True)))
    values = np.hypot(*(values * real + rng.normal(0, 0.07, values.shape) for real in (1, 0)))
    return replace(image, array=(values * 1000).astype(np.float32))


def chosen_slices(labels: Volume, plane: Plane, count: int) -> tuple[int, ...]:
    """Evenly spaced slices among those that show a structure, without the outermost."""
    stack = SliceStack(labels.array, labels.grid, plane)
    there = [n for n in range(len(stack)) if stack.slice_at(n).any()]
    return tuple(
        sorted({there[round(at)] for at in np.linspace(0, len(there) - 1, count + 2)[1:-1]})
    )


def labeled(task: Task, patients: Sequence[str], shift: bool, count: int) -> list[LabeledVolume]:
    pairs = [task.load(patient, shift) for patient in patients]
    return [
        LabeledVolume(image, labels, chosen_slices(labels, task.plane, count))
        for image, labels in pairs
    ]


def weakened(
    volume: LabeledVolume, task: Task, kind: str, rng: np.random.Generator
) -> UnlabeledVolume:
    """The volume with weak labels as a user could give them, made from its true ones."""
    stack = SliceStack(volume.labels.array, volume.labels.grid, task.plane)
    hints: dict[int, dict[int, Hint]] = {}
    for n in volume.slices if kind != "none" else ():
        for structure in task.structures:
            hint = weak_hint(stack.slice_at(n) == structure.label, kind, rng)
            if hint is not None:
                hints.setdefault(n, {})[structure.label] = hint
    return UnlabeledVolume(volume.image, volume.slices, WeakLabels(task.plane, hints))


def weak_hint(mask: np.ndarray, kind: str, rng: np.random.Generator) -> Hint | None:
    """Boxes: tight ones. Points: up to 5 inside and 5 near by. Paint: too wide or too narrow."""
    if not mask.any():
        return None if kind == "points" else Hint(absent=True)
    if kind == "boxes":
        rows, columns = bounding_box(mask) or (slice(0), slice(0))
        return Hint(boxes=((rows.start, columns.start, rows.stop, columns.stop),))
    if kind == "points":
        around = ndimage.binary_dilation(mask, iterations=8) & ~ndimage.binary_dilation(mask)
        points = [
            (int(row), int(column), sign)
            for places, sign in ((np.argwhere(mask), 1), (np.argwhere(around), -1))
            for row, column in rng.permutation(places)[:5]
        ]
        return Hint(points=tuple(points))
    by = max(1, int(0.25 * np.sqrt(mask.sum() / np.pi)))
    change = ndimage.binary_dilation if rng.random() < 0.5 else ndimage.binary_erosion
    paint = change(mask, iterations=by)
    return Hint(coarse=paint if paint.any() else mask)


def dice_of_patients(
    adapted: Adapted, tests: Sequence[LabeledVolume], cache: EmbeddingCache
) -> list[float]:
    card, scores = adapted.card, []
    for test in tests:
        found = segment_volume(test.image, adapted, slices=test.slices, cache=cache).labels
        shown, true = (
            SliceStack(array, test.image.grid, card.plane) for array in (found, test.labels.array)
        )
        slices = np.array([[shown.slice_at(n), true.slice_at(n)] for n in test.slices])
        of_structures = []
        for structure in card.structures:
            one, other = (slices[:, k] == structure.label for k in (0, 1))
            if one.any() or other.any():
                of_structures.append(2 * (one & other).sum() / (one.sum() + other.sum()))
        scores.append(float(np.mean(of_structures)))
    return scores


def run_seed(
    task: Task, seed: int, options: argparse.Namespace, backbone: Backbone, cache: EmbeddingCache
) -> dict[str, list[float]]:
    """Dice of every tested patient, by what was tested."""
    # The last third of a fixed order is tested, the rest trains; --tune tests among the rest.
    order = np.random.default_rng(0).permutation(len(task.patients))
    known = [task.patients[n] for n in order[: 2 * len(order) // 3]]
    tested = [task.patients[n] for n in order[2 * len(order) // 3 :]]
    rng = np.random.default_rng([seed, 1])
    known = list(rng.permutation(known))
    count = options.patients
    tested = known[2 * count :] if options.tune else list(rng.permutation(tested))
    source_patients, target_patients = known[:count], known[count : 2 * count]
    tests = labeled(task, tested[: options.tested], True, options.slices)
    targets = labeled(task, target_patients, True, options.slices)
    settings = {"steps": options.steps, "seed": seed, **json.loads(options.set_source)}
    how = {"plane": task.plane, "method": options.method, "settings": settings, "cache": cache}

    def told(name: str, tuned, started: float) -> list[float]:  # type: ignore[no-untyped-def]
        scores = dice_of_patients(tuned.adapted, tests, cache)
        kept = [note for note in tuned.result.notes if "adapted:" in note or "is kept" in note]
        print(
            f"{task.name}, seed {seed}, {name}: Dice {np.mean(scores):.4f} "
            f"({time.monotonic() - started:.0f} s) {' '.join(kept)} {tuned.result.stopped}",
            flush=True,
        )
        return scores

    found: dict[str, list[float]] = {}
    started = time.monotonic()
    labeled_source = labeled(task, source_patients, False, options.slices)
    source = finetune(labeled_source, task.structures, backbone, **how)  # type: ignore[arg-type]
    found["source"] = told("source", source, started)
    for kind in options.weak.split(","):
        started = time.monotonic()
        draw = np.random.default_rng([seed, 2])
        adapted = adapt_source(
            [weakened(volume, task, kind, draw) for volume in targets],
            source.adapted,
            settings={"steps": options.weak_steps, "seed": seed, **json.loads(options.set)},
            cache=cache,
        )
        found[f"WeSAM, {kind}"] = told(f"WeSAM, {kind}", adapted, started)
    started = time.monotonic()
    ceiling = finetune(targets, task.structures, backbone, **how)  # type: ignore[arg-type]
    found["supervised"] = told("supervised", ceiling, started)
    return found


def interval(values: Sequence[float]) -> tuple[float, float]:
    """95 % bootstrap of the mean."""
    rng = np.random.default_rng(0)
    means = rng.choice(values, (4000, len(values))).mean(1)
    return float(np.percentile(means, 2.5)), float(np.percentile(means, 97.5))


def table(results: dict[str, list[dict[str, list[float]]]]) -> str:
    """Markdown: Dice with interval, gain over the source of the same patients, share of the gap."""
    lines = []
    for task, seeds in results.items():
        lines += [f"## {task}", "", "| | Dice | gain over the source | share of the gap |"]
        lines.append("| --- | --- | --- | --- |")
        pooled = {name: sum((seed[name] for seed in seeds), []) for name in seeds[0]}
        source = np.array(pooled["source"])
        gap = float(np.mean(pooled["supervised"]) - source.mean())
        for name, values in pooled.items():
            low, high = interval(values)
            row = f"| {name} | {statistics.mean(values):.3f} ({low:.3f} to {high:.3f}) |"
            if name == "source":
                lines.append(f"{row} | |")
                continue
            gains = np.array(values) - source
            low, high = interval(list(gains))
            share = f"{gains.mean() / gap:.0%}" if gap > 0 else "no gap"
            lines.append(f"{row} {gains.mean():+.3f} ({low:+.3f} to {high:+.3f}) | {share} |")
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = os.environ.get("SAMAUTOSEG_BENCHMARK_DATA")
    parser.add_argument("--data", type=Path, default=default, required=default is None)
    parser.add_argument("--tasks", default="hippocampus,cardiac")
    parser.add_argument("--base", default="lite-medsam")
    parser.add_argument("--method", default="joint", help="of source and ceiling")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--patients", type=int, default=6, help="of the source, and of the target")
    parser.add_argument("--tested", type=int, default=8, help="patients that are scored")
    parser.add_argument("--slices", type=int, default=4, help="of a patient")
    parser.add_argument("--steps", type=int, default=150, help="of source and ceiling")
    parser.add_argument("--weak-steps", type=int, default=100, help="of WeSAM")
    parser.add_argument("--weak", default=",".join(KINDS))
    parser.add_argument("--set", default="{}", help="settings of WeSAM, as JSON")
    parser.add_argument("--set-source", default="{}", help="of source and ceiling, as JSON")
    parser.add_argument("--tune", action="store_true", help="score patients that are not tested")
    parser.add_argument("--cache", type=Path, help="folder that keeps embeddings")
    parser.add_argument("--write", action="store_true", help=f"to {DOCUMENT.parent}")
    options = parser.parse_args()
    makers = {"hippocampus": (hippocampus, "hippocampus_mr"), "cardiac": (heart, "cardiac_lv_mr")}
    backbone = load_backbone(fetched(options.base))
    cache = EmbeddingCache(options.cache)
    results: dict[str, list[dict[str, list[float]]]] = {}
    for name in options.tasks.split(","):
        make, folder = makers[name]
        task = make(options.data / folder)
        results[name] = [
            run_seed(task, seed, options, backbone, cache) for seed in range(options.seeds)
        ]
    print(table(results))
    if options.write:
        DOCUMENT.parent.mkdir(parents=True, exist_ok=True)
        facts = {
            name: getattr(options, name)
            for name in (
                "base",
                "method",
                "seeds",
                "patients",
                "tested",
                "slices",
                "steps",
                "weak_steps",
            )
        } | {"set": json.loads(options.set), "torch": torch.__version__}
        head = (
            "# Adapting to another scanner\n\nPrinted by `Testing/benchmarks/scanner_shift.py`; "
            "what is measured stands there.\n\n"
            + "".join(f"- {name}: {value}\n" for name, value in facts.items())
        )
        DOCUMENT.with_suffix(".md").write_text(f"{head}\n{table(results)}")
        content = {"options": facts, "dice_of_patients": results}
        DOCUMENT.with_suffix(".json").write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
