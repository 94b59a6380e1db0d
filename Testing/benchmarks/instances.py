"""A structure that occurs many times in a slice: the ribs of the demo CT, found one by one.

    python Testing/benchmarks/instances.py --seeds 2

Image, labels and slices are those of `make demo`: five axial slices train, the others are scored.
All 24 ribs count as one structure; an instance is a connected part of it in a slice. A found
instance is right if it shares at least 0.3 of its union with one of the reference (at 3 mm a rib is
about ten pixels), each counted once. F1 is 2 TP / (2 TP + FP + FN) over all scored slices.
"""

import argparse
from dataclasses import replace

import numpy as np
from scipy import ndimage

from SAMAutoSegLib.demo.run import BASE, load_case
from SAMAutoSegLib.evaluate.metrics import score_volume
from SAMAutoSegLib.images.structure import structure_named
from SAMAutoSegLib.methods.finetune import finetune
from SAMAutoSegLib.methods.training_set import LabeledVolume
from SAMAutoSegLib.progress import silent
from SAMAutoSegLib.sam.checkpoint import load_backbone
from SAMAutoSegLib.sam.embedding_cache import EmbeddingCache
from SAMAutoSegLib.sam.fetch import fetched
from SAMAutoSegLib.segment.volume import segment_volume

RIBS = range(92, 116)
"""Values of the ribs in TotalSegmentator's labels."""

LEAST_OVERLAP = 0.3
_TOUCHING = np.ones((3, 3), int)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--methods", default="heatmap,joint,blo-sam")
    parser.add_argument("--budget", default="standard")
    parser.add_argument("--seeds", type=int, default=2)
    options = parser.parse_args()
    case = load_case(silent)
    ribs = replace(case.labels, array=np.isin(case.labels.array, RIBS).astype(np.uint8))
    structures = [structure_named("ribs", 1)]
    backbone = load_backbone(fetched(BASE))
    cache = EmbeddingCache()
    learned = [LabeledVolume(case.image, ribs, case.labeled)]
    for method in options.methods.split(","):
        for seed in range(options.seeds):
            settings = {"budget": options.budget, "seed": seed}
            tuned = finetune(
                learned,
                structures,
                backbone,
                plane="axial",
                method=method,
                settings=settings,
                cache=cache,
            )
            found = segment_volume(case.image, tuned.adapted, cache=cache)
            (score,) = score_volume(
                found.labels, ribs.array, ribs.grid, structures, slices=case.tested
            )
            hits, extra, missed = np.sum(
                [counted(found.labels[n] > 0, ribs.array[n] > 0) for n in case.tested], axis=0
            )
            f1 = 2 * hits / (2 * hits + extra + missed)
            print(
                f"{method}, {options.budget}, seed {seed}: Dice {score.dice:.3f}, F1 {f1:.3f} "
                f"({hits} found, {extra} of nothing, {missed} missed)",
                flush=True,
            )


def counted(found: np.ndarray, expected: np.ndarray) -> tuple[int, int, int]:
    """Instances of two masks [H, W]: those found, those found where there is none, those missed."""
    ours, many = ndimage.label(found, _TOUCHING)
    theirs, wanted = ndimage.label(expected, _TOUCHING)
    hits = set[int]()
    for n in range(1, many + 1):
        mask = ours == n
        for other in set(np.unique(theirs[mask]).tolist()) - {0} - hits:
            rival = theirs == other
            if (mask & rival).sum() >= LEAST_OVERLAP * (mask | rival).sum():
                hits.add(other)
                break
    return len(hits), many - len(hits), wanted - len(hits)


if __name__ == "__main__":
    main()
