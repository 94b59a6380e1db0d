import os
from pathlib import Path

import numpy as np
import pytest

from SAMAutoSegLib.engine import arrays
from SAMAutoSegLib.engine.arrays import (
    fill_array,
    open_array,
    reserve_array,
    share_array,
    share_in_steps,
    take_array,
)
from SAMAutoSegLib.errors import SAMAutoSegError


@pytest.mark.parametrize("shape", [(3, 4, 5), (7,), (), (0, 4), (2, 0, 3)])
@pytest.mark.parametrize("dtype", ["uint8", ">i2", "float32", "bool"])
def test_an_array_comes_through_with_type_and_shape(
    tmp_path: Path, shape: tuple[int, ...], dtype: str
) -> None:
    array = np.random.default_rng(0).normal(0, 50, shape)
    array = np.asarray(array).astype(dtype)
    opened = open_array(share_array(tmp_path, array))
    assert opened.dtype == array.dtype and opened.shape == array.shape
    assert np.array_equal(opened, array)
    assert not opened.size or not opened.flags.writeable


def test_views_are_written_in_their_own_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrays, "_STEP_BYTES", 100)
    array = np.arange(2000, dtype=np.int16).reshape(20, 10, 10)
    for view in (array[::-2, :, ::-1], array.transpose(2, 0, 1), np.asfortranarray(array)):
        assert np.array_equal(open_array(share_array(tmp_path, view)), view)


def test_large_arrays_are_written_in_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrays, "_STEP_BYTES", 100)
    steps = share_in_steps(tmp_path, np.zeros((10, 50), np.uint8))
    assert list(steps) == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])


def test_a_taken_array_leaves_no_file(tmp_path: Path) -> None:
    array = np.arange(12).reshape(3, 4)
    taken = take_array(tmp_path, share_array(tmp_path, array))
    assert np.array_equal(taken, array) and list(tmp_path.iterdir()) == []


def test_a_file_elsewhere_is_neither_read_nor_removed(tmp_path: Path) -> None:
    shared = share_array(tmp_path, np.zeros(3))
    (tmp_path / "session").mkdir()
    with pytest.raises(SAMAutoSegError, match="is not in the folder"):
        take_array(tmp_path / "session", shared)
    assert Path(shared["file"]).exists()


def test_a_reserved_array_is_filled_in_place(tmp_path: Path) -> None:
    shared = reserve_array(tmp_path, np.dtype(np.uint16), (4, 5))
    assert not open_array(shared).any() and Path(shared["file"]).stat().st_size == 40
    array = np.arange(20, dtype=np.uint16).reshape(5, 4).T
    fill_array(shared, array)
    assert np.array_equal(open_array(shared), array)
    with pytest.raises(ValueError):
        fill_array(shared, array.astype(np.uint8))


@pytest.mark.parametrize("change", [{"shape": [2]}, {"dtype": "|O"}, {"dtype": "fish"}])
def test_what_does_not_fit_the_file_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    shared = share_array(tmp_path, np.zeros(3))
    with pytest.raises(SAMAutoSegError):
        open_array({**shared, **change})
    os.unlink(shared["file"])
    with pytest.raises(SAMAutoSegError, match="is gone"):
        open_array(shared)


def test_objects_are_not_shared(tmp_path: Path) -> None:
    with pytest.raises(SAMAutoSegError, match="expected numbers"):
        share_array(tmp_path, np.array([{}]))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name == "nt", reason="no limit on the size of files there")
def test_a_full_disk_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(SAMAutoSegError, match="cannot write .* free some space"):
            share_array(tmp_path, np.zeros(10_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []
