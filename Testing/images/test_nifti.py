import gzip
import struct

import numpy as np
import pytest

from SAMAutoSegLib.images.nifti import is_cut_off


def nifti(version: int, order: str, voxels: int = 60) -> bytes:
    """A file of float64 voxels that do not compress to nothing."""
    lengths = (3, voxels, 1, 1, 1, 1, 1, 1)
    header = bytearray(352 if version == 1 else 544)
    struct.pack_into(f"{order}i", header, 0, 348 if version == 1 else 540)
    if version == 1:
        struct.pack_into(f"{order}8h", header, 40, *lengths)
        struct.pack_into(f"{order}h", header, 72, 64)
        struct.pack_into(f"{order}f", header, 108, len(header))
    else:
        struct.pack_into(f"{order}8q", header, 16, *lengths)
        struct.pack_into(f"{order}h", header, 14, 64)
        struct.pack_into(f"{order}q", header, 168, len(header))
    return bytes(header) + np.random.default_rng(0).random(voxels).tobytes()


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("order", ["<", ">"])
def test_a_file_is_cut_off_from_the_first_missing_byte_on(tmp_path, version, order):
    whole = nifti(version, order)
    plain, packed = tmp_path / "x.nii", tmp_path / "x.nii.gz"
    for content, cut in ((whole, False), (whole + b"tail", False), (whole[:-1], True)):
        plain.write_bytes(content)
        packed.write_bytes(gzip.compress(content))
        assert is_cut_off(plain) is cut
        assert is_cut_off(packed) is cut


def test_a_packed_file_is_cut_off_wherever_the_packing_ends(tmp_path):
    packed = gzip.compress(nifti(1, "<"))
    path = tmp_path / "x.nii.gz"
    for kept in (30, len(packed) // 2, len(packed) - 1):
        path.write_bytes(packed[:kept])
        assert is_cut_off(path)


def test_a_file_packed_in_several_pieces_is_whole(tmp_path):
    whole = nifti(1, "<")
    path = tmp_path / "x.nii.gz"
    path.write_bytes(gzip.compress(whole[:400]) + gzip.compress(whole[400:]))
    assert not is_cut_off(path)
    path.write_bytes(gzip.compress(whole[:400]))
    assert is_cut_off(path)


@pytest.mark.parametrize("name", ["x.nii", "x.nii.gz", "x.mha"])
@pytest.mark.parametrize("content", [b"", b"text", b"t" * 900])
def test_what_is_no_nifti_is_left_to_the_reader(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    assert not is_cut_off(tmp_path / name)
