"""Whether the compressed voxels of an image file are whole, which ITK does not check.

Of a damaged `.nii.gz`, NRRD or MetaImage file it may give wrong voxels without an error. The
compressed data themselves hold a checksum.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

GZIP = b"\x1f\x8b"

_BLOCK_BYTES = 1 << 18
_GZIP_OR_ZLIB = 47  # for zlib.decompressobj
_MOST_LINES = 10_000  # more than any header has


def unpack(stream: IO[bytes], to: IO[bytes] | None = None, kept: int = 0) -> tuple[bytes, int]:
    """Check compressed data to their end; give the first `kept` bytes, and the size, unpacked.

    What follows the last gzip member does not count, as for ITK.

    Raises:
        EOFError: the data end too early.
        zlib.error: they are damaged, or not compressed at all.
    """
    start, size = b"", 0
    packed = stream.read(_BLOCK_BYTES)
    while True:
        member = zlib.decompressobj(_GZIP_OR_ZLIB)
        while not member.eof:
            if not packed:
                raise EOFError
            # With a limit: a few bytes may stand for gigabytes of zeros.
            block = member.decompress(packed, _BLOCK_BYTES)
            start += block[: kept - len(start)]
            size += len(block)
            if to is not None:
                to.write(block)
            packed = member.unconsumed_tail
            if not packed and not member.eof:
                packed = stream.read(_BLOCK_BYTES)
        packed = member.unused_data
        if len(packed) < len(GZIP):
            packed += stream.read(_BLOCK_BYTES)
        if not packed.startswith(GZIP):
            return start, size


def require_whole(path: Path) -> None:
    """Raise as `unpack` if voxels of an NRRD or a MetaImage are compressed and not whole."""
    with path.open("rb") as stream:
        start = stream.read(4)
        stream.seek(0)
        if start == b"NRRD":
            files = _of_nrrd(stream, path.parent)
        elif path.suffix.lower() in (".mha", ".mhd"):
            files = _of_meta_image(stream, path.parent)
        else:
            return
        for file in files:
            if file is None:
                unpack(stream)
            else:
                with file.open("rb") as apart:
                    unpack(apart)


def _of_nrrd(stream: IO[bytes], folder: Path) -> Iterator[Path | None]:
    """Where the compressed voxels are: in files, None for what follows the header."""
    fields = {}
    lines = _lines(stream)
    for line in lines:
        name, _, value = line.partition(": ")
        name = name.lower().replace(" ", "")
        fields[name] = value.strip()
        if not line or name == "datafile" and value.startswith("LIST"):
            break
    # Lines to skip are not compressed. No program is known that writes any here.
    if fields.get("encoding", "").lower() in ("gzip", "gz") and "lineskip" not in fields:
        yield from _files(fields.get("datafile", "LOCAL"), lines, folder)


def _of_meta_image(stream: IO[bytes], folder: Path) -> Iterator[Path | None]:
    """The same of a MetaImage."""
    fields = {}
    lines = _lines(stream)
    for line in lines:
        name, _, value = line.partition("=")
        name = name.strip().lower()
        fields[name] = value.strip()
        if name == "elementdatafile":
            break
    if fields.get("compresseddata", "").lower() == "true":
        yield from _files(fields.get("elementdatafile", "LOCAL"), lines, folder)


def _files(data: str, lines: Iterator[str], folder: Path) -> Iterator[Path | None]:
    if data.upper() == "LOCAL":
        yield None
    elif data.startswith("LIST"):
        yield from (folder / line for line in lines if line)
    elif "%" in data:
        pattern, first, last, step = data.split()[:4]
        yield from (folder / (pattern % n) for n in range(int(first), int(last) + 1, int(step)))
    else:
        yield folder / data


def _lines(stream: IO[bytes]) -> Iterator[str]:
    for _ in range(_MOST_LINES):
        line = stream.readline(_BLOCK_BYTES)
        if not line:
            break
        yield line.decode("latin-1").strip()
