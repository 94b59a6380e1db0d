"""The next patient: learning from the new slices alone, or from those of both patients.

    python Testing/benchmarks/few_shot/next_patient.py --data DIR --seeds 5 --write docs/benchmarks

Five slices of a patient are labeled and learned from, then five of another, as a user of the panel
does who comes to the next image. The second training goes on from the first model with the new
slices alone or with those of both, or begins anew with both. Scored are the other slices of both
patients, and the benchmark's test patients, who train nothing and choose nothing.
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from image_sets import ImageSet, load_set
from new_structure import labeled, scored

from SAMAutoSegLib.adapt.adapted_file import Adapted
from SAMAutoSegLib.demo.run import BASE
from SAMAutoSegLib.methods.finetune import finetune
from SAMAutoSegLib.methods.training_set import LabeledVolume
from SAMAutoSegLib.sam.backbone import Backbone
from SAMAutoSegLib.sam.checkpoint import load_backbone
from SAMAutoSegLib.sam.embedding_cache import EmbeddingCache
from SAMAutoSegLib.sam.fetch import fetched

SLICES = 5

# By name of the set, then of what was learned from: Dice on the first and the second patient, and
# on others, one row for each seed.
Rows = dict[str, dict[str, list[list[float]]]]


def main() -> None:
    options = parse_options()
    backbone, cache = load_backbone(fetched(BASE), device=options.device), EmbeddingCache()
    rows: Rows = {}
    for name in options.sets.split(","):
        images = load_set(name, options.data, options.test_patients)
        tests = [LabeledVolume(*read(), ()) for read in images.test]
        for seed in range(options.seeds):
            patients = np.random.default_rng(seed).choice(len(images.pool), 2, replace=False)
            first, second = (labeled(images, int(n), SLICES) for n in patients)
            for what, adapted in trained(first, second, images, backbone, cache, seed):
                dice = [
                    mean_dice(adapted, volumes, images, cache)
                    for volumes in ([first], [second], tests)
                ]
                rows.setdefault(name, {}).setdefault(what, []).append(dice)
                print(f"{name}, seed {seed}, {what}: {np.round(dice, 3)}", flush=True)
    text = table(rows)
    print(f"\n{text}")
    if options.write:
        (options.write / "next-patient.md").write_text(page(text, options), encoding="utf-8")


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    variable = os.environ.get("SAMAUTOSEG_BENCHMARK_DATA")
    parser.add_argument("--data", type=Path, default=variable, help="folder with the image sets")
    parser.add_argument("--sets", default="hippocampus,cardiac")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--test-patients", type=int, default=10)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--write", type=Path, help="folder for next-patient.md")
    return parser.parse_args()


def trained(
    first: LabeledVolume,
    second: LabeledVolume,
    images: ImageSet,
    backbone: Backbone,
    cache: EmbeddingCache,
    seed: int,
) -> list[tuple[str, Adapted]]:
    """What was learned from, with what came of it."""

    def tune(volumes: list[LabeledVolume], start: Adapted | None = None) -> Adapted:
        return finetune(
            volumes,
            images.structures,
            backbone,
            plane=images.plane,
            settings={"budget": "standard", "seed": seed},
            start=start,
            cache=cache,
        ).adapted

    before = tune([first])
    return [
        ("the first patient", before),
        ("then the second alone", tune([second], before)),
        ("then both", tune([first, second], before)),
        ("both, anew", tune([first, second])),
    ]


def mean_dice(
    adapted: Adapted,
    volumes: Sequence[LabeledVolume],
    images: ImageSet,
    cache: EmbeddingCache,
) -> float:
    """Of all structures and volumes, on the slices that are not labeled."""
    return float(np.nanmean([scored(adapted, one, images, cache) for one in volumes]))


def table(rows: Rows) -> str:
    """Means over the seeds, as Markdown."""
    lines = [
        "| set | learned from | first patient | second patient | others |",
        "| --- | --- | ---: | ---: | ---: |",
    ]
    for name, found in rows.items():
        for what, dice in found.items():
            cells = " | ".join(f"{value:.3f}" for value in np.mean(dice, axis=0))
            lines.append(f"| {name} | {what} | {cells} |")
    return "\n".join(lines)


def page(text: str, options: argparse.Namespace) -> str:
    return (
        "# The next patient\n\n"
        f"A model learns from {SLICES} labeled slices of one patient. A second training then goes "
        f"on with {SLICES} slices of another patient alone, or with those of both, or begins anew "
        "with both. The table has the Dice on slices that were not labeled, as mean of "
        f"{options.seeds} pairs of patients. 'Others' are {options.test_patients} test patients. "
        "BLO-SAM, standard budget, LiteMedSAM.\n\n"
        f"{text}\n\n"
        "Printed by `python Testing/benchmarks/few_shot/next_patient.py --data DIR --sets "
        f"{options.sets} --seeds {options.seeds} --test-patients {options.test_patients} --write "
        "docs/benchmarks`.\n"
    )


if __name__ == "__main__":
    main()
