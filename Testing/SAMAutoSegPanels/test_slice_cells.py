import pytest
from SAMAutoSegPanels.SliceCells import COLORS, cells, nextToCheck, sliceAt
from SAMAutoSegScene.SliceState import SliceState


@pytest.mark.parametrize(("width", "count"), [(300, 30), (301, 30), (100, 512), (7, 7), (50, 1)])
def test_cells_fill_the_width_without_gap_and_name_every_slice_once(width: int, count: int) -> None:
    found = cells(width, [SliceState.MODEL] * count)
    assert (found[0].left, found[-1].right) == (0, width)
    for one, other in zip(found, found[1:], strict=False):
        assert one.right == other.left and one.last + 1 == other.first
    assert (found[0].first, found[-1].last) == (0, count - 1)


def test_a_click_in_the_middle_of_a_cell_goes_to_its_slice() -> None:
    for width, count in ((300, 30), (211, 37)):
        for cell in cells(width, [SliceState.MODEL] * count):
            assert sliceAt((cell.left + cell.right) // 2, width, count) == cell.first
    assert sliceAt(-5, 100, 10) == 0 and sliceAt(1000, 100, 10) == 9
    assert sliceAt(5, 100, 0) is None


def test_where_slices_share_a_pixel_the_corrected_one_is_seen() -> None:
    states = [SliceState.MODEL] * 100
    states[41] = SliceState.CORRECTED
    found = cells(10, states)
    assert [cell.state for cell in found].count(SliceState.CORRECTED) == 1
    assert found[4].state == SliceState.CORRECTED


def test_doubt_is_drawn_relative_to_the_highest() -> None:
    found = cells(30, [SliceState.MODEL] * 3, {0: 0.2, 2: 0.4})
    assert [cell.doubt for cell in found] == [0.5, None, 1.0]


def test_the_next_slice_to_check_is_the_most_doubtful_that_nobody_has_seen() -> None:
    states = [
        SliceState.MODEL,
        SliceState.CORRECTED,
        SliceState.MODEL,
        SliceState.REVIEWED,
        SliceState.MODEL,
    ]
    doubts = {0: 0.1, 1: 0.9, 2: 0.5, 4: 0.3}
    assert nextToCheck(states, doubts) == 2
    assert nextToCheck(states, doubts, current=2) == 4
    last = [SliceState.REVIEWED, SliceState.UNCHECKED, SliceState.CORRECTED]
    assert nextToCheck(last, {}) == nextToCheck(last, {}, current=1) == 1


def test_without_doubts_the_middle_of_the_longest_unseen_run_comes_next() -> None:
    states = (
        [SliceState.MODEL, SliceState.REVIEWED]
        + [SliceState.MODEL] * 5
        + [SliceState.EXCLUDED, SliceState.UNTOUCHED]
    )
    assert nextToCheck(states, {}) == 4
    assert nextToCheck([SliceState.REVIEWED, SliceState.EXCLUDED], {}) is None


def test_every_state_has_a_color_of_its_own() -> None:
    assert len(set(COLORS.values())) == len(SliceState) and set(COLORS) == set(SliceState)
