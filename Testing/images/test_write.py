import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from SAMAutoSegLib.errors import SAMAutoSegError
from SAMAutoSegLib.images.read import read_image, read_labels
from SAMAutoSegLib.images.structure import Structure, standard_structures
from SAMAutoSegLib.images.volume import Grid, Volume
from SAMAutoSegLib.images.write import write_segmentation, write_volume

STRUCTURES = standard_structures(["spleen", "left kidney", "my own thing"])


def labels_on(grid, dtype=np.uint8) -> np.ndarray:
    i, j, k = grid.size
    labels = np.zeros((k, j, i), dtype)
    labels[:, 1:3, 2:4] = 1
    labels[k // 2, 4, 5] = 3
    return labels


@pytest.mark.parametrize("suffix", [".seg.nrrd", ".nrrd", ".mha", ".nii.gz", ".nii"])
def test_labels_come_back_on_exactly_the_grid_of_the_image(tmp_path, grid, suffix):
    labels = labels_on(grid)
    path = tmp_path / f"result{suffix}"
    write_segmentation(path, labels, grid, STRUCTURES)
    volume, _ = read_labels(path)
    np.testing.assert_array_equal(volume.array, labels)
    # A NIfTI header holds float32; NRRD holds direction times spacing, which rounds once.
    tolerance = 1e-5 if "nii" in suffix else 1e-12
    assert volume.grid.describe_difference(grid, tolerance) == ""
    assert os.listdir(tmp_path) == [path.name]


def test_a_segmentation_keeps_names_colors_and_terminology(tmp_path, anisotropic_grid):
    labels = labels_on(anisotropic_grid)
    write_segmentation(tmp_path / "x.seg.nrrd", labels, anisotropic_grid, STRUCTURES)
    _, structures = read_labels(tmp_path / "x.seg.nrrd")
    assert structures == STRUCTURES


def test_names_in_any_language_and_with_separators_survive(tmp_path, plain_grid):
    names = {1: "Nierenrinde grün", 2: "肝臓", 3: "left|right: a=b"}
    structures = [Structure(label, name, (0.1, 0.2, 0.3)) for label, name in names.items()]
    path = tmp_path / "x.seg.nrrd"
    write_segmentation(path, labels_on(plain_grid), plain_grid, structures)
    assert [s.name for s in read_labels(path)[1]] == [
        "Nierenrinde grün",
        "肝臓",
        "left/right: a=b",
    ]


def test_the_header_has_the_fields_of_slicer_and_the_provenance(tmp_path, anisotropic_grid):
    labels = labels_on(anisotropic_grid)
    provenance = {"model": "liver.safetensors", "date": "2026-01-01"}
    write_segmentation(tmp_path / "x.seg.nrrd", labels, anisotropic_grid, STRUCTURES, provenance)
    header = (tmp_path / "x.seg.nrrd").read_bytes().split(b"\n\n")[0].decode().splitlines()
    for line in (
        "Segment0_ID:=Segment_1",
        "Segment0_Name:=spleen",
        "Segment0_LabelValue:=1",
        "Segment0_Layer:=0",
        "Segment0_Extent:=2 3 1 2 0 4",
        "Segment1_Extent:=0 -1 0 -1 0 -1",
        "Segment2_Extent:=5 5 4 4 2 2",
        "Segmentation_MasterRepresentation:=Binary labelmap",
        "Segmentation_ReferenceImageExtentOffset:=0 0 0",
        "SAMAutoSeg_model:=liver.safetensors",
        "SAMAutoSeg_date:=2026-01-01",
    ):
        assert line in header
    assert any("SCT^78961009^Spleen" in line for line in header if line.startswith("Segment0_Tags"))


def test_labels_above_255_are_kept(tmp_path, plain_grid):
    labels = labels_on(plain_grid, np.uint16) * 300
    structures = [Structure(value, f"s{value}", (1, 1, 1)) for value in (300, 900)]
    write_segmentation(tmp_path / "x.seg.nrrd", labels, plain_grid, structures)
    np.testing.assert_array_equal(read_labels(tmp_path / "x.seg.nrrd")[0].array, labels)


def test_labels_of_another_type_or_without_a_structure_are_refused(tmp_path, plain_grid):
    path = tmp_path / "x.seg.nrrd"
    with pytest.raises(ValueError, match="int64"):
        write_segmentation(path, labels_on(plain_grid, np.int64), plain_grid, STRUCTURES)
    with pytest.raises(ValueError, match=r"labels \[3\]"):
        write_segmentation(path, labels_on(plain_grid), plain_grid, STRUCTURES[:1])
    with pytest.raises(ValueError, match="grid"):
        write_segmentation(path, np.zeros((7, 6, 5), np.uint8), plain_grid, STRUCTURES)
    assert not path.exists()


@pytest.mark.parametrize("name", ["x.png", "x", "x.mhd", "x.nii.bz2"])
def test_an_unknown_file_type_is_refused_with_the_known_ones(tmp_path, plain_grid, name):
    with pytest.raises(SAMAutoSegError, match=rf"{name}: unknown file type; name it \.seg\.nrrd"):
        write_segmentation(tmp_path / name, labels_on(plain_grid), plain_grid, STRUCTURES)


def test_a_folder_that_is_a_file_is_named(tmp_path, plain_grid):
    (tmp_path / "taken").write_text("")
    with pytest.raises(SAMAutoSegError, match="cannot write .*taken"):
        write_segmentation(
            tmp_path / "taken" / "x.nii.gz", labels_on(plain_grid), plain_grid, STRUCTURES
        )


@pytest.mark.parametrize(
    "message",
    [
        "ITK ERROR: it broke",
        "ITK ERROR: NiftiImageIO(0x5654cd0bc1d0): it broke",
        "ITK ERROR: MetaImageIO(0x5654cce11ad0): File cannot be written: x\nReason: it broke",
        "ITK ERROR: NrrdImageIO(0x5654cc52c350): Write: Error writing x:\nit broke\n",
    ],
)
def test_a_writer_that_fails_leaves_the_file_of_before(tmp_path, plain_grid, monkeypatch, message):
    path = tmp_path / "x.seg.nrrd"
    write_segmentation(path, labels_on(plain_grid), plain_grid, STRUCTURES)
    before = path.read_bytes()

    def fail(image, name, useCompression):  # noqa: N803 - the argument of SimpleITK
        with open(name, "wb") as stream:
            stream.write(b"half")
        raise RuntimeError(f"Exception thrown in SimpleITK\n{message}")

    monkeypatch.setattr(sitk, "WriteImage", fail)
    with pytest.raises(SAMAutoSegError, match=r"x\.seg\.nrrd: it broke$"):
        write_segmentation(path, 0 * labels_on(plain_grid), plain_grid, STRUCTURES)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("suffix", [".seg.nrrd", ".nii.gz", ".nii", ".mha"])
@pytest.mark.parametrize("content", [b"", b"other"], ids=["empty", "other voxels"])
def test_a_writer_that_fails_without_an_error_leaves_the_file_of_before(
    tmp_path, plain_grid, monkeypatch, suffix, content
):
    """As ITK does on a full disk."""
    path = tmp_path / f"x{suffix}"
    write_segmentation(path, labels_on(plain_grid), plain_grid, STRUCTURES)
    before = path.read_bytes()
    monkeypatch.setattr(
        sitk,
        "WriteImage",
        lambda image, name, useCompression: Path(name).write_bytes(content and before),  # noqa: N803
    )
    with pytest.raises(SAMAutoSegError, match="the disk took only a part of it"):
        write_segmentation(path, 0 * labels_on(plain_grid), plain_grid, STRUCTURES)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == [path.name]


WRITE_WITH_LITTLE_ROOM = """
import resource, sys
import numpy as np
from SAMAutoSegLib.errors import SAMAutoSegError
from SAMAutoSegLib.images.volume import Grid, Volume
from SAMAutoSegLib.images.write import write_volume

values = np.random.default_rng(0).integers(0, 255, (40, 50, 60), dtype=np.uint8)
volume = Volume(values, Grid((60, 50, 40), (1, 1, 1), (0, 0, 0), np.eye(3)), "x")
resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))
try:
    write_volume(sys.argv[1], volume)
except SAMAutoSegError as error:
    sys.exit(3 if sys.argv[1] in str(error) else 4)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on the size of files")
@pytest.mark.parametrize("suffix", [".seg.nrrd", ".nii.gz", ".nii", ".mha"])
def test_running_out_of_disk_space_is_an_error_and_leaves_the_file_of_before(
    tmp_path, plain_grid, suffix
):
    path = tmp_path / f"x{suffix}"
    write_volume(path, Volume(labels_on(plain_grid), plain_grid, "x"))
    before = path.read_bytes()
    done = subprocess.run([sys.executable, "-c", WRITE_WITH_LITTLE_ROOM, str(path)], check=False)
    assert done.returncode == 3
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == [path.name]


def test_a_packed_file_beside_an_unpacked_one_of_its_name(tmp_path, grid):
    labels = labels_on(grid)
    packed, unpacked = tmp_path / "ct.nii.gz", tmp_path / "ct.nii"
    write_segmentation(packed, labels, grid, STRUCTURES)
    image = np.full(labels.shape, 9, np.int16)
    write_volume(unpacked, Volume(image, grid, "ct"))
    np.testing.assert_array_equal(read_labels(packed)[0].array, labels)
    np.testing.assert_array_equal(read_image(unpacked).array, image)
    before = packed.read_bytes()
    with pytest.raises(SAMAutoSegError, match="beside ct.nii: .* choose another name"):
        write_segmentation(packed, labels, grid, STRUCTURES)
    assert packed.read_bytes() == before


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii"])
def test_nifti_refuses_a_grid_that_it_cannot_hold(tmp_path, suffix):
    sheared = np.eye(3)
    sheared[1, 2] = 0.2
    sheared[:, 2] /= np.linalg.norm(sheared[:, 2])
    grid = Grid((8, 7, 6), (1.0, 1.0, 3.0), (0.0, 0.0, 0.0), sheared)
    path = tmp_path / f"tilted{suffix}"
    with pytest.raises(SAMAutoSegError, match="not at right angles; name it .seg.nrrd"):
        write_segmentation(path, labels_on(grid), grid, STRUCTURES)
    assert not list(tmp_path.iterdir())
    write_segmentation(tmp_path / "tilted.seg.nrrd", labels_on(grid), grid, STRUCTURES)
    assert read_labels(tmp_path / "tilted.seg.nrrd")[0].grid.same_as(grid)


@pytest.mark.parametrize("name", ["U.NII.GZ", "U.MHA", "u.Nii.gz", "u.SEG.NRRD"])
def test_a_suffix_that_not_every_program_knows_is_refused(tmp_path, grid, name):
    with pytest.raises(SAMAutoSegError, match="unknown file type; name it .* in lower case"):
        write_segmentation(tmp_path / name, labels_on(grid), grid, STRUCTURES)
    assert not list(tmp_path.iterdir())
