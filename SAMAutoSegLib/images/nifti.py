"""What ITK does not tell of NIfTI files: whether all voxels are there, and are the file's own.

ITK reads a NIfTI file that was cut off without an error, with 0 for the voxels that are missing,
and writes one to a full disk without an error too. Of a `.nii.gz` with a `.nii` of the same name
beside it, it reads the voxels of the latter.
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

from SAMAutoSegLib.images.packed import GZIP, unpack

_HEADER_BYTES = 540

# The offsets of dim, bitpix and vox_offset with their types, by the size that the header states.
_LAYOUTS = {348: (40, "8h", 72, "h", 108, "f"), 540: (16, "8q", 14, "h", 168, "q")}


def is_nifti(path: Path) -> bool:
    """By its name."""
    return path.name.lower().endswith((".nii", ".nii.gz"))


def read_instead(path: Path) -> Path | None:
    """The file whose voxels ITK takes for those of `path`; None if these are its own."""
    if not path.name.lower().endswith(".nii.gz"):
        return None
    sibling = path.with_name(path.name[: -len(".gz")])
    return sibling if sibling.is_file() else None


def is_cut_off(path: Path) -> bool:
    """True if a `.nii` or `.nii.gz` file ends before its last voxel; False for other files.

    Raises:
        zlib.error: a compressed file is damaged.
    """
    if not is_nifti(path):
        return False
    with path.open("rb") as stream:
        start, size = stream.read(_HEADER_BYTES), path.stat().st_size
        # As for ITK, a file that is named so need not be packed.
        if path.name.lower().endswith(".gz") and start.startswith(GZIP):
            stream.seek(0)
            try:
                start, size = unpack(stream, kept=_HEADER_BYTES)
            except EOFError:
                return True
    needed = _bytes_needed(start)
    return needed is not None and size < needed


def _bytes_needed(header: bytes) -> int | None:
    """The size of the unpacked file by its header, None if this is no NIfTI header."""
    for order in "<>":
        if len(header) < 348:
            return None
        layout = _LAYOUTS.get(struct.unpack_from(f"{order}i", header)[0])
        if layout is None or len(header) < 540 and layout is _LAYOUTS[540]:
            continue
        at_dim, dim_type, at_bits, bits_type, at_offset, offset_type = layout
        axes, *lengths = struct.unpack_from(order + dim_type, header, at_dim)
        (bits,) = struct.unpack_from(order + bits_type, header, at_bits)
        (offset,) = struct.unpack_from(order + offset_type, header, at_offset)
        voxels = int(np.prod([max(length, 1) for length in lengths[: max(axes, 0)]], dtype=object))
        return int(offset) + voxels * bits // 8
    return None
