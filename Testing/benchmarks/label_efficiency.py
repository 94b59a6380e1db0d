"""Dice against the number of labeled volumes, the curve of AutoSAM's paper, for all its heads.

    python Testing/benchmarks/label_efficiency.py --data FOLDER --write

Hu et al., "How to Efficiently Adapt Large Segmentation Model (SAM) to Medical Images", 2023 (arXiv
2306.13731), section 4.3. FOLDER holds one of two sets, one volume a patient:

- hippocampus (Medical Segmentation Decathlon, Task04): `images` and `labels`, or `imagesTr` and
  `labelsTr`, whose files have the same names; sagittal slices.
- left ventricle at end-diastole (Sunnybrook), as near as there is to the hearts of the paper:
  `PATIENT_ED_img.nii.gz` and `PATIENT_ED_lv.nii.gz`; axial slices.

The test patients are the same in every run. For each seed the other patients are shuffled; the
first N are the labeled ones, so that a larger set holds the smaller ones, and every method learns
from the same slices with the same budget. Nothing is chosen by the test patients. Dice is that of
whole volumes, its mean over the test patients; "sd" is that of this mean over seeds. The U-Net
(MONAI, from scratch) has its own schedule of 400 steps, and its own batch unless `--set` gives one.
`auto-vit-tokens+pixels` and the like have the pixel branch beside the head, as much to say as that.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from SAMAutoSegLib.cli.given_training import settings_of
from SAMAutoSegLib.demo.run import BASE, machine
from SAMAutoSegLib.demo.unet import train_unet, unet_classes
from SAMAutoSegLib.errors import SAMAutoSegError
from SAMAutoSegLib.evaluate.metrics import score_volume
from SAMAutoSegLib.files import replace_when_complete
from SAMAutoSegLib.images.intensity import default_intensity
from SAMAutoSegLib.images.read import read_image, read_labels
from SAMAutoSegLib.images.slices import Plane, SliceStack
from SAMAutoSegLib.images.structure import Structure, as_classes, structure_named
from SAMAutoSegLib.images.volume import Volume
from SAMAutoSegLib.methods.auto_sam import AutoHead
from SAMAutoSegLib.methods.finetune import finetune
from SAMAutoSegLib.methods.registry import method_named
from SAMAutoSegLib.methods.training_set import LabeledVolume
from SAMAutoSegLib.sam.backbone import Backbone
from SAMAutoSegLib.sam.checkpoint import load_backbone
from SAMAutoSegLib.sam.embedding_cache import EmbeddingCache
from SAMAutoSegLib.sam.fetch import fetched
from SAMAutoSegLib.segment.volume import segment_volume

UNET = "unet"
PIXELS = "+pixels"
HEADS = get_args(AutoHead)
WITH_PIXELS = tuple(head + PIXELS for head in HEADS)
SPLIT_SEED = 2306
NAME = "label-efficiency"

Case = tuple[Volume, Volume]


@dataclass(frozen=True)
class Images:
    """A set of labeled volumes: files of image and labels by patient."""

    title: str
    plane: Plane
    structures: tuple[Structure, ...]
    files: dict[str, tuple[Path, Path]]

    def case(self, patient: str) -> Case:
        image, labels = self.files[patient]
        return read_image(image), read_labels(labels)[0]


@dataclass
class Run:
    """One training: what learned from how much, and the Dice of every test patient."""

    method: str
    volumes: int
    seed: int
    slices: int
    seconds: float
    dice: dict[str, list[float]] = field(default_factory=dict)

    @property
    def mean(self) -> float:
        return float(np.nanmean([np.nanmean(values) for values in self.dice.values()]))


def main() -> None:
    options = _options()
    try:
        images = _images(options.data)
        tests, pool = _split(sorted(images.files), options.test, max(options.volumes))
        for method in options.methods:
            if method not in (*HEADS, *WITH_PIXELS, UNET):
                method_named(method)
    except SAMAutoSegError as error:
        sys.exit(f"label_efficiency.py: error: {error}")
    backbone = load_backbone(fetched(options.base), device=options.device)
    runs: list[Run] = []
    with tempfile.TemporaryDirectory() as temporary:
        cache = EmbeddingCache(options.cache or Path(temporary), max_bytes=64 * 1024**3)
        test_cases = [images.case(name) for name in tests]
        for seed in range(options.seeds):
            order = np.random.default_rng([SPLIT_SEED, seed]).permutation(len(pool))
            for count in options.volumes:
                labeled = [_labeled(images, pool[n], options.every) for n in order[:count]]
                for method in options.methods:
                    run = Run(method, count, seed, sum(len(v.slices) for v in labeled), 0.0)
                    _train_and_test(run, labeled, test_cases, images, backbone, cache, options)
                    runs.append(run)
                    print(f"{method}, {count} volumes, seed {seed}: {run.mean:.4f}", flush=True)
    print(f"\n{table(runs)}")
    if options.write is not None:
        _write(options.write, runs, options, images, tests)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of one of the sets above")
    parser.add_argument("--volumes", type=_numbers, default=[1, 5, 10], help="labeled volumes")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--test", type=int, default=40, help="test patients (default: 40)")
    parser.add_argument(
        "--methods",
        type=lambda text: text.split(","),
        default=[*HEADS, "joint", "blo-sam", UNET],
        help="heads of AutoSAM, training methods and unet (default: all of the paper's, and ours)",
    )
    parser.add_argument("--budget", default="standard", help="quick, standard or thorough")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of all methods"
    )
    parser.add_argument("--recipe", help="of AutoSAM's heads: published")
    parser.add_argument("--every", type=int, default=1, help="label every N-th slice of a volume")
    parser.add_argument("--base", default=BASE, help="name or file of the SAM")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--cache", type=Path, help="folder to keep embeddings in between runs")
    parser.add_argument(
        "--write",
        type=Path,
        nargs="?",
        const=Path("docs/benchmarks"),
        help="folder for the plot, the table and all values (default: docs/benchmarks)",
    )
    return parser.parse_args()


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def _images(folder: Path) -> Images:
    """The set that lies in the folder."""
    hearts = {
        path.name.removesuffix("_ED_img.nii.gz"): path for path in folder.glob("*_ED_img.nii.gz")
    }
    if hearts:
        files = {name: (path, folder / f"{name}_ED_lv.nii.gz") for name, path in hearts.items()}
        structures = (structure_named("left ventricle", 1),)
        return Images("Left ventricle (Sunnybrook, end-diastole)", "axial", structures, files)
    ending = "Tr" if (folder / "imagesTr").is_dir() else ""
    images, labels = folder / f"images{ending}", folder / f"labels{ending}"
    there = {path.name for path in labels.glob("[!.]*.nii.gz")}
    files = {
        path.name: (path, labels / path.name)
        for path in images.glob("[!.]*.nii.gz")
        if path.name in there
    }
    if not files:
        raise SAMAutoSegError(
            f"{folder} holds no labeled volume: expected images/NAME.nii.gz with "
            "labels/NAME.nii.gz, or PATIENT_ED_img.nii.gz with PATIENT_ED_lv.nii.gz"
        )
    structures = (structure_named("anterior", 1), structure_named("posterior", 2))
    title = "Hippocampus (Medical Segmentation Decathlon)"
    return Images(title, "sagittal", structures, files)


def _split(names: list[str], tests: int, most: int) -> tuple[list[str], list[str]]:
    """Test patients and those that may be labeled."""
    if tests < 1 or tests + most > len(names):
        raise SAMAutoSegError(
            f"--test {tests} and {most} labeled volumes: there are {len(names)} volumes in all"
        )
    order = np.random.default_rng(SPLIT_SEED).permutation(len(names))
    return [names[n] for n in order[:tests]], [names[n] for n in order[tests:]]


def _labeled(images: Images, patient: str, every: int) -> LabeledVolume:
    image, labels = images.case(patient)
    count = len(SliceStack(labels.array, labels.grid, images.plane))
    return LabeledVolume(image, labels, tuple(range(every // 2, count, every)))


def _train_and_test(
    run: Run,
    labeled: list[LabeledVolume],
    tests: list[Case],
    images: Images,
    backbone: Backbone,
    cache: EmbeddingCache,
    options: argparse.Namespace,
) -> None:
    started = time.monotonic()
    settings = _settings(run, options)
    if run.method == UNET:
        known = []
        for volume in labeled:
            classes = as_classes(volume.labels.array, images.structures)
            stacks = (
                _gray(volume.image, images.plane),
                SliceStack(classes, volume.image.grid, images.plane),
            )
            known += [(stacks[0].slice_at(n), stacks[1].slice_at(n)) for n in volume.slices]
        batch = {"batch": settings["batch"]} if "batch" in settings else {}
        net = train_unet(known, len(images.structures) + 1, seed=run.seed, **batch)
    else:
        tuned = finetune(
            labeled,
            images.structures,
            backbone,
            plane=images.plane,
            method="auto-sam" if "head" in settings else run.method,
            settings=settings,
            cache=cache,
        )
    run.seconds = round(time.monotonic() - started, 1)
    values = np.array([0, *(structure.label for structure in images.structures)], np.uint8)
    for image, labels in tests:
        if run.method == UNET:
            found = values[unet_classes(net, _gray(image, images.plane))]
        else:
            found = segment_volume(image, tuned.adapted, cache=cache).labels
        for score in score_volume(found, labels.array, labels.grid, images.structures):
            run.dice.setdefault(score.name, []).append(score.dice)


def _settings(run: Run, options: argparse.Namespace) -> dict[str, Any]:
    given = argparse.Namespace(set=options.set, budget=options.budget, seed=run.seed)
    settings = settings_of(given)
    head = run.method.removesuffix(PIXELS)
    if head in HEADS:
        settings["head"] = head
        if options.recipe:  # says itself how long it takes
            return {name: settings[name] for name in ("seed", "head")} | {"recipe": options.recipe}
    if run.method in WITH_PIXELS:
        settings |= {"pixel_steps": 1, "pixel_weight": 1.0, "teach_branch": False}
    return settings


def _gray(image: Volume, plane: Plane) -> SliceStack:
    return SliceStack(default_intensity(image).apply(image.array), image.grid, plane)


def summary(runs: list[Run]) -> list[dict[str, Any]]:
    """For every method and number of volumes: mean and sd over seeds, by structure and of all."""
    rows = []
    for method, volumes in dict.fromkeys((run.method, run.volumes) for run in runs):
        own = [run for run in runs if (run.method, run.volumes) == (method, volumes)]
        scores = {
            name: [float(np.nanmean(run.dice[name])) for run in own] for name in own[0].dice
        } | {"mean": [run.mean for run in own]}
        rows.append(
            {"method": method, "volumes": volumes, "seeds": len(own)}
            | {name: {"dice": statistics.mean(v), "sd": _sd(v)} for name, v in scores.items()}
        )
    return rows


def _sd(values: list[float]) -> float | None:
    return statistics.stdev(values) if len(values) > 1 else None


def table(runs: list[Run]) -> str:
    """The summary as Markdown."""
    names = [*runs[0].dice, "mean"]
    lines = [
        f"| method | labeled volumes | {' | '.join(f'{name} Dice' for name in names)} |",
        f"| --- | --: |{' --: |' * len(names)}",
    ]
    for row in summary(runs):
        cells = [
            f"{row[n]['dice']:.3f}" + (f" ± {row[n]['sd']:.3f}" if row[n]["sd"] is not None else "")
            for n in names
        ]
        lines.append(f"| {row['method']} | {row['volumes']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _write(
    folder: Path,
    runs: list[Run],
    options: argparse.Namespace,
    images: Images,
    tests: list[str],
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    how = (
        f"{images.title}, {len(tests)} test patients, "
        f"{options.seeds} seeds, {images.plane} slices, every {options.every}. slice of a labeled "
        f"volume, budget {options.budget}"
        + (f", recipe {options.recipe} for AutoSAM's heads" if options.recipe else "")
    )
    values = {
        "how": how,
        "options": {name: str(value) for name, value in vars(options).items() if name != "data"},
        "test": tests,
        "summary": summary(runs),
        "runs": [vars(run) for run in runs],
        "machine": machine(),
    }
    with replace_when_complete(folder / f"{NAME}.json") as temporary:
        temporary.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    text = (
        f"# Label efficiency\n\n{how}. Mean ± standard deviation over seeds of the mean Dice of "
        f"the test volumes. Made by `Testing/benchmarks/{Path(__file__).name}`.\n\n"
        f"![Dice against labeled volumes]({NAME}.png)\n\n{table(runs)}\n"
    )
    with replace_when_complete(folder / f"{NAME}.md") as temporary:
        temporary.write_text(text, encoding="utf-8")
    _draw(folder / f"{NAME}.png", runs, how)


def _draw(path: Path, runs: list[Run], how: str) -> None:
    figure = Figure(figsize=(8, 5), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    rows = summary(runs)
    for method in dict.fromkeys(row["method"] for row in rows):
        own = [row for row in rows if row["method"] == method]
        axes.errorbar(
            [row["volumes"] for row in own],
            [row["mean"]["dice"] for row in own],
            [row["mean"]["sd"] or 0.0 for row in own],
            marker="o",
            capsize=3,
            linestyle="--" if method == UNET else "-",
            label=method,
        )
    axes.set_xscale("log")
    axes.set_xticks(sorted({row["volumes"] for row in rows}), minor=False)
    axes.get_xaxis().set_major_formatter(lambda value, _: f"{value:g}")
    axes.minorticks_off()
    axes.set_xlabel("labeled volumes")
    axes.set_ylabel("mean Dice of the test volumes")
    axes.set_title(how, fontsize=7, wrap=True)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    with replace_when_complete(path) as temporary:
        figure.savefig(temporary, format="png")


if __name__ == "__main__":
    main()
