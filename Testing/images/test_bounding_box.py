import numpy as np
import pytest

from SAMAutoSegLib.images.bounding_box import bounding_box


@pytest.mark.parametrize("shape", [(9,), (9, 8), (9, 8, 7)])
def test_the_box_holds_all_of_the_mask_and_touches_it_on_every_side(shape):
    mask = np.zeros(shape, bool)
    mask[(2,) * len(shape)] = mask[(5,) * len(shape)] = True
    assert bounding_box(mask) == (slice(2, 6),) * len(shape)


def test_a_mask_at_the_border_is_boxed_up_to_it():
    assert bounding_box(np.ones((3, 4), bool)) == (slice(0, 3), slice(0, 4))


def test_an_empty_mask_has_no_box():
    assert bounding_box(np.zeros((3, 4), bool)) is None
