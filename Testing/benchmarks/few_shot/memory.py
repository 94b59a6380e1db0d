"""How much memory each method of the few-shot benchmark takes to train.

    python Testing/benchmarks/few_shot/memory.py --data DIR

Every method trains on the same draw (four labeled slices of four patients) in a process of its own.
Printed is the largest resident memory of that process, Python, torch and the backbone included; the
first row only loads all of that and encodes the slices once. Less than that is possible: the
allocator varies by some tens of MiB, and a U-Net needs no backbone.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import sys
import tempfile
from pathlib import Path

from contenders import CONTENDERS, ORACLES, WITHIN_A_VOLUME, Task
from image_sets import draw, load_set

from SAMAutoSegLib.methods.training_set import build_training_set
from SAMAutoSegLib.sam.checkpoint import load_backbone
from SAMAutoSegLib.sam.embedding_cache import EmbeddingCache
from SAMAutoSegLib.sam.fetch import fetched

_ENCODING = "nothing, slices encoded once"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=os.environ.get("SAMAUTOSEG_BENCHMARK_DATA"))
    parser.add_argument("--set", default="hippocampus")
    parser.add_argument("--count", type=int, default=4, help="labeled slices")
    parser.add_argument("--evaluations", type=int, default=20, help="gradients of a training")
    options = parser.parse_args()
    untrained = {**ORACLES, **WITHIN_A_VOLUME}
    trained = [name for name in CONTENDERS if name not in (*untrained, "joint + clean-up")]
    print("| trained | peak of the process, MiB | beyond encoding, MiB |\n| --- | ---: | ---: |")
    least = 0.0
    # A forked process would begin with what this one holds.
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        for name in (_ENCODING, *trained):
            peak = pool.apply(peak_of, (name, options))
            least = least or peak
            print(f"| {name} | {peak:.0f} | {peak - least:.0f} |", flush=True)


def peak_of(name: str, options: argparse.Namespace) -> float:
    """MiB that a process has taken at the most after training a method by its name."""
    data = Path(options.data) if options.data else None
    images = load_set(options.set, data, test_patients=1)
    drawn = draw(images, "patients" if images.test else "volume", options.count, seed=0)
    backbone = load_backbone(fetched("lite-medsam"))
    if name == _ENCODING:
        build_training_set(drawn.labeled, images.structures, backbone, plane=images.plane)
    else:
        with tempfile.TemporaryDirectory() as folder:
            cache = EmbeddingCache(Path(folder))
            CONTENDERS[name](Task(images, drawn, backbone, cache, options.evaluations, seed=0))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


if __name__ == "__main__":
    main()
