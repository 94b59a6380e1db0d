"""Labels on a coarser grid."""

import numpy as np
import pytest

from SAMAutoSegLib.images.label_resampling import resample_labels


def test_labels_of_the_same_size_are_the_same_labels() -> None:
    labels = np.arange(12, dtype=np.uint16).reshape(3, 4)
    assert resample_labels(labels, (3, 4)) is labels


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_labels_keep_their_values_and_their_places(dtype: type) -> None:
    labels = np.zeros((64, 96), dtype)
    labels[8:32, 16:48], labels[40:56, 60:90] = 3, 200
    small = resample_labels(labels, (16, 32))
    assert small.dtype == dtype and small.shape == (16, 32)
    expected = np.zeros((16, 32), dtype)
    expected[2:8, 16 // 3 : 16], expected[10:14, 20:30] = 3, 200
    np.testing.assert_array_equal(small, expected)


def test_an_edge_through_the_middle_of_pixels_moves_neither_way() -> None:
    labels = np.zeros((64, 64), np.uint8)
    labels[:, 21:43] = 1  # 10.5 to 21.5 of the pixels that are twice as large
    small = resample_labels(labels, (32, 32))
    assert small.sum() == 32 * 11
    assert np.argwhere(small)[:, 1].mean() == pytest.approx(15.5)
