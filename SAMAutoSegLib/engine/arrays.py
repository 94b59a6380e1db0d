"""Arrays handed from process to process as files that are mapped into memory."""

from __future__ import annotations

import math
import os
import secrets
from collections.abc import Generator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np

from SAMAutoSegLib.errors import SAMAutoSegError
from SAMAutoSegLib.files import write_errors_named

SUFFIX = ".array"

_STEP_BYTES = 1 << 24

Result = TypeVar("Result")

ArrayFile = dict[str, Any]
"""`file` (absolute path), `dtype` (as numpy writes it, '<i2') and `shape` of a C-ordered array."""


def share_array(folder: Path, array: np.ndarray) -> ArrayFile:
    """Write an array into a new file of `folder` for another process to open.

    Raises:
        SAMAutoSegError: the disk is full, or the array holds Python objects.
    """
    return result_of(share_in_steps(folder, array))


def share_in_steps(folder: Path, array: np.ndarray) -> Generator[float, None, ArrayFile]:
    """As `share_array`, yielding the fraction done after every 16 MiB.

    For a user interface that has to breathe: a large volume takes longer than a frame. The array
    must not change meanwhile.
    """
    if array.dtype.hasobject:
        raise SAMAutoSegError(f"an array of type {array.dtype}: expected numbers")
    path = folder / f"{secrets.token_hex(8)}{SUFFIX}"
    try:
        # Written, not mapped: a disk that fills up under a mapping ends the process.
        with write_errors_named(path), path.open("xb") as stream:
            yield from write_in_steps(stream, array)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return {"file": str(path), "dtype": array.dtype.str, "shape": list(array.shape)}


def write_in_steps(stream: IO[bytes], array: np.ndarray) -> Iterator[float]:
    """Write the values in C order, yielding the fraction done after every 16 MiB."""
    rows = array.reshape(1) if array.ndim == 0 else array
    at_once = max(1, _STEP_BYTES // max(1, rows[:1].nbytes))
    for first in range(0, len(rows), at_once):
        stream.write(np.ascontiguousarray(rows[first : first + at_once]).data)
        yield min(1.0, (first + at_once) / len(rows))


def result_of(steps: Generator[float, None, Result]) -> Result:
    """Make all steps at once."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def reserve_array(folder: Path, dtype: np.dtype, shape: tuple[int, ...]) -> ArrayFile:
    """A file of zeros, to be filled by `fill_array` when the array is known.

    A disk that is full is told then, and not at the end of a long computation.

    Raises:
        SAMAutoSegError: the disk is full.
    """
    return share_array(folder, np.broadcast_to(np.zeros((), dtype), shape))


def fill_array(shared: ArrayFile, array: np.ndarray) -> None:
    """Write an array of the same type and shape over the reserved one.

    Raises:
        SAMAutoSegError: the file is gone, or cannot be written.
    """
    path, dtype, shape = _checked(shared)
    if (array.dtype, array.shape) != (dtype, shape):
        raise ValueError(f"{array.dtype} {array.shape} where {dtype} {shape} is needed")
    with write_errors_named(path), path.open("r+b") as stream:
        stream.write(np.ascontiguousarray(array).data)


def open_array(shared: ArrayFile) -> np.ndarray:
    """The array of `share_array`, mapped read-only; an empty one is plain memory.

    On Windows it is always plain memory: a mapped file could not be removed there, and a patient's
    image would stay behind.

    Raises:
        SAMAutoSegError: the file is gone, or does not hold such an array.
    """
    path, dtype, shape = _checked(shared)
    if not math.prod(shape):
        return np.zeros(shape, dtype)
    if os.name == "nt":
        return np.fromfile(path, dtype).reshape(shape)
    return np.memmap(path, dtype, "r", shape=shape)


def take_array(folder: Path, shared: ArrayFile) -> np.ndarray:
    """The array, whose file in `folder` is removed: its memory is freed with the array.

    Raises:
        SAMAutoSegError: as `open_array`; a file that is not in `folder` is left alone.
    """
    path = _checked(shared)[0]
    if path.parent != folder:
        raise SAMAutoSegError(f"array file {path} is not in the folder {folder} of this session")
    array = np.asarray(open_array(shared))
    with suppress(OSError):  # in use for a moment, as Windows has it: it goes with the session
        path.unlink()
    return array


def _checked(shared: ArrayFile) -> tuple[Path, np.dtype, tuple[int, ...]]:
    path = Path(shared["file"])
    shape = tuple(shared["shape"])
    try:
        dtype = np.dtype(shared["dtype"])
    except TypeError as error:
        raise SAMAutoSegError(f"array type {shared['dtype']!r} is not known") from error
    if dtype.hasobject or dtype.itemsize == 0:
        raise SAMAutoSegError(f"array type {shared['dtype']!r}: expected numbers")
    try:
        size = path.stat().st_size
    except OSError as error:
        raise SAMAutoSegError(
            f"the array file {path} is gone ({error.strerror}): repeat the last step"
        ) from error
    if size != math.prod(shape) * dtype.itemsize:
        raise SAMAutoSegError(
            f"the array file {path} has {size} bytes, not those of {dtype} {shape}: repeat the "
            "last step"
        )
    return path, dtype, shape
