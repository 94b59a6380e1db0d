"""Compressed images with a byte that changed: never read as if nothing had happened."""

import gzip
import io
import zlib
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from SAMAutoSegLib.errors import SAMAutoSegError
from SAMAutoSegLib.images.packed import unpack
from SAMAutoSegLib.images.read import read_image
from SAMAutoSegLib.images.volume import Volume
from SAMAutoSegLib.images.write import write_volume

CONTENT = bytes(3_000_000) + np.random.default_rng(0).bytes(700_000)


@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress])
def test_whole_data_are_unpacked_with_their_size(pack: object) -> None:
    packed = pack(CONTENT)  # type: ignore[operator]
    copy = io.BytesIO()
    assert unpack(io.BytesIO(packed), copy, kept=540) == (CONTENT[:540], len(CONTENT))
    assert copy.getvalue() == CONTENT
    with pytest.raises(EOFError):
        unpack(io.BytesIO(packed[:-1]))
    for at in (len(packed) // 2, len(packed) - 6, len(packed) - 2):
        with pytest.raises((zlib.error, EOFError)):
            unpack(io.BytesIO(packed[:at] + bytes([packed[at] ^ 1]) + packed[at + 1 :]))


@pytest.mark.parametrize("tail", [b"", b"\0", b"\0" * 900, b"no gzip member"])
def test_several_members_count_and_what_follows_them_does_not(tail: bytes) -> None:
    packed = gzip.compress(CONTENT[:9]) + gzip.compress(b"") + gzip.compress(CONTENT[9:])
    assert unpack(io.BytesIO(packed + tail), kept=20) == (CONTENT[:20], len(CONTENT))


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd"])
@pytest.mark.parametrize("place", [0.3, 0.6, 0.9])
def test_a_damaged_compressed_image_is_refused(
    tmp_path: Path, volume: Volume, suffix: str, place: float
) -> None:
    write_volume(tmp_path / "whole.nrrd", volume)
    image = sitk.ReadImage(str(tmp_path / "whole.nrrd"))
    sitk.WriteImage(image, str(tmp_path / f"x{suffix}"), useCompression=True)
    assert np.array_equal(read_image(tmp_path / f"x{suffix}").array, volume.array)
    data = next(
        (tmp_path / name for name in ("x.raw.gz", "x.zraw") if (tmp_path / name).exists()),
        tmp_path / f"x{suffix}",
    )
    content = bytearray(data.read_bytes())
    content[int(len(content) * place)] ^= 4
    data.write_bytes(content)
    with pytest.raises(SAMAutoSegError, match=f"x{suffix} is (damaged|cut off)"):
        read_image(tmp_path / f"x{suffix}")


def test_a_missing_file_of_voxels_is_named(tmp_path: Path, volume: Volume) -> None:
    write_volume(tmp_path / "whole.nrrd", volume)
    sitk.WriteImage(sitk.ReadImage(str(tmp_path / "whole.nrrd")), str(tmp_path / "x.nhdr"), True)
    (tmp_path / "x.raw.gz").unlink()
    with pytest.raises(SAMAutoSegError, match="cannot read .*x.raw.gz: No such file"):
        read_image(tmp_path / "x.nhdr")


@pytest.mark.parametrize("named", ["LIST\nx0.gz\nx1.gz\n", "x%d.gz 0 1 1\n"])
def test_voxels_in_several_files_are_checked(tmp_path: Path, named: str) -> None:
    header = "NRRD0004\ntype: uchar\ndimension: 3\nsizes: 30 20 2\nencoding: gzip\ndata file: "
    (tmp_path / "x.nhdr").write_text(header + named)
    values = np.random.default_rng(0).integers(0, 9, (2, 20, 30), np.uint8)
    for number, part in enumerate(values):
        (tmp_path / f"x{number}.gz").write_bytes(gzip.compress(part.tobytes()))
    assert np.array_equal(read_image(tmp_path / "x.nhdr").array, values)
    content = bytearray((tmp_path / "x1.gz").read_bytes())
    content[100] ^= 4
    (tmp_path / "x1.gz").write_bytes(content)
    with pytest.raises(SAMAutoSegError, match="x.nhdr is (damaged|cut off)"):
        read_image(tmp_path / "x.nhdr")


def test_an_unpacked_image_named_gz_beside_its_sibling_is_read_or_refused(
    tmp_path: Path, volume: Volume
) -> None:
    write_volume(tmp_path / "x.nii", volume)
    write_volume(tmp_path / "y.nii", Volume(volume.array + 1, volume.grid, "y"))
    (tmp_path / "x.nii.gz").write_bytes((tmp_path / "y.nii").read_bytes())
    assert np.array_equal(read_image(tmp_path / "x.nii.gz").array, volume.array + 1)
    (tmp_path / "x.nii.gz").write_text("these are notes")
    with pytest.raises(SAMAutoSegError, match="x.nii.gz") as caught:
        read_image(tmp_path / "x.nii.gz")
    assert "None" not in str(caught.value)
