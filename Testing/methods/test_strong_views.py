"""Strong views: other gray levels, nothing moved."""

from collections.abc import Callable

import numpy as np

from SAMAutoSegLib.methods.strong_views import degraded

Picture = Callable[..., np.ndarray]


def test_a_degraded_slice_keeps_shape_and_type(picture: Picture) -> None:
    for image in (picture(33, 47), picture(1, 5)):
        for seed in range(30):
            shown = degraded(image, np.random.default_rng(seed))
            assert shown.shape == image.shape and shown.dtype == np.uint8


def test_the_same_seed_gives_the_same_view_and_another_one_another(picture: Picture) -> None:
    image = picture(40, 40)
    one, same, other = (degraded(image, np.random.default_rng(seed)) for seed in (3, 3, 4))
    assert np.array_equal(one, same) and not np.array_equal(one, other)


def test_nothing_is_moved() -> None:
    image = np.full((64, 48), 40, np.uint8)
    image[20:44, 10:30] = 200
    inside = image > 100
    for seed in range(40):
        shown = degraded(image, np.random.default_rng(seed)).astype(float)
        # Far from the edge, the bright square stays brighter than what lies beside it.
        assert shown[26:38, 16:24].mean() > shown[26:38, 36:44].mean() + 10
        centers = []
        for picture in (inside * 1.0, np.clip(shown - np.median(shown[~inside]), 0, None) * inside):
            weight = picture / picture.sum()
            centers.append((weight * np.mgrid[:64, :48]).sum((1, 2)))
        assert np.abs(centers[0] - centers[1]).max() < 3


def test_views_differ_in_brightness_sharpness_and_noise(picture: Picture) -> None:
    image = picture(64, 64)
    views = [degraded(image, np.random.default_rng(seed)).astype(float) for seed in range(40)]
    means = [view.mean() for view in views]
    rough = [np.abs(np.diff(view, axis=1)).mean() for view in views]
    assert max(means) - min(means) > 40
    own = np.abs(np.diff(image.astype(float), axis=1)).mean()
    assert min(rough) < own / 2 and max(rough) > own * 1.2
