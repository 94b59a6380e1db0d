"""DICOM folders as scanners and archives leave them, written byte by byte."""

import shutil
import struct
import sys
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
    position: str | None = "{}",
    orientation: str | None = "1\\0\\0\\0\\1\\0",
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
        if position is not None:
            body += element(0x20, 0x32, "DS", position.format(f"0\\0\\{3 * number}"))
        if orientation is not None:
            body += element(0x20, 0x37, "DS", orientation)
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


def series(folder: Path, name: str = "{:03}.dcm") -> list[Path]:
    files = [folder / name.format(number) for number in range(5)]
    for number, file in enumerate(files):
        write(file, FLAT + number, number)
    return files


@pytest.mark.parametrize("number", [0, 4])
@pytest.mark.parametrize("name", ["{:03}.dcm", "{:03}.IMA", "image{:03}", "1.2.840.{}"])
@pytest.mark.parametrize("kept", [0, 100, 131, 300])
def test_a_slice_of_which_little_is_left_is_missed_at_either_end(
    tmp_path: Path, number: int, name: str, kept: int
) -> None:
    lost = series(tmp_path, name)[number]
    lost.write_bytes(lost.read_bytes()[:kept])
    with pytest.raises(SAMAutoSegError, match=f"{lost.name} is damaged or cut off: copy it again"):
        read_image(tmp_path)


@pytest.mark.parametrize("content", [bytes(3_000_000), bytes(131) + b"half of a header"])
def test_a_slice_that_was_overwritten_is_missed(tmp_path: Path, content: bytes) -> None:
    lost = series(tmp_path)[4]
    lost.write_bytes(content)
    with pytest.raises(SAMAutoSegError, match="004.dcm is damaged or cut off"):
        read_image(tmp_path)


@pytest.mark.parametrize("content", [b"", bytes(100), b"\1\2\0 not text"])
@pytest.mark.parametrize(
    "name",
    ["DICOMDIR", "notes.txt", "a.XML", "view.jpg", "a.json", "Thumbs.db", ".DS_Store", "._000.dcm"],
)
def test_usual_companions_of_a_series_may_hold_anything(
    tmp_path: Path, name: str, content: bytes
) -> None:
    series(tmp_path)
    (tmp_path / name).write_bytes(content)
    assert len(read_image(tmp_path).array) == 5


@pytest.mark.parametrize("name", ["README", "tool.exe"])
def test_another_kind_of_file_beside_a_series_does_not_matter(tmp_path: Path, name: str) -> None:
    series(tmp_path, "image{:03}" if name == "README" else "{:03}.dcm")
    (tmp_path / name).write_bytes(b"words" if name == "README" else b"MZ\0\0")
    assert len(read_image(tmp_path).array) == 5


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege there")
def test_a_link_to_nowhere_is_named_and_no_good_file(tmp_path: Path) -> None:
    series(tmp_path)
    (tmp_path / "002a.dcm").symlink_to("nowhere.dcm")
    with pytest.raises(SAMAutoSegError, match="002a.dcm is a link to nowhere.dcm, which does not"):
        read_image(tmp_path)


WRONG_NUMBERS = ["0\\0\\x", "0\\0", "0\\0\\nan", "0\\0\\1e999", ""]


@pytest.mark.parametrize("position", [*WRONG_NUMBERS, None])
def test_a_slice_without_a_place_is_named(
    tmp_path: Path, position: str | None, capfd: pytest.CaptureFixture[str]
) -> None:
    files = series(tmp_path)
    write(files[2], FLAT, 2, position=position)
    with pytest.raises(SAMAutoSegError, match="002.dcm has the ImagePositionPatient '.*three"):
        read_image(tmp_path)


@pytest.mark.parametrize(
    "orientation",
    [*WRONG_NUMBERS, None, "1\\0\\0\\0\\q\\0", "0\\0\\0\\0\\0\\0", "1\\0\\0\\1\\0\\0"],
)
@pytest.mark.parametrize("number", [0, 3])
def test_a_slice_without_an_orientation_is_named(
    tmp_path: Path, orientation: str | None, number: int
) -> None:
    files = series(tmp_path)
    write(files[number], FLAT, number, orientation=orientation)
    said = f"{files[number].name} has the ImageOrientationPatient '.*expected six numbers"
    for path in (tmp_path, files[number]):
        with pytest.raises(SAMAutoSegError, match=said):
            read_image(path)


def test_slices_of_two_orientations_are_no_volume(tmp_path: Path) -> None:
    files = series(tmp_path)
    for number in (3, 4):
        write(files[number], FLAT, number, orientation="1\\0\\0\\0\\0\\1")
    with pytest.raises(SAMAutoSegError, match="003.dcm is a slice of another orientation than 000"):
        read_image(tmp_path)


@pytest.mark.parametrize("number", [0, 2, 4])
def test_a_copy_of_a_slice_is_told_and_no_gap(tmp_path: Path, number: int) -> None:
    file = series(tmp_path)[number]
    shutil.copy(file, tmp_path / f"Copy of {file.name}")
    with pytest.raises(SAMAutoSegError, match=f"twice, in .*{file.name}: remove one"):
        read_image(tmp_path)


def test_files_without_any_place_are_a_stack_in_their_order(tmp_path: Path) -> None:
    for number in range(3):
        write(tmp_path / f"{number}.dcm", FLAT + number, number, position=None, orientation=None)
    assert read_image(tmp_path).array[:, 0, 0].tolist() == [100, 101, 102]
