"""A small problem that can be learned: a disc and a bar that move through a noisy volume."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from SAMAutoSegLib.adapt.adapted_model import Adaptation, AdaptedModel
from SAMAutoSegLib.images.intensity import Intensity
from SAMAutoSegLib.images.structure import Structure, structure_named
from SAMAutoSegLib.images.volume import Grid, Volume
from SAMAutoSegLib.methods.finetune import finetune
from SAMAutoSegLib.methods.training_set import LabeledVolume, TrainingSet, build_training_set
from SAMAutoSegLib.methods.tuned_model import FineTuned
from SAMAutoSegLib.sam.backbone import Backbone

DISC, BAR = 3, 7

Tune = Callable[..., FineTuned]

QUICK: dict[str, Any] = {"steps": 4, "batch": 2, "warmup": 1}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Whether two models learned the same, bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture
def structures() -> list[Structure]:
    return [structure_named("disc", DISC), structure_named("bar", BAR)]


@pytest.fixture
def intensity() -> Intensity:
    return Intensity("window", 0, 255)


@pytest.fixture
def labeled() -> Callable[..., LabeledVolume]:
    """Builds a volume with a dark disc and a bright bar, and names its labeled slices."""

    def build(slices: tuple[int, ...] = (0, 2, 4, 6), seed: int = 0) -> LabeledVolume:
        rng = np.random.default_rng(seed)
        image = rng.normal(110, 8, (9, 48, 40))
        labels = np.zeros(image.shape, np.uint8)
        rows, columns = np.mgrid[:48, :40]
        for k in range(len(image)):
            labels[k][(rows - 14 - k) ** 2 + (columns - 12 - k) ** 2 < 81] = DISC
            labels[k, 30 + k : 38 + k, 6:30] = BAR
        image[labels == DISC] -= 80
        image[labels == BAR] += 80
        grid = Grid((40, 48, 9), (1.0, 1.0, 4.0), (0.0, 0.0, 0.0), np.eye(3))
        source = Path(f"scan{seed}.nii.gz")  # of that name only: nothing reads it
        scan = Volume(image.astype(np.int16), grid, f"scan{seed}", source)
        return LabeledVolume(scan, Volume(labels, grid, "labels"), slices)

    return build


@pytest.fixture
def samples(
    tiny_backbone: Callable[..., Backbone],
    labeled: Callable[..., LabeledVolume],
    structures: list[Structure],
    intensity: Intensity,
) -> Callable[..., TrainingSet]:
    """Builds the training set of some slices, of one volume or of several."""

    def build(
        *slices: tuple[int, ...],
        encoder_blocks: int = 0,
        precision: torch.dtype = torch.float32,
        first_seed: int = 0,
    ) -> TrainingSet:
        chosen = slices or ((0, 2, 4, 6),)
        volumes = [labeled(numbers, seed) for seed, numbers in enumerate(chosen, first_seed)]
        return build_training_set(
            volumes,
            structures,
            tiny_backbone(precision=precision),
            plane="axial",
            intensity=intensity,
            encoder_blocks=encoder_blocks,
        )

    return build


@pytest.fixture
def new_model(tiny_backbone: Callable[..., Backbone]) -> Callable[..., AdaptedModel]:
    """Builds an untrained model of background, disc and bar."""

    def build(seed: int = 0, **adaptation: int) -> AdaptedModel:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return AdaptedModel(tiny_backbone(), 3, Adaptation(**adaptation))

    return build


@pytest.fixture
def tune(
    labeled: Callable[..., LabeledVolume],
    structures: list[Structure],
    intensity: Intensity,
    tiny_backbone: Callable[..., Backbone],
) -> Tune:
    """Trains a model, quickly and unless told otherwise on two slices."""

    def run(*volumes: LabeledVolume, backbone: Backbone | None = None, **options: Any) -> FineTuned:
        chosen: dict[str, Any] = {"plane": "axial", "intensity": intensity, "settings": QUICK}
        return finetune(
            volumes or (labeled((2, 5)),),
            structures,
            backbone or tiny_backbone(),
            **{**chosen, **options},
        )

    return run
