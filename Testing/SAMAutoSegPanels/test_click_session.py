import numpy as np
from SAMAutoSegPanels.ClickSession import ADD, REMOVE, ClickSession

EMPTY = np.zeros((4, 4), bool)
PLACE = ("axial", 7, "Segment_1")


def test_points_on_one_object_are_asked_together() -> None:
    clicks = ClickSession()
    clicks.follow(PLACE, "stamp")
    clicks.point(1, 2, +1, EMPTY)
    prompt = clicks.point(3, 3, -1, EMPTY)
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


def test_plus_never_takes_away_and_minus_never_adds() -> None:
    answer = np.eye(4)
    plus = ClickSession().point(0, 0, +1, EMPTY)
    assert plus.mode == ADD and plus.change(answer).sum() == 4
    minus = ClickSession().point(0, 0, -1, EMPTY)
    assert minus.mode == REMOVE and minus.change(answer).sum() == 12


def test_a_box_begins_a_new_object_whichever_way_it_was_dragged() -> None:
    clicks = ClickSession()
    clicks.point(1, 2, +1, EMPTY)
    prompt = clicks.boxed(9, 8, 2, 3)
    assert prompt.params == {"box": [2, 3, 9, 8]} and clicks.points == []
    assert clicks.point(4, 4, -1, EMPTY).params == {"points": [[4, 4, -1]], "box": [2, 3, 9, 8]}
