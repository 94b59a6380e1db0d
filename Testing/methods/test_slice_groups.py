import pytest

from SAMAutoSegLib.methods.slice_groups import SliceGroups, Split, group_neighbors

SPLITS: list[Split] = ["rotate", "half"]


@pytest.mark.parametrize(
    ("numbers", "groups"),
    [
        ([], []),
        ([5], [0]),
        ([3, 9, 15], [0, 1, 2]),
        ([3, 4, 9, 10, 11, 20], [0, 0, 1, 1, 1, 2]),
        ([20, 4, 10, 3, 11, 9], [2, 0, 1, 0, 1, 1]),
    ],
)
def test_adjacent_slices_are_one_group(numbers: list[int], groups: list[int]) -> None:
    assert group_neighbors(numbers) == groups


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("groups", [(0, 1), (0, 1, 2, 3, 4), (0, 0, 1, 1, 1, 2), (0, 0, 0)])
def test_both_parts_together_are_all_slices_and_share_none(
    groups: tuple[int, ...], split: Split
) -> None:
    parted = SliceGroups(groups, split, seed=1)
    for round_number in range(20):
        first, second = parted.parts(round_number)
        assert first and second
        assert sorted(first + second) == list(range(len(groups)))


@pytest.mark.parametrize("split", SPLITS)
def test_neighbors_are_never_parted(split: Split) -> None:
    groups = (0, 0, 1, 2, 2, 2, 3, 4, 4)
    parted = SliceGroups(groups, split, seed=1)
    for round_number in range(20):
        first, second = parted.parts(round_number)
        assert not {groups[n] for n in first} & {groups[n] for n in second}


def test_half_keeps_the_first_half_of_the_groups_for_good() -> None:
    parted = SliceGroups((0, 0, 1, 2, 3), "half", seed=1)
    assert all(parted.parts(n) == ([0, 1, 2], [3, 4]) for n in range(6))


@pytest.mark.parametrize("split", SPLITS)
def test_both_parts_hold_about_half_of_the_slices(split: Split) -> None:
    parted = SliceGroups((0, 0, 0, 0, 0, 1, 2, 3, 4, 5), split, seed=1)
    for round_number in range(20):
        assert all(4 <= len(part) <= 6 for part in parted.parts(round_number))


@pytest.mark.parametrize("split", SPLITS)
def test_slices_on_both_sides_of_a_large_group_learn_together(split: Split) -> None:
    groups = (0, 1, 1, 1, 1, 2)
    for round_number in range(20):
        parts = SliceGroups(groups, split, seed=1).parts(round_number)
        assert sorted(map(len, parts)) == [2, 4]


def test_a_slice_apart_from_all_others_is_no_half_of_its_own() -> None:
    parted = SliceGroups((*[0] * 10, 1), "rotate", seed=1)
    for round_number in range(20):
        assert all(5 <= len(part) <= 6 for part in parted.parts(round_number))


@pytest.mark.parametrize("count", [2, 5, 6])
def test_rotation_puts_every_slice_equally_often_in_both_parts(count: int) -> None:
    parted = SliceGroups(tuple(range(count)), "rotate", seed=1)
    rounds = [parted.parts(n) for n in range(40)]
    for slice_number in range(count):
        assert sum(slice_number in first for first, _ in rounds) == 20
    assert len({tuple(first) for first, _ in rounds}) > 2 or count == 2


def test_the_seed_alone_decides_the_rotation() -> None:
    groups = tuple(range(8))
    one, again, other = (SliceGroups(groups, "rotate", seed) for seed in (1, 1, 2))
    assert [one.parts(n) for n in range(9)] == [again.parts(n) for n in range(9)]
    assert [one.parts(n) for n in range(9)] != [other.parts(n) for n in range(9)]


@pytest.mark.parametrize("split", SPLITS)
def test_a_single_slice_serves_both_levels_and_says_so(split: Split) -> None:
    parted = SliceGroups((0,), split, seed=1)
    assert parted.parts(0) == parted.parts(1) == ([0], [0])
    assert "one slice cannot be split" in parted.describe()


@pytest.mark.parametrize("split", SPLITS)
def test_neighbors_alone_are_parted_and_it_is_said(split: Split) -> None:
    parted = SliceGroups((0, 0, 0, 0), split, seed=1)
    first, second = parted.parts(0)
    assert len(first) == len(second) == 2
    assert "all labeled slices are neighbors" in parted.describe()


def test_a_proper_split_needs_no_note() -> None:
    assert SliceGroups((0, 0, 1), "rotate", seed=1).describe() == ""
