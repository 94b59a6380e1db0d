"""What ITK does not tell of NIfTI files: whether all voxels are there, and are the file's own.

ITK reads a NIfTI file that was cut off without an error, with 0 for the voxels that are missing,
and writes one to a full disk without an error too. Of a `.nii.gz` with a `.nii` of the same name
beside it, it reads the voxels of the latter.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path

import numpy as np

_BLOCK_BYTES = 1 << 20

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
    """True if a `.nii` or `.nii.gz` file ends before its last voxel; False for other files."""
    name = path.name.lower()
    if name.endswith(".nii"):
        with path.open("rb") as stream:
            needed = _bytes_needed(stream.read(540))
        return needed is not None and path.stat().st_size < needed
    return name.endswith(".nii.gz") and _is_cut_off_gzip(path)


def _is_cut_off_gzip(path: Path) -> bool:
    try:
        with gzip.open(path) as stream:
            needed = _bytes_needed(stream.read(540))
            if needed is None:
                return False
            # The last four bytes of a whole gzip file are the size of its content. They settle the
            # usual case; files of several gzip members or with a tail need to be unpacked.
            with path.open("rb") as packed:
                packed.seek(-4, 2)
                if struct.unpack("<I", packed.read())[0] == needed % (1 << 32):
                    return False
            stream.seek(0)
            held = 0
            while held < needed and (block := stream.read(_BLOCK_BYTES)):
                held += len(block)
        return held < needed
    except EOFError:
        return True
    except (gzip.BadGzipFile, zlib.error):
        # Not packed at all, or garbage: reading the image tells.
        return False


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
