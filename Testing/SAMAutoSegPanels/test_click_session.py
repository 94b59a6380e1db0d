import numpy as np
import pytest
from SAMAutoSegPanels.ClickSession import ADD, REMOVE, ClickSession

from SAMAutoSegLib.errors import SAMAutoSegError

EMPTY = np.zeros((4, 4), bool)
PLACE = ("axial", 7, "Segment_1")


def test_points_on_one_object_are_asked_together() -> None:
    clicks = ClickSession()
    clicks.follow(PLACE, "stamp")
    clicks.point(1, 2, +1, EMPTY)
    prompt = clicks.point(3, 3, -1, EMPTY)  # not answered yet, so nothing is there
    assert prompt.params == {"points": [[1, 2, 1], [3, 3, -1]]}
    assert prompt.mode == REMOVE


def test_another_slice_segment_or_change_by_others_begins_anew() -> None:
    for place, stamp in ((("axial", 8, "Segment_1"), "a"), (PLACE, "after undo")):
        clicks = ClickSession()
        clicks.follow(PLACE, "a")
        clicks.point(1, 2, +1, EMPTY)
        clicks.follow(place, stamp)
        assert clicks.points == []


def test_what_was_written_for_the_click_itself_is_no_change_by_others() -> None:
    clicks = ClickSession()
    clicks.follow(PLACE, "a")
    clicks.point(1, 2, +1, EMPTY)
    clicks.wrote("b")
    clicks.follow(PLACE, "b")
    assert len(clicks.points) == 1


def test_a_first_minus_shows_the_model_what_there_is() -> None:
    mask = np.eye(4, dtype=bool)
    prompt = ClickSession().point(0, 0, -1, mask)
    assert prompt.params["mask"].tolist() == mask.astype(int).tolist()
    assert "mask" not in ClickSession().point(0, 0, +1, mask).params


def kidneys() -> tuple[np.ndarray, np.ndarray]:
    """Left and right in one slice."""
    left, right = np.zeros((6, 12), bool), np.zeros((6, 12), bool)
    left[1:5, 1:4], right[1:5, 8:11] = True, True
    return left, right


def test_plus_never_takes_away_and_minus_never_adds() -> None:
    left, right = kidneys()
    plus = ClickSession().point(1, 8, +1, left)
    assert plus.mode == ADD and (plus.change(right) == right).all()
    minus = ClickSession().point(1, 1, -1, left)
    cut = left.copy()
    cut[1] = False
    assert minus.mode == REMOVE
    assert (minus.change(cut | right) == (left & ~cut)).all()


def test_a_minus_on_one_object_leaves_the_others_of_the_segment_alone() -> None:
    left, right = kidneys()
    clicks = ClickSession()
    clicks.boxed(1, 1, 5, 4).change(left)
    clicks.boxed(1, 8, 5, 11).change(right)
    cut = right.copy()
    cut[1] = False
    removed = clicks.point(1, 9, -1, left | right).change(cut)
    assert (removed == (right & ~cut)).all()


def test_a_minus_on_what_was_there_before_any_click_takes_from_the_part_that_was_hit() -> None:
    left, right = kidneys()
    prompt = ClickSession().point(1, 9, -1, left | right)
    assert (prompt.params["mask"] == right).all()
    assert (prompt.change(np.zeros_like(right)) == right).all()


def test_a_minus_on_another_part_of_the_segment_begins_a_new_object() -> None:
    left, right = kidneys()
    clicks = ClickSession()
    clicks.boxed(1, 8, 5, 11).change(right)
    prompt = clicks.point(2, 2, -1, left | right)
    assert clicks.box is None and clicks.points == [[2, 2, -1]]
    assert (prompt.change(np.zeros_like(left)) == left).all()


def test_a_minus_takes_all_that_earlier_answers_on_its_object_have_added() -> None:
    left, right = kidneys()
    clicks = ClickSession()
    clicks.boxed(1, 1, 5, 4).change(left)
    clicks.point(1, 9, +1, left).change(right)
    both = left | right
    assert (clicks.point(2, 2, -1, both).change(right) == left).all()
    assert (clicks.point(2, 9, -1, right).change(np.zeros_like(left)) == right).all()


def test_a_minus_may_be_set_before_the_box_is_answered() -> None:
    left, right = kidneys()
    clicks = ClickSession()
    box = clicks.boxed(1, 8, 5, 11)
    minus = clicks.point(1, 9, -1, left)
    assert minus.params["box"] == [1, 8, 5, 11]
    box.change(right)
    cut = right.copy()
    cut[1] = False
    assert (minus.change(cut) == (right & ~cut)).all()


def test_a_minus_where_there_is_nothing_says_so() -> None:
    clicks = ClickSession()
    with pytest.raises(SAMAutoSegError, match="nothing of the selected segment is there"):
        clicks.point(1, 2, -1, EMPTY)
    assert clicks.points == []


def test_a_box_begins_a_new_object_whichever_way_it_was_dragged() -> None:
    clicks = ClickSession()
    clicks.point(1, 2, +1, EMPTY)
    prompt = clicks.boxed(9, 8, 2, 3)
    assert prompt.params == {"box": [2, 3, 9, 8]} and clicks.points == []
    assert clicks.point(4, 4, -1, EMPTY).params == {"points": [[4, 4, -1]], "box": [2, 3, 9, 8]}
