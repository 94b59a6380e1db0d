import numpy as np
import pytest

from SAMAutoSegLib.errors import SAMAutoSegError
from SAMAutoSegLib.images.selection import Roi, parse_slices
from SAMAutoSegLib.images.volume import Volume


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("3", [3]),
        ("3,9,15-18", [3, 9, 15, 16, 17, 18]),
        (" 9 , 3 ", [3, 9]),
        ("0-0", [0]),
        ("all", list(range(20))),
        ("ALL", list(range(20))),
    ],
)
def test_slices_are_read_in_order(text, expected):
    assert parse_slices(text, 20) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("20", "slice 20 is out of range.*0 to 19"),
        ("3,18-25", "slice 25 is out of range"),
        ("3,9,3", "slice 3 given more than once"),
        ("1-5,4", "slice 4 given more than once"),
        ("all,4", "slice 4 given more than once"),
        ("8-5", "8-5 runs backwards: write 5-8"),
        ("", "cannot read slice ''"),
        ("3,,4", "cannot read slice ''"),
        ("-3", "cannot read slice '-3'"),
        ("3.5", "cannot read slice '3.5'"),
        ("three", "cannot read slice 'three'"),
    ],
)
def test_a_bad_slice_list_is_refused_with_the_reason(text, message):
    with pytest.raises(SAMAutoSegError, match=message):
        parse_slices(text, 20)


def test_a_region_cuts_out_its_voxels_and_keeps_their_place(grid):
    i, j, k = grid.size
    volume = Volume(np.arange(i * j * k).reshape(k, j, i), grid, "v")
    roi = Roi.parse("2:5,1:,:", grid.size)
    part = roi.crop(volume)
    assert part.grid.size == (3, j - 1, k)
    np.testing.assert_array_equal(part.array, volume.array[:, 1:, 2:5])
    np.testing.assert_array_equal(part.array, volume.array[roi.kji])
    np.testing.assert_allclose(
        part.grid.ijk_to_ras @ (0, 0, 0, 1), volume.grid.ijk_to_ras @ (2, 1, 0, 1)
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1:2,3:4", "expected i0:i1,j0:j1,k0:k1"),
        ("1:2,3:4,a:b", "'a:b'.*k0:k1"),
        ("1:2,3,4:5", "'3'.*j0:j1"),
        ("1:8,:,:", "i = 1:8.*0:7"),
        (":,4:4,:", "j = 4:4 is empty"),
        (":,:,3:2", "k = 3:2 is empty"),
        ("-1:3,:,:", "'-1:3'"),
    ],
)
def test_a_bad_region_is_refused_with_the_reason(text, message):
    with pytest.raises(SAMAutoSegError, match=message):
        Roi.parse(text, (7, 6, 5))
