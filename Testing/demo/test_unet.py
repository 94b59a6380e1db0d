"""The U-Net that is trained from scratch, on slices of several volumes."""

import numpy as np
import pytest

from SAMAutoSegLib.demo import unet
from SAMAutoSegLib.images.slices import SliceStack
from SAMAutoSegLib.images.volume import Grid


@pytest.fixture(autouse=True)
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unet, "_STEPS", 2)
    monkeypatch.setattr(unet, "_CHANNELS", (8, 16, 16, 16, 16))


def slice_of(shape: tuple[int, int], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Noise with a bright block, and where it is."""
    rng = np.random.default_rng(seed)
    labels = np.zeros(shape, np.uint8)
    row, column = rng.integers(2, 12, 2)
    labels[row : row + 14, column : column + 12] = 1
    image = rng.integers(0, 60, shape) + 180 * labels
    return image.astype(np.uint8), labels


def test_it_takes_slices_of_several_sizes_and_segments_a_volume_of_another() -> None:
    labeled = [slice_of((32 + n, 40 - n), n) for n in range(3)]
    grid = Grid((29, 35, 2), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), np.eye(3))
    images = SliceStack(np.stack([slice_of((35, 29), seed)[0] for seed in (7, 8)]), grid)
    found = unet.unet_classes(unet.train_unet(labeled, 3), images)
    assert found.shape == (2, 35, 29) and found.dtype == np.uint8 and found.max() <= 2
    assert np.array_equal(unet.unet_classes(unet.train_unet(labeled, 3), images), found)
    assert not np.array_equal(unet.unet_classes(unet.train_unet(labeled, 3, seed=1), images), found)
