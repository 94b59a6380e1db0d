import numpy as np
import pytest
from SAMAutoSegPanels.SlicesToLearn import (
    MOST_WITHOUT_PAINT,
    slicesSeen,
    slicesWithoutPaint,
    splitSlices,
)


def test_slices_without_paint_are_spread_over_the_others() -> None:
    found = slicesWithoutPaint(100, [0, 50, 99])
    assert 8 <= len(found) <= MOST_WITHOUT_PAINT and not {0, 50, 99} & set(found)
    assert found[0] < 15 and found[-1] > 85
    assert slicesWithoutPaint(5, [1, 2]) == [0, 3, 4]
    assert slicesWithoutPaint(2, [0, 1]) == []


@pytest.mark.parametrize("count", range(1, 40))
def test_held_back_slices_train_nothing_and_are_never_the_outermost(count: int) -> None:
    slices = list(range(10, 10 + 3 * count, 3))
    train, held = splitSlices(slices)
    assert sorted(train + held) == slices and not set(train) & set(held)
    assert len(held) == ((len(slices) + 2) // 4 if count >= 6 else 0)
    if held:
        assert slices[0] in train and slices[-1] in train


def test_a_slice_that_was_learned_from_is_never_held_back_later() -> None:
    slices, learned, held = [], set(), set()
    random = np.random.default_rng(0)
    for _ in range(12):
        new = random.choice([n for n in range(100) if n not in slices], 3, replace=False)
        slices = sorted([*slices, *map(int, new)])
        train, test = splitSlices(slices, True, learned, held)
        assert sorted(train + test) == slices
        assert not learned & set(test) and held <= set(test)
        learned, held = learned | set(train), held | set(test)
        if len(slices) >= 12:
            assert abs(len(test) - len(slices) / 4) <= 1


def test_two_more_corrected_slices_leave_the_held_back_ones_as_they_are() -> None:
    train, held = splitSlices(range(10, 70, 10))
    assert held == [30, 50]
    assert splitSlices(range(10, 90, 10), True, train, held)[1] == [30, 50]
    # Also where some were excluded since, but never all that is left.
    assert splitSlices([10, 20, 30, 50], True, train, held) == ([10, 20], [30, 50])
    assert splitSlices([30, 50], True, train, held) == ([30, 50], [])


def test_nothing_is_held_back_where_that_is_not_wanted() -> None:
    assert splitSlices(range(10), holdOut=False) == (list(range(10)), [])


def test_few_slices_each_of_several_volumes_are_enough_for_a_score() -> None:
    assert splitSlices([2, 5, 9]) == ([2, 5, 9], [])
    assert splitSlices([2, 5, 9], total=6) == ([2, 9], [5])
    # Never the outermost ones, so of two slices none.
    assert splitSlices([2, 9], total=20) == ([2, 9], [])
    assert splitSlices([2, 5, 9], total=6, learned=[5]) == ([2, 5, 9], [])


def test_of_what_teaches_without_labels_each_fourth_slice_is_spared() -> None:
    seen = slicesSeen(20, [2, 5, 9], [7])
    assert {2, 5, 9} <= seen and 7 not in seen
    assert {*range(20)} - seen == {6, 7, 10, 14, 18}
    # So that one of them can be held out of the next training.
    train, held = splitSlices([2, 5, 6, 7, 8, 9, 12], True, seen, [7])
    assert held == [6, 7] and not {*held} & seen
