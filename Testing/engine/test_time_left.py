from SAMAutoSegLib.engine.time_left import TimeLeft


def test_the_time_left_follows_the_pace() -> None:
    now = 0.0
    left = TimeLeft(lambda: now)
    assert left.at(0.0) is None
    told = []
    for step in range(1, 11):
        now = float(step)
        told.append(left.at(step / 10))
    assert told == [9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0, 0.0]


def test_a_pace_that_changes_is_followed() -> None:
    now = 0.0
    left = TimeLeft(lambda: now)
    for step in range(51):  # kept embeddings: quick
        now += 0.1
        left.at(step / 200)
    for step in range(51, 101):  # the others
        now += 1.0
        told = left.at(step / 200)
    assert told == 100.0


def test_quick_slices_are_told_of_too() -> None:
    now = 0.0
    left = TimeLeft(lambda: now)
    for step in range(501):
        now = step / 100
        told = left.at(step / 1000)
        assert (told is not None) == (now >= 0.5)
    assert told == 5.0


def test_nothing_is_told_from_too_little() -> None:
    now = 0.0
    left = TimeLeft(lambda: now)
    left.at(0.0)
    now = 0.1
    assert left.at(0.2) is None
    now = 5.0
    assert left.at(0.0) is None


def test_at_the_end_nothing_is_left_however_quick_it_was() -> None:
    assert TimeLeft(lambda: 0.0).at(1.0) == 0.0
