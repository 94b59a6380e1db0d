import numpy as np
import pytest

from SAMAutoSegLib.errors import SAMAutoSegError
from SAMAutoSegLib.segment.cleanup import CleanUp, remove_parts


@pytest.fixture
def labels() -> np.ndarray:
    """Label 2 in parts of 12, 4 and 1 voxels, label 5 in parts of 6 and 2."""
    array = np.zeros((4, 8, 9), np.uint8)
    array[0:3, 0:2, 0:2] = 2
    array[1, 4:6, 0:2] = 2
    array[2, 2, 2] = 2  # touches the largest part by an edge only
    array[0:3, 5:7, 8] = 5
    array[0, 5:7, 4] = 5
    return array


def sizes(labels: np.ndarray) -> dict[int, int]:
    values, counts = np.unique(labels, return_counts=True)
    return {int(v): int(n) for v, n in zip(values, counts, strict=True) if v}


def test_nothing_is_removed_by_default(labels: np.ndarray) -> None:
    assert not CleanUp().removes_parts
    before = labels.copy()
    remove_parts(labels, 1.0, CleanUp())
    assert np.array_equal(labels, before)


def test_the_largest_part_of_each_structure_stays(labels: np.ndarray) -> None:
    remove_parts(labels, 1.0, CleanUp(largest_component=True))
    assert sizes(labels) == {2: 12, 5: 6}
    assert labels[0:3, 0:2, 0:2].all() and labels[0:3, 5:7, 8].all()


@pytest.mark.parametrize(
    ("minimum", "left"), [(2.0, {2: 17, 5: 8}), (4.0, {2: 16, 5: 8}), (8.5, {2: 12, 5: 6})]
)
def test_islands_are_measured_in_cubic_millimeters(
    labels: np.ndarray, minimum: float, left: dict[int, int]
) -> None:
    remove_parts(labels, 2.0, CleanUp(minimum_island_mm3=minimum))
    assert sizes(labels) == left


def test_a_structure_of_small_islands_only_vanishes(labels: np.ndarray) -> None:
    remove_parts(labels, 1.0, CleanUp(largest_component=True, minimum_island_mm3=7))
    assert sizes(labels) == {2: 12}


def test_structures_around_each_other_do_not_touch_each_other() -> None:
    array = np.zeros((1, 5, 9), np.uint8)
    array[0, :, :5] = 2
    array[0, 1:4, 1:4] = 5  # inside of 2
    array[0, 2, 8] = 2
    array[0, 2, 7] = 5  # next to an island of 2
    remove_parts(array, 1.0, CleanUp(largest_component=True))
    assert sizes(array) == {2: 16, 5: 9}


def test_parts_are_not_connected_through_another_structure() -> None:
    array = np.array([[[2, 2, 2, 5, 2]]], np.uint8)
    remove_parts(array, 1.0, CleanUp(largest_component=True))
    assert array.tolist() == [[[2, 2, 2, 5, 0]]]


def test_the_part_that_a_known_slice_shows_takes_the_place_of_the_largest(
    labels: np.ndarray,
) -> None:
    labels[1, 0:2, 0:2] = 0  # slice 1 is known: of structure 2 it shows the part of 4 voxels only
    labels[3, 0:2, 0:2] = 2
    remove_parts(labels, 1.0, CleanUp(largest_component=True), sure=[1, 9])
    assert sizes(labels) == {2: 4, 5: 6} and labels[1, 4:6, 0:2].all()


def test_of_a_structure_that_no_known_slice_shows_the_largest_part_stays(
    labels: np.ndarray,
) -> None:
    labels[3] = 0
    remove_parts(labels, 1.0, CleanUp(largest_component=True), sure=[3])
    assert sizes(labels) == {2: 12, 5: 6}


def test_no_part_that_a_known_slice_shows_is_an_island(labels: np.ndarray) -> None:
    remove_parts(labels, 1.0, CleanUp(minimum_island_mm3=7), sure=[0])
    assert sizes(labels) == {2: 12, 5: 8}


def test_the_array_behind_a_view_is_cleaned(labels: np.ndarray) -> None:
    turned = np.moveaxis(labels[:, ::-1], 2, 0)
    remove_parts(turned, 1.0, CleanUp(largest_component=True))
    assert sizes(labels) == {2: 12, 5: 6}


def test_no_label_at_all_is_no_fault() -> None:
    remove_parts(np.zeros((2, 3, 4), np.uint16), 1.0, CleanUp(largest_component=True))


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["minimum_island_mm3", "smooth_slices_mm"])
def test_a_length_or_volume_that_makes_no_sense_is_named(name: str, value: float) -> None:
    with pytest.raises(SAMAutoSegError, match=f"clean-up {name} {value:g}: expected 0 or more mm"):
        CleanUp(**{name: value})
