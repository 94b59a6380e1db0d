"""Voxels in another order, against SimpleITK, which exchanges and turns axes too."""

import itertools

import numpy as np
import pytest
import SimpleITK as sitk

from SAMAutoSegLib.images.axis_order import in_order_of
from SAMAutoSegLib.images.read import read_layers
from SAMAutoSegLib.images.volume import Grid, Volume


def oblique() -> Grid:
    cosine, sine = np.cos(0.4), np.sin(0.4)
    turn = np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]])
    tilt = np.array([[1, 0, 0], [0, cosine, -sine], [0, sine, cosine]])
    return Grid((5, 4, 3), (0.7, 1.1, 2.5), (12.0, -30.0, 7.0), turn @ tilt)


def image_of(array: np.ndarray, grid: Grid) -> sitk.Image:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(grid.spacing)
    image.SetOrigin(grid.origin)
    image.SetDirection(grid.direction.ravel().tolist())
    return image


def grid_of(image: sitk.Image) -> Grid:
    direction = np.array(image.GetDirection()).reshape(3, 3)
    return Grid(image.GetSize(), image.GetSpacing(), image.GetOrigin(), direction)


ORDERS = [
    (order, flips)
    for order in itertools.permutations(range(3))
    for flips in itertools.product([False, True], repeat=3)
]


@pytest.mark.parametrize(("order", "flips"), ORDERS)
def test_every_order_comes_back_to_that_of_the_image(
    order: tuple[int, ...], flips: tuple[bool, ...]
) -> None:
    grid = oblique()
    array = np.arange(60, dtype=np.uint8).reshape(3, 4, 5)
    other = sitk.Flip(sitk.PermuteAxes(image_of(array, grid), order), flips, False)
    found, ordered = in_order_of(sitk.GetArrayFromImage(other), grid_of(other), grid)
    np.testing.assert_array_equal(found, array)
    assert ordered.same_as(grid, 1e-6)


def test_labels_on_the_voxels_of_an_image_fit_it_however_they_are_stored(tmp_path) -> None:
    grid = oblique()
    array = np.zeros((3, 4, 5), np.uint8)
    array[1, 2:4, 1:3] = 1
    whole = image_of(array, grid)
    cropped = sitk.RegionOfInterest(whole, (3, 3, 2), (1, 1, 1))
    image = Volume(np.zeros_like(array), grid, "CT")
    for number, stored in enumerate((whole, cropped)):
        path = tmp_path / f"labels{number}.nii.gz"
        sitk.WriteImage(sitk.Flip(sitk.PermuteAxes(stored, (2, 0, 1)), (True, False, True)), path)
        layers = read_layers(path).on_grid_of(image)
        np.testing.assert_array_equal(layers.flattened()[0].array, array)
        assert layers.grid is image.grid


def test_grids_that_lie_across_each_other_stay_as_they_are() -> None:
    grid = oblique()
    half = np.sqrt(0.5)
    turned = np.array([[half, -half, 0], [half, half, 0], [0, 0, 1.0]])
    flat = Grid((5, 4, 3), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), turned)
    array = np.zeros((3, 4, 5), np.uint8)
    found, ordered = in_order_of(array, flat, Grid(grid.size, flat.spacing, flat.origin, np.eye(3)))
    assert found.shape == ordered.size[::-1]
    # Never a claim that a voxel lies elsewhere.
    corner = ordered.ijk_to_lps @ [0, 0, 0, 1]
    corners = [flat.ijk_to_lps @ [*c, 1] for c in itertools.product((0, 4), (0, 3), (0, 2))]
    assert min(np.linalg.norm(corner - other) for other in corners) < 1e-9
