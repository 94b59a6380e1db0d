"""DICOM folders as scanners and archives leave them, written byte by byte."""

import struct
from pathlib import Path

import numpy as np
import pytest

from SAMAutoSegLib.errors import SAMAutoSegError
from SAMAutoSegLib.images.read import read_image

MR = "1.2.840.10008.5.1.4.1.1.4"
MULTI_FRAME = "1.2.840.10008.5.1.4.1.1.7.2"
STRUCTURE_SET = "1.2.840.10008.5.1.4.1.1.481.3"
PRESENTATION_STATE = "1.2.840.10008.5.1.4.1.1.11.1"


def element(group: int, number: int, kind: str, value: str | bytes | int) -> bytes:
    if isinstance(value, int):
        value = struct.pack("<H", value)
    content = value.encode() if isinstance(value, str) else value
    content += (b"\0" if kind in ("UI", "OB") else b" ") * (len(content) % 2)
    head = struct.pack("<HH", group, number) + kind.encode()
    if kind in ("OB", "OW"):
        return head + struct.pack("<HI", 0, len(content)) + content
    return head + struct.pack("<H", len(content)) + content


def write(
    path: Path,
    pixels: np.ndarray | None,
    number: int,
    slope: str = "1",
    intercept: str = "0",
    kind: str = MR,
) -> None:
    """A file of one series, or of another one where it has no pixels; slices are 3 mm apart."""
    uid = f"1.2.3.4.{number}"
    meta = element(2, 1, "OB", b"\0\1") + element(2, 2, "UI", kind) + element(2, 3, "UI", uid)
    meta += element(2, 16, "UI", "1.2.840.10008.1.2.1") + element(2, 18, "UI", "1.2.3")
    meta = element(2, 0, "UL", struct.pack("<I", len(meta))) + meta
    series = "1.2.3.4" if pixels is not None else "1.2.3.9"
    body = element(8, 0x16, "UI", kind) + element(8, 0x18, "UI", uid) + element(8, 0x60, "CS", "MR")
    body += element(0x20, 0x0D, "UI", "1.2.3") + element(0x20, 0x0E, "UI", series)
    if pixels is not None:
        body += element(0x20, 0x13, "IS", str(number))
        body += element(0x20, 0x32, "DS", f"0\\0\\{3 * number}")
        body += element(0x20, 0x37, "DS", "1\\0\\0\\0\\1\\0")
        body += element(0x28, 2, "US", 1) + element(0x28, 4, "CS", "MONOCHROME2")
        if pixels.ndim == 3:
            body += element(0x28, 8, "IS", str(len(pixels)))
        body += element(0x28, 0x10, "US", pixels.shape[-2])
        body += element(0x28, 0x11, "US", pixels.shape[-1]) + element(0x28, 0x30, "DS", "1\\1")
        for tag, value in ((0x100, 16), (0x101, 16), (0x102, 15), (0x103, 0)):
            body += element(0x28, tag, "US", value)
        body += element(0x28, 0x1052, "DS", intercept) + element(0x28, 0x1053, "DS", slope)
        body += element(0x7FE0, 0x10, "OW", pixels.astype("<u2").tobytes())
    path.write_bytes(bytes(128) + b"DICM" + meta + body)


FLAT = np.full((4, 5), 100)


@pytest.mark.parametrize(
    ("first", "others", "expected"),
    [
        (("1", "0"), ("1", "-1024"), -924),
        (("1", "0"), ("0.013", "0"), 1.3),
        (("1", "0"), ("900", "0"), 90000),
        (("0.5", "0"), ("0.013", "0"), 1.3),
    ],
)
def test_every_slice_is_scaled_by_its_own_numbers(
    tmp_path: Path, first: tuple[str, str], others: tuple[str, str], expected: float
) -> None:
    for number in range(4):
        write(tmp_path / f"{number}.dcm", FLAT, number, *(others if number else first))
    found = read_image(tmp_path).array
    assert np.allclose(found[0], 100 * float(first[0])) and np.allclose(found[1:], expected)


@pytest.mark.parametrize("kind", [STRUCTURE_SET, PRESENTATION_STATE])
def test_what_lies_beside_a_series_and_is_no_image_does_not_matter(
    tmp_path: Path, kind: str
) -> None:
    for number in range(4):
        write(tmp_path / f"{number}.dcm", FLAT, number)
    write(tmp_path / "other.dcm", None, 9, kind=kind)
    assert read_image(tmp_path).array.shape == (4, 4, 5)
    write(tmp_path / "broken.dcm", None, 10)
    with pytest.raises(SAMAutoSegError, match="broken.dcm is damaged or cut off"):
        read_image(tmp_path)


def test_a_file_of_many_frames_is_a_volume_and_two_are_refused(tmp_path: Path) -> None:
    frames = np.stack([FLAT, FLAT + 1, FLAT + 2])
    write(tmp_path / "one.dcm", frames, 1, kind=MULTI_FRAME)
    assert np.array_equal(read_image(tmp_path).array, frames)
    write(tmp_path / "two.dcm", frames, 2, kind=MULTI_FRAME)
    with pytest.raises(SAMAutoSegError, match="expected 3; extract one volume"):
        read_image(tmp_path)
