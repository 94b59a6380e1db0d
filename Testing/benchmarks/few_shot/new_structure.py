"""Going on from a model with a structure more: what it gives, what it costs.

    python Testing/benchmarks/few_shot/new_structure.py --data DIR --patients 6

A model learns the anterior hippocampus from three slices of each of twelve patients. Then five
slices of a new patient are labeled with the anterior and the posterior part, and a training goes on
from that model, or starts anew. Scored are the other slices of that patient, and another patient.
All are patients of the benchmark's pool, who test nothing else.
"""

import argparse
import os
from pathlib import Path
from typing import get_args

import numpy as np
from image_sets import ImageSet, load_set

from SAMAutoSegLib.adapt.adapted_file import Adapted
from SAMAutoSegLib.demo.run import BASE
from SAMAutoSegLib.evaluate.metrics import score_volume
from SAMAutoSegLib.images.slices import SliceStack
from SAMAutoSegLib.methods.blo_sam import Refit
from SAMAutoSegLib.methods.finetune import finetune
from SAMAutoSegLib.methods.training_set import LabeledVolume
from SAMAutoSegLib.sam.checkpoint import load_backbone
from SAMAutoSegLib.sam.embedding_cache import EmbeddingCache
from SAMAutoSegLib.sam.fetch import fetched
from SAMAutoSegLib.segment.volume import segment_volume

# Of the pool: those of the first model, and where the new patients begin.
SOURCE = range(100, 112)
OTHER = 20


def main() -> None:
    options = parse_options()
    images = load_set("hippocampus", options.data, 10)
    backbone, cache = load_backbone(fetched(BASE), device=options.device), EmbeddingCache()
    source = finetune(
        [labeled(images, n, 3) for n in SOURCE],
        images.structures[:1],
        backbone,
        plane=images.plane,
        settings={"budget": "standard", "refit": options.refit},
        cache=cache,
    ).adapted
    rows: dict[tuple[str, str], list[list[float]]] = {}
    for patient in range(options.patients):
        own, other = labeled(images, patient, 5), labeled(images, patient + OTHER, 0)
        for budget in options.budgets.split(","):
            for name, start in (("anew", None), ("going on", source)):
                tuned = finetune(
                    [own],
                    images.structures,
                    backbone,
                    plane=images.plane,
                    settings={"budget": budget},
                    start=start,
                    cache=cache,
                )
                dice = [
                    *scored(tuned.adapted, own, images, cache),
                    *scored(tuned.adapted, other, images, cache),
                ]
                rows.setdefault((budget, name), []).append(dice)
                print(f"patient {patient}, {budget}, {name}: {np.round(dice, 3)}", flush=True)
    print(f"\n{table(rows)}")


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    variable = os.environ.get("SAMAUTOSEG_BENCHMARK_DATA")
    parser.add_argument("--data", type=Path, default=variable, help="folder with hippocampus_mr")
    parser.add_argument("--patients", type=int, default=6)
    parser.add_argument("--budgets", default="quick,standard")
    parser.add_argument("--refit", choices=get_args(Refit), default="across", help="of the source")
    parser.add_argument("--device", default="auto")
    return parser.parse_args()


def labeled(images: ImageSet, patient: int, count: int) -> LabeledVolume:
    """A volume of the pool with so many labeled slices, evenly spread over the structures."""
    image, labels = images.pool[patient]()
    stack = SliceStack(labels.array, labels.grid, images.plane)
    shown = [n for n in range(len(stack)) if stack.slice_at(n).any()]
    chosen = np.linspace(shown[0], shown[-1], count).round() if count else ()
    return LabeledVolume(image, labels, tuple(int(n) for n in chosen))


def scored(
    adapted: Adapted,
    volume: LabeledVolume,
    images: ImageSet,
    cache: EmbeddingCache,
) -> list[float]:
    """Dice of both structures on the slices that are not labeled."""
    found = segment_volume(volume.image, adapted, cache=cache).labels
    stack = SliceStack(volume.labels.array, volume.labels.grid, images.plane)
    left = [n for n in range(len(stack)) if n not in volume.slices]
    scores = score_volume(
        found,
        volume.labels.array,
        volume.image.grid,
        images.structures,
        slices=left,
        axis=images.plane,
    )
    return [score.dice for score in scores]


def table(rows: dict[tuple[str, str], list[list[float]]]) -> str:
    """Means over patients, as Markdown."""
    lines = [
        "| budget | | known, same patient | new, same patient | known, other | new, other |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for (budget, name), dice in rows.items():
        cells = " | ".join(f"{value:.3f}" for value in np.nanmean(dice, axis=0))
        lines.append(f"| {budget} | {name} | {cells} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
