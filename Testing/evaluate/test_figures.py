import math
import os

import numpy as np
import pytest
from matplotlib.image import imread

from SAMAutoSegLib.evaluate.figures import montage_png, training_curve_png
from SAMAutoSegLib.images.structure import Structure

STRUCTURE = Structure(1, "organ", (0.0, 1.0, 0.0))


def slices(count: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    image = np.full((50, 60), 100, np.uint8)
    labels = np.zeros_like(image)
    labels[15:35, 20:40] = 1
    return [image] * count, [labels] * count


def drawn_in(path, color: tuple[float, float, float]) -> int:
    """How many pixels have about that color."""
    pixels = imread(path)[..., :3]
    return int((np.abs(pixels - color).max(axis=-1) < 0.15).sum())


def test_the_contour_of_the_prediction_is_drawn_in_the_color_of_the_structure(tmp_path):
    images, labels = slices(3)
    montage_png(tmp_path / "m.png", images, None, labels, [STRUCTURE], [4, 5, 6])
    empty = [np.zeros_like(label) for label in labels]
    montage_png(tmp_path / "empty.png", images, None, empty, [STRUCTURE], [4, 5, 6])
    with_contours, legend_only = (
        drawn_in(tmp_path / name, STRUCTURE.color) for name in ("m.png", "empty.png")
    )
    assert with_contours > legend_only + 500
    assert sorted(os.listdir(tmp_path)) == ["empty.png", "m.png"]


def test_the_reference_is_drawn_in_white(tmp_path):
    images, labels = slices(1)
    empty = [np.zeros_like(labels[0])]
    montage_png(tmp_path / "with.png", images, labels, empty, [STRUCTURE], [0])
    montage_png(tmp_path / "without.png", images, empty, empty, [STRUCTURE], [0])
    white = (1.0, 1.0, 1.0)
    assert drawn_in(tmp_path / "with.png", white) > drawn_in(tmp_path / "without.png", white) + 50


def test_slices_that_were_learned_from_are_framed(tmp_path):
    images, labels = slices(2)
    montage_png(tmp_path / "with.png", images, None, labels, [STRUCTURE], [3, 9], labeled={9})
    montage_png(tmp_path / "without.png", images, None, labels, [STRUCTURE], [3, 9], labeled={4})
    frame = (0.949, 0.8, 0.376)
    with_frame, legend_only = (
        drawn_in(tmp_path / name, frame) for name in ("with.png", "without.png")
    )
    assert with_frame > legend_only + 1000


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (2.0, 1.0)])
def test_slices_are_shown_in_their_physical_proportions(tmp_path, spacing):
    images, labels = slices(1)
    montage_png(tmp_path / "m.png", images, None, labels, [STRUCTURE], [0], pixel_spacing=spacing)
    pixels = imread(tmp_path / "m.png")[..., :3]
    shown = np.abs(pixels - 100 / 255).max(axis=-1) < 0.02
    height, width = (np.flatnonzero(shown.sum(axis=axis) > 50).size for axis in (1, 0))
    assert height / width == pytest.approx(50 * spacing[0] / (60 * spacing[1]), rel=0.03)


def test_a_montage_of_black_slices_and_of_many_slices_is_drawn(tmp_path):
    images, labels = slices(12)
    black = [np.zeros_like(image) for image in images]
    montage_png(tmp_path / "m.png", black, labels, labels, [STRUCTURE], range(12), title="black")
    assert imread(tmp_path / "m.png").ndim == 3


def test_each_curve_of_a_training_is_drawn_where_it_has_values(tmp_path):
    history = [
        {"step": 0.0, "training_loss": 1.0, "held-out_dice": 0.5, "seconds": 1.0},
        {"step": 10.0, "training_loss": 0.5},
        {"step": 20.0, "training_loss": 0.2, "held-out_dice": math.nan, "prompt_loss": 0.3},
    ]
    training_curve_png(tmp_path / "both.png", history, "course")
    training_curve_png(
        tmp_path / "losses.png", [{"step": 0.0, "loss": 1.0}, {"step": 1.0, "loss": 0.5}]
    )
    both, losses = (imread(tmp_path / name).shape for name in ("both.png", "losses.png"))
    assert both[0] > losses[0]
    assert drawn_in(tmp_path / "both.png", (0.345, 0.651, 1.0)) > 500


def test_a_training_that_never_ran_gives_an_empty_picture(tmp_path):
    training_curve_png(tmp_path / "none.png", [])
    assert imread(tmp_path / "none.png").ndim == 3
