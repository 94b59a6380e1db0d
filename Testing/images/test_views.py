"""Changed views of labeled slices."""

import numpy as np

from SAMAutoSegLib.images.views import changed_view


def disc(rows: int, columns: int, spacing: tuple[float, float]) -> np.ndarray:
    """A disc of 20 mm radius, 10 mm right of the center."""
    y = (np.arange(rows)[:, None] - (rows - 1) / 2) * spacing[0]
    x = (np.arange(columns)[None] - (columns - 1) / 2) * spacing[1] - 10
    return (y**2 + x**2 <= 400).astype(np.uint8)


def test_image_and_labels_of_a_view_move_together() -> None:
    labels = disc(80, 90, (1.0, 1.0))
    for seed in range(10):
        rng = np.random.default_rng(seed)
        image, moved = changed_view(labels * 200, labels, (1.0, 1.0), rng)
        shown = image > 90
        overlap = 2 * (shown & (moved > 0)).sum() / (shown.sum() + moved.sum())
        assert overlap > 0.97
        assert image.dtype == np.uint8 and set(np.unique(moved)) <= {0, 1}


def test_a_disc_stays_round_in_the_patient_whatever_the_pixel_shape() -> None:
    spacing = (3.0, 1.0)
    labels = disc(40, 120, spacing)
    for seed in range(10):
        _, moved = changed_view(labels * 200, labels, spacing, np.random.default_rng(seed))
        rows, columns = np.nonzero(moved)
        height, width = (np.ptp(rows) + 1) * spacing[0], (np.ptp(columns) + 1) * spacing[1]
        assert abs(height / width - 1) < 0.16  # a row of 3 mm on either side


def test_views_differ_from_the_slice_and_from_each_other() -> None:
    labels = disc(80, 90, (1.0, 1.0))
    rng = np.random.default_rng(0)
    first, _ = changed_view(labels * 200, labels, (1.0, 1.0), rng)
    second, _ = changed_view(labels * 200, labels, (1.0, 1.0), rng)
    assert not np.array_equal(first, labels * 200)
    assert not np.array_equal(first, second)


def test_a_stronger_change_moves_more() -> None:
    labels = np.zeros((64, 64), np.uint8)
    labels[24:40, 24:40] = 1
    moved = {
        strength: np.mean(
            [
                (changed_view(labels * 200, labels, (1.0, 1.0), rng, strength)[1] != labels).sum()
                for rng in map(np.random.default_rng, range(8))
            ]
        )
        for strength in (1.0, 2.0)
    }
    assert moved[2.0] > 1.4 * moved[1.0]
