import weakref
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from scipy import ndimage

from SAMAutoSegLib.segment.smoothing import smooth_across_slices


def shares(count: int) -> torch.Tensor:
    """Class probabilities [count, K, rows, columns]."""
    return torch.rand(count, 3, 6, 5, generator=torch.Generator().manual_seed(0)).softmax(1)


def whole(values: np.ndarray, present: list[int], sigma: float) -> np.ndarray:
    """What SciPy gives with the full volume at hand; absent slices have no weight."""
    there = np.zeros((len(values), 1, 1, 1))
    there[present] = 1
    options = {"axis": 0, "mode": "constant", "truncate": 3.0}
    blurred = ndimage.gaussian_filter1d(values * there, sigma, **options)
    weight = ndimage.gaussian_filter1d(there, sigma, **options)
    return blurred[present] / weight[present]


@pytest.mark.parametrize("sigma", [0.1, 0.7, 2.0, 30.0])
@pytest.mark.parametrize("count", [1, 2, 17])
def test_the_stream_gives_what_scipy_gives_on_the_whole(sigma: float, count: int) -> None:
    values = shares(count)
    found = dict(smooth_across_slices(enumerate(values), sigma))
    assert list(found) == list(range(count))
    expected = whole(values.double().numpy(), list(range(count)), sigma)
    np.testing.assert_allclose(torch.stack([*found.values()]), expected, atol=1e-6)


@pytest.mark.parametrize("sigma", [0.7, 2.0])
def test_absent_slices_have_no_weight(sigma: float) -> None:
    values, present = shares(30), [2, 3, 5, 9, 20, 21, 29]
    stream = ((n, values[n]) for n in present)
    found = dict(smooth_across_slices(stream, sigma))
    assert list(found) == present
    expected = whole(values.double().numpy(), present, sigma)
    np.testing.assert_allclose(torch.stack([*found.values()]), expected, atol=1e-6)


def test_probabilities_still_sum_to_one() -> None:
    for _, smooth in smooth_across_slices(enumerate(shares(9)), 1.5):
        torch.testing.assert_close(smooth.sum(0), torch.ones(6, 5))


def test_the_widest_gaussian_takes_no_more_memory_than_the_slices() -> None:
    values = shares(5)
    found = dict(smooth_across_slices(enumerate(values), 1e12))
    torch.testing.assert_close(found[4], values.mean(0))


def test_what_comes_in_is_not_changed() -> None:
    values = shares(9)
    before = values.clone()
    list(smooth_across_slices(enumerate(values), 1.5))
    assert torch.equal(values, before)


def test_no_more_than_a_window_of_slices_is_alive() -> None:
    came: list[weakref.ref[torch.Tensor]] = []
    alive: list[int] = []

    def stream() -> Iterator[tuple[int, torch.Tensor]]:
        for n in range(60):
            values = torch.zeros(2, 3, 3)
            came.append(weakref.ref(values))
            yield n, values
            del values
            alive.append(sum(slice_() is not None for slice_ in came))

    assert len(list(smooth_across_slices(stream(), 2.0))) == 60
    assert max(alive) <= 2 * 6 + 1
