"""The files of a DICOM folder that are no part of a series, though they may have to be."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

from SAMAutoSegLib.errors import SAMAutoSegError

# Without an image: structure sets, plans and doses as text, presentation states, documents and key
# objects, registrations and other derived data (PS3.6, annex A; a class begins with one of these).
_NO_IMAGES = tuple(
    f"1.2.840.10008.5.1.4.1.1.{part}" for part in ("481.3", "481.5", "11.", "88.", "104.", "66")
)

# What else lies in such folders: the index of a medium, notes, previews, what systems leave behind.
_COMPANION_NAMES = ("dicomdir", "lockfile")
_COMPANION_SUFFIXES = (
    *(".csv", ".htm", ".html", ".json", ".md", ".pdf", ".txt", ".xml"),
    *(".bmp", ".gif", ".jpeg", ".jpg", ".png"),
    *(".db", ".ini"),
)

_BLOCK_BYTES = 1 << 20

_SOP_CLASS = (0x0002, 0x0002)
_LONG = (b"OB", b"OW", b"OF", b"SQ", b"UT", b"UN")


def refuse_lost(folder: Path, series: Sequence[str]) -> None:
    """`SAMAutoSegError` if a file that is not among those of the series may be a slice of it."""
    listed = {Path(name).name for name in series}
    kinds = {_kind(Path(name)) for name in series}
    for path in sorted(folder.iterdir()):
        if path.name not in listed and path.is_file() and _may_be_slice(path, kinds):
            raise SAMAutoSegError(f"{path} is damaged or cut off: copy it again, or remove it")


def refuse_broken_links(folder: Path) -> None:
    """`SAMAutoSegError` for a link to nowhere: GDCM leaves out other files of its folder then."""
    for path in sorted(folder.iterdir()):
        if path.is_symlink() and not path.exists():
            raise SAMAutoSegError(
                f"{path} is a link to {path.readlink()}, which does not exist: remove the link"
            )


def _may_be_slice(path: Path, kinds: set[str]) -> bool:
    """Whether a file that could not be read says that it holds an image, or seems to have held one.

    The latter by its name, or because all that it holds is zeros or nothing.
    """
    with path.open("rb") as stream:
        begin = stream.read(2048)
        companion = path.name.lower() in _COMPANION_NAMES or path.name.startswith(".")
        if companion or path.suffix.lower() in _COMPANION_SUFFIXES:
            return False
        if begin[128:132] == b"DICM":
            return not _sop_class(begin[132:]).startswith(_NO_IMAGES)
        while begin and not begin.strip(b"\0"):
            begin = stream.read(_BLOCK_BYTES)
    if not begin:
        return True
    kind = _kind(path)
    # Many names are without a suffix, as README is: a text is no slice then.
    return kind in kinds and (kind != "" or b"\0" in begin)


def _kind(path: Path) -> str:
    """The suffix, without a number that is the last one of an identifier."""
    suffix = path.suffix.lower()
    return "" if suffix[1:].isdigit() else suffix


def _sop_class(elements: bytes) -> str:
    """Of the file meta information, which is explicit and little-endian; '' if it has none."""
    at = 0
    while at + 8 <= len(elements):
        group, element, kind, length = struct.unpack_from("<HH2sH", elements, at)
        at += 8
        if kind in _LONG:
            if at + 4 > len(elements):
                break
            (length,) = struct.unpack_from("<I", elements, at)
            at += 4
        if group != _SOP_CLASS[0]:
            break
        if (group, element) == _SOP_CLASS:
            return elements[at : at + length].rstrip(b"\0 ").decode("ascii", "replace")
        at += length
    return ""
