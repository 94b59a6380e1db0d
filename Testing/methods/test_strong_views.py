"""Strong views: other gray levels, nothing moved."""

from collections.abc import Callable
from typing import Any

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


class Only:
    """Random numbers with which one of the six changes takes part, all, or none."""

    def __init__(self, change: int, seed: int, rician: bool = False) -> None:
        self.rng = np.random.default_rng(seed)
        self.shares = [0.0 if n == change else 0.9 for n in range(6)] + [0.0 if rician else 0.9]

    def random(self) -> float:
        return self.shares.pop(0)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.rng, name)


def changed(image: np.ndarray, change: int, rician: bool = False) -> list[np.ndarray]:
    rngs: list[Any] = [Only(change, seed, rician) for seed in range(20)]
    return [degraded(image, rng).astype(float) for rng in rngs]


RAMP = np.tile(np.arange(256, dtype=np.uint8), (8, 1))
GRAY = np.full((64, 48), 100, np.uint8)


def test_with_no_change_a_slice_stays_as_it_is() -> None:
    assert all(np.array_equal(view, RAMP) for view in changed(RAMP, -1))


def test_both_limits_of_the_window_move_by_no_more_than_said() -> None:
    views = [view[0] for view in changed(RAMP, 0)]
    for view in views:
        slopes = np.diff(view)[(view[1:] > 0) & (view[1:] < 255)]
        assert 1 / 1.3 - 0.02 < slopes.mean() < 1 / 0.7 + 0.02 and slopes.min() >= 0
        assert abs(view[128] - 128) < 0.15 * 255 / 0.7
    assert np.std([view[128] for view in views]) > 5


def test_the_tone_curve_keeps_black_and_white() -> None:
    exponents = []
    for view in (view[0] for view in changed(RAMP, 1)):
        assert (view[0], view[255]) == (0, 255) and (np.diff(view) >= 0).all()
        exponents.append(np.log(view[128] / 255) / np.log(128 / 255))
    assert 0.49 < min(exponents) < 0.8 and 1.3 < max(exponents) < 2.02


def test_shading_is_smooth_and_no_stronger_than_said() -> None:
    factors = [view / 100 for view in changed(GRAY, 2)]
    assert all(factor.min() >= 0.6 and factor.max() <= 1.66 for factor in factors)
    assert max(np.ptp(factor) for factor in factors) > 0.4
    assert all(np.abs(np.diff(factor, axis=0)).max() < 0.06 for factor in factors)


def test_blur_and_resolution_take_what_is_fine_and_nothing_else(picture: Picture) -> None:
    fine = (np.indices((64, 48)).sum(0) % 2 * 200).astype(np.uint8)
    coarse = np.repeat(np.repeat(fine[:4, :3], 16, 0), 16, 1)
    for change in (3, 4):
        assert all(np.array_equal(view, GRAY) for view in changed(GRAY, change))
        assert np.median([view.std() for view in changed(fine, change)]) < 0.5 * fine.std()
        for view in changed(coarse, change):
            assert np.abs(view - coarse)[4::16, 4::16].max() < 3
            assert abs(view.mean() - coarse.mean()) < 3


def test_noise_is_of_either_kind_and_of_two_to_ten_percent() -> None:
    gauss = [view.std() / 255 for view in changed(GRAY, 5)]
    assert 0.018 < min(gauss) < 0.05 < max(gauss) < 0.105
    assert all(abs(view.mean() - 100) < 3 for view in changed(GRAY, 5))
    dark = np.zeros_like(GRAY)
    rician = zip(changed(dark, 5, rician=True), changed(dark, 5), strict=True)
    # Magnitudes have no mean of 0 where there is nothing: that of Rayleigh, not half a Gaussian's.
    assert all(magnitude.mean() > 2 * normal.mean() > 0 for magnitude, normal in rician)
