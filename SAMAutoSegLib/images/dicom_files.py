"""What a file says it is, as far as reading a folder of DICOM images needs it."""

from __future__ import annotations

import struct
from pathlib import Path

# Without an image: structure sets, plans and doses as text, presentation states, documents and key
# objects, registrations and other derived data (PS3.6, annex A; a class begins with one of these).
_NO_IMAGES = tuple(
    f"1.2.840.10008.5.1.4.1.1.{part}" for part in ("481.3", "481.5", "11.", "88.", "104.", "66")
)

_SOP_CLASS = (0x0002, 0x0002)
_LONG = (b"OB", b"OW", b"OF", b"SQ", b"UT", b"UN")


def is_dicom_image(path: Path) -> bool:
    """Whether a file says that it is DICOM and may hold an image.

    The index of a medium (DICOMDIR) holds none, nor do the companions of a series.
    """
    with path.open("rb") as stream:
        begin = stream.read(2048)
    if begin[128:132] != b"DICM" or path.name.upper() == "DICOMDIR":
        return False
    return not _sop_class(begin[132:]).startswith(_NO_IMAGES)


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
