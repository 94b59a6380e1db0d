from dataclasses import replace

import numpy as np
import pytest

from SAMAutoSegLib.errors import SAMAutoSegError
from SAMAutoSegLib.images.volume import Grid, Volume, require_same_grid


def test_the_first_voxel_lies_at_the_origin_with_ras_signs(anisotropic_grid):
    at_origin = anisotropic_grid.ijk_to_ras @ (0, 0, 0, 1)
    np.testing.assert_allclose(at_origin, (12.5, -30.25, 1000.125, 1))


def test_a_step_along_k_moves_by_the_spacing_in_the_direction_of_k(anisotropic_grid):
    turned = replace(anisotropic_grid, direction=np.eye(3)[:, [1, 2, 0]])
    step = turned.ijk_to_ras @ (0, 0, 1, 0)
    # The third column of the direction is +L, which is -R.
    np.testing.assert_allclose(step, (-5.0, 0, 0, 0))


def test_a_grid_is_the_same_as_itself_and_after_float32_rounding(grid):
    rounded = replace(
        grid,
        spacing=tuple(float(np.float32(value)) for value in grid.spacing),
        origin=tuple(float(np.float32(value)) for value in grid.origin),
        direction=grid.direction.astype(np.float32).astype(float),
    )
    assert grid.same_as(grid, tolerance=0)
    assert grid.same_as(rounded)
    assert grid.describe_difference(rounded) == ""


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"size": (7, 6, 9)}, "size 7 x 6 x 5 against 7 x 6 x 9"),
        ({"spacing": (0.7, 0.8, 2.5)}, "spacing 0.7 x 0.8 x 5 against 0.7 x 0.8 x 2.5 mm"),
        (
            {"origin": (-12.5, 32.25, 1000.125)},
            "origin (-12.5, 30.25, 1000.12) against (-12.5, 32.25, 1000.12) mm LPS",
        ),
        (
            {"direction": np.diag([-1.0, 1.0, 1.0])},
            "direction (1, 0, 0, 0, 1, 0, 0, 0, 1) against (-1, 0, 0, 0, 1, 0, 0, 0, 1)",
        ),
    ],
)
def test_a_difference_is_named_with_both_values_and_nothing_else(
    anisotropic_grid, change, expected
):
    other = replace(anisotropic_grid, **change)
    assert not anisotropic_grid.same_as(other)
    assert anisotropic_grid.describe_difference(other) == expected


def test_all_differences_are_named(anisotropic_grid):
    other = replace(anisotropic_grid, size=(3, 3, 3), spacing=(1, 1, 1), origin=(0, 0, 0))
    description = anisotropic_grid.describe_difference(other)
    assert [part for part in ("size", "spacing", "origin") if part in description] == [
        "size",
        "spacing",
        "origin",
    ]
    assert "direction" not in description


def test_differences_that_only_add_up_are_described_too():
    grid = Grid((101, 101, 101), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), np.eye(3))
    other = replace(grid, spacing=(1.00008, 1.0, 1.0), origin=(0.008, 0.0, 0.0))
    assert grid.describe_difference(other) == "corners up to 0.016 voxels apart"


def test_the_spacing_of_a_single_slice_counts():
    grid = Grid((1, 1, 1), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), np.eye(3))
    assert not grid.same_as(replace(grid, spacing=(1.0, 1.0, 3.0)))


def test_a_volume_whose_array_does_not_fit_its_grid_is_refused(plain_grid):
    with pytest.raises(ValueError, match=r"\(7, 6, 5\).*7 x 6 x 5"):
        Volume(np.zeros((7, 6, 5)), plain_grid, "wrong order")


def test_labels_on_another_grid_are_refused_with_both_names(plain_grid, anisotropic_grid):
    image = Volume(np.zeros((5, 6, 7)), plain_grid, "ct")
    labels = Volume(np.zeros((5, 6, 7)), anisotropic_grid, "my labels")
    require_same_grid(image, image)
    with pytest.raises(SAMAutoSegError, match="my labels is not on the grid of ct: spacing 0.7 x"):
        require_same_grid(image, labels)
