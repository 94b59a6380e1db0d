"""Paths in a form in which ITK can open them: on Windows it takes no letters but those of ASCII."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from SAMAutoSegLib.errors import SAMAutoSegError

_ASCII_ONLY = sys.platform == "win32"

# Their voxels lie in a file of another name.
_HEADERS = (".nhdr", ".mhd", ".hdr", ".img")


@contextmanager
def readable_by_itk(path: Path) -> Iterator[Path]:
    """`path`, or where ITK could not open it a copy of the file or of the folder's files.

    Raises:
        SAMAutoSegError: it cannot be copied, because its voxels lie in another file.
        OSError: it cannot be read.
    """
    if _is_plain(path):
        yield path
        return
    if path.name.lower().endswith(_HEADERS):
        raise SAMAutoSegError(
            f"{path}: on Windows ITK cannot open a header with a voxel file where a name on the "
            "way has letters beyond a to z; move both to a folder with plain names"
        )
    with plain_folder() as folder:
        if path.is_dir():
            for number, file in enumerate(sorted(path.iterdir())):
                if file.is_file():  # numbered, as two names must not become one
                    shutil.copyfile(file, folder / f"{number}{_suffixes(file)}")
            yield folder
        else:
            copy = folder / plain_name(path)
            shutil.copyfile(path, copy)
            yield copy


@contextmanager
def writable_by_itk(path: Path) -> Iterator[Path]:
    """`path`, or where ITK could not write it a place from which the file is moved there."""
    if _is_plain(path):
        yield path
        return
    with plain_folder() as folder:
        plain = folder / plain_name(path)
        yield plain
        shutil.copyfile(plain, path)


def _is_plain(path: Path) -> bool:
    """Whether ITK can open a path, and the files in it if it is a folder."""
    if not _ASCII_ONLY:
        return True
    names = os.listdir(path) if path.is_dir() else []
    return str(path.absolute()).isascii() and all(map(str.isascii, names))


def plain_name(path: Path) -> str:
    """Another name with the same suffixes, if it has letters that ITK cannot open."""
    return path.name if path.name.isascii() else f"image{_suffixes(path)}"


def _suffixes(path: Path) -> str:
    """By which formats are known."""
    start = path.name.find(".", 1)
    suffixes = path.name[start:] if start > 0 else ""
    return suffixes if suffixes.isascii() else ""


@contextmanager
def plain_folder() -> Iterator[Path]:
    """A temporary folder that ITK can open: in the user's one, else in that of all users."""
    roots = [tempfile.gettempdir(), os.environ.get("PROGRAMDATA", "")]
    root = next((root for root in roots if root and (root.isascii() or not _ASCII_ONLY)), None)
    if root is None:
        raise SAMAutoSegError(
            f"ITK cannot open files below {roots[0]} on Windows: let TEMP name a folder whose path "
            "has no letters beyond a to z"
        )
    with tempfile.TemporaryDirectory(prefix="SAMAutoSeg-", dir=root) as folder:
        yield Path(folder)
