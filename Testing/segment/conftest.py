"""An adapted model of a tiny random SAM, and volumes for it."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from SAMAutoSegLib.adapt.adapted_file import Adapted, ModelCard
from SAMAutoSegLib.adapt.adapted_model import Adaptation, AdaptedModel
from SAMAutoSegLib.images.intensity import Intensity
from SAMAutoSegLib.images.structure import structure_named
from SAMAutoSegLib.images.volume import Grid, Volume
from SAMAutoSegLib.sam.backbone import Backbone


@pytest.fixture
def segmenter(tiny_backbone: Callable[..., Backbone]) -> Callable[..., Adapted]:
    """Builds a model of two structures, labeled 3 and 7, that finds some of each in any noise."""

    def build(labels: tuple[int, ...] = (3, 7), **changes: object) -> Adapted:
        backbone = tiny_backbone(**changes)
        with torch.random.fork_rng():
            torch.manual_seed(1)
            model = AdaptedModel(backbone, len(labels) + 1, Adaptation()).eval()
        card = ModelCard(
            backbone="tiny",
            backbone_sha256="",
            input=backbone.spec,
            intensity=Intensity("window", 0, 255),
            plane="axial",
            adaptation=model.adaptation,
            structures=tuple(structure_named(f"part {n}", n) for n in labels),
            method="joint",
        )
        return Adapted(model, card, backbone)

    return build


@pytest.fixture
def scan(picture: Callable[..., np.ndarray]) -> Callable[..., Volume]:
    """Builds a volume of I x J x K voxels; every slice another picture."""

    def build(
        size: tuple[int, int, int] = (40, 30, 5),
        spacing: tuple[float, float, float] = (0.8, 0.8, 5.0),
        direction: np.ndarray | None = None,
    ) -> Volume:
        array = np.stack([picture(size[1], size[0], seed=k) for k in range(size[2])])
        axes = np.eye(3) if direction is None else direction
        grid = Grid(size, spacing, (-12.5, 30.0, 100.0), axes)
        return Volume(array.astype(np.int16), grid, "scan")

    return build
