"""Train the starter models, score them on patients that trained nothing, write files and cards.

    python Resources/Models/train.py hippocampus --data DIR   # images/ and labels/
    python Resources/Models/train.py heart --data DIR         # PATIENT_{ED,ES}_{img,lv}.nii.gz
    python Resources/Models/train.py abdomen --data DIR       # tests/reference_files

DIR holds, in this order: Task04 of the Medical Segmentation Decathlon, the left ventricles of the
Sunnybrook Cardiac Data as NIfTI, and what the source archive of totalsegmentator 2.18.0 has, see
docs/benchmarks/data.md. Next to each model file a .json repeats what its card says, for readers of
this folder.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from SAMAutoSegLib.adapt.adapted_file import Adapted, save_adapted
from SAMAutoSegLib.evaluate.metrics import score_volume
from SAMAutoSegLib.images.read import read_image, read_layers
from SAMAutoSegLib.images.slices import Plane, SliceStack
from SAMAutoSegLib.images.structure import Structure, structure_named
from SAMAutoSegLib.images.volume import Volume
from SAMAutoSegLib.methods.finetune import finetune
from SAMAutoSegLib.methods.training_set import LabeledVolume
from SAMAutoSegLib.progress import console_progress
from SAMAutoSegLib.sam.checkpoint import load_backbone
from SAMAutoSegLib.sam.embedding_cache import EmbeddingCache
from SAMAutoSegLib.sam.fetch import fetched
from SAMAutoSegLib.segment.volume import segment_volume

HERE = Path(__file__).parent
BASE = "lite-medsam"
METHOD = "blo-sam"

Pair = tuple[Volume, Volume]


@dataclass(frozen=True)
class Starter:
    """One model: its data, and what a user has to know about it.

    Attributes:
        train, test: what to read for each volume; nobody is on both sides.
        misplaced: a patient of the test volumes whose labels lie beside the structure, as pictures
            show; scored with the others, which are scored once more without.
        slices: labeled slices taken of each training volume, spread over it; 0: each `every`-th.
        settings: of the training, where they differ from the defaults.
    """

    name: str
    plane: Plane
    structures: list[Structure]
    train: Sequence[Callable[[], Pair]]
    test: Sequence[Callable[[], Pair]]
    slices: int
    settings: dict[str, Any]
    facts: dict[str, str]
    every: int = 1
    misplaced: str = ""


def hippocampus(data: Path) -> Starter:
    names = sorted(path.name for path in (data / "images").glob("*.nii.gz"))
    random.Random(0).shuffle(names)
    readers = [_reader(data / "images" / name, data / "labels" / name) for name in names]
    return Starter(
        "hippocampus",
        "sagittal",
        [structure_named("anterior hippocampus", 1), structure_named("posterior hippocampus", 2)],
        readers[12:],
        readers[:12],
        4,
        # The pixel branch is better there than the SAM, as six patients told that are now among
        # those it learns from. Slices without labels were not tried.
        {"views": 2, "pixel_steps": 3, "pixel_weight": 2.0, "teach_branch": False},
        {
            "data": "Medical Segmentation Decathlon, Task04 (Antonelli et al., 2022)",
            "data_license": "CC-BY-SA-4.0",
            "labels": "drawn by experts",
            "use": "T1 MRI cropped to a box of about 4 cm around one hippocampus",
            "not_for": "whole heads without a region around the hippocampus; any clinical decision",
        },
    )


def heart(data: Path) -> Starter:
    patients = sorted({path.name.rsplit("_", 2)[0] for path in data.glob("*_ED_img.nii.gz")})
    random.Random(0).shuffle(patients)

    def readers(chosen: list[str]) -> list[Callable[[], Pair]]:
        return [
            _reader(data / f"{patient}_{phase}_img.nii.gz", data / f"{patient}_{phase}_lv.nii.gz")
            for patient in chosen
            for phase in ("ED", "ES")
        ]

    return Starter(
        "left-ventricle",
        "axial",
        [structure_named("left ventricle", 1)],
        readers(patients[8:]),
        readers(patients[:8]),
        0,
        # Learned from sixteen of those patients, six others chose the weight of the branch.
        {"views": 2, "pixel_steps": 2, "pixel_weight": 0.25, "teach_branch": False},
        {
            "data": "Sunnybrook Cardiac Data (Radau et al., 2009)",
            "data_license": "CC0-1.0",
            "labels": "drawn by experts: the cavity",
            "use": "short-axis cine MRI, end-diastole and end-systole",
            "not_for": "other views of the heart, CT; any clinical decision",
        },
        misplaced="SC-N-06",
    )


def abdomen(data: Path) -> Starter:
    values = {"spleen": 1, "right kidney": 2, "left kidney": 3, "liver": 5, "stomach": 6}
    values["aorta"] = 52
    return Starter(
        "abdomen-ct",
        "axial",
        [structure_named(name, value) for name, value in values.items()],
        [_reader(data / "example_ct.nii.gz", data / "example_seg_fast_force_split.nii.gz")],
        [_reader(data / "example_ct_dicom", data / "example_seg_dicom.nii.gz")],
        0,
        {"views": 8, "view_strength": 4.0},  # one patient has to stand for all sizes and places
        {
            "data": "sample CT of the totalsegmentator 2.18.0 source archive, one patient",
            "data_license": "Apache-2.0",
            "labels": "the output of TotalSegmentator, not drawn by hand",
            "use": "a first try on the CT of the tutorial, a part of the one it learned from",
            "not_for": "any other CT: it has seen one patient; any clinical decision",
        },
        every=3,
    )


STARTERS = {"hippocampus": hippocampus, "heart": heart, "abdomen": abdomen}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("which", choices=STARTERS)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--output", type=Path, default=HERE)
    options = parser.parse_args()
    starter = STARTERS[options.which](options.data)
    cache = EmbeddingCache()
    with console_progress() as progress:
        backbone = load_backbone(fetched(BASE, progress))
        learned = [_labeled(starter, read()) for read in starter.train]
        adapted = finetune(
            learned,
            starter.structures,
            backbone,
            plane=starter.plane,
            method=METHOD,
            settings={
                "steps": options.steps,
                "batch": 4,
                "refit": "never",  # so the models that are here were made
                "pixel_steps": 0,  # see the hippocampus, which has that branch
                "seed": options.seed,
                **starter.settings,
            },
            cache=cache,
            progress=progress,
        ).adapted
    scores = _scores(starter, adapted, cache)
    facts: dict[str, Any] = {
        **starter.facts,
        "training": f"{sum(len(volume.slices) for volume in learned)} slices of "
        f"{_volumes(len(learned))}",
        "test": f"{_volumes(len(starter.test))} of {_patients(len(starter.test))} that trained "
        "nothing, all slices",
        **_summary(scores, "test_dice"),
    }
    if starter.misplaced:
        facts["misplaced"] = f"the labels of {starter.misplaced} lie beside the structure"
        right = {
            name: {volume: one for volume, one in dice.items() if starter.misplaced not in volume}
            for name, dice in scores.items()
        }
        facts |= _summary(right, "test_dice_without_these")
    facts["command"] = (
        f"python Resources/Models/train.py {options.which} --data DIR "
        f"--steps {options.steps} --seed {options.seed}"
    )
    score = {"held_out_dice": float(np.mean(list(facts["test_dice"].values())).round(4))}
    card = replace(adapted.card, provenance={**adapted.card.provenance, **facts, **score})
    save_adapted(options.output / f"{starter.name}.safetensors", replace(adapted, card=card))
    about = {"structures": [s.name for s in starter.structures], **facts}
    text = json.dumps(about, indent=2) + "\n"
    (options.output / f"{starter.name}.json").write_text(text, encoding="utf-8")
    print(text)


def _scores(
    starter: Starter, adapted: Adapted, cache: EmbeddingCache
) -> dict[str, dict[str, float]]:
    """For each structure the Dice of the test volumes that show it, by their names."""
    scores: dict[str, dict[str, float]] = {structure.name: {} for structure in starter.structures}
    for read in starter.test:
        image, labels = read()
        found = segment_volume(image, adapted, cache=cache).labels
        for score in score_volume(found, labels.array, image.grid, starter.structures):
            if score.reference_voxels:
                scores[score.name][image.name] = score.dice
    return scores


def _summary(scores: dict[str, dict[str, float]], name: str) -> dict[str, dict[str, float]]:
    """Means, and with more than one volume their standard deviations."""
    dice = {structure: list(one.values()) for structure, one in scores.items() if one}
    told = {name: {one: float(np.mean(values).round(3)) for one, values in dice.items()}}
    spreads = {one: float(np.std(values).round(3)) for one, values in dice.items() if values[1:]}
    return told | ({f"{name}_sd": spreads} if spreads else {})


def _volumes(count: int) -> str:
    return "1 volume" if count == 1 else f"{count} volumes"


def _patients(volumes: int) -> str:
    return "a patient" if volumes == 1 else "patients"


def _reader(image: Path, labels: Path) -> Callable[[], Pair]:
    def read() -> Pair:
        shown = read_image(image)
        return shown, read_layers(labels).on_grid_of(shown).flattened()[0]

    return read


def _labeled(starter: Starter, pair: Pair) -> LabeledVolume:
    """Slices of a training volume: spread over those that show a structure, and one without."""
    image, labels = pair
    stack = SliceStack(labels.array, image.grid, starter.plane)
    if not starter.slices:
        return LabeledVolume(image, labels, tuple(range(0, len(stack), starter.every)))
    shown = [n for n in range(len(stack)) if stack.slice_at(n).any()]
    spread = np.linspace(0, len(shown) - 1, starter.slices + 2).round().astype(int)[1:-1]
    empty = [n for n in range(len(stack)) if n not in shown][:1]
    return LabeledVolume(image, labels, tuple(sorted({*(shown[n] for n in spread), *empty})))


if __name__ == "__main__":
    main()
