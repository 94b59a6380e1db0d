import itertools

import numpy as np
import pytest

from SAMAutoSegLib.errors import SAMAutoSegError
from SAMAutoSegLib.images.slices import SliceStack, plane_along, plane_for
from SAMAutoSegLib.images.volume import Grid

# A patient of 4 x 5 x 6 voxels in the order L, P, S, with a different spacing along each axis.
SIZE_LPS = (4, 5, 6)
SPACING_LPS = (1.0, 2.0, 3.0)


def anatomy() -> np.ndarray:
    """Every voxel [L, P, S] holds a value of its own."""
    return np.arange(np.prod(SIZE_LPS)).reshape(SIZE_LPS)


def stored_as(order: tuple[int, ...], flips: tuple[bool, ...]) -> tuple[np.ndarray, Grid]:
    """The same patient with I, J, K along the patient axes `order`, backwards where flipped."""
    array = anatomy()
    direction = np.zeros((3, 3))
    origin = np.zeros(3)
    for ijk, (patient, flip) in enumerate(zip(order, flips, strict=True)):
        direction[patient, ijk] = -1 if flip else 1
        if flip:
            array = np.flip(array, patient)
            origin[patient] = (SIZE_LPS[patient] - 1) * SPACING_LPS[patient]
    array = np.ascontiguousarray(array.transpose(order).transpose(2, 1, 0))
    spacing = tuple(SPACING_LPS[patient] for patient in order)
    return array, Grid(array.shape[::-1], spacing, tuple(origin), direction)


ORIENTATIONS = [
    pytest.param(
        order, flips, id="".join("LPS"[p] + "+-"[f] for p, f in zip(order, flips, strict=True))
    )
    for order in itertools.permutations(range(3))
    for flips in itertools.product((False, True), repeat=3)
]

# Rows and columns as defined for each plane, from an array [L, P, S].
EXPECTED = {
    "axial": lambda lps, n: lps[:, :, n].T,
    "coronal": lambda lps, n: lps[:, n, ::-1].T,
    "sagittal": lambda lps, n: lps[n, :, ::-1].T,
}
NORMAL = {"axial": 2, "coronal": 1, "sagittal": 0}
SPACING = {"axial": (2.0, 1.0), "coronal": (3.0, 1.0), "sagittal": (3.0, 2.0)}


@pytest.mark.parametrize("plane", EXPECTED)
@pytest.mark.parametrize(("order", "flips"), ORIENTATIONS)
def test_every_storage_order_shows_the_same_view(order, flips, plane):
    array, grid = stored_as(order, flips)
    stack = SliceStack(array, grid, plane)
    normal = NORMAL[plane]
    assert order[stack.axis_index] == normal
    assert len(stack) == SIZE_LPS[normal]
    assert stack.pixel_spacing == SPACING[plane]
    assert stack.slice_spacing == SPACING_LPS[normal]
    for number in range(len(stack)):
        patient_number = len(stack) - 1 - number if flips[stack.axis_index] else number
        expected = EXPECTED[plane](anatomy(), patient_number)
        np.testing.assert_array_equal(stack.slice_at(number), expected)
        assert stack.slice_shape == expected.shape


@pytest.mark.parametrize("plane", EXPECTED)
@pytest.mark.parametrize(("order", "flips"), ORIENTATIONS)
def test_putting_every_slice_back_gives_the_same_array(order, flips, plane):
    array, grid = stored_as(order, flips)
    source = SliceStack(array, grid, plane)
    target = SliceStack(np.zeros_like(array), grid, plane)
    for number in range(len(source)):
        target.put(number, source.slice_at(number))
    np.testing.assert_array_equal(target.array, array)


@pytest.mark.parametrize("plane", EXPECTED)
@pytest.mark.parametrize(("order", "flips"), ORIENTATIONS)
def test_a_voxel_is_found_at_its_place_in_the_slices(order, flips, plane):
    array, grid = stored_as(order, flips)
    stack = SliceStack(array, grid, plane)
    number, row, column = stack.place_of(np.array([1, 2, 3])).astype(int)
    assert stack.slice_at(number)[row, column] == array[3, 2, 1]


def test_a_storage_axis_shows_the_plane_it_runs_across():
    array, grid = stored_as((2, 0, 1), (True, False, True))
    for axis, plane in zip("ijk", ("axial", "sagittal", "coronal"), strict=True):
        stack = SliceStack(array, grid, axis)
        assert stack.plane == plane
        assert stack.axis_index == "ijk".index(axis)
        np.testing.assert_array_equal(stack.slice_at(1), SliceStack(array, grid, plane).slice_at(1))


def test_an_oblique_volume_takes_the_closest_axes_each_once():
    # Turned by 40 degrees about two axes: nearest one by one, two axes would be taken twice.
    angle = np.radians(40)
    c, s = np.cos(angle), np.sin(angle)
    turn = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ np.array(
        [[1, 0, 0], [0, c, -s], [0, s, c]]
    )
    array = np.zeros((6, 5, 4))
    grid = Grid((4, 5, 6), (1, 1, 1), (0, 0, 0), turn)
    indices = {SliceStack(array, grid, plane).axis_index for plane in EXPECTED}
    assert indices == {0, 1, 2}


def grid_with(size, spacing) -> Grid:
    return Grid(size, spacing, (0, 0, 0), np.eye(3))


def test_auto_takes_the_axis_with_the_largest_spacing():
    assert plane_along(grid_with((9, 9, 9), (0.7, 0.7, 5.0)), "auto") == "axial"
    assert plane_along(grid_with((9, 9, 9), (0.7, 4.0, 0.7)), "auto") == "coronal"
    assert plane_along(grid_with((9, 9, 9), (3.0, 0.7, 0.7)), "auto") == "sagittal"


def test_auto_takes_axial_slices_of_an_isotropic_volume_despite_rounding():
    assert plane_along(grid_with((9, 9, 9), (1.0001, 1.0, 0.9999)), "auto") == "axial"


def test_auto_takes_the_only_slice_whatever_its_thickness():
    assert plane_along(grid_with((9, 1, 9), (1.0, 0.2, 1.0)), "auto") == "coronal"


def test_the_usual_plane_gives_way_to_that_of_an_image_of_one_slice():
    assert plane_for(grid_with((9, 9, 9), (1.0, 1.0, 5.0)), "sagittal") == "sagittal"
    assert plane_for(grid_with((9, 9, 1), (1.0, 1.0, 5.0)), "sagittal") == "axial"
    assert plane_for(grid_with((1, 9, 9), (1.0, 1.0, 5.0)), "sagittal") == "sagittal"
    assert plane_for(grid_with((1, 9, 1), (1.0, 1.0, 5.0)), "sagittal") == "sagittal"


def test_an_unknown_axis_is_refused_with_the_choices():
    with pytest.raises(SAMAutoSegError, match="'oblique'.*axial, coronal, sagittal"):
        plane_along(grid_with((9, 9, 9), (1, 1, 1)), "oblique")


def test_slices_outside_of_the_stack_and_of_another_shape_are_refused():
    array, grid = stored_as((0, 1, 2), (False, False, False))
    stack = SliceStack(array, grid)
    with pytest.raises(IndexError):
        stack.slice_at(-1)
    with pytest.raises(IndexError):
        stack.slice_at(len(stack))
    with pytest.raises(ValueError):
        stack.put(0, np.zeros((1, 1)))
