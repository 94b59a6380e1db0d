"""First pass against self-prompted refinement: Dice on images that trained nothing.

    python Testing/benchmarks/self_prompting.py --archive DIR --data DIR --budget quick

`--archive` is the folder tests/reference_files of the source archive totalsegmentator==2.18.0 (an
abdominal CT and MR; five slices train, the others are scored; their labels are TotalSegmentator's
output). `--data` holds hippocampus_mr/ (Medical Segmentation Decathlon, task 4, in images/ and
labels/) and cardiac_lv_mr/ (Sunnybrook: PATIENT_ED_img.nii.gz and PATIENT_ED_lv.nii.gz); three
slices of each of four patients train, ten other patients are scored (every third sagittal slice of
the hippocampus, all slices of the heart).

`--prompts` says what prompts: SAM-SP is trained and refined with each kind, other models are
refined with each. The seconds are CPU time of a slice, encoder included, the median over all tested
slices; give OMP_NUM_THREADS=1, since CPU time counts every thread.

The weight of the answers was chosen on the labeled slices of CT and MR, each left out in turn, and
on patients 20 to 27 of the other two sets. When a first pass is sure was chosen on what is scored.
"""

import argparse
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np

from SAMAutoSegLib.adapt.adapted_file import load_adapted, save_adapted
from SAMAutoSegLib.adapt.self_prompts import PromptKind
from SAMAutoSegLib.evaluate.metrics import score_volume
from SAMAutoSegLib.images.read import read_image, read_labels
from SAMAutoSegLib.images.slices import Plane, SliceStack
from SAMAutoSegLib.images.structure import Structure, structure_named
from SAMAutoSegLib.methods.finetune import finetune
from SAMAutoSegLib.methods.training_set import LabeledVolume
from SAMAutoSegLib.sam.checkpoint import load_backbone
from SAMAutoSegLib.sam.embedding_cache import EmbeddingCache
from SAMAutoSegLib.sam.fetch import fetched
from SAMAutoSegLib.segment.refinement import Refinement
from SAMAutoSegLib.segment.volume import segment_volume

ABDOMEN = {"spleen": 1, "right kidney": 2, "left kidney": 3, "liver": 5, "stomach": 6}


@dataclass
class Case:
    """What a model learns from, and what it is scored on."""

    structures: list[Structure]
    plane: Plane
    train: list[LabeledVolume]
    tests: list[LabeledVolume]


def abdomen(archive: Path, image: str, labels: str, aorta: int) -> Case:
    """One volume, five of whose slices are labeled; the others are scored."""
    volume = read_image(archive / image)
    reference, _ = read_labels(archive / labels)
    structures = [structure_named(n, v) for n, v in (ABDOMEN | {"aorta": aorta}).items()]
    count = len(SliceStack(volume.array, volume.grid, "axial"))
    labeled = tuple(int((n + 0.5) * count / 5) for n in range(5))
    others = tuple(n for n in range(count) if n not in labeled)
    train, test = (LabeledVolume(volume, reference, slices) for slices in (labeled, others))
    return Case(structures, "axial", [train], [test])


def patients(
    pairs: Sequence[tuple[Path, Path]], structures: dict[str, int], plane: Plane, every: int
) -> Case:
    """Four patients with three labeled slices each; ten others, of whom slices are scored."""
    train, tests = [], []
    for n, (image, labels) in enumerate(pairs[:18]):
        volume, reference = read_image(image), read_labels(labels)[0]
        stack = SliceStack(reference.array, reference.grid, plane)
        shown = [k for k in range(len(stack)) if stack.slice_at(k).any()]
        if n < 4:
            middle = tuple(shown[int((k + 0.5) * len(shown) / 3)] for k in range(3))
            train.append(LabeledVolume(volume, reference, middle))
        elif n >= 8:
            tests.append(LabeledVolume(volume, reference, tuple(range(0, len(stack), every))))
    named = [structure_named(name, value) for name, value in structures.items()]
    return Case(named, plane, train, tests)


def load_case(name: str, archive: Path, data: Path) -> Case:
    match name:
        case "ct":
            return abdomen(archive, "example_ct_sm.nii.gz", "example_seg.nii.gz", 52)
        case "mr":
            return abdomen(archive, "example_mr_sm.nii.gz", "example_seg_mr.nii.gz", 23)
        case "hippocampus":
            images = sorted((data / "hippocampus_mr" / "images").glob("*.nii.gz"))
            pairs = [(path, path.parents[1] / "labels" / path.name) for path in images]
            return patients(pairs, {"anterior": 1, "posterior": 2}, "sagittal", 3)
        case "cardiac":
            images = sorted((data / "cardiac_lv_mr").glob("*_ED_img.nii.gz"))
            pairs = [(path, Path(str(path).replace("_img", "_lv"))) for path in images]
            return patients(pairs, {"left ventricle": 1}, "axial", 1)
    raise SystemExit(f"set {name!r}: expected ct, mr, hippocampus or cardiac")


def scored(
    case: Case,
    model_file: Path,
    refinement: Refinement | None,
    base: str | Path,
    cache: EmbeddingCache,
) -> tuple[dict[str, list[float]], float]:
    """Dice of every structure in every test volume that holds it, and CPU seconds of a slice."""
    adapted = load_adapted(model_file, base=base, device="cpu")
    found: dict[str, list[float]] = {structure.name: [] for structure in case.structures}
    times: list[float] = []
    for test in case.tests:
        stamps: list[float] = []
        result = segment_volume(
            test.image,
            adapted,
            slices=test.slices,
            cache=cache,
            refinement=refinement,
            on_slice=lambda *_, stamps=stamps: stamps.append(time.process_time()),
        )
        times.extend(np.diff(stamps))
        scores = score_volume(
            result.labels,
            test.labels.array,
            test.image.grid,
            case.structures,
            slices=test.slices,
            axis=case.plane,
        )
        for score in scores:
            if not np.isnan(score.dice):
                found[score.name].append(score.dice)
    return found, float(np.median(times))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--archive", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--sets", default="ct,mr,hippocampus,cardiac")
    parser.add_argument("--methods", default="joint,blo-sam,sam-sp")
    parser.add_argument("--prompts", default=",".join(get_args(PromptKind)))
    parser.add_argument("--iterations", type=int, default=1)
    parser.add_argument(
        "--sure", type=float, help="see `Refinement`; 1: every structure is prompted"
    )
    parser.add_argument("--budget", default="standard")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--base", help="LiteMedSAM's file (default: as 'models fetch' keeps it)")
    parser.add_argument("--models", type=Path, help="folder of models; one that is there is taken")
    options = parser.parse_args()
    base = options.base or fetched("lite-medsam")
    with tempfile.TemporaryDirectory() as folder:
        models = options.models or Path(folder)
        models.mkdir(parents=True, exist_ok=True)
        cache = EmbeddingCache(Path(folder) / "embeddings")
        for name in options.sets.split(","):
            case = load_case(name, options.archive, options.data)
            encoder: float | None = None
            for method in options.methods.split(","):
                seen = set[Path]()
                for kind in options.prompts.split(","):
                    own = {"prompt": kind} if method == "sam-sp" else {}
                    parts = [name, method, *own.values(), options.budget, str(options.seed)]
                    path = models / f"{'-'.join(parts)}.safetensors"
                    if not path.exists():
                        settings = {"budget": options.budget, "seed": options.seed} | own
                        train(case, method, settings, base, cache, path)
                    ways = [Refinement(options.iterations, prompt=kind, sure=options.sure)]
                    for how in ways if path in seen else [None, *ways]:
                        found, own = scored(case, path, how, base, cache)
                        if encoder is None:
                            # Now the embeddings are kept.
                            encoder = own - (own := scored(case, path, how, base, cache)[1])
                        tell(name, method, kind, how, found, encoder + own)
                    seen.add(path)


def train(
    case: Case,
    method: str,
    settings: dict[str, Any],
    base: str | Path,
    cache: EmbeddingCache,
    path: Path,
) -> None:
    tuned = finetune(
        case.train,
        case.structures,
        load_backbone(base, device="cpu"),
        plane=case.plane,
        method=method,
        # Without the pixel branch: what is compared are the passes of the SAM.
        settings=settings | {"pixel_steps": 0},
        cache=cache,
    )
    save_adapted(path, tuned.adapted)


def tell(
    name: str,
    method: str,
    kind: str,
    how: Refinement | None,
    found: dict[str, list[float]],
    seconds: float,
) -> None:
    means = {structure: float(np.mean(values)) for structure, values in found.items() if values}
    each = ", ".join(f"{structure} {value:.3f}" for structure, value in means.items())
    title = "first pass" if how is None else "refined"
    mean = np.mean(list(means.values()))
    print(
        f"{name:12} {method:8} {kind:15} {title:10} mean Dice {mean:.4f} ({each}),"
        f" {seconds:.3f} s a slice",
        flush=True,
    )


if __name__ == "__main__":
    main()
