"""Which uncertainty finds the slices that hold the error: share of error in the first k slices.

    python Testing/benchmarks/uncertainty.py --sets ct,hippocampus,cardiac --data DIR --seeds 3

A model is trained on a few slices, segments the others, and every measure orders them. Printed for
each: the share of all wrong pixels that lies in the first 10, 20 and 30 % of the slices, in random
order (its expectation) and in the best possible one (oracle) too, and the calibration of the
probabilities (expected calibration error, 15 bins) of labels with and without a temperature, which
is fitted on slices of other patients that the model has not seen, or, for `ct`, of every second
test slice. Slices of all test patients form one list. `DIR` holds `hippocampus_mr` and
`cardiac_lv_mr` as docs/benchmarks/data.md describes. The default, the expected number of wrong
pixels, was chosen on cardiac patients 5 to 12, which are not tested here; no measure was clearly
better there than any other.
"""

import argparse
import json
import statistics
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from SAMAutoSegLib.adapt.adapted_file import Adapted
from SAMAutoSegLib.adapt.prompted_decoder import FrozenPrompter
from SAMAutoSegLib.demo import run
from SAMAutoSegLib.device import as_precision
from SAMAutoSegLib.files import replace_when_complete
from SAMAutoSegLib.images.intensity import default_intensity
from SAMAutoSegLib.images.read import read_image, read_labels
from SAMAutoSegLib.images.slices import Plane, SliceStack
from SAMAutoSegLib.images.structure import Structure, as_classes, structure_named
from SAMAutoSegLib.methods.cross_fit import fit_temperature
from SAMAutoSegLib.methods.finetune import finetune
from SAMAutoSegLib.methods.training_set import LabeledVolume
from SAMAutoSegLib.progress import silent
from SAMAutoSegLib.sam.backbone import Backbone
from SAMAutoSegLib.sam.checkpoint import load_backbone
from SAMAutoSegLib.sam.embedding_cache import EmbeddingCache, embed_slices
from SAMAutoSegLib.sam.fetch import fetched
from SAMAutoSegLib.segment.refinement import Refinement, refine
from SAMAutoSegLib.segment.uncertainty import wrong_probability

SHARES = (0.1, 0.2, 0.3)
DROPOUT = 0.2
NEIGHBOR_WEIGHT = 0.25
# The prompted pass alone; mixed into the first one it is a refinement of one iteration.
ANSWERS = Refinement(1, keep=1, weight=1.0)
PROMPTED_WEIGHT = Refinement().weight
BINS = 15


@dataclass
class Problem:
    """What is learned, what it is tested on, and what the temperature is fitted on."""

    plane: Plane
    structures: list[Structure]
    train: list[LabeledVolume]
    fit: list[LabeledVolume]
    test: list[LabeledVolume]


@dataclass
class Slice:
    """A segmented slice: of which volume, and [K, H, W] of what was found there.

    Attributes:
        logits: of the model.
        blanked: of a view with blanked channels.
        prompted: of the pass that the boxes of the first one prompt.
        reference: [H, W] class numbers.
    """

    volume: int
    number: int
    logits: Tensor
    blanked: Tensor
    prompted: Tensor
    reference: np.ndarray


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", default="ct", help="of ct, hippocampus, cardiac; comma-separated")
    parser.add_argument("--data", type=Path, help="folder of the sets other than ct")
    parser.add_argument("--sample-folder", type=Path, help="take the CT's files from here")
    parser.add_argument("--base", default=run.BASE)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--budget", default="quick")
    parser.add_argument("--patients", type=int, default=6, help="tested ones")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--write", type=Path, help="folder for uncertainty.json")
    options = parser.parse_args()
    backbone = load_backbone(fetched(options.base), device=options.device)
    report = {}
    with tempfile.TemporaryDirectory() as folder:
        cache = EmbeddingCache(Path(folder))
        for name in options.sets.split(","):
            problem = load(name, options)
            seeds = [
                measure(problem, backbone, cache, seed, options.budget)
                for seed in range(options.seeds)
            ]
            report[name] = tell(name, seeds)
    if options.write:
        options.write.mkdir(parents=True, exist_ok=True)
        with replace_when_complete(options.write / "uncertainty.json") as temporary:
            temporary.write_text(json.dumps(report, indent=2), encoding="utf-8")


def load(name: str, options: argparse.Namespace) -> Problem:
    if name == "ct":
        case = run.load_case(silent, options.sample_folder)
        parts = (case.labeled, case.tested[1::2], case.tested[::2])
        train, fit, test = ([LabeledVolume(case.image, case.labels, p)] for p in parts)
        return Problem("axial", case.structures, train, fit, test)
    count = options.patients
    if name == "hippocampus":
        images = sorted((options.data / "hippocampus_mr" / "images").glob("*.nii.gz"))
        pairs = [(image, image.parents[1] / "labels" / image.name) for image in images]
        structures = [structure_named("anterior", 1), structure_named("posterior", 2)]
        plane: Plane = "sagittal"
        tested = range(100, 100 + count)
    else:
        images = sorted((options.data / "cardiac_lv_mr").glob("*_ED_img.nii.gz"))
        pairs = [(i, i.with_name(i.name.replace("_img", "_lv"))) for i in images]
        structures, plane = [structure_named("left ventricle", 1)], "axial"
        tested = range(14, min(14 + count, len(images)))

    def take(which: range, slices: int | None) -> list[LabeledVolume]:
        found = []
        for image, labels in (pairs[n] for n in which):
            volume, reference = read_image(image), read_labels(labels)[0]
            length = len(SliceStack(reference.array, volume.grid, plane))
            parts = length if slices is None else slices
            numbers = tuple(int((n + 0.5) * length / parts) for n in range(parts))
            found.append(LabeledVolume(volume, reference, numbers))
        return found

    return Problem(plane, structures, take(range(4), 3), take(range(4, 6), 6), take(tested, None))


def measure(
    problem: Problem, backbone: Backbone, cache: EmbeddingCache, seed: int, budget: str
) -> dict[str, dict[str, float]]:
    """Of one training: for every measure the shares of error, and the calibration."""
    settings = {"budget": budget, "seed": seed}
    adapted = finetune(
        problem.train,
        problem.structures,
        backbone,
        plane=problem.plane,
        method="joint",
        settings=settings,
        cache=cache,
    ).adapted
    fit, test = (
        list(segment(part, problem, adapted, cache)) for part in (problem.fit, problem.test)
    )
    temperature = fit_temperature(
        [s.logits for s in fit], [torch.from_numpy(s.reference) for s in fit]
    )
    places = {(s.volume, s.number): s for s in test}
    scores: dict[str, list[float]] = {}

    def put(name: str, value: Tensor) -> None:
        scores.setdefault(name, []).append(float(value.double().sum()))

    for own in test:
        shares = own.logits.softmax(0)
        best = shares.argmax(0)[None]
        put("entropy", entropy(shares))
        put("entropy with temperature", entropy((own.logits / temperature).softmax(0)))
        put("expected wrong pixels", wrong_probability(own.logits))
        put("with temperature", wrong_probability(own.logits, temperature))
        put("a view with blanked channels", 1 - own.blanked.softmax(0).gather(0, best))
        put("the pass prompted by boxes", 1 - own.prompted.softmax(0).gather(0, best))
        refined = own.logits.lerp(own.prompted, PROMPTED_WEIGHT).softmax(0)
        put("refined by boxes", 1 - refined.gather(0, best))
        near = [places.get((own.volume, own.number + side)) for side in (-1, 1)]
        others = [n.logits.softmax(0) for n in near if n is not None]
        mixed = shares + NEIGHBOR_WEIGHT * sum(others)
        mixed = mixed / (1 + NEIGHBOR_WEIGHT * len(others))
        put("neighboring slices", 1 - mixed.gather(0, best))
    errors = np.array([int((s.logits.argmax(0).numpy() != s.reference).sum()) for s in test])
    scores["oracle"] = errors.astype(float).tolist()
    found = {name: shares_of_error(np.array(values), errors) for name, values in scores.items()}
    found["random order"] = {f"{share:.0%}": first(len(errors), share) for share in SHARES}
    found["random order"] = {k: v / len(errors) for k, v in found["random order"].items()}
    found["calibration"] = {
        "temperature": temperature,
        "ECE": calibration_error(test, 1.0),
        "ECE with temperature": calibration_error(test, temperature),
        "wrong pixels": float(errors.sum()),
        "slices": float(len(errors)),
    }
    return found


def segment(
    volumes: list[LabeledVolume],
    problem: Problem,
    adapted: Adapted,
    cache: EmbeddingCache,
) -> Iterator[Slice]:
    model, backbone = adapted.model, adapted.backbone
    intensity = default_intensity(problem.train[0].image)
    prompter = FrozenPrompter(backbone)
    generator = torch.Generator().manual_seed(0)
    kept = (torch.rand(256, generator=generator) >= DROPOUT).float() / (1 - DROPOUT)
    for index, volume in enumerate(volumes):
        classes = as_classes(volume.labels.array, problem.structures)
        reference = SliceStack(classes, volume.image.grid, problem.plane)
        gray = SliceStack(intensity.apply(volume.image.array), volume.image.grid, problem.plane)
        for number, features in embed_slices(
            backbone, gray.views, numbers=volume.slices, cache=cache
        ):
            blanked = features * kept.to(features.device).view(-1, 1, 1)
            with torch.inference_mode(), as_precision(backbone.precision, backbone.device):
                embedding, other = (z[None].to(backbone.precision) for z in (features, blanked))
                first = model(embedding)[0].float()
                second, _ = refine(first, embedding, prompter, backbone.spec.side, ANSWERS)
                logits = first, model(other)[0].float(), second
            shown = (backbone.spec.logits_to_slice(z, gray.slice_shape).cpu() for z in logits)
            yield Slice(index, number, *shown, reference.slice_at(number).copy())


def entropy(shares: Tensor) -> Tensor:
    return -(shares * shares.clamp(min=1e-12).log()).sum(0)


def first(count: int, share: float) -> int:
    return max(1, round(count * share))


def shares_of_error(scores: np.ndarray, errors: np.ndarray) -> dict[str, float]:
    order = np.argsort(-scores, kind="stable")
    total = max(int(errors.sum()), 1)
    return {
        f"{share:.0%}": float(errors[order[: first(len(errors), share)]].sum() / total)
        for share in SHARES
    }


def calibration_error(slices: list[Slice], temperature: float) -> float:
    """Mean difference of confidence and accuracy over bins of confidence, by pixels."""
    counts, sure, right = np.zeros((3, BINS))
    for own in slices:
        confidence = (1 - wrong_probability(own.logits, temperature)).numpy().ravel()
        correct = (own.logits.argmax(0).numpy() == own.reference).ravel()
        bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
        counts += np.bincount(bins, minlength=BINS)
        sure += np.bincount(bins, confidence, BINS)
        right += np.bincount(bins, correct, BINS)
    return float(np.abs(sure - right).sum() / counts.sum())


def tell(name: str, seeds: list[dict[str, dict[str, float]]]) -> dict[str, dict[str, list[float]]]:
    """Print means over seeds; returns the values of each."""
    values = {
        measure: {key: [seed[measure][key] for seed in seeds] for key in entries}
        for measure, entries in seeds[0].items()
    }
    print(f"\n{name}, {len(seeds)} seeds: share of error in the first 10 / 20 / 30 % of slices")
    for measure, entries in values.items():
        if measure != "calibration":
            means = " / ".join(f"{statistics.mean(each):.3f}" for each in entries.values())
            print(f"  {measure:30} {means}")
    for key, each in values["calibration"].items():
        print(f"  {key}: {statistics.mean(each):.4g}", flush=True)
    return values


if __name__ == "__main__":
    main()
